"""Encrypted images as a data set: a transform for torchvision and a wrapper for data sets. Needs the extra ``vision``.

Keys are never pickled. Workers that are spawned get what a transform holds by pickling, so give it the key's *file*
there; it is read in each worker.
"""

from __future__ import annotations

from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor

from mixerkey.cipher import encrypt_images
from mixerkey.key_files import load_key
from mixerkey.keys import BlockKey, KeySchedule, integer

KeyPoints = getattr(tv_tensors, "KeyPoints", tv_tensors.Mask)  # since torchvision 0.23
LABELS = (str, Path, Number, np.bool_, type(None), tv_tensors.BoundingBoxes, tv_tensors.Mask, KeyPoints)


class Encrypt(v2.Transform):
    """A transform (torchvision v2) that encrypts every image in a sample, wherever it stands, or refuses the sample.

    It belongs behind resizing and cropping and before nothing: what comes after encryption, such as a random crop,
    breaks the equality that the encrypted model relies on.

    Images are PIL images, ``tv_tensors.Image`` and ``tv_tensors.Video``, and all other tensors of three or more
    dimensions. Labels pass: numbers, text, vectors, and the masks, boxes and key points of ``tv_tensors``.

    Args:
        key: of any kind, or the path of its file.

    Returns:
        as `mixerkey.encrypt_images`: uint8 stays uint8 under keys that move pixels. PIL images become tensors.

    Raises:
        TypeError: the sample holds what is neither image nor label, or no image.
        ValueError: an image does not fit the key.

    >>> import torch
    >>> from mixerkey import Key
    >>> key, x = Key.generate(4, 3), tv_tensors.Image(torch.randint(256, (3, 32, 32), dtype=torch.uint8))
    >>> image, label = Encrypt(key)(x, 7)
    >>> torch.equal(image, encrypt_images(x, key)), label
    (True, 7)
    """

    def __init__(self, key: BlockKey | str | Path) -> None:
        super().__init__()
        self._file = None if isinstance(key, BlockKey) else Path(key)
        self._key = key if isinstance(key, BlockKey) else load_key(key)

    def forward(self, *inputs: Any) -> Any:
        """Encrypt all images (..., C, H, W) in a sample: any tree of tuples, lists and dicts."""
        leaves, form = tree_flatten(inputs if len(inputs) != 1 else inputs[0])
        images = [_is_image(leaf) for leaf in leaves]
        if not any(images):
            kinds = ", ".join(type(leaf).__name__ for leaf in leaves)
            raise TypeError(f"there is no image to encrypt among {kinds or 'nothing'}; load images first")
        done = [self._encrypted(leaf) if image else leaf for leaf, image in zip(leaves, images, strict=True)]
        return tree_unflatten(done, form)

    def _encrypted(self, image: Any) -> Tensor:
        x = pil_to_tensor(image) if isinstance(image, Image) else image
        encrypted = encrypt_images(x.as_subclass(Tensor), self._key)
        return tv_tensors.wrap(encrypted, like=x) if isinstance(x, tv_tensors.TVTensor) else encrypted

    def __copy__(self) -> Encrypt:
        return self

    def __deepcopy__(self, memo: dict) -> Encrypt:
        return self

    def extra_repr(self) -> str:
        """The kind of key, and nothing else of it."""
        return repr(self._key)

    def __getstate__(self) -> dict[str, Any]:
        if self._file is None:
            raise TypeError(
                "keys are never pickled, so workers that are spawned cannot get this one; "
                "save it, and give Encrypt the path of its file"
            )
        return self.__dict__ | {"_key": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._key = load_key(self._file)  # type: ignore[arg-type]


class EncryptedDataset(Dataset):
    """A data set whose images are encrypted when they are taken, each item with its own key if so wanted.

    Args:
        dataset: with a length; of each item, such as (image, label) or a dict, all images are encrypted: see `Encrypt`.
        key: of any kind, the path of its file, or a `KeySchedule`, whose key number i encrypts item i: each
            data set, and each epoch of random crops, needs a schedule of its own, since a number is not used twice.

    Raises:
        TypeError: when an item is taken that holds no image, or what is neither image nor label; or an index that is
            no integer.

    >>> import torch
    >>> from mixerkey.data import load_digits
    >>> from torch.utils.data import TensorDataset
    >>> plain = TensorDataset(*load_digits("test"))
    >>> schedule = KeySchedule.generate(2, 1)
    >>> image, label = EncryptedDataset(plain, schedule)[5]
    >>> torch.equal(image, encrypt_images(plain[5][0], schedule[5])), label == plain[5][1]
    (True, tensor(True))
    """

    def __init__(self, dataset: Dataset, key: BlockKey | str | Path | KeySchedule) -> None:
        self.dataset = dataset
        self._schedule = key if isinstance(key, KeySchedule) else None
        self._encrypt = None if isinstance(key, KeySchedule) else Encrypt(key)

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        index = integer(index, "the number of an item")
        if not -len(self) <= index < len(self):
            raise IndexError(f"item {index} of a data set of {len(self)}")
        index %= len(self)
        encrypt = self._encrypt or Encrypt(self._schedule[index])  # type: ignore[index]
        return encrypt(self.dataset[index])


def _is_image(leaf: Any) -> bool:
    """Whether this is an image; True or False only where it is known, so that no plain image passes for a label."""
    if isinstance(leaf, LABELS) or (isinstance(leaf, np.ndarray) and leaf.ndim < 2 and leaf.dtype != object):
        return False
    if isinstance(leaf, Image) and leaf.mode in ("P", "PA"):
        raise TypeError(
            "a PIL image with a palette holds no pixels: convert it to L or RGB; wrap masks in tv_tensors.Mask"
        )
    if isinstance(leaf, Image | tv_tensors.Image | tv_tensors.Video):
        return True
    plain = isinstance(leaf, Tensor) and not isinstance(leaf, tv_tensors.TVTensor)
    if plain and leaf.ndim < 2:
        return False
    if plain and leaf.ndim > 2 and (leaf.dtype == torch.uint8 or leaf.is_floating_point()):
        return True
    what = f"{type(leaf).__name__} {tuple(leaf.shape)}" if hasattr(leaf, "shape") else type(leaf).__name__
    raise TypeError(
        f"cannot tell whether {what} is an image: make images by v2.ToImage(), wrap masks in tv_tensors.Mask, "
        "take the rest out first"
    )
