"""One run as pure functions: fresh state, one training step, one evaluation. Both programs are
built of these.

The step never asks an optimizer's name: `optim.build` closes over the numbers it is given, traced
or not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

import optim
from lm import divergence
from lm import loss as loss_lib
from lm import model as model_lib
from optim.matrices import path_name
from optim.schedules import learning_rate


class State(NamedTuple):
    """All that training carries from step to step; every leaf an array."""

    params: Any
    optimizer: Any
    step: Array  # () int32, updates made
    diverged_at: Array  # () int32, the first diverged step, -1 while there is none


class Metrics(NamedTuple):
    """What a step reports, fp32 scalars."""

    train_loss: Array  # nats per token of the step's batch, before its update
    grad_norm: Array  # before clipping


class Run(NamedTuple):
    """`init(seed, hparams)`, `train(state, hparams, tokens_BT)`, `evaluate(params, tokens_BT)`,
    `watch(state, hparams)`.
    """

    init: Callable[[Array, Mapping], State]
    train: Callable[[State, Mapping, Array], tuple[State, Metrics]]
    evaluate: Callable[[Any, Array], Array]
    watch: Callable[[State, Mapping], dict]


def hyperparameters(config: Mapping) -> dict[str, float]:
    """The traced numbers of a finalised config, `steps` among them: what differs between runs of a
    pack.
    """
    given = config["optimizer"]
    known = optim.catalogue.get(given["name"]).hyperparameters
    return {k: given[k] for k in known if k in given} | {"steps": config["train"]["steps"]}


def build(config: Mapping) -> Run:
    """The run of a finalised config; only what `program_key` keeps is read from it."""
    given, train_config = config["optimizer"], config["train"]
    model = model_lib.build(config)
    known = optim.catalogue.get(given["name"])
    options = {k: v for k, v in given.items() if k in known.options}
    chunks, accumulate = config["program"]["loss_chunks"], config["program"]["accumulate"]
    ceiling = divergence.ceiling(config["model"]["vocab_size"])

    def transformation(hparams):
        return optim.build(
            given["name"], hparams, preset=given["preset"], roles=model_lib.role, **options
        )

    def init(seed, hparams):
        params = model_lib.init(model, jax.random.key(seed))
        return State(params, transformation(hparams).init(params), jnp.int32(0), jnp.int32(-1))

    def objective(params, tokens_BT):
        """Sums over a microbatch: nats and weighted z-loss; nats and count beside."""
        x_BTD, head_DV = model.apply({"params": params}, tokens_BT)
        sums = loss_lib.next_token(x_BTD, head_DV, tokens_BT, chunks=chunks)
        return sums.nats + train_config["z_loss"] * sums.z, (sums.nats, sums.count)

    def gradients(params, tokens_BT):
        """(mean nats, gradients of the mean objective), token-weighted over the microbatches."""
        grad = jax.grad(objective, has_aux=True)
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
            return gradients(params, tokens_BT)[1]

        nats, grads = gradients(state.params, tokens_BT)
        updates, optimizer = transformation(hparams).update(
            grads, state.optimizer, state.params, value=nats, grad_fn=grad_fn
        )
        step = state.step + 1
        bad = divergence.diverged(nats, step, hparams["steps"], ceiling)
        first = jnp.where(bad & (state.diverged_at < 0), step, state.diverged_at)
        new = State(optax.apply_updates(state.params, updates), optimizer, step, first)
        return new, Metrics(nats, optax.tree.norm(grads))

    def evaluate(params, tokens_BT):
        x_BTD, head_DV = model.apply({"params": params}, tokens_BT)
        sums = loss_lib.next_token(x_BTD, head_DV, tokens_BT, chunks=chunks)
        return jnp.stack([sums.nats, sums.count])

    def watch(state, hparams):
        """Slow numbers, once per logged line: the learning rate of the last update, and norms per
        role.
        """
        last = jnp.maximum(state.step - 1, 0)
        squares: dict[str, Array] = {}
        for path, leaf in jax.tree.leaves_with_path(state.params):
            kind = model_lib.role(path_name(path), leaf).kind
            squares[kind] = squares.get(kind, 0.0) + jnp.sum(jnp.square(leaf.astype(jnp.float32)))
        norms = {f"param_norm_{kind}": jnp.sqrt(value) for kind, value in squares.items()}
        return {
            "learning_rate": learning_rate(last, hparams, options["schedule"]),
            "param_norm": jnp.sqrt(sum(squares.values())),
            **norms,
        }

    return Run(init, train, evaluate, watch)
