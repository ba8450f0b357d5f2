"""Encoders: what a name means, what is refused, and the same vectors however they are asked for."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from tests.nn.conftest import hub_folder, weights
from wsikit.errors import ConfigError, PredictionError, UnknownNameError
from wsikit.geometry import Region
from wsikit.nn.device import CPU_BATCH
from wsikit.nn.encoders import NetworkEncoder, load_encoder
from wsikit.nn.weights import sha256
from wsikit.predictions import Batch, Encoder


def patches(count: int, side: int = 64, seed: int = 0) -> Batch:
    images = np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return Batch(images, tuple(Region(side * i, 0, side, side, 0.5) for i in range(count)))


def part(batch: Batch, chosen: list[int]) -> Batch:
    return Batch(batch.images[chosen], tuple(batch.regions[i] for i in chosen))


def direct(module: Any, encoder: NetworkEncoder, batch: Batch) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The vectors by the network alone, in passes of the encoder's size."""
    torch.set_num_threads(1)
    with torch.inference_mode():
        return module.eval()(encoder.preprocess(torch.from_numpy(batch.images))).numpy()  # type: ignore[no-any-return]


def small(folder: Path, **options: Any) -> NetworkEncoder:
    return load_encoder(str(folder), device="cpu", **options)


def test_it_meets_the_protocol_and_says_what_it_is(folder: Path) -> None:
    encoder = small(folder)
    assert isinstance(encoder, Encoder)
    assert (encoder.name, encoder.width, encoder.tile.patch) == ("small", 512, 64)
    identity = encoder.identity
    assert identity["sha256"] == sha256(folder / "model.safetensors")
    assert identity["preprocess"]["std"] == [0.25, 0.25, 0.25]
    assert json.loads(json.dumps(identity)) == identity


def test_vectors_are_those_of_the_network(folder: Path) -> None:
    encoder, batch = small(folder), patches(CPU_BATCH)
    module = timm.create_model("resnet18", num_classes=0)
    module.load_state_dict(load_file(folder / "model.safetensors"))
    assert np.array_equal(encoder.embed(batch), direct(module.to(memory_format=torch.channels_last), encoder, batch))


def test_a_patch_has_one_vector_whatever_it_is_batched_with(folder: Path) -> None:
    encoder, batch = small(folder), patches(2 * CPU_BATCH + 3)
    whole = encoder.embed(batch)
    for chosen in ([0], [5, 2], list(range(18, 3, -1))):
        assert np.array_equal(encoder.embed(part(batch, chosen)), whole[chosen])


@pytest.fixture(scope="module")
def efficientnet(tmp_path_factory: pytest.TempPathFactory) -> NetworkEncoder:
    """A network whose last bits depend on the size of a pass, and whose names look like DINOv2's chunks of blocks."""
    path = weights("tf_efficientnet_lite0", tmp_path_factory.mktemp("lite0") / "lite0.safetensors")
    return load_encoder(f"tf_efficientnet_lite0:{path}", device="cpu")


def test_passes_have_one_size_where_it_moves_the_last_bits(efficientnet: NetworkEncoder) -> None:
    batch = patches(2 * CPU_BATCH + 3, side=224)
    whole = efficientnet.embed(batch)
    assert not np.array_equal(replace(efficientnet, batch=4 * CPU_BATCH).embed(batch), whole), "else this tests nothing"
    for chosen in ([0], [9, 2], list(range(18, 3, -1))):
        assert np.array_equal(efficientnet.embed(part(batch, chosen)), whole[chosen])


def test_the_batch_size_of_a_run_does_not_change_vectors_on_the_cpu(folder: Path) -> None:
    batch = patches(11)
    assert np.array_equal(small(folder, batch_size=1).embed(batch), small(folder, batch_size=100).embed(batch))


def test_other_intra_op_threads_change_nothing(folder: Path) -> None:
    encoder, batch = small(folder), patches(5)
    first = encoder.embed(batch)
    torch.set_num_threads(2)
    assert np.array_equal(encoder.embed(batch), first)


def test_no_patches_give_no_vectors(folder: Path) -> None:
    assert small(folder).embed(Batch(np.zeros((0, 64, 64, 3), np.uint8), ())).shape == (0, 512)


