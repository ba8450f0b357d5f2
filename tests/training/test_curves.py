"""The picture of a training."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wsikit.training.curves import draw_curves

BLUE, ORANGE = (0, 114, 178), (213, 94, 0)
ROWS = [
    {
        "epoch": epoch,
        "learning_rate": 1e-3,
        "train_loss": 4 / epoch,
        "validation_loss": 5 / epoch,
        "validation_mae": abs(epoch - 12) / 4,
    }
    for epoch in range(1, 21)
]


def pixels(**changes: Any) -> Any:
    blob = draw_curves(**({"rows": ROWS, "monitor": "mae", "best": 12, "title": "counter"} | changes))
    with Image.open(io.BytesIO(blob)) as picture:
        return np.asarray(picture.convert("RGB"))


def of(color: tuple[int, int, int], picture: Any) -> Any:
    return (picture == color).all(axis=2)


def test_training_and_validation_have_the_colours_of_the_palette() -> None:
    picture = pixels()
    half = len(picture) // 2
    assert of(BLUE, picture[:half]).sum() > 100
    assert of(ORANGE, picture[:half]).sum() > 100
    assert of(ORANGE, picture[half:]).sum() > 100
    assert not of(BLUE, picture[half:]).any()


def test_the_best_epoch_stands_where_the_metric_is_lowest() -> None:
    with_line, without = pixels(), pixels(best=0)
    # all that is orange below lies on the curve of the metric; its lowest point is zero, at epoch 12
    lower = of(ORANGE, with_line[len(with_line) // 2 :])
    rows, columns = np.nonzero(lower[:, :600])
    lowest = columns[rows == rows.max()].mean()
    grey = np.nonzero((with_line != without).any(axis=2).sum(axis=0) > 100)[0]
    assert abs(np.median(grey) - lowest) < 6


@pytest.mark.parametrize("count", [0, 1])
def test_few_epochs_can_be_drawn(count: int) -> None:
    assert pixels(rows=ROWS[:count], best=count).std() > 0


def test_a_monitored_loss_is_drawn_once() -> None:
    picture = pixels(monitor="loss")
    assert of(ORANGE, picture).any()


def test_a_metric_that_is_no_number_leaves_a_gap() -> None:
    rows = [{**row, "validation_mae": float("nan")} for row in ROWS]
    picture = pixels(rows=rows)
    # what is orange below is the legend's
    assert of(ORANGE, picture[len(picture) // 2 :]).sum() < 200


def test_drawing_needs_no_display_and_sets_no_backend() -> None:
    code = (
        "import sys; from wsikit.training.curves import draw_curves;"
        "assert 'matplotlib' not in sys.modules;"
        "draw_curves([{'epoch': 1, 'train_loss': 1.0}], monitor='loss', best=1, title='x');"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
