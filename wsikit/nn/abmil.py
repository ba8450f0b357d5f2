"""Attention-based multiple instance learning: one score of a bag, and how much each instance counted for it.

Ilse, Tomczak and Welling, Attention-based Deep Multiple Instance Learning, ICML 2018 (arXiv:1802.04712), with the gated
attention of its equation 9::

    h_i = relu(W x_i + b)                        (N, D) -> (N, H)
    a   = softmax_i w . (tanh(V h_i) * sigmoid(U h_i))       (N,), sums to 1
    p   = softmax(C sum_i a_i h_i)               (K,) scores

Deviations: features are standardised by the training instances' mean and standard deviation, kept with the weights; the
classes exclude one another (softmax), two of them for a yes or no.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from wsikit.errors import ConfigError
from wsikit.nn.device import choose_device, fix_threads
from wsikit.predictions import Bag

HIDDEN, ATTENTION = 256, 128
"""H, and the width of V and U."""


class GatedAttention(nn.Module):
    """The head: instances of one bag in, logits of the bag and attention out. Any number of instances, any order.

    Args:
        width: D, length of a feature vector.
        classes: K.
        dropout: share of features and of hidden units left out in training.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, width: int, classes: int, dropout: float = 0.25) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(width, HIDDEN)
        self.v, self.u = nn.Linear(HIDDEN, ATTENTION), nn.Linear(HIDDEN, ATTENTION)
        self.w = nn.Linear(ATTENTION, 1)
        self.classifier = nn.Linear(HIDDEN, classes)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, D) -> logits (K,) and attention (N,) that sums to 1."""
        hidden = torch.relu(self.project(self.dropout((features - self.mean) / self.scale)))
        hidden = self.dropout(hidden)
        gated = torch.tanh(self.v(hidden)) * torch.sigmoid(self.u(hidden))
        # (N, 1) -> (N,)
        attention = torch.softmax(self.w(gated).squeeze(1), dim=0)
        return self.classifier(attention @ hidden), attention


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a head is trained."""

    epochs: int = 100
    """At most."""
    patience: int = 15
    """Epochs without a better validation loss after which training stops."""
    learning_rate: float = 3e-4
    """Of Adam."""
    weight_decay: float = 1e-4
    dropout: float = 0.25
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """A trained head and how it came about."""

    state: Mapping[str, torch.Tensor]
    """Weights of the epoch with the lowest validation loss, the first of equal ones."""
    width: int
    classes: int
    epoch: int
    """That epoch, from 0."""
    history: tuple[Mapping[str, float], ...] = field(repr=False, default=())
    """Per epoch: ``train`` and ``validation``, mean cross-entropy per bag."""

    def head(self) -> GatedAttention:
        """The head, ready to score."""
        head = GatedAttention(self.width, self.classes)
        head.load_state_dict(dict(self.state))
        return head.eval()


def fit_bags(
    train: Sequence[Bag],
    validation: Sequence[Bag],
    *,
    classes: int,
    schedule: Schedule = Schedule(),
    device: str = "auto",
) -> Fit:
    """Train a head, one bag a step, and keep the epoch that does best on the validation bags.

    Bags are read anew in every epoch, so that a sequence which keeps them on disk (``load_bags``) keeps memory flat; a
    ``list`` of it that fits into memory is faster. Rare labels count more, by the inverse of their frequency. The same
    bags and seed give the same weights on one device.

    Args:
        train: bags with labels, at least one of each class.
        validation: bags with labels; they choose the epoch and nothing else.
        classes: K.
        schedule: how long and how fast.
        device: auto, cpu or cuda.

    Raises:
        ConfigError: a bag without a label or instances, a class without bags, vectors of several widths, or
            a loss that is no number in every epoch.
    """
    fix_threads()
    where = choose_device(device)
    width, frequency = _checked(train, validation, classes)
    mean, scale = _standards(train, width)
    weights = torch.tensor(frequency.sum() / (classes * frequency), dtype=torch.float32, device=where)
    history: list[Mapping[str, float]] = []
    best, kept = math.inf, (0, dict[str, torch.Tensor]())
    with torch.random.fork_rng():
        torch.manual_seed(schedule.seed)
        head = GatedAttention(width, classes, schedule.dropout)
        head.mean.copy_(torch.from_numpy(mean))
        head.scale.copy_(torch.from_numpy(scale))
        head.to(where)
        adam = torch.optim.Adam(head.parameters(), schedule.learning_rate, weight_decay=schedule.weight_decay)
        for epoch in range(schedule.epochs):
            losses = _epoch(head, train, weights, adam)
            now = _epoch(head, validation, weights, None)
            history.append({"train": losses, "validation": now})
            if now < best:
                best, kept = now, (epoch, copy.deepcopy(head.state_dict()))
            if epoch - kept[0] >= schedule.patience:
                break
    if not kept[1]:
        raise ConfigError(
            f"no epoch of {schedule.epochs} has a validation loss that is a number",
            remedy="train at least one epoch, or lower the learning rate",
        )
    state = {name: value.cpu() for name, value in kept[1].items()}
    return Fit(state, width, classes, kept[0], tuple(history))


