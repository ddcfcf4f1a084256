"""The command line of the three parties. Imports the web libraries only where it serves or asks."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixerkey.absorption import encrypt_model
from mixerkey.cipher import decrypt_images, encrypt_images
from mixerkey.convmixer import PRETRAINED, load_pretrained, load_with_metadata
from mixerkey.data import CIFAR10_CLASSES, load_digits
from mixerkey.files import keep_apart, one_line
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
from mixerkey.pictures import convert_folder, convert_picture, read_picture

SIDES = {"digits": 8, "cifar10": 32, "vit": 32}
CLASSES = {"digits": tuple("0123456789"), "cifar10": CIFAR10_CLASSES, "vit": CIFAR10_CLASSES}
TOKEN = "MIXERKEY_TOKEN"


def named(text: str) -> Path:
    """A path from the command line, which must say something."""
    if not text.strip("\0") or "\0" in text:
        raise argparse.ArgumentTypeError("a file needs a name")
    return Path(text)


def a_file(text: str) -> Path:
    """The path of what is a file, and no folder."""
    path = named(text)
    if text.endswith(("/", os.sep)):
        raise argparse.ArgumentTypeError(f"{text} names a folder; name a file in it, such as {path / 'key.json'}")
    return path


def whole(least: int) -> Callable[[str], int]:
    """The type of an argument that is a whole number from `least` to 2^63 - 1.

    >>> whole(1)("12")
    12
    """

    def number(text: str) -> int:
        if not re.fullmatch("[0-9]{1,19}", text) or not least <= int(text) < 2**63:
            got = one_line(text, 40)
            raise argparse.ArgumentTypeError(f"it is a whole number from {least} to 2^63 - 1, got {got!r}")
        return int(text)

    return number


FILE: dict[str, Any] = {"type": named}
NEEDED: dict[str, Any] = {"type": named, "required": True}
URL = "http://127.0.0.1:8000"
COMMANDS: dict[str, tuple[str, str, dict[str, dict[str, Any]]]] = {  # what each does, an example, its arguments
    "keygen": (
        "third party: draw a key, and with it an id that says nothing about it",
        "key.json --patch-size 2 --channels 1",
        {
            "key": {"type": a_file, "help": "JSON file to write, readable by its owner only"},
            "--patch-size": {"type": int, "required": True, "metavar": "M", "help": "2 for digits, 4 for cifar10"},
            "--channels": {"type": int, "required": True, "metavar": "C", "help": "1 for digits, 3 for cifar10"},
        },
    ),
    "encrypt-model": (
        "third party: encrypt a model for the provider",
        "digits key.json models/a.safetensors",
        {
            "model": {"help": f"{', '.join(PRETRAINED)}, or a safetensors file that mixerkey trained"},
            "key": FILE,
            "out": {"type": a_file},
            "--side": {"type": int, "metavar": "PIXELS", "help": "of the images; needed for a file"},
            "--classes": {"metavar": "A,B,...", "help": "names of the outputs; by default 0, 1, ... for a file"},
        },
    ),
    "rotate": (
        "third party: from the old key to a new one, without decrypting the model and without retraining",
        "models/a.safetensors key.json new.json models/b.safetensors",
        {"model": FILE, "old": FILE, "new": FILE, "out": {"type": a_file}},
    ),
    **{
        name: (
            f"client: {name} one picture, or all PNGs below a folder; what is done already is left alone",
            f"in.png out.png --key key.json; mixerkey {name} pictures/ {name}ed/ --key key.json",
            {
                "image": FILE | {"help": "width and height must be divisible by the key's patch size"},
                "out": FILE | {"help": "a .png, since other formats lose pixels; or a folder"},
                "--key": NEEDED,
            },
        )
        for name in ("encrypt", "decrypt")
    },
    "serve": (
        "provider: answer encrypted images until Ctrl-C; SIGHUP reads the models again",
        "models/ --host 0.0.0.0 --token-file token.txt",
        {
            "models": FILE | {"nargs": "+", "metavar": "MODEL", "help": "encrypted models, or folders of them"},
            "--host": {"default": "127.0.0.1", "help": "0.0.0.0 for everyone on the network, :: with IPv6"},
            "--port": {"type": int, "default": 8000, "help": "0 for any that is free"},
            "--batch": {"type": int, "default": 256, "help": "the most images in a request or forward pass"},
            "--queue": {"type": int, "default": 1024, "help": "the most images that wait; beyond it, 503"},
            "--timeout": {
                "type": float,
                "default": 30.0,
                "metavar": "SECONDS",
                "help": "headers, body, answer, and reading it: each",
            },
            "--name": {"action": "append", "default": [], "help": "a host name to answer to; again for more"},
            "--prefix": {"default": "", "metavar": "/PATH", "help": "the path under which a proxy shows it"},
            "--token-file": FILE | {"help": f"ask clients for this bearer token; or set {TOKEN}"},
        },
    ),
    "classify": (
        "client: encrypt pictures here and ask a provider what they show",
        f"three.png --key key.json --url {URL}",
        {
            "images": FILE | {"nargs": "*", "help": "pictures, resized to the model's; by default 360 digits"},
            "--key": NEEDED,
            "--key-id": {"help": "by default, the key's own"},
            "--url": {"default": URL},
            "--token-file": FILE | {"help": f"the provider's bearer token; or set {TOKEN}"},
        },
    ),
}


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the commands of the three parties; see `mixerkey.__main__.main` for how they end.

    >>> parser = argparse.ArgumentParser()
    >>> add_commands(parser.add_subparsers())
    >>> parser.parse_args(["keygen", "key.json", "--patch-size", "2", "--channels", "1"]).patch_size
    2
    """
    runs = {
        "keygen": _keygen,
        "encrypt-model": _encrypt_model,
        "rotate": _rotate,
        "encrypt": _encrypt,
        "decrypt": _decrypt,
        "serve": _serve,
        "classify": _classify,
    }
    for name, (help, example, arguments) in COMMANDS.items():
        command = commands.add_parser(name, help=help, description=help, epilog=f"example: mixerkey {name} {example}")
        command.set_defaults(run=runs[name])
        for argument, options in arguments.items():
            command.add_argument(argument, **options)


