"""A whole model over slides: an encoder and a head that attends to its patches. Meets ``BagPredictor``.

On disk it is two files: ``NAME.safetensors``, the head's weights, and its card ``NAME.json``, which names the encoder
and the sha256 of the encoder's weights. These are looked for where they were, and then beside the card.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from wsikit.atomic import output_errors, replace_file
from wsikit.errors import ConfigError
from wsikit.geometry import TileSpec
from wsikit.nn.card import Card, CardLabel, find_card, read_card_as
from wsikit.nn.encoders import NetworkEncoder, load_encoder
from wsikit.nn.weights import fill, read_state, sha256
from wsikit.predictions import Bag, BagScore, Batch, Label

if TYPE_CHECKING:
    from wsikit.nn.abmil import Fit, GatedAttention
    from wsikit.slides import Slide
    from wsikit.tissue import TissueMask


class CardEncoder(BaseModel):
    """The encoder that a head was trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: str
    """What ``load_encoder`` takes, with weights relative to the card where they lie below it."""
    identity: dict[str, Any]
    """What decides its vectors; another encoder is refused."""
    overlap: int = 0
    """px that neighbouring patches share."""


class BagCard(Card):
    """The card of a head over bags."""

    task: Literal["bag"] = "bag"
    activation: Literal["softmax"] = "softmax"
    encoder: CardEncoder
    width: int = Field(ge=1)
    """D, length of a feature vector."""


@dataclass(frozen=True, slots=True)
class AttentionPredictor:
    """Embeds patches, then scores all of a slide's together. Made by ``load_attention``."""

    card: BagCard
    encoder: NetworkEncoder
    weights: Path
    """Of the head."""
    digest: str
    """sha256 of that file."""

    @property
    def name(self) -> str:
        """The card's."""
        return self.card.name

    @property
    def tile(self) -> TileSpec:
        """The encoder's."""
        return self.encoder.tile

    @property
    def labels(self) -> tuple[Label, ...]:
        """The card's classes."""
        return self.card.classes

    @property
    def width(self) -> int:
        """D, the encoder's."""
        return self.encoder.width

    @property
    def batch(self) -> int:
        """Patches in a pass of the encoder."""
        return self.encoder.batch

    @property
    def identity(self) -> Mapping[str, Any]:
        """Hashes of the head's and the encoder's weights."""
        return {"head": self.digest, "encoder": dict(self.encoder.identity)}

    @property
    def bound(self) -> Mapping[str, Any]:
        """Nothing."""
        return {}

    def prepare(self, slide: Slide, tissue: TissueMask) -> Self:
        """The model itself. Raises ConfigError where the slide's nearest mpp is more than 10 % off the card's."""
        self.card.check_mpp(slide.resolve(self.tile.mpp))
        return self

    def embed(self, batch: Batch) -> NDArray[np.float32]:
        """(N, D) features of N patches, in order."""
        return self.encoder.embed(batch)

    def score(self, bag: Bag) -> BagScore:
        """Scores of the labels that sum to 1; attention that sums to 1, and as a multiple of its mean."""
        from wsikit.nn.abmil import score_bag

        scores, attention = score_bag(_head(self.weights, self.digest, self.width, len(self.labels)), bag.features)
        return BagScore(bag.regions, scores, attention, None, {"Attention / mean": attention * len(attention)})


@cache
def _head(weights: Path, digest: str, width: int, classes: int) -> GatedAttention:
    from wsikit.nn.abmil import GatedAttention

    if sha256(weights) != digest:
        raise ConfigError(f"the weights {weights} changed while they were in use", code="bad_weights")
    head = GatedAttention(width, classes)
    fill(head, read_state(weights), weights.name)
    return head.double().eval()


