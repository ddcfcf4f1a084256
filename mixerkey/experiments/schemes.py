"""The table: every scheme of the family against every attacker, each cell the best attack that the evidence allows.

An attacker is a set of evidence, and attackers are ordered as sets are: who has more can do no less, because a cell
takes the best of all attacks whose evidence is at hand. Images are CIFAR-10's: secret are test images, each trial has
some of its own, and nothing that an attacker trains or counts has seen them. The key plays no part in the success of an
attack that treats all keys alike, so trials are independent draws of images; an attack that sees no images has as many
trials as there are victims: one.

    python -m mixerkey.experiments.schemes
    python -m mixerkey.experiments.schemes --cell "orthogonal matrix" "ciphertexts"

needs CIFAR-10 (MIXERKEY_DATA) and the networks of `mixerkey.experiments.checkpoints`. Every finished trial is written,
and a run that was killed goes on. Under ``torchrun`` each process takes its share of the work and writes a file of its
own; the next run without it gathers them.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mixerkey.convmixer import load_pretrained
from mixerkey.experiments import command_line
from mixerkey.experiments import trials as t
from mixerkey.experiments.checkpoints import GRID
from mixerkey.experiments.trials import EXACT, JUDGED, SECRET, Case, Found, Scheme
from mixerkey.files import read_json, write_json
from mixerkey.keys import BlockOrder, Flips, Key, MatrixKey, PatchKeys, Shuffle
from mixerkey.receipts import RECEIPTS, Receipt, confidence_interval, processor, versions, weights_digest

RECEIPT = RECEIPTS / "schemes.json"
IMAGES = (10, 100, 400)  # encrypted images that an attacker sees
FACTS = ("whole key", "dB", "sure", "seconds")


# What an attacker may have. Each kind of evidence brings others with it.

BRINGS = {
    "chosen images": "known images",  # what one may choose, one knows
    "known images": "ciphertexts",
    "model": "queries",
    "two models": "model",
    "checkpoint": "model",
    "training seed": "model",
}
ATTACKERS: dict[str, set[str]] = {
    "ciphertexts": {"ciphertexts"},  # and any photographs, which everybody has
    "ciphertexts, like pictures": {"ciphertexts", "like pictures"},  # with labels
    "known images": {"known images"},
    "chosen images": {"chosen images"},
    "queries": {"queries", "like pictures"},
    "model": {"model"},
    "model, like pictures": {"model", "like pictures"},
    "provider": {"model", "ciphertexts", "like pictures"},
    "another client, two models": {"two models", "own key"},
    "public checkpoint": {"checkpoint"},
    "training seed": {"training seed"},
    "everything": {"chosen images", "like pictures", "two models", "own key", "checkpoint", "training seed"},
}


def closure(evidence: Iterable[str]) -> frozenset[str]:
    """The evidence and all that it brings with it.

    >>> sorted(closure({"known images"}))
    ['ciphertexts', 'known images']
    """
    found = set(evidence)
    while more := {BRINGS[kind] for kind in found if kind in BRINGS} - found:
        found |= more
    return frozenset(found)


# What is attacked, and who proposed it: see `mixerkey.keys`

SIGNED, MATRIX = ("signed",), ("orthogonal", "invertible")
SCHEMES: dict[str, Scheme] = {
    "shuffle": Scheme("signed", lambda seed: Shuffle.from_seed(seed, 4, 3)),
    "flips": Scheme("signed", lambda seed: Flips.from_seed(seed, 4, 3)),
    "shuffle and flips": Scheme("signed", lambda seed: Key.from_seed(seed, 4, 3)),
    "shuffle and flips, M = 2": Scheme("signed", lambda seed: Key.from_seed(seed, 2, 3), 2),
    "shuffle and flips, M = 8": Scheme("signed", lambda seed: Key.from_seed(seed, 8, 3), 8),
    "noise of 8 levels": Scheme("signed", lambda seed: Key.from_seed(seed, 4, 3), noise=8),
    "noise of 32 levels": Scheme("signed", lambda seed: Key.from_seed(seed, 4, 3), noise=32),
    "orthogonal matrix": Scheme("orthogonal", lambda seed: MatrixKey.orthogonal(4, 3, seed)),
    "invertible matrix": Scheme("invertible", lambda seed: MatrixKey.invertible(4, 3, seed)),
    "key per place": Scheme("places", lambda seed: PatchKeys.from_seed(seed, 4, 3, GRID)),
    "block order": Scheme("order", lambda seed: BlockOrder.from_seed(seed, 4, 3, GRID)),
    "shuffle, flips, block order": Scheme(
        "scrambled", lambda seed: Key.from_seed(seed, 4, 3).then(BlockOrder.from_seed(seed, 4, 3, GRID))
    ),
    "key per image": Scheme("images", lambda seed: Key.from_seed(seed, 4, 3)),
}


@dataclass(frozen=True)
class Attack:
    """An attack of the table.

    Attributes:
        needs: its evidence.
        against: kinds of schemes.
        run: it.
        counts: of images or queries, with as many draws as there are images for, at most ten.
        draws: fewer than that, where it takes long or no image plays a part.
    """

    needs: set[str]
    against: tuple[str, ...]
    run: Callable[[Case], Found]
    counts: tuple[int, ...] = (0,)
    draws: int = 10

    def fits(self, scheme: Scheme) -> bool:
        return scheme.kind in self.against and (scheme.patch_size == 4 or "queries" not in closure(self.needs))


EVERY = tuple(dict.fromkeys(scheme.kind for scheme in SCHEMES.values()))
LIKE = {"ciphertexts", "like pictures"}
ATTACKS: dict[str, Attack] = {
    "none": Attack(set(), EVERY, t.nothing),
    "second moments, photographs": Attack({"ciphertexts"}, SIGNED, partial(t.second_moments, "photographs"), IMAGES),
    "second moments": Attack(LIKE, SIGNED, partial(t.second_moments, "like"), IMAGES),
    "whitening, photographs": Attack({"ciphertexts"}, MATRIX, partial(t.whitening, "photographs"), IMAGES),
    "whitening": Attack(LIKE, MATRIX, partial(t.whitening, "like"), (*IMAGES, 2400)),
    "lattice, photographs": Attack({"ciphertexts"}, MATRIX, partial(t.lattice, "photographs"), IMAGES),
    "lattice": Attack(LIKE, MATRIX, partial(t.lattice, "like"), IMAGES),
    "neighbours, photographs": Attack({"ciphertexts"}, ("places",), partial(t.neighbours, "photographs"), (100, 900)),
    "neighbours": Attack(LIKE, ("places",), partial(t.neighbours, "like"), (100, 900)),
    "jigsaw": Attack({"ciphertexts"}, ("order",), t.jigsaw, IMAGES),
    "jigsaw, photographs": Attack(
        {"ciphertexts"}, ("scrambled",), partial(t.moments_then_jigsaw, "photographs"), IMAGES[1:]
    ),
    "moments, then jigsaw": Attack(LIKE, ("scrambled",), partial(t.moments_then_jigsaw, "like"), IMAGES[1:]),
    "positions": Attack({"model"}, ("order", "scrambled"), t.positions, draws=1),
    "positions and labels": Attack({"model", "like pictures"}, ("order",), t.positions_and_labels, draws=1),
    "moments and positions, photographs": Attack(
        {"model", "ciphertexts"}, ("scrambled",), partial(t.moments_and_positions, "photographs"), IMAGES[1:]
    ),
    "moments and positions": Attack(
        {"model", *LIKE}, ("scrambled",), partial(t.moments_and_positions, "like"), IMAGES[1:]
    ),
    "each image alone, photographs": Attack({"ciphertexts"}, ("images",), partial(t.each_alone, "photographs"), (1,)),
    "each image alone": Attack(LIKE, ("images",), partial(t.each_alone, "like"), (1,)),
    "each image alone, known images": Attack({"known images"}, ("images",), t.each_alone_after_known, IMAGES),
    "pairs": Attack({"known images"}, (*SIGNED, *MATRIX), t.pairs, (1, 10)),
    "pairs of each place": Attack({"known images"}, ("places",), t.pairs_of_each_place, (1, 10, 100)),
    "pairs and places": Attack({"known images"}, ("order", "scrambled"), t.pairs_and_places, (1, 10)),
    "one query": Attack({"chosen images"}, SIGNED, t.one_query, (1,)),
    "random query": Attack({"chosen images"}, (*SIGNED, *MATRIX), t.random_query, (1,)),
    "one query for all places": Attack({"chosen images"}, ("places",), t.one_query_for_all_places, (1,)),
    "random image": Attack({"chosen images"}, ("order", "scrambled"), t.random_image, (1,)),
    "climbing": Attack({"queries", "like pictures"}, SIGNED, t.climb, (200,), draws=1),
    "brightness, photographs": Attack({"model"}, SIGNED, partial(t.flips_by_brightness, "photographs"), draws=1),
    "brightness": Attack({"model", "like pictures"}, SIGNED, partial(t.flips_by_brightness, "like"), draws=1),
    "brightness of blocks": Attack({"model"}, ("orthogonal",), t.brightness_of_blocks, draws=1),
    "Gram matrix": Attack({"model"}, SIGNED, t.gram_matrix, draws=1),
    "relative keys, Gram matrix": Attack({"model"}, ("places", "images"), t.gram_matrix_of_one, draws=1),
    "relative keys, moments, photographs": Attack(
        {"model", "ciphertexts"}, ("places", "images"), partial(t.moments_of_one, "photographs"), IMAGES[1:]
    ),
    "relative keys, moments": Attack(
        {"model", *LIKE}, ("places", "images"), partial(t.moments_of_one, "like"), IMAGES[1:]
    ),
    "rows of own model": Attack({"two models", "own key"}, EVERY, t.rows_of_own_model, draws=1),
    "rows of the checkpoint": Attack({"checkpoint"}, EVERY, partial(t.of_checkpoint, t.rows), draws=1),
    "features of the checkpoint": Attack({"checkpoint"}, MATRIX, partial(t.of_checkpoint, t.features), draws=1),
    "rows of initial weights": Attack({"training seed"}, EVERY, partial(t.of_initial_weights, t.rows), draws=1),
    "features of initial weights": Attack(
        {"training seed"}, MATRIX, partial(t.of_initial_weights, t.features), draws=1
    ),
}


# The table


def units() -> list[tuple[str, str, int]]:
    """All that is to be run: scheme, attack, number of images or queries."""
    return [
        (row, name, count)
        for row, scheme in SCHEMES.items()
        for name, attack in ATTACKS.items()
        if attack.fits(scheme)
        for count in attack.counts
    ]


def draws(attack: Attack, count: int) -> int:
    """As many as there are images for.

    >>> draws(ATTACKS["jigsaw"], 10), draws(ATTACKS["whitening"], 2400)
    (10, 2)
    """
    return min(attack.draws, len(range(SECRET, 10_000)) // (count + JUDGED))


def trial(scheme: Scheme, attack: Attack, count: int, seed: int) -> list:
    """One draw: `FACTS`."""
    case, start = Case(scheme, seed, count), time.process_time()
    found = attack.run(case)
    seconds = time.process_time() - start
    public = "like" if "like pictures" in attack.needs else "photographs"
    return [*case.mark(found, public), round(seconds, 2)]


def run(receipt: Receipt, unit: tuple[str, str, int], most: int) -> list[list]:
    row, name, count = unit
    attack = ATTACKS[name]
    one = partial(trial, SCHEMES[row], attack, count)
    return receipt.trials((row, name, str(count)), min(most, draws(attack, count)), one)


def cell(trials: dict[str, dict[str, dict[str, list]]], row: str, evidence: Iterable[str]) -> dict[str, Any]:
    """The best attack on a scheme with some evidence: most whole keys, if any most trials, most dB, fewest images.

    Of equals the one that needs most of the evidence.

    An attack counts with the most images that it was run with, not with those that did it good: no attacker sees how
    many these are. (`setbacks` lists where more images did worse.) Which attack is best, only the results say, so that
    with few trials the best of several looks a little better than it is.

    Args:
        trials: of a receipt: scheme, attack, count, results.
        row: the scheme.
        evidence: the attacker's; what it brings is added.

    Returns:
        the attack's name, images or queries, whole keys "of" trials with Wilson's interval, median PSNR in dB, how
        often it was "sure", and "sure and wrong", its median seconds, how many "attacks" the evidence allows, and those
        that were "not run" yet, which may do better. No network here has blocks of other than 4 pixels a side; for
        these, cells hold what can be done without one.
    """
    have, found = closure(evidence), []
    due = {name for scheme, name, _ in units() if scheme == row and closure(ATTACKS[name].needs) <= have}
    for name in sorted(due):
        found += by_count(trials[row].get(name, {}), name)[-1:]
    best = max(found, key=lambda one: (*rank(one), -one["count"], len(closure(ATTACKS[one["attack"]].needs))))
    return best | {"attacks": len(due) - 1, "not run": sorted(due - {one["attack"] for one in found})}


def by_count(results: dict[str, list[list]], name: str) -> list[dict[str, Any]]:
    """What an attack of that name achieved, from the fewest images to the most."""
    return [
        _summary(name, int(count), some) for count, some in sorted(results.items(), key=lambda of: int(of[0])) if some
    ]


def setbacks(trials: dict[str, dict[str, dict[str, list]]]) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Where an attack did worse with more images: scheme, what it did with fewer, and with more.

    Worse is a smaller share of keys, or the same share and pictures that are less alike, by whole decibels. An
    attacker may put images aside, so an attack that gets worse is not the best one, or the trials were few.
    """
    found = []
    for row, attacks in trials.items():
        for name, counts in attacks.items():
            for fewer, more in pairwise(by_count(counts, name)):
                if (rank(more)[0], round(more["dB"])) < (rank(fewer)[0], round(fewer["dB"])):
                    found.append((row, fewer, more))
    return found


