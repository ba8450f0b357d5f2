"""Configuration: YAML and ``key=value`` overrides to frozen models. Unknown keys are errors that name the nearest."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, ValidationError
from pydantic.fields import FieldInfo

from wsikit.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)


class TissueConfig(BaseModel):
    """Where to look on slides: what every verb can be told that cuts them into patches."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    verb: ClassVar[str] = ""
    """The command that it is for."""

    mpp_override: float | None = Field(default=None, gt=0)
    """Micrometres per level-0 pixel for every slide, whatever its file says. A manifest's mpp column wins."""
    tissue: Literal["auto", "detect", "whole"] = "auto"
    """Where to look: auto detects tissue on slides and takes plain images whole."""
    tissue_class: tuple[str, ...] = ()
    """Classes that mean tissue, where a manifest's mask_path is an annotation file; empty is every area in it."""
    roi: Path | None = None
    """Annotation file (QuPath GeoJSON, ASAP or Aperio XML, DSA JSON) of the one slide, or folder with one per slide,
    named like it: only windows that touch an area are run, and only what lies inside is kept, to the precision of the
    outline. A manifest's roi_path wins. Thresholds are bound on all tissue, so that results are those of a whole run.
    """
    roi_class: tuple[str, ...] = ()
    """Classes of ``roi`` that count; empty is every area in it."""
    qc: str | None = None
    """Which patches are good enough to be run: limits on sharpness, pen, fold and saturation, such as
    "pen<=0.1,sharpness>=10", or "default"; null is all of them."""
    isolate: bool = False
    """Read slides in child processes with limits of time and memory, for files that nobody vouches for: what crashes,
    hangs or swells a library costs a tile or a slide. Changes speed, never results."""
    num_workers: int | None = Field(default=None, ge=1)
    """What works at once, processes or threads; null is one per core."""
    provenance: dict[str, Any] = Field(default_factory=dict)
    """Written by a run into run.yaml, ignored when read: versions, command, time."""


UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def _bytes(value: Any) -> Any:
    """Bytes of "4G", "800M", "1.5 GiB" or a number; units are powers of 1024."""
    if not isinstance(value, str):
        return value
    text = value.strip().upper().removesuffix("B").removesuffix("I")
    unit = UNITS.get(text[-1:], 1)
    try:
        return int(float(text[:-1] if unit > 1 else text) * unit)
    except (ValueError, OverflowError):
        raise ValueError('give bytes, such as "4G", "800M" or 4000000000') from None


class RunConfig(TissueConfig):
    """Everything that ``wsikit run`` can be told."""

    verb: ClassVar[str] = "run"

    model: str = "nuclei"
    """Name of a predictor (`wsikit models` lists them), predictor.py:MyPredictor, or a model file with its card."""
    mpp: float | None = Field(default=None, gt=0)
    """Micrometres per pixel that the model sees; null is the model's own."""
    stain: str | None = None
    """Stain normalisation, METHOD:REFERENCE (``wsikit.stain.reference.load_target``) such as "macenko:reference.png";
    null leaves colours as they are."""
    min_tissue: float | None = Field(default=None, ge=0, le=1)
    """Smallest share of tissue of what of a patch lies on the slide; null is the model's own."""
    batch_size: int | None = Field(default=None, ge=1)
    """Patches per call of the model; null is as many as make 4 megapixels."""
    supertile: int | None = Field(default=None, ge=1)
    """Side in pixels of what a task reads at once; null is 4096. Changes speed and memory, never results."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs."""
    cluster: str = "local"
    """Where tasks run: local (supervised children of this process), threads (this process), slurm, or the address of a
    dask scheduler, tcp://host:8786. Changes speed, never results."""
    cluster_options: Path | None = None
    """YAML file of what SLURM is asked for (cores, memory, walltime, jobs); configs/slurm.yaml is one."""
    gpus: Literal["all"] | tuple[int, ...] = ()
    """GPUs of this machine, one worker for each; empty leaves the choice to ``device``. With a cluster "all" means that
    its workers must have some."""
    task_timeout: float = Field(default=1800, gt=0)
    """Seconds that a task (a super-tile, finding tissue) may take before its worker counts as hanging and is ended."""
    max_memory: Annotated[PositiveInt | None, BeforeValidator(_bytes)] = None
    """Most resident memory of all processes of a run: "4G", "800M" or bytes. Sizes that fit are chosen, and a run that
    cannot fit does not begin; a worker that takes more than its share is ended. Changes speed, never results."""
    format: tuple[str, ...] = ("geojson.gz", "omezarr")
    """Outputs to write."""
    ngff: Literal["0.4", "0.5"] = "0.4"
    """OME-Zarr version: 0.4 is what QuPath and Bio-Formats read, 0.5 has sharding (few files)."""
    split: int | None = Field(default=None, ge=1)
    """More objects than this go to several GeoJSON files; null never splits."""

    def result_parameters(self) -> dict[str, Any]:
        """Those that decide what the outputs hold; the others only decide how fast they come.

        Files that count by what they hold (``roi``, the reference of ``stain``) are left out, and of a model's file all
        but the name: wherever they lie.
        """
        speed = {"batch_size", "num_workers", "supertile", "isolate", "device", "provenance"}
        speed |= {"cluster", "cluster_options", "gpus", "task_timeout", "max_memory"}
        values = self.model_dump(mode="json", exclude=speed | {"mpp_override", "roi", "stain"})
        return values | {"model": Path(self.model).name}


