"""One trial of the table of schemes: what an attacker is given, and what the attacks of the package make of it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import cast

import torch
from torch import Tensor, nn

from mixerkey import (
    ConvMixer,
    Key,
    accuracy,
    decrypt_images,
    encrypt_images,
    encrypt_model,
    load_pretrained,
    patch_matrix,
    set_patch_matrix,
)
from mixerkey.attacks import (
    ImageStatistics,
    Recovery,
    block_pairs,
    by_fit,
    chosen_plaintext,
    chosen_under_noise,
    ciphertext_only,
    expected_grams,
    hill_climb,
    image_statistics,
    known_scrambled,
    least_squares,
    mismatch,
    model_only,
    naturalness,
    order_from_neighbours,
    order_from_positions,
    procrustes,
    sheared_lattice,
    signed_assignment,
    solve_jigsaw,
    turned_lattice,
    unlock_patches,
    unmix,
)
from mixerkey.attacks.ciphertext import relatives
from mixerkey.attacks.mixed import pixels
from mixerkey.attacks.model_only import brightness, decrypted
from mixerkey.blocks import segment
from mixerkey.cipher import normalize
from mixerkey.data import load_cifar10, load_photos
from mixerkey.embedding import UnsharedEmbedding
from mixerkey.experiments.checkpoints import GRID, USUAL, fine_tuned, public, vit
from mixerkey.experiments.defences import add_noise
from mixerkey.keys import BlockKey, BlockOrder, Flips, MatrixKey, PatchKeys, ScrambledKey, Shuffle, SignedPermutation
from mixerkey.training import initialize
from mixerkey.vit import ViT

SECRET = 5000  # test images from here on are secret; what attackers train has seen those before
EXACT = 100.0  # dB, of an image that comes back exactly; one encrypted with the paper's key has 8 to 10
JUDGED = 20  # images of each draw on which the decryption is judged
WINDOW = 8  # pixels a side, of which a filter for noise knows how they go together
CONTRASTS = 4.0 ** torch.arange(-3, 2, dtype=torch.float64)  # of a window, in variances; each is as likely before
FILTERED = 5000  # pictures at most that the filter is made of
TILES = 27  # every so many of the photographs' tiles, two dozen, decide between relatives of a key
SEEDS = range(10)  # of trainings that the attacker tries
Found = Recovery | list[Recovery] | None  # a list where each judged image has a key of its own
Solve = Callable[[Tensor, Tensor, int, int], Recovery]


def psnr(found: Tensor, images: Tensor) -> float:
    """Median over images (N, C, H, W), both normalised, in dB."""
    error = ((found.clamp(-1, 1) - images) / 2).square().flatten(1).mean(1)
    return statistics.median((-10 * error.clamp(min=10 ** (-EXACT / 10)).log10()).tolist())


def denoised(noisy: Tensor, levels: float, public: str) -> Tensor:
    """Take out white noise of so many grey levels: Wiener filters of windows that have more contrast, or less.

    A window has the moments of public pictures' windows, but for its contrast: a Gaussian scale mixture (Portilla and
    others, 2003). What the windows say of a pixel is averaged.

    Args:
        noisy: images (N, 3, H, W), normalised.
        levels: standard deviation.
        public: the name of the pictures.

    Returns:
        estimates of the images, normalised, float64 (N, 3, H, W).
    """
    mean, variances, axes = _windows(public)
    y = axes.T @ (nn.functional.unfold(noisy.double(), WINDOW) - mean[:, None])  # (N, 3 WINDOW², windows)
    noise = (levels / 127.5) ** 2
    seen = CONTRASTS[:, None] * variances + noise  # (contrasts, 3 WINDOW²)
    likelihood = -(torch.einsum("npw,cp->cnw", y**2, 1 / seen) + seen.log().sum(1)[:, None, None]) / 2
    gain = torch.einsum("cnw,cp->npw", likelihood.softmax(0), 1 - noise / seen)
    likely = mean[:, None] + axes @ (gain * y)
    total, times = (nn.functional.fold(x, noisy.shape[2:], WINDOW) for x in (likely, torch.ones_like(likely)))
    return total / times


@cache
def _windows(public: str) -> tuple[Tensor, Tensor, Tensor]:
    """Of windows of the pictures: their mean, and the variances along their principal axes, and these."""
    images = pictures(public)[:FILTERED]
    windows = nn.functional.unfold(normalize(images).double(), WINDOW, stride=WINDOW)
    variances, axes = torch.linalg.eigh(torch.cov(windows.movedim(1, 0).flatten(1)))
    return windows.mean((0, 2)), variances.clamp(min=0), axes


@dataclass(frozen=True)
class Scheme:
    """A member of the family: how a key is drawn from a seed, and what happens to an image before.

    Attributes:
        kind: how its keys are attacked.
        draw: the key of a seed; for a key per image, that of an image.
        patch_size: M. Only keys of 4 meet networks.
        noise: standard deviation, in grey levels.
    """

    kind: str
    draw: Callable[[int], BlockKey]
    patch_size: int = 4
    noise: float = 0


class Case:
    """One trial: a key, and images of its own. An attack may use what its evidence names; the rest marks the answer."""

    def __init__(self, scheme: Scheme, seed: int, count: int) -> None:
        self.scheme, self.seed, self.count, self.M = scheme, seed, count, scheme.patch_size
        self.rng = torch.Generator().manual_seed(seed)
        images = secret_images()[seed * (count + JUDGED) : (seed + 1) * (count + JUDGED)]
        self.seen, self.judged = images[:count], images[count:]
        self.keys: list[BlockKey] = [scheme.draw(seed)]  # of the images seen, then of those judged
        if scheme.kind == "images":
            self.keys = [scheme.draw(1000 * seed + i) for i in range(count + JUDGED)]

    def _encrypted(self, x: Tensor, keys: list[BlockKey]) -> Tensor:
        noisy = add_noise(x, self.scheme.noise, self.rng)
        return encrypt_images(noisy, keys if self.scheme.kind == "images" else keys[0])

    def ciphertexts(self) -> Tensor:
        return self._encrypted(self.seen, self.keys[: self.count])

    def target(self) -> Tensor:
        """What is to be decrypted; a ciphertext, too."""
        return self._encrypted(self.judged, self.keys[-JUDGED:])

    def known(self) -> tuple[Tensor, Tensor]:
        return self.seen, self.ciphertexts()

    def oracle(self, x: Tensor) -> Tensor:
        return self._encrypted(x, self.keys)

    def network(self) -> nn.Module:
        return vit(0) if self.scheme.kind in ("order", "scrambled") else load_pretrained("cifar10")

    def own(self) -> tuple[BlockKey, nn.Module]:
        """Another client's key, and the same network encrypted with it."""
        key = self.scheme.draw(10_000_000 + self.seed)
        return key, encrypt_model(self.network(), key)

    def models(self, network: nn.Module | None = None) -> list[nn.Module]:
        """The network of the scheme, or another one, encrypted; with a key per image, once for each that is judged."""
        network = network or self.network()
        if self.scheme.kind != "images":
            return [encrypt_model(network, self.keys[0])]
        return [set_patch_matrix(network, E) for E in self._matrices(network)[-JUDGED:]]

    def matrices(self) -> list[Tensor]:
        """E' of each place, or of each image."""
        return self._matrices(self.network()) if self.scheme.kind == "images" else matrices(self.models()[0])

    def _matrices(self, network: nn.Module) -> list[Tensor]:
        E = patch_matrix(network)
        return [key.dual().act(E.T).T for key in self.keys]

    def mark(self, found: Found, public: str = "photographs") -> list:
        """Whether the whole key was found, the median PSNR, and whether the attack says that it has no doubt.

        Noise is taken out by what public pictures are like, of those that the attacker has.
        """
        target, keys = self.target(), self.keys[-JUDGED:]
        if found is None:  # the image as it is
            seen = normalize(target) if target.dtype == torch.uint8 else target
            return [False, round(psnr(seen, normalize(self.judged)), 2), False]
        answers = found if isinstance(found, list) else [found] * len(keys)
        opened = decrypt_images(target, [each.key for each in answers] if isinstance(found, list) else found.key)
        whole = all(_equal(answer.key, key) for answer, key in zip(answers, keys, strict=True))
        seen = normalize(opened)
        if self.scheme.noise:
            seen = denoised(seen, self.scheme.noise, public)
        sure = not any(answer.ambiguous or isinstance(answer.key, MatrixKey) for answer in answers)
        return [whole, round(psnr(seen, normalize(self.judged)), 2), sure]


