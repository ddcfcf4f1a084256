"""Encryption of ConvMixer models and images with one secret key, after Iijima and Kiya (2022)."""

from mixerkey.cipher import decrypt_images, encrypt_images, normalize
from mixerkey.convmixer import ConvMixer, load_pretrained
from mixerkey.embedding import decrypt_model, encrypt_model, patch_matrix, set_patch_matrix
from mixerkey.evaluation import accuracy, key_space_bits
from mixerkey.keys import Key, SignedPermutation

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
    "load_pretrained",
    "normalize",
    "patch_matrix",
    "set_patch_matrix",
]
