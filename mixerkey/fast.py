"""The same ConvMixer as batched matrix products: several times faster on a CPU.

On a feature map of h × w positions a depthwise convolution is, channel by channel, a multiplication with an
(hw, hw) matrix. With activations laid out channel first, as (d, N·hw), patch embedding and pointwise convolution are
one matrix product each, the depthwise convolution is d products, and nothing is transposed between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TypeGuard, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixerkey.convmixer import ConvMixer

CHUNK = 128  # images at a time in inference: smaller feature maps stay in memory that is already mapped and cached


def forward(model: nn.Module, x: Tensor) -> Tensor:
    """``model(x)`` in the way that is fastest here: as matrix products, for a ConvMixer in training, or on a CPU in
    another dtype than float32, in which PyTorch's own depthwise convolution is as fast, as the benchmarks show.
    A ConvMixer that was changed since it was built is asked itself.

    >>> model, x = ConvMixer(8, 2).eval(), torch.rand(2, 3, 32, 32)
    >>> torch.allclose(forward(model, x), model(x), atol=1e-5)
    True
    """
    products = torch.is_grad_enabled() or (x.device.type == "cpu" and x.dtype != torch.float32)
    return fast_forward(model, x) if products and as_built(model) else model(x)


def as_built(model: nn.Module) -> TypeGuard[ConvMixer]:
    """Whether this is a ConvMixer that computes what this module computes: no subclass, no other layer, no hook.

    >>> model = ConvMixer(8, 1)
    >>> as_built(model)
    True
    >>> model[1] = nn.ReLU()
    >>> as_built(model)
    False
    """
    if type(model) is not ConvMixer or _layers(model) != _built(**model.sizes):
        return False
    own = ("forward", "_forward_hooks", "_forward_pre_hooks")
    return not any(vars(module).get(name) for module in model.modules() for name in own)


def _layers(model: nn.Module) -> list[tuple[type, str]]:
    return [(type(module), module.extra_repr()) for module in model.modules()]


@lru_cache
def _built(**sizes: int) -> list[tuple[type, str]]:
    with torch.device("meta"):
        return _layers(ConvMixer(**sizes))


def fast_forward(model: ConvMixer, x: Tensor) -> Tensor:
    """``model(x)``, computed with the model's own parameters as matrix products; differentiable.

    In training mode it updates the running statistics of batch normalisation as ``model(x)`` does. It computes in
    the dtype of `x`, so bfloat16 images give bfloat16 products; the logits come back in the dtype of the parameters.

    Args:
        model: the network.
        x: normalised images (N, C, H, W), floating point.

    Returns:
        logits (N, num_classes).

    Raises:
        ValueError: the images do not fit the network, or it was changed since it was built.

    >>> model, x = ConvMixer(8, 2).eval().double(), torch.rand(2, 3, 32, 32, dtype=torch.float64)
    >>> torch.allclose(fast_forward(model, x), model(x), atol=1e-12)
    True
    """
    model.check_images(x)
    if len(x) > CHUNK and not model.training and not torch.is_grad_enabled():
        return torch.cat([fast_forward(model, part) for part in x.split(CHUNK)])
    for z in feature_maps(model, x):  # noqa: B007 (one map at a time, the last one stays)
        pass
    return model.head(z.mean(2).T.to(model.head.weight.dtype))  # (N, num_classes)


def feature_maps(model: ConvMixer, x: Tensor) -> Iterator[Tensor]:
    """What leaves the patch embedding, and then each layer, on the way of `fast_forward`: (d, N, hw) each.

    >>> [tuple(z.shape) for z in feature_maps(ConvMixer(8, 2), torch.rand(3, 3, 32, 32))]
    [(8, 3, 64), (8, 3, 64), (8, 3, 64)]
    """
    if not as_built(model):
        raise ValueError("the network's layers were changed, by others or by hooks: call it itself, model(x)")
    N, C, H, W = x.shape
    P, d = model.sizes["patch_size"], model.sizes["dim"]
    h, w = H // P, W // P
    z = x.reshape(N, C, h, P, w, P).permute(1, 3, 5, 0, 2, 4).reshape(C * P * P, N * h * w)  # (P*P*C, N*h*w)
    z = _batch_norm(model.embedding_norm, F.gelu(_pointwise(model.embedding, z)))  # Eq. (1), (d, N*h*w)
    yield z.view(d, N, h * w)
    for layer in model.layers:  # Eq. (2)
        mixed = _depthwise(layer.depthwise, z.view(d, N, h * w), h, w).view(d, N * h * w)
        z = _batch_norm(layer.depthwise_norm, F.gelu(mixed)) + z
        z = _batch_norm(layer.pointwise_norm, F.gelu(_pointwise(layer.pointwise, z)))
        yield z.view(d, N, h * w)


def _pointwise(conv: nn.Conv2d, z: Tensor) -> Tensor:
    """A convolution whose kernel covers its input, on columns: (c, n) -> (d, n)."""
    weight, bias = conv.weight, cast(Tensor, conv.bias)
    return torch.addmm(bias.to(z.dtype)[:, None], weight.flatten(1).to(z.dtype), z)


def _depthwise(conv: nn.Conv2d, z: Tensor, h: int, w: int) -> Tensor:
    """A depthwise convolution with padding "same", channel by channel as a matrix product: (d, N, hw) -> same."""
    weight, bias = conv.weight, cast(Tensor, conv.bias)
    kernel = F.pad(weight.flatten(1).to(z.dtype), (0, 1))  # (d, k*k + 1), the last one zero
    taps = _taps(h, w, weight.shape[-1]).to(z.device).flatten()  # (hw*hw,)
    matrices = kernel.gather(1, taps.expand(len(kernel), -1)).view(-1, h * w, h * w)  # (d, hw, hw)
    return torch.baddbmm(bias.to(z.dtype)[:, None, None], z, matrices)


@lru_cache
@torch.inference_mode(False)  # cached, so it must be usable in training too
def _taps(h: int, w: int, k: int) -> Tensor:
    """int64 (hw, hw): which kernel tap takes input position i to output position o; k*k where none does."""
    row, col = torch.arange(h).repeat_interleave(w), torch.arange(w).repeat(h)
    dy = row[:, None] - row[None, :] + k // 2
    dx = col[:, None] - col[None, :] + k // 2
    inside = (dy >= 0) & (dy < k) & (dx >= 0) & (dx < k)
    return torch.where(inside, dy * k + dx, k * k)


def _batch_norm(norm: nn.BatchNorm2d, z: Tensor) -> Tensor:
    """Batch normalisation over the columns of (d, n); one long row a channel."""
    if norm.training and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    return F.batch_norm(
        z[None],
        norm.running_mean,
        norm.running_var,
        norm.weight,
        norm.bias,
        norm.training,
        cast(float, norm.momentum),
        norm.eps,
    )[0]
