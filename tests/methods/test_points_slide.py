"""T5, end to end: a tenth of the nuclei clicked in QuPath, training, and all nuclei of a pyramid."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from tests.methods import planted_points as planted  # noqa: E402
from tests.methods.pages import run_commands  # noqa: E402
from tests.methods.test_points import MPP, settings  # noqa: E402
from tests.methods.test_points_page import write_field  # noqa: E402
from tests.planted import write_pyramid  # noqa: E402
from wsikit.geometry import Region  # noqa: E402
from wsikit.methods.points import Config, build_model, train  # noqa: E402
from wsikit.methods.points.config import Detector, Segmenter  # noqa: E402
from wsikit.methods.points.evaluate import mask_scores  # noqa: E402
from wsikit.methods.points.packing import pack  # noqa: E402
from wsikit.methods.points.train import Training  # noqa: E402
from wsikit.outlines import pixels  # noqa: E402
from wsikit.training.recipe import Recipe  # noqa: E402

SIDE = 448


def short(epochs: int) -> Recipe:
    return Recipe(epochs=epochs, batch_size=4, learning_rate=4e-3, threads=1)


def config_of(folder: Path, seed: int) -> Config:
    """Of fields of which one nucleus in ten is clicked."""
    data = folder / "IMAGES"
    data.mkdir()
    for number in range(14):
        one = planted.scene((seed, number), side=192, nuclei=80, discs=15, fibres=10)
        clicked = planted.annotated(one.points, 0.1, np.random.default_rng((seed, number, 7)))
        write_field(data, f"{number:02d}.png", one, clicked)
    changed = {
        "radius_um": planted.RADIUS * MPP,
        "test_share": 0.0,
        "detector": Detector(rounds=2, recipe=short(10), again=short(4)),
        "segmenter": Segmenter(labels="cluster", recipe=short(8)),
        "seed": seed,
    }
    return settings(data, epochs=1).model_copy(update=changed)


def found_on_slide(checkpoint: Path, slide: Path, folder: Path) -> list[shapely.Polygon]:
    """Outlines in the GeoJSON of ``wsikit run``, level-0 px."""
    run_commands([f"wsikit run -m points:{checkpoint} -i {slide} -o {folder}"], folder.parent, lambda _: None)
    with gzip.open(folder / slide.stem / "objects.geojson.gz") as file:
        return [shapely.geometry.shape(one["geometry"]) for one in json.load(file)["features"]]


def painted(shapes: list[shapely.Polygon]) -> NDArray[np.int64]:
    rows, columns, owner = pixels(np.array(shapes), Region(0, 0, SIDE, SIDE, MPP))
    labels = np.zeros((SIDE, SIDE), np.int64)
    labels[rows, columns] = owner + 1
    return labels


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_one_point_in_ten_finds_the_nuclei_of_a_slide(seed: int, tmp_path: Path) -> None:
    config = config_of(tmp_path, seed)
    # 4 x 4 windows, so that nuclei lie on seams
    slide = planted.scene((seed, 50), side=SIDE, nuclei=430, discs=80, fibres=55)
    path = write_pyramid(tmp_path / "slide.tif", slide.image, mpp=MPP)
    shapes = found_on_slide(train(config, tmp_path / "all"), path, tmp_path / "out")
    assert len(shapes) == pytest.approx(len(slide.points), rel=0.1)

    tree = shapely.STRtree(shapes)
    first, second = tree.query(shapes, predicate="intersects")
    pairs = [(shapes[a], shapes[b]) for a, b in zip(first, second, strict=True) if a < b]
    # two windows may draw the edge between neighbours a little differently, and each owns one of them
    assert all(one.intersection(other).area < 0.05 * min(one.area, other.area) for one, other in pairs)

    torch.manual_seed(seed)
    partial = Training(config, tmp_path / "partial", build_model(config), None)
    fitted = partial.segment({image.name: image.points for image in partial.data})
    fewer = found_on_slide(pack(partial, fitted, {}), path, tmp_path / "fewer")
    aji = [mask_scores(slide.labels, painted(found))["aji"].value for found in (shapes, fewer)]
    assert aji[0] > 0.6
    assert aji[0] > aji[1] + 0.05
