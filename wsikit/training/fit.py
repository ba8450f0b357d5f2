"""The one training loop: goes on after a kill, stops early, keeps the best epoch.

Python's, numpy's and torch's generators are seeded from the seed and the number of the epoch when an epoch begins, and
put back at the end. So an epoch does not depend on how the one before came about: on the CPU, with the same number of
threads, a training that was killed and gone on with gives the same bits as one that was not, and what comes after
``fit`` draws the same numbers either way.
"""

from __future__ import annotations

import hashlib
import math
import operator
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from wsikit.atomic import output_errors
from wsikit.errors import ConfigError, TrainingError
from wsikit.training.kept import BEST, Kept, as_text, read_kept
from wsikit.training.recipe import Recipe

if TYPE_CHECKING:
    from wsikit.nn.weights import State

B = TypeVar("B")
MOMENTUM = 0.9
"""Of SGD."""
CURVES_S = 10.0
"""Between two pictures of the curves while a training runs; one takes about 0.3 s."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training is, after a step or an epoch."""

    stage: str
    """Name of the folder that it writes to."""
    epoch: int
    """From 1."""
    epochs: int
    """At most."""
    step: int
    """Steps done in this epoch, from 1."""
    steps: int | None
    """Of an epoch, where that is known beforehand."""
    metrics: Mapping[str, float]
    """After a step ``learning_rate`` and ``train_*``, means of the epoch so far; after an epoch its row of history."""
    seconds: float
    """Spent on the training so far, earlier calls included."""


Watch = Callable[[Progress], None]
"""Called in the training's own thread; what it raises ends the training, which can be gone on with."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A finished training."""

    epoch: int
    """The best one of those that are judged, from 1; the first of equal ones."""
    metrics: Mapping[str, float]
    """What ``validate`` gave in that epoch."""
    history: tuple[Mapping[str, float], ...] = field(repr=False)
    """Per epoch: ``epoch`` (from 1), ``learning_rate`` (the last), ``train_*`` and ``validation_*``."""
    path: Path
    """Weights of the best epoch, ``best.safetensors``."""
    seconds: float
    """All calls together."""


def fit(
    model: nn.Module,
    step: Callable[[B], Mapping[str, Tensor]],
    train: Callable[[int], Iterable[B]],
    *,
    validate: Callable[[], Mapping[str, float]],
    monitor: str,
    better: Literal["lower", "higher"],
    recipe: Recipe,
    out: Path,
    seed: int,
    device: torch.device,
    identity: Mapping[str, Any],
    watch: Watch | None = None,
) -> Fitted:
    """Train a model, and leave it with the weights of its best epoch, in eval mode, on the device.

    Called again with a folder that holds a finished training, it returns at once; with an unfinished one, it goes on
    after the last whole epoch. Only parameters that require a gradient are trained; a frozen part that must stay in
    eval mode says so in the model's own ``train()``.

    Args:
        model: its first weights are the caller's business; those in ``out`` take their place.
        step: losses of a batch, scalars; "loss" is minimised, all are logged. It moves the batch to the device.
        train: the batches of an epoch, counted from 1.
        validate: metrics on what is not trained on, called in eval mode under inference_mode.
        monitor: which of these chooses the epoch.
        better: whether lower or higher values of it are better.
        recipe: how to train.
        out: folder for ``last.pt``, ``best.safetensors``, ``history.csv``, ``history.json`` and ``curves.png``.
        seed: from 0, of all that is drawn at random in an epoch.
        device: where the model goes.
        identity: what else makes this training what it is (data digest, configuration), ready for JSON. Seed, recipe,
            monitor and the parameters' names and shapes are added.
        watch: told of every step and epoch.

    Raises:
        ConfigError: the folder holds another training (code other_training, and nothing is touched) or a damaged one
            (bad_weights); nothing to train; an epoch without batches; a monitored metric that validate does not give.
        TrainingError: a loss or gradient is no finite number, with its epoch and step, or the monitored metric is none
            in every epoch (code diverged). What earlier epochs gave stays.
        OutputError: the folder cannot be written.
    """
    whole = {"given": dict(identity), **_own_identity(model, recipe, seed, monitor, better)}
    kept = read_kept(out, whole)
    run = _Run(model.to(device), step, recipe, device, out.name, watch, kept.seconds if kept else 0.0)
    with output_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    if kept is None:
        kept = Kept(as_text(whole), *run.snapshot())
        kept.write(out)
    elif kept.history and not kept.is_published(out, monitor, better):
        kept.publish(out, monitor=monitor, better=better, best=True, curves=True)
    run.restore(kept)
    drawn = time.monotonic()
    with _generators_and_threads_put_back(device):
        while not _finished(kept, recipe):
            _seed(seed, kept.epoch + 1, recipe)
            steps = _epoch(run, kept, train, validate, monitor, better)
            kept.write(out)
            due = _finished(kept, recipe) or time.monotonic() - drawn > CURVES_S
            drawn = time.monotonic() if due else drawn
            kept.publish(out, monitor=monitor, better=better, best=kept.best == kept.epoch, curves=due)
            run.tell(kept.epoch, steps, steps, kept.history[-1])
    if not kept.best:
        raise TrainingError(f"{monitor} was no number in any of {kept.epoch} epochs of {out.name}")
    model.load_state_dict(kept.best_weights)
    model.eval()
    return Fitted(kept.best, kept.best_metrics, tuple(kept.history), out / BEST, kept.seconds)


