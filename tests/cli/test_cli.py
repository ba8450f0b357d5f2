"""The command line as a user meets it: exit codes, messages, and what is written."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from PIL import Image

from wsikit.cli.main import app, typer_app
from wsikit.config import RunConfig, load_config
from wsikit.geometry import Region
from wsikit.pipeline import provenance
from wsikit.pipeline.lease import Lease
from wsikit.pipeline.stopping import Stop
from wsikit.predictors import PREDICTORS
from wsikit.sinks import SINKS
from wsikit.slides import open_slide

VERBS = [
    *("info", "doctor", "tissue", "tile", "run", "embed", "status", "verify", "report"),
    *("train", "evaluate", "convert", "models", "samples", "config"),
]
FAST = ["-n", "1", "--mpp-override", "0.5"]
"""One process: no dask to start."""


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


Command = Callable[..., Answer]


@pytest.fixture
def wsikit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The console script's entry point, in this process."""

    def call(*words: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["wsikit", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            app()
        said = capsys.readouterr()
        return Answer(end.value.code or 0, said.out, said.err)  # type: ignore[arg-type]

    return call


@pytest.fixture(scope="module")
def tile(cmu: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PNG of 300 x 300 px of real H&E."""
    path = tmp_path_factory.mktemp("tile") / "tile.png"
    with open_slide(cmu) as slide:
        Image.fromarray(slide.read(Region(500, 1500, 300, 300, slide.mpp))).save(path)
    return path


@pytest.fixture
def slides(tile: Path, tmp_path: Path) -> Path:
    """A folder of two good slides."""
    folder = tmp_path / "slides"
    folder.mkdir()
    for name in ("one.png", "two.png"):
        shutil.copy(tile, folder / name)
    return folder


def state(folder: Path) -> dict[str, int]:
    """Every file below a slide's folder -> modification time."""
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def summary(out: Path) -> dict[str, str]:
    """slide_id -> status."""
    with (out / "summary.csv").open(encoding="utf-8", newline="") as file:
        return {row["slide_id"]: row["status"] for row in csv.DictReader(file)}


def test_every_verb_is_tested_here() -> None:
    names = {command.callback.__name__ for command in typer_app.registered_commands if command.callback}
    assert names | {group.name for group in typer_app.registered_groups} == set(VERBS)


@pytest.mark.parametrize("words", [[], *([verb] for verb in VERBS), ["config", "init"]])
def test_every_verb_explains_itself(wsikit: Command, words: list[str]) -> None:
    answer = wsikit(*words, "--help")
    assert answer.code == 0
    # how the program was started stands before its name
    assert re.search(" ".join(["Usage: .*wsikit", *words, ""]), answer.out)


def test_the_version_is_that_of_the_package(wsikit: Command) -> None:
    assert wsikit("--version").out == f"wsikit {version('wsikit')}\n"


@pytest.mark.parametrize("words", [["walk"], ["run"], ["run", "-i", "x"], ["run", "--no-such"], ["info"]])
def test_wrong_usage_is_exit_2(wsikit: Command, words: list[str]) -> None:
    assert wsikit(*words).code == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-m", "nuclie"], [*PREDICTORS, "Did you mean 'nuclei'?"]),
        (["--set", "batchsize=4"], ["did you mean 'batch_size'?"]),
        (["--set", "batch_size"], ["key=value"]),
        (["--mpp", "0.5", "--mag", "20"], ["--mag 20", "--mpp"]),
        (["--mag", "0"], ["positive objective power"]),
        (["--mag", "-20"], ["positive objective power"]),
        (["--mpp", "-1"], ["mpp", "greater than 0"]),
        (["-b", "0"], ["batch_size"]),
        (["--tissue", "some"], ["tissue", "'auto', 'detect' or 'whole'"]),
        (["--ngff", "0.3"], ["ngff", "0.4"]),
        (["--format", "geojson.gz,tiff"], ["'tiff'", *SINKS]),
        (["--format", ""], list(SINKS)),
        (["--device", "cuda"], ["device"]),
        (["-c", "none.yaml"], ["none.yaml"]),
        (["--limit", "0"], ["--limit"]),
    ],
)
def test_a_wrong_option_is_exit_2_says_why_and_writes_nothing(
    wsikit: Command, slides: Path, tmp_path: Path, words: list[str], said: list[str]
) -> None:
    answer = wsikit("run", "-i", slides, "-o", tmp_path / "out", *FAST, *words)
    assert answer.code == 2
    assert all(text in answer.err for text in said), answer.err
    assert "Traceback" not in answer.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["run", "tissue"])
