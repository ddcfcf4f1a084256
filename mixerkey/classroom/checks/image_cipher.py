"""The exercises of chapter 3, The image cipher: right answers, inputs, classic mistakes."""

from __future__ import annotations

from math import log2
from typing import Any

import torch
from torch import Generator, Tensor

from mixerkey.blocks import integrate
from mixerkey.cipher import encrypt_images
from mixerkey.classroom.checks.checker import Value, as_numbers, checker
from mixerkey.classroom.checks.inputs import BLOCKS, NO_SIGN, full, pixels, random_key

INVERSE = "this permutes by the inverse: x'(k) must be x(v_k), not x(k) at v_k"
BACKWARDS = (
    "this flips pixel k where r_k = 1 and sends it to place v_k, a cipher too, and this one's decryption; "
    "here place k is filled from v_k, then flipped where r_k = 1"
)
LAST_AXIS = "the pixels of a block are the last axis of blocks"
WIDER = "255 - p is meant: ~p is that for uint8 only, of any wider number it is -1 - p"

block_by_hand = Value(
    [250, 155, 5, 55],
    "x(v_k) at place k, then 255 - p at the places where r_k = 1.",
    (
        ([200, 155, 250, 250], INVERSE),
        ([200, 155, 5, 5], BACKWARDS),
        ([250, -100, 5, -200], NO_SIGN),
        ([5, 155, 5, 200], "this flips before it shuffles; r_k belongs to the encrypted place k"),
        ([250, 156, 5, 56], "a flip is 255 - p, not 256 - p: all eight bits turn over"),
        ([250, -101, 5, -201], WIDER),
        ([250, 100, 5, 200], "the shuffle is right, the flips are missing"),
        ([5, 155, 200, 5], "the flips are there, the shuffle is missing"),
        ([5, 100, 250, 200], "this flips where r is 0"),
    ),
)

BITS = (7, 7.2, 7.17, 7.1699, 8)  # of 144, as people round

