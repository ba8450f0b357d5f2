"""Models against annotated images: planted scenes whose figures are known, every kind of truth, and what goes wrong."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray
from PIL import Image

from tests.planted import INK, PAPER, BlobPredictor, Box, Planted, PointPredictor
from wsikit.annotations import write_annotations
from wsikit.annotations.annotations import Item, gather
from wsikit.errors import AnnotationError, ConfigError
from wsikit.pipeline.evaluate import Evaluation, ImageResult, Settings, evaluate
from wsikit.pipeline.run import run
from wsikit.predictions import Batch, Label, ScoreMap
from wsikit.predictors import load_predictor
from wsikit.sinks.geojson import GeoJSONSink
from wsikit.slides import open_slide

HALF = Settings(mpp_override=0.5)


def boxes_image(size: tuple[int, int], boxes: Sequence[Box]) -> NDArray[np.uint8]:
    """(height, width, 3) dark boxes (x, y, width, height) on paper."""
    pixels = np.full((size[1], size[0], 3), PAPER, np.uint8)
    for x, y, w, h in boxes:
        pixels[y : y + h, x : x + w] = INK
    return pixels


def boxes_labels(size: tuple[int, int], boxes: Sequence[Box], first: int = 1) -> NDArray[np.uint16]:
    labels = np.zeros((size[1], size[0]), np.uint16)
    for k, (x, y, w, h) in enumerate(boxes, first):
        labels[y : y + h, x : x + w] = k
    return labels


def plant(
    folder: Path, name: str, seen: Sequence[Box], true: Sequence[Box] | None = None, size: tuple[int, int] = (200, 150)
) -> Path:
    """An image with ``seen`` boxes, whose truth (instance labels) is ``true``, by default the same."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(boxes_image(size, seen)).save(folder / f"{name}.png")
    Image.fromarray(boxes_labels(size, seen if true is None else true)).save(folder / f"{name}_labels.png")
    return folder / f"{name}.png"


def grid(columns: int, rows: int, side: int = 8, step: int = 24) -> list[Box]:
    return [(10 + step * i, 10 + step * j, side, side) for j in range(rows) for i in range(columns)]


def pooled(evaluation: Evaluation) -> dict[str, float]:
    return {name: summary.pooled for name, summary in evaluation.metrics().items()}


def only(evaluation: Evaluation) -> ImageResult:
    (image,) = evaluation.images
    return image


PERFECT = ("object_f1", "pq", "dq", "sq", "aji", "aji_plus", "dice", "dice2", "detection_f1")


def test_what_is_found_exactly_is_perfect(tmp_path: Path) -> None:
    # the cores of 64 px cut through the boxes
    plant(tmp_path, "a", grid(7, 5))
    figures = pooled(evaluate(BlobPredictor(), tmp_path, settings=HALF))
    assert {name: figures[name] for name in PERFECT} == dict.fromkeys(PERFECT, 1.0)
    assert (figures["count_mae"], figures["localisation_um"]) == (0, 0)


def test_a_model_of_another_resolution_is_compared_at_level_0(tmp_path: Path) -> None:
    # corners are even, so that the boxes are whole pixels of both lattices. Outlines cut the corners of pixels: of the
    # 64 px of level 0 two are lost
    plant(tmp_path, "a", grid(7, 5))
    figures = pooled(evaluate(BlobPredictor(mpp=1.0), tmp_path, settings=HALF))
    assert figures["object_f1"] == figures["detection_f1"] == 1
    assert figures["aji"] == 62 / 64
    assert figures["localisation_um"] < 0.1


def test_figures_of_a_planted_scene_are_those_computed_by_hand(tmp_path: Path) -> None:
    # 12 boxes are seen; 9 of them are true, and 4 more are true that are not seen: TP 9, FP 3, FN 4
    cells = grid(8, 2)
    plant(tmp_path, "a", cells[:12], cells[:9] + cells[12:])
    image = only(evaluate(BlobPredictor(), tmp_path, settings=HALF))
    assert image.values["object_f1"] == image.values["detection_f1"] == 18 / 25
    assert image.values["object_precision"] == image.values["detection_precision"] == 9 / 12
    assert image.values["object_recall"] == image.values["detection_recall"] == 9 / 13
    assert image.values["aji"] == image.values["aji_plus"] == 9 / 16
    assert image.values["pq"] == 18 / 25
    assert image.values["count_mae"] == 1
    assert image.comparison is not None
    assert image.comparison.counts == (13, 12)
    assert image.comparison.trivial.values()["object_f1"] == 0
    # calling all 200 x 150 px foreground: 2 * 13 * 64 / (13 * 64 + 30000)
    assert image.comparison.trivial.values()["dice"] == pytest.approx(2 * 832 / 30832)


