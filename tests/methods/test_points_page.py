"""docs/points.md is true: its commands run as they stand, but for shorter stages."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("torch")

from tests.methods import planted_points as planted
from tests.methods.pages import run_commands
from tests.planted import write_pyramid
from wsikit.config import load_config
from wsikit.methods.points.config import Config
from wsikit.methods.points.train import split_data

PAGE = (Path(__file__).parents[2] / "docs" / "points.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^wsikit .*$", PAGE, flags=re.MULTILINE)
(TABLE,) = re.findall(r"```csv\n(.*?)```", PAGE, flags=re.DOTALL)
MPP = 0.5
ROWS = [(f"{number:02d}.png", f"P{number // 2}", "test" if number >= 12 else "train") for number in range(16)]
"""Name, patient and split of the images."""


def write_field(folder: Path, name: str, one: planted.Planted, points: NDArray[np.float64]) -> None:
    """An image, and the points as QuPath exports those of one annotation."""
    Image.fromarray(one.image).save(folder / name)
    feature = {
        "type": "Feature",
        "id": "a0a1a2a3-b0b1-4c0c-8d0d-e0e1e2e3e4e5",
        "geometry": {"type": "MultiPoint", "coordinates": points.round(2).tolist()},
        "properties": {"objectType": "annotation", "classification": {"name": "Nucleus", "color": [200, 0, 0]}},
    }
    file = (folder / name).with_suffix(".geojson")
    file.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}), "utf-8")


def write_images(folder: Path, rows: Iterable[Sequence[str]]) -> None:
    """Fields of about 20 nuclei; six of each are clicked, all of those for testing."""
    folder.mkdir()
    for number, (name, _, split) in enumerate(rows):
        one = planted.scene((0, number))
        some = one.points if split == "test" else planted.annotated(one.points, 0.3, np.random.default_rng(number))
        write_field(folder, name, one, some)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder after all commands have run."""
    folder = tmp_path_factory.mktemp("page")
    write_images(folder / "IMAGES", ROWS)
    table = [TABLE.splitlines()[0], *(",".join(row) for row in ROWS)]
    (folder / "IMAGES" / "images.csv").write_text("\n".join(table), "utf-8")
    slide = planted.scene(50, side=256, nuclei=140, discs=25, fibres=15)
    write_pyramid(folder / "slide.svs", slide.image, mpp=MPP)
    assert len(COMMANDS) == 4
    run_commands(COMMANDS, folder, _shorten)
    return folder


def _shorten(file: Path) -> None:
    told = yaml.safe_load(file.read_text("utf-8"))

    def short(epochs: int) -> dict[str, float]:
        return {"epochs": epochs, "batch_size": 4, "learning_rate": 4e-3, "threads": 1}

    told["detector"] |= {"rounds": 1, "recipe": short(9), "again": short(3)}
    told["segmenter"]["recipe"] = short(10)
    told |= {"mpp": MPP, "radius_um": planted.RADIUS * MPP, "at_mpp": MPP, "seen_mpp": [0.4, 0.6], "crop": 96}
    told |= {"encoder": "test_efficientnet", "weights": "none", "widths": [32, 16], "core": 128, "halo": 32}
    file.write_text(yaml.safe_dump(told), "utf-8")


def test_every_file_that_the_page_names_is_there(folder: Path) -> None:
    named = set(re.findall(r"`(runs/p/[a-z0-9_./-]+)`", PAGE))
    assert len(named) >= 2
    assert not [name for name in sorted(named) if not (folder / name).exists()]
    stages = {path.parent.name for path in (folder / "runs" / "p").glob("*/curves.png")}
    assert stages == {"detector-0", "detector-1", "segmenter"}


def test_the_rounds_wrote_a_map_for_each_image_that_they_saw(folder: Path) -> None:
    for stage in ("detector-0", "detector-1"):
        maps = {path.stem for path in (folder / "runs" / "p" / stage / "maps").iterdir()}
        assert maps == {name for name, _, split in ROWS if split == "train"}


def test_the_test_images_were_measured_by_points_that_were_all_clicked(folder: Path) -> None:
    card = json.loads((folder / "runs" / "p" / "points.json").read_text("utf-8"))
    assert card["metrics"]["images"] == 4
    assert card["metrics"]["detection_f1"] > 0.7
    assert f"{card['metrics']['detection_f1']:.3f}" in (folder / "evaluate.txt").read_text("utf-8")
    assert len(card["facts"]["rounds"]) == 2


def test_the_slide_has_nuclei_with_area_and_score(folder: Path) -> None:
    out = folder / "out" / "slide"
    record = json.loads((out / "slide.json").read_text("utf-8"))
    assert record["status"] == "complete"
    with gzip.open(out / "objects.geojson.gz") as file:
        features = json.load(file)["features"]
    assert len(features) == record["objects"] > 70
    measured = features[0]["properties"]["measurements"]
    assert {"Area um^2", "Score"} <= set(measured)


def test_the_table_of_the_page_is_read(tmp_path: Path) -> None:
    rows = list(csv.reader(TABLE.splitlines()))[1:]
    write_images(tmp_path / "IMAGES", rows)
    (tmp_path / "IMAGES" / "images.csv").write_text(TABLE, "utf-8")
    data, splits = split_data(Config(data=tmp_path / "IMAGES"))
    assert [one.patient for one in data] == [patient for _, patient, _ in rows]
    assert [split == "test" for split in splits.assigned] == [split == "test" for _, _, split in rows]


def test_the_folder_of_the_page_holds_what_its_table_names() -> None:
    listed = re.findall(r"^IMAGES/(\w+\.png)   IMAGES/(\w+)\.geojson$", PAGE, flags=re.MULTILINE)
    assert [name for name, _ in listed] == [row[0] for row in list(csv.reader(TABLE.splitlines()))[1:]]
    assert all(name == f"{stem}.png" for name, stem in listed)


def test_other_labels_are_asked_for_as_the_page_says(tmp_path: Path) -> None:
    asked = []
    for said in re.findall(r"`(segmenter: .*?)`", PAGE):
        (tmp_path / "points.yaml").write_text(said, "utf-8")
        asked.append(load_config(Config, tmp_path / "points.yaml", []).segmenter.labels)
    assert asked == ["both", "masks"]
