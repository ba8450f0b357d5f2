"""Attention back on the slide."""

from __future__ import annotations

import numpy as np
import pytest

from tests.planted import scene
from wsikit.errors import PredictionError
from wsikit.geometry import Region
from wsikit.predictions import BagScore
from wsikit.stitching.bags import attention_tiles

REGIONS = (Region(0, 0, 64, 64, 1.0), Region(64, 0, 64, 64, 1.0))


def test_tiles_lie_where_the_instances_were_in_level_0_pixels() -> None:
    score = BagScore(REGIONS, np.array([0.2, 0.8]), np.array([0.1, 0.9]))
    tiles = attention_tiles(score, scene(512, 512, []))
    assert [shape.bounds for shape in tiles.geometries] == [(0, 0, 128, 128), (128, 0, 256, 128)]
    assert tiles.kind == "tile"
    assert list(tiles.measurements["Attention"]) == [0.1, 0.9]


@pytest.mark.parametrize("attention", [[0.1], [0.1, np.nan], [0.1, -1.0]])
def test_attention_that_is_no_weight_per_region_is_refused(attention: list[float]) -> None:
    score = BagScore(REGIONS, np.array([1.0]), np.array(attention))
    with pytest.raises(PredictionError, match="one per region"):
        attention_tiles(score, scene(512, 512, []))
