"""Adversarial examples carry over: what encryption does, and does not do, against small changes that mislead a network.

T is an isometry, in l2 and, for a signed permutation, in l∞. So x + δ misleads the plain network if and only if its
encryption, x T + δ T, misleads the encrypted one, and δ T is as small as δ. A key can only keep an attacker from
finding δ: one who has neither the key nor a place where encrypted images go by.

Each attacker takes some steps of projected gradient descent in l∞ from the image on (Madry et al., 2018), within the
range of pixels; what counts is how many images the network still gets right.

    python -m mixerkey.experiments.robustness

needs CIFAR-10 (MIXERKEY_DATA), the surrogate of `mixerkey.experiments.checkpoints`, and some five minutes of one core.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixerkey import Key, encrypt_images, encrypt_model, load_pretrained
from mixerkey.attacks import ciphertext_only, image_statistics
from mixerkey.cipher import network_input, normalize
from mixerkey.data import load_cifar10
from mixerkey.experiments import command_line
from mixerkey.experiments.checkpoints import surrogate
from mixerkey.fast import forward
from mixerkey.keys import BlockKey
from mixerkey.receipts import RECEIPTS, Receipt, processor, versions, weights_digest

RECEIPT = RECEIPTS / "robustness.json"
IMAGES = 100  # test images, after those that the surrogate was trained on
SEEN = 100  # other encrypted images, from which an attacker recovers the key
LEVELS = (1, 2, 4, 8)  # of 255: how far a pixel may be moved
STEPS = 10
SURROGATE = slice(5000)  # of the test images


def perturbed(model: nn.Module, x: Tensor, labels: Tensor, radius: float, steps: int = STEPS) -> Tensor:
    """Projected gradient ascent on the loss of a network, in l∞.

    Args:
        model: what the attacker differentiates.
        x: its input, normalised (N, C, H, W).
        labels: int64 (N,).
        radius: how far a normalised pixel may move; two 255ths are one grey level.
        steps: each of a quarter of the radius.

    Returns:
        the moved input, within [-1, 1].
    """
    start = x
    for _ in range(steps):
        x = x.detach().requires_grad_()
        loss = F.cross_entropy(forward(model, x), labels)
        (slope,) = torch.autograd.grad(loss, x)
        x = (x + radius / 4 * slope.sign()).clamp(start - radius, start + radius).clamp(-1, 1)
    return x.detach()


def right(model: nn.Module, x: Tensor, labels: Tensor) -> int:
    """How many of the normalised images a network gets right."""
    with torch.inference_mode():
        return int((forward(model, x).argmax(1) == labels).sum())


def experiment(key: BlockKey, radius: float) -> dict[str, int]:
    """How many of `IMAGES` each attacker leaves right. The victim is the network encrypted with `key`."""
    test, labels = load_cifar10("test")
    test, labels = test[SURROGATE.stop :], labels[SURROGATE.stop :]
    x, labels, plain = normalize(test[:IMAGES]), labels[:IMAGES], load_pretrained("cifar10")
    victim = encrypt_model(plain, key)

    def encrypted(z: Tensor, with_key: BlockKey = key) -> Tensor:
        return network_input((z + 1) / 2, with_key)  # the client encrypts what the attacker has made of the image

    prior = image_statistics(load_cifar10("train")[0], 4)
    found = ciphertext_only(encrypt_images(test[-SEEN:], key), prior).key
    stolen = encrypt_model(victim, found.inverse())
    rng = torch.Generator().manual_seed(0)
    noise = radius * (2 * torch.randint(2, x.shape, generator=rng) - 1)
    attackers: dict[str, Callable[[], Tensor]] = {
        "none": lambda: encrypted(x),
        "noise of that size": lambda: encrypted((x + noise).clamp(-1, 1)),
        "of the plain network": lambda: encrypted(perturbed(plain, x, labels, radius)),
        "of the encrypted network, on plain images": lambda: encrypted(perturbed(victim, x, labels, radius)),
        "of the encrypted network, on encrypted images": lambda: perturbed(victim, encrypted(x), labels, radius),
        "of the encrypted network, with the key from encrypted images": lambda: encrypted(
            perturbed(stolen, x, labels, radius)
        ),
        "of a surrogate": lambda: encrypted(perturbed(surrogate(), x, labels, radius)),
    }
    return {name: right(victim, made(), labels) for name, made in attackers.items()}


def main() -> None:
    arguments = command_line("Adversarial examples against the encrypted network.", RECEIPT).parse_args()
    torch.set_num_threads(1)
    victim = load_pretrained("cifar10")
    receipt = Receipt(
        arguments.out,
        {
            "what": "images that stay right, by how many grey levels a pixel may move, and by whose gradient it does",
            "images": IMAGES,
            "steps": STEPS,
            "victim": weights_digest(victim),
        },
        versions=versions(),
        processor=processor(),
    )
    key = Key.from_seed(0, 4, 3)
    for levels in LEVELS:
        print(levels, receipt.once(f"{levels} levels", partial(experiment, key, 2 * levels / 255)))


if __name__ == "__main__":
    main()
