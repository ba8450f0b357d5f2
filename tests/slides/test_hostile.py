"""Hostile TIFFs: every reader ends in the code of the table, names the same bad tiles and shows the same pixels."""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from broken import RGB
from hostile import HOSTILE, Hostile, jpeg, replace_tile, sound

from wsikit.errors import WsikitError
from wsikit.slides import READERS, open_slide
from wsikit.slides.slide import BadTile

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
DEFAULT = "default"
SEED_ERROR = 40
"""Most that JPEG changes a pixel of the seed, in grey levels, beside how often it does."""


@dataclass(frozen=True)
class Outcome:
    """What opening a file and reading every level of it came to."""

    code: str | None
    message: str = ""
    reader: str = ""
    size: tuple[int, int] = (0, 0)
    pixels: np.ndarray | None = None
    """Of level 0."""
    bad: frozenset[tuple[int, int, int, int]] = frozenset()
    """Boxes of level 0."""


def outcome(path: Path, reader: str | None = None) -> Outcome:
    try:
        with open_slide(path, reader=reader) as slide:
            parts = [slide.read_partial(slide.plane(level.mpp)) for level in slide.levels]
            name, size = slide.reader.name, (slide.width, slide.height)
    except WsikitError as error:
        return Outcome(error.code, str(error))
    tiles: list[BadTile] = [tile for part in parts for tile in part.bad]
    boxes = frozenset(tile.box for tile in parts[0].bad)
    return Outcome("unreadable_pixels" if tiles else None, str(tiles), name, size, parts[0].pixels, boxes)


def inside(box: tuple[int, int, int, int]) -> tuple[slice, slice]:
    x, y, width, height = box
    return np.s_[y : y + height, x : x + width]


def expected(recipe: Hostile, reader: str) -> str | None:
    if reader == "image":
        # once the directories can be true, a plain-image reader refuses tiles whatever is wrong with them
        return recipe.code if recipe.code in ("bad_header", "too_large") else "unreadable"
    return recipe.each.get(reader.removesuffix("-scaled"), recipe.code)


PEAK = """
import sys
from wsikit.pipeline.resident import peak_rss_mb
from wsikit.slides import open_slide
peaks = []
for path in sys.argv[2:]:
    with open_slide(path, reader=sys.argv[1]) as slide:
        bad = len(slide.read_partial(slide.plane(slide.mpp)).bad)
    peaks.append(peak_rss_mb())
print(bad, peaks[1] - peaks[0])
"""


@pytest.mark.parametrize("reader", ["tiff", "openslide", "tiffslide"])
def test_a_tile_of_36_megapixels_in_a_slot_of_128_px_takes_no_memory(reader: str, tmp_path: Path) -> None:
    bomb = replace_tile(sound(tmp_path / "bomb.tif"), 5, jpeg(6000, 6000))
    command = [sys.executable, "-W", "ignore", "-c", PEAK, reader, str(sound(tmp_path / "sound.tif")), str(bomb)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    bad, more_mb = said.split()
    assert bad == "1"
    assert float(more_mb) < 20


@pytest.mark.parametrize("name", ["circle.tif", "million.tif", "2^31.tif", "tiles-10^6.tif"])
def test_what_cannot_be_true_is_refused_within_two_seconds(name: str, tmp_path: Path) -> None:
    path = next(recipe for recipe in HOSTILE if recipe.name == name).make(tmp_path / name)
    begun = time.process_time()
    outcome(path)
    assert time.process_time() - begun < 2


@pytest.mark.parametrize("recipe", HOSTILE, ids=lambda recipe: recipe.name)
def test_every_reader_ends_as_the_table_says(recipe: Hostile, tmp_path: Path) -> None:
    path = recipe.make(tmp_path / recipe.name)
    found = {DEFAULT: outcome(path)} | {reader: outcome(path, reader) for reader in READERS}
    codes = {reader: result.code for reader, result in found.items()}
    assert codes == {reader: expected(recipe, reader) for reader in found}, found[DEFAULT].message
    assert recipe.mentions in found[DEFAULT].message
    shown = {reader: result for reader, result in found.items() if result.pixels is not None}
    for reader, result in shown.items():
        check_pixels(recipe, reader, result)
    first, *others = shown.values() or [None]
    for other in others:
        assert other.bad == first.bad
        assert np.array_equal(other.pixels, first.pixels)


def check_pixels(recipe: Hostile, reader: str, result: Outcome) -> None:
    """What is listed, left out and shown; nothing is black, since the seed has no dark pixel."""
    pixels = result.pixels
    assert pixels is not None
    if recipe.bad is not None:
        assert result.bad == set(recipe.bad), reader
    for box in [*result.bad, *([recipe.missing] if recipe.missing else [])]:
        assert (pixels[inside(box)] == 255).all(), reader
    sound_pixels = np.ones(pixels.shape[:2], bool)
    for box in [*result.bad, *([recipe.missing] if recipe.missing else [])]:
        sound_pixels[inside(box)] = False
    if recipe.shows == "seed" and sound_pixels.any():
        assert pixels.shape == RGB.shape, reader
        difference = np.abs(pixels.astype(int) - RGB)[sound_pixels]
        assert difference.max() <= SEED_ERROR, reader
        assert difference.mean() < 5, reader
