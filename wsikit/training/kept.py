"""What a training keeps in its folder after every epoch, so that a killed one goes on where it was.

``last.pt`` is the truth: everything else in the folder is made from it, and made again where a kill came in between.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from wsikit.atomic import replace_file
from wsikit.errors import ConfigError
from wsikit.nn.weights import read_pickled
from wsikit.training.curves import draw_curves
from wsikit.training.history import as_csv, as_json

if TYPE_CHECKING:
    from wsikit.nn.weights import State

LAST, BEST, CSV, JSON, CURVES = "last.pt", "best.safetensors", "history.csv", "history.json", "curves.png"


@dataclass
class Kept:
    """A training after a whole number of epochs."""

    identity: str
    """What makes it this training and no other, JSON."""
    weights: State
    """On the CPU, not shared with the model."""
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    epoch: int = 0
    """Whole epochs done."""
    best: int = 0
    """The best of them, from 1; 0 where there is none yet."""
    best_metrics: dict[str, float] = field(default_factory=dict)
    best_weights: State = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    """Spent on these epochs."""

    def write(self, out: Path) -> None:
        """Write ``last.pt`` by rename."""
        file = io.BytesIO()
        torch.save(vars(self), file)
        replace_file(out / LAST, file.getvalue())

    def report(self, monitor: str, better: str) -> bytes:
        """``history.json``."""
        facts = {"monitor": monitor, "better": better, "best_epoch": self.best or None, "best": self.best_metrics}
        return as_json(self.history, **facts, seconds=round(self.seconds, 3))

    def publish(self, out: Path, *, monitor: str, better: str, best: bool, curves: bool) -> None:
        """Write what is made from ``last.pt``; ``history.json`` last, since it tells that the others are there."""
        from safetensors.torch import save

        if best and self.best:
            replace_file(out / BEST, save({name: weight.contiguous() for name, weight in self.best_weights.items()}))
        replace_file(out / CSV, as_csv(self.history))
        if curves:
            replace_file(out / CURVES, draw_curves(self.history, monitor=monitor, best=self.best, title=out.name))
        replace_file(out / JSON, self.report(monitor, better))

    def is_published(self, out: Path, monitor: str, better: str) -> bool:
        """Whether the other files are there and of this epoch."""
        files = [out / name for name in (BEST, CSV, CURVES, JSON)]
        return all(file.is_file() for file in files) and files[-1].read_bytes() == self.report(monitor, better)


def read_kept(out: Path, identity: Mapping[str, Any]) -> Kept | None:
    """What an earlier call left, None where there was none.

    Raises:
        ConfigError: it is of another training (code other_training), or is not whole (bad_weights).
    """
    if not (out / LAST).exists():
        return None
    saved: Any = read_pickled(out / LAST)
    try:
        kept = Kept(**saved)
        other = json.loads(kept.identity)
    except (TypeError, ValueError) as error:
        raise _other(out, f"{LAST} was not written by this version of wsikit") from error
    if kept.identity != as_text(identity):
        raise _other(out, "; ".join(_differing(json.loads(as_text(identity)), other)))
    return kept


def last_weights(out: Path) -> State:
    """Weights of the last epoch, on the CPU, chosen or not. Raises ConfigError (code bad_weights)."""
    saved: Any = read_pickled(out / LAST)
    weights: State = saved["weights"]
    return weights


def as_text(identity: Mapping[str, Any]) -> str:
    """JSON with sorted keys, the same for equal values."""
    return json.dumps(identity, sort_keys=True, default=str)


def _differing(one: Mapping[str, Any], two: Mapping[str, Any]) -> Iterator[str]:
    """What is not equal, by dotted names."""
    ours, theirs = dict(_flat(one)), dict(_flat(two))
    for key in sorted(ours | theirs):
        if ours.get(key) != theirs.get(key):
            yield f"{key} was {theirs.get(key)} and is now {ours.get(key)}"


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else key)
    else:
        yield name, value


def _other(out: Path, why: str) -> ConfigError:
    return ConfigError(
        f"{out} holds another training: {why}",
        code="other_training",
        remedy="give another folder, or remove this one to train anew",
    )
