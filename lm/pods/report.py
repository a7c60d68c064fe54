"""What the pre-flight says of a step, in lines."""

from __future__ import annotations

from lm.pods.flight import Flight


def report(flight: Flight, remat: str, flags: str = "") -> str:
    """The answer in lines: fits or not, where memory and time go, what to change.

    `flags` to train so; the mesh's if none.
    """
    gib, usual = 2**30, sum(flight.collectives.values())
    axes = flight.mesh.items()
    moved = ", ".join(f"{k} {v / 1e6:,.0f} MB" for k, v in flight.collectives.items()) or "nothing"
    if flight.refresh_bytes > usual:
        moved += f"; {flight.refresh_bytes / 1e6:,.0f} MB where preconditioners are refreshed"
    share = f"{flight.update_flops / (flight.update_flops + flight.model_flops):.2%} of the step"
    if flight.replication:
        share += f"; over all chips its products are made {flight.replication:.2f} times"
    lines = [
        f"{flight.run} on {flight.topology} ({flight.chips} chips, "
        f"{' x '.join(f'{k}={v}' for k, v in axes)}): {'fits' if flight.fits else 'DOES NOT FIT'}, "
        f"{flight.total_bytes / gib:.2f} of {flight.hbm_bytes / gib:.1f} GiB a chip",
        f"  memory a chip: parameters {flight.params_bytes / gib:.3f} GiB, optimizer "
        f"{flight.state_bytes / gib:.3f} ({flight.state_copies:.2f} copies over all chips), "
        f"temporary (activations, gradients) {flight.temporary_bytes / gib:.3f}",
        f"  FLOPs a chip and step: model {flight.model_flops:.3g}, update "
        f"{flight.update_flops:.3g} ({share})",
        f"  collectives a chip and step: {moved}",
        f"  roofline: compute {1e3 * flight.compute_seconds:.1f} ms (peak bf16, with what "
        f"remat={remat} makes again), memory {1e3 * flight.memory_seconds:.1f} ms (all that "
        f"is held read and written once), network {1e3 * flight.network_seconds:.1f} ms (all "
        f"links, nothing hidden): MFU at most {flight.mfu_bound:.0%}",
        *estimate(flight),
        f"  compiled in {flight.compile_seconds:.0f} s",
    ]
    if "*" in flight.topology:
        lines.append(SLICES)
    if "data" in flight.mesh:  # a pack takes what chips it finds
        own = " ".join(f"--config.mesh.{axis}={size}" for axis, size in axes)
        lines.append(f"  to train so: {flags or own}")
    if not flight.fits:
        lines.append(TO_FIT)
    elif remat != "none" and flight.total_bytes < 0.5 * flight.hbm_bytes:
        lines.append(FASTER)
    return "\n".join(lines)


def estimate(flight: Flight) -> list[str]:
    """The compiler's own time, in lines."""
    total = sum(flight.estimate.values())
    notes = [f"  note: {note}" for note in flight.estimate_notes]
    if not total:
        return notes
    parts = ", ".join(f"{part} {ms:.1f}" for part, ms in flight.estimate.items())
    refresh = ""
    if flight.estimate_refresh > 1.01 * total:
        refresh = f"; {flight.estimate_refresh:.1f} ms where preconditioners are refreshed"
    return [
        f"  compiler's estimate: {total:.1f} ms ({parts}), MFU {flight.mfu_estimate:.0%}{refresh}; "
        "its cycles for every operation and the bundles of attention's kernels, without "
        "collectives and waiting",
        *notes,
    ]


SLICES = (
    "  what crosses slices goes through the data centre's network: the time above is that of the "
    "slices' own links"
)
FASTER = "  there is room: --config.program.remat=dots or none makes less again; --tune compares"
TO_FIT = (
    "  to fit: --config.program.accumulate=2 (or more), --config.program.remat=block, "
    "--config.program.loss_chunks=32, or a larger topology"
)
