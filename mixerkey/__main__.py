"""The command line: ``mixerkey train`` makes the networks of the package, ``mixerkey reproduce`` the experiments.

The other commands are those of the three parties. Progress is shown where stderr is a terminal: ``2>log`` turns it off.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import re
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

from mixerkey.convmixer import ConvMixer, load_pretrained, replaceable, save_model
from mixerkey.data import load_cifar10, load_digits
from mixerkey.evaluation import accuracy
from mixerkey.experiments.paper import REPRODUCED, report, reproduce
from mixerkey.files import make_folder, one_line, read_json, write_json
from mixerkey.parties.commands import add_commands
from mixerkey.training import DIGITS, FAST, LESSON, PAPER, VIT, Recipe, train
from mixerkey.vit import ViT


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
        sys.stdout.flush()
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
        raise SystemExit(f"mixerkey: {_explained(error)}") from error
    return 0


def _give_up_stdout() -> None:
    """What cannot be printed is thrown away: else Python tries once more at the end, and changes the exit status."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explained(error: Exception) -> str:
    """What went wrong, on one line."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return one_line(f"{os.fsdecode(error.filename)}: {error.strerror}", 500)
    return one_line(error, 500) or type(error).__name__


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
    command.add_argument("--seed", type=_seed, default=0)
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
    path = _receipt(options.out / "paper.json", "experiments")
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
    replaceable(weights := options.out / f"{options.name}.safetensors")  # before the work
    path = _receipt(options.out / f"{options.name}.json", "images_processed")
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


def _receipt(path: Path, entry: str) -> Path:
    """A path where at most a receipt that holds such an entry will be replaced."""
    if os.path.lexists(path):
        try:
            ours = entry in read_json(path)
        except (OSError, ValueError):
            ours = False
        if not ours:
            reason = (
                "it exists already, and is not a receipt that this command wrote; move it away or choose another --out"
            )
            raise FileExistsError(errno.EEXIST, reason, str(path))
    return path


def _seed(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,19}", text) or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"a seed is a number from 0 to 2^63 - 1, got {one_line(text, 40)}")
    return int(text)


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
