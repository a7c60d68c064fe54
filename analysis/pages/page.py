"""The parts of a self-contained HTML page: no script, no external resource, pictures embedded."""

import base64
import html
import math

import pandas as pd

CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 1080px; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2 { font-size: 1.25rem; margin-top: 2.4rem;
     border-bottom: 1px solid #ddd; padding-bottom: .2rem; } h3 { font-size: 1.02rem; }
figure { margin: 1.2rem 0; } figure img { max-width: 100%; height: auto; }
figcaption, .note { color: #555; font-size: .88rem; max-width: 56rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .86rem; }
th, td { padding: .2rem .6rem; text-align: right; white-space: nowrap; }
th { border-bottom: 1px solid #999; font-weight: 600; } td.text, th.text { text-align: left; }
tr.rule td { border-top: 1px solid #ddd; } td.wide { white-space: normal; min-width: 22rem; }
summary { cursor: pointer; color: #0b5cad; font-size: .9rem; margin: .6rem 0; }
.verdict { border-left: 4px solid #d55e00; padding: .1rem 1rem; background: #faf7f4; }
nav a { margin-right: 1rem; } code { background: #f3f3f3; padding: 0 .25em; }
"""


def page(title: str, subtitle: str, sections: list[tuple[str, str]]) -> str:
    """A whole page from (heading, HTML) pairs; a section without content is left out."""
    sections = [(heading, body) for heading, body in sections if body]
    links = "".join(f'<a href="#{_slug(heading)}">{text(heading)}</a>' for heading, _ in sections)
    parts = [
        f'<section id="{_slug(heading)}"><h2>{text(heading)}</h2>\n{body}</section>'
        for heading, body in sections
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{CSS}</style></head>\n<body>"
        f'<h1>{text(title)}</h1><p class="note">{text(subtitle)}</p><nav>{links}</nav>\n'
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def text(value) -> str:
    """Any value as escaped text."""
    return html.escape(str(value))


def paragraph(value: str, css: str = "") -> str:
    return f'<p class="{css}">{text(value)}</p>' if css else f"<p>{text(value)}</p>"


def bullets(values) -> str:
    return (
        "<ul>" + "".join(f"<li>{text(value)}</li>" for value in values) + "</ul>" if values else ""
    )


def table(data: pd.DataFrame, columns: dict[str, str], *, formats=None, group=None) -> str:
    """An HTML table; one of more than 40 rows is folded.

    Args:
      data: the rows, in order.
      columns: column -> heading; columns not named, and empty ones, are left out.
      formats: column -> function of a value; numbers get four significant digits otherwise.
      group: a column; a rule is drawn above each row where its value changes.
    """
    formats = formats or {}
    columns = {name: heading for name, heading in columns.items() if _has_content(data, name)}
    css = {name: _css(data[name]) for name in columns}
    head = "".join(
        f'<th class="{css[name]}">{text(heading)}</th>' for name, heading in columns.items()
    )
    body, previous = [], None
    for _, row in data.iterrows():
        cells = "".join(
            f'<td class="{css[name]}">{text(formats.get(name, number)(row[name]))}</td>'
            for name in columns
        )
        changed = group is not None and previous is not None and row[group] != previous
        previous = row[group] if group is not None else None
        body.append(f'<tr class="{"rule" if changed else ""}">{cells}</tr>')
    whole = (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )
    if len(data) <= 40:
        return whole
    return f"<details><summary>all {len(data)} rows</summary>{whole}</details>"


def _has_content(data, name) -> bool:
    return name in data and bool((data[name].notna() & (data[name].astype(str) != "")).any())


def _css(column) -> str:
    """Words to the left, and wrapped where they are long."""
    if pd.api.types.is_numeric_dtype(column):
        return ""
    return "text wide" if column.astype(str).str.len().max() > 60 else "text"


def number(value) -> str:
    """Four significant digits; integers in full; nothing for missing."""
    if isinstance(value, str) or value is None:
        return value or ""
    if not math.isfinite(value):
        return "" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if float(value).is_integer() and abs(value) < 1e7:
        return f"{value:.0f}"
    return f"{value:.4g}"


def digits(count: int):
    """A format with a fixed number of decimals; missing values stay empty."""
    return lambda value: "" if pd.isna(value) else f"{value:.{count}f}"


def picture(content: bytes, kind: str, caption: str) -> str:
    """A rendered figure (`svg` or `png`) with its caption, embedded as a data address."""
    mime = {"svg": "image/svg+xml", "png": "image/png"}[kind]
    address = f"data:{mime};base64,{base64.b64encode(content).decode()}"
    return (
        f'<figure><img alt="{text(caption)}" src="{address}">'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def _slug(heading: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in heading.lower())
