"""Several encrypted models of one network: what they tell about the keys between them, without any image.

From T_a⁻¹ E and T_b⁻¹ E, if E has full row rank, T_a⁻¹ T_b = (T_a⁻¹ E)(T_b⁻¹ E)⁺, for any invertible T_a and T_b. This
is the relative key: it takes images of the key a to images of the key b. So keys per client, per image and per place
are no more than one key to whoever holds the models.
"""

from __future__ import annotations

from torch import Tensor, nn

from mixerkey.attacks.pairs import least_squares, signed_assignment
from mixerkey.attacks.recovery import Recovery
from mixerkey.embedding import UnsharedEmbedding, patch_matrix
from mixerkey.keys import MatrixKey, PatchKeys, SignedPermutation

EXACT = 1 - 1e-6  # score from which on a signed permutation explains two models up to rounding
Relative = Recovery[SignedPermutation] | Recovery[MatrixKey]


def relative_key(first: nn.Module, second: nn.Module, patch_size: int, channels: int) -> Relative:
    """The key between two encrypted models of one network: ``a.inverse().then(b)``, which turns images of a into b's.

    Args:
        first: encrypted with a.
        second: encrypted with b.
        patch_size: M of both keys.
        channels: C.

    Returns:
        a `SignedPermutation` where one explains both models, otherwise a `MatrixKey`. `ambiguous` is empty where the
        rows of E are different, even up to sign, or, for matrices, where E has full row rank.

    Raises:
        ValueError: the models have no patch embedding, or several, or embeddings of different shapes.

    >>> from mixerkey import Key, encrypt_model, load_pretrained
    >>> model, a, b = load_pretrained("digits"), Key.generate(2, 1), Key.generate(2, 1)
    >>> relative_key(encrypt_model(model, a), encrypt_model(model, b), 2, 1).key == a.inverse().then(b)
    True
    """
    return between(patch_matrix(first), patch_matrix(second), patch_size, channels)


def between(A: Tensor, B: Tensor, patch_size: int, channels: int) -> Relative:
    """As `relative_key`, of two matrices (p_b, d).

    Filters go from A to B by the dual of the relative key; for signed permutations that is the key itself.
    """
    if A.shape != B.shape:
        raise ValueError(f"the two embeddings have different shapes, {tuple(A.shape)} and {tuple(B.shape)}")
    signed = signed_assignment(A.T, B.T, patch_size, channels)
    if signed.score >= EXACT:
        return signed
    found = least_squares(A.T, B.T, patch_size, channels)
    return Recovery(found.key.dual(), found.score, tuple(g.dual() for g in found.ambiguous))


def keys_between_places(embedding: UnsharedEmbedding, channels: int) -> PatchKeys:
    """For each place, the key from its own to that of the first place, read off an embedding with unshared weights.

    ``encrypt_images(x, keys_between_places(…))`` turns images that were encrypted with keys per place into images under
    one key, the first place's: a case for `ciphertext_only`.

    Args:
        embedding: what absorbs `PatchKeys`, such as ``encrypt_model`` puts in the place of a convolution.
        channels: C.

    >>> import torch
    >>> from mixerkey import Key, encrypt_images, encrypt_model, load_pretrained
    >>> from mixerkey.data import load_digits
    >>> keys, x = PatchKeys.generate(2, 1, grid=(4, 4)), load_digits("test")[0]
    >>> locked = encrypt_model(load_pretrained("digits"), keys)
    >>> one = encrypt_images(encrypt_images(x, keys), keys_between_places(locked[0], 1))
    >>> torch.equal(one, encrypt_images(x, keys.keys[0]))
    True
    """
    d, h, w, size = embedding.weight.shape
    matrices = embedding.weight.detach().permute(1, 2, 3, 0).reshape(h * w, size, d)
    M = embedding.patch_size
    return PatchKeys((between(matrix, matrices[0], M, channels).key for matrix in matrices), (h, w))
