"""Models that are a file and a card, TorchScript and ONNX alike, from patch to tiles, masks and records."""

from __future__ import annotations

import gzip
import hashlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import zarr
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tests.planted import INK, PAPER, scene
from wsikit.config import RunConfig
from wsikit.errors import ConfigError, PredictionError
from wsikit.nn.card import Card
from wsikit.nn.carded import load_carded
from wsikit.pipeline.batch import run_many
from wsikit.pipeline.inputs import find_slides
from wsikit.pipeline.run import run
from wsikit.predictions import AreaSpec, BagPredictor, Batch, Encoder, Predictor, area_spec
from wsikit.predictors import load_predictor
from wsikit.sinks.geojson import GeoJSONSink
from wsikit.sinks.omezarr import OmeZarrSink
from wsikit.streaming import batches
from wsikit.tiling import TileGrid
from wsikit.tissue import TissueMask

CARD: dict[str, Any] = {
    "name": "ink", "task": "classification", "labels": [{"name": "Ink", "color": "#c80000"}, "Paper"], "mpp": 0.5,
    "patch": 64, "mean": [0, 0, 0], "std": [1, 1, 1], "activation": "softmax",
}  # fmt: skip
MAP = CARD | {"task": "segmentation", "halo": 8}
EMBEDDING = {k: v for k, v in CARD.items() if k not in {"labels", "activation"}} | {"task": "embedding"}


class Net(torch.nn.Module):
    """Logits of dark and light, per patch or per pixel: a 1 x 1 convolution of the channels and, or not, a mean."""

    def __init__(self, pooled: bool) -> None:
        super().__init__()
        self.pooled = pooled
        self.mix = torch.nn.Conv2d(3, 2, 1)
        torch.nn.init.constant_(self.mix.weight[:1], -10 / 3)
        torch.nn.init.constant_(self.mix.weight[1:], 10 / 3)
        self.mix.bias.data = torch.tensor([5.0, -5.0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.mix(x)
        return y.mean(dim=(2, 3)) if self.pooled else y


def torchscript(path: Path, card: dict[str, Any], module: torch.nn.Module | None = None) -> Path:
    net = module or Net(card["task"] != "segmentation")
    torch.jit.trace(net.eval(), torch.zeros(2, 3, 64, 64)).save(path)
    return path


def made_of(path: Path, nodes: list[Any], shape: list[Any], output: list[Any], constants: dict[str, Any]) -> Path:
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def as_onnx(path: Path, card: dict[str, Any], batch: Any = "n") -> Path:
    weight = np.stack([np.full((3, 1, 1), -10 / 3), np.full((3, 1, 1), 10 / 3)]).astype(np.float32)
    constants = {"w": weight, "b": np.array([5, -5], np.float32)}
    pooled = card["task"] != "segmentation"
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["c" if pooled else "y"])]
    if pooled:
        nodes.append(helper.make_node("ReduceMean", ["c"], ["y"], axes=[2, 3], keepdims=0))
    return made_of(path, nodes, [batch, 3, 64, 64], [batch, 2] if pooled else [batch, 2, 64, 64], constants)


MAKERS: dict[str, Callable[[Path, dict[str, Any]], Path]] = {"model.pt": torchscript, "model.onnx": as_onnx}


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Path]:
    def one(card: dict[str, Any]) -> Path:
        (tmp_path / "model.json").write_text(json.dumps(card))
        return MAKERS[request.param](tmp_path / request.param, card)

    return one


BOXES = [(64, 0, 64, 64), (192, 128, 32, 64)]
"""One whole patch of ink, and half of one."""


def expected(ink: float) -> float:
    """Score of a patch that is ink by this share: the softmax of the mean of its pixels' logits."""
    brightness = (ink * np.mean(INK) + (1 - ink) * PAPER[0]) / 255
    return float(1 / (1 + np.exp(-2 * (5 - 10 * brightness))))


def test_each_kind_meets_its_protocol(make: Callable[..., Path]) -> None:
    assert isinstance(load_predictor(str(make(CARD))), BagPredictor)
    assert isinstance(load_predictor(str(make(MAP))), Predictor)
    embedder = load_predictor(str(make(EMBEDDING)))
    assert isinstance(embedder, Encoder)
    assert not isinstance(embedder, BagPredictor)
    assert embedder.width == 2


