"""PyTorch datasets of patches: from files in any format, or straight from slides with no files in between."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from wsikit.bags import of_split, owner_of, refuse_leaks, target_of
from wsikit.errors import ConfigError
from wsikit.geometry import TileSpec
from wsikit.patches import PatchSource, open_dataset
from wsikit.patches.cohort import Images, PatchBag, SlideLabels, refuse_mixtures, slide_labels
from wsikit.patches.slide import SlideFile, SlidePatches, cut_slides
from wsikit.slides import Pixels, Slide
from wsikit.tissue import TissueMask, find_tissue

UNLABELLED = -100
"""Label of patches whose slide has none, where others have one: the default ``ignore_index`` of torch's losses."""
OPEN_SLIDES = 64
"""Slides whose files are kept open at once."""
RUN = 256
"""Patches of a file that a stream reads one after another."""

Sample = dict[str, Any]
"""``image`` (H, W, 3) uint8 tensor; ``slide`` id; ``xy`` (2,) float64 tensor, the upper left corner in level-0 pixels of
the full plane; ``label``, an index into ``labels``, where there are labels. The DataLoader's own collating makes a
batch of them: (N, H, W, 3), a list, (N, 2), (N,)."""


class PatchDataset(Dataset[Sample]):
    """Patches of many slides, by index: slide after slide, each in the order of its dataset.

    Files are opened in the process that reads them. Works with any number of workers, forked or spawned.

    Args:
        data: the folder that ``wsikit tile -o`` wrote, or sources.
        split: only slides of this split; all of them if not given.
        label: column of the label.
        split_column: column of the split.
        table: a CSV with such columns for each slide (``slide_id``) or patient (``patient``); what it does not have,
            the dataset says.
        labels: names of the labels in their order; those that occur in any split, sorted, if not given.
        format: of the files, needed where the folder holds several.
        slides: slide id -> slide or its path, for coordinates without pixels.
        transform: applied to every image, a (H, W, 3) uint8 tensor.

    Raises:
        ConfigError: a patient in two splits (code split_leak), an unknown split or label, patches that do not belong
            together (mixed_patches), and what ``open_dataset`` and ``slide_labels`` raise.
    """

    def __init__(
        self,
        data: str | Path | Sequence[PatchSource],
        *,
        split: str | None = None,
        label: str = "label",
        split_column: str = "split",
        table: str | Path | None = None,
        labels: Sequence[str] | None = None,
        format: str | None = None,
        slides: Mapping[str, str | Path | Slide] | None = None,
        transform: Callable[[torch.Tensor], Any] | None = None,
    ) -> None:
        sources = open_dataset(data, format, slides=slides) if isinstance(data, str | Path) else list(data)
        if not sources:
            raise ConfigError("there is no slide to take patches of", code="no_patches")
        said = slide_labels(sources, label=label, split=split_column, table=table)
        refuse_leaks(said)
        self.labels = tuple(labels) if labels is not None else tuple(sorted({row.label for row in said if row.label}))
        """Names that the labels of samples index into."""
        kept = of_split(said, split)
        chosen = {row.slide_id for row in kept}
        self.sources = tuple(source for source in sources if source.patches.slide_id in chosen)
        """One for each slide of the split."""
        self.rows: tuple[SlideLabels, ...] = tuple(kept)
        """Patient, split and label of each."""
        refuse_mixtures(self.sources)
        self._targets = [target_of(row.slide_id, [row], self.labels) for row in kept]
        self._ends = np.cumsum([len(source) for source in self.sources])
        self._transform = transform
        self._recent: OrderedDict[int, None] = OrderedDict()

    @classmethod
    def over(
        cls,
        slides: Iterable[str | Path | Slide | SlideFile],
        spec: TileSpec,
        *,
        tissue: Callable[[Slide], TissueMask] | None = find_tissue,
        **options: Any,
    ) -> Self:
        """The patches of slides as ``spec`` cuts them, with no files in between.

        Args:
            slides: paths, open slides or rows of ``wsikit.find_slides``, which bring patient, split and label.
            spec: how they are cut.
            tissue: finds the tissue of a slide; None takes all of it.
            options: split, label, split_column, table, labels and transform, as above.

        Raises what opening a slide raises, ConfigError for two slides of one id, and what is said above.
        """
        return cls(cut_slides(slides, spec, tissue), **options)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} patches, {index} was asked for")
        index %= len(self)
        slide = int(np.searchsorted(self._ends, index, side="right"))
        source = self._source(slide)
        place = index - (int(self._ends[slide - 1]) if slide else 0)
        return self.sample(slide, source.read(place), source.xy[place])

    def sample(self, slide: int, pixels: Pixels, xy: Any) -> Sample:
        """One sample of the slide with this index in ``sources``."""
        image = torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())
        found = self._transform(image) if self._transform else image
        sample = {"image": found, "slide": self.rows[slide].slide_id, "xy": torch.from_numpy(np.array(xy, np.float64))}
        if self.labels:
            target = self._targets[slide]
            sample["label"] = UNLABELLED if target is None else target
        return sample

    def _source(self, slide: int) -> PatchSource:
        """A source, and those that were not used for long let go of their files."""
        self._recent[slide] = None
        self._recent.move_to_end(slide)
        if len(self._recent) > OPEN_SLIDES:
            self.sources[self._recent.popitem(last=False)[0]].close()
        return self.sources[slide]

    def bags(self, by: Literal["slide", "patient"] = "slide") -> list[PatchBag]:
        """The bags of the split; their images are read when they are asked for.

        Raises ConfigError where the slides of a bag have different labels, or a patient is not known.
        """
        groups: dict[str, list[int]] = {}
        for index, row in enumerate(self.rows):
            groups.setdefault(owner_of(row, by), []).append(index)
        return [
            PatchBag(
                name,
                Images(tuple(self.sources[i] for i in group)),
                target_of(name, [self.rows[i] for i in group], self.labels),
            )
            for name, group in groups.items()
        ]

    def close(self) -> None:
        """Release all files; a later read opens them again."""
        for source in self.sources:
            source.close()


