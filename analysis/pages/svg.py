"""Pictures as SVG: scales, panels of axes and marks, figures that know their tables."""

import contextlib
import dataclasses
import hashlib
import html
import math
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.pages import looks
from analysis.runs.names import label

UNITS = (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3))


def short(value: float) -> str:
    """1.5e9 as 1.5B; 3 significant digits below a thousand or above 1e15."""
    for unit, size in UNITS:
        if size <= abs(value) < 1e15:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


class Scale:
    """Values to the unit interval, linear or logarithmic, with ticks.

    Args:
      values: what must be seen; those that are not finite (or not positive, if `log`) are ignored.
      ticks: {value: label}, chosen where None.
      pad: share of the range left free at both ends.

    Raises:
      ValueError: there is no value to show.
    """

    def __init__(self, values, *, log=False, ticks=None, pad=0.06):
        values = np.asarray([v for v in values if v is not None], float)
        values = values[np.isfinite(values) & ((values > 0) | (not log))]
        if not len(values):
            raise ValueError("nothing to draw, the table has no rows for it")
        self.log = log
        ends = np.array([values.min(), values.max()])
        ends = np.log(ends) if log else ends
        room = (ends[1] - ends[0]) * pad or 0.5 * (0.2 if log else abs(ends[0]) or 1.0)
        self.low, self.high = ends[0] - room, ends[1] + room
        self.ticks = self._ticks() if ticks is None else ticks

    def __call__(self, value) -> float:
        """Where a value lies; ends that are open or outside are held at the margin."""
        if self.log:
            value = math.log(value) if value > 0 else -math.inf
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)

    def holds(self, value) -> bool:
        """Whether a value lies within the axis."""
        if not np.isfinite(value) or (self.log and value <= 0):
            return False
        return self.low <= (math.log(value) if self.log else value) <= self.high

    def _ticks(self):
        if self.log:
            low, high = math.exp(self.low), math.exp(self.high)
            steps = (1, 2, 5) if high < 40 * low else (1, 3) if high < 500 * low else (1,)
            decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            values = [step * 10.0**d for d in decades for step in steps]
            values = [v for v in values if low <= v <= high] or [math.sqrt(low * high)]
            return {v: short(v) for v in values}
        step = 10.0 ** math.floor(math.log10((self.high - self.low) / 4))
        step *= next(k for k in (1, 2, 2.5, 5, 10) if (self.high - self.low) / (k * step) <= 5.5)
        places = next(p for p in range(16) if abs(step * 10**p - round(step * 10**p)) < 1e-6)
        first = math.ceil(self.low / step - 1e-9)
        count = int((self.high - first * step) / step + 1e-9) + 1
        values = [round((first + i) * step, 12) for i in range(count)]
        return {v: f"{v:,.{places}f}" if abs(v) < 1e5 else short(v) for v in values}