def test_a_classifier_gives_tiles_a_heat_map_and_means_and_no_attention(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    slide = scene(256, 192, BOXES)
    geojson, masks = GeoJSONSink(tmp_path / "o.geojson.gz"), OmeZarrSink(tmp_path / "m.ome.zarr")
    model = load_carded(make(CARD))
    report = run(slide, model, geojson, masks, mask=TissueMask.whole(slide), overview=tmp_path / "overview.png")
    tiles = json.loads(gzip.decompress(geojson.path.read_bytes()))["features"]
    found = {tuple(np.min(t["geometry"]["coordinates"][0], axis=0)): t["properties"] for t in tiles}
    assert {p["objectType"] for p in found.values()} == {"tile"}
    assert [p["classification"]["name"] for p in found.values()].count("Ink") == 1
    assert set(found[(64, 0)]["measurements"]) == {"Ink score", "Paper score"}
    for corner, ink in (((64, 0), 1.0), ((192, 128), 0.5), ((0, 0), 0.0)):
        assert found[corner]["measurements"]["Ink score"] == pytest.approx(expected(ink), abs=1e-5)
    group = zarr.open_group(masks.path, mode="r")
    assert group["labels/classes/0"][:].tolist() == [[2, 1, 2, 2], [2, 2, 2, 2], [2, 2, 2, 2]]
    assert group["scores/0"].shape == (2, 3, 4)
    mean = (expected(1) + expected(0.5) + 10 * expected(0)) / 12
    assert report.merged.scores["Ink"] == pytest.approx(mean, abs=1e-5)
    assert report.merged.objects_per_class == {"Ink": 1, "Paper": 11}


def test_the_picture_shows_the_class_of_a_patch_where_the_patch_is(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps(CARD))
    slide = scene(640, 640, [(64, 128, 64, 64)])
    run(slide, load_carded(torchscript(tmp_path / "model.pt", CARD)), GeoJSONSink(tmp_path / "o.geojson"),
        mask=TissueMask.whole(slide), overview=tmp_path / "overview.png")  # fmt: skip
    picture = np.asarray(Image.open(tmp_path / "overview.png").convert("RGB")).astype(int)
    slide_at = 16  # the margin; a slide of 640 px is drawn pixel by pixel
    inside, outside = picture[slide_at + 160, slide_at + 96], picture[slide_at + 224, slide_at + 96]
    assert inside[0] > inside[1] + 50, "red over ink"
    assert outside[2] > outside[0] + 20, "the first colour of the palette for the second label would be blue"


def test_a_map_gives_a_class_to_every_pixel(make: Callable[..., Path], tmp_path: Path) -> None:
    slide = scene(200, 150, [(30, 40, 50, 20)])
    masks = OmeZarrSink(tmp_path / "m.ome.zarr")
    run(slide, load_carded(make(MAP)), masks, mask=TissueMask.whole(slide))
    classes = zarr.open_group(masks.path, mode="r")["labels/classes/0"][:]
    want = np.full((150, 200), 2)
    want[40:60, 30:80] = 1
    assert np.array_equal(classes, want)


@pytest.mark.parametrize("card", [CARD, EMBEDDING], ids=["classes", "features"])
def test_a_patch_gets_the_same_answer_whatever_the_batch_is(make: Callable[..., Path], card: dict[str, Any]) -> None:
    model: Any = load_carded(make(card))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (19, 64, 64, 3), dtype=np.uint8)
    slide = scene(64 * 19, 64, [])
    regions = next(batches(slide, TileGrid.cover(slide, model.tile))).regions
    together = model.embed(Batch(images, regions))
    for size in (1, 3, 8):
        parts = [model.embed(Batch(images[i : i + size], regions[i : i + size])) for i in range(0, 19, size)]
        assert np.array_equal(np.concatenate(parts), together)


def test_it_pickles_small(make: Callable[..., Path]) -> None:
    model = load_carded(make(CARD))
    assert len(pickle.dumps(model)) < 5000
    assert pickle.loads(pickle.dumps(model)) == model


