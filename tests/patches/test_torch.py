"""Datasets for PyTorch: every patch once, from any format and any number of workers, and no leaks."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests.patches.planted import SIDE, Planted, planted
from wsikit.errors import ConfigError
from wsikit.geometry import TileSpec
from wsikit.patches import FORMATS
from wsikit.patches.slide import BLOCK, SlideHandle, SlidePatches, cut_slides
from wsikit.patches.torch import UNLABELLED, PatchDataset, PatchStream
from wsikit.pipeline.inputs import SlideEntry
from wsikit.slides import Slide, open_slide
from wsikit.slides.array import array_slide
from wsikit.tissue import TissueMask

SLIDES = (
    ("s1", {"patient": "P1", "split": "train", "label": "Tumour"}),
    ("s2", {"patient": "P1", "split": "train", "label": "Tumour"}),
    ("s3", {"patient": "P2", "split": "test", "label": "Normal"}),
)


def cohort() -> list[Planted]:
    """Three slides of 7, 8 and 9 patches."""
    return [planted(7 + i, seed=i, slide_id=name, **about) for i, (name, about) in enumerate(SLIDES)]


def written(out: Path, slides: list[Planted], name: str = "zarr") -> dict[str, Any]:
    """What to open them with."""
    for slide in slides:
        slide.write(out, name)
    return {"data": out, "slides": {slide.patches.slide_id: slide.slide for slide in slides}}


def seen(samples: Iterable[dict[str, Any]]) -> Counter[tuple[Any, ...]]:
    """Slide, place, pixels and label of every sample of batches."""
    found: Counter[tuple[Any, ...]] = Counter()
    for batch in samples:
        labels = batch["label"].tolist() if "label" in batch else [None] * len(batch["slide"])
        assert batch["image"].dtype == torch.uint8
        rows = zip(batch["slide"], batch["xy"].tolist(), batch["image"], labels, strict=True)
        found.update((slide, *xy, image.numpy().tobytes(), label) for slide, xy, image, label in rows)
    return found


def wanted_of(slides: list[Planted], labels: tuple[str, ...]) -> Counter[tuple[Any, ...]]:
    return Counter(
        (s.patches.slide_id, *xy, image.tobytes(), labels.index(s.patches.label or ""))
        for s in slides
        for xy, image in zip(s.rows.xy.tolist(), s.images, strict=True)
    )


@pytest.mark.parametrize("name", list(FORMATS))
def test_every_patch_comes_by_its_index(name: str, tmp_path: Path) -> None:
    slides = cohort()
    dataset = PatchDataset(**written(tmp_path, slides, name))
    assert dataset.labels == ("Normal", "Tumour")
    assert len(dataset) == 24
    index = 0
    for slide in slides:
        for xy, image in zip(slide.rows.xy, slide.images, strict=True):
            sample = dataset[index]
            assert sample["slide"] == slide.patches.slide_id
            assert sample["label"] == dataset.labels.index(slide.patches.label or "")
            np.testing.assert_array_equal(sample["image"], image)
            np.testing.assert_array_equal(sample["xy"], xy)
            index += 1
    np.testing.assert_array_equal(dataset[-1]["image"], slides[-1].images[-1])
    with pytest.raises(IndexError):
        dataset[24]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["zarr", "webdataset", "folder"])
def test_a_loader_gives_every_patch_once(name: str, workers: int, tmp_path: Path) -> None:
    slides = cohort()
    dataset = PatchDataset(**written(tmp_path, slides, name))
    wanted = wanted_of(slides, dataset.labels)
    dataset[0]  # files that are open when workers are forked
    for data in (dataset, PatchStream(dataset, buffer=5)):
        assert len(data) == 24
        assert seen(DataLoader(data, batch_size=5, num_workers=workers)) == wanted


def test_patches_over_a_slide_that_overlap_lie_where_they_say() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (300, 400, 3), np.uint8)
    slide = array_slide(pixels, 0.5)
    (source,) = cut_slides([slide], TileSpec(0.5, 64, stride=40), None)
    assert (source.patches.patch, source.patches.step) == (64, 40)
    assert {tuple(step) for step in np.diff(source.corners[:3], axis=0)} == {(40, 0)}
    for index in range(len(source)):
        x, y = source.corners[index].tolist()
        if x >= 0 and y >= 0 and x + 64 <= 400 and y + 64 <= 300:
            assert np.array_equal(source.read(index), pixels[y : y + 64, x : x + 64])


@pytest.mark.slow
def test_spawned_workers_open_files_of_their_own(tmp_path: Path, pyramid: Path) -> None:
    slides = cohort()
    dataset = PatchDataset(**written(tmp_path, slides))
    dataset[0]
    over = PatchDataset.over([pyramid], TileSpec(2.0, 96), tissue=None)
    for data in (dataset, over):
        loader: Any = DataLoader(data, batch_size=16, num_workers=2, multiprocessing_context="spawn")
        assert seen(loader) == seen(DataLoader(data, batch_size=16))


@pytest.mark.parametrize("workers", [0, 2])
def test_slides_are_read_with_no_files_in_between(workers: int, pyramid: Path) -> None:
    spec = TileSpec(2.0, 96, halo=16, min_tissue=0.2)
    dataset = PatchDataset.over([SlideEntry("a", pyramid, label="x"), SlideEntry("b", pyramid, label="y")], spec)
    wanted: Counter[tuple[Any, ...]] = Counter()
    with open_slide(pyramid) as slide:
        from wsikit.tiling import TileGrid
        from wsikit.tissue import find_tissue

        for region in TileGrid.cover(slide, spec, find_tissue(slide)):
            image, (x, y, *_) = slide.read(region).tobytes(), region.level0(slide)
            wanted.update([("a", x, y, image, 0), ("b", x, y, image, 1)])
    assert len(wanted) > 60
    for data in (dataset, PatchStream(dataset, buffer=9)):
        found = seen(DataLoader(data, batch_size=7, num_workers=workers))
        rounded = Counter({(s, round(x, 6), round(y, 6), *rest): n for (s, x, y, *rest), n in found.items()})
        assert rounded == Counter({(s, round(x, 6), round(y, 6), *rest): n for (s, x, y, *rest), n in wanted.items()})


def test_blocks_hold_every_patch_once_and_are_read_as_one() -> None:
    class Counting:
        def __init__(self, slide: Slide) -> None:
            self.slide, self.areas = slide, list[int]()

        def read(self, region: Any) -> Any:
            self.areas.append(region.width * region.height)
            return self.slide.read(region)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.slide, name)

    pixels = np.random.default_rng(0).integers(0, 256, (3000, 2600, 3)).astype(np.uint8)
    slide = array_slide(pixels, 0.5)
    [source] = cut_slides([slide], TileSpec(0.5, 200, halo=28), None)
    blocks = source.blocks()
    assert sorted(np.concatenate(blocks).tolist()) == list(range(len(source)))
    counting: Any = Counting(slide)
    source.open = lambda: counting  # type: ignore[method-assign]
    for block in blocks:
        for index, image in zip(block.tolist(), source.block(block), strict=True):
            np.testing.assert_array_equal(image, slide.read(source.region(index)))
            assert image.base is None
    assert len(counting.areas) == len(blocks)
    assert sum(counting.areas) < 1.4 * pixels.shape[0] * pixels.shape[1]
    assert max(counting.areas) <= (BLOCK + 256) ** 2


def test_far_patches_of_a_block_are_read_one_by_one() -> None:
    slide = array_slide(np.zeros((2100, 2100, 3), np.uint8), 0.5)
    [source] = cut_slides([slide], TileSpec(0.5, 100), None)
    far = SlidePatches(source.slide, source.patches, np.array([(0, 0), (1900, 1900)]))
    sizes = []
    far.open = lambda: type("S", (), {"read": lambda _, r: sizes.append(r.width) or slide.read(r)})()  # type: ignore[method-assign, assignment, return-value]
    assert len(list(far.block(np.array([0, 1])))) == 2
    assert sizes == [100, 100]


def test_two_slides_of_one_name_are_refused(pyramid: Path) -> None:
    with pytest.raises(ConfigError, match="two slides are called"):
        PatchDataset.over([pyramid, pyramid], TileSpec(2.0, 256), tissue=TissueMask.whole)


def test_a_slide_is_opened_again_in_another_process(pyramid: Path) -> None:
    handle = SlideHandle(pyramid)
    mine = handle.get()
    assert handle.get() is mine
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.write(writing, b"1" if handle.get() is not mine else b"0")
        os._exit(0)
    os.close(writing)
    os.wait()
    assert os.read(reading, 1) == b"1"
    handle.close()
    assert handle.get() is not mine


def test_splits_and_labels_come_from_the_dataset(tmp_path: Path) -> None:
    slides = cohort()
    options = written(tmp_path, slides)
    train = PatchDataset(**options, split="train")
    assert [row.slide_id for row in train.rows] == ["s1", "s2"]
    assert len(train) == 15
    assert train.labels == ("Normal", "Tumour")  # of all splits: both sides index alike
    assert {train[i]["label"] for i in range(15)} == {1}
    with pytest.raises(ConfigError, match="validation"):
        PatchDataset(**options, split="validation")


@pytest.mark.parametrize("separator", [",", ";"])
@pytest.mark.parametrize("key", ["slide_id", "case_id"])
def test_splits_and_labels_come_from_a_table(key: str, separator: str, tmp_path: Path) -> None:
    options = written(tmp_path / "data", cohort())
    names = ("s1", "s2", "s3") if key == "slide_id" else ("P1", "P1", "P2")
    rows = [f"{name},{grade},{fold}" for name, grade, fold in zip(names, (2, 2, 3), "aab", strict=True)]
    table = tmp_path / "labels.csv"
    text = "\n".join([f"{key},grade,fold", *rows]).replace(",", separator)
    table.write_text("\ufeff" + text, "utf-8")
    dataset = PatchDataset(**options, table=table, label="grade", split_column="fold", split="b")
    assert [row.slide_id for row in dataset.rows] == ["s3"]
    assert dataset.labels == ("2", "3")
    assert dataset[0]["label"] == 1
    named = PatchDataset(**options, table=table, label="grade", labels=("3", "2"))
    assert named[0]["label"] == 1


def test_slides_without_a_label_are_ignored_by_losses(tmp_path: Path) -> None:
    slides = cohort()
    slides[0] = replace(slides[0], patches=replace(slides[0].patches, label=None))
    dataset = PatchDataset(**written(tmp_path, slides))
    assert dataset[0]["label"] == UNLABELLED
    loss = torch.nn.functional.cross_entropy(torch.zeros(2, 2), torch.tensor([dataset[0]["label"], 1]))
    assert loss == pytest.approx(np.log(2))


def test_without_any_label_samples_have_none(tmp_path: Path) -> None:
    slides = [replace(s, patches=replace(s.patches, label=None)) for s in cohort()]
    assert "label" not in PatchDataset(**written(tmp_path, slides))[0]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("slide_id,split\ns1,train\ns2,test\ns3,test\n", "split_leak"),
        ("slide_id,split\ns1,train\ns2,train\n", "unlisted_slide"),
        ("slide_id,split\ns1,train\ns1,test\ns2,train\ns3,test\n", "bad_config"),
        ("name,split\ns1,train\n", "bad_config"),
        ("", "bad_config"),
    ],
)
def test_tables_that_would_spoil_a_result_are_refused(text: str, code: str, tmp_path: Path) -> None:
    options = written(tmp_path / "data", cohort())
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ConfigError) as caught:
        PatchDataset(**options, table=tmp_path / "t.csv")
    assert caught.value.code == code


def test_a_column_that_is_nowhere_is_refused(tmp_path: Path) -> None:
    options = written(tmp_path, cohort())
    with pytest.raises(ConfigError, match="grade"):
        PatchDataset(**options, label="grade")
    with pytest.raises(ConfigError, match="Stroma"):
        PatchDataset(**options, labels=("Normal", "Stroma"))


def test_patches_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    slides = [*cohort(), planted(4, level=0, slide_id="s4")]
    with pytest.raises(ConfigError) as caught:
        PatchDataset(**written(tmp_path, slides))
    assert caught.value.code == "mixed_patches"


def test_a_transform_sees_the_image(tmp_path: Path) -> None:
    dataset = PatchDataset(**written(tmp_path, cohort()), transform=lambda image: image.permute(2, 0, 1).float() / 255)
    assert dataset[0]["image"].shape == (3, SIDE, SIDE)
    assert dataset[0]["image"].dtype == torch.float32


def order(stream: PatchStream, workers: int = 0) -> list[tuple[Any, ...]]:
    return places(DataLoader(stream, batch_size=4, num_workers=workers))


def places(loader: Iterable[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Slide, x and y of every sample of batches, in order."""
    return [(s, *xy) for batch in loader for s, xy in zip(batch["slide"], batch["xy"].tolist(), strict=True)]


