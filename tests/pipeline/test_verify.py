"""``wsikit verify`` finds what was changed in a run's folder, and what a model says otherwise than it did."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.planted import INK, PAPER
from wsikit.config import RunConfig, TileConfig
from wsikit.pipeline.batch import run_many
from wsikit.pipeline.inputs import find_slides
from wsikit.pipeline.tile import tile_many
from wsikit.pipeline.verify import Verified, as_json, cause, verify

FORMATS = ("geojson.gz", "omezarr")
MODEL = """
from dataclasses import dataclass
import numpy as np
from wsikit.geometry import TileSpec
from wsikit.predictions import Label, ScoreMap, Stateless

@dataclass(frozen=True)
class Dark(Stateless):
    name = "dark"
    produces = ScoreMap
    labels = (Label("Dark", (1, 1, 1)), Label("Light", (2, 2, 2), background=True))
    tile = TileSpec(0.5, core=64, halo=0, min_tissue=0.0)

    def predict(self, batch):
        dark = (batch.images.mean(axis=3) < LIMIT).astype(np.float32)
        return [ScoreMap(region, np.stack([one, 1 - one], axis=2)) for region, one in zip(batch.regions, dark)]
"""


def write_model(folder: Path, limit: str) -> Path:
    path = folder / "dark.py"
    path.write_text(MODEL.replace("LIMIT", limit))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with slides a and b, a model, and a run of it over them in out."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "in").mkdir()
    for number, name in enumerate("ab"):
        pixels = np.full((256, 320, 3), PAPER, np.uint8)
        pixels[20 : 90 + number, 30:250] = INK
        Image.fromarray(pixels).save(folder / "in" / f"{name}.png")
    config = RunConfig(
        model=f"{write_model(folder, '128')}:Dark", mpp_override=0.5, num_workers=1, supertile=64, cluster="threads",
        format=FORMATS, tissue="whole",
    )  # fmt: skip
    records = run_many(find_slides(folder / "in"), folder / "out", config, source=str(folder / "in"))
    assert [record["status"] for record in records] == ["complete"] * 2
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it; slides and model stay where they are."""
    shutil.copytree(finished / "out", tmp_path / "out")
    return tmp_path / "out"


def codes(verified: list[Verified]) -> dict[str, list[str]]:
    return {slide.slide_id: [finding.code for finding in slide.findings] for slide in verified}


