"""What does the encrypted model give away, and what is protecting it worth? Gram matrix, queries, fine-tuning.

The victim is the CIFAR-10 network of the package, encrypted. The attacker has the training images of CIFAR-10 as public
images; accuracies are measured on test images. Every finished trial is written, and a run that was killed goes on; to
measure another victim, remove the receipt of the old one.

    python -m mixerkey.experiments.models

needs CIFAR-10 (MIXERKEY_DATA), and about ten minutes of one core. The surrogate, three minutes of that, is trained once
and kept in ``runs/``: it does not depend on the victim.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from mixerkey import (
    ConvMixer,
    Key,
    SignedPermutation,
    accuracy,
    decrypt_images,
    decrypt_model,
    encrypt_images,
    encrypt_model,
    load_pretrained,
)
from mixerkey.attacks import ImageStatistics, Recovery, image_statistics, naturalness
from mixerkey.attacks.ciphertext import relatives
from mixerkey.attacks.fine_tuning import fine_tune_embedding
from mixerkey.attacks.model_only import brightness, mismatch, model_only, settle
from mixerkey.attacks.queries import hill_climb, labelled_loss, relaxed_permutation
from mixerkey.data import load_cifar10
from mixerkey.experiments import RUNS
from mixerkey.receipts import RECEIPTS, Receipt, processor, versions, weights_digest
from mixerkey.training import Recipe, train

RECEIPT = RECEIPTS / "models.json"
SURROGATE = Recipe(epochs=3, batch_size=256, peak_lr=0.01, crop=4, flip=True, average=0.99, dtype="bfloat16")
PUBLIC = 100  # plain images for `mismatch`
SEEN = 10  # encrypted images, for settling symmetries
JUDGED = 1000  # test images on which an accuracy is measured
QUERIES, STEPS = 400, 100  # of hill climbing and of the gradient
ASKED = 100  # labelled images a query
TUNING = {"steps": 400, "batch_size": 50, "rate": 0.02}  # found on training images; fewer steps give much less


def surrogate(images: Tensor, labels: Tensor) -> ConvMixer:
    """A shallow network that the attacker trains, with nothing of the victim's but the size of its embedding."""
    checkpoint = RUNS / "surrogate.safetensors"
    network = ConvMixer(256, 2)
    return train(network, images, labels, SURROGATE, seed=1, evaluate=lambda _: 0.0, checkpoint=checkpoint)[0]


class World:
    """What the trials share: victim, surrogate, public images. The victim in the clear is only here to mark answers."""

    def __init__(self) -> None:
        self.images, self.labels = load_cifar10("train")
        test_images, test_labels = load_cifar10("test")
        self.test = test_images[:JUDGED], test_labels[:JUDGED]
        self.private = test_images[JUDGED:]
        self.victim = load_pretrained("cifar10")
        self.surrogate = surrogate(self.images, self.labels)
        self.prior: ImageStatistics = image_statistics(self.images[:10_000], 4)

    def judge(self, recovery: Recovery, key: Key, encrypted: ConvMixer) -> dict:
        found = recovery.key
        change = key.inverse().then(found).matrix()  # of encrypted blocks; the identity for the right key
        plain = found.then(key.inverse()).matrix()
        best = max(float((g.matrix() * plain).sum()) for g in relatives(4, 3))
        return {
            "right positions": int((found.permutation == key.permutation).sum()),
            "right flips": int((found.flips == key.flips).sum()),
            "right rows": int(change.diagonal().clamp(min=0).sum()),
            "right rows up to symmetries": round(best),
            "score": round(recovery.score, 4),
            "ambiguous": len(recovery.ambiguous),
            "accuracy": accuracy(decrypt_model(encrypted, found), *self.test),
        }


def gram_matrix(world: World, seed: int) -> dict:
    """E' and a surrogate; then the same with public images, or with a few encrypted images."""
    key = Key.from_seed(seed, 4, 3)
    encrypted = encrypt_model(world.victim, key)
    rng = torch.Generator().manual_seed(seed)
    start = time.process_time()
    recovery = model_only(encrypted, world.surrogate, rng)
    seconds = time.process_time() - start
    seen = brightness(encrypted)
    flips = int((torch.from_numpy(seen < 0) == key.flips).sum())
    draw = torch.randperm(len(world.private), generator=rng)[:SEEN]
    hidden = encrypt_images(world.private[draw], key)
    known = torch.randperm(len(world.images), generator=rng)[:PUBLIC]
    images = world.images[known]
    everything = Recovery(recovery.key, recovery.score, tuple(relatives(4, 3)[1:]))

    def by_statistics(guess: SignedPermutation) -> float:
        return -mismatch(decrypt_model(encrypted, guess), images)

    def by_sight(guess: SignedPermutation) -> float:
        return naturalness(decrypt_images(hidden, guess), world.prior)

    return {
        "flips by brightness, up to one for all": max(flips, 48 - flips),
        "seconds": round(seconds, 1),
        "model only": world.judge(recovery, key, encrypted),
        "and public images": world.judge(settle(everything, by_statistics), key, encrypted),
        "and encrypted images": world.judge(settle(everything, by_sight), key, encrypted),
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
        stolen = encrypt_model(world.victim, Key.from_seed(seed, 4, 3))
        chosen = torch.randperm(len(world.images), generator=rng)[:count]
        images, labels = world.images[chosen], world.labels[chosen]
        tuned = fine_tune_embedding(stolen, images, labels, rng, progress=True, **TUNING)  # type: ignore[arg-type]
        return {"accuracy": accuracy(tuned, *world.test), "stolen": accuracy(stolen, *world.test)}

    return trial


TRIALS: dict[str, tuple[Callable[[World, int], dict], int]] = {
    "gram matrix": (gram_matrix, 5),
    "fine-tuning on 100": (fine_tuning(100), 1),
    "fine-tuning on 500": (fine_tuning(500), 1),
    "fine-tuning on 2000": (fine_tuning(2000), 1),
    "gradient": (gradient, 1),
    "hill climbing": (climbing, 1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Attacks on the encrypted model.")
    parser.add_argument("--out", type=Path, default=RECEIPT, help="receipt to write, or to go on with")
    arguments = parser.parse_args()
    world = World()
    receipt = Receipt(
        arguments.out,
        {
            "what": "attacks on the encrypted CIFAR-10 network; trial i has Key.from_seed(i, 4, 3), and i seeds it",
            "victim": weights_digest(world.victim),
            "accuracy of the victim": accuracy(world.victim, *world.test),
            "test images": JUDGED,
            "public images": PUBLIC,
            "encrypted images": SEEN,
            "images a query": ASKED,
            "fine-tuning": TUNING,
        },
        seconds="processor time on one core",
        versions=versions() | {"scipy": version("scipy")},
        processor=processor(torch.device("cpu")),
    )
    for name, (trial, count) in tqdm(TRIALS.items(), "trials", disable=None):
        receipt.trials(name, count, partial(trial, world))


if __name__ == "__main__":
    main()
