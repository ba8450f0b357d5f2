"""The OME-Zarr sink: pixels, pyramids, places in micrometres, and the models of the specification."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wsikit.errors import ConfigError, PredictionError
from wsikit.features import DensityBlock, Layer, MaskBlock
from wsikit.geometry import Region
from wsikit.predictions import Label
from wsikit.sinks import SinkContext
from wsikit.sinks.omezarr import OmeZarrSink, halve

Version = Literal["0.4", "0.5"]
VERSIONS: tuple[Version, ...] = ("0.4", "0.5")
WIDTH, HEIGHT, BLOCK, CHUNK = 2305, 1187, 512, 128
SLIDE_MPP, MPP, OVERVIEW_MPP = 0.25, 0.5, 4.0
LABELS = (Label("Tumor", (200, 0, 0)), Label("Stroma", (0, 150, 80)))
CLASSES = Layer("classes", "uint8", {1: (200, 0, 0), 2: (0, 150, 80)}, {1: "Tumor", 2: "Stroma"})
INSTANCES = Layer("instances", "uint32")
GROUPS = ["labels/classes", "labels/instances", "scores", "confidence"]


def _overview() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (149, 289, 3)).astype(np.uint8)


CONTEXT = SinkContext(
    slide_id="case 1",
    slide_mpp=SLIDE_MPP,
    bounds_offset=(1000, 2000),
    mpp=MPP,
    size=(WIDTH, HEIGHT),
    labels=LABELS,
    model="test",
    layers=(CLASSES, INSTANCES),
    has_scores=True,
    has_confidence=True,
    overview=_overview(),
    overview_mpp=OVERVIEW_MPP,
)


def _planes() -> dict[str, NDArray[Any]]:
    """Random pixels of every layer, with two blocks left empty."""
    rng = np.random.default_rng(1)
    planes: dict[str, NDArray[Any]] = {
        "labels/classes": rng.integers(0, 3, (HEIGHT, WIDTH)).astype(np.uint8),
        "labels/instances": rng.integers(0, 1 << 30, (HEIGHT, WIDTH)).astype(np.uint32),
        "scores": rng.integers(0, 256, (2, HEIGHT, WIDTH)).astype(np.uint8),
        "confidence": rng.integers(0, 256, (1, HEIGHT, WIDTH)).astype(np.uint8),
    }
    for plane in planes.values():
        plane[..., :BLOCK, BLOCK : 3 * BLOCK] = 0
    return planes


def _regions() -> list[Region]:
    return [
        Region(x, y, min(BLOCK, WIDTH - x), min(BLOCK, HEIGHT - y), MPP)
        for y in range(0, HEIGHT, BLOCK)
        for x in range(0, WIDTH, BLOCK)
    ]


def _block(planes: dict[str, NDArray[Any]], region: Region) -> MaskBlock:
    rows, columns = slice(region.y, region.y1), slice(region.x, region.x1)
    layers = {name.removeprefix("labels/"): plane[rows, columns] for name, plane in planes.items() if plane.ndim == 2}
    return MaskBlock(region, layers, planes["scores"][:, rows, columns], planes["confidence"][0, rows, columns])


@pytest.fixture(scope="module", params=VERSIONS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    sink = OmeZarrSink(tmp_path_factory.mktemp("a") / "masks.ome.zarr", ngff=request.param, block=BLOCK, chunk=CHUNK)
    planes = _planes()
    sink.begin(CONTEXT)
    for region in reversed(_regions()):
        sink.write(_block(planes, region))
    sink.commit()
    return sink.path


def _ome(path: Path, group: str = "") -> dict[str, Any]:
    """The OME metadata of a group, from its JSON as it stands on disk."""
    if (path / group / ".zattrs").exists():
        found: dict[str, Any] = json.loads((path / group / ".zattrs").read_text())
        return found
    nested: dict[str, Any] = json.loads((path / group / "zarr.json").read_text())["attributes"]["ome"]
    return nested


def _version(path: Path) -> Version:
    return "0.4" if (path / ".zgroup").exists() else "0.5"


def _levels(path: Path, group: str) -> list[NDArray[Any]]:
    datasets = _ome(path, group)["multiscales"][0]["datasets"]
    return [np.asarray(zarr.open_array(path / group / d["path"], mode="r")[:]) for d in datasets]


def _reference_mean(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """In floats: the mean of the 2 x 2 that exist, halves up."""
    height, width = (-(-n // 2) for n in image.shape)
    padded = np.full((2 * height, 2 * width), np.nan)
    padded[: image.shape[0], : image.shape[1]] = image
    return np.floor(np.nanmean(padded.reshape(height, 2, width, 2), axis=(1, 3)) + 0.5).astype(np.uint8)


@pytest.mark.parametrize("group", GROUPS)
def test_level_0_is_what_was_written_pixel_for_pixel(written: Path, group: str) -> None:
    assert np.array_equal(_levels(written, group)[0], _planes()[group])


def test_the_root_is_the_overview(written: Path) -> None:
    assert np.array_equal(_levels(written, "")[0], np.moveaxis(_overview(), 2, 0))


@pytest.mark.parametrize("group", ["labels/classes", "labels/instances"])
def test_labels_keep_every_second_pixel(written: Path, group: str) -> None:
    levels = _levels(written, group)
    for k, level in enumerate(levels):
        assert np.array_equal(level, levels[0][:: 2**k, :: 2**k])


@pytest.mark.parametrize("group", ["", "scores", "confidence"])
def test_images_and_scores_are_averaged(written: Path, group: str) -> None:
    levels = _levels(written, group)
    for fine, coarse in pairwise(levels):
        for a, b in zip(fine, coarse, strict=True):
            assert np.array_equal(b, _reference_mean(a))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 9))
def test_halving_averages_what_exists_at_odd_borders(height: int, width: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)
    assert np.array_equal(halve(image, "mean"), _reference_mean(image))


@pytest.mark.parametrize("group", GROUPS)
def test_pyramids_end_at_a_screen(written: Path, group: str) -> None:
    sizes = [max(level.shape[-2:]) for level in _levels(written, group)]
    assert sizes == [2305, 1153, 577]


def test_all_pyramids_have_as_many_levels_as_the_specification_wants(written: Path) -> None:
    assert len({len(_levels(written, group)) for group in ["", *GROUPS]}) == 1


def test_an_overview_deeper_than_the_masks_sets_the_number_of_levels(tmp_path: Path) -> None:
    context = SinkContext(
        "s", 0.25, (0, 0), 4.0, (300, 5), LABELS, "m", (CLASSES,), False, np.ones((10, 2100, 3), np.uint8), 0.6
    )
    sink = OmeZarrSink(tmp_path / "a.ome.zarr")
    sink.begin(context)
    sink.commit()
    assert [level.shape for level in _levels(sink.path, "labels/classes")] == [(5, 300), (3, 150), (2, 75)]


def _place(path: Path, group: str, level: int) -> tuple[float, float]:
    """(scale, translation) of x in micrometres; y must have the same."""
    transforms = _ome(path, group)["multiscales"][0]["datasets"][level]["coordinateTransformations"]
    assert [t["type"] for t in transforms] == ["scale", "translation"]
    (sy, sx), (ty, tx) = transforms[0]["scale"][-2:], transforms[1]["translation"][-2:]
    assert (sy, ty) == (sx, tx)
    return sx, tx


@pytest.mark.parametrize("group", GROUPS)
def test_a_labelled_square_lies_in_the_same_micrometres_at_every_level(tmp_path: Path, group: str) -> None:
    planes = {name: np.zeros_like(plane) for name, plane in _planes().items()}
    for plane in planes.values():
        plane[..., 100:221, 203:404] = 255
    sink = OmeZarrSink(tmp_path / "masks.ome.zarr", block=BLOCK, chunk=CHUNK)
    sink.begin(CONTEXT)
    sink.write(_block(planes, _regions()[0]))
    sink.commit()
    # its middle in pixel-corner level-0 pixels, then in um from the centre of level-0 pixel (0, 0)
    middle = (np.array([100 + 221, 203 + 404]) / 2 * MPP / SLIDE_MPP - 0.5) * SLIDE_MPP
    for level, image in enumerate(_levels(sink.path, group)):
        scale, translation = _place(sink.path, group, level)
        weights = image.reshape(-1, *image.shape[-2:])[0].astype(float)
        rows, columns = np.indices(weights.shape)
        found = np.array([np.average(rows, weights=weights), np.average(columns, weights=weights)])
        assert np.abs(found * scale + translation - middle).max() <= scale / 2


@pytest.mark.parametrize("group", ["", "scores", "confidence"])
def test_averaged_pixels_are_placed_at_the_middle_of_what_they_average(written: Path, group: str) -> None:
    for level in range(len(_levels(written, group))):
        scale, translation = _place(written, group, level)
        covered = np.arange(scale / SLIDE_MPP) * SLIDE_MPP  # centres of the level-0 pixels under pixel 0
        assert translation == pytest.approx(covered.mean())


@pytest.mark.parametrize("group", ["labels/classes", "labels/instances"])
def test_label_pixels_are_placed_where_the_pixel_they_keep_was(written: Path, group: str) -> None:
    scale0, translation0 = _place(written, group, 0)
    for level in range(len(_levels(written, group))):
        scale, translation = _place(written, group, level)
        assert 5 * scale + translation == pytest.approx(5 * 2**level * scale0 + translation0)


MODELS = [
    *((group, "image", "Image") for group in ("", "scores", "confidence")),
    ("labels", "labels", "Labels"),
    *((group, "image_label", "ImageLabel") for group in GROUPS[:2]),
]


@pytest.mark.parametrize(("group", "module", "model"), MODELS)
def test_the_models_of_the_specification_accept_it(written: Path, group: str, module: str, model: str) -> None:
    package = f"ome_zarr_models.v{_version(written).replace('.', '')}"
    getattr(importlib.import_module(f"{package}.{module}"), model).from_zarr(zarr.open_group(written / group, mode="r"))


def test_labels_are_listed(written: Path) -> None:
    assert _ome(written, "labels")["labels"] == ["classes", "instances"]


def test_classes_have_colours_and_names(written: Path) -> None:
    found = _ome(written, "labels/classes")["image-label"]
    assert found["colors"] == [
        {"label-value": 1, "rgba": [200, 0, 0, 255]},
        {"label-value": 2, "rgba": [0, 150, 80, 255]},
    ]
    assert found["properties"] == [{"label-value": 1, "name": "Tumor"}, {"label-value": 2, "name": "Stroma"}]
    assert found["source"] == {"image": "../../"}
    assert found["version"] == _version(written)


def test_scores_say_which_class_a_channel_is(written: Path) -> None:
    channels = _ome(written, "scores")["omero"]["channels"]
    assert [(c["label"], c["color"]) for c in channels] == [("Tumor", "C80000"), ("Stroma", "009650")]


def test_axes_have_units(written: Path) -> None:
    axes = _ome(written, "scores")["multiscales"][0]["axes"]
    assert [(a["name"], a["type"], a.get("unit")) for a in axes] == [
        ("c", "channel", None),
        ("y", "space", "micrometer"),
        ("x", "space", "micrometer"),
    ]


def test_04_is_zarr_2_with_nested_zlib_chunks(tmp_path: Path) -> None:
    path = _committed(tmp_path, "0.4", [Region(0, 0, BLOCK, BLOCK, MPP)])
    metadata = json.loads((path / "labels/classes/0/.zarray").read_text())
    assert (metadata["zarr_format"], metadata["dimension_separator"], metadata["compressor"]["id"]) == (2, "/", "zlib")
    assert (path / "labels/classes/0/3/3").is_file()


def _committed(folder: Path, ngff: Version, regions: list[Region]) -> Path:
    sink = OmeZarrSink(folder / "masks.ome.zarr", ngff=ngff, block=BLOCK, chunk=CHUNK)
    sink.begin(CONTEXT)
    for region in regions:
        ones = np.ones((region.height, region.width), np.uint8)
        sink.write(
            MaskBlock(region, {"classes": ones, "instances": ones.astype(np.uint32)}, np.stack([ones, ones]), ones)
        )
    sink.commit()
    return sink.path


def test_05_stores_one_file_per_block(tmp_path: Path) -> None:
    path = _committed(tmp_path, "0.5", [Region(0, 0, BLOCK, BLOCK, MPP), Region(BLOCK, BLOCK, BLOCK, BLOCK, MPP)])
    assert sum(p.is_file() for p in (path / "scores/0/c").rglob("*")) == 2
    assert json.loads((path / "labels/classes/0/zarr.json").read_text())["dimension_names"] == ["y", "x"]


def test_empty_chunks_of_a_block_are_not_stored(tmp_path: Path) -> None:
    planes = {name: np.zeros_like(plane) for name, plane in _planes().items()}
    planes["labels/classes"][5, 5] = 1
    sink = OmeZarrSink(tmp_path / "masks.ome.zarr", block=BLOCK, chunk=CHUNK)
    sink.begin(CONTEXT)
    sink.write(_block(planes, _regions()[0]))
    sink.commit()
    chunks = [p for p in (sink.path / "labels/classes/0").rglob("*") if p.is_file() and not p.name.startswith(".z")]
    assert chunks == [sink.path / "labels/classes/0/0/0"]


@pytest.mark.parametrize("ngff", VERSIONS)
def test_empty_blocks_are_not_stored(tmp_path: Path, ngff: Version) -> None:
    sink = OmeZarrSink(tmp_path / "masks.ome.zarr", ngff=ngff, block=BLOCK, chunk=CHUNK)
    sink.begin(CONTEXT)
    sink.write(_block({name: np.zeros_like(plane) for name, plane in _planes().items()}, _regions()[0]))
    sink.commit()
    files = [p for p in (sink.path / "labels").rglob("*") if p.is_file() and not p.name.startswith((".z", "zarr.json"))]
    assert files == []
    assert not _levels(sink.path, "scores")[0].any()
    assert not _levels(sink.path, "confidence")[0].any()


def test_the_bounds_offset_is_not_subtracted(written: Path) -> None:
    assert _place(written, "labels/classes", 0) == (MPP, (MPP - SLIDE_MPP) / 2)


GOOD = _block(_planes(), _regions()[0])
BROKEN = {
    "off the lattice": replace(GOOD, region=Region(5, 0, BLOCK, BLOCK, MPP)),
    "outside": replace(GOOD, region=Region(0, 3 * BLOCK, BLOCK, BLOCK, MPP)),
    "not clipped": replace(GOOD, region=Region(0, 2 * BLOCK, BLOCK, BLOCK, MPP)),
    "another mpp": replace(GOOD, region=Region(0, 0, BLOCK, BLOCK, 0.25)),
    "a layer missing": replace(GOOD, layers={"classes": GOOD.layers["classes"]}),
    "a layer too many": replace(GOOD, layers={**GOOD.layers, "x": GOOD.layers["classes"]}),
    "another dtype": replace(GOOD, layers={**GOOD.layers, "classes": GOOD.layers["instances"]}),
    "another shape": replace(GOOD, layers={**GOOD.layers, "classes": GOOD.layers["classes"][1:]}),
    "no scores": replace(GOOD, scores=None),
    "no confidence": replace(GOOD, confidence=None),
    "confidence of another dtype": replace(GOOD, confidence=GOOD.layers["instances"]),
}


@pytest.mark.parametrize("block", BROKEN.values(), ids=BROKEN)
def test_a_block_that_breaks_its_contract_is_refused(tmp_path: Path, block: MaskBlock) -> None:
    sink = OmeZarrSink(tmp_path / "masks.ome.zarr", block=BLOCK, chunk=CHUNK)
    sink.begin(CONTEXT)
    with pytest.raises(PredictionError):
        sink.write(block)


def test_a_block_that_comes_twice_is_refused(tmp_path: Path) -> None:
    sink = OmeZarrSink(tmp_path / "masks.ome.zarr", block=BLOCK, chunk=CHUNK)
    sink.begin(CONTEXT)
    sink.write(GOOD)
    with pytest.raises(PredictionError, match="once"):
        sink.write(GOOD)


def test_a_chunk_that_does_not_divide_the_block_is_refused() -> None:
    with pytest.raises(ConfigError, match="divide"):
        OmeZarrSink("a.ome.zarr", block=1000, chunk=512)


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"0\.4 or 0\.5"):
        OmeZarrSink("a.ome.zarr", ngff="0.3")  # type: ignore[arg-type]


def test_importing_the_sink_does_not_import_zarr() -> None:
    code = "import sys, wsikit.sinks.omezarr; sys.exit('zarr' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# density maps

CELLS = Region(0, 0, -(-WIDTH // 8), -(-HEIGHT // 8), 8 * MPP)
DENSE = replace(CONTEXT, layers=(), has_scores=False, has_confidence=False, density=CELLS)


def _density_map() -> NDArray[np.float32]:
    values = np.random.default_rng(2).gamma(0.5, 900.0, (CELLS.height, CELLS.width)).astype(np.float32)
    values[:40, 64:128] = 0
    return values


def _density_blocks(side: int) -> list[DensityBlock]:
    values = _density_map()
    regions = [
        Region(x, y, min(side, CELLS.width - x), min(side, CELLS.height - y), CELLS.mpp)
        for y in range(0, CELLS.height, side)
        for x in range(0, CELLS.width, side)
    ]
    return [DensityBlock(r, values[r.y : r.y1, r.x : r.x1]) for r in regions]


@pytest.fixture(scope="module", params=VERSIONS)
def dense(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    sink = OmeZarrSink(tmp_path_factory.mktemp("d") / "masks.ome.zarr", ngff=request.param, block=128, chunk=64)
    sink.begin(DENSE)
    for block in reversed(_density_blocks(128)):
        sink.write_density(block)
    sink.commit()
    return sink.path


def test_density_is_what_was_written_value_for_value(dense: Path) -> None:
    (level,) = _levels(dense, "density")
    assert level.dtype == np.float32
    assert np.array_equal(level[0], _density_map())


def test_density_lies_on_the_lattice_of_its_cells(dense: Path) -> None:
    assert _place(dense, "density", 0) == (8 * MPP, (8 * MPP - SLIDE_MPP) / 2)


def test_the_models_of_the_specification_accept_density(dense: Path) -> None:
    module = importlib.import_module(f"ome_zarr_models.v{_version(dense).replace('.', '')}.image")
    module.Image.from_zarr(zarr.open_group(dense / "density", mode="r"))


def test_viewers_are_told_how_dense_it_gets(dense: Path) -> None:
    (channel,) = _ome(dense, "density")["omero"]["channels"]
    most = float(_density_map().max())
    assert channel["label"] == "Objects per mm^2"
    assert channel["window"] == {"min": 0, "max": most, "start": 0, "end": most}


@pytest.mark.parametrize("ngff", VERSIONS)
def test_coarser_levels_of_density_are_means(tmp_path: Path, ngff: Version) -> None:
    plane = Region(0, 0, 1501, 3, 4.0)
    values = np.random.default_rng(3).gamma(0.5, 900.0, (3, 1501)).astype(np.float32)
    sink = OmeZarrSink(tmp_path / "masks.ome.zarr", ngff=ngff)
    sink.begin(replace(DENSE, density=plane))
    sink.write_density(DensityBlock(plane, values))
    sink.commit()
    fine, coarse = _levels(sink.path, "density")
    padded = np.pad(fine[0].astype(float), ((0, 1), (0, 1)), constant_values=np.nan)
    assert coarse[0] == pytest.approx(np.nanmean(padded.reshape(2, 2, 751, 2), axis=(1, 3)), rel=1e-6)


def _density_block(x: int = 0, y: int = 0, side: int = 128, mpp: float = CELLS.mpp, dtype: Any = np.float32) -> Any:
    return DensityBlock(Region(x, y, side, side, mpp), np.zeros((side, side), dtype))


BROKEN_DENSITY = {
    "off the lattice": _density_block(x=5),
    "outside": _density_block(y=256),
    "another mpp": _density_block(mpp=MPP),
    "another dtype": _density_block(dtype=np.float64),
    "another shape": DensityBlock(Region(0, 0, 128, 128, CELLS.mpp), np.zeros((128, 127), np.float32)),
}


@pytest.mark.parametrize("block", BROKEN_DENSITY.values(), ids=BROKEN_DENSITY)
def test_density_that_breaks_its_contract_is_refused(tmp_path: Path, block: DensityBlock) -> None:
    sink = OmeZarrSink(tmp_path / "masks.ome.zarr", block=128, chunk=64)
    sink.begin(DENSE)
    with pytest.raises(PredictionError):
        sink.write_density(block)


def test_density_that_comes_twice_or_unannounced_is_refused(tmp_path: Path) -> None:
    sink = OmeZarrSink(tmp_path / "masks.ome.zarr", block=128, chunk=64)
    sink.begin(DENSE)
    sink.write_density(_density_block())
    with pytest.raises(PredictionError, match="once"):
        sink.write_density(_density_block())
    sink.begin(replace(DENSE, density=None))
    with pytest.raises(PredictionError, match="announced"):
        sink.write_density(_density_block())
