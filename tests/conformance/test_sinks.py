"""One contract for every sink: unseen before commit, no trace after abort, replaced as a whole, one kind of error."""

from __future__ import annotations

import errno
import gzip
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
import zarr

from tests.conformance.qupath import assert_qupath
from wsikit.errors import OutputError
from wsikit.features import Features, Instances, Layer, MaskBlock
from wsikit.geometry import Region
from wsikit.predictions import Label
from wsikit.sinks import SINKS, InstanceLayout, Sink, SinkContext

CONTEXT = SinkContext(
    slide_id="case 1",
    slide_mpp=0.25,
    bounds_offset=(100, 50),
    mpp=0.5,
    size=(1500, 900),
    labels=(Label("Nucleus", (10, 200, 30)),),
    model="test",
    layers=(Layer("classes", "uint8", {1: (10, 200, 30)}, {1: "Nucleus"}),),
    has_scores=False,
    overview=np.full((60, 100, 3), 240, np.uint8),
    overview_mpp=7.5,
)

MAKERS: dict[str, Callable[[Path], Sink]] = {
    "geojson.gz": lambda folder: SINKS.load("geojson.gz")(folder / "objects.geojson.gz"),
    "geojson": lambda folder: SINKS.load("geojson.gz")(folder / "objects.geojson"),
    "geojson.gz split": lambda folder: SINKS.load("geojson.gz")(folder / "objects.geojson.gz", split=2),
    "parquet": lambda folder: SINKS.load("parquet")(folder / "objects.parquet"),
    "omezarr": lambda folder: SINKS.load("omezarr")(folder / "masks.ome.zarr"),
    "features.zarr": lambda folder: SINKS.load("features.zarr")(folder / "features.zarr"),
    "features.h5": lambda folder: SINKS.load("features.h5")(folder / "features.h5"),
    "omezarr 0.5": lambda folder: SINKS.load("omezarr")(folder / "masks.ome.zarr", ngff="0.5"),
}


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest) -> Iterator[Callable[[Path], Sink]]:
    made: list[Sink] = []

    def one(folder: Path) -> Sink:
        made.append(MAKERS[request.param](folder))
        return made[-1]

    yield one
    for sink in made:
        sink.abort()


def _begin(sink: Sink, count: int = 0) -> None:
    """Begin with what is known before: sinks of instances are told how many will come."""
    sink.begin(replace(CONTEXT, instances=InstanceLayout(count, 3, 224)) if sink.takes == "instances" else CONTEXT)


def _write(sink: Sink, count: int) -> None:
    """``count`` objects or instances, or one block with the pixel value 1 in its first ``count`` rows."""
    if sink.takes == "instances":
        corners = np.arange(2 * count).reshape(count, 2)
        sink.write(Instances(corners, np.ones((count, 3), np.float32)))
        return
    if sink.takes == "features":
        outlines = np.array([shapely.box(200 + 20 * i, 100, 210 + 20 * i, 110) for i in range(count)], object)
        sink.write(Features("detection", outlines, np.zeros(count, np.int64)))
        return
    image = np.zeros((900, 1500), np.uint8)
    image[:count] = 1
    sink.write(MaskBlock(Region(0, 0, 1500, 900, 0.5), {"classes": image}))


def _read(folder: Path) -> int:
    """How many objects, instances or rows of the mask the committed output holds; it must be valid."""
    if (folder / "features.zarr").exists():
        return int(np.asarray(zarr.open_group(folder / "features.zarr", mode="r")["features"][:, 0]).sum())  # type: ignore[index]
    if (folder / "features.h5").exists():
        with h5py.File(folder / "features.h5") as file:
            return int(file["features"][:, 0].sum())
    if (folder / "objects.parquet").exists():
        return len(pq.read_table(folder / "objects.parquet"))
    if (folder / "masks.ome.zarr").exists():
        image: Any = zarr.open_group(folder / "masks.ome.zarr", mode="r")["labels/classes/0"]
        return int((np.asarray(image[:]) == 1).any(1).sum())
    total = 0
    for path in folder.iterdir():
        assert_qupath(path)
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        total += len(json.loads(text)["features"])
    return total


