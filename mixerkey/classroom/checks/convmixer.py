"""The exercises of chapter 1, ConvMixer: right answers, inputs, classic mistakes."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mixerkey.classroom.checks.checker import Value, checker
from mixerkey.classroom.checks.inputs import draw, normal


def count(d: int, L: int, k: int, P: int, C: int, classes: int, bias: int = 1, norm: int = 1) -> int:
    """The parameters of a ConvMixer; `bias` and `norm` are 0 to leave those of convolutions or of the norms out."""
    layer = d * k * k + d * d + bias * 2 * d + norm * 4 * d
    return d * C * P * P + bias * d + norm * 2 * d + L * layer + classes * d + classes


LARGE = (1536, 20, 9, 7, 3, 1000)
parameters = Value(
    count(*LARGE),
    "two convolutions and two normalisations a layer, the embedding with its own, and the classifier.",
    (
        (count(*LARGE, norm=0), "the scales and offsets of batch normalisation are missing"),
        (count(*LARGE, bias=0), "the biases of the convolutions are missing, or the offsets of batch normalisation"),
        (count(*LARGE, bias=0, norm=0), "the biases and batch normalisation are missing"),
        (count(*LARGE) - 1000 * 1536 - 1000, "the classifier is missing"),
        (count(*LARGE) - 1000, "the biases of the classifier are missing"),
        (count(1536, 1, *LARGE[2:]), "these are the parameters with one layer; there are 20"),
        (
            count(*LARGE) - 20 * 2 * 1536,
            "a layer has two batch normalisations, this counts one, or the biases of its two convolutions are missing",
        ),
        (count(*LARGE) - 1536, "the bias of the embedding is missing"),
        *[(count(1536, L, *LARGE[2:]), f"this is for {L} layers; there are 20") for L in (19, 21)],
        (count(1536, 20, 7, 9, 3, 1000), "P and k are exchanged: a patch is 7 × 7, a kernel 9 × 9"),
        (count(*LARGE[:4], 1, 1000), "an image has three channels"),
        (count(*LARGE[:5], 10), "there are 1,000 classes"),
        (51.6, "these are millions; give the number, with all its digits"),
        (
            count(*LARGE) - 20 * 1536,
            "a layer has two convolutions with a bias each, and two normalisations with an offset each; one is missing",
        ),
        (count(*LARGE) - 2 * 1536, "the batch normalisation behind the embedding is missing"),
        (count(*LARGE) + (20 * 2 + 1) * 2 * 1536, "running means and variances are no parameters; nothing learns them"),
        (
            count(*LARGE) + 20 * 81 * 1536 * 1535,
            "this counts a full convolution; a depthwise one has k² weights for each channel, not k² d",
        ),
    ),
)


@checker(
    lambda g: [(4, 5, 5), *[(2 + draw(g, 30), 3 + 2 * draw(g, 9), 2 + draw(g, 9)) for _ in range(6)]],
    "one patch to begin with, and k - 1 patches more with each layer.",
    (
        (lambda P, k, L: 1 + L * (k - 1), "this counts patches; each is P pixels wide"),
        (lambda P, k, L: P + L * (k - 1), "a layer looks k - 1 patches further, not k - 1 pixels"),
        (lambda P, k, L: P * (1 + L * k), "a layer adds k - 1 patches, not k: the middle of the kernel is not new"),
        (lambda P, k, L: P * L * (k - 1), "before the first layer a position sees its own patch: add it"),
        (lambda P, k, L: P * (1 + (L - 1) * (k - 1)), "the first layer looks around as well: there are L of them"),
        (lambda P, k, L: P * L * k, "the kernels of two layers overlap: the next one adds k - 1 patches, not k"),
        (lambda P, k, L: L * k, "a layer adds k - 1 patches, not k, and each patch is P pixels wide"),
        (
            lambda P, k, L: P * L * (k - 1) + 1,
            "before the first layer a position sees its own patch, P pixels, not one",
        ),
        (lambda P, k, L: P + L * k, "a layer adds k - 1 patches, not k, and each patch is P pixels wide"),
        (lambda P, k, L: P * k, "this is one layer; there are L of them"),
        (
            lambda P, k, L: P * k + (L - 1) * (k - 1),
            "behind every layer a step is P pixels wide, not behind the first alone",
        ),
        (
            lambda P, k, L: P + sum((k - 1) * P**layer for layer in range(1, L + 1)),
            "the embedding alone has a stride of P; in the layers the stride is 1, so their steps stay P pixels wide",
        ),
        (
            lambda P, k, L: P * (1 + (L + 1) * (k - 1)),
            "the embedding sees its own patch; only the L layers look around",
        ),
        (lambda P, k, L: P * L * (k // 2), "this is how far it looks to one side; add the other, and the patch itself"),
        (lambda P, k, L: (P * (1 + L * (k - 1))) ** 2, "this is the area of the field; its width is asked for"),
        (lambda P, k, L: P * k**L, "the field grows by the same amount with each layer; it does not multiply"),
        (lambda P, k, L: P * (1 + L * (k // 2)), "the kernel looks k // 2 patches to both sides, this counts one side"),
    ),
)
def receptive_field(P: int, k: int, L: int) -> int:
    return P * (1 + L * (k - 1))


def normalised_over(*axes: int, unbiased: bool = False, eps: float = 1e-5) -> Callable[[Tensor], Tensor]:
    """Normalisation of (N, d, h, w) over these axes."""

    def norm(z: Tensor) -> Tensor:
        variance, mean = torch.var_mean(z, axes, correction=int(unbiased), keepdim=True)
        return (z - mean) / (variance + eps).sqrt()

    return norm


def by_deviation(*axes: int, unbiased: bool, eps: float) -> Callable[[Tensor], Tensor]:
    """With eps added to the root."""

    def norm(z: Tensor) -> Tensor:
        deviation, mean = torch.std_mean(z, axes, correction=int(unbiased), keepdim=True)
        return (z - mean) / (deviation + eps)

    return norm


def evaluated(passes: int) -> Callable[[Tensor], Tensor]:
    """A layer in eval(), after so many passes in training mode, each with a momentum of 0.1."""

    def norm(z: Tensor) -> Tensor:
        layer = torch.nn.BatchNorm2d(z.shape[1], dtype=z.dtype)
        for _ in range(passes):
            layer(z)
        return layer.eval()(z).detach()

    return norm


OTHER_AXES = {
    (0,): "this averages over the images only; a channel's statistics are over its map, too",
    (2, 3): "this treats each image alone; a batch shares its statistics",
    (0, 1, 2, 3): "this mixes the channels; each has its own mean and variance",
    (1, 2, 3): "this treats each image alone, and mixes its channels (layer normalisation)",
    (1,): "this averages over the channels; they are what is kept apart",
}
EVALUATED = "this takes the layer's running mean and variance, as in eval(); in training those of the batch count"


@checker(
    lambda g: [
        (torch.arange(24.0).double().reshape(2, 3, 2, 2).square(),),
        (normal(g, 5, 3, 4, 4),),
        (normal(g, 2, 7, 3, 5),),
    ],
    "mean and variance of each channel over images, rows and columns.",
    (
        (normalised_over(0, 2, 3, unbiased=True), "var() divides by n - 1; normalising divides by n"),
        *[
            (norm, message)
            for axes, message in OTHER_AXES.items()
            for unbiased in (False, True)
            for norm in (
                *[normalised_over(*axes, unbiased=unbiased, eps=eps) for eps in (1e-5, 0.0)],
                by_deviation(*axes, unbiased=unbiased, eps=1e-5),
            )
        ],
        (normalised_over(0, 2, 3, eps=0.0), "eps is missing under the root"),
        *[
            (normalised_over(0, 2, 3, eps=eps), "eps is another one: it is 1e-5 here, as in PyTorch")
            for eps in (1e-3, 1e-4, 1e-6, 1e-8)
        ],
        (
            by_deviation(0, 2, 3, unbiased=False, eps=1e-5),
            "eps is added to the root; it belongs under it, to the variance",
        ),
        *[
            (
                by_deviation(0, 2, 3, unbiased=True, eps=eps),
                "std() divides by n - 1, normalising by n; and eps belongs under the root",
            )
            for eps in (0.0, 1e-5)
        ],
        *[(evaluated(passes), EVALUATED) for passes in (0, 1)],
        (
            lambda z: z / (z.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt(),
            "the root is right; take the channel's mean away before you divide",
        ),
        (lambda z: z - z.mean((0, 2, 3), keepdim=True), "the mean is gone, the division by the root is missing"),
        (
            lambda z: (z - z.mean((0, 2, 3), keepdim=True)) / (z.var((0, 2, 3), correction=0, keepdim=True) + 1e-5),
            "this divides by the variance; the standard deviation is its root",
        ),
    ),
)
def batch_norm_train(z: Tensor) -> Tensor:
    return normalised_over(0, 2, 3)(z)


def mixed(axes: str, then: Callable[[Tensor], Tensor] = F.gelu) -> Callable[[Tensor, Tensor], Tensor]:
    """The weights W of z (d, d, d) over one of its axes, by einsum's letters, then a function."""
    return lambda z, W: then(torch.einsum(axes, W, z))