def _equal(a: BlockKey, b: BlockKey) -> bool:
    """Matrices are right if all entries are to a thousandth of the largest; half a grey level is 54 dB."""
    if isinstance(b, MatrixKey):
        T = b.matrix()
        return isinstance(a, MatrixKey) and bool((a.matrix() - T).abs().max() < 1e-3 * T.abs().max())
    if isinstance(b, BlockOrder) and isinstance(a, ScrambledKey):  # found together with what is within: nothing
        b = SignedPermutation.identity(b.patch_size, b.channels).then(b)
    return a == b


@cache
def secret_images() -> Tensor:
    images = load_cifar10("test")[0][SECRET:]
    return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]


@cache
def pictures(name: str) -> Tensor:
    """Public pictures, uint8 (N, 3, 32, 32): "like" the secret ones, or tiles of "photographs" in three sizes."""
    if name == "like":
        return load_cifar10("train")[0]
    tiles = []
    for photo in load_photos().values():
        for times in (1, 2, 4):
            small = nn.functional.avg_pool2d(photo.float(), times).round().to(torch.uint8)
            tiles.append(small.unfold(1, 32, 32).unfold(2, 32, 32).permute(1, 2, 0, 3, 4).flatten(0, 1))
    return torch.cat(tiles)


@cache
def prior(name: str, patch_size: int) -> ImageStatistics:
    return image_statistics(pictures(name), patch_size)