def _keygen(options: argparse.Namespace) -> None:
    key_id = save_key(moving(Key.generate(options.patch_size, options.channels)), options.key)
    print(f"key id {key_id}")


def _encrypt_model(options: argparse.Namespace) -> None:
    keep_apart(options.out, options.model, options.key)
    key, key_id = load_named_key(options.key)
    named = options.model in PRETRAINED
    model, metadata = (load_pretrained(options.model), {}) if named else load_with_metadata(options.model)
    if "card" in metadata:
        raise ValueError(f"{options.model} is encrypted already; mixerkey rotate takes it to another key")
    side = SIDES.get(options.model) if options.side is None else options.side
    if side is None:
        raise ValueError("say how many pixels wide and high the images are: --side PIXELS")
    count = model.sizes["num_classes"]
    usual = CLASSES.get(options.model, map(str, range(count)))
    classes = usual if options.classes is None else [name.strip() for name in options.classes.split(",")]
    card = ModelCard(key_id, key.patch_size, key.channels, side, side, tuple(classes))
    locked = encrypt_model(model, moving(key), image_size=(side, side), progress=sys.stderr.isatty())
    save_encrypted(locked, card, options.out)
    print(f"encrypted for key id {key_id}")


def _rotate(options: argparse.Namespace) -> None:
    keep_apart(options.out, options.model, options.old, options.new)
    (old, old_id), (new, new_id) = load_named_key(options.old), load_named_key(options.new)
    if old == new:
        raise ValueError(f"{options.old} and {options.new} are one key; draw another with mixerkey keygen")
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
    png = cipher is decrypt_images
    if options.image.is_dir():
        done, failed = convert_folder(
            options.image, options.out, key.channels, lambda image: cipher(image, key), png=png
        )
        print(f"{done} pictures are in {options.out}")
        if failed:
            for line in failed[1:]:
                print(line, file=sys.stderr)
            raise ValueError(f"{len(failed)} are not, the first because {failed[0]}")
        return
    convert_picture(options.image, options.out, key.channels, lambda image: cipher(image, key), png=png)


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
            answers = client.classify(images, progress=sys.stderr.isatty()).argmax(1)
            print(f"{int((answers == labels).sum())} of {len(labels)} digits right")
            return
        size = card.width, card.height
        images = torch.stack([read_picture(path, card.channels, size=size) for path in options.images])
        for path, row in zip(options.images, client.classify(images, progress=sys.stderr.isatty()), strict=True):
            print(f"{path.name}: {card.classes[int(row.argmax())]} ({row.max():.1%})")


def _token(options: argparse.Namespace) -> str | None:
    from mixerkey.parties.client import check_token

    if options.token_file is None:
        given = os.environ.get(TOKEN)
        if given == "":  # such as a variable of a container that nobody has set
            raise ValueError(f"{TOKEN} is set, and empty; give it a token, or unset it")
        return None if given is None else check_token(given)
    try:
        with options.token_file.open("rb") as stream:
            return check_token(stream.read(10_000).decode("utf-8-sig", "replace"))
    except ValueError as error:
        raise ValueError(f"{options.token_file}: {error}") from error
