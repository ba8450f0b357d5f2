"""Runs of the command in processes of their own, slow enough to do something to."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.planted import PAPER

PREDICTOR = """
import time
from dataclasses import dataclass
import numpy as np
from wsikit.geometry import TileSpec
from wsikit.predictions import Label, ScoreMap, Stateless

@dataclass(frozen=True)
class Slow(Stateless):
    name = "slow"
    produces = ScoreMap
    labels = (Label("Dark", (120, 20, 120)), Label("Light", (225, 225, 225), background=True))
    tile = TileSpec(0.5, core=64, halo=0, min_tissue=0.0)

    def predict(self, batch):
        time.sleep(SECONDS)
        dark = (batch.images.mean(axis=3) < 140).astype(np.float32)
        return [ScoreMap(region, one) for region, one in zip(batch.regions, np.stack([dark, 1 - dark], axis=3))]
"""


def slides(folder: Path, names: str, side: int = 256) -> Path:
    """Pictures, each of them 16 super-tiles of 64 px."""
    folder.mkdir()
    for i, name in enumerate(names):
        pixels = np.full((side, side, 3), PAPER, np.uint8)
        pixels[20 : 40 + 10 * i, 20:60] = 60
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def command(source: Path, out: Path, *flags: str, seconds: float = 0.1, heartbeat: float = 10.0) -> list[str]:
    """The command line of a run that takes so long for a super-tile."""
    model = out.parent / "slow.py"
    model.write_text(PREDICTOR.replace("SECONDS", "__import__('json').load(open(__file__ + '.json'))"))
    Path(f"{model}.json").write_text(json.dumps(seconds))
    code = f"from wsikit.pipeline import lease; lease.HEARTBEAT_S = {heartbeat}\nfrom wsikit.cli.main import app; app()"
    return [
        *(sys.executable, "-c", code, "run", "-i", str(source), "-o", str(out), "-m", f"{model}:Slow", "-n", "1"),
        *("--supertile", "64", "--mpp-override", "0.5", "--format", "omezarr", *flags),
    ]


def start(line: list[str]) -> subprocess.Popen[str]:
    """Begin it."""
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(what: Callable[[], object], seconds: float = 60) -> None:
    """Until it is so."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def status_of(out: Path, slide_id: str) -> str:
    """What its record says; empty without one."""
    try:
        return str(json.loads((out / slide_id / "slide.json").read_text())["status"])
    except OSError:
        return ""


def everything(out: Path) -> dict[str, bytes]:
    """Path below the folder -> bytes, of what is visible."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and not path.name.startswith(".lease")
    }
