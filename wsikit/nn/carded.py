"""Models that are a file and a card: patch classifiers, score maps and embeddings from TorchScript or ONNX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import ConfigError, PredictionError
from wsikit.geometry import TileSpec
from wsikit.nn.card import Card, find_card, read_card
from wsikit.nn.weights import sha256
from wsikit.predictions import AreaSpec, Bag, BagScore, Batch, Label, Objects, Points, ScoreMap

if TYPE_CHECKING:
    from wsikit.slides import Slide
    from wsikit.tissue import TissueMask


class Graph(Protocol):
    """A model file: numbers in, numbers out. Small, hashable, and the same in every process."""

    @property
    def batch(self) -> int:
        """Patches in a pass."""
        ...

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The output for (N, H, W, 3) RGB, N at least 1, made in passes of one size."""
        ...


@dataclass(frozen=True, slots=True)
class _Carded:
    """What models with a card share. Pickles as the card, the file's path and its sha256."""

    card: Card
    graph: Graph
    digest: str
    """sha256 of the model file."""
    tile: TileSpec
    mpp: float | None = None
    """um per px that the model sees on the slide that it is bound to."""

    @property
    def name(self) -> str:
        """The card's."""
        return self.card.name

    @property
    def labels(self) -> tuple[Label, ...]:
        """The card's classes."""
        return self.card.classes

    @property
    def identity(self) -> Mapping[str, Any]:
        """Hash of the model file, and what the card says of how it is used."""
        keys = {"mpp", "patch", "halo", "mean", "std", "size", "activation", "task"}
        shorter = {} if self.card.precision == "float32" else {"precision": self.card.precision}
        return {"sha256": self.digest, "card": self.card.model_dump(mode="json", include=keys) | shorter}

    @property
    def bound(self) -> Mapping[str, Any]:
        """The um per px seen, beside those that the model was made for."""
        return {} if self.mpp is None else {"mpp_um": self.mpp, "card_mpp_um": self.card.mpp}

    @property
    def batch(self) -> int:
        """Patches in a pass."""
        return self.graph.batch

    def prepare(self, slide: Slide, tissue: TissueMask) -> Self:
        """Bind the resolution. Raises ConfigError where the slide's nearest is more than 10 % off the card's."""
        mpp = slide.resolve(self.tile.mpp)
        self.card.check_mpp(mpp)
        return replace(self, mpp=mpp)

    def _scores(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, K) or (N, K, H, W) scores in [0, 1] of the labels."""
        output = self.graph(images)
        if not np.isfinite(output).all():
            raise PredictionError(f"the model {self.name!r} gave NaN or infinity")
        scores = _activated(output, self.card.activation)
        if scores.min(initial=0) < 0 or scores.max(initial=0) > 1:
            raise PredictionError(
                f"the model {self.name!r} gave {scores.min():.3g} to {scores.max():.3g}, and its card says that these "
                "are scores from 0 to 1",
                remedy="logits need activation: softmax or sigmoid in the card",
            )
        if len(self.labels) > scores.shape[1]:
            scores = np.concatenate([scores, 1 - scores.max(axis=1, keepdims=True)], axis=1)
        return scores


def _activated(output: NDArray[np.float32], activation: str | None) -> NDArray[np.float32]:
    if activation == "softmax":
        powers = np.exp(output - output.max(axis=1, keepdims=True))
        output = powers / powers.sum(axis=1, keepdims=True)
    elif activation == "sigmoid":
        # by tanh, which does not overflow
        output = ((np.tanh(output / 2) + 1) / 2).astype(np.float32)
    return output


@dataclass(frozen=True, slots=True)
class PatchClassifier(_Carded):
    """Scores of each class for each patch: tiles with classes, a heat map, and their mean for the slide.

    Meets ``BagPredictor``: a patch's features are its scores, and the bag's score is their mean over its patches.
    """

    @property
    def width(self) -> int:
        """K, a score per label."""
        return len(self.labels)

    def embed(self, batch: Batch) -> NDArray[np.float32]:
        """(N, K) scores."""
        return self._scores(batch.images)

    def score(self, bag: Bag) -> BagScore:
        """The mean of the patches' scores; no attention, since all count alike."""
        scores = bag.features.astype(np.float64)
        return BagScore(bag.regions, scores.mean(axis=0), instances=scores)


@dataclass(frozen=True, slots=True)
class PatchEmbedder(_Carded):
    """A feature vector for each patch. Meets ``Encoder``."""

    width: int = 0
    """D."""

    def embed(self, batch: Batch) -> NDArray[np.float32]:
        """(N, D) features."""
        return self.graph(batch.images)


