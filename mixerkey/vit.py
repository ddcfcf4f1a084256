"""A vision transformer: the same patch embedding, then layers that tell places apart by a position embedding alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention on tokens (N, T, dim): softmax(QKᵀ/√(dim/heads))V (Vaswani et al., 2017).

    Tokens in another order come back in that order, and are otherwise the same.

    >>> attention, x, order = Attention(8, 2).double(), torch.rand(1, 5, 8, dtype=torch.float64), torch.randperm(5)
    >>> torch.allclose(attention(x[:, order]), attention(x)[:, order])
    True
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, T, dim) -> of the same shape."""
        N, T, dim = x.shape
        q, k, v = self.qkv(x).view(N, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # each (N, heads, T, dim/heads)
        # Written out: on so few tokens it trains four times as fast on a CPU as PyTorch's fused kernel.
        shares = (q @ k.mT * k.shape[-1] ** -0.5).softmax(-1)  # (N, heads, T, T)
        return self.proj((shares @ v).transpose(1, 2).reshape(N, T, dim))


class Block(nn.Module):
    """A layer: attention among the tokens, then an MLP on each; both see normalised tokens and add to the tokens."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(dim), Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, T, dim) -> of the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Vision transformer (Dosovitskiy et al., 2021) for images (N, C, H, W), normalised to [-1, 1]; returns logits.

    Only `positions` tells one place from another: row i is added to the embedded patch i, counted row by row. Patches
    in another order, with the rows of `positions` in the same other order, give the same logits.

    Args:
        dim: number of features of a token.
        depth: number of layers.
        heads: of the attention; they share the features equally.
        patch_size: P.
        num_classes: number of logits.
        in_channels: C.
        image_size: H = W, divisible by P.

    Raises:
        ValueError: a size is not positive, `heads` does not divide `dim`, P does not divide `image_size`, or (in
            `forward`) the images do not fit.

    >>> model = ViT(dim=128, depth=6, heads=4)
    >>> model(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    >>> model.positions.shape
    torch.Size([64, 128])
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        patch_size: int = 4,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
    ) -> None:
        self.sizes = {
            "dim": dim,
            "depth": depth,
            "heads": heads,
            "patch_size": patch_size,
            "num_classes": num_classes,
            "in_channels": in_channels,
            "image_size": image_size,
        }
        for name, size in self.sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if dim % heads or image_size % patch_size:
            raise ValueError(
                f"heads must divide dim and patch_size must divide image_size, got {heads} and {dim}, "
                f"{patch_size} and {image_size}"
            )
        super().__init__()
        self.embedding = nn.Conv2d(in_channels, dim, kernel_size=patch_size, stride=patch_size)  # as in Eq. (1)
        self.positions = nn.Parameter(torch.empty((image_size // patch_size) ** 2, dim))
        self.class_token = nn.Parameter(torch.empty(dim))
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)
        self.reset_tokens()

    def reset_tokens(self, generator: torch.Generator | None = None) -> None:
        """Draw the class token anew, and set the positions to waves over rows and columns; in place.

        Sine and cosine (Vaswani et al., 2017) let attention tell from the start how far two places are apart.
        """
        nn.init.normal_(self.class_token, std=0.02, generator=generator)
        side = self.sizes["image_size"] // self.sizes["patch_size"]
        waves = self.sizes["dim"] // 4
        phase = torch.arange(side)[:, None] * torch.pi / 2 / 16 ** (torch.arange(waves) / waves)  # (side, waves)
        wave = torch.cat([phase.sin(), phase.cos()], 1)
        with torch.no_grad():
            self.positions.zero_()  # what is left over when 4 does not divide dim
            self.positions[:, : 4 * waves] = torch.cat([wave.repeat_interleave(side, 0), wave.repeat(side, 1)], 1)

    def states(self, x: Tensor) -> Iterator[Tensor]:
        """The tokens (N, 1 + places, dim), the class token first: before the first layer, then after each one."""
        self.check_images(x)
        x = self.embedding(x).flatten(2).mT + self.positions  # (N, places, dim)
        x = torch.cat([self.class_token.expand(len(x), 1, -1), x], 1)
        yield x
        for block in self.blocks:
            x = block(x)
            yield x

    def tokens(self, x: Tensor) -> Tensor:
        """(N, 1 + places, dim): the class token and the patches' tokens after the last layer, normalised."""
        *_, x = self.states(x)
        return self.norm(x)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (N, C, H, W) -> logits (N, num_classes)."""
        return self.head(self.tokens(x)[:, 0])

    def check_images(self, x: Tensor) -> None:
        """Raise ValueError unless `x` is a batch (N, C, H, W) that this network accepts.

        >>> ViT(8, 1, 2).check_images(torch.zeros(1, 3, 30, 32))
        Traceback (most recent call last):
            ...
        ValueError: this ViT takes images (N, 3, 32, 32), got (1, 3, 30, 32)
        """
        C, S = self.sizes["in_channels"], self.sizes["image_size"]
        if x.ndim != 4 or x.shape[1:] != (C, S, S):
            raise ValueError(f"this ViT takes images (N, {C}, {S}, {S}), got {tuple(x.shape)}")


def timm_state_dict(model: ViT) -> dict[str, Tensor]:
    """The model's weights under the names of timm's `VisionTransformer`, whose position embedding has a row for the
    class token too: zeros here, since the class token is learned. timm's normalisations add 1e-6 to variances, unless
    told otherwise, and this network's 1e-5.

    >>> [name for name in timm_state_dict(ViT(8, 1, 2)) if "." not in name]
    ['cls_token', 'pos_embed']
    """
    weights = model.state_dict()
    positions, class_token = weights.pop("positions"), weights.pop("class_token")
    renamed = {
        "cls_token": class_token[None, None],
        "pos_embed": torch.cat([torch.zeros_like(class_token)[None], positions])[None],
    }
    names = {"embedding": "patch_embed.proj", ".attention.": ".attn.", "mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2"}
    for name, tensor in weights.items():
        for ours, timms in names.items():
            name = name.replace(ours, timms)
        renamed[name] = tensor
    return renamed
