"""The network of §2.2: patch embedding (Eq. 1), mixing layers (Eq. 2), pooling, a linear classifier."""

from __future__ import annotations

import json
from importlib.resources import as_file, files
from math import prod
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from mixerkey.absorption import unwrapped
from mixerkey.files import Entry, load_tensors, parse_json, replaceable, save_tensors
from mixerkey.vit import ViT

PRETRAINED = ("cifar10", "digits", "vit")


class Residual(nn.Module):
    """Adds its input to what it wraps: ``fn(x) + x``, the skip of Eq. (2).

    >>> import torch
    >>> Residual(nn.Identity())(torch.ones(2))
    tensor([2., 2.])
    """

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, d, h, w) -> of the same shape."""
        return self.fn(x) + x


class MixerLayer(nn.Sequential):
    """One layer of Eq. (2): a depthwise convolution with a skip around it, then a pointwise one.

    Args:
        dim: d, channels.
        kernel_size: side of the depthwise kernel, odd.

    >>> import torch
    >>> MixerLayer(8, 3)(torch.zeros(2, 8, 4, 4)).shape
    torch.Size([2, 8, 4, 4])
    """

    def __init__(self, dim: int, kernel_size: int) -> None:
        depthwise = nn.Conv2d(dim, dim, kernel_size, groups=dim, padding="same")
        super().__init__(
            Residual(nn.Sequential(depthwise, nn.GELU(), nn.BatchNorm2d(dim))),
            nn.Conv2d(dim, dim, kernel_size=1),
            nn.GELU(),
            nn.BatchNorm2d(dim),
        )

    @property
    def depthwise(self) -> nn.Conv2d:
        """A kernel for each channel."""
        return self[0].fn[0]  # type: ignore[index, return-value]

    @property
    def depthwise_norm(self) -> nn.BatchNorm2d:
        """Of the depthwise convolution's activations."""
        return self[0].fn[2]  # type: ignore[index, return-value]

    @property
    def pointwise(self) -> nn.Conv2d:
        """All channels of one place."""
        return self[1]  # type: ignore[return-value]

    @property
    def pointwise_norm(self) -> nn.BatchNorm2d:
        """Of the pointwise convolution's activations."""
        return self[3]  # type: ignore[return-value]


