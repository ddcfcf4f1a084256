"""Key recovery: what each kind of attacker needs, and what they get. No attack is ever given the true key."""

from mixerkey.attacks.challenge import check_challenge, load_challenge
from mixerkey.attacks.chosen import chosen_plaintext
from mixerkey.attacks.ciphertext import ciphertext_only
from mixerkey.attacks.exhaustion import all_keys, equivalence_classes, exhaustive
from mixerkey.attacks.known import known_plaintext
from mixerkey.attacks.recovery import Recovery
from mixerkey.attacks.statistics import ImageStatistics, image_statistics, naturalness

__all__ = [
    "ImageStatistics",
    "Recovery",
    "all_keys",
    "check_challenge",
    "chosen_plaintext",
    "ciphertext_only",
    "equivalence_classes",
    "exhaustive",
    "image_statistics",
    "known_plaintext",
    "load_challenge",
    "naturalness",
]
