"""How time and memory grow with images, sizes, keys, blocks and depth: ``python -m mixerkey.experiments.growth``.

Each point has a process of its own, which times the work and a named reference in turn, and looks at how much memory
the work takes at its peak beyond what is there before (Linux tells). Points are written to
``mixerkey/receipts/growth.json``, where an interrupted run goes on; give it a quiet machine.
"""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from mixerkey.absorption import encrypt_model
from mixerkey.attacks import ciphertext_only, image_statistics
from mixerkey.cipher import encrypt_images, network_input
from mixerkey.convmixer import ConvMixer, load_pretrained
from mixerkey.data import load_photos
from mixerkey.evaluation import sweep
from mixerkey.keys import Key
from mixerkey.receipts import RECEIPTS, Receipt, processor, versions
from mixerkey.training import initialize

RECEIPT = RECEIPTS / "growth.json"
ROUNDS = 5


class Course(NamedTuple):
    """One piece of work at growing sizes.

    Attributes:
        what: the work.
        axis: what grows.
        sizes: of it.
        make: size -> the work, and the reference, each done by calling it.
        steps: size -> how the work should grow, up to a factor.
    """

    what: str
    axis: str
    sizes: tuple[int, ...]
    make: Callable[[int], tuple[Callable[[], object], Callable[[], object]]]
    steps: Callable[[int], float] = float


def random_images(count: int, side: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def cipher(count: int, side: int = 32, patch_size: int = 4) -> tuple[Callable[[], object], Callable[[], object]]:
    """Encrypting images, against copying them."""
    x, key = random_images(count, side), Key.from_seed(0, patch_size, 3)
    return lambda: encrypt_images(x, key), x.clone


def model(depth: int, patch_size: int = 4) -> tuple[Callable[[], object], Callable[[], object]]:
    """Encrypting a network, which copies it and tries it out, against copying it and three forward passes."""
    network, key = ConvMixer(64, depth, 5, patch_size).eval(), Key.from_seed(0, patch_size, 3)
    initialize(network, torch.Generator().manual_seed(0))
    x = network_input(random_images(1))

    @torch.inference_mode()
    def reference() -> None:
        copied = deepcopy(network)
        for each in (network, copied, copied):
            each(x)

    return lambda: encrypt_model(network, key), reference


def wrong_keys(count: int, images: int = 64) -> tuple[Callable[[], object], Callable[[], object]]:
    """A sweep over keys, against one forward pass of as many images as one key asks for."""
    x, labels = random_images(images), torch.zeros(images, dtype=torch.int64)
    locked = encrypt_model(load_pretrained("cifar10"), Key.from_seed(0, 4, 3))
    keys, normal = [Key.from_seed(1 + n, 4, 3) for n in range(count)], network_input(x)
    forward = torch.inference_mode()(lambda: locked(normal))
    return lambda: sweep(locked, x, labels, keys, progress=False), forward


def attack(count: int, patch_size: int = 4) -> tuple[Callable[[], object], Callable[[], object]]:
    """The key from encrypted tiles of a photograph alone, against encrypting them."""
    public, secret = load_photos().values()
    tiles = torch.stack([tile for row in secret.split(32, 1) for tile in row.split(32, 2)])  # (260, 3, 32, 32)
    x, key = tiles.repeat(-(-count // len(tiles)), 1, 1, 1)[:count], Key.from_seed(0, patch_size, 3)
    hidden, prior = encrypt_images(x, key), image_statistics(public[None], patch_size)
    return lambda: ciphertext_only(hidden, prior), lambda: encrypt_images(x, key)


COURSES = (
    Course("cipher", "images", (500, 1000, 2000, 4000, 8000), cipher),
    Course("cipher", "pixels a side", (64, 128, 256, 512, 1024), lambda side: cipher(10, side), lambda side: side**2),
    Course("cipher", "block size M", (2, 4, 8, 16, 32), lambda M: cipher(2000, 32, M), lambda M: 1),
    Course("model encryption", "layers", (1, 2, 4, 8, 16), model),
    Course("model encryption", "block size M", (2, 4, 8, 16), lambda M: model(2, M), lambda M: M**2),
    Course("key sweep", "keys", (1, 2, 4, 8), wrong_keys),
    Course("attack", "images", (65, 130, 260, 520, 1040), attack),
    Course("attack", "block size M", (2, 4, 8), lambda M: attack(130, M), lambda M: M**4),
)


def point(course: int, size: int, rounds: int) -> dict[str, float]:
    """Seconds of the work and of the reference, and megabytes at the peak of the work beyond what was there."""
    from mixerkey.experiments.speed import Benchmark, measure  # needs the service's packages; the courses do not

    _, _, sizes, make, _ = COURSES[course]
    for run in make(sizes[0]):  # what is set up once is no growth
        run()
    work, reference = make(size)
    Path("/proc/self/clear_refs").write_text("5")  # Linux then counts the peak anew, from what is there now
    before = peak()
    work()
    megabytes = peak() - before
    ways = {"work": work, "reference": reference}
    (row,) = measure(Benchmark("", ways, 1, "", {}), rounds)
    return {"seconds": 1 / row["our speed"], "reference": 1 / row["reference speed"], "megabytes": megabytes}


def peak() -> float:
    """The largest memory that this process has had since the peak was reset, in megabytes."""
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) * 1024 / 1e6


def in_process(pool: ProcessPoolExecutor, *arguments: int) -> dict[str, float]:
    return pool.submit(point, *arguments).result()


def main(rounds: int = ROUNDS) -> None:
    """Measure what is not in the receipt yet."""
    receipt = Receipt(
        RECEIPT,
        {"what": "seconds and megabytes by size", "rounds": rounds},
        versions=versions(),
        processor=processor(),
    )
    points = [(index, size) for index, course in enumerate(COURSES) for size in course.sizes]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        for index, size in tqdm(points, "points", disable=None):
            what, axis, *_ = COURSES[index]
            receipt.once(f"{what} | {axis} | {size}", partial(in_process, pool, index, size, rounds))


if __name__ == "__main__":
    main()
