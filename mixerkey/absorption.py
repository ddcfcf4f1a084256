"""Model encryption (§3.3, Eq. 8 and 9): what a network absorbs of a key, and the proof that it has.

A network absorbs T in its patch embedding, E' = T⁻¹ E; an order of blocks in what tells places apart: position
embeddings, token mixing, or, where the order is a symmetry of the grid, the kernels of its convolutions. No layer is
trusted to be what it looks like: every answer is tried out on images before it is given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from copy import deepcopy
from itertools import product
from typing import Any, NamedTuple, TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from mixerkey.blocks import integrate, segment
from mixerkey.cipher import network_input
from mixerkey.copies import DELAY, find_copy, reachable
from mixerkey.embedding import (
    UnsharedEmbedding,
    copied,
    describe,
    is_patch_embedding,
    named_layer,
    own_weight,
    patch_embeddings,
)
from mixerkey.files import one_line
from mixerkey.keys import BlockKey, BlockOrder, PatchKeys, ScrambledKey, SignedPermutation, check_key, integer

Model = TypeVar("Model", bound=nn.Module)
SIDES = (4, 8, 16, 32, 2, 1)  # in patches, of probe images, where the network does not say what it takes
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-4}  # of the probe, relative to its largest value, as first fits
COARSE = 1e-3  # where the weights' own rounding, enlarged by the key's condition, says more


def encrypt_model(
    model: Model,
    key: BlockKey,
    *,
    layer: str | Sequence[str] | None = None,
    image_size: tuple[int, int] | None = None,
    progress: bool = True,
) -> Model:
    """A copy of the model that expects images encrypted with `key`, normalised by mean 1/2 and deviation 1/2.

    With the paper's key, row k of the new matrix is row v_k of E (Eq. 8), with its sign reversed where r_k = 1 (Eq. 9).
    In general E' = T⁻¹ E, so that (x T)(T⁻¹ E) = x E; for a signed permutation T⁻¹ = Tᵀ, and nothing is rounded.

    Networks trained with other means and deviations go through `mixerkey.renormalize` first, whose new bias can then
    give the flips away: train with mean 1/2 where the key matters. A step that normalises within the network comes off.

    Args:
        model: any module whose images enter through a patch embedding that fits the key: a Conv2d with kernel_size ==
            stride, a multiple of M, without padding, or a Linear that takes flattened patches. Not modified.
            Compiled and parallel wrappers are taken off.
        key: the secret; for what each kind needs of a network see `BlockKey.needs`.
        layer: the name of the patch embedding, where several fit; names, where images enter through all of them.
        image_size: (H, W) of the images that the network takes, where it does not say so itself.
        progress: show a bar where trying the network out takes more than some seconds.

    Returns:
        the encrypted network. It has been tried out: it answers encrypted images as the old network answers plain
        ones, other than it answers plain ones itself, and keeps no copy of the plain matrix. With a key that changes
        nothing (`BlockKey.is_identity`) it is the plain network, and only the first holds. It is tried out in
        float64, to 1e-6; networks that run in float32 alone, to 1e-4.

    Raises:
        TypeError: the model is no module, the key is none, or `layer` or `image_size` is not of its type.
        ValueError: no patch embedding fits the key, or several do; or the network cannot absorb the key. The message
            names what was found and what to do.

    >>> from mixerkey import ConvMixer, Key, encrypt_images, normalize
    >>> model, key = ConvMixer(16, 1).eval().double(), Key.generate(4, 3)
    >>> x = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    >>> plain, encrypted = (normalize(image).double() for image in (x, encrypt_images(x, key)))
    >>> torch.allclose(encrypt_model(model, key)(encrypted), model(plain), atol=1e-12)
    True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"need a torch.nn.Module, such as load_pretrained gives, to encrypt; got {type(model).__name__}"
        )
    if not isinstance(key, BlockKey):
        raise TypeError(
            f"a network absorbs one key, such as Key.generate makes; got {type(key).__name__}. "
            "With a key per image it must be encrypted anew for each image"
        )
    model = unwrapped(model)
    _check_weights(model)
    for name, module in patch_embeddings(model).items():
        own_weight(module, name)  # a weight that is computed can't even be copied
    names = _layer_names(layer)
    if not names and not any(isinstance(m, nn.Linear) and m.in_features == key.size for m in model.modules()):
        names = [_find(model, key, None)]  # or refuse, before anything is run
    copy = copied(model)
    within, order = (key.within, key.order) if isinstance(key, ScrambledKey) else (key, None)
    if isinstance(key, BlockOrder):
        within, order = SignedPermutation.identity(key.patch_size, key.channels), key
    given = None if image_size is None else _height_and_width(image_size)
    size, dtype, cause = _image_size(model, key, given)
    names = names or [_find(model, key, size)]
    weights: set[int] = set()  # a layer of two names, or two layers with one weight, are encrypted once
    for name in names:
        weight = getattr(named_layer(copy, name), "weight", None)
        if id(weight) not in weights:
            _encrypt_embedding(copy, name, within, key, size)
        weights.add(id(weight))
    if order is not None:
        _reorder(copy, order)
    if size is None:
        raise ValueError(
            f"the network runs on no probe image, so that its encryption could not be tried out. {cause}"
            + ("" if given else ". If it takes images of a certain size, say image_size=(H, W)")
        )
    if not key.is_identity:
        _prove(model, copy, key, size, dtype, names, progress)
    return copy


