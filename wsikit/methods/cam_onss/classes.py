"""The classes of a tissue data set: their order, codes, colours, and how file names and masks write them.

One ``ClassSchema`` is shared by all that reads labels, paints masks, scores, and exports, so that they cannot disagree
on which class is which: LUAD-HistoSeg and BCSS-WSSS both have four classes, in another order.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from wsikit.errors import ConfigError, UnknownNameError
from wsikit.predictions import Label

Channel = Annotated[int, Field(ge=0, le=255)]
RGB = tuple[Channel, Channel, Channel]
Palette = Literal["dataset", "qupath"]
Dialect = Literal["spaces", "joined", "underscores", "any"]

IGNORED = 255
"""In masks: pixels that nothing is learned from and nothing is scored on, whatever the schema."""
IGNORED_RGB = (0, 0, 0)
WHITE = (255, 255, 255)
QUPATH_WHITE = ("Ignore*", (180, 180, 180))
"""QuPath's own class for what is left out of measurements."""


class TissueClass(BaseModel):
    """One kind of tissue."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    code: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9]*$")
    """Short, as papers and tables have it: TUM, STR."""
    name: str = Field(min_length=1)
    rgb: RGB
    """Of the data set's masks."""
    qupath_name: str = Field(min_length=1, pattern=r"^[^:]+$")
    """Classification in QuPath, where a colon would make a class of a class."""
    qupath_rgb: RGB