def save_attention(
    path: Path,
    fit: Fit,
    encoder: Mapping[str, Any],
    spec: str,
    labels: Sequence[str | Label],
    *,
    name: str = "",
    min_tissue: float = 0.25,
    **facts: Any,
) -> Path:
    """Write a head and its card.

    Args:
        path: ``NAME.safetensors``; the card goes beside it as ``NAME.json``.
        fit: from ``fit_bags``.
        encoder: what the bags' vectors come from, ``Bags.encoder``.
        spec: how ``load_encoder`` finds that encoder: what ``wsikit embed -m`` was given.
        labels: the K labels in their order.
        name: as reports show it; the file's stem if not given.
        min_tissue: smallest share of tissue of a patch.
        facts: further keys of the card: description, licence, training_data, metrics, citation.

    Returns:
        The path of the weights.

    Raises:
        OutputError: they cannot be written.
        ConfigError: another file type, facts that a card does not have, or features of normalised stains (code
            stained_features).
    """
    from safetensors.torch import save

    if path.suffix != ".safetensors":
        raise ConfigError(f"the weights of a head are a .safetensors file, got {path.name!r}")
    identity = dict(encoder["encoder"])
    if "stain" in identity:
        raise ConfigError(
            "the features were embedded with --stain, which a head's card does not say: the model run without it would "
            "give other scores",
            code="stained_features",
            remedy="embed the slides without --stain and train the head on that",
        )
    preprocess = identity["preprocess"]
    named = [label if isinstance(label, Label) else Label(label, (0, 0, 0)) for label in labels]
    colored = [isinstance(label, Label) for label in labels]
    card = BagCard(
        name=name or path.stem,
        labels=tuple(
            CardLabel(name=label.name, color=label.color if own else None, background=label.background)
            for label, own in zip(named, colored, strict=True)
        ),
        mpp=encoder["mpp"],
        patch=encoder["patch"],
        mean=preprocess["mean"],
        std=preprocess["std"],
        size=preprocess["size"],
        min_tissue=min_tissue,
        width=fit.width,
        encoder=CardEncoder(spec=_relative(spec, path.parent), identity=identity, overlap=encoder["overlap"]),
        **facts,
    )
    blob = save({key: value.contiguous() for key, value in fit.state.items()})
    replace_file(path, blob)
    with output_errors(path):
        card = card.model_copy(update={"sha256": sha256(path)})
    replace_file(path.with_suffix(".json"), card.model_dump_json(indent=2).encode())
    return path


def _relative(spec: str, folder: Path) -> str:
    """The spec with its weights relative to the card's folder where they lie in it."""
    architecture, colon, file = spec.rpartition(":")
    path = Path(file)
    if path.exists() and path.resolve().is_relative_to(folder.resolve()):
        return f"{architecture}{colon}{path.resolve().relative_to(folder.resolve())}"
    return f"{architecture}{colon}{path.absolute()}" if path.exists() else spec


def load_attention(
    path: Path, *, mpp: float | None = None, min_tissue: float | None = None, device: str = "auto"
) -> AttentionPredictor:
    """A model from the weights of its head and the card beside them.

    Args:
        path: ``NAME.safetensors``.
        mpp: micrometres per pixel, at most 10 % off the card's; the card's if not given.
        min_tissue: smallest share of tissue of a patch; the card's if not given.
        device: auto, cpu or cuda, for the encoder. The head runs on the CPU.

    Raises:
        ConfigError: no such file, no card or a wrong one, weights that do not fit, an encoder that is not there or is
            another one than the head was trained on (code wrong_encoder).
    """
    digest = sha256(path)
    card = read_card_as(find_card(path), BagCard)
    if card.sha256 not in {None, digest}:
        raise ConfigError(
            f"{path} is not the file of its card: its sha256 is {digest}, the card says {card.sha256}",
            code="bad_weights",
            remedy="copy the model again, or correct the card",
        )
    tile = card.tile(mpp, min_tissue)
    encoder = load_encoder(
        _found(card.encoder, path.parent),
        mpp=tile.mpp,
        patch=card.patch,
        overlap=card.encoder.overlap,
        min_tissue=tile.min_tissue,
        device=device,
        precision=card.encoder.identity.get("precision", "float32"),
    )
    model = AttentionPredictor(card, encoder, path.absolute(), digest)
    _refuse_other_encoder(model)
    _head(model.weights, digest, card.width, len(card.classes))
    return model


def _found(encoder: CardEncoder, folder: Path) -> str:
    """The spec with the weights where they are: as the card says, below the card, or beside it by name."""
    architecture, colon, file = encoder.spec.rpartition(":")
    places = [Path(file)] if Path(file).is_absolute() else [folder / file]
    places.append(folder / Path(file).name)
    found = next((place for place in places if place.exists()), None)
    if found is not None:
        return f"{architecture}{colon}{found}"
    if Path(file).is_absolute() or colon:
        raise ConfigError(
            f"the encoder's weights {file} (sha256 {str(encoder.identity.get('sha256'))[:12]}...) are not there",
            code="no_weights",
            remedy=f"put them beside the card as {Path(file).name}",
        )
    return encoder.spec


def _refuse_other_encoder(model: AttentionPredictor) -> None:
    own, wanted = dict(model.encoder.identity), {k: v for k, v in model.card.encoder.identity.items() if k != "name"}
    different = [key for key in {**own, **wanted} if own.get(key) != wanted.get(key)]
    if different or model.encoder.width != model.card.width:
        shown = "; ".join(f"{key} is {own.get(key)}, not {wanted.get(key)}" for key in different) or (
            f"width is {model.encoder.width}, not {model.card.width}"
        )
        raise ConfigError(
            f"the head {model.name!r} was trained on another encoder: {shown}",
            code="wrong_encoder",
            remedy="give it the encoder's weights that its card names, or train a head on these features",
        )
