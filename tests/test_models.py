"""The blocks of docs/models.md, as they stand there, on eight devices."""

import re
from pathlib import Path

import jax
import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "models.md").read_text()
FIRST, *BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)


@pytest.mark.parametrize("block", BLOCKS, ids=["linen", "nnx", "equinox"])
def test_from_init_to_a_sharded_update(block):
    if "equinox" in block:
        pytest.importorskip("equinox")
    named = {}
    before, step = block.rsplit("params, state = ", 1)
    exec(FIRST + before, named)
    old, loss = named["params"], named["loss"]
    exec("params, state = " + step, named)
    assert loss(named["params"]) < loss(old)
    leaves = zip(jax.tree.leaves(named["params"]), jax.tree.leaves(old), strict=True)
    for new, before in leaves:
        assert new.sharding.is_equivalent_to(before.sharding, new.ndim)
    shared = [x for x in jax.tree.leaves(named["state"]) if not x.sharding.is_fully_replicated]
    assert len(shared) >= 2  # the matrices' momenta, at the least
