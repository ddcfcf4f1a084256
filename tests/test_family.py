"""The family of keys: one algebra for all kinds, and what each kind promises and gives up."""

from __future__ import annotations

import copy
import math
import pickle
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS, images_for, signed_permutations
from torch import Tensor

from mixerkey import (
    ConvMixer,
    Key,
    SignedPermutation,
    accuracy,
    decrypt_images,
    encrypt_images,
    encrypt_model,
    key_space_bits,
    load_pretrained,
    network_input,
    normalize,
    patch_matrix,
)
from mixerkey import keys as keys_of_the_package
from mixerkey.attacks import image_statistics
from mixerkey.attacks.challenge import photo_tiles
from mixerkey.attacks.lattice import sheared_lattice, turned_lattice
from mixerkey.attacks.mixed import pixels, unmix
from mixerkey.attacks.patch_keys import unlock_patches
from mixerkey.blocks import segment
from mixerkey.data import load_digits, load_photos
from mixerkey.evaluation import predict
from mixerkey.experiments.defences import add_noise
from mixerkey.key_files import KINDS, KeyFileError, load_key, load_key_and_id, save_key
from mixerkey.keys import BlockKey, BlockOrder, KeySchedule, MatrixKey, PatchKeys, ScrambledKey

SMALL = st.tuples(st.integers(1, 4), st.integers(1, 3))  # (M, C)


def keys_for(count: int, M: int = 2, C: int = 1) -> list[Key]:
    return [Key.from_seed(seed, M, C) for seed in range(count)]


@st.composite
def family(draw: st.DrawFn, M: int, C: int, grid: tuple[int, int]) -> BlockKey:
    """A key of any kind, for a block shape and a grid."""
    seed = draw(st.integers(0, 10**6))
    simple: list[BlockKey] = [
        kind.from_seed(seed, M, C) for kind in KINDS.values() if issubclass(kind, SignedPermutation)
    ]
    simple += [MatrixKey.orthogonal(M, C, seed), MatrixKey.invertible(M, C, seed)]
    order = BlockOrder.from_seed(seed, M, C, grid)
    patches = PatchKeys((draw(st.sampled_from(simple)) for _ in range(grid[0] * grid[1])), grid)
    one = draw(st.sampled_from([*simple, patches]))
    return draw(st.sampled_from([one, order, one.then(order), order.then(one)]))


SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.tuples(st.integers(1, 3), st.integers(1, 3)))  # M, C, grid


def of_shape(count: int) -> st.SearchStrategy:
    """A block image of a drawn shape, float64, and so many keys for it."""

    def draw(shape: tuple) -> st.SearchStrategy:
        M, C, grid = shape
        blocks = torch.randn(2, *grid, M * M * C, dtype=torch.float64, generator=torch.Generator().manual_seed(M))
        return st.tuples(st.just(blocks), *[family(M, C, grid)] * count)

    return SHAPES.flatmap(draw)


def close(a: Tensor, b: Tensor, condition: float = 1.0) -> bool:
    return torch.allclose(a, b, atol=1e-10 * condition, rtol=1e-10 * condition)


def test_every_kind_stands_in_the_table_and_can_be_kept() -> None:
    table = re.findall(r"^(`\w+`(?:, `\w+`)*)", keys_of_the_package.__doc__ or "", re.MULTILINE)
    assert set(re.findall(r"\w+", " ".join(table))) | {"SignedPermutation"} == KINDS.keys()


@given(of_shape(2))
def test_then_is_one_after_the_other_for_all_kinds(drawn: tuple) -> None:
    x, a, b = drawn
    assert close(a.then(b).act(x), b.act(a.act(x)), a.condition * b.condition)
    assert a.then(b).moves_pixels == (a.moves_pixels and b.moves_pixels)


@given(of_shape(3))
def test_then_is_associative_for_all_kinds(drawn: tuple) -> None:
    x, a, b, c = drawn
    worst = a.condition * b.condition * c.condition
    assert close(a.then(b).then(c).act(x), a.then(b.then(c)).act(x), worst)