def _epoch(
    head: GatedAttention, bags: Sequence[Bag], weights: torch.Tensor, adam: torch.optim.Optimizer | None
) -> float:
    """Mean loss over the bags, in random order with steps where there is an optimiser."""
    head.train(adam is not None)
    order = torch.randperm(len(bags)).tolist() if adam else range(len(bags))
    total = 0.0
    with torch.set_grad_enabled(adam is not None):
        for index in order:
            bag = bags[index]
            logits, _ = head(torch.from_numpy(bag.features).to(weights.device))
            target = torch.tensor(bag.label, device=weights.device)
            loss = weights[target] * nn.functional.cross_entropy(logits, target)
            if adam is not None:
                adam.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                adam.step()
            total += float(loss.detach())
    return total / len(bags)


def _checked(train: Sequence[Bag], validation: Sequence[Bag], classes: int) -> tuple[int, NDArray[np.float64]]:
    """Width of the vectors and number of training bags per class."""
    if classes < 2:
        raise ConfigError(f"a head tells at least 2 labels apart, got {classes}")
    width, counts = 0, np.zeros(classes)
    for name, bags in (("training", train), ("validation", validation)):
        if not len(bags):
            raise ConfigError(f"there are no {name} bags")
        for bag in (bags[i] for i in range(len(bags))):
            if bag.label is None or not 0 <= bag.label < classes or not len(bag):
                raise ConfigError(
                    f"the {name} bag {bag.name!r} has {len(bag)} instances and the label {bag.label}; at least one "
                    f"instance and a label from 0 to {classes - 1} are needed",
                    remedy="leave it out, or fill the manifest's column label",
                )
            width = width or bag.features.shape[1]
            if bag.features.shape[1] != width:
                raise ConfigError(f"the bag {bag.name!r} has {bag.features.shape[1]} features, others have {width}")
            counts[bag.label] += name == "training"
    if not counts.all():
        raise ConfigError(f"each label needs training bags; they have {counts.astype(int).tolist()}")
    return width, counts


def _standards(bags: Sequence[Bag], width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation of each feature over all training instances, bag by bag."""
    count, total, square = 0, np.zeros(width), np.zeros(width)
    for bag in (bags[i] for i in range(len(bags))):
        values = bag.features.astype(np.float64)
        count, total, square = count + len(values), total + values.sum(0), square + (values**2).sum(0)
    mean = total / count
    deviation = np.sqrt(np.maximum(square / count - mean**2, 0))
    # a feature that never changes says nothing, and must not be blown up
    scale = np.where(deviation > 1e-6 * np.maximum(np.abs(mean), 1), deviation, 1)
    return mean.astype(np.float32), scale.astype(np.float32)


def score_bag(head: GatedAttention, features: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores (K,) that sum to 1 and attention (N,) that sums to 1, in double precision.

    Double, so that the order of the instances moves nothing that anyone sees.
    """
    fix_threads()
    with torch.inference_mode():
        logits, attention = head(torch.from_numpy(features).double())
        return torch.softmax(logits, 0).numpy(), attention.numpy()
