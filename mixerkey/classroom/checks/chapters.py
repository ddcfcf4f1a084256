"""The checkers in the order of the chapters: right answers, inputs, and classic mistakes with what is said of them."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mixerkey.cipher import encrypt_images
from mixerkey.classroom.checks.checker import Value, checker
from mixerkey.keys import Key, SignedPermutation
from mixerkey.receipts import box_plot, confidence_interval

BLOCKS = ((4, 3), (2, 3), (4, 1))  # (M, C)


def random_key(g: Generator, M: int, C: int) -> Key:
    """A key from the generator."""
    size = M * M * C
    flips = torch.randperm(size, generator=g) < size // 2
    return Key(torch.randperm(size, generator=g), flips, M, C)


def draw(g: Generator, n: int) -> int:
    """One of 0..n-1."""
    return int(torch.randint(n, (), generator=g))


def normal(g: Generator, *shape: int) -> Tensor:
    """Standard normal float64 numbers."""
    return torch.randn(*shape, dtype=torch.float64, generator=g)


def pixels(g: Generator, *shape: int) -> Tensor:
    """Uniform uint8 numbers."""
    return torch.randint(256, shape, dtype=torch.uint8, generator=g)


def sign(r: Tensor) -> Tensor:
    """s, float64: -1 where r is 1."""
    return 1 - 2 * r.double()


# ConvMixer


def count(d: int, L: int, k: int, P: int, C: int, classes: int, bias: int = 1, norm: int = 1) -> int:
    """The parameters of a ConvMixer; `bias` and `norm` are 0 to leave those of convolutions or of the norms out."""
    layer = d * k * k + d * d + bias * 2 * d + norm * 4 * d
    return d * C * P * P + bias * d + norm * 2 * d + L * layer + classes * d + classes


LARGE = (1536, 20, 9, 7, 3, 1000)
parameters = Value(
    count(*LARGE),
    "two convolutions and two normalisations a layer, the embedding with its own, and the classifier.",
    (
        (count(*LARGE, norm=0), "the scales and offsets of batch normalisation are missing"),
        (count(*LARGE, bias=0), "the biases of the convolutions are missing"),
        (count(*LARGE, bias=0, norm=0), "the biases and batch normalisation are missing"),
        (
            count(*LARGE) + 20 * 81 * 1536 * 1535,
            "this counts a full convolution; a depthwise one has k² weights for each channel, not k² d",
        ),
    ),
)


@checker(
    lambda g: [(4, 5, 5), *[(2 + draw(g, 30), 3 + 2 * draw(g, 9), 2 + draw(g, 9)) for _ in range(6)]],
    "one patch to begin with, and k - 1 patches more with each layer.",
    (
        (lambda P, k, L: 1 + L * (k - 1), "this counts patches; each is P pixels wide"),
        (lambda P, k, L: P + L * (k - 1), "a layer looks k - 1 patches further, not k - 1 pixels"),
        (lambda P, k, L: P * (1 + L * k), "a layer adds k - 1 patches, not k: the middle of the kernel is not new"),
        (lambda P, k, L: P * k**L, "the field grows by the same amount with each layer; it does not multiply"),
        (lambda P, k, L: P * (1 + L * (k // 2)), "the kernel looks k // 2 patches to both sides, this counts one side"),
    ),
)
def receptive_field(P: int, k: int, L: int) -> int:
    return P * (1 + L * (k - 1))


def normalised_over(*axes: int, unbiased: bool = False, eps: float = 1e-5) -> Callable[[Tensor], Tensor]:
    """Normalisation of (N, d, h, w) over these axes."""

    def norm(z: Tensor) -> Tensor:
        variance, mean = torch.var_mean(z, axes, correction=int(unbiased), keepdim=True)
        return (z - mean) / (variance + eps).sqrt()

    return norm


@checker(
    lambda g: [
        (torch.arange(24.0).double().reshape(2, 3, 2, 2).square(),),
        (normal(g, 5, 3, 4, 4),),
        (normal(g, 2, 7, 3, 5),),
    ],
    "mean and variance of each channel over images, rows and columns.",
    (
        (normalised_over(0, 2, 3, unbiased=True), "var() divides by n - 1; normalising divides by n"),
        (normalised_over(0), "this averages over the images only; a channel's statistics are over its map, too"),
        (normalised_over(2, 3), "this treats each image alone; a batch shares its statistics"),
        (normalised_over(0, 1, 2, 3), "this mixes the channels; each has its own mean and variance"),
        (normalised_over(1), "this averages over the channels; they are what is kept apart"),
        (normalised_over(0, 2, 3, eps=0.0), "eps is missing under the root"),
    ),
)
def batch_norm_train(z: Tensor) -> Tensor:
    return normalised_over(0, 2, 3)(z)


# Patch embedding


def permuted(*order: int) -> Callable[[Tensor, int, int, int, int], Tensor]:
    """Patches back to an image by this permute; right with (2, 0, 3, 1, 4)."""

    def image(flat: Tensor, C: int, H: int, W: int, P: int) -> Tensor:
        return flat.reshape(H // P, W // P, C, P, P).permute(order).reshape(C, H, W)

    return image


def unpatch_channels_last(flat: Tensor, C: int, H: int, W: int, P: int) -> Tensor:
    return flat.reshape(H // P, W // P, P, P, C).permute(4, 0, 2, 1, 3).reshape(C, H, W)


@checker(
    lambda g: [
        (torch.arange(288).reshape(6, 48), 3, 8, 12, 4),
        (pixels(g, 12, 12), 3, 6, 8, 2),
        (pixels(g, 3, 18), 2, 9, 3, 3),
    ],
    "the inverse of patches, also where height and width differ.",
    (
        (
            permuted(1, 3, 0, 2, 4),
            "these are the numbers of the forward direction; permute by the inverse, (2, 0, 3, 1, 4)",
        ),
        (permuted(2, 0, 1, 3, 4), "the rows of a patch must go between those of its neighbours: (C, H/P, P, W/P, P)"),
        (permuted(2, 0, 4, 1, 3), "rows and columns within a patch are exchanged"),
        (lambda flat, C, H, W, P: flat.reshape(C, H, W), "reshape alone keeps the order of the numbers; permute first"),
        (unpatch_channels_last, "a flattened patch is in the order (channel, row, column), not (row, column, channel)"),
    ),
)
def unpatch(flat: Tensor, C: int, H: int, W: int, P: int) -> Tensor:
    return permuted(2, 0, 3, 1, 4)(flat, C, H, W, P)


@checker(
    lambda g: [(torch.arange(60.0).reshape(5, 3, 2, 2),), (normal(g, 7, 3, 4, 4),), (normal(g, 4, 2, 3, 3),)],
    "row k of E holds what pixel k gives to each channel, rows in the order (channel, row, column).",
    (
        (lambda weight: weight.flatten(1), "this is the transpose of E: E has a row for each pixel, shape (p_b, d)"),
        (
            lambda weight: weight.permute(0, 2, 3, 1).flatten(1).T,
            "the rows are in the order (row, column, channel); flatten as the weight lies, (channel, row, column)",
        ),
        (
            lambda weight: weight.reshape(-1, len(weight)),
            "reshape to (p_b, d) cuts the numbers anew; reshape to (d, p_b), then transpose",
        ),
        (lambda weight: weight.mT.flatten(1).T, "rows and columns of the kernels are exchanged"),
    ),
)
def matrix_from_weight(weight: Tensor) -> Tensor:
    return weight.flatten(1).T


# The image cipher

block_by_hand = Value(
    [250, 155, 5, 55],
    "x(v_k) at place k, then 255 - p at the places where r_k = 1.",
    (
        ([200, 155, 250, 250], "this permutes by the inverse: x'(k) must be x(v_k), not x(k) at v_k"),
        ([5, 155, 5, 200], "this flips before it shuffles; r_k belongs to the encrypted place k"),
        ([250, 156, 5, 56], "a flip is 255 - p, not 256 - p: all eight bits turn over"),
        ([250, 100, 5, 200], "the shuffle is right, the flips are missing"),
    ),
)

key_count = Value(
    144,
    "4! permutations times the 6 ways to flip two of four.",
    (
        (24, "these are the 4! permutations alone. Each goes with every choice of flips"),
        (6, "these are the choices of flips alone. Each goes with every permutation"),
        (384, "this allows any flips; a key flips exactly half of the pixels, step B2"),
        (30, "the choices are independent: multiply, do not add"),
    ),
)


def blocks_and_key(g: Generator) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Blocks, v and r for several shapes; first the example."""
    example = torch.tensor([[[5, 100, 200, 250]]], dtype=torch.uint8), torch.tensor([3, 1, 0, 2])
    cases = [(*example, torch.tensor([False, True, False, True]))]
    for M, C in BLOCKS:
        key = random_key(g, M, C)
        cases.append((pixels(g, 2, 3, M * M * C), key.permutation, key.flips))
    return cases


