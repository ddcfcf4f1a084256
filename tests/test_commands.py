"""The command line from outside: wrong values, odd environments, interrupts, and runs that were killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mixerkey.__main__ import NETWORKS, main
from mixerkey.parties import commands
from mixerkey.training import DIGITS

NAMES = ("train", "reproduce", *commands.COMMANDS)
MIXERKEY = [sys.executable, "-m", "mixerkey"]


@pytest.fixture
def third(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a third party, with a key, a model and a copy of the key."""
    monkeypatch.chdir(tmp_path)
    main(["keygen", "key.json", "--patch-size", "2", "--channels", "1"])
    main(["encrypt-model", "digits", "key.json", "a.safetensors"])
    (tmp_path / "copy.json").write_bytes((tmp_path / "key.json").read_bytes())
    (tmp_path / "lost").symlink_to("nowhere")
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange/digits.json").write_text("[1, 2]")
    (tmp_path / "strange/paper.json").write_text('{"title": "my paper"}')
    return tmp_path


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train digits --out key.json", "key.json: File exists; name a folder that can be written to"),
        ("train digits --out strange", "strange/digits.json: it exists already, and is not a receipt"),
        ("reproduce digits --out strange", "strange/paper.json: it exists already, and is not a receipt"),
        ("train digits --out key.json/runs", "Not a directory; name a folder"),
        ("train digits --out /proc/runs", "No such file or directory; name a folder"),
        ("train digits --out runs --validation -3", "--validation holds out 0 to 1,436 images, got -3"),
        ("train digits --out runs --validation 5000", "--validation holds out 0 to 1,436 images, got 5000"),
        ("train digits --out runs --recipe paper", "digits has no recipe 'paper'; use --recipe fast"),
        ("reproduce digits --out key.json", "key.json: File exists; name a folder"),
        ("reproduce digits --out runs --only nothing", "no experiment 'nothing' on digits"),
        ("keygen new.json --patch-size 0 --channels 1", "patch_size and channels must be at least 1"),
        ("keygen new.json --patch-size 2000 --channels 3", "blocks of up to 1,048,576 values"),
        ("keygen new.json --patch-size 100000 --channels 100000", "blocks of up to 1,048,576 values"),
        ("keygen new.json --patch-size 1 --channels 1", "this key changes nothing, so that it protects nothing"),
        ("keygen . --patch-size 2 --channels 1", "it exists already"),
        ("encrypt-model digits none.json m", "none.json: No such file or directory"),
        ("encrypt-model none key.json m", "none: there is no such file"),
        ("encrypt-model key.json key.json m", "not a network that mixerkey saved"),
        ("encrypt-model cifar10 key.json m", "no layer that is a patch embedding with patch size 2"),
        ("encrypt-model digits key.json m --side 7", "divisible by 2"),
        ("encrypt-model digits key.json m --side 0", "of positive size"),
        ("encrypt-model digits key.json m --classes a,a,a,a,a,a,a,a,a,a", "classes need different names"),
        ("encrypt-model digits key.json m --side 100000", "at most 1024 pixels a side"),
        ("encrypt-model digits key.json m --side -2", "of positive size"),
        ("encrypt-model digits key.json m --classes a,b", "its card says (2, 1, 2)"),
        ("rotate a.safetensors key.json key.json m", "key.json and key.json are one key"),
        ("rotate a.safetensors key.json copy.json m", "key.json and copy.json are one key"),
        ("serve none", "none: there is no such file"),
        ("serve a.safetensors --port 70000", "a port is 0 to 65535, got 70000"),
        ("serve a.safetensors --batch 0", "limits must be positive and finite, got batch = 0"),
        ("serve a.safetensors --timeout nan", "limits must be positive and finite, got seconds = nan"),
        ("serve a.safetensors --timeout inf", "limits must be positive and finite, got seconds = inf"),
        ("serve a.safetensors --timeout 1e308", "a request may take a day"),
        ("serve a.safetensors --prefix /v1", "begins like a path of the provider's own"),
        ("serve a.safetensors --name a.b:80", "without a port"),
        ("classify --key key.json --url http://x/?a=b", "no address of a provider"),
        ("serve a.safetensors --prefix mixerkey", "a prefix is a path such as /mixerkey, got 'mixerkey'"),
        ("serve a.safetensors --prefix //", "a prefix is a path such as /mixerkey, got '//'"),
        ("serve a.safetensors --prefix /a?b", "a prefix is a path such as /mixerkey, got '/a?b'"),
        ("serve a.safetensors --token-file none", "none: No such file or directory"),
        ("classify --key key.json --url ftp://x", "ftp://x"),
        ("classify --key none.json", "none.json: No such file or directory"),
        ("classify none.png --key key.json --url http://127.0.0.1:1", "127.0.0.1:1"),
        ("encrypt none.png out.png --key key.json", "none.png: No such file or directory"),
        ("encrypt lost out.png --key key.json", "lost: it is a link to nowhere, which is not there"),
        ("encrypt none.png out.png --key lost", "lost: it is a link to nowhere, which is not there"),
        ("encrypt-model lost key.json m --side 8", "it is a link to nowhere, which is not there"),
        ("decrypt a.jpg out.png --key key.json", "a.jpg: No such file or directory"),
        ("encrypt . ../out --key key.json", "there is no .png in"),
        ("encrypt . out --key key.json", "out lies within ., which is read"),
    ],
)
def test_a_wrong_value_gets_one_line_and_writes_nothing(
    third: Path, monkeypatch: pytest.MonkeyPatch, command: str, message: str
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the tries of a client
    before = {path: path.read_bytes() for path in third.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as stop:
        main(command.split())
    assert re.fullmatch(r"mixerkey: [^\n]+", str(stop.value))
    assert message in str(stop.value)
    assert {path: path.read_bytes() for path in third.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "command",
    [
        "",
        "unknown",
        "train other --out runs",
        "train digits",
        "train digits --out runs --seed one",
        "train digits --out runs --seed 1_0",
        "train digits --out runs --seed -1",
        "train digits --out runs --seed 99999999999999999999",
        "keygen key.json",
        "keygen key.json --patch-size two --channels 1",
        "serve models --port http",
        "encrypt in.png",
        "keygen new/ --patch-size 2 --channels 1",
        "encrypt-model digits key.json new/",
        "rotate a.safetensors key.json new.json new/",
    ],
)
def test_a_wrong_command_is_a_2_and_shows_the_usage(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(command.split())
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("usage: mixerkey")


@pytest.mark.parametrize(
    ("name", "message"),
    [("", "a file needs a name"), ("a\0b", "a file needs a name"), ("new/", "new/ names a folder; name a file in it")],
)
def test_a_file_needs_a_name(name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["keygen", name, "--patch-size", "2", "--channels", "1"])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_token_that_is_set_and_empty_protects_nothing(third: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXERKEY_TOKEN", "")
    with pytest.raises(SystemExit, match="MIXERKEY_TOKEN is set, and empty"):
        main(["serve", "a.safetensors"])


HELP = f"""
import contextlib, sys
from mixerkey.__main__ import main
for name in {NAMES!r}:
    with contextlib.suppress(SystemExit):
        main([name, "--help"])
with contextlib.suppress(SystemExit):
    main(["train", "digits", "--out", "/proc/\\u00e9\\u4e2d"])
from mixerkey.data import cifar10_available
cifar10_available()
"""


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii", "TERM": "dumb", "COLUMNS": "20"},
        {"PYTHONIOENCODING": "latin-1", "HOME": "/nowhere", "LANG": "tr_TR.UTF-8"},
    ],
    ids=["C", "ascii", "latin-1, no home"],
)
def test_every_help_is_shown_on_every_console(environment: dict[str, str], tmp_path: Path) -> None:
    """With nothing in the environment but what is said here."""
    paths = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    ended = subprocess.run(
        [sys.executable, "-c", HELP], env=paths | environment, cwd=Path(__file__).parent.parent, capture_output=True
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count(b"usage: ") == len(NAMES)
    assert b"Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("unbuffered", "line"),
    [
        ("", "done, but what it says can't be written to the standard output: No space left on device"),
        ("1", "[Errno 28] No space left on device"),
    ],
    ids=["buffered", "unbuffered"],
)
def test_where_nothing_can_be_printed_it_is_one_line(third: Path, unbuffered: str, line: str) -> None:
    command = [*MIXERKEY, "encrypt-model", "digits", "key.json", "b.safetensors"]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [f"mixerkey: {line}"]


def test_closed_streams_are_no_error(third: Path) -> None:
    command = [*MIXERKEY, "encrypt-model", "digits", "key.json"]
    for closed in (">&-", "2>&-", ">&- 2>&- <&-"):
        target = f"{len(closed)}.safetensors"
        ended = subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *command, target], capture_output=True, text=True)
        assert (ended.returncode, ended.stderr) == (0, ""), closed
        assert Path(target).is_file()


