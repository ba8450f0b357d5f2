"""A run that ends in the middle of a slide goes on where it was, and ends like one that did not."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.planted import INK, PAPER, BlobPredictor
from tests.planted_areas import Oracle, painted, planted_classes
from wsikit.config import RunConfig
from wsikit.errors import OutputError
from wsikit.pipeline import batch as batch_module
from wsikit.pipeline import stages
from wsikit.pipeline.batch import SIDE_BY_SIDE, Silent, run_many
from wsikit.pipeline.inputs import SlideEntry, find_slides
from wsikit.pipeline.results import is_done, load_result, save_result
from wsikit.pipeline.stages import SPOOL, SlideTask, begin, finish, predict
from wsikit.pipeline.workers import IN_FLIGHT
from wsikit.predictions import AreaSpec
from wsikit.predictors.files import dumps

CONFIG = RunConfig(mpp_override=0.5, num_workers=1, cluster="threads", supertile=128, tissue="whole")
SIDE = 640
"""Of the picture, px: 25 super-tiles."""


@pytest.fixture
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[SlideEntry]:
    """One picture with a blob in the middle and across the seams of super-tiles, for a model that finds blobs."""
    pixels = np.full((SIDE, SIDE, 3), PAPER, np.uint8)
    for y in range(20, SIDE - 20, 54):
        for x in range(20, SIDE - 20, 54):
            pixels[y : y + 12, x : x + 12] = INK
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in" / "a.png")
    monkeypatch.setattr(batch_module, "load_model", lambda *_, **__: BlobPredictor())
    return find_slides(tmp_path / "in")


def outputs(out: Path) -> dict[str, str]:
    """Name of each file that is a result -> hash of what it holds."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.is_file() and path.name not in {"slide.json", "run.yaml", "summary.csv", "report.html"}:
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            found[name] = hashlib.sha256(data).hexdigest()
    return found


class Ending(Silent):
    """Ends the run when ``after`` super-tiles are done; remembers where the next one began."""

    def __init__(self, after: int = 10**9) -> None:
        self.after, self.first, self.total = after, -1, 0

    def progress(self, entry: SlideEntry, done: int, total: int) -> None:
        self.first = done if self.first < 0 else self.first
        self.total = total
        if done >= self.after:
            raise KeyboardInterrupt


def end_in_the_middle(entries: list[SlideEntry], out: Path, config: RunConfig = CONFIG, after: int = 7) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_many(entries, out, config, observer=Ending(after))


@pytest.mark.parametrize("after", [0, 1, 7, 24, 25])
def test_what_was_done_is_not_done_again_and_the_outputs_are_the_same(
    entries: list[SlideEntry], tmp_path: Path, after: int
) -> None:
    (whole,) = run_many(entries, tmp_path / "whole", CONFIG)
    end_in_the_middle(entries, tmp_path / "out", after=after)
    assert not [name for name in outputs(tmp_path / "out") if SPOOL not in name]
    again = Ending()
    (record,) = run_many(entries, tmp_path / "out", CONFIG, observer=again)
    assert after <= again.first <= after + IN_FLIGHT * SIDE_BY_SIDE + SIDE_BY_SIDE
    assert again.total == 25
    assert record["status"] == "complete"
    assert record["objects"] == whole["objects"] > 100
    assert record["supertiles"] == whole["supertiles"]
    assert outputs(tmp_path / "out") == outputs(tmp_path / "whole")


