"""Configuration: what wins over what, and what is refused."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from wsikit.config import RunConfig, TileConfig, load_config
from wsikit.errors import ConfigError

TEMPLATES = {name: files("wsikit.configs").joinpath(name).read_text("utf-8") for name in ("run.yaml", "tile.yaml")}
TEMPLATE = TEMPLATES["run.yaml"]
KINDS = {"run.yaml": RunConfig, "tile.yaml": TileConfig}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text("batch_size: 2\nmodel: from-file\nngff: '0.5'\n", "utf-8")
    return path


@pytest.mark.parametrize("name", KINDS)
def test_the_template_holds_the_defaults(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(TEMPLATES[name], "utf-8")
    assert load_config(KINDS[name], path) == KINDS[name]()


@pytest.mark.parametrize("name", KINDS)
def test_the_template_holds_every_option(name: str) -> None:
    # provenance is written by runs, not by people
    assert set(yaml.safe_load(TEMPLATES[name])) == set(KINDS[name].model_fields) - {"provenance"}


@pytest.mark.parametrize(("name", "key"), [(name, key) for name in KINDS for key in yaml.safe_load(TEMPLATES[name])])
def test_every_option_of_the_template_says_what_it_is(name: str, key: str) -> None:
    lines = TEMPLATES[name].splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith(f"{key}:"))
    assert lines[at - 1].startswith("# ")


def test_the_file_wins_over_the_defaults(file: Path) -> None:
    assert load_config(RunConfig, file).batch_size == 2


def test_set_wins_over_the_file(file: Path) -> None:
    assert load_config(RunConfig, file, ["batch_size=3"]).batch_size == 3


def test_flags_win_over_set(file: Path) -> None:
    assert load_config(RunConfig, file, ["batch_size=3"], {"batch_size": 4}).batch_size == 4


def test_a_flag_not_given_overrides_nothing(file: Path) -> None:
    assert load_config(RunConfig, file, (), {"batch_size": None, "model": None}).model == "from-file"


def test_the_last_of_two_settings_wins() -> None:
    assert load_config(RunConfig, None, ["split=1", "split=2"]).split == 2


def test_set_can_unset(file: Path) -> None:
    file.write_text("mpp: 0.25\n", "utf-8")
    assert load_config(RunConfig, file, ["mpp=null"]).mpp is None


class _Inner(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    epochs: int = 40
    rate: float = 0.1


class _Outer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    part: _Inner = _Inner()


def test_a_dotted_key_sets_one_option_of_a_part(tmp_path: Path) -> None:
    file = tmp_path / "outer.yaml"
    file.write_text("part: {rate: 0.5}", "utf-8")
    assert load_config(_Outer, file, ["part.epochs=3"]).part == _Inner(epochs=3, rate=0.5)


@pytest.mark.parametrize(("override", "said"), [("part.epoch=3", "'part.epochs'"), ("prt.epochs=3", "'part'")])
def test_an_unknown_dotted_key_names_the_nearest(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean {said}"):
        load_config(_Outer, None, [override])


def test_set_reads_values_as_yaml() -> None:
    chosen = load_config(RunConfig, None, ["mpp=0.25", "format=[omezarr]"])
    assert (chosen.mpp, chosen.format) == (0.25, ("omezarr",))


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n"])
def test_an_empty_file_changes_nothing(file: Path, text: str) -> None:
    file.write_text(text, "utf-8")
    assert load_config(RunConfig, file) == RunConfig()


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no option 'batchsize'; did you mean 'batch_size'\?"):
        load_config(RunConfig, None, ["batchsize=3"])


def test_an_unknown_key_in_a_file_is_refused(file: Path) -> None:
    file.write_text("suppertile: 512\n", "utf-8")
    with pytest.raises(ConfigError, match="did you mean 'supertile'"):
        load_config(RunConfig, file)


def test_a_far_key_lists_the_keys() -> None:
    with pytest.raises(ConfigError, match=r"'zzz'; the keys are: mpp_override, "):
        load_config(RunConfig, None, ["zzz=3"])


@pytest.mark.parametrize(
    "override",
    [
        *("mpp=0", "mpp=-1", "mpp=fast", "mpp=.nan", "batch_size=0", "batch_size=1.5", "num_workers=0", "supertile=0"),
        *("min_tissue=1.1", "min_tissue=-0.1", "min_tissue=.nan", "tissue=some", "device=tpu", "ngff=0.6", "split=0"),
        *("format=geojson.gz", "model=[a]"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_name(override: str) -> None:
    with pytest.raises(ConfigError, match=f"wrong configuration: {override.partition('=')[0]}"):
        load_config(RunConfig, None, [override])


@pytest.mark.parametrize(("override", "said"), [("mpp", "key=value"), ("mpp=[1", "not YAML")])
def test_a_setting_that_cannot_be_read_is_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(RunConfig, None, [override])


@pytest.mark.parametrize("content", [b"- a\n- b\n", b"just text", b"a: [1", b"\xff\xfe"])
def test_a_file_that_is_no_mapping_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        load_config(RunConfig, file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*none\.yaml"):
        load_config(RunConfig, tmp_path / "none.yaml")


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(ValidationError):
        RunConfig().batch_size = 3


@pytest.mark.parametrize("key", ["batch_size", "num_workers", "supertile", "isolate", "device", "provenance"])
def test_what_changes_only_the_speed_is_no_result_parameter(key: str) -> None:
    assert key not in RunConfig().result_parameters()


@pytest.mark.parametrize("key", ["model", "mpp", "tissue", "min_tissue", "format", "ngff", "split"])
def test_what_changes_the_outputs_is_a_result_parameter(key: str) -> None:
    assert key in RunConfig().result_parameters()


def test_a_configuration_written_out_loads_again(tmp_path: Path) -> None:
    chosen = RunConfig(mpp=0.25, format=("omezarr",), provenance={"command": "wsikit run -i \udcff"})
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(chosen.model_dump(mode="json"), allow_unicode=True), "utf-8")
    assert load_config(RunConfig, path) == chosen


@pytest.mark.parametrize(("text", "value"), [("off", "off"), ("auto", "auto"), ("on", "auto")])
def test_a_bare_off_is_off(text: str, value: str) -> None:
    """YAML takes it for false."""
    assert load_config(TileConfig, overrides=[f"skip_glass={text}"]).skip_glass == value


@pytest.mark.parametrize("key", ["num_workers=2", "roi=a.geojson", "coords=there"])
def test_speed_and_places_of_files_are_no_parameters_of_patches(key: str) -> None:
    assert load_config(TileConfig, overrides=[key]).result_parameters() == TileConfig().result_parameters()


@pytest.mark.parametrize("size", ["0", "-3", "nativ", "1.5"])
def test_a_size_of_patches_is_a_number_or_native(size: str) -> None:
    with pytest.raises(ConfigError, match="size"):
        load_config(TileConfig, overrides=[f"size={size}"])


class _Steps(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    epochs: int = 40
    batch: int = 16


class _Stage(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    width: int = 3
    steps: _Steps = _Steps(epochs=7, batch=2)


class _Named(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    size: int = 1


class _Whole(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    stage: _Stage = _Stage(width=5)
    named: _Named = _Named(name="a", size=9)


@pytest.mark.parametrize("way", ["set", "file"])
def test_a_part_given_in_part_keeps_the_rest_of_its_own_default(way: str, tmp_path: Path) -> None:
    """Not of its class: one option more had silently changed all others."""
    file = tmp_path / "some.yaml"
    file.write_text("stage: {steps: {epochs: 1}}", "utf-8")
    given = (None, ["stage.steps.epochs=1"]) if way == "set" else (file, [])
    assert load_config(_Whole, *given) == _Whole(stage=_Stage(width=5, steps=_Steps(epochs=1, batch=2)))


def test_a_part_that_is_a_value_of_its_own_takes_nothing_from_the_default() -> None:
    assert load_config(_Whole, None, ["named={name: b}"]).named == _Named(name="b", size=1)
