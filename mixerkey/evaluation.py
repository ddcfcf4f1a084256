"""Evaluation (§4.2, §4.3): accuracy with and without a key, wrong keys, and the size of the key space."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

from mixerkey.cipher import network_input
from mixerkey.fast import forward
from mixerkey.keys import BlockKey, Key, integer
from mixerkey.receipts import Receipt, tensors_digest, weights_digest


def predict(
    model: nn.Module,
    images: Tensor,
    key: BlockKey | Sequence[BlockKey] | None = None,
    *,
    batch_size: int = 64,
    device: torch.device | str | None = None,
) -> Tensor:
    """Logits of `model` for images, which are encrypted with `key` (if one is given) and normalised first.

    Args:
        model: maps normalised images (N, C, H, W) to logits, or to an output that holds them, such as those of
            Hugging Face; used in evaluation mode, and left as it was.
        images: uint8 (N, C, H, W), or floating point in [0, 1].
        key: the client's key, of any kind; or a key for each image.
        batch_size: images a forward pass.
        device: where to compute; by default where the model is. The model is moved there.

    Returns:
        logits (N, num_classes) on the CPU, in the model's dtype.

    Raises:
        TypeError: the model is no module, the images are no tensor of pixels, or the key is none.
        ValueError: there are no images, they do not fit the model or the key, there is not one key for each of them,
            the batch size is not positive, or the model does not answer by logits.

    >>> from mixerkey import load_pretrained
    >>> from mixerkey.data import load_digits
    >>> predict(load_pretrained("digits"), load_digits("test")[0]).shape
    torch.Size([360, 10])
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"need a torch.nn.Module, such as load_pretrained gives; got {type(model).__name__}")
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a torch.Tensor (N, C, H, W), got {type(images).__name__}")
    if not len(images):
        raise ValueError("there are no images")
    if isinstance(key, Sequence) and all(isinstance(each, BlockKey) for each in key) and len(key) != len(images):
        raise ValueError(f"need one key for each image; got {len(key)} keys and {len(images)} images")
    if integer(batch_size, "the batch size") < 1:
        raise ValueError(f"a forward pass has at least one image, got batch_size = {batch_size}")
    if device is not None:
        model.to(device)
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    was_training = model.training
    model.eval()
    dtype = torch.float64 if parameter.dtype == torch.float64 else torch.float32
    logits = []
    try:
        with torch.inference_mode():
            for start in range(0, len(images), batch_size):
                part = slice(start, start + batch_size)
                own = key[part] if isinstance(key, Sequence) else key
                x = network_input(images[part].to(parameter.device), own, dtype)
                logits.append(_logits(forward(model, x.to(parameter.dtype)), len(x)).cpu())
    finally:
        model.train(was_training)
    return torch.cat(logits)


def _logits(output: Any, count: int) -> Tensor:
    """The logits in what a network returns: a tensor, an object or mapping with ``logits``, or the first of several."""
    if not isinstance(output, Tensor):
        output = getattr(output, "logits", output)
    if isinstance(output, Mapping):
        output = output.get("logits", next(iter(output.values()), None))
    if isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != count:
        what = tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise ValueError(
            f"the network should answer {count} images by logits ({count}, classes), but answers by {what}"
        )
    return output


def accuracy(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    key: BlockKey | Sequence[BlockKey] | None = None,
    *,
    batch_size: int = 64,
    device: torch.device | str | None = None,
) -> float:
    """The fraction of images, in [0, 1], that `model` classifies correctly; arguments as for `predict`.

    Args:
        labels: integers (N,), of any width.

    Raises:
        TypeError: labels that are no tensor.
        ValueError: no images, as many labels as images are not there, labels that are no classes, or answers of NaN.

    >>> from mixerkey import Key, encrypt_model, load_pretrained
    >>> from mixerkey.data import load_digits
    >>> model, key = load_pretrained("digits"), Key.generate(2, 1)
    >>> images, labels = load_digits("test")
    >>> accuracy(encrypt_model(model, key), images, labels, key) == accuracy(model, images, labels)
    True
    """
    checked_labels(labels, len(images))  # what can be seen before the work
    logits = predict(model, images, key, batch_size=batch_size, device=device)
    labels = checked_labels(labels, len(images), logits.shape[1])
    return (_classes(logits) == labels.cpu()).double().mean().item()