class ClassSchema(BaseModel):
    """The classes of a data set, in the order of its labels and of the indices of its masks, from 0."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    classes: tuple[TissueClass, ...] = Field(min_length=2, max_length=250)
    excluded: int | None = Field(default=None, ge=0, le=255)
    """Index by which masks say white, or other than all classes: never scored. None where they have no such pixels."""
    excluded_name: str = "white"
    background: bool = False
    """Whether pseudo masks call white pixels ``excluded``. Not where white belongs to a class, as fat does in BCSS."""
    dialect: Dialect = "any"
    """How file names write labels: [1 0 0 1], [1001], or [1_0_0_1] and [1, 0, 0, 1]. Names in another dialect are
    refused, since they are of another data set, whose order of classes may differ."""

    @model_validator(mode="after")
    def _check(self) -> ClassSchema:
        folded = [one.code.upper() for one in self.classes]
        if len(set(folded)) < len(folded):
            raise ValueError(f"codes must differ, got {', '.join(self.codes)}")
        if self.excluded is not None and self.excluded < len(self.classes):
            raise ValueError(
                f"excluded is {self.excluded}, which is the class {self.codes[self.excluded]}: give {len(self.classes)}"
            )
        if self.background and self.excluded is None:
            raise ValueError("background needs the index that excluded gives it")
        colours = list(self.colours.values())
        if len(set(colours)) < len(colours):
            raise ValueError(
                f"colours must differ from one another, from white where there is an excluded index, and from "
                f"{IGNORED_RGB}, got {colours}"
            )
        return self

    @property
    def codes(self) -> tuple[str, ...]:
        """Of the classes, in their order."""
        return tuple(one.code for one in self.classes)

    def index(self, code: str) -> int:
        """Of the class of this code, in upper or lower case. Raises ConfigError (code unknown_class)."""
        folded = [known.upper() for known in self.codes]
        if code.strip().upper() not in folded:
            raise ConfigError(
                f"there is no class {code!r} in {self.name}, which has {', '.join(self.codes)}",
                code="unknown_class",
                remedy="mend the code, or choose the schema that the data are labelled by",
            )
        return folded.index(code.strip().upper())

    @property
    def colours(self) -> Mapping[int, tuple[int, int, int]]:
        """Every index that a mask may hold -> its colour: classes, excluded, ignored."""
        others = {IGNORED: IGNORED_RGB} | ({} if self.excluded is None else {self.excluded: WHITE})
        return {index: one.rgb for index, one in enumerate(self.classes)} | others

    @property
    def unscored(self) -> tuple[int, ...]:
        """Indices of masks that are no class, rising."""
        return tuple(sorted(index for index in self.colours if index >= len(self.classes)))

    def png_palette(self) -> list[int]:
        """256 x RGB, flat, as ``PIL.Image.putpalette`` takes it; indices without a meaning are mid grey."""
        return list(chain.from_iterable(self.colours.get(index, (128, 128, 128)) for index in range(256)))

    def labels(self, palette: Palette = "dataset", *, background: bool = False) -> tuple[Label, ...]:
        """The classes as a predictor says them.

        Args:
            palette: names and colours of the data set, or those that QuPath knows.
            background: with the excluded class behind them, marked as background.
        """
        qupath = palette == "qupath"
        found = tuple(
            Label(one.qupath_name, one.qupath_rgb) if qupath else Label(one.name, one.rgb) for one in self.classes
        )
        if not background:
            return found
        name, rgb = QUPATH_WHITE if qupath else (self.excluded_name, WHITE)
        return (*found, Label(name, rgb, background=True))


def _classes(*rows: tuple[str, str, RGB, str, RGB]) -> tuple[TissueClass, ...]:
    return tuple(
        TissueClass(code=code, name=name, rgb=rgb, qupath_name=qupath_name, qupath_rgb=qupath_rgb)
        for code, name, rgb, qupath_name, qupath_rgb in rows
    )


# names and colours of QuPath's own classes (its PathClassFactory)
TUMOR: tuple[str, RGB] = ("Tumor", (200, 0, 0))
STROMA: tuple[str, RGB] = ("Stroma", (150, 200, 150))
IMMUNE: tuple[str, RGB] = ("Immune cells", (160, 90, 160))
NECROSIS: tuple[str, RGB] = ("Necrosis", (50, 50, 50))

LUAD_HISTOSEG = ClassSchema(
    name="luad_histoseg",
    classes=_classes(
        ("TE", "tumour epithelium", (205, 51, 51), *TUMOR),
        ("NEC", "necrosis", (0, 255, 0), *NECROSIS),
        ("LYM", "lymphocytes", (65, 105, 225), *IMMUNE),
        ("TAS", "tumour-associated stroma", (255, 165, 0), *STROMA),
    ),
    excluded=4,
    background=True,
    dialect="spaces",
)
"""Lung adenocarcinoma, 224 px at 10x (Han et al., Medical Image Analysis 2022)."""
BCSS_WSSS = ClassSchema(
    name="bcss_wsss",
    classes=_classes(
        ("TUM", "tumour", (255, 0, 0), *TUMOR),
        ("STR", "stroma", (0, 255, 0), *STROMA),
        ("LYM", "lymphocytic infiltrate", (0, 0, 255), *IMMUNE),
        ("NEC", "necrosis", (153, 0, 255), *NECROSIS),
    ),
    excluded=4,
    excluded_name="other",
    dialect="joined",
)
"""Breast cancer of TCGA, 224 px (Amgad et al., Bioinformatics 2019, as cut by Han et al. 2022)."""
WSSS4LUAD = ClassSchema(
    name="wsss4luad",
    classes=_classes(
        ("TUM", "tumour epithelium", (0, 64, 128), *TUMOR),
        ("STR", "tumour-associated stroma", (64, 128, 0), *STROMA),
        ("NOR", "normal tissue", (243, 152, 0), "Normal", (90, 150, 220)),
    ),
    excluded=3,
    background=True,
    dialect="underscores",
)
"""Lung adenocarcinoma of the WSSS4LUAD challenge of 2021."""

SCHEMAS: Mapping[str, ClassSchema] = {one.name: one for one in (LUAD_HISTOSEG, BCSS_WSSS, WSSS4LUAD)}


def find_schema(name: str) -> ClassSchema:
    """A ready-made schema. Raises UnknownNameError, which lists them."""
    if name not in SCHEMAS:
        raise UnknownNameError(
            f"there is no class schema {name!r}; there are {', '.join(SCHEMAS)}",
            remedy="name one of them, or write the classes themselves into the configuration",
        )
    return SCHEMAS[name]


def _named(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in SCHEMAS:
        raise ValueError(f"name one of {', '.join(SCHEMAS)}, or write name and classes themselves")
    return SCHEMAS[value]


Schema = Annotated[ClassSchema, BeforeValidator(_named)]
"""For a field of a configuration: the name of a ready-made schema, or the whole of one."""
