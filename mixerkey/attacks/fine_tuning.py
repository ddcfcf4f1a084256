"""Fine-tuning: not the key, but the model. What protection by a key is worth against a few labelled images."""

from __future__ import annotations

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from mixerkey.cipher import normalize
from mixerkey.convmixer import ConvMixer
from mixerkey.embedding import find_patch_embedding
from mixerkey.evaluation import checked_labels, predict
from mixerkey.fast import forward


def fine_tune_embedding(
    encrypted: ConvMixer,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    *,
    steps: int = 100,
    batch_size: int = 100,
    rate: float = 0.01,
    progress: bool = False,
) -> ConvMixer:
    """Train the patch embedding of an encrypted network for plain images, everything else kept as it is.

    Key encryption touches the embedding only, 12,544 of the paper's 718,090 parameters. Whoever steals the network
    has the rest in the clear, and needs labelled images just to learn the embedding again. What comes back is a
    network, not a key: its embedding need not be E, nor near it.

    Args:
        encrypted: the stolen network; not modified.
        images: plain, uint8 (N, C, H, W).
        labels: integers (N,), of any width.
        generator: draws the batches.
        steps: of Adam, whose learning rate falls linearly to 0.
        batch_size: images a step, at most N.
        rate: Adam's first learning rate.
        progress: whether to show a progress bar on stderr.

    Returns:
        a network for plain images, in evaluation mode. Measure what it is worth by `accuracy` on other images.

    Raises:
        TypeError, ValueError: images or labels that `mixerkey.accuracy` refuses.

    >>> from mixerkey import Key, accuracy, encrypt_model, load_pretrained
    >>> from mixerkey.data import load_digits
    >>> stolen = encrypt_model(load_pretrained("digits"), Key.from_seed(3, 2, 1))
    >>> (x, y), test = load_digits("train"), load_digits("test")
    >>> tuned = fine_tune_embedding(stolen, x[:100], y[:100], torch.Generator().manual_seed(0), rate=0.03)
    >>> accuracy(stolen, *test) < 0.5 < 0.85 < accuracy(tuned, *test)
    True
    """
    labels = checked_labels(labels, len(images), predict(encrypted, images[:1]).shape[1])
    model = deepcopy(encrypted).eval().requires_grad_(False)
    embedding = find_patch_embedding(model)
    adam = torch.optim.Adam(embedding.requires_grad_().parameters(), lr=rate)
    decay = torch.optim.lr_scheduler.LinearLR(adam, 1, 0, steps)
    for _ in tqdm(range(steps), "steps", disable=not progress):
        chosen = torch.randperm(len(images), generator=generator)[:batch_size]
        loss = F.cross_entropy(forward(model, normalize(images[chosen])), labels[chosen])
        adam.zero_grad()
        loss.backward()
        adam.step()
        decay.step()
    return model.requires_grad_(False)
