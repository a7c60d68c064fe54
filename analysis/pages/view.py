"""Wide tables for page, terminal, figures and notebooks: views of a study's one long table."""

import dataclasses
import functools
import math
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.estimates.comparisons import headline_races, verdict
from analysis.estimates.estimate import estimate
from analysis.estimates.searches import best_so_far
from analysis.estimates.table import pick
from analysis.fits.loss_laws import DataLaw
from analysis.runs import curves, repeats, winners
from analysis.runs.names import CELL, RACE, label, reading_order
from analysis.runs.study import Study
from analysis.stats.noise import Noise

FORMULA = "published_formula"
HEADLINE = {  # what a race is told by: tables, of which the first that is there counts
    "gap": (("gap", "fair_losses", "nats_together"), ("gap", "fair_losses", "nats")),
    "speedup": (
        ("speedup", "robust_joint", "ratio_together"),
        ("speedup", "robust_cell", "ratio"),
        ("speedup", FORMULA, "ratio"),
    ),
    "behind": (("race", "fair_losses", "behind_best"),),
}


class Number(NamedTuple):
    """A number of the long table: an end that is NaN is open, `source` says what it rests on."""

    value: float
    low: float
    high: float
    bound: str
    source: str
    name: str

    def __str__(self) -> str:
        """As many digits as the interval allows: `1.32 (1.20 to 1.43)`, `≥ 1.00`."""
        limit = {"lower": "≥ ", "upper": "≤ "}.get(self.bound, "")
        if limit:
            return limit + (f"{self.value:.2f}" if self.value >= 0.1 else f"{self.value:.3g}")
        shown = digits(self.value, self.low, self.high)
        if not (np.isfinite(self.low) or np.isfinite(self.high)):
            return shown
        ends = (digits(end, self.low, self.high) for end in (self.low, self.high))
        return f"{shown} ({' to '.join(ends)})"

    @property
    def tip(self) -> str:
        return f"{self.name}: {self}; {self.source}"


def digits(value: float, low=np.nan, high=np.nan) -> str:
    """A number to the digits that its interval allows: the first of the half-width, two below 3.

    Without an interval four digits, and whole numbers as they are.
    """
    if not np.isfinite(value):
        return "open"
    half = (high - low) / 2
    if not (np.isfinite(half) and half > 0):
        if float(value).is_integer() and abs(value) < 1e7:
            return f"{value:.0f}"
        return f"{value:.4f}" if 0.1 <= abs(value) < 10 else f"{value:.4g}"
    power = math.floor(math.log10(half))
    places = -power + (half / 10.0**power < 3)
    if places < 0 and abs(value) >= 1:  # its first digit stays
        places = max(places, -math.floor(math.log10(abs(value))))
    return f"{value:.{places}f}" if places >= 0 else f"{round(value, places):.0f}"


