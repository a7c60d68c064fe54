"""Panels, axes and legends shared by all figures."""

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from analysis.pages import style


def panels(table, keys, *, source=None, title="{}", per_row=4):
    """A figure of one panel per key and a dict key -> Axes. An empty table raises ValueError."""
    keys = list(keys)
    if table.empty or not keys:
        raise ValueError("nothing to draw, the table has no rows for it")
    columns = min(len(keys), per_row)
    rows = -(-len(keys) // columns)
    width = min(3.4 * columns + 0.6, 12.5) if columns > 1 else 5.6
    fig = style.figure(table if source is None else source, width=width, height=3.3 * rows + 0.5)
    grid = list(fig.subplots(rows, columns, squeeze=False).flat)
    axes = dict(zip(keys, grid, strict=False))
    for axis in grid[len(keys) :]:
        axis.remove()
    for key, axis in axes.items():
        axis.set_title(title.format(key))
    return fig, axes


def ratio_axis(axis, ratios):
    """Logarithmic ratios with a tick at every ratio that was run."""
    ticks = sorted(set(ratios))
    axis.set_xscale("log", base=2)
    axis.set_xticks(ticks, [f"{tick:g}×" for tick in ticks])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("Chinchilla ratio (tokens / 20 parameters)")


def size_axis(axis, table):
    """Logarithmic parameter counts with each size's name as tick."""
    sizes = table.drop_duplicates("model_size")
    axis.set_xscale("log")
    axis.set_xticks(list(sizes["non_embedding_params"]), list(sizes["model_size"]))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("model size (non-embedding parameters)")
    axis.set_xlim(
        sizes["non_embedding_params"].min() / 1.4, sizes["non_embedding_params"].max() * 1.4
    )


def shared_legend(fig, axes):
    """One legend outside the panels, so that it never covers data: below, or above tall figures."""
    entries = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    if not entries:
        return
    width, height = fig.get_size_inches()
    letters = max(len(label) for label in entries)
    columns = max(1, min(len(entries), 6, int(width / (0.65 + 0.075 * letters))))
    place = "outside upper center" if height > 8 else "outside lower center"
    fig.legend(entries.values(), entries.keys(), loc=place, ncols=columns)


def size_title(at_size) -> str:
    """`130m (134M parameters)`, or the name alone where the table has no counts."""
    size = at_size["model_size"].iloc[0]
    if "non_embedding_params" not in at_size:
        return size
    return f"{size} ({short(at_size['non_embedding_params'].iloc[0])} parameters)"


def log_axis(axes, which="x"):
    """A logarithmic axis with short plain numbers, few enough not to collide; call it after
    drawing."""
    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    low, high = sorted(getattr(axes, f"get_{which}lim")())
    steps = (1.0, 2.0, 5.0) if high < 30 * low else (1.0, 3.0) if high < 300 * low else (1.0,)
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_minor_locator(NullLocator())
    plain_numbers(axis)


def plain_numbers(axis):
    """1,000,000 as 1M: short tick labels for tokens and FLOPs."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def short(value: float) -> str:
    """1.5e9 as 1.5B; as 3 significant digits below a thousand or above 1e15."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if size <= abs(value) < 1e15:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
