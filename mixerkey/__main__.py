"""The command line: ``mixerkey train`` makes the networks that come with the package."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch
import torch.distributed as dist

from mixerkey.convmixer import PRETRAINED, ConvMixer, save_model
from mixerkey.data import load_cifar10, load_digits
from mixerkey.evaluation import accuracy
from mixerkey.training import DIGITS, FAST, PAPER, train

RECIPES = {"digits": {"fast": DIGITS}, "cifar10": {"fast": FAST, "paper": PAPER}}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    >>> main(["train", "digits", "--help"])
    Traceback (most recent call last):
        ...
    SystemExit: 0
    """
    parser = argparse.ArgumentParser("mixerkey", description=__doc__)
    commands = parser.add_subparsers(required=True)
    _add_train(commands)
    options = parser.parse_args(arguments)
    return options.run(options)


def _add_train(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "train",
        help="train a network and write its weights and receipt",
        epilog="example: mixerkey train digits --out runs/digits; on two processes: "
        "torchrun --nproc-per-node 2 -m mixerkey train digits --out runs/digits",
    )
    command.add_argument("name", choices=PRETRAINED)
    command.add_argument("--recipe", choices=("fast", "paper"), default="fast")
    command.add_argument("--out", type=Path, required=True, help="folder for weights, receipt and checkpoint")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument(
        "--validation",
        type=int,
        default=0,
        metavar="N",
        help="hold out the last N training images and measure on them, not on the test images",
    )
    command.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> int:
    recipe = RECIPES[options.name].get(options.recipe)
    if recipe is None:
        raise SystemExit(f"mixerkey: {options.name} has no recipe {options.recipe!r}; use --recipe fast")
    cuda = torch.cuda.is_available()
    if dist.is_torchelastic_launched():  # by torchrun
        dist.init_process_group("nccl" if cuda else "gloo")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if options.name == "digits":
        model, load = ConvMixer(64, 4, 3, patch_size=2, in_channels=1), load_digits
    else:
        model, load = ConvMixer(256, 8), load_cifar10
    images, labels = load("train")
    if options.validation:
        held_out = images[-options.validation :], labels[-options.validation :]
        images, labels = images[: -options.validation], labels[: -options.validation]
    else:
        held_out = load("test")
    model, receipt = train(
        model.to(device),
        images,
        labels,
        recipe,
        seed=options.seed,
        evaluate=lambda trained: accuracy(trained, *held_out),
        checkpoint=options.out / "checkpoint.safetensors",
    )
    if not dist.is_initialized() or dist.get_rank() == 0:
        save_model(model.cpu(), options.out / f"{options.name}.safetensors")
        (options.out / f"{options.name}.json").write_text(json.dumps(receipt, indent=1) + "\n", encoding="utf-8")
        print(f"accuracy on the {'validation' if options.validation else 'test'} images: {receipt['accuracy']:.4f}")
    if dist.is_initialized():
        dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
