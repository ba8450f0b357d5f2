"""The training loop: what it trains, how fast, which epoch it keeps, what it tells."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.training.small import RECIPE, Batch, batches, examples, small, train
from wsikit.errors import ConfigError, TrainingError
from wsikit.nn.device import Precision
from wsikit.training.fit import Progress
from wsikit.training.recipe import Recipe


def with_metrics(*values: float) -> Any:
    """A validation that gives these one after the other."""
    left = iter(values)
    return lambda: {"mae": next(left)}


def recipe(**changes: Any) -> Recipe:
    return RECIPE.model_copy(update=changes)


class Line(nn.Module):
    """w * x, with a gradient of x."""

    def __init__(self, start: float = 1.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.full((1, 1), start))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w * x


def train_line(model: Line, out: Path, recipe: Recipe, slopes: list[float], **changes: Any) -> Any:
    """Steps whose loss is slope * w."""
    given = {
        "step": lambda slope: {"loss": model(torch.tensor(slope)).sum()},
        "train": lambda epoch: slopes,
        "validate": lambda: {"mae": 1.0},
    }
    return train(model, out, recipe, **(given | changes))


@pytest.mark.parametrize(
    ("better", "values", "best"),
    [
        ("lower", (3.0, 1.0, 2.0, 1.0, 5.0, 1.0), 2),
        ("higher", (3.0, 1.0, 5.0, 1.0, 5.0, 1.0), 3),
        ("lower", (1.0, 1.0, 1.0, 1.0, 1.0, 1.0), 1),
        ("lower", (float("nan"), float("nan"), 4.0, float("inf"), 3.0, float("nan")), 5),
        ("higher", (float("nan"), -4.0, -5.0, float("-inf"), -4.0, float("nan")), 2),
    ],
)
def test_the_best_epoch_is_kept_and_ties_go_to_the_first(
    better: str, values: tuple[float, ...], best: int, tmp_path: Path
) -> None:
    model, seen = small(), []

    def watch(progress: Progress) -> None:
        if "validation_mae" in progress.metrics:
            seen.append(model.net[0].weight.detach().clone())

    fitted = train(model, tmp_path / "run", better=better, validate=with_metrics(*values), watch=watch)
    assert (fitted.epoch, fitted.metrics) == (best, {"mae": values[best - 1]})
    assert torch.equal(model.net[0].weight, seen[best - 1])
    assert not torch.equal(seen[best - 1], seen[best - 2])


@pytest.mark.parametrize(("patience", "epochs"), [(1, 4), (2, 5), (3, 6)])
def test_training_stops_when_nothing_gets_better(patience: int, epochs: int, tmp_path: Path) -> None:
    values = (5.0, 4.0, 3.0, 3.0, 3.5, 3.2)
    fitted = train(small(), tmp_path / "run", recipe(patience=patience), validate=with_metrics(*values))
    assert (fitted.epoch, len(fitted.history)) == (3, epochs)


@pytest.mark.parametrize(("judged", "best"), [(1.0, 2), (0.5, 4), (0.34, 5), (0.17, 6), (0.01, 6)])
def test_an_epoch_is_chosen_from_the_last_ones(judged: float, best: int, tmp_path: Path) -> None:
    values = (5.0, 1.0, 4.0, 2.0, 3.0, 3.5)
    fitted = train(small(), tmp_path / "run", recipe(epochs=6, judged=judged), validate=with_metrics(*values))
    assert (fitted.epoch, fitted.metrics) == (best, {"mae": values[best - 1]})


@pytest.mark.parametrize(("patience", "epochs"), [(1, 5), (2, 6)])
def test_patience_begins_with_the_epochs_that_are_judged(patience: int, epochs: int, tmp_path: Path) -> None:
    values, asked = (1.0, 2.0, 2.0, 3.0, 4.0, 5.0), recipe(epochs=6, judged=0.5, patience=patience)
    fitted = train(small(), tmp_path / "run", asked, validate=with_metrics(*values))
    assert (fitted.epoch, len(fitted.history)) == (4, epochs)


def test_early_stopping_is_remembered(tmp_path: Path) -> None:
    out, values = tmp_path / "run", with_metrics(1.0, 2.0)
    first = train(small(), out, recipe(patience=1), validate=values)
    assert train(small(), out, recipe(patience=1), validate=values) == first


def test_no_epoch_with_a_number_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="mae was no number in any of 6 epochs"):
        train(small(), tmp_path / "run", validate=lambda: {"mae": float("nan")})


def test_an_unknown_metric_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'kappa' is not among those of validation: mae"):
        train(small(), tmp_path / "run", monitor="kappa")


def test_an_epoch_without_batches_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="epoch 1 of run has no batches"):
        train(small(), tmp_path / "run", train=lambda epoch: [])


def test_a_model_with_nothing_to_train_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no parameter"):
        train(small().requires_grad_(False), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_frozen_parameters_and_buffers_are_left_alone(tmp_path: Path) -> None:
    model = small()
    before = {name: value.clone() for name, value in model.frozen.state_dict().items()}
    trained = {name: value.clone() for name, value in model.net.state_dict().items()}
    train(model, tmp_path / "run", recipe(weight_decay=0.1))
    assert all(torch.equal(before[name], value) for name, value in model.frozen.state_dict().items())
    assert not any(torch.equal(trained[name], value) for name, value in model.net.state_dict().items())


def test_the_model_trains_in_train_mode_and_is_validated_in_eval_mode(tmp_path: Path) -> None:
    model, modes = small(), set()

    def step(batch: Batch) -> dict[str, torch.Tensor]:
        modes.add(("step", model.training, torch.is_inference_mode_enabled()))
        return {"loss": model(batch[0]).square().mean()}

    def validate() -> dict[str, float]:
        modes.add(("validate", model.training, torch.is_inference_mode_enabled()))
        return {"mae": 1.0}

    train(model, tmp_path / "run", step=step, validate=validate)
    assert modes == {("step", True, False), ("validate", False, True)}


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("clip", [0.5, 4.0, None])
def test_gradients_are_clipped(clip: float | None, precision: Precision, tmp_path: Path) -> None:
    """SGD's first step is rate * (1 + momentum) * gradient, whatever a scaler multiplies the loss with."""
    model = Line()
    flat = Recipe(epochs=1, learning_rate=0.1, optimizer="sgd", schedule="constant", warmup=0, clip=clip, threads=1)
    flat = flat.model_copy(update={"weight_decay": 0.0, "precision": precision})
    train_line(model, tmp_path / "run", flat, [8.0])
    assert model.w.item() == pytest.approx(1 - 0.1 * 1.9 * min(8.0, clip or 8.0), rel=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_weight_decay_is_for_matrices_only(optimizer: str, tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix, self.bias = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))

    model = Two()
    changes = {"step": lambda batch: {"loss": 0 * (model.matrix.sum() + model.bias.sum())}, "train": lambda epoch: [1]}
    train(
        model, tmp_path / "run", recipe(optimizer=optimizer, weight_decay=0.5), validate=lambda: {"mae": 1}, **changes
    )
    assert torch.equal(model.bias, torch.ones(2))
    assert (model.matrix < 1).all()


