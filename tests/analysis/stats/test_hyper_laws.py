"""How a tuned hyper-parameter moves with size and ratio."""

import pytest

from analysis.stats import hyper_laws


def test_laws_recover_a_power_law_and_fall_back_on_the_mode():
    sizes, ratios = [1e6, 4e6, 16e6, 1e6], [1, 1, 1, 4]
    values = [0.01 * (n / 1e6) ** -0.5 * r**-0.25 for n, r in zip(sizes, ratios, strict=True)]
    law = hyper_laws.fit(sizes, ratios, values)
    assert law.predict(64e6, 2) == pytest.approx(0.01 * 64**-0.5 * 2**-0.25)
    assert hyper_laws.fit(sizes, ratios, [0, 0.1, 0.1, 0.1]).predict(1e9, 8) == 0.1
    one = hyper_laws.fit([1e6, 1e6], [1, 2], [0.1, 0.2])  # one size says nothing about sizes
    assert one.predict(1e9, 1) == pytest.approx(0.1)