def rank(one: dict[str, Any]) -> tuple[float, int, float]:
    """How good the cell is for the attacker; of the same share of keys, that of more trials says more."""
    return one["whole"] / one["of"], one["of"] if one["whole"] else 0, one["dB"]


def _summary(name: str, count: int, results: list[list]) -> dict[str, Any]:
    whole, decibels, sure, seconds = zip(*results, strict=True)
    return {
        "attack": name,
        "count": count,
        "whole": sum(whole),
        "of": len(results),
        "interval": [round(bound, 3) for bound in confidence_interval(sum(whole), len(results))],
        "dB": round(statistics.median_low(decibels), 1),  # that of a trial, not of none
        "sure": sum(sure),
        "sure and wrong": sum(s and not w for s, w in zip(sure, whole, strict=True)),
        "seconds": round(statistics.median(seconds), 2),
    }


def gather(path: Path) -> None:
    """Take what the processes of a run under ``torchrun`` have written into one receipt, the longest of each."""
    receipt = read_json(path) if path.exists() else None
    for shard in sorted(path.parent.glob(f"{path.stem}-[0-9]*{path.suffix}")):
        found = read_json(shard)
        if receipt is None:
            receipt = found | {"trials": {}}
        for row, attacks in found.get("trials", {}).items():
            for name, counts in attacks.items():
                mine = receipt.setdefault("trials", {}).setdefault(row, {}).setdefault(name, {})
                mine |= {count: max(mine.get(count, []), results, key=len) for count, results in counts.items()}
        write_json(path, receipt)
        shard.unlink()