def test_it_pickles_small_and_gives_the_same_in_another_process(folder: Path, tmp_path: Path) -> None:
    encoder, batch = small(folder), patches(3)
    data = pickle.dumps((encoder, batch))
    assert len(data) < 100_000
    (tmp_path / "in.pickle").write_bytes(data)
    code = (
        "import pickle, sys, numpy; encoder, batch = pickle.load(open(sys.argv[1], 'rb'));"
        "numpy.save(sys.argv[2], encoder.embed(batch))"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "in.pickle", tmp_path / "out.npy"], check=True)
    assert np.array_equal(np.load(tmp_path / "out.npy"), encoder.embed(batch))


def test_a_patch_of_another_size_is_resized_to_what_the_network_takes(folder: Path) -> None:
    encoder = small(folder, patch=128)
    assert encoder.tile.patch == 128
    assert encoder.embed(patches(2, side=128)).shape == (2, 512)


def test_overlap_becomes_the_halo_of_the_windows(folder: Path) -> None:
    tile = small(folder, overlap=16, mpp=0.25, min_tissue=0.1).tile
    assert (tile.patch, tile.core, tile.halo, tile.mpp, tile.min_tissue) == (64, 48, 8, 0.25, 0.1)


@pytest.mark.parametrize("overlap", [3, -2, 34])
def test_an_overlap_that_cannot_be_is_refused(folder: Path, overlap: int) -> None:
    with pytest.raises(ConfigError, match="even number"):
        small(folder, overlap=overlap)


def test_shorter_precision_is_another_identity(folder: Path) -> None:
    full, short = small(folder), small(folder, precision="bfloat16")
    batch = patches(2)
    assert full.identity != short.identity
    assert short.embed(batch).dtype == np.float32
    assert 0 < np.abs(full.embed(batch) - short.embed(batch)).max() < 0.5


def test_a_name_with_weights_is_a_timm_network(resnet: Path) -> None:
    encoder = load_encoder(f"resnet10t:{resnet}", device="cpu")
    assert (encoder.name, encoder.width, encoder.tile.patch) == ("resnet10t", 512, 176)
    assert encoder.identity["architecture"] == "resnet10t"


@pytest.mark.parametrize(("suffix", "wrap"), [(".bin", "plain"), (".pth", "state_dict"), (".pth", "module")])
def test_checkpoints_give_the_vectors_of_safetensors(resnet: Path, tmp_path: Path, suffix: str, wrap: str) -> None:
    state: Any = load_file(resnet)
    if wrap == "module":
        state = {f"module.{key}": value for key, value in state.items()}
    torch.save({"state_dict": state, "epoch": 3} if wrap == "state_dict" else state, tmp_path / f"w{suffix}")
    batch = patches(2)
    one, two = (load_encoder(f"resnet10t:{path}", device="cpu") for path in (resnet, tmp_path / f"w{suffix}"))
    assert np.array_equal(one.embed(batch), two.embed(batch))


def test_a_checkpoint_that_would_run_code_is_refused_and_does_not(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"state_dict": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(ConfigError, match="no whole checkpoint") as caught:
        load_encoder(f"resnet10t:{tmp_path / 'trap.pth'}")
    assert caught.value.code == "bad_weights"
    assert not (tmp_path / "ran").exists()


def test_pretrained_weights_that_are_not_here_are_an_error_and_not_random_ones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ConfigError, match="not on this machine") as caught:
        load_encoder("resnet10t")
    assert caught.value.code == "no_weights"
    assert "resnet10t:WEIGHTS" in caught.value.remedy


def test_pretrained_weights_in_the_local_cache_are_used(
    monkeypatch: pytest.MonkeyPatch, resnet: Path, tmp_path: Path
) -> None:
    asked = []

    def cached(repository: str, name: str) -> str | None:
        asked.append((repository, name))
        return str(resnet) if name == "model.safetensors" else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    assert load_encoder("resnet10t", device="cpu").identity["sha256"] == sha256(resnet)
    assert asked[0][0].startswith("timm/resnet10t")


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="resnet18"):
        load_encoder("resnt18")


