"""Encrypted images as a data set: in pipelines of torchvision, in workers of every kind, whatever the sample holds."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable
from copy import copy, deepcopy
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from mixerkey import Key, encrypt_images, encrypt_model, load_pretrained, normalize
from mixerkey.data import load_digits
from mixerkey.keys import BlockKey, BlockOrder, KeySchedule, MatrixKey
from mixerkey.transforms import Encrypt, EncryptedDataset

KEY = Key.from_seed(3, 2, 1)


@pytest.fixture(scope="module")
def digits() -> TensorDataset:
    return TensorDataset(*load_digits("test"))


@pytest.mark.parametrize(
    "key", [KEY, MatrixKey.orthogonal(2, 1, seed=0), KEY.then(BlockOrder.from_seed(0, 2, 1, (4, 4)))]
)
def test_every_kind_of_image_and_key_in_a_pipeline(key: BlockKey, digits: TensorDataset) -> None:
    x, label = digits[0]
    expected = encrypt_images(x, key)
    pipeline = v2.Compose([v2.Pad(0), Encrypt(key)])
    for image in (x, tv_tensors.Image(x), to_pil_image(x)):
        encrypted, other = pipeline(image, label)
        assert torch.equal(encrypted.as_subclass(torch.Tensor), expected)
        assert other == label
    sample = pipeline({"image": tv_tensors.Image(x), "label": label})
    assert isinstance(sample["image"], tv_tensors.Image)
    assert torch.equal(sample["image"].as_subclass(torch.Tensor), expected)
    mask = tv_tensors.Mask(torch.ones(8, 8))
    assert torch.equal(Encrypt(key)(tv_tensors.Image(x), mask)[1], mask)


X, Y = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
RGB = Key.from_seed(4, 4, 3)
IMAGES: dict[str, Callable[[torch.Tensor], Any]] = {
    "uint8": lambda x: x,
    "float": lambda x: x / 255,
    "parameter": lambda x: torch.nn.Parameter(x / 255),
    "tv Image": tv_tensors.Image,
    "tv Video": lambda x: tv_tensors.Video(torch.stack([x, x])),
    "batch": lambda x: torch.stack([x, x]),
    "PIL": to_pil_image,
}
SAMPLES: dict[str, Callable[[Any, Any], Any]] = {
    "one": lambda x, y: x,
    "with a label": lambda x, y: (x, 7),
    "two": lambda x, y: (x, y),
    "list of two": lambda x, y: [x, y],
    "three and a label": lambda x, y: (x, y, x, torch.tensor(7)),
    "crops": lambda x, y: ((x, y), 7),
    "dict": lambda x, y: {"label": 7, "a": x, "b": y},
    "nested": lambda x, y: {"views": [{"left": x}, {"right": (y, "name", None)}], "one-hot": torch.eye(5)[0]},
    "beside masks": lambda x, y: (x, tv_tensors.Mask(torch.ones(8, 8)), np.float32(3), np.ones(3), Path("a.png"), y),
}


def as_tensor(x: Any) -> torch.Tensor:
    return (pil_to_tensor(x) if isinstance(x, Image.Image) else x).as_subclass(torch.Tensor)


def all_images(sample: Any) -> list[Any]:
    return [
        leaf
        for leaf in tree_leaves(sample)
        if isinstance(leaf, Image.Image | torch.Tensor)
        and not isinstance(leaf, tv_tensors.Mask)
        and (isinstance(leaf, Image.Image) or leaf.ndim > 2)
    ]


class Items(Dataset):
    def __init__(self, item: Any) -> None:
        self.item = item

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return self.item


def as_it_is(batch: list[Any]) -> list[Any]:
    return batch


@pytest.mark.parametrize("first", IMAGES)
@pytest.mark.parametrize(("second", "sample"), list(product(IMAGES, SAMPLES)))
def test_every_image_of_a_sample_is_encrypted_and_the_rest_is_kept(first: str, second: str, sample: str) -> None:
    plain = SAMPLES[sample](IMAGES[first](X), IMAGES[second](Y))
    data = EncryptedDataset(Items(plain), RGB)
    ((loaded, _),) = DataLoader(data, batch_size=2, collate_fn=as_it_is)
    for found in (Encrypt(RGB)(plain), loaded):
        encrypted, expected = all_images(found), [encrypt_images(as_tensor(x), RGB) for x in all_images(plain)]
        assert len(encrypted) == len(expected) > 0
        assert all(torch.equal(as_tensor(x), y) for x, y in zip(encrypted, expected, strict=True))
        assert type(found) is type(plain) or sample == "one"
        assert repr([x for x in tree_leaves(found) if not all_images(x)]) == repr(
            [x for x in tree_leaves(plain) if not all_images(x)]
        )


@dataclass
class Sample:
    image: torch.Tensor


UNKNOWN: dict[str, Any] = {
    "array": X.permute(1, 2, 0).numpy(),
    "array of objects": np.array([Path("a.png"), None]),
    "tensor without channels": X[0],
    "tensor of integers": X.long(),
    "mask as a tensor": X[0] > 3,
    "file": b"\x89PNG",
    "dataclass": Sample(X),
    "set": {X},
}


@pytest.mark.parametrize("unknown", UNKNOWN)
def test_what_may_be_an_image_is_refused_alone_and_beside_images(unknown: str) -> None:
    for sample in (UNKNOWN[unknown], (UNKNOWN[unknown], 7), (X, {"a": [UNKNOWN[unknown]]})):
        with pytest.raises(TypeError, match=r"cannot tell whether .* is an image: make images by v2.ToImage"):
            Encrypt(RGB)(sample)
        with pytest.raises(TypeError, match="cannot tell whether"):
            EncryptedDataset(Items(sample), RGB)[0]


@pytest.mark.parametrize("sample", [(None, 7), ("a.png", 7), {"image": Path("a.png")}, 7, [], torch.zeros(5)])
def test_a_sample_without_an_image_is_refused(sample: Any) -> None:
    for take in (lambda: Encrypt(RGB)(sample), lambda: EncryptedDataset(Items(sample), RGB)[0]):
        with pytest.raises(TypeError, match="there is no image to encrypt among"):
            take()


@pytest.mark.parametrize("mode", ["P", "PA"])
def test_numbers_of_a_palette_are_no_pixels(mode: str) -> None:
    image = to_pil_image(X).convert("P").convert(mode)
    for key, sample in ((KEY, image), (RGB, image), (RGB, (X, image))):
        with pytest.raises(TypeError, match="with a palette holds no pixels: convert it to L or RGB; wrap masks"):
            Encrypt(key)(sample)


def test_copies_encrypt_alike(digits: TensorDataset, tmp_path: Path) -> None:
    KEY.save(tmp_path / "key.json")
    sources: list[Any] = [KEY, tmp_path / "key.json", KeySchedule(bytes(32), 2, 1)]
    for source in sources:
        data = EncryptedDataset(digits, source)
        for same in (copy(data), deepcopy(data)):
            assert torch.equal(same[1][0], data[1][0])
    pipeline = v2.Compose([v2.Pad(0), Encrypt(KEY)])
    assert torch.equal(deepcopy(pipeline)(digits[0][0]), pipeline(digits[0][0]))


def test_images_of_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"images \(..., 1, H, W\), got \(3, 8, 8\)"):
        EncryptedDataset(Items((X[:1], X)), Key.from_seed(0, 4, 1))[0]


@pytest.mark.parametrize("index", [1.0, "1", None, slice(2), np.float64(1)], ids=repr)
def test_items_are_numbered_by_integers(index: Any) -> None:
    data = EncryptedDataset(Items((X, 7)), KeySchedule(bytes(32), 4, 3))
    assert torch.equal(data[np.int64(1)][0], data[1][0])  # type: ignore[index]
    with pytest.raises(TypeError, match="the number of an item must be an integer, got"):
        data[index]


@pytest.mark.parametrize("start", multiprocessing.get_all_start_methods())
def test_workers_of_every_start_method_encrypt_alike(start: str, digits: TensorDataset, tmp_path: Path) -> None:
    KEY.save(tmp_path / "key.json")
    encrypted = EncryptedDataset(digits, tmp_path / "key.json")
    workers = 2 if start == "fork" else 1  # the others import PyTorch anew
    loader = DataLoader(encrypted, batch_size=90, num_workers=workers, multiprocessing_context=start)
    images = torch.cat([batch for batch, _ in loader])
    assert torch.equal(images, encrypt_images(digits.tensors[0], KEY))


def test_a_key_in_memory_is_not_pickled_and_one_in_a_file_is_not_carried_along(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="give Encrypt the path of its file"):
        pickle.dumps(Encrypt(KEY))
    KEY.save(tmp_path / "key.json")
    content = pickle.dumps(Encrypt(tmp_path / "key.json"))
    assert b"permutation" not in content
    assert b"key.json" in content
    assert "secret hidden" in repr(Encrypt(KEY))


def test_a_schedule_gives_each_item_its_own_key(digits: TensorDataset) -> None:
    schedule = KeySchedule(bytes(32), 2, 1)
    encrypted = EncryptedDataset(digits, schedule)
    assert len(encrypted) == len(digits)
    for index in (0, 7, -1):
        number = index % len(digits)
        assert torch.equal(encrypted[index][0], encrypt_images(digits[number][0], schedule[number]))
    with pytest.raises(IndexError, match="item 360 of a data set of 360"):
        encrypted[360]


def test_an_encrypted_model_classifies_an_encrypted_data_set(digits: TensorDataset) -> None:
    model = load_pretrained("digits")
    locked = encrypt_model(model, KEY)
    loader = DataLoader(EncryptedDataset(digits, KEY), batch_size=360)
    ((images, _),) = loader
    with torch.inference_mode():
        found = locked(normalize(images)).argmax(1)
        assert torch.equal(found, model(normalize(digits.tensors[0])).argmax(1))
