"""Docstrings on the pages of the package: they are its own, and their letters stay letters."""

from __future__ import annotations

from sphinx.ext.napoleon import Config, GoogleDocstring

from book._ext.docstrings import Elsewhere, keep_letters
from conftest import HTML, needs_html


def test_a_letter_is_no_number_of_a_list() -> None:
    lines = ["Args:", "    channels: C.", "    M, P: M. The sizes.", "    n: how many.", "C. Plain text."]
    keep_letters(None, "", "", None, None, lines)  # type: ignore[arg-type]
    assert lines == ["Args:", "    channels: \\C.", "    M, P: \\M. The sizes.", "    n: how many.", "C. Plain text."]
    fields = GoogleDocstring(lines, Config(napoleon_use_param=True)).lines()  # type: ignore[arg-type]
    assert ":param channels: \\C." in fields


@needs_html
def test_the_reference_has_no_lists_that_begin_at_c() -> None:
    assert "upperalpha" not in (HTML / "book" / "api.html").read_text(encoding="utf-8")


def test_what_the_package_imports_is_not_read_whether_it_is_there_or_not() -> None:
    names = ("torch", "torch.nn.functional", "mixerkeys", "mixerkey", "mixerkey.keys", "typing", "collections.abc")
    assert [name in Elsewhere() for name in names] == [True] * 3 + [False] * 4


@needs_html
def test_no_docstring_of_pytorch_stands_on_the_page() -> None:
    page = (HTML / "book" / "api.html").read_text(encoding="utf-8")
    for words in ("Runs the forward pass", "Perform a single optimization step"):  # of Sequential and of Optimizer
        assert words not in page
