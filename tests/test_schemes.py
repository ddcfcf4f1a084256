"""The table of schemes against attackers: what it holds, that it is monotone in evidence, that it goes on."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import needs_cifar10
from mixerkey import Key
from mixerkey.attacks import Recovery
from mixerkey.attacks.ciphertext import colour_changes, relatives
from mixerkey.cipher import decrypt_images, normalize
from mixerkey.experiments import schemes, trials
from mixerkey.experiments.defences import add_noise
from mixerkey.experiments.schemes import (
    ATTACKERS,
    ATTACKS,
    BRINGS,
    SCHEMES,
    cell,
    closure,
    draws,
    rank,
    setbacks,
    units,
)
from mixerkey.experiments.trials import JUDGED, SECRET, Case
from mixerkey.receipts import Receipt, load_receipt


def never(*_: object) -> list:
    raise AssertionError("this was computed before")


@pytest.fixture
def photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of photographs in the place of CIFAR-10's secret images."""
    monkeypatch.setattr(trials, "secret_images", lambda: trials.pictures("photographs"))


def table(results: dict) -> dict:
    found: dict = {}
    for row, name, count in units():
        found.setdefault(row, {}).setdefault(name, {})[str(count)] = results[row, name, count]
    return found


def check_monotone(receipt: dict, rows: list[str]) -> None:
    have = {name: closure(evidence) for name, evidence in ATTACKERS.items()}
    for row in rows:
        cells = {name: cell(receipt, row, have[name]) for name in ATTACKERS}
        for a, b in product(ATTACKERS, repeat=2):
            if have[a] <= have[b]:
                assert rank(cells[a]) <= rank(cells[b]), (row, a, b)


@settings(max_examples=10)
@given(st.randoms(use_true_random=False))
def test_more_evidence_is_never_worth_less(random) -> None:  # type: ignore[no-untyped-def]
    """Whatever the attacks achieve, and for all sets of evidence, not only the table's."""
    found = {unit: [[random.random() < 0.5, random.choice([8.0, 40.0]), True, 1.0]] for unit in units()}
    results = table(found)
    check_monotone(results, ["shuffle and flips", "key per place"])
    kinds = sorted(set(BRINGS) | set(BRINGS.values()) | {"like pictures", "own key"})
    less = set(random.sample(kinds, random.randrange(len(kinds))))
    more = less | {random.choice(kinds)}
    for row in ("shuffle and flips", "key per image"):
        assert rank(cell(results, row, less)) <= rank(cell(results, row, more))


def test_the_table_that_was_computed_is_monotone() -> None:
    computed = load_receipt("schemes")["trials"]
    assert computed.keys() >= SCHEMES.keys(), "run python -m mixerkey.experiments.schemes"
    check_monotone(computed, list(SCHEMES))


def test_all_evidence_is_used_and_all_kinds_are_attacked() -> None:
    known = set(BRINGS) | set(BRINGS.values()) | {"like pictures", "own key"}
    assert {kind for attack in ATTACKS.values() for kind in attack.needs} <= known
    assert {kind for evidence in ATTACKERS.values() for kind in evidence} <= known
    for scheme in SCHEMES.values():
        assert sum(scheme.kind in attack.against for attack in ATTACKS.values()) > 4
    assert closure({"chosen images"}) == {"chosen images", "known images", "ciphertexts"}
    assert closure(ATTACKERS["everything"]) >= set().union(*map(closure, ATTACKERS.values()))


def test_where_no_network_is_a_cell_holds_what_can_be_done_without() -> None:
    """So that a provider is never worth less than an eavesdropper."""
    results = table({unit: [[False, 8.0, False, 0.0]] for unit in units()})
    for row in (row for row, scheme in SCHEMES.items() if scheme.patch_size != 4):
        assert not any("queries" in closure(ATTACKS[name].needs) for name in results[row])
        results[row]["second moments"]["400"] = [[True, 100.0, True, 1.0]]
        assert cell(results, row, ATTACKERS["provider"])["attack"] == "second moments"
        assert cell(results, row, ATTACKERS["model"])["attack"] == "none"


