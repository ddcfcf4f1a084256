"""Data of the book's lab, ``book/lab``: its pictures, and how often its attack finds the key.

``python -m tools.lab pictures`` writes the sample pictures (it needs CIFAR-10) and the two photographs.
``python -m tools.lab measure`` runs the lab's own attack in Node.js on fresh keys and writes ``book/lab/measured.csv``,
which the page shows as a table.
``python -m tools.lab speed`` times the lab's network in Node.js: its script against WebAssembly.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mixerkey import Key, encrypt_images
from mixerkey.data import CIFAR10_CLASSES, load_cifar10, load_photos

ROOT = Path(__file__).resolve().parent.parent
LAB = ROOT / "book" / "lab"
PHOTOS = ("china", "flower")
COUNTS = {2: (3, 10, 30, 100, 300), 4: (3, 10, 30, 100, 300), 8: (100, 300)}  # of ciphertexts, by M
PIECE = (12, 16, 144)  # of the first photograph: top, left, side; break.js cuts out the same
KEYS = {2: 20, 4: 20, 8: 5}


def find_node() -> str | None:
    """Node.js: of this environment, else the system's."""
    return shutil.which("node", path=str(Path(sys.executable).parent)) or shutil.which("node")


def run_node(script: str, value: object = None) -> Any:
    """What a JavaScript expression gives in Node.js: `lab(name)` and `live(name)` import modules, `value` is given.

    >>> run_node("(await lab('key')).wrongCounts(48, 0.5)")
    {'positions': 24, 'signs': 24}
    """
    with tempfile.TemporaryDirectory() as name:
        folder, cipher = Path(name), ROOT / "mixerkey" / "parties" / "page" / "cipher.js"
        (folder / "value.json").write_text(json.dumps(value))
        (folder / "run.mjs").write_text(
            "import { readFileSync, writeFileSync } from 'node:fs';\n"
            "const at = (name) => new URL(name, import.meta.url);\n"
            "const value = JSON.parse(readFileSync(at('value.json')));\n"
            f"const book = {json.dumps((ROOT / 'book').as_uri())}, cipher = {json.dumps(cipher.as_uri())};\n"
            "const lab = (name) => import(name === 'cipher' ? cipher : `${book}/lab/${name}.js`);\n"
            "const live = (name) => import(`${book}/live/${name}.js`);\n"
            f"writeFileSync(at('result.json'), JSON.stringify(await ({script}) ?? null));\n"
        )
        # package.json names no type, since .venv lies below it, with scripts of the other type.
        quietly = "--disable-warning=MODULE_TYPELESS_PACKAGE_JSON"
        subprocess.run([find_node() or "node", quietly, str(folder / "run.mjs")], check=True)
        return json.loads((folder / "result.json").read_text())


def photo(name: str) -> Tensor:
    """One of the lab's photographs as the page decodes it, uint8 (3, 208, 320)."""
    with Image.open(LAB / f"{name}.jpg") as image:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def write_pictures() -> None:
    """The samples, one row: CIFAR-10's first test image of each class, then a piece of each photograph."""
    images, labels = load_cifar10("test")
    tiles = [images[int((labels == c).nonzero()[0])] for c in range(len(CIFAR10_CLASSES))]
    for name, picture in load_photos().items():
        half = Image.fromarray(picture.permute(1, 2, 0).numpy()).resize((320, 208), Image.Resampling.BOX)
        half.save(LAB / f"{name}.jpg", quality=90)
        tiles.append(torch.from_numpy(np.array(half.resize((32, 32), box=(64, 8, 256, 200)))).permute(2, 0, 1))
    Image.fromarray(torch.cat(tiles, dim=2).permute(1, 2, 0).numpy()).save(LAB / "samples.png", optimize=True)


def write_encrypted() -> None:
    """The photograph on the title page: a piece of the first one, encrypted with a key that is kept nowhere."""
    top, left, side = PIECE
    hidden = encrypt_images(photo(PHOTOS[0])[:, top : top + side, left : left + side], Key.generate(4, 3))
    Image.fromarray(hidden.permute(1, 2, 0).numpy()).save(LAB / "encrypted.png", optimize=True)


