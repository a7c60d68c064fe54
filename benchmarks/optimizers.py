"""What each optimizer costs: memory, FLOPs, time and compile time, beside optax and plain loops.

    python -m benchmarks.optimizers            # about ten minutes on two cores
    python -m benchmarks.optimizers --quick    # under two minutes, for a look
    python -m benchmarks.optimizers --optimizers=muon,my_opt:my_sgd     # beside AdamW, without (3)

Three tables. (1) State bytes per parameter, and FLOPs of an update as a share of the model's
forward and backward pass (6 N B T), by formula and as XLA counts the lowered program, where a
branch counts in full and LAPACK calls not at all. (2) Time and compile time of an update relative
to AdamW's; Sophia's Hessian-vector product is of a toy function, so not counted. (3) The same
beside optax, optax.contrib and a Python loop over single matrices. Candidates run in turn, round
after round: the ratio of their fastest rounds, and the quartiles of the ratios within a round.
"""

import argparse
import math
import statistics
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optim
from configs.ladder import SIZES, params
from lm.config import finalise
from lm.model import llama
from optim.roles import find_roles, from_stack, path_name, stack_shape, to_stack

# Batch of the study's winners in sequences of 4096; of the ladder, 16 sequences of 128 bytes.
BATCH = {"130m": 128, "300m": 128, "520m": 256, "1.2b": 256}
NUMBERS = {"learning_rate": 1e-3}


def abstract(size: dict) -> dict[str, jax.ShapeDtypeStruct]:
    """The model's parameters by path; nothing is allocated."""
    config = {
        "model": {"name": "any", **size},
        "train": {"chinchilla_ratio": 1.0, "batch_size": 1},
        "optimizer": {"name": "adamw"},
    }
    model = llama.build(finalise(config))
    tree = jax.eval_shape(lambda: llama.init(model, jax.random.key(0)))
    return {path_name(key_path): x for key_path, x in jax.tree.leaves_with_path(tree)}


def random_tree(size: dict, seed: int):
    rng = np.random.default_rng(seed)
    return {
        k: jnp.asarray(0.02 * rng.standard_normal(x.shape), jnp.float32)
        for k, x in abstract(size).items()
    }


def step_of(tx):
    """(params, state), grads -> (params, state)."""
    tx = optax.with_extra_args_support(tx)
    grad_fn = partial(jax.tree.map, jnp.sin)

    def step(carry, grads):
        updates, state = tx.update(grads, carry[1], carry[0], value=0.0, grad_fn=grad_fn)
        return optax.apply_updates(carry[0], updates), state

    return step


def one_by_one(tx, roles=None):
    """`tx` with an own copy for each matrix, in a Python loop: what batching saves."""

    def cut(tree):
        pieces = {}
        for name, role in find_roles(tree, roles).items():
            stack = to_stack(tree[name], role)
            kind = "scale" if role.kind == "gain" else "kernel"
            for i in range(stack.shape[0]):
                piece = stack[i, 0] if role.kind == "gain" else stack[i]
                pieces[f"{name.replace('blocks', 'layer_')}_{i}/{kind}"] = piece
        return pieces

    def paste(pieces, tree):
        whole, rows = {}, iter(pieces.values())
        for name, role in find_roles(tree, roles).items():
            shape = stack_shape(tree[name], role)
            stack = jnp.stack([next(rows).reshape(shape[1:]) for _ in range(shape[0])])
            whole[name] = from_stack(stack, role, tree[name].shape)
        return whole

    def init(tree):
        return {k: tx.init({k: x}) for k, x in cut(tree).items()}

    def update(updates, state, params=None, **extra):
        grads, weights = cut(updates), cut(params)
        pairs = {k: tx.update({k: grads[k]}, state[k], {k: weights[k]}, **extra) for k in grads}
        pieces = {k: pair[0][k] for k, pair in pairs.items()}
        return paste(pieces, updates), {k: pair[1] for k, pair in pairs.items()}

    return optax.GradientTransformationExtraArgs(init, update)


