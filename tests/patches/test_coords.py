"""Coordinates as CLAM and TRIDENT read and write them, and pixels by them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import openslide
import pytest

from tests.patches.planted import SIDE, planted
from wsikit.errors import ConfigError
from wsikit.patches import PatchRows, PatchSet, open_dataset, open_patches
from wsikit.patches.coords import CoordsPatches, CoordsWriter
from wsikit.slides import open_slide
from wsikit.slides.array import array_slide


def on_pyramid(pyramid: Path, out: Path, level: int) -> Path:
    """Coordinates of a few patches of 64 px on a level of the real pyramid."""
    with open_slide(pyramid) as slide:
        chosen = slide.levels[level]
        corners = np.array([(0, 0), (64, 0), (100, 37), (chosen.width - 64, chosen.height - 64)])
        patches = PatchSet(
            "pyramid", pyramid.name, slide.mpp, (slide.width, slide.height), chosen.mpp, 64, 64, level, label="A"
        )
    writer = CoordsWriter(out / "patches" / "pyramid.h5")
    writer.begin(patches)
    writer.write(PatchRows(corners, corners * (patches.mpp / patches.slide_mpp), np.ones(4, np.float32)))
    writer.commit()
    return writer.path


@pytest.mark.parametrize("level", [0, 1, 2])
def test_clam_would_read_the_same_pixels(level: int, pyramid: Path, tmp_path: Path) -> None:
    """As ``Whole_Slide_Bag_FP`` does it: attributes of ``coords``, then read_region of the level at the coordinate."""
    path = on_pyramid(pyramid, tmp_path, level)
    ours = open_patches(path, slide=pyramid)
    with h5py.File(path) as file, openslide.OpenSlide(pyramid) as slide:
        coords = file["coords"]
        side, at = int(coords.attrs["patch_size"]), int(coords.attrs["patch_level"])
        assert tuple(coords.attrs["level_dim"]) == slide.level_dimensions[level]
        assert tuple(coords.attrs["downsample"]) == pytest.approx((slide.level_downsamples[level],) * 2)
        assert coords.attrs["name"] == "pyramid"
        for index, xy in enumerate(coords):
            clam = slide.read_region(tuple(xy.tolist()), at, (side, side)).convert("RGB")
            np.testing.assert_array_equal(np.asarray(clam), ours.read(index))


def test_trident_finds_its_attributes(pyramid: Path, tmp_path: Path) -> None:
    with h5py.File(on_pyramid(pyramid, tmp_path, 1)) as file:
        said = dict(file["coords"].attrs)
    assert (said["patch_size"], said["patch_size_level0"], said["overlap"]) == (64, 256, 0)
    assert (said["level0_magnification"], said["target_magnification"]) == (20, 5)
    assert (said["level0_width"], said["level0_height"]) == (3072, 3072)


def test_resampled_patches_have_no_level_for_clam(tmp_path: Path) -> None:
    wanted = planted(3)
    bare = replace(wanted, patches=replace(wanted.patches, level=None))
    with h5py.File(bare.write(tmp_path, "coords")) as file:
        assert "patch_level" not in file["coords"].attrs
        assert file["coords"].attrs["patch_size_level0"] == 2 * SIDE


def foreign(path: Path, coords: Any, **attributes: Any) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("coords", data=np.asarray(coords, np.int32))
        file["coords"].attrs.update(attributes)
    return path


PIXELS = np.random.default_rng(0).integers(0, 256, (240, 320, 3)).astype(np.uint8)
COORDS = [(0, 0), (64, 32), (33, 17)]


def clam(path: Path, level: int, coords: Any = COORDS) -> Path:
    """As CLAM's WholeSlideImage.process_contour describes its coordinates."""
    size = np.array((320, 240)) // 2**level
    return foreign(
        path,
        coords,
        patch_size=32,
        patch_level=level,
        downsample=np.array((2.0**level,) * 2),
        downsampled_level_dim=size,
        level_dim=size,
        name=path.stem,
        save_path="somewhere",
    )


