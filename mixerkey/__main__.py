"""The command line: ``mixerkey train`` makes the networks of the package, ``mixerkey reproduce`` the experiments.

The other commands are those of the three parties. Progress is shown where stderr is a terminal: ``2>log`` turns it off.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from mixerkey.convmixer import ConvMixer, load_pretrained, replaceable_network, save_model
from mixerkey.data import load_cifar10, load_digits
from mixerkey.evaluation import accuracy
from mixerkey.experiments.paper import REPRODUCED, report, reproduce
from mixerkey.files import explained, make_folder, read_json, replaceable, write_json
from mixerkey.parties.commands import add_commands, whole
from mixerkey.training import DIGITS, FAST, LESSON, PAPER, VIT, Recipe, train
from mixerkey.vit import ViT

RECEIPT = "a receipt that this command wrote"


class Trained(NamedTuple):
    """A network that ``mixerkey train`` makes."""

    make: Callable[[], ConvMixer | ViT]
    load: Callable[[str], tuple[Tensor, Tensor]]  # "train" or "test" -> images and labels
    recipes: dict[str, Recipe]
    teacher: str | None = None


def _cifar10(split: str) -> tuple[Tensor, Tensor]:
    return load_cifar10(split, progress=sys.stderr.isatty())


NETWORKS = {
    "digits": Trained(partial(ConvMixer, 64, 4, 3, patch_size=2, in_channels=1), load_digits, {"fast": DIGITS}),
    "cifar10": Trained(partial(ConvMixer, 256, 8), _cifar10, {"fast": FAST, "lesson": LESSON, "paper": PAPER}),
    "vit": Trained(partial(ViT, dim=128, depth=6, heads=4), _cifar10, {"fast": VIT}, teacher="cifar10"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0; or 130 after Ctrl-C, and 141 where nobody reads the output any more, as with ``| head``.

    Raises:
        SystemExit: 1 when a file, a setting, the network or the provider is not as it must be, with one line that says
            why; 2 when the command itself is wrong.

    >>> main(["train", "digits", "--help"])
    Traceback (most recent call last):
        ...
    SystemExit: 0
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever called
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, it stays open
        elif isinstance(stream, io.TextIOWrapper):  # a console that lacks a character shows another
            stream.reconfigure(errors="replace")
    parser = argparse.ArgumentParser("mixerkey", description=__doc__)
    commands = parser.add_subparsers(required=True)
    _add_train(commands)
    _add_reproduce(commands)
    add_commands(commands)
    try:
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # by mixerkey.interrupts
            signal.signal(signal.SIGINT, signal.default_int_handler)
        options = parser.parse_args(arguments)
        options.run(options)
        _flush()
    except KeyboardInterrupt:
        print("mixerkey: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _give_up_stdout()
        return 141
    except ModuleNotFoundError as error:
        raise SystemExit(f"mixerkey: {error.name} is missing; pip install 'mixerkey[service]'") from error
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        _give_up_stdout()
        raise SystemExit(f"mixerkey: {explained(error)}") from error
    return 0


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(f"done, but what it says can't be written to the standard output: {error.strerror}") from error


def _give_up_stdout() -> None:
    """What cannot be printed is thrown away: else Python tries once more at the end, and changes the exit status."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _add_train(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "train",
        help="train a network and write its weights and receipt",
        epilog="example: mixerkey train digits --out runs/digits (seconds); on two processes: "
        "torchrun --nproc-per-node 2 -m mixerkey train digits --out runs/digits. The progress bar, shown where stderr "
        "is a terminal, tells how long the others take here, and a run that was stopped goes on.",
    )
    command.add_argument("name", choices=NETWORKS)
    command.add_argument(
        "--recipe",
        choices=("fast", "lesson", "paper"),
        default="fast",
        help="for cifar10, fast takes 3.2 million images, lesson 1.1 million, and paper 10 million",
    )
    command.add_argument("--out", type=Path, required=True, help="folder for weights, receipt and checkpoint")
    command.add_argument("--seed", type=whole(0), default=0)
    command.add_argument(
        "--validation",
        type=int,
        default=0,
        metavar="N",
        help="hold out the last N training images and measure on them, not on the test images",
    )
    command.set_defaults(run=_train)


def _add_reproduce(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "reproduce",
        help="run the paper's experiments, and print its numbers and ours side by side",
        epilog="example: mixerkey reproduce cifar10 --out runs/reproduce (an hour or two on two CPU cores; it goes on "
        "where it was stopped); mixerkey reproduce digits --out runs/digits takes seconds and tries every key",
    )
    command.add_argument("name", choices=REPRODUCED)
    command.add_argument("--out", type=Path, required=True, help="folder for the receipt and for unfinished work")
    command.add_argument("--only", metavar="EXPERIMENT", help="run one experiment, such as 'table 1'")
    command.set_defaults(run=_reproduce)


def _reproduce(options: argparse.Namespace) -> None:
    make_folder(options.out)
    path = options.out / "paper.json"
    replaceable(path, RECEIPT, lambda found: read_json(found)["experiments"])
    with _processes():
        receipt = reproduce(options.name, options.out, only=options.only, progress=sys.stderr.isatty())
        if _first():
            if options.only is None:
                write_json(path, receipt)
            print(report(receipt))


def _train(options: argparse.Namespace) -> None:
    make, load, recipes, teacher = NETWORKS[options.name]
    recipe = recipes.get(options.recipe)
    if recipe is None:
        raise ValueError(f"{options.name} has no recipe {options.recipe!r}; use --recipe fast")
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    make_folder(options.out)
    weights, path = (options.out / f"{options.name}{suffix}" for suffix in (".safetensors", ".json"))
    replaceable_network(weights)  # before the work
    replaceable(path, RECEIPT, lambda found: read_json(found)["images_processed"])
    images, labels = load("train")
    if not 0 <= options.validation < len(images):
        raise ValueError(f"--validation holds out 0 to {len(images) - 1:,} images, got {options.validation}")
    if options.validation:
        held_out = images[-options.validation :], labels[-options.validation :]
        images, labels = images[: -options.validation], labels[: -options.validation]
    else:
        held_out = load("test")
    with _processes():
        model, receipt = train(
            make().to(device),
            images,
            labels,
            recipe,
            seed=options.seed,
            evaluate=lambda trained: accuracy(trained, *held_out),
            teacher=None if teacher is None else load_pretrained(teacher).to(device),
            checkpoint=options.out / "checkpoint.safetensors",
            progress=sys.stderr.isatty(),
        )
        if _first():
            save_model(model.cpu(), weights)
            write_json(path, receipt)
            print(f"accuracy on the {'validation' if options.validation else 'test'} images: {receipt['accuracy']:.4f}")


@contextmanager
def _processes() -> Iterator[None]:
    """The process group that torchrun asks for; none without it."""
    if dist.is_torchelastic_launched():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def _first() -> bool:
    """Whether this is the process that writes and speaks."""
    return not dist.is_initialized() or dist.get_rank() == 0


if __name__ == "__main__":
    raise SystemExit(main())
