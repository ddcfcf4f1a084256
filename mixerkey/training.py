"""Training (§4.1): recipes that say everything about a run, checkpoints to resume from, receipts to quote."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from mixerkey.cipher import normalize
from mixerkey.convmixer import ConvMixer
from mixerkey.fast import forward
from mixerkey.files import save_tensors
from mixerkey.receipts import processor, versions, weights_digest
from mixerkey.vit import ViT

Network = TypeVar("Network", bound=Any)  # a module with `sizes`


@dataclass(frozen=True)
class Recipe:
    """How to train, completely: Adam with decoupled weight decay, a learning rate, augmentation, averaging.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step, over all processes; what is left over at the end of an epoch is dropped.
        peak_lr: highest learning rate.
        warmup: fraction of the steps in which the learning rate rises linearly from 0 to its peak.
        final_lr: where it then falls to, linearly, as a share of the peak; 1 keeps it constant.
        weight_decay: on matrices and kernels only, not on biases and batch normalisation; 0 makes AdamW plain Adam.
        label_smoothing: share of each label spread over all classes.
        crop: pixels of reflected padding before a random crop to the original size.
        flip: whether half of the images are mirrored, at random.
        cutout: side of a square that is set to mid-grey at a random place; 0 for none.
        cutmix: fraction of the steps, from the start, in which every second batch is mixed by CutMix.
        average: decay, per step, of the running average of the weights that is returned; 0 for the last weights.
        dtype: of the matrix products, "float32" or "bfloat16"; the weights are float32. A processor without
            bfloat16 instructions computes in float32, and the receipt says so.
    """

    epochs: int
    batch_size: int
    peak_lr: float
    warmup: float = 0.2
    final_lr: float = 0.0
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    crop: int = 0
    flip: bool = False
    cutout: int = 0
    cutmix: float = 0.0
    average: float = 0.0
    dtype: str = "float32"


# The pocket network trains in seconds. Digits are not mirrored: a mirrored 2 is no digit.
DIGITS = Recipe(epochs=30, batch_size=64, peak_lr=0.01, crop=1)
# The paper states 200 epochs, Adam and a learning rate of 0.001 (§4.1). Unstated, and chosen plainly here: batches of
# 128, the usual crops and mirror images, no schedule, no weight decay, no label smoothing.
PAPER = Recipe(
    epochs=200,
    batch_size=128,
    peak_lr=0.001,
    warmup=0,
    final_lr=1,
    weight_decay=0,
    label_smoothing=0,
    crop=4,
    flip=True,
)
# The paper's accuracy in a third of its epochs and a fraction of its time.
FAST = Recipe(
    epochs=64, batch_size=256, peak_lr=0.01, crop=4, flip=True, cutout=6, cutmix=0.9, average=0.999, dtype="bfloat16"
)


def train(
    model: Network,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    *,
    seed: int,
    evaluate: Callable[[Network], float],
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> tuple[Network, dict]:
    """Train a network where it is (CPU or GPU) and return it, in evaluation mode, with the receipt of the run.

    Every random choice is made by a generator seeded from `seed` and the epoch, so a run that was killed and goes on
    from its checkpoint ends where an uninterrupted run ends. Under ``torchrun``, once `torch.distributed` is
    initialised, each process takes its share of every batch and gradients are averaged (DistributedDataParallel).

    Args:
        model: a ConvMixer, or a network that says its ``sizes`` as ConvMixer does, ``num_classes`` among them. Its
            initial weights are overwritten by ones drawn from `seed`; trained in place.
        images: uint8 (N, C, H, W).
        labels: int64 (N,).
        recipe: how to train.
        seed: of the initial weights, the order of the images, and the augmentation.
        evaluate: called once, at the end, with the trained network; what it returns goes into the receipt.
        checkpoint: safetensors file that is written after every epoch and resumed from where it exists.
        progress: whether to show a progress bar on stderr.

    Returns:
        the trained network and a JSON-ready dict: recipe, seed, versions, processor, wall time, curve, accuracy, and
        the SHA-256 of the weights.

    Raises:
        ValueError: fewer images than one batch, as many labels as images are not there, a batch that the processes
            cannot share equally, or a checkpoint of another run.

    >>> from mixerkey.data import load_digits
    >>> recipe = Recipe(epochs=1, batch_size=64, peak_lr=0.01)
    >>> model, receipt = train(ConvMixer(8, 1, 3, 2, in_channels=1), *load_digits("train"), recipe, seed=0,
    ...                        evaluate=lambda model: 0.0, progress=False)
    >>> receipt["images_processed"]
    1408
    """
    if len(images) != len(labels):
        raise ValueError(f"got {len(images)} images but {len(labels)} labels")
    steps = len(images) // recipe.batch_size
    if steps == 0:
        raise ValueError(f"got {len(images)} images, fewer than one batch of {recipe.batch_size}")
    rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if recipe.batch_size % processes:
        raise ValueError(f"a batch of {recipe.batch_size} images cannot be shared equally by {processes} processes")
    initialize(model, torch.Generator().manual_seed(seed))
    run = _Run(model, recipe, seed, steps * recipe.epochs)
    if checkpoint is not None and Path(checkpoint).exists():
        run.load(Path(checkpoint))
    bar = tqdm(
        total=recipe.epochs * steps * recipe.batch_size,
        initial=len(run.curve) * steps * recipe.batch_size,
        unit="image",
        unit_scale=True,
        disable=not progress or rank > 0,
    )
    for epoch in range(len(run.curve), recipe.epochs):
        bar.set_description(f"epoch {epoch + 1}/{recipe.epochs}")
        generator = torch.Generator().manual_seed(seed * 100_003 + epoch + 1)
        order = torch.randperm(len(images), generator=generator)
        if rank:  # the same order in every process, but each augments its share in its own way
            generator.manual_seed((seed * 100_003 + epoch + 1) * 1_009 + rank)
        start, losses = time.perf_counter(), []
        for step in range(steps):
            chosen = order[step * recipe.batch_size : (step + 1) * recipe.batch_size][rank::processes]
            losses.append(run.step(epoch * steps + step, images[chosen], labels[chosen], generator))
            bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
            bar.update(recipe.batch_size)
        run.curve.append({"loss": sum(losses) / steps, "seconds": time.perf_counter() - start})
        if checkpoint is not None and rank == 0:
            run.save(Path(checkpoint))
    bar.close()
    if processes > 1:  # batch statistics are each process's own; the first one's are returned everywhere
        for value in run.averaged.values():
            dist.broadcast(value, 0)
    model.load_state_dict(run.averaged)
    model.eval()
    return model, {
        "recipe": asdict(recipe),
        "network": model.sizes,
        "seed": seed,
        "images_processed": recipe.epochs * steps * recipe.batch_size,
        "wall_seconds": round(sum(entry["seconds"] for entry in run.curve), 1),
        "processor": processor(run.device),
        "processes": processes,
        "computed_in": str(run.dtype).removeprefix("torch."),
        "versions": versions(),
        "curve": [{name: round(value, 4) for name, value in entry.items()} for entry in run.curve],
        "accuracy": evaluate(model),
        "weights_sha256": weights_digest(model),
    }


class _Forward(nn.Module):
    """The forward pass in the dtype of the products: what DistributedDataParallel wraps."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.model, ConvMixer):
            return forward(self.model, x.to(self.dtype))
        with torch.autocast(x.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.model(x).float()


class _Run:
    """The state of a training run: all that a checkpoint holds."""

    def __init__(self, model: Network, recipe: Recipe, seed: int, total_steps: int) -> None:
        self.model, self.recipe, self.total_steps = model.train(), recipe, total_steps
        self.identity = json.dumps({"recipe": asdict(recipe), "network": model.sizes, "seed": seed}, sort_keys=True)
        self.device = next(model.parameters()).device
        self.dtype = _products(recipe.dtype, self.device)
        forward = _Forward(model, self.dtype)
        self.forward = DistributedDataParallel(forward) if dist.is_initialized() else forward
        matrices = [p for p in model.parameters() if p.ndim > 1]
        vectors = [p for p in model.parameters() if p.ndim == 1]
        groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.peak_lr, fused=True)
        self.averaged = deepcopy(model.state_dict())
        self.curve: list[dict[str, float]] = []

    def step(self, index: int, images: Tensor, labels: Tensor, generator: torch.Generator) -> float:
        recipe = self.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.peak_lr * learning_rate(index / self.total_steps, recipe.warmup, recipe.final_lr)
        x = augment(normalize(images), recipe, generator)
        target = F.one_hot(labels, self.model.sizes["num_classes"]).float()
        if index % 2 and index < recipe.cutmix * self.total_steps:
            x, target = cutmix(x, target, generator)
        logits = self.forward(x.to(self.device))
        loss = F.cross_entropy(logits, target.to(self.device), label_smoothing=recipe.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        # Early on the average forgets faster, so that it does not carry the initial weights along.
        keep = min(recipe.average, (1 + index) / (10 + index))
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.averaged[name].lerp_(value, 1 - keep)
            else:
                self.averaged[name].copy_(value)
        return loss.item()

    def save(self, path: Path) -> None:
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"averaged.{name}": value for name, value in self.averaged.items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": value for name, value in state.items()}
        tensors["curve"] = torch.tensor([list(entry.values()) for entry in self.curve], dtype=torch.float64)
        save_tensors(path, tensors, {"run": self.identity})

    def load(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            identity = (file.metadata() or {}).get("run")
        if identity != self.identity:
            raise ValueError(
                f"{path} is the checkpoint of another run, {identity}; this one is {self.identity}. "
                "Choose another folder, or remove the checkpoint to start over."
            )
        tensors = load_file(path, str(self.device))
        self.model.load_state_dict(_part(tensors, "model."))
        self.averaged = _part(tensors, "averaged.")
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _part(tensors, "optimizer.").items():
            i, field = name.split(".")
            state.setdefault(int(i), {})[field] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})
        self.curve = [{"loss": loss, "seconds": seconds} for loss, seconds in tensors["curve"].tolist()]


