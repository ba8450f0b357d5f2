"""Slides to patch datasets: which windows, which bytes, and what is left when something goes wrong."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tests.slides.broken import picture, scramble, tiled
from wsikit.config import TileConfig
from wsikit.errors import ConfigError, OutputError, UnknownNameError
from wsikit.geometry import Region, TileSpec
from wsikit.patches import FORMATS, PatchRows, PatchSource, open_patches
from wsikit.pipeline.encode import PatchEncoder, can_pass
from wsikit.pipeline.inputs import SlideEntry, find_slides
from wsikit.pipeline.state import read_record
from wsikit.pipeline.tile import Cutting, patch_set, plan_tiling, tile_many
from wsikit.pipeline.windows import choose_windows
from wsikit.slides import open_slide
from wsikit.slides.array import array_slide
from wsikit.slides.tiles import TileReader
from wsikit.tiling import TileGrid
from wsikit.tissue import TissueMask, find_tissue

WHOLE: dict[str, Any] = {"tissue": "whole", "min_tissue": 0.0, "num_workers": 1}


def cut(source: Path, out: Path, **options: Any) -> dict[str, Any]:
    """The record of the one slide."""
    [record] = tile_many(find_slides(source, out), out, TileConfig(**{"num_workers": 1, **options}))
    return record


def patches_in(out: Path, record: dict[str, Any], slide: Path | None = None) -> PatchSource:
    [name] = record["outputs"]
    return open_patches((out / record["slide_id"] / name).resolve(), slide=slide)


def region(source: PatchSource, index: int) -> Region:
    x, y = source.corners[index].tolist()
    return Region(x, y, source.patches.patch, source.patches.patch, source.patches.mpp)


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((a.astype(float) - b) ** 2))))


def everything(folder: Path) -> dict[str, str]:
    """Every file of the patches -> sha256."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.name != "slide.json"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@pytest.fixture
def tiff(tmp_path: Path) -> Path:
    """400 x 300 px at 0.5 um per px in RGB JPEG tiles of 128 px: 3 x 2 lie wholly on it."""
    folder = tmp_path / "slides"
    folder.mkdir()
    return tiled(folder / "one.tif", [picture()])


# what is passed through


