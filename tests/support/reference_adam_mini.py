"""Adam-mini in float64 NumPy, from its authors' and from the study's code."""

import numpy as np


def authors(params, grads, lr, beta1, beta2, eps, weight_decay, n_heads):
    """zyushun/Adam-mini 1.1.1 `step`, one tensor a layer."""
    x = {k: p.copy() for k, p in params.items()}
    m = {k: np.zeros_like(p) for k, p in params.items()}
    v = {k: 0.0 for k in params}
    for step, grad in enumerate(grads, 1):
        for k, g in grad.items():
            if "query" in k or "key" in k:
                rows = (g * g).reshape(n_heads, -1).mean(1)
                mean = np.repeat(rows, g.shape[0] // n_heads)[:, None]
            elif g.ndim == 2:
                mean = (g * g).mean(axis=1, keepdims=True)
            else:
                mean = (g * g).sum() / g.size
            v[k] = v[k] * beta2 + (1 - beta2) * mean
            if "norm" not in k:
                x[k] = x[k] * (1 - lr * weight_decay)
            m[k] = m[k] + (1 - beta1) * (g - m[k])
            h = np.sqrt(v[k]) / np.sqrt(1 - beta2**step) + eps
            x[k] = x[k] - lr * (m[k] * ((1 / (1 - beta1**step)) / h))
        yield {k: p.copy() for k, p in x.items()}


MEAN_AXES = {"embed": (1,), "head": (1,), "query": (2, 3), "value": (3,), "out": (2, 3), "up": (2,)}


def study(params, grads, lr, beta1, beta2, eps, weight_decay, max_grad_norm, decayed):
    """levanter's scale_with_mini by part, v at full size, on leaves (layers, out axes, in axes)."""
    x = {k: p.copy() for k, p in params.items()}
    m, v = ({k: np.zeros_like(p) for k, p in params.items()} for _ in range(2))
    for t, grad in enumerate(grads, 1):
        norm = np.sqrt(sum((g**2).sum() for k, g in grad.items() if "norm" in k))
        for k, g in grad.items():
            part = next((p for p in MEAN_AXES if p in k.split("/")), None)
            if part:
                squared = np.broadcast_to(
                    (g * g).mean(axis=MEAN_AXES[part], keepdims=True), g.shape
                )
            else:
                g = g if norm < max_grad_norm else g / norm * max_grad_norm
                squared = g * g
            m[k] = beta1 * m[k] + (1 - beta1) * g
            v[k] = beta2 * v[k] + (1 - beta2) * squared
            u = m[k] / (1 - beta1**t) / (np.sqrt(v[k] / (1 - beta2**t)) + eps)
            x[k] = x[k] - lr * (u + weight_decay * decayed(k) * x[k])
        yield {k: p.copy() for k, p in x.items()}
