"""Tissue from patch labels on real outlines and real texture: `python benchmarks/tissue_labels.py DATA`.

Outlines of pathologists (BCSS masks) painted with tissue of other slides, see tests/methods/planted_tissue.py. Patches
with labels are all that training and the choice of epochs see, truth is for scoring; test patches have outlines and
images of their own. For each seed one classifier, whose maps are scored at one scale and voted, gated by the label or
by the classes that it finds itself; then segmenters that learn the voted masks by each loss, and one that learns the
truth.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from tests.methods import planted_tissue as planted  # noqa: E402
from wsikit.config import load_config  # noqa: E402
from wsikit.methods.cam_onss.cam import Kind  # noqa: E402
from wsikit.methods.cam_onss.config import Config, Voting  # noqa: E402
from wsikit.methods.cam_onss.masks import Mask, write_mask  # noqa: E402
from wsikit.methods.cam_onss.model import TissueClassifier, TissueSegmenter, build_classifier, build_model  # noqa: E402
from wsikit.methods.cam_onss.pseudo import pseudo_mask  # noqa: E402
from wsikit.methods.cam_onss.train import PSEUDO, Training  # noqa: E402
from wsikit.metrics import confusion_matrix, segmentation_scores  # noqa: E402
from wsikit.training.batches import tensor  # noqa: E402
from wsikit.training.kept import last_weights  # noqa: E402

COUNTS: tuple[tuple[planted.Split, int], ...] = (("train", 240), ("validation", 40), ("test", 80))
SHOWN = ("miou", "fwiou", "mdice")
SCHEMA, CPU = planted.REAL, torch.device("cpu")
Patches = Sequence[planted.PlantedPatch]


def scored(patches: Patches, masked: Callable[[planted.PlantedPatch], Mask]) -> dict[str, float]:
    """Scores over the pixels of all patches."""
    classes = len(SCHEMA.classes)
    total = sum(confusion_matrix(one.truth, masked(one), classes, SCHEMA.unscored) for one in patches)
    return {
        name: value for name, value in segmentation_scores(np.asarray(total), SCHEMA.codes).items() if name in SHOWN
    }


@torch.inference_mode()
def found_classes(model: TissueClassifier, one: planted.PlantedPatch) -> tuple[bool, ...]:
    """The classes that the classifier sees in a patch, the likeliest where it sees none."""
    logits = model(tensor([one.image], CPU))[0]
    return tuple((logits >= logits.max().clamp(max=0)).tolist())


@torch.inference_mode()
def segmented(model: TissueSegmenter, one: planted.PlantedPatch) -> Mask:
    """The segmenter's mask."""
    return np.asarray(model(tensor([one.image], CPU))[0].argmax(dim=0).numpy().astype(np.uint8))


