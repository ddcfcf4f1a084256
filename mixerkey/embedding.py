"""Patch embedding as the matrix E (§2.2, Eq. 3): where it is in a network, and how it is read, changed and rescaled."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import TypeGuard, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


class UnsharedEmbedding(nn.Module):
    """A patch embedding with a matrix of its own in every place: what absorbs `mixerkey.keys.PatchKeys`.

    Args:
        weight: (d, h, w, p_b), the filters of each place; pixels in the order (channel, row, column).
        bias: (d,), or None.
        patch_size: P.

    >>> conv = nn.Conv2d(3, 8, 4, stride=4)
    >>> weight = conv.weight.flatten(1)[:, None, None].expand(8, 2, 2, 48)
    >>> x = torch.rand(5, 3, 8, 8)
    >>> torch.allclose(UnsharedEmbedding(weight, conv.bias, 4)(x), conv(x), atol=1e-5)
    True
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, patch_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.patch_size = patch_size

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) of h · w patches -> (N, d, h, w)."""
        from mixerkey.blocks import segment

        blocks = segment(x, self.patch_size)
        if blocks.shape[1:3] != self.weight.shape[1:3]:
            (h, w), (rows, columns) = self.weight.shape[1:3], blocks.shape[1:3]
            raise ValueError(f"the embedding is for {h} × {w} patches, got images of {rows} × {columns}")
        z = torch.einsum("nijp,dijp->ndij", blocks, self.weight)
        return z if self.bias is None else z + self.bias[:, None, None]


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
        TypeError: E is no real tensor.
        ValueError: no patch embedding or several, one whose weight is not its own, or an E of another shape, or with
            NaN or infinity, in the model's dtype.

    >>> from mixerkey import load_pretrained
    >>> model = load_pretrained("digits")
    >>> negated = set_patch_matrix(model, -patch_matrix(model))
    >>> torch.equal(patch_matrix(negated), -patch_matrix(model))
    True
    """
    copy = copied(model)
    conv = find_patch_embedding(copy, layer=layer)
    weight = own_weight(conv, layer or "the patch embedding")
    expected = (weight[0].numel(), weight.shape[0])
    if not isinstance(E, Tensor) or E.is_complex():
        raise TypeError(f"E must be a real torch.Tensor, got {E.dtype if isinstance(E, Tensor) else type(E).__name__}")
    if not E.isfinite().all():
        raise ValueError("E must hold finite numbers; it has NaN or infinity")
    if tuple(E.shape) != expected:
        raise ValueError(f"E must have shape {expected}, (p_b, d), got {tuple(E.shape)}")
    with torch.no_grad():
        _fill(weight, E.T.reshape(weight.shape))
    return copy


def renormalize(model: Model, mean: Sequence[float], std: Sequence[float], *, layer: str | None = None) -> Model:
    """A copy of the model that takes images normalised by mean 1/2 and deviation 1/2 instead of by its own.

    Many published networks take (p - μ_c) / σ_c for a pixel p of channel c, on which a flip is no sign. Their patch
    embedding absorbs the difference, exactly: with n = 2p - 1, (p - μ) / σ = n / 2σ + (1/2 - μ) / σ. So rows of channel
    c are divided by 2σ_c, and the bias grows by the sum of all rows, each times (1/2 - μ_c) / σ_c.

    The answers are kept, a key is not: once encrypted, the new bias is b + Σ s_k (1 - 2 μ_c) E'(k, :), c being the
    channel that place k came from (Eq. 4a), so with the published means the pseudo-inverse of E' can read flips and
    channels off it, the better the smaller b is and the more filters there are for each row. Where the key matters,
    train with mean 1/2.

    Args:
        model: as in `patch_matrix`; not modified.
        mean: μ, one a channel, of pixels in [0, 1].
        std: σ, one a channel, for the same pixels; 1 where they are not divided.
        layer: as in `patch_matrix`.

    Raises:
        TypeError: a mean or deviations that are no list of numbers.
        ValueError: not one finite number a channel, a deviation that is not positive, values that are not those of
            pixels in [0, 1], new weights that overflow the model's dtype, no patch embedding or several.

    >>> model, p = nn.Conv2d(3, 8, 4, stride=4, bias=False), torch.rand(5, 3, 8, 8)
    >>> own = (p - 0.45) / 0.225
    >>> torch.allclose(renormalize(model, [0.45] * 3, [0.225] * 3)(2 * p - 1), model(own), atol=1e-5)
    True
    """
    copy = copied(model)
    conv = find_patch_embedding(copy, layer=layer)
    weight = own_weight(conv, layer or "the patch embedding")
    try:
        mu, sigma = (torch.as_tensor(list(values), dtype=torch.float64) for values in (mean, std))
    except (TypeError, ValueError):
        raise TypeError(f"mean and std are lists of a number for each channel; got {mean!r}, {std!r}") from None
    given = torch.cat([mu.flatten(), sigma.flatten()]).isfinite().all() and (sigma > 0).all()
    if mu.shape != (conv.in_channels,) or sigma.shape != mu.shape or not given:
        raise ValueError(f"need a mean and a deviation > 0 for each of {conv.in_channels} channels, got {mean}, {std}")
    if mu.min() < 0 or max(mu.max(), sigma.max()) > 1:
        raise ValueError(
            f"means and deviations are those of pixels in [0, 1], so none is negative or above 1; got {mean}, {std}. "
            "Divide those of pixels from 0 to 255 by 255"
        )
    with torch.no_grad():
        W = weight.double()  # (d, C, P, P)
        shift = (W.sum((2, 3)) * ((0.5 - mu) / sigma).to(W)).sum(1)  # (d,)
        _fill(weight, W / (2 * sigma.to(W))[:, None, None])
        bias = nn.Parameter(torch.empty_like(shift, dtype=weight.dtype), requires_grad=weight.requires_grad)
        _fill(bias, shift if conv.bias is None else conv.bias + shift)
        conv.bias = bias
    return copy