def _check_weights(model: nn.Module) -> None:
    """Refuse networks whose weights are not there as numbers."""
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise ValueError(
            "a traced or scripted network keeps its weights in a graph; encrypt the module that it was made from"
        )
    for name, weight in model.named_parameters():
        if isinstance(weight, nn.parameter.UninitializedParameter):
            raise ValueError(f"{name!r} has no shape as yet: run the network once on an image, then encrypt it")
        if weight.layout != torch.strided:
            raise ValueError(f"{name!r} is sparse: give the network its to_dense(), then encrypt it")
        if weight.is_meta:
            raise ValueError(f"{name!r} is on the meta device and has no numbers: load the weights, then encrypt")
        if not _finite(weight):
            raise ValueError(f"{name!r} holds NaN or infinity: what it answers cannot be compared")


def _finite(weight: Tensor) -> bool:
    """Of any dtype, also of those that compute nothing."""
    return bool(weight.detach().to(torch.complex128 if weight.is_complex() else torch.float64).isfinite().all())


def _layer_names(layer: str | Sequence[str] | None) -> list[str]:
    """The names that were given, if any."""
    names = [] if layer is None else [layer] if isinstance(layer, str) else layer
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names) or layer in ([], ()):
        raise TypeError(f"layer= takes the name of a layer, or a list of names; got {type(layer).__name__}")
    return list(names)


def _height_and_width(image_size: tuple[int, int]) -> tuple[int, int]:
    try:
        height, width = image_size
    except (TypeError, ValueError):
        raise TypeError(f"image_size= takes (H, W), two integers; got {image_size!r}") from None
    return integer(height, "the H of image_size"), integer(width, "the W of image_size")


def decrypt_model(
    model: Model,
    key: BlockKey,
    *,
    layer: str | Sequence[str] | None = None,
    image_size: tuple[int, int] | None = None,
    progress: bool = True,
) -> Model:
    """Undo `encrypt_model` with the same key: exactly, for keys that move pixels; rows are moved and negated only.

    After a key for each place the embedding stays one with a matrix for each place, now all the same.

    Whether the key was the right one cannot be known from the matrix, since any is as good: try the accuracy.

    >>> from mixerkey import Key, load_pretrained, patch_matrix
    >>> model, key = load_pretrained("digits"), Key.generate(2, 1)
    >>> torch.equal(patch_matrix(decrypt_model(encrypt_model(model, key), key)), patch_matrix(model))
    True
    """
    check_key(key)
    return encrypt_model(model, key.inverse(), layer=layer, image_size=image_size, progress=progress)


# What absorbs the key within blocks


