"""The command line of the three parties. Imports the web libraries only where it serves or asks."""

from __future__ import annotations

import argparse
import io
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mixerkey.absorption import encrypt_model
from mixerkey.cipher import decrypt_images, encrypt_images
from mixerkey.convmixer import PRETRAINED, load_pretrained, load_with_metadata
from mixerkey.data import CIFAR10_CLASSES, load_digits
from mixerkey.files import keep_apart, write_file
from mixerkey.key_files import load_key, load_key_and_id
from mixerkey.keys import BlockKey, Key
from mixerkey.parties.trainer import (
    ModelCard,
    load_encrypted,
    load_named_key,
    moving,
    rotate_model,
    save_encrypted,
    save_key,
)

SIDES = {"digits": 8, "cifar10": 32}
CLASSES = {"digits": tuple("0123456789"), "cifar10": CIFAR10_CLASSES}
TOKEN = "MIXERKEY_TOKEN"
Run = Callable[[argparse.Namespace], None]


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add keygen, encrypt-model, rotate, encrypt, decrypt, serve and classify.

    Each ends with exit code 0; 1 when a file, an address or the provider is not as it must be, with one line that says
    why; 2 when the command itself is wrong.

    >>> parser = argparse.ArgumentParser()
    >>> add_commands(parser.add_subparsers())
    >>> parser.parse_args(["keygen", "key.json", "--patch-size", "2", "--channels", "1"]).patch_size
    2
    """

    def add(name: str, run: Run, help: str, example: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help, description=help, epilog=f"example: mixerkey {example}")
        command.set_defaults(run=lambda options: _guarded(run, options))
        return command

    command = add(
        "keygen",
        _keygen,
        "third party: draw a key, and with it an id that says nothing about it",
        "keygen key.json --patch-size 2 --channels 1",
    )
    command.add_argument("key", type=Path, help="JSON file to write, readable by its owner only")
    command.add_argument("--patch-size", type=int, required=True, metavar="M", help="2 for digits, 4 for cifar10")
    command.add_argument("--channels", type=int, required=True, metavar="C", help="1 for digits, 3 for cifar10")

    command = add(
        "encrypt-model",
        _encrypt_model,
        "third party: encrypt a model for the provider",
        "encrypt-model digits key.json models/a.safetensors",
    )
    command.add_argument("model", help=f"{' or '.join(PRETRAINED)}, or a safetensors file that mixerkey trained")
    command.add_argument("key", type=Path)
    command.add_argument("out", type=Path)
    command.add_argument("--side", type=int, metavar="N", help="of the images, in pixels; needed for a file")
    command.add_argument("--classes", metavar="A,B,…", help="names of the outputs; by default 0, 1, … for a file")

    command = add(
        "rotate",
        _rotate,
        "third party: from the old key to a new one, without decrypting the model and without retraining",
        "rotate models/a.safetensors key.json new.json models/b.safetensors",
    )
    for name in ("model", "old", "new", "out"):
        command.add_argument(name, type=Path)

    for name, run in (("encrypt", _encrypt), ("decrypt", _decrypt)):
        command = add(name, run, f"client: {name} one picture", f"{name} in.png out.png --key key.json")
        command.add_argument("image", type=Path, help="width and height must be divisible by the key's patch size")
        command.add_argument("out", type=Path, help="a .png: other formats lose pixels")
        command.add_argument("--key", type=Path, required=True)

    command = add(
        "serve",
        _serve,
        "provider: answer encrypted images until Ctrl-C; SIGHUP reads the models again",
        "serve models/ --host 0.0.0.0 --token-file token.txt",
    )
    command.add_argument("models", type=Path, nargs="+", metavar="MODEL", help="encrypted models, or folders of them")
    command.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for everyone on the network")
    command.add_argument("--port", type=int, default=8000, help="0 for any that is free")
    command.add_argument("--batch", type=int, default=256, help="the most images in a request or forward pass")
    command.add_argument("--queue", type=int, default=1024, help="the most images that wait; beyond it, 503")
    command.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="headers, body, answer: each")
    command.add_argument(
        "--name", action="append", default=[], help="a host name that it is reached by; again for more"
    )
    command.add_argument("--prefix", default="", metavar="/PATH", help="the path under which a proxy shows it")
    command.add_argument("--token-file", type=Path, help=f"ask clients for this bearer token; or set {TOKEN}")

    command = add(
        "classify",
        _classify,
        "client: encrypt pictures here and ask a provider what they show",
        "classify three.png --key key.json --url http://127.0.0.1:8000",
    )
    command.add_argument("images", type=Path, nargs="*", help="pictures, resized to the model's; by default 360 digits")
    command.add_argument("--key", type=Path, required=True)
    command.add_argument("--key-id", help="by default, the key's own")
    command.add_argument("--url", default="http://127.0.0.1:8000")
    command.add_argument("--token-file", type=Path, help=f"the provider's bearer token; or set {TOKEN}")


def _guarded(run: Run, options: argparse.Namespace) -> int:
    """What a reader can put right ends in one line and exit code 1, not in a traceback."""
    try:
        run(options)
    except ModuleNotFoundError as error:
        raise SystemExit(f"mixerkey: {error.name} is missing; pip install 'mixerkey[service]'") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise SystemExit(f"mixerkey: {error}") from error
    return 0


def _keygen(options: argparse.Namespace) -> None:
    key_id = save_key(Key.generate(options.patch_size, options.channels), options.key)
    print(f"key id {key_id}")


def _encrypt_model(options: argparse.Namespace) -> None:
    keep_apart(options.out, options.model, options.key)
    key, key_id = load_named_key(options.key)
    named = options.model in PRETRAINED
    model, metadata = (load_pretrained(options.model), {}) if named else load_with_metadata(options.model)
    if "card" in metadata:
        raise ValueError(f"{options.model} is encrypted already; mixerkey rotate takes it to another key")
    side = options.side or SIDES.get(options.model)
    if side is None:
        raise ValueError("say how large the images are: --side 32")
    count = model.sizes["num_classes"]
    classes = options.classes.split(",") if options.classes else CLASSES.get(options.model, map(str, range(count)))
    card = ModelCard(key_id, key.patch_size, key.channels, side, side, tuple(classes))
    locked = encrypt_model(model, moving(key), image_size=(side, side))
    save_encrypted(locked, card, options.out)
    print(f"encrypted for key id {key_id}")


def _rotate(options: argparse.Namespace) -> None:
    keep_apart(options.out, options.model, options.old, options.new)
    (old, old_id), (new, new_id) = load_named_key(options.old), load_named_key(options.new)
    model, card = load_encrypted(options.model)
    if card.key_id != old_id:
        raise ValueError(f"{options.model.name} is encrypted for key id {card.key_id}, but the old key's is {old_id}")
    rotated = rotate_model(model, moving(old), moving(new))
    save_encrypted(rotated, replace(card, key_id=new_id), options.out)
    print(f"rotated from key id {old_id} to {new_id}")


def _encrypt(options: argparse.Namespace) -> None:
    _convert(options, encrypt_images)


def _decrypt(options: argparse.Namespace) -> None:
    _convert(options, decrypt_images)


def _convert(options: argparse.Namespace, cipher: Callable[[Tensor, BlockKey], Tensor]) -> None:
    keep_apart(options.out, options.image, options.key)
    key = moving(load_key(options.key))
    _write_image(cipher(_read_image(options.image, key.channels), key), options.out)


def _serve(options: argparse.Namespace) -> None:
    from mixerkey.parties.provider import Limits, serve

    limits = Limits(batch=options.batch, queue=options.queue, seconds=options.timeout)
    with suppress(KeyboardInterrupt):
        serve(
            options.models,
            host=options.host,
            port=options.port,
            token=_token(options),
            limits=limits,
            names=options.name,
            prefix=options.prefix,
        )


def _classify(options: argparse.Namespace) -> None:
    from mixerkey.parties.client import Client

    key, key_id = load_key_and_id(options.key)  # needed only while the provider serves several models
    key_id = options.key_id or key_id
    with Client(options.url, key, key_id=key_id, token=_token(options)) as client:
        card = client.card()
        if not options.images:
            images, labels = load_digits("test")
            answers = client.classify(images, progress=True).argmax(1)
            print(f"{int((answers == labels).sum())} of {len(labels)} digits right")
            return
        size = card.width, card.height
        images = torch.stack([_read_image(path, card.channels, size) for path in options.images])
        for path, row in zip(options.images, client.classify(images, progress=True), strict=True):
            print(f"{path.name}: {card.classes[int(row.argmax())]} ({row.max():.1%})")


def _token(options: argparse.Namespace) -> str | None:
    from mixerkey.parties.client import check_token

    if options.token_file is None:
        given = os.environ.get(TOKEN)
        return check_token(given) if given else None
    try:
        with options.token_file.open("rb") as stream:
            return check_token(stream.read(10_000).decode("utf-8-sig", "replace"))
    except ValueError as error:
        raise ValueError(f"{options.token_file}: {error}") from error


def _read_image(path: Path, channels: int, size: tuple[int, int] | None = None) -> Tensor:
    """uint8 (C, H, W), resized to `size` (width, height) if it is given."""
    mode = {1: "L", 3: "RGB"}.get(channels)
    if mode is None:
        raise ValueError(f"pictures have 1 or 3 channels, but {channels} are wanted")
    with Image.open(path) as image:
        converted = image.convert(mode)
        if size is not None and converted.size != size:
            converted = converted.resize(size, Image.Resampling.BOX)
        pixels = np.array(converted)  # (H, W) or (H, W, C)
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], channels)).permute(2, 0, 1).contiguous()


def _write_image(image: Tensor, path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise ValueError(f"write a .png, not {path.name}: a format that loses pixels could not be decrypted")
    pixels, stream = image.permute(1, 2, 0).numpy(), io.BytesIO()
    Image.fromarray(pixels[..., 0] if len(image) == 1 else pixels).save(stream, "PNG")
    write_file(path, stream.getvalue())
