"""The paper's experiments (§4) and what they leave open, each a function from networks and images to numbers.

`reproduce` runs them all, keeps what is finished, and returns the receipt that chapter 6 and the claims ledger quote.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

from mixerkey.absorption import encrypt_model
from mixerkey.cipher import encrypt_images
from mixerkey.convmixer import ConvMixer, Residual, load_pretrained
from mixerkey.data import load_cifar10, load_digits
from mixerkey.evaluation import classify, confusion, partly_wrong, sweep
from mixerkey.keys import Key, SignedPermutation, key_space_bits
from mixerkey.receipts import Receipt, box_plot, confidence_interval, processor, versions, weights_digest
from mixerkey.training import Recipe, train

PAPER = {"baseline": 0.9046, "encrypted pair": 0.9046, "encrypted model, plain images": 0.1141}  # Table 1
REPRODUCED = ("cifar10", "digits")  # the pretrained networks that the experiments are made with
RIGHT_KEY = 0  # seeds, so that anyone can draw the same keys
WRONG_KEYS = range(1, 101)
Data = tuple[Tensor, Tensor]  # images uint8 (N, C, H, W), labels int64 (N,)
Experiments = dict[str, Callable[[], object]]  # by name: what computes the numbers


def parts(key: Key) -> dict[str, SignedPermutation]:
    """What a key does, taken apart: nothing, its shuffle alone, its flips alone, both.

    >>> [name for name in parts(Key.from_seed(0, 2, 1))]
    ['plain', 'shuffled', 'flipped', 'both']
    """
    nothing = SignedPermutation.identity(key.patch_size, key.channels)
    return {"plain": nothing, "shuffled": key.shuffle, "flipped": key.flip, "both": key}


def table_1(model: nn.Module, key: Key, test: Data) -> dict:
    """Table 1: how many images each pair of model and images gets right, and on how many the two exact pairs agree.

    Args:
        model: the plain network.
        key: the right key.
        test: images and labels.

    >>> counts = table_1(load_pretrained("digits"), Key.from_seed(0, 2, 1), load_digits("test"))
    >>> counts["baseline"] == counts["encrypted pair"], counts["same class"] == counts["images"]
    (True, True)
    """
    images, labels = test
    locked = encrypt_model(model, key)
    plain, encrypted = classify(model, images), classify(locked, images, key)
    return {
        "images": len(images),
        "baseline": int((plain == labels).sum()),
        "encrypted pair": int((encrypted == labels).sum()),
        "same class": int((plain == encrypted).sum()),
        "encrypted model, plain images": int((classify(locked, images) == labels).sum()),
        "plain model, encrypted images": int((classify(model, images, key) == labels).sum()),
    }


def partial_keys(
    model: nn.Module, key: Key, test: Data, *, draws: int, seed: int = 0, progress: bool = True
) -> dict[str, dict[str, list[int]]]:
    """How many images the encrypted model gets right under keys that are wrong in few or many places.

    Args:
        model: the plain network.
        key: the right key.
        test: images and labels.
        draws: random keys for each number of wrong places.
        seed: of the choice of places.
        progress: whether to show a progress bar on stderr.

    Returns:
        for "positions" and for "signs": number of wrong places, as text -> one count a draw.

    >>> found = partial_keys(load_pretrained("digits"), Key.from_seed(0, 2, 1), load_digits("test"), draws=1,
    ...                      progress=False)
    >>> list(found["positions"]), list(found["signs"])
    (['0', '2', '4'], ['0', '2', '4'])
    """
    images, labels = test
    locked, generator = encrypt_model(model, key), torch.Generator().manual_seed(seed)
    size = key.size
    steps = sorted({n for n in (0, 2, 4, 8, 16, 24, 32, 40) if n < size} | {size})
    grid = [("positions", n) for n in steps] + [("signs", n) for n in steps]
    result: dict[str, dict[str, list[int]]] = {"positions": {}, "signs": {}}
    for what, n in tqdm(grid, "partly wrong keys", disable=not progress):
        positions, signs = (n, 0) if what == "positions" else (0, n)
        keys = [partly_wrong(key, positions, signs, generator) for _ in range(draws if n else 1)]
        result[what][str(n)] = [int((classify(locked, images, other) == labels).sum()) for other in keys]
    return result


def single_steps(model: nn.Module, keys: list[Key], test: Data) -> dict[str, list[int]]:
    """How many *plain* images a model locked by the shuffle alone, the flips alone, or both gets right, key by key.

    >>> counts = single_steps(load_pretrained("digits"), [Key.from_seed(0, 2, 1)], load_digits("test"))
    >>> list(counts)
    ['shuffled', 'flipped', 'both']
    """
    images, labels = test
    return {
        name: [int((classify(encrypt_model(model, parts(key)[name]), images) == labels).sum()) for key in keys]
        for name in ("shuffled", "flipped", "both")
    }


class ResidualNetwork(nn.Sequential):
    """A small residual network (He et al., 2016): three stages of one block, 3×3 kernels everywhere.

    It has no patch embedding: its first kernels slide over block borders, so no matrix can absorb the cipher.

    Args:
        width: channels of the first stage; each further stage halves the map and doubles the channels.
        num_classes: number of logits.
        in_channels: C.

    >>> ResidualNetwork(8)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, width: int, num_classes: int = 10, in_channels: int = 3) -> None:
        self.sizes = {"width": width, "num_classes": num_classes, "in_channels": in_channels}

        def conv(a: int, b: int, stride: int = 1) -> list[nn.Module]:
            return [nn.Conv2d(a, b, 3, stride, padding=1), nn.BatchNorm2d(b)]

        def block(a: int) -> list[nn.Module]:
            return [Residual(nn.Sequential(*conv(a, a), nn.ReLU(), *conv(a, a))), nn.ReLU()]

        layers = [*conv(in_channels, width), nn.ReLU(), *block(width)]
        for a in (width, 2 * width):
            layers += [*conv(a, 2 * a, stride=2), nn.ReLU(), *block(2 * a)]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, num_classes))