class EmbedConfig(RunConfig):
    """Everything that ``wsikit embed`` can be told."""

    verb: ClassVar[str] = "embed"

    model: str = ""
    """The encoder: a timm name, NAME:WEIGHTS, a TorchScript file or a folder with config.json and weights."""
    patch: int | None = Field(default=None, ge=1)
    """Side of the patches in pixels at mpp; null is what the encoder takes."""
    overlap: int = Field(default=0, ge=0)
    """Pixels that neighbouring patches share: even, at most half a patch."""
    precision: Literal["float32", "bfloat16", "float16"] | None = None
    """Arithmetic of the network; the shorter ones are for GPUs and round the features. Null is what the model's card
    says, else float32."""
    format: tuple[str, ...] = ("features.zarr",)
    """Outputs to write: features.zarr, features.h5 (CLAM, TRIDENT)."""


def _switch(value: Any) -> Any:
    """YAML takes a bare ``off`` for false."""
    return {False: "off", True: "auto"}.get(value, value) if isinstance(value, bool) else value


class TileConfig(TissueConfig):
    """Everything that ``wsikit tile`` can be told."""

    verb: ClassVar[str] = "tile"

    mpp: float = Field(default=0.5, gt=0)
    """Micrometres per pixel of the patches."""
    size: PositiveInt | Literal["native"] = 256
    """Side of the patches in pixels at mpp; "native" is that of the file's own tiles."""
    overlap: int = Field(default=0, ge=0)
    """Pixels that neighbouring patches share, less than size."""
    edge: Literal["drop", "pad"] = "drop"
    """Patches that reach past the slide's right and lower edge: left out, or filled up with background."""
    min_tissue: float = Field(default=0.25, ge=0, le=1)
    """Smallest share of tissue of what of a patch lies on the slide; at 0 any tissue at all is enough."""
    coords: Path | None = None
    """Folder of a CLAM run or of ``--format coords``, whose coordinates are cut instead of a grid."""
    format: str = "zarr"
    """What to write: a name of ``wsikit.patches.FORMATS``."""
    passthrough: Literal["auto", "never", "only"] = "auto"
    """Patches that are one JPEG tile of the file keep its bytes: where possible, never, or make only such."""
    verify: bool = False
    """Decode what is passed through as well, so that a damaged tile is found now and not by who reads the patch."""
    quality: int = Field(default=90, ge=1, le=100)
    """JPEG quality of the patches that are encoded."""
    subsampling: Literal["auto", "444", "422", "420"] = "auto"
    """Of their colours; auto: that of the file's own tiles where patches lie on their blocks, else 444 (none)."""
    lossless: bool = False
    """Patches are PNG, unless all of them are passed through."""
    skip_glass: Annotated[Literal["auto", "off"], BeforeValidator(_switch)] = "auto"
    """Leave out patches of which every tile's compressed size is that of glass, where a slide's sizes tell."""
    scaled_decode: bool = True
    """Where mpp lies between two levels, let the codec decode at a reduced size before averaging."""
    cluster: Literal["local", "threads"] | None = None
    """Where slides are cut: local (supervised children of this process: a file that crashes its reader costs its slide)
    or threads (this process, which needs no start); null is local for ``wsikit tile``, threads for ``tile_many``."""
    task_timeout: float = Field(default=21600, gt=0)
    """Seconds that a slide may take before its child counts as hanging and is ended; threads cannot be."""

    def result_parameters(self) -> dict[str, Any]:
        """Those that decide what the outputs hold; the others only decide how fast they come.

        Files that count by what they hold (``roi``, ``coords``) are left out: wherever they lie. ``isolate`` counts,
        since no tile is passed through from another process.
        """
        free = {"num_workers", "provenance", "mpp_override", "roi", "coords", "cluster", "task_timeout"}
        return self.model_dump(mode="json", exclude=free)