class Seed:
    """One run of it all.

    Args:
        data: folder of the real data.
        folder: for patches and trainings.
        seed: of patches and trainings.
        options: of the method, KEY=VALUE.
    """

    def __init__(self, data: Path, folder: Path, seed: int, options: Sequence[str]) -> None:
        drawn = [planted.painted(data, 10 * seed + i, n, split=split) for i, (split, n) in enumerate(COUNTS)]
        self.train, self.validation, self.test = drawn
        self.patches = [one for part in drawn for one in part]
        planted.write_folder(folder / "data", self.patches, SCHEMA)
        shutil.rmtree(folder / "data" / "val" / "mask")  # labels are all that is known of validation patches
        asked = [f"data={folder / 'data'}", "mpp=0.5", f"seed={seed}", *options]
        self.config = load_config(Config, None, asked).model_copy(update={"tissue": SCHEMA})
        self.folder, self.seed = folder, seed

    def maps(self) -> dict[str, dict[str, float]]:
        """Train the classifier, vote, and score what its maps say: of training patches by their labels, and of test
        patches by what it finds in them."""
        training = Training(self.config, self.folder / "cam", None)
        torch.manual_seed(self.seed)  # as train() does: else what was done before would say how the network begins
        model = build_classifier(self.config)
        training.classify(model)
        training.vote(model)
        model.eval()
        one_scale = self.config.voting.model_copy(update={"scales": (1.0,), "flips": False})

        def mask(one: planted.PlantedPatch, present: tuple[bool, ...], voting: Voting, cam: Kind | None = None) -> Mask:
            stage = self.config.classifier.model_copy(update={"cam": cam or self.config.classifier.cam})
            told = self.config.model_copy(update={"voting": voting, "classifier": stage})
            return pseudo_mask(model, one.image, present, told)[0]

        drawn = np.random.default_rng(self.seed)
        seen = self.train[: len(self.test)]
        largest = int(
            np.bincount(np.concatenate([one.truth.ravel() for one in self.train]))[: len(SCHEMA.classes)].argmax()
        )
        rows = {
            "most frequent class": scored(self.test, lambda one: np.full_like(one.truth, largest)),
            "one class of the label, training": scored(
                seen, lambda one: np.full_like(one.truth, drawn.choice(np.flatnonzero(one.present)))
            ),
        }
        for name, voting in (("single scale", one_scale), ("voted", self.config.voting)):
            rows[f"{name}, training"] = scored(seen, lambda one, v=voting: mask(one, one.present, v))  # type: ignore[misc]
            rows[f"{name}, label known"] = scored(self.test, lambda one, v=voting: mask(one, one.present, v))  # type: ignore[misc]
            rows[name] = scored(self.test, lambda one, v=voting: mask(one, found_classes(model, one), v))  # type: ignore[misc]
        other: Kind = "plus" if self.config.classifier.cam == "linear" else "linear"
        rows[f"voted, {other}, training"] = scored(seen, lambda one: mask(one, one.present, self.config.voting, other))
        return rows

    def segmenter(self, name: str) -> dict[str, dict[str, float]]:
        """Train a segmenter on the voted masks by a loss, or on the truth, and score its chosen and its last epoch on
        test patches."""
        loss = "ce" if name == "supervised" else name
        part = self.config.segmenter.model_copy(update={"loss": loss})
        training = Training(self.config.model_copy(update={"segmenter": part}), self.folder / name, None)
        if name == "supervised":
            self._write_truth(training)
        else:
            shutil.copytree(self.folder / "cam" / PSEUDO, self.folder / name / PSEUDO)
        torch.manual_seed(self.seed)
        model = build_model(training.config)
        training.segment(model)
        model.eval()
        rows = {name: scored(self.test, lambda one: segmented(model, one))}
        model.load_state_dict(last_weights(training.out / "segmenter"))
        return rows | {f"{name}, last epoch": scored(self.test, lambda one: segmented(model, one))}

    def _write_truth(self, training: Training) -> None:
        truth = {planted.patch_name(i, one, SCHEMA): one.truth for i, one in enumerate(self.patches)}
        for patch in [*training.images("train"), *training.images("validation")]:
            path = training.mask_path(patch)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_mask(path, truth[Path(patch.name).stem], SCHEMA)


def main() -> None:
    """A line for each seed, appended to a file; mean and deviation over all that the file holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--losses", nargs="*", default=["ce", "oeem", "onss", "supervised"])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an option of the method")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/tissue_labels.jsonl")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    threads = [f"{part}.recipe.threads={asked.threads}" for part in ("classifier", "segmenter")]
    for seed in asked.seeds:
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            run = Seed(asked.data, Path(folder), seed, [*threads, *asked.set])
            rows = run.maps()
            print(f"seed {seed}: classifier {time.perf_counter() - begun:.0f} s", flush=True)
            for name in asked.losses:
                rows |= run.segmenter(name)
                print(f"seed {seed}: {name} {time.perf_counter() - begun:.0f} s", flush=True)
        with asked.out.open("a") as file:
            file.write(json.dumps({"seed": seed, "options": asked.set, "rows": rows}) + "\n")
        for name, row in rows.items():
            print(f"seed {seed}  {name:34}" + "  ".join(f"{key} {row[key]:.3f}" for key in SHOWN), flush=True)
    lines = [json.loads(line) for line in asked.out.read_text().splitlines()]
    lines = [line for line in lines if line["options"] == asked.set]
    for name in lines[0]["rows"]:
        told = []
        for key in SHOWN:
            values = [line["rows"][name][key] for line in lines]
            told.append(f"{key} {fmean(values):.3f} ± {stdev(values) if len(values) > 1 else 0:.3f}")
        print(f"{len(lines)} seeds  {name:34}" + "  ".join(told))


if __name__ == "__main__":
    main()