class PatchStream(IterableDataset[Sample]):
    """The same patches in a stream that reads every slide block by block, so that no tile is decoded again and again.

    Every patch comes once an epoch, whatever the number of workers and ranks: blocks are shuffled, dealt out to ranks
    and then to workers, and each worker mixes what it reads in a buffer. Ranks may get different numbers of patches.

    Args:
        patches: the dataset.
        shuffle: False keeps the order of blocks and of the patches in each.
        buffer: patches that are mixed in each worker: 1024 of 256 px are 200 MB.
        seed: of the order; the same seed and epoch give the same order for the same numbers of workers and ranks.
        rank: which part this process takes of ``world`` parts.
        world: number of processes that share the patches.
    """

    def __init__(
        self,
        patches: PatchDataset,
        *,
        shuffle: bool = True,
        buffer: int = 1024,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if buffer < 1 or not 0 <= rank < world:
            raise ConfigError(f"a stream has a buffer of 1 and more and rank < world, got {buffer=}, {rank=}, {world=}")
        self.patches, self.shuffle, self.buffer = patches, shuffle, buffer
        self.seed, self.rank, self.world = seed, rank, world
        # shared, so that workers that live on see the next epoch
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]
        self._blocks = [
            (index, block) for index, source in enumerate(patches.sources) for block in _blocks(source, RUN)
        ]

    def set_epoch(self, epoch: int) -> None:
        """Take another order; call it before each pass, as on ``DistributedSampler``."""
        self._epoch.fill_(epoch)

    def _dealt(self) -> list[tuple[int, NDArray[np.int64]]]:
        """The blocks of this rank in this epoch."""
        order = np.arange(len(self._blocks))
        if self.shuffle:
            np.random.default_rng([self.seed, int(self._epoch)]).shuffle(order)
        return [self._blocks[i] for i in order[self.rank :: self.world]]

    def __len__(self) -> int:
        return sum(len(block) for _, block in self._dealt())

    def __iter__(self) -> Iterator[Sample]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        samples = self._read(self._dealt()[number::workers])
        if not self.shuffle:
            return samples
        return _mixed(samples, self.buffer, np.random.default_rng([self.seed, int(self._epoch), self.rank, number]))

    def _read(self, blocks: Sequence[tuple[int, NDArray[np.int64]]]) -> Iterator[Sample]:
        for index, block in blocks:
            source = self.patches._source(index)
            images = source.block(block) if isinstance(source, SlidePatches) else map(source.read, block.tolist())
            for place, pixels in zip(block.tolist(), images, strict=True):
                yield self.patches.sample(index, pixels, source.xy[place])


def _blocks(source: PatchSource, run: int) -> list[NDArray[np.int64]]:
    """Indices that are read together: neighbours on a slide, followers in a file."""
    if isinstance(source, SlidePatches):
        return source.blocks()
    count = math.ceil(len(source) / run)
    return np.array_split(np.arange(len(source)), count) if count else []


def _mixed(samples: Iterator[Sample], size: int, random: np.random.Generator) -> Iterator[Sample]:
    """Give out a random one of ``size`` samples and put the next in its place."""
    held: list[Sample] = []
    for sample in samples:
        if len(held) < size:
            held.append(sample)
            continue
        place = int(random.integers(size))
        given, held[place] = held[place], sample
        yield given
    random.shuffle(held)
    yield from held
