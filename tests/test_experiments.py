"""The paper's experiments: what they count, that they go on where they stopped, that the receipt can be had again."""

from __future__ import annotations

import json
import math
import multiprocessing
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import matplotlib.cbook
import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from strategies import keys

from conftest import needs_cifar10
from mixerkey import ConvMixer, Key, accuracy, encrypt_images, encrypt_model, load_pretrained, patch_matrix
from mixerkey.__main__ import main
from mixerkey.attacks import Recovery
from mixerkey.attacks.ciphertext import relatives
from mixerkey.convmixer import save_model
from mixerkey.data import load_cifar10, load_digits
from mixerkey.evaluation import classify, confusion, partly_wrong, predict, sweep
from mixerkey.experiments import ciphertext_only, lesson, model_alone, trials
from mixerkey.experiments.paper import (
    SMALL,
    block_sizes,
    conventional_route,
    parts,
    report,
    reproduce,
    single_steps,
)
from mixerkey.files import write_json
from mixerkey.receipts import Receipt, box_plot, confidence_interval, load_receipt, weights_digest
from mixerkey.training import FAST, LESSON

KEY = Key.from_seed(0, 2, 1)


def test_classify_gives_the_class_of_float64() -> None:
    model, images = load_pretrained("digits"), load_digits("test")[0]
    for key in (None, Key.from_seed(3, 2, 1)):
        assert torch.equal(
            classify(model, images, key), predict(load_pretrained("digits").double(), images, key).argmax(1)
        )
    assert next(model.parameters()).dtype == torch.float32  # and leaves the model as it was


def test_classify_settles_near_ties_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, rounded = torch.tensor([[1.0, 1.0001], [0.0, 2.0]]).double(), torch.tensor([[1.0, 0.9999], [0.0, 2.0]])
    asked = []

    def fake(model: torch.nn.Module, images: torch.Tensor, key: object) -> torch.Tensor:
        asked.append(len(images))
        return rounded if next(model.parameters()).dtype == torch.float32 else exact[: len(images)]

    monkeypatch.setattr("mixerkey.evaluation.predict", fake)
    assert classify(torch.nn.Linear(1, 1), torch.zeros(2, 1, 2, 2)).tolist() == [1, 1]
    assert asked == [2, 1]  # only the near tie is computed again


