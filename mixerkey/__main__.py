"""The command line: ``mixerkey train`` makes the networks that come with the package."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from mixerkey.convmixer import PRETRAINED, ConvMixer, save_model
from mixerkey.data import load_cifar10, load_digits
from mixerkey.evaluation import accuracy
from mixerkey.training import CIFAR10, DIGITS, train


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    >>> main(["train", "digits", "--help"])
    Traceback (most recent call last):
        ...
    SystemExit: 0
    """
    parser = argparse.ArgumentParser("mixerkey", description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser(
        "train",
        help="train a network and write its weights and receipt",
        epilog="example: mixerkey train digits --out runs/digits",
    )
    command.add_argument("name", choices=PRETRAINED)
    command.add_argument("--out", type=Path, required=True, help="folder for weights, receipt and checkpoint")
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(run=_train)
    options = parser.parse_args(arguments)
    return options.run(options)


def _train(options: argparse.Namespace) -> int:
    if options.name == "digits":
        model, recipe, load = ConvMixer(64, 4, 3, patch_size=2, in_channels=1), DIGITS, load_digits
    else:
        model, recipe, load = ConvMixer(256, 8), CIFAR10, load_cifar10
    test_images, test_labels = load("test")
    model, receipt = train(
        model,
        *load("train"),
        recipe,
        seed=options.seed,
        evaluate=lambda trained: accuracy(trained, test_images, test_labels),
        checkpoint=options.out / "checkpoint.safetensors",
    )
    save_model(model, options.out / f"{options.name}.safetensors")
    (options.out / f"{options.name}.json").write_text(json.dumps(receipt, indent=1) + "\n", encoding="utf-8")
    print(f"accuracy on the test images: {receipt['accuracy']:.4f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