# The attacks. Each is told the scheme, and sees no key but its own.


def nothing(case: Case) -> Found:
    """The encrypted image as it is."""
    return None


def _moments(public: str, case: Case, encrypted: Tensor) -> Recovery:
    """`ciphertext_only`; the network that judges colours has learned from like pictures, and counts as these."""
    return ciphertext_only(encrypted, prior(public, case.M), case.rng, look=public == "like")


def second_moments(public: str, case: Case) -> Found:
    encrypted = case.ciphertexts()
    return _of_its_kind(case, _moments(public, case, encrypted), encrypted, prior(public, case.M))


def _of_its_kind(case: Case, found: Recovery, encrypted: Tensor, known: ImageStatistics) -> Recovery:
    """Whoever knows that nothing is flipped, or that nothing moves, chooses among fewer keys, if that is not found."""
    if isinstance(case.keys[0], Shuffle):
        rivals = [g.then(found.key.shuffle) for g in relatives(case.M, 3) if not g.flips.any()]
    elif isinstance(case.keys[0], Flips):
        area = case.M**2
        rivals = [
            found.key.flip.then(SignedPermutation(range(3 * area), [f for f in flips for _ in range(area)], case.M, 3))
            for flips in product((0, 1), repeat=3)
        ]
    else:
        return found
    if found.key in rivals:
        return found
    best = max(rivals, key=lambda key: naturalness(decrypt_images(encrypted, key), known))
    return Recovery(best, found.score, tuple(key.then(best.inverse()) for key in rivals if key != best))


def whitening(public: str, case: Case) -> Found:
    return unmix(case.ciphertexts(), prior(public, 4), orthogonal=case.scheme.kind == "orthogonal")


def lattice(public: str, case: Case) -> Found:
    """A matrix but for a signed permutation, and then that; where there is no such lattice, `whitening`."""
    mixed = case.ciphertexts()
    try:
        if case.scheme.kind == "orthogonal":
            turned = turned_lattice(mixed, 4, 3).key
        else:
            turned = sheared_lattice(mixed, prior(public, 4), case.rng).key
    except ValueError:  # the attacker sees that it failed
        return whitening(public, case)
    found = _moments(public, case, pixels(decrypt_images(mixed, turned)))
    return Recovery(found.key.then(turned), found.score, found.ambiguous)


def neighbours(public: str, case: Case) -> Found:
    return unlock_patches(case.ciphertexts(), pictures(public)[:10_000], 4, case.rng)


def jigsaw(case: Case) -> Found:
    return solve_jigsaw(case.ciphertexts(), 4)


