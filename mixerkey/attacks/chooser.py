"""Which way round are the colours? The book's own network tells a picture from its negative and exchanged channels.

What an encrypted picture keeps to itself once all places are known is the order of its three channels, and whether it
is a negative: 12 ways. Brightness tells little, since photographs may be dark or light; shadows, highlights, skin,
leaves and skies tell more. A network that learned to tell ten kinds of things apart has seen all of these. What its
layers make of each of the 12 pictures is weighed by a linear layer, which was trained on CIFAR-10's training images
with crops, brightness, contrast, gamma, saturation and colour casts at random (`mixerkey.experiments.chooser`).
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from itertools import permutations
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from mixerkey.cipher import normalize
from mixerkey.convmixer import ConvMixer, load_pretrained
from mixerkey.fast import feature_maps

SIDE = 32  # pixels of what the network sees
TILES = 32  # of one size from one image at most
CHUNK = 128  # pictures at a time
WEIGHTS = Path(str(files("mixerkey") / "attacks" / "chooser.safetensors"))
ORDERS = list(permutations(range(3)))


def recoloured(z: Tensor) -> Tensor:
    """Normalised images (N, 3, h, w) with each order of channels, as they are and negative: (N, 12, 3, h, w).

    >>> z = torch.rand(1, 3, 2, 2)
    >>> torch.equal(recoloured(z)[:, 0], z), torch.equal(recoloured(z)[:, 1], -z)
    (True, True)
    """
    return torch.stack([sign * z[:, order] for order in ORDERS for sign in (1, -1)], dim=1)


@torch.inference_mode()
def features(z: Tensor) -> Tensor:
    """What the network's layers make of pictures, averaged over places.

    Args:
        z: normalised images (N, 3, 32, 32).

    Returns:
        float32 (N, 256 * 9), from the patch embedding on.
    """
    parts = (feature_maps(_network(), part) for part in z.split(CHUNK))
    return torch.cat([torch.cat([maps.mean(2).T for maps in part], dim=1) for part in parts])


@cache
def _network() -> ConvMixer:
    return load_pretrained("cifar10").requires_grad_(False)


@cache
def _weights() -> Tensor:
    return load_file(WEIGHTS)["weight"]


@torch.inference_mode()
def colour_evidence(images: Tensor) -> Tensor:
    """Log-probability of each colour change having made the images from natural ones, float64 (N, 12).

    Squares of 32 pixels and of 64, 128, ... are shrunk to 32 and shown to the network; the mean over them counts as
    one look, however many there are, since what one photograph shows here it shows there.

    Args:
        images: uint8 (N, 3, H, W): pictures up to their colours.

    Returns:
        for each image and change, as `recoloured` orders them, mean log-probabilities.

    >>> from mixerkey.data import load_photos
    >>> int(colour_evidence(load_photos()["china"][None, :, :256, :256]).argmax())
    0
    """
    side, looks = min(SIDE, *images.shape[2:]), []
    while side <= min(images.shape[2:]):
        tiles = images.unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 1, 4, 5).flatten(1, 2)
        tiles = tiles[:, :: -(-tiles.shape[1] // TILES)]
        z = _resized(normalize(tiles.flatten(0, 1)))
        scores = features(recoloured(z).flatten(0, 1)) @ _weights()
        looks.append(scores.double().view(*tiles.shape[:2], -1).log_softmax(2).mean(1))
        side *= 2
    return torch.stack(looks).mean(0)


def _resized(z: Tensor) -> Tensor:
    """To what the network sees: shrunk by averaging, enlarged by interpolation."""
    if z.shape[-1] >= SIDE:
        return F.interpolate(z, size=(SIDE, SIDE), mode="area")
    return F.interpolate(z, size=(SIDE, SIDE), mode="bilinear")
