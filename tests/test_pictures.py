"""Pictures as files: what they mean on a screen is what is read, and what pixels can't hold is refused."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageCms

from mixerkey import Key, encrypt_images
from mixerkey.__main__ import main
from mixerkey.keys import BlockOrder
from mixerkey.pictures import convert_folder, open_picture, read_picture, write_picture

QUARTERS = torch.tensor([[10, 80], [160, 250]], dtype=torch.uint8)  # of 16 × 16 pixels each: no two alike
PLAIN = QUARTERS.repeat_interleave(16, 0).repeat_interleave(16, 1)[None]  # (1, 32, 32)


def save(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def grey(tensor: torch.Tensor) -> Image.Image:
    return Image.fromarray(tensor[0].numpy())


# What a file with this EXIF orientation stores, so that the picture PLAIN is shown.
STORED = {
    1: PLAIN,
    2: PLAIN.flip(2),
    3: PLAIN.rot90(2, (1, 2)),
    4: PLAIN.flip(1),
    5: PLAIN.mT,
    6: PLAIN.rot90(1, (1, 2)),
    7: PLAIN.rot90(2, (1, 2)).mT,
    8: PLAIN.rot90(-1, (1, 2)),
}


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", STORED)
def test_pictures_are_read_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(grey(STORED[orientation]), tmp_path / f"a.{suffix}", exif=exif, quality=100)
    for exact in (False, True):
        error = (read_picture(path, 1, exact=exact).int() - PLAIN.int()).abs()
        assert error.max() <= (0 if suffix in ("png", "tiff") else 3)


TURN = b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"  # orientation 6, which stands in its entry
NAME = b"\x01\x31\0\x02\0\0\0\x06\0\0\0\x26"  # of a program, which stands behind the entries
EXIF = b"MM\0*\0\0\0\x08\0\x02" + TURN + NAME + b"\0\0\0\0Maker\0"


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize(
    ("exif", "upright"),
    [
        pytest.param(EXIF, True, id="whole"),
        pytest.param(EXIF[:-4], True, id="cut within the name"),
        pytest.param(EXIF[:24], True, id="cut within its entry"),
        pytest.param(EXIF[:18], False, id="cut within the turn"),
        pytest.param(EXIF[:9], False, id="cut within the count"),
        pytest.param(EXIF[:5], False, id="cut within the header"),
        pytest.param(b"garbage" * 3, False, id="no EXIF"),
        pytest.param(EXIF.replace(TURN, TURN[:3] + b"\5" + TURN[4:8] + b"\xff" * 4), False, id="a turn far away"),
    ],
)
def test_damaged_exif_data_are_refused_if_they_hide_which_side_is_up(
    tmp_path: Path, exif: bytes, upright: bool, suffix: str
) -> None:
    path = save(grey(STORED[6]), tmp_path / f"a.{suffix}", exif=b"Exif\0\0" + exif, quality=100)
    with warnings.catch_warnings(action="error"):  # not a word of Pillow's
        if upright:
            assert read_picture(path, 1).shape == PLAIN.shape
        else:
            with pytest.raises(
                ValueError, match=r"a\..* can't be read as a picture: its EXIF data are damaged, so that"
            ):
                read_picture(path, 1)


def deep_ppm(path: Path) -> Path:
    path.write_bytes(b"P6\n4 4\n65535\n" + bytes(range(96)))
    return path


def deep_sgi(path: Path) -> Path:
    head = struct.pack(">HBBHHHHii4s80si404s", 474, 0, 2, 3, 4, 4, 3, 0, 65535, b"", b"", 0, b"")
    path.write_bytes(head + bytes(range(96)))
    return path


def deep_png(path: Path) -> Path:
    """16 bits a channel in colours, which Pillow would cut to 8 without a word."""

    return png(path, (b"\0" + bytes(range(12))) * 2, side=2, depth=16, colour=2)


def png(
    path: Path, rows: bytes, side: int = 4, depth: int = 8, colour: int = 0, interlace: int = 0, cut: int = 5
) -> Path:
    """A PNG with these rows, each behind its filter's number, in two chunks."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, interlace))
    rows = zlib.compress(rows, 0)
    data = chunk(b"IDAT", rows[:cut]) + chunk(b"IDAT", rows[cut:])
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b""))
    return path


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def animation(path: Path) -> Path:
    frames = [Image.new("L", (4, 4), n) for n in (0, 100)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    return path


def content(data: bytes) -> Any:
    def write(path: Path) -> Path:
        path.write_bytes(data)
        return path

    return write


def spoil(path: Path) -> Path:
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 5] ^= 255
    path.write_bytes(data)
    return path


