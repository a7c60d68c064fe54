"""How an optimizer looks, the same in every picture: a colour for each theme, and a marker.

Each optimizer of the catalogue has a marker of its own, so that a picture can be read in grey and
by the colour-blind: any two differ in at least 30 % of the area that either of them inks, at the
size in which they are drawn. The nine hues repeat. A plug-in wears its first letter, in a hue that
its name gives it.
"""

import zlib

HUES = {  # name: (on white, on dark); each at least 3:1 against its ground
    "ink": ("#1c1c1c", "#f4f4f4"),
    "blue": ("#0b62c4", "#62a9ff"),
    "vermilion": ("#c44a04", "#ff9055"),
    "green": ("#0b7d58", "#3ecb98"),
    "purple": ("#93398a", "#e493da"),
    "teal": ("#1f7d96", "#62cbe2"),
    "ochre": ("#8f6a08", "#dfb740"),
    "wine": ("#951f55", "#f47dac"),
    "grey": ("#6a6a6a", "#adadad"),
}
LOOKS = {  # name: (hue, shape); a capital letter is a filled shape
    "adamw": ("ink", "O"),
    "nadamw": ("blue", "s"),
    "cautious": ("ochre", "t"),
    "mars": ("green", "v"),
    "lion": ("wine", "p"),
    "adam_mini": ("grey", "w"),
    "muon": ("vermilion", "D"),
    "scion": ("purple", "P"),
    "kron": ("blue", "X"),
    "soap": ("green", "A"),
    "sophia": ("teal", "l"),
    "ademamix": ("purple", "o"),
    "schedule_free": ("ochre", "r"),
    "adamc": ("grey", "d"),
    "adamh": ("teal", "h"),
    "normuon": ("wine", "T"),
    "adamuon": ("teal", "V"),
    "dion": ("ochre", "L"),
    "muonc": ("grey", "R"),
    "muonh": ("blue", "B"),
    "shampoo": ("green", "I"),
    "kl_shampoo": ("purple", "b"),
    "kl_soap": ("wine", "i"),
}
MATRIX = ("muon", "scion", "kron", "soap", "normuon", "adamuon", "dion", "muonc", "muonh")
MATRIX += ("shampoo", "kl_shampoo", "kl_soap")
_POLYGONS = {  # corners in units of the marker's radius
    "s": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
    "d": ((0, -1.7), (0.85, 0), (0, 1.7), (-0.85, 0)),
    "t": ((0, -1.2), (1.25, 0.95), (-1.25, 0.95)),
    "v": ((0, 1.2), (1.25, -0.95), (-1.25, -0.95)),
    "l": ((-1.2, 0), (0.95, -1.25), (0.95, 1.25)),
    "r": ((1.2, 0), (-0.95, -1.25), (-0.95, 1.25)),
    "b": ((-1.6, -0.55), (1.6, -0.55), (1.6, 0.55), (-1.6, 0.55)),
    "i": ((-0.55, -1.6), (0.55, -1.6), (0.55, 1.6), (-0.55, 1.6)),
    "h": ((-1.1, -1.25), (1.1, -1.25), (0.25, 0), (1.1, 1.25), (-1.1, 1.25), (-0.25, 0)),
    "w": ((-1.25, -1.1), (0, -0.25), (1.25, -1.1), (1.25, 1.1), (0, 0.25), (-1.25, 1.1)),
    "a": ((0, -1.6), (0.35, -0.4), (1.55, -0.5), (0.58, 0.2), (0.95, 1.35), (0, 0.65),
          (-0.95, 1.35), (-0.58, 0.2), (-1.55, -0.5), (-0.35, -0.4)),
    "x": ((-1.2, -0.65), (-0.65, -1.2), (0, -0.5), (0.65, -1.2), (1.2, -0.65), (0.5, 0),
          (1.2, 0.65), (0.65, 1.2), (0, 0.5), (-0.65, 1.2), (-1.2, 0.65), (-0.5, 0)),
    "p": ((-0.42, -1.4), (0.42, -1.4), (0.42, -0.42), (1.4, -0.42), (1.4, 0.42), (0.42, 0.42),
          (0.42, 1.4), (-0.42, 1.4), (-0.42, 0.42), (-1.4, 0.42), (-1.4, -0.42), (-0.42, -0.42)),
}  # fmt: skip