SMALL = Recipe(epochs=10, batch_size=128, peak_lr=0.01, dtype="bfloat16")  # no augmentation: it would cut across blocks


def conventional_route(
    training: Data, test: Data, *, seeds: range, folder: Path | None = None, recipe: Recipe = SMALL
) -> dict[str, dict[str, list[float]]]:
    """What the paper argues against: training on encrypted images, with equal budgets for all.

    A residual network and a ConvMixer whose patch is the block are trained on plain, shuffled, flipped and encrypted
    images (M = 4) and measured on test images that went through the same key.

    Args:
        training, test: images and labels.
        seeds: one run a seed: of the key, the initial weights and the order of images.
        folder: where checkpoints go, to resume from; none are written by default.
        recipe: how to train.

    Returns:
        network -> images -> accuracy, one a seed, fraction in [0, 1].
    """
    found: dict[str, dict[str, list[float]]] = {"residual network": {}, "ConvMixer": {}}
    channels = training[0].shape[1]
    for name, of_seed in found.items():
        for seed in seeds:
            for step, cipher in parts(Key.from_seed(seed, 4, channels)).items():
                if name == "ConvMixer":
                    model: nn.Module = ConvMixer(64, 4, 5, in_channels=channels)
                else:
                    model = ResidualNetwork(16, in_channels=channels)
                reached = _train_small(model, training, test, cipher, seed, folder, f"{name} {step}", recipe)
                of_seed.setdefault(step, []).append(reached)
    return found


def block_sizes(
    training: Data, test: Data, *, folder: Path | None = None, recipe: Recipe = SMALL, wrong_keys: int = 10
) -> dict[str, dict]:
    """The method with blocks of 2×2, 4×4 and 8×8 pixels: small ConvMixers whose patch is the block, one seed.

    Args:
        training, test: images and labels.
        folder: where checkpoints go, to resume from; none are written by default.
        recipe: how to train.
        wrong_keys: random client keys to try.

    Returns:
        M, as text -> key space in bits, and how many test images are right for the plain pair, the encrypted pair,
        plain images, and each wrong key.
    """
    images, labels = test
    found = {}
    for M in (2, 4, 8):
        channels = images.shape[1]
        model = ConvMixer(64, 4, 5, patch_size=M, in_channels=channels)
        plain = SignedPermutation.identity(M, channels)
        _train_small(model, training, test, plain, 0, folder, f"M {M}", recipe)
        key = Key.from_seed(RIGHT_KEY, M, channels)
        locked = encrypt_model(model, key)
        wrong = [Key.from_seed(seed, M, channels) for seed in WRONG_KEYS[:wrong_keys]]
        counts = table_1(model, key, test)
        found[str(M)] = {"bits": round(key_space_bits(M, channels), 2), **counts}
        found[str(M)]["wrong keys"] = sweep(locked, images, labels, wrong, progress=False)
    return found


