"""A training that was killed and gone on with is the one that was not."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.training.small import RECIPE, Small, at, small, train
from wsikit.errors import ConfigError, TrainingError
from wsikit.training import fit as module
from wsikit.training.fit import Fitted
from wsikit.training.kept import Kept

FILES = {"last.pt", "best.safetensors", "history.csv", "history.json", "curves.png"}


class Killed(Exception):
    pass


def kill(*_: object, **__: object) -> NoReturn:
    raise Killed


def snapshot(out: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Small, Fitted]:
    """An uninterrupted training."""
    out, model = tmp_path_factory.mktemp("whole") / "run", small()
    return out, model, train(model, out)


def assert_same(out: Path, model: Small, fitted: Fitted, whole: tuple[Path, Small, Fitted]) -> None:
    """Bit for bit: weights of the model and the files, history, best epoch."""
    ours, theirs = model.state_dict(), whole[1].state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (fitted.epoch, fitted.metrics, fitted.history) == (whole[2].epoch, whole[2].metrics, whole[2].history)
    for name in ("best.safetensors", "history.csv", "curves.png"):
        assert (out / name).read_bytes() == (whole[0] / name).read_bytes(), name
    last, other = (torch.load(folder / "last.pt", weights_only=True) for folder in (out, whole[0]))
    assert all(torch.equal(last["weights"][name], other["weights"][name]) for name in other["weights"])


def test_training_learns(whole: tuple[Path, Small, Fitted]) -> None:
    out, model, fitted = whole
    first, last = fitted.history[0], fitted.history[-1]
    assert last["validation_mae"] < 0.6 * first["validation_mae"]
    assert {path.name for path in out.iterdir()} == FILES
    assert not model.training
    best = load_file(fitted.path)
    assert all(torch.equal(best[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("epoch", "step"), [(1, 2), (3, 1), (6, 7)])
def test_an_exception_inside_an_epoch(epoch: int, step: int, tmp_path: Path, whole: tuple[Path, Small, Fitted]) -> None:
    out = tmp_path / "run"
    with pytest.raises(Killed):
        train(small(), out, watch=at(epoch, step, kill))
    # another first state: what lies in the folder takes its place
    model = small(seed=9)
    assert_same(out, model, train(model, out), whole)


def test_sigkill_in_a_process_of_its_own(tmp_path: Path, whole: tuple[Path, Small, Fitted]) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "tests.training.small", str(out), "4", "3"]
    ended = subprocess.run(command, check=False, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert torch.load(out / "last.pt", weights_only=True)["epoch"] == 3
    model = small()
    assert_same(out, model, train(model, out), whole)


@pytest.mark.parametrize("name", ["best.safetensors", "history.csv", "history.json", "curves.png"])
@pytest.mark.parametrize("epoch", [2, 6])
def test_a_kill_between_the_files_of_an_epoch(
    name: str, epoch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: tuple[Path, Small, Fitted]
) -> None:
    """last.pt is written, something after it is not."""
    from wsikit.training import kept

    out, replace = tmp_path / "run", kept.replace_file

    def dying(path: Path, chunks: Any) -> None:
        if path.name == name and torch.load(out / "last.pt", weights_only=True)["epoch"] == epoch:
            raise Killed
        replace(path, chunks)

    monkeypatch.setattr(kept, "replace_file", dying)
    if (name, epoch) == ("curves.png", 2):
        monkeypatch.setattr(module, "CURVES_S", 0.0)
    with pytest.raises(Killed):
        train(small(), out)
    monkeypatch.undo()
    model = small()
    assert_same(out, model, train(model, out), whole)


def test_generators_are_seeded_anew_in_every_epoch(tmp_path: Path) -> None:
    drawn = []

    def watched(epoch: int) -> Any:
        drawn.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
        return [(torch.ones(4, 3), torch.ones(4))]

    train(small(), tmp_path / "one", train=watched)
    train(small(), tmp_path / "two", train=watched)
    train(small(), tmp_path / "three", train=watched, seed=4)
    assert drawn[:6] == drawn[6:12]
    assert len({value for triple in drawn[:6] + drawn[12:] for value in triple}) == 36


def test_what_comes_after_draws_the_same_numbers_whether_it_was_resumed_or_not(tmp_path: Path) -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    found = []
    for _ in range(2):  # the second call returns at once
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        train(small(), tmp_path / "run")
        found.append(draw())
    assert found[0] == found[1]


@pytest.mark.parametrize("fails", [False, True])
def test_the_threads_of_the_process_are_put_back(fails: bool, tmp_path: Path) -> None:
    before, seen = torch.get_num_threads(), []
    try:
        torch.set_num_threads(3)
        recipe = RECIPE.model_copy(update={"threads": 2, "epochs": 1})

        def watch(_: object) -> None:
            seen.append(torch.get_num_threads())
            if fails:
                raise Killed

        try:
            train(small(), tmp_path / "run", recipe, watch=watch)
        except Killed:
            assert fails
        assert torch.get_num_threads() == 3
        assert set(seen) == {2}
    finally:
        torch.set_num_threads(before)


def test_a_validation_that_sets_threads_does_not_move_the_next_epoch(tmp_path: Path) -> None:
    seen = []

    def validate() -> dict[str, float]:
        seen.append(torch.get_num_threads())
        torch.set_num_threads(1)
        return {"mae": 1.0}

    before = torch.get_num_threads()
    train(small(), tmp_path / "run", RECIPE.model_copy(update={"threads": 2, "epochs": 2}), validate=validate)
    assert seen == [2, 2]
    assert torch.get_num_threads() == before


def test_a_finished_folder_returns_at_once(tmp_path: Path, whole: tuple[Path, Small, Fitted]) -> None:
    out, _, fitted = whole
    before, model = snapshot(out), small(seed=9)
    again = train(model, out, train=kill, step=kill, validate=kill, watch=kill)
    assert again == fitted
    assert_same(out, model, again, whole)
    assert snapshot(out) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"identity": {"data": "another"}}, "given.data was digest of examples and is now another"),
        ({"seed": 4}, "seed was 3 and is now 4"),
        (
            {"recipe": RECIPE.model_copy(update={"learning_rate": 0.01})},
            "recipe.learning_rate was 0.02 and is now 0.01",
        ),
        ({"better": "higher"}, "monitor was lower mae and is now higher mae"),
    ],
)
def test_another_training_is_refused_and_nothing_touched(
    change: dict[str, Any], said: str, whole: tuple[Path, Small, Fitted]
) -> None:
    before, model = snapshot(whole[0]), small(seed=9)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ConfigError) as caught:
        train(model, whole[0], **change)
    assert caught.value.code == "other_training"
    assert said in str(caught.value)
    assert "remove" in caught.value.remedy
    assert snapshot(whole[0]) == before
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("change", ["shape", "frozen"])
def test_another_network_is_refused(change: str, whole: tuple[Path, Small, Fitted]) -> None:
    model = small()
    if change == "shape":
        model.net[4] = torch.nn.Linear(16, 2)
    else:
        model.frozen.requires_grad_(True)
    with pytest.raises(ConfigError, match="parameters was") as caught:
        train(model, whole[0])
    assert caught.value.code == "other_training"


def test_a_damaged_last_is_refused(tmp_path: Path, whole: tuple[Path, Small, Fitted]) -> None:
    (tmp_path / "last.pt").write_bytes((whole[0] / "last.pt").read_bytes()[:1000])
    with pytest.raises(ConfigError, match=r"last\.pt") as caught:
        train(small(), tmp_path)
    assert caught.value.code == "bad_weights"


def test_a_last_of_another_program_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "last.pt")
    with pytest.raises(ConfigError) as caught:
        train(small(), tmp_path)
    assert caught.value.code == "other_training"


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_loss_that_is_no_number_stops_and_can_be_gone_on_with(
    value: str, tmp_path: Path, whole: tuple[Path, Small, Fitted]
) -> None:
    out, model = tmp_path / "run", small()
    steps = 0

    def step(batch: Any) -> dict[str, torch.Tensor]:
        nonlocal steps
        steps += 1
        error = model(batch[0]) - batch[1]
        loss = error.square().mean()
        return {"loss": loss * float(value) if steps == 16 else loss, "mae": error.abs().mean()}

    with pytest.raises(TrainingError, match=rf"loss is {value}.*in epoch 3, step 2 of run") as caught:
        train(model, out, step=step)
    assert caught.value.code == "diverged"
    again = small()
    assert_same(out, again, train(again, out), whole)


def test_a_gradient_that_is_no_number_stops_before_it_spoils_the_weights(tmp_path: Path) -> None:
    model = small()

    def step(batch: Any) -> dict[str, torch.Tensor]:
        # the root of 0 is 0, its slope is infinite
        return {"loss": (model(batch[0]) * 0).abs().sqrt().mean()}

    with pytest.raises(TrainingError, match=r"the gradient has the norm .* in epoch 1, step 1"):
        train(model, tmp_path / "run", step=step)
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_history_json_is_json_where_a_metric_is_none(tmp_path: Path) -> None:
    values = iter([float("nan"), 2.0, 1.0, 1.0, float("nan"), 3.0])
    fitted = train(small(), tmp_path, validate=lambda: {"mae": next(values)})
    read = json.loads((tmp_path / "history.json").read_text())
    assert (fitted.epoch, read["best_epoch"], read["best"]) == (3, 3, {"mae": 1.0})
    assert [row["validation_mae"] for row in read["history"]] == [None, 2.0, 1.0, 1.0, None, 3.0]


def test_last_holds_nothing_that_runs_code(whole: tuple[Path, Small, Fitted]) -> None:
    saved = torch.load(whole[0] / "last.pt", weights_only=True)
    assert set(saved) == set(Kept.__dataclass_fields__)