@dataclass(frozen=True, slots=True)
class PixelClassifier(_Carded):
    """Scores of each class for each pixel. Meets ``Predictor``."""

    produces: ClassVar[type[ScoreMap] | type[Points] | type[Objects]] = ScoreMap

    @property
    def areas(self) -> AreaSpec | None:
        """As the card says it."""
        return None if self.card.least_um2 is None else AreaSpec(self.card.least_um2)

    def predict(self, batch: Batch) -> Sequence[ScoreMap]:
        """One (H, W, K) score map per patch."""
        # (N, K, H, W) -> (N, H, W, K)
        scores = self._scores(batch.images).transpose(0, 2, 3, 1)
        return [ScoreMap(region, one) for region, one in zip(batch.regions, scores, strict=True)]


def load_carded(
    path: Path, *, mpp: float | None = None, min_tissue: float | None = None, device: str = "auto"
) -> PatchClassifier | PatchEmbedder | PixelClassifier:
    """A model from a TorchScript (.pt, .ts, .torchscript) or ONNX (.onnx) file and the card beside it.

    The model runs once here, on a blank patch, so that what cannot work is said before any slide is read. A TorchScript
    file runs code when it is loaded: only load what you trust.

    Args:
        path: the model file.
        mpp: micrometres per pixel, at most 10 % off the card's; the card's if not given.
        min_tissue: smallest share of tissue of a patch; the card's if not given.
        device: auto, cpu or cuda.

    Raises:
        ConfigError: no such file, no card or a wrong one, a hash that differs, a model that does not give what its card
            says, a resolution that is too far off, a GPU that is not there.
    """
    digest = sha256(path)
    card = read_card(find_card(path))
    if card.task == "bag":
        raise ConfigError(
            f"the card of {path} is of a model over bags, which takes features and no patches",
            code="bad_card",
            remedy="-m takes it in another form: `wsikit models` lists them",
        )
    if card.sha256 is not None and card.sha256.lower() != digest:
        raise ConfigError(
            f"{path} is not the file of its card: its sha256 is {digest}, the card says {card.sha256}",
            code="bad_weights",
            remedy="copy the model again, or correct the card",
        )
    tile = card.tile(mpp, min_tissue)
    graph = _opened(path, digest, card, device)
    shape = _probed(graph, card, path)
    if card.task == "embedding":
        return PatchEmbedder(card, graph, digest, tile, width=shape[1])
    return (PatchClassifier if card.task == "classification" else PixelClassifier)(card, graph, digest, tile)


def _opened(path: Path, digest: str, card: Card, device: str) -> Graph:
    if path.suffix.lower() == ".onnx":
        from wsikit.nn.onnx import Onnx

        if card.precision != "float32":
            raise ConfigError(
                f"the card of {path.name} asks for {card.precision}; an ONNX file computes in what it was exported in",
                code="bad_card",
                remedy="take precision out of the card, and export the model in half precision where that is wanted",
            )
        return Onnx.open(path, digest, card.preprocess, device)
    from wsikit.nn.torchscript import TorchScript

    return TorchScript.open(path, digest, card.preprocess, device, card.precision)


def _probed(graph: Graph, card: Card, path: Path) -> tuple[int, ...]:
    """Shape of what the model gives for a pass of blank patches, held to the card."""
    side, count = card.patch, len(card.labels)
    blank = np.full((graph.batch, side, side, 3), 255, np.uint8)
    try:
        shape = graph(blank).shape
    except ConfigError:
        raise
    except Exception as error:  # torch and ONNX Runtime raise what the graph leads to
        reason = str(error).strip().splitlines()
        raise ConfigError(
            f"the model {path.name} cannot take patches of {card.size or side} px: {type(error).__name__}: "
            f"{(reason or [''])[-1][:300]}",
            code="bad_model",
            remedy="check patch and size in its card",
        ) from error
    rest = {"classification": (count,), "segmentation": (count, side, side), "embedding": shape[1:2]}[card.task]
    if shape != (graph.batch, *rest):
        counted = f"{shape[1]} classes" if len(shape) == len(rest) + 1 and len(shape) > 1 else f"an array {shape}"
        wanted = {
            "classification": f"{count} labels: an array ({graph.batch}, {count})",
            "segmentation": f"{count} labels: an array {(graph.batch, *rest)}",
            "embedding": f"features: an array ({graph.batch}, D)",
        }[card.task]
        raise ConfigError(
            f"the model {path.name} gives {counted} (shape {shape} for {graph.batch} patches), and its card says "
            f"{card.task} with {wanted}",
            code="bad_model",
            remedy="correct task and labels in the card, or take the model that the card is of",
        )
    return tuple(shape)
