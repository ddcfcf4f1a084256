"""Training (§4.1): recipes that say everything about a run, checkpoints to resume from, receipts to quote."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from mixerkey.cipher import normalize
from mixerkey.convmixer import ConvMixer
from mixerkey.evaluation import checked_labels
from mixerkey.fast import as_built, feature_maps, forward
from mixerkey.files import Entry, load_tensors, save_tensors
from mixerkey.keys import integer
from mixerkey.muon import Muon
from mixerkey.receipts import processor, tensors_digest, versions, weights_digest
from mixerkey.vit import ViT

Network = TypeVar("Network", bound=Any)  # a module with `sizes`
SAVE_EVERY = 120  # seconds between checkpoints within an epoch


@dataclass(frozen=True)
class Recipe:
    """How to train, completely: optimisers, learning rates, sizes of the images, augmentation, averaging.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step, over all processes; what is left over at the end of an epoch is dropped.
        peak_lr: highest learning rate of Adam.
        warmup: fraction of the steps in which the learning rate rises linearly from 0 to its peak.
        final_lr: where it then falls to, linearly, as a share of the peak; 1 keeps it constant.
        weight_decay: on matrices and kernels only, not on biases and batch normalisation; 0 makes AdamW plain Adam.
        label_smoothing: share of each label spread over all classes.
        crop: pixels of reflected padding before a random crop to the original size.
        flip: whether half of the images are mirrored, at random; or "alternate", each image in every second epoch, from
            the first or the second on (Jordan, 2024), so that two epochs show both of its sides.
        cutout: side of a square that is set to mid-grey at a random place; 0 for none.
        cutmix: fraction of the steps, from the start, in which every second batch is mixed by CutMix.
        average: decay, per step, of the running average of the weights that is returned; 0 for the last weights.
        beta2: decay, per step, of Adam's running average of squared gradients.
        muon: highest learning rate of `Muon` on the matrices of the layers, which are the pointwise convolutions of a
            ConvMixer; 0 leaves them to Adam.
        sides: of the square images in equal parts of the steps, in pixels: small images cost less, and the schedules
            go by cost; () for their own size.
        envelopes: standard deviations, in pixels of the feature map, of the Gaussians that the depthwise kernels start
            under, in the first and in the last layer (after Trockman, Willmott and Kolter, 2023); () for none.
        whiten: whether the patch embedding starts by whitening the patches of the training images.
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
    flip: bool | Literal["alternate"] = False
    cutout: int = 0
    cutmix: float = 0.0
    average: float = 0.0
    beta2: float = 0.999
    muon: float = 0.0
    sides: tuple[int, ...] = ()
    envelopes: tuple[float, float] | tuple[()] = ()
    whiten: bool = False
    dtype: str = "float32"


# The pocket network trains in seconds. Digits are not mirrored: a mirrored 2 is no digit.
DIGITS = Recipe(epochs=30, batch_size=64, peak_lr=0.01, crop=1)
# The paper states 200 epochs, Adam and a learning rate of 0.001 (§4.1). Unstated, and chosen plainly here: batches of
# 128, the usual crops and mirror images, no schedule, no weight decay, no label smoothing.
PAPER = Recipe(
    epochs=200, batch_size=128, peak_lr=1e-3, warmup=0, final_lr=1, weight_decay=0, label_smoothing=0, crop=4, flip=True
)
# The paper's accuracy in a third of its epochs and a fraction of its time.
FAST = Recipe(
    epochs=64, batch_size=256, peak_lr=0.01, crop=4, flip=True, cutout=6, cutmix=0.9, average=0.999, dtype="bfloat16"
)
# For the paper's accuracy from a third of the images of FAST: within a lesson, on two cores that multiply bfloat16.
LESSON = Recipe(
    epochs=31,
    batch_size=128,
    peak_lr=0.005,
    warmup=0.03,
    crop=4,
    flip="alternate",
    cutmix=0.8,
    average=0.998,
    beta2=0.99,
    muon=0.015,
    sides=(24, 24, 24, 28, 32),
    envelopes=(1.0, 2.5),
    whiten=True,
    dtype="bfloat16",
)
# The same for the vision transformer, with the ConvMixer of FAST as its teacher.
VIT = replace(
    LESSON,
    epochs=24,
    peak_lr=0.003,
    warmup=0.1,
    label_smoothing=0,
    cutmix=0.5,
    beta2=0.95,
    muon=0.02,
    sides=(),
    envelopes=(),
)