def full(r: Tensor) -> Tensor:
    """The mask of Eq. (5): 255 where r is 1."""
    return r.to(torch.uint8) * 255


INVERSE = "this permutes by the inverse: x'(k) must be x(v_k), not x(k) at v_k"


@checker(
    lambda g: [(blocks, v) for blocks, v, _ in blocks_and_key(g)],
    "pixel k of each block is x(v_k), for blocks of every size, and the input is as it was.",
    (
        (lambda blocks, v: blocks[..., v.argsort()], INVERSE),
        (lambda blocks, v: blocks, "nothing has moved"),
        (lambda blocks, v: blocks[..., v[v]], "this shuffles twice"),
        (lambda blocks, v: blocks.flip(-1), "this reverses the pixels, whatever v is"),
    ),
)
def shuffle(blocks: Tensor, v: Tensor) -> Tensor:
    return blocks[..., v]


@checker(
    blocks_and_key,
    "shuffled by v, then flipped where r is 1, by encrypted place.",
    (
        (lambda blocks, v, r: blocks[..., v.argsort()] ^ full(r), INVERSE),
        (
            lambda blocks, v, r: (blocks ^ full(r))[..., v],
            "this flips before it shuffles; r_k belongs to the encrypted place k",
        ),
        (
            lambda blocks, v, r: torch.where(r, 256 - blocks[..., v].int(), blocks[..., v]).to(torch.uint8),
            "a flip is 255 - p, not 256 - p: all eight bits turn over",
        ),
        (lambda blocks, v, r: blocks[..., v] ^ r, "XOR with 1 turns the last bit only; the mask is 255"),
        (lambda blocks, v, r: blocks[..., v] ^ full(~r), "this flips where r is 0"),
        (lambda blocks, v, r: blocks[..., v], "the shuffle is right, the flips are missing"),
        (lambda blocks, v, r: blocks ^ full(r), "the flips are there, the shuffle is missing"),
    ),
)
def encrypt(blocks: Tensor, v: Tensor, r: Tensor) -> Tensor:
    return blocks[..., v] ^ full(r)