class ConvMixer(nn.Sequential):
    """ConvMixer for images of shape (N, C, H, W), normalised to [-1, 1]; returns logits (N, num_classes).

    The modules stand in the order of the authors' reference implementation, so state dicts interchange with it;
    `timm_state_dict` maps them to timm's names.

    Args:
        dim: d, the number of channels after patch embedding.
        depth: L, the number of ConvMixer layers.
        kernel_size: side of the depthwise kernel, odd.
        patch_size: P; H and W must be divisible by it.
        num_classes: number of logits.
        in_channels: C.

    Raises:
        ValueError: a size is not positive, the kernel size is even, or (in `forward`) the images do not fit.

    >>> import torch
    >>> model = ConvMixer(dim=256, depth=8)
    >>> model(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    >>> sum(p.numel() for p in model.parameters())
    718090
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        kernel_size: int = 9,
        patch_size: int = 4,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        sizes = {
            "dim": dim,
            "depth": depth,
            "kernel_size": kernel_size,
            "patch_size": patch_size,
            "num_classes": num_classes,
            "in_channels": in_channels,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd so that the output keeps its size, got {kernel_size}")
        super().__init__(
            # Eq. (1): z_0 = BN(GELU(Conv_{C->d}(x)))
            nn.Conv2d(in_channels, dim, kernel_size=patch_size, stride=patch_size),
            nn.GELU(),
            nn.BatchNorm2d(dim),
            # Eq. (2), L times
            *(MixerLayer(dim, kernel_size) for _ in range(depth)),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(dim, num_classes),
        )
        self.sizes = sizes

    def __getitem__(self, index: int | slice) -> nn.Module:  # type: ignore[override]
        """One module, or a slice of them as a plain `nn.Sequential`: ``model[:3]`` is Eq. (1)."""
        return nn.Sequential(*list(self)[index]) if isinstance(index, slice) else super().__getitem__(index)

    @property
    def embedding(self) -> nn.Conv2d:
        """The patch embedding, whose matrix is E."""
        return self[0]  # type: ignore[return-value]

    @property
    def embedding_norm(self) -> nn.BatchNorm2d:
        """Of the patch embedding's activations."""
        return self[2]  # type: ignore[return-value]

    @property
    def layers(self) -> list[MixerLayer]:
        """The L layers of Eq. (2)."""
        return list(self)[3:-3]  # type: ignore[return-value]

    @property
    def head(self) -> nn.Linear:
        """The classifier."""
        return self[-1]  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (N, C, H, W) -> logits (N, num_classes)."""
        self.check_images(x)
        return super().forward(x)

    def check_images(self, x: Tensor) -> None:
        """Raise ValueError unless `x` is a batch (N, C, H, W) that this network accepts.

        >>> import torch
        >>> ConvMixer(8, 1).check_images(torch.zeros(1, 3, 30, 32))
        Traceback (most recent call last):
            ...
        ValueError: this ConvMixer takes images (N, 3, H, W) with H and W divisible by 4, got (1, 3, 30, 32)
        """
        C, P = self.sizes["in_channels"], self.sizes["patch_size"]
        if x.ndim != 4 or x.shape[1] != C or x.shape[2] % P or x.shape[3] % P:
            raise ValueError(
                f"this ConvMixer takes images (N, {C}, H, W) with H and W divisible by {P}, got {tuple(x.shape)}"
            )


def timm_state_dict(model: ConvMixer) -> dict[str, Tensor]:
    """The model's weights under the names of timm's ConvMixer: ``0-2`` are its ``stem``, the layers its ``blocks``,
    the classifier its ``head``. The tensors are the model's own, not copies.

    >>> list(timm_state_dict(ConvMixer(8, 1)))[:2], list(timm_state_dict(ConvMixer(8, 1)))[-1]
    (['stem.0.weight', 'stem.0.bias'], 'head.bias')
    """
    depth, renamed = model.sizes["depth"], {}
    for name, tensor in model.state_dict().items():
        index, rest = name.split(".", 1)
        i = int(index)
        if i < 3:
            renamed[f"stem.{i}.{rest}"] = tensor
        elif i < 3 + depth:
            renamed[f"blocks.{i - 3}.{rest}"] = tensor
        else:
            renamed[f"head.{rest}"] = tensor
    return renamed


ARCHITECTURES: dict[str, type[ConvMixer | ViT]] = {"convmixer": ConvMixer, "vit": ViT}  # by their names in files


def save_model(model: ConvMixer | ViT, path: str | Path, **metadata: str) -> None:
    """Write a network's weights, architecture and sizes to a safetensors file, with further metadata.

    Compiled and parallel wrappers are taken off. Of what is there already, only a network of the same kind is
    replaced: a plain one by a plain one, an encrypted one, which has a ``card``, by an encrypted one.

    Raises:
        FileExistsError: there is anything else at `path`.
        ValueError: a network that `load_model` could not read: of another class, with changed layers, or with weights
            that are no numbers.

    >>> import tempfile
    >>> model = ConvMixer(8, 1, patch_size=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_model(model, folder + "/model.safetensors")
    ...     load_model(folder + "/model.safetensors").sizes["patch_size"]
    2
    """
    model = unwrapped(model)
    name = next((name for name, kind in ARCHITECTURES.items() if isinstance(model, kind)), None)
    if name is None:
        raise ValueError(f"a {type(model).__name__} is no network of this package; save its state_dict instead")
    weights = model.state_dict()
    try:
        check_entries(name, model.sizes, {n: Entry(w.is_floating_point(), tuple(w.shape)) for n, w in weights.items()})
        check_values(weights)
    except ValueError as error:
        raise ValueError(f"the network could not be loaded again: {error}; undo what changed its layers") from error
    over = replaceable_network(path, "card" in metadata)
    save_tensors(path, weights, {name: json.dumps(model.sizes)} | metadata, exclusive=over is None, over=over)


def replaceable_network(path: str | Path, encrypted: bool = False) -> bytes | None:
    """The file at `path`, if it holds a network, plain or `encrypted`, that another may replace; None if none is there.

    Raises:
        FileExistsError: there is anything else.
    """

    def plan(metadata: dict[str, str], entries: dict[str, Entry]) -> None:
        if metadata.keys().isdisjoint(ARCHITECTURES) or ("card" in metadata) != encrypted:
            raise ValueError("it is another file")

    what = f"{'an encrypted' if encrypted else 'a plain'} network that mixerkey saved"
    return replaceable(path, what, lambda found: load_tensors(found, plan))


def load_model(path: str | Path) -> Any:
    """Read what `save_model` wrote, in evaluation mode, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a network of the package in safetensors format, or its weights are no numbers.
    """
    return load_with_metadata(path)[0]


def load_with_metadata(path: str | Path) -> tuple[Any, dict[str, str]]:
    """As `load_model`, with the file's metadata, of one reading; memory is taken only for what the header fits."""

    def plan(metadata: dict[str, str], entries: dict[str, Entry]) -> tuple[ConvMixer | ViT, dict[str, str]]:
        name = next((name for name in ARCHITECTURES if name in metadata), None)
        if name is None:
            raise ValueError("it does not say which network it holds")
        sizes = parse_json(metadata[name])
        check_entries(name, sizes, entries)
        return ARCHITECTURES[name](**sizes), metadata

    try:
        (model, metadata), weights = load_tensors(path, plan)
        model.load_state_dict(weights)
        check_values(model.state_dict())
    except ValueError as error:
        raise ValueError(
            f"{Path(path).name} is not a network that mixerkey saved ({error}); "
            "expected a safetensors file written by save_model"
        ) from error
    return model.eval(), metadata


def check_entries(name: str, sizes: dict[str, Any], entries: dict[str, Entry]) -> None:
    """Refuse tensors other than those of a network of these sizes, without taking memory for one.

    Args:
        name: "convmixer" or "vit".
        sizes: as the file says them.
        entries: as its header says of each tensor.

    Raises:
        ValueError: they do not fit each other.

    >>> check_entries("convmixer", {"dim": 10**9, "depth": 1}, {})
    Traceback (most recent call last):
        ...
    ValueError: its dim is 1000000000, which its 0 tensors do not bear out
    """
    total = sum(prod(entry.shape) for entry in entries.values())
    for size, value in sizes.items():
        if type(value) is not int or not 1 <= value <= (len(entries) if size == "depth" else total):
            raise ValueError(f"its {size} is {value!r:.40}, which its {len(entries)} tensors do not bear out")
    try:
        with torch.device("meta"):
            expected = ARCHITECTURES[name](**sizes).state_dict()
    except TypeError as error:
        raise ValueError(f"its sizes are not those of a {name}: {error}") from error
    for n, tensor in expected.items():
        entry = Entry(tensor.is_floating_point(), tuple(tensor.shape))
        if entries.get(n) != entry:
            raise ValueError(f"{n} should be {entry}, but is {entries.get(n, 'missing')}")
    if extra := entries.keys() - expected.keys():
        raise ValueError(f"{min(extra)} belongs to no layer of a {name}")


def check_values(weights: dict[str, Tensor]) -> None:
    """Refuse weights, by name, that are no numbers, and variances that are negative.

    Raises:
        ValueError: one is.

    >>> check_values({"head.bias": torch.tensor([0.0, float("nan")])})
    Traceback (most recent call last):
        ...
    ValueError: head.bias holds NaN or infinity
    """
    for name, weight in weights.items():
        if not weight.isfinite().all():
            raise ValueError(f"{name} holds NaN or infinity")
        if name.endswith("running_var") and (weight < 0).any():
            raise ValueError(f"{name} holds a negative variance")


@overload
def load_pretrained(name: Literal["cifar10", "digits"]) -> ConvMixer: ...
@overload
def load_pretrained(name: Literal["vit"]) -> ViT: ...
@overload
def load_pretrained(name: str) -> ConvMixer | ViT: ...
def load_pretrained(name: str) -> ConvMixer | ViT:
    """A network that comes with the package, in evaluation mode, on the CPU.

    ``"cifar10"`` is the paper's ConvMixer-256/8 (P = 4); ``"digits"`` the pocket network for scikit-learn's 8×8
    digits (P = 2, one channel); ``"vit"`` a vision transformer for CIFAR-10 (P = 4), which takes an order of blocks,
    too. How each was trained stands in its receipt, see `mixerkey.training.load_receipt`.

    Raises:
        ValueError: there is no network of that name.

    >>> load_pretrained("digits").sizes["patch_size"]
    2
    """
    if name not in PRETRAINED:
        raise ValueError(f"no pretrained network {name!r}; choose from {', '.join(PRETRAINED)}")
    with as_file(files("mixerkey") / "weights" / f"{name}.safetensors") as path:
        return load_model(path)