CHANNELS = "ij,jab->iab"


@checker(
    # As many rows and columns as channels, so that mixing along any of them runs.
    lambda g: [
        (
            torch.tensor([[[1.0, 2.0], [0.0, -1.0]], [[2.0, 0.0], [1.0, 1.0]]]).double(),
            torch.tensor([[1.0, 1.0], [3.0, -1.0]]).double(),
        ),
        *[(normal(g, d, d, d), normal(g, d, d)) for d in (3, 5)],
    ],
    "all channels of one position with the same weights, then each number by itself.",
    (
        (
            mixed(CHANNELS, lambda u: F.gelu(u, approximate="tanh")),
            "this is GELU's approximation by tanh; Φ has erf in it",
        ),
        (
            mixed(CHANNELS, lambda u: u * (1.702 * u).sigmoid()),
            "this is GELU's approximation by a sigmoid; Φ has erf in it",
        ),
        (mixed(CHANNELS, lambda u: u * (1 + u.erf()) / 2), "erf takes u divided by the root of 2"),
        (mixed(CHANNELS, lambda u: u * (1 + (u / 2**0.5).erf())), "GELU has a factor 1/2: Φ lies between 0 and 1"),
        (mixed(CHANNELS, lambda u: (1 + (u / 2**0.5).erf()) / 2), "this is Φ(u); GELU is u times it"),
        (mixed(CHANNELS, F.silu), "this is SiLU, u times a sigmoid; GELU is u times Φ(u)"),
        (
            mixed(CHANNELS, lambda u: u * (-(u**2) / 2).exp() / (2 * torch.pi) ** 0.5),
            "this has the normal density; Φ is the distribution, its integral",
        ),
        (
            lambda z, W: F.gelu(W[:, :, None, None] * z).sum(1),
            "this applies GELU to each product; it acts on their sum over the channels",
        ),
        (
            lambda z, W: F.gelu(W.diagonal()[:, None, None] * z),
            "each channel meets its own weight only; a pointwise convolution mixes all channels",
        ),
        (mixed(CHANNELS, F.relu), "this is ReLU; GELU lets a little of negative numbers pass"),
        (
            lambda z, W: z + F.gelu(torch.einsum(CHANNELS, W, z)),
            "this adds the input; the residual goes around the depthwise convolution",
        ),
        (mixed(CHANNELS, lambda u: u), "the channels are mixed, the activation is missing"),
        (
            lambda z, W: torch.einsum(CHANNELS, W, F.gelu(z)),
            "the activation comes after the convolution: it acts on what was mixed",
        ),
        (lambda z, W: F.gelu(z), "this is GELU alone, the convolution is missing"),
        (mixed("ji,jab->iab"), "this is the transpose of W: row i has the weights of output channel i"),
        (
            mixed("ij,ajb->aib"),
            "this mixes the rows of each map; a pointwise convolution mixes channels, the first axis",
        ),
        (
            mixed("ji,ajb->aib"),
            "this mixes the rows of each map; a pointwise convolution mixes channels, the first axis",
        ),
        (
            mixed("ij,abj->abi"),
            "this mixes the columns of each map; a pointwise convolution mixes channels, the first axis",
        ),
        (
            mixed("ji,abj->abi"),
            "this mixes the columns of each map; a pointwise convolution mixes channels, the first axis",
        ),
        (mixed("ij,jab->abi"), "right numbers with the channels last; they are the first axis"),
    ),
)
def pointwise_gelu(z: Tensor, W: Tensor) -> Tensor:
    return mixed(CHANNELS)(z, W)
