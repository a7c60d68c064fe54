"""What a worker needs of a cluster, and the arithmetic of how often the cluster has it.

    CPU=4    GPU=1    GPU=8,hosts=4    GPU=8,sharded    slice=v5e-4x4    GPU=1,label.zone=a

Resources are per host. With `hosts` above one, or `sharded`, a run is spread over all devices of
its place and packs have one member; otherwise packs share a device. Pure functions on Ray's list
of nodes: Ray itself waits for ever, without a word, for what no node has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

SLICE, POD, RANK = "ray.io/tpu-slice-name", "ray.io/tpu-pod-type", "ray.io/tpu-worker-id"
GENERATIONS = {"v5e": "v5litepod", "tpu7x": "v7x"}  # where Ray's name differs


class Need(NamedTuple):
    """One place for one worker: `hosts` nodes with these resources and labels each."""

    each: Mapping[str, float]
    hosts: int = 1
    labels: Mapping[str, str] = {}
    sharded: bool = False
    topology: str = ""  # of a TPU slice, such as "v5e-4x4"

    def __str__(self) -> str:
        words = [f"{name}={amount:g}" for name, amount in self.each.items()]
        words += [f"{name}={value}" for name, value in self.labels.items()]
        where = f"slice {self.topology}: {self.hosts} hosts" if self.topology else ""
        where = where or ("one host" if self.hosts == 1 else f"{self.hosts} hosts")
        return f"{' '.join(words)} on {where}{' each' if self.hosts > 1 else ''}"


def parse(text: str) -> Need:
    """The need that `--resources` describes.

    Raises:
      ValueError: one line, naming the word.
    """
    each, labels, hosts, topology, sharded = {}, {}, 1, "", False
    for word in filter(None, text.replace(" ", "").split(",")):
        name, _, value = word.partition("=")
        if word == "sharded":
            sharded = True
        elif name == "slice":
            topology = value
        elif name.startswith("label."):
            labels[name.removeprefix("label.")] = value
        else:
            amount = _number(name, value)
            if name == "hosts":
                if amount != int(amount):
                    raise ValueError(f"--resources: hosts={value} must be a whole number")
                hosts = int(amount)
            else:
                each[name] = amount
    if topology:
        if hosts > 1:
            raise ValueError(f"--resources: slice={topology} says how many hosts it has")
        each, hosts, pod = slice_of(topology, each)
        labels[POD] = pod
    if not each:
        raise ValueError(f"--resources={text} names no resource; try CPU=1, GPU=1 or slice=v5e-4x4")
    return Need(each, hosts, labels, sharded or hosts > 1, topology)


def _number(name: str, value: str) -> float:
    try:
        amount = float(value)
    except ValueError:
        raise ValueError(f"--resources: {name}={value} must be a number") from None
    if not 0 < amount < float("inf"):
        raise ValueError(f"--resources: {name}={value} must be above 0")
    return amount


def slice_of(name: str, each: Mapping[str, float]) -> tuple[dict[str, float], int, str]:
    """Resources per host, hosts and pod type of a TPU slice such as "v5e-4x4"."""
    from ray.util import tpu

    generation, _, topology = name.partition("-")
    generation = GENERATIONS.get(generation, generation)
    try:
        hosts, bundle = tpu.get_tpu_worker_resources(topology, generation, dict(each) or None)
        pod = tpu.infer_tpu_pod_type_from_topology(topology, f"TPU-{generation.upper()}")
    except (ValueError, TypeError) as error:
        raise ValueError(f"--resources: slice={name}: {error}") from None
    if pod is None:
        raise ValueError(f"--resources: slice={name} must be GENERATION-TOPOLOGY, as in v5e-4x4")
    return dict(bundle), hosts, pod


def holds(node: Mapping, need: Need) -> int:
    """How many hosts' worth of a need one node has, whoever uses it now."""
    if not node["Alive"]:
        return 0
    has = node.get("Labels") or {}
    if any(has.get(name) != value for name, value in need.labels.items()):
        return 0
    return int(min((node["Resources"].get(k, 0) + 1e-9) // v for k, v in need.each.items()))


def slices(nodes: Sequence[Mapping], need: Need) -> dict[str, list[Mapping]]:
    """The whole TPU slices that satisfy a need of several hosts, by name, in worker order."""
    found: dict[str, list] = {}
    for node in nodes:
        if holds(node, need) and (name := node["Labels"].get(SLICE)):
            found.setdefault(name, []).append(node)
    whole = {name: group for name, group in found.items() if len(group) == need.hosts}
    return {n: sorted(g, key=lambda x: int(x["Labels"].get(RANK, 0))) for n, g in whole.items()}


def places(nodes: Sequence[Mapping], need: Need) -> int:
    """How many workers fit on the nodes at once; the hosts of one place are different nodes."""
    counts = [holds(node, need) for node in nodes]
    if need.hosts == 1:
        return sum(counts)
    if need.topology:
        return len(slices(nodes, need))
    most = sum(counts) // need.hosts
    while sum(min(count, most) for count in counts) < most * need.hosts:
        most -= 1
    return most


def explain(nodes: Sequence[Mapping], need: Need) -> str:
    """Why nodes have no place for a need: what is asked for, and what there is."""
    asked = {*need.each, "CPU", "GPU", "TPU"}
    kinds = Counter()
    for node in nodes:
        if node["Alive"]:
            has = [f"{k}={v:g}" for k, v in sorted(node["Resources"].items()) if k in asked]
            has += [f"{k}={v}" for k, v in (node.get("Labels") or {}).items() if k in need.labels]
            kinds[" ".join(has) or "nothing of that"] += 1
    there = ", ".join(f"{count} x ({what})" for what, count in sorted(kinds.items()))
    enough = sum(holds(node, need) > 0 for node in nodes)
    return (
        f"a worker needs {need}; {enough} of {sum(kinds.values())} nodes "
        f"{'has' if enough == 1 else 'have'} that; the nodes: {there or 'none'}"
    )