def test_a_shift_lowers_the_overlap_and_not_the_detection(tmp_path: Path) -> None:
    # 8 x 8 px boxes drawn 2 px to the right: 48 px shared of 80; detections 1 um off
    plant(tmp_path, "a", grid(6, 4), [(x + 2, y, w, h) for x, y, w, h in grid(6, 4)])
    values = only(evaluate(BlobPredictor(), tmp_path, settings=HALF)).values
    assert values["sq"] == pytest.approx(48 / 80)
    assert values["aji"] == pytest.approx(48 / 80)
    assert values["localisation_um"] == pytest.approx(1.0)
    assert values["detection_f1"] == 1
    assert only(evaluate(BlobPredictor(), tmp_path, settings=replace(HALF, radius_um=0.9))).values["detection_f1"] == 0


def test_a_wider_image_is_compared_in_its_own_frame(tmp_path: Path) -> None:
    # the boxes are not square and lie off the diagonal: x taken for y would miss them all
    boxes = [(260, 20, 14, 6), (150, 40, 20, 5), (230, 60, 6, 12)]
    plant(tmp_path, "a", boxes, size=(300, 80))
    assert only(evaluate(BlobPredictor(), tmp_path, settings=HALF)).values["aji"] == 1


def test_pooled_figures_weigh_objects_and_means_weigh_images(tmp_path: Path) -> None:
    cells = grid(8, 5)
    plant(tmp_path, "many", cells, cells)  # 40 of 40
    plant(tmp_path, "few", cells[:1], cells[:3])  # 1 found of 3 true: F1 = 2 / 4
    summary = evaluate(BlobPredictor(), tmp_path, settings=HALF).metrics()
    f1 = summary["object_f1"]
    assert f1.pooled == 2 * 41 / (41 + 43)
    assert (f1.mean, f1.median, f1.std, f1.minimum, f1.maximum, f1.images) == (0.75, 0.75, 0.25, 0.5, 1.0, 2)
    # true counts 40 and 3: their mean is 21.5 and a constant 18.5 off; found is 0 and 2 off
    assert (summary["count_mae"].pooled, summary["count_mae"].trivial) == (1.0, 18.5)
    assert (f1.trivial, f1.trivial_model) == (0, "finds nothing")


def test_kappa_is_of_the_bins_of_all_images(tmp_path: Path) -> None:
    cells = grid(8, 5)
    for k, (seen, true) in enumerate([(2, 2), (10, 10), (20, 20), (1, 40)]):
        plant(tmp_path, f"{k}", cells[:seen], cells[:true])
    evaluation = evaluate(BlobPredictor(), tmp_path, settings=HALF)
    # true 2 10 20 40 have the quartiles 8, 15, 25: bins 0 1 2 3, found 0 1 2 0. Observed cost: 9.
    # By chance: true 1 each, found (2, 1, 1, 0) / 4: (0+1+4+9) * 2 + (1+0+1+4) + (4+1+0+1) = 40, over 4: 10
    assert evaluation.count_edges == (8, 15, 25)
    assert evaluation.metrics()["count_kappa"].pooled == pytest.approx(1 - 9 / 10)


@pytest.mark.parametrize("seen", [0, 4])
@pytest.mark.parametrize("true", [0, 4])
def test_empty_images_have_the_figures_of_empty_images(tmp_path: Path, seen: int, true: int) -> None:
    plant(tmp_path, "a", grid(4, 1)[:seen], grid(4, 1)[:true])
    values = only(evaluate(BlobPredictor(), tmp_path, settings=HALF)).values
    assert {values[name] for name in PERFECT if name != "sq"} == {1.0 if seen == true else 0.0}
    assert values["count_mae"] == abs(seen - true)


def aperio(path: Path, boxes: Sequence[Box]) -> None:
    """Outlines as ImageScope writes them."""
    regions = "".join(
        '<Region Id="{}" Type="0"><Vertices>{}</Vertices></Region>'.format(
            k, "".join(f'<Vertex X="{a}" Y="{b}"/>' for a, b in ((x, y), (x + w, y), (x + w, y + h), (x, y + h)))
        )
        for k, (x, y, w, h) in enumerate(boxes, 1)
    )
    path.write_text(f'<Annotations><Annotation Id="1"><Regions>{regions}</Regions></Annotation></Annotations>')