@pytest.mark.slow
def test_it_is_the_same_in_another_process(make: Callable[..., Path], tmp_path: Path) -> None:
    model: Any = load_carded(make(CARD))
    data = pickle.dumps(model)
    (tmp_path / "pickled").write_bytes(data)
    code = (
        "import pickle, sys, numpy as np; m = pickle.loads(open(sys.argv[1], 'rb').read());"
        "print(repr(m._scores(np.full((1, 64, 64, 3), 128, np.uint8)).tolist()))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "pickled")], capture_output=True, check=True)
    assert json.loads(done.stdout) == model._scores(np.full((1, 64, 64, 3), 128, np.uint8)).tolist()


def test_its_weights_and_its_card_are_its_identity(make: Callable[..., Path]) -> None:
    path = make(CARD)
    one = load_carded(path).identity
    assert one["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name("model.json").write_text(json.dumps(CARD | {"std": [0.5] * 3}))
    assert load_carded(path).identity != one
    assert json.loads(json.dumps(one)) == one


def test_a_file_with_a_fixed_batch_is_fed_in_that(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps(CARD))
    fixed: Any = load_carded(as_onnx(tmp_path / "model.onnx", CARD, batch=1))
    free: Any = load_carded(as_onnx(tmp_path / "model.onnx", CARD))
    images = np.random.default_rng(1).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    assert (fixed.graph.batch, free.graph.batch) == (1, 8)
    assert np.allclose(fixed._scores(images), free._scores(images), atol=1e-6)


def test_torchscript_and_onnx_agree(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps(CARD))
    models: list[Any] = [load_carded(maker(tmp_path / name, CARD)) for name, maker in MAKERS.items()]
    images = np.random.default_rng(2).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    one, two = (model._scores(images) for model in models)
    assert np.allclose(one, two, atol=1e-6)


class Unlikely(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(2, 3))[:, :2] * 0 + torch.tensor([-3.0, -1.0])


def test_classes_under_a_sigmoid_may_all_be_unlikely(tmp_path: Path) -> None:
    card = CARD | {"activation": "sigmoid"}
    (tmp_path / "model.json").write_text(json.dumps(card))
    model: Any = load_carded(torchscript(tmp_path / "model.pt", card, Unlikely()))
    want = [1 / (1 + np.exp(3)), 1 / (1 + np.exp(1))]
    assert [label.name for label in model.labels] == ["Ink", "Paper", "None of these"]
    assert np.allclose(model._scores(np.zeros((1, 64, 64, 3), np.uint8)), [[*want, 1 - want[1]]], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"labels": ["A", "B", "C"]},
            r"gives 2 classes \(shape \(8, 2\) for 8 patches\), and its card .* 3 labels",
        ),
        ({"task": "segmentation"}, "its card says segmentation"),
        ({"sha256": "0" * 64}, "is not the file of its card: its sha256 is"),
        ({"mpp": float("inf")}, "mpp"),
        ({"task": "bag"}, "a model over bags"),
    ],
)
def test_a_card_of_another_model_is_refused(make: Callable[..., Path], change: dict[str, Any], message: str) -> None:
    path = make(CARD)
    path.with_name("model.json").write_text(json.dumps(CARD | change))
    with pytest.raises(ConfigError, match=message):
        load_carded(path)


@pytest.mark.parametrize("side", [32, 100])
def test_onnx_of_another_patch_size_is_refused(tmp_path: Path, side: int) -> None:
    (tmp_path / "model.json").write_text(json.dumps(CARD | {"patch": side}))
    with pytest.raises(ConfigError, match=f"cannot take patches of {side} px") as caught:
        load_carded(as_onnx(tmp_path / "model.onnx", CARD))
    assert caught.value.code == "bad_model"


def test_patches_are_resized_where_the_card_says_so(make: Callable[..., Path]) -> None:
    model: Any = load_carded(make(CARD | {"patch": 100, "size": 64}))
    assert model.tile.patch == 100
    assert model._scores(np.zeros((1, 100, 100, 3), np.uint8)).shape == (1, 2)


def test_logits_that_no_activation_is_stated_for_are_told(make: Callable[..., Path], tmp_path: Path) -> None:
    slide = scene(64, 64, [(0, 0, 64, 64)])
    with pytest.raises(PredictionError, match="its card says that these are scores from 0 to 1") as caught:
        run(slide, load_carded(make(CARD | {"activation": "none"})), GeoJSONSink(tmp_path / "o.geojson"),
            mask=TissueMask.whole(slide))  # fmt: skip
    assert "softmax or sigmoid" in caught.value.remedy


class Nan(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.log(x.mean(dim=(2, 3))[:, :2] - 0.5)


class Pair(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.mean(dim=(2, 3)), x


def test_nan_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps(CARD))
    model: Any = load_carded(torchscript(tmp_path / "model.pt", CARD, Nan()))
    with pytest.raises(PredictionError, match="NaN"):
        model._scores(np.zeros((1, 64, 64, 3), np.uint8))


def test_a_model_with_several_outputs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps(CARD))
    with pytest.raises(ConfigError, match="gives a tuple, one tensor is needed"):
        load_carded(torchscript(tmp_path / "model.pt", CARD, Pair()))


@pytest.mark.parametrize("name", ["model.pt", "model.onnx"])
@pytest.mark.parametrize("content", [b"", b"no model at all", b"PK\x03\x04" + bytes(200)])
def test_broken_files_are_told(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "model.json").write_text(json.dumps(CARD))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=name):
        load_predictor(str(tmp_path / name))


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_predictor(str(tmp_path / "model.pt"))


