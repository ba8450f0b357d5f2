"""``wsikit info``: what it shows, and exit code 3 with code and remedy where a file cannot be run."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import typer
from PIL import Image
from typer.testing import CliRunner

from wsikit.cli.info import info

app = typer.Typer()
app.command()(info)


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    path = tmp_path / "a.tif"
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3)).astype(np.uint8)
    tifffile.imwrite(path, pixels, tile=(128, 128), resolution=(20_000, 20_000), resolutionunit=3, metadata=None)
    return path


def test_a_slide_shows_its_reader_levels_and_mpp(slide: Path) -> None:
    result = CliRunner().invoke(app, [str(slide)])
    assert result.exit_code == 0
    for expected in (
        "reader     tiff\n",
        "generic-tiff",
        "0.5 x 0.5 um per pixel (TIFF XResolution)",
        "300",
        "128x128",
    ):
        assert expected in result.output


def test_json_holds_the_same_facts(slide: Path) -> None:
    facts = json.loads(CliRunner().invoke(app, [str(slide), "--json"]).output)
    assert facts["levels"] == [
        {"level": 0, "width": 300, "height": 200, "downsample": 1.0, "mpp": 0.5, "tile": [128, 128]}
    ]


def test_levels_are_shown_as_they_are_used(tmp_path: Path) -> None:
    path = tmp_path / "strip.tif"
    with tifffile.TiffWriter(path) as writer:
        for width, height in ((515, 2048), (128, 512)):
            pixels = np.full((height, width, 3), 200, np.uint8)
            options = {"tile": (128, 128), "resolution": (20_000, 20_000), "resolutionunit": 3, "metadata": None}
            writer.write(pixels, subfiletype=int(width < 515), **options)
    levels = json.loads(CliRunner().invoke(app, [str(path), "--json"]).output)["levels"]
    assert [(level["downsample"], level["mpp"]) for level in levels] == [(1.0, 0.5), (4.0, 2.0)]


def test_an_image_without_mpp_says_so_and_ends_in_3(tmp_path: Path) -> None:
    path = tmp_path / "[red]a.png"
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(path)
    result = CliRunner().invoke(app, [str(path)])
    assert result.exit_code == 3
    for expected in (
        "[red]a.png",
        "not tiff: not a TIFF",
        "not openslide",
        "not tiffslide",
        "missing_mpp",
        "--mpp-override",
    ):
        assert expected in result.output


def test_no_slide_at_all_ends_in_3_with_its_code(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    path.write_text("no slide")
    result = CliRunner().invoke(app, [str(path), "--json"])
    assert result.exit_code == 3
    assert json.loads(result.output)["code"] == "unreadable"
