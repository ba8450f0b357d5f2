"""Masks of tissue classes as PNG: a byte for each pixel, the index of its class, and the colours as palette."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsikit.atomic import replace_file
from wsikit.errors import ConfigError
from wsikit.methods.cam_onss.classes import IGNORED, ClassSchema

Mask = NDArray[np.uint8]
"""(H, W) class of each pixel, ``schema.excluded``, or ``IGNORED``."""
CODE = "bad_mask"


def write_mask(path: Path, mask: NDArray[np.integer], schema: ClassSchema) -> None:
    """Write a palette PNG, whole or not at all.

    Args:
        path: of the PNG.
        mask: (H, W) indices of ``schema.colours``.
        schema: whose palette it gets.

    Raises:
        ConfigError: code bad_mask: an index that the schema does not have.
        OutputError: it cannot be written.
    """
    _check_indices(np.unique(mask), schema, str(path))
    image = Image.fromarray(np.asarray(mask, np.uint8))
    image.putpalette(schema.png_palette())
    out = io.BytesIO()
    image.save(out, "PNG", optimize=False)
    replace_file(path, out.getvalue())


def read_mask(path: Path, schema: ClassSchema, size: tuple[int, int] | None = None) -> Mask:
    """Read a mask: a palette or grey image of indices, or an RGB image of exactly the schema's colours.

    Args:
        path: of an image.
        schema: that it is of.
        size: (width, height) px that it must have.

    Raises:
        ConfigError: code bad_mask: no such image, another size, an index or a colour that the schema does not have, or
            a palette that gives an index the colour of another class.
    """
    with _opened(path) as image:
        _check_size(path, image.size, size)
        if image.mode not in ("P", "L", "RGB"):
            raise ConfigError(
                f"{path} is no mask: its mode is {image.mode}",
                code=CODE,
                remedy="save it with a palette, as 8-bit grey of class indices, or as RGB of the classes' colours",
            )
        try:
            values = np.asarray(image)
        except (OSError, ValueError, SyntaxError) as error:
            raise _unreadable(path, error) from error
        palette = image.getpalette() if image.mode == "P" else None
    if values.ndim == 3:
        return _of_colours(values, schema, path)
    _check_indices(np.unique(values), schema, str(path))
    if palette:
        _check_palette(np.unique(values), palette, schema, path)
    return values.astype(np.uint8)


def check_size(path: Path, size: tuple[int, int]) -> None:
    """Raise ConfigError (code bad_mask) where a mask has another (width, height) than its image; reads no pixels."""
    with _opened(path) as image:
        _check_size(path, image.size, size)


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ConfigError:
    return ConfigError(f"the mask {path} cannot be read: {error}", code=CODE, remedy="copy or write the file again")


def _check_size(path: Path, found: tuple[int, int], size: tuple[int, int] | None) -> None:
    if size is not None and found != size:
        raise ConfigError(
            f"the mask {path} has {found[0]}x{found[1]} px, its image has {size[0]}x{size[1]} px",
            code=CODE,
            remedy="export the mask at the resolution of the image",
        )


def _check_indices(indices: NDArray[np.integer], schema: ClassSchema, where: str) -> None:
    wrong = sorted(set(indices.tolist()) - set(schema.colours))
    if wrong:
        known = ", ".join(f"{index} {code}" for index, code in enumerate(schema.codes))
        raise ConfigError(
            f"{where}: a mask of {schema.name} holds no {', '.join(map(str, wrong[:5]))}; its classes are {known}, and "
            f"{' and '.join(map(str, schema.unscored))} are pixels of none",
            code=CODE,
            remedy="choose the schema that the mask was painted by",
        )


def _check_palette(used: NDArray[np.uint8], palette: list[int], schema: ClassSchema, path: Path) -> None:
    """Foreign colours say nothing; the schema's own at another index say that the indices mean something else."""
    owners = {rgb: index for index, rgb in schema.colours.items()}
    for index in used.tolist():
        rgb = tuple(palette[3 * index : 3 * index + 3])
        other = owners.get((rgb[0], rgb[1], rgb[2]), index) if len(rgb) == 3 else index
        # black is also what palettes are filled up with
        if other not in (index, IGNORED):
            raise ConfigError(
                f"{path}: its palette gives index {index} the colour that {schema.name} gives index {other}",
                code=CODE,
                remedy="choose the schema that the mask was painted by, or save the mask as RGB",
            )


def _of_colours(values: NDArray[np.uint8], schema: ClassSchema, path: Path) -> Mask:
    packed = values.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)  # (H, W)
    owners = {(r << 16) + (g << 8) + b: index for index, (r, g, b) in schema.colours.items()}
    found, inverse = np.unique(packed, return_inverse=True)
    unknown = [colour for colour in found.tolist() if colour not in owners]
    if unknown:
        listed = ", ".join(str((colour >> 16, colour >> 8 & 255, colour & 255)) for colour in unknown[:3])
        raise ConfigError(
            f"{path} has {len(unknown)} colours that are none of {schema.name}'s, such as {listed}",
            code=CODE,
            remedy="save masks without loss and without smooth edges (no JPEG), or choose the schema they belong to",
        )
    indices = np.array([owners[colour] for colour in found.tolist()], np.uint8)
    return indices[inverse].reshape(packed.shape)
