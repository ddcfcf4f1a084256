"""What an attacker knows of natural images, and how natural an image looks to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from mixerkey.blocks import segment
from mixerkey.cipher import normalize
from mixerkey.keys import block_size

CHUNK = 256  # images at a time
CONTRASTS = 6  # levels of contrast: a standard deviation below 2, 4, 8, 16, 32 grey levels, or more
ROUNDING = (2 / 255) ** 2 / 12  # variance that an 8-bit pixel's rounding adds
COLOUR = 0.1  # weight of the colours, in nats a block, against the structure, a correlation


@dataclass(frozen=True)
class Moments:
    """Second moments of normalised pixels x, y in a block and itself, its right and its lower neighbour.

    A key acts on `products` as on any second moment, T.T @ products @ T, signs and positions; on `squares`, which
    have no signs, by the permutation alone.

    Attributes:
        products: float64 (3, p_b, p_b), the means of x_i y_j.
        squares: float64 (3, p_b, p_b), the means of x_i² + y_j².
        means: float64 (p_b,), the means of x_i.
    """

    products: np.ndarray
    squares: np.ndarray
    means: np.ndarray

    def correlations(self) -> np.ndarray:
        """Of x_i and y_j, float64 (3, p_b, p_b): what brightness and contrast of each pixel leave, -1 to 1."""
        variances = np.maximum(np.diag(self.products[0]) - self.means**2, 0) + ROUNDING
        return (self.products - np.outer(self.means, self.means)) / np.sqrt(np.outer(variances, variances))

    def differences(self, signs: np.ndarray) -> np.ndarray:
        """The means of (s_i x_i - s_j y_j)², float64 (3, p_b, p_b), for signs s, ±1 (p_b,)."""
        return self.squares - 2 * np.outer(signs, signs) * self.products

    def distances(self, signs: np.ndarray | None = None) -> np.ndarray:
        """Logarithms of the `differences`, each of the three centred on 0.

        Pixels that are close in the image differ little, wherever a key has put them. The logarithm makes a ratio
        count the same for near and for far pixels; centred, it forgets how rich in contrast the images are.

        Args:
            signs: s, ±1 (p_b,); by default all 1.

        Returns:
            float64 (3, p_b, p_b); the diagonal of the first, a pixel's distance from itself, is 0.
        """
        s = np.ones(self.products.shape[1]) if signs is None else signs
        # Twice the rounding, so that equal pixels are not infinitely close.
        return centred(np.log(np.maximum(self.differences(s), 0) + 2 * ROUNDING))


def centred(D: np.ndarray) -> np.ndarray:
    """(3, p_b, p_b), changed in place: each matrix less its mean, and 0 for a pixel and itself in the first."""
    others = ~np.eye(D.shape[1], dtype=bool)
    D[0] = np.where(others, D[0] - D[0].mean(where=others), 0) if D.shape[1] > 1 else 0
    D[1:] -= D[1:].mean((1, 2), keepdims=True)
    return D


@dataclass(frozen=True)
class ImageStatistics:
    """A prior: what `image_statistics` found in public images.

    Attributes:
        patch_size: M.
        channels: C.
        moments: second moments within a block and between neighbours; ``moments.products[0]`` is the second-moment
            matrix of a block about mid-grey.
        colours: float64, log-probabilities of a block's mean colour and contrast, by bin (see `colour_bins`).
        images: how many images it was made from.
    """

    patch_size: int
    channels: int
    moments: Moments
    colours: np.ndarray
    images: int


def image_statistics(public_images: Tensor, patch_size: int, *, progress: bool = False) -> ImageStatistics:
    """What an attacker knows of natural images: from any that are public, no key and no victim involved.

    Args:
        public_images: uint8 (N, C, H, W), of at least two blocks a side.
        patch_size: M of the cipher to attack.
        progress: whether to show a progress bar on stderr.

    Raises:
        ValueError: images of another kind, none, or too small.

    >>> from mixerkey.data import load_digits
    >>> prior = image_statistics(load_digits("train")[0], 2)
    >>> prior.moments.products.shape, prior.images
    ((3, 4, 4), 1437)
    """
    groups = image_moments(public_images, patch_size, 1, progress=progress)
    C = public_images.shape[1]
    counts = np.ones(_levels(C) ** C * CONTRASTS)  # no bin is impossible
    for images in public_images.split(CHUNK):
        counts += np.bincount(colour_bins(*block_colours(images, patch_size)).ravel(), minlength=len(counts))
    return ImageStatistics(patch_size, C, groups[0], np.log(counts / counts.sum()), len(public_images))


def image_moments(images: Tensor, patch_size: int, groups: int, *, progress: bool = False) -> list[Moments]:
    """`Moments` of images cut into equally large groups, as nearly as possible.

    Args:
        images: uint8 (N, C, H, W), of at least two blocks a side.
        patch_size: M.
        groups: into how many, 1 to N.
        progress: whether to show a progress bar on stderr.

    Raises:
        ValueError: images of another kind, none, or too small.

    >>> first, second = image_moments(torch.zeros(3, 1, 4, 4, dtype=torch.uint8), 2, 2)  # black is -1
    >>> first.products[0, 0], first.squares[0, 0]
    (array([1., 1., 1., 1.]), array([2., 2., 2., 2.]))
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or not len(images):
        raise ValueError(f"need uint8 images (N, C, H, W), at least one; got {images.dtype} {tuple(images.shape)}")
    if min(images.shape[2:]) < 2 * patch_size:
        raise ValueError(
            f"need at least two blocks of {patch_size} pixels a side, since neighbouring blocks are compared; "
            f"got images of {images.shape[2]} x {images.shape[3]}"
        )
    p = block_size(patch_size, images.shape[1])
    result = []
    with tqdm(total=len(images), desc="statistics", unit="image", disable=not progress) as bar:
        for group in images.tensor_split(groups):
            products, squares = torch.zeros(3, p, p, dtype=torch.float64), torch.zeros(3, p, p, dtype=torch.float64)
            means = torch.zeros(p, dtype=torch.float64)
            for part in group.split(CHUNK):
                x = segment(normalize(part), patch_size)  # (N, h, w, p_b)
                means += len(part) / len(group) * x.mean((0, 1, 2), dtype=torch.float64)
                for k, (a, b) in enumerate(((x, x), (x[:, :, :-1], x[:, :, 1:]), (x[:, :-1], x[:, 1:]))):
                    a, b = a.reshape(-1, p), b.reshape(-1, p)
                    share = len(part) / len(group) / len(a)
                    products[k] += share * (a.T @ b)
                    squares[k] += share * ((a**2).sum(0)[:, None] + (b**2).sum(0))
                bar.update(len(part))
            result.append(Moments(products.numpy(), squares.numpy(), means.numpy()))
    return result