def moments_then_jigsaw(public: str, case: Case) -> Found:
    """The order of blocks does not change what is within, but for its colours; the borders then show the order.

    Whether everything is mirrored or turned remains in doubt.
    """
    encrypted, known = case.ciphertexts(), prior(public, 4)
    within, mirrors = _moments(public, case, encrypted), relatives(4, 3)[:16:2]
    rivals = []
    for g in mirrors:
        key = g.then(within.key)
        order = solve_jigsaw(decrypt_images(encrypted, key), 4).key
        rivals.append((naturalness(decrypt_images(encrypted, key.then(order)), known), order))
    order = max(rivals, key=lambda rival: rival[0])[1]
    found = _moments(public, case, decrypt_images(encrypted, order))
    return Recovery(found.key.then(order), found.score, (*found.ambiguous, *mirrors[1:]))


def positions(case: Case) -> Found:
    return order_from_neighbours(cast(ViT, case.models()[0]).positions.detach(), BlockOrder.from_seed(0, 4, 3, GRID))


def positions_and_labels(case: Case) -> Found:
    """Labelled pictures say which way round the grid is."""
    return _most_accurate(case, _all(cast(Recovery, positions(case))))


def _all(found: Recovery) -> list[BlockKey]:
    """The key, and those that are as likely."""
    return [found.key, *(change.then(found.key) for change in found.ambiguous)]


def _most_accurate(case: Case, keys: list[BlockKey]) -> Recovery:
    encrypted, (images, labels) = case.models()[0], load_cifar10("test")
    right = [accuracy(encrypted, images[:100], labels[:100], key) for key in keys]
    return Recovery(keys[right.index(max(right))], max(right))


def moments_and_positions(public: str, case: Case) -> Found:
    """What is within blocks from the images, up to a mirror image or a turn; their order from the network, likewise.

    A picture that is mirrored within blocks alone is torn at their borders. The two are turned alike; labelled pictures
    say how.
    """
    encrypted, turns = case.ciphertexts(), _all(cast(Recovery, positions(case)))
    within = _moments(public, case, encrypted)
    keys = [g.then(within.key).then(turn) for g in relatives(4, 3)[:16:2] for turn in turns]
    natural = [naturalness(decrypt_images(encrypted, key), prior(public, 4)) for key in keys]
    likely = [keys[k] for k in torch.tensor(natural).topk(len(turns)).indices.tolist()]
    if public == "like":
        return _most_accurate(case, likely)
    return Recovery(likely[0], max(natural), tuple(key.then(likely[0].inverse()) for key in likely[1:]))


def each_alone(public: str, case: Case) -> Found:
    return [_moments(public, case, image[None]) for image in case.target()]


def each_alone_after_known(case: Case) -> Found:
    """Under keys of their own known images say nothing of other keys, but what such pictures are like."""
    known = image_statistics(case.known()[0], 4)
    return [ciphertext_only(image[None], known, case.rng, look=False) for image in case.target()]


SOLVE: dict[str, Solve] = {"signed": signed_assignment, "orthogonal": procrustes, "invertible": least_squares}


def pairs(case: Case) -> Found:
    return SOLVE[case.scheme.kind](*block_pairs(*case.known(), case.M), case.M, 3)


def pairs_of_each_place(case: Case) -> Found:
    plain, encrypted = (segment(normalize(x), 4).flatten(1, 2) for x in case.known())  # (N, places, p_b)
    return _places(signed_assignment(plain[:, n], encrypted[:, n], 4, 3) for n in range(64))


def _places(found: Iterable[Recovery]) -> Recovery:
    found = list(found)
    doubts = tuple(
        PatchKeys((g if m == n else SignedPermutation.identity(4, 3) for m in range(64)), GRID)
        for n, place in enumerate(found)
        for g in place.ambiguous
    )
    return Recovery(PatchKeys((place.key for place in found), GRID), min(place.score for place in found), doubts)


def pairs_and_places(case: Case) -> Found:
    return known_scrambled(*case.known(), 4)


def one_query(case: Case) -> Found:
    try:
        return chosen_plaintext(case.oracle, case.M, 3)
    except ValueError:  # the answer is none of this cipher's; the attacker sees that it failed
        return None


def random_query(case: Case) -> Found:
    return chosen_under_noise(case.oracle, case.M, 3, case.rng, solve=SOLVE[case.scheme.kind])


