"""Encrypted images as a data set: a transform for torchvision and a wrapper for data sets. Needs the extra ``vision``.

Keys are never pickled. Workers that are spawned get what a transform holds by pickling, so give it the key's *file*
there; it is read in each worker.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL.Image import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor

from mixerkey.cipher import encrypt_images
from mixerkey.key_files import load_key
from mixerkey.keys import BlockKey, KeySchedule


class Encrypt(v2.Transform):
    """A transform (torchvision v2) that encrypts images, wherever they stand in a sample; the rest passes through.

    It belongs behind resizing and cropping and before nothing: what comes after encryption, such as a random crop,
    breaks the equality that the encrypted model relies on.

    Args:
        key: of any kind, or the path of its file.

    Returns:
        as `mixerkey.encrypt_images`: uint8 stays uint8 under keys that move pixels. PIL images become tensors.

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

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Encrypt one image (C, H, W), or a batch."""
        if isinstance(inpt, tv_tensors.TVTensor) and not isinstance(inpt, tv_tensors.Image):
            return inpt  # boxes and masks
        if isinstance(inpt, Image):
            inpt = pil_to_tensor(inpt)
        encrypted = encrypt_images(inpt.as_subclass(Tensor), self._key)
        return tv_tensors.wrap(encrypted, like=inpt) if isinstance(inpt, tv_tensors.Image) else encrypted

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
    """A data set of (image, …) whose images are encrypted when they are taken, each with its own key if so wanted.

    Args:
        dataset: with a length; each item a tuple or list whose first entry is an image: a tensor (C, H, W), uint8 or
            floating point in [0, 1], or a PIL image.
        key: of any kind, the path of its file, or a `KeySchedule`, whose key number i encrypts item i.

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

    def __getitem__(self, index: int) -> tuple:
        if not -len(self) <= index < len(self):
            raise IndexError(f"item {index} of a data set of {len(self)}")
        index %= len(self)
        image, *rest = self.dataset[index]
        encrypt = self._encrypt or Encrypt(self._schedule[index])  # type: ignore[index]
        return (encrypt(image), *rest)