def _visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_every_sink_is_tried() -> None:
    assert {name.split()[0] for name in MAKERS} >= set(SINKS)


def test_the_class_says_its_file_name_and_takes_only_a_path(tmp_path: Path) -> None:
    for name in SINKS:
        kind = SINKS.load(name)
        assert kind(tmp_path / kind.filename).path == tmp_path / kind.filename


def test_nothing_is_visible_before_commit(make: Callable[[Path], Sink], tmp_path: Path) -> None:
    sink = make(tmp_path)
    _begin(sink, 5)
    _write(sink, 5)
    assert _visible(tmp_path) == []


def test_what_was_written_is_there_after_commit_and_nothing_else(make: Callable[[Path], Sink], tmp_path: Path) -> None:
    sink = make(tmp_path)
    _begin(sink, 5)
    _write(sink, 5)
    sink.commit()
    assert _read(tmp_path) == 5
    assert len(_visible(tmp_path)) == len(list(tmp_path.iterdir()))


def test_abort_leaves_no_trace(make: Callable[[Path], Sink], tmp_path: Path) -> None:
    sink = make(tmp_path)
    _begin(sink, 5)
    _write(sink, 5)
    sink.abort()
    assert list(tmp_path.iterdir()) == []


def test_abort_keeps_what_was_committed_before(make: Callable[[Path], Sink], tmp_path: Path) -> None:
    for count in (5, 3):
        sink = make(tmp_path)
        _begin(sink, count)
        _write(sink, count)
        sink.commit() if count == 5 else sink.abort()
        sink.abort()
    assert _read(tmp_path) == 5


@pytest.mark.parametrize("counts", [(5, 3), (1, 5), (5, 1), (3, 0)])
def test_commit_replaces_what_was_there(make: Callable[[Path], Sink], tmp_path: Path, counts: tuple[int, int]) -> None:
    for count in counts:
        sink = make(tmp_path)
        _begin(sink, count)
        _write(sink, count)
        sink.commit()
    assert _read(tmp_path) == counts[1]
    assert len(_visible(tmp_path)) == len(list(tmp_path.iterdir()))


def test_no_writes_give_a_valid_empty_output(make: Callable[[Path], Sink], tmp_path: Path) -> None:
    sink = make(tmp_path)
    _begin(sink)
    sink.commit()
    assert len(_visible(tmp_path)) == 1
    assert _read(tmp_path) == 0


def test_a_crashed_run_of_the_same_process_id_is_in_nobodys_way(make: Callable[[Path], Sink], tmp_path: Path) -> None:
    crashed = make(tmp_path)
    _begin(crashed, 5)
    _write(crashed, 5)
    sink = make(tmp_path)
    _begin(sink, 2)
    _write(sink, 2)
    sink.commit()
    assert _read(tmp_path) == 2


def test_a_folder_that_is_a_file_is_an_output_error(make: Callable[[Path], Sink], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    sink = make(tmp_path / "taken")
    with pytest.raises(OutputError) as caught:
        _begin(sink)
    assert caught.value.code == "io_error"
    assert isinstance(caught.value.__cause__, OSError)


def test_a_folder_that_does_not_exist_is_an_output_error(make: Callable[[Path], Sink], tmp_path: Path) -> None:
    sink = make(tmp_path / "missing")
    with pytest.raises(OutputError) as caught:
        _begin(sink)
    assert "folder that exists" in caught.value.remedy
    assert not (tmp_path / "missing").exists()


def test_a_failed_begin_can_be_aborted(make: Callable[[Path], Sink], tmp_path: Path) -> None:
    sink = make(tmp_path / "missing")
    with pytest.raises(OutputError):
        _begin(sink)
    sink.abort()


def test_a_full_disk_says_no_space_and_abort_cleans_up(
    make: Callable[[Path], Sink], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    sink = make(tmp_path)
    _begin(sink, 2)
    _write(sink, 2)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError) as caught:
        sink.commit()
    assert caught.value.code == "no_space"
    sink.abort()
    assert list(tmp_path.iterdir()) == []


def test_commit_without_begin_is_refused(make: Callable[[Path], Sink], tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="begin"):
        make(tmp_path).commit()