class Panel:
    """One pair of axes. Coordinates of marks are in units of the data.

    Args:
      where: `data-*` attributes by which the page hides it: size, ratio.
    """

    def __init__(self, title, x, y, *, width=330, height=230, left=54, top=22, bottom=36, right=14,
                 x_title="", y_title="", **where):  # fmt: skip
        self.title, self.x, self.y = title, x, y
        self.width, self.height, self.where = width, height, where
        self.box = (left, top, width - right, height - bottom)
        self.parts = []
        self._frame(x_title, y_title)

    def px(self, value) -> float:
        return self.box[0] + self.x(value) * (self.box[2] - self.box[0])

    def py(self, value) -> float:
        return self.box[3] - self.y(value) * (self.box[3] - self.box[1])

    def _frame(self, x_title, y_title):
        left, top, right, bottom = self.box
        if self.title:
            self.text(left, 13, self.title, "strong")
        for value, words in self.x.ticks.items():
            at = self.px(value)
            self.segment(at, top, at, bottom, "grid")
            if words:
                self.text(at, bottom + 14, words, "soft mid")
        for value, words in self.y.ticks.items():
            at = self.py(value)
            if words:
                self.segment(left, at, right, at, "grid")
                self.text(left - 5, at + 4, words, "soft end")
        self.text((left + right) / 2, bottom + 29, x_title, "soft mid")
        if y_title:
            at = f'transform="rotate(-90 11 {(top + bottom) / 2:.1f})"'
            self.text(11, (top + bottom) / 2, y_title, "soft mid", at)

    def text(self, x, y, words, css="", extra=""):
        if words:
            words = html.escape(str(words))
            self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" {extra}>{words}</text>')

    def segment(self, x1, y1, x2, y2, css, extra=""):
        place = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
        self.parts.append(f'<line {place} class="{css}" {extra}/>')

    def vertical(self, value, css="zero"):
        self.segment(self.px(value), self.box[1], self.px(value), self.box[3], css)

    def horizontal(self, value, css="zero"):
        self.segment(self.box[0], self.py(value), self.box[2], self.py(value), css)

    def rectangle(self, x, y, width, height, css, tip=""):
        place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
        tip = f"<title>{html.escape(tip)}</title>" if tip else ""
        self.parts.append(f'<rect {place} class="{css}">{tip}</rect>')

    def line(self, xs, ys, css="line", dashes=""):
        """A line through the points; it breaks where one is missing or out of the panel."""
        steps, pen = [], "M"
        for x, y in zip(xs, ys, strict=True):
            if not (np.isfinite(x) and np.isfinite(y)) or y > self._top():
                pen = "M"
                continue
            steps.append(f"{pen}{self.px(x):.1f} {self.py(y):.1f}")
            pen = "L"
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        self.parts.append(f'<path d="{"".join(steps)}" class="{css}"{dashed}/>')

    def _top(self):
        return math.exp(self.y.high) if self.y.log else self.y.high

    def band(self, xs, lows, highs):
        points = [*zip(xs, lows, strict=True), *reversed([*zip(xs, highs, strict=True)])]
        points = " ".join(f"{self.px(x):.1f},{self.py(y):.1f}" for x, y in points)
        self.parts.append(f'<polygon points="{points}" class="area"/>')

    def whisker(self, x, low, high, css="thin", *, across=False):
        """An interval at x (or, `across`, at y); an end that is open, or lies beyond the panel,
        runs into an arrow."""
        low, high = (-np.inf if np.isnan(low) else low), (np.inf if np.isnan(high) else high)
        axis = self.x if across else self.y
        open_low, open_high = not axis.holds(low), not axis.holds(high)
        if across:
            at, a, b = self.py(x), self.px(low), self.px(high)
            self.segment(a, at, b, at, css)
            for end, opened, way in ((a, open_low, 1), (b, open_high, -1)):
                if opened:
                    self.segment(end, at, end + 5 * way, at - 4, css)
                    self.segment(end, at, end + 5 * way, at + 4, css)
            return
        at, a, b = self.px(x), self.py(low), self.py(high)
        self.segment(at, a, at, b, css)
        for end, opened, way in ((a, open_low, -1), (b, open_high, 1)):
            if opened:
                self.segment(at, end, at - 4, end + 5 * way, css)
                self.segment(at, end, at + 4, end + 5 * way, css)

    def marker(self, optimizer, x, y, tip="", *, hollow=False, radius=4.2):
        tip = html.escape(tip)
        at = (self.px(x), self.py(y))
        self.parts.append(looks.marker(optimizer, *at, tip=tip, hollow=hollow, radius=radius))

    def dot(self, x, y, tip=""):
        place = f'cx="{self.px(x):.1f}" cy="{self.py(y):.1f}" r="2.5"'
        title = f"<title>{html.escape(tip)}</title>" if tip else ""
        self.parts.append(f'<circle {place} class="bar">{title}</circle>')

    def ring(self, x, y, tip):
        place = f'cx="{self.px(x):.1f}" cy="{self.py(y):.1f}" r="8"'
        tip = html.escape(tip)
        self.parts.append(f'<circle {place} class="ring"><title>{tip}</title></circle>')

    def of(self, optimizer):
        """Context: what is drawn inside belongs to an optimizer, has its hue, and can be hidden."""
        return self.coloured(looks.look(optimizer)[0], f' data-o="{html.escape(optimizer)}"')

    @contextlib.contextmanager
    def coloured(self, hue, extra=""):
        """Context: what is drawn inside has a hue of `looks.HUES`."""
        self.parts.append(f'<g class="{hue}"{extra}>')
        yield
        self.parts.append("</g>")

    def svg(self, place="") -> str:
        where = "".join(
            f' data-{k}="{html.escape(f"{v:g}" if isinstance(v, float) else str(v))}"'
            for k, v in self.where.items()
        )
        size = f'viewBox="0 0 {self.width} {self.height}" {place}{where}'
        return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{"".join(self.parts)}</svg>'


@dataclasses.dataclass
class Figure:
    """Panels with a caption and the table they were drawn from."""

    name: str
    caption: str
    table: pd.DataFrame
    panels: list[Panel]
    optimizers: list[str] = dataclasses.field(default_factory=list)  # in the legend

    @property
    def csv(self) -> str:
        return self.table.to_csv(index=False, lineterminator="\n", float_format="%.7g")

    @property
    def hash(self) -> str:
        """Twelve hex digits of the SHA-256 of `csv`."""
        return hashlib.sha256(self.csv.encode()).hexdigest()[:12]

    def save(self, stem, *, data=True) -> None:
        """Write `stem`.svg and (`data`) the table behind it as `stem`.csv."""
        Path(f"{stem}.svg").write_text(self.svg(), encoding="utf-8")
        if data:
            Path(f"{stem}.csv").write_text(self.csv, encoding="utf-8")

    def svg(self, per_row=3) -> str:
        """One self-contained picture: panels in rows, a legend, the hash of the table."""
        wide, x, y, row = [], 0, 0, 0
        for number, panel in enumerate(self.panels):
            if number and number % per_row == 0:
                x, y, row = 0, y + row, 0
            place = f'x="{x}" y="{y}" width="{panel.width}" height="{panel.height}"'
            wide.append(panel.svg(place))
            x, row = x + panel.width, max(row, panel.height)
        width = max(sum(p.width for p in self.panels[:per_row]), 330)
        parts, x, y = wide, 8, y + row + 14
        for name in self.optimizers:
            words = html.escape(label(name))
            if x + 24 + 7 * len(words) > width:
                x, y = 8, y + 18
            parts.append(looks.marker(name, x + 6, y))
            parts.append(f'<text x="{x + 16}" y="{y + 4}">{words}</text>')
            x += 30 + 7 * len(words)
        y += 16
        parts.append(f'<text x="{width - 4}" y="{y}" class="soft end">table {self.hash}</text>')
        ground = f'<rect width="{width}" height="{y + 8}" fill="var(--ground)"/>'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y + 8}" width="{width}"'
            f' height="{y + 8}" role="img"><title>{html.escape(self.caption)}</title>'
            f"<style>{looks.css()}</style>{ground}{''.join(parts)}</svg>\n"
        )

    def _repr_svg_(self) -> str:
        return self.svg()