@pytest.mark.parametrize("sized", [True, False])
def test_the_steps_follow_the_schedule(sized: bool, tmp_path: Path) -> None:
    """Each step has the rate of its middle; of its epoch's middle where the number of steps is not known."""
    rates = []
    level = recipe(epochs=4, warmup=0.0, schedule="cosine", learning_rate=1.0)

    def some(epoch: int) -> Iterator[float] | list[float]:
        return [0.1] * 2 if sized else iter_of(0.1, 0.1)

    def watch(progress: Progress) -> None:
        if "validation_mae" not in progress.metrics:
            rates.append(progress.metrics["learning_rate"])
            assert progress.steps == (2 if sized else None)

    train_line(Line(), tmp_path / "run", level, [], train=some, watch=watch)
    shares = [1 / 16, 3 / 16, 5 / 16, 7 / 16, 9 / 16, 11 / 16, 13 / 16, 15 / 16]
    if not sized:
        shares = [1 / 8, 1 / 8, 3 / 8, 3 / 8, 5 / 8, 5 / 8, 7 / 8, 7 / 8]
    assert rates == [level.rate(share) for share in shares]


def iter_of(*values: float) -> Iterator[float]:
    yield from values


def test_the_rate_reaches_the_weights(tmp_path: Path) -> None:
    """SGD at a slope of 1: the first two steps, by hand."""
    model = Line(0.0)
    falling = Recipe(
        epochs=1, learning_rate=1.0, optimizer="sgd", warmup=0.5, schedule="constant", weight_decay=0, clip=None
    )
    train_line(model, tmp_path / "run", falling, [1.0, 1.0])
    # the rates are 0.5 and 1; Nesterov's steps are 1 + 0.9 and 1 + 0.9 * 1.9
    assert model.w.item() == pytest.approx(-(0.5 * 1.9 + 1.0 * 2.71))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_trains_on_the_cpu(precision: str, tmp_path: Path) -> None:
    model, kinds = small(), set()

    def step(batch: Batch) -> dict[str, torch.Tensor]:
        found = model(batch[0])
        kinds.add(found.dtype)
        return {"loss": (found.float() - batch[1]).square().mean()}

    out, half = tmp_path / "run", recipe(precision=precision)
    fitted = train(model, out, half, step=step)
    assert kinds == {getattr(torch, precision)}
    assert model.net[0].weight.dtype == torch.float32
    assert fitted.history[-1]["validation_mae"] < 0.7 * fitted.history[0]["validation_mae"]


