"""The claims ledger: book/claims.toml, checked against tests, pages and receipts, becomes the page book/claims.md.

``python -m tools.claims`` writes the page. ``python -m tools.claims --check``, with which `make book` begins, says what
does not hold, and fails then. Both need nothing but Python.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib
from functools import cache
from math import comb, factorial, log2
from pathlib import Path
from statistics import fmean

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "book" / "claims.md"
VERDICTS = {
    "holds": "as the paper says",
    "near": "another number, from another training or another key, and not far from the paper's",
    "corrected": "true after a slip is mended",
    "qualified": "true as stated, and less than a reader may take it for",
    "open": "not shown in this book yet",
}
INTRODUCTION = """\
# Claims ledger

Every equation, number and claim of the paper {cite:p}`iijima2022convmixer`, what this book finds, the test that checks
it and the cell that shows it. This page is made by `tools/claims.py` from `book/claims.toml` and the receipts of the
package. The book does not build when a test or a cell named here is gone, when a number here is not the one that the
cell prints, or when this page and the receipts differ.
"""


def read(file: str) -> dict:
    """A receipt of the package."""
    return json.loads((ROOT / "mixerkey" / file).read_text(encoding="utf-8"))


def numbers() -> dict[str, float | str]:
    """What the entries may quote, by name; all of it is computed from receipts or by a formula of the paper."""
    training, found = read("weights/cifar10.json"), read("receipts/paper.json")
    results = {title: entry["result"] for title, entry in found["experiments"].items()}
    table, wrong, p_b = results["table 1"], results["wrong keys"], 48
    d, L, k, P, C = (training["network"][name] for name in ("dim", "depth", "kernel_size", "patch_size", "in_channels"))
    embedding, layer, classifier = d * P * P * C + 3 * d, d * k * k + d + d * d + d + 4 * d, 10 * d + 10
    few = found["partial_images"]
    attacks = {
        cell["images"]: cell["summary"]
        for cell in read("receipts/ciphertext-only.json")["cells"]
        if (cell["prior"], cell["encrypted"], cell["patch_size"]) == ("cifar10", "cifar10", 4) and cell["images"] > 1
    }
    route = {
        f"{network} {step}": fmean(values)
        for network, of in results["conventional route"].items()
        for step, values in of.items()
    }
    return {
        **{name: table[name] / table["images"] for name in table if name not in ("images", "same class")},
        **{name: route[name] for name in route},
        **{f"{step} alone": fmean(right) / few for step, right in results["single steps"].items()},
        "images": table["images"],
        "same class": table["same class"],
        "wrong keys": len(wrong),
        "worst wrong key": min(wrong) / table["images"],
        "best wrong key": max(wrong) / table["images"],
        "two wrong positions": fmean(results["partial keys"]["positions"]["2"]) / few,
        "two wrong signs": fmean(results["partial keys"]["signs"]["2"]) / few,
        "fewest images": min(attacks),
        "most images": max(attacks),
        "attacked keys": attacks[min(attacks)]["of"],
        "fewest recovered": min(attack["exact"] for attack in attacks.values()),
        "most recovered": max(attack["exact"] for attack in attacks.values()),
        "epochs": training["recipe"]["epochs"],
        "network": f"d = {d}, L = {L}, k = {k}, P = {P}",
        "parameters": embedding + L * layer + classifier,
        "key bits": log2(factorial(p_b)) + log2(comb(p_b, p_b // 2)),
        "printed bits": log2(factorial(p_b)) + log2(comb(p_b, p_b // 2)) + log2(factorial(64)),
    }


def load() -> list[dict]:
    """The entries, with the names of numbers replaced by the numbers."""
    with (ROOT / "book" / "claims.toml").open("rb") as file:
        entries = tomllib.load(file)["claim"]
    known = numbers()
    for entry in entries:
        entry |= {name: entry.get(name, "").format(**known) for name in ("ours", "note", "printed")}
        prose = ("title", "paper", "ours", "note")
        entry |= {name: re.sub(r"(?<=\d) ?%", "\N{NO-BREAK SPACE}%", entry[name]) for name in prose}
    return entries


@cache
def cells(page: str) -> list[dict]:
    """The cells of a notebook of the book."""
    notebook = ROOT / "book" / f"{page}.ipynb"
    if not notebook.exists():
        raise LookupError(f"there is no page {page}")
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def find_cell(page: str, fragment: str) -> tuple[int, str, str]:
    """Number, heading above, and printed text of the one code cell of a page with `fragment` in its source.

    Raises:
        LookupError: there is no such page, or not exactly one such cell.
    """
    heading, found = "", []
    for cell in cells(page):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            heading = ([heading, *re.findall(r"^#+ (.*)$", source, re.MULTILINE)])[-1]
        elif fragment in source:
            texts = (output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell["outputs"])
            found.append((cell["execution_count"], heading, "".join("".join(text) for text in texts)))
    if len(found) != 1:
        raise LookupError(f"{len(found)} cells of page {page} have {fragment!r} in them")
    return found[0]


@cache
def functions(file: str) -> set[str]:
    """Names of the functions of a Python file; none where there is no file."""
    if not (ROOT / file).is_file():
        return set()
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def has_test(test: str) -> bool:
    """Whether a pytest node id such as tests/test_keys.py::test_group_laws names a function that is there."""
    file, _, function = test.partition("::")
    return function in functions(file)


def problems(entries: list[dict]) -> list[str]:
    """What does not hold, in words; empty when all is well."""
    wrong = []
    for entry in entries:
        name = entry["id"]
        if entry["verdict"] not in VERDICTS:
            wrong.append(f"{name}: no verdict {entry['verdict']!r}; there are {', '.join(VERDICTS)}")
        if entry["verdict"] != "open" and not (entry["tests"] and entry["page"]):
            wrong.append(f"{name}: without a test and a page it is open")
        wrong += [f"{name}: there is no test {test}" for test in entry["tests"] if not has_test(test)]
        if entry["page"]:
            try:
                number, _, printed = find_cell(entry["page"], entry["cell"])
            except LookupError as error:
                wrong.append(f"{name}: {error}")
            else:
                if " ".join(entry["printed"].split()) not in " ".join(printed.split()):  # columns have any width
                    wrong.append(
                        f"{name}: cell [{number}] of {entry['page']} does not print {entry['printed']!r}; "
                        "execute the page anew, or mend book/claims.toml"
                    )
    covered = {int(n) for entry in entries for n in re.findall(r"Eq\. \((\d)\)", entry["where"])}
    wrong += [f"Eq. ({n}) has no entry" for n in range(1, 10) if n not in covered]
    return wrong


def render(entries: list[dict]) -> str:
    """The page."""
    lines = [INTRODUCTION, *(f"- **{word}**: {meaning}" for word, meaning in VERDICTS.items())]
    lines += ["\n## At a glance\n", "| verdict | where | claim | this book |", "|---|---|---|---|"]
    for entry in entries:
        where = re.sub("(?<!,) ", "\N{NO-BREAK SPACE}", entry["where"])  # a line ends after a comma
        cells = (entry["verdict"], f"{{ref}}`{where} <claim-{entry['id']}>`", entry["title"], entry["ours"])
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("\n## One by one")
    for entry in entries:
        lines += [f"\n(claim-{entry['id']})=", f"### {entry['title']} ({entry['where']})\n"]
        lines.append(f"- *The paper:* {entry['paper']}")
        lines.append(f"- *This book:* {entry['ours']}: **{entry['verdict']}**. {entry['note']}".rstrip())
        lines += [f"- *Checked by* `{file}`, `{name}`" for file, name in (test.split("::") for test in entry["tests"])]
        if entry["page"]:
            lines.append(f"- *Shown in* {{doc}}`{entry['page']}`: {{cell}}`{entry['page']}: {entry['cell']}`")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Write the page, or with ``--check`` only look; 1 if anything is wrong."""
    entries = load()
    wrong = problems(entries)
    if not wrong and arguments == ["--check"]:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != render(entries):
            wrong = ["book/claims.md is out of date: run python -m tools.claims, and read what has changed"]
    elif not wrong:
        PAGE.write_text(render(entries), encoding="utf-8")
    for line in wrong:
        print(f"claims: {line}", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
