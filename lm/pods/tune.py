"""The fastest way to run a config on a topology, by what the compiler says of each way.

A way is a mesh, what is made again in the backward pass, into how many microbatches a batch is
accumulated, and into how many chunks the loss goes. One after the other is varied and the best
kept, which takes about ten compilations. The tiles of attention are not among them: 1,024 was
found to be best (`lm.model.attention`), and only its kernels' time is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

from lm.config import ConfigError
from lm.pods import flight

Way = dict[str, int | str]  # field, as in `program.remat` -> value

REMAT = ("none", "dots", "block")
MOST_MODEL = 16  # chips that one matrix is cut for
MICROBATCHES = (1, 2, 4)


def tune(
    config: Mapping,
    topology: str,
    run: str = "",
    *,
    log: Callable[[str], None] = print,
    check: Callable[..., flight.Flight] = flight.check,
) -> tuple[Way, flight.Flight]:
    """The fastest way that fits, and what the compiler says of all its parts.

    Raises:
      ConfigError: no way fits.
    """
    tried: dict[tuple, float] = {}

    def cost(way: Way) -> float:
        key = tuple(way.items())
        if key not in tried:
            try:
                found = check(applied(config, way), topology, run, alone=True)
                tried[key] = milliseconds(found) if found.fits else math.inf
                words = f"{tried[key]:.1f} ms" if found.fits else "does not fit"
                words += f", {found.total_bytes / 2**30:.2f} GiB a chip"
            except (ConfigError, flight.TooLarge) as error:
                tried[key], words = math.inf, str(error)
            log(f"{flags(way)}: {words}")
        return tried[key]

    best = start(config, topology)
    for vary in (meshes, remats, microbatches, chunks):
        best = min((best, *vary(config, best)), key=cost)
    while math.isfinite(cost(best)):
        found = check(applied(config, best), topology, run)  # start and evaluation, too
        if found.fits:
            return best, found
        tried[tuple(best.items())] = math.inf
        best = min((dict(key) for key in tried), key=cost)
    raise ConfigError(f"no way to run {run} on {topology} was found: it needs a larger topology")


def milliseconds(found: flight.Flight) -> float:
    """Of a step: the compiler's estimate, or where it makes none the roofline, and beside it all of
    the network's time, as if nothing were hidden."""
    roofline = 1e3 * max(found.compute_seconds, found.memory_seconds)
    return (sum(found.estimate.values()) or roofline) + 1e3 * found.network_seconds


def applied(config: Mapping, way: Way) -> dict:
    out = {name: dict(section) for name, section in config.items()}
    for field, value in way.items():
        section, _, name = field.partition(".")
        out[section][name] = value
    return out


def flags(way: Way) -> str:
    return " ".join(f"--config.{field}={value}" for field, value in way.items())


def start(config: Mapping, topology: str) -> Way:
    """The config's own way, on the mesh that it gets there."""
    shape = flight.shape(config, topology)
    program = {f"program.{k}": config["program"][k] for k in ("remat", "accumulate", "loss_chunks")}
    return {f"mesh.{axis}": size for axis, size in shape.items()} | program


def meshes(config: Mapping, way: Way) -> Iterator[Way]:
    chips = way["mesh.data"] * way["mesh.model"]
    batch, heads = config["train"]["batch_size"] // way["program.accumulate"], config["model"]
    for model in (2**i for i in range(MOST_MODEL.bit_length())):
        data = chips // model
        whole = chips % model == 0 and batch % data == 0
        if whole and heads["heads"] % model == 0 and heads["mlp"] % model == 0:
            yield way | {"mesh.data": data, "mesh.model": model}


def remats(config: Mapping, way: Way) -> Iterator[Way]:
    del config
    yield from (way | {"program.remat": remat} for remat in REMAT)


def microbatches(config: Mapping, way: Way) -> Iterator[Way]:
    rows = config["train"]["batch_size"] // way["mesh.data"]
    yield from (way | {"program.accumulate": n} for n in MICROBATCHES if rows % n == 0)


def chunks(config: Mapping, way: Way) -> Iterator[Way]:
    """The loss's own choice, half as many chunks and twice as many."""
    own = flight.chunks(applied(config, way), {k: way[f"mesh.{k}"] for k in ("data", "model")})
    T = config["model"]["sequence_length"]
    for n in (own // 2, 2 * own):
        if n and T % n == 0:
            yield way | {"program.loss_chunks": n}
