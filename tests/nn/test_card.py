"""Cards of model files: what they say, and what is said of those that are wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from wsikit.errors import ConfigError
from wsikit.nn.card import NONE_OF_THESE, Card, find_card, read_card

CARD: dict[str, Any] = {
    "name": "tumour", "task": "classification", "labels": ["Tumour", {"name": "Other", "color": "#0a141e"}], "mpp": 0.5,
    "patch": 64, "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2], "activation": "softmax",
}  # fmt: skip
WSINFER: dict[str, Any] = {
    "spec_version": "1.0", "architecture": "resnet34", "num_classes": 2, "class_names": ["Other", "Tumor"],
    "name": "TCGA-BRCA-v1", "patch_size_pixels": 350, "spacing_um_px": 0.25,
    "transform": [
        {"name": "Resize", "arguments": {"size": 224}},
        {"name": "ToTensor"},
        {"name": "Normalize", "arguments": {"mean": [0.7, 0.5, 0.7], "std": [0.2, 0.3, 0.2]}},
    ],
}  # fmt: skip


def saved(folder: Path, values: object, name: str = "model.json") -> Path:
    text = json.dumps(values) if name.endswith("json") else yaml.safe_dump(values)
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize("name", ["model.json", "model.yaml"])
def test_json_and_yaml_say_the_same(tmp_path: Path, name: str) -> None:
    card = read_card(saved(tmp_path, CARD, name))
    assert card == Card.model_validate(CARD)
    assert [(label.name, label.color) for label in card.classes] == [("Tumour", (213, 94, 0)), ("Other", (10, 20, 30))]
    assert (card.tile().core, card.tile().halo, card.tile().mpp) == (64, 0, 0.5)


def test_the_halo_is_part_of_the_patch() -> None:
    tile = Card.model_validate(CARD | {"task": "segmentation", "halo": 8}).tile()
    assert (tile.core, tile.halo, tile.patch) == (48, 8, 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lables": []}, "unknown key 'lables'; did you mean 'labels'"),
        ({"qqqqqq": 1}, "unknown key 'qqqqqq'; the keys are: name, task"),
        ({"mpp": None}, "mpp: "),
        ({"mpp": 0}, "mpp: .*greater than 0"),
        ({"mpp": float("nan")}, "mpp: .*finite"),
        ({"mean": [0.5, 0.5]}, r"mean\.2 is missing"),
        ({"mean": [0.5, 0.5, float("nan")]}, r"mean\.2: .*finite"),
        ({"mean": [0.5] * 4}, "mean: "),
        ({"std": [0.2, 0.2, 0]}, "std above 0"),
        ({"labels": []}, "labels: classification needs the names"),
        ({"labels": ["A", "A"]}, "labels: names must differ, got A, A"),
        ({"labels": [{"name": "A", "colour": "#000000"}]}, "colour"),
        ({"labels": [{"name": "A", "color": "red"}, "B"]}, "color"),
        ({"labels": [{"name": "A", "color": [0, 0, 256]}, "B"]}, "color.*255"),
        ({"labels": ["A"]}, "a softmax over one class is always 1"),
        ({"activation": None}, "activation: say softmax or sigmoid where the model gives logits"),
        ({"activation": "relu"}, "activation: .*'relu'"),
        ({"task": "embedding"}, "labels: a model that embeds has none"),
        ({"task": "detection"}, "task: .*'classification', 'segmentation', .*got 'detection'"),
        ({"halo": 4}, "halo: only segmentation has one"),
        ({"least_um2": 4}, "least_um2: only the class maps"),
        ({"task": "segmentation", "least_um2": -1}, "least_um2"),
        ({"task": "segmentation", "halo": 30}, "halo"),
        ({"task": "segmentation", "size": 32}, "size: segmentation"),
        ({"patch": 0}, "patch: "),
    ],
)
def test_what_is_wrong_with_a_card_is_said(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_card(saved(tmp_path, CARD | change))
    assert caught.value.code == "bad_card"


@pytest.mark.parametrize("key", ["name", "task", "mpp", "patch", "mean", "std"])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} is missing"):
        read_card(saved(tmp_path, {k: v for k, v in CARD.items() if k != key}))


@pytest.mark.parametrize("text", ["{", "[1]", "", "\ufffe\udcff"])
def test_what_is_no_card_at_all_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path / "model.json"))):
        read_card(tmp_path / "model.json")


def test_a_card_of_wsinfer_zoo_is_taken_as_it_is(tmp_path: Path) -> None:
    card = read_card(saved(tmp_path, WSINFER, "config.json"))
    assert [label.name for label in card.labels] == ["Other", "Tumor"]
    assert (card.name, card.task, card.mpp, card.patch) == ("TCGA-BRCA-v1", "classification", 0.25, 350)
    assert (card.size, card.mean, card.std, card.activation) == (224, (0.7, 0.5, 0.7), (0.2, 0.3, 0.2), "softmax")


def test_one_class_of_wsinfer_zoo_goes_through_a_sigmoid_and_has_an_opposite(tmp_path: Path) -> None:
    card = read_card(saved(tmp_path, WSINFER | {"num_classes": 1, "class_names": ["Lymphocyte"]}))
    assert card.activation == "sigmoid"
    assert [label.name for label in card.classes] == ["Lymphocyte", NONE_OF_THESE.name]


def steps(*names: str, **arguments: Any) -> dict[str, Any]:
    return {"transform": [{"name": name, "arguments": arguments.get(name, {})} for name in names]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (steps("CenterCrop", "ToTensor"), "the transform 'CenterCrop' is not one of Resize, ToTensor, Normalize"),
        (steps("Normalize", "ToTensor"), "in this order, got Normalize, ToTensor"),
        (steps("Resize", Resize={"size": 224}), "each once and in this order, got Resize"),
        (steps("Resize", "ToTensor", Resize={"size": 224, "interpolation": 3}), "'Resize' takes size, got size, inter"),
        (steps("Resize", "ToTensor", Resize={"size": [224, 200]}), "must give a square"),
        (steps("ToTensor", "Normalize", Normalize={"mean": [0.5]}), "'Normalize' takes mean, std, got mean"),
        ({"transform": "ToTensor"}, "must be a list"),
        ({"num_classes": 3}, "num_classes is 3"),
        ({"spec_version": "2.0"}, "spec_version '1.0'"),
        ({"spacing_um_px": -1}, "mpp: "),
    ],
)
def test_what_is_wrong_with_a_card_of_wsinfer_zoo_is_said(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_card(saved(tmp_path, WSINFER | change))


def test_a_card_of_wsinfer_zoo_without_a_key_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs class_names"):
        read_card(saved(tmp_path, {k: v for k, v in WSINFER.items() if k != "class_names"}))


def test_the_card_nearest_in_name_is_found(tmp_path: Path) -> None:
    model = tmp_path / "model.pt"
    with pytest.raises(ConfigError, match="no card beside it") as caught:
        find_card(model)
    assert caught.value.code == "no_card"
    shared = saved(tmp_path, CARD, "config.json")
    assert find_card(model) == shared
    own = saved(tmp_path, CARD, "model.yaml")
    assert find_card(model) == own
    saved(tmp_path, CARD, "model.card.json")
    with pytest.raises(ConfigError, match=r"2 cards beside it: model\.card\.json, model\.yaml"):
        find_card(model)


@pytest.mark.parametrize(("mpp", "fits"), [(0.45, True), (0.55, True), (0.5, True), (0.449, False), (0.551, False)])
def test_another_resolution_is_taken_within_a_tenth(mpp: float, fits: bool) -> None:
    card = Card.model_validate(CARD)
    if fits:
        assert card.tile(mpp).mpp == mpp
        return
    with pytest.raises(ConfigError, match=r"made for 0\.5 um per px and would see") as caught:
        card.tile(mpp)
    assert caught.value.code == "wrong_mpp"


def test_the_card_in_the_docs_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "cards.md").read_text("utf-8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S)
    (tmp_path / "model.yaml").write_text(block)
    assert read_card(tmp_path / "model.yaml").classes[1].background
    assert all(f"`{key}`" in page for key in Card.model_fields)
