"""Checkpoints of methods: ``NAME.safetensors``, the weights, and ``NAME.json``, the card that says all else of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from wsikit.nn.card import CardLabel, Number

if TYPE_CHECKING:
    import torch

    from wsikit.nn.weights import State


class MethodCard(BaseModel):
    """What a trained method is, wants and gives, and how it came about."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: str = Field(min_length=1)
    """Its name in ``wsikit.predictors.METHODS``."""
    name: str = Field(min_length=1)
    """As reports show it."""
    version: int = Field(ge=1)
    """Of the method's code; the method refuses weights of another."""
    labels: tuple[CardLabel, ...]
    """The classes, in the order of the network's channels."""
    mpp: Number = Field(gt=0)
    """Micrometres per pixel that it was trained at."""
    core: int = Field(ge=1)
    """Side of a window without its halo, px at ``mpp``."""
    halo: int = Field(default=0, ge=0)
    """Border around it, px at ``mpp``."""
    config: dict[str, Any] = Field(default_factory=dict)
    """The method's whole configuration."""
    encoder: dict[str, Any] = Field(default_factory=dict)
    """Architecture, where its first weights came from, their sha256 and licence."""
    facts: dict[str, Any] = Field(default_factory=dict)
    """What training found: thresholds, calibration."""
    split: dict[str, Any] = Field(default_factory=dict)
    """How the data was split, ``Splits.record``."""
    training_data: str = ""
    licence: str = ""
    metrics: dict[str, Any] = Field(default_factory=dict)
    """What was measured, and on what."""
    intended_use: str = ""
    limits: str = ""
    """What it must not be used for, and where it is known to fail."""
    wsikit: str = ""
    """Version that wrote it; filled in by ``save_checkpoint``."""
    created: str = ""
    """When it was written, ISO 8601 in UTC; filled in by ``save_checkpoint``."""
    sha256: str | None = None
    """Of the weights, hex; filled in by ``save_checkpoint``."""

    def check_method(self, method: str, version: int) -> None:
        """Raise ConfigError (code wrong_method) where these weights are of another method or version of its code."""
        raise NotImplementedError


def save_checkpoint(path: Path, state: Mapping[str, torch.Tensor], card: MethodCard) -> Path:
    """Write weights, then their card, each by rename.

    Args:
        path: ``NAME.safetensors``; the card goes beside it as ``NAME.json``.
        state: name -> tensor, on any device.
        card: all but ``wsikit``, ``created`` and ``sha256``.

    Returns:
        The path of the weights.

    Raises:
        ConfigError: another file type.
        OutputError: they cannot be written.
    """
    raise NotImplementedError


def load_checkpoint(path: Path) -> tuple[State, MethodCard]:
    """Weights, on the CPU, and their card.

    Raises:
        ConfigError: weights that are not there (code no_weights), not whole or not those of the card (bad_weights), no
            card (no_card) or one that is not of a method or is wrong (bad_card).
    """
    raise NotImplementedError


def find_checkpoints(folder: Path) -> list[tuple[Path, MethodCard]]:
    """Checkpoints of methods below a folder, by path: weights and cards. The weights are not read."""
    raise NotImplementedError
