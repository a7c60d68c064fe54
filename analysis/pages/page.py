"""The parts of a self-contained page: tables, figures, the shell with style, script, data."""

import html
import json
import math
from importlib.resources import files

from analysis.pages import looks
from analysis.pages.svg import Figure
from analysis.pages.view import Number
from analysis.runs.names import CELL, label

POLICY = (  # no request leaves the file
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"
)


class Raw(str):
    """HTML that is not escaped again."""


def text(value) -> str:
    """Any value as escaped text; HTML made here stays as it is."""
    return str(value) if isinstance(value, Raw) else html.escape(str(value))


def paragraph(value, css="") -> Raw:
    return Raw(f'<p class="{css}">{text(value)}</p>' if css else f"<p>{text(value)}</p>")


def bullets(values, css="") -> Raw:
    items = "".join(f"<li>{text(value)}</li>" for value in values)
    return Raw(f'<ul class="{css}">{items}</ul>' if items else "")


def details(summary, body) -> Raw:
    """A folded part; nothing where there is no body."""
    return Raw(f"<details><summary>{text(summary)}</summary>{body}</details>" if body else "")


def table(heads: list[str], rows: list[tuple[dict, list]], *, search=False, css="") -> Raw:
    """A table that sorts by its headings; columns without content are left out.

    Args:
      rows: (data attributes such as o, s, r; cells). A cell is text, a `Number`, HTML or None.
      search: put a field above it that filters rows by words.
    """
    kept = [i for i in range(len(heads)) if any(_content(cells[i]) for _, cells in rows)]
    numeric = {i for i in kept if all(isinstance(c[i], Number | None) for _, c in rows)}
    head = "".join(heading(heads[i], i in numeric) for i in kept)
    body = "".join(
        f"<tr{_data(where)}>{''.join(_cell(cells[i]) for i in kept)}</tr>" for where, cells in rows
    )
    field = (
        '<input data-filter data-script hidden placeholder="filter rows" aria-label="filter rows">'
    )
    return Raw(
        f'<div class="table">{field if search else ""}<div class="scroll"><table class="{css}">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></div>"
    )


def heading(words, numeric=False) -> Raw:
    """The head of a column, which sorts by it."""
    button = f'<button type="button">{text(words)}</button>'
    return Raw(f'<th scope="col"{_css(numeric)}>{button}</th>')


def _content(cell) -> bool:
    known = not isinstance(cell, float | Number) or math.isfinite(getattr(cell, "value", cell))
    return known and cell not in (None, "")


def _css(numeric) -> str:
    return ' class="n"' if numeric else ""


def _data(where) -> str:
    return "".join(
        f' data-{k}="{text(f"{v:g}" if isinstance(v, float) else v)}"' for k, v in where.items()
    )


def _cell(cell) -> str:
    if isinstance(cell, Number):
        return f'<td class="n" data-v="{cell.value:.9g}" title="{text(cell.tip)}">{text(cell)}</td>'
    wide = ' class="wide"' if cell and len(cell) > 60 else ""
    return f"<td{wide}>{text('' if cell is None else cell)}</td>"


def number(value) -> str:
    """Four significant digits; integers in full; nothing for missing."""
    if not math.isfinite(value):
        return "" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e7 else f"{value:.4g}"


def where(cell) -> dict:
    """The data attributes by which toggles find a row of a cell."""
    return dict(zip("osr", (cell[name] for name in CELL), strict=True))


def names(cell) -> list:
    """Size, budget and optimizer as the first cells of a row."""
    return [cell["model_size"], f"{cell['chinchilla_ratio']:g}×", label(cell["optimizer"])]


def setting(run, columns) -> str:
    """The hyper-parameters of a run (a mapping) that it has, by name."""
    told = {name.removeprefix("hp_").replace("_", " "): run[name] for name in columns}
    return ", ".join(f"{name} {number(value) if isinstance(value, float | int) else value}"
                     for name, value in told.items() if _content(value))  # fmt: skip


def filters(optimizers, sizes, ratios) -> Raw:
    """The bar of toggles, which is the legend too. A double click leaves one alone."""
    groups = []
    for key, values in (("o", optimizers), ("s", sizes), ("r", ratios)):
        buttons = []
        for value, words in values.items():
            icon = ""
            if key == "o":
                icon = (
                    f'<svg viewBox="0 0 14 14" aria-hidden="true">{looks.marker(value, 7, 7)}</svg>'
                )
            value = f"{value:g}" if isinstance(value, float) else value
            name = f'data-key="{key}" data-value="{text(value)}"'
            buttons.append(
                f'<button type="button" aria-pressed="true" {name}>{icon}{text(words)}</button>'
            )
        groups.append("".join(buttons) if len(buttons) > 1 or key == "o" else "")
    bar = "<span></span>".join(group for group in groups if group)
    return Raw(f'<div class="filters" role="group" aria-label="show or hide">{bar}</div>')


def figure(drawn: Figure) -> Raw:
    """A figure with its caption and downloads."""
    panels = "".join(
        panel.svg(f'role="img" aria-label="{name}" style="width:{panel.width}px"')
        for panel, name in ((p, text(f"{drawn.name} {p.title}".strip())) for p in drawn.panels)
    )
    tools = "".join(
        f'<button type="button" data-{kind}="{drawn.name}">{kind.upper()}</button>'
        for kind in ("svg", "csv")
    )
    tools = f'<div class="tools" data-script hidden>{tools}<span>table {drawn.hash}</span></div>'
    caption = f"<figcaption>{text(drawn.caption)}</figcaption>"
    return Raw(
        f'<figure id="{drawn.name}">{caption}<div class="panels">{panels}</div>{tools}</figure>'
    )


def page(title: str, sections: list[tuple[str, str]], data: dict, *, head="") -> str:
    """A whole page from (heading, HTML) pairs; a section without content is left out.

    Args:
      data: what the script reads: csv, pairs, speed, cost.
      head: HTML above the first section.
    """
    sections = [(heading, body) for heading, body in sections if body]
    links = "".join(f'<a href="#{slug(name)}">{text(name)}</a>' for name, _ in sections)
    parts = "".join(
        f'<section id="{slug(name)}"><h2>{text(name)}</h2>{body}</section>'
        for name, body in sections
    )
    style = (files(__package__) / "page.css").read_text(encoding="utf-8")
    script = (files(__package__) / "page.js").read_text(encoding="utf-8")
    packed = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    packed = packed.replace("<", "\\u003c")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<title>{text(title)}</title><style id="looks">{looks.css()}</style><style>{style}</style>'
        f"</head>\n<body><header>{head}<nav>{links}</nav></header>\n<main>{parts}</main>\n"
        f'<script type="application/json" id="data">{packed}</script>\n<script>{script}</script>'
        "\n</body></html>\n"
    )


def slug(heading: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in heading.lower()).strip("-")
