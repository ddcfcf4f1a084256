"""Attack by defence: what each variant of the cipher withstands, and what it costs the user.

Images are CIFAR-10: statistics from the training set, secrets from the test set. An attack is worth what it reveals:
how often it gives the whole key, and the median peak signal-to-noise ratio of 100 other images that it decrypts (an
exact image counts as 100 dB; an encrypted one has 8 to 10). Every finished trial is written, and a run that was killed
goes on.

    python -m mixerkey.experiments.defences

needs CIFAR-10 (MIXERKEY_DATA), and about ten minutes of one core. What depends on the victim network (accuracies) is
measured anew when the network is another one; that takes two minutes.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from mixerkey import (
    Key,
    SignedPermutation,
    accuracy,
    decrypt_images,
    encrypt_images,
    encrypt_model,
    load_pretrained,
    patch_matrix,
)
from mixerkey.attacks import (
    ImageStatistics,
    chosen_plaintext,
    ciphertext_only,
    image_statistics,
    known_plaintext,
)
from mixerkey.attacks.mixed import pixels, unmix
from mixerkey.attacks.patch_keys import unlock_patches
from mixerkey.blocks import segment
from mixerkey.cipher import normalize
from mixerkey.data import load_cifar10
from mixerkey.keys import MatrixKey, PatchKeys
from mixerkey.receipts import RECEIPTS, Receipt, processor, versions, weights_digest

RECEIPT = RECEIPTS / "defences.json"
COUNTS = (100, 1000, 10_000)
JUDGED = 100  # secret images on which the decryption is judged
TESTED = 1000  # test images on which an accuracy is measured
EXACT = 100.0  # dB
GRID = (8, 8)  # blocks of an image
QUALITIES = (100, 95, 90, 75, 50)


@cache
def public() -> Tensor:
    return load_cifar10("train")[0]


@cache
def prior(patch_size: int) -> ImageStatistics:
    return image_statistics(public(), patch_size)


def add_noise(x: Tensor, levels: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise before encryption, so that the same picture is never sent twice alike.

    The price is accuracy; see the receipt.

    Args:
        x: uint8 images.
        levels: standard deviation in grey levels; 0 for none.
        generator: of the noise.

    Returns:
        uint8, same shape: rounded and cut to 0..255.

    Raises:
        TypeError: images that are not uint8.
        ValueError: a negative standard deviation.

    >>> x = torch.full((1, 8, 8), 100, dtype=torch.uint8)
    >>> torch.equal(add_noise(x, 0, torch.Generator()), x), torch.equal(add_noise(x, 8, torch.Generator()), x)
    (True, False)
    """
    if x.dtype != torch.uint8:
        raise TypeError(f"noise is added to uint8 images, got {x.dtype}")
    if levels < 0:
        raise ValueError(f"the standard deviation must not be negative, got {levels}")
    noise = levels * torch.randn(x.shape, generator=generator)
    return (x + noise).round().clamp(0, 255).to(torch.uint8)


