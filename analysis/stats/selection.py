"""What the best of many noisy runs would give if it were run again."""

import numpy as np


def undo_selection(losses_CK, sigma, *, grid=48, steps=8):
    """What the best of K noisy runs would give if it were run again.

    The true losses of a cell are deconvolved from the observed ones (Kiefer-Wolfowitz maximum
    likelihood by EM, stopped early), and the winner gets its posterior mean. Runs that are equally
    good pull the winner up to their mean; a winner far ahead stays where it is. A shrinkage
    estimator: it takes out most of the luck of having been selected, not all of it. With sigma
    known, 20 equally good runs keep 0.6 sigma of optimism, and runs 3 to 12 sigma behind a clear
    winner pull it up by 0.3 sigma too much. Fresh seeds, where there are any, are better.

    Args:
      losses_CK: (C, K) finished losses of C cells, padded with inf or NaN.
      sigma: standard deviation of one run, the same for all cells or (C,).

    Returns:
      loss_C (corrected) and error_C (its standard error, at most sigma).
    """
    losses_CK = np.sort(np.where(np.isfinite(losses_CK), losses_CK, np.inf), axis=1)
    best_C, sigma_C = losses_CK[:, 0], np.broadcast_to(sigma, len(losses_CK))
    x_CK = (losses_CK - best_C[:, None]) / sigma_C[:, None]
    near = x_CK < 8
    width = min(int(near.sum(1).max()), x_CK.shape[1])
    x_CK, near = np.where(near, x_CK, 99)[:, :width], near[:, :width]
    atoms_G = np.linspace(0, 8, grid)
    density_CKG = np.exp(-0.5 * (x_CK[..., None] - atoms_G) ** 2) * near[..., None]
    mass_CG = np.full((len(x_CK), grid), 1 / grid)
    for _ in range(steps):
        share = density_CKG * mass_CG[:, None]
        share /= np.maximum(share.sum(-1, keepdims=True), 1e-300)
        mass_CG = share.sum(1) / near.sum(1)[:, None]
    share = density_CKG * mass_CG[:, None]
    share /= np.maximum(share.sum(-1, keepdims=True), 1e-300)
    single = near.sum(1) == 1
    winner_CG = share[:, 0]
    shift = np.where(single, 0.0, winner_CG @ atoms_G)
    spread = winner_CG @ atoms_G**2 - (winner_CG @ atoms_G) ** 2
    pull_CK = np.einsum("cg,ckg->ck", winner_CG / np.maximum(share.sum(1), 1e-300), share)
    error = np.sqrt((pull_CK**2).sum(1) + spread)
    error = np.where(single, 1.0, error)
    return best_C + shift * sigma_C, error * sigma_C


def expected_best(losses) -> np.ndarray:
    """(n,) the expected lowest of 1 to n of these losses, drawn in random order.

    Dodge et al. (arXiv 1909.03004), without replacement, so that the last is the lowest.
    """
    losses = np.sort(np.asarray(losses, float))
    n = len(losses)
    chance = np.ones(n)  # that the first i losses are not among the k drawn
    out = []
    for k in range(n):
        chance = chance * np.maximum(n - np.arange(n) - k, 0) / (n - k)
        missed = np.append(chance[1:], 0.0)
        out.append(losses @ (chance - missed))
    return np.array(out)