MEASURE = """(async () => {
  const { below, encrypt, randomKey } = await lab("cipher"), { crops } = await lab("pictures");
  const { ciphertextOnly, imageStatistics } = await lab("attack"), shape = [3, 32, 32], M = value.M;
  const photos = value.photos.map((pixels) => ({ pixels, shape: [3, 208, 320] }));
  return Array.from({ length: value.keys }, () => {
    const prior = imageStatistics(crops(photos, "left", 1000, below), shape, M), key = randomKey(M, 3);
    const encrypted = crops(photos, "right", value.images, below).map((image) => encrypt(image, shape, key));
    const found = ciphertextOnly(encrypted, shape, M, prior);
    const right = (name) => found[name].filter((x, k) => x === key[name][k]).length;
    return [right("v"), right("r")];
  });
})()"""


def measure(M: int, images: int, keys: int) -> list[tuple[int, int]]:
    """How many positions and flips the lab's attack gets right, for each of so many fresh keys."""
    photos = [photo(name).flatten().tolist() for name in PHOTOS]
    return [tuple(found) for found in run_node(MEASURE, {"M": M, "images": images, "keys": keys, "photos": photos})]


def write_measured() -> None:
    """One row for each M and number of ciphertexts."""
    rows: list[list[object]] = [
        ["M", "ciphertexts", "keys tried", "whole key found", "all flips found", "positions right, mean"]
    ]
    for M, counts in COUNTS.items():
        for images in counts:
            found, size = measure(M, images, KEYS[M]), 3 * M * M
            whole, flips = found.count((size, size)), sum(flips == size for _, flips in found)
            positions = f"{fmean(positions for positions, _ in found):.1f} of {size}"
            rows.append([M, images, len(found), whole, flips, positions])
            print(*rows[-1], sep=", ", flush=True)
    with (LAB / "measured.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)


BOTH = """(async () => {
  const { buffer, byteOffset: start, length } = readFileSync(value.weights), file = buffer.slice(start, start + length);
  const modules = [await import(`${book}/lab/convmixer.js?script`), await lab("convmixer")]; // two copies
  const [script, fast] = modules.map(({ classify, readNetwork }) => {
    const network = readNetwork(file);
    return (image) => classify(network, image, value.shape);
  });
  fast(value.images[0]); // has its kernels from here on
  delete globalThis.WebAssembly;
  return value.images.map((image) => [script, fast].map((classify) => {
    const start = performance.now(), logits = classify(image);
    return { milliseconds: performance.now() - start, logits };
  }));
})()"""


def both_ways(name: str, images: Tensor) -> list[list[dict[str, Any]]]:
    """For each image what the lab's network makes of it in script and in WebAssembly: milliseconds, and logits."""
    weights = str(ROOT / "mixerkey" / "weights" / f"{name}.safetensors")
    return run_node(BOTH, {"weights": weights, "shape": images.shape[1:], "images": images.flatten(1).tolist()})


def print_speed() -> None:
    """Medians of a hundred images, after twenty that warm both ways up, which take turns."""
    images = torch.randint(256, (120, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    times = [[way["milliseconds"] for way in ways] for ways in both_ways("cifar10", images)[20:]]
    script, fast = (median(column) for column in zip(*times, strict=True))
    ratio = median(slow / quick for slow, quick in times)
    print(f"the lab's network, an image: script {script:.1f} ms, WebAssembly {fast:.1f} ms, ratio {ratio:.2f}")


if __name__ == "__main__":
    if sys.argv[1:] == ["pictures"]:
        write_pictures()
        write_encrypted()
    elif sys.argv[1:] == ["measure"]:
        write_measured()
    elif sys.argv[1:] == ["speed"]:
        print_speed()
    else:
        sys.exit(__doc__)
