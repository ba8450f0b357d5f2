"""From pixels to a slide's score: patches embedded, bags listed, a head trained, saved, loaded and run over slides."""

from __future__ import annotations

import gzip
import json
import pickle
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from PIL import Image

from tests.planted_bags import auc, planted_bags
from wsikit.bags import Bags, load_bags
from wsikit.config import EmbedConfig, RunConfig
from wsikit.errors import ConfigError
from wsikit.nn.abmil import Schedule, fit_bags
from wsikit.nn.attention import AttentionPredictor, load_attention, save_attention
from wsikit.nn.encoders import load_encoder
from wsikit.pipeline.batch import run_many
from wsikit.pipeline.inputs import find_slides
from wsikit.pipeline.run import run
from wsikit.predictions import Bag, BagPredictor, Batch
from wsikit.predictors import load_predictor
from wsikit.sinks.features_zarr import FeaturesZarrSink
from wsikit.slides import open_slide
from wsikit.slides.array import array_slide
from wsikit.tissue import TissueMask

SIDE, PER_SIDE = 64, 5
"""px of a patch, and patches along a side of a planted field."""
BLUE = (30, 60, 220)


@dataclass
class Cohort:
    """Fields of tissue, half of them with blue discs in a few patches, embedded."""

    folder: Path
    out: Path
    keys: dict[str, set[tuple[int, int]]]
    """slide id -> (column, row) of the patches that hold a disc."""

    def bags(self, split: str) -> Bags:
        return load_bags(self.out, find_slides(self.folder / "cohort.csv"), by="patient", split=split)


