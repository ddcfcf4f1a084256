"""What is protecting a model worth against whoever has labelled images? Queries, a gradient, fine-tuning.

The victim is the CIFAR-10 network of the package, encrypted. The attacker has the training images of CIFAR-10 as public
images; accuracies are measured on test images. Every finished trial is written, and a run that was killed goes on; to
measure another victim, remove the receipt of the old one.

    python -m mixerkey.experiments.models

needs CIFAR-10 (MIXERKEY_DATA), and some minutes of one core.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from tqdm import tqdm

from mixerkey import (
    ConvMixer,
    Key,
    SignedPermutation,
    accuracy,
    decrypt_model,
    encrypt_model,
    load_pretrained,
)
from mixerkey.attacks import Recovery
from mixerkey.attacks.ciphertext import relatives
from mixerkey.attacks.fine_tuning import fine_tune_embedding
from mixerkey.attacks.queries import hill_climb, labelled_loss, relaxed_permutation
from mixerkey.data import load_cifar10
from mixerkey.experiments import command_line
from mixerkey.receipts import RECEIPTS, Receipt, processor, versions, weights_digest
from mixerkey.training import Recipe, initialize, train

RECEIPT = RECEIPTS / "models.json"
JUDGED = 1000  # test images on which an accuracy is measured
QUERIES, STEPS = 400, 100  # of hill climbing and of the gradient
ASKED = 100  # labelled images a query
LABELLED = (100, 500, 2000)  # images of the thief
TUNING = {"steps": 400, "batch_size": 50, "rate": 0.02}  # found on training images; fewer steps give much less
SCRATCH = Recipe(epochs=1, batch_size=50, peak_lr=0.005, crop=4, flip=True, dtype="bfloat16")  # but for the epochs
SCRATCH_STEPS = 1000


def right_rows(found: SignedPermutation, key: SignedPermutation) -> dict[str, int]:
    """How many of the 48 pixels get their place and sign, as found and by the best relative.

    >>> key = Key.from_seed(0, 4, 3)
    >>> right_rows(relatives(4, 3)[1].then(key), key)["up to relatives"], right_rows(key, key)["right"]
    (48, 48)
    """
    change = found.then(key.inverse()).matrix()  # of plain pixels; the identity for the right key
    return {
        "right": int(change.diagonal().clamp(min=0).sum()),
        "up to relatives": round(max(float((g.matrix() * change).sum()) for g in relatives(4, 3))),
    }


class World:
    """What the trials share: victim and public images. The victim in the clear is only here to mark answers."""

    def __init__(self) -> None:
        self.images, self.labels = load_cifar10("train")
        test_images, test_labels = load_cifar10("test")
        self.test = test_images[:JUDGED], test_labels[:JUDGED]
        self.victim = load_pretrained("cifar10")

    def judge(self, recovery: Recovery, key: Key, encrypted: ConvMixer) -> dict:
        found = recovery.key
        rows = right_rows(found, key)
        return {
            "right positions": int((found.permutation == key.permutation).sum()),
            "right flips": int((found.flips == key.flips).sum()),
            "right rows": rows["right"],
            "right rows up to symmetries": rows["up to relatives"],
            "score": round(recovery.score, 4),
            "ambiguous": len(recovery.ambiguous),
            "accuracy": accuracy(decrypt_model(encrypted, found), *self.test),
        }


def climbing(world: World, seed: int) -> dict:
    """A black box that tells its accuracy on the attacker's own labelled images, 100 a query."""
    key = Key.from_seed(seed, 4, 3)
    encrypted = encrypt_model(world.victim, key)
    rng = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(world.images), generator=rng)[:ASKED]
    curve: list[float] = []

    def score(guess: SignedPermutation) -> float:
        value = accuracy(encrypted, world.images[chosen], world.labels[chosen], guess)
        curve.append(max(value, curve[-1] if curve else 0.0))
        return value

    recovery = hill_climb(score, Key.from_seed(1000 + seed, 4, 3), QUERIES, rng, progress=True)
    return {"curve": curve, **world.judge(recovery, key, encrypted)}