def test_class_maps_and_their_areas_go_on_to_the_same_bytes(
    entries: list[SlideEntry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(painted(planted_classes(SIDE, SIDE, grain=60))).save(entries[0].path)
    model = Oracle(core=64, halo=16, areas=AreaSpec(least_um2=50.0))
    monkeypatch.setattr(batch_module, "load_model", lambda *_, **__: model)
    config = CONFIG.model_copy(update={"format": ("geojson.gz", "omezarr", "parquet")})
    run_many(entries, tmp_path / "whole", config)
    end_in_the_middle(entries, tmp_path / "out", config)
    again = Ending()
    (record,) = run_many(entries, tmp_path / "out", config, observer=again)
    assert again.first > 0
    assert record["areas_mm2"]["Tumor"] > 0
    assert outputs(tmp_path / "out") == outputs(tmp_path / "whole")


def test_super_tiles_keep_their_size_when_others_are_asked_for(entries: list[SlideEntry], tmp_path: Path) -> None:
    run_many(entries, tmp_path / "whole", CONFIG)
    end_in_the_middle(entries, tmp_path / "out")
    again = Ending()
    config = CONFIG.model_copy(update={"supertile": 64, "batch_size": 1, "num_workers": 2})
    run_many(entries, tmp_path / "out", config, observer=again)
    assert (again.first > 0, again.total) == (True, 25)
    assert outputs(tmp_path / "out") == outputs(tmp_path / "whole")


def test_nothing_of_other_parameters_is_gone_on_with(entries: list[SlideEntry], tmp_path: Path) -> None:
    end_in_the_middle(entries, tmp_path / "out")
    again = Ending()
    run_many(entries, tmp_path / "out", CONFIG.model_copy(update={"min_tissue": 0.5}), observer=again)
    assert again.first == 0


def task_of(entries: list[SlideEntry], folder: Path, **config: Any) -> SlideTask:
    return SlideTask(entries[0], folder, CONFIG.model_copy(update=config), "key", 1)


@pytest.mark.parametrize("damage", ["short", "empty", "gone", "flipped"])
def test_a_super_tile_whose_files_are_not_whole_is_done_again(
    entries: list[SlideEntry], tmp_path: Path, damage: str
) -> None:
    model = dumps(BlobPredictor())
    task = task_of(entries, tmp_path / "out")
    begun = begin(task, model)
    predict(task, begun.plan, range(begun.count))
    path = sorted(task.found(begun.side).glob("o*.npz"))[3]
    data = path.read_bytes()
    at = len(data) // 2
    damaged = {"short": data[:at], "empty": b"", "flipped": data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]}
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(damaged[damage])
    again = begin(task, model)
    assert len(again.done) == begun.count - 1
    predict(task, again.plan, range(begun.count))
    assert path.read_bytes() == data
    assert finish(task, again.plan)["status"] == "complete"


def test_a_plan_that_this_run_has_not_written_is_not_unpickled(entries: list[SlideEntry], tmp_path: Path) -> None:
    task = task_of(entries, tmp_path / "out")
    begun = begin(task, dumps(BlobPredictor()))
    (task.spool / "plan").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(OutputError, match="not what this run wrote"):
        predict(task, begun.plan, [0])


def test_what_a_super_tile_gave_is_read_as_it_was_written(entries: list[SlideEntry], tmp_path: Path) -> None:
    task = task_of(entries, tmp_path / "out")
    begun = begin(task, dumps(BlobPredictor()))
    predict(task, begun.plan, [0])
    found = task.found(begun.side)
    first = load_result(found, 0)
    save_result(found, 5, replace(first, dropped=np.array([[3, 4], [7, 8]])))
    again = load_result(found, 5)
    assert again.dropped.tolist() == [[3, 4], [7, 8]]
    assert again.quality.rows() == first.quality.rows()
    assert (again.files, again.busy, again.bad) == (first.files, first.busy, first.bad)
    assert is_done(found, 5)
    assert not is_done(found, 6)


@pytest.mark.parametrize("other", [{"key": "another"}, {"most_side": 64}])
def test_another_try_has_a_folder_of_its_own(entries: list[SlideEntry], tmp_path: Path, other: dict[str, Any]) -> None:
    """A task of the earlier one, which a cluster could not stop, has its plan loaded and may still write."""
    model, task = dumps(BlobPredictor()), task_of(entries, tmp_path / "out")
    first = begin(task, model)
    predict(task, first.plan, [0])
    again = replace(task_of(entries, tmp_path / "out", supertile=64), **other)
    begun = begin(again, model)
    assert (begun.side, begun.done) == (64, ())
    assert again.found(begun.side) != task.found(first.side)
    assert not task.found(first.side).exists()
    assert replace(task, key="another").found(128) != task.found(128)


def test_a_failure_leaves_no_spool(entries: list[SlideEntry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(stages, "save_result", full)
        (record,) = run_many(entries, tmp_path / "out", CONFIG)
    assert record["reason"] == "no_space"
    assert [path.name for path in (tmp_path / "out" / "a").iterdir()] == ["slide.json"]
    (record,) = run_many(entries, tmp_path / "out", CONFIG)
    assert record["status"] == "complete"