def qupath(path: Path, boxes: Sequence[Box], names: Sequence[str | None] = (), kind: str = "detection") -> None:
    """Outlines as QuPath writes them."""
    features = []
    for k, (x, y, w, h) in enumerate(boxes):
        properties: dict[str, Any] = {"objectType": kind}
        if names and names[k]:
            properties["classification"] = {"name": names[k], "color": [1, 2, 3]}
        geometry = shapely.geometry.mapping(shapely.box(x, y, x + w, y + h))
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


@pytest.mark.parametrize("suffix", [".xml", ".geojson", ".json"])
def test_outlines_give_the_same_figures_as_labels(tmp_path: Path, suffix: str) -> None:
    cells = grid(8, 3)
    true = [(x + 1, y, w, h) for x, y, w, h in cells[3:]]
    path = plant(tmp_path, "a", cells[:20], true)
    of_labels = only(evaluate(BlobPredictor(), tmp_path, settings=HALF)).values
    path.with_name("a_labels.png").unlink()
    (aperio if suffix == ".xml" else qupath)(path.with_suffix(suffix), true)
    assert only(evaluate(BlobPredictor(), tmp_path, settings=HALF)).values == pytest.approx(of_labels)


def test_what_a_run_has_written_is_truth_that_the_same_model_meets(cmu: Path, tmp_path: Path) -> None:
    with open_slide(cmu) as slide:
        picture = slide.read(replace(slide.plane(slide.mpp), x=500, y=1500, width=400, height=300))
    Image.fromarray(picture).save(tmp_path / "tile.png")
    with open_slide(tmp_path / "tile.png", 0.499) as slide:
        run(slide, load_predictor("nuclei-classical"), GeoJSONSink(tmp_path / "tile.geojson.gz"))
    values = only(
        evaluate(load_predictor("nuclei-classical"), tmp_path / "tile.png", settings=Settings(mpp_override=0.499))
    ).values
    assert values["object_f1"] == values["detection_f1"] == 1
    # outlines are simplified, and neighbours may overlap by a pixel
    assert values["aji"] > 0.98


def test_detections_are_the_objects_where_areas_are_drawn_as_well(tmp_path: Path) -> None:
    path = plant(tmp_path, "a", grid(4, 2))
    path.with_name("a_labels.png").unlink()
    qupath(tmp_path / "a.geojson", grid(4, 2))
    both = json.loads((tmp_path / "a.geojson").read_text())
    qupath(tmp_path / "a.geojson", [(0, 0, 150, 100)], ["Tumor"], kind="annotation")
    both["features"] += json.loads((tmp_path / "a.geojson").read_text())["features"]
    (tmp_path / "a.geojson").write_text(json.dumps(both))
    assert only(evaluate(BlobPredictor(), tmp_path, settings=HALF)).values["object_f1"] == 1


def drawn(path: Path, *items: Item) -> None:
    """The truth of an image as GeoJSON, in place of its labels."""
    path.with_name(f"{path.stem}_labels.png").unlink(missing_ok=True)
    write_annotations(path.with_suffix(".geojson"), gather(items))


def box(x: float, y: float, w: float, h: float, margin: float = 0) -> shapely.Polygon:
    return shapely.box(x - margin, y - margin, x + w + margin, y + h + margin)


def clicks(boxes: Sequence[Box], label: str | None = None) -> list[Item]:
    return [Item("annotation", shapely.Point(x + w / 2, y + h / 2), label) for x, y, w, h in boxes]


def test_a_cell_counts_by_its_nucleus(tmp_path: Path) -> None:
    """Boundaries are the nuclei, 5 px wider: hardly a quarter of a boundary is nucleus."""
    path = plant(tmp_path, "a", grid(4, 2))
    cells = [Item("cell", box(*one, margin=5), "Blob", nucleus=box(*one)) for one in grid(4, 2)]
    drawn(path, *cells)
    evaluation = evaluate(BlobPredictor(), tmp_path, settings=HALF)
    figures = pooled(evaluation)
    assert {name: figures[name] for name in (*PERFECT, "iou[Blob]")} == dict.fromkeys((*PERFECT, "iou[Blob]"), 1.0)
    assert evaluation.notes == ["8 x cells: their nucleus is taken, not their boundary (in a)"]
    drawn(path, *cells[1:], replace(cells[0], nucleus=None))
    evaluation = evaluate(BlobPredictor(), tmp_path, settings=HALF)
    assert pooled(evaluation)["object_f1"] == 7 / 8
    assert evaluation.notes[1] == "1 x cells without a nucleus: their boundary is taken (in a)"


