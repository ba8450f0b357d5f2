"""What trained networks say of images without labels: a network learns from them how to see other laboratories.

Knowledge distillation (Hinton, Vinyals and Dean 2015, arXiv:1503.02531) and noisy students (Xie et al. 2020,
arXiv:1911.04252): the probabilities of several networks, averaged, are the targets of one that is shown the same pixels
stained otherwise. What was learned from labels is learned on, side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from wsikit.errors import ConfigError
from wsikit.methods.points.config import Config
from wsikit.methods.points.model import CENTRE, FOREGROUND, OFFSETS, NucleiNet
from wsikit.methods.points.predict import VERSION
from wsikit.training.checkpoint import load_checkpoint
from wsikit.training.images import ImageFile, TrainingImage, digest, image_paths, kept_where_small

WEIGHT = 3.0
"""Of what teachers say, beside the losses of labels."""
CENTRE_WEIGHT = 2.0
"""Of the centre map within it."""


def read_unlabelled(folder: Path) -> tuple[TrainingImage, ...]:
    """The images of a folder, by name.

    Raises:
        ConfigError: no such folder, or none in it.
        SlideOpenError: a file that is no 8-bit colour image, or is unreadable.
    """
    paths = image_paths(folder) if folder.is_dir() else []
    if not paths:
        raise ConfigError(
            f"{folder} is no folder with images, and unlabelled names it",
            remedy="give a folder of PNG, JPEG or TIFF files of mpp um per px, or leave it out",
        )
    return kept_where_small([TrainingImage(name=path.name, source=ImageFile.open(path)[0]) for path in paths])


def digest_of(images: Sequence[TrainingImage]) -> str:
    """sha256 of names and pixels. Raises PixelReadError."""
    return digest(images, [(image.name,) for image in images])


class Teachers(nn.Module):
    """The mean of what several networks say."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 2, S, S) probabilities, ``FOREGROUND`` and ``CENTRE``, of (N, 3, S, S) RGB in [0, 1]."""
        said = [torch.sigmoid(one.eval()(x)[:, : OFFSETS.start].float()) for one in self.networks]
        return torch.stack(said).mean(dim=0)


def load_network(path: Path, config: Config, *, teaches: bool = False) -> NucleiNet:
    """The network of a checkpoint of this method, in float32.

    Args:
        path: of the checkpoint.
        config: of the training that wants it.
        teaches: whether it will be asked at all resolutions of the training.

    Raises:
        ConfigError: no such checkpoint; one that sees colours where the training sees stain, or the other way round; a
            teacher that was trained at other resolutions.
    """
    state, card = load_checkpoint(path)
    card.check_method("points", VERSION)
    own = Config.model_validate(card.config)
    if own.sees != config.sees:
        raise ConfigError(f"{path} sees {own.sees}, this training {config.sees}", remedy="give one that sees the same")
    if teaches and not own.seen_mpp[0] <= config.seen_mpp[0] <= config.seen_mpp[1] <= own.seen_mpp[1]:
        raise ConfigError(
            "the teacher {} was trained at {:g} to {:g} um per px, this training sees {:g} to {:g}".format(
                path, *own.seen_mpp, *config.seen_mpp
            ),
            remedy="set a seen_mpp within the teacher's",
        )
    network = NucleiNet.of(own)
    # float16 is how weights are kept, not how they are computed with
    network.load_state_dict({key: one.float() if one.is_floating_point() else one for key, one in state.items()})
    return network


def begin_with(model: NucleiNet, other: NucleiNet) -> None:
    """Give a model the weights of another; what it learns beside, and the other does not know, stays random.

    Raises:
        ConfigError: another encoder, or other widths.
    """
    own, given = model.state_dict(), other.state_dict()
    if own.keys() != given.keys() or any(own[key].shape[1:] != value.shape[1:] for key, value in given.items()):
        raise ConfigError(
            "start is a checkpoint of another network than this training's",
            remedy="take encoder and widths from its card, or leave start out",
        )
    kept = {key: torch.cat([value, own[key][len(value) :]]) if value.ndim else value for key, value in given.items()}
    model.load_state_dict(kept)


def taught_loss(logits: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
    """Cross entropy with the teachers' foreground, and ``CENTRE_WEIGHT`` times the squared error of the centre map.

    Args:
        logits: (N, C, S, S) of the network.
        said: (N, 2, S, S) probabilities of the teachers.
    """
    foreground = functional.binary_cross_entropy_with_logits(logits[:, FOREGROUND].float(), said[:, FOREGROUND])
    centre = functional.mse_loss(torch.sigmoid(logits[:, CENTRE].float()), said[:, CENTRE])
    return foreground + CENTRE_WEIGHT * centre
