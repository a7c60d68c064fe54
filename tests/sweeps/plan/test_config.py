"""The knobs of a study's rule."""

import pytest
from study_rig import STUDY

from sweeps.plan import config, rules


@pytest.mark.parametrize(
    "overrides, expected",
    [
        (["--config.rule.looks=[3,1]"], "rule.looks belongs to rule.mode='tested'"),
        (["--config.rule.mode=tested", "--config.rule.threshold=1"], "rule.mode='published'"),
        (["--config.rule.mode=tested", "--config.rule.looks=[3,1]"], "must grow"),
    ],
)
def test_knobs_belong_to_their_rule(overrides, expected):
    with pytest.raises(config.ConfigError) as error:
        config.load(STUDY, overrides)
    assert expected in str(error.value)


def test_every_knob_of_a_rule_can_be_set():
    rule = config.load(STUDY, ["--config.rule.looks=[1,4]", "--config.rule.mode=tested"])["rule"]
    assert rule["looks"] == [1, 4] and rule["max_moves"] == 4  # the study's own, shared by rules
    assert set(rule) == {"mode", *rules.knobs("tested")}
