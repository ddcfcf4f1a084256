"""Key recovery: what each kind of attacker needs, and what they get. No attack is ever given the true key."""

from mixerkey.attacks.annealing import annealed
from mixerkey.attacks.challenge import check_challenge, load_challenge
from mixerkey.attacks.checkpoint import (
    from_checkpoint,
    from_initialization,
    mixture_from_checkpoint,
    order_from_positions,
)
from mixerkey.attacks.chosen import chosen_plaintext, chosen_under_noise
from mixerkey.attacks.ciphertext import ciphertext_only
from mixerkey.attacks.exhaustion import all_keys, equivalence_classes, exhaustive
from mixerkey.attacks.fine_tuning import fine_tune_embedding
from mixerkey.attacks.jigsaw import order_from_neighbours, solve_jigsaw
from mixerkey.attacks.known import known_plaintext
from mixerkey.attacks.lattice import sheared_lattice, turned_lattice
from mixerkey.attacks.mixed import unmix
from mixerkey.attacks.model_only import by_fit, expected_grams, mismatch, model_only, settle
from mixerkey.attacks.pairs import block_pairs, known_scrambled, least_squares, procrustes, signed_assignment
from mixerkey.attacks.patch_keys import unlock_patches
from mixerkey.attacks.queries import hill_climb, labelled_loss, relaxed_permutation
from mixerkey.attacks.recovery import Recovery
from mixerkey.attacks.relative import between, keys_between_places, relative_key
from mixerkey.attacks.statistics import ImageStatistics, image_statistics, naturalness

__all__ = [
    "ImageStatistics",
    "Recovery",
    "all_keys",
    "annealed",
    "between",
    "block_pairs",
    "by_fit",
    "check_challenge",
    "chosen_plaintext",
    "chosen_under_noise",
    "ciphertext_only",
    "equivalence_classes",
    "exhaustive",
    "expected_grams",
    "fine_tune_embedding",
    "from_checkpoint",
    "from_initialization",
    "hill_climb",
    "image_statistics",
    "keys_between_places",
    "known_plaintext",
    "known_scrambled",
    "labelled_loss",
    "least_squares",
    "load_challenge",
    "mismatch",
    "mixture_from_checkpoint",
    "model_only",
    "naturalness",
    "order_from_neighbours",
    "order_from_positions",
    "procrustes",
    "relative_key",
    "relaxed_permutation",
    "settle",
    "sheared_lattice",
    "signed_assignment",
    "solve_jigsaw",
    "turned_lattice",
    "unlock_patches",
    "unmix",
]