def many(tmp_path: Path) -> PatchDataset:
    """Nine slides of 30 patches: enough that two orders do not agree by chance."""
    slides = [planted(30, seed=i, level=0, slide_id=f"s{i}") for i in range(9)]
    return PatchDataset(**written(tmp_path, slides))


def test_the_order_is_that_of_seed_and_epoch(tmp_path: Path) -> None:
    dataset = many(tmp_path)
    one, same, other = PatchStream(dataset), PatchStream(dataset), PatchStream(dataset, seed=1)
    first = order(one)
    assert first == order(same)
    assert first == order(one)
    assert first != order(other)
    one.set_epoch(1)
    second = order(one)
    assert first != second
    assert sorted(first) == sorted(second) == sorted(order(other))
    assert order(PatchStream(dataset, shuffle=False)) == [
        (s.patches.slide_id, *xy) for s in dataset.sources for xy in s.xy.tolist()
    ]


def test_a_stream_is_mixed_over_slides(tmp_path: Path) -> None:
    """With a buffer for half of the patches, neighbours of the stream seldom are of one slide."""
    dataset = many(tmp_path)
    for seed in range(3):
        names = [slide for slide, *_ in order(PatchStream(dataset, buffer=135, seed=seed))]
        assert sum(a == b for a, b in pairwise(names)) < 0.5 * len(names)