def change_record(out: Path, change: Callable[[dict[str, Any]], object], name: str = "b") -> None:
    path = out / name / "slide.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def flip(path: Path) -> None:
    """One bit in the middle of a file; its size and time stay."""
    data, status = bytearray(path.read_bytes()), path.stat()
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def files(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_a_run_that_nobody_touched_is_sound_and_stays_as_it_is(run: Path) -> None:
    before, steps = files(run), []
    found = verify(run, sample=3, workers=1, advance=lambda done, total: steps.append((done, total)))
    assert codes(found) == {"a": [], "b": []}
    assert [(slide.outputs, slide.supertiles, slide.of) for slide in found] == [(3, 3, 20)] * 2
    assert [slide.notes for slide in found] == [[], []]
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert files(run) == before


@pytest.mark.parametrize("name", ["objects.geojson.gz", "masks.ome.zarr/.zattrs", "masks.ome.zarr/0/.zarray"])
def test_a_bit_that_flipped_in_an_output_is_found(run: Path, name: str) -> None:
    flip(run / "b" / name)
    found = verify(run, sample=0, workers=1)
    assert codes(found) == {"a": [], "b": ["output_changed"]}
    assert name.partition("/")[0] in found[1].findings[0].message


@pytest.mark.parametrize("name", FORMATS)
def test_an_output_that_is_gone_is_found(run: Path, name: str) -> None:
    path = next(path for path in (run / "b").iterdir() if path.name.endswith(name.replace("omezarr", ".zarr")))
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert codes(verify(run, sample=0, workers=1)) == {"a": [], "b": ["output_missing"]}


def test_a_chunk_that_is_gone_is_found(run: Path) -> None:
    chunk = next(
        path for path in sorted((run / "b" / "masks.ome.zarr").rglob("*")) if path.name.isdecimal() and path.is_file()
    )
    chunk.unlink()
    assert codes(verify(run, sample=0, workers=1)) == {"a": [], "b": ["output_changed"]}


def test_a_slide_that_was_touched_or_is_gone_is_found(run: Path, finished: Path) -> None:
    slide = finished / "in" / "b.png"
    status = slide.stat()
    try:
        os.utime(slide, (0, 0))
        (_, touched) = verify(run, sample=1, workers=1)
        slide.rename(slide.with_suffix(".away"))
        (_, gone) = verify(run, sample=1, workers=1)
    finally:
        if not slide.exists():
            slide.with_suffix(".away").rename(slide)
        os.utime(slide, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert [finding.code for finding in touched.findings] == ["source_changed"]
    assert "modification time (size and sampled content are the same)" in touched.findings[0].message
    assert touched.supertiles == 1
    assert [finding.code for finding in gone.findings] == ["source_missing"]
    assert gone.supertiles == 0


def test_a_digest_that_is_another_is_drift_of_that_super_tile(run: Path) -> None:
    was = "0" * 16
    change_record(run, lambda record: record["supertiles"]["digests"].__setitem__(7, was))
    found = verify(run, sample=20, workers=1)
    assert codes(found) == {"a": [], "b": ["drift"]}
    drift = found[1].findings[0].drift
    assert drift is not None
    # five super-tiles in a row: the eighth is the third of the second row
    assert (drift.index, drift.box, drift.was) == (7, (128, 64, 192, 128), was)
    assert "nothing that the record holds differs" in cause(found[1])


def test_a_sample_is_the_same_each_time_and_another_with_another_seed(run: Path) -> None:
    change_record(run, lambda record: record["supertiles"].update(digests=["0" * 16] * 20))
    drawn = [
        tuple(
            finding.drift.index for finding in verify(run, sample=2, seed=seed, workers=1)[1].findings if finding.drift
        )
        for seed in (0, 0, 1, 2)
    ]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1
    assert {len(indices) for indices in drawn} == {2}


def test_a_model_whose_code_changed_drifts_and_is_named(run: Path, finished: Path) -> None:
    change_record(run, lambda record: record["versions"].update(numpy="1.0"))
    write_model(finished, "1")
    try:
        found = verify(run, sample=20, workers=1)
    finally:
        write_model(finished, "128")
    drifted = [finding.drift.index for finding in found[0].findings if finding.drift]
    # those with ink in them, and no other
    assert drifted == [0, 1, 2, 3, 5, 6, 7, 8]
    assert set(found[0].versions) == {"model"}
    assert set(found[1].versions) == {"model", "numpy"}
    assert "numpy 1.0 -> " in cause(found[1])


def test_a_model_that_is_gone_is_told_of_each_slide(run: Path, finished: Path) -> None:
    model = finished / "dark.py"
    model.rename(finished / "away.py")
    try:
        found = verify(run, workers=1)
    finally:
        (finished / "away.py").rename(model)
    assert all(slide.outputs == 3 and not slide.sound for slide in found)
    assert "no super-tile could be predicted again" in found[0].findings[0].message


def test_a_model_that_kills_its_process_costs_the_comparison_alone(run: Path, finished: Path) -> None:
    (finished / "dark.py").write_text(MODEL.replace("LIMIT", "__import__('os').abort()"))
    try:
        found = verify(run, workers=1)
    finally:
        write_model(finished, "128")
    assert codes(found) == {"a": ["worker_crash"], "b": ["worker_crash"]}
    assert [slide.outputs for slide in found] == [3, 3]


def test_what_cannot_be_compared_is_said_and_no_error(run: Path) -> None:
    change_record(run, lambda record: record.update(schema=1), "a")
    change_record(run, lambda record: record.pop("supertiles"))
    found = verify(run, workers=1)
    assert codes(found) == {"a": [], "b": []}
    assert "schema 1" in found[0].notes[0]
    assert "no super-tiles are recorded" in found[1].notes[0]
    assert (found[0].outputs, found[1].outputs) == (0, 3)


def test_a_record_that_is_lost_is_found(run: Path) -> None:
    (run / "b" / "slide.json").unlink()
    assert codes(verify(run, sample=0, workers=1)) == {"a": [], "b": ["bad_record"]}


def test_patches_are_checked_by_their_checksums(finished: Path, tmp_path: Path) -> None:
    config = TileConfig(mpp_override=0.5, size=64, tissue="whole", min_tissue=0, num_workers=1)
    tile_many(find_slides(finished / "in"), tmp_path / "out", config)
    assert codes(verify(tmp_path / "out", workers=1)) == {"a": [], "b": []}
    flip(next(path for path in sorted((tmp_path / "out" / "a" / "patches.zarr").rglob("*")) if path.is_file()))
    found = verify(tmp_path / "out", workers=1)
    assert codes(found) == {"a": ["output_changed"], "b": []}
    assert (found[0].outputs, found[0].of, found[0].notes) == (1, 0, [])


def test_what_is_found_is_ready_for_json(run: Path) -> None:
    flip(run / "b" / "objects.geojson.gz")
    told = json.loads(json.dumps(as_json(verify(run, sample=1, workers=1))))
    assert told["sound"] is False
    assert [(slide["slide_id"], slide["sound"]) for slide in told["slides"]] == [("a", True), ("b", False)]
