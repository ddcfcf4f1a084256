"""The exercises check what they claim: stubs, solutions, classic mistakes and junk, for every checker that there is."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mixerkey.classroom.checks import Checker, Value, check
from mixerkey.classroom.checks.checker import NOT_DONE, difference
from tools import stubs

LEVELS = ("Recall", "Implement", "Investigate")
REGISTRY = {name: entry for name, entry in vars(check).items() if isinstance(entry, Checker | Value)}
FUNCTIONS = {name: entry for name, entry in REGISTRY.items() if isinstance(entry, Checker)}
VALUES = {name: entry for name, entry in REGISTRY.items() if isinstance(entry, Value)}
CELLS = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))["cells"] for path in sorted(stubs.BOOK.glob("*.ipynb"))
}


def text(cell: dict) -> str:
    return "".join(cell["source"])


def checked(source: str) -> tuple[str, str]:
    """The checker that a cell calls at its end, and the name that it gives to it."""
    found = re.fullmatch(r"check\.(\w+)\((\w+)\)", source.splitlines()[-1])
    assert found, source
    return found[1], found[2]


EXERCISES = {
    label: (chapter, before, solution)
    for chapter, cells in CELLS.items()
    for label, before, solution in stubs.exercises(cells)
}
DIRECTIVE = re.compile(r"\{exercise(?:-start)?\} (\w+): [^\n]*\n:label: ([\w-]+)")
STATED = {chapter: DIRECTIVE.findall("\n".join(map(text, cells))) for chapter, cells in CELLS.items()}


@pytest.fixture(params=EXERCISES)
def exercise(request: pytest.FixtureRequest) -> tuple[str, dict, dict]:
    return EXERCISES[request.param]


def answer(chapter: str, source: str) -> Any:
    """What the cell gives to its checker, in a namespace with the chapter's imports."""
    space: dict[str, Any] = {"check": check}
    for cell in CELLS[chapter]:
        if cell["cell_type"] == "code":
            found: list[ast.stmt] = [
                s for s in ast.parse(text(cell)).body if isinstance(s, ast.Import | ast.ImportFrom)
            ]
            exec(compile(ast.Module(found, []), "imports", "exec"), space)
    exec(source, space)
    return space[checked(source)[1]]


def classics() -> Iterator[Any]:
    for name, entry in REGISTRY.items():
        for number, (wrong, message) in enumerate(entry.mistakes):
            yield pytest.param(entry, wrong, message, id=f"{name}-{number}")


def test_every_chapter_has_four_exercises_on_three_levels() -> None:
    for chapter, found in STATED.items():
        assert len(found) >= 4, chapter
        assert {level for level, _ in found} == set(LEVELS), chapter


def test_every_exercise_has_a_level_and_a_folded_solution() -> None:
    for chapter, cells in CELLS.items():
        page = "\n".join(map(text, cells))
        labels = re.findall(r"\{exercise(?:-start)?\} .*\n:label: ([\w-]+)", page)
        assert labels == [label for _, label in STATED[chapter]]
        assert re.findall(r"\{solution(?:-start)?\} ([\w-]+)\n:class: dropdown", page) == labels
        assert page.count("{exercise-start}") == page.count("{exercise-end}")
        assert page.count("{solution-start}") == page.count("{solution-end}")


def test_solutions_hold_no_code_that_does_not_run() -> None:
    for cells in CELLS.values():
        start = next(i for i, cell in enumerate(cells) if "\n## Exercises" in f"\n{text(cell)}")
        for cell in cells[start:]:
            if cell["cell_type"] == "markdown":
                assert "```python" not in text(cell)


def test_every_implement_exercise_has_a_checker() -> None:
    wanted = {label for found in STATED.values() for level, label in found if level == "Implement"}
    assert wanted <= EXERCISES.keys()


def test_every_checker_is_used_once() -> None:
    used = [checked(text(solution))[0] for _, _, solution in EXERCISES.values()]
    assert sorted(used) == sorted(REGISTRY)
    assert len(REGISTRY) >= 10


def test_stub_comes_from_the_solution(exercise: tuple[str, dict, dict]) -> None:
    _, before, solution = exercise
    assert text(before) == stubs.stub(text(solution))