def test_areas_beside_points_are_no_objects(tmp_path: Path) -> None:
    path = plant(tmp_path, "a", grid(4, 2))
    field = Item("annotation", shapely.box(0, 0, 150, 100), "Blob")
    drawn(path, field, *clicks(grid(4, 2), "Other"))
    evaluation = evaluate(BlobPredictor(), tmp_path, settings=HALF, out=tmp_path / "out")
    image = only(evaluation)
    assert image.values["detection_f1"] == 1
    assert image.comparison is not None
    assert image.comparison.counts == (8, 8)
    assert set(image.missing) == {"object F1, PQ, AJI and Dice", "IoU of classes"}
    said = "areas beside points: not taken for objects"
    assert evaluation.notes == [f"1 x {said} (in a)"]
    assert json.loads((tmp_path / "out" / "metrics.json").read_text("utf-8"))["notes"] == evaluation.notes
    with (tmp_path / "out" / "metrics.csv").open(encoding="utf-8", newline="") as file:
        assert [row["notes"] for row in csv.DictReader(file)] == [f"1 x {said}"]
    # dots are drawn, not the field
    assert image.example is not None
    assert {shape.geom_type for shape in image.example.truth} == {"Point"}


def test_what_else_is_no_object_is_said(tmp_path: Path) -> None:
    path = plant(tmp_path, "a", grid(4, 2))
    objects = [Item("detection", box(*one)) for one in grid(4, 2)]
    drawn(path, *objects, *clicks(grid(2, 1)), Item("detection", shapely.Point(3, 3)))
    evaluation = evaluate(BlobPredictor(), tmp_path, settings=HALF)
    assert pooled(evaluation)["object_f1"] == 1
    assert evaluation.notes == [
        "2 x objects that are no detections or cells: not taken for objects (in a)",
        "1 x points beside areas: not taken for objects (in a)",
    ]


def test_a_stray_click_beside_regions_of_imagescope_is_said_and_left_out(tmp_path: Path) -> None:
    path = plant(tmp_path, "a", grid(4, 2))
    path.with_name("a_labels.png").unlink()
    items = [Item("annotation", box(*one)) for one in grid(4, 2)]
    write_annotations(tmp_path / "a.xml", gather([*items, *clicks(grid(1, 1))]), format="aperio")
    evaluation = evaluate(BlobPredictor(), tmp_path, settings=HALF)
    assert pooled(evaluation)["object_f1"] == 1
    assert evaluation.notes == ["1 x points beside areas: not taken for objects (in a)"]


def test_points_against_points_and_against_outlines(tmp_path: Path) -> None:
    cells = grid(8, 3)
    path = plant(tmp_path, "a", cells[:20], cells[4:])
    against_labels = only(evaluate(PointPredictor(), tmp_path, settings=HALF))
    assert against_labels.values["detection_f1"] == 2 * 16 / (20 + 20)
    assert set(against_labels.missing) == {"object F1, PQ, AJI and Dice", "IoU of classes"}
    path.with_name("a_labels.png").unlink()
    rows = "".join(f"{x + w / 2},{y + h / 2}\n" for x, y, w, h in cells[4:])
    (tmp_path / "a_points.csv").write_text(f"x,y\n{rows}")
    assert only(evaluate(PointPredictor(), tmp_path, settings=HALF)).values == pytest.approx(against_labels.values)
    assert only(evaluate(BlobPredictor(), tmp_path, settings=HALF)).values["detection_f1"] == 2 * 16 / 40