def _encrypt_embedding(
    model: nn.Module, name: str, key: BlockKey, whole: BlockKey, size: tuple[int, int] | None
) -> None:
    """Turn the filters of a patch embedding, in place: they are vectors over pixels, so the dual key acts on them."""
    module = named_layer(model, name)
    if isinstance(module, UnsharedEmbedding):
        weight = module.weight
        filters = weight.detach()  # (d, h, w, p_b)
    elif is_patch_embedding(module):
        if module.kernel_size[0] % key.patch_size or module.in_channels != key.channels:
            raise ValueError(
                f"layer {name!r} has patch size {module.kernel_size[0]} and {module.in_channels} input channels, "
                f"but the key is for {key.patch_size} and {key.channels}"
            )
        weight, P = own_weight(module, name), module.kernel_size[0]
        if isinstance(key, PatchKeys):
            if key.patch_size != P:
                raise ValueError(f"keys per place need blocks as large as the patch, {P}, got {key.patch_size}")
            h, w = key.grid
            filters = segment(weight.detach(), P).squeeze((1, 2))[:, None, None].expand(-1, h, w, -1)
            unshared = UnsharedEmbedding(_turned(filters, key), module.bias, P)
            for other, same in list(model.named_modules(remove_duplicate=False)):
                if same is module:
                    _replace(model, other, unshared)
            return
        filters = segment(weight.detach(), key.patch_size)  # (d, P / M, P / M, p_b)
    elif isinstance(module, nn.Linear):
        _encrypt_linear(model, name, key, whole, size)
        return
    else:
        raise ValueError(
            f"layer {name!r} is a {type(module).__name__}, not a Conv2d with kernel_size == stride and no padding; "
            f"the model's patch embeddings: {describe(model)}"
        )
    turned = _turned(filters, key)
    with torch.no_grad():
        weight.copy_(turned if isinstance(module, UnsharedEmbedding) else integrate(turned, key.patch_size))


def _encrypt_linear(model: nn.Module, name: str, key: BlockKey, whole: BlockKey, size: tuple[int, int] | None) -> None:
    """A Linear on flattened patches, perhaps behind a LayerNorm over them; the order of pixels is found by looking."""
    module = named_layer(model, name)
    assert isinstance(module, nn.Linear)
    if isinstance(key, PatchKeys):
        raise ValueError(f"layer {name!r} is a Linear shared by all places; keys per place need a Conv2d embedding")
    weight = own_weight(module, name)
    layout, norm = _patch_layout(model, name, whole, size)
    with torch.no_grad():
        if norm is not None:
            if not isinstance(key, SignedPermutation) or bool(key.flips.any()):
                raise ValueError(
                    f"a LayerNorm over the pixels of a patch stands before the embedding {name!r}: it takes away their "
                    "mean, which most flips and mixtures change; of such a network a shuffle is taken (key.shuffle)"
                )
            for vector in (norm.weight, norm.bias):
                if vector is not None:
                    vector.copy_(_turned(vector[layout.argsort()][None, None, None], key)[0, 0, 0][layout])
        filters = weight[:, layout.argsort()][:, None, None]  # (d, 1, 1, p_b), pixels in (channel, row, column)
        weight.copy_(_turned(filters, key)[:, 0, 0][:, layout])


def _turned(filters: Tensor, key: BlockKey) -> Tensor:
    """The dual key on filters; mixtures in float64."""
    return key.dual().act(filters if key.moves_pixels else filters.double()).to(filters.dtype)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    if not name:
        raise ValueError("a bare Conv2d cannot become an embedding with unshared weights: put it into a network")
    setattr(model.get_submodule(parent), child, module)


def _find(model: nn.Module, key: BlockKey, size: tuple[int, int] | None) -> str:
    """The name of the only layer that could be the patch embedding for this key."""
    M, C = key.patch_size, key.channels
    fitting = [
        name
        for name, module in model.named_modules()
        if (isinstance(module, UnsharedEmbedding) and module.patch_size == M)
        or (is_patch_embedding(module) and _fits(module, key))
    ]
    if not fitting:
        fitting = _linear_embeddings(model, key, size)
    if len(fitting) == 1:
        return fitting[0]
    wanted = f"a patch embedding with patch size {M} and {C} input channels, as the key has"
    if fitting:
        raise ValueError(
            f"several layers are {wanted}: {', '.join(fitting)}; name one with layer=, or all through which images "
            "enter. If one is an adapter, merge it first"
        )
    raise ValueError(
        f"the model has no layer that is {wanted}; found: {describe(model)}. A patch embedding is a Conv2d with "
        "kernel_size == stride and no padding, or a Linear on flattened patches" + _why_not(model)
    )


def _fits(conv: nn.Conv2d, key: BlockKey) -> bool:
    return conv.in_channels == key.channels and conv.kernel_size[0] % key.patch_size == 0


