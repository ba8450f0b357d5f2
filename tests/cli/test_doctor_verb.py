"""``wsikit doctor`` as a user meets it."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

from tests.slides.broken import APERIO, cut, picture, tiled
from wsikit.cli.main import app

FOUND = {"cut": "truncated", "double": "duplicate", "odd": "mpp_against_power"}


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["wsikit", "doctor", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        app()
    return int(end.value.code or 0)


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    folder = tmp_path / "slides"
    folder.mkdir()
    tiled(folder / "a-sound.svs", [picture()], description=APERIO.format(mpp="0.4990"))
    (folder / "double.svs").write_bytes((folder / "a-sound.svs").read_bytes())
    tiled(folder / "odd.svs", [picture()], description=APERIO.format(mpp="0.2500"))
    cut(tiled(folder / "cut.tif", [picture()]), 0.6)
    return folder


def test_a_table_two_files_and_exit_3_where_a_slide_has_an_error(
    slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, slides, "--no-model", "-n", 1, "-o", tmp_path / "out") == 3
    said = capsys.readouterr().out
    assert "4 slides: 1 error, 2 warning, 1 note" in said
    assert "error: The file was cut short" in said
    assert "what to do: copy the file again" in said
    with (tmp_path / "out" / "doctor.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["slide_id"]: row for row in csv.DictReader(file)}
    assert {name: rows[name]["codes"].split()[0] for name in FOUND} == FOUND
    assert rows["cut"]["verdict"] == "error"
    held = json.loads((tmp_path / "out" / "doctor.json").read_text())
    assert held["counts"] == {"error": 1, "warning": 2, "note": 1, "ok": 0}


def test_json_alone_is_printed_and_sound_slides_are_exit_0(
    slides: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, slides / "a-sound.svs", "--no-model", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["slides"][0]["facts"]["tiles_seen"] == 12
    assert {finding["code"] for finding in said["slides"][0]["findings"]} == {"just_written"}


@pytest.mark.parametrize("words", [["nowhere"], [".", "--sample", "0"], [".", "-m", "nuclie"], []])
def test_wrong_usage_is_exit_2(words: list[str], slides: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(slides)
    assert call(monkeypatch, *words) == 2
