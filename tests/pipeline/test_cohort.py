"""What the report says of all slides together, against cohorts that are added up by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wsikit
from wsikit.pipeline.report import cohort
from wsikit.pipeline.report.facts import SlideFacts

LABELS = [{"name": "Tumour", "color": [200, 0, 0]}, {"name": "Immune", "color": [0, 0, 200]}]


def slide(name: str = "one", **values: Any) -> SlideFacts:
    return SlideFacts.of({"slide_id": name, "status": "complete", "model": {"name": "m", "labels": LABELS}, **values})


def counted(name: str, mm2: float, tumour: int, immune: int, **values: Any) -> SlideFacts:
    per_class = {"Tumour": tumour, "Immune": immune}
    return slide(name, tissue_um2=1e6 * mm2, objects=tumour + immune, objects_per_class=per_class, **values)


COHORT = [counted("a", 1, 100, 0), counted("b", 4, 100, 300), counted("c", 5, 500, 0)]
"""Objects per mm^2: 100, 100, 100 in all; Tumour 100, 25, 100; Immune 0, 75, 0."""


def test_objects_of_the_cohort_are_pooled_over_its_tissue() -> None:
    whole, tumour, immune = cohort.object_measures(COHORT)
    assert [(m.name, m.total, m.pooled) for m in (whole, tumour, immune)] == [
        ("All objects", 1000, 100.0),
        ("Tumour", 700, 70.0),
        ("Immune", 300, 30.0),
    ]


def test_mean_median_and_range_are_over_slides() -> None:
    _, tumour, immune = cohort.object_measures(COHORT)
    assert (tumour.mean, tumour.median, tumour.low, tumour.high) == (75.0, 100.0, 25.0, 100.0)
    assert (immune.mean, immune.median, immune.low, immune.high) == (25.0, 0.0, 0.0, 75.0)
    assert [(point.index, point.name, point.value) for point in tumour.points][1] == (2, "b", 25.0)


def test_one_class_is_not_told_twice() -> None:
    (only,) = cohort.object_measures([slide(tissue_um2=2e6, objects=5, objects_per_class={"Tumour": 5})])
    assert (only.name, only.color, only.total, only.pooled) == ("Tumour", (200, 0, 0), 5, 2.5)


def test_a_slide_without_tissue_has_objects_and_no_density() -> None:
    whole = cohort.object_measures([*COHORT, counted("d", 0, 7, 0)])[0]
    assert (whole.total, whole.pooled, len(whole.points)) == (1007, 100.0, 3)


def test_failed_running_and_waiting_slides_count_in_no_sum() -> None:
    others = [counted(s, 100, 9999, 9999, status=s) for s in ("failed", "running", "waiting")]
    assert cohort.object_measures([*others, *COHORT])[0].total == 1000
    assert cohort.tissue_mm2([*others, *COHORT]) == 10.0


def test_class_areas_are_weighted_by_tissue() -> None:
    shares = [(1.0, 0.5), (3.0, 0.1)]
    slides = [
        slide(str(i), tissue_um2=1e6 * mm2, area_fractions={"Tumour": s, "Rest": 1 - s})
        for i, (mm2, s) in enumerate(shares)
    ]
    tumour, rest = cohort.area_measures(slides)
    assert (tumour.total, tumour.pooled) == pytest.approx((0.8, 0.2))
    assert (tumour.median, tumour.low, tumour.high) == pytest.approx((0.3, 0.1, 0.5))
    assert tumour.total + rest.total == pytest.approx(4.0)
    assert cohort.object_measures(slides) == []


@given(st.lists(st.tuples(st.floats(0.01, 1e4), st.integers(0, 10**7)), min_size=1, max_size=30))
def test_the_pooled_density_lies_within_the_range_of_slides(found: list[tuple[float, int]]) -> None:
    whole = cohort.object_measures([counted(str(i), mm2, n, 0) for i, (mm2, n) in enumerate(found)])[0]
    assert whole.low is not None
    assert whole.high is not None
    assert whole.pooled is not None
    assert whole.low * (1 - 1e-9) <= whole.pooled <= whole.high * (1 + 1e-9)
    assert whole.total == sum(n for _, n in found)


def test_patients_have_the_sums_of_their_slides() -> None:
    slides = [counted("a", 1, 10, 0, patient="P2"), counted("b", 2, 20, 0, patient="P1"), counted("c", 9, 1, 1)]
    slides += [counted("d", 3, 30, 40, patient="P2"), slide("e", status="failed", patient="P1")]
    second, first = cohort.patients(slides)
    assert (second.name, len(second.slides), second.done, second.tissue_mm2) == ("P2", 2, 2, 4.0)
    assert [(m.total, m.pooled) for m in second.objects] == [(80, 20.0), (40, 10.0), (40, 10.0)]
    assert (first.name, len(first.slides), first.done, first.objects[0].total) == ("P1", 2, 1, 20)


def test_quality_is_added_up_and_slides_over_the_limit_are_counted() -> None:
    slides = [
        slide("a", quality={"patches": 100, "dropped": 5, "filter": "pen<=0.1", "flags": {"blur": 21, "pen": 5}}),
        slide("b", quality={"patches": 300, "dropped": 0, "filter": "pen<=0.1", "flags": {"blur": 60, "pen": 75}}),
        slide("old"),
    ]
    found = cohort.quality(slides)
    assert found is not None
    assert (found.slides, found.patches, found.dropped, found.filters) == (2, 400, 5, ("pen<=0.1",))
    # a fifth is not more than a fifth: blur covers 20 % of b
    assert [(f.name, f.patches, f.share, f.slides) for f in found.flags] == [
        ("blur", 81, 0.2025, 1),
        ("pen", 80, 0.2, 1),
    ]
    assert [list(s.marked_flags()) for s in slides] == [["blur"], ["pen"], []]


def test_records_without_quality_say_nothing_of_it() -> None:
    assert cohort.quality([slide(), slide(quality=None)]) is None


def test_scores_are_counted_by_the_highest_label() -> None:
    slides = [slide(scores={"ALL": 0.2, "AML": 0.7}), slide(scores={"ALL": 0.9, "AML": 0.1}), slide(scores={"AML": 1})]
    assert cohort.top_scores(slides) == {"AML": 2, "ALL": 1}


def test_stages_are_added_up_in_the_order_of_their_happening() -> None:
    slides = [
        slide(seconds={"merge": 1.0, "predict": 6.0, "total": 8.0}),
        slide(seconds={"open": 1.0, "predict": 2.0, "odd": 0.0}),
    ]
    found = [(s.name, s.seconds, s.share, s.median) for s in cohort.stages(slides)]
    assert found == [("open", 1, 0.1, 1), ("predict", 8, 0.8, 4), ("merge", 1, 0.1, 1), ("odd", 0, 0, 0)]


@pytest.mark.parametrize(
    ("seconds", "said", "unsaid"),
    [
        (
            {"predict": 71, "merge": 29},
            ("bottleneck is predict", "71 % of the time", "For predict, more workers (--num-workers) help"),
            "merge",
        ),
        ({"predict": 20, "merge": 80}, ("bottleneck is merge", "80 %", "more workers would not"), "--num-workers"),
        ({"tissue": 9, "predict": 1}, ("bottleneck is tissue", "90 %", "masks in the manifest"), "--num-workers"),
        ({"open": 3, "predict": 4, "merge": 3}, ("No stage dominates", "predict", "40 %", "open, 30 %"), "bottleneck"),
        ({"strange": 5}, ("bottleneck is strange", "100 %"), "would"),
    ],
)
def test_the_bottleneck_follows_the_numbers(seconds: dict[str, float], said: tuple[str, ...], unsaid: str) -> None:
    text = cohort.bottleneck(cohort.stages([slide(seconds=seconds)]))
    assert all(part in text for part in said), text
    assert unsaid not in text


@pytest.mark.parametrize(
    ("busy", "said", "unsaid"),
    [
        ({"read": 9, "model": 4, "wall": 10}, ("reader-bound, model 40 % busy", "faster disk"), "GPU"),
        ({"read": 1, "model": 9, "wall": 10}, ("model-bound, model 90 % busy", "or a GPU"), "precision"),
        ({"read": 1, "model": 9, "gpu": 8, "wall": 10}, ("model-bound, GPU 80 % busy", "--precision"), "or a GPU"),
        ({"post": 9, "wall": 10}, ("post-processing-bound", "output folder"), "GPU"),
        ({"read": 3, "model": 3, "post": 3, "wall": 10}, ("balanced", "More workers"), "of the time"),
    ],
)
def test_what_binds_and_what_would_help_follow_the_numbers(
    busy: dict[str, float], said: tuple[str, ...], unsaid: str
) -> None:
    text = cohort.binding(cohort.busy([slide(busy=busy), slide("old")]))
    assert all(part in text for part in said), text
    assert unsaid not in text


def test_no_time_no_bottleneck() -> None:
    assert cohort.bottleneck(cohort.stages([slide(), slide(seconds={"predict": 0.0})])) == ""


def test_failures_come_before_what_is_partial_and_the_frequent_ones_first() -> None:
    slides = [slide(status="partial", reason="bad_tiles") for _ in range(3)]
    slides += [slide(status="failed", reason=code) for code in ("rare_code", "missing_mpp", "missing_mpp")]
    found = cohort.problems([*slides, slide(), slide(status="waiting")])
    assert [(p.code, p.status, len(p.slides)) for p in found] == [
        ("missing_mpp", "failed", 2),
        ("rare_code", "failed", 1),
        ("bad_tiles", "partial", 3),
    ]
    assert [p.cause for p in found][:2] == ["The file does not say its resolution", "rare code"]


OF_NO_SLIDE = frozenset(
    {"unknown_name", "no_run", "sample_unavailable", "not_representable"}
    | {
        "no_card",
        "bad_card",
        "bad_plugin",
        "no_plugin",
        "no_gpu",
        "no_torch",
        "no_weights",
        "bad_weights",
        "weights_mismatch",
    }
    | {"wrong_encoder", "bad_reference", "blank", "colourless", "one_stain", "not_he"}
    | {"no_features", "mixed_features", "split_leak", "stained_features"}
    | {"other_training", "diverged", "wrong_method", "bad_counts", "bad_points", "no_levels"}
    | {"two_formats", "no_slide", "mixed_patches", "unlisted_slide"}
    | {"no_truth", "ambiguous_truth", "wrong_shape", "not_comparable"}
    | {"no_cluster", "unfit_cluster", "busy", "interrupt", "terminated", "walltime", "lease_lost", "no_memory"}
)
"""Codes of commands that do not begin, of warnings, and of what is done after a run or without one."""


def test_every_reason_that_the_code_gives_has_a_cause_in_words() -> None:
    root = Path(wsikit.__file__).parent
    texts = [path.read_text("utf-8") for path in root.rglob("*.py")]
    codes = {code for text in texts for code in re.findall(r"\bcode\s*=\s*\"([a-z_]+)\"", text)}
    assert codes - set(cohort.CAUSES) <= OF_NO_SLIDE


def test_equal_warnings_are_told_once() -> None:
    slides = [slide("a", warnings=["pale", "pale"]), slide("b", warnings=["odd", "pale"])]
    found = cohort.warnings(slides)
    assert [(text, [index for index, _ in own]) for text, own in found.items()] == [("pale", [1, 2]), ("odd", [2])]


@pytest.mark.parametrize(
    "values",
    [
        {"seconds": "long"},
        {"seconds": {"total": float("nan")}},
        {"objects_per_class": [1, 2]},
        {"tissue_um2": "much"},
        {"bad_tiles": [{"level": 0}]},
        {"model": {"labels": [{"name": "x", "color": "red"}]}},
        {"quality": {"flags": {"blur": None}}},
        {"warnings": 3},
        {"status": None},
    ],
    ids=str,
)
def test_a_record_of_wrong_values_becomes_a_failure_that_names_them(values: dict[str, Any]) -> None:
    facts = SlideFacts.of({"slide_id": "one", "path": "p.svs", "status": "complete", **values})
    assert (facts.status, facts.reason, facts.slide_id, facts.path) == ("failed", "bad_record", "one", "p.svs")
    assert next(iter(values)) in facts.message
    assert facts.remedy
