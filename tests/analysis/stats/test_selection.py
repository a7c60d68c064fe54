"""The best of k runs is put back where it belongs."""

import numpy as np
import pytest

from analysis.stats.selection import undo_selection


@pytest.mark.parametrize("k", [1, 5, 25])
def test_selection_is_undone_when_all_are_equally_good(k):
    losses = 3 + 1e-3 * np.random.default_rng(k).standard_normal((3000, k))
    corrected, error = undo_selection(losses, 1e-3)
    naive, left = losses.min(1).mean() - 3, corrected.mean() - 3
    if k == 1:
        np.testing.assert_array_equal(corrected, losses[:, 0])
    else:
        assert abs(left) < 0.4 * abs(naive)
    assert 0.9 < (np.abs(corrected - 3) < 1.96 * error).mean() < 0.99


def test_a_winner_far_ahead_stays_where_it_is():
    losses = np.array([[3.0, *np.full(20, 3.05)], [3.0, *np.full(20, np.inf)]])
    corrected, error = undo_selection(losses, 1e-3)
    np.testing.assert_allclose(corrected, 3.0, atol=5e-5)
    np.testing.assert_allclose(error, 1e-3, rtol=0.1)
