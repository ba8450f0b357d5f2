"""docs/tissue_labels.md is true: its commands run as they stand, but for shorter stages."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("torch")

from tests.methods import planted_tissue as planted
from tests.methods.pages import run_commands
from tests.planted import write_pyramid
from wsikit.config import load_config
from wsikit.methods.cam_onss.classes import LUAD_HISTOSEG, find_schema
from wsikit.methods.cam_onss.config import Config

PAGE = (Path(__file__).parents[2] / "docs" / "tissue_labels.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^wsikit .*$", PAGE, flags=re.MULTILINE)
SHORT = {"epochs": 1, "batch_size": 8, "threads": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder after all commands have run."""
    folder = tmp_path_factory.mktemp("page")
    patches = [
        one
        for part, split in enumerate(("train", "validation", "test"))
        for one in planted.scenes(part, 16, split=split)  # type: ignore[arg-type]
    ]
    planted.write_folder(folder / "PATCHES", patches, LUAD_HISTOSEG)
    slide = np.concatenate([planted.scene(np.random.default_rng(i), 2, 256).image for i in (3, 4)], axis=1)
    write_pyramid(folder / "slide.svs", slide, mpp=1.0)
    assert len(COMMANDS) == 4
    run_commands(COMMANDS, folder, _shorten)
    return folder


def _shorten(file: Path) -> None:
    told = yaml.safe_load(file.read_text("utf-8"))
    for stage in ("classifier", "segmenter"):
        told[stage]["recipe"] = SHORT
    told |= {"encoder": "test_efficientnet", "weights": "none", "depth": 3}
    file.write_text(yaml.safe_dump(told), "utf-8")


def test_every_file_that_the_page_names_is_there(folder: Path) -> None:
    named = set(re.findall(r"`(runs/t/[a-z_./]+)`", PAGE))
    assert len(named) >= 4
    assert not [name for name in sorted(named) if not (folder / name).exists()]


def test_the_slide_has_areas_by_the_names_of_qupath(folder: Path) -> None:
    out = folder / "out" / "slide"
    record = json.loads((out / "slide.json").read_text("utf-8"))
    assert record["status"] == "complete"
    assert set(record["areas_mm2"]) <= {one.qupath_name for one in LUAD_HISTOSEG.classes} | {"Ignore*"}
    assert sum(record["areas_mm2"].values()) > 0
    assert (out / "masks.ome.zarr" / "labels" / "classes").is_dir()


def test_classes_of_ones_own_are_read(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "mine.yaml").write_text(block, "utf-8")
    assert load_config(Config, tmp_path / "mine.yaml", []).tissue.codes == ("TUM", "STR")


def test_the_schedules_that_the_page_names_are_of_ready_made_classes() -> None:
    for name in re.findall(r"`(\w+)\.yaml`", PAGE):
        if name != "cam_onss":
            assert find_schema(name).name == name
