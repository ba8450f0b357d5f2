"""Memory as a promise: the prediction bounds what is seen, what is chosen fits, what cannot fit does not begin."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from wsikit.config import RunConfig, load_config
from wsikit.errors import ConfigError
from wsikit.geometry import TileSpec
from wsikit.pipeline import probe
from wsikit.pipeline.batch import run_many
from wsikit.pipeline.inputs import find_slides
from wsikit.pipeline.memory import MB, Demand, Promise, Sizes, choices, choose, collected_bytes, run_parts, worker_parts
from wsikit.pipeline.plan import plan
from wsikit.pipeline.probe import try_batch
from wsikit.pipeline.stages import SlideTask, begin, predict
from wsikit.predictors import load_predictor
from wsikit.predictors.files import dumps
from wsikit.slides import open_slide
from wsikit.slides.pyramid import write_pyramid

DEMAND = Demand(
    spec=TileSpec(0.5, 1024, 64),
    parent_bytes=80 * MB,
    loaded_bytes=150 * MB,
    batch_bytes=100 * MB,
    answer_bytes=20 * MB,
    collected=3,
    merged_bytes=0,
    mask_pixels=4_000_000,
    strip_bytes=50 * MB,
    lattice_pixels=32768**2,
    slides=10,
)
ASKED = Sizes(workers=2, side=4096, side_by_side=False)


@pytest.fixture(autouse=True)
def small_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process of the tests holds what hundreds of tests have left; a command has 80 MB."""
    monkeypatch.setattr(probe, "held", lambda: 80 * MB)


@pytest.mark.parametrize(
    ("text", "size"),
    [("4G", 4 << 30), ("800M", 800 << 20), ("1.5GiB", 3 << 29), ("2gb", 2 << 30), ("123456", 123456), (7, 7)],
)
def test_sizes_are_read(text: Any, size: int) -> None:
    assert load_config(RunConfig, flags={"max_memory": text}).max_memory == size


