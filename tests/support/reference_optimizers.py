"""AdamW, NAdamW, Lion, Muon and Scion, clipping and schedules in float64 NumPy, from their sources.

`authors` rules are those of the PyTorch code named, on one (out, in) tensor a layer; `study` rules
those of levanter at e7262219 with optax, on leaves (layers, out axes, in axes) with one matrix a
layer. Each yields the parameters after every step.
"""

import math

import numpy as np


def warmup_cosine(t, lr, warmup, steps, min_lr_ratio):
    """optax.join_schedules of a linear climb from 0 and a cosine decay; t = 0 first."""
    if t < warmup:
        return lr * t / warmup
    progress = min((t - warmup) / (steps - warmup), 1.0)
    return lr * ((1 - min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress)) + min_lr_ratio)


def stable_linear(t, lr, decay, steps, min_lr_ratio):
    """levanter's constant rate followed by a linear decay over int(decay * steps) steps."""
    decay_steps = int(decay * steps)
    stable_steps = steps - decay_steps
    if t < stable_steps:
        return lr
    end = lr * min_lr_ratio
    return lr + (end - lr) * min((t - stable_steps) / decay_steps, 1.0)


def clip(grad, max_norm, names=None):
    """optax.clip_by_global_norm over the leaves `names` (all)."""
    names = list(grad) if names is None else names
    norm = math.sqrt(sum(float((grad[k] ** 2).sum()) for k in names))
    if not max_norm or norm < max_norm:
        return grad
    return grad | {k: grad[k] / norm * max_norm for k in names}


def newton_schulz(x, steps, epsilon):
    """KellerJordan/Muon and levanter, one (m, n) matrix."""
    a, b, c = 3.4445, -4.7750, 2.0315
    turned = x.shape[0] > x.shape[1]
    x = x.T if turned else x
    x = x / (np.sqrt((x**2).sum()) + epsilon)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if turned else x


def zeros(params):
    return {k: np.zeros_like(p) for k, p in params.items()}


class Adam:
    """torch.optim.Adam and optax.scale_by_adam, with optax's nesterov."""

    def __init__(self, params, beta1, beta2, epsilon, nesterov=False):
        self.m, self.v = zeros(params), zeros(params)
        self.beta1, self.beta2, self.epsilon, self.nesterov = beta1, beta2, epsilon, nesterov

    def __call__(self, t, k, g):
        b1, b2 = self.beta1, self.beta2
        self.m[k] = b1 * self.m[k] + (1 - b1) * g
        self.v[k] = b2 * self.v[k] + (1 - b2) * g**2
        mean = self.m[k] / (1 - b1**t)
        if self.nesterov:
            mean = b1 * self.m[k] / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        return mean / (np.sqrt(self.v[k] / (1 - b2**t)) + self.epsilon)


class Lion:
    """google/automl lion and optax.scale_by_lion."""

    def __init__(self, params, beta1, beta2):
        self.m, self.beta1, self.beta2 = zeros(params), beta1, beta2

    def __call__(self, t, k, g):
        u = np.sign(self.beta1 * self.m[k] + (1 - self.beta1) * g)
        self.m[k] = self.beta2 * self.m[k] + (1 - self.beta2) * g
        return u


def elementwise(params, grads, rule, lr, weight_decay=0.0, max_norm=0.0, decayed=lambda k: True):
    """torch's order: decay the old parameter, then step; `lr` is a function of t = 0, 1, ..."""
    x = {k: p.copy() for k, p in params.items()}
    for t, grad in enumerate(grads):
        for k, g in clip(grad, max_norm).items():
            x[k] *= 1 - lr(t) * weight_decay * decayed(k)
            x[k] -= lr(t) * rule(t + 1, k, g)
        yield {k: p.copy() for k, p in x.items()}


