"""Docstrings on the pages of the package: their letters stay letters."""

from __future__ import annotations

from sphinx.ext.napoleon import Config, GoogleDocstring

from book._ext.docstrings import keep_letters
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