def gradient(world: World, seed: int) -> dict:
    """The thief holds the network, and differentiates the loss on labelled images through a relaxed permutation."""
    key = Key.from_seed(seed, 4, 3)
    encrypted = encrypt_model(world.victim, key)
    rng = torch.Generator().manual_seed(seed)
    curve: list[float] = []
    labelled = labelled_loss(encrypted, world.images, world.labels, ASKED, rng)

    def loss(D: Tensor) -> Tensor:
        value = labelled(D)
        curve.append(round(value.item(), 4))
        return value

    recovery = relaxed_permutation(loss, 4, 3, rng, steps=STEPS, progress=True)
    return {"curve": curve, **world.judge(recovery, key, encrypted)}


def fine_tuning(count: int) -> Callable[[World, int], dict]:
    def trial(world: World, seed: int) -> dict:
        rng = torch.Generator().manual_seed(seed)
        return tune(world, encrypt_model(world.victim, Key.from_seed(seed, 4, 3)), count, rng)

    return trial


def tune(world: World, stolen: ConvMixer, count: int, rng: torch.Generator) -> dict:
    chosen = torch.randperm(len(world.images), generator=rng)[:count]
    images, labels = world.images[chosen], world.labels[chosen]
    tuned = fine_tune_embedding(stolen, images, labels, rng, progress=True, **TUNING)  # type: ignore[arg-type]
    return {"accuracy": accuracy(tuned, *world.test), "stolen": accuracy(stolen, *world.test)}


def random_embedding(count: int) -> Callable[[World, int], dict]:
    """A control: the same layers under filters that say nothing of the victim's, neither its own nor moved ones."""

    def trial(world: World, seed: int) -> dict:
        rng, stolen = torch.Generator().manual_seed(seed), load_pretrained("cifar10")
        initialize(stolen.embedding, rng)
        return tune(world, stolen, count, rng)

    return trial


def from_scratch(count: int) -> Callable[[World, int], dict]:
    """A control: what the same images give without anything stolen, with more steps and all layers."""

    def trial(world: World, seed: int) -> dict:
        chosen = torch.randperm(len(world.images), generator=torch.Generator().manual_seed(seed))[:count]
        recipe = replace(SCRATCH, epochs=SCRATCH_STEPS * SCRATCH.batch_size // count)
        model = ConvMixer(**world.victim.sizes)
        own = world.images[chosen], world.labels[chosen]
        trained, _ = train(model, *own, recipe, seed=seed, evaluate=lambda _: 0.0, progress=False)
        return {"accuracy": accuracy(trained, *world.test)}

    return trial


TRIALS: dict[str, tuple[Callable[[World, int], dict], int]] = {
    **{f"fine-tuning on {count}": (fine_tuning(count), 3) for count in LABELLED},
    **{f"random embedding, {count}": (random_embedding(count), 3) for count in LABELLED},
    **{f"from scratch on {count}": (from_scratch(count), 3) for count in LABELLED},
    "gradient": (gradient, 1),
    "hill climbing": (climbing, 1),
}


def main() -> None:
    arguments = command_line("Attacks on the encrypted model.", RECEIPT).parse_args()
    world = World()
    receipt = Receipt(
        arguments.out,
        {
            "what": "attacks on the encrypted CIFAR-10 network; trial i has Key.from_seed(i, 4, 3), and i seeds it",
            "victim": weights_digest(world.victim),
            "accuracy of the victim": accuracy(world.victim, *world.test),
            "test images": JUDGED,
            "images a query": ASKED,
            "fine-tuning": TUNING,
        },
        seconds="processor time on one core",
        versions=versions("scipy"),
        processor=processor(),
    )
    for name, (trial, count) in tqdm(TRIALS.items(), "trials", disable=None):
        receipt.trials(name, count, partial(trial, world))


if __name__ == "__main__":
    main()
