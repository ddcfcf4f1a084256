"""The directive {quiz}: five questions with explained answers, from book/quizzes.toml.

A Sphinx extension of the book. Where it stands in a page, ``{quiz} convmixer`` becomes the questions of that name:
radio buttons, and all answers folded below each question. The script book/quiz/quiz.js puts a button in their place
that answers what was chosen. Without it, and in print, the folded answers are the key.
"""

from __future__ import annotations

from pathlib import Path
from string import ascii_uppercase
from typing import cast

from book._ext import read_toml
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.domains.std import StandardDomain
from sphinx.util.docutils import SphinxDirective

QUIZZES = "book/quizzes.toml"
QUESTIONS = 5
VERDICTS = {"right": "Right.", "wrong": "Wrong."}


def load(file: Path) -> dict[str, list[dict]]:
    """The questions of each page: {page: [{"question": str, "options": [[verdict, text, why], …]}, …]}.

    Raises:
        ValueError: the file is not TOML, or a page has not five questions, or a question not exactly one right option
            and at least one wrong one, or an option is not explained; the message says which.
    """
    quizzes = read_toml(file)
    for page, questions in quizzes.items():
        if not isinstance(questions, list) or len(questions) != QUESTIONS:
            raise ValueError(f"{file.name}: {page} must have {QUESTIONS} questions, each under [[{page}]]")
        for number, entry in enumerate(questions, 1):
            if problem := _problem(entry):
                raise ValueError(f"{file.name}, {page}, question {number}: {problem}")
    return quizzes


def _problem(entry: dict) -> str | None:
    """What is wrong with a question, in words."""
    if set(entry) != {"question", "options"}:
        return f"has {', '.join(entry) or 'nothing'}; expected question and options"
    for option in entry["options"]:
        if not isinstance(option, list) or len(option) != 3 or not all(isinstance(s, str) and s for s in option):
            return f"an option must be ['right' or 'wrong', text, why], got {option!r}"
        if option[0] not in VERDICTS:
            return f"the verdict of {option[1]!r} must be 'right' or 'wrong', got {option[0]!r}"
    verdicts = [option[0] for option in entry["options"]]
    if verdicts.count("right") != 1 or "wrong" not in verdicts:
        return f"must have exactly one right option and at least one wrong, got {verdicts}"
    return None


class Phrase(nodes.paragraph):
    """A paragraph, without its tag in HTML, where a legend and a label hold no block."""


class Quiz(SphinxDirective):
    """``{quiz} NAME``: the questions under [[NAME]]."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        file = Path(self.env.srcdir) / QUIZZES
        self.env.note_dependency(str(file))
        try:
            quizzes = load(file)
        except (OSError, ValueError) as error:
            raise self.error(str(error)) from error
        page = self.arguments[0]
        if page not in quizzes:
            raise self.error(f"{QUIZZES} has no questions for {page!r}; it has some for {', '.join(quizzes)}")
        result = [html('<mixer-quiz class="quiz">')]
        for number, entry in enumerate(quizzes[page], 1):
            result += self.question(f"quiz-{page}-{number}", f"**{number}.** {entry['question']}", entry["options"])
        return [*result, html("</mixer-quiz>")]

    def question(self, name: str, question: str, options: list[list[str]]) -> list[nodes.Node]:
        """One question, under a label such as quiz-convmixer-3: a legend, its options, and the answers, folded."""
        standard = cast(StandardDomain, self.env.get_domain("std"))
        standard.anonlabels[name] = self.env.docname, name
        standard.labels[name] = self.env.docname, name, f"question {name.rpartition('-')[2]}"
        result = [html(f'<fieldset id="{name}"><legend>'), self.parse(question), html("</legend>")]
        for index, (_, text, _) in enumerate(options):
            button = f'<input type="radio" name="{name}" value="{index}" /><b>{ascii_uppercase[index]}</b><span>'
            result += [html(f"<label>{button}"), self.parse(text), html("</span></label>")]
        result += [html('<details><summary>Answers</summary><ol type="A">')]
        for verdict, text, why in options:
            option, reason = self.parse(text), self.parse(f"**{VERDICTS[verdict]}** {why}")
            option["classes"] = reason["classes"] = ["quiz-answer"]  # which the search leaves out
            result += [html(f'<li data-verdict="{verdict}"><p class="quiz-option">'), option, html("</p><p>")]
            result += [reason, html("</p></li>")]
        return [*result, html("</ol></details></fieldset>")]

    def parse(self, text: str) -> Phrase:
        """A paragraph of the book's markup."""
        parent = nodes.Element()
        self.state.nested_parse(StringList([text], source=QUIZZES), 0, parent)
        if [type(node) for node in parent.children] != [nodes.paragraph]:
            raise self.error(f"{QUIZZES}: expected one paragraph, got {text!r}")
        (paragraph,) = parent.children
        return Phrase("", "", *paragraph.children)


def html(code: str) -> nodes.raw:
    """Markup for pages alone: other formats show questions and answers one after the other."""
    return nodes.raw("", code, format="html")


def _nothing(*_: object) -> None: ...


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_node(Phrase, html=(_nothing, _nothing))
    app.add_directive("quiz", Quiz)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
