"""Answers to exercises, typed and judged in the page, where numbers are asked; from book/answers.toml.

A Sphinx extension of the book. An exercise with an entry there ends with a place for each answer, which
book/quiz/answer.js makes; any other says what it needs: paper, or a notebook.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from book._ext import PAGES, read_toml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx_exercise.nodes import exercise_enumerable_node

ANSWERS = "book/answers.toml"
WORDS = "To be answered in words: write yours down, then unfold the solution."
NOTEBOOK = 'This one needs a notebook, which this page is not: <a href="run.html">run the chapter</a>.'


def load(file: Path) -> dict[str, list[dict[str, Any]]]:
    """What is asked in each exercise: {label: [{"ask": str, "right": [number or bool, …], "praise": str, …}, …]}.

    Raises:
        ValueError: the file is not TOML, or an entry lacks something or has a mistake of another length than the
            right answer; the message says which.
    """
    answers = read_toml(file)
    for label, fields in answers.items():
        for field in fields:
            if missing := {"ask", "right", "praise", "mistakes"} - field.keys():
                raise ValueError(f"{file.name}, {label}: lacks {', '.join(sorted(missing))}")
            for wrong, why in field["mistakes"]:
                if len(wrong) != len(field["right"]) or not why:
                    raise ValueError(f"{file.name}, {label}: {wrong} is no explained mistake for {field['right']}")
    return answers


def ending(label: str, title: str, answers: dict[str, list[dict[str, Any]]]) -> str:
    """What a page shows at the end of an exercise."""
    if label in answers:
        return f'<mixer-answer class="answer" data-fields="{escape(json.dumps(answers[label]))}"></mixer-answer>'
    return f'<p class="answer">{WORDS if "Recall" in title else NOTEBOOK}</p>'


def offer(app: Sphinx, doctree: nodes.document, page: str) -> None:
    if app.builder.name not in PAGES:
        return
    try:
        answers = load(Path(app.srcdir) / ANSWERS)
    except (OSError, ValueError) as error:
        raise ExtensionError(str(error)) from error
    for exercise in doctree.findall(exercise_enumerable_node):
        html = ending(exercise["label"], exercise.next_node(nodes.title).astext(), answers)
        exercise[-1] += nodes.raw("", html, format="html")  # in the section of its content


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("doctree-resolved", offer)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
