"""The checkers, under the names that the exercises use: ``check.shuffle(my_shuffle)``."""

from mixerkey.classroom.checks.beyond import absorbed_orders, reorder_mixing
from mixerkey.classroom.checks.breaking import leading_flips, read_key, recover_matrix
from mixerkey.classroom.checks.broken_variants import balanced_flips, mended_bias
from mixerkey.classroom.checks.convmixer import batch_norm_train, parameters, pointwise_gelu, receptive_field
from mixerkey.classroom.checks.experiments import interval, largest_share, most_different
from mixerkey.classroom.checks.fast_convmixer import circular_matrix
from mixerkey.classroom.checks.image_cipher import (
    block_by_hand,
    decrypt,
    encrypt,
    key_count,
    normalize_levels,
    shuffle,
    which_message,
)
from mixerkey.classroom.checks.model_encryption import absorb, encrypt_linear, encrypt_rows, rows_by_hand, which_absorb
from mixerkey.classroom.checks.patch_embedding import matrix_from_weight, unpatch
from mixerkey.classroom.checks.three_parties import relative_key, relative_matrix
from mixerkey.classroom.checks.whole_network import paired

__all__ = [
    "absorb",
    "absorbed_orders",
    "balanced_flips",
    "batch_norm_train",
    "block_by_hand",
    "circular_matrix",
    "decrypt",
    "encrypt",
    "encrypt_linear",
    "encrypt_rows",
    "interval",
    "key_count",
    "largest_share",
    "leading_flips",
    "matrix_from_weight",
    "mended_bias",
    "most_different",
    "normalize_levels",
    "paired",
    "parameters",
    "pointwise_gelu",
    "read_key",
    "receptive_field",
    "recover_matrix",
    "relative_key",
    "relative_matrix",
    "reorder_mixing",
    "rows_by_hand",
    "shuffle",
    "unpatch",
    "which_absorb",
    "which_message",
]