def flipped(path: Path) -> Path:
    """A pixel is another one than its chunk's checksum says; zlib's comes later, in a chunk that holds no row."""
    data = bytearray(png(path, b"\0abcd" * 4, cut=-4).read_bytes())
    data[data.index(b"abcd")] ^= 255
    path.write_bytes(data)
    return path


def with_chunk(path: Path, kind: bytes, data: bytes, *more: tuple[bytes, bytes], mode: str = "L") -> Path:
    """PLAIN with further chunks before its pixels."""
    save(grey(PLAIN).convert(mode), path)
    content = path.read_bytes()
    chunks = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((kind, data), *more)
    )
    place = content.index(b"IDAT") - 4
    path.write_bytes(content[:place] + chunks + content[place:])
    return path


def gamma(value: int) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", value)


WIDE = b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)  # Display P3
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
USUAL = b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)


def half(path: Path) -> Path:
    save(grey(PLAIN), path)
    path.write_bytes(path.read_bytes()[:70])
    return path


def see_through(path: Path, mode: str = "RGBA") -> Path:
    return save(Image.new(mode, (4, 4), (200, 128) if mode == "LA" else (200, 0, 0, 128)), path)


def short_palette(path: Path, kind: str, colours: int) -> Path:
    """A picture with one colour more than its palette has."""
    image = Image.new("P", (4, 4), colours)
    image.putpalette([9, 80, 200] * colours)
    image.save(path, kind)
    return path


def see_through_palette(path: Path) -> Path:
    image = Image.new("P", (4, 4))
    image.putpalette([200, 0, 0])
    return save(image, path, transparency=0)