def _why_not(model: nn.Module) -> str:
    """What the first layer of a network lacks that has no patch embedding."""
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None:
        return ""
    reasons = {
        "its groups see some of the channels only": first.groups > 1,
        "its patches are no squares": first.kernel_size[0] != first.kernel_size[1],
        "its kernels overlap blocks, leave gaps or reach beyond them": first.kernel_size != first.stride
        or first.dilation != (1, 1)
        or first.padding not in ((0, 0), "valid"),
    }
    lacking = " and ".join(reason for reason, holds in reasons.items() if holds)
    if not lacking:  # it is a patch embedding, of another size
        return ""
    return (
        f". Its first convolution has kernel {first.kernel_size}, stride {first.stride}, padding {first.padding}: "
        f"{lacking}, so that one matrix cannot absorb the key"
    )


# Linear embeddings: which layer takes flattened patches, and in which order the pixels stand


def _numbered_run(
    model: nn.Module, key: BlockKey, size: tuple[int, int] | None
) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """What each leaf takes when an image goes in whose pixels are numbered: 1, 2, … as floats."""
    if size is None:
        return
    runs: list[list[tuple[str, nn.Module, Tensor]]] = []
    numbers = torch.arange(1, key.channels * size[0] * size[1] + 1).reshape(1, key.channels, *size)
    for dtype in TOLERANCES:
        seen: list[tuple[str, nn.Module, Tensor]] = []
        runs.append(seen)

        def hear(name: str, module: nn.Module, x: Tensor, _: Any, seen: list = seen) -> None:
            seen.append((name, module, x))

        with _listening(_in(dtype, deepcopy(model)), hear) as probe, suppress(Exception):
            _run(probe, numbers.to(dtype))
            break  # whatever it does not like comes behind the first layers, or is the dtype
    yield from max(runs, key=len)


def _rows(x: Tensor, key: BlockKey, size: tuple[int, int]) -> Tensor | None:
    """The layout of a patch, int64 (p_b,), if `x` holds the numbered patches of an image row by row; else None.

    Feature j of a row is pixel layout[j] of its block, counted in the order (channel, row, column).
    """
    C, (H, W) = key.channels, size
    M = key.patch_size
    blocks = segment(torch.arange(1, C * H * W + 1, dtype=torch.float64).reshape(C, H, W), M).flatten(0, 1)  # (n, p_b)
    if x.numel() != blocks.numel() or x.shape[-1] != key.size:
        return None
    found = x.reshape(-1, key.size).double()
    layout = (blocks[0][:, None] == found[0]).to(torch.uint8).argmax(0)
    return layout if torch.equal(found, blocks[:, layout]) else None


def _linear_embeddings(model: nn.Module, key: BlockKey, size: tuple[int, int] | None) -> list[str]:
    names: list[str] = []
    norms = False
    for name, module, x in _numbered_run(model, key, size):
        raw = _rows(x, key, size) is not None  # type: ignore[arg-type]
        norms |= raw and isinstance(module, nn.LayerNorm)
        if isinstance(module, nn.Linear) and module.in_features == key.size and (raw or (norms and not names)):
            names.append(name)
    return names


def _patch_layout(
    model: nn.Module, name: str, key: BlockKey, size: tuple[int, int] | None
) -> tuple[Tensor, nn.LayerNorm | None]:
    """In which order the pixels of a patch reach a Linear, and the LayerNorm over them on the way, if there is one."""
    for found, module, x in _numbered_run(model, key, size):
        layout = _rows(x, key, size)  # type: ignore[arg-type]
        if layout is not None and (found == name or isinstance(module, nn.LayerNorm)):
            norm = dict(model.named_modules())[found] if isinstance(module, nn.LayerNorm) else None
            return layout, norm
    raise ValueError(
        f"layer {name!r} does not take the flattened patches of an image with M = {key.patch_size}; "
        "say image_size=(H, W) if the network needs a certain size"
    )


# What absorbs an order of blocks


