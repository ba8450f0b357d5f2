"""Any model, seeing slides in the colours of a reference.

A slide's own profile is fitted once, in ``prepare``, from a fixed sample of its tissue. From then on colours change
pixel by pixel, the same way all over the slide: patches that overlap agree, and nothing depends on how it is cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Self, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import PredictionError, StainError
from wsikit.geometry import Region, TileSpec
from wsikit.predictions import (
    AreaSpec,
    Bag,
    BagPredictor,
    BagScore,
    Batch,
    Encoder,
    Label,
    Model,
    Prediction,
    Predictor,
    area_spec,
    density_cell,
)
from wsikit.predictors.files import code_of
from wsikit.predictors.sampling import tissue_pixels
from wsikit.slides import PartialRead, Slide
from wsikit.stain import StainProfile
from wsikit.stain.reference import StainTarget
from wsikit.tissue import TissueMask

M = TypeVar("M", bound=Model)
E = TypeVar("E", bound=Encoder)


def normalised(model: Model, target: StainTarget) -> Model:
    """A model of the same kind that sees every slide in the colours of ``target``.

    A slide whose profile cannot be fitted (hardly any tissue, one stain, other stains) is seen as it is, and ``bound``
    then has a warning that says why.
    """
    if isinstance(model, Predictor):
        return cast(Predictor, NormalisedPredictor(model, target))
    if isinstance(model, BagPredictor):
        return cast(BagPredictor, NormalisedBagPredictor(model, target))
    return cast(Encoder, NormalisedEncoder(model, target))


class NormalisedSlide(Slide):
    """A slide in the colours of another profile; what is unreadable stays listed. Shares the reader of the original."""

    def __init__(self, slide: Slide, source: StainProfile, target: StainProfile) -> None:
        super().__init__(slide.reader, slide.mpp_override)
        self._bad = slide._bad
        self._original, self._source, self._target = slide, source, target

    def __reduce__(self) -> tuple[Any, ...]:
        return NormalisedSlide, (self._original, self._source, self._target)

    def read_partial(self, region: Region) -> PartialRead:
        """See ``Slide.read_partial``."""
        part = super().read_partial(region)
        return PartialRead(self._target.transform(part.pixels, self._source), part.bad)


@dataclass(frozen=True)
class _Normalised(Generic[M]):
    """What the wrappers of the three kinds of model share."""

    model: M
    """The model that sees normalised pixels; bound to a slide once this is."""
    target: StainTarget
    source: StainProfile | None = None
    """The slide's own profile; set by ``prepare`` where one can be fitted."""
    warning: str = ""
    """Why the slide is seen as it is."""

    @property
    def name(self) -> str:
        """The model's own."""
        return self.model.name

    @property
    def tile(self) -> TileSpec:
        """The model's own."""
        return self.model.tile

    @property
    def labels(self) -> tuple[Label, ...]:
        """The model's own."""
        return self.model.labels

    @property
    def batch(self) -> int | None:
        """Patches in a pass of the model, where it is a network."""
        return getattr(self.model, "batch", None)

    @property
    def identity(self) -> Mapping[str, Any]:
        """The model's class and identity, and the target."""
        model = {"class": code_of(type(self.model)), "identity": dict(self.model.identity)}
        return {"model": model, "stain": self.target.identity}

    @property
    def bound(self) -> Mapping[str, Any]:
        """Under "stain" the slide's profile and what it was matched to; "warnings"; and what the model has bound."""
        if not self._prepared:
            return {}
        inner = dict(self.model.bound)
        warnings = [text for text in (self.warning, *inner.pop("warnings", ())) if text]
        profile = self.source.to_json() if self.source else None
        stain = {"method": self.target.profile.method, "reference": self.target.reference, "profile": profile}
        return {"stain": stain, **inner} | ({"warnings": warnings} if warnings else {})

    @property
    def _prepared(self) -> bool:
        return self.source is not None or bool(self.warning)

    def prepare(self, slide: Slide, tissue: TissueMask) -> Self:
        """Fit the slide's profile, and prepare the model on what it is going to see."""
        try:
            source = type(self.target.profile).fit(_tissue(slide, tissue, self.tile.mpp))
        except StainError as error:
            warning = f"stains are not normalised: {error}"
            return replace(self, model=cast(M, self.model.prepare(slide, tissue)), source=None, warning=warning)
        view = NormalisedSlide(slide, source, self.target.profile)
        return replace(self, model=cast(M, self.model.prepare(view, tissue)), source=source, warning="")

    def _seen(self, batch: Batch) -> Batch:
        """A batch as the model is to see it. Raises PredictionError before ``prepare``."""
        if not self._prepared:
            raise PredictionError(f"{self.name} has no stain profile yet: call prepare(slide, tissue), use its result")
        if self.source is None:
            return batch
        return Batch(self.target.profile.transform(batch.images, self.source), batch.regions)


def _tissue(slide: Slide, tissue: TissueMask, mpp: float) -> NDArray[np.uint8]:
    """(N, 3) pixels of the fixed sample."""
    parts = [pixels[inside] for pixels, inside in tissue_pixels(slide, tissue, slide.resolve(mpp))]
    return np.concatenate([np.empty((0, 3), np.uint8), *parts])


@dataclass(frozen=True)
class NormalisedPredictor(_Normalised[Predictor]):
    """A ``Predictor`` over normalised pixels."""

    @property
    def produces(self) -> type[Prediction]:
        """The model's own."""
        return self.model.produces

    @property
    def areas(self) -> AreaSpec | None:
        """The model's own."""
        return area_spec(self.model)

    @property
    def density_cell(self) -> int:
        """The model's own."""
        return density_cell(self.model)

    def predict(self, batch: Batch) -> Sequence[Prediction]:
        """See ``Predictor.predict``."""
        return self.model.predict(self._seen(batch))


@dataclass(frozen=True)
class NormalisedEncoder(_Normalised[E]):
    """An ``Encoder`` over normalised pixels."""

    @property
    def width(self) -> int:
        """The model's own."""
        return self.model.width

    def embed(self, batch: Batch) -> NDArray[np.float32]:
        """See ``Encoder.embed``."""
        return self.model.embed(self._seen(batch))


@dataclass(frozen=True)
class NormalisedBagPredictor(NormalisedEncoder[BagPredictor]):
    """A ``BagPredictor`` whose instances are embedded from normalised pixels."""

    def score(self, bag: Bag) -> BagScore:
        """See ``BagPredictor.score``."""
        return self.model.score(bag)