def test_untouched_stub_is_not_done(exercise: tuple[str, dict, dict]) -> None:
    chapter, before, _ = exercise
    result = REGISTRY[checked(text(before))[0]](answer(chapter, text(before)))
    assert not result
    assert result.message.startswith(NOT_DONE)


def test_solution_passes(exercise: tuple[str, dict, dict]) -> None:
    chapter, _, solution = exercise
    entry = REGISTRY[checked(text(solution))[0]]
    result = entry(answer(chapter, text(solution)))
    assert result, result
    assert repr(result).replace("\n", " ") == f"Right: {entry.praise}"


def test_page_shows_what_the_checker_says(exercise: tuple[str, dict, dict]) -> None:
    _, before, solution = exercise
    shown = ["".join(cell["outputs"][-1]["data"]["text/plain"]) for cell in (before, solution)]
    assert shown[0].startswith(NOT_DONE)
    assert shown[1].startswith("Right: ")


@pytest.mark.parametrize(("entry", "wrong", "message"), [*classics()])
def test_classic_mistake_gets_its_own_message(entry: Checker | Value, wrong: Any, message: str) -> None:
    for _ in range(3):  # on fresh inputs each time
        result = entry(wrong)
        assert not result
        assert result.message == f"Not right: {message.rstrip('.')}."


@pytest.mark.parametrize("entry", REGISTRY.values(), ids=REGISTRY)
def test_each_checker_knows_two_mistakes(entry: Checker | Value) -> None:
    assert len(entry.mistakes) >= 2
    assert all(len(message) > 15 for _, message in entry.mistakes)


@pytest.fixture(params=FUNCTIONS)
def checker(request: pytest.FixtureRequest) -> Checker:
    return FUNCTIONS[request.param]


def example(checker: Checker) -> Any:
    generator = torch.Generator().manual_seed(0)
    return checker.reference(*checker.inputs(generator)[0])


def test_hard_coded_example_fails(checker: Checker) -> None:
    written_down = example(checker)
    assert not checker(lambda *arguments: written_down)


def test_hard_coded_example_is_named_where_it_is_right() -> None:
    assert "right on the example" in check.shuffle(lambda blocks, v: example(check.shuffle)).message


def raises(*arguments: Any) -> None:
    raise KeyError("deep inside")


def leaves(*arguments: Any) -> None:
    raise SystemExit(1)


def recurses(*arguments: Any) -> Any:
    return recurses(*arguments)


JUNK: dict[str, tuple[Callable[..., Any], str]] = {
    "nothing": (lambda *arguments: None, "returns None"),
    "error": (raises, "raised KeyError: 'deep inside'"),
    "exit": (leaves, "raised SystemExit: 1"),
    "recursion": (recurses, "raised RecursionError"),
    "too few arguments": (lambda: 0, "raised TypeError"),
    "text": (lambda *arguments: "42", "expected"),
    "array": (lambda *arguments: np.zeros((2, 9)), "expected"),
    "shape": (lambda *arguments: torch.zeros(1, 17), "expected"),
    "object": (lambda *arguments: object(), "expected"),
}


@pytest.mark.parametrize(("junk", "words"), JUNK.values(), ids=JUNK)
def test_junk_gets_a_clear_sentence(checker: Checker, junk: Callable[..., Any], words: str) -> None:
    result = checker(junk)
    assert not result
    assert words in result.message
    assert "\n" not in result.message
    assert checker.reference.__name__ in result.message or words == "expected"


@pytest.mark.parametrize("junk", [None, "shuffle", 42, torch.zeros(3)], ids=["None", "text", "number", "tensor"])
def test_checker_of_a_function_asks_for_one(checker: Checker, junk: object) -> None:
    assert "without calling it" in checker(junk).message