def one_query_for_all_places(case: Case) -> Found:
    def place(n: int) -> Callable[[Tensor], Tensor]:
        i, j = 4 * (n // 8), 4 * (n % 8)
        return lambda x: case.oracle(x.repeat(1, 8, 8))[:, i : i + 4, j : j + 4]

    return _places(chosen_plaintext(place(n), 4, 3) for n in range(64))


def random_image(case: Case) -> Found:
    x = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8, generator=case.rng)
    return known_scrambled(x, case.oracle(x), 4)


def flips_by_brightness(public: str, case: Case) -> Found:
    """Which half of the pixels is flipped, or which other half: public pictures say. What moves remains unknown."""
    encrypted = cast(ConvMixer, case.models()[0])
    flips = brightness(encrypted)[0] < 0
    rivals = [Flips(range(48), half, 4, 3) for half in (flips, ~flips)]
    best = max(rivals, key=lambda key: -mismatch(decrypted(encrypted, key), pictures(public)[-100:]))
    return Recovery(best, 0.0, () if isinstance(case.keys[0], Flips) else (SignedPermutation.identity(4, 3),))


def brightness_of_blocks(case: Case) -> Found:
    """An orthogonal T keeps angles, so the strongest filters still listen to brightness, which is T⁻¹1 by now.

    Only that is decrypted, and of the rest a hundredth. With the brightness of photographs one of the two signs gives
    nearer what batch normalisation stored.
    """
    encrypted, one = cast(ConvMixer, case.models()[0]), torch.full((48, 1), 48**-0.5, dtype=torch.float64)
    seen, stored = torch.from_numpy(brightness(encrypted)[:1].T), cast(Tensor, encrypted.embedding_norm.running_mean)
    light = segment(normalize(pictures("photographs")), 4).flatten(0, -2) @ one.float()  # (blocks, 1)

    def off(turned: Tensor) -> float:
        z = light @ turned.T.float() @ patch_matrix(encrypted) + cast(Tensor, encrypted.embedding.bias)
        return (nn.functional.gelu(z).mean(0) - stored).square().sum().item()

    turned = min(seen, -seen, key=off)
    rest = torch.eye(48, dtype=torch.float64)[:, 1:]
    frames = (torch.linalg.qr(torch.cat([first, rest], 1))[0] for first in (one, turned))  # first columns: + or -
    before, after = (Q * (Q[:, :1] * first).sum().sign() for Q, first in zip(frames, (one, turned), strict=True))
    found = before @ torch.diag(torch.tensor([1.0] + 47 * [100.0], dtype=torch.float64)) @ after.T
    return Recovery(MatrixKey(found, 4, 3), 0.0)


def gram_matrix(case: Case, network: ConvMixer | None = None) -> Recovery:
    """The key of the encrypted network, the scheme's or another one, from that alone."""
    return _gram_matrix(case, cast(ConvMixer, case.models(network)[0]))


def _gram_matrix(case: Case, encrypted: ConvMixer) -> Recovery:
    """`model_only`, and photographs say which of its relatives; half of the signs are flipped first, if none."""
    public, mine = pictures("photographs"), Flips.from_seed(case.seed, 4, 3)
    if isinstance(case.keys[0], Shuffle):
        encrypted = encrypt_model(encrypted, mine)
    found = by_fit(model_only(encrypted, expected_grams(public, 4), case.rng), encrypted, public[::TILES])
    if isinstance(case.keys[0], Shuffle):
        return Recovery(found.key.then(mine).shuffle, found.score, found.ambiguous)
    return found


def gram_matrix_of_one(case: Case) -> Found:
    """Relative keys take all keys to one; that one from its own model."""
    each = case.matrices()
    first = set_patch_matrix(load_pretrained("cifar10"), each[0])
    return _from_first(case, _gram_matrix(case, first), _to_first(each))


def moments_of_one(public: str, case: Case) -> Found:
    """Relative keys take all images to one key; that one from the images."""
    encrypted, to_first = case.ciphertexts(), _to_first(case.matrices())
    if case.scheme.kind == "images":
        turned = encrypt_images(encrypted, to_first[: case.count])
    else:
        turned = encrypt_images(encrypted, PatchKeys(to_first, GRID))
    return _from_first(case, _moments(public, case, turned), to_first)


def _to_first(each: list[Tensor]) -> list[SignedPermutation]:
    """For each image, or each place, the key that takes it to the first one's."""
    return [signed_assignment(E.T, each[0].T, 4, 3).key for E in each]


