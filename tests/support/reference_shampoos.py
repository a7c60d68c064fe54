"""Shampoo, KL-Shampoo and KL-SOAP in float64 NumPy, from their authors' PyTorch code.

One tensor a layer, weights (out, in). Each generator yields after every step.
"""

import numpy as np


def copied(x):
    return {k: p.copy() for k, p in x.items()}


# facebookresearch/optimizers, distributed_shampoo


def pieces(shape, block, merge):
    """The shape after merging small dimensions, and the slices of its blocks."""
    if merge and len(shape) == 2 and shape[0] * shape[1] <= block:
        shape = (shape[0] * shape[1],)
    cuts = [[slice(i, min(i + block, d)) for i in range(0, d, block)] for d in shape]
    if len(shape) == 1:
        return shape, [(s,) for s in cuts[0]]
    return shape, [(r, c) for r in cuts[0] for c in cuts[1]]


def inverse_root(a, exponent, epsilon):
    values, vectors = np.linalg.eigh(a)
    if values.min() < epsilon:
        values = values - values.min() + epsilon
    return (vectors * values**-exponent) @ vectors.T


def shampoo(
    params,
    grads,
    lr,
    beta1,
    beta2,
    epsilon,
    decay,
    block,
    *,
    merge,
    every=1,
    graft=None,
    start=None,
):
    """`graft` is (beta2, epsilon, weight, corrected) of the method whose norm each block takes."""
    x, start = copied(params), start or every
    state = {}
    for t, grad in enumerate(grads, 1):
        for k, whole in grad.items():
            shape, cuts = pieces(whole.shape, block, merge)
            g_all, direction = whole.reshape(shape), np.zeros(shape)
            for i, cut in enumerate(cuts):
                g = g_all[cut]
                sides = range(g.ndim)
                if (k, i) not in state:
                    factors = [np.zeros((g.shape[s],) * 2) for s in sides]
                    roots = [np.eye(g.shape[s]) for s in sides]
                    state[k, i] = factors, roots, np.zeros_like(g), np.zeros_like(g)
                factors, roots, m, v = state[k, i]
                for s in sides:
                    rows = np.moveaxis(g, s, 0).reshape(g.shape[s], -1)
                    factors[s] *= beta2
                    factors[s] += (1.0 if beta2 == 1 else 1 - beta2) * rows @ rows.T
                if (t % every == 0 and t > start) or t == start:
                    correction = 1.0 if beta2 == 1 else 1 - beta2**t
                    for s in sides:
                        mean = factors[s] / correction
                        roots[s] = inverse_root(mean, 1 / (2 * g.ndim), epsilon)
                m += (1 - beta1) * (g - m)
                mean = m / (1 - beta1**t)
                u = roots[0] @ mean
                u = u @ roots[1] if g.ndim == 2 else u
                if graft:
                    old, eps, weight, corrected = graft
                    v *= old
                    v += weight * g * g
                    target = mean / (np.sqrt(v / (1 - old**t if corrected else 1)) + eps)
                    u = u * (np.linalg.norm(target) / (np.linalg.norm(u) + 1e-16))
                    u = target if t < start else u
                direction[cut] = u
            x[k] = x[k] - lr * (direction.reshape(whole.shape) + decay * x[k])
        yield copied(x)


# yorkerlin/KL-Methods, optim/kl_opt.py


def safe(x):
    return np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)


class KLOpt:
    """One (out, in) tensor; `soap` is using_klsoap."""

    def __init__(self, shape, beta1, beta2, beta, epsilon, every, soap):
        self.m, self.v, self.step = np.zeros(shape), np.zeros(shape), 0
        self.factors, self.bases = [np.zeros((d, d)) for d in shape], None
        self.numbers = beta1, beta2, beta, epsilon, every, soap

    def project(self, x):
        return self.bases[0].T @ x @ self.bases[1]

    def back(self, x):
        return self.bases[0] @ x @ self.bases[1].T

    def __call__(self, g):
        """The direction, or None in the first call."""
        beta1, beta2, beta, epsilon, every, soap = self.numbers
        if self.bases is None:
            for s, outer in enumerate((g @ g.T, g.T @ g)):
                self.factors[s] += (1 - beta) * outer / g.shape[1 - s]
            self.bases, self.scales = [], []
            for f in self.factors:
                q = np.linalg.eigh(f + 1e-30 * np.eye(len(f)))[1]
                self.bases.append(q[:, ::-1])
                self.scales.append(1 / np.sqrt(np.full(len(f), 0.1)))
            return None
        self.step += 1
        if soap:
            rotated = self.project(g)
            self.m += (1 - beta1) * (rotated - self.m)  # in the rotated basis
            self.v += (1 - beta2) * (rotated**2 - self.v)
            u = self.back(self.m / (np.sqrt(self.v) + epsilon))
        else:
            self.m += (1 - beta1) * (g - self.m)
            both = np.outer(*self.scales)
            u = self.back(self.project(self.m) * (both / (1 + both * epsilon)))
        refresh = self.step % every == 0
        if soap and refresh:
            self.m = self.back(self.m)
        self.curvature(g, beta)
        if refresh:
            pairs = zip(self.factors, self.bases, strict=True)
            self.bases = [np.linalg.qr(f @ q)[0] for f, q in pairs]
            if soap:
                self.m = self.project(self.m)
        return u

    def curvature(self, g, beta):
        left = (self.bases[1].T @ g.T) * self.scales[1][:, None]
        right = (self.bases[0].T @ g) * self.scales[0][:, None]
        seen = self.project(g)
        diagonals = [
            ((seen * self.scales[1]) ** 2).mean(1),
            ((seen * self.scales[0][:, None]) ** 2).mean(0),
        ]
        for s, half in enumerate((left, right)):
            self.factors[s] *= beta
            self.factors[s] += (1 - beta) * half.T @ half / g.shape[1 - s]
        for s, diagonal in enumerate(diagonals):
            with np.errstate(divide="ignore"):
                d = safe(1 / self.scales[s] ** 2)
                d = d + (1 - beta) * (diagonal - d)
                self.scales[s] = np.minimum(safe(1 / np.sqrt(d)), max(10, min(len(d), 4000)))


def kl(params, grads, is_matrix, lr, ratio, numbers, adam, decay):
    """(parameters, bases) after every step; matrices decay after their step."""
    x = copied(params)
    rules = {k: KLOpt(p.shape, *numbers) for k, p in params.items() if is_matrix(k)}
    for t, grad in enumerate(grads):
        for k, g in grad.items():
            if not is_matrix(k):
                x[k] = x[k] * (1 - lr * ratio * decay) - lr * ratio * adam(t + 1, k, g)
                continue
            u = rules[k](g)
            if u is not None:
                x[k] = (x[k] - lr * u) * (1 - lr * decay)
        yield copied(x), {k: [q.copy() for q in rule.bases] for k, rule in rules.items()}