@dataclasses.dataclass(frozen=True)
class View:
    """A study and its numbers (`estimates.estimate`), with the tables that readers look at."""

    study: Study
    numbers: pd.DataFrame

    @property
    def baseline(self) -> str:
        return self.study.baseline

    @functools.cached_property
    def best(self) -> pd.DataFrame:
        """The winning run of every cell (`runs.winners`)."""
        return winners.winners(self.study)

    @functools.cached_property
    def deviations(self) -> pd.DataFrame:
        return winners.deviations(self.study)

    @functools.cached_property
    def races(self) -> list[pd.DataFrame]:
        """The headline race of every size, largest size first, its cells by fair loss."""
        return headline_races(self.speedups.assign(loss=self.speedups["fair_loss"]))[::-1]

    @property
    def race_keys(self) -> list[tuple]:
        """(size, ratio) of every race, in reading order."""
        return list(self.best[RACE].drop_duplicates().itertuples(index=False, name=None))

    def spread(self, part, size, ratio) -> Noise | None:
        """How far the losses of a race move: its own `total`, `paired` or `residual`, or that of
        all races (`stats.noise.Levels`); None where it was not measured."""
        rows = self.of("noise")
        race = rows["chinchilla_ratio"].isna() | (rows["chinchilla_ratio"] == ratio)
        for level in (rows[(rows["model_size"] == size) & race], rows[rows["model_size"] == ""]):
            known = level.set_index("quantity")["value"]
            if {part, f"{part}_df"} <= set(known.index):
                return Noise(known[part], known[f"{part}_df"])
        return None

    @functools.cached_property
    def best_so_far(self) -> pd.DataFrame:
        return best_so_far(self.study, self.best)

    @functools.cached_property
    def headline_card(self) -> pd.DataFrame:
        """The sensitivity card of the best rival of the largest size that has one."""
        cards = self.of("card")
        cards = cards[cards["procedure"] != "summary"]
        for race in self.races:
            for cell in race[CELL].to_dict("records"):
                card = cards[(cards[CELL] == pd.Series(cell)).all(axis=1)]
                if len(card):
                    return card
        return cards

    @functools.cached_property
    def repeats(self) -> pd.DataFrame:
        return repeats.repeats(self.study)

    @functools.cached_property
    def cost(self) -> pd.DataFrame:
        return winners.cost(self.study)

    @functools.cached_property
    def curves(self) -> pd.DataFrame:
        """The curves of the winners."""
        return curves.winner_curves(self.study, self.best)

    def of(self, table, procedure=None, quantity=None) -> pd.DataFrame:
        """Rows of the long table (`estimates.table.pick`)."""
        return pick(self.numbers, table, procedure, quantity)

    @functools.cached_property
    def _lines(self) -> dict:
        """Key of a number -> (its line in numbers.csv, its row)."""
        rows = self.numbers.to_dict("records")
        return {self._key(row): (number, row) for number, row in enumerate(rows, start=2)}

    @staticmethod
    def _key(row) -> tuple:
        ratio = row["chinchilla_ratio"]
        ratio = None if ratio is None or pd.isna(ratio) else float(ratio)
        names = ("table", "procedure", "quantity", "optimizer", "model_size")
        return *(row[name] for name in names), ratio

    @functools.cached_property
    def winner_of(self) -> dict:
        """Cell -> the winner's run and how many seeds it was run with, in words."""
        return {
            tuple(row[name] for name in CELL): f"run {row['hash']}, seeds: {row['reruns'] + 1}"
            for row in self.best.to_dict("records")
        }

    def number(
        self, table, procedure, quantity, optimizer="", size="", ratio=None
    ) -> Number | None:
        """One number with its interval, and where it comes from; None where there is none."""
        ratio = None if ratio is None or pd.isna(ratio) else ratio
        where = (table, procedure, quantity, optimizer, size, ratio)
        keys = dict(zip(("table", "procedure", "quantity", *CELL), where, strict=True))
        line, row = self._lines.get(self._key(keys), (0, None))
        if row is None:
            return None
        shown = row["value"], row["low"], row["high"]
        value, low, high = (np.nan if x is None else float(x) for x in shown)
        source = [row["note"]] if row["note"] else []
        if (optimizer, size, ratio) in self.winner_of:
            source.append(self.winner_of[optimizer, size, ratio])
        source = "; ".join([*source, f"numbers.csv line {line}"])
        name = f"{label(optimizer)} {size}" + ("" if ratio is None else f" {ratio:g}×")
        return Number(value, low, high, row["bound"], source, name.strip())

    def headline(self, what, race) -> dict[str, Number | None]:
        """Optimizers of a race -> their number of HEADLINE, as picture and sentences show it."""
        cells = race[CELL].itertuples(index=False, name=None)
        cells = {cell[0]: cell for cell in cells}
        for key in HEADLINE[what]:
            found = {name: self.number(*key, *cell) for name, cell in cells.items()}
            if any(found.values()):
                return found
        return dict.fromkeys(cells)

    def value(self, table, procedure, quantity) -> float:
        """The one number of a study by this name; NaN where there is none."""
        found = self.of(table, procedure, quantity)
        found = found[(found["optimizer"] == "") & (found["model_size"] == "")]
        return float(found["value"].iloc[0]) if len(found) else np.nan

    @functools.cached_property
    def speedups(self) -> pd.DataFrame:
        """One row per cell: losses, gap to the baseline, three speed-ups, headline and verdict.

        Columns: CELL, non_embedding_params, loss, fair_loss, gap, gap_low, gap_high, behind_low,
        behind_high (loss above the best other's); published, robust, joint, joint_flops and
        joint_seconds (at equal cost), each with _low, _high, _bound and _note; speedup, low, high
        and procedure of the headline; and verdict, one of faster, slower, not resolvable, noise
        unknown, no baseline, baseline.
        """
        table = self.best[[*CELL, "non_embedding_params", "loss"]].copy()
        parts = {
            "fair_loss": ("loss", "fair", "loss"),
            "gap": ("gap", "fair_losses", "nats"),
            "together": ("gap", "fair_losses", "p_together"),
            "behind": ("race", "fair_losses", "behind_best"),
            "published": ("speedup", FORMULA, "ratio"),
            "robust": ("speedup", "robust_cell", "ratio"),
            "joint": ("speedup", "robust_joint", "ratio"),
            "joint_flops": ("speedup", "robust_joint", "ratio_flops"),
            "joint_seconds": ("speedup", "robust_joint", "ratio_seconds"),
        }
        for name, key in parts.items():
            part = self.of(*key).dropna(subset="chinchilla_ratio")
            kept = {"value": name} | {c: f"{name}_{c}" for c in ("low", "high", "bound", "note")}
            table = table.merge(part[[*CELL, *kept]].rename(columns=kept), on=CELL, how="left")
            words = [f"{name}_bound", f"{name}_note"]
            table[words] = table[words].fillna("").astype(str)
            ends = [name, f"{name}_low", f"{name}_high"]
            table[ends] = table[ends].astype(float)
        for name in ("robust", "joint", "joint_flops", "joint_seconds"):  # an open end
            table[f"{name}_high"] = table[f"{name}_high"].where(
                table[f"{name}_high"].notna() | table[name].isna(), np.inf
            )
        table["fair_loss"] = table["fair_loss"].fillna(table["loss"])
        table = table.join(table.apply(self._headline, axis=1, result_type="expand"))
        table["verdict"] = [self._verdict(row) for row in table.itertuples()]
        return table

    def _headline(self, row) -> dict:
        """The joint model where there is one, else the cell's own curve, else the bare formula."""
        for name in ("joint", "robust", "published"):
            if np.isfinite(row[name]):
                ends = {end: row[f"{name}_{end}"] for end in ("low", "high")}
                return {"speedup": row[name], **ends, "procedure": name}
        return {"speedup": np.nan, "low": np.nan, "high": np.nan, "procedure": ""}

    def _verdict(self, row) -> str:
        if row.optimizer == self.baseline:
            return "baseline"
        if not np.isfinite(row.gap):
            return "no baseline"
        return verdict(row.gap, row.together) if np.isfinite(row.together) else "noise unknown"

    @functools.cached_property
    def searches(self) -> pd.DataFrame:
        """One row per cell with a certificate: CELL, trials, and what it admits (`searches`), the
        numbers under their names and what they count under `<name>_note`."""
        rows = self.of("search")
        table = self.best[[*CELL, "trials"]]
        for name in rows["quantity"].unique():
            part = rows[rows["quantity"] == name].rename(columns={"value": name})
            part = part.rename(columns={"note": f"{name}_note"})[[*CELL, name, f"{name}_note"]]
            table = table.merge(part, on=CELL, how="left")
        return table[table[list(rows["quantity"].unique())].notna().any(axis=1)]

    @functools.cached_property
    def law_table(self) -> pd.DataFrame:
        """The baseline's data law of every size by the published formula, with its limits."""
        rows = self.of("data_law", FORMULA)
        names = ["ratios", "alpha", "exponent", "floor", "freedom", "rms"]
        table = rows.pivot_table(index="model_size", columns="quantity", values="value", sort=False)
        notes = rows[rows["quantity"] == "ratios"].set_index("model_size")["note"]
        table = table.reindex(index=notes.index, columns=names).assign(note=notes)
        return table.reset_index()

    @functools.cached_property
    def laws(self) -> dict[str, DataLaw]:
        """The laws of `law_table` that may be used, by size."""
        rows = self.law_table.dropna(subset="alpha")
        return {r.model_size: DataLaw(r.alpha, r.exponent, r.floor) for r in rows.itertuples()}

    @functools.cached_property
    def optima(self) -> pd.DataFrame:
        """Best values: CELL, hyperparameter, value, low, high, bound, note, `law`
        (what the law through an optimizer's optima says there), non_embedding_params, tokens."""
        table = self.of("optimum", "robust").rename(columns={"quantity": "hyperparameter"})
        law = self.of("optimum", "law")[[*CELL, "quantity", "value"]]
        law = law.rename(columns={"quantity": "hyperparameter", "value": "law"})
        table = table[[*CELL, "hyperparameter", "value", "low", "high", "bound", "note"]]
        table = table.merge(law, on=[*CELL, "hyperparameter"], how="left")
        cells = self.best[[*CELL, "non_embedding_params", "tokens"]]
        return reading_order(table.merge(cells, on=CELL), then=["hyperparameter"])

    @functools.cached_property
    def early_stop(self) -> pd.DataFrame:
        """Races decided before the end, and what that costs (`runs.curves.early_stop`)."""
        rows = self.of("early_stop")
        table = rows.pivot_table(index="procedure", columns="quantity", values="value", sort=False)
        names = ["races", "wrong_winner", "costly", "wrong_pairs", "regret"]
        table = table.reindex(columns=names).reset_index()
        fraction = table.pop("procedure").str.removeprefix("at ").astype(float)
        return table.assign(fraction=fraction)[["fraction", *names]]

    @functools.cached_property
    def crossings(self) -> pd.DataFrame:
        """CELL, fraction, leader: where a winner's curve crosses the baseline's."""
        rows = self.of("crossing").rename(columns={"value": "fraction"})
        leader = rows["note"].str.removesuffix(" leads on").astype(object)
        return rows.assign(leader=leader)[[*CELL, "fraction", "leader"]].reset_index(drop=True)

    @property
    def doubts(self) -> list[str]:
        """What a reader should know before believing any of it; none is a clean study."""
        return list(self.of("doubt")["note"])

    @property
    def noise(self) -> str:
        """The measured noise in words; empty where nothing was repeated."""
        rows = self.of("noise")
        rows = rows[rows["quantity"] == "total"]
        if rows.empty:
            return ""
        row = rows.iloc[0]
        text = f"{row.value:.2g} nats from run to run ({row.low:.2g}-{row.high:.2g}; {row.note})"
        carried = self.value("noise", row.procedure, "carried")
        if carried > 0:
            paired = self.value("noise", row.procedure, "paired")
            text += f"; {paired:.2g} between optimizers on one seed, which have {carried:.0%} of"
            text += " a seed's variance in common"
        return text

    @property
    def base_label(self) -> str:
        return label(self.baseline)


def view(study: Study, **options) -> View:
    """Estimate a study's numbers and look at them. Options: see `estimates.estimate`."""
    return View(study, estimate(study, **options))
