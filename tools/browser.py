"""A real browser for tests and for printing: Chromium, headless, with no way to the internet."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from filelock import FileLock

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--font-render-hinting=none",  # or letters of the shell have other widths than a reader's
    # Every name but loopback's is unknown to it.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]


@cache
def chromium() -> str | None:
    """The Chromium to drive: the shell without windows, which opens a page in half the time, or another.

    Where it is missing, it is installed with Debian's tools, if that is allowed.
    """
    debian = shutil.which("apt-get") and os.geteuid() == 0
    with FileLock(Path(sys.prefix) / "chromium.lock") if debian else nullcontext():
        for name in NAMES:
            if debian and not shutil.which(name):
                for command in ("update", f"install --yes --no-install-recommends {name}"):
                    subprocess.run(["apt-get", "--quiet", *command.split()], check=False, capture_output=True)
            if path := shutil.which(name):
                return path
    return None


class Quiet(SimpleHTTPRequestHandler):
    """A static host that logs nothing."""

    def log_message(self, *_: object) -> None: ...


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """A static host for a folder, on this machine alone; its address ends with a slash."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