def test_classes_that_both_sides_know_are_counted_apart(tmp_path: Path) -> None:
    # an odd number of pixels makes the planted model say Other (label 1), an even one Blob
    odd, even = [(10 + 20 * k, 10, 9, 9) for k in range(6)], [(10 + 20 * k, 60, 8, 8) for k in range(6)]
    path = plant(tmp_path, "a", odd + even)
    path.with_name("a_labels.png").unlink()
    # two of the odd ones are truly Blob, and one of the even ones is Other
    qupath(tmp_path / "a.geojson", odd + even, ["Blob"] * 2 + ["Other"] * 5 + ["Blob"] * 5)
    values = only(evaluate(BlobPredictor(), tmp_path, settings=HALF)).values
    assert values["detection_f1"] == 1
    # Blob: 5 right of 7 true and 6 found; Other: 4 right of 5 true and 6 found
    assert values["detection_f1[Blob]"] == 10 / 13
    assert values["detection_f1[Other]"] == 8 / 11
    # pixels: Blob true 2 * 81 + 5 * 64, found 6 * 64, right 5 * 64
    assert values["iou[Blob]"] == pytest.approx(320 / (162 + 320 + 384 - 320))


def test_what_is_found_of_a_class_counts_in_images_without_it(tmp_path: Path) -> None:
    """An image of both classes, one of Blob alone, one of nothing, and one whose objects have no class."""
    odd, even = [(10 + 20 * k, 10, 9, 9) for k in range(6)], [(10 + 20 * k, 60, 8, 8) for k in range(6)]
    drawn = {"a": (odd + even, ["Other"] * 6 + ["Blob"] * 6), "b": (even, ["Blob"] * 6), "c": ([], []), "d": (odd, [])}
    for name, (cells, classes) in drawn.items():
        plant(tmp_path, name, odd + even).with_name(f"{name}_labels.png").unlink()
        qupath(tmp_path / f"{name}.geojson", cells, classes)
    result = evaluate(BlobPredictor(), tmp_path, settings=HALF)
    found = result.metrics()
    # Other: 6 right of 6 true; 6 found in each of a, b, c
    assert found["detection_f1[Other]"].pooled == 12 / (6 + 18)
    assert found["detection_f1[Other]"].images == 3
    assert found["detection_f1[Blob]"].pooled == 24 / (12 + 18)
    assert not any("[" in name for name in result.images[3].values if name.startswith("detection"))


def test_one_class_alone_is_not_counted_apart(tmp_path: Path) -> None:
    cells = [(10 + 20 * k, 60, 8, 8) for k in range(6)]
    plant(tmp_path, "a", cells).with_name("a_labels.png").unlink()
    qupath(tmp_path / "a.geojson", cells, ["Blob"] * 6)
    assert not any(name.startswith("detection_f1[") for name in only(evaluate(BlobPredictor(), tmp_path)).values)


@dataclass(frozen=True)
class DarkPredictor(Planted):
    """Every pixel is dark or not."""

    names: tuple[str, str] = ("Dark", "Pale")
    pale_is_background: bool = True
    produces: ClassVar[type[ScoreMap]] = ScoreMap

    @property
    def labels(self) -> tuple[Label, ...]:  # type: ignore[override]
        return Label(self.names[0], (0, 0, 0)), Label(self.names[1], (200, 200, 200), self.pale_is_background)

    def predict(self, batch: Batch) -> list[ScoreMap]:
        dark = (batch.images[..., 0] < 128).astype(np.float32)
        scores = np.stack([dark, 1 - dark], axis=-1)
        return [ScoreMap(region, values) for region, values in zip(batch.regions, scores, strict=True)]


def mask_image(tmp_path: Path, values: Mapping[int, Box], size: tuple[int, int] = (200, 150)) -> None:
    """An image of one dark box of 40 x 30 px, and a class mask in which boxes have values."""
    mask = np.zeros((size[1], size[0]), np.uint8)
    for value, (x, y, w, h) in values.items():
        mask[y : y + h, x : x + w] = value
    Image.fromarray(boxes_image(size, [(50, 60, 40, 30)])).save(tmp_path / "a.png")
    Image.fromarray(mask).save(tmp_path / "a_mask.png")


