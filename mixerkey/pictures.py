"""Pictures as files: read with the meaning that they have on a screen, written so that no pixel changes."""

from __future__ import annotations

import io
import os
import stat
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from mixerkey.files import explained, one_line, write_file

MODES = {1: "L", 3: "RGB"}  # by the number of channels
OTHERS = {".heic", ".heif", ".jxl", ".svg", ".cr2", ".nef", ".arw", ".dng"}  # pictures that Pillow does not open
ROUNDING = 2  # levels by which a conversion from sRGB to sRGB moves a colour
PRIMARIES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)  # of sRGB: white, red, green and blue, x and y each
ORIENTATION = 0x0112  # in EXIF data
DAMAGED_EXIF = "its EXIF data are damaged, so that it isn't known which side is up; save it again without them"
SCREEN = 1 / 2.2  # the gamma that a PNG is shown with if it names none, near enough


def open_picture(
    source: str | Path | BinaryIO, channels: int, *, exact: bool = False, png: bool = False
) -> Image.Image:
    """A picture in grey or colours: upright, in sRGB, with what is transparent on black.

    Args:
        source: a file that Pillow reads; of several frames, only a photograph with its own preview is taken.
        channels: 1 for grey or 3 for colours.
        exact: refuse what the pixels alone do not hold: transparency, and colours if grey is wanted.
        png: refuse what is no PNG, whatever its name, since other formats may have lost pixels.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no picture, damaged, too large, of more than 8 bits a channel, an animation, of another gamma
            than a screen's; or not `exact`, or no `png`.

    >>> file = io.BytesIO()
    >>> Image.new("L", (4, 2), 7).save(file, "PNG")
    >>> open_picture(file, 3).mode
    'RGB'
    """
    if channels not in MODES:
        raise ValueError(f"pictures have 1 or 3 channels, but {channels} are wanted")
    name = source if isinstance(source, str | Path) else "this file"
    try:
        if isinstance(source, str | Path) and not stat.S_ISREG(Path(source).stat().st_mode):
            raise ValueError("it is no regular file")
        Image.init()
        formats = [name for name in Image.OPEN if name != "EPS"]  # a program, which Pillow would give to Ghostscript
        # Pillow warns of what is refused below, or does no harm: a large picture, of which twice as large is refused.
        with warnings.catch_warnings(action="ignore"), Image.open(source, formats=formats) as image:
            if png and image.format != "PNG":
                raise ValueError(f"it is a {image.format}, and no PNG as encrypt writes it: other formats lose pixels")
            check_meaning(image)
            if image.format == "PNG":
                check_rows(cast(BinaryIO, image.fp))
            image.load()
            if image.mode == "P" and 3 * int(np.array(image).max()) >= len(image.getpalette() or []):
                raise ValueError("its palette lacks colours that it has; save it again")  # Pillow shows them black
            shown = _on_black(_in_srgb(_upright(image)), exact)
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
    source: str | Path | BinaryIO,
    channels: int,
    *,
    exact: bool = False,
    png: bool = False,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """What `open_picture` opens as uint8 (C, H, W), resized to `size` (width, height) if it is given.

    >>> file = io.BytesIO()
    >>> Image.new("L", (4, 2), 7).save(file, "PNG")
    >>> read_picture(file, 3).shape
    torch.Size([3, 2, 4])
    """
    shown = open_picture(source, channels, exact=exact, png=png)
    if size is not None and shown.size != size:
        shown = shown.resize(size, Image.Resampling.BOX)
    pixels = np.array(shown).reshape(shown.height, shown.width, channels)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def check_rows(stream: BinaryIO) -> None:
    """Refuse a PNG whose pixels are damaged, end before its last row, which Pillow would fill with black, or say by a
    code that they are not sRGB.

    Args:
        stream: at any place, where it is left.

    Raises:
        ValueError: rows are missing, a checksum is wrong, or the colours are others than sRGB's.
    """
    place = stream.tell()
    stream.seek(8)
    inflate, found, needed = zlib.decompressobj(), 0, 0
    try:
        while len(head := stream.read(8)) == 8:
            length, kind = int.from_bytes(head[:4]), head[4:]
            if kind not in (b"IHDR", b"IDAT", b"cICP"):
                stream.seek(length + 4, os.SEEK_CUR)
                continue
            data, checksum = stream.read(length), stream.read(4)
            if len(checksum) == 4 and zlib.crc32(kind + data) != int.from_bytes(checksum):
                raise zlib.error
            if kind == b"cICP" and data != b"\x01\x0d\0\1":  # which comes before every profile, and Pillow skips
                raise ValueError(f"its colours are those of cICP {', '.join(map(str, data))}; save it in sRGB")
            if kind == b"IHDR":
                needed = _inflated(data)
            while kind == b"IDAT" and data and found < needed:
                found += len(inflate.decompress(data, 2**16))
                data = inflate.unconsumed_tail
    except (zlib.error, IndexError) as error:
        raise ValueError("it is damaged; copy it again") from error
    finally:
        stream.seek(place)
    if found < needed:
        raise ValueError("its last rows are missing; copy it again")


