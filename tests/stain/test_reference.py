"""``METHOD:REFERENCE``: every way to name a target, and every way to get it wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.stain.mixtures import Pixels, section, tiles
from wsikit.errors import ConfigError, UnknownNameError
from wsikit.stain.macenko import Macenko
from wsikit.stain.reference import load_target

TISSUE = section(0, 0.3)[:40_000].reshape(200, 200, 3)


def saved(path: Path, pixels: Pixels) -> str:
    Image.fromarray(pixels).save(path)
    return str(path)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_an_image_is_fitted(tmp_path: Path, suffix: str) -> None:
    target = load_target(f"macenko:{saved(tmp_path / f'reference.{suffix}', TISSUE)}")
    assert target.profile == Macenko.fit(TISSUE)
    assert target.reference == f"reference.{suffix}"


def test_a_jpeg_and_transparency_are_fine(tmp_path: Path, data: Path) -> None:
    tile = tiles(data)["template1.png"]
    clear = np.dstack([tile, np.full(tile.shape[:2], 255, np.uint8)])
    assert load_target(f"macenko:{saved(tmp_path / 'a.png', clear)}").profile == Macenko.fit(tile)
    found = load_target(f"macenko:{saved(tmp_path / 'a.jpg', tile)}").profile
    assert isinstance(found, Macenko)
    np.testing.assert_allclose(found.strong, Macenko.fit(tile).strong, rtol=0.1)


def test_a_tiled_tiff_is_an_image_too(data: Path) -> None:
    assert load_target(f"macenko:{data / 'slides' / 'instanseg_HE_example.tif'}").profile.method == "macenko"


def test_macenko_alone_is_the_published_target() -> None:
    target = load_target("macenko")
    assert target.reference == "published"
    assert target.profile.to_json()["strong"] == [1.9705, 1.0308]


def test_the_published_target_is_the_one_that_torchstain_has() -> None:
    normalizers = pytest.importorskip("torchstain.numpy.normalizers", reason="torchstain is in the extra nn")
    theirs, ours = normalizers.NumpyMacenkoNormalizer(), load_target("macenko").profile.to_json()
    assert np.array_equal(np.array(ours["stains"]).T, theirs.HERef)
    assert np.array_equal(ours["strong"], theirs.maxCRef)


@pytest.mark.parametrize("spec", ["reinhard", "reinhard:"])
def test_reinhard_needs_a_reference(spec: str) -> None:
    with pytest.raises(ConfigError, match=r"reinhard:reference\.png"):
        load_target(spec)


def test_an_unknown_method_lists_the_choices() -> None:
    with pytest.raises(UnknownNameError, match=r"choices are: macenko, reinhard.*mean 'macenko'"):
        load_target("macenco:reference.png")


def test_a_profile_is_read_back(tmp_path: Path) -> None:
    profile = Macenko.fit(TISSUE)
    (tmp_path / "profile.json").write_text(json.dumps(profile.to_json()))
    assert load_target(f"macenko:{tmp_path / 'profile.json'}").profile == profile


def test_a_record_of_a_run_stands_for_its_slide(tmp_path: Path) -> None:
    profile = Macenko.fit(TISSUE)
    record = {"slide_id": "a", "bound": {"stain": {"method": "macenko", "profile": profile.to_json()}}}
    (tmp_path / "slide.json").write_text(json.dumps(record))
    assert load_target(f"macenko:{tmp_path / 'slide.json'}").profile == profile


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"bound": {}}', '{"bound": {"stain": {"method": "macenko", "profile": null}}}', "3"],
)
def test_json_without_a_profile_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ConfigError, match=r"the stain reference .*x\.json: ") as caught:
        load_target(f"macenko:{tmp_path / 'x.json'}")
    assert caught.value.code == "bad_reference"


WRONG = {
    "blank": np.full((300, 300, 3), 250, np.uint8),
    "grey": np.repeat(np.random.default_rng(0).integers(60, 200, (300, 300, 1), np.uint8), 3, axis=2),
    "small": TISSUE[:20, :20],
    "flat": np.full((300, 300, 3), (190, 120, 160), np.uint8),
}


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
@pytest.mark.parametrize("name", list(WRONG))
def test_a_reference_that_says_nothing_is_a_clear_error(tmp_path: Path, method: str, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"the stain reference .*{name}\.png: ") as caught:
        load_target(f"{method}:{saved(tmp_path / f'{name}.png', WRONG[name])}")
    assert caught.value.code == "bad_reference"
    assert "well stained tissue" in caught.value.remedy


@pytest.mark.parametrize(("name", "content"), [("a.png", b"no image"), ("b.txt", b"text"), ("c.png", None)])
def test_a_file_that_is_missing_or_no_image_is_a_clear_error(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=f"the stain reference .*{name}: ") as caught:
        load_target(f"macenko:{tmp_path / name}")
    assert caught.value.code == "bad_reference"


def test_a_truncated_image_is_a_clear_error(tmp_path: Path) -> None:
    path = Path(saved(tmp_path / "cut.png", TISSUE))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ConfigError, match=r"cut\.png"):
        load_target(f"macenko:{path}")


def test_a_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="directory"):
        load_target(f"macenko:{tmp_path}")


def test_the_identity_follows_the_file(tmp_path: Path) -> None:
    one = load_target(f"macenko:{saved(tmp_path / 'a.png', TISSUE)}")
    two = load_target(f"macenko:{saved(tmp_path / 'a.png', TISSUE[:199])}")
    assert one.identity != two.identity
    assert one.identity["sha256"] != two.identity["sha256"]
    assert json.loads(json.dumps(one.identity)) == one.identity