def _reorder(model: nn.Module, order: BlockOrder) -> None:
    """Put what tells places apart into the new order, in place. Whether that was everything, the probe tells."""
    count, index = len(order.order), order.order
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, UnsharedEmbedding):
                module.weight.copy_(order.act(module.weight))
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            extra = tensor.shape[-2] - count if tensor.ndim >= 2 else -1  # class and distillation tokens come first
            if re.search("pos", name, re.IGNORECASE) and 0 <= extra <= 2:
                tensor[..., extra:, :] = tensor[..., extra:, :][..., index.to(tensor.device), :]
        for module in _token_mixers(model, count):
            weight = own_weight(module, "of token mixing")
            places = index.to(weight.device)
            if weight.shape[1] == count:
                weight.copy_(weight[:, places])
            if weight.shape[0] == count:
                weight.copy_(weight[places])
                if module.bias is not None:
                    module.bias.copy_(module.bias[places])
        turn = _symmetry(order)
        for module in model.modules() if turn else ():
            if isinstance(module, nn.Conv2d) and not _takes_images(module, order) and max(module.kernel_size) > 1:
                kernel = own_weight(module, "of a convolution")
                kernel.copy_(turn(kernel))  # type: ignore[misc]


def _token_mixers(model: nn.Module, count: int) -> list[nn.Linear | nn.Conv1d]:
    """Layers whose inputs or outputs are the places: those that are called so, or else all of that size."""
    fitting = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv1d)
        and count in module.weight.shape[:2]
        and module.weight[0, 0].numel() == 1
    }
    called = [module for name, module in fitting.items() if "token" in name]
    if called or any(re.search("pos", name, re.IGNORECASE) for name, _ in model.named_parameters()):
        return called
    return list(fitting.values())


def _takes_images(conv: nn.Conv2d, order: BlockOrder) -> bool:
    return is_patch_embedding(conv) and conv.in_channels == order.channels and conv.kernel_size[0] == order.patch_size


def _symmetry(order: BlockOrder) -> Callable[[Tensor], Tensor] | None:
    """The mirror image or turn of the grid that an order is, as a function of the last two dimensions; else None."""
    h, w = order.grid
    places = torch.arange(h * w).reshape(h, w)
    for turns, mirrored in product(range(4), (False, True)):

        def turn(x: Tensor, turns: int = turns, mirrored: bool = mirrored) -> Tensor:
            return (x.flip(-1) if mirrored else x).rot90(turns, (-2, -1))

        if torch.equal(turn(places).flatten(), order.order) and turn(places).shape == (h, w):
            return turn
    return None


# The proof


class Answer(NamedTuple):
    """What a network makes of a batch of two images."""

    outputs: list[Tensor]
    last: list[Tensor]  # of the last leaf whose output depends on the image; empty if there is none


