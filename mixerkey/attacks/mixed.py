"""Ciphertext only, against mixed pixels: the matrix of a `MatrixKey`, orthogonal or any."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from torch import Tensor

from mixerkey.attacks.recovery import Recovery
from mixerkey.attacks.statistics import CHUNK, ImageStatistics, naturalness
from mixerkey.blocks import segment
from mixerkey.cipher import decrypt_images
from mixerkey.keys import MatrixKey

JUDGED = 1000  # images are enough to judge colours by
ROUNDS = 300  # of refinement at most
MIXES = ((1, 1), (1, 0.5), (0.5, 1), (1, -0.5), (1, 0), (0, 1))  # of the two neighbours, whose eigenvectors are tried


def unmix(mixed: Tensor, prior: ImageStatistics, *, orthogonal: bool = True) -> Recovery[MatrixKey]:
    """The matrix T of a `MatrixKey` from images mixed by it, x' = x T, and public statistics.

    Second moments become Σ' = Tᵀ Σ T, and those of neighbouring blocks likewise. Whitened, both are known up to an
    orthogonal matrix, whatever T is: x' Σ'^(-1/2) = x Σ^(-1/2) Q. Where T is orthogonal itself, Q = T, and Σ helps.

    The eigenvectors of the moments are those of the public ones times Q, up to a sign each. The other moments show
    which signs belong together. Then Q is refined: the orthogonal matrix that takes the public moments nearest to those
    of the mixed images, by repeated projection (orthogonal Procrustes). Brightness and the other colours vary nearly
    independently, so the sign of each of them remains, and how natural the images look decides.

    Args:
        mixed: what `mixerkey.encrypt_images` gives with such a key, float (N, C, H, W), at least two blocks a side.
        prior: from `image_statistics`, of images like the secret ones.
        orthogonal: whether T is known to be orthogonal; the estimate is then orthogonal, and better.

    Returns:
        an estimate of the key, a `MatrixKey`; its score is the `naturalness` of the images that it decrypts. It is
        never exact; with like pictures, the nearer the more images there are. What is exact, if it is found, begins
        with whole grey levels: see `mixerkey.attacks.turned_lattice` and `mixerkey.attacks.sheared_lattice`.

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
    plain, hidden = prior.moments.products, products(mixed, M)
    A, B = whitened(plain), whitened(hidden)
    if orthogonal:  # no direction is drowned by the brightness, since logarithms are compared
        A, B = (np.concatenate([_log(products[0])[None], white]) for products, white in ((plain, A), (hidden, B)))
        starts = [(_eigenvectors(plain[0]), _eigenvectors(hidden[0]))]
    else:
        starts = [(_eigenvectors(a * A[0] + b * A[1]), _eigenvectors(a * B[0] + b * B[1])) for a, b in MIXES]
    A, B = (moments / np.linalg.norm(moments, axis=(1, 2), keepdims=True) for moments in (A, B))
    Q = max((refined(A, B, _aligned(A, B, U, V)) for U, V in starts), key=lambda Q: (A * (Q @ B @ Q.T)).sum())
    keys = []
    for g in _colour_reflections(prior):
        T = refined(A, B, g @ Q)
        if not orthogonal:
            T = power(plain[0], -0.5) @ T @ power(hidden[0], 0.5)
        keys.append(MatrixKey(torch.from_numpy(T), M, prior.channels))
    scores = [naturalness(pixels(decrypt_images(mixed[:JUDGED], key)), prior) for key in keys]
    return Recovery(keys[int(np.argmax(scores))], max(scores))


def pixels(x: Tensor) -> Tensor:
    """Floats in [0, 1] as uint8, rounded.

    >>> pixels(torch.tensor([0.0, 0.5, 1.0]))
    tensor([  0, 128, 255], dtype=torch.uint8)
    """
    return (255 * x).round().to(torch.uint8)


def _colour_reflections(prior: ImageStatistics) -> list[np.ndarray]:
    """Changes of a plain block that leave its second moments nearly alone: signs of the principal colours, (p, p)."""
    C, area = prior.channels, prior.patch_size**2
    of_pixels = prior.moments.products[0].reshape(C, area, C, area)
    colours = np.linalg.eigh(np.einsum("aibi->ab", of_pixels))[1]
    return [np.kron(colours * signs @ colours.T, np.eye(area)) for signs in product((1, -1), repeat=C)]


def whitened(products: np.ndarray) -> np.ndarray:
    """The moments of right and lower neighbours, whitened by Σ: (2, p, p)."""
    root = power(products[0], -0.5)
    return np.stack([root @ products[1] @ root, root @ products[2] @ root])


def power(S: np.ndarray, exponent: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(S)
    return vectors * np.maximum(values, values[-1] * 1e-6) ** exponent @ vectors.T


def _log(S: np.ndarray) -> np.ndarray:
    """log S, of trace 0."""
    values, vectors = np.linalg.eigh(S)
    logs = np.log(np.maximum(values, values[-1] * 1e-6))
    return vectors * (logs - logs.mean()) @ vectors.T


def _eigenvectors(S: np.ndarray) -> np.ndarray:
    return np.linalg.eigh(S + S.T)[1]


def _aligned(A: np.ndarray, B: np.ndarray, U: np.ndarray, V: np.ndarray) -> np.ndarray:
    """An orthogonal Q for which Q B Qᵀ is like A, from the eigenvectors of a member of each."""
    F, G = U.T @ A @ U, V.T @ B @ V
    return U @ (_synchronised((F * G).sum(0))[:, None] * V.T)


def refined(A: np.ndarray, B: np.ndarray, Q: np.ndarray) -> np.ndarray:
    """Q, turned until Q B Qᵀ comes no nearer to A."""
    for _ in range(ROUNDS):
        left, _, right = np.linalg.svd((A @ Q @ B.transpose(0, 2, 1) + A.transpose(0, 2, 1) @ Q @ B).sum(0))
        if np.abs(Q - left @ right).max() < 1e-6:
            break
        Q = left @ right
    return Q


def _synchronised(W: np.ndarray) -> np.ndarray:
    """Signs s, ±1, for which the sum of s_i s_j W_ij is large: the leading eigenvector's, then single flips."""
    W = W + W.T
    np.fill_diagonal(W, 0)
    s = np.where(np.linalg.eigh(W)[1][:, -1] < 0, -1.0, 1.0)
    while (gain := -s * (W @ s)).max() > 1e-12:
        s[gain.argmax()] *= -1
    return s


def products(x: Tensor, patch_size: int) -> np.ndarray:
    """As `Moments.products`, of images that are normalised already."""

    def sums(part: Tensor) -> Tensor:
        z = segment(part, patch_size).double()  # (n, h, w, p_b)
        pairs = ((z, z), (z[:, :, :-1], z[:, :, 1:]), (z[:, :-1], z[:, 1:]))
        return torch.stack([torch.einsum("nhwi,nhwj->ij", a, b) / a[0, ..., 0].numel() for a, b in pairs])

    total = torch.stack([sums(part) for part in x.split(CHUNK)]).sum(0)
    return (total / len(x)).numpy()
