"""An optimizer looks the same everywhere and like no other, in both themes, whoever looks."""

import itertools
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from analysis.pages import looks
from analysis.runs.names import LABELS

VISION = {  # linear RGB to what is seen; Machado, Oliveira & Fernandes 2009, severity 1.0
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}  # fmt: skip
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # Rec. 709
XY = np.stack(np.meshgrid(*[np.arange(-8, 8, 0.1)] * 2), -1)  # pixels around a marker, in tenths


def luminance(colour, seen):
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return LUMINANCE @ np.clip(seen @ linear, 0, 1)


@pytest.mark.parametrize("vision", VISION)
def test_every_hue_stands_out_from_both_grounds(vision):
    """3:1, WCAG 1.4.11; in grey this is the same."""
    grounds = re.findall("--ground:(#[0-9a-f]{6})", looks.css())
    assert len(grounds) == 2
    for name, pair in looks.HUES.items():
        for colour, ground in zip(pair, grounds, strict=True):
            dark, light = sorted(luminance(c, VISION[vision]) for c in (colour, ground))
            assert (light + 0.05) / (dark + 0.05) >= 3, (name, colour)


def ink(optimizer) -> np.ndarray:
    """Where a marker of usual size paints, with its outline of 1.5 pixels."""
    drawn = looks.marker(optimizer, 0, 0)
    if "<circle" in drawn:
        away = np.linalg.norm(XY, axis=-1) - float(re.search(' r="(.*?)"', drawn)[1])
        inside, edge = away < 0, np.abs(away)
    else:
        words = re.search('points="(.*?)"', drawn)[1].split()
        corners = np.array([word.split(",") for word in words], float)
        inside, edge = np.zeros(XY.shape[:2], bool), np.full(XY.shape[:2], np.inf)
        for a, b in zip(corners, np.roll(corners, -1, 0), strict=True):
            along = np.clip((XY - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)[..., None]
            edge = np.minimum(edge, np.linalg.norm(XY - a - along * (b - a), axis=-1))
            x, y = XY[..., 0], XY[..., 1]
            level = (a[1] > y) != (b[1] > y)
            slope = (b[0] - a[0]) / (b[1] - a[1]) if a[1] != b[1] else 0.0
            inside ^= level & (x < a[0] + (y - a[1]) * slope)
    return (edge <= 0.75) | (inside if "filled" in drawn else False)


def test_any_two_markers_differ_without_any_colour():
    """So whatever a reader's eyes or printer leave of the hues, no two optimizers look alike."""
    assert set(looks.LOOKS) == set(LABELS)
    inks = {name: ink(name) for name in looks.LOOKS}
    apart = {
        (a, b): (inks[a] ^ inks[b]).sum() / (inks[a] | inks[b]).sum()
        for a, b in itertools.combinations(inks, 2)
    }
    assert min(apart.values()) >= 0.3, min(apart, key=apart.get)


def test_a_stranger_always_looks_the_same_and_wears_its_letter():
    hue, shape = looks.look("my_opt:zephyr")
    assert shape == "#Z" and looks.look("my_opt:zephyr") == (hue, shape)
    assert hue in looks.HUES and ">Z<" in looks.marker("my_opt:zephyr", 0, 0)
    ElementTree.fromstring(looks.marker("<&:<", 0, 0))