def test_a_state_dict_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps(CARD))
    torch.save(Net(True).state_dict(), tmp_path / "model.pt")
    with pytest.raises(ConfigError, match="TorchScript"):
        load_carded(tmp_path / "model.pt")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_told(make: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_carded(make(CARD), device="cuda")
    assert caught.value.code == "no_gpu"


@pytest.mark.parametrize(("slide_mpp", "wanted", "status"), [
    (0.5, None, "complete"), (0.54, None, "complete"), (0.56, None, "failed"), (0.58, 0.54, "failed"),
    (0.25, 0.46, "complete"),
])  # fmt: skip
def test_what_the_model_sees_is_within_a_tenth_of_its_card_whatever_slide_it_is(
    tmp_path: Path, slide_mpp: float, wanted: float | None, status: str
) -> None:
    (tmp_path / "model.json").write_text(json.dumps(CARD))
    torchscript(tmp_path / "model.pt", CARD)
    (tmp_path / "in").mkdir()
    Image.new("RGB", (300, 300), PAPER).save(tmp_path / "in" / "a.png")
    config = RunConfig(
        model=str(tmp_path / "model.pt"), mpp=wanted, mpp_override=slide_mpp, num_workers=1, cluster="threads"
    )
    (record,) = run_many(find_slides(tmp_path / "in"), tmp_path / "out", config)
    assert record["status"] == status
    if status == "complete":
        assert record["bound"] == {"mpp_um": record["model"]["mpp"], "card_mpp_um": 0.5}
    else:
        assert record["reason"] in {"wrong_mpp", "resolution_unavailable"}


def test_a_run_with_another_resolution_is_refused_before_any_slide(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps(CARD))
    torchscript(tmp_path / "model.pt", CARD)
    with pytest.raises(ConfigError, match="100% off"):
        run_many(
            [], tmp_path / "out", RunConfig(model=str(tmp_path / "model.pt"), mpp=1.0, num_workers=1, cluster="threads")
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_a_slide_comes_out_the_same_for_any_workers_and_batches(tmp_path: Path, cmu: Path, name: str) -> None:
    (tmp_path / "model.json").write_text(json.dumps(CARD))
    MAKERS[name](tmp_path / name, CARD)
    texts = []
    for number, options in enumerate([{"num_workers": 1}, {"num_workers": 2, "batch_size": 5, "supertile": 500}]):
        config = RunConfig(model=str(tmp_path / name), **options)  # type: ignore[arg-type]
        (record,) = run_many(find_slides(cmu), tmp_path / str(number), config)
        assert record["status"] == "complete"
        texts.append(gzip.decompress(next((tmp_path / str(number)).rglob("objects.geojson.gz")).read_bytes()))
    assert texts[0] == texts[1]


def test_colors_of_a_card_reach_the_labels() -> None:
    assert Card.model_validate(CARD).classes[0].color == (200, 0, 0)


@pytest.mark.parametrize("task", [CARD, MAP], ids=["classification", "segmentation"])
def test_a_card_may_ask_for_shorter_precision_which_is_another_identity(tmp_path: Path, task: dict[str, Any]) -> None:
    path = torchscript(tmp_path / "model.pt", task)
    images = np.random.default_rng(0).integers(0, 256, (11, 64, 64, 3), dtype=np.uint8)
    made = []
    for precision in ("float32", "bfloat16"):
        (tmp_path / "model.json").write_text(json.dumps(task | {"precision": precision}))
        made.append(load_carded(path))
    full, short = (model._scores(images) for model in made)
    assert full.dtype == short.dtype == np.float32
    assert 0 < np.abs(full - short).max() < 0.05
    assert made[0].identity != made[1].identity
    (tmp_path / "model.json").write_text(json.dumps(task))
    assert load_carded(path).identity == made[0].identity, "what is said by saying nothing is float32"


def test_an_onnx_file_computes_in_what_it_was_exported_in(tmp_path: Path) -> None:
    path = as_onnx(tmp_path / "model.onnx", CARD)
    (tmp_path / "model.json").write_text(json.dumps(CARD | {"precision": "bfloat16"}))
    with pytest.raises(ConfigError, match="asks for bfloat16") as caught:
        load_carded(path)
    assert caught.value.code == "bad_card"


@pytest.mark.parametrize(("told", "areas"), [({}, None), ({"least_um2": 250}, AreaSpec(250.0))])
def test_a_card_says_whether_a_class_map_becomes_areas(
    make: Callable[..., Path], told: dict[str, Any], areas: AreaSpec | None
) -> None:
    assert area_spec(load_predictor(str(make(MAP | told)))) == areas