@checker(
    blocks_and_key,
    "the flips undone at their encrypted places, then every pixel sent back.",
    (
        (
            lambda blocks, v, r: blocks[..., v.argsort()] ^ full(r),
            "after the pixels have moved back, their flips must have moved with them: r[v.argsort()]",
        ),
        (
            lambda blocks, v, r: (blocks ^ full(r))[..., v],
            "the flips are undone, but the pixels are shuffled once more; send them back with v.argsort()",
        ),
        (lambda blocks, v, r: blocks[..., v] ^ full(r), "this encrypts a second time"),
        (lambda blocks, v, r: blocks[..., v.argsort()], "the pixels are back, the flips are still there"),
        (lambda blocks, v, r: blocks ^ full(r), "the flips are undone, the pixels have not moved"),
    ),
)
def decrypt(blocks: Tensor, v: Tensor, r: Tensor) -> Tensor:
    return (blocks ^ full(r))[..., v.argsort()]


@checker(
    lambda g: [(torch.arange(4096), 12), *[(torch.randint(2**L, (999,), generator=g), L) for L in (8, 10, 16)]],
    "from -1 to 1, and exactly odd: a flipped level gives the negative, bit for bit.",
    (
        (lambda p, L: p.float() / (2**L - 1), "this maps to [0, 1]; the middle must be 0, or a flip is no sign"),
        (
            lambda p, L: (p.float() / (2**L - 1) - 0.5) / 0.5,
            "right on paper, but p / (2^L - 1) is rounded before 1/2 is subtracted, so it is not exactly odd; "
            "start with the whole number 2p - (2^L - 1)",
        ),
        (lambda p, L: (2 * p - 2**L).float() / 2**L, "the middle of 0 and 2^L - 1 is not 2^(L-1)"),
        (lambda p, L: (2 * p - 2**L + 1).float() / 2**L, "the largest level is 2^L - 1, so divide by that"),
        (lambda p, L: (2 * p - 255).float() / 255, "255 is for 8 bits; here the largest level is 2^L - 1"),
        (lambda p, L: -(2 * p - 2**L + 1).float() / (2**L - 1), "dark must become -1, not 1"),
    ),
    tolerance=0.0,
)
def normalize_levels(p: Tensor, L: int) -> Tensor:
    return (2 * p - (2**L - 1)).to(torch.float32) / (2**L - 1)