def draw(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Secret images that the attacker sees encrypted, and some on which the answer is judged."""
    images = load_test()[0][torch.randperm(10_000, generator=torch.Generator().manual_seed(seed))]
    return images[:count], images[-JUDGED:]


@cache
def load_test() -> tuple[Tensor, Tensor]:
    return load_cifar10("test")


def psnr(found: Tensor, images: Tensor) -> float:
    """Median over images (N, C, H, W), both normalised, in dB."""
    error = ((found.clamp(-1, 1) - images) / 2).square().flatten(1).mean(1)
    return statistics.median((-10 * error.clamp(min=10 ** (-EXACT / 10)).log10()).tolist())


def verdict(whole: bool, found: Tensor, images: Tensor) -> list:
    return [bool(whole), round(psnr(found, normalize(images)), 2)]


def keys(count: int, seed: int, patch_size: int = 4) -> list[Key]:
    return [Key.from_seed(1000 * seed + n, patch_size, 3) for n in range(count)]


Trial = Callable[[int], list]  # seed -> whether the whole key was found, and the PSNR


def one_key(patch_size: int, levels: float = 0.0) -> dict[str, tuple[Trial, int]]:
    """The paper's scheme, with noise of some grey levels before encryption."""

    def run(attack: Callable[[Key, int], SignedPermutation | None], count: int) -> Trial:
        def trial(seed: int) -> list:
            key, (_, judged) = Key.from_seed(seed, patch_size, 3), draw(0, seed)
            hidden = encrypt_images(noisy(judged, seed), key)
            found = attack(key, seed)
            return verdict(found == key, normalize(decrypt_images(hidden, found) if found else hidden), judged)

        return trial

    def noisy(x: Tensor, seed: int) -> Tensor:
        return add_noise(x, levels, torch.Generator().manual_seed(seed))

    def chosen(key: Key, seed: int) -> SignedPermutation | None:
        try:
            return chosen_plaintext(lambda x: encrypt_images(noisy(x, seed), key), patch_size, 3).key
        except ValueError:  # the answer is none of this cipher's; the attacker knows that it failed
            return None

    def known(key: Key, seed: int) -> SignedPermutation:
        x, _ = draw(1, seed)
        tolerance = max(2, round(2 * levels))
        return known_plaintext(x, encrypt_images(noisy(x, seed), key), patch_size, tolerance=tolerance).key

    def only(count: int) -> Callable[[Key, int], SignedPermutation]:
        def attack(key: Key, seed: int) -> SignedPermutation:
            x, _ = draw(count, seed)
            hidden = encrypt_images(noisy(x, seed), key)
            return ciphertext_only(hidden, prior(patch_size), torch.Generator().manual_seed(seed)).key

        return attack

    trials = 5 if patch_size == 8 or levels else 10
    return {
        "chosen plaintext": (run(chosen, 0), 10),
        "known plaintext": (run(known, 1), 10),
        **{f"ciphertext only, {count}": (run(only(count), count), trials) for count in COUNTS},
    }


def key_per_image() -> dict[str, tuple[Trial, int]]:
    """What is found from some images is tried on others, which have keys of their own."""

    def run(attack: Callable[[int], SignedPermutation]) -> Trial:
        def trial(seed: int) -> list:
            _, judged = draw(0, seed)
            others = keys(JUDGED, 500 + seed)
            found = attack(seed)
            hidden = encrypt_images(judged, others)
            return verdict(found in others, normalize(decrypt_images(hidden, found)), judged)

        return trial

    def chosen(seed: int) -> SignedPermutation:
        return chosen_plaintext(lambda x: encrypt_images(x, Key.from_seed(seed, 4, 3)), 4, 3).key

    def known(seed: int) -> SignedPermutation:
        x, _ = draw(1, seed)
        return known_plaintext(x, encrypt_images(x, Key.from_seed(seed, 4, 3)), 4).key

    def only(count: int) -> Callable[[int], SignedPermutation]:
        def attack(seed: int) -> SignedPermutation:
            x, _ = draw(count, seed)
            hidden = encrypt_images(x, keys(count, seed))
            return ciphertext_only(hidden, prior(4), torch.Generator().manual_seed(seed)).key

        return attack

    def alone(seed: int) -> list:
        """Each image by itself: the only thing left to do."""
        x, _ = draw(20, seed)
        each = keys(20, seed)
        found = [
            ciphertext_only(encrypt_images(image[None], key), prior(4), torch.Generator().manual_seed(seed)).key
            for image, key in zip(x, each, strict=True)
        ]
        opened = decrypt_images(encrypt_images(x, each), found)
        share = sum(a == b for a, b in zip(found, each, strict=True)) / 20
        return [share, round(psnr(normalize(opened), normalize(x)), 2)]

    return {
        "chosen plaintext": (run(chosen), 10),
        "known plaintext": (run(known), 10),
        **{f"ciphertext only, {count}": (run(only(count)), 3) for count in COUNTS[:2]},
        "ciphertext only, each image alone": (alone, 5),
    }


def keys_per_patch() -> dict[str, tuple[Trial, int]]:
    def run(attack: Callable[[PatchKeys, int], PatchKeys]) -> Trial:
        def trial(seed: int) -> list:
            true, (_, judged) = PatchKeys(keys(64, seed), GRID), draw(0, seed)
            found = attack(true, seed)
            return verdict(found == true, normalize(decrypt_images(encrypt_images(judged, true), found)), judged)

        return trial

    def chosen(true: PatchKeys, seed: int) -> PatchKeys:
        def oracle(n: int) -> Callable[[Tensor], Tensor]:
            i, j = n // 8, n % 8  # the same crafted block in every place: one query for all
            return lambda x: encrypt_images(x.repeat(1, 8, 8), true)[:, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]

        return PatchKeys((chosen_plaintext(oracle(n), 4, 3).key for n in range(64)), GRID)

    def known(true: PatchKeys, seed: int) -> PatchKeys:
        x, _ = draw(1, seed)
        a, b = segment(x, 4).flatten(0, 2), segment(encrypt_images(x, true), 4).flatten(0, 2)  # (64, p_b)
        shape = (64, 3, 4, 4)
        pairs = zip(a.reshape(shape), b.reshape(shape), strict=True)
        return PatchKeys((known_plaintext(plain[None], hidden[None], 4).key for plain, hidden in pairs), GRID)

    def only(count: int) -> Callable[[PatchKeys, int], PatchKeys]:
        def attack(true: PatchKeys, seed: int) -> PatchKeys:
            x, _ = draw(count, seed)
            rng = torch.Generator().manual_seed(seed)
            return unlock_patches(encrypt_images(x, true), public()[:10_000], 4, rng).key

        return attack

    return {
        "chosen plaintext": (run(chosen), 3),
        "known plaintext": (run(known), 3),
        **{f"ciphertext only, {count}": (run(only(count)), 3) for count in COUNTS},
    }


def orthogonal() -> dict[str, tuple[Trial, int]]:
    """Whole is a matrix that is right to a thousandth; half a grey level is 54 dB."""

    def run(attack: Callable[[MatrixKey, int], MatrixKey]) -> Trial:
        def trial(seed: int) -> list:
            true, (_, judged) = MatrixKey.orthogonal(4, 3, seed), draw(0, seed)
            found = attack(true, seed)
            opened = normalize(decrypt_images(encrypt_images(judged, true), found))
            return verdict(bool((found.matrix() - true.matrix()).abs().max() < 1e-3), opened, judged)

        return trial

    def known(true: MatrixKey, x: Tensor) -> MatrixKey:
        """Orthogonal Procrustes: the orthogonal matrix nearest to taking x to x Q."""
        a, b = (segment(image, 4).reshape(-1, 48).double() for image in (normalize(x), encrypt_images(x, true)))
        left, _, right = torch.linalg.svd(a.T @ b)
        return MatrixKey(left @ right, 4, 3)

    def chosen(true: MatrixKey, seed: int) -> MatrixKey:
        rng = torch.Generator().manual_seed(seed)
        return known(true, torch.randint(256, (3, 32, 32), dtype=torch.uint8, generator=rng))

    def only(count: int) -> Callable[[MatrixKey, int], MatrixKey]:
        return lambda true, seed: unmix(encrypt_images(draw(count, seed)[0], true), prior(4)).key

    return {
        "chosen plaintext": (run(chosen), 10),
        "known plaintext": (run(lambda true, seed: known(true, draw(1, seed)[0])), 10),
        **{f"ciphertext only, {count}": (run(only(count)), 10) for count in COUNTS},
    }


DEFENCES: dict[str, dict[str, tuple[Trial, int]]] = {
    "one key, M = 2": one_key(2),
    "one key, M = 4": one_key(4),
    "one key, M = 8": one_key(8),
    "noise of 8 levels": one_key(4, 8),
    "noise of 32 levels": one_key(4, 32),
    "key per image": key_per_image(),
    "keys per patch": keys_per_patch(),
    "orthogonal matrix": orthogonal(),
}


def costs() -> dict:
    """What the user pays: accuracy with a network that is encrypted as well as can be, for each way of sending."""
    model, key = load_pretrained("cifar10"), Key.from_seed(0, 4, 3)
    images, labels = load_test()[0][:TESTED], load_test()[1][:TESTED]
    encrypted = encrypt_model(model, key)
    rng = torch.Generator().manual_seed(0)
    mixing = MatrixKey.orthogonal(4, 3, seed=0)
    mixed_model, mixed = encrypt_model(model, mixing), encrypt_images(images, mixing)
    E, per_patch = patch_matrix(model).numel(), keys(64, 0)
    return {
        "plain": accuracy(model, images, labels),
        "one key": accuracy(encrypted, images, labels, key),
        "orthogonal matrix, floats": accuracy(mixed_model, images, labels, mixing),
        "orthogonal matrix, rounded to 8 bits": accuracy(mixed_model, pixels(((1 + mixed) / 2).clamp(0, 1)), labels),
        "keys per patch, one convolution": accuracy(
            encrypted, encrypt_images(images, PatchKeys([key, *per_patch[1:]], GRID)), labels
        ),
        "key per image, one convolution": accuracy(encrypted, images, labels, keys(TESTED, 0)),
        **{
            f"noise of {levels} levels": accuracy(encrypted, add_noise(images, levels, rng), labels, key)
            for levels in (8, 16, 32)
        },
        "embedding weights": {"one convolution": E, "keys per patch, unshared": 64 * E},
    }


def jpeg(x: Tensor, quality: int, subsampling: str = "4:2:0") -> Tensor:
    """Compressed and back, by Pillow; its usual subsampling keeps one colour for four pixels, "4:4:4" every one."""
    images = []
    for image in x:
        stream = io.BytesIO()
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        picture.save(stream, format="JPEG", quality=quality, subsampling=subsampling)
        images.append(torch.from_numpy(np.array(Image.open(stream))).permute(2, 0, 1))
    return torch.stack(images)


def compression() -> dict:
    """Accuracy by JPEG quality: of plain images, and of encrypted ones that are compressed after encryption."""
    model, key = load_pretrained("cifar10"), Key.from_seed(0, 4, 3)
    images, labels = load_test()[0][:TESTED], load_test()[1][:TESTED]
    encrypted, hidden = encrypt_model(model, key), encrypt_images(images, key)
    return {
        "quality": list(QUALITIES),
        "plain": [accuracy(model, jpeg(images, q), labels) for q in QUALITIES],
        "plain, every colour kept": [accuracy(model, jpeg(images, q, "4:4:4"), labels) for q in QUALITIES],
        "encrypted": [accuracy(encrypted, jpeg(hidden, q), labels) for q in QUALITIES],
        "encrypted, every colour kept": [accuracy(encrypted, jpeg(hidden, q, "4:4:4"), labels) for q in QUALITIES],
    }


def seeds() -> dict:
    """How fast one core tries seeds of a permutation, found again from one block: 20 bits, all of them."""
    secret = 2**20 - 1  # the last one: the worst case
    block = torch.arange(48)
    sent = block[torch.randperm(48, generator=torch.Generator().manual_seed(secret))]
    rng, start = torch.Generator(), time.process_time()
    for seed in tqdm(range(2**20), "seeds", disable=None):
        if torch.equal(torch.randperm(48, generator=rng.manual_seed(seed)), sent):
            break
    seconds = time.process_time() - start
    return {"bits": 20, "found": seed == secret, "seeds a second": round((seed + 1) / seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Attack by defence.")
    parser.add_argument("--out", type=Path, default=RECEIPT, help="receipt to write, or to go on with")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    receipt = Receipt(
        arguments.out,
        {
            "what": "attack by defence on CIFAR-10; trial i is seeded with i. A result is whether the whole key was "
            "found (for each image alone: the share of 20), and the median PSNR in dB of 100 decrypted images",
            "exact images count as, in dB": EXACT,
            "test images for accuracies": TESTED,
        },
        versions=versions() | {name: version(name) for name in ("scipy", "pillow")},
        processor=processor(torch.device("cpu")),
    )
    victim = weights_digest(load_pretrained("cifar10"))
    if receipt.content.get("victim") != victim:
        receipt.content |= {"victim": victim}
        for part in ("costs", "jpeg"):  # the trials need no network
            receipt.content.pop(part, None)
    receipt.once("costs", costs)
    receipt.once("jpeg", compression)
    receipt.once("seeds", seeds)
    for defence, attacks in tqdm(DEFENCES.items(), "defences", disable=None):
        for attack, (trial, count) in attacks.items():
            receipt.trials((defence, attack), count, trial)


if __name__ == "__main__":
    main()