def _own_identity(model: nn.Module, recipe: Recipe, seed: int, monitor: str, better: str) -> dict[str, Any]:
    shapes = [(name, tuple(value.shape)) for name, value in model.state_dict().items()]
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    return {
        "recipe": recipe.model_dump(),
        "seed": seed,
        "monitor": f"{better} {monitor}",
        "parameters": hashlib.sha256(repr((shapes, trained)).encode()).hexdigest(),
    }


def _finished(kept: Kept, recipe: Recipe) -> bool:
    waited = kept.epoch - (kept.best or recipe.first_judged - 1)
    return kept.epoch >= recipe.epochs or (recipe.patience is not None and waited >= recipe.patience)


@contextmanager
def _generators_and_threads_put_back(device: torch.device) -> Iterator[None]:
    threads, python, arrays = torch.get_num_threads(), random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
        torch.set_num_threads(threads)


def _seed(seed: int, epoch: int, recipe: Recipe) -> None:
    """Generators and threads as every call finds them at the beginning of this epoch.

    Threads too: a predictor that validates sets its own number.
    """
    one, two, three = np.random.SeedSequence([seed, epoch]).generate_state(3).tolist()
    random.seed(one)
    np.random.seed(two)
    torch.manual_seed(three)
    torch.set_num_threads(recipe.threads or len(os.sched_getaffinity(0)))


@dataclass
class _Run(Generic[B]):
    """A model in training."""

    model: nn.Module
    step: Callable[[B], Mapping[str, Tensor]]
    recipe: Recipe
    device: torch.device
    stage: str
    watch: Watch | None
    before: float
    """Seconds that earlier calls spent."""

    def __post_init__(self) -> None:
        self.trained = [value for value in self.model.parameters() if value.requires_grad]
        if not self.trained:
            raise ConfigError(f"{type(self.model).__name__} has no parameter that requires a gradient")
        self.optimizer = _optimizer(self.recipe, self.trained)
        half = self.recipe.precision == "float16"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half)
        self.began = time.monotonic()

    def seconds(self) -> float:
        """Spent on the training so far."""
        return self.before + time.monotonic() - self.began

    def tell(self, epoch: int, step: int, steps: int | None, metrics: Mapping[str, float]) -> None:
        """Call the watch."""
        if self.watch:
            self.watch(Progress(self.stage, epoch, self.recipe.epochs, step, steps, metrics, self.seconds()))

    def precision(self) -> torch.autocast:
        """The context that passes of the network run in."""
        name = self.recipe.precision
        half = name != "float32"
        return torch.autocast(self.device.type, getattr(torch, name) if half else None, enabled=half)

    def snapshot(self) -> tuple[State, dict[str, Any], dict[str, Any]]:
        """Weights, of their own memory on the CPU; states of optimizer and scaler, until the next step."""
        state = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
        return state, self.optimizer.state_dict(), self.scaler.state_dict()

    def restore(self, kept: Kept) -> None:
        """Go back to a snapshot."""
        self.model.load_state_dict(kept.weights)
        self.optimizer.load_state_dict(kept.optimizer)
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(kept.scaler)

    def descend(self, batch: B, where: str) -> dict[str, float]:
        """One step of the optimizer; the losses before it."""
        self.optimizer.zero_grad()
        with self.precision():
            losses = self.step(batch)
        values = {name: float(value.detach()) for name, value in losses.items()}
        if not all(map(math.isfinite, values.values())):
            raise TrainingError(f"{_shown(values)} in {where}")
        self.scaler.scale(losses["loss"]).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.trained, self.recipe.clip or math.inf)
        # a scaler skips such a step by itself, and scales less from then on
        if not self.scaler.is_enabled() and not torch.isfinite(norm):
            raise TrainingError(f"the gradient has the norm {float(norm)} in {where}, where {_shown(values)}")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return values


