"""One run as pure functions, of which both programs are built: start, train some steps, evaluate.

The step never asks an optimizer's name: `OptimizerSpec.build` takes the numbers, traced or not.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import optim
from lm.model import llama as model_lib
from lm.model import loss as loss_lib
from lm.model import parametrization
from lm.run import divergence, threads
from optim.roles import path_name
from optim.stacks.probes import probe_key

UPDATE = "update"  # the scope of the optimizer's work in profiles and in compiled programs


class State(NamedTuple):
    """All that training carries from step to step; every leaf an array."""

    params: Any
    optimizer: Any
    step: Array  # () int32, updates made
    window: Array  # (2,) fp32, nats and steps since the last line of the curve
    recent: Array  # () fp32, mean loss of the last steps, see `lm.run.divergence`
    diverged_at: Array  # () int32, the first diverged step, -1 while there is none


def judged(state: State):
    """The parameters to evaluate, which the optimizer may keep apart from those that train."""
    return optim.evaluation_params(state.optimizer, state.params)


def only_judged(state: State) -> State:
    """`state` with `...` for every array that `judged` does not need, which no restore reads."""

    def offers(node):
        return hasattr(node, "evaluation_params")

    optimizer = jax.tree.map(lambda x: x if offers(x) else ..., state.optimizer, is_leaf=offers)
    return jax.tree.map(lambda _: ..., state)._replace(params=state.params, optimizer=optimizer)


class Report(NamedTuple):
    """What some steps say of a run, fp32 scalars, each with a member axis in a pack."""

    train_loss: Array  # nats per token, mean since the last line, each step before its update
    diverged_at: Array  # () int32
    watched: dict[str, Array]  # of the last step: learning rate, norms in all and per role; and
    # `kept`, how often so far the optimizer kept what it could not compute, where it counts that


class Run(NamedTuple):
    """The functions of a run.

    `params(seed)`, `init(params, hparams, seed)` and `evaluate(params, tokens_BT, weight_B)`, whose
    sums (2,) are nats and predicted tokens.

    `advance(state, hparams, block_KBT, steps, fresh)` trains on the first `steps` of K batches;
    `fresh` says that they are the first after a line of the curve. `advance_together` does so for N
    runs at the same step, with a leading axis N of state, hparams, block and steps; those with
    steps 0 stand still.
    """

    params: Callable[[Array], Any]
    init: Callable[[Any, Mapping, Array], State]
    advance: Callable[..., tuple[State, Report]]
    advance_together: Callable[..., tuple[State, Report]]
    evaluate: Callable[[Any, Array, Array], Array]


def hyperparameters(config: Mapping) -> dict[str, np.generic]:
    """The traced numbers of a finalised config, what differs between runs of a pack: fp32 however
    they are spelled, and `steps` int32.
    """
    spec = optim.spec(**config["optimizer"])
    numbers = {k: np.float32(v) for k, v in spec.traced.items()}
    return numbers | {"steps": np.int32(config["train"]["steps"])}


def build(config: Mapping) -> Run:
    """The run of a finalised config; only what `program_key` keeps is read from it.

    Every program, however it was started, is built here: so the process's LAPACK threads are set
    here too.
    """
    threads.use_one_per_lapack_call()
    spec, train_config = optim.spec(**config["optimizer"]), config["train"]
    model, start, scaling = parametrization.apply(config)
    # Attention kernels have no second derivative, which Sophia takes.
    twice = model.by_reference()
    chunks, accumulate = config["program"]["loss_chunks"], config["program"]["accumulate"]
    ceiling = divergence.ceiling(config["model"]["vocab_size"])

    def transformation(hparams):
        return spec.build(roles=model_lib.role, scaling=scaling(hparams["steps"]), **hparams)

    def init(params, hparams, seed):
        optimizer = transformation(hparams).init(params)
        if optax.tree.get_all_with_path(optimizer, "probes"):  # other runs draw other ones
            probes = probe_key(spec.values["seed"] + seed)
            optimizer = optax.tree.set(optimizer, probes=probes)
        zero, none = jnp.float32(0.0), jnp.int32(-1)
        return State(params, optimizer, jnp.int32(0), jnp.zeros(2, jnp.float32), zero, none)

    def objective(params, tokens_BT, model):
        """Sums over a microbatch: nats and weighted z-loss; nats and count beside."""
        x_BTD, head_DV = model.apply({"params": params}, tokens_BT)
        sums = loss_lib.next_token(x_BTD, head_DV, tokens_BT, chunks=chunks)
        return sums.nats + train_config["z_loss"] * sums.z, (sums.nats, sums.count)

    def gradients(params, tokens_BT, model=model):
        """(mean nats, gradients of the mean objective), token-weighted over the microbatches."""
        grad = jax.grad(functools.partial(objective, model=model), has_aux=True)
        if accumulate == 1:
            grads, (nats, count) = grad(params, tokens_BT)
        else:
            # Every accumulate-th row, so that each microbatch lies over all devices of the batch.
            micro_ABT = tokens_BT.reshape(-1, accumulate, tokens_BT.shape[1]).swapaxes(0, 1)

            def body(total, tokens_BT):
                return jax.tree.map(jnp.add, total, grad(params, tokens_BT)), None

            zero = jnp.float32(0.0)
            start = (jax.tree.map(jnp.zeros_like, params), (zero, zero))
            (grads, (nats, count)), _ = jax.lax.scan(body, start, micro_ABT)
        return nats / count, jax.tree.map(lambda g: g / count, grads)

    def train(state, hparams, tokens_BT, step, active=True):
        """(state, norms of the gradients) after one update; `step` were made before it."""

        def grad_fn(params):
            return gradients(params, tokens_BT, twice)[1]

        nats, grads = gradients(state.params, tokens_BT)
        with jax.named_scope(UPDATE):
            extra = {"value": nats, "grad_fn": grad_fn, "step": step, "active": active}
            tx = transformation(hparams)
            updates, optimizer = tx.update(grads, state.optimizer, state.params, **extra)
        done = state.step + 1
        recent = divergence.recent(state.recent, nats, done)
        bad = divergence.diverged(recent, done, hparams["steps"], ceiling)
        new = State(
            params=optax.apply_updates(state.params, updates),
            optimizer=optimizer,
            step=done,
            window=state.window + jnp.stack([nats, jnp.ones_like(nats)]),
            recent=recent,
            diverged_at=jnp.where(bad & (state.diverged_at < 0), done, state.diverged_at),
        )
        return new, norms("grad_norm", grads)  # before clipping

    def report(state, grad_norms):
        nats, steps = state.window
        rates = optax.tree.get_all_with_path(state.optimizer, "learning_rate")
        rate = {"learning_rate": jnp.float32(rates[0][1])} if rates else {}
        counts = [count for _, count in optax.tree.get_all_with_path(state.optimizer, "kept")]
        kept = {"kept": jnp.float32(sum(counts))} if counts else {}
        watched = {**rate, **grad_norms, **norms("param_norm", state.params), **kept}
        return Report(nats / jnp.maximum(steps, 1), state.diverged_at, watched)

    def begin(state, fresh):
        """(state, norms) before some steps."""
        kinds = jax.eval_shape(functools.partial(norms, "grad_norm"), state.params)
        zeros = {name: jnp.zeros(state.step.shape, x.dtype) for name, x in kinds.items()}
        return state._replace(window=jnp.where(fresh, 0.0, state.window)), zeros

    def advance(state, hparams, block_KBT, steps, fresh):
        def body(i, carry):
            state, _ = carry
            return train(state, hparams, block_KBT[i].astype(jnp.int32), state.step)

        state, grad_norms = jax.lax.fori_loop(0, steps, body, begin(state, fresh))
        return state, report(state, grad_norms)

    def advance_together(state, hparams, block_NKBT, steps_N, fresh):
        active_N = steps_N > 0

        def one(state, hparams, tokens_BT, step, active):
            new, grad_norms = train(state, hparams, tokens_BT, step, active)
            return jax.tree.map(lambda x, y: jnp.where(active, x, y), new, state), grad_norms

        def body(i, carry):
            state, _ = carry
            # One number for all: what is done every so many steps stays a branch under `vmap`.
            step = jnp.max(jnp.where(active_N, state.step, 0))
            tokens_NBT = block_NKBT[:, i].astype(jnp.int32)
            many = jax.vmap(one, in_axes=(0, 0, 0, None, 0))
            return many(state, hparams, tokens_NBT, step, active_N)

        state, grad_norms = jax.lax.fori_loop(0, jnp.max(steps_N), body, begin(state, fresh))
        return state, jax.vmap(report)(state, grad_norms)

    def evaluate(params, tokens_BT, weight_B):
        x_BTD, head_DV = model.apply({"params": params}, tokens_BT)
        sums = loss_lib.next_token(x_BTD, head_DV, tokens_BT, weight_B, chunks=chunks)
        return jnp.stack([sums.nats, sums.count])

    return Run(
        params=lambda seed: start(jax.random.key(seed)),
        init=init,
        advance=advance,
        advance_together=advance_together,
        evaluate=evaluate,
    )


def norms(name: str, tree) -> dict[str, Array]:
    """Euclidean norms, fp32: `name` over all leaves, `name_<kind>` over those of a role."""
    squares: dict[str, Array] = {}
    for path, leaf in jax.tree.leaves_with_path(tree):
        kind = model_lib.role(path_name(path), leaf).kind
        squares[kind] = squares.get(kind, 0.0) + jnp.sum(jnp.square(leaf.astype(jnp.float32)))
    per_role = {f"{name}_{kind}": jnp.sqrt(square) for kind, square in squares.items()}
    return {name: jnp.sqrt(sum(squares.values())), **per_role}