def interruptible() -> None:
    """For a process that these tests start: one of a background job ignores SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("command", "imported"),
    [
        ("mixerkey", "mixerkey.interrupts"),
        ("mixerkey", "torch._C"),
        ("python -m mixerkey", "mixerkey.interrupts"),
        ("python -m mixerkey", "numpy"),
        ("python -m mixerkey", "torch"),
        ("python -m mixerkey", "mixerkey.parties.commands"),
    ],
)
def test_ctrl_c_while_it_starts_is_no_traceback(tmp_path: Path, command: str, imported: str) -> None:
    """As soon as Python says that it has imported this; a shell reports either ending as 130."""
    script = tmp_path / "mixerkey"  # as pip writes it
    script.write_text("import sys\nfrom mixerkey.__main__ import main\nsys.exit(main())\n")
    start = [sys.executable, str(script)] if command == "mixerkey" else MIXERKEY
    with subprocess.Popen(
        [*start, "train", "digits", "--out", str(tmp_path / "runs")],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPROFILEIMPORTTIME": "1"},
        preexec_fn=interruptible,
    ) as process:
        assert process.stderr is not None
        assert any(line.split()[-1:] == [imported] for line in process.stderr)
        process.send_signal(signal.SIGINT)
        rest = [line for line in process.stderr if not line.startswith("import time:")]
    assert (process.returncode, rest) in [(-signal.SIGINT, []), (130, ["mixerkey: stopped\n"])]


STOPPED = """
import os, sys
from dataclasses import replace
from mixerkey import training
from mixerkey.__main__ import NETWORKS, main

