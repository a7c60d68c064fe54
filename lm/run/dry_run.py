"""What a run is about to do, from its config alone: nothing is allocated and nothing starts."""

from __future__ import annotations

import json
from collections.abc import Mapping

from lm.config import HOW, WHAT, non_embedding_params, total_params
from lm.model import flops
from lm.model.loss import chunk_count

GIB = 2**30


def summary(config: Mapping) -> str:
    """Two lines: the model with its budget, the optimizer with its numbers."""
    model, train, optimizer = config["model"], config["train"], config["optimizer"]
    tokens = train["steps"] * train["batch_size"] * model["sequence_length"]
    return (
        f"{model['name']}: {non_embedding_params(model):,} non-embedding parameters "
        f"({total_params(model):,} in all), {train['chinchilla_ratio']:g}x = {tokens:,} tokens, "
        f"{train['steps']:,} steps of {train['batch_size']} x {model['sequence_length']}\n"
        f"{optimizer['name']} ({optimizer['preset']}): "
        + ", ".join(f"{k}={v}" for k, v in optimizer.items() if isinstance(v, (int, float)))
    )


def roles(config: Mapping) -> str:
    """What the optimizer takes the parameters for: a line for each kind."""
    import jax

    from lm.model import llama as model_lib
    from optim.roles import coverage

    module = model_lib.build(config)
    params = jax.eval_shape(lambda: model_lib.init(module, jax.random.key(0)))
    return coverage(params, model_lib.role)


def full(config: Mapping) -> str:
    """The resolved config, parameters by role, tokens, steps, FLOPs and memory of a run."""
    import jax

    import optim
    from lm.model import llama as model_lib

    module = model_lib.build(config)
    params = jax.eval_shape(lambda: model_lib.init(module, jax.random.key(0)))
    found = optim.describe(optim.spec(**config["optimizer"]), params, roles=model_lib.role)
    counts: dict[str, int] = {}
    for path, leaf in zip(found.roles, jax.tree.leaves(params), strict=True):
        kind = found.roles[path].kind
        counts[kind] = counts.get(kind, 0) + leaf.size
    by_role = ", ".join(f"{kind} {count:,}" for kind, count in counts.items())
    total = flops.training_flops(config)
    sections = (f"{section} {json.dumps(config[section])}" for section in (*WHAT, *HOW))
    weights, state = 4 * found.parameters, sum(found.state_bytes.values())
    return "\n".join(
        [
            *sections,
            "",
            summary(config),
            f"parameters by role: {by_role}",
            "",
            str(found),
            "",
            f"model FLOPs of the run: {total:.4g} ({config['train']['steps']:,} steps of "
            f"{total / config['train']['steps']:.4g}; convention in lm/model/flops.py)",
            f"memory over all devices: parameters {weights / GIB:.2f} GiB, gradients "
            f"{weights / GIB:.2f} GiB, optimizer state {state / GIB:.2f} GiB; activations about "
            f"{activation_bytes(config) / GIB:.2f} GiB for each sequence of a microbatch",
        ]
    )


def activation_bytes(config: Mapping) -> float:
    """Bytes that one sequence keeps for its backward pass, an estimate.

    Per layer its input and attention's result, and unless blocks are recomputed what is inside:
    about ten values per feature and three per MLP feature (`remat="dots"` keeps the products alone,
    about half), and the reference attention's scores. One block and one piece of fp32 logits, with
    its gradient, are live besides.
    """
    model, program = config["model"], config["program"]
    T, D, F, L = (model[k] for k in ("sequence_length", "hidden", "mlp", "layers"))
    width = 2 if config["train"]["compute_dtype"] == "bfloat16" else 4
    block = T * (10 * D + 3 * F) * width
    if program["attention"] == "reference":
        block += 2 * model["heads"] * T * T * width
    kept = {"none": block, "dots": block / 2, "block": 2 * T * D * width}[program["remat"]]
    chunks = program["loss_chunks"] or chunk_count(1, T, model["vocab_size"], width)
    logits = 2 * T / chunks * model["vocab_size"] * 4
    return L * kept + (block if program["remat"] != "none" else 0) + logits