def _prove(
    before: nn.Module,
    after: nn.Module,
    key: BlockKey,
    size: tuple[int, int],
    dtype: torch.dtype,
    names: list[str],
    progress: bool,
) -> None:
    """Try the new network on images, and look for what it must not keep.

    Raises:
        ValueError: it does not answer as it should, with the likely reason.
    """
    changed = _changed(before, after)
    if not all(_finite(new) for _, new in changed):
        raise ValueError("the encrypted weights overflow their dtype: T⁻¹ is too large; take another key or double()")
    order = key if isinstance(key, BlockOrder) else key.order if isinstance(key, ScrambledKey) else None
    images = torch.randint(256, (2, key.channels, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plain, encrypted = (network_input(images, each, dtype) for each in (None, key))
    if not encrypted.isfinite().all():
        raise ValueError(f"encrypted images overflow {dtype}: T is too large; take another key")
    first, second = (_in(dtype, deepcopy(model)) for model in (before, after))
    tolerance = TOLERANCES[dtype]
    runs = [(first, plain), (first, plain), (second, encrypted), (second, plain)]
    bar = tqdm(runs, "runs of the network", leave=False, delay=DELAY, disable=not progress)
    old, again, new, wrong = (_answer(network, x) for network, x in bar)
    if not _alike(old, again, None, tolerance):
        raise ValueError("the network answers the same images differently each time: it draws at random, or counts")
    steps = [torch.finfo(p.dtype).eps for p in before.parameters() if p.is_floating_point() or p.is_complex()]
    rounding = key.condition * max(steps)
    if not _alike(old, new, order, min(max(tolerance, rounding), COARSE)):
        if key.condition > 1 and rounding > COARSE:
            raise ValueError(
                f"the key's condition, {key.condition:.1e}, is too large for this network's weights: their rounding "
                f"may change its answers by {rounding:.1e} of their size; take a better key, or encrypt model.double()"
            )
        if any(new.double().abs().max() < torch.finfo(new.dtype).tiny for _, new in changed if new.is_floating_point()):
            raise ValueError(
                "the encrypted weights underflow their dtype: T is too large; take another key or double()"
            )
        raise ValueError(_complaint(first, key, plain))
    if _alike(old, wrong, None, tolerance):
        if _alike(old, Answer(*([x.flip(0) for x in part] for part in old)), None, tolerance):
            raise ValueError(
                "the network gives two different images the same answer, to rounding, as deep networks do before they "
                "are trained, so it cannot be seen whether the key changes it: train it first"
            )
        raise ValueError(
            "the network answers plain images after encryption as before: this key protects nothing in it"
            + (", since it does not look at where blocks are" if order is not None else "")
        )
    if name := find_copy(changed, after, progress=progress):
        raise ValueError(
            f"the encrypted network would keep the plain matrix in {name!r}: remove that copy first "
            "(merge the adapter, drop the average or the original)"
        )
    if idle := _idle(first, key, plain, names):
        raise ValueError(
            f"layers that fit the key, but take no part in answering {size[0]} x {size[1]} images, would stay plain: "
            f"{', '.join(idle)}; name them with layer=, too, or remove them"
        )


def _idle(model: nn.Module, key: BlockKey, image: Tensor, names: list[str]) -> list[str]:
    """Patch embeddings that fit the key, were not named, and do not run."""
    others = [name for name, module in patch_embeddings(model).items() if _fits(module, key) and name not in names]
    if not others:
        return []
    ran: set[nn.Module] = {named_layer(model, name) for name in names}
    with _listening(model, lambda name, module, x, y: ran.add(module)):
        _run(model, image)
    return [name for name in others if named_layer(model, name) not in ran]


def _changed(before: nn.Module, after: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Each plain matrix, from its first row to its last that has changed, and what it has become."""
    new, pairs = {**dict(after.named_parameters()), **dict(after.named_buffers())}, []
    for name, plain in [*before.named_parameters(), *before.named_buffers()]:
        if plain.ndim > 1 and plain.layout == torch.strided and name in new and not torch.equal(plain, new[name]):
            rows, others = (x[0] if x.ndim > 2 and len(x) == 1 else x for x in (plain, new[name]))  # as positions are
            if rows.shape == others.shape:
                changed = (rows != others).flatten(1).any(1).nonzero()
                rows = rows[changed.min() : changed.max() + 1]  # not the class token's
            pairs.append((rows, new[name]))
    return pairs


def _complaint(model: nn.Module, key: BlockKey, image: Tensor) -> str:
    """Why a network does not absorb a key, as far as can be told."""
    entries = _entries(model, image)
    if len(entries) > 1:
        return (
            f"the image enters the network through several layers: {', '.join(entries)}. All must be encrypted: name "
            "them with layer=[…]. If one is no patch embedding, the network cannot absorb it; merge adapters first"
        )
    if step := _normalisation(model, image):
        return step
    if isinstance(key, BlockOrder | ScrambledKey):
        fixed = [
            type(module).__name__
            for module in model.modules()
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
            and not is_patch_embedding(module)
            and max(module.kernel_size) > 1
        ]
        reason = (
            "its convolutions see which blocks are neighbours"
            if fixed
            else "its positions are not a learned vector for each of these places, but computed, resampled or relative"
        )
        return (
            f"the network does not absorb this order of blocks: {reason}. It needs {BlockOrder.needs}; "
            "or leave the blocks where they are"
        )
    return (
        "after encryption the network answers otherwise than before: its patch embedding does more with the weight or "
        "the image than a matrix product (a transformed weight, a hook, a normalisation); make it a plain Conv2d "
        "first. If the network resizes images, say image_size=(H, W) of those that it takes as they are"
    )


def _entries(model: nn.Module, image: Tensor) -> list[str]:
    """The leaves that take the image as it is."""
    found: list[str] = []

    def look(name: str, module: nn.Module, x: Tensor, y: Any) -> None:
        if x.shape == image.shape and torch.equal(x, image) and not isinstance(module, nn.Identity):
            found.append(name or type(module).__name__)

    with _listening(model, look):
        _run(model, image)
    return found


def _normalisation(model: nn.Module, image: Tensor) -> str:
    """What a network does to the channels of an image before any layer does more, with what to do; or nothing."""
    steps: list[tuple[str, Tensor]] = []
    with _listening(model, lambda name, module, x, y: steps.append((name, x))):
        _run(model, image)
    n = image.transpose(0, 1).flatten(1)  # (C, pixels)
    for name, taken in reversed(steps):
        if taken.shape != image.shape or torch.equal(taken, image):
            continue
        x = taken.transpose(0, 1).flatten(1)
        low, high = (at[:, None] for at in (n.argmin(1), n.argmax(1)))
        deviation = (n.gather(1, high) - n.gather(1, low)) / (x.gather(1, high) - x.gather(1, low))
        mean = n.gather(1, low) - x.gather(1, low) * deviation
        if not (deviation > 0).all() or not torch.allclose(mean + deviation * x, n, atol=1e-4):
            continue
        scale = 1 if max(mean.max(), deviation.max()) <= 1 else 255  # of pixels that it may have been made for
        values = [[float(f"{v / scale:.4g}") + 0 for v in part.flatten().tolist()] for part in (mean, deviation)]
        usual = min(values[0]) >= 0 and max(map(max, values)) <= 1
        return (
            f"the network normalises images itself before its layer {name!r}, but encrypted ones are normalised by "
            "mean 1/2 and deviation 1/2: take that step off, and have it absorbed by mixerkey.renormalize(network, "
            + (f"{values[0]}, {values[1]})" if usual else "mean, std), for pixels in [0, 1]")
        )
    return ""


def _answer(model: nn.Module, x: Tensor) -> Answer:
    last: list[Tensor] = []

    def look(name: str, module: nn.Module, taken: Tensor, y: Any) -> None:
        if _is_dense(y) and y.is_floating_point() and len(y) == 2 and not torch.equal(y[0], y[1]):
            last[:] = [y.detach().clone()]

    try:
        with _listening(model, look):
            outputs = _run(model, x)
    except Exception as error:  # it took zeros
        raise ValueError(
            "the network does not take images normalised by mean 1/2 and deviation 1/2, as encrypted ones are: "
            f"{one_line(error)}. If it takes pixels in [0, 1] and normalises them itself, take that step off, and have "
            "it absorbed by mixerkey.renormalize"
        ) from error
    if any(output.isnan().any() for output in outputs):
        raise ValueError("the network answers NaN to ordinary images, so that its answers cannot be compared")
    return Answer(outputs, last)


def _alike(a: Answer, b: Answer, order: BlockOrder | None, tolerance: float) -> bool:
    pairs = [*zip(a.outputs, b.outputs, strict=False), *zip(a.last, b.last, strict=False)]
    same = len(a.outputs) == len(b.outputs) and len(a.last) == len(b.last)
    return same and all(_match(x, y, order, tolerance) for x, y in pairs)


def _match(x: Tensor, y: Tensor, order: BlockOrder | None, tolerance: float) -> bool:
    """Whether y is x, or x with its places in the new order, to rounding; integers and infinities exactly."""
    size = x[x.isfinite()].abs().max().item() if x.is_floating_point() and x.isfinite().any() else 0.0

    def close(z: Tensor) -> bool:
        if not z.is_floating_point():
            return torch.equal(z, y)
        # Below a millionth, rounding within the network outweighs what comes out of it.
        return bool(((z == y) | ((z - y).abs() <= tolerance * max(size, 1e-6))).all())

    if x.shape != y.shape:
        return False
    if close(x) or order is None:
        return close(x)
    (h, w), count = order.grid, len(order.order)
    for axis in range(1, x.ndim):
        extra = x.shape[axis] - count
        if 0 <= extra <= 2:
            index = torch.cat([torch.arange(extra), order.order + extra])
            if close(x.index_select(axis, index.to(x.device))):
                return True
        if x.shape[axis : axis + 2] == (h, w):
            places = x.flatten(axis, axis + 1).index_select(axis, order.order.to(x.device))
            if close(places.reshape(x.shape)):
                return True
    return False


def _parts(key: BlockKey) -> tuple[BlockKey, ...]:
    return (key.within, key.order) if isinstance(key, ScrambledKey) else (key,)


# Running any network


def unwrapped(model: Model) -> Model:
    """The network within wrappers that compile it or spread it over processors.

    >>> unwrapped(nn.DataParallel(nn.ReLU()))
    ReLU()
    """
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner  # type: ignore[assignment]


class _listening:
    """While it lasts, `hear(name, module, input, output)` is called for each leaf that runs in `model`."""

    def __init__(self, model: nn.Module, hear: Callable[[str, nn.Module, Tensor, Any], None]) -> None:
        self.model, self.hear = model, hear
        self.handles: list[Any] = []

    def __enter__(self) -> nn.Module:
        for name, module in self.model.named_modules():
            if not list(module.children()) or is_patch_embedding(module):

                def hook(module: nn.Module, inputs: tuple, output: Any, name: str = name) -> None:
                    if inputs and _is_dense(inputs[0]):
                        self.hear(name, module, inputs[0], output)

                self.handles.append(module.register_forward_hook(hook))
        return self.model

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()


def _run(model: nn.Module, x: Tensor) -> list[Tensor]:
    """All tensors in what a network answers, real or of integers, wherever they stand in it.

    Raises:
        ValueError: there are none, or of integers alone, which say too little to be compared; or some are not dense.
        Exception: whatever the network raises where it does not take such images.
    """
    device = next((p.device for p in model.parameters()), x.device)
    with torch.no_grad():
        output = model(x.to(device, copy=True))  # it may write on it
    tensors = [tensor for _, tensor in reachable(output)]
    if not any(tensor.is_floating_point() or tensor.is_complex() for tensor in tensors):
        raise ValueError(
            f"the network's answer, a {type(output).__name__}, holds no tensor of floating-point numbers, and says too "
            "little to be compared: encrypt the part of it that gives logits"
        )
    if not all(map(_is_dense, tensors)):
        raise ValueError(
            "the network answers by a tensor that is sparse, nested, masked, quantised, on the meta device or float8, "
            "which cannot be compared: have it answer by dense ones, such as logits"
        )
    return [torch.view_as_real(t.resolve_conj()) if t.is_complex() else t for t in tensors]


def _is_dense(thing: Any) -> TypeGuard[Tensor]:
    """Whether this is a tensor that can be compared with another."""
    if not isinstance(thing, Tensor) or isinstance(thing, torch.masked.MaskedTensor):
        return False
    other = thing.layout != torch.strided or thing.is_nested or thing.is_meta or thing.is_quantized
    return not other and not (thing.is_floating_point() and thing.itemsize == 1)


def _in(dtype: torch.dtype, model: nn.Module) -> nn.Module:
    """The network itself, ready to be tried out in a dtype; what is complex stays so."""
    return (model.double() if dtype == torch.float64 else model.float()).eval()


def _image_size(
    model: nn.Module, key: BlockKey, given: tuple[int, int] | None
) -> tuple[tuple[int, int] | None, torch.dtype, str]:
    """A size of images that the network takes, the smaller the better, and in which dtype; or None, and why not."""
    causes: dict[str, str] = {}  # of the first size
    for dtype in TOLERANCES:
        probe, name = _in(dtype, copied(model)), str(dtype).removeprefix("torch.")
        for size in [given] if given else _sizes(model, key):
            shape = (2, key.channels, *size)
            try:
                _run(probe, torch.zeros(shape, dtype=dtype))
            except Exception as error:  # whatever a stranger's network raises: it does not take this
                reason = (str(error) or "-").splitlines()[0].rstrip(".")
                causes.setdefault(name, f"On {shape} in {name}: {type(error).__name__}: {reason}")
            else:
                return size, dtype, ""
    return None, dtype, ". ".join(causes.values())


def _sizes(model: nn.Module, key: BlockKey) -> Iterator[tuple[int, int]]:
    """Sizes to try: the key's own grid, what the network says, then usual ones."""
    M = key.patch_size
    for part in _parts(key):
        if isinstance(part, BlockOrder | PatchKeys):
            yield part.grid[0] * M, part.grid[1] * M
    said = [getattr(of, name, None) for of in _config(model) for name in ("image_size", "img_size", "input_size")]
    for value in said:
        if isinstance(value, int):
            yield value, value
        elif isinstance(value, tuple | list) and len(value) >= 2 and all(isinstance(n, int) for n in value):
            yield value[-2], value[-1]
    patches = [m.kernel_size[0] for m in model.modules() if is_patch_embedding(m) and m.in_channels == key.channels]
    for side, P in product(SIDES, {*patches, M}):
        yield side * P, side * P
    for side in (32, 224, 28, 64, 96, 128, 256, 384):
        yield side, side


def _config(model: nn.Module) -> Iterator[Any]:
    yield model
    yield getattr(model, "config", None)
    yield from (module for name, module in model.named_modules() if "embed" in name)
