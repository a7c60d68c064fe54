"""Cautious AdamW in float64 NumPy, from its authors' and from the study's code."""

import numpy as np


def authors(params, grads, lr, beta1, beta2, eps, weight_decay):
    """C-Optim c_adamw.py, `c_adamw_update_foreach_async`, on one tensor a layer."""
    x = {k: p.copy() for k, p in params.items()}
    m = {k: np.zeros_like(p) for k, p in params.items()}
    v = {k: np.zeros_like(p) for k, p in params.items()}
    for t, grad in enumerate(grads, 1):
        for k, g in grad.items():
            m[k] += (1 - beta1) * (g - m[k])
            v[k] += (1 - beta2) * (g * g - v[k])
            denominator = np.sqrt(v[k]) / np.sqrt(1 - beta2**t) + eps
            mask = (m[k] * g > 0).astype(float)
            x[k] *= 1 - lr * weight_decay
            x[k] -= lr / (1 - beta1**t) * (m[k] * mask / denominator) / max(mask.mean(), 1e-3)
        yield {k: p.copy() for k, p in x.items()}


def study(params, grads, lr, beta1, beta2, eps, weight_decay, decayed):
    """levanter's scale_by_cautious, decay and learning rate, on stacked leaves."""
    x = {k: p.copy() for k, p in params.items()}
    m = {k: np.zeros_like(p) for k, p in params.items()}
    v = {k: np.zeros_like(p) for k, p in params.items()}
    for t, grad in enumerate(grads, 1):
        for k, g in grad.items():
            m[k] = beta1 * m[k] + (1 - beta1) * g
            v[k] = beta2 * v[k] + (1 - beta2) * g**2
            u = m[k] / (1 - beta1**t) / (np.sqrt(v[k] / (1 - beta2**t)) + eps)
            mask = g * u > 0
            u = u * mask / (mask.mean() + eps)
            x[k] = x[k] - lr * (u + weight_decay * decayed(k) * x[k])
        yield {k: p.copy() for k, p in x.items()}