def test_a_missing_input_is_exit_2(wsikit: Command, tmp_path: Path, verb: str) -> None:
    answer = wsikit(verb, "-i", tmp_path / "none", "-o", tmp_path / "out")
    assert answer.code == 2
    assert "no such file or folder" in answer.err
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cannot_be_made_is_exit_2(wsikit: Command, slides: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    answer = wsikit("run", "-i", slides, "-o", tmp_path / "file" / "out", *FAST)
    assert answer.code == 2
    assert "cannot be made" in answer.err
    assert "-o" in answer.err


def test_files_that_no_run_has_written_are_never_removed(wsikit: Command, slides: Path) -> None:
    """A MIRAX slide's pixels lie in a folder beside it that has its name, which ``-o .`` would write to."""
    (slides / "one").mkdir()
    (slides / "one" / "Data0001.dat").write_text("pixels")
    answer = wsikit("run", "-i", slides / "one.png", "-o", slides, *FAST)
    assert answer.code == 2
    assert "Data0001.dat" in answer.err
    assert "-o" in answer.err
    assert state(slides / "one").keys() == {"Data0001.dat"}


def test_a_run_writes_what_it_promises_and_running_again_keeps_it(
    wsikit: Command, slides: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    answer = wsikit("run", "-i", slides, "-o", out, *FAST)
    assert answer.code == 0, answer.err
    assert f"report: {out / 'report.html'}" in answer.out
    assert {p.name for p in out.iterdir()} == {"run.yaml", "summary.csv", "regions.csv", "report.html", "one", "two"}
    wanted = {"objects.geojson.gz", "masks.ome.zarr", "regions.csv", "overview.png", "slide.json"}
    assert {p.name for p in (out / "one").iterdir()} == wanted
    before = state(out / "one")

    again = wsikit("run", "-i", slides, "-o", out, *FAST)
    assert (again.code, again.out.count("kept from an earlier run")) == (0, 2)
    assert state(out / "one") == before

    (out / "two" / "overview.png").unlink()
    shutil.rmtree(out / "two" / "masks.ome.zarr")
    assert wsikit("run", "-i", slides, "-o", out, *FAST).out.count("kept from an earlier run") == 1
    assert {p.name for p in (out / "two").iterdir()} == wanted
    assert state(out / "one") == before

    forced = wsikit("run", "-i", slides, "-o", out, *FAST, "--force", "--limit", "1")
    assert (forced.code, forced.out.count("kept")) == (0, 0)
    after = state(out / "one")
    assert after["slide.json"] > before["slide.json"]
    assert after["objects.geojson.gz"] > before["objects.geojson.gz"]


def test_a_run_repeats_from_its_own_run_yaml(wsikit: Command, slides: Path, tmp_path: Path) -> None:
    words = ["--format", "geojson.gz", "--mag", "20", "--set", "batch_size=3", "-b", "5", "--limit", "1"]
    assert wsikit("run", "-i", slides, "-o", tmp_path / "out", *FAST, *words).code == 0
    written = load_config(RunConfig, tmp_path / "out" / "run.yaml")
    assert (written.format, written.mpp, written.batch_size) == (("geojson.gz",), 0.5, 5)
    assert "--mag 20" in written.provenance["command"]
    shutil.copy(tmp_path / "out" / "run.yaml", tmp_path / "again.yaml")
    again = wsikit("run", "-i", slides, "-o", tmp_path / "out", "-c", tmp_path / "again.yaml", "--limit", "1")
    assert (again.code, again.out.count("kept from an earlier run")) == (0, 1)


def test_a_bad_slide_is_exit_3_and_costs_only_itself(wsikit: Command, slides: Path, tmp_path: Path) -> None:
    (slides / "bad.svs").write_text("not a slide")
    answer = wsikit("run", "-i", slides, "-o", tmp_path / "out", *FAST, "--format", "geojson.gz")
    assert answer.code == 3
    assert "bad: failed (unreadable)" in answer.out
    assert "Traceback" not in answer.out + answer.err
    assert summary(tmp_path / "out") == {"bad": "failed", "one": "complete", "two": "complete"}


def test_a_missing_resolution_says_how_to_give_it(wsikit: Command, slides: Path, tmp_path: Path) -> None:
    answer = wsikit("run", "-i", slides / "one.png", "-o", tmp_path / "out", "-n", "1")
    assert answer.code == 3
    assert "missing_mpp" in answer.out
    assert "--mpp-override" in answer.out


def test_limit_takes_the_first(wsikit: Command, slides: Path, tmp_path: Path) -> None:
    words = ["--limit", "1", "--format", "geojson.gz"]
    assert wsikit("run", "-i", slides, "-o", tmp_path / "out", *FAST, *words).code == 0
    assert summary(tmp_path / "out") == {"one": "complete"}


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(wsikit: Command, slides: Path, tmp_path: Path) -> None:
    (slides / "bad.svs").write_text("not a slide")
    answer = wsikit("run", "-i", slides, "-o", tmp_path / "out", *FAST, "--dry-run")
    assert answer.code == 3
    assert "bad: would fail (unreadable)" in answer.out
    assert "one: 300x300 px at 0.5 um/px (image), 1 patches" in answer.out
    assert "2 of 3 slides to run, 2 patches" in answer.out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", [["run", "-m", "stain-area"], ["tile", "--tissue", "whole"]])
def test_what_failed_is_tried_again_when_asked_and_a_dry_run_says_so(
    wsikit: Command, slides: Path, tmp_path: Path, verb: list[str]
) -> None:
    (slides / "bad.svs").write_text("not a slide")
    words = [*verb, "-i", slides, "-o", tmp_path / "out", *FAST]
    assert wsikit(*words).code == 3
    assert wsikit(*words).out.count("kept from an earlier run") == 2
    assert "bad: started" not in wsikit(*words).out
    kept, tried = wsikit(*words, "--dry-run"), wsikit(*words, "--retry-failed", "--dry-run")
    assert "bad: done, kept (failed)" in kept.out
    assert "one: done, kept\n" in kept.out
    assert "bad: would fail (unreadable)" in tried.out
    assert (kept.code, tried.code) == (3, 3)
    again = wsikit(*words, "--retry-failed")
    assert "bad: started" in again.out
    assert again.out.count("kept from an earlier run") == 2
    assert "done, kept" not in wsikit(*words, "--force", "--dry-run").out


@pytest.mark.parametrize(
    "wrong",
    [["--qc", "sharp>1"], ["--format", "features.zarr"], ["--format", "nothing"], ["--walltime", "soon"]],
    ids=lambda words: words[1],
)
def test_a_dry_run_refuses_what_the_run_would_refuse(
    wsikit: Command, slides: Path, tmp_path: Path, wrong: list[str]
) -> None:
    words = ["run", "-i", slides, "-o", tmp_path / "out", *FAST, *wrong]
    real, dry = wsikit(*words), wsikit(*words, "--dry-run")
    assert (dry.code, dry.err) == (real.code, real.err)
    assert real.code == 2


@pytest.mark.parametrize("verb", [["run", "-m", "stain-area"], ["tile", "--tissue", "whole"]], ids=lambda verb: verb[0])
@pytest.mark.parametrize("harm", ["a file", "below a file", "of somebody else"])
def test_a_dry_run_refuses_a_folder_that_the_run_would_refuse(
    wsikit: Command, slides: Path, tmp_path: Path, verb: list[str], harm: str
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "out" / "one").mkdir(parents=True)
    (tmp_path / "out" / "one" / "thesis.txt").write_text("mine")
    out = {"a file": "file", "below a file": "file/out", "of somebody else": "out"}[harm]
    words = [*verb, "-i", slides, "-o", tmp_path / out, *FAST]
    real, dry = wsikit(*words), wsikit(*words, "--dry-run")
    assert (dry.code, dry.err) == (real.code, real.err)
    assert real.code == 2
    assert "one" not in dry.out


def test_a_dry_run_meets_the_run_that_works_in_the_folder(wsikit: Command, slides: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    words = ["run", "-m", "stain-area", "-i", slides, "-o", out, *FAST, "--dry-run"]
    with Lease(out, "a run", Stop()):
        answer = wsikit(*words)
    assert (answer.code, "another run works in" in answer.err) == (2, True)
    assert wsikit(*words).code == 0
    assert list(out.iterdir()) == []


def test_tissue_writes_outlines_and_a_picture(wsikit: Command, cmu: Path, tmp_path: Path) -> None:
    answer = wsikit("tissue", "-i", cmu, "-o", tmp_path)
    assert answer.code == 0, answer.err
    assert "mm^2 of tissue" in answer.out
    folder = tmp_path / "cmu-1-small-region"
    assert {p.name for p in folder.iterdir()} == {"tissue.geojson", "tissue.png", "overview.png"}
    features = json.loads((folder / "tissue.geojson").read_text("utf-8"))["features"]
    assert {feature["properties"]["objectType"] for feature in features} == {"annotation"}


def test_tissue_goes_on_after_a_bad_slide(wsikit: Command, slides: Path, tmp_path: Path) -> None:
    (slides / "bad.svs").write_text("not a slide")
    answer = wsikit("tissue", "-i", slides, "-o", tmp_path / "out", "--mpp-override", "2")
    assert answer.code == 3
    assert "bad: failed (unreadable)" in answer.out
    assert "  what to do: check that the file is whole" in answer.out
    assert "3 slides: 2 done, 1 failed; written to" in answer.out.splitlines()[-1]
    assert (tmp_path / "out" / "two" / "tissue.geojson").exists()


def test_a_run_into_the_folder_of_its_tissue_is_welcome(wsikit: Command, slides: Path, tmp_path: Path) -> None:
    assert wsikit("tissue", "-i", slides / "one.png", "-o", tmp_path / "out", "--mpp-override", "2").code == 0
    words = ["--format", "geojson.gz"]
    assert wsikit("run", "-i", slides / "one.png", "-o", tmp_path / "out", *FAST, *words).code == 0


def test_models_lists_the_names(wsikit: Command) -> None:
    assert wsikit("models", "--names").out.split() == list(PREDICTORS)


def test_models_describes_each(wsikit: Command) -> None:
    answer = wsikit("models")
    assert answer.code == 0
    assert all(name in answer.out for name in PREDICTORS)


def test_info_as_json_is_one_object(wsikit: Command, cmu: Path) -> None:
    answer = wsikit("info", cmu, "--json")
    facts = json.loads(answer.out)
    assert answer.code == 0
    assert (facts["reader"], facts["levels"][0]["width"], facts["levels"][0]["height"]) == ("tiff", 2220, 2967)
    assert facts["mpp"] == pytest.approx([0.499, 0.499])


def test_info_of_what_is_no_slide_is_exit_3(wsikit: Command, tmp_path: Path) -> None:
    (tmp_path / "x.svs").write_text("text")
    answer = wsikit("info", tmp_path / "x.svs", "--json")
    assert (answer.code, json.loads(answer.out)["code"]) == (3, "unreadable")


def test_samples_copies_the_slide(wsikit: Command, cmu: Path, tmp_path: Path) -> None:
    answer = wsikit("samples", "-o", tmp_path / "new")
    assert answer.code == 0, answer.err
    assert Path(answer.out.strip()).read_bytes() == cmu.read_bytes()


def test_config_init_writes_the_defaults(wsikit: Command, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    answer = wsikit("config", "init", path)
    assert answer.code == 0
    assert str(path) in answer.out
    assert load_config(RunConfig, path) == RunConfig()


def test_config_init_does_not_overwrite_unless_forced(wsikit: Command, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("mpp: 0.25\n", "utf-8")
    answer = wsikit("config", "init", path)
    assert (answer.code, path.read_text("utf-8")) == (2, "mpp: 0.25\n")
    assert "--force" in answer.err
    assert wsikit("config", "init", path, "--force").code == 0
    assert yaml.safe_load(path.read_text("utf-8"))["mpp"] is None


def test_config_init_where_nothing_can_be_written(wsikit: Command, tmp_path: Path) -> None:
    answer = wsikit("config", "init", tmp_path / "none" / "mine.yaml")
    assert answer.code == 2
    assert "cannot be written" in answer.err


def test_an_interrupt_says_how_to_go_on(wsikit: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(provenance, "find_slides", interrupt)
    answer = wsikit("run", "-i", tmp_path, "-o", tmp_path / "out")
    assert answer.code == 130
    assert "goes on where it stopped" in answer.err


def test_a_process_ends_with_the_same_codes(tmp_path: Path) -> None:
    (tmp_path / "bad.svs").write_text("not a slide")
    for name, code in (("none.svs", 2), ("bad.svs", 3)):
        words = ["run", "-i", str(tmp_path / name), "-o", str(tmp_path / "out"), *FAST]
        command = [sys.executable, "-c", "from wsikit.cli.main import app; app()", *words]
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == code
        assert b"Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("words", [["run", "--dry-run"], ["run", "-n", "1"], ["tissue"]])
def test_names_that_the_terminal_lacks_are_shown_escaped(
    wsikit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    bad = tmp_path / "slides" / os.fsdecode(b"bad\xff.svs")
    bad.parent.mkdir()
    bad.write_text("not a slide")
    screen = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(screen, "ascii", errors="strict", write_through=True))
    wsikit(*words, "-i", bad.parent, "-o", tmp_path / "out")
    assert b"bad\\udcff.svs" in screen.getvalue()