def take_up(path: Path) -> Receipt:
    """The receipt as far as it goes."""
    return Receipt(
        path,
        {
            "what": "every scheme against every attack; trial i has the key of seed i and the i-th part of the images",
            "facts": list(FACTS),
            "exact images count as, in dB": EXACT,
            "network": weights_digest(load_pretrained("cifar10")),
        },
        seconds="processor time of one attack on one core",
        versions=versions("scipy"),
        processor=processor(),
    )


def main(arguments: list[str] | None = None) -> None:
    parser = command_line("Every scheme against every attacker.", RECEIPT)
    parser.add_argument("--cell", nargs=2, metavar=("SCHEME", "ATTACKER"), help="this cell only")
    parser.add_argument("--draws", type=int, default=10, help="at most so many for each attack")
    options = parser.parse_args(arguments)
    rows, attackers = (
        (list(SCHEMES), list(ATTACKERS)) if options.cell is None else ([options.cell[0]], [options.cell[1]])
    )
    for name, known in ((rows[0], SCHEMES), (attackers[0], ATTACKERS)):
        if name not in known:
            parser.error(f"there is no {name!r}; choose from {', '.join(known)}")
    torch.set_num_threads(1)
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if processes == 1:
        gather(options.out)
    out = options.out if processes == 1 else options.out.with_stem(f"{options.out.stem}-{rank}")
    receipt = take_up(out)
    have = frozenset().union(*(closure(ATTACKERS[name]) for name in attackers))
    todo = [unit for unit in units() if unit[0] in rows and closure(ATTACKS[unit[1]].needs) <= have]
    for unit in tqdm(todo[rank::processes], "attacks", disable=None):
        run(receipt, unit, options.draws)
    if processes == 1:
        for row in rows:
            for name in attackers:
                print(row, name, cell(receipt.content["trials"], row, ATTACKERS[name]), sep=" | ")


if __name__ == "__main__":
    main()
