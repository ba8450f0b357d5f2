"""``wsikit tile`` in child processes: the same patches, and what kills a child costs its slide."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from wsikit.config import TileConfig
from wsikit.errors import StoppedError
from wsikit.pipeline.each import Silent
from wsikit.pipeline.inputs import SlideEntry, find_slides
from wsikit.pipeline.stopping import Stop
from wsikit.pipeline.tile import tile_many

OPTIONS: dict[str, Any] = {"tissue": "whole", "min_tissue": 0, "num_workers": 1, "passthrough": "never"}


@pytest.fixture
def slides(pyramid: Path, tmp_path: Path) -> list[SlideEntry]:
    (tmp_path / "in").mkdir()
    for name in ("one", "two"):
        shutil.copy(pyramid, tmp_path / "in" / f"{name}.svs")
    return find_slides(tmp_path / "in")


class Killing(Silent):
    """Kills what cuts the first slide as soon as that gets on, so many times.

    Each attempt once: what a dead child had told may be heard when its successor waits for the next one already.
    """

    def __init__(self, times: int) -> None:
        self.times = times
        self.begun = False
        self.seen: list[tuple[int, int]] = []

    def progress(self, entry: SlideEntry, done: int, total: int) -> None:
        self.seen.append((done, total))
        if done == 0:
            self.begun = True
        elif entry.slide_id == "one" and done < total and self.times and self.begun:
            self.times, self.begun = self.times - 1, False
            for child in psutil.Process().children():
                os.kill(child.pid, signal.SIGSEGV)


def written(out: Path) -> dict[str, bytes]:
    told = {"slide.json", "run.yaml", "summary.csv", "report.html"}
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in told
    }


def test_patches_are_the_same_wherever_they_are_cut(slides: list[SlideEntry], tmp_path: Path) -> None:
    watching = Killing(0)
    for cluster in ("threads", "local"):
        config = TileConfig(size=64, cluster=cluster, **OPTIONS)
        records = tile_many(slides, tmp_path / cluster, config, observer=watching)
        assert [(record["status"], record["patches"]) for record in records] == [("complete", 48 * 48)] * 2
    assert written(tmp_path / "threads") == written(tmp_path / "local")
    assert {total for _, total in watching.seen} == {9}


@pytest.mark.parametrize(("times", "outcome"), [(1, ("complete", "")), (2, ("failed", "worker_crash"))])
def test_a_slide_that_kills_its_child_is_tried_once_more(
    slides: list[SlideEntry], tmp_path: Path, times: int, outcome: tuple[str, str]
) -> None:
    config = TileConfig(size=16, cluster="local", **OPTIONS)
    one, two = tile_many(slides, tmp_path / "out", config, observer=Killing(times))
    assert (one["status"], one["reason"]) == outcome
    assert two["status"] == "complete"
    assert list((tmp_path / "out").rglob(".*")) == []


def test_a_slide_that_takes_too_long_is_ended(slides: list[SlideEntry], tmp_path: Path) -> None:
    config = TileConfig(size=32, cluster="local", task_timeout=0.3, **OPTIONS)
    (one,) = tile_many(slides[:1], tmp_path / "out", config)
    assert (one["status"], one["reason"]) == ("failed", "worker_timeout")
    assert [path.name for path in (tmp_path / "out" / "one").iterdir()] == ["slide.json"]


class Stopper(Silent):
    """Ends the run in the middle of a slide."""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop

    def progress(self, entry: SlideEntry, done: int, total: int) -> None:
        if 0 < done < total:
            self.stop.set("terminated")


def test_a_run_that_is_stopped_leaves_nothing_half_written(slides: list[SlideEntry], tmp_path: Path) -> None:
    stop, config = Stop(), TileConfig(size=32, cluster="local", **OPTIONS)
    with pytest.raises(StoppedError):
        tile_many(slides, tmp_path / "out", config, stop=stop, observer=Stopper(stop))
    assert [path.name for path in (tmp_path / "out").rglob("*") if "patches" in path.name] == []
    records = tile_many(slides, tmp_path / "out", config)
    assert [record["status"] for record in records] == ["complete"] * 2