@pytest.mark.parametrize("mpp", [0.5, 1.0])
def test_score_maps_against_a_class_mask(tmp_path: Path, mpp: float) -> None:
    # true dark is 40 x 20 px of the 40 x 30 px that are dark
    mask_image(tmp_path, {1: (50, 60, 40, 20)})
    evaluation = evaluate(DarkPredictor(mpp=mpp), tmp_path, settings=HALF)
    values = only(evaluation).values
    dark, pale = 800 / 1200, (30000 - 1200) / (30000 - 800)
    assert values["iou[Dark]"] == pytest.approx(dark)
    assert values["iou[Pale]"] == pytest.approx(pale)
    assert values["miou"] == pytest.approx((dark + pale) / 2)
    assert values["fwiou"] == pytest.approx((800 * dark + 29200 * pale) / 30000)
    assert values["pixel_accuracy"] == pytest.approx(29600 / 30000)
    # always Pale: 29200 of 30000 right, no Dark
    lazy = evaluation.metrics()["miou"]
    assert (lazy.trivial, lazy.trivial_model) == (
        pytest.approx(29200 / 30000 / 2),
        "always says the commonest class (IoU, accuracy)",
    )
    for name in ("iou[Dark]", "dice[Dark]"):
        assert evaluation.metrics()[name].trivial_model == lazy.trivial_model


def test_values_of_a_mask_mean_what_they_are_said_to_mean(tmp_path: Path) -> None:
    mask_image(tmp_path, {255: (50, 60, 40, 20), 7: (50, 80, 40, 10)})
    image = only(evaluate(DarkPredictor(), tmp_path, settings=HALF))
    assert (image.status, image.reason) == ("failed", "bad_annotations")
    assert "--mask-class 7=NAME" in image.remedy
    meaning = {255: "Dark", 7: "ignore"}
    image = only(evaluate(DarkPredictor(), tmp_path, settings=replace(HALF, mask_classes=meaning)))
    assert image.values["miou"] == 1
    image = only(evaluate(DarkPredictor(), tmp_path, settings=replace(HALF, mask_classes={255: "Drak", 7: "ignore"})))
    assert "'Drak'; the classes are: ignore, nothing, Dark, Pale" in image.message


def test_a_model_without_a_background_class_leaves_nothing_as_a_class_of_its_own(tmp_path: Path) -> None:
    mask_image(tmp_path, {1: (50, 60, 40, 30)})
    values = only(evaluate(DarkPredictor(pale_is_background=False), tmp_path, settings=HALF)).values
    # everything else is Pale to the model and nothing to the truth
    assert (values["iou[Dark]"], values["iou[nothing]"], values["iou[Pale]"]) == (1, 0, 0)


class Sparse(BlobPredictor):
    """Objects of one class; the other class is background."""

    labels: ClassVar[tuple[Label, ...]] = (Label("Blob", (200, 0, 0)), Label("Other", (0, 0, 0), background=True))


def test_where_a_model_of_objects_finds_nothing_is_its_background(tmp_path: Path) -> None:
    mask_image(tmp_path, {1: (50, 60, 40, 30)})
    values = only(evaluate(Sparse(), tmp_path, settings=HALF)).values
    assert (values["iou[Blob]"], values["iou[Other]"]) == (1, 1)


def test_score_maps_against_drawn_classes(tmp_path: Path) -> None:
    mask_image(tmp_path, {})
    (tmp_path / "a_mask.png").unlink()
    qupath(tmp_path / "a.geojson", [(50, 60, 40, 20)], ["Dark"], kind="annotation")
    # nobody drew Pale: what is not drawn is background
    assert only(evaluate(DarkPredictor(), tmp_path, settings=HALF)).values["iou[Dark]"] == pytest.approx(800 / 1200)
    qupath(tmp_path / "a.geojson", [(50, 60, 40, 20), (0, 0, 40, 40)], ["Dark", "Pale"], kind="annotation")
    # Pale is drawn, so that the rest is not annotated
    assert only(evaluate(DarkPredictor(), tmp_path, settings=HALF)).values["miou"] == 1
    qupath(tmp_path / "a.geojson", [(50, 60, 40, 20)], ["Tumor"], kind="annotation")
    image = only(evaluate(DarkPredictor(), tmp_path, settings=HALF))
    assert (image.status, image.reason) == ("failed", "not_comparable")
    assert "classes (Tumor) are none of the model's (Dark, Pale)" in image.message


def test_a_stray_point_costs_a_model_of_areas_nothing(tmp_path: Path) -> None:
    mask_image(tmp_path, {})
    area = Item("annotation", box(50, 60, 40, 20), "Dark")
    (tmp_path / "a_mask.png").unlink()
    for more in ([], [Item("annotation", shapely.Point(5, 5), "Pale")]):
        drawn(tmp_path / "a.png", area, *more)
        evaluation = evaluate(DarkPredictor(), tmp_path, settings=HALF)
        assert only(evaluation).values["iou[Dark]"] == pytest.approx(800 / 1200)


