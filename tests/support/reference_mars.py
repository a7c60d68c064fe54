"""MARS-AdamW in float64 NumPy, from its authors' and from the study's code."""

import numpy as np


def authors(params, grads, lr, beta1, beta2, gamma, eps, weight_decay, lr_1d, betas_1d, decay_1d):
    """AGI-Arena/MARS mars.py, `update_fn` with mars-adamw and is_approx, one tensor a layer."""
    x = {k: p.copy() for k, p in params.items()}
    m, v, last = ({k: np.zeros_like(p) for k, p in params.items()} for _ in range(3))
    for step, grad in enumerate(grads, 1):
        for k, g in grad.items():
            b1, b2, rate, decay, c = *betas_1d, lr_1d, decay_1d, g
            if g.ndim == 2:
                b1, b2, rate, decay = beta1, beta2, lr, weight_decay
                c = (g - last[k]) * (gamma * (beta1 / (1.0 - beta1))) + g
                norm = np.linalg.norm(c)
                c = c / norm if norm > 1.0 else c
            m[k] = m[k] * b1 + (1 - b1) * c
            v[k] = v[k] * b2 + (1 - b2) * c * c
            denominator = (np.sqrt(v[k]) / np.sqrt(1 - b2**step) + eps) * (1 - b1**step)
            x[k] = x[k] - rate * (x[k] * decay + m[k] / denominator)
            last[k] = g
        yield {k: p.copy() for k, p in x.items()}


def study(params, grads, lr, beta1, beta2, gamma, eps, weight_decay, max_grad_norm, decayed):
    """levanter's scale_by_mars, decay and learning rate, on stacked leaves."""
    x = {k: p.copy() for k, p in params.items()}
    m, v, old = ({k: np.zeros_like(p) for k, p in params.items()} for _ in range(3))
    for t, grad in enumerate(grads, 1):
        c = {k: g + gamma * beta1 / (1 - beta1) * (g - old[k]) for k, g in grad.items()}
        norm = np.sqrt(sum((y**2).sum() for y in c.values()))
        c = {k: y * min(1.0, max_grad_norm / (norm + 1e-6)) for k, y in c.items()}
        for k, y in c.items():
            m[k] = beta1 * m[k] + (1 - beta1) * y
            v[k] = beta2 * v[k] + (1 - beta2) * y**2
            u = m[k] / (1 - beta1**t) / (np.sqrt(v[k] / (1 - beta2**t)) + eps)
            x[k] = x[k] - lr * (u + weight_decay * decayed(k) * x[k])
        old = grad
        yield {k: p.copy() for k, p in x.items()}
