"""Bags from the files of an embed run and a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conformance.test_sinks import CONTEXT
from wsikit.bags import Bags, load_bags
from wsikit.errors import ConfigError
from wsikit.features import Instances
from wsikit.pipeline.inputs import find_slides
from wsikit.sinks import SINKS, InstanceLayout

ENCODER = {"architecture": "resnet18", "sha256": "ab"}


def store(
    out: Path,
    slide_id: str,
    count: int = 3,
    *,
    width: int = 4,
    mpp: float = 0.5,
    patch: int = 64,
    encoder: Mapping[str, Any] = ENCODER,
    format: str = "features.zarr",
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Features of a slide as an embed run writes them; returns them."""
    kind = SINKS.load(format)
    (out / slide_id).mkdir(parents=True, exist_ok=True)
    layout = InstanceLayout(count, width, patch, 0, {**encoder, "width": width})
    sink = kind(out / slide_id / kind.filename)
    sink.begin(replace(CONTEXT, slide_id=slide_id, mpp=mpp, instances=layout))
    seed = sum(slide_id.encode())
    features = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    sink.write(Instances(np.arange(2 * count).reshape(count, 2) * patch, features))
    sink.commit()
    return features


def manifest(folder: Path, *rows: str, header: str = "path,patient_id,split,label") -> Path:
    path = folder / "cohort.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


ROWS = ("a.svs,p1,train,no", "b.svs,p1,train,no", "c.svs,p2,train,yes", "d.svs,p3,test,yes")


@pytest.fixture
def cohort(tmp_path: Path) -> tuple[Path, Path]:
    """(output folder, manifest) of four slides of three patients."""
    for name, count in zip("abcd", (3, 2, 5, 1), strict=True):
        store(tmp_path / "out", name, count)
    return tmp_path / "out", manifest(tmp_path, *ROWS)


def bags_of(cohort: tuple[Path, Path], **options: Any) -> Bags:
    return load_bags(cohort[0], find_slides(cohort[1]), **options)


def test_a_bag_per_slide_has_its_features_regions_and_label(cohort: tuple[Path, Path]) -> None:
    bags = bags_of(cohort)
    assert (bags.names, bags.labels, bags.targets) == (("a", "b", "c", "d"), ("no", "yes"), (0, 0, 1, 1))
    bag = bags[2]
    assert (bag.name, bag.label, len(bag)) == ("c", 1, 5)
    assert np.array_equal(bag.features, store(cohort[0], "c", 5))
    assert [(r.x, r.y, r.width, r.mpp) for r in bag.regions[:2]] == [(0, 64, 64, 0.5), (128, 192, 64, 0.5)]
    assert bag.slides == ("c",) * 5


def test_a_bag_per_patient_joins_slides_and_every_instance_knows_its_own(cohort: tuple[Path, Path]) -> None:
    bags = bags_of(cohort, by="patient")
    assert bags.names == ("p1", "p2", "p3")
    bag = bags[0]
    assert bag.slides == ("a", "a", "a", "b", "b")
    assert np.array_equal(bag.features, np.concatenate([store(cohort[0], "a", 3), store(cohort[0], "b", 2)]))
    assert len(bag.regions) == 5


def test_a_split_holds_only_its_own(cohort: tuple[Path, Path]) -> None:
    assert bags_of(cohort, split="train").names == ("a", "b", "c")
    assert bags_of(cohort, split="test", by="patient").names == ("p3",)
    # the labels are those of the whole manifest: index 1 means the same in every split
    assert bags_of(cohort, split="test").targets == (1,)


def test_slices_and_iteration(cohort: tuple[Path, Path]) -> None:
    bags = bags_of(cohort)
    assert [bag.name for bag in bags[1:3]] == ["b", "c"]
    assert [len(bag) for bag in bags] == [3, 2, 5, 1]


def test_h5_reads_as_zarr_does(tmp_path: Path) -> None:
    rows = find_slides(manifest(tmp_path, ROWS[2]))
    store(tmp_path / "one", "c", 5)
    store(tmp_path / "two", "c", 5, format="features.h5")
    one, two = (load_bags(tmp_path / name, rows)[0] for name in ("one", "two"))
    assert np.array_equal(one.features, two.features)
    assert one.regions == two.regions