def test_the_network_that_judges_colours_counts_as_like_pictures(
    photographs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has learned from CIFAR-10. With photographs alone nobody asks it, and all colours stay in doubt."""
    known = trials.prior("photographs", 4)
    monkeypatch.setattr(trials, "prior", lambda *_: known)
    monkeypatch.setattr("mixerkey.attacks.ciphertext.ALIKE", 2.0)  # pictures of another kind, whatever they are
    monkeypatch.setattr("mixerkey.attacks.ciphertext.colour_evidence", never)
    case = Case(SCHEMES["shuffle and flips"], 0, 100)
    found = trials._moments("photographs", case, case.ciphertexts())
    assert {change.then(found.key) for change in colour_changes(4, 3)[1:]} <= {
        doubt.then(found.key) for doubt in found.ambiguous
    }
    with pytest.raises(AssertionError, match="computed"):
        trials._moments("like", case, case.ciphertexts())


@pytest.mark.parametrize("name", ["jigsaw", "whitening", "neighbours"])
def test_draws_share_no_image(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = torch.arange(10_000 - SECRET)[:, None, None, None].expand(-1, 3, 32, 32)
    monkeypatch.setattr(trials, "secret_images", lambda: numbers)
    scheme = next(scheme for scheme in SCHEMES.values() if scheme.kind in ATTACKS[name].against)
    for count in ATTACKS[name].counts:
        used = []
        for seed in range(draws(ATTACKS[name], count)):
            case = Case(scheme, seed, count)
            used += [*case.seen[:, 0, 0, 0].tolist(), *case.judged[:, 0, 0, 0].tolist()]
            assert (len(case.seen), len(case.judged)) == (count, JUDGED)
        assert len(set(used)) == len(used)


@needs_cifar10
def test_moments_and_borders_give_pictures_back_which_may_be_turned_and_then_negative() -> None:
    """Light comes from above: what stands on its head looks negative, and red, the brighter of the two, blue."""
    case = Case(SCHEMES["shuffle, flips, block order"], 0, 100)
    found = trials.moments_then_jigsaw("photographs", case)
    assert isinstance(found, Recovery)
    assert found.ambiguous
    opened = decrypt_images(case.ciphertexts(), found.key)
    views = (opened, opened.flip(3), negative := 255 - opened.flip(1), negative.flip(3))
    turned = [x.rot90(turns, (2, 3)) for x in views for turns in range(4)]
    assert sum(torch.equal(x, case.seen) for x in turned) == 1


def test_who_knows_the_kind_of_key_keeps_what_is_of_it_and_doubts_what_is_not(photographs: None) -> None:
    case = Case(SCHEMES["shuffle"], 0, 100)
    (key,), encrypted, known = case.keys, case.ciphertexts(), trials.prior("photographs", 4)
    right, negative = Recovery(key, 0.0), Recovery(relatives(4, 3)[1].then(key), 0.0)
    assert trials._of_its_kind(case, right, encrypted, known) is right
    other = trials._of_its_kind(case, negative, encrypted, known)
    assert not isinstance(other, list)
    assert not other.key.flips.any()
    assert len(other.ambiguous) == 47


def test_the_best_attack_wins_and_sure_errors_are_counted() -> None:
    row, evidence = "shuffle and flips", {"ciphertexts", "like pictures"}
    results = {name: {"0": [[False, 8.0, False, 0.0]]} for name in ATTACKS}
    results["second moments"] = {
        "100": [[True, 100.0, True, 1.0]] * 2,
        "10": [[True, 100.0, True, 1.0], [False, 9.0, True, 3.0]],
    }
    found = cell({row: results}, row, evidence)
    assert (found["attack"], found["count"], found["whole"], found["of"]) == ("second moments", 100, 2, 2)
    assert (found["sure and wrong"], found["attacks"], found["not run"]) == (0, 2, [])
    del results["second moments, photographs"]
    found = cell({row: results}, row, evidence)
    assert found["not run"] == ["second moments, photographs"]  # and so no cell looks safe because nobody tried
    del results["second moments"]["100"]
    found = cell({row: results}, row, evidence)
    assert (found["whole"], found["sure and wrong"], found["seconds"]) == (1, 1, 2.0)


def test_a_cell_is_of_the_most_images_and_not_of_the_luckiest_number() -> None:
    row = "flips"
    results = {"none": {"0": [[False, 8.0, False, 0.0]]}, "second moments": {"400": [[False, 9.0, True, 1.0]] * 2}}
    results["second moments"]["10"] = [[True, 100.0, True, 1.0]] * 2
    found = cell({row: results}, row, {"ciphertexts", "like pictures"})
    assert (found["count"], found["whole"]) == (400, 0)
    ((where, fewer, more),) = setbacks({row: results})
    assert (where, fewer["count"], more["count"]) == (row, 10, 400)


def test_pictures_that_are_less_alike_with_more_images_are_a_setback() -> None:
    results = {
        "whitening": {f"{n}": [[False, decibels, False, 1.0]] for n, decibels in ((10, 26.4), (100, 21.5), (400, 30))}
    }
    ((_, fewer, more),) = setbacks({"orthogonal matrix": results})
    assert (fewer["dB"], more["dB"]) == (26.4, 21.5)


def test_no_attack_is_clearly_worse_with_more_images() -> None:
    """Where more images did worse, it may be chance: Wilson's intervals overlap."""
    for row, fewer, more in setbacks(load_receipt("schemes")["trials"]):
        assert more["interval"][1] > fewer["interval"][0], (row, fewer, more)


def test_one_cell_from_its_seed_which_is_not_run_again(
    tmp_path: Path, photographs: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "receipt.json"
    arguments = ["--out", str(out), "--draws", "1", "--cell", "flips", "known images"]
    schemes.main(arguments)
    first = capsys.readouterr().out
    assert "'attack': 'pairs', 'count': 10, 'whole': 1, 'of': 1" in first
    written = json.loads(out.read_text(encoding="utf-8"))["trials"]
    assert set(written["flips"]) == {"none", "second moments, photographs", "pairs"}
    monkeypatch.setattr(schemes, "trial", never)
    schemes.main(arguments)
    assert capsys.readouterr().out == first


def test_processes_share_the_work_and_the_next_run_gathers_it(
    tmp_path: Path, photographs: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "receipt.json"
    arguments = ["--out", str(out), "--draws", "2", "--cell", "block order", "chosen images"]
    monkeypatch.setattr(schemes, "trial", lambda scheme, attack, count, seed: [True, float(count), True, 0.0])
    shares = []
    for process in range(2):
        monkeypatch.setenv("RANK", str(process))
        monkeypatch.setenv("WORLD_SIZE", "2")
        schemes.main(arguments)
        shard = json.loads((tmp_path / f"receipt-{process}.json").read_text(encoding="utf-8"))["trials"]["block order"]
        shares.append({(name, count) for name, counts in shard.items() for count in counts})
    assert not shares[0] & shares[1]
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setattr(schemes, "trial", never)
    schemes.main(arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["receipt.json"]
    found = json.loads(out.read_text(encoding="utf-8"))["trials"]["block order"]
    assert {(name, count) for name, counts in found.items() for count in counts} == shares[0] | shares[1]
    assert "'count': 400" in capsys.readouterr().out


def test_a_cell_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        schemes.main(["--cell", "rot13", "ciphertexts"])
    assert "there is no 'rot13'; choose from shuffle, flips" in capsys.readouterr().err


def test_brightness_gives_the_flips_of_the_shipped_network_from_photographs(photographs: None) -> None:
    whole, *_ = schemes.trial(SCHEMES["flips"], ATTACKS["brightness, photographs"], 0, 0)
    assert whole


def test_the_model_alone_shows_how_bright_blocks_are_under_an_orthogonal_key(photographs: None) -> None:
    case = Case(SCHEMES["orthogonal matrix"], 0, 0)
    _, decibels, sure = case.mark(trials.brightness_of_blocks(case))
    assert decibels > case.mark(None)[1] + 5
    assert not sure


def test_an_attack_that_fails_leaves_the_encrypted_image(photographs: None) -> None:
    case = Case(SCHEMES["noise of 32 levels"], 0, 1)
    whole, decibels, sure = case.mark(trials.one_query(case))
    assert not whole
    assert decibels < 12
    assert not sure


def test_where_there_is_no_lattice_pictures_are_whitened(monkeypatch: pytest.MonkeyPatch, photographs: None) -> None:
    def none(*_: object) -> Recovery:
        raise ValueError

    whitened = Recovery(Key.from_seed(0, 4, 3), 0.0)
    monkeypatch.setattr(trials, "sheared_lattice", none)
    monkeypatch.setattr(trials, "whitening", lambda *_: whitened)
    assert trials.lattice("photographs", Case(SCHEMES["invertible matrix"], 0, 1)) == whitened


@needs_cifar10
def test_noise_is_taken_out_and_more_of_it_by_like_pictures() -> None:
    images = normalize(trials.secret_images()[:40])
    noisy = normalize(add_noise(trials.secret_images()[:40], 32, torch.Generator().manual_seed(0)))
    none, photographs, like = (
        trials.psnr(seen, images)
        for seen in (noisy, *(trials.denoised(noisy, 32, public) for public in ("photographs", "like")))
    )
    assert none + 6 < photographs < like


@pytest.mark.parametrize("row", [row for row in SCHEMES if SCHEMES[row].kind != "images"])
def test_pairs_open_every_scheme_with_one_key(row: str, photographs: None) -> None:
    names = {"places": "pairs of each place", "order": "pairs and places", "scrambled": "pairs and places"}
    name = names.get(SCHEMES[row].kind, "pairs")
    whole, decibels, *_ = schemes.trial(SCHEMES[row], ATTACKS[name], 100, 0)
    assert whole
    assert decibels > (15 if SCHEMES[row].noise else 90)


def test_an_empty_receipt_has_no_best_attack() -> None:
    with pytest.raises(KeyError):
        cell(Receipt(None, {}).content, "flips", {"ciphertexts"})