# Model encryption

rows_by_hand = Value(
    [2, -4, -1, 3],
    "row v_k at place k, negated where r_k = 1.",
    (
        ([3, -1, -4, 2], "this is the transpose: row k must be row v_k of E, not E's row k at v_k"),
        ([-2, 4, 1, -3], "this negates before it moves; s_k belongs to the new row k"),
        ([2, 4, 1, 3], "the rows are right, the signs are missing"),
    ),
)


def matrix_and_key(g: Generator) -> list[tuple[Tensor, Tensor, Tensor]]:
    """E, v and r for several shapes; first the example."""
    example = torch.tensor([[1.0], [2.0], [3.0], [4.0]], dtype=torch.float64), torch.tensor([1, 3, 0, 2])
    cases = [(*example, torch.tensor([False, True, True, False]))]
    for M, C in BLOCKS:
        key = random_key(g, M, C)
        cases.append((normal(g, M * M * C, 5), key.permutation, key.flips))
    return cases


@checker(
    matrix_and_key,
    "row k is row v_k of E, negated where r_k = 1: E' is the transpose of T, times E.",
    (
        (
            lambda E, v, r: sign(r)[:, None] * E[v.argsort()],
            "this is the transpose of E1: row k must be row v_k of E, not E's row k at v_k",
        ),
        (lambda E, v, r: (sign(r)[:, None] * E)[v], "this negates before it moves; s_k belongs to the new row k"),
        (
            lambda E, v, r: (sign(r)[:, None] * E)[v.argsort()],
            "this is T E, the inverse; encryption of the model is the transpose of T, times E",
        ),
        (lambda E, v, r: E[v], "the rows are right, the signs are missing"),
        (lambda E, v, r: sign(r)[:, None] * E, "the signs are there, but no row has moved"),
        (lambda E, v, r: -sign(r)[:, None] * E[v], "this negates where r is 0"),
    ),
)
def encrypt_rows(E: Tensor, v: Tensor, r: Tensor) -> Tensor:
    return sign(r)[:, None] * E[v]


def linear(there: bool = True, back: bool = True, inverse: bool = False) -> Callable[[Tensor, Key], Tensor]:
    """Encryption of a linear embedding's weight, with or without the change of order before and after it."""

    def encrypted(weight: Tensor, key: Key) -> Tensor:
        M, C = key.patch_size, key.channels
        order = torch.arange(M * M * C).reshape(M, M, C).permute(2, 0, 1).flatten()  # (p_b,)
        order = order.argsort() if inverse else order
        E = weight.T[order] if there else weight.T  # (p_b, d)
        E = sign(key.flips)[:, None] * E[key.permutation]
        return (E[order.argsort()] if back else E).T

    return encrypted