@pytest.mark.parametrize("entry", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("junk", [None, "144", True, [], [1, "b", 3, 4], torch.zeros(2), float("nan"), raises])
def test_checker_of_a_value_survives_junk(entry: Value, junk: object) -> None:
    result = entry(junk)
    assert not result
    assert result.message.startswith("Not right: ")


FORMS: dict[str, Callable[[torch.Tensor], Any]] = {
    "an array": lambda t: t.numpy(),
    "an array read backwards": lambda t: t.flip(0).numpy()[::-1],
    "lists": lambda t: t.tolist(),
    "another width": lambda t: t if t.is_floating_point() else t.to(torch.int16),
    "columns first": lambda t: t if t.ndim < 2 else t.mT.contiguous().mT,
}


def in_form(result: Any, form: Callable[[torch.Tensor], Any]) -> Any:
    if isinstance(result, torch.Tensor):
        return form(result)
    if isinstance(result, tuple):
        return [in_form(part, form) for part in result]
    return np.asarray(result)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_right_answer_may_come_in_any_form(checker: Checker, form: Callable[[torch.Tensor], Any]) -> None:
    result = checker(lambda *arguments: in_form(checker.reference(*arguments), form))
    assert result, result


@pytest.mark.parametrize("entry", VALUES.values(), ids=VALUES)
def test_right_value_may_come_in_any_form(entry: Value) -> None:
    right = np.asarray(entry.right)
    for form in (right, torch.from_numpy(right), right.astype(float), right[..., None], right.tolist()):
        assert entry(form), form


def shuffle_by_loops(blocks: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    out = torch.zeros(blocks.shape)
    for i in range(blocks.shape[0]):
        for j in range(blocks.shape[1]):
            for k in range(blocks.shape[2]):
                out[i, j, k] = blocks[i][j][v[k]]
    return out.int()


def rows_by_loop(E: torch.Tensor, v: torch.Tensor, r: torch.Tensor) -> list[torch.Tensor]:
    return [-E[v[k]] if r[k] else E[v[k]] for k in range(len(v))]


def unpatch_by_loops(flat: torch.Tensor, C: int, H: int, W: int, P: int) -> np.ndarray:
    image, patches = np.zeros((C, H, W)), iter(flat)
    for i in range(0, H, P):
        for j in range(0, W, P):
            image[:, i : i + P, j : j + P] = next(patches).reshape(C, P, P)
    return image


def key_by_search(encrypts: Callable[[np.ndarray], torch.Tensor], M: int, C: int) -> tuple[list[int], list[int]]:
    answer = encrypts(np.arange(M * M * C, dtype=np.uint8).reshape(C, M, M)).flatten().tolist()
    return [p if p < 128 else 255 - p for p in answer], [int(p >= 128) for p in answer]


AS_BEGINNERS_WRITE = {
    "shuffle": shuffle_by_loops,
    "encrypt": lambda blocks, v, r: torch.where(r, 255 - blocks[..., v], blocks[..., v]),
    "decrypt": lambda blocks, v, r: torch.empty_like(blocks).index_copy_(-1, v, blocks ^ (r * 255).to(torch.uint8)),
    "normalize_levels": lambda p, L: (p.double() - (2**L - 1) / 2) / ((2**L - 1) / 2),
    "batch_norm_train": lambda z: torch.nn.functional.batch_norm(z, None, None, training=True),
    "pointwise_gelu": lambda z, W: torch.nn.GELU()(torch.nn.functional.conv2d(z[None], W[:, :, None, None])[0]),
    "encrypt_rows": rows_by_loop,
    "absorb": lambda T, E: np.linalg.inv(T.numpy()) @ E.numpy(),
    "relative_matrix": lambda a, b: a @ b.T @ torch.linalg.inv(b @ b.T),  # by normal equations
    "leading_flips": lambda x: (1 - torch.sign(torch.linalg.eigh(x.T @ x).eigenvectors[:, -1])) / 2,
    "read_key": key_by_search,
    "balanced_flips": lambda u: [sorted(u.tolist(), reverse=True).index(x) < len(u) // 2 for x in u.tolist()],
    "which_message": lambda image, M: int((image[:, :, :M] != image[:, :, M:]).any()),
    "paired": lambda a, b: (a.sum() - b.sum()) / (a ^ b).sum().sqrt(),  # in float32
    "unpatch": unpatch_by_loops,
    "largest_share": lambda n: -np.expm1(np.log(0.05) / n),
}


@pytest.mark.parametrize("name", sorted(AS_BEGINNERS_WRITE.keys() & REGISTRY.keys()))
def test_right_idea_in_other_words_passes(name: str) -> None:
    result = REGISTRY[name](AS_BEGINNERS_WRITE[name])
    assert result, result


def halves(image: torch.Tensor, M: int) -> tuple[torch.Tensor, torch.Tensor]:
    return image[..., :M].double(), image[..., M:].double()


NEARLY_RIGHT = {
    "the same average": lambda image, M: torch.ne(*(half.mean() for half in halves(image, M))),
    "about the same": lambda image, M: torch.dist(*halves(image, M)) > 5,
    "the same values": lambda image, M: not torch.equal(*(half.flatten().sort().values for half in halves(image, M))),
}


@pytest.mark.parametrize("wrong", NEARLY_RIGHT.values(), ids=NEARLY_RIGHT)
def test_a_distinguisher_that_misses_small_differences_is_wrong(wrong: Callable[..., Any]) -> None:
    for _ in range(3):
        assert not check.which_message(wrong)


def test_a_whole_number_too_large_for_a_float_is_wrong() -> None:
    for checker in (check.absorbed_orders, check.largest_share):
        assert not checker(lambda *numbers: 10**999)


def test_rounding_in_float32_is_named_and_not_called_chance() -> None:
    def rounded(weight: torch.Tensor) -> torch.Tensor:
        return (weight.flatten(1).T.float() / 3).double() * 3

    assert "is float32 mixed in?" in check.matrix_from_weight(rounded).message
    assert not check.matrix_from_weight(rounded).message.endswith("?.")


def test_float32_is_float32_in_lists_and_in_wider_numbers() -> None:
    for form in (torch.Tensor.tolist, torch.Tensor.double, lambda t: t.numpy().astype(float)):
        assert check.matrix_from_weight(lambda weight, form=form: form(weight.float().flatten(1).T))


SHAPES: dict[str, tuple[Callable[..., Any], str]] = {
    "numpy's lstsq": (
        lambda X, Y: np.linalg.lstsq(X.numpy(), Y.numpy(), rcond=None),
        "its first part is right, take [0]",
    ),
    "torch's lstsq": (torch.linalg.lstsq, "its first part is right, take [0]"),
    "a batch": (lambda X, Y: torch.linalg.lstsq(X[None], Y[None]).solution, "a batch of one; [0] takes it out"),
}


@pytest.mark.parametrize(("answer", "said"), SHAPES.values(), ids=SHAPES)
def test_what_stands_around_a_right_answer_is_named(answer: Callable[..., Any], said: str) -> None:
    assert said in check.recover_matrix(answer).message


def test_the_transpose_is_named_by_its_shape() -> None:
    for entry in (check.encrypt_linear, check.unpatch):
        said = entry(lambda *arguments, entry=entry: entry.reference(*arguments).mT).message
        assert ("this is the transpose" in said) == (entry is check.encrypt_linear)


def test_two_mistakes_in_one_list_are_both_explained() -> None:
    said = check.which_absorb([True] * 8).message  # wrong in 3, 4, 6 and 7
    assert re.findall(r"look again at (\d)", said) == ["3", "4", "6", "7"]
    assert check.which_absorb([1, 1, 0, 0, 1, 0, 0, 1])
    assert re.findall(r"look again at (\d)", check.which_absorb([0, 1, 0, 0, 1, 0, 0, 0]).message) == ["1", "8"]
    assert check.rows_by_hand([2, 4, 1, 7]).message == "Not right: the rows are right, the signs are missing."


def test_text_in_place_of_true_and_false_is_named() -> None:
    """And values are counted from one, as the questions of ex-me-which are."""
    said = check.which_absorb([True, "True", "False", "False", "True", "False", "False", "True"]).message
    assert said == "Not right: value 2 of 8: expected True or False (1 or 0), got text; leave its quotes out."


def test_a_second_query_is_noticed() -> None:
    def asks_twice(encrypts: Callable[[torch.Tensor], torch.Tensor], M: int, C: int) -> Any:
        encrypts(torch.zeros(C, M, M, dtype=torch.uint8))
        return check.read_key.reference(encrypts, M, C)

    assert "after 2 queries" in check.read_key(asks_twice).message


def test_nearly_odd_is_not_odd() -> None:
    for nearly in (lambda p, L: 2 * (p.float() / (2**L - 1)) - 1, lambda p, L: 2 * p / (2**L - 1) - 1):
        assert (
            "the quotient by 2^L - 1 is rounded before its middle is subtracted"
            in check.normalize_levels(nearly).message
        )


def test_a_mask_that_wraps_and_a_loop_that_overwrites_are_named() -> None:
    def overwrites(blocks: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        for k in range(len(v)):
            blocks[..., k] = blocks[..., v[k]]
        return blocks

    assert "a mask of 256 would be 0" in check.encrypt(lambda b, v, r: b[..., v] ^ (r * 256).to(torch.uint8)).message
    assert "still to be read" in check.shuffle(overwrites).message


def test_the_chapters_loop_with_a_modulo_only_is_named() -> None:
    def loop(kernel: torch.Tensor, h: int, w: int) -> torch.Tensor:
        half, A = len(kernel) // 2, torch.zeros(h * w, h * w, dtype=kernel.dtype)
        for i in range(h * w):
            for o in range(h * w):
                dy, dx = (i // w - o // w) % h, (i % w - o % w) % w
                if abs(dy) <= half and abs(dx) <= half:
                    A[i, o] = kernel[dy + half, dx + half]
        return A

    assert "no difference is below 0" in check.circular_matrix(loop).message


STOPPED = {  # the axis along which a beginner's loop goes
    "batch_norm_train": 1,
    "circular_matrix": 0,
    "decrypt": 2,
    "encrypt": 2,
    "encrypt_rows": 0,
    "matrix_from_weight": 0,
    "pointwise_gelu": 0,
    "shuffle": 2,
    "unpatch": 0,
}


@pytest.mark.parametrize(("name", "axis"), STOPPED.items())
@pytest.mark.parametrize("rest", ["zeros", "input", "nothing"])
def test_a_return_inside_a_loop_is_named(name: str, axis: int, rest: str) -> None:
    def stopped(*arguments: Any) -> torch.Tensor:
        right = FUNCTIONS[name].reference(*arguments)
        same = rest == "input" and arguments[0].shape == right.shape
        out = arguments[0].clone() if same else torch.zeros_like(right)
        out.narrow(axis, 0, 1).copy_(right.narrow(axis, 0, 1))
        return out.select(axis, 0) if rest == "nothing" else out

    said = FUNCTIONS[name](stopped).message
    assert said == f"Not right: only index 0 of axis {axis} is done; does the return stand inside the loop?"


def test_what_is_said_names_no_step_of_the_paper_and_which_places_are_neighbours() -> None:
    said = [message for entry in REGISTRY.values() for _, message in entry.mistakes]
    assert not [message for message in said if re.search(r"\bsteps? [A-Z]\d", message)]
    assert (
        "across the diagonal are not beside each other"
        in check.absorbed_orders(lambda h, w: 24 if h == w == 2 else check.absorbed_orders.reference(h, w)).message
    )


def test_kinds_of_numbers_are_told_apart_where_it_matters() -> None:
    whole, fractions = torch.tensor([1, 0]), torch.tensor([1.0, 0.5]).double()
    assert difference(whole.double(), whole).startswith("the values are right, but of type torch.float64")
    assert difference(fractions.float(), fractions, 1e-12) == ""
    assert difference(fractions.float() * (1 + 2e-6), fractions, 1e-12).endswith("is float32 mixed in?")
    assert difference([True, False], whole.bool()) == difference([1, 0], whole.bool()) == ""
    assert difference([[1, 2], [3]], whole) == "expected a tensor of shape (2,), got list"
    v, r = 0, 1
    for part in (v, r):  # of a pair, one right in value alone, and True and False in any type

        def half(*key: torch.Tensor, part: int = part) -> list[torch.Tensor]:
            return [x.double() if i == part else x for i, x in enumerate(check.relative_key.reference(*key))]

        said = check.relative_key(half).message
        assert ("the values are right, but of type torch.float64" in said) == (part == v)


def test_complex_meta_and_nan_tensors_are_wrong() -> None:
    for spoil, words in (
        (lambda t: t.to(torch.complex128), "expected torch.uint8, got torch.complex128"),
        (lambda t: t.to("meta"), "can't be read"),
        (lambda t: t.double() * float("nan"), "the values differ"),
        (
            lambda t: t.double(),
            "the values are right, but of type torch.float64; give integers",
        ),
    ):
        assert words in check.shuffle(lambda blocks, v, spoil=spoil: spoil(blocks[..., v])).message


@pytest.mark.parametrize("name", [name for name, entry in FUNCTIONS.items() if name != "read_key"])
def test_changed_input_is_noticed(name: str) -> None:
    checker = FUNCTIONS[name]

    def careless(*arguments: Any) -> Any:
        result = deepcopy(checker.reference(*arguments))
        for argument in arguments:
            if isinstance(argument, torch.Tensor):
                argument.zero_()
        return result

    takes_tensors = any(isinstance(x, torch.Tensor) for x in checker.inputs(torch.Generator())[0])
    result = checker(careless)
    assert bool(result) != takes_tensors
    assert ("the numbers are right, but" in result.message) == ("changed its input" in result.message) == takes_tensors


def test_message_says_which_call_is_wrong() -> None:
    assert check.receptive_field(lambda P, k, L: 84 if (P, k, L) == (4, 5, 5) else 0).message.startswith(
        "Not right: ri"
    )
    assert "shuffle(blocks (1, 1, 4), v (4,)): expected shape (1, 1, 4), got (4,)" in repr(
        check.shuffle(lambda blocks, v: blocks.flatten()[:4])
    )


def test_inputs_are_fresh_and_leave_the_global_state_alone(checker: Checker) -> None:
    seen: list[Any] = []

    def spy(*arguments: Any) -> Any:
        tensors = [getattr(getattr(a, "key", None), "permutation", a) for a in arguments]  # a machine has a key
        seen.append([a.tolist() if isinstance(a, torch.Tensor) else str(a) for a in tensors])
        return checker.reference(*arguments)

    before = torch.get_rng_state()
    assert checker(spy)
    first, seen = seen, []
    assert checker(spy)
    assert first[1:] != seen[1:]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("solution", "expected"),
    [
        ("n = 4\ncheck.n(n)", "n = ...\ncheck.n(n)"),
        (
            'def f(x):\n    """Twice."""\n    y = x  # comment\n    return 2 * y\n\n\ncheck.f(f)',
            'def f(x):\n    """Twice."""\n    raise NotImplementedError\n\n\ncheck.f(f)',
        ),
        ("def f(x):\n    return 2 * x\n\n\ncheck.f(f)", "def f(x):\n    raise NotImplementedError\n\n\ncheck.f(f)"),
    ],
)
def test_stub_keeps_the_frame_and_nothing_else(solution: str, expected: str) -> None:
    assert stubs.stub(solution) == expected


def test_tool_writes_the_stubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put an answer into a stub: the tool takes it out again, and changes nothing else."""
    stem = next(iter(EXERCISES.values()))[0]
    original = (stubs.BOOK / f"{stem}.ipynb").read_text(encoding="utf-8")
    spoiled = json.loads(original)
    _, before, solution = next(stubs.exercises(spoiled["cells"]))
    before["source"] = solution["source"]
    (tmp_path / f"{stem}.ipynb").write_text(json.dumps(spoiled), encoding="utf-8")
    monkeypatch.setattr(stubs, "BOOK", tmp_path)
    stubs.main()
    assert json.loads((tmp_path / f"{stem}.ipynb").read_text(encoding="utf-8")) == json.loads(original)


def test_a_high_rectangle_is_no_square() -> None:
    assert not check.absorbed_orders(lambda h, w: min(h * w, 2) if min(h, w) == 1 else 8 if h >= w else 4)


def test_one_row_of_the_moments_is_not_their_eigenvector() -> None:
    def row(x: torch.Tensor, k: int) -> torch.Tensor:
        return (x.T @ x)[k] < 0

    assert not any(check.leading_flips(lambda x, k=k: row(x, k)) for k in range(-6, 6))
    for matrix in (np.cov, np.corrcoef):  # about the mean, or each pixel in its own units
        assert check.leading_flips(lambda x, m=matrix: np.linalg.eigh(m(x.T.numpy())).eigenvectors[:, -1] < 0)


def test_two_models_leave_room_for_the_squared_condition() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        for _, E in check.relative_matrix.inputs(generator):
            assert torch.linalg.cond(E) ** 2 < 1e5


def test_an_index_that_counts_along_another_axis_is_explained() -> None:
    said = check.encrypt_rows(lambda E, v, r: E[:, v]).message
    assert "raised IndexError" in said
    assert said.endswith("; the rows of E are its first axis.")
    assert "last axis" in check.shuffle(lambda blocks, v: blocks[v]).message
    assert "first axis" in check.encrypt_rows(lambda E, v, r: torch.where(r, -1, 1) * E[v]).message


def test_numbers_that_a_type_can_not_hold_are_not_called_chance() -> None:
    for coarse in (torch.int64, torch.float16, torch.bfloat16):
        said = check.matrix_from_weight(lambda weight, coarse=coarse: weight.flatten(1).T.to(coarse)).message
        assert said.endswith(f"the values differ: {coarse} can't hold them.")
    assert not check.matrix_from_weight(lambda weight: -weight.flatten(1).T.to(torch.int64)).message.endswith("them.")
    for said in (  # by 256, and int64 can hold them
        check.encrypt(lambda blocks, v, r: torch.where(r, ~blocks[..., v].long(), blocks[..., v])).message,
        check.decrypt(lambda blocks, v, r: torch.where(r, ~blocks.long(), blocks)[..., v.argsort()]).message,
    ):
        assert "~p is that for uint8 only" in said


@pytest.mark.parametrize("name", ["absorb", "recover_matrix", "relative_matrix"])
def test_a_system_may_be_solved_in_float32_and_must_be_solved(name: str) -> None:
    entry = FUNCTIONS[name]
    for _ in range(10):
        assert entry(lambda A, B: entry.reference(A.float(), B.float()))
        assert entry(lambda A, B: entry.reference(A.float(), B.float()).double())  # no longer seen in its type
        assert not entry(lambda A, B: entry.reference(A, B) * 1.001)
        assert not entry(lambda A, B: entry.reference(A.half().double(), B.half().double()))


@pytest.mark.parametrize("inverse", [torch.linalg.inv, torch.linalg.pinv])
def test_the_first_of_many_blocks_may_depend_on_each_other(inverse: Callable[..., Any]) -> None:
    def first(X: torch.Tensor, Y: torch.Tensor) -> torch.Tensor:
        return inverse(X[: X.shape[1]]) @ Y[: X.shape[1]]

    assert "its first p_b may depend on each other" in check.recover_matrix(first).message
    one = check.relative_matrix(lambda E_a, E_b: E_a[:, : len(E_a)] @ inverse(E_b[:, : len(E_a)]))
    assert not one
    assert inverse is torch.linalg.pinv or "the first p_b may depend on each other" in one.message


def test_a_list_of_one_is_its_number_and_what_is_in_a_longer_one_is_said() -> None:
    assert check.key_count([144])
    assert check.receptive_field(lambda P, k, L: (check.receptive_field.reference(P, k, L),))
    assert "expected a number, got list" in check.key_count([144, 24]).message
    for absorbing, got in (([1, 2, 5, 8], "4"), ({1: True}, "dict")):
        assert check.which_absorb(absorbing).message == f"Not right: expected 8 values, each True or False, got {got}."


def test_a_rounded_number_is_named_and_parts_may_be_stacked() -> None:
    near = ": another formula, or rounded?"
    for share in (lambda n: round(check.largest_share.reference(n), 5), lambda n: 3 / (n + 3)):
        assert check.largest_share(share).message.endswith(near)
    assert check.interval(lambda a, n: [round(x, 4) for x in check.interval.reference(a, n)]).message.endswith(near)
    assert "not the number" in check.most_different(1906).message
    for stack in (torch.stack, lambda parts: np.stack([part.numpy() for part in parts])):
        assert check.relative_key(
            lambda *key, stack=stack: stack([x.long() for x in check.relative_key.reference(*key)])
        )
