"""The tiny race with grids wide enough for over 200 trials."""

import tiny_race


def get_config(argument=""):
    study = tiny_race.get_config("three")
    for entry in study["optimizers"].values():
        entry["grids"] = {
            "learning_rate": [0.016 * 2 ** (i / 2) for i in range(-8, 7)],
            "beta2": [0.8 + 0.0125 * i for i in range(16)] + [0.999],
            "warmup": [10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120, 130, 140],
        }
    study["pack"]["width"] = 2
    return study