@checker(
    lambda g: [
        (normal(g, 5, 48), Key.from_seed(7, 4, 3)),
        *[(normal(g, 6, M * M * C), random_key(g, M, C)) for M, C in ((2, 3), (3, 2))],
    ],
    "the columns go to the key's order, are encrypted, and come back.",
    (
        (linear(False, False), "the key counts (channel, row, column), this weight's columns (row, column, channel)"),
        (linear(back=False), "the columns are still in the key's order; bring them back"),
        (linear(there=False), "the columns are not in the key's order when they are encrypted"),
        (linear(inverse=True), "there and back are exchanged; argsort gives the other direction"),
    ),
)
def encrypt_linear(weight: Tensor, key: Key) -> Tensor:
    return linear()(weight, key)


# Three parties


def pair(key: SignedPermutation) -> tuple[Tensor, Tensor]:
    return key.permutation, key.flips


def as_keys(v_old: Tensor, r_old: Tensor, v_new: Tensor, r_new: Tensor) -> tuple[SignedPermutation, SignedPermutation]:
    """Two signed permutations; M = 1 and C = p_b stand for any shape of that size."""
    return SignedPermutation(v_old, r_old, 1, len(v_old)), SignedPermutation(v_new, r_new, 1, len(v_new))


def composed(how: Callable[[SignedPermutation, SignedPermutation], SignedPermutation]) -> Callable[..., tuple]:
    return lambda *key_pair: pair(how(*as_keys(*key_pair)))


@checker(
    lambda g: [
        (*pair(Key.from_seed(1, 2, 1)), *pair(Key.from_seed(2, 2, 1))),
        *[(*pair(random_key(g, M, C)), *pair(random_key(g, M, C))) for M, C in BLOCKS],
    ],
    "first back with the old key, then on with the new one, flips included.",
    (
        (composed(lambda a, b: b.inverse().then(a)), "this leads from the new key to the old one"),
        (
            composed(lambda a, b: b.then(a.inverse())),
            "the order is exchanged: first undo the old key, then apply the new",
        ),
        (composed(lambda a, b: a.then(b)), "the old key must be undone: its inverse comes first, v_old.argsort()"),
        (
            lambda v_old, r_old, v_new, r_new: (v_old.argsort()[v_new], r_old ^ r_new),
            "the permutation is right; the old flips must move with their pixels before they meet the new ones",
        ),
        (
            lambda v_old, r_old, v_new, r_new: (v_old.argsort()[v_new], r_new),
            "the permutation is right, but the old flips are not undone",
        ),
    ),
)
def relative_key(v_old: Tensor, r_old: Tensor, v_new: Tensor, r_new: Tensor) -> tuple[Tensor, Tensor]:
    old, new = as_keys(v_old, r_old, v_new, r_new)
    return pair(old.inverse().then(new))


# The experiments

most_different = Value(
    1908,
    "the two sets of 954 wrong images can be disjoint, and elsewhere both are right.",
    (
        (954, "each is wrong on 954 images, but these need not be the same ones"),
        (0, "equal accuracies do not mean equal answers"),
        (9046, "where both are right they agree; look at the images on which one is wrong"),
        (10000, "where both are right they agree; look at the images on which one is wrong"),
    ),
)


def wald(z: float = 1.959964, power: float = 0.5) -> Callable[[int, int], tuple[float, float]]:
    """The naive interval: share ± z · its standard error."""

    def bounds(right: int, total: int) -> tuple[float, float]:
        share = right / total
        half = z * (share * (1 - share) / total) ** power
        return share - half, share + half

    return bounds


def one_sigma(right: int, total: int) -> tuple[float, float]:
    share, extra = right / total, 1 / total
    half = sqrt(share * (1 - share) / total + extra / (4 * total))
    return (share + extra / 2 - half) / (1 + extra), (share + extra / 2 + half) / (1 + extra)


