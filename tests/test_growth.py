"""The measurement of growth: that the work is what it says, and what is written of it. No time is judged here."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mixerkey.attacks import Recovery
from mixerkey.convmixer import ConvMixer
from mixerkey.experiments import growth
from mixerkey.experiments.growth import COURSES
from mixerkey.files import read_json

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux, to ask for the peak")


def test_each_course_does_its_work() -> None:
    found: dict[tuple[str, str], Any] = {
        (course.what, course.axis): course.make(course.sizes[1])[0]() for course in COURSES
    }
    assert found["cipher", "images"].shape == (1000, 3, 32, 32)
    assert found["cipher", "pixels a side"].shape == (10, 3, 128, 128)
    assert found["cipher", "block size M"].shape == (2000, 3, 32, 32)
    assert isinstance(found["model encryption", "layers"], ConvMixer)
    assert found["model encryption", "block size M"].sizes["patch_size"] == 4
    assert len(found["key sweep", "keys"]) == 2
    assert isinstance(found["attack", "images"], Recovery)
    assert found["attack", "block size M"].key.patch_size == 4


FILL = """
import torch
from mixerkey.experiments import growth, speed

held = []
make = lambda n: (lambda: held.append(torch.ones(n, 250_000)), int)
growth.COURSES = (growth.Course("fill", "megabytes", (1, 400), make),)
speed.measure = lambda *_: [{"our speed": 2.0, "reference speed": 4.0}]
print(growth.point(0, 400, 1))
"""


def test_a_point_has_seconds_and_megabytes() -> None:
    """In a process of its own, as the points are: one that has freed much would take the megabytes from there."""
    said = subprocess.run([sys.executable, "-c", FILL], check=True, capture_output=True, text=True).stdout
    found = ast.literal_eval(said)
    assert (found["seconds"], found["reference"]) == (0.5, 0.25)
    assert 350 < found["megabytes"] < 450


def test_a_run_goes_on_with_the_points_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "COURSES", (COURSES[0]._replace(sizes=(1, 2)),))
    monkeypatch.setattr(growth, "RECEIPT", tmp_path / "growth.json")
    growth.Receipt(growth.RECEIPT, {"what": "seconds and megabytes by size", "rounds": 1}).once(
        "cipher | images | 1", lambda: {"seconds": 7.0}
    )
    growth.main(rounds=1)
    receipt = read_json(growth.RECEIPT)
    assert receipt["cipher | images | 1"] == {"seconds": 7.0}
    assert receipt["cipher | images | 2"].keys() == {"seconds", "reference", "megabytes"}