def load_config(
    kind: type[Model],
    file: str | Path | None = None,
    overrides: Iterable[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> Model:
    """Build a configuration: defaults, then the file, then ``key=value`` overrides, then flags.

    Args:
        kind: the model to fill.
        file: YAML with a mapping at the top.
        overrides: ``key=value``; the value is read as YAML, so ``mpp=0.25`` is a number and ``mpp=null`` is none. A
            dotted key is one of a part: ``counter.recipe.epochs=3``.
        flags: values given on the command line; None means not given.

    Raises:
        ConfigError: the file cannot be read, a key is unknown (the nearest is named) or a value does not fit.
    """
    values = _read(file) if file is not None else {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"--set takes key=value, got {override!r}")
        try:
            _place(values, key.strip(), yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {override!r}: the value is not YAML: {error}") from error
    values |= {key: value for key, value in (flags or {}).items() if value is not None}
    _check_keys(kind, values)
    try:
        return kind.model_validate(_completed(kind.model_fields, values))
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, item['loc']))}={item.get('input')!r}: {item['msg']}" for item in error.errors()
        )
        raise ConfigError(f"wrong configuration: {wrong}") from error


def _place(values: dict[str, Any], key: str, value: Any) -> None:
    """Put a value where its dotted key says; what is no mapping on the way gives way to one."""
    *parts, last = key.split(".")
    for part in parts:
        inner = values.get(part)
        values[part] = dict(inner) if isinstance(inner, Mapping) else {}
        values = values[part]
    values[last] = value


def _completed(fields: Mapping[str, FieldInfo], values: Mapping[str, Any]) -> dict[str, Any]:
    """Parts of which only some options are given keep the rest of this kind's default for them, which is another than
    that of the part's class: ``counter.recipe.threads=1`` must leave the counter's batch size alone."""
    return {key: _over(fields[key].default, value) for key, value in values.items()}


def _over(default: Any, value: Any) -> Any:
    # a part that cannot be made of nothing, such as a schema, is a value of its own
    if not (isinstance(default, BaseModel) and isinstance(value, Mapping)):
        return value
    fields = type(default).model_fields
    if any(field.is_required() for field in fields.values()):
        return value
    own = {name: getattr(default, name) for name in fields}
    return own | {key: _over(own[key], inner) for key, inner in value.items()}


def _check_keys(kind: type[BaseModel], values: Mapping[str, Any], within: str = "") -> None:
    for key, value in values.items():
        if key not in kind.model_fields:
            near = difflib.get_close_matches(str(key), kind.model_fields, n=1)
            hint = f"did you mean {within + near[0]!r}?" if near else f"the keys are: {', '.join(kind.model_fields)}"
            raise ConfigError(f"there is no option {within + str(key)!r}; {hint}")
        part = kind.model_fields[key].annotation
        if isinstance(value, Mapping) and isinstance(part, type) and issubclass(part, BaseModel):
            _check_keys(part, value, f"{within}{key}.")


def _read(file: str | Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(Path(file).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the configuration {file}: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{file} must hold a mapping of options at the top, got a {type(values).__name__}")
    return values