@checker(
    lambda g: [(357, 360), (0, 20), *[(1 + draw(g, 30), 40 + draw(g, 30)) for _ in range(3)]],
    "Wilson's interval, inside [0, 1] also where nothing or everything is right.",
    (
        (
            wald(),
            "this puts the measured share under the root (Wald); Wilson has the unknown p there",
        ),
        (wald(power=1.0), "the variance is not the standard error; take the root"),
        (one_sigma, "this is one standard error; 95 % needs z = 1.96"),
        (lambda right, total: tuple(100 * p for p in confidence_interval(right, total)), "give shares, not percent"),
    ),
    tolerance=1e-5,
)
def interval(right: int, total: int) -> tuple[float, float]:
    return confidence_interval(right, total)


def box(values: Tensor) -> tuple[float, ...]:
    return tuple(box_plot(values).values())


def with_mean(values: Tensor) -> tuple[float, ...]:
    low, q1, _, q3, high = box(values)
    return low, q1, values.mean().item(), q3, high


def five(values: Tensor, whisker: Callable[[Tensor, float, float], tuple[float, float]]) -> tuple[float, ...]:
    q1, median, q3 = values.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
    low, high = whisker(values, q1, q3)
    return low, q1, median, q3, high


def fences(values: Tensor, q1: float, q3: float, reach: float = 1.5) -> tuple[float, float]:
    return q1 - reach * (q3 - q1), q3 + reach * (q3 - q1)


def last_within(values: Tensor, low: float, high: float) -> tuple[float, float]:
    inside = values[(values >= low) & (values <= high)]
    return inside.min().item(), inside.max().item()


def with_outliers(g: Generator, n: int) -> Tensor:
    beyond = torch.tensor([-9.0, -2.35, 2.35, 9.0], dtype=torch.float64)  # the inner two lie between 1 and 1.5 IQR
    return torch.cat([normal(g, n), beyond])


@checker(
    lambda g: [
        (torch.tensor([1.0, 2, 3, 4, 5, 100], dtype=torch.float64),),
        (with_outliers(g, 141),),
        (with_outliers(g, 298),),
    ],
    "quartiles, and whiskers at the last values within 1.5 IQR of the box.",
    (
        (
            lambda values: five(values, lambda x, *_: (x.min().item(), x.max().item())),
            "the whiskers reach the outliers; stop at 1.5 IQR",
        ),
        (
            lambda values: five(values, fences),
            "a whisker ends at the last value within 1.5 IQR, not at that limit itself",
        ),
        (
            lambda values: five(values, lambda x, q1, q3: last_within(x, *fences(x, q1, q3, 1.0))),
            "the limit is 1.5 times the distance of the quartiles, not once",
        ),
        (with_mean, "the line in the box is the median, not the mean"),
    ),
)
def five_numbers(values: Tensor) -> tuple[float, ...]:
    return box(values)


def agreement_over(axis: int) -> Callable[[Tensor, Tensor], int]:
    return lambda a, b: int((a.argmax(axis) == b.argmax(axis)).sum())


def logits(g: Generator, n: int, classes: int) -> tuple[Tensor, Tensor]:
    """Two sets of logits that agree in about half of the classes."""
    a = normal(g, n, classes)
    return a, torch.where(torch.rand(n, 1, generator=g) < 0.5, a.abs() + a, normal(g, n, classes))


@checker(
    lambda g: [
        (torch.tensor([[2.0, 1], [0, 3]]).double(), torch.tensor([[5.0, 4], [3, 2]]).double()),
        *[logits(g, 200 + draw(g, 99), c) for c in (10, 3, 7)],
    ],
    "the largest logit of each image, compared image by image, and counted.",
    (
        (agreement_over(0), "argmax(0) finds an image for each class; the class of each image is argmax(1)"),
        (
            lambda a, b: (a.argmax(1) == b.argmax(1)).double().mean().item(),
            "count the images, do not divide by their number",
        ),
        (lambda a, b: int((a.argmax(1) != b.argmax(1)).sum()), "this counts the images on which they differ"),
        (
            lambda a, b: int((a == b).all(1).sum()),
            "this asks for equal logits; equal classes need only the same largest one",
        ),
    ),
)
def agreement(a: Tensor, b: Tensor) -> int:
    return agreement_over(1)(a, b)