def test_patches_on_the_files_own_tiles_are_its_bytes(pyramid: Path, tmp_path: Path) -> None:
    record = cut(pyramid, tmp_path)
    assert record["status"] == "complete"
    assert record["tiles"]["encoded"] == 0
    assert record["tiles"]["passed"] == record["patches"] > 50
    source = patches_in(tmp_path, record)
    with open_slide(pyramid) as slide:
        assert isinstance(slide.reader, TileReader)
        for index, (x, y) in enumerate(source.corners.tolist()):
            assert bytes(source.data(index)) == slide.reader.tile_jpeg(0, x // 256, y // 256)  # type: ignore[attr-defined]
            assert np.array_equal(source.read(index), slide.read(region(source, index)))


def test_rgb_jpeg_passed_through_shows_the_slides_colours(cmu: Path, tmp_path: Path) -> None:
    record = cut(cmu, tmp_path, size="native")
    source = patches_in(tmp_path, record)
    assert source.patches.patch == 240
    assert (source.patches.level, source.patches.quality) == (0, None)
    assert record["tiles"]["passed"] == len(source) > 30
    with open_slide(cmu) as slide:
        assert all(np.array_equal(source.read(i), slide.read(region(source, i))) for i in range(len(source)))


def test_never_passing_through_encodes_all(tiff: Path, tmp_path: Path) -> None:
    record = cut(tiff, tmp_path / "out", size=128, passthrough="never", quality=95, **WHOLE)
    assert (record["tiles"]["passed"], record["tiles"]["encoded"]) == (0, 6)
    source = patches_in(tmp_path / "out", record)
    assert source.patches.quality == 95
    with open_slide(tiff) as slide:
        found = [psnr(source.read(i), slide.read(region(source, i))) for i in range(6)]
    assert np.mean(found) > 38
    assert min(found) > 36


def subsampled(path: Path, sampling: tuple[int, int]) -> Path:
    """The picture in tiles of YCbCr JPEG at quality 80, colours coarser by ``sampling``."""
    path.parent.mkdir()
    options = {"photometric": "ycbcr", "subsampling": sampling, "compressionargs": {"level": 80}}
    return tiled(path, [picture()], **options)


def sampling_of(data: bytes) -> tuple[int, int]:
    """(across, down) how much coarser a JPEG's colours are, as Pillow sees it."""
    with Image.open(io.BytesIO(data)) as image:
        (_, across, down, _), *_ = image.layer  # type: ignore[attr-defined]
    return across, down


@pytest.mark.parametrize(
    ("file", "options", "found"),
    [
        ((2, 2), {"size": 64}, (2, 2)),
        ((2, 2), {"size": 64, "overlap": 16}, (2, 2)),
        ((2, 2), {"size": 64, "overlap": 8}, (1, 1)),
        ((2, 2), {"size": 100}, (1, 1)),
        ((2, 2), {"size": 64, "mpp": 0.7}, (1, 1)),
        ((2, 2), {"size": 64, "subsampling": "444"}, (1, 1)),
        ((2, 1), {"size": 64}, (2, 1)),
        ((1, 1), {"size": 64}, (1, 1)),
        ((1, 1), {"size": 100, "subsampling": "420"}, (2, 2)),
    ],
)
def test_colours_are_as_coarse_as_the_files_where_blocks_are_its_own(
    file: tuple[int, int], options: Any, found: tuple[int, int], tmp_path: Path
) -> None:
    record = cut(subsampled(tmp_path / "slides" / "one.tif", file), tmp_path / "out", **options, **WHOLE)
    source = patches_in(tmp_path / "out", record)
    assert {sampling_of(bytes(source.data(i))) for i in range(len(source))} == {found}
    assert source.patches.subsampling == {(1, 1): "444", (2, 1): "422", (2, 2): "420"}[found]


def test_coarse_colours_lose_nothing_where_blocks_are_the_files_own(tmp_path: Path) -> None:
    """At the file's own quality 4:2:0 is nearly the file's numbers again; 4:4:4 rounds other ones."""
    slide = subsampled(tmp_path / "slides" / "one.tif", (2, 2))
    quality: dict[str, float] = {}
    for subsampling in ("420", "444"):
        out = tmp_path / subsampling
        record = cut(slide, out, size=64, quality=80, subsampling=subsampling, **WHOLE)
        source = patches_in(out, record)
        with open_slide(slide) as opened:
            found = [psnr(source.read(i), opened.read(region(source, i))) for i in range(len(source))]
        quality[subsampling] = float(np.mean(found))
    assert quality["420"] > quality["444"] > 30


@pytest.mark.parametrize(("options", "why"), [({"size": 100}, "128x128"), ({"mpp": 1.1, "size": 64}, "no level")])
def test_only_passing_through_what_cannot_be_fails(tiff: Path, tmp_path: Path, options: Any, why: str) -> None:
    record = cut(tiff, tmp_path / "out", passthrough="only", **options, **WHOLE)
    assert (record["status"], record["reason"]) == ("failed", "cannot_pass")
    assert why in record["message"]
    assert {path.name for path in (tmp_path / "out" / "one").iterdir()} == {"slide.json"}


def test_only_passing_through_leaves_out_the_padded_patches(tiff: Path, tmp_path: Path) -> None:
    record = cut(tiff, tmp_path / "out", size=128, edge="pad", passthrough="only", **WHOLE)
    assert (record["patches"], record["tiles"]["passed"]) == (6, 6)


def test_overlapping_windows_are_never_passed_through(tiff: Path) -> None:
    """A quarter of them would be compressed once less than their neighbours."""
    with open_slide(tiff) as slide:
        grid = TileGrid.cover(slide, TileSpec(slide.mpp, 128, stride=64))
        assert can_pass(slide, grid, 128).sum() == 6
        assert not can_pass(slide, grid, 64).any()


def test_a_tile_that_the_file_leaves_out_is_encoded_background(tmp_path: Path) -> None:
    path = tiled(tmp_path / "hole.tif", [picture()])
    import tifffile

    with tifffile.TiffFile(path, mode="r+b") as file:
        counts = list(file.pages[0].tags["TileByteCounts"].value)
        file.pages[0].tags["TileByteCounts"].overwrite([0, *counts[1:]])
    record = cut(path, tmp_path / "out", size=128, **WHOLE)
    assert (record["status"], record["tiles"]["passed"], record["tiles"]["encoded"]) == ("complete", 5, 1)
    first = patches_in(tmp_path / "out", record).read(0)
    with open_slide(path) as slide:
        assert np.abs(first.astype(int) - slide.read(Region(0, 0, 128, 128, slide.mpp))).max() <= 1


# every format


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in FORMATS.plugins])
@pytest.mark.parametrize("options", [{"size": 75, "overlap": 13}, {"size": 50, "mpp": 1.3}], ids=["level", "between"])
def test_what_is_read_back_is_what_the_slide_shows(name: str, options: Any, tiff: Path, tmp_path: Path) -> None:
    record = cut(tiff, tmp_path / "out", format=name, lossless=True, scaled_decode=False, **options, **WHOLE)
    source = patches_in(tmp_path / "out", record, tiff)
    assert record["status"] == "complete"
    assert len(source) == record["patches"] > 0
    with open_slide(tiff) as slide:
        for index in range(len(source)):
            assert np.array_equal(source.read(index), slide.read(region(source, index)))
            x0, y0, *_ = region(source, index).level0(slide)
            assert source.xy[index] == pytest.approx((x0, y0))


