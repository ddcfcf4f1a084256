"""Keys: drawing (steps A1, B2), the group, files, and that the secret does not leak."""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import pickle
import stat
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import SHAPES, keys, signed_permutations

from mixerkey import Key, SignedPermutation, key_files
from mixerkey.key_files import KeyFileError, decode, load_key, save_key
from mixerkey.keys import BlockKey, BlockOrder, Flips, KeySchedule, MatrixKey, PatchKeys, Shuffle


@given(keys())
def test_a_key_is_a_permutation_and_half_of_the_flips(key: Key) -> None:
    size = key.patch_size**2 * key.channels
    assert key.permutation.dtype == torch.int64
    assert key.flips.dtype == torch.bool
    assert sorted(key.permutation.tolist()) == list(range(size))
    assert key.flips.sum() == size // 2


def test_every_key_of_the_pocket_shape_is_drawn_and_equally_often() -> None:
    draws = 144 * 100
    counts = Counter(Key.generate(2, 1) for _ in range(draws))
    assert len(counts) == math.factorial(4) * math.comb(4, 2) == 144
    # Pearson's chi-square, 143 degrees of freedom: below 237 but once in a million fair runs.
    assert sum((n - 100) ** 2 / 100 for n in counts.values()) < 237


def test_generate_uses_the_operating_system_and_no_seeded_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    import random

    calls = []

    def urandom(n: int) -> bytes:
        calls.append(n)
        return bytes(n)

    torch.manual_seed(0)
    random.seed(0)
    first = Key.generate(4, 3)
    torch.manual_seed(0)
    random.seed(0)
    assert Key.generate(4, 3) != first
    monkeypatch.setattr(random, "_urandom", urandom)  # what SystemRandom, behind `secrets`, reads
    assert Key.generate(4, 3) == Key.generate(4, 3)
    assert len(calls) >= 2 * 2 * 47


def test_seeded_keys_never_change() -> None:
    """These are frozen: a lesson's key must be the same on every platform and in every version."""
    key = Key.from_seed(7, 4, 3)
    assert key.permutation.tolist() == FROZEN_V
    assert "".join(str(int(bit)) for bit in key.flips) == FROZEN_R


FROZEN_V = [
    30,
    2,
    9,
    25,
    28,
    33,
    36,
    1,
    26,
    16,
    18,
    42,
    38,
    21,
    4,
    44,
    31,
    11,
    19,
    27,
    32,
    15,
    8,
    46,
    10,
    35,
    6,
    29,
    17,
    3,
    37,
    13,
    24,
    22,
    41,
    43,
    39,
    23,
    14,
    0,
    47,
    5,
    12,
    34,
    40,
    20,
    45,
    7,
]
FROZEN_R = "001101001011010011011110101100010001001100110011"


def test_k1_and_k2_are_independent() -> None:
    """Over many seeds, where pixel 0 comes from says nothing about whether it is flipped."""
    table = Counter(
        (int(key.permutation[0]), bool(key.flips[0])) for key in (Key.from_seed(s, 2, 1) for s in range(4000))
    )
    assert len(table) == 8
    assert sum((n - 500) ** 2 / 500 for n in table.values()) < 41  # 7 degrees of freedom, once in a million


def test_a_seed_must_not_be_negative() -> None:
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        Key.from_seed(-1, 4, 3)


@given(keys())
def test_matrix_is_the_signed_permutation_x_prime_k_is_x_v_k(key: Key) -> None:
    x = torch.randn(len(key.permutation), dtype=torch.float64)
    signs = torch.where(key.flips, -1.0, 1.0)
    assert torch.equal(x @ key.matrix(), signs * x[key.permutation])


@given(signed_permutations())
def test_inverse_undoes_from_both_sides(a: SignedPermutation) -> None:
    identity = SignedPermutation.identity(a.patch_size, a.channels)
    assert a.then(a.inverse()) == a.inverse().then(a) == identity
    assert a.inverse().inverse() == a
    assert torch.equal(a.matrix() @ a.matrix().T, identity.matrix())
    assert torch.equal(a.inverse().matrix(), a.matrix().T)


@given(SHAPES.flatmap(lambda shape: st.tuples(*[signed_permutations(st.just(shape))] * 3)))
def test_group_laws(three: tuple[SignedPermutation, SignedPermutation, SignedPermutation]) -> None:
    a, b, c = three
    assert a.then(b).then(c) == a.then(b.then(c))
    assert torch.equal(a.then(b).matrix(), a.matrix() @ b.matrix())
    assert a.then(SignedPermutation.identity(a.patch_size, a.channels)) == a


