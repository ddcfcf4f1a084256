"""What README.md tells a newcomer to type."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
from parties import Provider

from conftest import ROOT
from mixerkey.__main__ import main

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_its_python_does_what_the_comments_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    values = []
    for statement in ast.parse("\n".join(blocks("python"))).body:
        if isinstance(statement, ast.Expr):
            values.append(eval(compile(ast.Expression(statement.value), "README.md", "eval"), names))
        else:
            exec(compile(ast.Module([statement], []), "README.md", "exec"), names)
    plain, both_encrypted, plain_images, _, found = values
    assert plain == both_encrypted >= 0.97
    assert plain_images < 0.5
    assert (tmp_path / "my-key.json").stat().st_mode & 0o777 == 0o600
    assert found is True


def test_its_targets_of_make_are_there() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    told = set(re.findall(r"\bmake ([a-z]+)\b", "\n".join(blocks("bash")) + " ".join(re.findall("`[^`]+`", README))))
    assert told
    assert told <= targets


def test_its_three_parties_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = (block for block in blocks("bash") if "mixerkey serve" in block)
    words = [shlex.split(line, comments=True) for line in block.splitlines()]
    keygen, encrypt, serve, classify = (line[1:] for line in words if line[0] == "mixerkey")
    assert main(keygen) == main(encrypt) == 0
    with Provider(tmp_path, *serve[1:], "--port", "0") as provider:
        assert main([*classify, "--url", provider.url]) == 0
    (right,) = re.findall(r"(\d+) of 360 digits right", capsys.readouterr().out)
    assert int(right) >= 350


def test_its_reproduce_and_train_are_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their work is tested elsewhere; here, that the words are understood."""
    understood: list[object] = []
    for run in ("_reproduce", "_train"):
        monkeypatch.setattr(f"mixerkey.__main__.{run}", understood.append)
    lines = re.findall(r"^mixerkey (?:reproduce|train) .*", "\n".join(blocks("bash")), re.MULTILINE)
    for line in lines:
        assert main(shlex.split(line, comments=True)[1:]) == 0
    assert len(understood) == len(lines) >= 3