def test_workers_that_live_on_see_the_next_epoch(tmp_path: Path) -> None:
    stream = PatchStream(many(tmp_path))
    loader = DataLoader(stream, batch_size=4, num_workers=2, persistent_workers=True)
    passes = []
    for epoch in range(2):
        stream.set_epoch(epoch)
        passes.append(
            [(s, *xy) for batch in loader for s, xy in zip(batch["slide"], batch["xy"].tolist(), strict=True)]
        )
    assert passes[0] != passes[1]
    assert sorted(passes[0]) == sorted(passes[1])


@pytest.mark.parametrize(("world", "workers"), [(2, 0), (3, 2)])
def test_ranks_share_the_patches(world: int, workers: int, tmp_path: Path) -> None:
    dataset = many(tmp_path)
    streams = [PatchStream(dataset, rank=rank, world=world, seed=3) for rank in range(world)]
    parts = [order(stream, workers) for stream in streams]
    assert [len(part) for part in parts] == [len(stream) for stream in streams]
    assert sorted(chain(*parts)) == sorted((s.patches.slide_id, *xy) for s in dataset.sources for xy in s.xy.tolist())


def test_what_a_stream_cannot_be_is_refused(tmp_path: Path) -> None:
    dataset = PatchDataset(**written(tmp_path, cohort()))
    for options in ({"buffer": 0}, {"rank": 2, "world": 2}, {"rank": -1}):
        with pytest.raises(ConfigError):
            PatchStream(dataset, **options)  # type: ignore[arg-type]


