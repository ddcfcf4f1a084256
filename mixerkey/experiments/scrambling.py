"""Blocks in another order, too: what a vision transformer absorbs, and what wrong keys and wrong orders are worth.

    python -m mixerkey.experiments.scrambling runs/vit/vit.safetensors

needs CIFAR-10 (MIXERKEY_DATA), a ViT that ``mixerkey train vit`` made, and some twenty minutes of one core; finished
parts are written, and a run that was killed goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import nn

from mixerkey.absorption import encrypt_model
from mixerkey.convmixer import load_model
from mixerkey.data import load_cifar10
from mixerkey.evaluation import classify, sweep
from mixerkey.experiments import RUNS
from mixerkey.experiments.paper import RIGHT_KEY, WRONG_KEYS, Data
from mixerkey.keys import BlockKey, BlockOrder, Key
from mixerkey.receipts import RECEIPTS, Receipt, processor, versions, weights_digest

RECEIPT = RECEIPTS / "scrambling.json"
SWEPT = 1000  # test images, the first ones, on which each wrong key is tried


def draw(seed: int, patch_size: int, channels: int, grid: tuple[int, int]) -> tuple[Key, BlockOrder]:
    """A key for the pixels of each block, and an order of the blocks."""
    return Key.from_seed(seed, patch_size, channels), BlockOrder.from_seed(seed, patch_size, channels, grid)


def exactness(model: nn.Module, key: Key, order: BlockOrder, test: Data) -> dict[str, dict[str, float]]:
    """For each part of the key, and for all of it: its bits, and how many images the encrypted pair gives the class
    that the plain pair gives; and how many of the encrypted images the plain network, plain ones the encrypted network,
    still get right.

    >>> from mixerkey.data import load_digits
    >>> from mixerkey.vit import ViT
    >>> images, labels = load_digits("test")
    >>> model = ViT(8, 1, 2, patch_size=2, in_channels=1, image_size=8).eval()
    >>> found = exactness(model, *draw(0, 2, 1, (4, 4)), (images[:20], labels[:20]))
    >>> {name: counts["same class"] for name, counts in found.items()}
    {'shuffle': 20, 'flips': 20, 'both': 20, 'block order': 20, 'everything': 20}
    """
    images, labels = test
    keys: dict[str, BlockKey] = {
        "shuffle": key.shuffle,
        "flips": key.flip,
        "both": key,
        "block order": order,
        "everything": key.then(order),
    }
    plain = classify(model, images)
    found = {}
    for name, secret in keys.items():
        locked = encrypt_model(model, secret)
        encrypted = classify(locked, images, secret)
        found[name] = {
            "bits": round(secret.bits, 2),
            "same class": int((encrypted == plain).sum()),
            "encrypted pair": int((encrypted == labels).sum()),
            "encrypted model, plain images": int((classify(locked, images) == labels).sum()),
            "plain model, encrypted images": int((classify(model, images, secret) == labels).sum()),
        }
    return found


def wrong_keys(
    model: nn.Module, key: Key, order: BlockOrder, test: Data, seeds: range, *, folder: Path | None = None
) -> dict[str, list[int]]:
    """How many images the network that is encrypted with key and order gets right where one of them, or each, is wrong.

    Args:
        model: the plain network.
        key, order: the right ones.
        test: images and labels.
        seeds: of the wrong ones.
        folder: where each sweep keeps its results as they come.

    >>> from mixerkey.data import load_digits
    >>> from mixerkey.vit import ViT
    >>> images, labels = load_digits("test")
    >>> model = ViT(8, 1, 2, patch_size=2, in_channels=1, image_size=8).eval()
    >>> found = wrong_keys(model, *draw(0, 2, 1, (4, 4)), (images[:20], labels[:20]), range(1, 3))
    >>> {name: len(counts) for name, counts in found.items()}
    {'wrong key': 2, 'wrong order': 2, 'both wrong': 2}
    """
    others = [draw(seed, key.patch_size, key.channels, order.grid) for seed in seeds]
    candidates: dict[str, list[BlockKey]] = {
        "wrong key": [other.then(order) for other, _ in others],
        "wrong order": [key.then(other) for _, other in others],
        "both wrong": [other.then(another) for other, another in others],
    }
    locked = encrypt_model(model, key.then(order))
    store = None if folder is None else folder / "wrong-keys.json"
    return {
        name: sweep(locked, *test, keys, store=store, progress=folder is not None) for name, keys in candidates.items()
    }


def main(arguments: list[str] | None = None) -> None:
    """Run both on the test images of CIFAR-10, and print what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a safetensors file that mixerkey train vit wrote")
    model = load_model(parser.parse_args(arguments).model)
    test = load_cifar10("test")
    some = test[0][:SWEPT], test[1][:SWEPT]
    P, C, S = (model.sizes[name] for name in ("patch_size", "in_channels", "image_size"))
    key, order = draw(RIGHT_KEY, P, C, (S // P, S // P))
    receipt = Receipt(
        RECEIPT,
        {
            "weights_sha256": weights_digest(model),
            "network": model.sizes,
            "images": len(test[0]),
            "images of a sweep": SWEPT,
        },
        versions=versions(),
        processor=processor(next(model.parameters()).device),
    )
    runs: dict[str, Callable[[], dict]] = {
        "exactness": partial(exactness, model, key, order, test),
        "wrong keys": partial(wrong_keys, model, key, order, some, WRONG_KEYS, folder=RUNS / "scrambling"),
    }
    for name, run in runs.items():
        for title, found in receipt.once(name, run).items():
            print(f"{name}, {title}: {found}")


if __name__ == "__main__":
    main()
