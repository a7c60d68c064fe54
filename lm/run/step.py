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
from optim.schedules import learning_rate

UPDATE = "update"  # the scope of the optimizer's work in profiles and in compiled programs


class State(NamedTuple):
    """All that training carries from step to step; every leaf an array."""

    params: Any
    optimizer: Any
    step: Array  # () int32, updates made
    diverged_at: Array  # () int32, the first diverged step, -1 while there is none


def judged(state: State):
    """The parameters to evaluate, which the optimizer may keep apart from those that train."""
    return optim.evaluation_params(state.optimizer, state.params)


class Report(NamedTuple):
    """What some steps say of a run, fp32 scalars, each with a member axis in a pack."""

    train_loss: Array  # nats per token, mean over the steps, each before its update
    diverged_at: Array  # () int32
    watched: dict[str, Array]  # of the last step: learning rate, norms in all and per role


class Run(NamedTuple):
    """`params(seed)`, `init(params, hparams)`, `advance(state, hparams, block_KBT, steps)` with at
    most K steps, `evaluate(params, tokens_BT, weight_B)`.
    """

    params: Callable[[Array], Any]
    init: Callable[[Any, Mapping], State]
    advance: Callable[[State, Mapping, Array, Array | int], tuple[State, Report]]
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

    def init(params, hparams):
        return State(params, transformation(hparams).init(params), jnp.int32(0), jnp.int32(-1))

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

    def train(state, hparams, tokens_BT):
        def grad_fn(params):
            return gradients(params, tokens_BT, twice)[1]

        nats, grads = gradients(state.params, tokens_BT)
        with jax.named_scope(UPDATE):
            updates, optimizer = transformation(hparams).update(
                grads, state.optimizer, state.params, value=nats, grad_fn=grad_fn
            )
        step = state.step + 1
        bad = divergence.diverged(nats, step, hparams["steps"], ceiling)
        first = jnp.where(bad & (state.diverged_at < 0), step, state.diverged_at)
        new = State(optax.apply_updates(state.params, updates), optimizer, step, first)
        return new, nats, norms("grad_norm", grads)  # before clipping

    def advance(state, hparams, block_KBT, steps):
        def body(i, carry):
            state, total, _ = carry
            new, nats, grad_norms = train(state, hparams, block_KBT[i].astype(jnp.int32))
            return new, total + nats, grad_norms

        kinds = jax.eval_shape(functools.partial(norms, "grad_norm"), state.params)
        start = (state, jnp.float32(0.0), jax.tree.map(lambda x: jnp.zeros((), x.dtype), kinds))
        state, total, grad_norms = jax.lax.fori_loop(0, steps, body, start)
        last = jnp.maximum(state.step - 1, 0)
        watched = {
            "learning_rate": learning_rate(last, hparams, spec.values["schedule"]),
            **grad_norms,
            **norms("param_norm", state.params),
        }
        return state, Report(total / jnp.maximum(steps, 1), state.diverged_at, watched)

    def evaluate(params, tokens_BT, weight_B):
        x_BTD, head_DV = model.apply({"params": params}, tokens_BT)
        sums = loss_lib.next_token(x_BTD, head_DV, tokens_BT, weight_B, chunks=chunks)
        return jnp.stack([sums.nats, sums.count])

    return Run(
        params=lambda seed: start(jax.random.key(seed)),
        init=init,
        advance=advance,
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