def test_balance_is_not_closed_under_composition() -> None:
    a = Key([0, 1, 2, 3], [True, True, False, False], 2, 1)
    product = a.then(a)
    assert not isinstance(product, Key)
    assert type(product) is SignedPermutation
    assert product.flips.sum() == 0


@given(keys())
def test_the_inverse_of_a_key_is_a_key(key: Key) -> None:
    assert isinstance(key.inverse(), Key)


def test_then_refuses_another_block_shape() -> None:
    with pytest.raises(ValueError, match="block shapes differ: M = 4, C = 3 and M = 2, C = 1"):
        Key.generate(4, 3).then(Key.generate(2, 1))


@pytest.mark.parametrize(
    ("v", "r", "message"),
    [
        ([0, 1, 2], [1, 1, 0, 0], "permutation must have 4 entries"),
        ([0, 1, 2, 3], [1, 1, 0], "flips must have 4 entries"),
        ([0, 1, 2, 2], [1, 1, 0, 0], "each of 0..3 once"),
        ([0, 1, 2, 4], [1, 1, 0, 0], "each of 0..3 once"),
        ([0, 1, 2, 3], [2, 1, 0, 0], "flips must be booleans"),
        ([0, 1, 2, 3], [1, 1, 1, 0], "exactly 2 of 4 pixels"),
    ],
)
def test_a_bad_key_is_refused(v: list[int], r: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Key(v, r, 2, 1)


@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (-1, 1)])
def test_a_bad_shape_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        Key.generate(*shape)