def muon_authors(params, grads, is_matrix, lr, adam_lr, momentum, adam, weight_decay, epsilon=1e-7):
    """KellerJordan/Muon muon.py, SingleDeviceMuonWithAuxAdam (its bfloat16 cast left out)."""
    x, buffer = {k: p.copy() for k, p in params.items()}, zeros(params)
    for t, grad in enumerate(grads):
        for k, g in grad.items():
            if is_matrix(k):
                buffer[k] += (1 - momentum) * (g - buffer[k])
                ahead = g + momentum * (buffer[k] - g)
                u = newton_schulz(ahead, 5, epsilon) * max(1, g.shape[0] / g.shape[1]) ** 0.5
                x[k] = x[k] * (1 - lr * weight_decay) - lr * u
            else:
                x[k] = x[k] * (1 - adam_lr * weight_decay) - adam_lr * adam(t + 1, k, g)
        yield {k: p.copy() for k, p in x.items()}


def scion_authors(params, grads, kind, lr, alpha, spectral_radius, sign_radius, epsilon=1e-7):
    """LIONS-EPFL/scion scion.py, constrained; `alpha` is its momentum, 1 minus the usual one.

    Spectral for matrices, Sign(normalized) for embedding and head, BiasRMS for gains.
    """
    x, buffer = {k: p.copy() for k, p in params.items()}, zeros(params)
    for grad in grads:
        for k, g in grad.items():
            buffer[k] = (1 - alpha) * buffer[k] + alpha * g
            if kind(k) == "matrix":
                d_out, d_in = g.shape
                u = newton_schulz(buffer[k], 5, epsilon) * (d_out / d_in) ** 0.5 * spectral_radius
            elif kind(k) == "gain":
                u = spectral_radius * buffer[k] / (np.sqrt((buffer[k] ** 2).mean()) + 1e-8)
            else:
                u = sign_radius * np.sign(buffer[k]) / g.shape[1]
            x[k] = x[k] * (1 - lr) - lr * u
        yield {k: p.copy() for k, p in x.items()}


def orthogonal_layers(x, name, epsilon):
    """levanter's map over layers: heads flattened to (out, in), K = 10, sqrt(max(1, out / in))."""
    layers = []
    for layer in x:
        # (out axes, in axes): of three, q, k, v split their outputs and o its inputs by head.
        rows = layer.shape[0] if layer.ndim == 2 or "out" in name else math.prod(layer.shape[:2])
        w = layer.reshape(rows, -1)
        scale = math.sqrt(max(1, w.shape[0] / w.shape[1]))
        layers.append((newton_schulz(w, 10, epsilon) * scale).reshape(layer.shape))
    return np.stack(layers)


def muon_study(
    params, grads, is_matrix, lr, ratio, momentum, adam, weight_decay, max_norm, epsilon, decayed
):
    """levanter optim/muon.py: summed momentum, Nesterov; Adam and clipping for the other group."""
    x, buffer = {k: p.copy() for k, p in params.items()}, zeros(params)
    others = [k for k in params if not is_matrix(k)]
    for t, grad in enumerate(grads):
        for k, g in clip(grad, max_norm, others).items():
            rate = lr(t) if is_matrix(k) else lr(t) * ratio
            if is_matrix(k):
                buffer[k] = momentum * buffer[k] + g
                u = orthogonal_layers(momentum * buffer[k] + g, k, epsilon)
            else:
                u = adam(t + 1, k, g)
            x[k] = x[k] - rate * (u + weight_decay * decayed(k) * x[k])
        yield {k: p.copy() for k, p in x.items()}


def scion_study(
    params, grads, is_matrix, lr, ratio, momentum, beta1, weight_decay, max_norm, epsilon, decayed
):
    """levanter optim/scion.py: mean momentum without Nesterov; Signum for the other group."""
    x, buffer = {k: p.copy() for k, p in params.items()}, zeros(params)
    others = [k for k in params if not is_matrix(k)]
    for t, grad in enumerate(grads):
        for k, g in clip(grad, max_norm, others).items():
            mu, rate = (momentum, lr(t)) if is_matrix(k) else (beta1, lr(t) * ratio)
            buffer[k] = mu * buffer[k] + (1 - mu) * g
            u = orthogonal_layers(buffer[k], k, epsilon) if is_matrix(k) else np.sign(buffer[k])
            x[k] = x[k] - rate * (u + weight_decay * decayed(k) * x[k])
        yield {k: p.copy() for k, p in x.items()}
