"""What every method must be: see ``wsikit.methods``."""

from __future__ import annotations

import inspect
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from wsikit.config import load_config
from wsikit.predictors import METHODS
from wsikit.training.recipe import Recipe

torch = pytest.importorskip("torch")

FUNCTIONS = {
    "build_model": ["config"],
    "dataset": ["config", "split"],
    "train": ["config", "out", "watch"],
    "load_predictor": ["path", "mpp", "min_tissue", "device"],
    "evaluate": ["predictor", "dataset"],
}
FILES = ("config", "data", "model", "losses", "train", "predict", "evaluate")


@pytest.fixture(params=list(METHODS))
def method(request: pytest.FixtureRequest) -> tuple[str, ModuleType]:
    return request.param, METHODS.load(request.param)


def test_it_exposes_the_five_functions(method: tuple[str, ModuleType]) -> None:
    name, module = method
    for function, parameters in FUNCTIONS.items():
        assert list(inspect.signature(getattr(module, function)).parameters) == parameters, f"{name}.{function}"


def test_its_config_is_frozen_and_refuses_unknown_keys(method: tuple[str, ModuleType]) -> None:
    def parts(kind: type[BaseModel]) -> list[type[BaseModel]]:
        inner = [field.annotation for field in kind.model_fields.values()]
        found = [part for part in inner if isinstance(part, type) and issubclass(part, BaseModel)]
        return [kind, *(deep for part in found for deep in parts(part))]

    for kind in parts(method[1].Config):
        assert kind.model_config.get("frozen"), kind
        assert kind.model_config.get("extra") == "forbid", kind


def test_its_template_holds_every_option_with_its_default(method: tuple[str, ModuleType], tmp_path: Path) -> None:
    name, module = method
    text = files("wsikit.configs").joinpath(f"{name}.yaml").read_text("utf-8")
    file = tmp_path / f"{name}.yaml"
    file.write_text(text, "utf-8")
    assert load_config(module.Config, file) == module.Config()
    assert not _missing(yaml.safe_load(text), module.Config().model_dump())


def _missing(told: Any, wanted: Any, within: str = "") -> list[str]:
    """Options that a template leaves out; of a recipe it may say only what the method changes, and of a part that comes
    ready-made its name."""
    if not isinstance(wanted, dict) or isinstance(told, str) or set(wanted) == set(Recipe.model_fields):
        return []
    return [
        missing
        for key, value in wanted.items()
        for missing in ([within + key] if key not in told else _missing(told[key], value, f"{within}{key}."))
    ]


def test_it_has_the_files_and_a_readme(method: tuple[str, ModuleType]) -> None:
    folder = Path(str(method[1].__file__)).parent
    assert {f"{file}.py" for file in FILES} <= {path.name for path in folder.iterdir()}
    readme = (folder / "README.md").read_text("utf-8")
    for heading in ("## Deviations", "## Commands", "## Figures", "## Data"):
        assert heading in readme, f"{folder.name}/README.md lacks {heading}"


def test_every_public_function_says_what_it_raises(method: tuple[str, ModuleType]) -> None:
    for function in ("train", "load_predictor", "dataset"):
        assert "Raises" in (inspect.getdoc(getattr(method[1], function)) or ""), function


def test_its_name_runs_its_checkpoints(method: tuple[str, ModuleType], tmp_path: Path) -> None:
    from wsikit.errors import ConfigError
    from wsikit.predictors import load_predictor

    with pytest.raises(ConfigError, match="nothing"):
        load_predictor(f"{method[0]}:{tmp_path / 'nothing.safetensors'}")
