"""The study that the sweep tests run: two optimizers, one size, three cells each, on a fake
trainer.
"""

SIZE = {
    **{"hidden": 16, "layers": 2, "heads": 1, "mlp": 64},
    **{"vocab_size": 257, "sequence_length": 128},
}

WIDE = ("adamw", "nadamw", "cautious", "mars", "adam_mini", "soap", "sophia", "muon", "lion")


def entry(**start):
    return {
        "start": {"learning_rate": 0.016, "warmup": 20, "beta2": 0.95, "batch_size": 8, **start},
        "grids": {
            "learning_rate": [0.004, 0.008, 0.016, 0.032],
            "beta2": [0.9, 0.95, 0.98],
            "warmup": [10, 20, 100, 200],
        },
        "bounds": {"learning_rate": [1e-4, 1.0]},
    }


def get_config(argument=""):
    study = {
        "name": "tiny",
        "sizes": {"nano-xs": SIZE},
        "ratios": [1, 2],
        "phases": {"I": [["nano-xs", 1]], "II": [["nano-xs", 2]]},
        "optimizers": {"adamw": entry(), "nadamw": entry(learning_rate=0.032)},
        "rule": {"mode": "published", "max_moves": 4},
        "seeds": [0, 1, 2],
        "budget": {},
        "data": {"corpus": "stdlib", "fingerprint": "fake"},
        "eval": {"sequences": 8, "points": 1},
        "pack": {"width": 4},
    }
    if argument == "three":
        study["optimizers"]["cautious"] = entry()
    elif argument == "wide":
        study["optimizers"] = {name: entry() for name in WIDE}
        study["seeds"] = [0, 1, 2, 3]
    elif argument == "storm":  # two thousand trials
        study["optimizers"] = {name: entry() for name in WIDE}
        study["ratios"] = list(range(1, 10))
        study["phases"] = {"I": [["nano-xs", ratio] for ratio in study["ratios"]]}
    elif argument == "real":  # few real trials, with checkpoints
        grid = {"learning_rate": [0.008, 0.016]}
        study |= {
            **{"optimizers": {"adamw": {**entry(), "grids": grid, "bounds": {}}}, "seeds": [0]},
            **{"phases": {"I": [["nano-xs", 1]]}, "data": {"corpus": "stdlib"}},
            "checkpoint": {"every_steps": 32},
        }
    elif argument == "other":
        study["eval"]["points"] = 2
    elif argument:
        raise ValueError(f"unknown study {argument!r}; did you mean 'three'?")
    return study
