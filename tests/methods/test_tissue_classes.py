"""Class schemas: the facts of the data sets, what a schema refuses, and how a configuration names one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from wsikit.config import load_config
from wsikit.errors import ConfigError, UnknownNameError
from wsikit.methods.cam_onss.classes import (
    BCSS_WSSS,
    IGNORED,
    IGNORED_RGB,
    LUAD_HISTOSEG,
    SCHEMAS,
    WSSS4LUAD,
    ClassSchema,
    Schema,
    TissueClass,
    find_schema,
)


def one(code: str = "A", rgb: tuple[int, int, int] = (1, 2, 3), **changed: Any) -> TissueClass:
    return TissueClass(**({"code": code, "name": code, "rgb": rgb, "qupath_name": code, "qupath_rgb": rgb} | changed))


PAIR = (one("A", (255, 0, 0)), one("B", (0, 255, 0)))


class Told(BaseModel):
    """A method's configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    verb: ClassVar[str] = "train"
    classes: Schema = LUAD_HISTOSEG


def test_the_order_of_classes_is_the_data_sets_own() -> None:
    assert LUAD_HISTOSEG.codes == ("TE", "NEC", "LYM", "TAS")
    assert BCSS_WSSS.codes == ("TUM", "STR", "LYM", "NEC")
    assert WSSS4LUAD.codes == ("TUM", "STR", "NOR")


def test_colours_are_the_data_sets_own() -> None:
    assert LUAD_HISTOSEG.colours == {
        0: (205, 51, 51),
        1: (0, 255, 0),
        2: (65, 105, 225),
        3: (255, 165, 0),
        4: (255, 255, 255),
        255: (0, 0, 0),
    }
    assert [BCSS_WSSS.colours[k] for k in range(4)] == [(255, 0, 0), (0, 255, 0), (0, 0, 255), (153, 0, 255)]


def test_only_some_call_white_a_class_of_its_own() -> None:
    assert {name: schema.background for name, schema in SCHEMAS.items()} == {
        "luad_histoseg": True,
        "bcss_wsss": False,
        "wsss4luad": True,
    }
    assert [schema.excluded for schema in SCHEMAS.values()] == [4, 4, 3]
    assert set(LUAD_HISTOSEG.unscored) == {4, IGNORED}


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=lambda schema: schema.name)
def test_code_and_index_are_one(schema: ClassSchema) -> None:
    assert [schema.index(code) for code in schema.codes] == list(range(len(schema.classes)))
    assert schema.index(f" {schema.codes[1].lower()} ") == 1


def test_an_unknown_code_is_told_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'TAS' in bcss_wsss, which has TUM, STR, LYM, NEC") as raised:
        BCSS_WSSS.index("TAS")
    assert (raised.value.code, bool(raised.value.remedy)) == ("unknown_class", True)


def test_the_palette_holds_every_colour_at_its_index() -> None:
    palette = LUAD_HISTOSEG.png_palette()
    assert len(palette) == 768
    assert palette[3:6] == [0, 255, 0]
    assert palette[12:15] == [255] * 3
    assert tuple(palette[765:]) == IGNORED_RGB


def test_labels_of_the_data_set_or_of_qupath() -> None:
    ours, theirs = LUAD_HISTOSEG.labels(), LUAD_HISTOSEG.labels("qupath")
    assert [(label.name, label.color) for label in ours][3] == ("tumour-associated stroma", (255, 165, 0))
    assert [(label.name, label.color) for label in theirs] == [
        ("Tumor", (200, 0, 0)),
        ("Necrosis", (50, 50, 50)),
        ("Immune cells", (160, 90, 160)),
        ("Stroma", (150, 200, 150)),
    ]


def test_the_background_comes_last_and_is_marked() -> None:
    labels = BCSS_WSSS.labels("qupath", background=True)
    assert [label.background for label in labels] == [False] * 4 + [True]
    assert labels[4].name == "Ignore*"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"classes": PAIR[:1]}, "at least 2"),
        ({"classes": (PAIR[0], one("a", (9, 9, 9)))}, "codes must differ"),
        ({"classes": (PAIR[0], one("B", (255, 0, 0)))}, "colours must differ"),
        ({"classes": (PAIR[0], one("B", IGNORED_RGB))}, "colours must differ"),
        ({"excluded": 2, "classes": (PAIR[0], one("B", (255, 255, 255)))}, "colours must differ"),
        ({"excluded": 1}, "which is the class B"),
        ({"background": True}, "needs the index"),
        ({"dialect": "dots"}, "spaces"),
        ({"order": 1}, "Extra inputs"),
    ],
)
def test_schemas_that_contradict_themselves(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ClassSchema(**({"name": "own", "classes": PAIR} | changed))


@pytest.mark.parametrize(
    "changed", [{"code": "1A"}, {"code": "A B"}, {"qupath_name": "Tumor: x"}, {"rgb": (0, 0, 256)}]
)
def test_classes_that_cannot_be_written(changed: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        one(**changed)


def test_a_schema_is_a_value() -> None:
    own = ClassSchema(name="own", classes=PAIR)
    assert own == ClassSchema.model_validate(own.model_dump(mode="json"))
    assert hash(own) == hash(ClassSchema(name="own", classes=PAIR))


def test_a_configuration_names_one() -> None:
    assert load_config(Told, overrides=["classes=bcss_wsss"]).classes is BCSS_WSSS


def test_a_configuration_may_hold_its_own(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        "classes:\n  name: gland\n  excluded: 2\n  classes:\n"
        "  - {code: GL, name: gland, rgb: [200, 0, 0], qupath_name: Gland, qupath_rgb: [200, 0, 0]}\n"
        "  - {code: ST, name: stroma, rgb: [0, 200, 0], qupath_name: Stroma, qupath_rgb: [150, 200, 150]}\n",
        "utf-8",
    )
    schema = load_config(Told, tmp_path / "own.yaml").classes
    assert (schema.codes, schema.unscored, schema.dialect) == (("GL", "ST"), (2, IGNORED), "any")


def test_a_configuration_that_names_none() -> None:
    with pytest.raises(ConfigError, match="luad_histoseg, bcss_wsss, wsss4luad"):
        load_config(Told, overrides=["classes=bcss"])
    with pytest.raises(UnknownNameError, match="luad_histoseg, bcss_wsss, wsss4luad"):
        find_schema("bcss")