TOO_LARGE: dict[str, tuple[Callable[[], object], str]] = {
    **{
        f"{kind.__name__} of {M} x {M} pixels": (partial(kind.generate, M, 3), "blocks of up to 1,048,576")
        for kind in (SignedPermutation, Key, Shuffle, Flips, KeySchedule)
        for M in (10**6, 2**40)
    },
    "of many channels": (lambda: Key.from_seed(0, 1, 2**40), "blocks of up to 1,048,576"),
    "the identity": (lambda: SignedPermutation.identity(2**40, 3), "blocks of up to 1,048,576"),
    "the first of all": (lambda: next(Key.every(2**40, 3)), "blocks of up to 1,048,576"),
    "an order of blocks": (lambda: BlockOrder.generate(2**40, 3, (2, 2)), "blocks of up to 1,048,576"),
    "an order of many blocks": (lambda: BlockOrder.generate(4, 3, (2**40, 1)), "grids of up to 1,048,576 places"),
    "keys of places": (lambda: PatchKeys.generate(2**40, 3, (2, 2)), "blocks of up to 1,048,576"),
    "keys of many places": (lambda: PatchKeys.generate(4, 3, (2**40, 1)), "grids of up to 1,048,576 places"),
    "an orthogonal matrix": (lambda: MatrixKey.orthogonal(2**40, 3), "blocks of up to 1,048,576"),
    "an invertible matrix": (lambda: MatrixKey.invertible(512, 3), "a matrix is drawn for blocks of up to 16,384"),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_no_memory_holds_is_refused(name: str) -> None:
    make, message = TOO_LARGE[name]
    with pytest.raises(ValueError, match=f"{message}[^\n]*$"):
        make()


INTEGERS: dict[str, Callable[[Any], object]] = {
    "the seed": lambda n: Key.from_seed(n, 2, 1),
    "the seed of a matrix": lambda n: MatrixKey.orthogonal(1, 3, seed=n),
    "the seed of an order": lambda n: BlockOrder.from_seed(n, 2, 1, (2, 2)),
    "the seed of keys": lambda n: PatchKeys.from_seed(n, 2, 1, (2, 2)),
    "the number of an image": lambda n: KeySchedule(bytes(32), 2, 1)[n],
    "patch_size": lambda n: SignedPermutation.identity(n, 1),
    "patch_size of a schedule": lambda n: KeySchedule(bytes(32), n, 1)[0],
    "channels": lambda n: SignedPermutation.identity(1, n),
    "each entry of permutation": lambda n: SignedPermutation([0, n], [0, 0], 1, 2),
    "each entry of order": lambda n: BlockOrder([0, n], 1, 1, (1, 2)),
    "the grid's h": lambda n: BlockOrder.from_seed(0, 2, 1, (n, 2)),
    "the grid's w": lambda n: PatchKeys.from_seed(0, 2, 1, (2, n)),
}


@pytest.mark.parametrize("name", INTEGERS)
def test_equal_integers_make_equal_keys_and_what_is_none_is_named(name: str) -> None:
    make = INTEGERS[name]
    for one in (np.int64(1), np.uint8(1), torch.tensor(1), True):
        assert make(one) == make(1)
    for wrong in (1.0, "1", np.float64(1), torch.tensor(1.0), [1]):
        with pytest.raises(
            TypeError, match=rf"{name.split(' of ')[0]}.* must be an integer, got {type(wrong).__name__}"
        ):
            make(wrong)


@pytest.mark.parametrize(
    "make", [lambda n: Key([1, 0, 2, 3], [1, 1, 0, 0], n, 1), lambda n: PatchKeys.generate(n, 1, (1, n))]
)
def test_numpy_integers_make_keys_that_can_be_kept(make: Callable[[Any], BlockKey], tmp_path: Path) -> None:
    key = make(np.int64(2))
    save_key(key, tmp_path / "key.json")
    assert load_key(tmp_path / "key.json") == key


@pytest.mark.parametrize("grid", [2, (2,), (2, 2, 2), None])
def test_a_grid_has_two_sides(grid: Any) -> None:
    for make in (BlockOrder.generate, PatchKeys.generate):
        with pytest.raises(TypeError, match="a grid is \\(h, w\\), blocks down and across"):
            make(2, 1, grid)


def test_a_complex_matrix_is_refused() -> None:
    for T in (torch.eye(4) * 1j, [[1j, 0], [0, 1]]):
        with pytest.raises(TypeError, match="T must be real"):
            MatrixKey(T, 2, 1)  # type: ignore[arg-type]


def test_a_matrix_that_nothing_undoes_in_float64_is_refused() -> None:
    for factor in (0.0, 1e-320):
        with pytest.raises(ValueError, match="T must be invertible"):
            MatrixKey(factor * torch.eye(4, dtype=torch.float64), 2, 1)


def test_frozen_hashable_and_equal_by_content() -> None:
    a, b = Key.from_seed(1, 4, 3), Key.from_seed(1, 4, 3)
    assert a == b
    assert hash(a) == hash(b)
    assert a != Key.from_seed(2, 4, 3)
    assert a != "a key"
    assert copy.deepcopy(a) == a
    for name in ("permutation", "patch_size", "_flips", "anything"):
        with pytest.raises(AttributeError):
            setattr(a, name, None)
    with pytest.raises(AttributeError, match="immutable"):
        del a.patch_size
    a.permutation[0] = 47  # a fresh tensor: nothing happens to the key
    a.flips.fill_(True)
    assert a == b


def test_repr_and_logs_hide_the_secret(caplog: pytest.LogCaptureFixture) -> None:
    key = Key.from_seed(7, 4, 3)
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("test").info("%s %r", key, [key])
    for text in (repr(key), str(key), f"{key}", caplog.text):
        assert "secret hidden" in text
        assert str(key.permutation.tolist())[1:-1] not in text
        assert not any(f"{a}, {b}, {c}" in text for a, b, c in zip(*[iter(key.permutation.tolist())] * 3, strict=False))


def test_keys_are_never_pickled() -> None:
    with pytest.raises(TypeError, match="never pickled; use save and load"):
        pickle.dumps(Key.generate(2, 1))


# --- files ---


@given(key=keys())
def test_save_and_load(key: Key, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("keys") / "key.json"
    key.save(path)
    assert Key.load(path) == key
    assert isinstance(Key.load(path), Key)


def test_a_relative_key_can_be_kept(tmp_path: Path) -> None:
    relative = Key.generate(4, 3).inverse().then(Key.generate(4, 3))
    relative.save(tmp_path / "relative.json")
    assert SignedPermutation.load(tmp_path / "relative.json") == relative
    with pytest.raises(KeyFileError, match="is not a mixerkey Key file"):
        Key.load(tmp_path / "relative.json")


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        Key.generate(4, 3).save(tmp_path / "key.json")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "key.json").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key.json"]


def test_saving_again_is_harmless_but_never_overwrites_another_key(tmp_path: Path) -> None:
    key = Key.from_seed(1, 4, 3)
    key.save(tmp_path / "key.json")
    key.save(tmp_path / "key.json")
    with pytest.raises(FileExistsError, match="exists already"):
        Key.from_seed(2, 4, 3).save(tmp_path / "key.json")
    assert Key.load(tmp_path / "key.json") == key


def test_a_key_that_everybody_may_read_is_closed_when_it_is_saved_again(tmp_path: Path) -> None:
    key = Key.from_seed(1, 4, 3)
    key.save(tmp_path / "key.json")
    (tmp_path / "key.json").chmod(0o644)
    key.save(tmp_path / "key.json")
    assert stat.S_IMODE((tmp_path / "key.json").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"permutation": [0, 1, 2]}, "permutation must have 4 entries"),
        ({"permutation": [0, 1, 1, 2]}, "an index is repeated"),
        ({"permutation": [0, 1, 2, 3.5]}, "must hold integers"),
        ({"permutation": "0123"}, "must hold integers"),
        ({"permutation": [0, 1, 2, 10**4000]}, "must hold integers"),
        ({"patch_size": 10**4000}, "must hold integers"),
        ({"id": "1"}, "a key id is 16 hexadecimal digits"),
        ({"id": ["00d1f2e3a4b5c6d7"]}, "a key id is 16 hexadecimal digits"),
        ({"id": "00d1f2e3a4b5c6d7"}, "does not match its checksum"),
        ({"flips": [1, 1, 1, 0]}, "flips exactly 2 of 4 pixels, got 3"),
        ({"flips": [1, 0, 1]}, "flips must have 4 entries"),
        ({"patch_size": 3}, "must have 9 entries"),
        ({"patch_size": None}, "must hold integers"),
        ({"version": 2}, "format version 2, this mixerkey reads version 1; upgrade"),
        ({"version": 1.0}, "says 1.0 where its format version, a whole number, should stand"),
        ({"version": "1"}, "says '1' where"),
        ({"version": True}, "says True where"),
        ({"version": None}, "says None where"),
        ({"version": 0}, "says 0 where"),
        ({"format": "another"}, "is not a mixerkey Key file"),
        ({"checksum": "0" * 64}, "does not match its checksum"),
        ({"permutation": [3, 2, 1, 0]}, "does not match its checksum"),
    ],
)
def test_each_fault_in_a_file_has_its_own_error(change: dict, message: str, tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    Key([0, 1, 2, 3], [1, 1, 0, 0], 2, 1).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(KeyFileError, match=message):
        Key.load(path)


def nested(kind: str, depth: int) -> bytes:
    """A key file in which a key of this kind is a part of another one, and so on."""
    field, closing = {"ScrambledKey": ('"order": {}, "within": ', "}"), "PatchKeys": ('"keys": [', "]}")}[kind]
    opening = f'{{"format": "mixerkey {kind}", "version": 1, "patch_size": 1, "channels": 1, "grid": [1, 1], {field}'
    return (opening * depth + "{}" + closing * depth).encode()


@pytest.mark.parametrize("depth", [2, 100, 300, 480, 900, 50_000])
@pytest.mark.parametrize("kind", ["ScrambledKey", "PatchKeys"])
def test_keys_within_keys_are_one_line(kind: str, depth: int) -> None:
    with pytest.raises(KeyFileError, match=r"unknown kind of key, within another|nested too deeply"):
        decode(nested(kind, depth), "key.json")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    Key.from_seed(0, 2, 1).save(path)
    text = path.read_text()
    for length in range(len(text) - 1):  # the last character is the end of the line
        path.write_text(text[:length])
        with pytest.raises(KeyFileError, match="may be truncated"):
            Key.load(path)


def test_another_block_shape_is_refused_when_one_is_expected(tmp_path: Path) -> None:
    Key.generate(2, 1).save(tmp_path / "key.json")
    assert Key.load(tmp_path / "key.json", patch_size=2, channels=1).patch_size == 2
    with pytest.raises(KeyFileError, match="is for patch_size 2, expected 4"):
        Key.load(tmp_path / "key.json", patch_size=4)
    with pytest.raises(KeyFileError, match="is for channels 1, expected 3"):
        Key.load(tmp_path / "key.json", channels=3)
    with pytest.raises(FileNotFoundError):
        Key.load(tmp_path / "missing.json")


def test_a_key_that_could_not_be_loaded_again_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_files, "LIMIT", 100)
    with pytest.raises(KeyFileError, match="larger than any key"):
        Key.generate(2, 1).save(tmp_path / "key.json")
    assert list(tmp_path.iterdir()) == []