def _inflated(header: bytes) -> int:
    """How many bytes the rows of a PNG have with this header, each with its filter's: PNG (3rd ed.), 7.2 and 8.1."""
    width, height = int.from_bytes(header[:4]), int.from_bytes(header[4:8])
    bits = header[8] * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(header[9], 1)
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    total = 0
    for x, y, across, down in passes if header[12] else ((0, 0, 1, 1),):
        columns, rows = -(-(width - x) // across), -(-(height - y) // down)
        if columns > 0:
            total += max(rows, 0) * (1 + -(-columns * bits // 8))
    return total


def _is_deep(tile: tuple[str, Any, int, Any]) -> bool:
    """Whether a decoder of Pillow's is about to cut samples of more than 8 bits, in colours, without a word."""
    codec, _, _, how = tile
    return ";16" in str(how) or codec.endswith("16") or (codec.startswith("ppm") and how[-1] > 255)


def check_meaning(image: Image.Image) -> None:
    """Refuse a picture that is more than one of 8 bits a channel, as a screen shows them.

    Raises:
        ValueError: more bits, several frames, another gamma or other primaries.

    >>> check_meaning(Image.new("I;16", (2, 2)))
    Traceback (most recent call last):
        ...
    ValueError: it has more than 8 bits a channel; save it with 8
    """
    if image.mode.startswith(("I", "F")) or any(map(_is_deep, getattr(image, "tile", ()))):
        raise ValueError("it has more than 8 bits a channel; save it with 8")
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # a photograph with its preview
        raise ValueError("it has several frames; save the one that you mean")
    gamma = image.info.get("gamma", SCREEN)
    own = "srgb" in image.info or _profile(image) is not None
    if abs(gamma - SCREEN) > 0.01 and not own:
        raise ValueError(f"its gamma is {gamma:g}, and a screen's is {SCREEN:.5f}; save it in sRGB")
    primaries = image.info.get("chromaticity", PRIMARIES)  # which browsers heed beside a gamma, and grey has none
    away = max(abs(one - other) for one, other in zip(primaries, PRIMARIES, strict=True))
    if away > 0.01 and "gamma" in image.info and image.mode not in ("1", "L", "LA") and not own:
        raise ValueError("its red, green and blue are not a screen's; save it in sRGB")


def _upright(image: Image.Image) -> Image.Image:
    """The picture as its EXIF data turn it.

    Raises:
        ValueError: they are too damaged to say how.
    """
    exif = Image.Exif()
    try:
        with warnings.catch_warnings(record=True, action="always") as warned:
            exif.load(image.info.get("exif", b""))
            upright = ImageOps.exif_transpose(image)  # which writes them again
    except Exception as error:  # of a dozen kinds
        raise ValueError(DAMAGED_EXIF) from error
    if warned and ORIENTATION not in exif:
        raise ValueError(DAMAGED_EXIF)
    return upright


def _profile(image: Image.Image) -> ImageCms.ImageCmsProfile | None:
    """The profile of the colours; None where it can't be read, or is for another colour space, as browsers do."""
    space = {"L": "GRAY", "LA": "GRAY", "CMYK": "CMYK"} | dict.fromkeys(("RGB", "RGBA", "P", "PA"), "RGB")
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info.get("icc_profile", b"")))
    except OSError:
        return None
    return profile if profile.profile.xcolor_space.strip() == space.get(image.mode) else None


def _in_srgb(image: Image.Image) -> Image.Image:
    """The colours as a screen shows them, whatever profile they were recorded in.

    A profile that `_profile` ignores changes nothing.
    """
    recorded = _profile(image)
    if recorded is None:
        return image
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    colours = image.convert(image.mode.removesuffix("A"))
    try:
        shown = ImageCms.profileToProfile(colours, recorded, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (OSError, ImageCms.PyCMSError):
        return image
    assert shown is not None  # it is, in place only
    changes = np.asarray(shown).astype(int) - np.asarray(colours.convert("RGB"))
    if np.abs(changes).max() <= ROUNDING:  # sRGB, under whatever name: not a bit is touched
        return image
    if "A" in image.getbands():
        shown.putalpha(image.getchannel("A"))
    return shown


def _on_black(image: Image.Image, exact: bool) -> Image.Image:
    """The picture in mode L or RGB."""
    if image.mode in ("1", "L", "RGB", "CMYK", "YCbCr", "LAB", "HSV") and "transparency" not in image.info:
        return image.convert("L" if image.mode in ("1", "L") else "RGB")
    layers = image.convert("RGBA")
    if exact and layers.getchannel("A").getextrema() != (255, 255):
        raise ValueError("it is transparent in places; save it without an alpha channel")
    grey = image.mode in ("L", "LA", "La")
    return Image.alpha_composite(Image.new("RGBA", layers.size, "black"), layers).convert("L" if grey else "RGB")


def write_picture(image: Tensor, path: Path, *, exclusive: bool = False) -> None:
    """Write uint8 (C, H, W) as a PNG, all or nothing.

    Raises:
        FileExistsError: there is a key at `path`; or anything, if `exclusive`.
        ValueError: a name that does not end in .png.
    """
    if path.suffix.lower() != ".png":
        raise ValueError(f"write a .png, not {path.name}: a format that loses pixels could not be decrypted")
    pixels, stream = image.permute(1, 2, 0).numpy(), io.BytesIO()
    Image.fromarray(pixels[..., 0] if len(image) == 1 else pixels).save(stream, "PNG")
    write_file(path, stream.getvalue(), exclusive=exclusive)


def convert_picture(
    source: Path, target: Path, channels: int, cipher: Callable[[Tensor], Tensor], *, png: bool = False
) -> None:
    """Take a picture, which must be a PNG if `png`, through a cipher to a PNG, unless it is there.

    Raises:
        ValueError: it can't be read, its pixels alone do not hold it, the cipher does not take it, or another picture
            is at `target`.
    """
    plain = read_picture(source, channels, exact=True, png=png)
    try:
        image = cipher(plain)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    if not target.exists():
        with suppress(FileExistsError):  # another run was faster
            return write_picture(image, target, exclusive=True)
    try:
        found = read_picture(target, channels, exact=True)
    except ValueError as error:
        raise ValueError(f"{target} is there already, and not this picture; choose another name") from error
    if not torch.equal(found, image):
        raise ValueError(f"{target} is another picture; choose another name, or remove it")


def convert_folder(
    folder: Path, out: Path, channels: int, cipher: Callable[[Tensor], Tensor], *, png: bool = False
) -> tuple[int, list[str]]:
    """Take each .png below a folder through a cipher, one at a time, to the same place below another folder.

    What is there already is held against what belongs there and left alone, so that a run that was stopped goes on;
    anything else that is there is neither taken for it nor overwritten.

    Returns:
        how many pictures are there now, and a line for each that is not; also for those in other formats.

    Raises:
        ValueError: no picture in the folder, or `out` lies within it.

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
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is no folder; name one for the pictures of {folder}")
    done, names = 0, []
    failed: list[str] = []
    unread: list[OSError] = []
    Image.init()
    suffixes = {suffix for suffix, kind in Image.EXTENSION.items() if kind in Image.OPEN} | OTHERS
    for parent, folders, found in os.walk(folder, onerror=unread.append):
        paths = [Path(parent, name) for name in found if not name.startswith("._")]  # a Mac's notes on the file
        names += [path for path in paths if path.suffix.lower() == ".png"]
        others = [path for path in paths if path.suffix.lower() in suffixes - {".png"}]
        failed += [f"{one_line(path)} is no .png; convert it, or name it alone" for path in others]
        links = [path for path in (Path(parent, name) for name in folders) if path.is_symlink()]
        failed += [f"{one_line(path)} is a link to a folder, which is not followed; name that folder" for path in links]
    failed += map(one_line, unread)
    if not names and not failed:
        raise ValueError(f"there is no .png in {folder}")
    for name in tqdm(sorted(names), unit="image", disable=None):  # none where stderr is no terminal
        try:
            convert_picture(name, out / name.relative_to(folder), channels, cipher, png=png)
            done += 1
        except (OSError, ValueError) as error:
            failed.append(explained(error))
    return done, failed
