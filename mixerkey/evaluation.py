"""Evaluation (§4.2, §4.3): accuracy with and without a key, and the size of the key space."""

from __future__ import annotations

from math import comb, factorial, log2

import torch
from torch import Tensor, nn

from mixerkey.cipher import encrypt_images, normalize
from mixerkey.convmixer import ConvMixer
from mixerkey.fast import fast_forward
from mixerkey.key import SignedPermutation, block_size


def predict(
    model: nn.Module,
    images: Tensor,
    key: SignedPermutation | None = None,
    *,
    batch_size: int = 250,
    device: torch.device | str | None = None,
) -> Tensor:
    """Logits of `model` for images, which are encrypted with `key` (if one is given) and normalised first.

    Args:
        model: maps normalised images (N, C, H, W) to logits; used in evaluation mode, and left as it was.
        images: uint8 (N, C, H, W), or floating point in [0, 1].
        key: the client's key.
        batch_size: images a forward pass.
        device: where to compute; by default where the model is. The model is moved there.

    Returns:
        logits (N, num_classes) on the CPU, in the model's dtype.

    Raises:
        ValueError: the images do not fit the model or the key.

    >>> from mixerkey import load_pretrained
    >>> from mixerkey.data import load_digits
    >>> predict(load_pretrained("digits"), load_digits("test")[0]).shape
    torch.Size([360, 10])
    """
    if device is not None:
        model.to(device)
    parameter = next(model.parameters())
    was_training = model.training
    model.eval()
    logits = []
    with torch.inference_mode():
        for batch in images.split(batch_size):
            batch = batch.to(parameter.device)
            if key is not None:
                batch = encrypt_images(batch, key)
            x = normalize(batch).to(parameter.dtype)
            if isinstance(model, ConvMixer) and x.device.type == "cpu":
                logits.append(fast_forward(model, x))
            else:
                logits.append(model(x).cpu())
    model.train(was_training)
    return torch.cat(logits)


def accuracy(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    key: SignedPermutation | None = None,
    *,
    batch_size: int = 250,
    device: torch.device | str | None = None,
) -> float:
    """The fraction of images, in [0, 1], that `model` classifies correctly; arguments as for `predict`.

    Args:
        labels: int64 (N,).

    Raises:
        ValueError: no images, or as many labels as images are not there.

    >>> from mixerkey import Key, encrypt_model, load_pretrained
    >>> from mixerkey.data import load_digits
    >>> model, key = load_pretrained("digits"), Key.generate(2, 1)
    >>> images, labels = load_digits("test")
    >>> accuracy(encrypt_model(model, key), images, labels, key) == accuracy(model, images, labels)
    True
    """
    if not len(images) or len(images) != len(labels):
        raise ValueError(f"need as many labels as images, and at least one; got {len(images)} and {len(labels)}")
    correct = predict(model, images, key, batch_size=batch_size, device=device).argmax(1) == labels.cpu()
    return correct.double().mean().item()


def key_space_bits(patch_size: int, channels: int) -> float:
    """log2 of the number of keys, p_b! · p_b! / ((p_b / 2)!)² (§4.3).

    >>> round(key_space_bits(4, 3), 2)
    247.82
    >>> round(2 ** key_space_bits(2, 1))
    144
    """
    size = block_size(patch_size, channels)
    return log2(factorial(size)) + log2(comb(size, size // 2))
