"""Weights and card of a method: together or not at all."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from wsikit.errors import ConfigError, OutputError
from wsikit.nn.card import CardLabel
from wsikit.nn.weights import sha256
from wsikit.training.checkpoint import MethodCard, find_checkpoints, load_checkpoint, save_checkpoint

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.count": torch.tensor(3)}


def card(**changes: Any) -> MethodCard:
    facts: dict[str, Any] = {
        "method": "counting",
        "name": "lymphocytes",
        "version": 2,
        "labels": (CardLabel(name="Lymphocyte", color=(213, 94, 0)),),
        "mpp": 0.25,
        "core": 256,
        "halo": 32,
        "config": {"cell_radius_um": 4.0, "stages": ["counter"]},
        "facts": {"threshold": 0.61},
        "metrics": {"mae": 1.5},
    }
    return MethodCard(**(facts | changes))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "models" / "one.safetensors", STATE, card())


def edit(path: Path, **changes: Any) -> None:
    side = path.with_suffix(".json")
    side.write_text(json.dumps(json.loads(side.read_text()) | changes))


def test_what_is_saved_is_loaded(saved: Path) -> None:
    state, found = load_checkpoint(saved)
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[name], STATE[name]) for name in STATE)
    given = {"wsikit", "created", "sha256"}
    assert found.model_dump(exclude=given) == card().model_dump(exclude=given)


def test_the_card_says_what_wrote_it_and_when(saved: Path) -> None:
    _, found = load_checkpoint(saved)
    assert found.sha256 == sha256(saved)
    assert found.wsikit
    age = datetime.now(UTC) - datetime.fromisoformat(found.created)
    assert timedelta(seconds=-2) < age < timedelta(minutes=5)


def test_tied_and_transposed_weights_can_be_saved(tmp_path: Path) -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    path = save_checkpoint(tmp_path / "x.safetensors", {"one": weight, "two": weight, "three": weight.T}, card())
    assert torch.equal(load_file(path)["three"], weight.T)


def test_other_weights_than_the_cards_are_refused(saved: Path) -> None:
    save_file({name: value + 1 for name, value in STATE.items()}, saved)
    with pytest.raises(ConfigError, match="is not the file of its card") as caught:
        load_checkpoint(saved)
    assert caught.value.code == "bad_weights"


def test_weights_that_are_cut_short_are_refused(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-4])
    edit(saved, sha256=sha256(saved))
    with pytest.raises(ConfigError) as caught:
        load_checkpoint(saved)
    assert caught.value.code == "bad_weights"


def test_missing_files_are_told_apart(saved: Path) -> None:
    saved.with_suffix(".json").unlink()
    with pytest.raises(ConfigError) as no_card:
        load_checkpoint(saved)
    saved.unlink()
    with pytest.raises(ConfigError) as no_weights:
        load_checkpoint(saved)
    assert (no_card.value.code, no_weights.value.code) == ("no_card", "no_weights")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mpp": -1}, "mpp"),
        ({"cores": 3}, "did you mean 'core'"),
        ({"labels": "x"}, "labels"),
        ({"version": 0}, "version"),
    ],
)
def test_a_wrong_card_is_refused(changes: dict[str, Any], said: str, saved: Path) -> None:
    edit(saved, **changes)
    with pytest.raises(ConfigError, match=said) as caught:
        load_checkpoint(saved)
    assert caught.value.code == "bad_card"


def test_a_card_of_another_kind_of_model_is_refused(saved: Path) -> None:
    saved.with_suffix(".json").write_text(json.dumps({"name": "x", "task": "bag", "mpp": 0.5}))
    with pytest.raises(ConfigError, match="task") as caught:
        load_checkpoint(saved)
    assert caught.value.code == "bad_card"


@pytest.mark.parametrize("wanted", [("points", 2), ("counting", 3), ("counting", 1)])
def test_a_card_of_another_method_or_version_is_refused(wanted: tuple[str, int]) -> None:
    with pytest.raises(ConfigError, match="are of the method counting 2, not of") as caught:
        card().check_method(*wanted)
    assert caught.value.code == "wrong_method"
    card().check_method("counting", 2)


def test_other_file_types_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.safetensors"):
        save_checkpoint(tmp_path / "x.pt", STATE, card())
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        save_checkpoint(tmp_path / "file" / "x.safetensors", STATE, card())


def test_a_kill_between_weights_and_card_is_noticed(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved over an older one: new weights beside the old card."""
    from wsikit.training import checkpoint

    replace = checkpoint.replace_file

    def dying(path: Path, chunks: Any) -> None:
        if path.suffix == ".json":
            raise KeyboardInterrupt
        replace(path, chunks)

    monkeypatch.setattr(checkpoint, "replace_file", dying)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(saved, {"a": torch.zeros(1)}, card())
    with pytest.raises(ConfigError) as caught:
        load_checkpoint(saved)
    assert caught.value.code == "bad_weights"


def test_checkpoints_are_found_and_other_files_passed_over(saved: Path, tmp_path: Path) -> None:
    other = save_checkpoint(tmp_path / "deep" / "er" / "two.safetensors", STATE, card(name="two"))
    save_file(STATE, tmp_path / "best.safetensors")
    for name, text in (("bag", '{"task": "bag", "name": "x"}'), ("list", "[1]"), ("broken", "{")):
        save_file(STATE, tmp_path / f"{name}.safetensors")
        (tmp_path / f"{name}.json").write_text(text)
    (tmp_path / "config.json").write_text('{"method": "no card of any weights"}')
    assert [(path, found.name) for path, found in find_checkpoints(tmp_path)] == [
        (other, "two"),
        (saved, "lymphocytes"),
    ]


def test_a_wrong_card_of_a_method_is_not_passed_over(saved: Path, tmp_path: Path) -> None:
    edit(saved, mpp=-1)
    with pytest.raises(ConfigError, match=r"one\.json"):
        find_checkpoints(tmp_path)


def test_no_checkpoints_are_found_where_there_are_none(tmp_path: Path) -> None:
    assert find_checkpoints(tmp_path) == []
    assert find_checkpoints(tmp_path / "not there") == []


def test_a_metric_that_is_no_number_leaves_the_card_readable(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "x.safetensors", STATE, card(metrics={"auc": float("nan")}))
    json.loads(path.with_suffix(".json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert load_checkpoint(path)[1].metrics == {"auc": None}


def test_cards_are_frozen_and_know_their_keys() -> None:
    with pytest.raises(ValidationError):
        card(threshold=3)
    with pytest.raises(ValidationError):
        card().mpp = 3  # type: ignore[misc]


def test_no_temporary_file_is_left(saved: Path) -> None:
    assert sorted(path.name for path in saved.parent.iterdir()) == ["one.json", "one.safetensors"]
