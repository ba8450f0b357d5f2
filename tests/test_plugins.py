"""Installed packages that add readers, predictors and sinks: found when asked for, broken ones in nobody's way.

The packages are CONTRIBUTING's own examples, so that what it says is true.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from wsikit import sinks
from wsikit.errors import PluginError, UnknownNameError
from wsikit.predictors import load_predictor
from wsikit.registry import Registry
from wsikit.sinks import SinkContext

PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


FILES = {re.match(r"# (\S+)\n", code)[1]: code for code in blocks("python")}  # type: ignore[index]
COMMANDS = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("wsikit ")]
(GROUPS,) = (tomllib.loads(block)["project"]["entry-points"] for block in blocks("toml"))


def installed(folder: Path, name: str, groups: Mapping[str, Mapping[str, str]], version: str = "1.0") -> None:
    """What installing a package leaves in a folder of ``sys.path``, but for its modules."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [
        line for group, rows in groups.items() for line in (f"[{group}]", *(f"{k} = {v}" for k, v in rows.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder as pip would leave it after installing CONTRIBUTING's package."""
    folder = tmp_path / "site"
    installed(folder, "wsikit-extras", GROUPS)
    for name, code in FILES.items():
        (folder / name).write_text(code, encoding="utf-8")
    return folder


def wsikit(folder: Path, site: Path | None, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("wsikit")), *words]
    environment = {**os.environ, "COLUMNS": "250"} | ({"PYTHONPATH": str(site)} if site else {})
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_contributing_has_what_is_tested() -> None:
    assert set(FILES) == {"predictor.py", "wsikit_extras.py"}
    assert len(COMMANDS) == 2
    assert {group: len(rows) for group, rows in GROUPS.items()} == {
        "wsikit.readers": 1, "wsikit.predictors": 1, "wsikit.sinks": 1,
    }  # fmt: skip


def test_contributings_predictor_is_about_25_lines(tmp_path: Path) -> None:
    lines = [line for line in FILES["predictor.py"].splitlines() if line.strip() and not line.startswith(("#", '"""'))]
    assert len(lines) <= 25
    (tmp_path / "predictor.py").write_text(FILES["predictor.py"])
    assert load_predictor(f"{tmp_path / 'predictor.py'}:DarkArea", min_tissue=0.5).tile.min_tissue == 0.5


@pytest.mark.parametrize("line", COMMANDS)
def test_contributings_commands_run_as_they_stand(line: str, tmp_path: Path, site: Path, cmu: Path) -> None:
    (tmp_path / "samples").mkdir()
    shutil.copyfile(cmu, tmp_path / "samples" / cmu.name)
    packaged = "predictor.py" not in line
    if not packaged:
        shutil.copyfile(site / "predictor.py", tmp_path / "predictor.py")
    # one worker: what is tested here does not depend on their number, and they take seconds to start
    done = wsikit(tmp_path, site if packaged else None, *line.split()[1:], "-n", "1")
    assert done.returncode == 0, done.stderr
    (record,) = (json.loads(path.read_text()) for path in (tmp_path / "out").glob("*/slide.json"))
    assert record["status"] == "complete"
    assert 0.05 < record["area_fractions"]["Dark"] < 0.95
    assert ("objects.csv" in record["outputs"]) == packaged


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_all_three_groups_work_together(tmp_path: Path, site: Path, workers: str) -> None:
    pixels = np.full((300, 400, 3), 245, np.uint8)
    for x, y in ((50, 60), (300, 200)):
        yy, xx = np.ogrid[:300, :400]
        pixels[(xx - x) ** 2 + (yy - y) ** 2 <= 8**2] = (70, 40, 120)
    (tmp_path / "slides").mkdir()
    for name in ("a.npz", "b.npz"):
        np.savez(tmp_path / "slides" / name, pixels=pixels, mpp=0.5)
    words = ["run", "-i", "slides", "-o", "out", "-m", "nuclei-classical", "--format", "csv"]
    words += ["--tissue", "whole", "-n", workers]
    done = wsikit(tmp_path, site, *words)
    assert done.returncode == 0, done.stderr
    for folder in ("a", "b"):
        record = json.loads((tmp_path / "out" / folder / "slide.json").read_text())
        assert record["reader"]["name"] == "npz"
        with (tmp_path / "out" / folder / "objects.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["class"] for row in rows] == ["Nucleus"] * 2
        places = sorted((float(row["x"]), float(row["y"])) for row in rows)
        assert np.allclose(places, [(50.5, 60.5), (300.5, 200.5)], atol=1)
    assert "kept" in wsikit(tmp_path, site, *words).stdout, "its files count as outputs"


def test_models_lists_them_with_their_origin_and_broken_ones_with_their_fault(tmp_path: Path, site: Path) -> None:
    installed(site, "crooked", {"wsikit.predictors": {"bent": "crooked:Bent"}})
    (site / "crooked.py").write_text("raise RuntimeError('no licence')")
    done = wsikit(tmp_path, site, "models")
    assert done.returncode == 0, done.stderr
    assert re.search(r"nuclei .* wsikit ", done.stdout)
    assert re.search(
        r"dark-area +ScoreMap +1 +512 px +Dark, Light +wsikit-extras 1\.0 \(predictor:DarkArea\)", done.stdout
    )
    assert re.search(r"bent .*crooked 1\.0.*cannot be used", done.stdout)
    assert "predictor.py:MyPredictor" in done.stdout


def test_a_broken_package_is_reported_when_it_is_used_and_is_in_nobodys_way(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (64, 64), (90, 40, 90)).save(tmp_path / "a.png")
    site = tmp_path / "site"
    groups = {f"wsikit.{kind}": {"bent": "crooked:Bent"} for kind in ("readers", "predictors", "sinks")}
    installed(site, "crooked", groups)
    (site / "crooked.py").write_text("raise RuntimeError('no licence')")
    words = ["run", "-i", "a.png", "-o", "out", "-n", "1", "--mpp-override", "0.5", "--format", "geojson.gz", "-m"]
    assert wsikit(tmp_path, site, *words, "stain-area").returncode == 0
    for wrong in ([*words, "bent"], [*words, "nuclei", "--format", "bent"]):
        done = wsikit(tmp_path, site, *wrong)
        assert done.returncode == 2
        assert "'bent' of crooked 1.0 (crooked:Bent) cannot be imported: RuntimeError: no licence" in done.stderr
        assert "Traceback" not in done.stderr
    (tmp_path / "x.svs").write_text("no slide")
    assert "crooked 1.0" in wsikit(tmp_path, site, "info", "x.svs", "--json").stdout


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Two packages: both give twice, one gives alone and takes the name of an own row."""
    installed(tmp_path, "first", {"t.things": {"twice": "json:loads", "alone": "json:dumps", "own": "json:nothing"}})
    installed(tmp_path, "second", {"t.things": {"twice": "json:load"}}, "2.0")
    monkeypatch.syspath_prepend(str(tmp_path))
    return Registry("thing", [("own", "json:JSONDecoder")], group="t.things")


def test_own_rows_win_and_come_first(table: Registry) -> None:
    assert list(table) == ["own", "alone", "twice"]
    assert table.load("own") is json.JSONDecoder
    assert table.origin("own") == "wsikit"
    assert table.origin("alone") == "first 1.0 (json:dumps)"
    assert table.load("alone") is json.dumps


def test_a_name_of_two_packages_is_refused_with_both(table: Registry) -> None:
    with pytest.raises(PluginError, match=r"'twice' is registered twice: by first 1\.0 \(json:loads\) and second 2\.0"):
        table.load("twice")
    assert table.load("alone") is json.dumps


def test_an_unknown_name_lists_the_packages_names_too(table: Registry) -> None:
    with pytest.raises(UnknownNameError, match=r"own, alone, twice\. Did you mean 'alone'"):
        table.load("alon")


def test_own_names_are_found_without_looking_for_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def looked(**_: str) -> None:
        raise AssertionError

    monkeypatch.setattr("importlib.metadata.entry_points", looked)
    table = Registry("thing", [("own", "json:JSONDecoder")], group="t.things")
    assert table.load("own") is json.JSONDecoder
    with pytest.raises(AssertionError):
        list(table)


SINK = "class S:\n    takes, filename = 'features', {filename!r}\n    def {verbs}(self, *_): ...\n"
VERBS = "begin(self, *_): ...\n    def write(self, *_): ...\n    def commit(self, *_): ...\n    def abort"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (SINK.format(filename="a.txt", verbs="begin"), "lacks write, commit, abort"),
        (SINK.format(filename=".txt", verbs=VERBS), r"has the filename '\.txt'"),
        (SINK.format(filename="*.txt", verbs=VERBS), r"has the filename '\*\.txt'"),
        (SINK.format(filename="../a.txt", verbs=VERBS), r"has the filename '\.\./a\.txt'"),
        (SINK.format(filename="a.txt", verbs=VERBS).replace("'features'", "'all'"), "takes 'all'"),
    ],
)
def test_a_sink_that_could_do_harm_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    module = f"odd_{tmp_path.name}"
    installed(tmp_path, "odd", {"wsikit.sinks": {"odd": f"{module}:S"}})
    (tmp_path / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sinks, "SINKS", Registry("output format", [], group="wsikit.sinks"))
    with pytest.raises(PluginError, match=message):
        sinks.sink_class("odd")


def test_contributings_sink_keeps_the_contract_of_sinks(
    tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.conformance.test_sinks import CONTEXT, _write

    monkeypatch.syspath_prepend(str(site))
    from wsikit_extras import CsvSink  # type: ignore[import-not-found]

    context: SinkContext = CONTEXT
    for end, left in (("abort", []), ("commit", ["objects.csv"])):
        sink = CsvSink(tmp_path / "out" / "objects.csv")
        sink.path.parent.mkdir(exist_ok=True)
        sink.abort()
        sink.begin(context)
        _write(sink, 3)
        assert not sink.path.exists()
        getattr(sink, end)()
        assert [path.name for path in sink.path.parent.iterdir()] == left
    assert sink.path.read_text().splitlines()[1] == "Nucleus,205.00,105.00"