@given(keys(), st.data())
def test_a_partly_wrong_key_differs_in_exactly_as_many_places(key: Key, data: st.DataObject) -> None:
    size = len(key.permutation)
    positions = data.draw(st.integers(0, size).filter(lambda n: n != 1))
    signs = data.draw(st.integers(0, size // 2)) * 2
    other = partly_wrong(key, positions, signs, torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    assert int((other.permutation != key.permutation).sum()) == positions
    assert int((other.flips != key.flips).sum()) == signs


@pytest.mark.parametrize(
    ("positions", "signs", "message"),
    [(1, 0, "1 wrong pos"), (5, 0, "5 wrong pos"), (0, 3, "3 wrong s"), (0, 6, "6 wrong s")],
)
def test_impossible_numbers_of_wrong_places_are_refused(positions: int, signs: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        partly_wrong(KEY, positions, signs, torch.Generator())


def test_a_sweep_counts_what_accuracy_measures() -> None:
    images, labels = load_digits("test")
    locked = encrypt_model(load_pretrained("digits"), KEY)
    some = [KEY, *(Key.from_seed(seed, 2, 1) for seed in range(1, 4))]
    counts = sweep(locked, images, labels, some, progress=False)
    assert [count / len(images) for count in counts] == pytest.approx(
        [accuracy(locked, images, labels, key) for key in some]
    )


def test_a_sweep_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = (part[:50] for part in load_digits("test"))
    some = [Key.from_seed(seed, 2, 1) for seed in (0, 1, 2, 3, 5)]  # 4 gives the key of 3
    model = load_pretrained("digits")
    expected = sweep(model, images, labels, some, progress=False)
    calls = 0

    def fragile(*arguments: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return classify(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("mixerkey.evaluation.classify", fragile)
    with pytest.raises(KeyboardInterrupt):
        sweep(model, images, labels, some, store=tmp_path / "sweep.json", progress=False)
    assert sweep(model, images, labels, some, store=tmp_path / "sweep.json", progress=False) == expected
    assert calls == 3 + 3  # two were finished, the third was repeated


SOME = [Key.from_seed(seed, 2, 1) for seed in range(3)]
IMAGES, LABELS = (part[:20] for part in load_digits("test"))


def swept(store: Path, model: torch.nn.Module | None = None, keys: list[Key] = SOME) -> list[int]:
    return sweep(model or load_pretrained("digits"), IMAGES, LABELS, keys, store=store, progress=False)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("fig5.wrong.json", "fig5.json"),
        ("fig5.json", "fig5.wrong.json"),
        ("fig5", "fig5.json"),
        ("fig5.0.json", "fig5.json"),
        ("fig[5].json", "fig5.json"),
        ("*.json", "fig5.json"),
        ("fig5.json", "?ig5.json"),
        (".json", "x.json"),
        ("a.b.c", "a.b"),
        ("fig 5 (copy).json", "fig 5.json"),
        ("fig5.json", "FIG5.json"),
    ],
)
def test_stores_of_any_two_names_are_two_stores(tmp_path: Path, first: str, second: str) -> None:
    locked = encrypt_model(load_pretrained("digits"), KEY)
    expected = [swept(tmp_path / "expected"), swept(tmp_path / "locked", locked)]
    assert expected[0] != expected[1]
    assert [swept(tmp_path / first), swept(tmp_path / second, locked)] == expected
    assert [swept(tmp_path / first), swept(tmp_path / second, locked)] == expected
    assert {first, second} <= {path.name for path in tmp_path.iterdir()}


def test_a_store_knows_its_keys_whatever_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = swept(tmp_path / "a", keys=SOME)
    assert swept(tmp_path / "b", keys=SOME[:1]) == expected[:1]
    assert swept(tmp_path / "b", keys=SOME[::-1]) == expected[::-1]
    monkeypatch.setattr("mixerkey.evaluation.classify", lambda *_: pytest.fail("it is there already"))
    assert swept(tmp_path / "b", keys=[SOME[1], SOME[1]]) == [expected[1]] * 2


def other_weights() -> dict:
    return {"model": encrypt_model(load_pretrained("digits"), KEY)}


def other_forward_pass() -> dict:
    return {"model": torch.nn.Sequential(*load_pretrained("digits"), torch.nn.Identity())}


def other_images() -> dict:
    return {"images": IMAGES.flip(-1)}


def other_labels() -> dict:
    return {"labels": LABELS.flip(0)}


def fewer_images() -> dict:
    return {"images": IMAGES[:10], "labels": LABELS[:10]}


@pytest.mark.parametrize("change", [other_weights, other_forward_pass, other_images, other_labels, fewer_images])
def test_a_store_of_something_else_is_refused_by_name(tmp_path: Path, change: Callable[[], dict]) -> None:
    arguments: dict = {"model": load_pretrained("digits"), "images": IMAGES, "labels": LABELS, "keys": SOME}
    sweep(**arguments, store=tmp_path / "fig5.json", progress=False)
    with pytest.raises(ValueError, match=r"fig5\.json holds results for another (model|network|images)"):
        sweep(**arguments | change(), store=tmp_path / "fig5.json", progress=False)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '{"0": 17, "1": 3}', '{"trials": {}}', "\0" * 50])
def test_a_damaged_or_foreign_store_is_named_and_left_as_it_was(tmp_path: Path, content: str) -> None:
    store = tmp_path / "fig5.json"
    store.write_text(content)
    with pytest.raises(ValueError, match=r"fig5\.json"):
        swept(store)
    with pytest.raises(ValueError, match=r"fig5\.json"):
        Receipt(store, {"victim": "5f1c"})
    assert store.read_text() == content


def test_a_receipt_takes_up_trials_after_a_stop_at_any_of_them(tmp_path: Path) -> None:
    ran: list[int] = []

    def run(i: int) -> int:
        ran.append(i)
        if len(ran) % 2 == 0:
            raise KeyboardInterrupt
        return i * i

    while True:
        receipt = Receipt(tmp_path / "r.json", {"shape": (2, 1)}, versions=len(ran))
        try:
            assert receipt.trials(("defence", "attack"), 4, run) == [0, 1, 4, 9]
        except KeyboardInterrupt:
            continue
        break
    assert ran == [0, 1, 1, 2, 2, 3, 3]
    assert json.loads((tmp_path / "r.json").read_text()) == {
        "shape": [2, 1],
        "versions": 6,
        "trials": {"defence": {"attack": [0, 1, 4, 9]}},
    }
    assert receipt.trials(("defence", "attack"), 2, run) == [0, 1]


@pytest.mark.parametrize("before", [{}, {"old": 1}], ids=["new", "taken-up"])
def test_of_runs_that_write_one_receipt_at_once_none_loses_what_another_found(
    tmp_path: Path, before: dict[str, int]
) -> None:
    path = tmp_path / "runs" / "r.json"
    for name, value in before.items():
        Receipt(path, {}).once(name, partial(int, value))
    start = threading.Barrier(8)

    def run(n: int) -> list[str]:
        receipt = Receipt(path, {})
        start.wait()
        return [receipt.once(name, partial(str, name)) for name in (f"{n}.0", f"{n}.1", f"{n}.2")]

    with ThreadPoolExecutor(8) as pool:
        runs = [pool.submit(run, n) for n in range(8)]
    found = [name for run in runs if not run.exception() for name in run.result()]
    assert len(found) == 3
    stopped = [str(run.exception()) for run in runs if run.exception()]
    assert all(re.match(r"another run has written to .*r\.json meanwhile; run again", words) for words in stopped)
    assert json.loads(path.read_text()) == before | {name: name for name in found}
    assert Receipt(path, {}).once("more", lambda: 1) == 1  # run again, it goes on


def test_a_receipt_that_was_moved_away_meanwhile_is_written_anew(tmp_path: Path) -> None:
    receipt = Receipt(tmp_path / "r.json", {})
    receipt.once("a", lambda: 1)
    (tmp_path / "r.json").unlink()
    receipt.once("b", lambda: 2)
    assert json.loads((tmp_path / "r.json").read_text()) == {"a": 1, "b": 2}


def share_a_sweep(rank: int, folder: Path, keys: list[Key]) -> None:
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    counts = sweep(load_pretrained("digits"), *load_digits("test"), keys, store=folder / "sweep.json", progress=False)
    (folder / f"counts.{rank}").write_text(str(counts))
    dist.destroy_process_group()


def test_a_sweep_is_shared_by_processes_and_reads_what_others_left(tmp_path: Path) -> None:
    keys = [Key.from_seed(seed, 2, 1) for seed in (0, 1, 2, 3, 5)]
    fork = multiprocessing.get_context("fork")  # torch is imported already
    processes = [fork.Process(target=share_a_sweep, args=(rank, tmp_path, keys)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    expected = sweep(load_pretrained("digits"), *load_digits("test"), keys, progress=False)
    # Every process has all counts.
    assert [(tmp_path / f"counts.{rank}").read_text() for rank in (0, 1)] == [str(expected)] * 2
    shares = [json.loads((tmp_path / f"sweep.json.{rank}").read_text()) for rank in (0, 1)]
    facts = {"model", "network", "images"}
    assert [len(share.keys() - facts) for share in shares] == [3, 2]
    assert shares[0].keys() & shares[1].keys() == facts


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_the_box_is_the_one_matplotlib_draws(values: list[float]) -> None:
    """Fig. 5's rule: whiskers at the extremes within Q1 - 1.5 IQR and Q3 + 1.5 IQR."""
    (expected,) = matplotlib.cbook.boxplot_stats(values, whis=1.5)
    box = box_plot(torch.tensor(values, dtype=torch.float64))
    assert [box["Q1"], box["median"], box["Q3"]] == pytest.approx([expected[name] for name in ("q1", "med", "q3")])
    if expected["whislo"] in values and expected["whishi"] in values:  # else no value is within: it draws to the box
        assert [box["low"], box["high"]] == pytest.approx([expected["whislo"], expected["whishi"]])


def test_wilsons_interval_holds_the_published_example_and_its_limits() -> None:
    low, high = confidence_interval(81, 263)  # Newcombe (1998), table I
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    for total in range(1, 100):  # never -0 %
        assert 0 <= confidence_interval(0, total)[0] < 1e-12
        assert 1 - 1e-12 < confidence_interval(total, total)[1] <= 1
    for right, total in ((-1, 5), (6, 5), (0, 0)):
        with pytest.raises(ValueError, match="need 0 <= right <= total"):
            confidence_interval(right, total)


def test_confusion_counts_rows_by_label() -> None:
    counts = confusion(torch.tensor([0, 0, 1, 2]), torch.tensor([0, 2, 1, 1]), 3)
    assert counts.tolist() == [[1, 0, 1], [0, 1, 0], [0, 1, 0]]


def test_the_parts_of_a_key_compose_to_the_key() -> None:
    x = torch.arange(48, dtype=torch.uint8).reshape(3, 4, 4)
    key = Key.from_seed(5, 4, 3)
    of = parts(key)
    assert torch.equal(encrypt_images(x, of["plain"]), x)
    assert torch.equal(encrypt_images(encrypt_images(x, of["shuffled"]), of["flipped"]), encrypt_images(x, key))
    assert of["both"] is key


def test_single_steps_lock_with_one_step_only() -> None:
    images, labels = load_digits("test")
    model = load_pretrained("digits")
    counts = single_steps(model, [KEY], (images, labels))
    for step, (count,) in counts.items():
        assert count == round(accuracy(encrypt_model(model, parts(KEY)[step]), images, labels) * len(images))


def test_the_conventional_route_trains_and_measures_through_the_same_key(tmp_path: Path) -> None:
    images, labels = torch.zeros(256, 3, 8, 8, dtype=torch.uint8), torch.arange(256) % 2
    images[labels == 1, :, :, :2] = 255  # two classes that the first columns tell apart
    recipe = replace(SMALL, epochs=6, batch_size=32, dtype="float32")
    found = conventional_route((images, labels), (images, labels), seeds=range(1), folder=tmp_path, recipe=recipe)
    assert list(found) == ["residual network", "ConvMixer"]
    for of in found.values():
        assert list(of) == ["plain", "shuffled", "flipped", "both"]
        assert all(value == [1.0] for value in of.values())
    assert len(list(tmp_path.glob("*.safetensors"))) == 8
    again = conventional_route((images, labels), (images, labels), seeds=range(1), folder=tmp_path, recipe=recipe)
    assert again == found  # from the checkpoints


def test_block_sizes_keep_the_equality_for_every_M() -> None:
    images, labels = (
        torch.randint(256, (64, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8),
        torch.arange(64) % 10,
    )
    recipe = replace(SMALL, epochs=1, batch_size=32, dtype="float32")
    found = block_sizes((images, labels), (images, labels), recipe=recipe, wrong_keys=2)
    for M, of in found.items():
        size = int(M) ** 2 * 3
        assert of["bits"] == round(math.log2(math.factorial(size) * math.comb(size, size // 2)), 2)
    for of in found.values():
        assert of["same class"] == of["images"] == 64
        assert len(of["wrong keys"]) == 2


def test_reproduce_on_digits_tries_every_key_and_prints_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["reproduce", "digits", "--out", str(tmp_path)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    receipt = json.loads((tmp_path / "paper.json").read_text())
    found = {title: entry["result"] for title, entry in receipt["experiments"].items()}
    assert len(found["wrong keys"]) == 143
    assert found["table 1"]["same class"] == found["table 1"]["images"] == 360
    assert "the same class on 360 of 360 images" in printed
    assert f"{found['table 1']['baseline'] / 360:.2%}" in printed
    assert sum(map(sum, found["confusion"])) == 360
    stored = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*-*.json")}
    assert main(command) == 0  # nothing is computed twice
    assert capsys.readouterr().out == printed
    assert stored == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*-*.json")}


def test_reproduce_refuses_what_it_does_not_know_and_results_of_other_weights(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="made with cifar10 or digits, not with 'vit'"):
        reproduce("vit", tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no experiment 'table 2' on digits; there are table 1, "):
        reproduce("digits", tmp_path, only="table 2")
    reproduce("digits", tmp_path, only="table 1", progress=False)
    file = tmp_path / "table-1.json"
    file.write_text(file.read_text().replace(load_receipt("digits")["weights_sha256"], "0" * 64))
    with pytest.raises(ValueError, match=r"table-1\.json holds results for another weights_sha256"):
        reproduce("digits", tmp_path, only="table 1", progress=False)


def test_runs_of_the_lesson_are_gathered_with_their_spread_and_others_refused(tmp_path: Path) -> None:
    def run(seed: int, folder: str | None = None, **changes: object) -> Path:
        receipt = {"recipe": asdict(LESSON), "network": {}, "images_processed": 5, "seed": seed} | changes
        write_json(tmp_path / (folder or str(seed)) / "cifar10.json", receipt | {"accuracy": 0.9 + seed / 100})
        return tmp_path / (folder or str(seed))

    receipt = lesson.gather([run(0), run(1), run(2)])
    assert receipt["mean_accuracy"] == pytest.approx(0.91)
    assert receipt["standard_deviation"] == pytest.approx(0.01)  # of a sample: over n - 1
    assert [run["seed"] for run in receipt["runs"]] == [0, 1, 2]
    assert receipt["recipe"]["epochs"] == LESSON.epochs
    for folders, message in (
        ([run(0)], "at least two seeds"),
        ([run(0), run(0, "again")], "at least two seeds"),
        ([run(0), run(1, "fast", recipe=asdict(FAST))], "fast has another recipe"),
        ([run(0), run(1, "part", images_processed=4)], "part went through other images"),
    ):
        with pytest.raises(ValueError, match=message):
            lesson.gather(folders)


@needs_cifar10
@pytest.mark.parametrize("finds", [True, False])
def test_whether_a_network_of_the_lesson_betrays_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finds: bool
) -> None:
    """The attack is given that run's network, encrypted with the key of that seed, and only the whole key counts."""
    plain, key = ConvMixer(8, 1, 3, 4).eval(), Key.from_seed(2, 4, 3)
    save_model(plain, tmp_path / "cifar10.safetensors")

    def attack(encrypted: ConvMixer, *_: object) -> Recovery:
        assert torch.equal(patch_matrix(encrypted), patch_matrix(encrypt_model(plain, key)))
        return Recovery(key if finds else Key.from_seed(3, 4, 3), 1.0, ())

    monkeypatch.setattr(trials, "model_only", attack)
    monkeypatch.setattr(trials, "by_fit", lambda found, *_: found)
    assert lesson.betrayed(tmp_path, 2) is finds


@needs_cifar10
def test_each_kind_of_evidence_about_a_network_gets_what_it_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """From a relative of the key, labels find the key; photographs and images of their own find it by fit."""
    seen, given = [], []

    def attack(encrypted: ConvMixer, expected: np.ndarray) -> Recovery:
        seen.append(len(expected))
        return Recovery(relatives(4, 3)[1].then(Key.from_seed(1, 4, 3)), 1.0, ())

    def anneal(found: Recovery, encrypted: ConvMixer, images: torch.Tensor) -> Recovery:
        given.append(len(images))  # of the half on which the network was not trained
        assert torch.equal(images, load_cifar10("train")[0][: len(images)])
        return Recovery(Key.from_seed(1, 4, 3), 1.0, found.ambiguous)

    monkeypatch.setattr(model_alone, "model_only", attack)
    monkeypatch.setattr(model_alone, "network", lambda name, half: load_pretrained("cifar10"))
    monkeypatch.setattr(model_alone, "by_fit", lambda found, *_: found)
    monkeypatch.setattr(model_alone, "annealed", anneal)
    monkeypatch.setattr(model_alone, "PUBLIC", 20)
    monkeypatch.setattr(model_alone, "MANY", 30)
    monkeypatch.setattr(model_alone, "JUDGED", 200)
    found = model_alone.attacked("lesson", 1)
    # Expected of photographs, one a sign; of the other half's networks; of images.
    assert seen == [2, len(model_alone.RECIPES), 2, 2]
    assert given == [20, 30]
    for evidence in ("labels too", "images, stored statistics", "1,000 images, stored statistics"):
        assert found[evidence]["right"] == found[evidence]["up to relatives"] == 48
    for evidence in ("two photographs", "networks of other images"):
        assert found[evidence]["right"] < found[evidence]["up to relatives"] == 48
    assert found["accuracy"] > 0.85


def test_the_networks_that_were_attacked_alone_are_ten() -> None:
    receipt = load_receipt("model_alone")
    assert receipt["recipes"] == json.loads(json.dumps({n: asdict(r) for n, r in model_alone.RECIPES.items()}))
    assert [len(trials) for trials in receipt["trials"].values()] == [2] * 5
    assert list(receipt["trials"]) == list(model_alone.RECIPES)


def test_the_shipped_receipt_is_of_the_shipped_network_and_says_everything() -> None:
    receipt = load_receipt("paper")
    assert receipt["weights_sha256"] == weights_digest(load_pretrained("cifar10"))
    found = {title: entry["result"] for title, entry in receipt["experiments"].items()}
    assert set(found) == {
        "table 1",
        "wrong keys",
        "partial keys",
        "single steps",
        "confusion",
        "block sizes",
        "conventional route",
    }
    table = found["table 1"]
    assert table["images"] == table["same class"] == 10_000  # Table 1: no degradation, image by image
    assert table["baseline"] == table["encrypted pair"]
    assert table["baseline"] >= 9046  # the paper's accuracy
    assert len(found["wrong keys"]) == 100
    assert max(found["wrong keys"]) < 4000  # Fig. 5: "not high"
    for text in ("90.46%", "11.41%", "247.82 bits", "the same class on 10,000 of 10,000 images"):
        assert text in report(receipt)


@needs_cifar10
def test_trials_of_the_attack_by_statistics_are_recomputed() -> None:
    """The cell of 100 encrypted images, which the claims quote: three of its forty trials, here."""
    of = {"prior": "cifar10", "encrypted": "cifar10", "patch_size": 4, "images": 100}
    (cell,) = (cell for cell in load_receipt("ciphertext-only")["cells"] if of.items() <= cell.items())
    prior, images = ciphertext_only.prior_of("cifar10", 4), ciphertext_only.private("cifar10")
    for seed in (0, 17, 39):
        positions, places, flips, *_ = ciphertext_only.trial(prior, images, 100, seed)
        assert [positions, places, flips] == cell["trials"][seed][:3] == [48, 48, 48]


@needs_cifar10
def test_table_1_of_the_receipt_is_recomputed_exactly_on_part_of_the_images() -> None:
    """Table 1, last row: plain images under the encrypted model."""
    images, labels = load_cifar10("test")
    receipt = load_receipt("paper")
    locked = encrypt_model(load_pretrained("cifar10"), Key.from_seed(receipt["right_key_seed"], 4, 3))
    right = int((classify(locked, images) == labels).sum())
    assert right == receipt["experiments"]["table 1"]["result"]["encrypted model, plain images"]
