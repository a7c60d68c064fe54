"""SOAP in float64 NumPy, from its authors' and from the study's code, null spaces apart.

Both yield (parameters, eigenbases) after every call; bases are {(name, index of the
block): [for each dimension an array or None]}.
"""

import itertools

import numpy as np


def project(x, bases, back=False):
    for q in bases:
        if q is None:
            x = np.moveaxis(x, 0, -1)
        else:
            x = np.tensordot(x, q, axes=([0], [1 if back else 0]))
    return x


def outer(g, dim):
    others = [d for d in range(g.ndim) if d != dim]
    return np.tensordot(g, g, axes=(others, others))


def eigenbasis(gram, shift):
    """Eigenvectors by falling eigenvalue. In a null space LAPACK returns any basis, as its rounding
    has it; here, as in ours, the one that diagonalises diag(1..d)."""
    values, q = (np.flip(x, -1) for x in np.linalg.eigh(gram + shift * np.eye(len(gram))))
    null = values <= len(gram) * np.finfo(gram.dtype).eps * values[0]
    ramp = q[:, null].T @ (np.arange(1, len(gram) + 1)[:, None] * q[:, null])
    q = q.copy()
    q[:, null] = q[:, null] @ np.flip(np.linalg.eigh(ramp)[1], 1)
    return q


def power_qr(grams, bases, v):
    new = []
    for dim, (gram, q) in enumerate(zip(grams, bases, strict=True)):
        if gram is None:
            new.append(None)
            continue
        order = np.argsort(-np.diag(q.T @ gram @ q), kind="stable")
        v = np.take(v, order, axis=dim)
        new.append(np.linalg.qr(gram @ q[:, order])[0])
    return new, v


def authors(params, grads, lr, beta1, beta2, shampoo_beta, eps, weight_decay, every, max_dim):
    """nikhilvyas/SOAP soap.py, one tensor a layer, precondition_1d and merge_dims off."""
    x = {k: p.copy() for k, p in params.items()}
    state = {}
    for grad in grads:
        for k, g in grad.items():
            if k not in state:
                rotated = [g.ndim > 1 and d <= max_dim for d in g.shape]
                grams = [
                    (1 - shampoo_beta) * outer(g, dim) if r else None
                    for dim, r in enumerate(rotated)
                ]
                bases = [None if gram is None else eigenbasis(gram, 1e-30) for gram in grams]
                state[k] = [0, np.zeros_like(g), np.zeros_like(g), grams, bases]
                continue  # the first step is skipped
            step, m, v, grams, bases = state[k]
            step += 1
            g_rotated = project(g, bases)
            m = m * beta1 + (1 - beta1) * g_rotated
            v = v * beta2 + (1 - beta2) * g_rotated**2
            size = lr * (1 - beta2**step) ** 0.5 / (1 - beta1**step)
            x[k] = x[k] - size * project(m / (np.sqrt(v) + eps), bases, back=True)
            x[k] = x[k] - lr * weight_decay * x[k]
            m = project(m, bases, back=True)
            grams = [
                None if gram is None else gram + (1 - shampoo_beta) * (outer(g, dim) - gram)
                for dim, gram in enumerate(grams)
            ]
            if step % every == 0:
                bases, v = power_qr(grams, bases, v)
            state[k] = [step, project(m, bases), v, grams, bases]
        bases = {(k, tuple((0, d) for d in x[k].shape)): s[4] for k, s in state.items()}
        yield {k: p.copy() for k, p in x.items()}, bases


def study(
    params, grads, lr, beta1, beta2, shampoo_beta, eps, weight_decay, every, max_dim, block, decayed
):
    """levanter's soap.py on matrices whose sides are multiples of `block`, so that it pads nothing.

    A stacked leaf is vmapped over its layers, so one tensor a layer gives the same.
    """
    x = {k: p.copy() for k, p in params.items()}
    state = {
        (k, at): [np.zeros(p[index(at)].shape), np.zeros(p[index(at)].shape), None, None]
        for k, p in params.items()
        for at in blocks(p.shape, block, max_dim)
    }
    for count, grad in enumerate(grads, 1):
        u = {k: np.zeros_like(g) for k, g in grad.items()}
        for (k, at), (m, v, grams, bases) in state.items():
            g, cut = grad[k][index(at)], index(at)
            rotated = [d < max_dim for d in g.shape]
            if count == 1:
                grams = [
                    (1 - shampoo_beta) * outer(g, d) if r else None for d, r in enumerate(rotated)
                ]
                bases = [None if gram is None else eigenbasis(gram, eps) for gram in grams]
                state[k, at] = [m, v, grams, bases]
                continue
            m = beta1 * m + (1 - beta1) * g
            v = beta2 * v + (1 - beta2) * project(g, bases) ** 2
            u[k][cut] = project(project(m, bases) / (np.sqrt(v) + eps), bases, back=True)
            u[k][cut] *= np.sqrt(1 - beta2**count) / (1 - beta1**count)
            new = [
                None if gram is None else gram + (1 - shampoo_beta) * (outer(g, dim) - gram)
                for dim, gram in enumerate(grams)
            ]
            if count % every == 0:
                bases, v = power_qr(grams, bases, v)
            state[k, at] = [m, v, new, bases]
        x = {k: w - lr * (u[k] + weight_decay * decayed(k) * w) for k, w in x.items()}
        yield {k: p.copy() for k, p in x.items()}, {key: s[3] for key, s in state.items()}


def blocks(shape, size, max_dim):
    """((start, stop), ...) of each block; dimensions of `max_dim` or more are not cut."""
    cuts = [[(0, d)] if d >= max_dim else [(i, i + size) for i in range(0, d, size)] for d in shape]
    return itertools.product(*cuts)


def index(at):
    return tuple(slice(*ends) for ends in at)
