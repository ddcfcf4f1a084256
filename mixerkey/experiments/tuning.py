"""What helps? Short runs of the recipes for CIFAR-10, measured on training images that were held out.

The last 5,000 of the 50,000 training images are the validation images; the test images are not touched. Finished runs
are written, and a run that was killed goes on from its checkpoint.

    python -m mixerkey.experiments.tuning

needs CIFAR-10 (MIXERKEY_DATA), and about an hour of one core.
"""

from __future__ import annotations

from dataclasses import replace

from mixerkey import ConvMixer, accuracy
from mixerkey.data import load_cifar10
from mixerkey.experiments import RUNS
from mixerkey.receipts import RECEIPTS, Receipt
from mixerkey.training import FAST, LESSON, Recipe, train

RECEIPT = RECEIPTS / "tuning.json"
HELD_OUT = 5000
CANDIDATES = {  # those of one recipe are compared with each other, at about the same cost
    f"peak learning rate {rate}": replace(FAST, epochs=4, peak_lr=rate, average=0.99) for rate in (0.005, 0.01, 0.02)
}
SHORT = replace(LESSON, epochs=3, average=0.99)
CANDIDATES |= {
    "lesson": SHORT,
    "lesson, depthwise kernels without envelopes": replace(SHORT, envelopes=()),
    "lesson, patch embedding not whitened": replace(SHORT, whiten=False),
    "lesson, Adam alone": replace(SHORT, muon=0.0, peak_lr=0.01),
    "lesson, mirror images at random": replace(SHORT, flip=True),
    "lesson, images of full size": replace(SHORT, sides=(), epochs=2),
}


def main() -> None:
    """Train each candidate and print its accuracy on the validation images."""
    images, labels = load_cifar10("train")
    receipt = Receipt(RECEIPT, {})  # each entry says its recipe, and its checkpoint is of that run alone
    for name, recipe in CANDIDATES.items():

        def run(name: str = name, recipe: Recipe = recipe) -> dict:
            _, found = train(
                ConvMixer(256, 8),
                images[:-HELD_OUT],
                labels[:-HELD_OUT],
                recipe,
                seed=0,
                evaluate=lambda model: accuracy(model, images[-HELD_OUT:], labels[-HELD_OUT:]),
                checkpoint=RUNS / "tuning" / f"{name.replace(' ', '-')}.safetensors",
            )
            return found

        print(f"{name}: {receipt.once(name, run)['accuracy']:.2%} of the validation images")


if __name__ == "__main__":
    main()