def test_score_maps_against_instances_say_what_cannot_be_computed(tmp_path: Path) -> None:
    plant(tmp_path, "a", grid(4, 2))
    evaluation = evaluate(DarkPredictor(), tmp_path, settings=HALF)
    image = only(evaluation)
    assert (image.status, image.reason, evaluation.all_complete) == ("failed", "not_comparable", False)
    assert "the model gives no outlines of objects" in image.message
    assert "class mask" in image.remedy


def test_one_image_that_fails_costs_only_itself(tmp_path: Path) -> None:
    plant(tmp_path, "good", grid(4, 2))
    plant(tmp_path, "broken", grid(4, 2)).write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    small = plant(tmp_path, "small", grid(4, 2))
    Image.fromarray(boxes_labels((150, 200), grid(4, 2))).save(small.with_name("small_labels.png"))
    aperio(plant(tmp_path, "twice", grid(4, 2)).with_suffix(".xml"), grid(4, 2))
    plant(tmp_path, "untold", grid(4, 2)).with_name("untold_labels.png").unlink()
    evaluation = evaluate(BlobPredictor(), tmp_path, settings=HALF, out=tmp_path / "out")
    outcomes = {image.slide_id: (image.status, image.reason) for image in evaluation.images}
    assert outcomes == {
        "good": ("complete", ""),
        "broken": ("failed", "unreadable"),
        "small": ("failed", "wrong_shape"),
        "twice": ("failed", "ambiguous_truth"),
        "untold": ("skipped", "no_truth"),
    }
    assert pooled(evaluation)["object_f1"] == 1
    assert not evaluation.all_complete
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert {row["image"] for row in written["not_scored"]} == {"broken", "small", "twice", "untold"}
    assert "150x200 px, its image small.png is 200x150" in next(
        image.message for image in evaluation.images if image.slide_id == "small"
    )


def test_a_predictor_that_raises_costs_an_image_and_not_the_evaluation(tmp_path: Path) -> None:
    class Raising(BlobPredictor):
        def predict(self, batch: Batch) -> Any:
            raise RuntimeError("layer 3")

    plant(tmp_path, "a", grid(4, 2))
    image = only(evaluate(Raising(), tmp_path, settings=HALF))
    assert (image.status, image.reason) == ("failed", "predictor_error")


def test_a_folder_without_truth_is_an_error_that_lists_the_conventions(tmp_path: Path) -> None:
    plant(tmp_path, "a", grid(4, 2)).with_name("a_labels.png").unlink()
    with pytest.raises(AnnotationError, match="none of the 1 images") as caught:
        evaluate(BlobPredictor(), tmp_path, settings=HALF)
    assert caught.value.code == "no_truth"
    for name in ("_labels.png", "_mask.png", ".geojson", ".xml", "_points"):
        assert name in caught.value.remedy


@pytest.mark.parametrize("radius", [0, -1, float("nan"), float("inf")])
def test_a_radius_that_is_none_is_refused(radius: float) -> None:
    with pytest.raises(ConfigError, match="radius"):
        Settings(radius_um=radius)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("three")
    cells = grid(8, 4)
    for name, seen, true in (("a", 20, 32), ("b", 32, 32), ("c", 32, 8)):
        plant(folder, name, cells[:seen], cells[:true])
    return folder


def test_names_order_and_numbering_change_nothing(three: Path, tmp_path: Path) -> None:
    for old, new in (("a", "z"), ("b", "sub/y"), ("c", "x")):
        (tmp_path / new).parent.mkdir(exist_ok=True)
        shutil.copy(three / f"{old}.png", tmp_path / f"{new}.png")
        labels = np.asarray(Image.open(three / f"{old}_labels.png"))
        other = np.where(labels > 0, 5000 - 7 * labels.astype(int), 0).astype(np.uint16)
        Image.fromarray(other).save(tmp_path / f"{new}_labels.png")
    before, after = (pooled(evaluate(BlobPredictor(), where, settings=HALF)) for where in (three, tmp_path))
    assert after == pytest.approx(before, nan_ok=True)


@pytest.mark.slow
def test_processes_give_the_same_figures(three: Path) -> None:
    alone = evaluate(load_predictor("nuclei-classical"), three, settings=HALF)
    shared = evaluate(load_predictor("nuclei-classical"), three, settings=HALF, num_workers=2)
    assert [image.slide_id for image in shared.images] == ["a", "b", "c"]
    assert [image.values for image in shared.images] == [image.values for image in alone.images]


