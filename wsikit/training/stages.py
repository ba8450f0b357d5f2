"""What the stages of a training share: data, folder, what makes it this training and no other, and the checkpoint."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar, cast

import torch
from torch import nn

from wsikit.nn.device import choose_device
from wsikit.nn.weights import SAFE
from wsikit.training.checkpoint import MethodCard, load_checkpoint, save_checkpoint
from wsikit.training.fit import Fitted, Watch, fit
from wsikit.training.images import Image, ImageSet
from wsikit.training.splits import Splits

if TYPE_CHECKING:
    from wsikit.nn.weights import State


class Settings(Protocol):
    """What is asked of a method's configuration, a pydantic model."""

    @property
    def seed(self) -> int:
        """Of all that is drawn at random."""

    @property
    def device(self) -> str:
        """auto, cpu or cuda."""

    @property
    def licence(self) -> str:
        """Of the training images."""

    def model_dump(self, *, mode: Literal["json"], exclude: set[str] | None = None) -> dict[str, Any]:
        """Every option by name."""


C = TypeVar("C", bound=Settings)
Measure = Callable[[Path], Mapping[str, Any]]
"""The figures of a checkpoint."""


class Stages(Generic[C, Image]):
    """A training in stages, each a ``wsikit.training.fit`` in a folder of its own.

    Args:
        config: of the training.
        out: folder for stages and checkpoint.
        data: all images.
        splits: which of them are for training, validation and test.
        watch: is told of every step.
        told: what makes it this training beside configuration and data, ready for JSON.
    """

    method: ClassVar[str]
    """Its name in ``wsikit.predictors.METHODS``."""
    silent: ClassVar[frozenset[str]]
    """Options that change nothing of what is learned: the training goes on when they change."""
    shown: ClassVar[frozenset[str]] = frozenset()
    """Those of them that the card shows: when they change it is written anew, and nothing is learned again."""

    def __init__(
        self, config: C, out: Path, data: ImageSet[Image], splits: Splits, watch: Watch | None, **told: Any
    ) -> None:
        self.config, self.out, self.watch = config, out, watch
        self.data, self.splits, self._told = data, splits, told
        self.device = choose_device(config.device)

    def images(self, split: str) -> list[Image]:
        """Of a split."""
        return [self.data[i] for i in self.splits.of(split)]

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What a training that goes on must share with the one that began."""
        config = self.config.model_dump(mode="json", exclude={*self.silent})
        return {"config": config, "data": self.data.digest, **self._told}

    @property
    def name(self) -> str:
        """sha256 of the identity, hexadecimal."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()

    def fit(self, model: nn.Module, stage: str, **options: Any) -> Fitted:
        """``wsikit.training.fit`` of a model with ``encoder_facts`` in the stage's folder."""
        return fit(
            model.to(memory_format=torch.channels_last),
            out=self.out / stage,
            seed=self.config.seed,
            device=self.device,
            identity=self.identity | {"stage": stage, "encoder": dict(cast(Any, model).encoder_facts)},
            watch=self.watch,
            **options,
        )

    @property
    def path(self) -> Path:
        """Of the checkpoint."""
        return self.out / f"{self.method}{SAFE}"

    def packed(self) -> Path | None:
        """The checkpoint that an earlier call of this very training wrote; None where it did not come so far, or the
        card would tell something else now."""
        if not self.path.is_file() or not self.path.with_suffix(".json").is_file():
            return None
        _, card = load_checkpoint(self.path)
        now = self.config.model_dump(mode="json")
        same = all(card.config.get(name) == now[name] for name in self.shown)
        return self.path if same and card.facts.get("training") == self.name else None

    def card(self, fitted: Mapping[str, Fitted], facts: Mapping[str, Any], **told: Any) -> MethodCard:
        """What all methods say of a training, and ``told``."""
        return MethodCard(
            method=self.method,
            config=self.config.model_dump(mode="json"),
            facts={**facts, "data_sha256": self.data.digest, "training": self.name},
            split={**self.splits.record, "warnings": [*self.data.warnings, *self.splits.warnings]},
            licence=self.config.licence,
            metrics={"stages": {name: dict(one.metrics) for name, one in fitted.items()}},
            **told,
        )

    def measured(self, state: State, card: MethodCard, measure: Measure) -> dict[str, Any]:
        """What ``measure`` finds of the path of a checkpoint, which lies elsewhere than the finished one and is gone
        afterwards: a kill meanwhile leaves nothing that could be taken for it. Raises OutputError."""
        with tempfile.TemporaryDirectory(prefix=".packing-", dir=self.out) as folder:
            return dict(measure(save_checkpoint(Path(folder) / self.path.name, state, card)))

    def pack(self, state: State, card: MethodCard, measure: Measure) -> Path:
        """Write the checkpoint, with what is measured of it in the card. Raises OutputError."""
        metrics = {**self.measured(state, card, measure), **card.metrics}
        return save_checkpoint(self.path, state, card.model_copy(update={"metrics": metrics}))