def test_a_lossless_dataset_is_jpeg_where_every_patch_is_passed_through(tiff: Path, tmp_path: Path) -> None:
    for edge, encoding in (("drop", "jpeg"), ("pad", "png")):
        record = cut(tiff, tmp_path / edge, size=128, edge=edge, lossless=True, **WHOLE)
        source = patches_in(tmp_path / edge, record)
        assert (source.patches.encoding, source.patches.quality) == (encoding, None)
        with open_slide(tiff) as slide:
            assert all(np.array_equal(source.read(i), slide.read(region(source, i))) for i in range(len(source)))


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in FORMATS.plugins])
def test_any_number_of_threads_gives_the_same_bytes(name: str, cmu: Path, tiff: Path, tmp_path: Path) -> None:
    found = []
    for threads in (1, 2, 3):
        out = tmp_path / str(threads)
        # the larger one comes in several batches
        source, size = (cmu, 224) if name == "zarr" else (tiff, 37)
        record = cut(source, out, format=name, size=size, overlap=9, edge="pad", **{**WHOLE, "num_workers": threads})
        found.append(everything((out / record["slide_id"] / next(iter(record["outputs"]))).resolve().parent))
    assert found[0] == found[1] == found[2]
    assert found[0]


# which windows


@settings(max_examples=60)
@given(st.integers(1, 150), st.integers(1, 150), st.integers(1, 60), st.data())
def test_windows_cover_the_slide_or_lie_on_it(width: int, height: int, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    step = size - overlap
    slide = array_slide(np.zeros((height, width, 3), np.uint8), 0.5)
    tissue = TissueMask.whole(slide)
    for edge in ("drop", "pad"):
        config = TileConfig(size=size, overlap=overlap, edge=edge, tissue="whole", min_tissue=0)
        windows = choose_windows(slide, SlideEntry("a", Path("a")), config, tissue)
        corners = windows.grid.corners
        expected = [(x, y) for y in starts(height, size, step, edge) for x in starts(width, size, step, edge)]
        assert [tuple(corner) for corner in corners.tolist()] == expected
        assert windows.step == step
        if edge == "drop" and len(corners):
            assert (corners + size <= (width, height)).all()
        if edge == "pad":
            covered = np.zeros((height, width), bool)
            for x, y in corners.tolist():
                covered[y : y + size, x : x + size] = True
            assert covered.all()


def starts(side: int, size: int, step: int, edge: str) -> list[int]:
    """Where windows begin, one after another as one would walk."""
    found, x = [], 0
    while edge == "drop" and x + size <= side:
        found.append(x)
        x += step
    while edge == "pad":
        found.append(x)
        if x + size >= side:
            break
        x += step
    return found


@settings(max_examples=25)
@given(st.integers(20, 110), st.integers(20, 110), st.integers(8, 70), st.sampled_from([0.5, 0.8, 1.7]), st.data())
def test_every_window_comes_once_in_order_with_its_pixels(
    width: int, height: int, size: int, mpp: float, data: st.DataObject
) -> None:
    from wsikit.patches.images import decode

    noise = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), np.uint8)
    slide = array_slide(noise, 0.5)
    spec = TileSpec(mpp, size, stride=data.draw(st.integers(max(1, size // 4), size)))
    grid = TileGrid.cover(slide, spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wsikit.pipeline.encode.STRIP", data.draw(st.integers(1, 100)))
        none = np.zeros(len(grid), np.bool_)
        found = list(PatchEncoder(slide, grid, none, "png", threads=data.draw(st.sampled_from([1, 2]))))
    assert [index for index, _ in found] == list(range(len(grid)))
    assert all(np.array_equal(decode(png), slide.read(grid[index])) for index, png in found)


def test_patches_hold_enough_tissue_and_say_how_much(pyramid: Path, tmp_path: Path) -> None:
    record = cut(pyramid, tmp_path, size=200, min_tissue=0.4, skip_glass="off", passthrough="never")
    source = patches_in(tmp_path, record)
    with open_slide(pyramid) as slide:
        tissue = find_tissue(slide)
        shares = [tissue.coverage(region(source, i)) for i in range(len(source))]
        all_of_them = TileGrid.cover(slide, TileSpec(slide.mpp, 200))
        on_slide = [r for r in all_of_them if r.x1 <= slide.width and r.y1 <= slide.height]
        assert len(source) == sum(tissue.coverage(r) >= 0.4 for r in on_slide)
    assert min(shares) >= 0.4
    assert source.tissue == pytest.approx(shares, abs=1e-5)  # type: ignore[attr-defined]


def test_tissue_at_the_edge_is_as_much_tissue_as_elsewhere(tmp_path: Path) -> None:
    """A field that is all tissue, and a few px larger than its patches."""
    Image.fromarray(picture()[:270, :270]).save(tmp_path / "field.png")
    options = {"mpp_override": 0.5, "size": 256, "mpp": 0.5, "tissue": "whole", "min_tissue": 1.0}
    record = cut(tmp_path / "field.png", tmp_path / "out", edge="pad", **options)
    source = patches_in(tmp_path / "out", record)
    assert source.corners.tolist() == [[0, 0], [256, 0], [0, 256], [256, 256]]
    assert source.tissue.tolist() == [1.0] * 4  # type: ignore[attr-defined]


def test_padding_is_the_slides_background(tiff: Path, tmp_path: Path) -> None:
    record = cut(tiff, tmp_path / "out", size=256, edge="pad", lossless=True, **WHOLE)
    source = patches_in(tmp_path / "out", record)
    assert len(source) == 4
    last = source.read(3)
    assert (last[300 - 256 :] == 255).all()
    assert (last[:, 400 - 256 :] == 255).all()
    assert (last[: 300 - 256, : 400 - 256] != 255).any()


def test_given_coordinates_are_cut_as_they_are(tiff: Path, tmp_path: Path) -> None:
    first = cut(tiff, tmp_path / "coords", format="coords", size=90, overlap=17, **WHOLE)
    second = cut(tiff, tmp_path / "out", coords=tmp_path / "coords", lossless=True, **WHOLE)
    drawn, pixels = patches_in(tmp_path / "coords", first, tiff), patches_in(tmp_path / "out", second)
    assert np.array_equal(drawn.corners, pixels.corners)
    assert (pixels.patches.patch, pixels.patches.step) == (90, 73)
    assert all(np.array_equal(drawn.read(i), pixels.read(i)) for i in range(len(drawn)))


def test_clams_coordinates_in_any_order(tiff: Path, tmp_path: Path) -> None:
    import h5py

    (tmp_path / "patches").mkdir()
    with h5py.File(tmp_path / "patches" / "one.h5", "w") as file:
        file["coords"] = np.array([[200, 100], [3, 5], [11, 100]])
        file["coords"].attrs.update({"patch_size": 64, "patch_level": 0})
    record = cut(tiff, tmp_path / "out", coords=tmp_path, lossless=True, **WHOLE)
    source = patches_in(tmp_path / "out", record)
    assert source.corners.tolist() == [[3, 5], [11, 100], [200, 100]]
    with open_slide(tiff) as slide:
        assert np.array_equal(source.read(2), slide.read(Region(200, 100, 64, 64, 0.5)))


def test_a_slide_without_coordinates_fails(tiff: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    record = cut(tiff, tmp_path / "out", coords=tmp_path / "none", **WHOLE)
    assert (record["status"], record["reason"]) == ("failed", "missing_coords")


def test_scaled_decoding_is_near_area_averaging(pyramid: Path, tmp_path: Path) -> None:
    record = cut(pyramid, tmp_path, mpp=1.0, lossless=True)
    source = patches_in(tmp_path, record)
    assert (record["reader"]["name"], source.patches.level) == ("tiff-scaled", None)
    assert source.patches.mpp == pytest.approx(0.998)
    with open_slide(pyramid) as slide:
        near = [psnr(source.read(i), slide.read(region(source, i))) for i in range(len(source))]
    assert len(near) > 15
    assert min(near) > 30


def test_without_scaled_decoding_pixels_are_area_averages(pyramid: Path, tmp_path: Path) -> None:
    record = cut(pyramid, tmp_path, mpp=1.0, lossless=True, scaled_decode=False)
    source = patches_in(tmp_path, record)
    assert (record["reader"]["name"], source.patches.mpp) == ("tiff", 1.0)
    with open_slide(pyramid) as slide:
        assert all(np.array_equal(source.read(i), slide.read(region(source, i))) for i in range(len(source)))


def test_a_quality_filter_leaves_patches_out(cmu: Path, tmp_path: Path) -> None:
    record = cut(cmu, tmp_path, size="native", qc="saturation>=0.4")
    kept, looked_at = record["patches"], record["quality"]["patches"]
    assert 0 < kept < looked_at
    assert record["quality"]["dropped"] == looked_at - kept
    # what is looked at is still passed through
    assert record["tiles"]["passed"] == kept
    source = patches_in(tmp_path, record)
    with open_slide(cmu) as slide:
        assert all(np.array_equal(source.read(i), slide.read(region(source, i))) for i in range(len(source)))


# what goes with the patches


def test_columns_of_the_manifest_go_with_the_patches(tiff: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "cohort.csv"
    manifest.write_text(f"path,patient,label,split\n{tiff},P7,tumour,train\n")
    record = cut(manifest, tmp_path / "out", size=128, **WHOLE)
    patches = patches_in(tmp_path / "out", record).patches
    assert (patches.patient, patches.label, patches.split) == ("P7", "tumour", "train")
    assert (patches.slide_id, patches.source, patches.slide_size) == ("one", "one.tif", (400, 300))
    assert patches.made["options"]["size"] == 128  # type: ignore[index]
    # another label is another dataset
    manifest.write_text(f"path,patient,label,split\n{tiff},P7,normal,train\n")
    assert patches_in(tmp_path / "out", cut(manifest, tmp_path / "out", size=128, **WHOLE)).patches.label == "normal"


def test_a_run_leaves_a_report_and_an_overview(tiff: Path, tmp_path: Path) -> None:
    record = cut(tiff, tmp_path / "out", size=128, **WHOLE)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"one", "run.yaml", "summary.csv", "report.html"}
    names = {path.name for path in (tmp_path / "out" / "one").iterdir()}
    assert names == {"slide.json", "overview.png", "patches.zarr"}
    [row] = csv.DictReader((tmp_path / "out" / "summary.csv").open())
    assert (row["status"], row["patches"], row["objects"]) == ("complete", "6", "")
    assert json.loads((tmp_path / "out" / "one" / "slide.json").read_text()) == record


# running again, and what goes wrong


def test_a_finished_slide_is_kept_and_other_parameters_replace_it(tiff: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = cut(tiff, out, size=128, **WHOLE)
    assert cut(tiff, out, size=128, **{**WHOLE, "num_workers": 2})["finished"] == first["finished"]
    coords = cut(tiff, out, size=128, format="coords", **WHOLE)
    assert coords["outputs"].keys() == {"../patches/one.h5"}
    assert not (out / "one" / "patches.zarr").exists()
    cut(tiff, out, size=128, format="folder", **WHOLE)
    assert not list((out / "patches").iterdir())


def test_one_bad_slide_does_not_stop_the_others(tiff: Path, tmp_path: Path) -> None:
    (tiff.parent / "broken.svs").write_text("no slide")
    records = tile_many(find_slides(tiff.parent), tmp_path / "out", TileConfig(size=128, **WHOLE))
    assert {r["slide_id"]: (r["status"], r["reason"]) for r in records} == {
        "broken": ("failed", "unreadable"),
        "one": ("complete", ""),
    }
    assert {path.name for path in (tmp_path / "out" / "broken").iterdir()} == {"slide.json"}


@pytest.mark.parametrize("options", [{"passthrough": "never"}, {"verify": True}], ids=["encoded", "verified"])
def test_patches_with_a_bad_tile_are_left_out(options: Any, tiff: Path, tmp_path: Path) -> None:
    scramble(tiff, 1)
    record = cut(tiff, tmp_path / "out", size=128, **options, **WHOLE)
    assert (record["status"], record["reason"]) == ("partial", "bad_tiles")
    assert record["bad_tiles"] == [{"level": 0, "box": [128.0, 0.0, 256.0, 128.0]}]
    source = patches_in(tmp_path / "out", record)
    assert source.corners.tolist() == [[0, 0], [256, 0], [0, 128], [128, 128], [256, 128]]


def test_a_tile_that_is_no_jpeg_is_not_passed_through(tiff: Path, tmp_path: Path) -> None:
    scramble(tiff, 1)
    record = cut(tiff, tmp_path / "out", size=128, **WHOLE)
    assert (record["status"], record["patches"], len(record["bad_tiles"])) == ("partial", 5, 1)


def test_overlapping_patches_lose_all_that_need_a_bad_tile(tiff: Path, tmp_path: Path) -> None:
    scramble(tiff, 1)
    record = cut(tiff, tmp_path / "out", size=100, overlap=50, lossless=True, **WHOLE)
    source = patches_in(tmp_path / "out", record)
    touched = [x < 256 and x + 100 > 128 and y < 128 for x, y in source.corners.tolist()]
    assert not any(touched)
    with open_slide(tiff) as slide:
        assert all(np.array_equal(source.read(i), slide.read(region(source, i))) for i in range(len(source)))
    assert len(source) == 7 * 5 - 5 * 3


def test_a_slide_of_bad_tiles_fails_and_leaves_nothing(tiff: Path, tmp_path: Path) -> None:
    for tile in range(12):
        scramble(tiff, tile)
    record = cut(tiff, tmp_path / "out", size=100, **WHOLE)
    assert (record["status"], record["reason"]) == ("failed", "unreadable_pixels")
    assert {path.name for path in (tmp_path / "out" / "one").iterdir()} == {"slide.json"}


def test_a_writer_that_fails_leaves_nothing(tiff: Path, tmp_path: Path) -> None:
    """As on a full disk."""
    from wsikit.patches.zarr import ZarrPatchWriter

    with pytest.MonkeyPatch.context() as patch:

        def full(self: ZarrPatchWriter, rows: PatchRows) -> None:
            raise OutputError("no space", code="no_space")

        patch.setattr(ZarrPatchWriter, "write", full)
        record = cut(tiff, tmp_path / "out", size=100, **WHOLE)
    assert (record["status"], record["reason"]) == ("failed", "no_space")
    assert {path.name for path in (tmp_path / "out" / "one").iterdir()} == {"slide.json"}
    # the machine's fault, so it is tried again
    assert cut(tiff, tmp_path / "out", size=100, **WHOLE)["status"] == "complete"


def test_cutting_that_fails_aborts_its_writer(tiff: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wsikit.patches.zarr import ZarrPatchWriter

    config = TileConfig(size=100, **WHOLE)
    with open_slide(tiff) as slide:
        tissue = TissueMask.whole(slide)
        entry = SlideEntry("one", tiff)
        windows = choose_windows(slide, entry, config, tissue)

        def interrupt(done: int, total: int) -> None:
            if done < total and list(tmp_path.glob(".*.tmp/images/c/*")):
                raise KeyboardInterrupt

        monkeypatch.setattr("wsikit.pipeline.cutting.ROWS", 2)
        cutting, patches = Cutting(slide, windows, config), patch_set(slide, entry, config, tissue, windows)
        with pytest.raises(KeyboardInterrupt):
            cutting.write(ZarrPatchWriter(tmp_path / "patches.zarr"), patches, interrupt)
    assert {path.name for path in tmp_path.iterdir()} == {"slides"}


KILLED = """
import os, signal, sys
from pathlib import Path
from wsikit.config import TileConfig
from wsikit.pipeline.each import Silent
from wsikit.pipeline.inputs import find_slides
from wsikit.pipeline import cutting, tile

class Killer(Silent):
    def progress(self, entry, done, total):
        if done >= 1 and done < total:
            os.kill(os.getpid(), signal.SIGKILL)

cutting.ROWS = 2
source, out, name = sys.argv[1:]
tile.tile_many(find_slides(source), out, TileConfig(size=100, overlap=50, tissue="whole", min_tissue=0, num_workers=1,
               format=name), observer=Killer())
"""


@pytest.mark.parametrize("name", ["zarr", "webdataset"])
def test_a_killed_run_shows_nothing_and_the_next_one_completes_it(name: str, tiff: Path, tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tiff), str(tmp_path / "out"), name], check=False)
    assert ended.returncode == -signal.SIGKILL
    visible = [path.name for path in (tmp_path / "out" / "one").iterdir() if not path.name.startswith(".")]
    assert visible == ["slide.json"]
    record = cut(tiff, tmp_path / "out", size=100, overlap=50, format=name, **WHOLE)
    assert (record["status"], record["patches"]) == ("complete", 35)
    assert not [path for path in (tmp_path / "out" / "one").iterdir() if path.name.startswith(".")]


def test_a_small_slide_says_why_it_has_no_patches(tiff: Path, tmp_path: Path) -> None:
    record = cut(tiff, tmp_path / "out", size=512, **WHOLE)
    assert (record["status"], record["patches"]) == ("complete", 0)
    assert "400x300" in record["message"]
    assert "--edge pad" in record["remedy"]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"size": 64, "overlap": 64}, ConfigError),
        ({"format": "hdf"}, UnknownNameError),
        ({"coords": Path("nowhere")}, ConfigError),
        ({"qc": "beauty>1"}, ConfigError),
    ],
)
def test_what_no_slide_could_be_cut_with_is_refused_at_once(
    options: Any, error: type[Exception], tiff: Path, tmp_path: Path
) -> None:
    with pytest.raises(error):
        cut(tiff, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_native_patches_with_too_much_overlap_fail_by_slide(tiff: Path, tmp_path: Path) -> None:
    record = cut(tiff, tmp_path / "out", size="native", overlap=128, **WHOLE)
    assert (record["status"], record["reason"]) == ("failed", "bad_config")


def test_folders_of_others_are_left_alone(tiff: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "one").mkdir(parents=True)
    (tmp_path / "out" / "one" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        cut(tiff, tmp_path / "out")
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        list(plan_tiling(find_slides(tiff), tmp_path / "out", TileConfig(size=128, **WHOLE)))


@pytest.mark.parametrize("name", ["zarr", "coords"])
def test_patches_of_another_slide_of_the_same_id_are_kept(name: str, tiff: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cut(tiff, out, size=128, format=name, **WHOLE)
    before = everything(out / "one") | everything(out / "patches")
    other = tiled(tmp_path / "one.tif", [picture()[:200]])
    record = cut(other, out, size=128, format=name, **WHOLE)
    assert (record["status"], record["reason"]) == ("failed", "id_taken")
    assert everything(out / "one") | everything(out / "patches") == before
    assert read_record(out / "one")["path"] == str(tiff)  # type: ignore[index]
    planned = next(iter(plan_tiling(find_slides(other), out, TileConfig(size=128, **WHOLE))))
    assert ("id_taken" in planned.text, planned.complete) == (True, False)


@pytest.mark.parametrize("name", ["zarr", "coords"])
def test_patches_of_another_program_are_no_earlier_attempt(name: str, tiff: Path, tmp_path: Path) -> None:
    """CLAM keeps its own in the same place."""
    out = tmp_path / "out"
    (out / "patches").mkdir(parents=True)
    (out / "patches" / "one.h5").write_bytes(b"CLAM")
    config = TileConfig(size=128, format=name, **WHOLE)
    for begin in (tile_many, lambda *given: list(plan_tiling(*given))):
        with pytest.raises(OutputError, match=r"one\.h5") as caught:
            begin(find_slides(tiff), out, config)
        assert caught.value.code == "foreign_files"
    assert list(everything(out)) == ["patches/one.h5"]
    assert (out / "patches" / "one.h5").read_bytes() == b"CLAM"


def test_the_plan_names_what_would_be_cut(tiff: Path, tmp_path: Path) -> None:
    config = TileConfig(size=128, **WHOLE)
    entries = find_slides(tiff)
    line, total = plan_tiling(entries, tmp_path / "out", config)
    assert "6 patches of 128 px" in line.text
    assert "1 of 1 slides" in total.text
    assert not (tmp_path / "out").exists()
    tile_many(entries, tmp_path / "out", config)
    assert "kept" in next(iter(plan_tiling(entries, tmp_path / "out", config))).text