def _shown(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} is {value:.4g}" for name, value in values.items())


def _optimizer(recipe: Recipe, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    groups = [
        {"params": [value for value in parameters if value.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [value for value in parameters if value.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, recipe.learning_rate, momentum=MOMENTUM, nesterov=True)
    kind: Callable[..., torch.optim.Optimizer] = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[
        recipe.optimizer
    ]
    return kind(groups, recipe.learning_rate)


def _epoch(
    run: _Run[B],
    kept: Kept,
    train: Callable[[int], Iterable[B]],
    validate: Callable[[], Mapping[str, float]],
    monitor: str,
    better: str,
) -> int:
    """Train, validate, and write into ``kept`` what came of it; the number of steps."""
    epoch = kept.epoch + 1
    rows = list(_steps(run, train, epoch))
    if not rows:
        raise ConfigError(f"epoch {epoch} of {run.stage} has no batches", remedy="give images to train on")
    run.model.eval()
    with torch.inference_mode(), run.precision():
        metrics = {name: float(value) for name, value in validate().items()}
    if monitor not in metrics:
        raise ConfigError(f"the monitored metric {monitor!r} is not among those of validation: {', '.join(metrics)}")
    kept.weights, kept.optimizer, kept.scaler = run.snapshot()
    kept.epoch = epoch
    kept.history.append({"epoch": epoch, **rows[-1], **{f"validation_{key}": value for key, value in metrics.items()}})
    sign = 1 if better == "lower" else -1
    now = sign * metrics[monitor]
    judged = epoch >= run.recipe.first_judged
    if judged and now < (sign * kept.best_metrics[monitor] if kept.best else math.inf):
        kept.best, kept.best_metrics, kept.best_weights = epoch, metrics, kept.weights
    kept.seconds = run.seconds()
    return len(rows)


def _steps(run: _Run[B], train: Callable[[int], Iterable[B]], epoch: int) -> Iterator[dict[str, float]]:
    """Train an epoch: after each step its learning rate and the means of the losses so far.

    The learning rate of a step is that of its middle; of the epoch's middle where the number of steps is not known.
    """
    run.model.train()
    batches, sums = train(epoch), dict[str, float]()
    known = operator.length_hint(batches) or None
    for number, batch in enumerate(batches, 1):
        part = min(1.0, (number - 0.5) / known) if known else 0.5
        rate = run.recipe.rate((epoch - 1 + part) / run.recipe.epochs)
        for group in run.optimizer.param_groups:
            group["lr"] = rate
        for name, value in run.descend(batch, f"epoch {epoch}, step {number} of {run.stage}").items():
            sums[name] = sums.get(name, 0.0) + value
        row = {"learning_rate": rate, **{f"train_{name}": total / number for name, total in sums.items()}}
        run.tell(epoch, number, known, row)
        yield row
