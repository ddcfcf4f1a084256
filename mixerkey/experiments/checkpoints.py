"""A public checkpoint: how much of the key do the rows of E' tell after real fine-tuning, and after none?

Public are the CIFAR-10 network of the package and a small vision transformer. The owner trains all of their weights on
for another task, animal or vehicle, with a new head and images that the networks have not seen: by Adam, with a rate
that falls to 0, for some epochs and at some learning rates. Then the network is encrypted, and each of its rows is
looked for among the public ones. The controls are networks of the same shape that were trained independently.

    python -m mixerkey.experiments.checkpoints

needs CIFAR-10 (MIXERKEY_DATA), and about half an hour of one core. Networks are kept in ``runs/checkpoints``, and a run
that was killed goes on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from mixerkey import ConvMixer, Key, accuracy, encrypt_model, load_pretrained, patch_matrix
from mixerkey.attacks import Recovery, from_checkpoint, mixture_from_checkpoint, order_from_positions
from mixerkey.data import load_cifar10
from mixerkey.experiments import RUNS, command_line
from mixerkey.keys import BlockOrder, MatrixKey
from mixerkey.receipts import RECEIPTS, Receipt, processor, versions, weights_digest
from mixerkey.training import Recipe, initialize, train
from mixerkey.vit import ViT

AnyNetwork = TypeVar("AnyNetwork", bound=nn.Module)
Data = tuple[Tensor, Tensor]  # images, labels
RECEIPT = RECEIPTS / "checkpoints.json"
GRID = (8, 8)
TUNED = {"ViT": 2000, "ConvMixer": 500}  # test images on which networks are fine-tuned, the first ones
JUDGED = slice(2000, 3000)  # test images on which accuracies are measured
EPOCHS, RATES = (1, 3, 10), (1e-4, 1e-3, 1e-2)
USUAL = 10, 1e-3  # the fine-tuning that the table of schemes takes
VEHICLES = (0, 1, 8, 9)  # airplane, automobile, ship, truck
TUNING = Recipe(epochs=1, batch_size=25, peak_lr=1e-3, warmup=0, crop=4, flip=True, dtype="bfloat16")
SMALL_VIT = Recipe(epochs=4, batch_size=64, peak_lr=0.002, crop=4, flip=True, dtype="bfloat16")
MIXER = Recipe(epochs=8, batch_size=125, peak_lr=0.01, crop=4, flip=True, average=0.99, dtype="bfloat16")
HALVES = {0: slice(25_000), 1: slice(25_000, 50_000)}  # of the training images, by seed: no image for both


def vit(seed: int) -> ViT:
    """A small vision transformer, trained on a half of the training images that no other seed has."""
    images, labels = load_cifar10("train")
    part = HALVES[seed]
    return trained(f"checkpoints/vit-{seed}", ViT(64, 2, 4), (images[part], labels[part]), SMALL_VIT, seed)


def surrogate() -> ConvMixer:
    """What an attacker trains, on 5,000 test images: the network of the package has seen none of them."""
    images, labels = load_cifar10("test")
    return trained("checkpoints/surrogate", ConvMixer(256, 2), (images[:5000], labels[:5000]), MIXER, seed=1)


def public(network: type[nn.Module]) -> nn.Module:
    """The network that everybody has."""
    return vit(0) if network is ViT else load_pretrained("cifar10")


def fine_tuned(network: type[nn.Module], epochs: int, rate: float) -> nn.Module:
    """The public network with a new head for two classes, trained on."""
    before = public(network)
    model = type(before)(**before.sizes | {"num_classes": 2})  # type: ignore[operator]
    initialize(model, torch.Generator().manual_seed(0))
    new = {name: value for name, value in model.state_dict().items() if value.shape[:1] == (2,)}  # the head's
    model.load_state_dict({**before.state_dict(), **new})
    images, labels = (part[: TUNED[network.__name__]] for part in tuning_task())
    recipe = replace(TUNING, epochs=epochs, batch_size=len(images) // 20, peak_lr=rate)
    return trained(f"checkpoints/{network.__name__}-{epochs}-{rate}", model, (images, labels), recipe, None)


def tuning_task() -> Data:
    """All test images, with 1 for a vehicle and 0 for an animal."""
    images, labels = load_cifar10("test")
    return images, torch.isin(labels, torch.tensor(VEHICLES)).long()


def trained(name: str, model: AnyNetwork, data: Data, recipe: Recipe, seed: int | None) -> AnyNetwork:
    """Train, or take up again; no seed stands for the weights that are there."""
    path = RUNS / f"{name}.safetensors"

    def evaluate(_: nn.Module) -> float:
        return 0.0

    return train(
        model, *data, recipe, seed=seed or 0, fine_tune=seed is None, evaluate=evaluate, checkpoint=path, progress=False
    )[0]


def signed(tuned: nn.Module, known: nn.Module, seed: int) -> dict:
    """The paper's key: how many of the 48 rows come to their place, with their sign."""
    key = Key.from_seed(seed, 4, 3)
    found = from_checkpoint(encrypt_model(tuned, key), known, 4, 3)
    rows = (found.key.matrix() * key.matrix()).sum()
    return {"right": int(rows), "of": 48, **_said(found)}