def train(
    model: Network,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    *,
    seed: int,
    evaluate: Callable[[Network], float],
    teacher: Network | None = None,
    checkpoint: str | Path | None = None,
    fine_tune: bool = False,
    progress: bool = True,
) -> tuple[Network, dict]:
    """Train a network where it is (CPU or GPU) and return it, in evaluation mode, with the receipt of the run.

    Every random choice is made by a generator seeded from `seed` and the epoch, so a run that was killed and goes on
    from its checkpoint ends where an uninterrupted run ends. Under ``torchrun``, once `torch.distributed` is
    initialised, each process takes its share of every batch and gradients are averaged (DistributedDataParallel).

    Args:
        model: a ConvMixer, or a network that says its ``sizes`` as ConvMixer does, ``num_classes`` among them. Its
            initial weights are overwritten by ones drawn from `seed`, unless it is fine-tuned; trained in place.
        images: uint8 (N, C, H, W).
        labels: integers (N,), of any width.
        recipe: how to train.
        seed: of the initial weights, the order of the images, and the augmentation.
        evaluate: called once, at the end, with the trained network; what it returns goes into the receipt.
        teacher: a network whose class probabilities for each augmented image take the place of its label (distillation:
            Hinton et al., 2015). Halfway through the layers it also gives a hint (Romero et al., 2015): a linear map of
            the student's features at each place is to come near to its own there, so both have the same places.
        checkpoint: safetensors file that is written after every epoch, within one every two minutes, and resumed from
            where it exists. Of runs at the same time that name one file the first to write goes on, and no other.
        fine_tune: whether to begin with the weights that the model has.
        progress: whether to show a progress bar on stderr.

    Returns:
        the trained network and a JSON-ready dict: recipe, seed, teacher if there is one, images processed (counted in
        images of their own size), versions, processor, wall time, curve, accuracy, and the SHA-256 of the weights.

    Raises:
        TypeError: images or labels that are no tensor.
        ValueError: images of another shape, fewer than one batch, labels that `mixerkey.accuracy` refuses, a batch that
            the processes cannot share equally, a seed that is negative or 2^63 or more, or a checkpoint of another run
            or of other data, or that another run writes.

    >>> from mixerkey.data import load_digits
    >>> recipe = Recipe(epochs=1, batch_size=64, peak_lr=0.01)
    >>> model, receipt = train(ConvMixer(8, 1, 3, 2, in_channels=1), *load_digits("train"), recipe, seed=0,
    ...                        evaluate=lambda model: 0.0, progress=False)
    >>> receipt["images_processed"]
    1408
    """
    run = _Run(model, recipe, seed, images, labels, teacher, fine_tune)
    if checkpoint is not None and Path(checkpoint).exists():
        run.load(Path(checkpoint))
    bar = tqdm(
        total=run.processed(run.steps * recipe.epochs),
        initial=run.processed(len(run.losses)),
        unit="image",
        unit_scale=True,
        disable=not progress or run.rank > 0,
    )
    saved = time.perf_counter()
    for epoch in range(len(run.losses) // run.steps, recipe.epochs):
        bar.set_description(f"epoch {epoch + 1}/{recipe.epochs}")
        start = time.perf_counter()
        for index, x, target in run.batches(epoch):
            if index == len(run.losses):  # the steps before it were taken already
                run.step(index, x, target)
                run.seconds[epoch] += time.perf_counter() - start
                bar.set_postfix(loss=f"{run.losses[-1]:.3f}", refresh=False)
                bar.update(run.processed(index + 1) - bar.n)
                due = (index + 1) % run.steps == 0 or time.perf_counter() - saved > SAVE_EVERY
                if checkpoint is not None and run.rank == 0 and due:
                    run.save(Path(checkpoint))
                    saved = time.perf_counter()
            start = time.perf_counter()
    bar.close()
    run.finish()
    return model, run.receipt(evaluate)


class _Forward(nn.Module):
    """The forward pass in the dtype of the products, and the hint: what DistributedDataParallel wraps."""

    def __init__(self, model: Network, dtype: torch.dtype, hint: nn.Linear | None) -> None:
        super().__init__()
        self.model, self.dtype, self.hint = model, dtype, hint

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.hint is not None:
            logits, features = _halfway(self.model, x, self.dtype)
            return logits, self.hint(F.layer_norm(features, features.shape[2:]))
        if as_built(self.model):
            return forward(self.model, x.to(self.dtype)), None
        with torch.autocast(x.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.model(x).float(), None


def _halfway(model: Network, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Logits, and the features of each place (N, places, dim) that leave half of the layers; float32."""
    if isinstance(model, ConvMixer):
        maps = list(feature_maps(model, x.to(dtype)))  # (d, N, hw) each
        logits, features = model.head(maps[-1].float().mean(2).T), maps[len(maps) // 2].permute(1, 2, 0)
    else:
        with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32):
            states = list(model.states(x))
            logits, features = model.head(model.norm(states[-1])[:, 0]), states[len(states) // 2][:, 1:]
    return logits.float(), features.float()


class _Run:
    """A training run: its data, its schedule, and all that a checkpoint holds."""

    def __init__(
        self,
        model: Network,
        recipe: Recipe,
        seed: int,
        images: Tensor,
        labels: Tensor,
        teacher: Network | None,
        fine_tune: bool,
    ) -> None:
        if not 0 <= integer(seed, "the seed") < 2**63:
            raise ValueError(f"a seed is a number from 0 to 2^63 - 1, got {seed}")
        self.model, self.recipe, self.seed, self.teacher = model.train(), recipe, seed, teacher
        self.rank, self.processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.images, C = images, model.sizes["in_channels"]
        if not isinstance(images, Tensor):
            raise TypeError(f"images must be a torch.Tensor (N, {C}, H, W), got {type(images).__name__}")
        if images.ndim != 4 or images.shape[1] != C:
            raise ValueError(f"images must be (N, {C}, H, W), channel first; got {tuple(images.shape)}")
        self.labels = labels = checked_labels(labels, len(images), model.sizes["num_classes"])
        self.steps = _steps(len(images), recipe.batch_size, self.processes)  # of an epoch
        total, own_side = self.steps * recipe.epochs, images.shape[-1]
        parts = recipe.sides or (own_side,)
        self.sides = [parts[len(parts) * i // total] for i in range(total)]
        costs = ((side / own_side) ** 2 for side in self.sides)  # of an image, in images of their own size
        self.costs = list(accumulate(costs, initial=0.0))  # before each step, and of all
        identity = {"recipe": asdict(recipe), "network": model.sizes, "seed": seed}
        identity["data_sha256"] = tensors_digest(images, labels)
        if teacher is not None:
            identity["teacher_sha256"] = weights_digest(teacher)
        if fine_tune:
            identity["start_sha256"] = weights_digest(model)
        else:
            initial = torch.Generator().manual_seed(seed)
            initialize(model, initial)
            shape_start(model, recipe, images[:2000], initial)
        self.identity = json.loads(json.dumps(identity))  # as it comes back from a file
        self.device = next(model.parameters()).device
        self.dtype = _products(recipe.dtype, self.device)
        self.hint = None if teacher is None else nn.Linear(model.sizes["dim"], teacher.sizes["dim"]).to(self.device)
        if self.hint is not None:
            initialize(self.hint, torch.Generator().manual_seed(seed))
        forward = _Forward(model, self.dtype, self.hint)
        self.forward = DistributedDataParallel(forward) if dist.is_initialized() else forward
        self.optimizers = _optimizers(forward, recipe, self.dtype)
        self.averaged = deepcopy(model.state_dict())
        self.losses: list[float] = []  # of each step
        self.seconds = [0.0] * recipe.epochs
        self._in_file = b""  # the checkpoint, when this run last read or wrote it

    def processed(self, steps: int) -> int:
        """How many images the first `steps` steps take, counted in images of their own size."""
        return round(self.costs[steps] * self.recipe.batch_size)

    def batches(self, epoch: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Each step of an epoch, with its images and targets: all that is random about it.

        A step that was taken before a run was interrupted is given all the same, so that it draws its random numbers.
        """
        recipe, seed = self.recipe, (self.seed * 100_003 + epoch + 1) % 2**64  # as large as a generator takes
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.images), generator=generator)
        if self.rank:  # the same order in every process, but each augments its share in its own way
            generator.manual_seed((seed * 1_009 + self.rank) % 2**64)
        odd = (
            torch.rand(len(order), generator=torch.Generator().manual_seed(self.seed)) < 0.5
        )  # odd epochs mirror these
        for step, chosen in enumerate(order.split(recipe.batch_size)[: self.steps]):
            chosen = chosen[self.rank :: self.processes]
            batch = self.images[chosen]
            if recipe.flip == "alternate":
                mirrored = odd[chosen] == (epoch % 2 == 1)
                batch = torch.where(mirrored[:, None, None, None], batch.flip(3), batch)
            index = epoch * self.steps + step
            yield index, *self.prepare(index, batch, self.labels[chosen], generator)

    def prepare(self, index: int, images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The images of a step, augmented, and its targets."""
        recipe = self.recipe
        x = augment(normalize(images), recipe, generator)
        target = F.one_hot(labels, self.model.sizes["num_classes"]).float()
        if index % 2 and self.costs[index] < recipe.cutmix * self.costs[-1]:
            x, target = cutmix(x, target, generator)
        if recipe.sides:
            x = F.interpolate(x, [self.sides[index]] * 2, mode="bilinear", antialias=True)
        return x.to(self.device), target.to(self.device)

    def step(self, index: int, x: Tensor, target: Tensor) -> None:
        recipe, progress = self.recipe, self.costs[index] / self.costs[-1]
        for optimizer, peak in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak * learning_rate(progress, recipe.warmup, recipe.final_lr)
            optimizer.zero_grad(set_to_none=True)
        logits, hint = self.forward(x)
        if self.teacher is not None:
            with torch.no_grad():
                teachers, features = _halfway(self.teacher, x, self.dtype)
                target = teachers.softmax(1)
                wanted = F.batch_norm(features.flatten(0, 1), None, None, training=True).view_as(features)
        loss = F.cross_entropy(logits, target, label_smoothing=recipe.label_smoothing)
        if hint is not None:
            loss = loss + F.mse_loss(hint, wanted)
        loss.backward()
        for optimizer, _ in self.optimizers:
            optimizer.step()
        # Early on the average forgets faster, so that it does not carry the initial weights along.
        keep = min(recipe.average, (1 + index) / (10 + index))
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.averaged[name].lerp_(value, 1 - keep)
            else:
                self.averaged[name].copy_(value)
        self.losses.append(loss.item())

    def finish(self) -> None:
        """Give the model the averaged weights."""
        if self.processes > 1:  # batch statistics are each process's own; the first one's are returned everywhere
            for value in self.averaged.values():
                dist.broadcast(value, 0)
        self.model.load_state_dict(self.averaged)
        self.model.eval()

    def receipt(self, evaluate: Callable[[Network], float]) -> dict:
        losses = torch.tensor(self.losses, dtype=torch.float64).view(-1, self.steps)
        return {
            **self.identity,
            "images_processed": self.processed(len(self.losses)),
            "wall_seconds": round(sum(self.seconds), 1),
            "processor": processor(self.device),
            "processes": self.processes,
            "computed_in": str(self.dtype).removeprefix("torch."),
            "versions": versions(),
            "curve": [
                {"loss": round(sum(of) / self.steps, 4), "seconds": round(seconds, 4)}
                for of, seconds in zip(losses.tolist(), self.seconds, strict=True)
            ],
            "accuracy": evaluate(self.model),
            "weights_sha256": weights_digest(self.model),
        }

    def save(self, path: Path) -> None:
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"averaged.{name}": value for name, value in self.averaged.items()}
        for k, (optimizer, _) in enumerate(self.optimizers):
            for i, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{k}.{i}.{name}": value for name, value in state.items()}
        if self.hint is not None:
            tensors |= {f"hint.{name}": value for name, value in self.hint.state_dict().items()}
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        tensors["seconds"] = torch.tensor(self.seconds, dtype=torch.float64)
        identity = json.dumps(self.identity, sort_keys=True)
        self._in_file = save_tensors(path, tensors, {"run": identity}, over=self._in_file)

    def load(self, path: Path) -> None:
        wanted = json.dumps(self.identity, sort_keys=True)

        def plan(metadata: dict[str, str], entries: dict[str, Entry]) -> None:
            if metadata.get("run") != wanted:
                raise ValueError(f"it is the checkpoint of another run, {metadata.get('run')}; this one is {wanted}")

        self._in_file = path.read_bytes()
        try:
            tensors = {name: tensor.to(self.device) for name, tensor in load_tensors(path, plan)[1].items()}
        except ValueError as error:
            raise ValueError(f"{path}: {error}. Choose another folder, or remove the file to start over.") from error
        self.model.load_state_dict(_part(tensors, "model."))
        self.averaged = _part(tensors, "averaged.")
        if self.hint is not None:
            self.hint.load_state_dict(_part(tensors, "hint."))
        for k, (optimizer, _) in enumerate(self.optimizers):
            state: dict[int, dict[str, Tensor]] = {}
            for name, value in _part(tensors, f"optimizer.{k}.").items():
                i, field = name.split(".")
                state.setdefault(int(i), {})[field] = value
            optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
        self.losses, self.seconds = tensors["losses"].tolist(), tensors["seconds"].tolist()


def _steps(count: int, batch_size: int, processes: int) -> int:
    """How many whole batches there are, if these processes can share them."""
    if count < batch_size:
        raise ValueError(f"got {count} images, fewer than one batch of {batch_size}")
    if batch_size % processes:
        raise ValueError(f"a batch of {batch_size} images cannot be shared equally by {processes} processes")
    return count // batch_size


def _optimizers(forward: _Forward, recipe: Recipe, dtype: torch.dtype) -> list[tuple[torch.optim.Optimizer, float]]:
    """Adam, and Muon where the recipe wants it, each with its highest learning rate."""
    hidden = _layer_matrices(forward.model) if recipe.muon else []
    rest = [p for p in forward.parameters() if not any(p is q for q in hidden)]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in rest if p.ndim == 1], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=recipe.peak_lr, betas=(0.9, recipe.beta2), fused=True)
    if not recipe.muon:
        return [(adam, recipe.peak_lr)]
    normalized = isinstance(forward.model, ConvMixer)  # by the batch normalisation behind
    return [(adam, recipe.peak_lr), (Muon(hidden, recipe.muon, fixed_norm=normalized, dtype=dtype), recipe.muon)]


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


def _layer_matrices(model: Network) -> list[Tensor]:
    """The weights of the layers that mix features: the pointwise convolutions, or the matrices of a transformer."""
    layers = model.layers if isinstance(model, ConvMixer) else model.blocks
    return [p for layer in layers for p in layer.parameters() if p.ndim > 1 and p.shape[1] > 1]


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


def shape_start(model: Network, recipe: Recipe, images: Tensor, generator: torch.Generator) -> None:
    """Give a network, in place, the start that a recipe's `envelopes` and `whiten` ask for.

    A depthwise kernel starts as noise under a Gaussian, of norm 1. The patch embedding starts as R (Σ + 0.001 I)^(-1/2)
    with Σ the covariance of patches of the images at the first of the recipe's sides, and R of orthogonal columns.

    >>> recipe = Recipe(epochs=1, batch_size=1, peak_lr=0.1, envelopes=(1.0, 2.0), whiten=True)
    >>> model, images = ConvMixer(64, 2), torch.randint(256, (500, 3, 32, 32), dtype=torch.uint8)
    >>> shape_start(model, recipe, images, torch.Generator().manual_seed(0))
    >>> round(model.layers[0].depthwise.weight[0].norm().item(), 3)
    1.0
    >>> round(model.embedding(normalize(images)).var((0, 2, 3)).mean().item(), 1)  # over images and places
    1.0
    """
    if recipe.envelopes:
        first, last = recipe.envelopes
        for i, layer in enumerate(model.layers):
            kernels = layer.depthwise.weight  # (d, 1, k, k)
            sigma = first + (last - first) * i / max(len(model.layers) - 1, 1)
            place = torch.arange(kernels.shape[-1]) - kernels.shape[-1] // 2
            bell = torch.exp(-(place**2) / (2 * sigma**2))  # (k,)
            noise = torch.randn(kernels.shape, generator=generator) * bell[:, None] * bell
            with torch.no_grad():
                kernels.copy_(noise / noise.flatten(1).norm(dim=1)[:, None, None, None])
    if recipe.whiten:
        E = model.embedding.weight  # (d, C, P, P)
        x = normalize(images)
        if recipe.sides:
            x = F.interpolate(x, [recipe.sides[0]] * 2, mode="bilinear", antialias=True)
        patches = F.unfold(x, E.shape[-1], stride=E.shape[-1]).mT.flatten(0, 1)  # (places, CPP), ordered as E is
        values, vectors = torch.linalg.eigh(torch.cov(patches.T))
        whitening = vectors @ (values + 1e-3).rsqrt().diag() @ vectors.T
        R = torch.linalg.qr(torch.randn(len(E), len(whitening), generator=generator))[0]
        with torch.no_grad():
            E.copy_(((len(E) / len(whitening)) ** 0.5 * R @ whitening).view_as(E))


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
    if recipe.flip is True:
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
