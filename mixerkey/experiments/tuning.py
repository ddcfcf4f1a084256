"""Which peak learning rate? Short runs of the fast recipe, measured on training images that were held out.

The last 5,000 of the 50,000 training images are the validation images; the test images are not touched. Finished runs
are written, and a run that was killed goes on from its checkpoint.

    python -m mixerkey.experiments.tuning

needs CIFAR-10 (MIXERKEY_DATA), and about twenty minutes of one core.
"""

from __future__ import annotations

from dataclasses import replace

from mixerkey import ConvMixer, accuracy
from mixerkey.data import load_cifar10
from mixerkey.experiments import RUNS
from mixerkey.receipts import RECEIPTS, Receipt
from mixerkey.training import FAST, Recipe, train

RECEIPT = RECEIPTS / "tuning.json"
HELD_OUT = 5000
CANDIDATES = {
    f"peak learning rate {rate}": replace(FAST, epochs=4, peak_lr=rate, average=0.99) for rate in (0.005, 0.01, 0.02)
}


def main() -> None:
    """Train each candidate and print its accuracy on the validation images."""
    images, labels = load_cifar10("train")
    receipt = Receipt(RECEIPT, {})  # each entry says its recipe, and its checkpoint is of that run alone
    for name, recipe in CANDIDATES.items():

        def run(recipe: Recipe = recipe) -> dict:
            _, found = train(
                ConvMixer(256, 8),
                images[:-HELD_OUT],
                labels[:-HELD_OUT],
                recipe,
                seed=0,
                evaluate=lambda model: accuracy(model, images[-HELD_OUT:], labels[-HELD_OUT:]),
                checkpoint=RUNS / "tuning" / f"{recipe.peak_lr}.safetensors",
            )
            return found

        print(f"{name}: {receipt.once(name, run)['accuracy']:.2%} of the validation images")


if __name__ == "__main__":
    main()
