"""For the tests of the service: a provider as its own process, and what a client sends by hand."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image
from torch import Tensor

from mixerkey import Key, encrypt_model, load_pretrained
from mixerkey.parties.trainer import ModelCard, save_encrypted

ID, OTHER = "00d1f2e3a4b5c6d7", "8899aabbccddeeff"
KEY, WRONG = Key.from_seed(1, 2, 1), Key.from_seed(2, 2, 1)
DIGITS = tuple("0123456789")
RAW = {"Content-Type": "application/octet-stream"}
PATIENCE = 120.0  # seconds that a busy machine may take for what usually needs one


def lock(key: Key, key_id: str, path: Path) -> ModelCard:
    """What the third party does: the digits' network, encrypted, in a file. The key goes into no file."""
    card = ModelCard(key_id, 2, 1, 8, 8, DIGITS)
    save_encrypted(encrypt_model(load_pretrained("digits"), key), card, path)
    return card


def png(image: Tensor) -> bytes:
    """A grey image uint8 (1, H, W) as a PNG."""
    stream = io.BytesIO()
    Image.fromarray(np.asarray(image[0])).save(stream, "PNG")
    return stream.getvalue()


class Provider:
    """``mixerkey serve`` as its own process; as a context manager it ends with SIGTERM, and then has exited."""

    def __init__(self, folder: Path, *arguments: str | Path, environment: dict[str, str] | None = None) -> None:
        self.log = folder / f"provider-{time.monotonic_ns()}.log"
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mixerkey", "serve", *map(str, arguments)],
                env=os.environ | (environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )
        self.url = self.wait_for("listening")["url"]
        self.port = urlsplit(self.url).port

    def __enter__(self) -> Provider:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it and wait until it has gone."""
        self.process.send_signal(how)
        self.process.wait(PATIENCE)

    def events(self, name: str) -> list[dict]:
        """The log's lines of that event so far; each line is JSON."""
        lines = [
            json.loads(line)
            for line in self.log.read_text(encoding="utf-8").splitlines(keepends=True)
            if line[-1] == "\n"
        ]
        return [line for line in lines if line["event"] == name]

    def wait_for(self, name: str, count: int = 1) -> dict:
        """The count-th line of that event, once it is there."""
        end = time.monotonic() + PATIENCE
        while len(self.events(name)) < count:
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"no {name!r} in the provider's log:\n{self.log.read_text(encoding='utf-8')}")
            time.sleep(0.05)
        return self.events(name)[count - 1]