def _products(dtype: str, device: torch.device) -> torch.dtype:
    """The dtype of the matrix products on this device: bfloat16 only where the hardware multiplies it."""
    if dtype == "bfloat16" and device.type == "cpu" and not _cpu_has_bfloat16():
        return torch.float32
    return getattr(torch, dtype)


def _cpu_has_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16; without them, emulation is slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux: Apple's processors multiply float32 faster than PyTorch does bfloat16
        return False
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16", " bf16"))


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def initialize(model: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights anew from `generator`, in place: U(-1, 1) / √fan-in, zero biases, unit normalisation.

    >>> a, b = ConvMixer(8, 1), ConvMixer(8, 1)
    >>> for model in (a, b):
    ...     initialize(model, torch.Generator().manual_seed(0))
    >>> torch.equal(a[0].weight, b[0].weight)
    True
    """
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            bound = module.weight[0].numel() ** -0.5
            with torch.no_grad():
                module.weight.uniform_(-bound, bound, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
        elif isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            module.reset_parameters()
        elif isinstance(module, ViT):
            module.reset_tokens(generator)


def learning_rate(progress: float, warmup: float, final: float = 0.0) -> float:
    """The learning rate at a fraction `progress` of the run, as a share of its peak: up, then down, linearly.

    >>> [round(learning_rate(t, 0.2), 2) for t in (0, 0.1, 0.2, 0.6, 1)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    >>> [learning_rate(t, warmup=0, final=1) for t in (0, 0.5, 1)]
    [1.0, 1.0, 1.0]
    """
    if progress < warmup:
        return progress / warmup
    return final + (1 - final) * (1 - progress) / (1 - warmup)


def augment(x: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """A random crop, mirror image and grey square for each of the images (N, C, H, W); returns new ones.

    >>> x = torch.rand(4, 3, 32, 32)
    >>> torch.equal(augment(x, Recipe(1, 4, 0.1), torch.Generator()), x)  # a recipe that asks for none
    True
    """
    N, _, H, W = x.shape

    def draw(low: int, high: int) -> Tensor:
        return torch.randint(low, high + 1, (N, 1), generator=generator)

    rows = torch.arange(H) + draw(0, 2 * recipe.crop)  # (N, H)
    columns = torch.arange(W) + draw(0, 2 * recipe.crop)  # (N, W)
    if recipe.flip:
        columns = torch.where(draw(0, 1) == 1, columns.flip(1), columns)
    padded = F.pad(x, [recipe.crop] * 4, mode="reflect") if recipe.crop else x
    image = torch.arange(N)[:, None, None]
    # Advanced indices around a slice put the channels last: (N, H, W, C).
    cropped = padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if recipe.cutout:
        half = recipe.cutout / 2
        in_rows = (torch.arange(H) + 0.5 - draw(0, H)).abs() < half  # (N, H)
        in_columns = (torch.arange(W) + 0.5 - draw(0, W)).abs() < half  # (N, W)
        cropped = cropped.masked_fill((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0.0)
    return cropped


def cutmix(x: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """CutMix (Yun et al., 2019): a box of each image comes from the next one, and a like share of its label.

    >>> x, target = cutmix(torch.rand(4, 3, 32, 32), torch.eye(4), torch.Generator().manual_seed(0))
    >>> bool(torch.allclose(target.sum(1), torch.ones(4)))
    True
    """
    H, W = x.shape[-2:]
    share = torch.rand((), generator=generator).item()  # of the image that is replaced, before clipping
    h, w = round(H * share**0.5), round(W * share**0.5)
    top = int(torch.randint(-h // 2, H - h // 2, (), generator=generator))
    left = int(torch.randint(-w // 2, W - w // 2, (), generator=generator))
    rows, columns = slice(max(top, 0), min(top + h, H)), slice(max(left, 0), min(left + w, W))
    mixed = x.clone()
    mixed[:, :, rows, columns] = x.roll(1, 0)[:, :, rows, columns]
    replaced = (rows.stop - rows.start) * (columns.stop - columns.start) / (H * W)
    return mixed, (1 - replaced) * target + replaced * target.roll(1, 0)