@pytest.mark.parametrize("text", ["much", "-1G", "G", "4X", "0", "nan", "inf"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="max_memory"):
        load_config(RunConfig, flags={"max_memory": text})


def test_a_limit_changes_no_results() -> None:
    assert RunConfig(max_memory=1 << 30).result_parameters() == RunConfig().result_parameters()


@given(st.integers(1, 8), st.sampled_from([512, 1024, 2048, 4096, 8192]), st.booleans(), st.booleans())
def test_less_is_never_more(workers: int, side: int, ahead: bool, threads: bool) -> None:
    total = sum(run_parts(DEMAND, Sizes(workers, side, ahead), threads=threads).values())
    for less in (
        Sizes(max(1, workers - 1), side, ahead),
        Sizes(workers, side // 2, ahead),
        Sizes(workers, side, False),
    ):
        assert sum(run_parts(DEMAND, less, threads=threads).values()) <= total


def test_parts_that_are_known_exactly() -> None:
    parts = worker_parts(DEMAND, Sizes(1, 4096, side_by_side=True))
    assert parts["super-tile"] == 2 * 3 * (4096 + 128) ** 2
    assert parts["answers ahead"] == 3 * DEMAND.answer_bytes
    assert worker_parts(DEMAND, Sizes(1, 4096, side_by_side=False))["answers ahead"] == 0
    assert collected_bytes(load_predictor("stain-area")) == 4  # three labels of a byte, and one that is saved
    wide = replace(DEMAND, mask_pixels=100_000_000)
    assert worker_parts(wide, ASKED)["tissue, merge"] == 45 * 100_000_000


def test_threads_share_the_libraries() -> None:
    processes, threads = (sum(run_parts(DEMAND, ASKED, threads=threads).values()) for threads in (False, True))
    assert processes - threads == DEMAND.loaded_bytes


@given(st.integers(600, 4000), st.integers(1, 6), st.booleans())
def test_what_is_chosen_is_the_first_that_fits(most: int, workers: int, ahead: bool) -> None:
    asked = Sizes(workers, 4096, ahead)
    fitting = [s for s in choices(DEMAND, asked) if sum(run_parts(DEMAND, s).values()) <= most * MB]
    if fitting:
        assert choose(DEMAND, asked, most * MB) == fitting[0]
        promise = Promise.of(DEMAND, asked, most * MB)
        limits = promise.worker_limit * promise.sizes.workers
        assert limits + promise.parts["main process"] <= most * MB
        assert sum(worker_parts(DEMAND, promise.sizes).values()) <= promise.worker_limit
    else:
        with pytest.raises(ConfigError):
            choose(DEMAND, asked, most * MB)


def test_supertiles_shrink_before_workers_go() -> None:
    found = list(choices(DEMAND, Sizes(2, 4096, True)))
    assert [s.side for s in found[:3]] == [4096, 2048, 1024]
    assert not found[3].side_by_side
    assert [s.workers for s in found] == [2] * 6 + [1] * 6


def test_a_refusal_names_the_parts_and_what_would_do() -> None:
    with pytest.raises(ConfigError, match=r"libraries and model 150, .*batch 100") as refused:
        choose(DEMAND, ASKED, 300 * MB)
    assert refused.value.code == "no_memory"
    enough = int(refused.value.remedy.split("--max-memory ")[1].split("M")[0])
    assert choose(DEMAND, ASKED, enough * MB) == Sizes(1, 1024, side_by_side=False)


def test_nothing_is_written_by_a_run_that_is_refused(pyramid: Path, tmp_path: Path) -> None:
    config = RunConfig(max_memory=300 * MB, num_workers=1)
    entries = find_slides(str(pyramid))
    with pytest.raises(ConfigError) as refused:
        run_many(entries, tmp_path / "out", config)
    assert refused.value.code == "no_memory"
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError) as refused:
        list(plan(entries, tmp_path / "out", config))
    assert refused.value.code == "no_memory"


def test_a_process_that_is_larger_than_allowed_does_not_begin(pyramid: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="before any slide") as refused:
        run_many(find_slides(str(pyramid)), tmp_path / "out", RunConfig(max_memory=10 * MB, num_workers=1))
    assert refused.value.code == "no_memory"


def test_clusters_have_limits_of_their_own(pyramid: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="processes of this machine"):
        run_many(find_slides(str(pyramid)), tmp_path / "out", RunConfig(max_memory=4 << 30, cluster="tcp://a:1"))


def test_a_batch_that_is_tried_tells_its_answer(pyramid: Path) -> None:
    model, config = load_predictor("stain-area"), RunConfig(model="stain-area", batch_size=2)
    tried = try_batch(find_slides(str(pyramid))[0], config, dumps(model))
    assert tried.answer_bytes == 2 * 1024 * 1024 * 3 * 4  # patches, pixels, labels, float32
    assert tried.loaded_bytes > 60 * MB


def test_a_spool_of_larger_supertiles_is_not_gone_on_with(pyramid: Path, tmp_path: Path) -> None:
    config = RunConfig(cluster="threads")
    task = SlideTask(find_slides(str(pyramid))[0], tmp_path, config, "key", 1, most_side=2048)
    model = dumps(load_predictor("nuclei-classical"))
    begun = begin(task, model)
    predict(task, begun.plan, [0])
    assert begun.side == 2048
    assert begin(task, model).done == (0,)
    smaller = begin(replace(task, most_side=1024), model)
    assert smaller.side == 1024
    assert smaller.done == ()


def test_a_model_that_eats_memory_costs_its_own_slide(pyramid: Path, cmu: Path, tmp_path: Path) -> None:
    slides = tmp_path / "slides"
    slides.mkdir()
    (slides / "fed.svs").symlink_to(pyramid)
    with open_slide(cmu) as source:
        write_pyramid(slides / "hungry.svs", source, size=(2048, 2048))
    model = Path(__file__).with_name("hungry.py")
    config = RunConfig(
        model=f"{model}:Hungry", max_memory=1000 * MB, num_workers=1, format=("geojson.gz",), tissue="whole"
    )
    fed, hungry = run_many(find_slides(str(slides)), tmp_path / "out", config)
    assert (fed["status"], hungry["status"], hungry["reason"]) == ("complete", "failed", "worker_memory")
    assert "--max-memory" in hungry["remedy"]
    # once with super-tiles of the usual size, once with smaller ones
    assert len((slides / "hungry.log").read_text().split()) == 2


def _watched(slide: Path, out: Path, limit_mb: int, *options: str) -> tuple[float, dict[str, Any], dict[str, Any]]:
    """(peak MB of all processes, a page that several hold counted once; what run.yaml says; the slide's record)."""
    command = [sys.executable, "-m", "wsikit.cli", "run", "-i", str(slide), "-o", str(out), *options]
    peak = 0.0
    with subprocess.Popen([*command, "--max-memory", f"{limit_mb}M"], stdout=subprocess.DEVNULL) as running:
        while running.poll() is None:
            peak = max(peak, _resident(psutil.Process(running.pid)) / MB)
            time.sleep(0.2)
    assert running.returncode == 0
    said = yaml.safe_load((out / "run.yaml").read_text("utf-8"))["provenance"]["memory"]
    return peak, said, json.loads(next(out.glob("*/slide.json")).read_text("utf-8"))


def _resident(process: psutil.Process) -> int:
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            full = member.memory_full_info()
        except psutil.Error:
            continue
        total += getattr(full, "pss", full.uss)
    return total


def _check(peak: float, said: dict[str, Any], record: dict[str, Any], limit_mb: int) -> None:
    assert said["predicted_mb"] <= said["max_mb"] == limit_mb
    assert said["predicted_mb"] == pytest.approx(sum(said["parts_mb"].values()), abs=1)
    assert said["predicted_mb"] / 3 < peak < said["predicted_mb"]
    assert record["peak_rss_mb"] < record["predicted_mb"]
    assert record["status"] == "complete"
    assert record["objects"] > 1000
    assert record["supertiles"]["side"] <= said["supertile"]


def test_a_run_stays_below_its_limit(cmu: Path, tmp_path: Path) -> None:
    with open_slide(cmu) as source:
        slide = write_pyramid(tmp_path / "8k.svs", source, size=(8192, 8192), mpp=0.25, tissue=0.1)
    limit = 600
    _check(*_watched(slide, tmp_path / "out", limit, "-m", "nuclei-classical", "-n", "2"), limit)


@pytest.mark.slow
def test_a_slide_of_65536_px_stays_below_its_limit(cmu: Path, tmp_path: Path) -> None:
    with open_slide(cmu) as source:
        slide = write_pyramid(tmp_path / "64k.svs", source, size=(65536, 65536), mpp=0.25, tissue=0.02)
    _check(*_watched(slide, tmp_path / "out", 1500, "-m", "nuclei-classical", "-n", "2"), 1500)