@given(of_shape(1))
def test_the_inverse_undoes_from_both_sides_for_all_kinds(drawn: tuple) -> None:
    x, key = drawn
    assert type(key.inverse()) is type(key)
    for back in (key.inverse().act(key.act(x)), key.act(key.inverse().act(x)), key.then(key.inverse()).act(x)):
        assert close(back, x, key.condition**2)


@given(of_shape(1))
def test_pixels_and_filters_meet_for_all_kinds(drawn: tuple) -> None:
    """(x T)(T⁻¹ e) = x e: what a patch embedding computes from an image is kept."""
    x, key = drawn
    e = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    products = (key.act(x) * key.dual().act(e)).sum((1, 2, 3))
    assert close(products, (x * e).sum((1, 2, 3)), key.condition**2)


@given(of_shape(1))
def test_moving_keys_are_exact_and_others_say_what_they_cost(drawn: tuple) -> None:
    x, key = drawn
    if key.moves_pixels:
        assert torch.equal(key.act(x).abs().flatten().sort().values, x.abs().flatten().sort().values)
        assert torch.equal(key.inverse().act(key.act(x)), x)
        assert key.condition == 1
        assert key.act(x.long()).dtype == torch.int64
    assert key.condition >= 1 - 1e-9


@given(of_shape(1), st.booleans())
def test_every_kind_is_kept_in_a_file(tmp_path_factory: pytest.TempPathFactory, drawn: tuple, named: bool) -> None:
    _, key = drawn
    path = tmp_path_factory.mktemp("keys") / "key"
    save_key(key, path, key_id="00d1f2e3a4b5c6d7" if named else None)
    assert load_key(path) == key
    assert type(key).load(path) == key
    assert load_key_and_id(path) == (key, "00d1f2e3a4b5c6d7" if named else None)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(KeyFileError, match="expected 9"):
        load_key(path, patch_size=9)


@given(of_shape(1))
def test_nothing_of_any_kind_is_shown_changed_or_pickled(drawn: tuple) -> None:
    _, key = drawn
    assert repr(key).endswith("secret hidden)")
    with pytest.raises(AttributeError, match="immutable"):
        key.patch_size = 1
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(key)
    assert copy.deepcopy(key) is key
    assert hash(key) == hash(key)


