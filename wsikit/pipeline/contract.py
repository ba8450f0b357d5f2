"""What models promise, held against what they give: a plug-in may do anything, and the error must say whose it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import PredictionError, WsikitError
from wsikit.predictions import (
    Bag,
    BagPredictor,
    BagScore,
    Batch,
    Encoder,
    Model,
    Objects,
    Points,
    Prediction,
    Predictor,
    density_cell,
)


def checked_features(encoder: Encoder, batch: Batch) -> NDArray[np.float32]:
    """Embed a batch and hold the encoder to its contract.

    Raises PredictionError (code bad_predictions, or predictor_error where the encoder itself raised).
    """
    with _blaming(encoder, _place(batch)):
        features = np.asarray(encoder.embed(batch), np.float32)
    want = (len(batch), encoder.width)
    if features.shape != want:
        raise PredictionError(f"{encoder.name!r} gave features of shape {features.shape}, {want} is what it promised")
    if not np.isfinite(features).all():
        raise PredictionError(f"{encoder.name!r} gave features that hold NaN or infinity ({_place(batch)})")
    return features


def _place(batch: Batch) -> str:
    first = batch.regions[0]
    return f"batch of {len(batch)} from x={first.x}, y={first.y} at {first.mpp:.4g} um/px"


@contextmanager
def _blaming(model: Model, where: str) -> Iterator[None]:
    """Say whose error it was: a plug-in may raise anything."""
    try:
        yield
    except WsikitError:
        raise
    except Exception as error:
        raise PredictionError(
            f"the predictor {model.name!r} raised {type(error).__name__}: {error} ({where})",
            code="predictor_error",
        ) from error


def checked_predictions(predictor: Predictor, batch: Batch) -> Sequence[Prediction]:
    """Predict a batch and hold the predictor to its contract.

    Raises PredictionError (code bad_predictions, or predictor_error where the predictor itself raised).
    """
    where = _place(batch)
    with _blaming(predictor, where):
        predictions = list(predictor.predict(batch))
    if len(predictions) != len(batch):
        raise PredictionError(f"{predictor.name!r} gave {len(predictions)} predictions for a {where}")
    for prediction, region in zip(predictions, batch.regions, strict=True):
        if not isinstance(prediction, predictor.produces):
            raise PredictionError(
                f"{predictor.name!r} says it produces {predictor.produces.__name__} and gave "
                f"{type(prediction).__name__} ({where})"
            )
        if prediction.region != region:
            raise PredictionError(f"{predictor.name!r} gave a prediction for {prediction.region}, asked for {region}")
        prediction.check(len(predictor.labels))
        _check_density(predictor, prediction)
    return predictions


def _check_density(predictor: Predictor, prediction: Prediction) -> None:
    """Sinks were told whether there is density, and how large its cells are."""
    given, told = 0, density_cell(predictor)
    if isinstance(prediction, Objects | Points) and prediction.density is not None:
        given = prediction.region.width // prediction.density.shape[1]
    if given != told:
        raise PredictionError(
            f"{predictor.name!r} says that its density_cell is {told} px (0: no density) and gave "
            + (f"cells of {given} px" if given else "a prediction without density")
        )


def checked_score(model: BagPredictor, bag: Bag) -> BagScore:
    """Score a bag and hold the model to its contract.

    Raises PredictionError (code bad_predictions, or predictor_error where the model itself raised).
    """
    with _blaming(model, f"bag of {len(bag)} instances"):
        score = model.score(bag)
    if not isinstance(score, BagScore):
        raise PredictionError(f"{model.name!r} gave a {type(score).__name__} for a bag, BagScore is needed")
    if score.regions != bag.regions:
        raise PredictionError(f"{model.name!r} gave a score whose regions are not the bag's, in the bag's order")
    score.check(len(model.labels))
    return score