def _train_small(
    model: nn.Module,
    training: Data,
    test: Data,
    cipher: SignedPermutation,
    seed: int,
    folder: Path | None,
    name: str,
    recipe: Recipe,
) -> float:
    images, labels = training
    test_images, test_labels = encrypt_images(test[0], cipher), test[1]
    checkpoint = folder / f"{name} {seed}.safetensors".replace(" ", "-") if folder is not None else None
    _, receipt = train(
        model,
        encrypt_images(images, cipher),
        labels,
        recipe,
        seed=seed,
        evaluate=lambda trained: (classify(trained, test_images) == test_labels).double().mean().item(),
        checkpoint=checkpoint,
        progress=folder is not None,
    )
    return round(receipt["accuracy"], 4)


def reproduce(
    name: Literal["cifar10", "digits"], folder: Path, *, only: str | None = None, progress: bool = True
) -> dict:
    """Run the experiments on a pretrained network, or take up what an earlier call left unfinished.

    "cifar10" gives Table 1, the paper's Fig. 5 and all the rest, in an hour or two on two CPU cores. "digits" gives
    the same with *every* key, in seconds. Under ``torchrun`` the processes share sweeps and training.

    Args:
        name: "cifar10" or "digits".
        folder: finished experiments, sweeps under way and checkpoints are kept here.
        only: the name of one experiment; all of them by default.
        progress: whether to show progress bars on stderr.

    Returns:
        JSON-ready: the network, its weights' digest, the seeds of the keys, and of each experiment its numbers, wall
        time, versions and processor.

    Raises:
        ValueError: another network, an unknown experiment, or a folder with results of other weights.
        DataUnavailable: CIFAR-10 is neither here nor to be had.
    """
    if name not in REPRODUCED:
        raise ValueError(f"the paper's experiments are made with {' or '.join(REPRODUCED)}, not with {name!r}")
    model = load_pretrained(name)
    M, C = model.sizes["patch_size"], model.sizes["in_channels"]
    key = Key.from_seed(RIGHT_KEY, M, C)
    facts: dict[str, object] = {"weights_sha256": weights_digest(model)}
    load: Callable[[str], Data] = load_digits if name == "digits" else partial(load_cifar10, progress=progress)
    test = load("test")
    some = test[0][:2000], test[1][:2000]
    if name == "digits":
        wrong = [other for other in Key.every(M, C) if other != key]
    else:
        wrong = [Key.from_seed(seed, M, C) for seed in WRONG_KEYS]
    experiments = _of_the_network(model, key, wrong, test, some, folder, progress)
    own = _of_own_networks(load("train"), test, folder) if name == "cifar10" else {}
    experiments |= own
    if only is not None and only not in experiments:
        raise ValueError(f"no experiment {only!r} on {name}; there are {', '.join(experiments)}")
    return {
        "network": name,
        **facts,
        "key_space_bits": round(key_space_bits(M, C), 2),
        "right_key_seed": RIGHT_KEY,
        "wrong_key_seeds": "all other keys" if name == "digits" else [WRONG_KEYS.start, WRONG_KEYS.stop - 1],
        "partial_images": len(some[0]),
        "experiments": {
            title: _once(
                folder / f"{title.replace(' ', '-')}.json",
                {"weights_sha256": None, "recipe": asdict(SMALL)} if title in own else facts,
                experiment,
            )
            for title, experiment in experiments.items()
            if only in (None, title)
        },
    }


