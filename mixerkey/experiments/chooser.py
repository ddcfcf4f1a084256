"""Train what `mixerkey.attacks.chooser` weighs the network's layers with, on CIFAR-10's training images alone.

Each image is cropped, and its brightness, contrast, gamma, saturation and colour cast are changed at random, since an
attacker's pictures are not the victim's. One linear layer learns which of the twelve recoloured ones was the picture.

    python -m mixerkey.experiments.chooser

needs CIFAR-10 (MIXERKEY_DATA) and some minutes of one core. Features are kept in a folder, so a run that was killed
goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from mixerkey.attacks.chooser import SIDE, WEIGHTS, features, recoloured
from mixerkey.cipher import normalize
from mixerkey.data import load_cifar10
from mixerkey.files import write_json
from mixerkey.receipts import RECEIPTS, processor, versions

RECEIPT = RECEIPTS / "chooser.json"
IMAGES = 4000  # of the training set
SHARD = 500  # images whose features are kept in one file
CHECKED = 1000  # test images
STEPS = 2000  # of AdamW
BATCH = 64  # images
RATE = 2e-3  # the highest learning rate
DECAY = 1e-2  # of weights
DROPOUT = 0.3  # of features


def disturbed(images: Tensor, generator: torch.Generator) -> Tensor:
    """Crops of uint8 images (N, 3, 32, 32) in other light: float32 of the same shape, 0 to 1.

    >>> disturbed(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3, 32, 32])
    """

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(images), 1, 1, 1, generator=generator)

    def lognormal(spread: float, channels: int = 1) -> Tensor:
        return torch.exp(spread * torch.randn(len(images), channels, 1, 1, generator=generator))

    x = torch.stack([_crop(image, generator) for image in images.float() / 255])
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * uniform(0.5, 1.2)  # saturation
    x = (x * lognormal(0.06, 3)).clamp(1e-4, 1)  # colour cast
    brightness = x.mean((1, 2, 3), keepdim=True).clamp(0.02, 0.98)
    gamma = (uniform(0.22, 0.78).log() / brightness.log()).clamp(0.45, 2.2) * lognormal(0.15)
    gamma = torch.where(uniform(0, 1) < 0.3, 1.0, gamma)
    x = x ** (gamma * lognormal(0.04, 3))
    contrast = uniform(0.65, 1.15)
    black = torch.where(contrast < 1, (1 - contrast) * uniform(0, 1), (1 - contrast) / 2)
    return (black + contrast * x).clamp(0, 1)


def _crop(image: Tensor, generator: torch.Generator) -> Tensor:
    """The image, or a square of 16 pixels or more enlarged; mirrored or not."""

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    side = SIDE if draw(0, 4) < 2 else draw(SIDE // 2, SIDE)
    top, left = draw(0, SIDE - side), draw(0, SIDE - side)
    square = image[None, :, top : top + side, left : left + side]
    square = F.interpolate(square, size=(SIDE, SIDE), mode="bilinear")[0]
    return square.flip(2) if draw(0, 1) else square


def views(z: Tensor) -> Tensor:
    """Features (N, 12, K) of normalised images with all colour changes, float16."""
    return features(recoloured(z).flatten(0, 1)).view(len(z), 12, -1).half()


def fit(x: Tensor, seed: int = 0) -> Tensor:
    """Weights (K,) under which the first of the twelve most often has the largest product with its features."""
    torch.manual_seed(seed)
    sample = x[:: max(1, len(x) // 1000)].float()
    mean, deviation = sample.mean((0, 1)), sample.std((0, 1)) + 1e-3
    weight = torch.zeros(x.shape[2], requires_grad=True)
    optimizer = torch.optim.AdamW([weight], RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS)
    for _ in range(STEPS):
        batch = (x[torch.randint(len(x), (BATCH,))].float() - mean) / deviation
        loss = -(F.dropout(batch, DROPOUT) @ weight).log_softmax(1)[:, 0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return (weight / deviation).detach()


def judged(weight: Tensor, x: Tensor) -> dict[str, float]:
    scores = x.float() @ weight
    return {
        "images": len(x),
        "right": int((scores.argmax(1) == 0).sum()),
        "mean loss": round(float(-scores.log_softmax(1)[:, 0].mean()), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the chooser of colours.")
    parser.add_argument("--features", type=Path, default=Path("chooser-features"), help="folder to keep features in")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="file to write")
    parser.add_argument("--out", type=Path, default=RECEIPT, help="receipt to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.features.mkdir(parents=True, exist_ok=True)
    images = load_cifar10("train")[0]
    drawn = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:IMAGES]]
    shards = []
    for k, part in enumerate(tqdm(drawn.split(SHARD), "features")):
        file = arguments.features / f"{k}.safetensors"
        if not file.exists():
            x = views(2 * disturbed(part, torch.Generator().manual_seed(k)) - 1)
            save_file({"features": x}, file.with_suffix(".part"))
            file.with_suffix(".part").rename(file)
        shards.append(load_file(file)["features"])
    weight = fit(torch.cat(shards))
    save_file({"weight": weight}, arguments.weights)
    test = load_cifar10("test")[0][:CHECKED]
    write_json(
        arguments.out,
        {
            "what": "which of twelve recoloured pictures is the picture; a guess is right once in twelve",
            "training images": IMAGES,
            "test images": judged(weight, views(normalize(test))),
            "disturbed": judged(weight, views(2 * disturbed(test, torch.Generator().manual_seed(0)) - 1)),
            "versions": versions(),
            "processor": processor(),
        },
    )


if __name__ == "__main__":
    main()
