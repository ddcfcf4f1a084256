"""Patch embedding as the matrix E (§2.2, Eq. 3), and model encryption (§3.3, Eq. 8 and 9)."""

from __future__ import annotations

from copy import deepcopy
from typing import TypeGuard, TypeVar

import torch
from torch import Tensor, nn

from mixerkey.keys import SignedPermutation

Model = TypeVar("Model", bound=nn.Module)


def patch_matrix(model: nn.Module, *, layer: str | None = None) -> Tensor:
    """E, the matrix of the model's patch embedding: z = x_p E + bias for a flattened patch x_p (Eq. 3).

    Args:
        model: any module with a patch embedding: a Conv2d with kernel_size == stride, without padding.
        layer: the name of that Conv2d, where several could be it.

    Returns:
        (p_b, d), the model's dtype and device; rows in the order (channel, row, column). A copy.

    Raises:
        ValueError: no patch embedding is found, or several are.

    >>> from mixerkey import load_pretrained
    >>> patch_matrix(load_pretrained("digits")).shape[0]  # p_b = 2 * 2 * 1
    4
    """
    conv = find_patch_embedding(model, layer=layer)
    return conv.weight.detach().flatten(1).T.clone()  # (d, C, P, P) -> (d, p_b) -> (p_b, d)


def set_patch_matrix(model: Model, E: Tensor, *, layer: str | None = None) -> Model:
    """A copy of the model whose patch embedding has the matrix E; bias and everything else stay as they are.

    Args:
        model: as in `patch_matrix`; not modified.
        E: (p_b, d).
        layer: as in `patch_matrix`.

    Raises:
        ValueError: no patch embedding or several, or an E of another shape.

    >>> from mixerkey import load_pretrained
    >>> model = load_pretrained("digits")
    >>> negated = set_patch_matrix(model, -patch_matrix(model))
    >>> torch.equal(patch_matrix(negated), -patch_matrix(model))
    True
    """
    copy = deepcopy(model)
    weight = find_patch_embedding(copy, layer=layer).weight
    expected = (weight[0].numel(), weight.shape[0])
    if tuple(E.shape) != expected:
        raise ValueError(f"E must have shape {expected}, (p_b, d), got {tuple(E.shape)}")
    with torch.no_grad():
        weight.copy_(E.T.reshape(weight.shape))
    return copy


def encrypt_model(model: Model, key: SignedPermutation, *, layer: str | None = None) -> Model:
    """A copy of the model whose patch embedding expects images encrypted with `key`.

    Row k of the new matrix is row v_k of E (Eq. 8), with its sign reversed where r_k = 1 (Eq. 9): E' = Tᵀ E, where T is
    ``key.matrix()``. Then (x T)(Tᵀ E) = x E.

    Args:
        model: any module with a patch embedding that fits the key: a Conv2d with kernel_size == stride == M and
            in_channels == C, without padding. Not modified.
        key: the secret.
        layer: the name of that Conv2d, where several fit.

    Raises:
        ValueError: no patch embedding fits the key, or several do; the message names what was found.

    >>> from mixerkey import ConvMixer, Key, encrypt_images, normalize
    >>> model, key = ConvMixer(16, 1).eval().double(), Key.generate(4, 3)
    >>> x = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    >>> plain, encrypted = (normalize(image).double() for image in (x, encrypt_images(x, key)))
    >>> torch.allclose(encrypt_model(model, key)(encrypted), model(plain), atol=1e-12)
    True
    """
    name = layer if layer is not None else _find(model, key)
    conv = find_patch_embedding(model, layer=name)
    if not _fits(conv, key):
        raise ValueError(
            f"layer {name!r} has patch size {conv.kernel_size[0]} and {conv.in_channels} input channels, "
            f"but the key is for {key.patch_size} and {key.channels}"
        )
    E = patch_matrix(model, layer=name)
    signs = 1 - 2 * key.flips.to(E)  # (p_b,): -1 where r_k = 1
    return set_patch_matrix(model, signs[:, None] * E[key.permutation.to(E.device)], layer=name)


def decrypt_model(model: Model, key: SignedPermutation, *, layer: str | None = None) -> Model:
    """Undo `encrypt_model` with the same key, exactly: rows are moved and negated, never rounded.

    >>> from mixerkey import Key, load_pretrained
    >>> model, key = load_pretrained("digits"), Key.generate(2, 1)
    >>> torch.equal(patch_matrix(decrypt_model(encrypt_model(model, key), key)), patch_matrix(model))
    True
    """
    return encrypt_model(model, key.inverse(), layer=layer)


def find_patch_embedding(model: nn.Module, *, layer: str | None = None) -> nn.Conv2d:
    """The model's patch embedding: its only Conv2d with kernel_size == stride > 1, or the one named `layer`.

    Raises:
        ValueError: none is found, several are, or `layer` names something else.

    >>> from mixerkey import ConvMixer
    >>> find_patch_embedding(ConvMixer(8, 1))
    Conv2d(3, 8, kernel_size=(4, 4), stride=(4, 4))
    """
    if layer is None:
        layer = _find(model, None)
    try:
        module = model.get_submodule(layer)
    except AttributeError as error:
        raise ValueError(f"the model has no layer {layer!r}; its patch embeddings: {_describe(model)}") from error
    if not _is_patch_embedding(module):
        raise ValueError(
            f"layer {layer!r} is a {type(module).__name__}, not a Conv2d with kernel_size == stride and no padding; "
            f"the model's patch embeddings: {_describe(model)}"
        )
    return module


def _find(model: nn.Module, key: SignedPermutation | None) -> str:
    candidates = [
        name
        for name, module in model.named_modules()
        if _is_patch_embedding(module)
        and (_fits(module, key) if key is not None else name == "" or module.kernel_size != (1, 1))
    ]
    if len(candidates) == 1:
        return candidates[0]
    wanted = "a patch embedding (Conv2d with kernel_size == stride, no padding)"
    if key is not None:
        wanted += f" with patch size {key.patch_size} and {key.channels} input channels, as the key has"
    if candidates:
        raise ValueError(f"several layers are {wanted}: {', '.join(candidates)}; name one with layer=")
    raise ValueError(f"the model has no layer that is {wanted}; found: {_describe(model)}")


def _is_patch_embedding(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == module.stride
        and module.kernel_size[0] == module.kernel_size[1]
        and module.padding in ((0, 0), "valid")
        and module.dilation == (1, 1)
        and module.groups == 1
    )


def _fits(conv: nn.Conv2d, key: SignedPermutation) -> bool:
    return conv.kernel_size == (key.patch_size, key.patch_size) and conv.in_channels == key.channels


def _describe(model: nn.Module) -> str:
    found = [
        f"{name or 'the model itself'} (patch size {module.kernel_size[0]}, {module.in_channels} channels)"
        for name, module in model.named_modules()
        if _is_patch_embedding(module) and module.kernel_size != (1, 1)
    ]
    return ", ".join(found) or "none"
