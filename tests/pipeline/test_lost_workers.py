"""Workers that die and runs that are interrupted: nothing is lost in silence, nothing hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from PIL import Image

from tests.planted import INK, PAPER, BlobPredictor, scene
from wsikit.config import RunConfig
from wsikit.errors import WsikitError
from wsikit.pipeline import batch as batch_module
from wsikit.pipeline import run as run_module
from wsikit.pipeline.batch import Silent, run_many
from wsikit.pipeline.inputs import find_slides
from wsikit.pipeline.run import run
from wsikit.predictions import Batch, Objects
from wsikit.slides import Slide
from wsikit.tissue import TissueMask


@dataclass(frozen=True)
class Deadly(BlobPredictor):
    """Takes the worker down with it on slides whose name says so."""

    deadly: bool = False

    def prepare(self, slide: Slide, tissue: TissueMask) -> Self:
        return replace(self, prepared=True, deadly="deadly" in slide.path.name)

    def predict(self, batch: Batch) -> list[Objects]:
        if self.deadly:
            os._exit(3)
        return super().predict(batch)


def pictures(folder: Path, names: list[str]) -> Path:
    folder.mkdir()
    pixels = np.full((300, 300, 3), PAPER, np.uint8)
    pixels[40:60, 40:60] = INK
    for name in names:
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def deadly(monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.setattr(batch_module, "load_model", lambda *_, **__: Deadly())
    return RunConfig(mpp_override=0.5, num_workers=2, supertile=64)


@pytest.mark.slow
def test_slides_that_kill_every_worker_cost_themselves_and_no_other(deadly: RunConfig, tmp_path: Path) -> None:
    names = ["a-deadly", "b-deadly", "c-sound", "d-sound", "e-sound"]
    records = run_many(find_slides(pictures(tmp_path / "in", names)), tmp_path / "out", deadly)
    found = [(record["status"], record["reason"], record.get("objects")) for record in records]
    assert found == [("failed", "worker_crash", None)] * 2 + [("complete", "", 1)] * 3


def test_a_slide_is_not_complete_where_a_task_went_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    slide = scene(300, 300, [(20, 20, 10, 10)])
    monkeypatch.setattr(run_module, "predict_supertiles", lambda *_, **__: (_ for _ in ()))
    with pytest.raises(WsikitError, match="not all of its 25 patches"):
        run(slide, BlobPredictor(), mask=TissueMask.whole(slide))


class _Interrupting(Silent):
    """Ctrl-C comes while the first slide is running."""

    def __init__(self) -> None:
        self.seen = 0

    def progress(self, entry: Any, done: int, total: int) -> None:
        self.seen += 1
        if self.seen == 3:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_stops_at_the_next_supertile_and_leaves_no_outcome(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(batch_module, "load_model", lambda *_, **__: BlobPredictor())
    entries = find_slides(pictures(tmp_path / "in", ["a", "b"]))
    config = RunConfig(mpp_override=0.5, num_workers=2, cluster="threads", supertile=64)
    watching = _Interrupting()
    with pytest.raises(KeyboardInterrupt):
        run_many(entries, tmp_path / "out", config, observer=watching)
    assert watching.seen < 20
    assert not list((tmp_path / "out").glob("*/objects*"))
    records = run_many(entries, tmp_path / "out", config)
    assert [(record["status"], record["objects"]) for record in records] == [("complete", 1)] * 2


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_ends_the_run_and_its_workers(cmu: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "wsikit.cli", "run", "-i", str(cmu), "-o", str(tmp_path / "out"), "-n", "2"]
    process = subprocess.Popen(
        [*command, "--supertile", "512"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob("*/.spool/*/o*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # a terminal sends it to the workers too
    os.killpg(process.pid, signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert not _outlives(process.pid, seconds=10)


def _outlives(group: int, seconds: float) -> bool:
    """Whether any process of a group is there after so long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.1)
    return True