def _of_the_network(
    model: ConvMixer, key: Key, wrong: list[Key], test: Data, some: Data, folder: Path, progress: bool
) -> Experiments:
    """The experiments on one pretrained network; `some` of the test images for those with many keys."""
    few = [Key.from_seed(seed, key.patch_size, key.channels) for seed in WRONG_KEYS[:10]]

    def wrong_keys() -> list[int]:
        store = folder / f"sweep-{weights_digest(model)[:16]}.json"
        return sweep(encrypt_model(model, key), *test, wrong, store=store, progress=progress)

    def wrong_key_confusion() -> list[list[int]]:
        classes = classify(encrypt_model(model, key), test[0], few[0])
        return confusion(test[1], classes, model.sizes["num_classes"]).tolist()

    return {
        "table 1": lambda: table_1(model, key, test),
        "wrong keys": wrong_keys,
        "partial keys": lambda: partial_keys(model, key, some, draws=10, progress=progress),
        "single steps": lambda: single_steps(model, few, some),
        "confusion": wrong_key_confusion,
    }


def _of_own_networks(training: Data, test: Data, folder: Path) -> Experiments:
    """The experiments that train networks of their own, on the first 10,000 of the training images."""
    training = training[0][:10_000], training[1][:10_000]
    return {
        "block sizes": lambda: block_sizes(training, test, folder=folder),
        "conventional route": lambda: conventional_route(training, test, seeds=range(3), folder=folder),
    }


def _once(file: Path, facts: dict[str, object], experiment: Callable[[], object]) -> dict:
    receipt = Receipt(file, facts)
    if "result" not in receipt.content:
        start = time.perf_counter()
        result = experiment()
        receipt.content |= {
            "result": result,
            "wall_seconds": round(time.perf_counter() - start, 1),
            "processor": processor(),
            "versions": versions(),
        }
        if not dist.is_initialized() or dist.get_rank() == 0:
            receipt.write()
    return receipt.content


def report(receipt: dict) -> str:
    """What `reproduce` found, as text: the paper's numbers and ours side by side, with 95 % intervals.

    Args:
        receipt: what `reproduce` returned.

    Returns:
        lines of text.
    """
    return "\n".join(_lines(receipt))


def _lines(receipt: dict) -> Iterator[str]:
    found = {title: entry["result"] for title, entry in receipt["experiments"].items()}
    paper = PAPER if receipt["network"] == "cifar10" else {}
    yield f"{'':34}{'paper':>9}{'ours':>9}   95 % interval"

    def row(title: str, right: int, total: int) -> str:
        low, high = confidence_interval(right, total)
        stated = f"{paper[title]:9.2%}" if title in paper else f"{'':9}"
        return f"{title:34}{stated}{right / total:9.2%}   {low:.2%} to {high:.2%}"

    if "table 1" in found:
        table = found["table 1"]
        total = table["images"]
        for title in ("baseline", "encrypted pair", *(name for name in table if name.endswith("images"))):
            if title != "images":
                yield row(title, table[title], total)
        yield f"the same class on {table['same class']:,} of {total:,} images"
    if "wrong keys" in found and "table 1" in found:
        counts = torch.tensor(found["wrong keys"], dtype=torch.float64) / found["table 1"]["images"]
        box = box_plot(counts)
        yield f"{len(counts)} wrong keys: " + ", ".join(f"{name} {value:.2%}" for name, value in box.items())
    for what, of in found.get("partial keys", {}).items():
        means = [f"{n}: {sum(counts) / len(counts) / receipt['partial_images']:.1%}" for n, counts in of.items()]
        yield f"wrong {what}: " + ", ".join(means)
    for name, counts in found.get("single steps", {}).items():
        total = len(counts) * receipt["partial_images"]
        yield f"plain images, model {name}: {sum(counts) / total:.1%}"
    for M, of in found.get("block sizes", {}).items():
        total = of["images"]
        yield (
            f"M = {M}: {of['bits']} bits, plain {of['baseline'] / total:.2%}, encrypted pair "
            f"{of['encrypted pair'] / total:.2%}, plain images {of['encrypted model, plain images'] / total:.2%}, "
            f"wrong keys {sum(of['wrong keys']) / len(of['wrong keys']) / total:.2%}"
        )
    for network, of in found.get("conventional route", {}).items():
        means = [f"{step} {sum(values) / len(values):.2%}" for step, values in of.items()]
        yield f"trained on the images, {network}: " + ", ".join(means)
    stated = " (the paper prints 543.8: see chapter 6)" if paper else ""
    yield f"key space: {receipt['key_space_bits']} bits{stated}"
