"""Ctrl-C while the command line starts, which PyTorch makes take seconds, ends it at once and without a traceback.

Imported before anything else. The process ends by the signal, which shells report as 130; `mixerkey.__main__.main` then
sees to it that a command can tidy up.
"""

from __future__ import annotations

import signal
import sys
from os.path import basename, splitext  # there already, unlike pathlib

# What stands before the arguments: in `mixerkey --help` and `python -m mixerkey --help`, but not in `pytest mixerkey`.
_program = [splitext(basename(name))[0] for name in sys.orig_argv[-len(sys.argv) :][:1]]

if _program == ["mixerkey"] and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