def refused(cohort: tuple[Path, Path], message: str, *rows: str, header: str | None = None, **options: Any) -> str:
    path = manifest(cohort[1].parent, *rows, **({"header": header} if header else {}))
    with pytest.raises(ConfigError, match=message) as caught:
        load_bags(cohort[0], find_slides(path), **options)
    return caught.value.code


@pytest.mark.parametrize("by", ["slide", "patient"])
@pytest.mark.parametrize("split", [None, "train", "test"])
def test_a_patient_in_two_splits_is_refused_whatever_is_asked_for(
    cohort: tuple[Path, Path], by: str, split: str | None
) -> None:
    rows = "a.svs,p1,train,no", "b.svs,p1,test,no", "c.svs,p2,train,yes"
    code = refused(cohort, "'p1' stands in two splits: 'a' in train, 'b' in test", *rows, by=by, split=split)
    assert code == "split_leak"


def test_a_patient_half_of_whom_is_in_no_split_is_refused(cohort: tuple[Path, Path]) -> None:
    refused(cohort, "'b' in none", "a.svs,p1,train,no", "b.svs,p1,,no")


def test_a_patient_with_two_labels_is_refused_and_their_slides_are_not(cohort: tuple[Path, Path]) -> None:
    rows = "a.svs,p1,train,no", "b.svs,p1,train,yes"
    refused(cohort, "'p1' has slides of different labels: no, yes", *rows, by="patient")
    assert load_bags(cohort[0], find_slides(cohort[1])).targets == (0, 1)


def test_a_slide_without_features_is_named(cohort: tuple[Path, Path]) -> None:
    assert refused(cohort, "'e' has no features", *ROWS, "e.svs,p4,train,no") == "no_features"


def test_bags_by_patient_need_patients(cohort: tuple[Path, Path]) -> None:
    refused(cohort, "'a' has no patient", "a.svs,no", header="path,label", by="patient")


def test_an_unknown_split_lists_those_there_are(cohort: tuple[Path, Path]) -> None:
    refused(cohort, "the manifest has test, train", *ROWS, split="validation")
    refused(cohort, "needs a column split", "a.svs,no", header="path,label", split="train")


def test_labels_can_be_given_in_their_order_and_others_are_refused(cohort: tuple[Path, Path]) -> None:
    assert bags_of(cohort, labels=["yes", "no"]).targets == (1, 1, 0, 0)
    with pytest.raises(ConfigError, match="has the label 'no'; the labels are yes, maybe"):
        bags_of(cohort, labels=["yes", "maybe"])


def test_a_manifest_without_labels_gives_bags_without(cohort: tuple[Path, Path], tmp_path: Path) -> None:
    rows = find_slides(manifest(tmp_path, "a.svs", header="path"))
    assert load_bags(cohort[0], rows).targets == (None,)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"encoder": {"architecture": "resnet18", "sha256": "cd"}}, "'sha256': 'ab'.*'sha256': 'cd'"),
        ({"width": 5}, "'width': 4.*'width': 5"),
        ({"patch": 128}, "patch 64 and 128"),
        ({"mpp": 0.25}, "'c' was embedded at 0.25 um/px, '.' at 0.5"),
    ],
)
def test_vectors_that_do_not_belong_together_are_refused(
    cohort: tuple[Path, Path], other: dict[str, Any], message: str
) -> None:
    store(cohort[0], "c", 5, **other)
    with pytest.raises(ConfigError, match=message) as caught:
        bags_of(cohort)
    assert caught.value.code == "mixed_features"


def test_resolutions_that_one_wish_may_give_go_together(cohort: tuple[Path, Path]) -> None:
    store(cohort[0], "c", 5, mpp=0.55)
    assert len(bags_of(cohort)) == 4


@pytest.mark.parametrize("format", ["features.zarr", "features.h5"])
def test_a_broken_file_is_named(tmp_path: Path, format: str) -> None:
    rows = find_slides(manifest(tmp_path, ROWS[0]))
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "a" / format).write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=f"{format} is no file of features") as caught:
        load_bags(tmp_path / "out", rows)
    assert caught.value.code == "no_features"
