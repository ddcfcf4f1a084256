"""Exhaustive search: every key is tried, where there are few enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tqdm import tqdm

from mixerkey.attacks.recovery import Recovery
from mixerkey.keys import Key, SignedPermutation, key_space_bits

LIMIT = 10**6  # keys


def all_keys(patch_size: int, channels: int) -> Iterator[Key]:
    """Every key of a block shape, once, in a fixed order.

    Raises:
        ValueError: there are more than a million.

    >>> len(set(all_keys(2, 1)))
    144
    """
    bits = key_space_bits(patch_size, channels)
    if round(2**bits) > LIMIT:
        raise ValueError(
            f"M = {patch_size} and C = {channels} have 2^{bits:.1f} keys, too many to try (at most {LIMIT:,}); "
            "take a smaller block, or another attack"
        )
    return Key.every(patch_size, channels)


def equivalence_classes(
    judge: Callable[[Key], float], patch_size: int, channels: int, *, tolerance: float = 1e-9, progress: bool = True
) -> list[tuple[float, tuple[Key, ...]]]:
    """All keys, in classes that the evidence cannot tell apart, the best class first.

    Args:
        judge: how well a candidate explains what the attacker has; higher is better.
        patch_size: M.
        channels: C.
        tolerance: by how much two scores may differ and still count as equal.
        progress: whether to show a progress bar on stderr.

    Returns:
        each class as its score and its keys.

    Raises:
        ValueError: there are more than a million keys.

    >>> classes = equivalence_classes(lambda key: float(key.flips[0]), 2, 1, progress=False)
    >>> [(score, len(keys)) for score, keys in classes]
    [(1.0, 72), (0.0, 72)]
    """
    keys = list(all_keys(patch_size, channels))
    judged = [(float(judge(key)), key) for key in tqdm(keys, "keys", disable=not progress)]
    judged.sort(key=lambda pair: -pair[0])  # stable
    classes: list[tuple[float, list[Key]]] = []
    for score, key in judged:
        if not classes or classes[-1][0] - score > tolerance:
            classes.append((score, []))
        classes[-1][1].append(key)
    return [(score, tuple(members)) for score, members in classes]


def exhaustive(
    judge: Callable[[Key], float], patch_size: int, channels: int, *, tolerance: float = 1e-9, progress: bool = True
) -> Recovery[SignedPermutation]:
    """The best of all keys, by whatever the attacker can measure.

    Two judges come to mind. Whoever has the encrypted network and some labelled images measures
    ``lambda key: accuracy(encrypted_model, images, labels, key)``. Whoever has encrypted images only measures how
    natural they look decrypted, ``lambda key: naturalness(decrypt_images(encrypted, key), prior)``.

    Args:
        judge, patch_size, channels, tolerance, progress: as for `equivalence_classes`.

    Returns:
        a key of the best class; its score is the judge's. All other members of the class are in `ambiguous`, each as
        the change g with ``g.then(key)`` equal to it.

    Raises:
        ValueError: there are more than a million keys.

    >>> from mixerkey import accuracy, encrypt_model, load_pretrained
    >>> from mixerkey.data import load_digits
    >>> secret, (images, labels) = Key.generate(2, 1), load_digits("train")
    >>> stolen = encrypt_model(load_pretrained("digits"), secret)
    >>> judge = lambda key: accuracy(stolen, images[:50], labels[:50], key)
    >>> recovery = exhaustive(judge, 2, 1, progress=False)
    >>> secret in (recovery.key, *(g.then(recovery.key) for g in recovery.ambiguous))
    True
    """
    score, (key, *others) = equivalence_classes(judge, patch_size, channels, tolerance=tolerance, progress=progress)[0]
    return Recovery(key, score, tuple(other.then(key.inverse()) for other in others))
