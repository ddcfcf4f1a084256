"""The key from the encrypted network alone: over networks, since a new key of the same one is hardly a new trial.

Five recipes, and for each one network trained on either half of CIFAR-10's training images: ten victims, on none of
which the attack was chosen. Each is encrypted with a key of its own and attacked with four kinds of evidence:

- two photographs say what the Gram matrix should be like, and which of a key's relatives fits;
- the networks of the other half, the attacker's own, say the former, and 100 images of that half the latter;
- the labels of these 100 images decide between the relatives;
- the 100 images alone, or 1,000, without labels or networks, say what the Gram matrix should be like, and then
  `annealed` makes them fit the statistics that batch normalisation stored.

    python -m mixerkey.experiments.model_alone

needs CIFAR-10 (MIXERKEY_DATA), and about three hours of one core. Networks are kept in ``runs/model_alone``, and
a run that was killed goes on.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from mixerkey import ConvMixer, Key, SignedPermutation, accuracy, encrypt_model
from mixerkey.attacks import Recovery, annealed, by_fit, expected_grams, model_only, settle
from mixerkey.attacks.ciphertext import relatives
from mixerkey.attacks.model_only import decrypted, gram
from mixerkey.data import load_cifar10
from mixerkey.experiments import command_line
from mixerkey.experiments.checkpoints import HALVES, trained
from mixerkey.experiments.models import right_rows
from mixerkey.experiments.trials import TILES, pictures
from mixerkey.receipts import RECEIPTS, Receipt, processor, versions
from mixerkey.training import FAST, LESSON, PAPER

RECEIPT = RECEIPTS / "model_alone.json"
SHORT = replace(LESSON, epochs=5, average=0.99)
RECIPES = {
    "lesson": SHORT,
    "lesson, not whitened": replace(SHORT, whiten=False),
    "lesson, Adam alone": replace(SHORT, muon=0.0, peak_lr=0.01),
    "fast": replace(FAST, epochs=4, batch_size=128, average=0.99),
    "paper": replace(PAPER, epochs=4, dtype="bfloat16"),
}
PUBLIC, MANY = 100, 1000  # the attacker's images, of the other half
JUDGED = 1000  # test images on which an accuracy is measured


@cache
def network(name: str, half: int) -> ConvMixer:
    """Train the network of that recipe on that half of the training images, or take it up again."""
    images, labels = (part[HALVES[half]] for part in load_cifar10("train"))
    where = f"model_alone/{name.replace(', ', '-').replace(' ', '-')}-{half}"
    return trained(where, ConvMixer(256, 8), (images, labels), RECIPES[name], seed=half)


def by_statistics(encrypted: ConvMixer, images: Tensor) -> Recovery[SignedPermutation]:
    start = model_only(encrypted, expected_grams(images, 4))
    return by_fit(annealed(start, encrypted, images), encrypted, images)


def attacked(name: str, half: int) -> dict:
    """What each kind of evidence finds of the key of one network."""
    victim, key = network(name, half), Key.from_seed(10 * list(RECIPES).index(name) + half, 4, 3)
    encrypted, tiles = encrypt_model(victim, key), pictures("photographs")
    many, labels = (part[HALVES[1 - half]][:MANY] for part in load_cifar10("train"))
    images = many[:PUBLIC]
    by_photographs = by_fit(model_only(encrypted, expected_grams(tiles, 4)), encrypted, tiles[::TILES])
    like = np.stack([gram(network(other, 1 - half)) for other in RECIPES])
    by_networks = by_fit(model_only(encrypted, like), encrypted, images)
    rivals = Recovery(by_networks.key, by_networks.score, tuple(relatives(4, 3)[1:]))
    by_labels = settle(rivals, lambda one: accuracy(decrypted(encrypted, one), images, labels[:PUBLIC]))
    found = {
        "two photographs": by_photographs,
        "networks of other images": by_networks,
        "labels too": by_labels,
        "images, stored statistics": by_statistics(encrypted, images),
        "1,000 images, stored statistics": by_statistics(encrypted, many),
    }
    test_images, test_labels = load_cifar10("test")
    return {
        "accuracy": accuracy(victim, test_images[:JUDGED], test_labels[:JUDGED]),
        **{
            evidence: right_rows(recovery.key, key) | {"ambiguous": len(recovery.ambiguous)}
            for evidence, recovery in found.items()
        },
    }


def main() -> None:
    arguments = command_line("Keys from the encrypted network alone, over ten networks.", RECEIPT).parse_args()
    torch.set_num_threads(1)
    receipt = Receipt(
        arguments.out,
        {"recipes": {name: asdict(recipe) for name, recipe in RECIPES.items()}, "public images": PUBLIC},
        versions=versions(),
        processor=processor(),
    )
    for name in RECIPES:

        def run(half: int, name: str = name) -> dict:
            return attacked(name, half)

        for found in receipt.trials(name, len(HALVES), run):
            print(name, {what: value if isinstance(value, float) else value["right"] for what, value in found.items()})


if __name__ == "__main__":
    main()