def test_only_the_first_so_many_images_are_run(three: Path) -> None:
    assert [image.slide_id for image in evaluate(BlobPredictor(), three, settings=HALF, limit=2).images] == ["a", "b"]


def test_the_table_has_a_row_per_image_and_the_json_is_json(three: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    evaluation = evaluate(BlobPredictor(), three, settings=HALF, out=out, command="wsikit evaluate x")
    with (out / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["status"], row["true_count"], row["found_count"]) for row in rows] == [
        ("a", "complete", "32", "20"),
        ("b", "complete", "32", "32"),
        ("c", "complete", "8", "32"),
    ]
    assert [float(row["object_f1"]) for row in rows] == pytest.approx([40 / 52, 1, 16 / 40], rel=1e-5)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    written = json.loads((out / "metrics.json").read_text("utf-8"), parse_constant=refuse)
    assert written["metrics"]["object_f1"]["pooled"] == pooled(evaluation)["object_f1"]
    assert (written["images"], written["scored"], written["command"]) == (3, 3, "wsikit evaluate x")
    assert written["model"]["name"] == "planted"
    assert len(written["model"]["hash"]) == 64
    assert written["settings"] == {"radius_um": 6.0, "mpp_override": 0.5, "mask_classes": {}, "iou": 0.5}
    assert list(written["not_computed"]) == ["IoU of classes"]


def test_the_sheet_shows_the_best_and_the_worst_with_both_outlines(three: Path, tmp_path: Path) -> None:
    from wsikit.pipeline.examples import FOUND, TRUTH

    evaluate(BlobPredictor(), three, settings=HALF, out=tmp_path)
    pixels = np.asarray(Image.open(tmp_path / "examples.png").convert("RGB")).astype(int)
    upper, lower = np.array_split(pixels, 2)
    for half in (upper, lower):
        for color in (TRUTH, FOUND):
            assert (np.abs(half - color).sum(axis=2) < 30).sum() > 100
    # best: b with 1.0 and a; worst: c, alone in its row
    assert pixels.shape[1] > 2 * 420


def test_pictures_of_the_images_between_are_not_kept(tmp_path: Path) -> None:
    cells = grid(8, 4)
    for k in range(11):
        plant(tmp_path, f"{k:02}", cells[: k + 1], cells)
    evaluation = evaluate(BlobPredictor(), tmp_path, settings=HALF, out=tmp_path / "out")
    assert [bool(image.example) for image in evaluation.images] == [True] * 4 + [False] * 3 + [True] * 4
    assert (tmp_path / "out" / "examples.png").exists()


def test_pictures_of_an_earlier_evaluation_do_not_stay(three: Path, tmp_path: Path) -> None:
    evaluate(BlobPredictor(), three, settings=HALF, out=tmp_path / "out")
    assert (tmp_path / "out" / "examples.png").exists()
    plant(tmp_path / "data", "a", [], [])
    Image.new("L", (7, 7)).save(tmp_path / "data" / "a_labels.png")
    assert not evaluate(BlobPredictor(), tmp_path / "data", settings=HALF, out=tmp_path / "out").scored
    assert not (tmp_path / "out" / "examples.png").exists()


def test_an_output_folder_inside_the_data_is_no_data(three: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(three, data)
    evaluate(BlobPredictor(), data, settings=HALF, out=data / "out")
    again = evaluate(BlobPredictor(), data, settings=HALF, out=data / "out")
    assert [image.slide_id for image in again.images] == ["a", "b", "c"]


def nuclei_on(folder: Path) -> dict[str, float]:
    evaluation = evaluate(load_predictor("nuclei-classical"), folder, settings=Settings(mpp_override=0.25))
    assert evaluation.all_complete
    return pooled(evaluation)


@pytest.mark.slow
def test_nuclei_on_all_of_dsb2018(data: Path) -> None:
    figures = nuclei_on(data / "nuclei" / "dsb2018_he")
    assert figures["object_f1"] > 0.58
    assert figures["detection_f1"] > 0.75


@pytest.mark.slow
def test_nuclei_on_monuseg(data: Path) -> None:
    figures = nuclei_on(data / "nuclei" / "monuseg_test_NC")
    assert figures["object_f1"] > 0.7
    assert figures["aji"] > 0.5
