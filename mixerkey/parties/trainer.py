"""What the trusted third party hands out: a key with its id to the client, an encrypted model to the provider."""

from __future__ import annotations

import dataclasses
import json
import re
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from mixerkey import key_files
from mixerkey.absorption import encrypt_model
from mixerkey.convmixer import ARCHITECTURES, ConvMixer, load_with_metadata, save_model
from mixerkey.evaluation import predict
from mixerkey.files import parse_json
from mixerkey.key_files import KEY_ID
from mixerkey.keys import BlockKey, check_key

LARGEST_SIDE = 1024  # of images, in pixels
LARGEST_MAP = 2**28  # values that a network computes of an image at a time: a GiB
Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class ModelCard:
    """What anybody may know of an encrypted model, and a client must know to ask it.

    Args:
        key_id: names the key that the model was encrypted with; 64 random bits, drawn with the key, not from it.
        patch_size: M, the side of the key's blocks.
        channels: C of the images.
        height: H, in pixels, divisible by M.
        width: W, in pixels, divisible by M.
        classes: a name for each output of the model; a list becomes a tuple.

    Raises:
        TypeError: classes that are neither.
        ValueError: a key id of another form, a size below 1, above 1,024 or not divisible by M, no classes, or a class
            without a printable name of its own.

    >>> ModelCard("00d1f2e3a4b5c6d7", 2, 1, 8, 8, ("even", "odd")).shape
    (1, 8, 8)
    """

    key_id: str
    patch_size: int
    channels: int
    height: int
    width: int
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.key_id, str) or not re.fullmatch(KEY_ID, self.key_id):
            raise ValueError(f"a key id is 16 hexadecimal digits, got {str(self.key_id)[:40]!r}; keygen draws one")
        sizes = self.patch_size, *self.shape
        if any(type(size) is not int for size in sizes) or not 1 <= min(sizes) <= max(sizes) <= LARGEST_SIDE:
            raise ValueError(f"need images of positive size, at most {LARGEST_SIDE} pixels a side, got {self.shape}")
        if self.height % self.patch_size or self.width % self.patch_size:
            raise ValueError(f"need images of positive size, divisible by {self.patch_size}, got {self.shape}")
        if not isinstance(self.classes, list | tuple):
            raise TypeError(f"classes are a tuple of names, got {type(self.classes).__name__}")
        object.__setattr__(self, "classes", tuple(self.classes))
        if not self.classes:
            raise ValueError("need at least one class")
        if not all(isinstance(name, str) and name and name.isprintable() for name in self.classes):
            raise ValueError("a class needs a name that can be printed on one line")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes need different names, got {', '.join(self.classes)[:200]}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.channels, self.height, self.width


def save_key(key: BlockKey, path: str | Path) -> str:
    """Write a new key, readable by its owner only, with an id that is no secret; return the id.

    Raises:
        FileExistsError: there is a file of that name already.

    >>> import tempfile
    >>> from mixerkey import Key
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     key_id = save_key(Key.generate(2, 1), folder + "/key.json")
    ...     load_key_id(folder + "/key.json") == key_id
    True
    """
    key_id = secrets.token_hex(8)
    key_files.save_key(key, path, key_id=key_id)
    return key_id


def load_named_key(path: str | Path) -> tuple[BlockKey, str]:
    """The key at `path` and its id.

    Raises:
        FileNotFoundError: there is no such file, or the key has no id.
        ValueError: the key or its id can't be used; see `mixerkey.key_files.load_key_and_id`.
    """
    key, key_id = key_files.load_key_and_id(path)
    if key_id is None:
        raise FileNotFoundError(f"{path} has no key id: ask who issued it, or draw a key with mixerkey keygen")
    return key, key_id


def load_key_id(path: str | Path) -> str:
    """The id alone; as `load_named_key`."""
    return load_named_key(path)[1]


def save_encrypted(model: ConvMixer, card: ModelCard, path: str | Path) -> None:
    """Write an encrypted model and its card to a safetensors file, all or nothing; `load_model` reads it, too.

    Folders on the way to it are made.

    Raises:
        TypeError: the model is no network of this package, or the card is none.
        ValueError: the card does not fit the model.

    >>> import tempfile
    >>> from mixerkey import Key, load_pretrained
    >>> key, card = Key.generate(2, 1), ModelCard("00d1f2e3a4b5c6d7", 2, 1, 8, 8, tuple("0123456789"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_encrypted(encrypt_model(load_pretrained("digits"), key), card, folder + "/model.safetensors")
    ...     load_encrypted(folder + "/model.safetensors")[1] == card
    True
    """
    if not isinstance(model, tuple(ARCHITECTURES.values())):
        raise TypeError(f"need an encrypted network of this package, such as a ConvMixer; got {type(model).__name__}")
    if not isinstance(card, ModelCard):
        raise TypeError(f"need a ModelCard, got {type(card).__name__}")
    _check(model, card)
    save_model(model, path, card=json.dumps(asdict(card)))


