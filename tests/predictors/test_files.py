"""Predictors that are a file of the user's: found, made, refused, sent to workers, and part of the resume key."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.planted import scene
from wsikit.config import RunConfig
from wsikit.errors import ConfigError, PluginError, UnknownNameError
from wsikit.pipeline.batch import run_many
from wsikit.pipeline.inputs import find_slides
from wsikit.pipeline.state import model_card
from wsikit.predictions import Batch, Encoder, Predictor
from wsikit.predictors import PREDICTORS, load_predictor
from wsikit.predictors.files import dumps
from wsikit.slides import Slide
from wsikit.streaming import batches
from wsikit.tiling import TileGrid

HEAD = """
import threading
from dataclasses import dataclass
from functools import lru_cache
import numpy as np
from wsikit.geometry import TileSpec
from wsikit.predictions import Batch, Label, ScoreMap, Stateless
"""
BODY = """
LOCK = threading.Lock()
INK = 128

class Odd(ValueError):
    pass

@lru_cache
def table(limit):
    return (np.arange(256) < limit).astype(np.float32)

@dataclass(frozen=True)
class Ink(Stateless):
    limit: int = INK
    mpp: float = 0.5
    name = "ink"
    produces = ScoreMap
    labels = (Label("Ink", (200, 0, 0)), Label("Paper", (225, 225, 225), background=True))

    @property
    def tile(self):
        return TileSpec(self.mpp, 64)

    def predict(self, batch):
        with LOCK:
            ink = table(self.limit)[batch.images[..., 0]]
        return [ScoreMap(r, np.stack([one, 1 - one], axis=2)) for r, one in zip(batch.regions, ink)]