REFUSED: dict[str, tuple[Any, str, bool]] = {
    # name: a file, words of the message, whether only an exact reader refuses it
    "16 bits of grey": (lambda path: save(Image.new("I;16", (4, 4), 40_000), path), "more than 8 bits", False),
    "16 bits of colours": (deep_png, "more than 8 bits", False),
    "16 bits of colours, PPM": (deep_ppm, "more than 8 bits", False),
    "16 bits of colours, SGI": (deep_sgi, "more than 8 bits", False),
    "several frames": (animation, "several frames", False),
    "no picture": (content(b"hello"), "it is damaged, or no picture", False),
    "nothing": (content(b""), "it is damaged, or no picture", False),
    "half a picture": (half, "rows are missing", False),
    "half of the rows": (lambda path: png(path, b"\0abcd" * 2), "rows are missing", False),
    "half of the rows, interlaced": (lambda path: png(path, b"\0a" * 5, interlace=1), "rows are missing", False),
    "damaged data": (lambda path: spoil(png(path, b"\0abcd" * 4)), "damaged", False),
    "a damaged pixel": (flipped, "damaged", False),
    "no palette": (lambda path: png(path, b"\0abcd" * 4, colour=3), "palette lacks colours", False),
    "a short palette": (lambda path: short_palette(path, "PNG", 3), "palette lacks colours", False),
    "a long palette that is too short": (lambda path: short_palette(path, "PNG", 255), "palette lacks colours", False),
    "a short palette in a BMP": (lambda path: short_palette(path, "BMP", 3), "palette lacks colours", False),
    "narrow range": (lambda path: with_chunk(path, b"cICP", b"\x01\x0d\0\0"), "cICP 1, 13, 0, 0", False),
    "linear light": (lambda path: with_chunk(path, *gamma(100_000)), "its gamma is 1, and a screen's is", False),
    "an old Mac's gamma": (lambda path: with_chunk(path, *gamma(55_556)), "its gamma is 0.55556", False),
    "Display P3": (lambda path: with_chunk(path, b"cICP", b"\x0c\x0d\0\1", mode="RGB"), "cICP 12, 13, 0, 1", False),
    "BT.2020 PQ": (lambda path: with_chunk(path, b"cICP", b"\x09\x10\0\1", (b"sRGB", b"\0")), "cICP 9, 16", False),
    "other primaries": (lambda path: with_chunk(path, *gamma(45_455), WIDE, mode="RGB"), "are not a screen's", False),
    "a gamma beside a profile for other colours": (
        lambda path: with_chunk(path, *gamma(100_000), (b"iCCP", b"a\0\0" + zlib.compress(SRGB))),
        "its gamma is 1, and a screen's is",
        False,
    ),
    "a program": (content(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n"), "damaged, or no picture", False),
    "a pipe": (pipe, "no regular file", False),
    "too many pixels": (lambda path: save(Image.new("1", (20_000, 20_000)), path), "decompression bomb", False),
    "transparent": (see_through, "transparent in places", True),
    "transparent grey": (lambda path: see_through(path, "LA"), "transparent in places", True),
    "a transparent colour of a palette": (see_through_palette, "transparent in places", True),
    "colours for grey": (lambda path: save(Image.new("RGB", (4, 4), "red"), path), "colours, which grey", True),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_pixels_cannot_hold_is_refused(tmp_path: Path, name: str) -> None:
    make, words, exact_only = REFUSED[name]
    path = make(tmp_path / "a.png")
    with pytest.raises(ValueError, match=rf"a\.png can't be read as a picture: .*{words}") as caught:
        read_picture(path, 1, exact=True)
    assert str(caught.value).isprintable()
    assert "0x" not in str(caught.value)
    if exact_only:
        assert read_picture(path, 1).shape == (1, 4, 4)
    else:
        with pytest.raises(ValueError, match=words):
            read_picture(path, 1)


def test_a_screens_gamma_is_read(tmp_path: Path) -> None:
    cases: list[tuple[int, list[tuple[bytes, bytes]]]] = [(45_455, []), (45_000, []), (100_000, [(b"sRGB", b"\0")])]
    for value, more in cases:
        path = with_chunk(tmp_path / "a.png", *gamma(value), *more)
        assert torch.equal(read_picture(path, 1, exact=True), PLAIN)
    for mode, chunks in (
        ("RGB", [(b"cICP", b"\x01\x0d\0\1")]),
        ("RGB", [gamma(45_455), USUAL]),
        ("RGB", [gamma(100_000), (b"iCCP", b"a\0\0" + zlib.compress(SRGB))]),
        ("RGB", [gamma(45_455), WIDE, (b"sRGB", b"\0")]),
        ("RGB", [WIDE]),
        ("L", [gamma(45_455), WIDE]),
    ):
        path = with_chunk(tmp_path / "a.png", *chunks[0], *chunks[1:], mode=mode)
        assert torch.equal(read_picture(path, 1, exact=True), PLAIN)


def test_a_large_photograph_is_read_without_a_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings(action="error"):
        assert open_picture(save(Image.new("1", (9_800, 9_800)), tmp_path / "a.png"), 1).size == (9_800, 9_800)


def test_what_is_transparent_is_seen_on_black(tmp_path: Path) -> None:
    assert read_picture(see_through(tmp_path / "a.png"), 3)[:, 0, 0].tolist() == [100, 0, 0]
    opaque = save(Image.new("RGBA", (4, 4), (200, 10, 20, 255)), tmp_path / "b.png")
    assert read_picture(opaque, 3, exact=True)[:, 0, 0].tolist() == [200, 10, 20]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_modes_that_hold_the_same_picture_are_read_the_same(tmp_path: Path, mode: str) -> None:
    path = save(Image.new("L", (4, 4), 255).convert(mode), tmp_path / "a.png")
    assert (read_picture(path, 1, exact=True) == 255).all()
    assert (read_picture(path, 3, exact=True) == 255).all()


def test_colours_of_another_profile_are_those_of_the_screen(tmp_path: Path) -> None:
    red = Image.new("RGB", (4, 4), (200, 50, 50))
    same = save(red, tmp_path / "a.png", icc_profile=SRGB)
    assert read_picture(same, 3)[:, 0, 0].tolist() == [200, 50, 50]
    # The profile of a screen whose red is blue, which calls itself sRGB.
    profile = bytearray(SRGB)
    red_at, blue_at = (int.from_bytes(profile[(i := profile.index(tag)) + 4 : i + 8]) for tag in (b"rXYZ", b"bXYZ"))
    was_red, was_blue = profile[red_at : red_at + 20], profile[blue_at : blue_at + 20]
    profile[red_at : red_at + 20], profile[blue_at : blue_at + 20] = was_blue, was_red
    for mode in ("RGB", "RGBA", "P"):
        path = save(red.convert(mode), tmp_path / f"{mode}.png", icc_profile=bytes(profile))
        r, _, b = read_picture(path, 3, exact=True)[:, 0, 0].tolist()
        assert (r < 100, b > 150) == (True, True), mode


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("profile", [SRGB, SRGB[:200], SRGB[:128] + bytes(999), b"none"], ids=["RGB", "cut", "0", "no"])
@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", "png"), ("LA", "png"), ("CMYK", "tiff"), ("L", "jpg"), ("RGB", "png"), ("P", "png")]
)
def test_a_profile_of_another_colour_space_or_a_broken_one_is_ignored(
    tmp_path: Path, mode: str, suffix: str, profile: bytes
) -> None:
    image = grey(PLAIN).convert("RGB").convert(mode)
    path = save(image, tmp_path / f"a.{suffix}", icc_profile=profile)
    plain = save(image, tmp_path / f"b.{suffix}")
    for channels in (1, 3):
        assert torch.equal(read_picture(path, channels), read_picture(plain, channels))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("side", [1, 5, 8, 9])
def test_every_whole_png_has_its_rows(tmp_path: Path, mode: str, side: int) -> None:
    opaque = Image.new("RGBA", (side, side), (200, 200, 200, 255)).convert(mode)
    assert read_picture(save(opaque, tmp_path / "a.png"), 1, exact=True).shape == (1, side, side)


def test_an_interlaced_png_has_its_rows_in_seven_passes(tmp_path: Path) -> None:
    # Of 4 x 4 pixels: one, none, none, one, two, four, and eight.
    rows = b"\0\1" + b"\0\2" + b"\0\3\4" + b"\0\5\6" * 2 + b"\0\7\7\7\7" * 2
    found = read_picture(png(tmp_path / "a.png", rows, interlace=1), 1)
    assert found[0].tolist() == [[1, 5, 2, 6], [7, 7, 7, 7], [3, 5, 4, 6], [7, 7, 7, 7]]


def pictures(folder: Path, count: int = 5) -> list[Path]:
    paths = [folder / ("." if n % 2 else "deeper") / f"{n}.PNG" for n in range(count)]
    for n, path in enumerate(paths):
        write_picture(PLAIN // (n + 1), path)
    return paths


KEYS = {
    "Key": Key.from_seed(1, 4, 1),
    "BlockOrder": BlockOrder.generate(4, 1, grid=(8, 8)),
    "both": Key.from_seed(1, 4, 1).then(BlockOrder.generate(4, 1, grid=(8, 8))),
}


@pytest.mark.parametrize("kind", KEYS)
def test_a_folder_is_encrypted_and_decrypted_with_any_key_that_moves_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    KEYS[kind].save("key.json")
    for path in pictures(Path("in")):
        write_picture(encrypt_images(read_picture(path, 1), KEYS[kind]), Path("expected", *path.parts[1:]))
    assert main(["encrypt", "in", "locked", "--key", "key.json"]) == 0
    assert main(["decrypt", "locked", "back", "--key", "key.json"]) == 0
    for path in pictures(Path("again")):
        inner = Path(*path.parts[1:])
        assert torch.equal(read_picture("locked" / inner, 1), read_picture("expected" / inner, 1))
        assert torch.equal(read_picture("back" / inner, 1), read_picture(path, 1))


def test_a_folder_goes_on_where_it_was_stopped_and_takes_nothing_else_for_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for n, name in enumerate(("key.json", "other.json")):
        Key.from_seed(n, 4, 1).save(name)
    paths = pictures(Path("in"))
    main(["encrypt", "in", "out", "--key", "key.json"])
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.PNG")}
    lost = Path("out", *paths[1].parts[1:])
    lost.unlink()
    main(["encrypt", "in", "out", "--key", "key.json"])
    assert all(path.stat().st_mtime_ns == time for path, time in before.items() if path != lost)
    assert lost.exists()
    with pytest.raises(SystemExit, match=r"^mixerkey: 5 are not, the first because out/.* is another picture"):
        main(["encrypt", "in", "out", "--key", "other.json"])
    (Path("in") / "bad.png").write_bytes(b"half")
    with pytest.raises(SystemExit, match=r"^mixerkey: 1 are not, the first because in/bad.png can't be read"):
        main(["encrypt", "in", "out", "--key", "key.json"])
    assert "5 pictures are in out" in capsys.readouterr().out
    for out in ("in", "in/out"):
        with pytest.raises(SystemExit, match=r"lies within in|is read from"):
            main(["encrypt", "in", out, "--key", "key.json"])
    Path("empty").mkdir()
    with pytest.raises(SystemExit, match=r"there is no \.png in empty"):
        main(["encrypt", "empty", "out", "--key", "key.json"])


def test_what_a_folder_has_and_is_not_encrypted_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    KEYS["Key"].save("key.json")
    pictures(Path("in"), 3)
    Path("in", "elsewhere").symlink_to("deeper")
    Path("in", "lost.png").symlink_to("nowhere")
    save(grey(PLAIN), Path("in", "photo.JPG"))
    Path("in", "phone.HEIC").write_bytes(b"what Pillow does not open")
    save(Image.new("L", (6, 3)), Path("in", "odd.png"))
    Path("in", "notes.txt").write_text("no picture")
    Path("in", "._0.PNG").write_bytes(b"a Mac's notes on the file 0.PNG")
    Path("in", "locked").mkdir()
    pipe(Path("in", "pipe.png"))
    scandir = os.scandir

    def refusing(path: str) -> Any:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(SystemExit, match=r"^mixerkey: 7 are not, the first because "):
        main(["encrypt", "in", "out", "--key", "key.json"])
    printed = capsys.readouterr()
    assert "3 pictures are in out" in printed.out
    assert len(printed.err.splitlines()) == 6  # the others
    assert "in/odd.png: height and width must be divisible" in printed.err
    done, failed = convert_folder(Path("in"), Path("out2"), 1, lambda image: image)
    assert done == 4
    said = (
        "in/elsewhere is a link to a folder",
        "in/lost.png: it is a link to nowhere",
        "in/locked",
        "in/pipe.png can't be read",
        "in/photo.JPG is no .png",
    )
    for words in said:
        assert any(words in line for line in failed), words


@pytest.mark.parametrize("other", [0, 1], ids=["the-same", "another"])
def test_of_runs_into_one_folder_at_once_none_loses_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: int
) -> None:
    pictures(tmp_path / "in", 3)
    out = tmp_path / "out"

    def write_late(*given: Any, **options: Any) -> None:  # at the last moment another run is done with all of them
        monkeypatch.undo()
        assert convert_folder(tmp_path / "in", out, 1, lambda image: ~image ^ other) == (3, [])
        write_picture(*given, **options)

    monkeypatch.setattr("mixerkey.pictures.write_picture", write_late)
    done, failed = convert_folder(tmp_path / "in", out, 1, lambda image: ~image)
    assert (done, len(failed)) == ((0, 3) if other else (3, 0))
    assert all("is another picture" in line for line in failed)
    for path in out.rglob("*.*"):
        assert torch.equal(read_picture(path, 1), ~read_picture(tmp_path / "in" / path.relative_to(out), 1) ^ other)


def test_one_picture_does_not_take_the_place_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    KEYS["Key"].save("key.json")
    (path, other, *_) = pictures(Path("in"))
    before = other.read_bytes()
    with pytest.raises(SystemExit, match="is another picture; choose another name, or remove it"):
        main(["encrypt", str(path), str(other), "--key", "key.json"])
    assert other.read_bytes() == before
    for _ in range(2):  # once more is no error
        assert main(["encrypt", str(path), "new.png", "--key", "key.json"]) == 0
    Path("file").write_text("")
    with pytest.raises(SystemExit, match="file is no folder"):
        main(["encrypt", "in", "file", "--key", "key.json"])


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_decrypt_refuses_what_may_have_lost_pixels_whatever_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, format: str
) -> None:
    monkeypatch.chdir(tmp_path)
    KEYS["Key"].save("key.json")
    save(grey(PLAIN), Path(name), format=format)
    with pytest.raises(SystemExit, match=f"it is a {format}, and no PNG .*: other formats lose pixels"):
        main(["decrypt", name, "b.png", "--key", "key.json"])
    assert main(["encrypt", name, "b.png", "--key", "key.json"]) == 0
    Path("in").mkdir()
    Path(name).rename("in/a.png")
    with pytest.raises(SystemExit, match=r"1 are not, .* other formats lose pixels"):
        main(["decrypt", "in", "out", "--key", "key.json"])


def test_pictures_in_memory_are_read_too() -> None:
    stream = io.BytesIO()
    grey(PLAIN).save(stream, "PNG")
    assert torch.equal(read_picture(stream, 1), PLAIN)