def toeplitz(
    circular: bool = True, mirrored: bool = False, swapped: bool = False
) -> Callable[[Tensor, int, int], Tensor]:
    """The matrix of a kernel on an h × w map; right as it is, wrong in one way with an argument."""

    def matrix(kernel: Tensor, h: int, w: int) -> Tensor:
        k = len(kernel)
        pad = [k // 2] * 4
        units = torch.eye(h * w, dtype=kernel.dtype).reshape(-1, 1, h, w)
        padded = F.pad(units, pad, mode="circular") if circular else F.pad(units, pad)
        kernel = kernel.T if swapped else kernel
        out = F.conv2d(padded, kernel[None, None]).flatten(1)  # (hw, hw)
        return out.T if mirrored else out

    return matrix


@checker(
    lambda g: [(torch.arange(1.0, 10).double().reshape(3, 3), 4, 5), (normal(g, 5, 5), 8, 8), (normal(g, 3, 3), 6, 3)],
    "row i says where the unit vector of position i goes, around the edges too.",
    (
        (toeplitz(circular=False), "this pads with zeros; on a ring, what leaves on one side comes in on the other"),
        (toeplitz(mirrored=True), "this is the transpose: the output is z times A, so row i belongs to input i"),
        (toeplitz(swapped=True), "rows and columns of the kernel are exchanged"),
        (toeplitz(False, mirrored=True), "this pads with zeros, and it is the transpose"),
    ),
)
def circular_matrix(kernel: Tensor, h: int, w: int) -> Tensor:
    return toeplitz()(kernel, h, w)


# Breaking it


def correlated(g: Generator, n: int, size: int) -> tuple[Tensor]:
    """Normalised blocks whose pixels go together, as those of photographs do, with half of the signs turned."""
    averages = torch.linspace(-0.2, 0.2, size, dtype=torch.float64)
    x = 0.5 * normal(g, n, 1) + 0.4 * normal(g, n, size) + averages[torch.randperm(size, generator=g)]
    return (torch.where(torch.randperm(size, generator=g) < size // 2, -x, x),)


def leading(column: bool = True, which: int = -1) -> Callable[[Tensor], Tensor]:
    def flips(x: Tensor) -> Tensor:
        vectors = torch.linalg.eigh(x.T @ x).eigenvectors
        return (vectors[:, which] if column else vectors[which]) < 0

    return flips


@checker(
    lambda g: [correlated(g, 300, 12), correlated(g, 500, 48), correlated(g, 999, 27)],
    "the leading eigenvector tells which places were turned over, up to all of them at once.",
    (
        (
            leading(which=0),
            "eigh sorts its eigenvalues upwards: the leading eigenvector is the last column, not the first",
        ),
        (leading(column=False), "the eigenvectors are the columns; this takes a row"),
        (lambda x: x.mean(0) < 0, "this looks at averages; they need pictures that are bright or dark on the whole"),
        (lambda x: x[0] < 0, "one block is not enough: use the second moments of all"),
    ),
    canonical=lambda flips: flips ^ flips[0],
)
def leading_flips(x: Tensor) -> Tensor:
    return leading()(x)


def oracle(g: Generator, M: int, C: int) -> tuple[Callable[[Tensor], Tensor], int, int]:
    key = random_key(g, M, C)
    return lambda image: encrypt_images(image, key), M, C


def read(encrypts: Callable[[Tensor], Tensor], M: int, C: int) -> tuple[Tensor, Tensor, Tensor]:
    """One query: the places as they are read, the flips, and the places with the flips undone."""
    answer = encrypts(torch.arange(M * M * C, dtype=torch.uint8).reshape(C, M, M)).flatten()
    r = answer > 127
    return answer.long(), r, torch.where(r, 255 - answer, answer).long()


def wrong_reading(how: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]) -> Callable[..., tuple]:
    return lambda encrypts, M, C: how(*read(encrypts, M, C))


@checker(
    lambda g: [oracle(g, M, C) for M, C in ((4, 3), (2, 3), (3, 2), (5, 1), (4, 3))],
    "one block of different numbers, all below 128, gives the whole key.",
    (
        (
            wrong_reading(lambda raw, r, v: (v.argsort(), r)),
            "place k of the answer says where it came from: this is v_k itself, not its inverse",
        ),
        (wrong_reading(lambda raw, r, v: (raw, r)), "a flipped answer is 255 minus the place; turn it back"),
        (wrong_reading(lambda raw, r, v: (v, ~r)), "an answer above 127 was flipped: r_k = 1 there, not 0"),
        (
            wrong_reading(lambda raw, r, v: (v, r[v.argsort()])),
            "r is indexed by encrypted place, as the answer is; do not move it back",
        ),
        (wrong_reading(lambda raw, r, v: (torch.where(r, 256 - raw, raw), r)), "a flip is 255 - p, not 256 - p"),
    ),
)
def read_key(encrypts: Callable[[Tensor], Tensor], M: int, C: int) -> tuple[Tensor, Tensor]:
    _, r, v = read(encrypts, M, C)
    return v, r


# Broken variants


def ranks(u: Tensor) -> Tensor:
    return u.argsort().argsort()


@checker(
    lambda g: [(torch.tensor([0.3, 0.9, 0.1, 0.8]),), *[(torch.rand(n, generator=g) * 0.7,) for n in (48, 27, 12, 75)]],
    "exactly half of them, rounded down, for even and odd p_b.",
    (
        (
            lambda u: u > 0.5,
            "each flip is drawn alone, so the number of flips is a matter of luck; a key has exactly half",
        ),
        (
            lambda u: u >= u.median(),
            "the median itself is included: 25 of 48, since torch takes the lower of the middle two",
        ),
        (lambda u: ranks(u) > len(u) // 2, "ranks begin at 0, so this is one flip short where p_b is even"),
        (lambda u: ranks(u) >= len(u) // 2, "right for even p_b; for odd it flips half rounded up"),
        (lambda u: ranks(u) < len(u) // 2, "these are the smallest numbers; the exercise asks for the largest"),
        (
            lambda u: u.argsort() >= len(u) - len(u) // 2,
            "argsort gives the order, not the ranks; a second argsort gives these",
        ),
    ),
)
def balanced_flips(u: Tensor) -> Tensor:
    return ranks(u) >= len(u) - len(u) // 2


def offset(mean: float, deviation: float) -> float:
    return (1 - 2 * mean) / deviation


@checker(
    lambda g: [
        (
            torch.zeros(2).double(),
            torch.tensor([[1.0, 2], [3, 4], [5, 6], [7, 8]]).double(),
            torch.tensor([True, False, True, False]),
            0.25,
            0.5,
        ),
        *[
            (
                normal(g, 7),
                normal(g, M * M * C, 7),
                random_key(g, M, C).flips,
                0.1 + 0.3 * float(torch.rand((), generator=g)),
                0.3,
            )
            for M, C in BLOCKS
        ],
    ],
    "each flipped pixel brings the offset (1 - 2 mean) / deviation to its row, and the bias takes it away.",
    (
        (lambda b, E, r, m, s: b + offset(m, s) * E[r].sum(0), "the offset must be taken away, this adds it"),
        (
            lambda b, E, r, m, s: b - offset(m, s) * E.sum(0),
            "only flipped pixels bring an offset: sum over the rows where r_k = 1",
        ),
        (lambda b, E, r, m, s: b - offset(m, s) * E[~r].sum(0), "these are the rows that are not flipped"),
        (lambda b, E, r, m, s: b - (1 - 2 * m) * E[r].sum(0), "the division by the deviation is missing"),
        (
            lambda b, E, r, m, s: b - (1 - m) / s * E[r].sum(0),
            "f(255 - p) + f(p) is (1 - 2 mean) / deviation: the mean is subtracted twice",
        ),
        (lambda b, E, r, m, s: -offset(m, s) * E[r].sum(0), "the old bias is lost"),
    ),
)
def mended_bias(bias: Tensor, E_enc: Tensor, r: Tensor, mean: float, deviation: float) -> Tensor:
    return bias - offset(mean, deviation) * E_enc[r].sum(0)