def checked_labels(labels: Tensor, count: int, num_classes: int | None = None) -> Tensor:
    """Labels as int64, if there is one for each of `count` images and, where their number is given, each is a class.

    Raises:
        TypeError: they are no tensor.
        ValueError: there is not one for each image, no image, or they are no classes.

    >>> checked_labels(torch.tensor([3, 1], dtype=torch.uint8), 2, 10)
    tensor([3, 1])
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a torch.Tensor of integers, got {type(labels).__name__}")
    if not count or labels.shape[:1] != (count,):
        raise ValueError(
            f"need as many labels as images, and at least one; got {count} images and labels {tuple(labels.shape)}"
        )
    if num_classes is None:
        return labels
    whole = labels.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    if labels.ndim != 1 or not whole or not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f"labels must be a row of integers 0 to {num_classes - 1}, the network's classes; got "
            f"{labels.dtype} {tuple(labels.shape)}" + (f" of {labels.min()} to {labels.max()}" if whole else "")
        )
    return labels.long()


def _classes(logits: Tensor) -> Tensor:
    """The largest of each row, int64 (N,), if there is one."""
    if unknown := int(logits.isnan().any(1).sum()):
        raise ValueError(f"the network answers {unknown} of {len(logits)} images by NaN, which is no class")
    return logits.argmax(1)


def classify(model: nn.Module, images: Tensor, key: BlockKey | Sequence[BlockKey] | None = None) -> Tensor:
    """The classes that exact arithmetic gives: the same on every machine.

    Logits are computed in float32. Rounding there moves a logit by about 1e-5, which may settle a near tie either
    way; images whose two leading logits are closer than 1e-3 are computed again in float64.

    Args:
        model, images, key: as for `predict`.

    Returns:
        int64 (N,).

    >>> from mixerkey import Key, encrypt_model, load_pretrained
    >>> from mixerkey.data import load_digits
    >>> model, key, (images, _) = load_pretrained("digits"), Key.generate(2, 1), load_digits("test")
    >>> torch.equal(classify(encrypt_model(model, key), images, key), classify(model, images))
    True
    """
    logits = predict(deepcopy(model).float(), images, key)
    leading = logits.topk(2, dim=1).values
    close = leading[:, 0] - leading[:, 1] < 1e-3
    classes = _classes(logits)
    if close.any():
        own = [key[int(i)] for i in close.nonzero()] if isinstance(key, Sequence) else key
        classes[close] = predict(deepcopy(model).double(), images[close], own).argmax(1)
    return classes


def sweep(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    keys: Sequence[BlockKey],
    *,
    store: str | Path | None = None,
    progress: bool = True,
) -> list[int]:
    """How many images `model` classifies correctly under each of many client keys (the paper's Fig. 5).

    Under ``torchrun``, once `torch.distributed` is initialised, the processes share the keys.

    Args:
        model, images, labels: as for `accuracy`.
        keys: client keys.
        store: JSON file to which each result is added when it is there; a sweep that was killed goes on from it, and
            one with more keys, too. With several processes each writes its own, ``store.0`` and so on, and all are
            read.
        progress: whether to show a progress bar on stderr.

    Returns:
        one count a key, in the order of `keys`; in every process.

    Raises:
        TypeError, ValueError: what `accuracy` refuses; a store of another model or other images, or one that is
            damaged; the message names the file.

    >>> from mixerkey import Key, encrypt_model, load_pretrained
    >>> from mixerkey.data import load_digits
    >>> keys = [Key.from_seed(seed, 2, 1) for seed in range(3)]
    >>> model, (images, labels) = encrypt_model(load_pretrained("digits"), keys[0]), load_digits("test")
    >>> right = sweep(model, images, labels, keys, progress=False)
    >>> right[0] > 350 and max(right[1:]) < 250
    True
    """
    labels = checked_labels(labels, len(images), predict(model, images[:1]).shape[1]).cpu()
    rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    names = [_name(key, images) for key in keys]
    facts: dict[str, object] = {}
    known: dict[str, int] = {}
    own = None
    if store is not None:
        facts = {"model": weights_digest(model), "network": repr(model), "images": tensors_digest(images, labels)}
        for file in _shares(Path(store)):
            known |= Receipt(file, facts).content
        own = Path(store) if processes == 1 else Path(f"{store}.{rank}")
    receipt = Receipt(own, facts)
    todo = [i for i in range(rank, len(keys), processes) if names[i] not in known]
    for i in tqdm(todo, "keys", disable=not progress or rank > 0):
        receipt.once(names[i], partial(_right, model, images, labels, keys[i]))
    shares: list[dict[str, int]] = [known | receipt.content]
    if processes > 1:
        shares = [{} for _ in range(processes)]
        dist.all_gather_object(shares, known | receipt.content)
    everything = {name: right for share in shares for name, right in share.items()}
    return [everything[name] for name in names]


def _right(model: nn.Module, images: Tensor, labels: Tensor, key: BlockKey) -> int:
    return int((classify(model, images, key) == labels).sum())


def _name(key: BlockKey, images: Tensor) -> str:
    """What a sweep calls a key: the digest of a random image that it has encrypted."""
    probe = torch.randint(256, images.shape[1:], dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return tensors_digest(network_input(probe, key))


def _shares(store: Path) -> list[Path]:
    """The store's own file and those of several processes; a name is taken as it is, not as a pattern."""
    if not store.parent.is_dir():
        return []
    return sorted(p for p in store.parent.iterdir() if re.fullmatch(re.escape(store.name) + r"(\.\d+)?", p.name))


def partly_wrong(key: Key, positions: int, signs: int, generator: torch.Generator) -> Key:
    """A key that differs from `key` in exactly as many positions and signs, chosen at random.

    Args:
        key: the right key.
        positions: how many entries of the permutation are wrong: 0, or 2 to p_b.
        signs: how many flips are wrong: even, 0 to p_b, since flips stay balanced.
        generator: makes the choice.

    Raises:
        ValueError: no key differs in so many places.

    >>> key = Key.from_seed(0, 4, 3)
    >>> other = partly_wrong(key, 5, 4, torch.Generator().manual_seed(0))
    >>> int((other.permutation != key.permutation).sum()), int((other.flips != key.flips).sum())
    (5, 4)
    """
    size = key.size
    if positions == 1 or not 0 <= positions <= size:
        raise ValueError(f"{positions} wrong positions are impossible; need 0, or 2 to {size}")
    if signs % 2 or not 0 <= signs <= size:
        raise ValueError(f"{signs} wrong signs are impossible; need an even number from 0 to {size}")
    permutation, flips = key.permutation, key.flips
    moved = torch.randperm(size, generator=generator)[:positions]
    # One cycle through the chosen places, in their random order, moves each of them.
    permutation[moved] = permutation[moved.roll(1)]
    for value in (True, False):
        places = (key.flips == value).nonzero()[:, 0]
        flips[places[torch.randperm(len(places), generator=generator)[: signs // 2]]] = not value
    return Key(permutation.tolist(), flips.tolist(), key.patch_size, key.channels)


def confusion(labels: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """How often images of each class (row) are given each class (column).

    Args:
        labels, classes: integers (N,), in 0 … num_classes - 1.

    Returns:
        int64 (num_classes, num_classes).

    Raises:
        TypeError, ValueError: labels or classes that `accuracy` refuses as labels.

    >>> confusion(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 2)
    tensor([[1, 1],
            [0, 1]])
    """
    labels, classes = (checked_labels(each, len(labels), num_classes) for each in (labels, classes))
    return torch.bincount(labels * num_classes + classes, minlength=num_classes**2).reshape(num_classes, num_classes)