"""
SOURCE = HEAD + BODY


def written(folder: Path, source: str = SOURCE, name: str = "predictor.py") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(source, encoding="utf-8")
    return folder / name


def first(slide: Slide, predictor: Any) -> Batch:
    return next(batches(slide, TileGrid.cover(slide, predictor.tile)))


def test_a_class_of_a_file_is_a_predictor(tmp_path: Path) -> None:
    before = list(sys.path)
    predictor = load_predictor(f"{written(tmp_path)}:Ink")
    assert isinstance(predictor, Predictor)
    assert sys.path == before
    slide = scene(128, 64, [(64, 0, 64, 64)])
    scores = [one.scores[..., 0].mean() for one in predictor.predict(first(slide, predictor))]
    assert scores == [0, 1]


@pytest.mark.parametrize("folder", ["with space", "Präparate 切片", "a:b", r"C:\models"])
def test_the_last_colon_names_the_class_whatever_the_path_is(tmp_path: Path, folder: str) -> None:
    assert load_predictor(f"{written(tmp_path / folder)}:Ink").name == "ink"


def test_two_files_of_one_name_do_not_meet(tmp_path: Path) -> None:
    one = load_predictor(f"{written(tmp_path / 'a')}:Ink")
    two = load_predictor(f"{written(tmp_path / 'b', SOURCE.replace('INK = 128', 'INK = 7'))}:Ink")
    assert (one.limit, two.limit) == (128, 7)  # type: ignore[union-attr]
    assert type(one) is not type(two)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = written(tmp_path)
    load_predictor(f"{path}:Ink")
    written(tmp_path, SOURCE.replace("INK = 128", "INK = 7"))
    assert load_predictor(f"{path}:Ink").limit == 7  # type: ignore[union-attr]


def test_its_source_is_part_of_the_resume_key_and_its_place_is_not(tmp_path: Path) -> None:
    one = load_predictor(f"{written(tmp_path / 'a')}:Ink")
    moved = load_predictor(f"{written(tmp_path / 'b')}:Ink")
    changed = load_predictor(f"{written(tmp_path / 'c', SOURCE + '# changed')}:Ink")
    assert model_card(one) == model_card(moved)
    assert model_card(one) != model_card(changed)


def test_fields_of_a_stateless_dataclass_are_its_identity(tmp_path: Path) -> None:
    assert load_predictor(f"{written(tmp_path)}:Ink", mpp=1.0).identity == {"limit": 128, "mpp": 1.0}


MINIMAL = HEAD + "class P(Stateless):\n    name = 'p'\n    labels = ()\n    tile = TileSpec(0.5, 64)\n"
EMBEDDING = MINIMAL + "    def embed(self, batch): ...\n    width = 3"


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        (SOURCE, "Inc", r"no class 'Inc'; its predictors are: Ink$"),
        (SOURCE, "", r"no class of .* is named; its predictors are: Ink$"),
        (SOURCE, "LOCK", "is a lock, not a class; its predictors are: Ink"),
        ("x = 1", "P", "no class 'P'; nothing in it looks like a predictor"),
        ("def f(:\n", "P", "cannot be loaded.*SyntaxError"),
        ("\n\n1 / 0\n", "P", "line 3: ZeroDivisionError: division by zero"),
        ("import nowhere_to_be_found", "P", "line 1: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("raise SystemExit(1)", "P", "line 1: SystemExit: 1"),
        ("# coding: latin-1\nx = '\x00'", "P", "cannot be loaded"),
        (SOURCE.replace("limit: int = INK", "limit: int"), "Ink", "raised TypeError when it was made.*'limit'"),
        (MINIMAL + "    def __init__(self):\n        raise OSError('no weights')\n    def predict(self, b): ...", "P",
         "raised OSError when it was made: no weights"),
        (MINIMAL, "P", "has neither predict nor embed"),
        (MINIMAL + "    def predict(self, batch): ...", "P", "P has no produces$"),
        (MINIMAL + "    def embed(self, batch): ...", "P", "P has no width$"),
        (MINIMAL + "    produces = dict\n    def predict(self, batch): ...", "P", "produces must be ScoreMap"),
        (EMBEDDING.replace("TileSpec(0.5, 64)", "64"), "P", "tile must be"),
        (EMBEDDING.replace("()\n", "['a']\n"), "P", "labels must be a tuple"),
        (EMBEDDING.replace("width = 3", "width = 0"), "P", "width must be"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, source: str, name: str, message: str) -> None:
    path = written(tmp_path, source)
    with pytest.raises(PluginError, match=message) as caught:
        load_predictor(f"{path}:{name}")
    assert caught.value.remedy


def test_the_users_own_traceback_is_the_cause(tmp_path: Path) -> None:
    path = written(tmp_path, "def f():\n    return {}[0]\nf()")
    with pytest.raises(PluginError) as caught:
        load_predictor(f"{path}:P")
    assert isinstance(caught.value.__cause__, KeyError)
    assert "line 2" in str(caught.value)


def test_a_file_that_fails_once_can_be_mended(tmp_path: Path) -> None:
    path = written(tmp_path, "1 / 0")
    with pytest.raises(PluginError):
        load_predictor(f"{path}:Ink")
    written(tmp_path)
    assert load_predictor(f"{path}:Ink").name == "ink"


def test_a_neighbour_is_not_imported_and_the_remedy_says_so(tmp_path: Path) -> None:
    written(tmp_path, "x = 1", "mynet.py")
    with pytest.raises(PluginError) as caught:
        load_predictor(f"{written(tmp_path, 'import mynet')}:P")
    assert "stands alone" in caught.value.remedy


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file") as caught:
        load_predictor(f"{tmp_path / 'gone.py'}:P")
    assert caught.value.code == "no_plugin"


def test_an_unknown_name_tells_what_else_m_takes() -> None:
    with pytest.raises(UnknownNameError) as caught:
        load_predictor("nuclej")
    assert "predictor.py:MyPredictor" in caught.value.remedy


def test_settings_go_where_the_class_takes_them_and_are_refused_elsewhere(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert load_predictor(f"{path}:Ink", mpp=1.0).tile.mpp == 1.0
    with pytest.raises(ConfigError, match="has its own min_tissue and takes no other"):
        load_predictor(f"{path}:Ink", min_tissue=0.5)
    with pytest.raises(ConfigError, match="runs on the CPU"):
        load_predictor(f"{path}:Ink", device="cuda")


def test_create_makes_it_where_there_is_one(tmp_path: Path) -> None:
    create = "\n    @classmethod\n    def create(cls, mpp=2.0, device='cpu'):\n        return cls(limit=9, mpp=mpp)\n"
    predictor = load_predictor(f"{written(tmp_path, SOURCE + create)}:Ink", device="cuda")
    assert (predictor.limit, predictor.tile.mpp) == (9, 2.0)  # type: ignore[union-attr]


ENCODER = HEAD + (
    "class Red(Stateless):\n    name, labels, width, tile = 'red', (), 1, TileSpec(0.5, 32)\n"
    "    def embed(self, batch):\n        return batch.images[..., 0].mean(axis=(1, 2), dtype=np.float32)[:, None]\n"
)


def test_an_encoder_is_a_model_as_well(tmp_path: Path) -> None:
    encoder = load_predictor(f"{written(tmp_path, ENCODER)}:Red")
    assert isinstance(encoder, Encoder)
    assert not isinstance(encoder, Predictor)


ELSEWHERE = """
import pickle, sys
from pathlib import Path
predictor = pickle.loads(Path(sys.argv[1]).read_bytes())
print(predictor.name, predictor.limit, type(predictor).__qualname__, predictor == type(predictor)(9))
"""


def test_it_goes_to_processes_that_cannot_see_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "here")
    predictor = type(load_predictor(f"{path}:Ink"))(9)  # type: ignore[call-arg]
    (tmp_path / "pickled").write_bytes(dumps(predictor))
    path.unlink()
    command = [sys.executable, "-c", ELSEWHERE, str(tmp_path / "pickled")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.split() == ["ink", "9", "Ink", "True"]


def test_what_the_file_defines_goes_with_it(tmp_path: Path) -> None:
    cls = type(load_predictor(f"{written(tmp_path)}:Ink"))
    home = sys.modules[cls.__module__]
    for thing in (cls, home.Odd, home.table, cls.predict, home.Odd("x").__class__):
        assert pickle.loads(dumps(thing)) is thing


def test_a_field_that_cannot_be_pickled_is_said_with_what_to_do(tmp_path: Path) -> None:
    source = SOURCE + "\n    def __post_init__(self):\n        object.__setattr__(self, 'lock', threading.Lock())\n"
    with pytest.raises(PluginError, match=r"Ink cannot be sent to workers: .*lock") as caught:
        dumps(load_predictor(f"{written(tmp_path, source)}:Ink"))
    assert "-n 1" in caught.value.remedy


NOISY = SOURCE.replace("        with LOCK:", "        print('predicting')\n        with LOCK:")
LAZY = SOURCE.replace("@dataclass(frozen=True)", "@dataclass").replace(
    "        with LOCK:", "        self.__dict__.setdefault('_lock', threading.Lock())\n        with LOCK:"
)


@pytest.mark.parametrize(("source", "workers"), [(NOISY, 1), (LAZY, 1), pytest.param(LAZY, 2, marks=pytest.mark.slow)])
def test_a_folder_is_run_with_it_wherever_the_workers_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, workers: int
) -> None:
    from PIL import Image

    (tmp_path / "in").mkdir()
    for number in (1, 2):
        pixels = np.full((64, 128 * number, 3), 235, np.uint8)
        pixels[:, :64] = 40
        Image.fromarray(pixels).save(tmp_path / "in" / f"{number}.png")
    written(tmp_path / "mein Ordner ü", source)
    monkeypatch.chdir(tmp_path)
    config = RunConfig(model="mein Ordner ü/predictor.py:Ink", mpp_override=0.5, num_workers=workers, supertile=64)
    records = run_many(find_slides("in"), Path("out"), config)
    assert [record["status"] for record in records] == ["complete"] * 2
    assert [record["area_fractions"]["Ink"] for record in records] == [0.5, 0.25]
    written(tmp_path / "mein Ordner ü", source.replace("INK = 128", "INK = 0"))
    if workers == 1:
        redone = run_many(find_slides("in"), Path("out"), config)
        assert [record["area_fractions"]["Ink"] for record in redone] == [0, 0]


def test_a_name_of_the_table_wins_over_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, SOURCE, "nuclei-classical")
    assert type(load_predictor("nuclei-classical")) is PREDICTORS.load("nuclei-classical")