key_count = Value(
    144,
    "4! permutations times the 6 ways to flip two of four.",
    (
        (24, "these are the 4! permutations alone. Each goes with every choice of flips"),
        (6, "these are the choices of flips alone. Each goes with every permutation"),
        (384, "this allows any flips; a key flips exactly half of the pixels"),
        (30, "the choices are independent: multiply, do not add"),
        (96, "two of four places can be chosen in 6 ways, not 4"),
        (16, "these are all flips, balanced or not, and no permutations; a key has both, and flips exactly half"),
        (2304, "this has all 2^4 flips in it besides the 6 that there are"),
        (288, "this counts the two flipped places in both orders; it does not matter which is named first"),
        (48, "48 is 4! times 2, or the pixels of M = 4 in colour; the flips of these four can be chosen in 6 ways"),
        *[(bits, "these are the bits of the number of keys; give the number itself") for bits in (log2(144), *BITS)],
        (576, "the flips are no second permutation: only which two places are flipped counts, and that is 6 choices"),
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


def in_place(blocks: Tensor, v: Tensor, back: bool = False) -> Tensor:
    result = blocks.clone()
    for k, place in enumerate(v):
        there, here = (place, k) if back else (k, place)
        result[..., there] = result[..., here]
    return result


OVERWRITTEN = "each pixel is written over one that is still to be read; write the result into a new tensor"
WRONG_FLIPS = (
    (lambda p, r: torch.where(r, -1, 1) * p.int(), NO_SIGN),
    *[
        (
            lambda p, r, dtype=dtype: torch.where(r, 256 - p.int(), p).to(dtype),
            "a flip is 255 - p, not 256 - p: all eight bits turn over",
        )
        for dtype in (torch.uint8, torch.int32)
    ],
    (lambda p, r: torch.where(r, ~p.int(), p), WIDER),
    (lambda p, r: torch.where(r, 1 - p, p), "1 - p flips a pixel between 0 and 1; of 8 bits it is 255 - p"),
    (lambda p, r: p ^ r, "XOR with 1 turns the last bit only; the mask is 255"),
    (lambda p, r: p ^ full(~r), "this flips where r is 0"),
    (lambda p, r: (p ^ full(r)) / 255, "this divides by 255; pixels are whole numbers from 0 to 255"),
)


@checker(
    lambda g: [(blocks, v) for blocks, v, _ in blocks_and_key(g)],
    "pixel k of each block is x(v_k), for blocks of every size, and the input is as it was.",
    (
        (lambda blocks, v: blocks[..., v.argsort()], INVERSE),
        (lambda blocks, v: blocks, "nothing has moved"),
        (lambda blocks, v: blocks[..., v[v]], "this shuffles twice"),
        (in_place, OVERWRITTEN),
        (lambda blocks, v: blocks.flip(-1), "this reverses the pixels, whatever v is"),
    ),
    axes=LAST_AXIS,
)
def shuffle(blocks: Tensor, v: Tensor) -> Tensor:
    return blocks[..., v]


@checker(
    blocks_and_key,
    "shuffled by v, then flipped where r is 1, by encrypted place.",
    (
        (lambda blocks, v, r: blocks[..., v.argsort()] ^ full(r), INVERSE),
        (lambda blocks, v, r: (blocks ^ full(r))[..., v.argsort()], BACKWARDS),
        *[(lambda blocks, v, r, flip=flip: flip(blocks[..., v], r), message) for flip, message in WRONG_FLIPS],
        (lambda blocks, v, r: in_place(blocks, v) ^ full(r), OVERWRITTEN),
        (
            lambda blocks, v, r: (blocks ^ full(r))[..., v],
            "this flips before it shuffles; r_k belongs to the encrypted place k",
        ),
        (
            lambda blocks, v, r: blocks[..., v],
            "the shuffle is right, the flips are missing; a mask of 256 would be 0 in uint8",
        ),
        (lambda blocks, v, r: blocks ^ full(r), "the flips are there, the shuffle is missing"),
    ),
    axes=LAST_AXIS,
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
            lambda blocks, v, r: blocks[..., v.argsort()] ^ full(r[v]),
            "the flips must move back as the pixels do: r[v.argsort()], not r[v]",
        ),
        (
            lambda blocks, v, r: (blocks ^ full(r))[..., v],
            "the flips are undone, but the pixels are shuffled once more; send them back with v.argsort()",
        ),
        (lambda blocks, v, r: blocks[..., v] ^ full(r), "this encrypts a second time"),
        *[
            (lambda blocks, v, r, flip=flip: flip(blocks, r)[..., v.argsort()], message)
            for flip, message in WRONG_FLIPS
        ],
        (lambda blocks, v, r: in_place(blocks ^ full(r), v, back=True), OVERWRITTEN),
        (
            lambda blocks, v, r: (blocks ^ full(r))[..., v.flip(0)],
            "v from right to left does not undo it; the inverse is v.argsort()",
        ),
        (
            lambda blocks, v, r: (blocks ^ full(r))[..., len(v) - 1 - v],
            "v from right to left does not undo it; the inverse is v.argsort()",
        ),
        (lambda blocks, v, r: blocks[..., v.argsort()], "the pixels are back, the flips are still there"),
        (lambda blocks, v, r: blocks ^ full(r), "the flips are undone, the pixels have not moved"),
    ),
    axes=LAST_AXIS,
)
def decrypt(blocks: Tensor, v: Tensor, r: Tensor) -> Tensor:
    return (blocks ^ full(r))[..., v.argsort()]


def two_blocks(g: Generator, M: int, C: int, change: str) -> tuple[Tensor, int]:
    """An encrypted image: a block, and it again, or with the pixel a level off that comes first or last when it is
    encrypted, or with two pixels exchanged."""
    key = random_key(g, M, C)
    block = torch.randperm(256, generator=g)[: M * M * C].to(torch.uint8)
    other, alike = block.clone(), key.permutation[~key.flips][:2]  # exchanging these changes no average
    if change in ("first", "last"):
        other[key.permutation[0 if change == "first" else -1]] ^= 1
    elif change == "order":
        other[alike] = other[alike.flip(0)]
    return encrypt_images(integrate(torch.stack([block, other])[None], M), key), M  # (C, M, 2M)


