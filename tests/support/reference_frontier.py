"""AdEMAMix, NorMuon, AdaMuon, MuonC, AdamC, MuonH and AdamH in float64 NumPy, from their sources.

One (out, in) tensor a layer, as the authors' PyTorch code sees it; levanter's the same with heads
joined. Each function yields the parameters after every step; learning rates are functions of
t = 0, 1, ...
"""

import math

import numpy as np
from reference_optimizers import clip, newton_schulz, zeros

YOU = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)


def polar(x, triples, epsilon, cushion=1.0):
    """One matrix through the given (a, b, c), in turn."""
    x = x / (np.linalg.norm(x) * cushion + epsilon)
    turned = x.shape[0] > x.shape[1]
    x = x.T if turned else x
    for a, b, c in triples:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if turned else x


def copied(x):
    return {k: p.copy() for k, p in x.items()}


class AdEMAMix:
    """apple/ml-ademamix pytorch/ademamix.py, with its two warm-up functions."""

    def __init__(self, params, betas, alpha, epsilon, alpha_warmup=None, beta3_warmup=None):
        self.fast, self.slow, self.v = zeros(params), zeros(params), zeros(params)
        self.betas, self.alpha, self.epsilon = betas, alpha, epsilon
        self.alpha_warmup, self.beta3_warmup = alpha_warmup, beta3_warmup

    def __call__(self, t, k, g):
        b1, b2, b3 = self.betas
        alpha = self.alpha
        if self.alpha_warmup is not None and t < self.alpha_warmup:
            alpha = t / self.alpha_warmup * alpha
        if self.beta3_warmup is not None and t < self.beta3_warmup:
            a = t / self.beta3_warmup
            lives = [math.log(0.5) / math.log(b + 1e-8) - 1 for b in (b1, b3)]
            b3 = math.pow(0.5, 1 / ((1 - a) * lives[0] + a * lives[1] + 1))
        self.fast[k] = b1 * self.fast[k] + (1 - b1) * g
        self.slow[k] = b3 * self.slow[k] + (1 - b3) * g
        self.v[k] = b2 * self.v[k] + (1 - b2) * g * g
        root = np.sqrt(self.v[k]) / math.sqrt(1 - b2**t) + self.epsilon
        return (self.fast[k] / (1 - b1**t) + alpha * self.slow[k]) / root


def with_adam(params, grads, is_matrix, direction, lr, ratio, adam, weight_decay):
    """The authors' pairs of a matrix optimizer and AdamW: decay, then step."""
    x = copied(params)
    for t, grad in enumerate(grads):
        for k, g in grad.items():
            rate = lr(t) if is_matrix(k) else lr(t) * ratio
            u = direction(k, g) if is_matrix(k) else adam(t + 1, k, g)
            x[k] = x[k] * (1 - rate * weight_decay) - rate * u
        yield copied(x)


def normuon(params, momentum, beta2):
    """zichongli5/NorMuon normuon_update (its bfloat16 left out)."""
    buffer = zeros(params)
    rows = {k: np.zeros((*p.shape[:-1], 1)) for k, p in params.items()}

    def direction(k, g):
        buffer[k] += (1 - momentum) * (g - buffer[k])
        u = newton_schulz(g + momentum * (buffer[k] - g), 5, 1e-7)
        before = np.linalg.norm(u)
        rows[k] += (1 - beta2) * ((u * u).mean(-1, keepdims=True) - rows[k])
        u = u / (np.sqrt(rows[k]) + 1e-10)
        u = u * (before / (np.linalg.norm(u) + 1e-10))
        return u * max(1, g.shape[0] / g.shape[1]) ** 0.5

    return direction


def adamuon(params, momentum, epsilon=1e-8):
    """Chongjie-Si/AdaMuon adamuon.py (its bfloat16 left out)."""
    buffer, v = zeros(params), zeros(params)

    def direction(k, g):
        buffer[k] += (1 - momentum) * (g - buffer[k])
        ahead = g + momentum * (buffer[k] - g)
        u = newton_schulz(np.sign(ahead), 5, 1e-7)
        v[k] = momentum * v[k] + (1 - momentum) * u * u
        u = u / (np.sqrt(v[k]) + epsilon)
        return u * (0.2 * math.sqrt(g.size) / (np.linalg.norm(u) + epsilon))

    return direction


def corrected(params, grads, lr, peak, rule, weight_decay, max_norm, decays):
    """levanter AdamConfig with adamc_weight_decay."""
    x = copied(params)
    for t, grad in enumerate(grads):
        decay = weight_decay * (lr(t) / peak)
        for k, g in clip(grad, max_norm).items():
            x[k] = x[k] - lr(t) * (rule(t + 1, k, g) + decay * decays(k) * x[k])
        yield copied(x)