def test_files_of_many_slides_are_not_all_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsikit.patches.torch.OPEN_SLIDES", 3)
    dataset = many(tmp_path)
    for index in np.random.default_rng(0).permutation(len(dataset)).tolist():
        dataset[index]
    links = [link.resolve() for link in Path("/proc/self/fd").iterdir() if link.exists()]
    assert sum(tmp_path in link.parents for link in links) == 3
    dataset.close()


class Means:
    """An encoder: the mean of each channel."""

    width = 3

    def embed(self, batch: Any) -> Any:
        return batch.images.mean(axis=(1, 2)).astype(np.float32)


def test_bags_are_made_by_slide_or_patient(tmp_path: Path) -> None:
    slides = cohort()
    dataset = PatchDataset(**written(tmp_path, slides))
    assert [(bag.name, len(bag), bag.label) for bag in dataset.bags()] == [("s1", 7, 1), ("s2", 8, 1), ("s3", 9, 0)]
    bag, other = dataset.bags("patient")
    assert (bag.name, len(bag), bag.label, other.name) == ("P1", 15, 1, "P2")
    images = slides[0].images + slides[1].images
    for found, image in zip(bag.images, images, strict=True):
        np.testing.assert_array_equal(found, image)
    np.testing.assert_array_equal(bag.images[-1], images[-1])
    assert [(region.x, region.y) for region in bag.regions[:7]] == [tuple(c) for c in slides[0].rows.corners.tolist()]
    features = bag.embedded(Means(), batch_size=4)  # type: ignore[arg-type]
    np.testing.assert_allclose(features.features, [image.mean(axis=(0, 1)) for image in images], rtol=1e-6)
    assert features.slides == ("s1",) * 7 + ("s2",) * 8


def test_a_bag_has_one_label(tmp_path: Path) -> None:
    slides = cohort()
    slides[1] = replace(slides[1], patches=replace(slides[1].patches, label="Normal"))
    dataset = PatchDataset(**written(tmp_path, slides))
    with pytest.raises(ConfigError, match="different labels"):
        dataset.bags("patient")