def load_encrypted(path: str | Path) -> tuple[ConvMixer, ModelCard]:
    """Read what `save_encrypted` wrote: the model in evaluation mode on the CPU, and its card.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an encrypted model with a card.
    """
    model, metadata = load_with_metadata(path)
    try:
        card = read_card(parse_json(metadata.get("card", "")))
        _check(model, card)
    except (ValueError, RuntimeError, MemoryError) as error:
        raise ValueError(
            f"{Path(path).name} has no usable model card ({error}); expected a file that mixerkey encrypt-model wrote"
        ) from error
    return model, card


def read_card(fields: object) -> ModelCard:
    """The card that its fields in JSON say.

    Raises:
        ValueError: fields are missing, unknown, or of other types.

    >>> read_card({"key_id": "00d1f2e3a4b5c6d7"})
    Traceback (most recent call last):
        ...
    ValueError: a model card has the fields key_id, patch_size, channels, height, width, classes
    """
    names = [field.name for field in dataclasses.fields(ModelCard)]
    if not isinstance(fields, dict) or fields.keys() != set(names) or not isinstance(fields["classes"], list):
        raise ValueError(f"a model card has the fields {', '.join(names)}")
    return ModelCard(**fields | {"classes": tuple(fields["classes"])})


def rotate_model(model: Model, old: BlockKey, new: BlockKey) -> Model:
    """From E' under the key `old` to E'' under `new`, without decrypting and without retraining.

    The relative key R = ``old.inverse().then(new)`` has the matrix T_oldᵀ T_new, so Rᵀ E' = T_newᵀ T_old T_oldᵀ E =
    T_newᵀ E. Where keys move pixels, rows are moved and negated, never rounded: the result is bit for bit the plain
    model encrypted with `new`. Whoever has R can turn images and models of the one key into those of the other; it
    stays with the third party. `old` is taken at its word: that a model was encrypted with another key cannot be seen.

    Raises:
        TypeError: a key that is none; and as for `encrypt_model`.
        ValueError: the keys do not fit each other, or the model.

    >>> import torch
    >>> from mixerkey import Key, load_pretrained, patch_matrix
    >>> plain, old, new = load_pretrained("digits"), Key.generate(2, 1), Key.generate(2, 1)
    >>> rotated = rotate_model(encrypt_model(plain, old), old, new)
    >>> torch.equal(patch_matrix(rotated), patch_matrix(encrypt_model(plain, new)))
    True
    """
    check_key(old)
    return encrypt_model(model, old.inverse().then(new))


def moving(key: BlockKey) -> BlockKey:
    """The key, if what it encrypts are other 8-bit images.

    Raises:
        TypeError: it is no key.
        ValueError: it mixes pixels, or changes nothing.
    """
    check_key(key)
    if key.is_identity:
        raise ValueError(
            "this key changes nothing, so that it protects nothing; draw one for larger blocks, by mixerkey keygen "
            "--patch-size 2 or more"
        )
    if not key.moves_pixels:
        raise ValueError(
            f"a {type(key).__name__} mixes pixels, so that what it encrypts is no 8-bit image, which a PNG holds and a "
            "provider takes; use a key that moves pixels, such as keygen draws"
        )
    return key


def _check(model: ConvMixer, card: ModelCard) -> None:
    sizes = model.sizes
    takes = sizes["patch_size"], sizes["in_channels"], sizes["num_classes"]
    says = card.patch_size, card.channels, len(card.classes)
    if takes != says:
        raise ValueError(f"patch size, channels and classes of the model are {takes}, but its card says {says}")
    places = card.height * card.width // card.patch_size**2
    values = max(sizes["dim"], sizes.get("heads", 0) * places) * places
    if values > LARGEST_MAP:
        raise ValueError(
            f"of an image of this size the model would compute {values:,} values at a time, which is too many"
        )
    if not predict(model, torch.zeros(1, *card.shape, dtype=torch.uint8)).isfinite().all():
        raise ValueError("the model answers a black image with NaN or infinity")
