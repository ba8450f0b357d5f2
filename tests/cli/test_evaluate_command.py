"""``wsikit evaluate`` as a user meets it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsikit.annotations import read_annotations, write_annotations
from wsikit.annotations.annotations import Item, gather
from wsikit.cli.main import app

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """``wsikit evaluate ...`` in this process: exit code, what it said, and what it complained of."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["wsikit", "evaluate", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "100")
        with pytest.raises(SystemExit) as end:
            app()
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A field of 12 purple discs of 8 um in pink tissue, and their labels."""
    rows, columns = np.mgrid[:200, :260]
    labels = np.zeros((200, 260), np.uint8)
    for k in range(12):
        x, y = 35 + 62 * (k % 4), 40 + 60 * (k // 4)
        labels[np.hypot(columns - x, rows - y) < 16] = k + 1
    noise = np.random.default_rng(0).normal(0, 3, (200, 260, 3))
    pixels = np.where(labels[..., None] > 0, (90, 60, 140), (230, 180, 210)) + noise
    data = tmp_path / "data"
    data.mkdir()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(data / "field.png")
    Image.fromarray(labels).save(data / "field_labels.png")
    return data


def test_figures_are_shown_and_written(evaluate: Call, folder: Path, tmp_path: Path) -> None:
    code, out, err = evaluate("nuclei-classical", "--data", folder, "--mpp-override", "0.25", "-o", tmp_path / "out")
    assert (code, err) == (0, "")
    for name in ("object_f1", "aji_plus", "dice2", "detection_f1", "count_mae", "trivial", "1 of 1 images scored"):
        assert name in out
    assert "not computed: IoU of classes" in out
    written = json.loads((tmp_path / "out" / "metrics.json").read_text("utf-8"))
    assert written["metrics"]["object_f1"]["pooled"] > 0.9
    assert written["command"].startswith("wsikit evaluate nuclei-classical --data")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"metrics.csv", "metrics.json", "examples.png"}


def test_what_of_the_truth_is_left_out_is_said(evaluate: Call, folder: Path) -> None:
    drawn = read_annotations(folder / "field_labels.png").polygons()
    cells = [Item("cell", shape.buffer(4), nucleus=shape) for shape in drawn]
    write_annotations(folder / "field.geojson", gather(cells))
    (folder / "field_labels.png").unlink()
    code, out, _ = evaluate("nuclei-classical", "--data", folder, "--mpp-override", "0.25")
    assert code == 0
    assert "truth: 12 x cells: their nucleus is taken, not their boundary (in field)" in out


def test_without_an_output_folder_nothing_is_written(evaluate: Call, folder: Path) -> None:
    assert evaluate("nuclei-classical", "--data", folder, "--mpp-override", "0.25")[0] == 0
    assert sorted(path.name for path in folder.iterdir()) == ["field.png", "field_labels.png"]


def test_an_image_that_fails_is_named_and_is_exit_3(evaluate: Call, folder: Path) -> None:
    Image.new("RGB", (50, 50), "white").save(folder / "other.png")
    Image.new("L", (50, 51)).save(folder / "other_labels.png")
    code, out, _ = evaluate("nuclei-classical", "--data", folder, "--mpp-override", "0.25")
    assert code == 3
    assert "other: failed (wrong_shape)" in out
    assert "object_f1" in out


def test_without_a_resolution_every_image_fails_and_says_what_to_do(evaluate: Call, folder: Path) -> None:
    code, out, _ = evaluate("nuclei-classical", "--data", folder)
    assert code == 3
    assert "missing_mpp" in out
    assert "--mpp-override" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nuclie"], ["Did you mean 'nuclei'?"]),
        (["nuclei-classical", "--radius-um", "0"], ["radius must be a positive number"]),
        (["nuclei-classical", "--mask-class", "x=ignore"], ["VALUE=NAME", "255=ignore"]),
        (["nuclei-classical", "--mask-class", "3"], ["VALUE=NAME"]),
        (["nuclei-classical", "--mpp", "-1"], ["mpp", "greater than 0"]),
        (["nuclei-classical", "--device", "cuda"], ["device"]),
    ],
)
def test_wrong_usage_is_exit_2_and_says_what_is_right(
    evaluate: Call, folder: Path, words: list[str], said: list[str]
) -> None:
    code, _, err = evaluate(*words, "--data", folder)
    assert code == 2
    assert all(text in err for text in said), err


def test_a_folder_without_truth_is_exit_2(evaluate: Call, folder: Path) -> None:
    (folder / "field_labels.png").unlink()
    code, _, err = evaluate("nuclei-classical", "--data", folder)
    assert code == 2
    assert "what to do: name it after its image" in err
    assert "_labels.png" in err