def _fill(weight: Tensor, values: Tensor) -> None:
    """Set a weight, unless its dtype is too narrow for the values."""
    weight.copy_(values)
    if not weight.isfinite().all():
        raise ValueError(f"the new weights overflow {weight.dtype}; convert the network by double() or float() first")


def find_patch_embedding(model: nn.Module, *, layer: str | None = None) -> nn.Conv2d:
    """The model's patch embedding: its only Conv2d with kernel_size == stride > 1, or the one named `layer`.

    Raises:
        ValueError: none is found, several are, or `layer` names something else.

    >>> from mixerkey import ConvMixer
    >>> find_patch_embedding(ConvMixer(8, 1))
    Conv2d(3, 8, kernel_size=(4, 4), stride=(4, 4))
    """
    if layer is None:
        found = [name for name, conv in patch_embeddings(model).items() if name == "" or conv.kernel_size != (1, 1)]
        if len(found) != 1:
            wanted = "a patch embedding (Conv2d with kernel_size == stride, no padding)"
            if found:
                raise ValueError(f"several layers are {wanted}: {', '.join(found)}; name one with layer=")
            raise ValueError(f"the model has no layer that is {wanted}; found: {describe(model)}")
        layer = found[0]
    module = named_layer(model, layer)
    if not is_patch_embedding(module):
        raise ValueError(
            f"layer {layer!r} is a {type(module).__name__}, not a Conv2d with kernel_size == stride and no padding; "
            f"the model's patch embeddings: {describe(model)}"
        )
    return module


def copied(model: Model) -> Model:
    """A copy of a network that shares nothing with it.

    Raises:
        ValueError: it holds what cannot be copied, such as a weight that is computed, or gives itself for a copy; the
            message says what to do.

    >>> copied(nn.ReLU())
    ReLU()
    """
    try:
        copy = deepcopy(model)
    except Exception as error:  # whatever a stranger's module raises
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            "the network cannot be copied: make weights that are computed (weight norm, pruning) its own, and drop "
            f"activations that it keeps. {reason}"
        ) from error
    if not isinstance(copy, nn.Module):
        raise ValueError(f"a copy of the network is a {type(copy).__name__}: a __deepcopy__ must return the copy")
    old = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    for name, tensor in (*copy.named_parameters(), *copy.named_buffers()):
        if id(tensor) in old:
            raise ValueError(f"a copy of the network shares {name!r} with it: a __deepcopy__ must copy weights, too")
        usual = type(tensor.data) is Tensor and tensor.layout == torch.strided and not nn.parameter.is_lazy(tensor)
        if usual and tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size():
            tensor.data = tensor.data.clone()  # else all else that its storage holds would go along
    return copy


def patch_embeddings(model: nn.Module) -> dict[str, nn.Conv2d]:
    """All layers that could be a patch embedding, by name.

    >>> list(patch_embeddings(nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(8, 8, 3))))
    ['0']
    """
    return {name: module for name, module in model.named_modules() if is_patch_embedding(module)}


def is_patch_embedding(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether this is a convolution of whole square patches: kernel_size == stride, no padding, dilation or groups.

    >>> is_patch_embedding(nn.Conv2d(3, 8, 4, stride=4)), is_patch_embedding(nn.Conv2d(3, 8, 4, stride=2))
    (True, False)
    """
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == module.stride
        and module.kernel_size[0] == module.kernel_size[1]
        and module.padding in ((0, 0), "valid")
        and module.dilation == (1, 1)
        and module.groups == 1
    )


def named_layer(model: nn.Module, name: str) -> nn.Module:
    """The layer of this name.

    Raises:
        ValueError: there is none; the message says which patch embeddings there are.
    """
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise ValueError(f"the model has no layer {name!r}; its patch embeddings: {describe(model)}") from error


def own_weight(layer: nn.Module, name: str) -> nn.Parameter:
    """The weight of a layer, if it is a plain parameter of its own.

    Raises:
        ValueError: the weight is computed from other tensors, which would stay in the model; the message says what to
            do first.

    >>> own_weight(nn.Conv2d(3, 8, 4, stride=4), "stem").shape
    torch.Size([8, 3, 4, 4])
    >>> own_weight(torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 4, stride=4)), "stem")
    Traceback (most recent call last):
        ...
    ValueError: layer 'stem' computes its weight from other tensors (a parametrization), which would keep the plain
    matrix; make the weight its own first: torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")
    """
    weight = layer._parameters.get("weight")
    if weight is not None and not torch.nn.utils.parametrize.is_parametrized(layer):
        return weight
    if torch.nn.utils.parametrize.is_parametrized(layer):
        what = "a parametrization"
        remedy = 'torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")'
    elif hasattr(layer, "weight_mask"):
        what, remedy = "pruning", 'torch.nn.utils.prune.remove(layer, "weight")'
    else:
        what, remedy = "a hook", "torch.nn.utils.remove_weight_norm(layer), or its like"
    raise ValueError(
        f"layer {name!r} computes its weight from other tensors ({what}), which would keep the plain matrix; "
        f"make the weight its own first: {remedy}"
    )


def describe(model: nn.Module) -> str:
    """The model's patch embeddings in words, for messages."""
    found = [
        f"{name or 'the model itself'} (patch size {conv.kernel_size[0]}, {conv.in_channels} channels)"
        for name, conv in patch_embeddings(model).items()
        if conv.kernel_size != (1, 1)
    ]
    return ", ".join(found) or "none"
