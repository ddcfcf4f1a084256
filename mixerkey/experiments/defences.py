"""What a defence costs the user: accuracy by way of sending, and by JPEG quality; and how fast seeds are tried.

What each variant of the cipher withstands is in `mixerkey.experiments.schemes`.

    python -m mixerkey.experiments.defences

needs CIFAR-10 (MIXERKEY_DATA), and about two minutes of one core. What depends on the victim network is measured anew
when the network is another one.
"""

from __future__ import annotations

import io
import time

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from mixerkey import Key, accuracy, encrypt_images, encrypt_model, load_pretrained, patch_matrix
from mixerkey.attacks.mixed import pixels
from mixerkey.data import load_cifar10
from mixerkey.experiments import command_line
from mixerkey.experiments.checkpoints import GRID
from mixerkey.keys import MatrixKey, PatchKeys
from mixerkey.receipts import RECEIPTS, Receipt, processor, versions, weights_digest

RECEIPT = RECEIPTS / "defences.json"
TESTED = 1000  # test images on which an accuracy is measured
QUALITIES = (100, 95, 90, 75, 50)


def add_noise(x: Tensor, levels: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise before encryption, so that the same picture is never sent twice alike.

    The price is accuracy; see the receipt.

    Args:
        x: uint8 images.
        levels: standard deviation in grey levels; 0 for none.
        generator: of the noise.

    Returns:
        uint8, same shape: rounded and cut to 0..255.

    Raises:
        TypeError: images that are not uint8.
        ValueError: a negative standard deviation.

    >>> x = torch.full((1, 8, 8), 100, dtype=torch.uint8)
    >>> torch.equal(add_noise(x, 0, torch.Generator()), x), torch.equal(add_noise(x, 8, torch.Generator()), x)
    (True, False)
    """
    if x.dtype != torch.uint8:
        raise TypeError(f"noise is added to uint8 images, got {x.dtype}")
    if levels < 0:
        raise ValueError(f"the standard deviation must not be negative, got {levels}")
    noise = levels * torch.randn(x.shape, generator=generator)
    return (x + noise).round().clamp(0, 255).to(torch.uint8)


def judged() -> tuple[Tensor, Tensor]:
    images, labels = load_cifar10("test")
    return images[:TESTED], labels[:TESTED]


def costs() -> dict:
    """What the user pays: accuracy with a network that is encrypted as well as can be, for each way of sending."""
    model, key = load_pretrained("cifar10"), Key.from_seed(0, 4, 3)
    images, labels = judged()
    encrypted = encrypt_model(model, key)
    rng = torch.Generator().manual_seed(0)
    mixing = MatrixKey.orthogonal(4, 3, seed=0)
    mixed_model, mixed = encrypt_model(model, mixing), encrypt_images(images, mixing)
    E, each = patch_matrix(model).numel(), [Key.from_seed(n, 4, 3) for n in range(TESTED)]
    return {
        "plain": accuracy(model, images, labels),
        "one key": accuracy(encrypted, images, labels, key),
        "orthogonal matrix, floats": accuracy(mixed_model, images, labels, mixing),
        "orthogonal matrix, rounded to 8 bits": accuracy(mixed_model, pixels(((1 + mixed) / 2).clamp(0, 1)), labels),
        "key per place, one convolution": accuracy(
            encrypted, encrypt_images(images, PatchKeys([key, *each[1:64]], GRID)), labels
        ),
        "key per image, one convolution": accuracy(encrypted, images, labels, each),
        **{
            f"noise of {levels} levels": accuracy(encrypted, add_noise(images, levels, rng), labels, key)
            for levels in (8, 16, 32)
        },
        "embedding weights": {"one convolution": E, "key per place, unshared": 64 * E},
    }


def jpeg(x: Tensor, quality: int, subsampling: str = "4:2:0") -> Tensor:
    """Compressed and back, by Pillow; its usual subsampling keeps one colour for four pixels, "4:4:4" every one."""
    images = []
    for image in x:
        stream = io.BytesIO()
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        picture.save(stream, format="JPEG", quality=quality, subsampling=subsampling)
        images.append(torch.from_numpy(np.array(Image.open(stream))).permute(2, 0, 1))
    return torch.stack(images)


def compression() -> dict:
    """Accuracy by JPEG quality: of plain images, and of encrypted ones that are compressed after encryption."""
    model, key = load_pretrained("cifar10"), Key.from_seed(0, 4, 3)
    images, labels = judged()
    encrypted, hidden = encrypt_model(model, key), encrypt_images(images, key)
    return {
        "quality": list(QUALITIES),
        "plain": [accuracy(model, jpeg(images, q), labels) for q in QUALITIES],
        "plain, every colour kept": [accuracy(model, jpeg(images, q, "4:4:4"), labels) for q in QUALITIES],
        "encrypted": [accuracy(encrypted, jpeg(hidden, q), labels) for q in QUALITIES],
        "encrypted, every colour kept": [accuracy(encrypted, jpeg(hidden, q, "4:4:4"), labels) for q in QUALITIES],
    }


def seeds() -> dict:
    """How fast one core tries seeds of a permutation, found again from one block: 20 bits, all of them."""
    secret = 2**20 - 1  # the last one: the worst case
    block = torch.arange(48)
    sent = block[torch.randperm(48, generator=torch.Generator().manual_seed(secret))]
    rng, start = torch.Generator(), time.process_time()
    for seed in tqdm(range(2**20), "seeds", disable=None):
        if torch.equal(torch.randperm(48, generator=rng.manual_seed(seed)), sent):
            break
    seconds = time.process_time() - start
    return {"bits": 20, "found": seed == secret, "seeds a second": round((seed + 1) / seconds)}


def main() -> None:
    arguments = command_line("What defences cost.", RECEIPT).parse_args()
    torch.set_num_threads(1)
    receipt = Receipt(
        arguments.out,
        {"what": "what defences cost, on CIFAR-10", "test images for accuracies": TESTED},
        versions=versions("pillow"),
        processor=processor(),
    )
    victim = weights_digest(load_pretrained("cifar10"))
    if receipt.content.get("victim") != victim:
        receipt.content |= {"victim": victim}
        for part in ("costs", "jpeg"):  # seeds need no network
            receipt.content.pop(part, None)
    receipt.once("costs", costs)
    receipt.once("jpeg", compression)
    receipt.once("seeds", seeds)


if __name__ == "__main__":
    main()
