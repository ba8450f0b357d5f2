"""Reader, model and post-processing side by side: the same results, bounded, one error, no thread left; who binds."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.planted import BlobPredictor, Planted, scene
from wsikit.errors import OutputError, PixelReadError, PredictionError
from wsikit.geometry import Region, TileSpec
from wsikit.nn.device import add_gpu_seconds
from wsikit.pipeline.ahead import ahead
from wsikit.pipeline.busy import Busy
from wsikit.pipeline.run import RunReport, run
from wsikit.pipeline.supertile import Job, TaskResult, predict_supertiles
from wsikit.predictions import Batch, Encoder, Objects
from wsikit.quality import ANY_QUALITY, QualityFilter
from wsikit.slides import PartialRead, Slide
from wsikit.stitching.objects import ObjectCollector
from wsikit.tiling import BATCH_PIXELS, TileGrid
from wsikit.tissue import TissueMask

COUNT = 6
"""Super-tiles of a scene."""
Hook = Callable[[int], None]
"""Called with how many times it was called before."""


def nothing(index: int) -> None:
    """Nothing."""


@dataclass
class Stages:
    """What is done by each stage on top of its work, and how often each began."""

    read: Hook = nothing
    model: Hook = nothing
    post: Hook = nothing
    begun: dict[str, int] = field(default_factory=lambda: {"read": 0, "model": 0, "post": 0})

    def __call__(self, stage: str) -> None:
        index = self.begun[stage]
        self.begun[stage] += 1
        getattr(self, stage)(index)


class HookedSlide(Slide):
    """A slide whose reads are watched."""

    stages: Stages

    def read_partial(self, region: Region) -> PartialRead:
        self.stages("read")
        return super().read_partial(region)


@dataclass(frozen=True)
class HookedPredictor(BlobPredictor):
    """Blobs, by a model that is watched."""

    stages: Stages = field(default_factory=Stages)

    def predict(self, batch: Batch) -> list[Objects]:
        self.stages("model")
        return super().predict(batch)


@pytest.fixture
def hooked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Stages], tuple[Job, list[TileGrid]]]:
    """Makes a slide of ``COUNT`` super-tiles with a window each, whose stages are watched."""

    def make(stages: Stages) -> tuple[Job, list[TileGrid]]:
        save = ObjectCollector.save

        def saved(collected: ObjectCollector) -> int:
            stages("post")
            return save(collected)

        monkeypatch.setattr(ObjectCollector, "save", saved)
        plain = scene(64 * COUNT, 64, [(64 * i + 20, 20, 10 + i, 10) for i in range(0, COUNT, 2)])
        slide, predictor = HookedSlide(plain.reader), HookedPredictor(stages=stages)
        slide.stages = stages
        grid = TileGrid.cover(slide, predictor.tile)
        spool = tmp_path / f"spool{len(list(tmp_path.iterdir()))}"
        spool.mkdir()
        return Job(slide, predictor, spool, None, ANY_QUALITY), grid.supertiles(64)

    return make


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("wsikit-ahead")]


def all_of(job: Job, parts: list[TileGrid], *, side_by_side: bool = True) -> list[TaskResult]:
    with closing(predict_supertiles(job, enumerate(parts), side_by_side=side_by_side)) as results:
        return list(results)


# one thread ahead of its caller


def numbers(count: int, made: list[int] | None = None) -> Iterator[int]:
    for number in range(count):
        if made is not None:
            made.append(number)
        yield number


@pytest.mark.parametrize("count", [0, 1, 2, 7])
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_ahead_gives_the_same_items_in_order_and_leaves_no_thread(count: int, depth: int) -> None:
    assert list(ahead((i for i in numbers(count)), depth)) == list(range(count))
    assert not threads()


@pytest.mark.parametrize("depth", [1, 3])
def test_never_more_than_its_depth_is_made_ahead(depth: int) -> None:
    made: list[int] = []
    with closing(ahead((i for i in numbers(20, made)), depth)) as items:
        for taken, _ in enumerate(items, 1):
            deadline = time.monotonic() + 5
            while len(made) < min(20, taken + depth):
                assert time.monotonic() < deadline, "it is made while the caller is busy"
                time.sleep(0.001)
            time.sleep(0.005)
            assert len(made) <= taken + depth


def test_an_error_is_raised_where_it_would_have_been() -> None:
    error = KeyError("third")

    def failing() -> Any:
        yield from (1, 2)
        raise error

    items = ahead(failing(), 2)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(KeyError) as caught:
        next(items)
    assert caught.value is error
    assert not threads()


def test_closing_finishes_the_item_under_way_and_closes_what_it_is_made_of() -> None:
    under_way, told = threading.Event(), []

    def slow() -> Any:
        try:
            for number in range(100):
                under_way.set()
                yield number
        finally:
            told.append("closed")

    items = ahead(slow())
    next(items)
    under_way.wait(5)
    items.close()
    assert told == ["closed"]
    assert not threads()


# super-tiles


def outcome(results: list[TaskResult], job: Job) -> tuple[Any, ...]:
    spooled = {path.name: {k: v.tobytes() for k, v in np.load(path).items()} for path in sorted(job.spool.iterdir())}
    measured = [[getattr(r.quality, item.name).tobytes() for item in fields(r.quality)] for r in results]
    return measured, [(r.dropped.tolist(), r.bad, r.readable) for r in results], spooled


@pytest.mark.parametrize("qc", [ANY_QUALITY, QualityFilter.parse("sharpness>=5"), QualityFilter.parse("sharpness>=99")])
def test_side_by_side_gives_what_one_after_another_gives(hooked: Any, qc: QualityFilter) -> None:
    found = []
    for side_by_side in (False, True):
        job, parts = hooked(Stages())
        job = Job(job.slide, job.model, job.spool, None, qc)
        found.append(outcome(all_of(job, parts, side_by_side=side_by_side), job))
    assert found[0] == found[1]
    assert len(found[0][0]) == COUNT


def test_a_supertile_is_read_while_the_model_works_and_spooled_while_it_works_on(hooked: Any) -> None:
    reads, models = ([threading.Event() for _ in range(COUNT)] for _ in range(2))

    def read(index: int) -> None:
        reads[index].set()

    def model(index: int) -> None:
        models[index].set()
        # one after another this would wait for ever
        assert index + 1 == COUNT or reads[index + 1].wait(10)

    def post(index: int) -> None:
        assert index + 1 == COUNT or models[index + 1].wait(10)

    assert len(all_of(*hooked(Stages(read, model, post)))) == COUNT


def test_a_slow_model_holds_the_reader_back(hooked: Any) -> None:
    stages = Stages(model=lambda index: time.sleep(0.02))
    ahead_of_model = []
    stages.read = lambda index: ahead_of_model.append(index - stages.begun["model"])
    all_of(*hooked(stages))
    # one that the model has, one that waits, one that is being read
    assert max(ahead_of_model) <= 2


def test_a_slow_sink_holds_the_model_back(hooked: Any) -> None:
    stages = Stages(post=lambda index: time.sleep(0.02))
    ahead_of_post = []
    stages.model = lambda index: ahead_of_post.append(index - stages.begun["post"])
    all_of(*hooked(stages))
    assert max(ahead_of_post) <= 3


def failing(kind: type[Exception]) -> Hook:
    def hook(index: int) -> None:
        if index == 2:
            raise kind("planted")

    return hook


@pytest.mark.parametrize(
    ("stage", "raised", "expected"),
    [
        ("read", MemoryError, MemoryError),
        ("read", PixelReadError, PixelReadError),
        ("model", ZeroDivisionError, PredictionError),
        ("post", OutputError, OutputError),
    ],
)
@pytest.mark.parametrize("side_by_side", [False, True])
def test_an_error_of_any_stage_stops_the_others_and_is_raised_once(
    hooked: Any, stage: str, raised: type[Exception], expected: type[Exception], side_by_side: bool
) -> None:
    stages = Stages(**{stage: failing(raised)})
    job, parts = hooked(stages)
    done = []
    with (
        pytest.raises(expected, match="planted") as caught,
        closing(predict_supertiles(job, enumerate(parts), side_by_side=side_by_side)) as results,
    ):
        done.extend(results)
    assert len(done) <= 2
    assert isinstance(caught.value if expected is raised else caught.value.__cause__, raised)
    assert not threads()
    assert max(stages.begun.values()) < COUNT, "the others have stopped"


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_while_the_model_works_ends_the_run_with_no_thread_left(hooked: Any) -> None:
    def interrupt(index: int) -> None:
        if index == 2:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)

    stages = Stages(model=interrupt)
    job, _ = hooked(stages)
    with pytest.raises(KeyboardInterrupt):
        run(job.slide, job.model, mask=TissueMask.whole(job.slide), supertile=64)  # type: ignore[arg-type]
    assert not threads()
    assert stages.begun["read"] < COUNT


def test_what_stops_the_caller_stops_the_stages(hooked: Any) -> None:
    class Stop(BaseException):
        pass

    def progress(done: int, total: int) -> None:
        if done == 2:
            raise Stop

    stages = Stages()
    job, _ = hooked(stages)
    with pytest.raises(Stop):
        run(job.slide, job.model, mask=TissueMask.whole(job.slide), supertile=64, progress=progress)  # type: ignore[arg-type]
    assert not threads()
    assert stages.begun["read"] < COUNT


# who binds


SLOW = 0.06
"""Seconds; the work itself of all stages together is about a tenth of that."""


def sleeping(seconds: float) -> Hook:
    return lambda index: time.sleep(seconds)


@pytest.mark.parametrize(
    ("seconds", "bound"),
    [
        ({"read": SLOW}, "reader"),
        ({"model": SLOW}, "model"),
        ({"post": SLOW}, "post-processing"),
        ({"read": SLOW, "model": SLOW / 10, "post": SLOW / 10}, "reader"),
        ({"read": SLOW / 10, "model": SLOW, "post": SLOW / 10}, "model"),
        ({"read": SLOW / 10, "model": SLOW / 10, "post": SLOW}, "post-processing"),
    ],
)
@pytest.mark.parametrize("side_by_side", [False, True])
def test_the_stage_that_sleeps_longest_binds(
    hooked: Any, seconds: dict[str, float], bound: str, side_by_side: bool
) -> None:
    job, parts = hooked(Stages(**{stage: sleeping(value) for stage, value in seconds.items()}))
    busy = Busy.total(result.busy for result in all_of(job, parts, side_by_side=side_by_side))
    assert busy.bound() == bound
    slept = COUNT * max(seconds.values())
    assert slept <= max(busy.read, busy.model, busy.post) <= busy.wall


def test_tasks_of_workers_add_up_to_the_same_story(hooked: Any) -> None:
    job, parts = hooked(Stages(read=sleeping(SLOW)))
    busy = Busy.total(next(predict_supertiles(job, [one])).busy for one in enumerate(parts))
    assert busy.bound() == "reader"
    assert busy.read + busy.model + busy.post <= busy.wall


def test_what_the_gpu_worked_is_told_apart_from_what_its_host_did(hooked: Any) -> None:
    job, _ = hooked(Stages(model=lambda index: add_gpu_seconds(0.25)))
    report: RunReport = run(job.slide, job.model, mask=TissueMask.whole(job.slide), supertile=64)  # type: ignore[arg-type]
    assert report.busy.gpu == pytest.approx(0.25 * COUNT)
    assert "GPU 100 %" in str(report)


# batches of a network


@dataclass(frozen=True)
class Network(Planted):
    """An encoder that says how many patches it takes in a pass."""

    core: int = 16
    halo: int = 0
    batch: int = 0
    width: int = 1
    seen: list[int] = field(default_factory=list)

    def embed(self, batch: Batch) -> Any:
        self.seen.append(len(batch))
        return batch.images.mean((1, 2, 3), dtype=np.float32)[:, None]


@pytest.mark.parametrize(("asked", "expected"), [(None, [96, 96, 64]), (100, [100, 100, 56])])
def test_batches_are_whole_passes_unless_a_size_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, asked: int | None, expected: list[int]
) -> None:
    monkeypatch.setattr("wsikit.pipeline.supertile.BATCH_PIXELS", 100 * 16**2)
    slide, network = scene(256, 256, []), Network(batch=32)
    assert isinstance(network, Encoder)
    run(slide, network, mask=TissueMask.whole(slide), batch_size=asked)
    assert network.seen == expected


def test_a_pass_larger_than_a_default_batch_is_one_batch() -> None:
    patch = 1024
    assert BATCH_PIXELS // patch**2 == 4
    slide, network = scene(3 * patch, 2 * patch, []), Network(batch=64, core=patch)
    assert network.tile == TileSpec(0.5, patch, 0, 0.0)
    run(slide, network, mask=TissueMask.whole(slide))
    assert network.seen == [6]