def plant(field: np.ndarray[Any, Any], keys: set[tuple[int, int]]) -> None:
    """A blue disc in the middle of each key patch."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    disc = (rows - SIDE // 2) ** 2 + (columns - SIDE // 2) ** 2 < 20**2
    for column, row in keys:
        field[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE][disc] = BLUE


def cohort(cmu: Path, encoder: Path, folder: Path, sizes: dict[str, int], seed: int) -> Cohort:
    """Cut fields from the sample slide, plant keys in every second one, and embed all of them."""
    random, network = np.random.default_rng(seed), load_encoder(str(encoder), device="cpu")
    with open_slide(cmu) as slide:
        tissue = slide.reader.read(0, 650, 1100, 900, 1700)
    folder.mkdir()
    lines, planted = ["path,patient,split,label,mpp"], {}
    for split, count in sizes.items():
        for index in range(count):
            name, side = f"{split}{index}", SIDE * PER_SIDE
            y, x = random.integers(0, (tissue.shape[0] - side, tissue.shape[1] - side))
            field = tissue[y : y + side, x : x + side].copy()
            cells = random.permutation(PER_SIDE**2)[: int(random.integers(2, 5)) * (index % 2)]
            planted[name] = {(int(cell) % PER_SIDE, int(cell) // PER_SIDE) for cell in cells}
            plant(field, planted[name])
            Image.fromarray(field).save(folder / f"{name}.png")
            lines.append(f"{name}.png,patient {name},{split},{'blue' if index % 2 else 'plain'},0.5")
            (folder / "out" / name).mkdir(parents=True)
            plane = array_slide(field, 0.5)
            sink = FeaturesZarrSink(folder / "out" / name / "features.zarr")
            run(plane, network, sink, mask=TissueMask.whole(plane), slide_id=name)
    (folder / "cohort.csv").write_text("\n".join(lines))
    return Cohort(folder, folder / "out", planted)


def embed(source: Path, out: Path, encoder: Path, **options: Any) -> list[dict[str, Any]]:
    config = EmbedConfig(model=str(encoder), num_workers=1, cluster="threads", device="cpu", **options)
    return run_many(find_slides(source), out, config)


def held_out(fields: Cohort, seed: int, schedule: Schedule) -> tuple[float, float]:
    """(AUC, mean attention on keys over the mean of the rest) on the slides that training has not seen."""
    from wsikit.nn.abmil import score_bag

    test = fields.bags("test")
    bags, validation = list(fields.bags("train")), list(fields.bags("validation"))
    fit = fit_bags(bags, validation, classes=2, schedule=replace(schedule, seed=seed), device="cpu")
    head = fit.head().double()
    scores, ratios = [], []
    for bag in (test[i] for i in range(len(test))):
        score, attention = score_bag(head, bag.features)
        scores.append(score[test.labels.index("blue")])
        key = np.array([(r.x // SIDE, r.y // SIDE) in fields.keys[bag.slides[0]] for r in bag.regions])
        if key.any():
            ratios.append(attention[key].mean() / attention[~key].mean())
    truth = [int(test.labels[target or 0] == "blue") for target in test.targets]
    return auc(scores, truth), float(np.mean(ratios))


SCHEDULE = Schedule(epochs=20, patience=6, learning_rate=1e-3, weight_decay=1e-3, dropout=0)


@pytest.fixture(scope="module")
def fields(cmu: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    sizes = {"train": 24, "validation": 12, "test": 10}
    return cohort(cmu, folder, tmp_path_factory.mktemp("cohort") / "fields", sizes, seed=1)


def test_planted_patches_are_found_from_pixels(fields: Cohort) -> None:
    results = np.array([held_out(fields, seed, SCHEDULE) for seed in (1, 2, 3)])
    areas, ratios = results.T
    assert areas.mean() > 0.9, results
    assert areas.min() > 0.8, results
    assert ratios.min() > 5, results


@pytest.mark.slow
def test_planted_patches_are_found_from_pixels_of_any_cohort(cmu: Path, folder: Path, tmp_path: Path) -> None:
    sizes = {"train": 40, "validation": 20, "test": 40}
    results = np.array([held_out(cohort(cmu, folder, tmp_path / str(s), sizes, s), s, SCHEDULE) for s in (11, 12, 13)])
    areas, ratios = results.T
    assert areas.mean() > 0.97, results
    assert areas.min() > 0.93, results
    assert ratios.min() > 5, results


@pytest.fixture(scope="module")
def model(fields: Cohort, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained head with its card; the encoder's folder lies beside them."""
    place = tmp_path_factory.mktemp("model")
    shutil.copytree(folder, place / folder.name)
    bags = fields.bags("train")
    fit = fit_bags(bags, fields.bags("validation"), classes=2, schedule=SCHEDULE, device="cpu")
    return save_attention(
        place / "blue.safetensors", fit, bags.encoder, str(place / folder.name), bags.labels, licence="CC0-1.0"
    )


def test_the_card_says_what_the_model_is(model: Path) -> None:
    card = json.loads(model.with_suffix(".json").read_text())
    assert (card["name"], card["task"], card["mpp"], card["patch"]) == ("blue", "bag", 0.5, SIDE)
    assert [label["name"] for label in card["labels"]] == ["blue", "plain"]
    assert card["encoder"]["spec"] == "small", "relative to the card, so that the folder can be moved"
    assert card["encoder"]["identity"]["sha256"]
    assert card["licence"] == "CC0-1.0"


def test_it_meets_the_protocol_and_pickles(model: Path) -> None:
    predictor = load_predictor(f"abmil:{model}", device="cpu")
    assert isinstance(predictor, BagPredictor)
    assert isinstance(predictor, AttentionPredictor)
    again = pickle.loads(pickle.dumps(predictor))
    assert again == predictor
    features = np.random.default_rng(0).normal(size=(5, predictor.width)).astype(np.float32)
    bag = Bag("b", features, tuple(predictor.tile.patch_region(i, 0) for i in range(5)))
    one, two = predictor.score(bag), again.score(bag)
    one.check(2)
    assert one.attention is not None
    assert np.array_equal(one.scores, two.scores)
    assert one.attention.sum() == pytest.approx(1)


