"""``wsikit run -c OUT/run.yaml``: a run is done again from what it wrote of itself."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.pipeline.test_verify import files, write_model
from tests.slides.broken import picture, tiled
from wsikit.cli.main import app

Command = Callable[..., tuple[int, str, str]]
TOLD = ("slide.json", "run.yaml", "report.html", "summary.csv")


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
def cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A manifest with resolutions of its own, a model beside it, and somebody who is in that folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("one", "two"):
        tiled(Path(f"{name}.tif"), [picture()])
    write_model(Path(), "128")
    with Path("cohort.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "mpp", "patient"], ["one.tif", 0.5, "p"], ["two.tif", 0.25, "q"]])
    return Path("cohort.csv")


def results(out: Path) -> dict[str, bytes]:
    return {name: data for name, data in files(out).items() if not name.endswith(TOLD)}


RUN = ["run", "-m", "dark.py:Dark", "--tissue", "whole", "-n", 1, "--cluster", "threads", "--supertile", 64]
TILE = ["tile", "--size", 64, "--mpp", 0.5, "--tissue", "whole", "--min-tissue", 0, "-n", 1, "--cluster", "threads"]


@pytest.mark.parametrize("words", [RUN, TILE], ids=["run", "tile"])
def test_another_folder_gets_the_same_bytes_from_anywhere(
    wsikit: Command, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[object]
) -> None:
    assert wsikit(*words, "-i", cohort, "-o", "out")[0] == 0
    monkeypatch.chdir("/")
    code, said, _ = wsikit(words[0], "-c", tmp_path / "here" / "out" / "run.yaml", "-o", tmp_path / "again")
    assert code == 0
    assert f"input: the 2 files of the run in {tmp_path}/here/out/run.yaml, which was given" in said
    first = results(tmp_path / "here" / "out")
    assert any(name.endswith((".gz", ".zarr/.zattrs", "zarr.json")) for name in first)
    assert results(tmp_path / "again") == first
    assert wsikit("verify", tmp_path / "again")[0] == 0


def test_without_a_folder_the_run_itself_goes_on(wsikit: Command, cohort: Path) -> None:
    wsikit(*RUN, "-i", cohort, "-o", "out")
    code, said, _ = wsikit("run", "-c", "out/run.yaml")
    assert (code, said.count("kept from an earlier run")) == (0, 2)


def test_an_input_that_is_given_wins(wsikit: Command, cohort: Path) -> None:
    wsikit(*RUN, "-i", cohort, "-o", "out")
    code, said, _ = wsikit("run", "-c", "out/run.yaml", "-i", "one.tif", "--mpp-override", 0.5, "-o", "other")
    assert (code, "input:" in said) == (0, False)
    assert yaml.safe_load(Path("other/run.yaml").read_text())["provenance"]["input"] == str(Path("one.tif").absolute())


def test_what_run_yaml_tells(wsikit: Command, cohort: Path) -> None:
    wsikit(*RUN, "-i", cohort, "-o", "out")
    values = yaml.safe_load(Path("out/run.yaml").read_text())
    told = values["provenance"]
    assert values["model"] == f"{Path('dark.py').absolute()}:Dark"
    assert (told["verb"], told["folder"], told["input"]) == ("run", str(Path.cwd()), str(cohort.absolute()))
    assert told["manifest"]["two"] == {"mpp": 0.25, "patient": "q"}
    assert told["model"]["name"] == "dark"
    assert len(told["model"]["hash"]) == 64
    assert told["seeds"].startswith("none")
    assert {"openslide", "libjpeg_turbo (imagecodecs)"} <= set(told["readers"])


@pytest.mark.parametrize("words", [["-i", "one.tif"], ["-o", "out"], ["-c", "plain.yaml", "-o", "out"]])
def test_what_cannot_be_known_must_be_given(wsikit: Command, cohort: Path, words: list[str]) -> None:
    Path("plain.yaml").write_text("model: stain-area\n")
    code, _, err = wsikit("run", *words)
    assert code == 2
    assert "must be given" in err


def test_a_run_yaml_of_another_verb_is_refused(wsikit: Command, cohort: Path) -> None:
    wsikit(*TILE, "-i", cohort, "-o", "out")
    code, _, err = wsikit("run", "-c", "out/run.yaml", "-o", "again")
    assert code == 2
    assert "no option" in err or "is of wsikit tile" in err
