"""The doctor on every recipe of a bad file: what a run would fail on is an error, what it would read is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from broken import RECIPES, Recipe, cut, picture, scramble, tile_bytes, tiled
from hostile import HOSTILE, Hostile, set_tile

from wsikit.config import RunConfig
from wsikit.pipeline.doctor import Diagnosis, check_up
from wsikit.pipeline.doctor.findings import TITLES
from wsikit.pipeline.doctor.slide import look_at_slide
from wsikit.pipeline.doctor.written import as_csv, as_json
from wsikit.pipeline.inputs import SlideEntry

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
CONFIG = RunConfig(num_workers=1)
INSTEAD = {"empty.svs": "empty_file", "magic-only.tif": "truncated", "ifd-nowhere.tif": "truncated"}
INSTEAD |= {"cut.tif": "truncated", "flat-cut.tif": "truncated", "scrambled-tile.tif": "bad_tiles"}
"""Recipe -> code where the doctor can say more than a run, which records how reading failed."""
LOST_LEVELS = {"level-1-missing.tif", "next-past-end.tif"}
"""A run reads what is left of these; the doctor misses the directories that lie past the end."""


def entries(folder: Path, recipes: list[Recipe] | list[Hostile]) -> list[SlideEntry]:
    return [SlideEntry(recipe.name, recipe.make(folder / recipe.name)) for recipe in recipes]


def look(path: Path, wanted: int | None = None) -> Diagnosis:
    return look_at_slide(SlideEntry(path.name, path), CONFIG, None, wanted, 0)


def codes(one: Diagnosis, severity: str = "error") -> set[str]:
    return {finding.code for finding in one.findings if finding.severity == severity}


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Diagnosis]:
    found = check_up(entries(tmp_path_factory.mktemp("broken"), RECIPES), CONFIG, with_model=False, sample=None)
    json.loads(as_json(found))
    assert as_csv(found).count("\n") == len(RECIPES) + 1
    return {one.slide_id: one for one in found.slides}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_an_error_where_and_only_where_a_run_would_fail(recipe: Recipe, broken: dict[str, Diagnosis]) -> None:
    found = codes(broken[recipe.name])
    assert found == ({INSTEAD.get(recipe.name, recipe.code)} if recipe.code else set())
    assert all(f.remedy for f in broken[recipe.name].findings if f.code not in ("unsupported_pixels", "too_large"))


def test_every_finding_has_a_meaning_in_words(broken: dict[str, Diagnosis]) -> None:
    assert {finding.code for one in broken.values() for finding in one.findings} <= set(TITLES)


@pytest.mark.slow
def test_hostile_files_have_an_error_each_and_sound_ones_have_none(tmp_path: Path) -> None:
    found = check_up(entries(tmp_path, HOSTILE), CONFIG, with_model=False, sample=None).slides
    assert len(found) == len(HOSTILE)
    wrong = {one.slide_id for one, recipe in zip(found, HOSTILE, strict=True) if bool(codes(one)) != bool(recipe.code)}
    assert wrong == LOST_LEVELS
    assert all(codes(one) == {"truncated"} for one in found if one.slide_id in LOST_LEVELS)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_tiles_past_the_end_are_counted_exactly_without_decoding(share: float, tmp_path: Path) -> None:
    whole = tiled(tmp_path / "whole.tif", [picture(1500, 1300)])
    places = [tile_bytes(whole, tile) for tile in range(12 * 11)]
    path = cut(whole, share)
    lost = sum(offset + length > path.stat().st_size for offset, length in places)
    assert 0 < lost < len(places)
    (finding,) = [f for f in look(path, wanted=1).findings if f.code == "truncated"]
    assert f"{lost} of the {len(places)} tiles" in finding.message


def test_a_table_with_places_past_any_file_is_seen(tmp_path: Path) -> None:
    path = set_tile(tiled(tmp_path / "a.tif", [picture()]), "TileOffsets", 5, 2**32 - 1)
    assert codes(look(path)) == {"truncated"}


@pytest.mark.parametrize("seed", range(3))
def test_damage_at_the_end_is_found_by_any_sample(seed: int, tmp_path: Path) -> None:
    path = tiled(tmp_path / "a.tif", [picture(1024, 768, seed)])
    scramble(path, 8 * 6 - 1)
    found = look_at_slide(SlideEntry("a", path), CONFIG, None, 8, seed)
    assert codes(found) == {"bad_tiles"}
    assert "x=896 y=640" in found.findings[0].message


def test_full_finds_the_one_bad_tile_wherever_it_is(tmp_path: Path) -> None:
    path = scramble(tiled(tmp_path / "a.tif", [picture(2048, 1024)]), 77)
    found = look(path)
    assert codes(found) == {"bad_tiles"}
    assert found.facts["tiles_seen"] == found.facts["tiles"] == 128
    assert found.facts["tiles_bad"] == 1


def test_levels_that_a_cut_took_away_are_missed_though_the_rest_opens(tmp_path: Path) -> None:
    whole = tiled(tmp_path / "a.tif", [picture(), picture(200, 150)])
    end = max(sum(tile_bytes(whole, tile)) for tile in range(12))
    path = cut(whole, (end + 1) / whole.stat().st_size)
    found = look(path)
    assert found.facts["levels"] == 1, "tiffslide opens it, and a run would not notice"
    assert codes(found) == {"truncated"}


def test_two_looks_see_the_same_tiles(tmp_path: Path) -> None:
    path = tiled(tmp_path / "a.tif", [picture(1024, 1024)])
    for tile in range(0, 64, 3):
        scramble(path, tile)
    entry, copy = SlideEntry("a", path), SlideEntry("b", tmp_path / "b.tif")
    copy.path.write_bytes(path.read_bytes())
    found = check_up([entry, copy], CONFIG, with_model=False, sample=10).slides
    first, second = (
        [f.message.replace("b.tif", "a.tif") for f in one.findings if f.code == "bad_tiles"] for one in found
    )
    assert first
    assert first == second


DEADLY = '''
import ctypes
from wsikit.errors import SlideOpenError
from wsikit.slides.array import ArrayReader
import numpy as np


class DeadlyReader(ArrayReader):
    """Kills its process, on opening or where x is 64 or more."""

    name = "deadly"
    suffixes = frozenset({".deadly"})

    def __init__(self, path):
        if path.suffix != ".deadly":
            raise SlideOpenError("not deadly")
        self.where = path.read_text()
        if self.where == "open":
            ctypes.string_at(0)
        super().__init__([np.full((128, 192, 3), 200, np.uint8)], 0.5, tile=(64, 64), path=path)

    def read(self, level, x, y, width, height):
        if self.where == "read" and x + width > 64:
            ctypes.string_at(0)
        return super().read(level, x, y, width, height)
'''


@pytest.mark.slow
def test_a_reader_that_dies_costs_its_slide_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "site" / "deadly-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: deadly\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[wsikit.readers]\ndeadly = deadly_reader:DeadlyReader\n")
    (tmp_path / "site" / "deadly_reader.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(tmp_path / "site")
    for name, text in (("a", "open"), ("b", "read"), ("d", "none")):
        (tmp_path / f"{name}.deadly").write_text(text)
    tiled(tmp_path / "c.tif", [picture()])
    paths = [tmp_path / name for name in ("a.deadly", "b.deadly", "c.tif", "d.deadly")]
    found = check_up([SlideEntry(path.name, path) for path in paths], CONFIG, with_model=False).slides
    assert [codes(one) for one in found] == [{"reader_crash"}, {"reader_crash", "bad_tiles"}, set(), set()]
    assert "4 of 6 tiles" in "".join(finding.message for finding in found[1].findings)