def muonc(params, grads, is_matrix, lr, peak, ratio, momentum, adam, decay, max_norm, decays):
    """marin's muonc_optimizer.py: mean momentum, renormalised, both groups with corrected decay."""
    x, buffer = copied(params), zeros(params)
    others = [k for k in params if not is_matrix(k)]
    for t, grad in enumerate(grads):
        for k, g in clip(grad, max_norm, others).items():
            rate = lr(t) if is_matrix(k) else lr(t) * ratio
            if is_matrix(k):
                buffer[k] = momentum * buffer[k] + (1 - momentum) * g
                u = polar(momentum * buffer[k] + (1 - momentum) * g, YOU, 1e-8)
                u = u * (math.sqrt(min(u.shape)) / np.linalg.norm(u))
                u = u * math.sqrt(max(1, u.shape[0] / u.shape[1]))
            else:
                u = adam(t + 1, k, g)
            x[k] = x[k] - rate * (u + decay * lr(t) / peak * decays(k) * x[k])
        yield copied(x)


def on_sphere(p, u, rate):
    new = p - rate * u * np.linalg.norm(p) / max(np.linalg.norm(u), 1e-10)
    return new / np.linalg.norm(new) * np.linalg.norm(p)


def adamh(params, grads, kind, lr, ratio, adam, max_norm):
    """levanter adamh.py: two groups, each clipped by itself; no decay."""
    x = copied(params)
    sphere = [k for k in params if kind(k) in ("matrix", "head")]
    others = [k for k in params if k not in sphere]
    for t, grad in enumerate(grads):
        for k, g in clip(clip(grad, max_norm, sphere), max_norm, others).items():
            u = adam(t + 1, k, g)
            x[k] = on_sphere(x[k], u, lr(t)) if k in sphere else x[k] - lr(t) * ratio * u
        yield copied(x)


def muonh(params, grads, kind, lr, ratio, momentum, adam, max_norm):
    """levanter muonh.py: Muon, AdamH for the head, Adam for the rest, each clipped by itself."""
    x, buffer = copied(params), zeros(params)
    groups = (("matrix",), ("head",), ("embedding", "gain"))
    for t, grad in enumerate(grads):
        for group in groups:
            grad = clip(grad, max_norm, [k for k in params if kind(k) in group])
        for k, g in grad.items():
            if kind(k) == "matrix":
                buffer[k] = momentum * buffer[k] + g
                x[k] = on_sphere(x[k], polar(momentum * buffer[k] + g, YOU, 1e-8), lr(t))
            elif kind(k) == "head":
                x[k] = on_sphere(x[k], adam(t + 1, k, g), lr(t))
            else:
                x[k] = x[k] - lr(t) * ratio * adam(t + 1, k, g)
        yield copied(x)


def dion(params, bases, momentum, epsilon=1e-8):
    """microsoft/dion dion_reference.py dion_update with the QR of its orthogonalize (not the
    randomised one); `bases` are Q at the start, on the shorter side of each (out, in) tensor."""
    momenta, q = zeros(params), copied(bases)

    def direction(k, g):
        turned = g.shape[0] < g.shape[1]
        momenta[k] = momenta[k] + g
        b = momenta[k].T if turned else momenta[k]
        p = np.linalg.qr(b @ q[k])[0]
        r = b.T @ p
        low_rank = p @ r.T
        momenta[k] = momenta[k] - (1 - momentum) * (low_rank.T if turned else low_rank)
        q[k] = r / (np.linalg.norm(r, axis=0, keepdims=True) + epsilon)
        u = p @ q[k].T
        return math.sqrt(g.shape[0] / g.shape[1]) * (u.T if turned else u)

    return direction


def schedule_free(params, gradient, steps, lr, beta1, beta2, epsilon, decay, r, power):
    """facebookresearch/schedule_free adamw_schedulefree_reference.py, decay at y; gradients are
    those of `gradient` at y. Yields (y, x)."""
    x, y, z, v = copied(params), copied(params), copied(params), zeros(params)
    weight_sum, lr_max = 0.0, -1.0
    for k in range(steps):
        lr_max = max(lr(k), lr_max)
        weight = (k + 1) ** r * lr_max**power
        weight_sum += weight
        c = weight / weight_sum if weight_sum else 0.0
        for name, g in gradient(y).items():
            z[name] = z[name] - lr(k) * decay * y[name]
            v[name] = beta2 * v[name] + (1 - beta2) * g * g
            z[name] = z[name] - lr(k) * g / (np.sqrt(v[name] / (1 - beta2 ** (k + 1))) + epsilon)
            x[name] = (1 - c) * x[name] + c * z[name]
            y[name] = beta1 * x[name] + (1 - beta1) * z[name]
        yield copied(y), copied(x)