@pytest.fixture(scope="module")
def finished(fields: Cohort, model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, Any]]:
    """(folder of a held-out slide with keys, its id, its record) after a run with the saved model."""
    out = tmp_path_factory.mktemp("run")
    name = next(n for n in sorted(fields.keys) if n.startswith("test") and fields.keys[n])
    config = RunConfig(model=f"abmil:{model}", num_workers=1, cluster="threads", device="cpu", mpp_override=0.5)
    (record,) = run_many(find_slides(fields.folder / f"{name}.png"), out, config)
    assert record["status"] == "complete", record
    return out / name, name, record


def test_a_slide_has_a_score_in_its_record_and_in_the_summary(finished: tuple[Path, str, dict[str, Any]]) -> None:
    folder, _, record = finished
    assert record["scores"]["blue"] > 0.5
    assert sum(record["scores"].values()) == pytest.approx(1)
    header, row = (folder.parent / "summary.csv").read_text().splitlines()
    cells = dict(zip(header.split(","), row.split(","), strict=True))
    assert float(cells["score:blue"]) == pytest.approx(record["scores"]["blue"], abs=1e-6)
    assert cells["objects_per_mm2"] == "", "patches are no objects"
    assert "blue" in (folder.parent / "report.html").read_text()


def test_attention_comes_back_as_tiles_on_the_planted_patches(
    fields: Cohort, finished: tuple[Path, str, dict[str, Any]]
) -> None:
    folder, name, _ = finished
    tiles = json.loads(gzip.decompress((folder / "objects.geojson.gz").read_bytes()))["features"]
    weight = {}
    for tile in tiles:
        x, y = np.min(tile["geometry"]["coordinates"][0], axis=0)
        weight[int(x) // SIDE, int(y) // SIDE] = tile["properties"]["measurements"]["Attention"]
        assert tile["properties"]["objectType"] == "tile"
    assert len(weight) == PER_SIDE**2
    assert sum(weight.values()) == pytest.approx(1, abs=1e-3)
    keys = fields.keys[name]
    rest = [value for cell, value in weight.items() if cell not in keys]
    assert np.mean([weight[cell] for cell in keys]) > 5 * np.mean(rest)


def test_the_heat_map_is_hottest_on_a_planted_patch(fields: Cohort, finished: tuple[Path, str, dict[str, Any]]) -> None:
    folder, name, _ = finished
    scores: Any = zarr.open_group(folder / "masks.ome.zarr", mode="r")["scores/0"]
    heat = scores[0]
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert (int(column), int(row)) in fields.keys[name]


def test_the_model_can_be_moved_as_a_folder(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model.parent, tmp_path / "moved")
    moved = load_attention(tmp_path / "moved" / model.name, device="cpu")
    assert moved.identity == load_attention(model, device="cpu").identity


def changed(model: Path, folder: Path, **values: Any) -> Path:
    """A copy of the model with other values in its card."""
    shutil.copytree(model.parent, folder)
    path = folder / model.with_suffix(".json").name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return folder / model.name


def test_an_encoder_that_is_not_there_is_asked_for_by_name(model: Path, tmp_path: Path) -> None:
    copy = changed(model, tmp_path / "copy", encoder={
        "spec": "resnet10t:gone/weights.safetensors", "identity": {"sha256": "ab"}})  # fmt: skip
    with pytest.raises(ConfigError, match="are not there") as caught:
        load_attention(copy)
    assert "beside the card as weights.safetensors" in caught.value.remedy


def test_a_head_of_another_encoder_is_refused(model: Path, tmp_path: Path) -> None:
    identity = json.loads(model.with_suffix(".json").read_text())["encoder"]["identity"]
    copy = changed(model, tmp_path / "copy", encoder={"spec": "small", "identity": {**identity, "sha256": "ab"}})
    with pytest.raises(ConfigError, match="trained on another encoder: sha256") as caught:
        load_attention(copy, device="cpu")
    assert caught.value.code == "wrong_encoder"


def test_a_head_for_vectors_of_another_width_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="width is 512, not 3"):
        load_attention(changed(model, tmp_path / "copy", width=3), device="cpu")


