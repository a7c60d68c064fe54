"""PSGD Kron in float64 NumPy, from its authors' and from the study's code.

`probes` has one tree of standard normal numbers per step.
"""

import itertools

import numpy as np

DAMPING = np.sqrt(np.finfo(np.float32).eps, dtype=np.float64)


def init_factors(shape, largest):
    """Of a vector or matrix: identity matrices, or diagonals of ones."""
    diagonal = [d == 1 or d > largest or len(shape) < 2 for d in shape]
    return [np.ones(d) if flat else np.eye(d) for d, flat in zip(shape, diagonal, strict=True)]


def dense(q):
    return np.diag(q) if q.ndim == 1 else q


def update_factors(factors, v, g, rate):
    """kron_torch `_update_precond`; g is damped already."""
    q = [dense(q) for q in factors]
    if g.ndim == 1:
        a, b = q[0] @ g, np.linalg.solve(q[0].T, v)
        pairs = [(np.outer(a, a), np.outer(b, b))]
    else:
        a = q[0] @ g @ q[1].T
        b = np.linalg.solve(q[0].T, v) @ np.linalg.inv(q[1])
        pairs = [(a @ a.T, b @ b.T), (a.T @ a, b.T @ b)]
    new = []
    for old, (x, y) in zip(factors, pairs, strict=True):
        if old.ndim == 1:
            x, y = np.diag(x), np.diag(y)
            new.append(old - rate * (x - y) * old / np.abs(x + y).max())
        else:
            new.append(old - rate / norm_lower_bound(x + y) * np.triu(x - y) @ old)
    return new


def norm_lower_bound(a):
    largest = np.abs(a).max()
    a = a / largest
    x = a[:, np.argmax((a * a).sum(axis=0))] @ a
    return largest * np.linalg.norm(x / np.linalg.norm(x) @ a.T)


def whiten(factors, g):
    p = [dense(q).T @ dense(q) for q in factors]
    return p[0] @ g if g.ndim == 1 else p[0] @ g @ p[1]


def probability(n, least, flat_start):
    return np.clip(np.exp(-0.001 * (n - flat_start)), least, 1.0)


def authors(params, grads, probes, lr, b1, rate, least, flat_start, weight_decay, largest):
    """kron_torch 0.3.3 `Kron.step`, one tensor a layer, without its neutral balancing."""
    x = {k: p.copy() for k, p in params.items()}
    m = {k: np.zeros_like(p) for k, p in params.items()}
    factors = {k: init_factors(p.shape, largest) for k, p in params.items()}
    counter = 0
    for t, (grad, probe) in enumerate(zip(grads, probes, strict=True), 1):
        counter += 1
        fits = counter >= 1 / probability(t - 1, least, flat_start)
        counter = 0 if fits else counter
        for k, g in grad.items():
            m[k] = m[k] * b1 + (1 - b1) * g
            g = m[k] / (1 - b1**t)
            if fits:
                g = g + DAMPING * np.abs(g).mean() * probe[k]  # in place there: u sees it, too
                factors[k] = update_factors(factors[k], probe[k], g, rate)
            u = whiten(factors[k], g)
            u = u * min(1.0, 1.1 / (np.sqrt((u**2).mean()) + 1e-12))
            u = u + weight_decay * x[k] if g.ndim >= 2 else u
            x[k] = x[k] - lr * u
        yield {k: p.copy() for k, p in x.items()}


def study(
    params,
    grads,
    probes,
    lr,
    b1,
    rate,
    least,
    flat_start,
    weight_decay,
    largest,
    block,
    names,
    decayed,
):
    """levanter's kron.py with normalize_grads, and its chain; dimensions are multiples of `block`.

    `names` maps a stacked leaf to its tensors, one a layer: statistics run over all of them.
    """
    x = {k: p.copy() for k, p in params.items()}
    m = {k: np.zeros_like(p) for k, p in params.items()}
    factors = {}
    for k, p in params.items():
        for at in blocks(p.shape, block, largest):
            factors[k, at] = init_factors(p[at_slices(at)].shape, largest)
    counter = balance_counter = 0
    for n, (grad, probe) in enumerate(zip(grads, probes, strict=True), 1):
        counter += 1
        fits = counter >= 1 / probability(n, least, flat_start)
        counter = 0 if fits else counter
        balance_counter += fits
        balances = fits and balance_counter >= 100
        balance_counter = 0 if balances else balance_counter
        for layers in names.values():
            norm = np.sqrt(sum((grad[k] ** 2).sum() for k in layers))
            hat = {}
            for k in layers:
                m[k] = (1 - b1) * grad[k] / (norm + 1e-16) + b1 * m[k]
                hat[k] = m[k] / (1 - b1**n)
            size = sum(np.abs(hat[k]).sum() for k in layers) / sum(hat[k].size for k in layers)
            u = {k: np.zeros_like(hat[k]) for k in layers}
            for (k, at), q in factors.items():
                if k not in layers:
                    continue
                g, v = hat[k][at_slices(at)], probe[k][at_slices(at)]
                if balances and len(q) > 1:
                    norms = np.array([np.abs(f).max() for f in q])
                    q = [
                        f * s for f, s in zip(q, np.exp(np.log(norms).mean()) / norms, strict=True)
                    ]
                if fits:
                    factors[k, at] = q = update_factors(q, v, g + DAMPING * size * v, rate)
                u[k][at_slices(at)] = whiten(q, g)
            rms = np.sqrt(sum((y**2).sum() for y in u.values()) / sum(y.size for y in u.values()))
            for k in layers:
                x[k] = x[k] - lr * (u[k] / max(1.0, rms / 1.1) + weight_decay * decayed(k) * x[k])
        yield {k: p.copy() for k, p in x.items()}


def blocks(shape, size, largest):
    """((start, stop), ...) of each block; dimensions with diagonal factors are not cut."""
    cuts = [
        [(0, d)]
        if d == 1 or d > largest or len(shape) < 2
        else [(i, i + size) for i in range(0, d, size)]
        for d in shape
    ]
    return itertools.product(*cuts)


def at_slices(at):
    return tuple(slice(*ends) for ends in at)