def halves(image: Tensor, M: int) -> tuple[Tensor, Tensor]:
    return image[..., :M], image[..., M:]


@checker(
    lambda g: [
        two_blocks(g, 2, 1, "none"),
        *[two_blocks(g, M, C, change) for change in ("none", "first", "last", "order") for M, C in BLOCKS],
    ],
    "the left block equals the right one exactly if the plain ones did, and no key was needed to see it.",
    (
        (lambda image, M: torch.equal(*halves(image, M)), "the other way round: equal blocks are message 0"),
        (lambda image, M: 0, "this always says 0; look at the two blocks"),
        (lambda image, M: 1, "this always says 1; look at the two blocks"),
        (
            lambda image, M: bool(torch.ne(*(half.double().mean() for half in halves(image, M)))),
            "different blocks can hold the same values in another order, with the same average; compare pixel by pixel",
        ),
        (
            lambda image, M: bool(image[0, 0, 0] != image[0, 0, M]),
            "two blocks can differ in a single pixel; compare all of them",
        ),
    ),
)
def which_message(image: Tensor, M: int) -> bool:
    return not torch.equal(*halves(image, M))


NOT_ODD = (
    "right on paper, but the quotient by 2^L - 1 is rounded before its middle is subtracted, so it is not exactly odd; "
    "start with the whole number 2p - (2^L - 1)"
)


def pairs(p: Tensor, L: int) -> Tensor:
    """Levels, then the same flipped in reverse order, so that the result must be minus itself read backwards."""
    return torch.cat([p, 2**L - 1 - p.flip(0)])


def exactly_odd(result: Any, arguments: tuple) -> str:
    values = as_numbers(result)
    return "" if values is not None and torch.equal(values, -values.flip(0)) else NOT_ODD


@checker(
    lambda g: [
        (torch.arange(4096), 12),
        *[(pairs(torch.randint(2**L, (999,), generator=g), L), L) for L in (8, 10, 16)],
    ],
    "from -1 to 1, and exactly odd: a flipped level gives the negative, bit for bit.",
    (
        (lambda p, L: p.float() / (2**L - 1), "this maps to [0, 1]; the middle must be 0, or a flip is no sign"),
        (
            lambda p, L: (p.float() / (2**L - 1) - 0.5) / 0.5,
            NOT_ODD,
        ),
        (lambda p, L: (2 * p - 2**L).float() / 2**L, "the middle of 0 and 2^L - 1 is not 2^(L-1)"),
        (lambda p, L: (2 * p - 2**L + 1).float() / 2**L, "the largest level is 2^L - 1, so divide by that"),
        (lambda p, L: (2 * p - (2 ^ L - 1)).float() / (2 ^ L - 1), "in Python 2^L is XOR; the power is 2**L"),
        (lambda p, L: (2 * p - (2**L - 1)) // (2**L - 1), "// rounds down to whole numbers; divide by /"),
        (lambda p, L: (2 * p - 255).float() / 255, "255 is for 8 bits; here the largest level is 2^L - 1"),
        (
            lambda p, L: (2 * p - 2**L + 1).double() / (2**L - 1) / 2,
            "this goes from -1/2 to 1/2; divide by half of 2^L - 1",
        ),
        *[
            (lambda p, L, by=by: (2 * p - 2**L + 1).double() / by, "the middle is 0, the division is missing")
            for by in (1, 2)
        ],
        *[
            (
                lambda p, L, n=n: (p - p.double().mean()) / p.double().std(correction=n),
                "this is by the average and spread of these pixels, another for each image; take the levels' ends",
            )
            for n in (0, 1)
        ],
        (
            lambda p, L: 2 * (p - p.min()).double() / (p.max() - p.min()) - 1,
            "the darkest and brightest pixel need not be there; take the levels' ends, 0 and 2^L - 1",
        ),
        (lambda p, L: -(2 * p - 2**L + 1).float() / (2**L - 1), "dark must become -1, not 1"),
    ),
    tolerance=1e-6,
    rule=exactly_odd,
)
def normalize_levels(p: Tensor, L: int) -> Tensor:
    return (2 * p - (2**L - 1)).to(torch.float32) / (2**L - 1)
