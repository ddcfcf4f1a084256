"""Encryption of ConvMixer models and images with one secret key, after Iijima and Kiya (2022)."""

from mixerkey import interrupts  # noqa: F401, before what takes long
from mixerkey.absorption import decrypt_model, encrypt_model
from mixerkey.cipher import decrypt_images, encrypt_images, network_input, normalize
from mixerkey.convmixer import ConvMixer, load_pretrained
from mixerkey.embedding import patch_matrix, renormalize, set_patch_matrix
from mixerkey.evaluation import accuracy
from mixerkey.key_files import load_key
from mixerkey.keys import Key, SignedPermutation, key_space_bits

__all__ = [
    "ConvMixer",
    "Key",
    "SignedPermutation",
    "accuracy",
    "decrypt_images",
    "decrypt_model",
    "encrypt_images",
    "encrypt_model",
    "key_space_bits",
    "load_key",
    "load_pretrained",
    "network_input",
    "normalize",
    "patch_matrix",
    "renormalize",
    "set_patch_matrix",
]