@pytest.mark.parametrize("level", [0, 1])
def test_files_of_clam_are_read(level: int, tmp_path: Path) -> None:
    slide = array_slide(PIXELS, 0.25, levels=2, path="s.svs")
    source = CoordsPatches(clam(tmp_path / "s.h5", level), slide)
    assert (source.patches.slide_id, source.patches.mpp, source.patches.level) == ("s", 0.25 * 2**level, level)
    np.testing.assert_array_equal(source.coords, COORDS)
    plane = slide.read(slide.plane(0.25 * 2**level))
    for index, (x, y) in enumerate(COORDS):
        x, y = round(x / 2**level), round(y / 2**level)
        np.testing.assert_array_equal(source.read(index), plane[y : y + 32, x : x + 32])


def test_files_of_trident_are_read(tmp_path: Path) -> None:
    """Patches of 32 px at 20x of a 40x slide: 64 level-0 px, which are a level here."""
    slide = array_slide(PIXELS, 0.25, levels=2, path="s.svs")
    path = foreign(
        tmp_path / "s_patches.h5",
        COORDS[:2],
        patch_size=32,
        patch_size_level0=64,
        level0_magnification=40,
        target_magnification=20,
        overlap=8,
        name="s",
        savetodir="somewhere",
        level0_width=320,
        level0_height=240,
    )
    source = CoordsPatches(path, slide)
    assert (source.patches.slide_id, source.patches.mpp, source.patches.step) == ("s", 0.5, 24)
    plane = slide.read(slide.plane(0.5))
    np.testing.assert_array_equal(source.read(1), plane[16:48, 32:64])


def test_folders_of_clam_and_trident_are_datasets(tmp_path: Path) -> None:
    (tmp_path / "patches").mkdir()
    clam(tmp_path / "patches" / "a.h5", 0)
    foreign(tmp_path / "patches" / "b_patches.h5", COORDS, patch_size=32, patch_size_level0=32)
    slides = {name: array_slide(PIXELS, 0.25, path=f"{name}.svs") for name in ("a", "b")}
    found = open_dataset(tmp_path, slides=slides)
    assert [source.patches.slide_id for source in found] == ["a", "b"]
    for source in found:
        np.testing.assert_array_equal(source.read(1), PIXELS[32:64, 64:96])


def test_features_of_an_embed_run_are_coordinates_too(tmp_path: Path) -> None:
    """Their attributes are TRIDENT's."""
    path = foreign(tmp_path / "features.h5", COORDS, patch_size=32, patch_size_level0=32)
    with h5py.File(path, "a") as file:
        file.attrs["wsikit"] = '{"encoder": {}, "mpp": 0.25, "patch": 32}'
    slide = array_slide(PIXELS, 0.25)
    np.testing.assert_array_equal(CoordsPatches(path, slide).read(1), PIXELS[32:64, 64:96])


def test_pixels_need_the_slide(tmp_path: Path) -> None:
    wanted = planted(3)
    path = wanted.write(tmp_path, "coords")
    [source] = open_dataset(tmp_path)
    assert len(source) == 3
    for call in (lambda: source.read(0), lambda: CoordsPatches(clam(tmp_path / "s.h5", 0))):
        with pytest.raises(ConfigError) as caught:
            call()
        assert caught.value.code == "no_slide"
    np.testing.assert_array_equal(open_patches(path, slide=wanted.slide).read(0), wanted.images[0])


def test_the_slide_must_be_the_one_that_was_cut(tmp_path: Path) -> None:
    wanted = planted(3)
    other = array_slide(PIXELS, 0.25, levels=2)
    sources = [lambda: open_patches(wanted.write(tmp_path, "coords"), slide=other).read(0)]
    path = foreign(tmp_path / "t.h5", COORDS, patch_size=32, patch_size_level0=64, level0_width=300, level0_height=200)
    sources.append(lambda: CoordsPatches(path, other))  # type: ignore[arg-type, return-value]
    for call in sources:
        with pytest.raises(ConfigError) as caught:
            call()
        assert caught.value.code == "other_slide"


@pytest.mark.parametrize(
    "attributes",
    [{}, {"patch_size": 32}, {"patch_size": 32, "patch_level": 7}, {"patch_size": 0, "patch_size_level0": 2}],
)
def test_coordinates_that_do_not_say_their_size_are_refused(attributes: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        CoordsPatches(foreign(tmp_path / "s.h5", COORDS, **attributes), array_slide(PIXELS, 0.25))
    assert caught.value.code == "no_patches"