def test_a_damaged_matrix_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.safetensors"
    MatrixKey.orthogonal(2, 1, seed=0).save(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # of the last number
    path.write_bytes(content)
    with pytest.raises(KeyFileError, match="does not match its checksum"):
        load_key(path)
    path.write_bytes(content[:-8])
    with pytest.raises(KeyFileError, match="not a complete"):
        load_key(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": "mixerkey Key", "format": "mixerkey Key"}', "the field 'format' is there twice"),
        ('{"format": "mixerkey Key", "version": NaN}', "NaN is no number"),
        ("{" + '"a": {' * 100_000, "nested too deeply"),
        ("[1, 2]", "not a complete"),
        ('{"format": "mixerkey Sponge"}', "is not a mixerkey key file"),
        (
            '{"format": "mixerkey BlockOrder", "version": 1, "patch_size": 1, "channels": 1, "grid": [1]}',
            "the grid as two",
        ),
        (
            '{"format": "mixerkey PatchKeys", "version": 1, "patch_size": 1, "channels": 1, "grid": [1, 1]}',
            "a list of keys",
        ),
        ('{"format": "mixerkey ScrambledKey", "version": 1, "patch_size": 1, "channels": 1}', "a key under 'within'"),
        (
            '{"format": "mixerkey MatrixKey", "version": 1, "patch_size": 1, "channels": 1, "matrix": 0}',
            "its matrix is missing",
        ),
        ('{"format": "mixerkey Key", "version": 1, "patch_size": true, "channels": 1}', "must hold integers"),
    ],
)
def test_strange_files_get_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "key.json"
    path.write_text(text)
    with pytest.raises(KeyFileError, match=message) as caught:
        load_key(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_a_key_that_an_editor_saved_again_is_no_other(tmp_path: Path, encoding: str) -> None:
    path, key = tmp_path / "key.json", Key.from_seed(0, 2, 1)
    save_key(key, path, key_id="00d1f2e3a4b5c6d7")
    path.write_bytes(path.read_text().replace("\n", "\r\n").encode(encoding))
    assert Key.load(path) == key
    assert load_key_and_id(path) == (key, "00d1f2e3a4b5c6d7")


def test_bits_add_up() -> None:
    """§4.3 for the paper's key; 64! more is where the printed 543.8 comes from, which needs an order of blocks."""
    key, order = Key.generate(4, 3), BlockOrder.generate(4, 3, grid=(8, 8))
    assert key.bits == key_space_bits(4, 3)
    assert math.isclose(key.shuffle.bits + key.flip.bits, key.bits)
    assert round(key.then(order).bits, 1) == 543.8
    assert math.isclose(PatchKeys.generate(4, 3, (8, 8)).bits, 64 * key.bits)
    assert MatrixKey.orthogonal(1, 1, seed=0).bits == math.inf


@given(signed_permutations(SMALL))
def test_a_key_is_its_shuffle_and_then_its_flips(key: SignedPermutation) -> None:
    assert key.shuffle.then(key.flip) == key
    assert not key.shuffle.flips.any()
    assert key.flip.permutation.tolist() == list(range(key.size))


@given(st.data(), signed_permutations(SMALL))
def test_one_key_for_all_is_the_cipher(data: st.DataObject, key: SignedPermutation) -> None:
    x = data.draw(images_for(key))
    grid = x.shape[-2] // key.patch_size, x.shape[-1] // key.patch_size
    assert torch.equal(encrypt_images(x, PatchKeys([key] * (grid[0] * grid[1]), grid)), encrypt_images(x, key))
    images = x.reshape(-1, *x.shape[-3:])
    assert torch.equal(encrypt_images(images, [key] * len(images)), encrypt_images(images, key))


@given(of_shape(1), st.sampled_from([torch.uint8, torch.float32]))
def test_images_of_every_kind_come_back(drawn: tuple, dtype: torch.dtype) -> None:
    blocks, key = drawn
    M, (h, w) = key.patch_size, blocks.shape[1:3]
    x = torch.randint(256, (2, key.channels, h * M, w * M), generator=torch.Generator().manual_seed(0))
    x = x.to(torch.uint8) if dtype == torch.uint8 else x.float() / 256
    hidden = encrypt_images(x, key)
    assert torch.equal(network_input(x, key), normalize(hidden) if key.moves_pixels else hidden)
    if key.moves_pixels:
        assert hidden.dtype == dtype
        assert torch.equal(decrypt_images(hidden, key), x)
    else:
        assert hidden.dtype == torch.float32
        plain = x.float() / 255 if dtype == torch.uint8 else x
        assert (decrypt_images(hidden, key) - plain).abs().max() < 1e-6 * key.condition


def test_keys_are_used_in_order(digits: tuple[Tensor, Tensor]) -> None:
    x, keys = digits[0][:16], keys_for(16)
    each, patches = encrypt_images(x, keys), encrypt_images(x, PatchKeys(keys, (4, 4)))
    assert each.dtype == patches.dtype == torch.uint8
    for n, key in enumerate(keys):
        assert torch.equal(each[n], encrypt_images(x[n], key))
        i, j = divmod(n, 4)  # row by row
        assert torch.equal(segment(patches, 2)[:, i, j], segment(encrypt_images(x, key), 2)[:, i, j])


def test_block_orders_move_whole_blocks(digits: tuple[Tensor, Tensor]) -> None:
    order = BlockOrder.from_seed(1, 2, 1, grid=(4, 4))
    plain, moved = (segment(x, 2).flatten(1, 2) for x in (digits[0], encrypt_images(digits[0], order)))
    assert torch.equal(moved, plain[:, order.order])


def test_inverse_keys_decrypt_and_others_do_not(digits: tuple[Tensor, Tensor]) -> None:
    x, keys = digits[0][:16], keys_for(16)
    for key, other in ((keys, keys[::-1]), (PatchKeys(keys, (4, 4)), PatchKeys(keys[::-1], (4, 4)))):
        hidden = encrypt_images(x, key)
        assert torch.equal(decrypt_images(hidden, key), x)
        assert not torch.equal(decrypt_images(hidden, other), x)
    for others in (keys[:15], [*keys, keys[0]]):
        with pytest.raises(ValueError, match="one key for each image"):
            encrypt_images(x, others)
        with pytest.raises(ValueError, match=f"one key for each of the 4 x 4 places, got {len(others)}"):
            PatchKeys(others, (4, 4))


GREY_LEVELS = torch.zeros(1, 1, 4, dtype=torch.uint8)
NO_BYTES: list[Any] = ["a passphrase of many words", 32, None, list(range(32)), torch.zeros(32)]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: MatrixKey(torch.zeros(4, 4), 2, 1), ValueError, "invertible"),
        (lambda: MatrixKey(torch.eye(3), 2, 1), ValueError, "must be 4 x 4"),
        (lambda: MatrixKey(torch.full((1, 1), torch.nan), 1, 1), ValueError, "finite"),
        (lambda: PatchKeys([BlockOrder([0], 1, 1, (1, 1))], (1, 1)), TypeError, "the key of a place must be"),
        (lambda: PatchKeys([Key.generate(1, 1), Key.generate(2, 1)], (1, 2)), ValueError, "one block shape"),
        (lambda: PatchKeys([], (0, 1)), ValueError, "at least one place"),
        (lambda: BlockOrder([0, 0], 1, 1, (1, 2)), ValueError, "each of 0..1 once"),
        (lambda: BlockOrder([0], 1, 1, (1, 2)), ValueError, "must have 2 entries for 1 x 2 places"),
        (lambda: ScrambledKey(Key.generate(2, 1), Key.generate(2, 1)), TypeError, "a.then"),  # type: ignore[arg-type]
        (lambda: Key.generate(2, 1).then(BlockOrder.generate(4, 1, (1, 1))), ValueError, "block shapes differ"),
        (
            lambda: BlockOrder.generate(2, 1, (2, 2)).then(BlockOrder.generate(2, 1, (1, 4))),
            ValueError,
            "different grids",
        ),
        (lambda: BlockOrder.generate(2, 1, (2, 2)).act(torch.zeros(4, 4, 4)), ValueError, "images of another size"),
        (lambda: Key.generate(2, 1).act(GREY_LEVELS), TypeError, "encrypt_images takes pictures"),
        (lambda: MatrixKey.orthogonal(2, 1).act(GREY_LEVELS), TypeError, "encrypt_images takes pictures"),
        (lambda: KeySchedule(b"short", 2, 1), ValueError, "at least 16 bytes"),
        (lambda: list(KeySchedule(bytes(16), 2, 1)), TypeError, "not iterable"),  # type: ignore[call-overload]
        (lambda: KeySchedule(bytes(16), 2, 1)[-1], ValueError, "not be negative"),
        *((lambda x=x: KeySchedule(x, 2, 1), TypeError, "the secret must be bytes") for x in NO_BYTES),
        (
            lambda: decrypt_images(torch.zeros(1, 2, 2, dtype=torch.uint8), MatrixKey(torch.eye(4), 2, 1)),
            TypeError,
            "mixed",
        ),
        (lambda: encrypt_model(ConvMixer(8, 1), keys_for(2)), TypeError, "one key"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_key_is_refused(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_a_schedule_gives_each_image_its_own_key() -> None:
    """Frozen, as seeded keys are: the same secret and number must give the same key in every version."""
    schedule = KeySchedule(bytes(range(32)), 2, 1)
    assert [schedule[n].permutation.tolist() for n in (0, 1, 2)] == FROZEN
    assert len({schedule[n] for n in range(100)}) > 60  # of 144
    assert KeySchedule(bytes(range(1, 33)), 2, 1).keys(range(9)) != schedule.keys(range(9))
    with pytest.raises(TypeError, match=r"never pickled; .* num_workers=0"):
        pickle.dumps(schedule)
    assert copy.copy(schedule)[1] == copy.deepcopy([schedule])[0][1] == schedule[1]
    changed: Any = bytearray(range(32))
    same = KeySchedule(changed, 2, 1)
    changed[0] = 9
    assert same[1] == schedule[1]


FROZEN = [[0, 3, 1, 2], [2, 3, 1, 0], [1, 2, 3, 0]]


def test_no_convolution_absorbs_keys_per_patch_but_an_unshared_embedding_does(digits: tuple[Tensor, Tensor]) -> None:
    model, keys = load_pretrained("digits"), keys_for(16)
    x, y = digits
    hidden = encrypt_images(x, PatchKeys(keys, (4, 4)))
    assert accuracy(model, x, y) > 0.95
    assert all(accuracy(encrypt_model(model, key), hidden, y) < 0.6 for key in keys)
    E = patch_matrix(model)
    unshared = torch.stack([patch_matrix(encrypt_model(model, key)) for key in keys]).reshape(4, 4, *E.shape)
    z = torch.einsum("nijp,ijpd->nijd", segment(normalize(hidden), 2), unshared)
    assert torch.allclose(z, segment(normalize(x), 2) @ E, atol=1e-5)
    with pytest.raises(ValueError, match="for 4 × 4 patches, got images of 1 × 1"):
        encrypt_model(model, PatchKeys(keys, (4, 4)))[0](x[:1, :, :2, :2].float())


def test_a_key_per_image_works_only_with_a_network_per_image(digits: tuple[Tensor, Tensor]) -> None:
    model, (x, y) = load_pretrained("digits"), digits
    keys = [Key.from_seed(seed % 40, 2, 1) for seed in range(len(x))]
    hidden = encrypt_images(x, keys)
    assert accuracy(encrypt_model(model, keys[0]), hidden, y) < 0.6
    right = [accuracy(encrypt_model(model, keys[n]), hidden[n : n + 1], y[n : n + 1]) for n in range(40)]
    assert sum(right) == sum(accuracy(model, x[n : n + 1], y[n : n + 1]) for n in range(40))


@given(SMALL, SEEDS)
def test_orthogonal_matrices_are_orthogonal_and_reproducible(shape: tuple[int, int], seed: int) -> None:
    Q = MatrixKey.orthogonal(*shape, seed).matrix()
    assert torch.allclose(Q @ Q.T, torch.eye(len(Q), dtype=Q.dtype), atol=1e-12)
    assert torch.equal(Q, MatrixKey.orthogonal(*shape, seed).matrix())
    assert MatrixKey.orthogonal(*shape) != MatrixKey.orthogonal(*shape) or shape == (1, 1)


def test_equal_matrices_are_one_key() -> None:
    assert len({MatrixKey(torch.tensor([[1.0, zero], [0.0, 1.0]]), 1, 2) for zero in (0.0, -0.0)}) == 1


def test_no_images_are_no_pixels() -> None:
    none = torch.zeros(0, 1, 4, 4, dtype=torch.uint8)
    assert network_input(none, []).dtype == network_input(none).dtype == torch.float32
    assert encrypt_images(none, []).dtype == torch.uint8


def test_orthogonal_matrices_prefer_no_sign() -> None:
    """QR without the correction gives a fixed sign to the diagonal of R, and so to what Q does on average."""
    corners = torch.stack([MatrixKey.orthogonal(1, 3, seed).matrix()[0, 0] for seed in range(400)])
    assert abs(corners.sign().mean().item()) < 0.2  # four standard deviations; -1 without the correction


@given(st.data(), signed_permutations(SMALL))
def test_a_signed_permutation_is_a_mixture(data: st.DataObject, key: SignedPermutation) -> None:
    x = data.draw(images_for(key))
    mixed = encrypt_images(x, MatrixKey(key.matrix(), key.patch_size, key.channels))
    assert torch.equal(mixed, normalize(encrypt_images(x, key)))


def test_mixed_networks_give_the_same_logits_on_mixed_images_only(digits: tuple[Tensor, Tensor]) -> None:
    model, (x, y) = load_pretrained("digits").double(), digits
    for key in (MatrixKey.orthogonal(2, 1, seed=0), MatrixKey.invertible(2, 1, seed=0)):
        locked = encrypt_model(model, key)
        assert torch.allclose(predict(locked, x, key), predict(model, x), atol=1e-10 * key.condition)
        assert accuracy(locked, x, y) < 0.6
        assert encrypt_images(x, key).abs().max() > 1  # not pixels any more
    with pytest.raises(ValueError, match=r"the key is for images \(..., 2, H, W\)"):
        encrypt_images(x, MatrixKey.orthogonal(2, 2))


def test_noise_is_of_the_size_that_was_asked_for_and_never_wraps() -> None:
    x = torch.tensor([0, 128, 255], dtype=torch.uint8).repeat_interleave(3000).reshape(3, 1, 50, 60)
    noisy = add_noise(x, 8, torch.Generator().manual_seed(0))
    assert noisy.dtype == torch.uint8
    assert abs(noisy[1].float().std().item() - 8) < 0.5
    assert noisy[0].max() < 64  # 0 - 5 would be 251
    assert noisy[2].min() > 192
    assert torch.equal(noisy, add_noise(x, 8, torch.Generator().manual_seed(0)))
    with pytest.raises(TypeError, match="uint8"):
        add_noise(x.float(), 8, torch.Generator())
    with pytest.raises(ValueError, match="negative"):
        add_noise(x, -1, torch.Generator())


# Ciphertext only against the variants


def test_mixed_digits_alone_give_the_matrix(digits: tuple[Tensor, Tensor]) -> None:
    """Nearly: 360 digits are a sample. A single direction with the wrong sign would make it 1/2."""
    prior = image_statistics(load_digits("train")[0], 2)
    for count, overlap in ((10, 0.99), (360, 0.999)):
        for seed in range(3):
            key = MatrixKey.orthogonal(2, 1, seed)
            Q, found = key.matrix(), unmix(encrypt_images(digits[0][:count], key), prior).key.matrix()
            assert torch.allclose(found @ found.T, torch.eye(4, dtype=found.dtype), atol=1e-6)
            assert (found * Q).sum() / 4 > overlap


def test_mixed_noise_gives_nothing() -> None:
    prior = image_statistics(load_digits("train")[0], 2)
    noise = torch.randint(256, (100, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    key = MatrixKey.orthogonal(2, 1, seed=0)
    assert (unmix(encrypt_images(noise, key), prior).key.matrix() * key.matrix()).sum() / 4 < 0.5
    with pytest.raises(ValueError, match=r"the prior is for images \(N, 1, H, W\)"):
        unmix(torch.zeros(1, 3, 8, 8), prior)


@pytest.mark.parametrize("seed", range(3))
def test_an_orthogonal_matrix_is_a_signed_permutation_to_whoever_reduces_its_lattice(seed: int) -> None:
    """The shortest vectors of a turned lattice are the rows of T; which, with which sign, is all that remains."""
    x, key = photo_tiles("left")[seed::20], MatrixKey.orthogonal(4, 3, seed)
    mixed = encrypt_images(x, key)
    found = turned_lattice(mixed, 4, 3)
    left = found.key.matrix() @ key.matrix().T  # x T = x Pᵀ (P T), so this is P, which is left to be found
    P = left.round()
    assert (left - P).abs().max() < 1e-6 < found.score
    assert torch.equal(P.abs().sum(0), torch.ones(48).double())
    assert torch.equal(P.abs().sum(1), torch.ones(48).double())
    permuted = pixels(decrypt_images(mixed, found.key))
    last = SignedPermutation(P.T.abs().argmax(0).tolist(), (P.T.sum(0) < 0).tolist(), 4, 3)
    assert torch.equal(permuted, encrypt_images(x, last))
    # What remains is said: with exchanges and a flip all signed permutations are made.
    assert len(found.ambiguous) == 48
    assert [g.then(found.key) == found.key for g in found.ambiguous] == [False] * 48


def test_one_photograph_under_an_orthogonal_matrix_is_a_lattice_and_so_are_three_tiles() -> None:
    key = MatrixKey.orthogonal(4, 3, seed=1)
    noisy = add_noise(photo_tiles("left")[::20], 8, torch.Generator().manual_seed(0))  # still of whole grey levels
    for x in (load_photos()["china"][None, :, :256, :256], photo_tiles("left")[[5, 77, 150]], noisy):
        found = turned_lattice(encrypt_images(x, key), 4, 3).key.matrix() @ key.matrix().T
        assert (found - found.round()).abs().max() < 1e-6


def test_what_is_no_turned_lattice_is_refused() -> None:
    tiles, key = photo_tiles("left")[:30], MatrixKey.orthogonal(4, 3, seed=0)
    rounded = (127.5 * encrypt_images(tiles, key)).round() / 127.5
    noise = torch.randn(10, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for mixed in (
        encrypt_images(tiles, MatrixKey.invertible(4, 3, seed=0)),
        encrypt_images(tiles[:1], key),
        rounded,  # a lattice, but of pixels that no image has
        encrypt_images(tiles, key).half(),
        noise,
        torch.ones(2, 3, 32, 32),
    ):
        with pytest.raises(ValueError, match="no turned lattice of whole grey levels was found"):
            turned_lattice(mixed, 4, 3)
    for wrong in (torch.ones(1, 1, 32, 32), torch.ones(1, 3, 4, 32), torch.ones(3, 32, 32)):
        with pytest.raises(ValueError, match=r"need mixed images \(N, 3, H, W\), at least two blocks of 4 a side"):
            turned_lattice(wrong, 4, 3)


@pytest.mark.parametrize("seed", [0, 2])
def test_any_matrix_is_whole_forms_of_a_lattice_to_whoever_has_pictures_like_those(seed: int) -> None:
    """Estimates from moments are never exact; the whole forms near them are, and so is T, from every other tile."""
    tiles, key = photo_tiles("left"), MatrixKey.invertible(2, 3, seed)
    prior, mixed = image_statistics(tiles[::2], 2), encrypt_images(tiles[1::2], key)
    estimate, found = unmix(mixed, prior, orthogonal=False).key.matrix(), sheared_lattice(mixed, prior)
    T, largest = key.matrix(), key.matrix().abs().max()
    left = found.key.matrix() @ torch.linalg.inv(T)
    assert (estimate - T).abs().max() > 0.1 * largest
    assert (left - left.round()).abs().max() < 1e-3
    assert torch.equal(left.round().abs().sum(0), torch.ones(12).double())
    assert torch.equal(left.round().abs().sum(1), torch.ones(12).double())
    assert found.score > 1 - 1e-9
    assert torch.equal(sheared_lattice(mixed, prior).key.matrix(), found.key.matrix())


def test_what_is_no_sheared_lattice_is_refused() -> None:
    tiles, key = photo_tiles("left"), MatrixKey.invertible(2, 3, seed=0)
    prior, mixed = image_statistics(tiles[::2], 2), encrypt_images(tiles[1::2], key)
    rounded = (127.5 * mixed).round() / 127.5
    for hidden in (rounded, mixed[:2], torch.randn(10, 3, 32, 32, generator=torch.Generator().manual_seed(0))):
        with pytest.raises(ValueError, match="not all pixels were found in a lattice of whole grey levels"):
            sheared_lattice(hidden, prior)
    for wrong in (torch.ones(1, 1, 32, 32), torch.ones(1, 3, 2, 32), torch.ones(3, 32, 32)):
        with pytest.raises(ValueError, match=r"need mixed images \(N, 3, H, W\), at least two blocks of 2 a side"):
            sheared_lattice(wrong, prior)


def test_keys_per_patch_fall_to_360_encrypted_digits(digits: tuple[Tensor, Tensor]) -> None:
    for start in (0, 100):
        keys = PatchKeys((Key.from_seed(start + n, 2, 1) for n in range(16)), (4, 4))
        hidden = encrypt_images(digits[0], keys)
        found = unlock_patches(hidden, load_digits("train")[0], 2)
        # Pixels that are black in every digit cannot be told apart, and need not be.
        assert torch.equal(decrypt_images(hidden, found.key), digits[0])
        assert found == unlock_patches(hidden, load_digits("train")[0], 2)


def test_keys_per_patch_that_change_with_the_image_are_safe_from_this(digits: tuple[Tensor, Tensor]) -> None:
    hidden = encrypt_images(digits[0][:50], [PatchKeys.from_seed(i, 2, 1, (4, 4)) for i in range(50)])
    found = unlock_patches(hidden, load_digits("train")[0], 2)
    opened = decrypt_images(hidden, found.key).float()
    assert (opened - digits[0][:50].float()).abs().mean() > 50
    with pytest.raises(ValueError, match="must have one size"):
        unlock_patches(hidden, torch.zeros(1, 1, 16, 16, dtype=torch.uint8), 2)
