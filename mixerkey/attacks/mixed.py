"""Ciphertext only, against mixed pixels: the orthogonal matrix of a `MatrixKey`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mixerkey.attacks.recovery import Recovery
from mixerkey.attacks.statistics import CHUNK, ImageStatistics, naturalness
from mixerkey.blocks import segment
from mixerkey.cipher import decrypt_images
from mixerkey.keys import MatrixKey

JUDGED = 100  # images are enough to tell a negative
ROUNDS = 100  # of refinement at most


def unmix(mixed: Tensor, prior: ImageStatistics) -> Recovery[MatrixKey]:
    """The orthogonal matrix Q of a `MatrixKey` from images mixed by it, x' = x Q, and public statistics.

    Second moments become Qᵀ Σ Q, so the eigenvectors of one are those of the other times Q, up to a sign each. The
    moments of neighbouring blocks show which signs belong together, and how natural the images look, the last one.
    Then Q is refined: the orthogonal matrix that takes the logarithm of Σ and the whitened moments of neighbours
    nearest to those of the mixed images, by repeated projection (orthogonal Procrustes).

    Args:
        mixed: what `mixerkey.encrypt_images` gives with such a key, float (N, C, H, W), at least two blocks a side.
        prior: from `image_statistics`, of images like the secret ones.

    Returns:
        an estimate of the key, a `MatrixKey`; its score is the `naturalness` of the images that it decrypts.

    Raises:
        ValueError: images with another number of channels than the prior's.

    >>> from mixerkey.attacks import image_statistics
    >>> from mixerkey.data import load_digits
    >>> from mixerkey import encrypt_images
    >>> (public, _), (private, _) = load_digits("train"), load_digits("test")
    >>> secret = MatrixKey.orthogonal(2, 1, seed=0)
    >>> found = unmix(encrypt_images(private, secret), image_statistics(public, 2)).key
    >>> round((found.matrix() * secret.matrix()).sum().item() / 4, 1)  # 1 for equal matrices
    1.0
    """
    M = prior.patch_size
    if mixed.ndim != 4 or mixed.shape[1] != prior.channels:
        raise ValueError(f"the prior is for images (N, {prior.channels}, H, W), got {tuple(mixed.shape)}")
    A, U = _whitened(prior.moments.products)
    B, V = _whitened(_products(mixed, M))
    F, G = U.T @ A @ U, V.T @ B @ V
    signs = _synchronised((F * G).sum(0))
    Q = U @ (signs[:, None] * V.T)
    for _ in range(ROUNDS):
        left, _, right = np.linalg.svd((A @ Q @ B.transpose(0, 2, 1) + A.transpose(0, 2, 1) @ Q @ B).sum(0))
        if np.abs(Q - left @ right).max() < 1e-6:
            break
        Q = left @ right
    keys = [MatrixKey(torch.from_numpy(sign * Q), M, prior.channels) for sign in (1, -1)]
    scores = [naturalness(pixels(decrypt_images(mixed[:JUDGED], key)), prior) for key in keys]
    return Recovery(keys[int(np.argmax(scores))], max(scores))


def pixels(x: Tensor) -> Tensor:
    """Floats in [0, 1] as uint8, rounded.

    >>> pixels(torch.tensor([0.0, 0.5, 1.0]))
    tensor([  0, 128, 255], dtype=torch.uint8)
    """
    return (255 * x).round().to(torch.uint8)


def _whitened(products: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log Σ and the moments of neighbours, whitened by Σ, each of unit norm: (3, p, p); and the eigenvectors of Σ.

    An orthogonal matrix passes through all of this, and no direction is drowned by the brightness.
    """
    values, vectors = np.linalg.eigh(products[0])
    values = np.maximum(values, values[-1] * 1e-6)
    root = vectors / np.sqrt(values) @ vectors.T
    log = vectors * np.log(values) @ vectors.T
    log -= np.trace(log) / len(log) * np.eye(len(log))
    result = np.stack([log, root @ products[1] @ root, root @ products[2] @ root])
    return result / np.linalg.norm(result, axis=(1, 2), keepdims=True), vectors


def _synchronised(W: np.ndarray) -> np.ndarray:
    """Signs s, ±1, for which the sum of s_i s_j W_ij is large: the leading eigenvector's, then single flips."""
    W = W + W.T
    np.fill_diagonal(W, 0)
    s = np.where(np.linalg.eigh(W)[1][:, -1] < 0, -1.0, 1.0)
    while (gain := -s * (W @ s)).max() > 1e-12:
        s[gain.argmax()] *= -1
    return s


def _products(x: Tensor, patch_size: int) -> np.ndarray:
    """As `Moments.products`, of images that are normalised already."""

    def sums(part: Tensor) -> Tensor:
        z = segment(part, patch_size).double()  # (n, h, w, p_b)
        pairs = ((z, z), (z[:, :, :-1], z[:, :, 1:]), (z[:, :-1], z[:, 1:]))
        return torch.stack([torch.einsum("nhwi,nhwj->ij", a, b) / a[0, ..., 0].numel() for a, b in pairs])

    total = torch.stack([sums(part) for part in x.split(CHUNK)]).sum(0)
    return (total / len(x)).numpy()
