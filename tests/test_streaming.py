"""Batches against reading each window by itself, and how often the file's tiles are decoded."""

from __future__ import annotations

import threading
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wsikit import streaming
from wsikit.errors import ConfigError, PixelReadError
from wsikit.geometry import TileSpec
from wsikit.slides import BadTile, Pixels, Slide
from wsikit.slides.array import ArrayReader, array_slide
from wsikit.slides.tiles import TileReader
from wsikit.streaming import batches
from wsikit.tiling import TileGrid
from wsikit.tissue import TissueMask

MPP = 0.5
FILLING = 99


class TiledArrayReader(ArrayReader):
    """An array as a file of tiles that counts how often each is decoded; outside of the level tiles hold filling."""

    decoded: Counter[tuple[int, int, int]]

    def codec(self, level: int) -> str:
        return "none"

    def tile_bytes(self, level: int) -> NDArray[np.int64]:
        width, height = self.sizes[level]
        tile_width, tile_height = self.tile_size(level)
        return np.full((-(-height // tile_height), -(-width // tile_width)), 3 * tile_width * tile_height)

    def read_tile(self, level: int, column: int, row: int, out: Pixels) -> None:
        assert out.flags.c_contiguous
        self.decoded[level, column, row] += 1
        tile_width, tile_height = self.tile_size(level)
        x, y = column * tile_width, row * tile_height
        width, height = (
            min(a, b)
            for a, b in zip(
                (tile_width, tile_height), (self.sizes[level][0] - x, self.sizes[level][1] - y), strict=True
            )
        )
        out[:] = FILLING
        out[:height, :width] = self.read(level, x, y, width, height)

    def tile_jpeg(self, level: int, column: int, row: int) -> bytes | None:
        raise NotImplementedError


def noise(width: int, height: int) -> NDArray[np.uint8]:
    return np.random.default_rng(7).integers(0, 256, (height, width, 3), np.uint8)


def tiled(
    width: int, height: int, tile: tuple[int, int] = (32, 32), bad: tuple[tuple[int, int, int], ...] = ()
) -> Slide:
    reader = TiledArrayReader([noise(width, height)], MPP, tile=tile, bad=bad, background=(1, 2, 3))
    reader.decoded = Counter()
    return Slide(reader)


def decoded(slide: Slide) -> Counter[tuple[int, int, int]]:
    assert isinstance(slide.reader, TiledArrayReader)
    return slide.reader.decoded


sides = st.integers(1, 120)
specs = st.integers(8, 60).flatmap(
    lambda core: st.builds(
        TileSpec,
        mpp=st.sampled_from([MPP, 0.83, 1.0]),
        core=st.just(core),
        halo=st.integers(0, core // 2),
        phase=st.tuples(st.integers(-99, 99), st.integers(-99, 99)),
        stride=st.none() | st.integers(max(1, core // 3), core + 20),
    )
)


def test_the_counting_reader_is_a_tile_reader() -> None:
    assert isinstance(tiled(10, 10).reader, TileReader)
    assert not isinstance(array_slide(noise(4, 4), MPP).reader, TileReader)


@settings(max_examples=120, deadline=None)
@given(sides, sides, specs, st.integers(1, 20), st.sampled_from([1, 2, 3]), st.booleans(), st.data())
def test_batches_give_what_reading_each_region_gives(
    width: int, height: int, spec: TileSpec, batch_size: int, threads: int, tiles: bool, data: st.DataObject
) -> None:
    tile = data.draw(st.tuples(st.integers(8, 50), st.integers(8, 50)))
    slide = tiled(width, height, tile) if tiles else array_slide(noise(width, height), MPP)
    grid = TileGrid.cover(slide, spec)
    kept = data.draw(st.lists(st.booleans(), min_size=len(grid), max_size=len(grid)))
    grid = grid.where(np.array(kept, np.bool_))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "STRIP", data.draw(st.integers(1, 200)))
        patch.setattr(streaming, "SUPERTILE", data.draw(st.integers(1, 200)))
        patch.setattr(streaming, "GROUP_PIXELS", data.draw(st.integers(1, 20_000)))
        seen = []
        for batch in batches(slide, grid, batch_size=batch_size, threads=threads):
            assert 1 <= len(batch) == len(batch.images) <= batch_size
            for image, region in zip(batch.images, batch.regions, strict=True):
                assert np.array_equal(image, slide.read(region))
                seen.append(region)
    assert sorted(map(repr, seen)) == sorted(map(repr, grid))


@pytest.mark.parametrize(
    ("core", "halo", "phase"), [(32, 0, (0, 0)), (32, 0, (13, 5)), (20, 10, (0, 0)), (28, 0, (0, 0))]
)
@pytest.mark.parametrize("threads", [1, 2])
def test_every_tile_is_decoded_once(core: int, halo: int, phase: tuple[int, int], threads: int) -> None:
    slide = tiled(300, 200)
    for _ in batches(slide, TileGrid.cover(slide, TileSpec(MPP, core, halo, phase=phase)), threads=threads):
        pass
    assert len(decoded(slide)) == 10 * 7
    assert set(decoded(slide).values()) == {1}


def test_tiles_at_the_seam_of_strips_are_decoded_twice_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "STRIP", 64)
    slide = tiled(320, 320)
    for _ in batches(slide, TileGrid.cover(slide, TileSpec(MPP, 32, phase=(0, 16)))):
        pass
    # strips are two rows of windows, the first of which begins half a tile above the slide
    rows = Counter({row: count for (_, column, row), count in decoded(slide).items() if column == 4})
    assert rows == {row: 1 + row % 2 for row in range(10)}


def test_tiles_that_no_window_needs_are_not_decoded() -> None:
    slide = tiled(320, 320)
    grid = TileGrid.cover(slide, TileSpec(MPP, 32))
    for _ in batches(slide, grid.where((grid.cells == (3, 7)).all(axis=1) | (grid.cells == (9, 0)).all(axis=1))):
        pass
    assert set(decoded(slide)) == {(0, 3, 7), (0, 9, 0)}


def test_a_tile_that_is_a_window_is_decoded_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_scratch(height: int, width: int) -> Pixels:
        raise AssertionError("a copy was made")

    monkeypatch.setattr(streaming, "_scratch", no_scratch)
    slide = tiled(320, 320)
    assert sum(len(batch) for batch in batches(slide, TileGrid.cover(slide, TileSpec(MPP, 32)))) == 100


@pytest.mark.parametrize("tiles", [True, False])
def test_the_order_does_not_depend_on_threads(tiles: bool) -> None:
    slide = tiled(300, 200) if tiles else array_slide(noise(300, 200), MPP)
    grid = TileGrid.cover(slide, TileSpec(MPP, 24, 6))
    one, three = ([batch.regions for batch in batches(slide, grid, batch_size=5, threads=n)] for n in (1, 3))
    assert one == three


def test_memory_is_used_again_once_a_batch_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "GROUP_PIXELS", 4 * 32 * 32)
    slide = tiled(32 * 400, 64)
    addresses: Counter[int] = Counter()
    for batch in batches(slide, TileGrid.cover(slide, TileSpec(MPP, 32)), batch_size=4):
        addresses[batch.images.__array_interface__["data"][0]] += 1
        del batch
    assert sum(addresses.values()) == 200
    assert len(addresses) <= 4


def test_batches_that_are_kept_keep_their_pixels() -> None:
    slide = tiled(320, 320)
    kept = list(batches(slide, TileGrid.cover(slide, TileSpec(MPP, 32)), batch_size=3, threads=2))
    for batch in kept:
        for image, region in zip(batch.images, batch.regions, strict=True):
            assert np.array_equal(image, slide.read(region))


@pytest.mark.parametrize("tiles", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
def test_patches_with_bad_tiles_are_left_out_and_the_tiles_listed(tiles: bool, threads: int) -> None:
    bad = ((0, 3, 3), (0, 9, 0))
    slide = tiled(320, 320, bad=bad) if tiles else array_slide(noise(320, 320), MPP, tile=(32, 32), bad=bad)
    grid = TileGrid.cover(slide, TileSpec(MPP, 40, 4))
    found: list[BadTile] = []
    seen = {}
    for batch in batches(slide, grid, threads=threads, bad=found):
        seen.update(zip(batch.regions, batch.images.copy(), strict=True))
    lost = {patch for patch in grid if any(patch.overlap(tile.level0()) for tile in found)}
    assert sorted(tile.box for tile in found) == [(96, 96, 32, 32), (288, 0, 32, 32)]
    assert lost
    assert set(seen) == set(grid) - lost
    assert all(np.array_equal(image, slide.read(region)) for region, image in seen.items())


@pytest.mark.parametrize("tiles", [True, False])
def test_bad_tiles_between_the_windows_are_nobodys_loss(tiles: bool) -> None:
    bad = ((0, 3, 3),)
    slide = tiled(320, 320, bad=bad) if tiles else array_slide(noise(320, 320), MPP, tile=(32, 32), bad=bad)
    grid = TileGrid.cover(slide, TileSpec(MPP, 32))
    found: list[BadTile] = []
    grid = grid.where(~(grid.cells == (3, 3)).all(axis=1))
    assert sum(len(batch) for batch in batches(slide, grid, bad=found)) == 99
    assert not found


@pytest.mark.parametrize("tiles", [True, False])
def test_batches_stop_at_pixels_that_cannot_be_decoded(tiles: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "SUPERTILE", 32)
    monkeypatch.setattr(streaming, "GROUP_PIXELS", 1)
    bad = ((0, 3, 3),)
    slide = tiled(128, 128, bad=bad) if tiles else array_slide(noise(128, 128), MPP, tile=(32, 32), bad=bad)
    stream = batches(slide, TileGrid.cover(slide, TileSpec(MPP, 32)), batch_size=1)
    assert len(list(islice(stream, 15))) == 15
    with pytest.raises(PixelReadError):
        next(stream)


def test_a_stream_that_is_left_early_leaves_no_thread() -> None:
    slide = tiled(320, 320)
    stream = batches(slide, TileGrid.cover(slide, TileSpec(MPP, 32)), batch_size=1, threads=3)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("wsikit-decode")]


def test_no_windows_no_batches() -> None:
    slide = tiled(100, 100)
    grid = TileGrid.cover(slide, TileSpec(MPP, 32), TissueMask(np.zeros((100, 100), bool), MPP))
    assert list(batches(slide, grid)) == []


@pytest.mark.parametrize("wrong", ["batch_size", "threads"])
def test_wrong_sizes_are_refused(wrong: str) -> None:
    slide = tiled(64, 64)
    with pytest.raises(ConfigError, match=wrong):
        list(batches(slide, TileGrid.cover(slide, TileSpec(MPP, 32)), **{wrong: 0}))
