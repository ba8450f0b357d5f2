"""``wsikit tile`` as a user meets it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.slides.broken import picture, tiled
from wsikit.cli.main import app
from wsikit.patches import open_patches

Command = Callable[..., tuple[int, str, str]]
WHOLE = ["--tissue", "whole", "--min-tissue", "0", "-n", "1"]


@pytest.fixture
def wsikit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["wsikit", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            app()
        said = capsys.readouterr()
        return end.value.code or 0, said.out, said.err  # type: ignore[return-value]

    return call


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    folder = tmp_path / "slides"
    folder.mkdir()
    tiled(folder / "one.tif", [picture()])
    shutil.copy(folder / "one.tif", folder / "two.tif")
    return folder


def test_a_folder_of_slides(wsikit: Command, slides: Path, tmp_path: Path) -> None:
    code, out, _ = wsikit("tile", "-i", slides, "-o", tmp_path / "out", "--size", 128, *WHOLE)
    assert code == 0
    assert "one: complete, 6 patches (6 as they are)" in out
    assert "2 files: 2 complete" in out
    assert len(open_patches(tmp_path / "out" / "two" / "patches.zarr")) == 6
    code, out, _ = wsikit("tile", "-i", slides, "-o", tmp_path / "out", "--size", 128, *WHOLE)
    assert (code, out.count("kept from an earlier run")) == (0, 2)


def test_a_bad_slide_is_exit_code_3(wsikit: Command, slides: Path, tmp_path: Path) -> None:
    (slides / "bad.svs").write_text("no slide")
    code, out, _ = wsikit("tile", "-i", slides, "-o", tmp_path / "out", "--size", 128, *WHOLE)
    assert code == 3
    assert "bad: failed (unreadable)" in out
    assert "3 files: 2 complete, 1 failed" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--size", "nativ"], "size"),
        (["--size", "64", "--overlap", "64"], "overlap of 64"),
        (["--format", "zar"], "Did you mean 'zarr'"),
        (["--passthrough", "maybe"], "passthrough"),
        (["--quality", "0"], "quality"),
        (["--mpp", "0.5", "--mag", "20"], "--mag"),
        (["--set", "overlapp=3"], "overlap"),
    ],
)
def test_wrong_usage_is_exit_code_2(words: list[str], said: str, wsikit: Command, slides: Path, tmp_path: Path) -> None:
    code, _, err = wsikit("tile", "-i", slides, "-o", tmp_path / "out", *words)
    assert code == 2
    assert said in err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_writes_nothing(wsikit: Command, slides: Path, tmp_path: Path) -> None:
    code, out, _ = wsikit("tile", "-i", slides, "-o", tmp_path / "out", "--size", "native", "--dry-run", *WHOLE)
    assert code == 0
    assert "6 patches of 128 px at 0.5 um/px, 6 as they are, 0 to encode" in out
    assert "2 of 2 slides to cut, 12 patches" in out
    assert not (tmp_path / "out").exists()


def test_the_template_is_a_configuration_and_run_yaml_repeats_it(wsikit: Command, slides: Path, tmp_path: Path) -> None:
    template = tmp_path / "tile.yaml"
    code, out, _ = wsikit("config", "init", template)
    assert (code, "wsikit tile -c" in out) == (0, True)
    words = ["-i", slides, "-o", tmp_path / "out", *WHOLE]
    assert (
        wsikit("tile", *words, "-c", template, "--size", 100, "--set", "overlap=20", "--set", "skip_glass=off")[0] == 0
    )
    shutil.copy(tmp_path / "out" / "run.yaml", tmp_path / "again.yaml")
    written = yaml.safe_load((tmp_path / "again.yaml").read_text())
    assert (written["size"], written["overlap"], written["skip_glass"]) == (100, 20, "off")
    code, out, _ = wsikit("tile", "-i", slides, "-o", tmp_path / "out", "-c", tmp_path / "again.yaml")
    assert (code, out.count("kept from an earlier run")) == (0, 2)