def orthogonal(tuned: nn.Module, known: nn.Module, seed: int) -> dict:
    """An orthogonal matrix: its mean cosine with what is found, column by column."""
    key = MatrixKey.orthogonal(4, 3, seed)
    found = mixture_from_checkpoint(encrypt_model(tuned, key), known, 4, 3)
    return {"cosine": round(float((found.key.matrix() * key.matrix()).sum() / 48), 4), **_said(found)}


def order(tuned: nn.Module, known: nn.Module, seed: int) -> dict:
    """An order of blocks, from the position embeddings: how many of the 64 places are found."""
    key = BlockOrder.from_seed(seed, 4, 3, GRID)
    encrypted, plain = (cast(ViT, model).positions.detach() for model in (encrypt_model(tuned, key), known))
    found = order_from_positions(encrypted, plain, key)
    return {"right": int((found.key.order == key.order).sum()), "of": 64, **_said(found)}


def _said(found: Recovery) -> dict:
    return {"score": round(found.score, 4), "ambiguous": len(found.ambiguous)}


def moved(tuned: nn.Module, known: nn.Module) -> float:
    """How far fine-tuning moved E, as a share of its norm."""
    return round(float((patch_matrix(tuned) - patch_matrix(known)).norm() / patch_matrix(known).norm()), 4)


def curve(network: type[nn.Module], kinds: dict) -> dict:
    images, labels = (part[JUDGED] for part in tuning_task())
    known, points = public(network), []
    for rate in RATES:
        for epochs in EPOCHS:
            tuned = fine_tuned(network, epochs, rate)
            points.append(
                {
                    "epochs": epochs,
                    "learning rate": rate,
                    "accuracy": accuracy(tuned, images, labels),
                    "E moved by": moved(tuned, known),
                    **{name: kind(tuned, known, 0) for name, kind in kinds.items()},
                }
            )
    return {"public": weights_digest(known), "points": points}


def main() -> None:
    arguments = command_line("Keys from a public checkpoint, after fine-tuning.", RECEIPT).parse_args()
    torch.set_num_threads(1)
    receipt = Receipt(
        arguments.out,
        {
            "what": "keys from the fine-tuned, encrypted network and the public one; keys have seed 0",
            "images for fine-tuning": TUNED,
            "images for accuracies": JUDGED.stop - JUDGED.start,
        },
        versions=versions("scipy"),
        processor=processor(),
    )
    mixers, transformers = {"signed": signed, "orthogonal": orthogonal}, {"signed": signed, "block order": order}
    receipt.once("ViT", lambda: curve(ViT, transformers))
    receipt.once("ViT, independent", lambda: {name: kind(vit(1), vit(0), 0) for name, kind in transformers.items()})
    receipt.once("ConvMixer", lambda: curve(ConvMixer, mixers))
    receipt.once(
        "ConvMixer, independent",
        lambda: {name: kind(load_pretrained("cifar10"), surrogate(), 0) for name, kind in mixers.items()},
    )


if __name__ == "__main__":
    main()
