"""The nuclei model that comes with wsikit: what its card says, and how good it is on images that it never saw."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from wsikit.errors import ConfigError
from wsikit.predictors import load_predictor
from wsikit.predictors.nuclei import WEIGHTS

pytest.importorskip("torch")

from wsikit.methods.points.config import Config
from wsikit.methods.points.predict import NucleiOutlines
from wsikit.pipeline.evaluate import evaluate
from wsikit.pipeline.scores import Settings
from wsikit.training.checkpoint import load_checkpoint

MOST_BYTES = 10_000_000
FIELDS_MPP = 0.25
"""Taken for what DSB2018 does not say; MoNuSeg has it."""


def figures(name: str, folder: Path, mpp: float) -> dict[str, float]:
    found = evaluate(load_predictor(name, mpp=mpp), folder, settings=Settings(mpp_override=FIELDS_MPP)).metrics()
    return {key: found[key].pooled for key in ("object_f1", "aji", "pq", "dice")}


@pytest.fixture(scope="module")
def hidden(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images that the card says were hidden from training, with their truth."""
    _, card = load_checkpoint(WEIGHTS)
    folder = tmp_path_factory.mktemp("hidden")
    for name in card.split["hidden"]:
        for file in (name, name.replace(".png", "_labels.png")):
            (folder / file).symlink_to(data / "nuclei" / "dsb2018_he" / file)
    return folder


def test_its_card_is_whole_and_tells_no_path() -> None:
    state, card = load_checkpoint(WEIGHTS)
    assert card.name == "nuclei"
    assert card.licence.startswith("CC0")
    assert card.intended_use
    assert card.limits
    assert len(card.split["hidden"]) == card.split["sizes"]["test"] == card.metrics["images"]
    assert not set(card.split["hidden"]) & set(card.split["chose_the_epoch"])
    assert all(card.config[key] is None for key in ("data", "start", "unlabelled"))
    assert not re.search(r'"/', WEIGHTS.with_suffix(".json").read_text("utf-8"))
    assert WEIGHTS.stat().st_size < MOST_BYTES
    assert {str(value.dtype) for value in state.values()} <= {"torch.float16", "torch.int64"}


@pytest.mark.parametrize("shipped", [True, False])
def test_no_window_cuts_a_nucleus_that_is_its_own(shipped: bool) -> None:
    """Its centre of mass lies in the window's core, and no convex shape goes on for more than two thirds of its length
    beyond that: so far reaches the halo at the finest resolution, too."""
    config, halo = Config(), Config().halo
    if shipped:
        predictor = load_predictor("nuclei", mpp=FIELDS_MPP)
        config, halo = predictor.config, predictor.tile.halo
    assert halo * config.seen_mpp[0] >= 2 / 3 * config.instances.most_um


@pytest.mark.parametrize(("mpp", "least", "beyond"), [(0.25, 0.86, 0.14), (0.5, 0.81, 0.1)])
def test_hidden_nuclei_are_outlined_better_than_by_image_analysis(
    hidden: Path, mpp: float, least: float, beyond: float
) -> None:
    learned, classical = (figures(name, hidden, mpp) for name in ("nuclei", "nuclei-classical"))
    assert learned["object_f1"] > least
    assert learned["object_f1"] > classical["object_f1"] + beyond
    assert learned["aji"] > classical["aji"] + 0.05


def test_h_and_e_of_other_laboratories_is_outlined_better_than_by_image_analysis(data: Path) -> None:
    learned, classical = (
        figures(name, data / "nuclei" / "monuseg_test_NC", 0.25) for name in ("nuclei", "nuclei-classical")
    )
    assert learned["object_f1"] > classical["object_f1"] + 0.03
    assert learned["aji"] > classical["aji"] + 0.01
    assert learned["pq"] > classical["pq"] + 0.01


def test_it_is_made_by_name_and_runs_at_half_a_micrometre() -> None:
    model = load_predictor("nuclei", device="cpu")
    assert isinstance(model, NucleiOutlines)
    assert model.tile.mpp == 0.5
    assert json.loads(WEIGHTS.with_suffix(".json").read_text("utf-8"))["sha256"] == model.identity["sha256"]


def test_resolutions_that_it_has_not_seen_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"0\.18 to 0\.6") as caught:
        load_predictor("nuclei", mpp=1.0)
    assert caught.value.code == "wrong_mpp"


@pytest.mark.parametrize("name", ["nuclei", "counting:x.safetensors", "abmil:x.safetensors"])
def test_without_torch_it_says_what_to_install_or_take(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConfigError, match="torch is not installed") as caught:
        load_predictor(name)
    assert caught.value.code == "no_torch"
    assert "wsikit[nn]" in str(caught.value.remedy)
    assert "nuclei-classical" in str(caught.value.remedy)


def test_glass_holds_no_nuclei() -> None:
    from wsikit.pipeline.run import run
    from wsikit.sinks.memory import FeatureList
    from wsikit.slides.array import array_slide
    from wsikit.tissue import TissueMask

    rng = np.random.default_rng(0)
    slide = array_slide((243 + rng.normal(0, 2, (600, 600, 3))).clip(0, 255).astype(np.uint8), 0.5)
    said = FeatureList()
    run(slide, load_predictor("nuclei"), said, mask=TissueMask.whole(slide))
    assert len(said.geometries) == 0