class Candidate:
    """A compiled update that feeds itself; `compile_seconds` from lowering to executable."""

    def __init__(self, tx, tree, grads):
        carry = (jax.tree.map(jnp.copy, tree), jax.jit(tx.init)(tree))
        start = time.perf_counter()
        lowered = jax.jit(step_of(tx), donate_argnums=0).lower(carry, grads)
        self.run = lowered.compile()
        self.compile_seconds = time.perf_counter() - start
        self.carry, self.grads = self.run(carry, grads), grads

    def seconds(self, calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            self.carry = self.run(self.carry, self.grads)
        jax.block_until_ready(self.carry)
        return (time.perf_counter() - start) / calls


def race(candidates: dict[str, Candidate], rounds: int, calls: int) -> dict[str, list[float]]:
    """Seconds of each candidate in each round; rounds go through all of them in turn."""
    times = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, candidate in candidates.items():
            times[name].append(candidate.seconds(calls))
    return times


def ratio(times, name, base) -> str:
    rows = [a / b for a, b in zip(times[name], times[base], strict=True)]
    low, _, high = statistics.quantiles(rows, n=4)
    return f"{min(times[name]) / min(times[base]):7.2f}x [{low:.2f}, {high:.2f}]"


def study(name):
    return optim.build(name, NUMBERS, preset="study")


def memory_and_flops(names, sizes):
    """Table 1. Abstract: nothing is allocated, any size."""
    print("\nState bytes per parameter | update FLOPs / model FLOPs, by formula (as XLA counts)")
    width = max(map(len, names))
    print(f"{'':{width}}" + "".join(f"{s:>29}" for s in sizes))
    for name in names:
        cells = []
        for size_name in sizes:
            size, tree = SIZES[size_name], abstract(SIZES[size_name])
            told = optim.describe(name, tree, preset="study")
            tokens = BATCH.get(size_name, 16) * size["sequence_length"]
            model = 6 * params(size_name) * tokens
            tx = study(name)
            carry = (tree, jax.eval_shape(tx.init, tree))
            counted = jax.jit(step_of(tx)).lower(carry, tree).cost_analysis()["flops"]
            per = sum(told.state_bytes.values()) / told.parameters
            cells.append(f"{per:6.2f} | {told.flops / model:8.3%} ({counted / model:8.3%})")
        print(f"{name:{width}}" + "".join(f"{cell:>29}" for cell in cells), flush=True)


def against_adamw(names, size, rounds, calls):
    """Table 2."""
    tree, grads = random_tree(size, 0), random_tree(size, 1)
    found = {n: Candidate(study(n), tree, grads) for n in names}
    times = race(found, rounds, calls)
    count = sum(math.prod(x.shape) for x in tree.values())
    base = min(times["adamw"])
    print(f"\nAn update of {count:,} parameters, {size['layers']} layers of width {size['hidden']}")
    print(
        f"(refreshes of SOAP and Kron included), relative to AdamW's {1e3 * base:.2f} ms; compiling"
    )
    width = max(map(len, names))
    for name, candidate in found.items():
        print(f"{name:{width}} {ratio(times, name, 'adamw'):28} {candidate.compile_seconds:6.2f} s")


def muon_dimensions(tree):
    """For optax.contrib.muon: hidden matrices only, heads joined, layers as batch."""

    def dimensions(role):
        if getattr(role, "kind", None) != "matrix":  # a masked leaf has no role
            return None
        return optax.contrib.MuonDimensionNumbers(role.inputs, role.outputs)

    return {k: dimensions(role) for k, role in find_roles(tree).items()}


def side_by_side(size, rounds, calls):
    """Table 3: ours / theirs, so below 1 is faster."""
    tree, grads = random_tree(size, 0), random_tree(size, 1)
    authors = partial(optim.build, hparams=NUMBERS, preset="authors")
    jordan = authors("muon", ns_dtype="float32")
    theirs = optax.contrib.muon(1e-3, muon_weight_dimension_numbers=muon_dimensions)
    pairs = {
        "adamw / optax.adamw": (authors("adamw"), optax.adamw(1e-3)),
        "nadamw / optax.nadamw": (authors("nadamw"), optax.nadamw(1e-3)),
        "lion / optax.lion": (authors("lion"), optax.lion(1e-3)),
        "muon / optax.contrib.muon": (jordan, theirs),
    }
    for name in ("muon", "scion"):
        tx = study(name)
        pairs[f"{name} / one by one"] = (tx, one_by_one(tx))
    print(f"\nTime and compile time beside others, {size['layers']} x {size['hidden']}")
    compare(pairs, tree, grads, rounds, calls)
    # Programs of a loop over SOAP or Kron take minutes to compile: hidden matrices of few layers.
    layers = min(size["layers"], 4)
    matrices = [k for k in tree if "kernel" in k and "blocks" in k]
    tree, grads = ({k: x[k][:layers] for k in matrices} for x in (tree, grads))
    pairs = {}
    for name in ("muon", "soap", "kron"):
        tx = study(name)
        pairs[f"{name} / one by one"] = (tx, one_by_one(tx))
    print(f"The matrices of {layers} layers")
    compare(pairs, tree, grads, rounds, calls)


def compare(pairs, tree, grads, rounds, calls):
    for title, (ours, other) in pairs.items():
        a, b = (Candidate(tx, tree, grads) for tx in (ours, other))
        times = race({"ours": a, "theirs": b}, rounds, calls)
        compiling = f"{a.compile_seconds:.2f} s / {b.compile_seconds:.2f} s"
        print(f"{title:28} {ratio(times, 'ours', 'theirs'):28} compile {compiling}", flush=True)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few layers, few rounds")
    parser.add_argument("--optimizers", help="names or import paths; default: the catalogue")
    given = parser.parse_args(argv)
    quick, names = given.quick, list(optim.catalogue.CATALOGUE)
    if given.optimizers:
        names = list(dict.fromkeys(["adamw", *given.optimizers.split(",")]))
        try:
            list(map(optim.catalogue.get, names))
        except ValueError as error:
            parser.error(str(error))
    device = jax.devices()[0]
    print(
        f"{device.platform} {device.device_kind}, jax {jax.__version__}, optax {optax.__version__}"
    )
    ladder = [name for name in SIZES if name not in BATCH]
    memory_and_flops(names, ["nano-s", "130m"] if quick else [ladder[1], ladder[-1], *BATCH])
    shape = dict(layers=4, hidden=32) if quick else dict(layers=32, hidden=64)
    size = {**SIZES["nano-m"], **shape, "mlp": 4 * shape["hidden"]}
    rounds, calls = (3, 2) if quick else (15, 10)
    against_adamw(names, size, rounds, calls)
    if not given.optimizers:
        side_by_side(size, rounds, calls)


if __name__ == "__main__":
    main()