def _from_first(case: Case, first: Recovery, to_first: list[SignedPermutation]) -> Found:
    each = [Recovery(first.key.then(key.inverse()), first.score, first.ambiguous) for key in to_first]
    return each[-JUDGED:] if case.scheme.kind == "images" else _places(each)


def climb(case: Case) -> Found:
    """A black box that tells its accuracy on 50 labelled images, as often as it is asked."""
    encrypted, (images, labels) = case.models()[0], load_cifar10("test")
    start = Key.from_seed(1000 + case.seed, 4, 3)
    return hill_climb(lambda key: accuracy(encrypted, images[:50], labels[:50], key), start, case.count, case.rng)


def matrices(model: nn.Module) -> list[Tensor]:
    """The matrix E of each place, or the only one."""
    for module in model.modules():
        if isinstance(module, UnsharedEmbedding):
            return list(module.weight.detach().flatten(1, 2).permute(1, 2, 0))
    return [patch_matrix(model)]


def rows(kind: str, known: nn.Module, encrypted: nn.Module) -> Recovery:
    """The key that takes a known network nearest to an encrypted one: matching rows, and rows of positions."""
    A, B = matrices(known), matrices(encrypted)
    if kind == "places":
        return _places(signed_assignment(A[n % len(A)].T, E.T, 4, 3) for n, E in enumerate(B))
    if kind in ("order", "scrambled"):
        before, after = (cast(ViT, model).positions.detach() for model in (known, encrypted))
        places = order_from_positions(after, before, BlockOrder.from_seed(0, 4, 3, GRID))
        if kind == "order":
            return places
        within = signed_assignment(A[0].T, B[0].T, 4, 3)
        return Recovery(within.key.then(places.key), within.score, (*within.ambiguous, *places.ambiguous))
    found = SOLVE.get(kind, signed_assignment)(A[0].T, B[0].T, 4, 3)
    return Recovery(found.key.dual(), found.score, found.ambiguous)


def rows_of_own_model(case: Case) -> Found:
    key, model = case.own()
    return _each(case, [rows(case.scheme.kind, model, encrypted) for encrypted in case.models()], before=key)


def features(_: str, known: nn.Module, encrypted: nn.Module) -> Recovery:
    """The matrix that explains the features by a network of which the encrypted one is a descendant.

    x'E' = xE are plain features. If E is A and a little more, the likeliest x is x'E'W, where W is the Wiener filter of
    A for the moments of photographs; how much more shows in the spaces of the rows, which T does not change.
    """
    A, E = patch_matrix(known).double(), patch_matrix(encrypted).double()
    public = torch.from_numpy(prior("photographs", 4).moments.products[0])
    spaces = torch.linalg.qr(A.T)[0].T @ torch.linalg.qr(E.T)[0]
    shared = float((spaces**2).sum() / len(A))
    responses = A.T @ public @ A
    noise = (1 / shared - 1) * responses.diagonal().mean() * torch.eye(len(responses))
    back = torch.linalg.solve(responses + noise, A.T @ public)  # (d, p_b)
    return Recovery(MatrixKey(torch.linalg.inv(E @ back), 4, 3), shared)


Match = Callable[[str, nn.Module, nn.Module], Recovery]


def of_checkpoint(match: Match, case: Case) -> Found:
    known = public(type(case.network()))
    tuned = case.models(fine_tuned(type(known), *USUAL))
    return _each(case, [match(case.scheme.kind, known, encrypted) for encrypted in tuned])


def of_initial_weights(match: Match, case: Case) -> Found:
    """Of ten seeds that the training may have begun with."""
    starts = []
    for seed in SEEDS:
        starts.append(type(case.network())(**case.network().sizes))  # type: ignore[arg-type]
        initialize(starts[-1], torch.Generator().manual_seed(seed))
    found = [[match(case.scheme.kind, start, encrypted) for start in starts] for encrypted in case.models()]
    return _each(case, [max(of_one, key=lambda each: each.score) for of_one in found])


def _each(case: Case, found: list[Recovery], before: BlockKey | None = None) -> Found:
    if before is not None:
        found = [Recovery(before.then(one.key), one.score, one.ambiguous) for one in found]
    return found if case.scheme.kind == "images" else found[0]