@pytest.mark.parametrize(
    ("spec", "code"), [("", "bad_config"), ("none.pt", "no_weights"), ("resnet10t:none.safetensors", "no_weights")]
)
def test_what_is_not_there_is_said(spec: str, code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_encoder(spec)
    assert caught.value.code == code


def test_weights_without_their_network_are_refused(resnet: Path) -> None:
    with pytest.raises(ConfigError, match="without their network") as caught:
        load_encoder(str(resnet))
    assert f"ARCHITECTURE:{resnet}" in caught.value.remedy


def test_a_truncated_file_is_said_to_be_cut_short(resnet: Path, tmp_path: Path) -> None:
    data = resnet.read_bytes()
    for name, kept in (("half.safetensors", len(data) // 2), ("head.safetensors", 4), ("empty.safetensors", 0)):
        (tmp_path / name).write_bytes(data[:kept])
        with pytest.raises(ConfigError, match="no whole safetensors") as caught:
            load_encoder(f"resnet10t:{tmp_path / name}")
        assert caught.value.code == "bad_weights"


def test_weights_of_another_network_are_listed(resnet: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing: .*unexpected: ") as caught:
        load_encoder(f"vit_tiny_patch16_224:{resnet}")
    assert caught.value.code == "weights_mismatch"


def test_weights_of_another_shape_are_named(resnet: Path, tmp_path: Path) -> None:
    state = load_file(resnet)
    state["conv1.0.weight"] = state["conv1.0.weight"][:, :1].contiguous()
    save_file(state, tmp_path / "grey.safetensors")
    with pytest.raises(ConfigError, match=r"conv1.0.weight is \(\d+, 1, 3, 3\), \(\d+, 3, 3, 3\) is needed"):
        load_encoder(f"resnet10t:{tmp_path / 'grey.safetensors'}")


def test_weights_that_change_under_a_run_are_noticed(tmp_path: Path) -> None:
    encoder = small(hub_folder(tmp_path / "changing"))
    (tmp_path / "changing" / "model.safetensors").write_bytes(b"other")
    with pytest.raises(ConfigError, match="changed while"):
        encoder.network.load()


@pytest.mark.parametrize(
    ("config", "message"),
    [(None, "config.json cannot be read"), ("{}", "names no timm architecture"), ("[1]", "must hold an object")],
)
def test_a_folder_without_a_usable_config_says_what_it_needs(tmp_path: Path, config: str | None, message: str) -> None:
    folder = hub_folder(tmp_path / "hub")
    (folder / "config.json").unlink()
    if config is not None:
        (folder / "config.json").write_text(config)
    with pytest.raises(ConfigError, match=message):
        load_encoder(str(folder))


def test_a_folder_without_weights_or_with_several_is_refused(tmp_path: Path) -> None:
    folder = hub_folder(tmp_path / "hub")
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    assert load_encoder(str(folder), device="cpu").width == 512
    (folder / "two.pth").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"found one.safetensors, two.pth"):
        load_encoder(str(folder))
    (folder / "one.safetensors").unlink()
    (folder / "two.pth").unlink()
    with pytest.raises(ConfigError, match="found none"):
        load_encoder(str(folder))


def dino(folder: Path, state: dict[str, Any], config: dict[str, Any]) -> NetworkEncoder:
    folder.mkdir()
    torch.save(state, folder / "checkpoint.pth")
    (folder / "config.json").write_text(json.dumps(config))
    return load_encoder(str(folder), device="cpu")


VIT = "vit_tiny_patch16_224"


def test_a_dino_teacher_gives_its_class_token(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = timm.create_model(VIT, num_classes=0, img_size=64)
    teacher = {f"module.backbone.{key}": value for key, value in module.state_dict().items()}
    teacher["module.head.mlp.0.weight"] = torch.zeros(2, 2)
    config = {"architecture": VIT, "model_args": {"img_size": 64}, "pretrained_cfg": {"input_size": [3, 64, 64]}}
    encoder = dino(tmp_path / "dino", {"student": {"a": torch.zeros(1)}, "teacher": teacher, "epoch": 3}, config)
    batch = patches(CPU_BATCH)
    assert encoder.width == 192
    assert np.array_equal(encoder.embed(batch), direct(module, encoder, batch))


def test_a_dinov2_teacher_with_registers_and_chunked_blocks_is_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = {"img_size": 64, "reg_tokens": 4, "no_embed_class": True, "init_values": 0.1}
    module = timm.create_model(VIT, num_classes=0, **made)
    state = {"mask_token": torch.zeros(1, 192)}
    for key, value in module.state_dict().items():
        chunked = re.sub(r"^blocks\.(\d+)\.", lambda found: f"blocks.{int(found[1]) // 6}.{found[1]}.", key)
        state[chunked.replace("reg_token", "register_tokens")] = value
    # DINOv2 keeps a position for the class token, which timm adds to the token
    state["pos_embed"] = torch.cat([torch.zeros(1, 1, 192), state["pos_embed"]], dim=1)
    config = {"architecture": VIT, "model_args": made, "pretrained_cfg": {"input_size": [3, 64, 64]}}
    encoder = dino(tmp_path / "dinov2", {f"teacher.backbone.{k}": v for k, v in state.items()}, config)
    batch = patches(CPU_BATCH)
    assert np.array_equal(encoder.embed(batch), direct(module, encoder, batch))


def test_positions_of_another_image_size_are_resampled(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = timm.create_model(VIT, num_classes=0, img_size=64)
    config = {"architecture": VIT, "model_args": {"img_size": 96}, "pretrained_cfg": {"input_size": [3, 96, 96]}}
    encoder = dino(tmp_path / "larger", module.state_dict(), config)
    assert (encoder.tile.patch, encoder.embed(patches(1, 96)).shape) == (96, (1, 192))


class Wrapped(torch.nn.Module):
    """A network whose answer is not what an encoder should give."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor) -> Any:
        if self.kind == "tuple":
            return x.mean((2, 3)), x
        return x.mean((2, 3)) if self.kind == "good" else x.mean((2, 3), keepdim=True)


def scripted(kind: str, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.trace(Wrapped(kind), torch.zeros(2, 3, 8, 8)).save(path)  # type: ignore[no-untyped-call]
    return path


def test_a_torchscript_file_is_an_encoder(tmp_path: Path) -> None:
    encoder = load_encoder(str(scripted("good", tmp_path / "mean.pt")), device="cpu", patch=32)
    batch = patches(3, 32)
    want = (batch.images / 255.0 - encoder.preprocess.mean).mean((1, 2)) / encoder.preprocess.std
    assert np.allclose(encoder.embed(batch), want, atol=1e-4)
    assert encoder.width == 3


def card(path: Path, **values: Any) -> Path:
    facts = {"name": "mean", "task": "embedding", "mpp": 1.0, "patch": 32, "mean": [0, 0, 0], "std": [1, 1, 1]}
    path.write_text(json.dumps({**facts, **values}))
    return path


def test_the_card_of_a_torchscript_file_says_how_it_sees(tmp_path: Path) -> None:
    path = scripted("good", tmp_path / "mean.pt")
    card(tmp_path / "mean.json")
    encoder = load_encoder(str(path), device="cpu")
    assert (encoder.tile.mpp, encoder.tile.patch, encoder.preprocess.mean) == (1.0, 32, (0, 0, 0))
    with pytest.raises(ConfigError, match="50% off") as caught:
        load_encoder(str(path), mpp=0.5)
    assert caught.value.code == "wrong_mpp"


def test_the_card_says_the_precision_unless_something_else_is_asked_for(tmp_path: Path) -> None:
    path = scripted("good", tmp_path / "mean.pt")
    card(tmp_path / "mean.json", precision="bfloat16")
    assert load_encoder(str(path), device="cpu").precision == "bfloat16"
    assert load_encoder(str(path), device="cpu", precision="float32").precision == "float32"
    card(tmp_path / "mean.json")
    assert load_encoder(str(path), device="cpu").precision == "float32"


def test_a_card_that_is_no_encoders_or_is_broken_is_refused(tmp_path: Path) -> None:
    path = scripted("good", tmp_path / "mean.pt")
    card(tmp_path / "mean.json", task="classification", labels=["a", "b"], activation="softmax")
    with pytest.raises(ConfigError, match="does classification"):
        load_encoder(str(path))
    card(tmp_path / "mean.json", mpp="fine")
    with pytest.raises(ConfigError, match="mpp"):
        load_encoder(str(path))


@pytest.mark.parametrize(("kind", "message"), [("tuple", "gave a tuple"), ("map", r"shape \(8, 3, 1, 1\)")])
def test_a_network_that_gives_no_row_per_patch_is_refused(tmp_path: Path, kind: str, message: str) -> None:
    with pytest.raises(PredictionError, match=message) as caught:
        load_encoder(str(scripted(kind, tmp_path / "odd.pt")), device="cpu", patch=32)
    assert "one pooled vector" in caught.value.remedy


def test_a_state_dict_called_torchscript_is_refused(tmp_path: Path, resnet: Path) -> None:
    torch.save(load_file(resnet), tmp_path / "state.pt")
    with pytest.raises(ConfigError, match="no whole TorchScript") as caught:
        load_encoder(str(tmp_path / "state.pt"))
    assert "ARCHITECTURE:FILE" in caught.value.remedy
