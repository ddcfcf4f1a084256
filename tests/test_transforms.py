"""Encrypted images as a data set: in pipelines of torchvision, in workers of every kind, whatever the sample holds."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import to_pil_image

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


@pytest.mark.parametrize("start", multiprocessing.get_all_start_methods())
def test_workers_of_every_start_method_encrypt_alike(start: str, digits: TensorDataset, tmp_path: Path) -> None:
    KEY.save(tmp_path / "key.json")
    encrypted = EncryptedDataset(digits, tmp_path / "key.json")
    loader = DataLoader(encrypted, batch_size=90, num_workers=2, multiprocessing_context=start)
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
