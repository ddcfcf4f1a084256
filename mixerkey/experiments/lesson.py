"""How far does the recipe of a lesson come, and do its networks, encrypted, betray their keys? Gathers several runs.

    for seed in 0 1 2; do mixerkey train cifar10 --recipe lesson --seed $seed --out runs/lesson-$seed; done
    python -m mixerkey.experiments.lesson runs/lesson-*

needs CIFAR-10 (MIXERKEY_DATA). Each run looks at the test images once, when it has ended.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import cast

from mixerkey.convmixer import ConvMixer, load_model
from mixerkey.experiments.paper import PAPER
from mixerkey.experiments.schemes import SCHEMES
from mixerkey.experiments.trials import Case, gram_matrix
from mixerkey.files import read_json, write_json
from mixerkey.receipts import RECEIPTS
from mixerkey.training import LESSON

RECEIPT = RECEIPTS / "lesson.json"


def gather(folders: list[Path]) -> dict:
    """What the runs in these folders found, and mean and standard deviation of their accuracies.

    Raises:
        ValueError: there are fewer than two seeds, or one twice; or a run has another recipe than LESSON, or went
            through other images than the first, as with --validation.
    """
    recipe = json.loads(json.dumps(asdict(LESSON)))  # as files have it
    runs = [read_json(folder / "cifar10.json") for folder in folders]
    seeds = [run["seed"] for run in runs]
    if len(set(seeds)) < max(len(runs), 2):
        raise ValueError(f"expected runs with at least two seeds, all different, got those of {seeds}")
    for folder, run in zip(folders, runs, strict=True):
        if run["recipe"] != recipe:
            raise ValueError(f"the run in {folder} has another recipe; train it with --recipe lesson")
        if run["images_processed"] != runs[0]["images_processed"]:
            raise ValueError(f"the run in {folder} went through other images than the one in {folders[0]}")
    shared = ("recipe", "network", "images_processed")
    accuracies = [run["accuracy"] for run in runs]
    return {
        **{name: runs[0][name] for name in shared},
        "mean_accuracy": round(mean(accuracies), 6),
        "standard_deviation": round(stdev(accuracies), 6),  # over seeds
        "runs": [{name: value for name, value in run.items() if name not in shared} for run in runs],
    }


def betrayed(folder: Path, seed: int) -> bool:
    """Whether the network of that run, encrypted with the key of the seed, and two photographs give the whole key."""
    network = cast(ConvMixer, load_model(folder / "cifar10.safetensors"))
    case = Case(SCHEMES["shuffle and flips"], seed, 0)
    whole, *_ = case.mark(gram_matrix(case, network))
    return whole


def main(arguments: list[str] | None = None) -> None:
    """Write the receipt of the runs in the folders that are named, and print it beside the paper's one number."""
    folders = [Path(folder) for folder in arguments or sys.argv[1:]]
    receipt = gather(folders)
    for folder, run in zip(folders, receipt["runs"], strict=True):
        run["key_from_encrypted_network"] = betrayed(folder, run["seed"])
        print(f"seed {run['seed']}: {run['accuracy']:.2%} in {run['wall_seconds'] / 60:.0f} minutes")
    write_json(RECEIPT, receipt)
    print(
        f"mean {receipt['mean_accuracy']:.2%}, standard deviation {receipt['standard_deviation']:.2%}, "
        f"from {receipt['images_processed'] / 1e6:.2f} million images; the paper: {PAPER['baseline']:.2%}"
    )


if __name__ == "__main__":
    main()