def look(optimizer: str) -> tuple[str, str]:
    """(hue, shape); the shape of a stranger is its first letter behind a `#`."""
    if optimizer in LOOKS:
        return LOOKS[optimizer]
    hues = [hue for hue in HUES if hue != "ink"]
    initial = (optimizer.rpartition(":")[2][:1] or "?").upper()
    return hues[zlib.crc32(optimizer.encode()) % len(hues)], f"#{initial}"


def dashes(optimizer: str) -> str:
    """Solid lines for matrix methods and the baseline's hue, broken ones for the others."""
    return "" if optimizer in MATRIX or look(optimizer)[0] == "ink" else "5 3"


def marker(optimizer: str, x: float, y: float, *, radius=4.2, hollow=False, tip="") -> str:
    """The marker as SVG; `tip` is shown on hover and read aloud."""
    hue, shape = look(optimizer)
    filled = shape.isupper() and not hollow
    if shape.startswith("#"):
        letter = shape[1:].replace("&", "+").replace("<", "(")
        drawn = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius * 1.35:.1f}" class="hollow"/>'
        drawn += f'<text x="{x:.1f}" y="{y + 2.7:.1f}" class="initial">{letter}</text>'
    elif shape in "Oo":
        kind = "filled" if filled else "hollow"
        drawn = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" class="{kind}"/>'
    else:
        corners = _POLYGONS[shape.lower()]
        points = " ".join(f"{x + radius * a:.1f},{y + radius * b:.1f}" for a, b in corners)
        drawn = f'<polygon points="{points}" class="{"filled" if filled else "hollow"}"/>'
    title = f"<title>{tip}</title>" if tip else ""
    return f'<g class="{hue} mark">{title}{drawn}</g>'


def css() -> str:
    """Custom properties and classes that every picture needs, for both themes and for print."""
    light, dark = (
        "".join(f"--{name}:{pair[theme]};" for name, pair in HUES.items()) for theme in (0, 1)
    )
    light += "--ground:#ffffff;--rule:#dedede;--soft:#5c5c5c;--band:#f0f3f7;"
    dark += "--ground:#15171a;--rule:#383c42;--soft:#a9adb3;--band:#20252c;"
    hues = "".join(f".{name}{{--c:var(--{name})}}" for name in HUES)
    return (
        f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}{hues}"
        "svg text{font:11px system-ui,sans-serif;fill:var(--ink)}svg .soft{fill:var(--soft)}"
        "svg .strong{font-weight:600}svg .mid{text-anchor:middle}svg .end{text-anchor:end}"
        "svg .initial{font-size:8px;font-weight:700;text-anchor:middle;fill:var(--c)}"
        "svg .grid{stroke:var(--rule);stroke-width:1}svg .zero{stroke:var(--ink);stroke-width:1}"
        "svg .line{stroke:var(--c,var(--ink));stroke-width:1.6;fill:none}"
        "svg .thin{stroke:var(--c,var(--ink));stroke-width:1.2}"
        "svg .thick{stroke:var(--c,var(--ink));stroke-width:3.5;opacity:.55}"
        "svg .area{fill:var(--c,var(--ink));opacity:.13}svg .bar{fill:var(--c,var(--ink))}"
        "svg .tied{fill:var(--band)}svg .filled{fill:var(--c);stroke:var(--c)}"
        "svg .hollow{fill:var(--ground);stroke:var(--c);stroke-width:1.5}"
        "svg .ring{fill:none;stroke:var(--c);stroke-width:1.5}"
    )
