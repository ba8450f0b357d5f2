"""docs/counting.md is true: its commands run as they stand, but for shorter stages."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import yaml

pytest.importorskip("torch")

from tests.methods import planted_counting as planted
from tests.methods.pages import run_commands

PAGE = (Path(__file__).parents[2] / "docs" / "counting.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^wsikit .*$", PAGE, flags=re.MULTILINE)
SHORT = {"epochs": 1, "batch_size": 8, "threads": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder after all commands have run."""
    folder = tmp_path_factory.mktemp("page")
    planted.write_folder(folder / "IMAGES", planted.tiles(0, 24))
    planted.write_slide(folder / "slide.svs", planted.mosaic(1, side=256))
    assert len(COMMANDS) == 3
    run_commands(COMMANDS, folder, _shorten)
    return folder


def _shorten(file: Path) -> None:
    told = yaml.safe_load(file.read_text("utf-8"))
    for stage in ("counter", "instances", "segmenter"):
        told[stage]["recipe"] = SHORT
    told |= {"mpp": 0.5, "stain": "ihc", "encoder": "test_efficientnet", "weights": "none", "core": 256, "halo": 64}
    file.write_text(yaml.safe_dump(told), "utf-8")


def test_every_file_that_the_page_names_is_there(folder: Path) -> None:
    named = set(re.findall(r"`(runs/a/[a-z./]+)`", PAGE))
    assert len(named) >= 2
    assert not [name for name in sorted(named) if not (folder / name).exists()]
    assert (folder / "runs/a/counter/curves.png").is_file()


def test_the_slide_has_cells_density_and_regions(folder: Path) -> None:
    out = folder / "out" / "slide"
    record = json.loads((out / "slide.json").read_text("utf-8"))
    assert record["status"] == "complete"
    assert record["density_count"] > 0
    assert (out / "masks.ome.zarr" / "density").is_dir()
    with (out / "regions.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) >= 1
