"""The study's own numbers come back from the shipped tables."""

import pandas as pd
import pytest

from analysis import published
from analysis.editions import EDITIONS, edition

KEYS = ["optimizer", "model_size", "chinchilla_ratio"]


@pytest.mark.parametrize("name", EDITIONS)
def test_every_quoted_speedup_within_2e3(name):
    quoted = published.quoted_speedups().query("procedure == @name")
    both = quoted.merge(edition(name), on=KEYS, suffixes=("_quoted", ""))
    assert len(both) == len(quoted) > 5
    pd.testing.assert_series_equal(
        both.speedup, both.speedup_quoted, check_names=False, rtol=0, atol=2e-3
    )


def test_tables_are_tidy():
    best, runs = published.best(), published.runs()
    assert len(best) == 150 and len(runs) == 2141
    for table in (best, runs, published.curves(), published.downstream(), published.grids()):
        assert set(table.optimizer) <= set(published.OPTIMIZERS)
        assert set(table.model_size) <= set(published.SIZES)
    assert not best.loss.isna().any()
    assert (runs.status == "finished").sum() + (runs.status == "diverged").sum() == 2033
