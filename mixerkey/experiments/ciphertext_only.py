"""How many encrypted images give the key away? Recovery curves of the ciphertext-only attack.

Each cell of the experiment is a prior, a kind of encrypted images, a block size and a number of images; each trial has
its own key and its own draw of test images. Every finished trial is written, and a run that was killed goes on.

    python -m mixerkey.experiments.ciphertext_only

needs CIFAR-10 (MIXERKEY_DATA) and one core, of which it takes some forty minutes. Pictures that are nothing like
CIFAR-10 come from a folder (``--photographs``); without one their cells stay as they are. Those of the package's
receipt, which lists them with their SHA-256, are 155 photographs that nothing was fitted to that these trials use,
neither the attack nor its network (the facts of `photographic`, which they do not use, were tried on the first source):
119 of animals and monuments from Debian's gcompris-qt-data 3.1 (its .rcc archives unpacked) and 36 from its
opencv-doc 4.6.0, no two of them alike.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from mixerkey import Key, encrypt_images
from mixerkey.attacks import ImageStatistics, ciphertext_only, image_statistics
from mixerkey.data import load_cifar10, load_digits, load_photos
from mixerkey.experiments import command_line
from mixerkey.files import read_json, write_json
from mixerkey.keys import block_size
from mixerkey.pictures import open_picture
from mixerkey.receipts import RECEIPTS, confidence_interval, processor, versions

RECEIPT = RECEIPTS / "ciphertext-only.json"
FACTS = ("right positions", "right positions up to the order of channels", "right flips", "doubts", "score", "seconds")
# (prior, encrypted images, M, number of images, trials). Trials are fewer where one takes seconds.
CELLS = (
    *(("cifar10", "cifar10", 4, n, 40) for n in (1, 3, 10, 30, 100, 300, 1000)),
    *(("cifar10", "cifar10", 2, n, 40) for n in (1, 10, 100, 1000)),
    *(("cifar10", "cifar10", 8, n, 10) for n in (10, 100, 1000)),
    ("cifar10", "cifar10", 16, 1000, 3),
    *((f"cifar10, {count} images", "cifar10", 4, 1000, 20) for count in (1, 3, 10, 100)),
    *((name, "cifar10", 4, 1000, 20) for name in ("china and flower", "china", "flower")),
    ("china and flower, a quarter of the size", "cifar10", 4, 1000, 20),
    *(("digits", "digits", 2, n, 40) for n in (1, 10, 100)),
    *((name, "grey cifar10", 2, 1000, 20) for name in ("grey cifar10", "digits")),
    *(("cifar10", "photographs", M, 1, trials) for M, trials in ((4, 100), (2, 40), (8, 10), (16, 3))),
    *(("cifar10", "tiles of photographs", M, 100, trials) for M, trials in ((4, 40), (2, 40), (8, 10))),
)
SIDE = 256  # pixels of a photograph's middle


def grey(images: Tensor) -> Tensor:
    return images.float().mean(1, keepdim=True).round().to(torch.uint8)


def shrunk(images: Tensor, times: int) -> Tensor:
    return F.avg_pool2d(images.float(), times).round().to(torch.uint8)


def photos(*names: str) -> Tensor:
    return torch.stack([load_photos()[name] for name in names])


PUBLIC: dict[str, Callable[[], Tensor]] = {
    "cifar10": lambda: load_cifar10("train")[0],
    **{f"cifar10, {n} images": lambda n=n: load_cifar10("train")[0][:n] for n in (1, 3, 10, 100)},  # type: ignore[misc]
    "china and flower": lambda: photos("china", "flower"),
    "china": lambda: photos("china"),
    "flower": lambda: photos("flower"),
    "china and flower, a quarter of the size": lambda: shrunk(photos("china", "flower"), 4),
    "grey cifar10": lambda: grey(load_cifar10("train")[0]),
    "digits": lambda: load_digits("train")[0],
}
PRIVATE: dict[str, Callable[[], Tensor]] = {
    "cifar10": lambda: load_cifar10("test")[0],
    "grey cifar10": lambda: grey(load_cifar10("test")[0]),
    "digits": lambda: load_digits("test")[0],
}
CHANNELS = {"cifar10": 3, "grey cifar10": 1, "digits": 1, "photographs": 3, "tiles of photographs": 3}


def take_photographs(folder: Path) -> dict[str, str]:
    """Add the squares in the middle of all pictures in a folder, and tiles of 32 pixels cut from them, to `PRIVATE`.

    Returns the SHA-256 of each file, by its name within the folder.
    """
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    pictures = (ImageOps.fit(open_picture(file, 3), (SIDE, SIDE), Image.Resampling.BOX) for file in files)
    squares = torch.stack([torch.from_numpy(np.array(picture)) for picture in pictures]).permute(0, 3, 1, 2)
    tiles = squares.unfold(2, 32, 32).unfold(3, 32, 32).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    PRIVATE.update({"photographs": lambda: squares, "tiles of photographs": lambda: tiles})
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@cache
def prior_of(name: str, patch_size: int) -> ImageStatistics:
    return image_statistics(PUBLIC[name](), patch_size)


@cache
def private(name: str) -> Tensor:
    return PRIVATE[name]()


def trial(prior: ImageStatistics, images: Tensor, count: int, seed: int) -> list[float]:
    """One key, one draw of images, one attack: `FACTS`. Only here is the true key at hand, to mark the answer."""
    key = Key.from_seed(seed, prior.patch_size, prior.channels)
    drawn = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:count]]
    encrypted = encrypt_images(drawn, key)
    start = time.process_time()
    recovery = ciphertext_only(encrypted, prior, torch.Generator().manual_seed(seed))
    seconds = time.process_time() - start
    v, true, area = recovery.key.permutation, key.permutation, prior.patch_size**2
    return [
        int((v == true).sum()),
        int((v % area == true % area).sum()),
        int((recovery.key.flips == key.flips).sum()),
        len(recovery.ambiguous),
        round(recovery.score, 4),
        round(seconds, 3),
    ]


def summary(trials: list[list[float]], size: int) -> dict:
    positions, _, flips, doubts, _, seconds = zip(*trials, strict=True)
    exact = [v == size and r == size for v, r in zip(positions, flips, strict=True)]
    sure = [doubt == 0 for doubt in doubts]
    return {
        "exact": sum(exact),
        "of": len(trials),
        "interval": [round(bound, 4) for bound in confidence_interval(sum(exact), len(trials))],
        "sure and right": sum(e and s for e, s in zip(exact, sure, strict=True)),
        "sure and wrong": sum(s and not e for e, s in zip(exact, sure, strict=True)),
        "mean right positions": round(statistics.mean(positions), 2),
        "mean right flips": round(statistics.mean(flips), 2),
        "median seconds": round(statistics.median(seconds), 3),
    }


def main() -> None:
    parser = command_line("Recovery curves of the ciphertext-only attack.", RECEIPT)
    parser.add_argument("--photographs", type=Path, help="folder of pictures of other sources")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    before = read_json(arguments.out) if arguments.out.exists() else {"cells": [], "photographs": {}}
    photographs = take_photographs(arguments.photographs) if arguments.photographs else before["photographs"]
    known = {
        (cell["prior"], cell["encrypted"], cell["patch_size"], cell["images"]): cell["trials"]
        for cell in before["cells"]
        if photographs == before["photographs"] or not cell["encrypted"].endswith("photographs")
    }
    done = {cell[:4]: known.get(cell[:4], [])[: cell[4]] for cell in CELLS}
    total = sum(cell[4] for cell in CELLS)
    with tqdm(total=total, initial=sum(map(len, done.values())), desc="trials", disable=None) as bar:
        for name, encrypted, M, count, trials in CELLS:
            results = done[name, encrypted, M, count]
            while len(results) < trials and encrypted in PRIVATE:
                prior = prior_of(name, M)
                results.append(trial(prior, private(encrypted), count, seed=len(results)))
                write_json(arguments.out, receipt(done, photographs))
                bar.update()
    for cell in receipt(done, photographs)["cells"]:
        print(*(cell[field] for field in ("prior", "encrypted", "patch_size", "images")), cell["summary"])


def receipt(done: dict[tuple, list], photographs: dict[str, str]) -> dict:
    return {
        "what": "ciphertext-only attack; trial i has Key.from_seed(i, M, C), and i seeds the images and the starts",
        "facts": FACTS,
        "seconds": "processor time of one attack on one core, prior excluded",
        "versions": versions("scipy"),
        "processor": processor(),
        "photographs": photographs,
        "cells": [
            {
                "prior": name,
                "encrypted": encrypted,
                "patch_size": M,
                "channels": CHANNELS[encrypted],
                "images": count,
                "summary": summary(trials, block_size(M, CHANNELS[encrypted])),
                "trials": trials,
            }
            for (name, encrypted, M, count), trials in done.items()
            if trials
        ],
    }


if __name__ == "__main__":
    main()