NETWORKS["digits"] = NETWORKS["digits"]._replace(recipes={"fast": replace(training.DIGITS, epochs=3)})
save = training._Run.save

def save_and_stop(*args):
    save(*args)
    os.kill(os.getpid(), int(sys.argv[2]))

training._Run.save = save_and_stop
sys.exit(main(["train", "digits", "--out", sys.argv[1]]))
"""


def stop_training(folder: Path, how: signal.Signals) -> tuple[int, str, str]:
    """Start or go on with a training that gets a signal when it has written its next checkpoint."""
    command = [sys.executable, "-c", STOPPED, str(folder), str(int(how))]
    ended = subprocess.run(command, capture_output=True, text=True, preexec_fn=interruptible)
    return ended.returncode, ended.stdout, ended.stderr


def test_a_training_that_was_interrupted_and_then_killed_ends_with_the_bits_of_one_that_was_not(
    third: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NETWORKS, "digits", NETWORKS["digits"]._replace(recipes={"fast": replace(DIGITS, epochs=3)}))
    assert stop_training(third / "stopped", signal.SIGINT) == (130, "", "mixerkey: stopped\n")
    assert stop_training(third / "stopped", signal.SIGKILL) == (-signal.SIGKILL, "", "")
    assert not (third / "stopped" / "digits.safetensors").exists()
    for folder in ("stopped", "whole"):
        assert main(["train", "digits", "--out", folder]) == 0
    stopped, whole = (load_file(third / folder / "digits.safetensors") for folder in ("stopped", "whole"))
    assert stopped.keys() == whole.keys()
    assert all(stopped[name].equal(tensor) for name, tensor in whole.items())


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown_on_a_terminal_only(terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def run(*args: object, progress: bool, **kwargs: object) -> None:
        asked.append(progress)
        raise ValueError("that was all")

    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    for name in ("reproduce", "train"):
        monkeypatch.setattr(f"mixerkey.__main__.{name}", run)
        with pytest.raises(SystemExit, match="that was all"):
            main([name, "digits", "--out", str(tmp_path)])
    assert asked == [terminal, terminal]
