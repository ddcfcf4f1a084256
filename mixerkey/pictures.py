"""Pictures as files: read with the meaning that they have on a screen, written so that no pixel changes."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from mixerkey.files import one_line, write_file

MODES = {1: "L", 3: "RGB"}  # by the number of channels


def open_picture(source: str | Path | BinaryIO, channels: int, *, exact: bool = False) -> Image.Image:
    """A picture in grey or colours: upright, in sRGB, with what is transparent on black.

    Args:
        source: a file that Pillow reads; of several frames, only a photograph with its own preview is taken.
        channels: 1 for grey or 3 for colours.
        exact: refuse what the pixels alone do not hold: transparency, and colours if grey is wanted.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no picture, damaged, too large, of more than 8 bits a channel, an animation; or not `exact`.

    >>> file = io.BytesIO()
    >>> Image.new("L", (4, 2), 7).save(file, "PNG")
    >>> open_picture(file, 3).mode
    'RGB'
    """
    if channels not in MODES:
        raise ValueError(f"pictures have 1 or 3 channels, but {channels} are wanted")
    name = source if isinstance(source, str | Path) else "this file"
    try:
        with Image.open(source) as image:
            _check_depth(image)
            image.load()
            shown = _on_black(_in_srgb(ImageOps.exif_transpose(image)), exact)
        if exact and channels == 1 and shown.mode == "RGB" and len({band.tobytes() for band in shown.split()}) > 1:
            raise ValueError("it has colours, which grey would lose; convert it first")
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # Pillow raises a dozen kinds on damaged files, some with addresses in memory
        reason = (
            "it is damaged, or no picture; choose a PNG or JPEG file"
            if isinstance(error, UnidentifiedImageError)
            else one_line(error)
        )
        raise ValueError(f"{name} can't be read as a picture: {reason}") from error
    return shown.convert(MODES[channels])


def read_picture(
    source: str | Path | BinaryIO, channels: int, *, exact: bool = False, size: tuple[int, int] | None = None
) -> Tensor:
    """What `open_picture` opens as uint8 (C, H, W), resized to `size` (width, height) if it is given.

    >>> file = io.BytesIO()
    >>> Image.new("L", (4, 2), 7).save(file, "PNG")
    >>> read_picture(file, 3).shape
    torch.Size([3, 2, 4])
    """
    shown = open_picture(source, channels, exact=exact)
    if size is not None and shown.size != size:
        shown = shown.resize(size, Image.Resampling.BOX)
    pixels = np.array(shown).reshape(shown.height, shown.width, channels)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _check_depth(image: Image.Image) -> None:
    deep = image.mode.startswith(("I", "F")) or any(";16" in str(tile) for tile in getattr(image, "tile", ()))
    if deep:
        raise ValueError("it has more than 8 bits a channel; save it with 8")
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # a photograph with its preview
        raise ValueError("it has several frames; save the one that you mean")


def _in_srgb(image: Image.Image) -> Image.Image:
    """The colours as a screen shows them, whatever profile they were recorded in."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "CMYK"):
        return image
    recorded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if "sRGB" in ImageCms.getProfileDescription(recorded):
        return image
    converted = ImageCms.profileToProfile(image, recorded, ImageCms.createProfile("sRGB"), outputMode="RGB")
    return converted or image


def _on_black(image: Image.Image, exact: bool) -> Image.Image:
    """The picture in mode L or RGB."""
    if image.mode in ("1", "L", "RGB", "CMYK", "YCbCr", "LAB", "HSV") and "transparency" not in image.info:
        return image.convert("L" if image.mode in ("1", "L") else "RGB")
    layers = image.convert("RGBA")
    if exact and layers.getchannel("A").getextrema() != (255, 255):
        raise ValueError("it is transparent in places; save it without an alpha channel")
    grey = image.mode in ("L", "LA", "La")
    return Image.alpha_composite(Image.new("RGBA", layers.size, "black"), layers).convert("L" if grey else "RGB")


def write_picture(image: Tensor, path: Path) -> None:
    """Write uint8 (C, H, W) as a PNG, all or nothing.

    Raises:
        ValueError: a name that does not end in .png.
    """
    if path.suffix.lower() != ".png":
        raise ValueError(f"write a .png, not {path.name}: a format that loses pixels could not be decrypted")
    pixels, stream = image.permute(1, 2, 0).numpy(), io.BytesIO()
    Image.fromarray(pixels[..., 0] if len(image) == 1 else pixels).save(stream, "PNG")
    write_file(path, stream.getvalue())


def convert_folder(folder: Path, out: Path, channels: int, cipher: Callable[[Tensor], Tensor]) -> tuple[int, list[str]]:
    """Take each PNG below a folder through a cipher, one at a time, to the same place below another folder.

    What is there already is held against what belongs there and left alone, so that a run that was stopped goes on;
    anything else that is there is neither taken for it nor overwritten.

    Returns:
        how many pictures are there now, and a line for each that is not.

    Raises:
        ValueError: no PNG in the folder, or `out` lies within it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     write_picture(torch.zeros(1, 2, 2, dtype=torch.uint8), Path(name, "in", "a", "zero.png"))
    ...     convert_folder(Path(name, "in"), Path(name, "out"), 1, lambda image: ~image)
    ...     read_picture(Path(name, "out", "a", "zero.png"), 1).flatten().tolist()
    (1, [])
    [255, 255, 255, 255]
    """
    if out.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{out} lies within {folder}, which is read; choose a folder elsewhere")
    names = sorted(
        Path(parent, name).relative_to(folder)
        for parent, _, found in os.walk(folder)
        for name in found
        if name.lower().endswith(".png")
    )
    if not names:
        raise ValueError(f"there is no .png in {folder}")
    failed = []
    for name in tqdm(names, unit="image", disable=None):  # none where stderr is no terminal
        try:
            image = cipher(read_picture(folder / name, channels, exact=True))
            found = None
            with suppress(FileNotFoundError):
                found = read_picture(out / name, channels, exact=True)
            if found is None:
                write_picture(image, out / name)
            elif not torch.equal(found, image):
                raise ValueError(f"{out / name} is another picture; choose another folder, or remove it")
        except (OSError, ValueError) as error:
            failed.append(one_line(error))
    return len(names) - len(failed), failed
