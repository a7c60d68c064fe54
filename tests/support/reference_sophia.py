"""Sophia-H in float64 NumPy, from its authors' and from the study's code.

`hessian(x)` maps parameters to a dict of symmetric matrices, one per tensor, and `probes` has one
tree of z per step.
"""

import numpy as np


def authors(params, grads, hessian, probes, lr, beta1, beta2, gamma, eps, weight_decay, every):
    """Class SophiaH of Liuhong99/Sophia (01af183) in the loop of train_sophiag.py."""
    x = {k: p.copy() for k, p in params.items()}
    m, h = ({k: np.zeros_like(p) for k, p in params.items()} for _ in range(2))
    for step, grad in enumerate(grads, 1):
        for k, g in grad.items():
            x[k] = x[k] * (1 - lr * weight_decay)
            m[k] = m[k] * beta1 + (1 - beta1) * g
            ratio = np.minimum(np.abs(m[k]) / (gamma * np.maximum(h[k], 0) + eps), 1)
            x[k] = x[k] - lr / (1 - beta1**step) * np.sign(m[k]) * ratio
        yield {k: p.copy() for k, p in x.items()}
        if step % every == 0 and step < len(probes):  # new parameters, next batch
            curvature = hessian(x)
            for k, z in probes[step].items():
                hz = (curvature[k] @ z.ravel()).reshape(z.shape)
                h[k] = h[k] * beta2 + (1 - beta2) * (hz * z)


def study(
    params, grads, hessian, probes, lr, beta1, beta2, gamma, eps, weight_decay, every, decayed
):
    """levanter's _sophia_gradient_transform, decay and learning rate, on stacked leaves."""
    x = {k: p.copy() for k, p in params.items()}
    m, h = ({k: np.zeros_like(p) for k, p in params.items()} for _ in range(2))
    for t, grad in enumerate(grads, 1):
        curvature, new = hessian(x), {}
        for k, g in grad.items():
            m[k] = (1 - beta1) * g + beta1 * m[k]
            u = np.clip(m[k] / (1 - beta1**t) / np.maximum(gamma * h[k], eps), -1, 1)
            new[k] = x[k] - lr * (u + weight_decay * decayed(k) * x[k])
            if t % every == 0:
                z = probes[t - 1][k]
                hz = (curvature[k] @ z.ravel()).reshape(z.shape)
                h[k] = (1 - beta2) * (hz * z) + beta2 * h[k]
        x = new
        yield {k: p.copy() for k, p in x.items()}
