"""Track 3 of modded-nanogpt (581 runs of 2026, steps to a loss of 3.28); see track3.md."""

import pandas as pd

from analysis.published.tables import read

TARGET = 3.28  # nats per token, validation
EVIDENCE = "evidence"  # the `role` of runs that count for the board


def runs() -> pd.DataFrame:
    """One row per run: result_number, role, seed, accepted_step, loss_at_accepted_step, ..."""
    return read("track3_runs.csv.gz")


def curves() -> pd.DataFrame:
    """One row per validation point: run_id, step, val_loss, val_avg_loss, val_ema_loss, seconds.

    `loss` is the column that counts for the run's result: val_loss, or val_ema_loss for result 46.
    """
    table, official = read("track3_curves.csv.gz"), runs().set_index("run_id").official_loss
    blended = table.run_id.map(official) == "val_ema_loss"
    loss = table.val_loss.where(~blended, table.val_ema_loss)
    return table.assign(loss=loss).rename(columns={"train_time_s": "seconds"})


def results() -> pd.DataFrame:
    """One row per accepted result: the board's claim beside the values recomputed from the logs."""
    return read("track3_results.csv")


def sources() -> pd.DataFrame:
    """One row per distinct source embedded in a log: its optimizer calls and constants, as JSON."""
    return read("track3_sources.csv.gz")


def claim_examples() -> pd.DataFrame:
    """Worked examples of the board's rules as stated; one of them is wrong (`claim_rules`)."""
    return read("track3_claim_examples.csv", ("stated_value", "stated_p"))
