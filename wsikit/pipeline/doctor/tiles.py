"""Which tiles of a slide cannot be decoded: what the file's tables say of all, and what decoding a sample shows.

The sample of a level, of ``wanted`` tiles, is drawn with a seed that depends on the file's content alone:

1. a quarter are the last ones in the file (of the level, where the file's order is not known): a copy that was cut
   short lost those;
2. half are drawn from those that hold tissue, where the mask is known;
3. the rest are drawn from all others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import PixelReadError
from wsikit.pipeline.doctor.findings import Finding
from wsikit.pipeline.report.formats import counted
from wsikit.slides import Slide
from wsikit.slides.tiles import TileReader
from wsikit.tissue import TissueMask

SAMPLE = 100
"""Tiles decoded per level: where 3 % of them are damaged, 95 of 100 slides show it."""
AT_END, ON_TISSUE = 0.25, 0.5
NAMED = 3
"""Damaged tiles that a message names."""
REMEDY = "copy or scan the slide again; a run leaves such tiles out and ends as partial"


@dataclass(frozen=True, slots=True)
class LevelTiles:
    """The tiles of one level."""

    level: int
    count: int
    """How many there are, those that the file leaves out aside."""
    left_out: int
    """Which the file legally does not hold; they show as background."""
    misplaced: tuple[tuple[int, int], ...]
    """(x, y) px of the level: tiles that should lie past the end of the file: all of them, where it has tables."""
    seen: int
    """How many were decoded."""
    bad: tuple[tuple[int, int, str], ...]
    """(x, y, why) of those of ``seen`` that could not be."""


def look_at_tiles(slide: Slide, tissue: TissueMask | None, wanted: int | None, seed: int) -> list[LevelTiles]:
    """Look at the tiles of every level.

    Args:
        slide: an open slide.
        tissue: where its tissue is, if that is known.
        wanted: tiles to decode per level; None is all of them.
        seed: of the sample.

    Raises SlideOpenError where the file is gone.
    """
    rng = np.random.default_rng(seed)
    return [_level(slide, level, tissue, wanted, rng) for level in range(len(slide.levels))]


def _level(
    slide: Slide, index: int, tissue: TissueMask | None, wanted: int | None, rng: np.random.Generator
) -> LevelTiles:
    level, side = slide.levels[index], slide.reader.tile_size(index)
    columns, rows = -(-level.width // side[0]), -(-level.height // side[1])
    there, lost, order = _tables(slide, index, (rows, columns))
    good = np.flatnonzero(there & ~lost)
    on_tissue = None if tissue is None else _on_tissue(tissue, level.mpp, side, columns, good)
    chosen = good if wanted is None else sampled(good, order[good], on_tissue, wanted, rng)
    bad = tuple(
        (int(tile % columns) * side[0], int(tile // columns) * side[1], why)
        for tile in chosen
        if (why := _fault(slide, index, int(tile % columns), int(tile // columns)))
    )
    places = tuple((int(t % columns) * side[0], int(t // columns) * side[1]) for t in np.flatnonzero(lost))
    return LevelTiles(index, int(there.sum()), int((~there).sum()), places, len(chosen), bad)


def _tables(
    slide: Slide, level: int, shape: tuple[int, int]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64]]:
    """(tiles,) each, row by row: whether the file holds it, whether it lies outside the file, and where it lies."""
    from wsikit.slides.tiff import TiffReader

    reader = slide.reader
    if isinstance(reader, TiffReader):
        held = reader.tile_bytes(level) > 0
        return held.ravel(), reader.misplaced(level).ravel(), reader.tile_places(level).ravel()
    count = shape[0] * shape[1]
    return np.ones(count, np.bool_), np.zeros(count, np.bool_), np.arange(count, dtype=np.int64)


def _on_tissue(
    tissue: TissueMask, mpp: float, side: tuple[int, int], columns: int, tiles: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """(N,) whether tiles, by their numbers row by row, hold tissue; of oblong ones a square of the shorter side."""
    x, y = tiles % columns * side[0], tiles // columns * side[1]
    found: NDArray[np.bool_] = tissue.coverages(x, y, min(side), mpp) > 1e-9
    return found


def sampled(
    tiles: NDArray[np.int64],
    places: NDArray[np.int64],
    on_tissue: NDArray[np.bool_] | None,
    wanted: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Choose ``wanted`` of (N,) tiles, sorted: see the head of this module.

    Args:
        tiles: their numbers.
        places: where each lies in the file.
        on_tissue: whether each holds tissue, or None.
        wanted: how many to choose; all, where there are no more.
        rng: draws them.
    """
    if len(tiles) <= wanted:
        return tiles
    last = np.argsort(places, kind="stable")[len(tiles) - int(AT_END * wanted) :]
    free = np.ones(len(tiles), np.bool_)
    free[last] = False
    held = np.flatnonzero(free & on_tissue) if on_tissue is not None else np.zeros(0, np.int64)
    tissue = rng.permutation(held)[: int(ON_TISSUE * wanted)]
    free[tissue] = False
    rest = rng.permutation(np.flatnonzero(free))[: wanted - len(last) - len(tissue)]
    return np.sort(tiles[np.concatenate([last, tissue, rest])])


def _fault(slide: Slide, index: int, column: int, row: int) -> str:
    """Why a tile cannot be decoded; the empty string where it can."""
    reader, level = slide.reader, slide.levels[index]
    width, height = reader.tile_size(index)
    try:
        if isinstance(reader, TileReader):
            reader.read_tile(index, column, row, np.empty((height, width, 3), np.uint8))
        else:
            x, y = column * width, row * height
            reader.read(index, x, y, min(width, level.width - x), min(height, level.height - y))
    except PixelReadError as error:
        return str(error)
    return ""


def tile_findings(levels: Sequence[LevelTiles]) -> Iterator[Finding]:
    """What is to be said of the tiles."""
    for level in levels:
        of = f"{level.count:,} tiles of level {level.level}"
        if level.misplaced:
            at = _places(level.misplaced)
            said = f"{len(level.misplaced):,} of the {of} should lie past the end of the file ({at})"
            yield Finding("truncated", "error", said, "copy the file again: a part of it is missing")
        if level.bad and len(level.bad) == level.seen:
            tried = f"{counted(level.seen, 'tile')} of level {level.level} tried"
            said = f"{tried}, none of them can be decoded: {level.bad[0][2]}"
            yield Finding("unreadable_pixels", "error", said, "copy or scan the slide again")
        elif level.bad:
            tried = "" if level.seen == level.count else f"{level.seen:,} tried of "
            at = _places([(x, y) for x, y, _ in level.bad])
            said = f"{len(level.bad):,} of {tried}{of} cannot be decoded ({at}): {level.bad[0][2]}"
            yield Finding("bad_tiles", "error", said, REMEDY)
        if level.left_out:
            said = f"level {level.level} leaves out {level.left_out:,} of {level.left_out + level.count:,} tiles"
            yield Finding("left_out_tiles", "note", said, "nothing, where the scanner skipped it: it is background")


def _places(places: Sequence[tuple[int, int]]) -> str:
    named = ", ".join(f"x={x} y={y}" for x, y in places[:NAMED])
    return f"{named}, ..." if len(places) > NAMED else named