def block_colours(images: Tensor, patch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean colour float32 (N, blocks, C) in [0, 1] and level of contrast int64 (N, blocks) of every block.

    Args:
        images: uint8 (N, C, H, W).
        patch_size: M.

    >>> block_colours(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8), 2)
    (array([[[1.]]], dtype=float32), array([[0]]))
    """
    N, C = images.shape[:2]
    x = segment(images, patch_size).reshape(N, -1, C, patch_size**2).float()
    spread = x.mean(2).std(-1, correction=0)  # of the pixels' grey values
    contrast = spread.clamp(min=1).log2().long().clamp(max=CONTRASTS - 1)
    return (x.mean(-1) / 255).numpy(), contrast.numpy()


def colour_bins(colour: np.ndarray, contrast: np.ndarray) -> np.ndarray:
    """The bin of each block, int64 (N, blocks), from what `block_colours` gives.

    >>> white, flat = np.ones((1, 1, 3)), np.array([[0]])
    >>> colour_bins(white, flat), 8**3 * CONTRASTS  # 8 levels a channel
    (array([[3066]]), 3072)
    """
    C = colour.shape[-1]
    levels = _levels(C)
    steps = np.minimum((colour * levels).astype(np.int64), levels - 1)
    return steps @ levels ** np.arange(C) * CONTRASTS + contrast


def naturalness(images: Tensor, prior: ImageStatistics) -> float:
    """How much like the public images these look: structure plus a tenth of colour.

    Structure is the correlation of the logarithmic distances between pixels (see `Moments.distances`) with those of
    the public images, at most 1. Colour is the mean log-likelihood of a block's mean colour and contrast among the
    public images, in nats.

    Args:
        images: uint8 (N, C, H, W).
        prior: from `image_statistics`.

    Raises:
        ValueError: images of another kind, none, too small, or with another number of channels.

    >>> from mixerkey import Key, encrypt_images
    >>> from mixerkey.data import load_digits
    >>> prior, images = image_statistics(load_digits("train")[0], 2), load_digits("test")[0]
    >>> naturalness(images, prior) > naturalness(encrypt_images(images, Key.from_seed(0, 2, 1)), prior)
    True
    """
    check_channels(images, prior)
    (moments,) = image_moments(images, prior.patch_size, 1)
    colours = prior.colours[colour_bins(*block_colours(images, prior.patch_size))]
    return correlation(prior.moments.distances(), moments.distances()) + COLOUR * float(colours.mean())


def photographic(images: Tensor) -> int:
    """How many of three facts hold that are true of mixed photographs, and tell their colours.

    Red and blue differ the most, because green light lies between them; red is brighter than blue, because most things
    are warm in colour; and light comes from above. Of the 12 ways round of the colours one alone can have all three.
    A few pictures, or many of one subject, such as the sea, need not have them.

    Args:
        images: uint8 (N, 3, H, W).

    >>> from mixerkey.data import load_photos
    >>> tuple(photographic(photo[None]) for photo in load_photos().values())  # a flower on dark ground breaks two
    (3, 1)
    >>> photographic(torch.stack(list(load_photos().values())))
    3
    """
    red, green, blue = images.float().unbind(1)
    half = images.shape[2] // 2
    apart = F.mse_loss(red, blue) > max(F.mse_loss(red, green), F.mse_loss(green, blue))
    lit = images[:, :, :half].float().mean() > images[:, :, -half:].float().mean()
    return int(apart) + int(red.mean() > blue.mean()) + int(lit)


def correlation(A: np.ndarray, B: np.ndarray) -> float:
    """Of two centred arrays, -1 to 1; 0 where one of them is constant.

    >>> round(correlation(np.array([-1.0, 1.0]), np.array([2.0, -2.0])), 6)
    -1.0
    """
    norm = np.linalg.norm(A) * np.linalg.norm(B)
    return float(np.vdot(A, B) / norm) if norm else 0.0


def check_channels(images: Tensor, prior: ImageStatistics) -> None:
    """Whether the images are such as the prior is about.

    Raises:
        ValueError: they are not.
    """
    if images.ndim != 4 or images.shape[1] != prior.channels:
        raise ValueError(
            f"the prior is for images (N, {prior.channels}, H, W), got {tuple(images.shape)}; "
            "take public images with the same number of channels"
        )


def _levels(channels: int) -> int:
    """Levels of each channel, so that there are about 512 colours; at most 32, at least 2."""
    return max(2, min(32, round(512 ** (1 / channels))))
