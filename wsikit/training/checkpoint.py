"""Checkpoints of methods: ``NAME.safetensors``, the weights, and ``NAME.json``, the card that says all else of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from wsikit.atomic import output_errors, replace_file
from wsikit.errors import ConfigError
from wsikit.nn.card import CardLabel, Number, find_card, read_card_as
from wsikit.nn.weights import SAFE, read_state, sha256

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
        if (self.method, self.version) != (method, version):
            raise ConfigError(
                f"the weights {self.name!r} are of the method {self.method} {self.version}, not of {method} {version}",
                code="wrong_method",
                remedy=f"give a checkpoint of {method}, or train one: `wsikit models` lists what there is",
            )

    def check_mpp(self, mpp: float | None, tolerance: float) -> None:
        """Raise ConfigError (code wrong_mpp) for um per px that are off the card's by more than this share of them."""
        if mpp is not None and abs(mpp - self.mpp) > tolerance * self.mpp + 1e-9:
            raise ConfigError(
                f"{self.name} was trained at {self.mpp:g} um per px and would see {mpp:.4g}; up to {tolerance:.0%} is "
                "allowed",
                code="wrong_mpp",
                remedy=f"leave out --mpp, or run it at {self.mpp:g}",
            )


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
    from safetensors.torch import save

    if path.suffix != SAFE:
        raise ConfigError(f"a checkpoint is a {SAFE} file, got {path.name!r}")
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    # cloned, since safetensors refuses tensors that share memory, as tied weights do
    replace_file(path, save({key: value.detach().cpu().clone().contiguous() for key, value in state.items()}))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    filled = card.model_copy(update={"wsikit": version("wsikit"), "created": now, "sha256": sha256(path)})
    replace_file(path.with_suffix(".json"), filled.model_dump_json(indent=2).encode())
    return path


def load_checkpoint(path: Path) -> tuple[State, MethodCard]:
    """Weights, on the CPU, and their card.

    Raises:
        ConfigError: weights that are not there (code no_weights), not whole or not those of the card (bad_weights), no
            card (no_card) or one that is not of a method or is wrong (bad_card).
    """
    digest = sha256(path)
    card = read_card_as(find_card(path), MethodCard)
    if card.sha256 not in {None, digest}:
        raise ConfigError(
            f"{path} is not the file of its card: its sha256 is {digest}, the card says {card.sha256}",
            code="bad_weights",
            remedy="copy the model again, both files of it",
        )
    return read_state(path), card


def find_checkpoints(folder: Path) -> list[tuple[Path, MethodCard]]:
    """Checkpoints of methods below a folder, by path: weights and cards. The weights are not read.

    Raises:
        ConfigError: a card of a method that is wrong (code bad_card); other models and files are passed over.
    """
    found = []
    for weights in sorted(folder.rglob(f"*{SAFE}")):
        card = weights.with_suffix(".json")
        if card.is_file() and _is_of_method(card):
            found.append((weights, read_card_as(card, MethodCard)))
    return found


def _is_of_method(card: Path) -> bool:
    """Whether a JSON file is a card of a method, perhaps a wrong one, and not of another kind of model."""
    try:
        values = json.loads(card.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and "method" in values