def test_a_resolution_far_from_the_cards_is_refused(model: Path) -> None:
    with pytest.raises(ConfigError, match=r"was made for 0\.5 um per px"):
        load_attention(model, mpp=0.25)


def test_a_file_that_is_not_the_cards_or_has_none_is_refused(model: Path, tmp_path: Path) -> None:
    copy = changed(model, tmp_path / "copy", sha256="0" * 64)
    with pytest.raises(ConfigError, match="not the file of its card"):
        load_attention(copy)
    copy.with_suffix(".json").unlink()
    with pytest.raises(ConfigError, match="no card beside it"):
        load_attention(copy)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_attention(tmp_path / "none.safetensors")


def test_a_card_with_a_wrong_key_names_the_nearest(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'encoder'"):
        load_attention(changed(model, tmp_path / "copy", encodr=1))


def test_embedding_again_keeps_what_is_done_and_other_weights_redo_it(
    fields: Cohort, folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "encoder"
    shutil.copytree(folder, copy)
    source = fields.folder / "test1.png"
    options = {"mpp_override": 0.5, "format": ("features.zarr", "features.h5")}
    (first,) = embed(source, tmp_path / "out", copy, **options)
    assert first["features"] == {"patches": PER_SIDE**2, "width": 512}
    assert set(first["outputs"]) == {"features.zarr", "features.h5"}
    (kept,) = embed(source, tmp_path / "out", copy, **options)
    assert kept["finished"] == first["finished"]
    state = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(state[:-4] + b"\0\0\0\0")
    (redone,) = embed(source, tmp_path / "out", copy, **options)
    assert redone["finished"] >= first["finished"]
    assert redone["key"] != first["key"]


@pytest.mark.parametrize("supertile", [64, 200])
def test_the_stores_are_the_same_bytes_however_a_slide_is_read(
    fields: Cohort, folder: Path, tmp_path: Path, supertile: int
) -> None:
    source = fields.folder / "test1.png"
    options = {"mpp_override": 0.5, "format": ("features.zarr", "features.h5")}
    for name, more in (("one", {}), ("two", {"supertile": supertile, "batch_size": 3})):
        embed(source, tmp_path / name, folder, **options, **more)
    for path in sorted((tmp_path / "one" / "test1").rglob("*")):
        if path.is_file() and "features" in str(path):
            assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes(), path


def test_features_are_those_of_the_patches_at_their_coordinates(fields: Cohort, folder: Path) -> None:
    bag = fields.bags("test")[3]
    encoder = load_encoder(str(folder), device="cpu")
    picture = np.asarray(Image.open(fields.folder / f"{bag.slides[0]}.png"))
    images = np.stack([picture[r.y : r.y1, r.x : r.x1] for r in bag.regions])
    assert np.array_equal(encoder.embed(Batch(images, bag.regions)), bag.features)


def test_an_embed_run_to_formats_of_objects_is_refused(fields: Cohort, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose another --format"):
        embed(fields.folder / "test1.png", tmp_path / "out", folder, format=("geojson.gz",))


def test_features_of_normalised_stains_make_no_model_that_could_be_run_without(fields: Cohort, tmp_path: Path) -> None:
    bags, labels = planted_bags(1, 4)[0], ("plain", "blue")
    fit = fit_bags(bags, bags, classes=2, schedule=Schedule(epochs=1), device="cpu")
    source = fields.bags("train").encoder
    stained = {**source, "encoder": {"name": "small", "model": {}, "stain": {"sha256": "0"}}}
    with pytest.raises(ConfigError, match="embedded with --stain") as caught:
        save_attention(tmp_path / "a.safetensors", fit, stained, "small", labels)
    assert caught.value.code == "stained_features"
    assert not list(tmp_path.iterdir())
