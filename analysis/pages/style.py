"""One look for every figure: a colour, a marker and a line per optimizer; the data's hash.

Colours are Okabe and Ito's eight and three of Tol's muted set, told apart by colour-blind readers;
filled markers and solid lines are matrix methods, open markers and broken lines are scalar ones, so
that the families stay apart in grey print too.
"""

import functools
import hashlib
import io
import zlib
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from analysis.runs.names import label

# name: (colour, marker, line)
OPTIMIZERS = {
    "adamw": ("#000000", "o", "-"),
    "nadamw": ("#56b4e9", "s", "--"),
    "cautious": ("#999933", "^", "--"),
    "mars": ("#009e73", "v", "--"),
    "lion": ("#e69f00", "P", "--"),
    "adam_mini": ("#777777", "X", ":"),
    "muon": ("#d55e00", "D", "-"),
    "scion": ("#cc79a7", "p", "-"),
    "kron": ("#0072b2", "h", "-"),
    "soap": ("#882255", "*", "-"),
    "sophia": ("#44aa99", "<", "-."),
}
MATRIX = ("muon", "scion", "kron", "soap")
_STRANGERS = ("#332288", "#117733", "#aa4499", "#661100", "#6699cc")
_STRANGER_MARKERS = (">", "d", "H", "8", "1")

RC = {
    "figure.dpi": 100,
    "savefig.dpi": 110,
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.5,
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 2.6,
    "svg.hashsalt": "bestiary",  # element ids depend on the drawing alone
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same picture on every machine
    "axes.unicode_minus": True,
}


def of(optimizer: str) -> dict:
    """Keyword arguments for `Axes.plot`; an optimizer not in the catalogue gets a look of its own,
    always the same for the same name."""
    if optimizer in OPTIMIZERS:
        colour, marker, line = OPTIMIZERS[optimizer]
    else:
        number = zlib.crc32(optimizer.encode()) % len(_STRANGERS)
        colour, marker, line = _STRANGERS[number], _STRANGER_MARKERS[number], "-"
    filled = line == "-"
    return {
        "color": colour,
        "marker": marker,
        "linestyle": line,
        "label": label(optimizer),
        "markerfacecolor": colour if filled else "white",
        "markeredgecolor": colour,
    }


def line(optimizer: str) -> dict:
    """As `of`, for curves of many points: few and small markers, for readers without colour."""
    names = list(OPTIMIZERS)
    place = names.index(optimizer) if optimizer in names else len(names)
    spacing = 0.16  # of the panel's diagonal
    return of(optimizer) | {
        "markevery": (spacing * place / (len(names) + 1), spacing),
        "markersize": 4,
    }


def table_hash(table: pd.DataFrame) -> str:
    """Twelve hex digits of the SHA-256 of the table's CSV: floats in full, rows in their order."""
    return hashlib.sha256(table_bytes(table)).hexdigest()[:12]


def table_bytes(table: pd.DataFrame) -> bytes:
    """The CSV that a figure's hash is taken of."""
    return table.to_csv(index=False, lineterminator="\n").encode()


class TableFigure(Figure):
    """A figure that knows the table it was drawn from, and shows itself in a notebook."""

    def __init__(self, table: pd.DataFrame, **options):
        super().__init__(**options)
        self.table, self.table_hash = table, table_hash(table)

    def _repr_png_(self) -> bytes:
        return render(self, "png")


def figure(table: pd.DataFrame, *, width: float = 7.2, height: float = 4.0) -> TableFigure:
    """A new figure in the house style, inches, with the hash of its table in the corner."""
    with matplotlib.rc_context(RC):
        fig = TableFigure(table, figsize=(width, height), layout="constrained")
    foot = 0.12 / height  # the hash has a line of its own
    fig.get_layout_engine().set(rect=(0, foot, 1, 1 - foot))
    mark = {"ha": "right", "va": "bottom", "fontsize": 5.5, "color": "#888888"}
    fig.text(0.998, 0.002, f"table {fig.table_hash}", **mark).set_in_layout(False)
    return fig


def styled(draw):
    """Decorator: run a figure function under the house style."""

    @functools.wraps(draw)
    def wrapper(*args, **kwargs):
        with matplotlib.rc_context(RC):
            return draw(*args, **kwargs)

    return wrapper


def render(fig: TableFigure, kind: str, *, dpi: float = RC["savefig.dpi"]) -> bytes:
    """The picture as `svg` or `png` bytes: always the same bytes for the same table."""
    note = f"Bestiary, table {fig.table_hash}"
    metadata = {
        "svg": {"Date": None, "Creator": "Bestiary", "Description": note},
        "png": {"Software": "Bestiary", "Description": note},
    }
    buffer = io.BytesIO()
    with matplotlib.rc_context(RC):
        if fig.get_layout_engine() is not None:
            fig.draw_without_rendering()
            fig.set_layout_engine("none")  # laid out once, the same in every format
        fig.savefig(buffer, format=kind, metadata=metadata[kind], dpi=dpi)
    return buffer.getvalue()


def render_small(fig: TableFigure) -> bytes:
    """A PNG of 64 colours at 75 dots per inch: a fifth of the SVG's size, for pages in a
    repository."""
    image = Image.open(io.BytesIO(render(fig, "png", dpi=75))).convert("RGB")
    buffer = io.BytesIO()
    image.quantize(64, dither=Image.Dither.NONE).save(buffer, "png", optimize=True)
    return buffer.getvalue()


def save(fig: TableFigure, stem) -> None:
    """Write `stem`.svg, `stem`.png and the table behind them as `stem`.csv.

    The hash in the picture's corner begins the SHA-256 of that CSV.
    """
    for kind in ("svg", "png"):
        Path(f"{stem}.{kind}").write_bytes(render(fig, kind))
    Path(f"{stem}.csv").write_bytes(table_bytes(fig.table))
