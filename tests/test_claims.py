"""The claims ledger: every entry holds, the page is up to date, and whatever goes missing or drifts is noticed."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path

import pytest

from mixerkey import key_space_bits
from tools import claims


@pytest.fixture
def entries() -> list[dict]:
    return deepcopy(claims.load())


def entry(entries: list[dict], name: str) -> dict:
    (found,) = (one for one in entries if one["id"] == name)
    return found


def test_everything_holds_and_the_page_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    status = claims.main(["--check"])
    assert capsys.readouterr().err == ""
    assert status == 0


def test_each_equation_has_an_entry_with_a_test_that_names_it(entries: list[dict]) -> None:
    for n in range(1, 10):
        found = entry(entries, f"eq-{n}")
        assert f"Eq. ({n})" in found["where"]
        assert any(f"eq{n}" in test for test in found["tests"]), found["tests"]


def test_numbers_are_those_of_the_package() -> None:
    known = claims.numbers()
    assert known["key bits"] == pytest.approx(key_space_bits(4, 3))
    assert known["parameters"] == 718_090


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"tests": ["tests/test_keys.py::test_that_was_renamed"]},
            "there is no test tests/test_keys.py::test_that_was",
        ),
        ({"tests": ["tests/test_gone.py::test_group_laws"]}, "there is no test tests/test_gone.py"),
        ({"tests": []}, "without a test and a page it is open"),
        ({"page": ""}, "without a test and a page it is open"),
        ({"page": "gone"}, "there is no page gone"),
        ({"cell": "a cell that was deleted"}, "0 cells of page experiments"),
        ({"cell": "plt.show()"}, "cells of page experiments have 'plt.show()' in them"),
        ({"printed": "ours 99.99%"}, "does not print 'ours 99.99%'"),
        ({"verdict": "fine"}, "no verdict 'fine'"),
        ({"where": "Table 1"}, "Eq. (5) has no entry"),
    ],
)
def test_what_is_lost_or_drifts_is_noticed(entries: list[dict], change: dict, message: str) -> None:
    name = "eq-5" if "where" in change else "table-1-baseline"
    entry(entries, name).update(change)
    (problem,) = claims.problems(entries)
    assert message in problem


def test_another_receipt_makes_page_and_cells_drift(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = claims.read

    def other(file: str) -> dict:
        receipt = read(file)
        if file == "receipts/paper.json":
            receipt["experiments"]["table 1"]["result"]["baseline"] -= 1
        return receipt

    monkeypatch.setattr(claims, "read", other)
    assert claims.main(["--check"]) == 1
    assert "of experiments does not print 'baseline " in capsys.readouterr().err


def test_an_old_page_is_noticed_and_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(claims, "PAGE", tmp_path / "claims.md")
    assert claims.main(["--check"]) == 1
    claims.PAGE.write_text("another number", encoding="utf-8")
    assert claims.main(["--check"]) == 1
    assert "out of date: run python -m tools.claims" in capsys.readouterr().err
    assert claims.PAGE.read_text(encoding="utf-8") == "another number"  # looking changes nothing
    assert claims.main([]) == 0
    assert claims.main(["--check"]) == 0


def test_symbols_are_formulas(entries: list[dict]) -> None:
    for one in entries:
        for words in (one["title"], one["paper"], one["ours"], one["note"]):
            assert not re.search(r"\d%", words), words
            plain = re.sub(r"\$[^$]+\$|\{doc\}`[^`]+`", "", words)
            assert not re.search(r"[_^²⁻ᵀ]|(?<!['’])\b[b-zB-Z]\b|\bK\d", plain), words


def test_the_page_says_for_each_claim_what_checks_and_what_shows_it(entries: list[dict]) -> None:
    page = claims.render(entries)
    for one in entries:
        part = page.split(f"(claim-{one['id']})=")[1].split("\n(claim-")[0]
        for piece in (one["title"], one["paper"], one["ours"], one["verdict"]):
            assert piece in part
        for test in one["tests"]:
            assert "`{}`, `{}`".format(*test.split("::")) in part
        assert not one["page"] or f"{{doc}}`{one['page']}`" in part


def test_the_ledger_needs_nothing_but_python() -> None:
    source = Path(claims.__file__).read_text(encoding="utf-8")
    assert {line.split()[1] for line in source.splitlines() if line.startswith(("import ", "from "))} == {
        *("__future__", "ast", "functools", "json", "math", "pathlib", "re", "statistics", "sys", "tomllib")
    }