def test_float16_goes_on_with_its_scale(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.epoch == 4:
            raise Stop

    half, states = recipe(precision="float16"), []
    for name, watch in (("one", None), ("two", stop), ("two", None)):
        model = small()
        try:
            train(model, tmp_path / name, half, watch=watch)
        except Stop:
            continue
        states.append((model.state_dict(), torch.load(tmp_path / name / "last.pt", weights_only=True)["scaler"]))
    assert states[0][1] == states[1][1]
    assert states[0][1]["scale"] > 1
    assert all(torch.equal(states[0][0][name], states[1][0][name]) for name in states[0][0])


def test_progress_tells_every_step_and_epoch(tmp_path: Path) -> None:
    told: list[Progress] = []
    fitted = train(small(), tmp_path / "stage", recipe(epochs=2), watch=told.append)
    steps = len(batches(1))
    assert [(p.epoch, p.step) for p in told] == [(e, s) for e in (1, 2) for s in (*range(1, steps + 1), steps)]
    assert {(p.stage, p.epochs, p.steps) for p in told} == {("stage", 2, steps)}
    assert [p.seconds for p in told] == sorted(p.seconds for p in told)
    assert told[steps].metrics == fitted.history[0]
    assert told[steps - 1].metrics["train_loss"] == fitted.history[0]["train_loss"]


def test_history_holds_means_over_the_steps(tmp_path: Path) -> None:
    model = small()
    losses: list[float] = []

    def step(batch: Batch) -> dict[str, torch.Tensor]:
        loss = (model(batch[0]) - batch[1]).square().mean()
        losses.append(loss.item())
        return {"loss": loss, "twice": 2 * loss}

    fitted = train(model, tmp_path / "run", recipe(epochs=1), step=step)
    row = fitted.history[0]
    assert row["train_loss"] == pytest.approx(sum(losses) / len(losses))
    assert row["train_twice"] == pytest.approx(2 * row["train_loss"])
    assert list(row) == ["epoch", "learning_rate", "train_loss", "train_twice", "validation_mae"]
    assert row["epoch"] == 1


def test_the_csv_is_the_history(tmp_path: Path) -> None:
    fitted = train(small(), tmp_path / "run")
    with (tmp_path / "run" / "history.csv").open() as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    assert rows == [dict(row) for row in fitted.history]


def test_a_best_epoch_is_what_validation_sees(tmp_path: Path) -> None:
    """The weights that are left in the model give the metric that chose them."""
    model = small()
    fitted = train(model, tmp_path / "run")
    x, y = examples(2)
    with torch.inference_mode():
        assert float((model(x) - y).abs().mean()) == fitted.metrics["mae"]


def test_weights_that_lie_channels_last_in_memory_are_kept(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).to(memory_format=torch.channels_last)
    fitted = train(
        model,
        tmp_path,
        recipe(epochs=1),
        step=lambda pixels: {"loss": model(pixels).square().mean()},
        train=lambda epoch: [torch.ones(2, 3, 5, 5)],
        validate=lambda: {"mae": 1.0},
    )
    assert fitted.path.is_file()
