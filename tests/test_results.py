"""What docs/results.md and the cards of the shipped models say is what was measured: docs/records."""

from __future__ import annotations

import csv
import importlib
import json
import math
import re
import statistics
from functools import partial
from pathlib import Path

import pytest

from ibrobust.evaluation.attacks.by_name import read_attack
from ibrobust.evaluation.attacks.result import AttackResult
from ibrobust.home import zoo_dir
from ibrobust.readable import per_cent
from ibrobust.records import AUDIT_VERSION, SAME_AUDIT, WORST_CASE_VERSION
from ibrobust.registry.card import read_card
from ibrobust.study import load_study
from ibrobust.study.results import card_evaluations
from ibrobust.study.write_records import rows_of_models, write_records

CHECKOUT = Path(__file__).resolve().parent.parent
COMPARISON = "docs/worst-case-comparison.md"
CARDS = sorted(zoo_dir().glob("*-w*-s*.yaml"))


@pytest.fixture
def tables(monkeypatch):
    """The module that writes the tables."""
    monkeypatch.syspath_prepend(CHECKOUT / "docs")
    return importlib.import_module("results_tables")


def _page(name: str) -> str:
    return (CHECKOUT / name).read_text(encoding="utf-8")


def _rows(text: str) -> set[str]:
    """Return a text's table rows of a model."""
    titles = {line: line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")}
    # Those of models that do not ship are held to records of their own below.
    unshipped = ("cross_entropy-fixed_power", "paper_recipe")
    return {line for line, title in titles.items() if re.search(r"-w\d+-s", title) and not title.startswith(unshipped)}


def test_every_table_is_the_one_that_the_records_give(tables):
    text = _page("docs/results.md")
    assert tables.with_tables(text) == text


def test_the_results_have_every_row_that_the_records_give_and_no_other(tables):
    of_others = ("answers", "differences over seeds", "L2", "AutoAttack", "decoders in the worst case")
    names = {*set(tables.TABLES) - {"AutoAttack"}, *(f"lossless: {name}" for name in of_others)}
    on_page = names - set(tables.FILES.values())
    given = {row for name in on_page for row in _rows(tables.table_text(name))}
    shown = _rows(_page("docs/results.md"))
    assert len(shown) > 50
    assert sorted(given - shown) == []
    assert sorted(shown - given) == []
    assert set(tables.FILES.values()) <= names


def test_every_long_table_is_a_file_that_the_page_links(tables):
    text = _page("docs/results.md")
    for file, name in tables.FILES.items():
        assert _page(f"docs/tables/{file}.csv") == tables.table_csv(name)
        assert f"](tables/{file}.csv)" in text
    assert {path.stem for path in (CHECKOUT / "docs" / "tables").iterdir()} == set(tables.FILES)


def test_a_table_in_a_file_has_no_cell_that_a_spreadsheet_would_compute(tables):
    cells = [
        cell
        for name in tables.FILES.values()
        for row in csv.reader([*tables.table_csv(name).splitlines()])
        for cell in row
    ]
    computed = [cell for cell in cells if cell.startswith(("+", "-", "=")) and not re.fullmatch(r"[+-]?[0-9.]+", cell)]
    assert computed == []


@pytest.mark.parametrize(
    ("difference", "sign", "shown"),
    [(0.0163, "≤ ", "≤ +1.7"), (0.0163, "", "+1.6"), (-0.0163, "≥ ", "≥ -1.7"), (0.016, "≤ ", "≤ +1.6")],
)
def test_a_difference_that_is_a_bound_is_rounded_to_a_bound(tables, difference, sign, shown):
    assert tables.in_points(difference, sign) == shown


def _bounded(tables, model: str, right: str, *flags: str, version: int = WORST_CASE_VERSION) -> dict:
    """The results of a model with one worst case at the smallest epsilon, a sweep and an audit, all with the flags."""
    epsilon = tables.EPSILONS[0]
    correct = tuple(each == "1" for each in right * (tables.IMAGES // len(right)))
    case = AttackResult(
        "WorstCase", "Linf", epsilon, (True,) * tables.IMAGES, correct, 0, 0, flags, attack_version=version
    )
    sweep = {"epsilons": [epsilon, tables.EPSILONS[-1]], "accuracy": [0.5, 0.4], "clean_accuracy": 1.0, "flags": flags}
    audit = {"epsilon": tables.EPSILONS[1], "clean_accuracy": 1.0, "fgsm_accuracy": 0.5, "worst_case_accuracy": 0.3}
    audit |= {"verdict": "real, honest", "failed": [], "upper_bound": bool(flags), "audit_version": AUDIT_VERSION}
    part = {"fgsm": sweep, "attacks": [case.to_dict()], "audits": [audit]}
    return {"model": model, "decoders": {"head": part}}


def test_every_table_marks_what_is_an_upper_bound(tables):
    baseline = tables.BASELINE.removesuffix("0")
    names = [f"{baseline}{seed}" for seed in (0, 1)] + [f"new-w16-s{seed}" for seed in (0, 1)]
    known = {name: _bounded(tables, name, "10") for name in names}
    marked = known | {names[3]: _bounded(tables, names[3], "1110", "a guard")}

    def last(table, content):
        return [cell.strip() for cell in list(table(content))[-1].strip("|").split("|")]

    assert last(tables.answers_table, marked)[2:4] == ["≤ 50.00", "≤ 75.0"]
    assert last(tables.decoders_table, marked)[-1] == "≤ 40.00"
    assert last(tables.audits_table, marked)[4] == "≤ 30.0"
    assert last(tables.difference_table, marked)[1:3] == ["≤ +25.0", "1.4"]
    assert last(tables.mean_table, marked)[3] == "≤ 62.5 (50.0 to ≤ 75.0)"
    assert last(tables.seed_difference_table, marked)[1].startswith("≤ +12.5 +- ")
    of_all = [tables.answers_table, tables.decoders_table, tables.audits_table, tables.difference_table]
    of_all += [tables.mean_table, tables.seed_difference_table]
    assert "≤" not in "".join(line for table in of_all for line in table(known))
    # The baseline's is the bound, then both.
    other = known | {names[0]: _bounded(tables, names[0], "1110", "a guard")}
    assert last(tables.difference_table, other)[1] == "≥ -25.0"
    assert last(tables.seed_difference_table, {**other, names[3]: marked[names[3]]})[1].startswith("~ +0.0")


def test_what_older_rules_left_is_an_upper_bound_in_the_tables(tables):
    older = _bounded(tables, "old-w16-s0", "10", version=1)
    audit = older["decoders"]["head"]["audits"][0]
    audit["audit_version"] = SAME_AUDIT - 1
    assert tables.answer_cells(older, "head")[2] == "≤ 50.0"
    assert tables.answer_cells(older, "head")[-1] == "older audit: real, honest"
    assert " ≤ 30.0 " in list(tables.audits_table({"old-w16-s0": older}))[-1]


@pytest.mark.parametrize("study", ["zoo", "zoo-lossless"])
def test_the_csv_file_holds_the_same_numbers(study, tables, tmp_path):
    write_records(tmp_path / "study.csv", rows_of_models(study, tables.read_records(study)))
    assert (tmp_path / "study.csv").read_text() == _page(f"docs/records/{study}.csv")


def test_the_figures_show_fgsm_and_the_worst_case_of_a_thousand_images(tables):
    model = {"cell": "a", "objective": "cross_entropy", "beta": None, "width": 16, "num_images": tables.IMAGES}
    model["decoder"] = "head"
    attacks = (None, "FGSM", "WorstCase", "AutoAttack", "worst case")
    rows = [{**model, "attack": attack} for attack in attacks]
    others = [{**rows[-1], "num_images": 50}, {**rows[1], "objective": "dvib", "beta": 0.001}]
    others += [{**rows[1], "width": 32}, {**rows[-1], "decoder": "logistic"}]
    assert [row["attack"] for row in tables.drawn_rows([*rows, *others], {"a": "head"})] == [None, "FGSM", "worst case"]


def test_the_figures_name_the_models_that_they_show(tables):
    row = {"objective": "knn_ib", "beta": 0.1, "width": 16, "attack": "FGSM", "decoder": "logistic"}
    row |= {"num_images": tables.IMAGES, "epsilon": 0.1, "setting": "k 50"}
    rows = [{**row, "cell": name} for name in ("knn_ib-k50-w16-s0", "knn_ib-from_start-w16-s0")]
    (shown,) = tables.drawn_rows(rows, dict.fromkeys((each["cell"] for each in rows), "logistic"))
    assert (shown["cell"], shown["objective"], shown["setting"]) == ("knn_ib-k50-w16-s0", "knn_ib-k50", "")


@pytest.mark.parametrize(("epsilons", "is_drawn"), [((0.1, 0.2), True), ((0.1,), False)])
def test_a_baseline_is_drawn_with_the_bottlenecks_decoder_if_it_was_attacked_alike(tables, epsilons, is_drawn):
    row = {"width": 16, "attack": "worst case", "num_images": tables.IMAGES}
    model = {**row, "cell": "soft_ib-w16-s0", "objective": "soft_ib", "beta": 0.1, "decoder": "logistic"}
    plain = {**row, "cell": "plain", "objective": "cross_entropy", "beta": None}
    rows = [{**each, "epsilon": at} for each in (model, {**plain, "decoder": "head"}) for at in (0.1, 0.2)]
    rows += [{**plain, "decoder": "logistic", "epsilon": at} for at in epsilons]
    rows += [{**plain, "decoder": "resfc", "epsilon": at} for at in (0.1, 0.2)]
    found = tables.drawn_rows(rows, {"soft_ib-w16-s0": "logistic", "plain": "head"})
    wanted = {"head", "logistic"} if is_drawn else {"head"}
    assert {each["decoder"] for each in found if each["cell"] == "plain"} == wanted


def test_upper_bounds_are_marked_in_the_figure_of_widths(tables, tmp_path, monkeypatch):
    widths = importlib.import_module("widths")
    drawn = []
    monkeypatch.setattr(widths, "save", lambda figure, *_: drawn.append(figure))
    networks = [
        widths.Network(f"knn_ib-k50-w{width}-s0", "logistic", 1000, 900, {at: 300}, {at: left}, {at} & bounds)
        for at in [widths.EPSILONS[0]]
        for width, left, bounds in ((8, 100, set()), (16, 120, {at}), (32, 0, {at}))
    ]
    widths.draw_widths(networks, tmp_path)
    (axes,) = drawn[0].axes
    assert [(text.get_text(), text.xy) for text in axes.texts] == [("≤", (16, pytest.approx(12.0)))]
    note = " ".join(drawn[0].legends[0].get_title().get_text().split())
    assert note.endswith("≤ upper bound: other attacks may break more images")


def test_a_figure_takes_other_rows_only_of_settings_that_the_models_lack(tables):
    row = {"objective": "knn_ib", "beta": 0.01, "noise": True, "decoder": "logistic", "value": 0.8}
    known = [row, {**row, "beta": 0.1}]
    lacking = [{**row, "decoder": "resfc"}, {**row, "beta": 0.03}, {**row, "noise": False}]
    guesser = {**row, "beta": 0.3, "value": 0.1}
    assert tables.further_settings(known, [row, *lacking, guesser]) == lacking


def test_the_readmes_rows_are_those_of_the_records(tables):
    rows = _rows(_page("README.md"))
    assert len(rows) > 2
    known = tables.read_records()
    for row in rows:
        title, *shown = (cell.strip() for cell in row.strip("|").split("|"))
        name, decoder = title.rstrip(")").split(" (")
        clean, fgsm, worst, _, _, fgsm_at_8, worst_at_8, _ = tables.answer_cells(known[name], decoder)
        for cell, wanted in zip(shown, (clean, fgsm, worst, fgsm_at_8, worst_at_8), strict=True):
            # To one decimal, where the records have two.
            assert float(cell.lstrip("≤ ")) == pytest.approx(float(wanted.lstrip("≤ ")), abs=0.051), title
            assert cell.startswith("≤") == wanted.startswith("≤"), title


@pytest.mark.parametrize("study", ["zoo", "zoo-lossless"])
def test_the_studys_file_asks_for_exactly_the_attacks_that_were_measured(study, tables):
    wanted = load_study(study).evaluations.attacks
    for model, content in tables.read_records(study).items():
        decoders = list(content["decoders"])
        asked = {
            (decoder, read_attack(run.attack).label, epsilon)
            for run in wanted.runs
            if run.is_for(model)
            for epsilon in run.eps
            for decoder in decoders
            if decoder in run.decoders or ("default" in run.decoders and decoder == decoders[0])
        }
        stored = [
            (decoder, result["attack"], result["epsilon"])
            for decoder in decoders
            for result in content["decoders"][decoder]["attacks"]
        ]
        assert sorted(stored) == sorted(asked), model


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_a_shipped_card_carries_what_was_measured(path: Path, tables):
    card = read_card(path)
    content = tables.read_records()[card.name]
    assert content["weights"] == card.weights.sha256
    assert card.evaluations == card_evaluations(content)


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_a_shipped_card_holds_one_clean_accuracy_per_decoder(path: Path):
    """The sweep counts the images that are right without an attack once more, with the weights that ship."""
    card = read_card(path)
    swept = card.evaluations["fgsm"]
    assert {name: record.correct for name, record in card.clean_accuracy.items()} == {
        name: swept[name]["clean_correct"] for name in card.clean_accuracy
    }


def test_the_estimators_accuracies_are_those_of_the_records():
    """docs/trials.md, the table of the trainings through the estimator."""
    with (CHECKOUT / "docs" / "records" / "estimator-accuracy.csv").open(encoding="utf-8") as file:
        records: dict[str, dict[str, str]] = {}
        for row in csv.DictReader(file):
            accuracy = f"{100 * float(row['clean_accuracy']):.2f}"
            records.setdefault(row["run"], {})[row["decoder"]] = accuracy
    text = (CHECKOUT / "docs" / "trials.md").read_text(encoding="utf-8")
    table = text.split("| run | own head | logistic | Gaussian mixture |")[1].split("\n\n")[0]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.strip().splitlines()[1:]]
    kinds = ("head", "logistic", "gaussian_mixture")
    found = {run: {kind: value for kind, value in zip(kinds, values, strict=True) if value} for run, *values in cells}
    assert found == records


def _estimator_records() -> dict[tuple[str, str, str, str, int], int]:
    """Return the number of correct images by model, decoder, quantity, epsilon and number of images."""
    with (CHECKOUT / "docs" / "records" / "estimator-robustness.csv").open(encoding="utf-8") as file:
        return {
            (row["model"], row["decoder"], row["quantity"], row["epsilon"], int(row["num_images"])): int(row["correct"])
            for row in csv.DictReader(file)
        }


def test_the_robustness_of_the_networks_that_do_not_ship_is_that_of_the_records():
    text = _page("docs/results.md").split("## Through the estimator")[1].split("\n## ")[0]
    table = [line for line in text.splitlines() if line.startswith(("| cross_entropy-fixed_power", "| paper_recipe"))]
    records = _estimator_records()
    assert len(table) > 1
    for line in table:
        title, *shown = (cell.strip() for cell in line.strip("|").split("|"))
        name, decoder = title.rstrip(")").split(" (")
        epsilons = [f"{n / 255:.6f}" for n in (2, 4, 8)]
        of_all = [records[(name, decoder, "clean", "", 10000)]]
        of_all += [records[(name, decoder, "FGSM", epsilon, 10000)] for epsilon in epsilons]
        assert shown[:4] == [f"{count / 100:.2f}" for count in of_all]
        worst = [records.get((name, decoder, "worst case", epsilon, 1000)) for epsilon in epsilons]
        assert shown[4:] == ["" if count is None else f"{count / 10:.1f}" for count in worst]


def _compared_with_autoattack() -> list[dict[str, str]]:
    with (CHECKOUT / "docs" / "records" / "worst-case.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _cells(table: str, page: str = COMPARISON) -> list[list[str]]:
    """Return the cells of the rows of a table of a page, given by its header's beginning."""
    text = _page(page).split(table)[1].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


def _counts(row: dict[str, str]) -> list[str]:
    bound = "≤ " if row["upper_bound"] == "1" and row["left"] != "0" else ""
    passes, theirs = int(row["passes"]), int(row["autoattack_passes"])
    left = [bound + row["left"], row["missed"]]
    return [row["clean"], row["fgsm"], *left, f"{passes:,}", f"{passes / theirs:.1%}"]


def test_the_comparison_with_autoattack_at_4_255_is_that_of_the_records():
    at_4 = [row for row in _compared_with_autoattack() if (row["norm"], row["epsilon"]) == ("Linf", "0.015686")]
    assert len(at_4) == 22
    assert _cells("| model | correct |") == [[row["model"], *_counts(row)] for row in at_4]


def test_the_comparison_with_autoattack_in_l2_is_that_of_the_records():
    rows = [row for row in _compared_with_autoattack() if row["norm"] == "L2" and row["autoattack_leaves_of_these"]]
    rows.sort(key=lambda row: (-float(row["epsilon"]), row["model"]))
    assert len(rows) > 6
    wanted = [[row["model"], f"{float(row['epsilon']):g}", f"{int(row['images']):,}", *_counts(row)] for row in rows]
    assert _cells("| model | epsilon |") == wanted


def test_what_autoattack_breaks_on_robustbenchs_images_is_that_of_the_records(tables):
    with (CHECKOUT / "docs" / "records" / "worst-case-lossless.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    known = tables.read_records("zoo-lossless")
    assert {row["model"] for row in rows} == {name for name in known if not name.startswith("adversarial")}
    counts = {}
    for row in rows:
        left, after = int(row["left"]), int(row["autoattack_leaves_of_these"])
        case = tables.worst_of(known[row["model"]], row["decoder"], 4 / 255)
        assert after == sum(case.robust_correct), row["model"]
        counts.setdefault(row["decoder"], []).append((left, left - after))
    bottlenecks, heads = counts["logistic"], counts["head"]
    broken = [number for _, number in bottlenecks if number]
    left, of_heads = sum(left for left, _ in bottlenecks), sum(left for left, _ in heads)
    text = " ".join(_page(COMPARISON).split())
    assert sum(number for _, number in heads) == 0
    attack_page = " ".join(_page("docs/worst-case.md").split())
    assert f"On RobustBench's images it missed at most {max(broken)} of 1,000 at 4/255." in attack_page
    assert (
        f"AutoAttack broke {min(broken)} to {max(broken)} of the images that the attack left of {len(broken)} of the "
        f"{len(bottlenecks)} `knn_ib` and `soft_ib` models ({sum(broken)} of {left} images in all {len(bottlenecks)}), "
        f"and none of the {of_heads} that it left of the {len(heads)} models with a head"
    ) in text
    assert (
        f"At 4/255 it broke {min(broken)} to {max(broken)} images of {len(broken)} of the {len(bottlenecks)} `knn_ib` "
        f"and `soft_ib` models, none of the {len(heads)} others without adversarial training"
    ) in " ".join(_page("docs/results.md").split())


def test_what_autoattack_breaks_at_2_255_is_that_of_the_records(tables):
    attacks = ("WorstCase", "WorstCase:escalate=true")
    counts = {}
    for name, content in tables.read_records().items():
        results = next(iter(content["decoders"].values()))["attacks"]
        left = {
            each["attack"]: [int(image) for image in each["attacked_correct"]]
            for each in results
            if each["attack"] in attacks and each["epsilon"] == 2 / 255
        }
        if len(left) == len(attacks):
            with_and_without = zip(*left.values(), strict=True)
            counts[name] = sum(left["WorstCase"]), sum(left["WorstCase"]) - sum(map(min, with_and_without))
    text, most = " ".join(_page(COMPARISON).split()), max(broken for _, broken in counts.values())
    assert f"breaks at most {most} per model" in text
    assert f"and at most {most} at 2/255 ([comparison]" in " ".join(_page("docs/worst-case.md").split())
    assert f"a result at 2/255 may be {most / 10} points too high" in text
    for model in ("cross_entropy", "knn_ib-k50", "soft_ib"):
        of_seeds = [counts.pop(f"{model}-w16-s{seed}") for seed in range(3)]
        left, broken = map(sum, zip(*of_seeds, strict=True))
        assert f"{broken} of {left} of the three `{model}` models" in text
    few = {name: pair for name, pair in counts.items() if pair[1] <= 1}
    for name, (left, broken) in counts.items() - few.items():
        assert f"{broken} of {left} of `{name}`" in text
    left, broken = map(sum, zip(*few.values(), strict=True))
    assert f"{broken} of {left:,} of the {len(few)} others, at most 1 each." in text


def _clean_fgsm_and_worst_case(tables, content) -> tuple[str, list[str], list[str]]:
    """Return the first decoder's accuracies in %, as the pages write them; under attack at 2, 4 and 8/255."""
    decoder = next(iter(content["decoders"]))
    sweep = content["decoders"][decoder]["fgsm"]
    under_fgsm = [f"{tables.swept(sweep, epsilon):.2%}"[:-1] for epsilon in tables.EPSILONS]
    cases = [tables.worst_of(content, decoder, epsilon) for epsilon in tables.EPSILONS]
    return f"{sweep['clean_accuracy']:.2%}"[:-1], under_fgsm, [tables.worst_cell(case) for case in cases]


def test_the_adversarial_training_for_longer_is_that_of_the_records(tables):
    shorter = json.loads(_page("docs/records/adversarial-20-epochs-w16-s0.json"))
    longer, wider = (tables.read_records()[f"adversarial-{width}-s0"] for width in ("w16", "w32"))
    trials, text = _page("docs/trials.md"), " ".join(_page("docs/results.md").split())
    for content, title in ((shorter, "20 | last"), (longer, "40 (shipped) | last")):
        clean, fgsm, worst = _clean_fgsm_and_worst_case(tables, content)
        assert f"| {title} | {' | '.join([clean, *fgsm, *worst])} |" in trials
    _, fgsm, worst = _clean_fgsm_and_worst_case(tables, longer)
    _, _, baseline = _clean_fgsm_and_worst_case(tables, tables.read_records()["cross_entropy-w16-s0"])
    above = [float(here) - float(there) for here, there in zip(worst, baseline, strict=True)]
    shown = "the model keeps {}, {} and {}% at 2, 4 and 8/255: {:.0f}, {:.0f} and {:.0f} points above cross-entropy."
    assert shown.format(*worst, *above) in text
    assert "Under FGSM it keeps {:.1f}, {:.1f} and {:.1f}%.".format(*map(float, fgsm)) in text
    clean, _, worst = _clean_fgsm_and_worst_case(tables, shorter)
    shown = "it has {:.1f}% without an attack, and {}, {} and {}% in the worst case. The model of width 32"
    assert shown.format(float(clean), *worst) in text
    clean, _, worst = _clean_fgsm_and_worst_case(tables, wider)
    shown = "It has {:.1f}% without an attack, and {}, {} and {}% in the worst case (one standard"
    assert shown.format(float(clean), *worst) in text


def test_the_first_screen_is_that_of_the_records(tables):
    text, known = " ".join(_page("docs/results.md").split("![")[0].split()), tables.read_records()
    of_fgsm = {}
    for model in ("soft_ib", "knn_ib-k50", "cross_entropy"):
        sweeps = [known[f"{model}-w16-s{seed}"]["decoders"] for seed in range(3)]
        kept = [100 * tables.swept(next(iter(each.values()))["fgsm"], 8 / 255) for each in sweeps]
        of_fgsm[model] = f"{min(kept):.0f} to {max(kept):.0f}%"
    soft, knn, plain = of_fgsm.values()
    assert f"of `soft_ib` keep {soft} accuracy and three of `knn_ib-k50` {knn}, but cross-entropy only {plain}." in text
    leads = []
    for name in ("differences over seeds", "lossless: differences over seeds", "same decoder"):
        for line in tables.table_text(name).splitlines()[2:]:
            cells = line.strip("| ").split(" | ")[1:]
            at_2 = cells if name == "same decoder" else cells[:1]
            leads += [float(re.search(r"[-+]\d+\.\d", cell)[0]) for cell in at_2]
    assert len(leads) == 12
    assert f"between {min(leads)} and {max(leads)} percentage points over three seeds" in text
    rows = [line.strip("| ").split(" | ") for line in tables.table_text("widths").splitlines()[2:]]
    at_2 = {name.split(" ")[0]: float(cells[2]) for name, *cells in rows}
    wider = [at_2[f"knn_ib-k50-w{width}-s0"] - at_2[f"cross_entropy-fixed_power-w{width}-s0"] for width in (32, 64)]
    assert [round(lead) for lead in wider] == [4, 4]
    assert "and 4 points in [wider networks]" in text
    kept = [
        [
            per_cent(tables.worst_of(known[f"adversarial-w{width}-s0"], "head", at).robust_accuracy)
            for at in tables.EPSILONS
        ]
        for width in (16, 32)
    ]
    shown = "at 2, 4 and 8/255 it keeps {}, {} and {}%, and {}, {} and {}% in a network twice as wide."
    assert shown.format(*kept[0], *kept[1]) in text
    audits = [
        audit
        for name, content in known.items()
        if name.startswith(("knn_ib", "soft_ib"))
        for audit in next(iter(content["decoders"].values()))["audits"]
        if audit["epsilon"] == pytest.approx(4 / 255)
    ]
    misleading = sum(audit["gradient"] == "misleading" for audit in audits)
    assert f"the gradient of {misleading} of the {len(audits)} `knn_ib` and `soft_ib` models misleading" in text


def test_the_readme_counts_the_models_whose_gradient_misleads(tables):
    text, known = " ".join(_page("README.md").split()), tables.read_records()
    of_kind = [content for name, content in known.items() if name.startswith(("knn_ib", "soft_ib"))]

    def misleading(epsilon: float) -> int:
        audits = [a for each in of_kind for a in next(iter(each["decoders"].values()))["audits"]]
        return sum(a["gradient"] == "misleading" for a in audits if a["epsilon"] == pytest.approx(epsilon))

    assert (
        f"at 4/255 the gradient of {misleading(4 / 255)} of the {len(of_kind)} `knn_ib` and `soft_ib` models misleads "
        f"attacks. (At 8/255 that of {misleading(8 / 255)} does; there" in text
    )


def test_the_passes_of_todays_attack_are_those_of_the_table_and_at_most_so_much_more():
    """Checks of the model, and what the other ways take for each image that is left and watched."""
    text = _page(COMPARISON)
    number = {
        name: int(re.search(pattern, " ".join(text.split()))[1].replace(",", ""))
        for name, pattern in {
            "checks": r"checks of the model take ([\d,]+) more",
            "watched": r"for each of at most (\d+) images",
            "short": r"Short steps take (\d+)",
            "walk": r"boundary walk at most (\d+)",
            "smoothed": r"smoothed gradient (\d+):",
        }.items()
    }
    ways, today = number["short"] + number["walk"] + number["smoothed"], []
    row = r"^\| \S+-w16-s\d \| \d+ \| \d+ \| (?:≤ )?(\d+) \| \d+ \| ([\d,]+) \| ([\d.]+)% \|$"
    for left, passes, share in re.findall(row, text, re.MULTILINE):
        of_autoattack = int(passes.replace(",", "")) / float(share)  # a hundredth of them
        more = (number["checks"] + ways * min(int(left), number["watched"])) / of_autoattack
        today.append(float(share) + more)
    assert len(today) == 22
    said = f"takes {round(min(today))} to {round(max(today))}% of AutoAttack's passes"
    assert said in " ".join(_page("docs/worst-case.md").split())


def test_what_autoattack_breaks_on_robustbenchs_images_beside_its_table_is_that_of_the_records(tables):
    known, text = tables.read_records("zoo-lossless"), " ".join(_page("docs/results.md").split())
    at_2 = {name: tables.left_and_broken(content, 2 / 255) for name, content in known.items()}
    assert [name for name, pair in at_2.items() if pair is None] == ["adversarial-w32-s0"]
    most = max(broken for _, broken in filter(None, at_2.values()))
    counts = "[counts](tables/robustbench-images-autoattack.csv)"
    assert f"At 2/255, AutoAttack broke at most {most} images of a model ({counts})." in text
    adversarial = known["adversarial-w16-s0"]
    for epsilon, said in ((4 / 255, "and none of the {} of"), (8 / 255, "At 8/255 it broke none of the {} of")):
        left, broken = tables.left_and_broken(adversarial, epsilon)
        assert broken == 0
        assert f"{said.format(left)} `adversarial-w16-s0`" in text
        assert tables.left_and_broken(known["adversarial-w32-s0"], epsilon) is None


def test_the_re_encoded_images_were_attacked_with_the_shipped_models(tables):
    with (CHECKOUT / "docs" / "records" / "reencoding.csv").open(encoding="utf-8") as file:
        weights = {row["model"]: row["weights"] for row in csv.DictReader(file)}
    assert len(weights) == 9
    assert weights == {name: tables.read_records()[name]["weights"] for name in weights}


def test_most_of_the_difference_between_the_images_is_due_to_the_encoding():
    rows = _cells("| worst case, over seeds | original files |", "docs/results.md")
    assert len(rows) == 3
    for model, original, copies, evenly_spaced in rows:
        assert abs(float(copies) - float(evenly_spaced)) < 0.5 * abs(float(original) - float(copies)), model


def test_the_leads_on_the_same_images_in_two_encodings_are_those_of_the_table():
    rows = _cells("| worst case, over seeds | original files |", "docs/results.md")
    baseline, *others = ([float(cell) for cell in row[1:]] for row in rows)
    leads = [[round(cell - of_it, 1) for cell, of_it in zip(row, baseline, strict=True)] for row in others]
    (_, knn_copies, knn), (_, soft_copies, soft) = leads
    text = " ".join(_page("docs/results.md").split())
    assert (
        f"the leads at 2/255 without AutoAttack are {knn_copies} and {soft_copies} points, and on the evenly spaced "
        f"images {knn} and {soft}."
    ) in text


def test_the_means_in_l2_on_robustbenchs_images_are_those_of_the_records(tables):
    known, text = tables.read_records("zoo-lossless"), " ".join(_page("docs/results.md").split())
    names = {"cross_entropy": "cross-entropy", "knn_ib-k50": "`knn_ib-k50`", "soft_ib": "`soft_ib`"}
    for model, shown in names.items():
        of_seeds = [known[f"{model}-w16-s{seed}"] for seed in range(3)]
        cases = [tables.worst_of(each, next(iter(each["decoders"])), 0.25, norm="L2") for each in of_seeds]
        mean = sum(sum(case.robust_correct) / 30 for case in cases)
        assert f"{mean:.1f}% for {shown}" in text


def test_what_autoattack_breaks_of_a_part_of_the_images_is_that_of_the_records(tables):
    """Of the model whose other images were not attacked with it."""
    text = " ".join(_page("docs/results.md").split())
    runs = json.loads(_page("docs/records/autoattack-on-a-part.json"))
    assert [tables.format_epsilon(run["epsilon"]) for run in runs] == ["2/255", "4/255"]
    for run in runs:
        (whole,) = (
            result["attacked_correct"]
            for result in tables.read_records()[run["model"]]["decoders"][run["decoder"]]["attacks"]
            if (result["attack"], result["norm"], result["epsilon"]) == ("WorstCase", "Linf", run["epsilon"])
        )
        left = [image for image, right in enumerate(whole) if right == "1"]
        assert len(left) == run["left"]
        assert set(run["attacked"]) <= set(left)
        assert (run["broken"], run["flags"]) == ([], [])
    (few, of_638), (more, of_553) = ((len(run["attacked"]), run["left"]) for run in runs)
    assert (
        f"At 2 and 4/255 it was run on {few} of the {of_638} and {more} of the {of_553} images that are left of this "
        "model, evenly spaced, and broke none"
    ) in text
    # Of n images, none is broken in less than 2.5% of all cases if more than this share of them would be.
    shares = [math.ceil(1000 * (1 - 0.025 ** (1 / number))) / 10 for number in (few, more)]
    assert "So with 97.5% confidence it would break less than {} and {}% of them.".format(*shares) in text


def test_what_is_kept_in_l2_is_that_of_the_records(tables):
    known, text = tables.read_records(), " ".join(_page("docs/results.md").split())
    seeds = tables.seeds_of(known)

    def kept(model: str, epsilon: float) -> tuple[str, float]:
        cases = [tables.worst_of(of, tables.first_decoder(of), epsilon, norm="L2") for of in seeds[f"{model}-w16-s*"]]
        shares = [case.robust_accuracy for case in cases]
        is_bound = any(map(tables.is_bound, cases))
        shown = per_cent(statistics.mean(shares), is_bound=is_bound)
        return f"{'at most ' * is_bound}{shown}%", 100 * statistics.stdev(shares) / math.sqrt(3)

    def of_all(epsilon: float) -> list[float]:
        beginnings = ("knn_ib", "soft_ib", "ceb", "dib", "dvib")
        models = [of for name, of in known.items() if name.startswith(beginnings)]
        return [tables.worst_of(of, tables.first_decoder(of), epsilon, norm="L2").robust_accuracy for of in models]

    means, errors = zip(*(kept(model, 0.25) for model in ("knn_ib-k50", "soft_ib", "cross_entropy")), strict=True)
    assert (
        "At 0.25, over three seeds, `knn_ib-k50` keeps {}, `soft_ib` {} and cross-entropy {}, each +- {:.1f} to {:.1f} "
        "(one standard error over the seeds); all bottleneck models keep {} to {}%."
    ).format(*means, min(errors), max(errors), *map(per_cent, (min(of_all(0.25)), max(of_all(0.25))))) in text
    means, errors = zip(*(kept(model, 0.5) for model in ("knn_ib-k50", "soft_ib", "cross_entropy")), strict=True)
    assert (
        "At 0.5 they keep {} to at most {}%: over three seeds, `knn_ib-k50` {}, `soft_ib` {} and cross-entropy {}, "
        "each +- {:.1f} to {:.1f}."
    ).format(*map(per_cent, (min(of_all(0.5)), max(of_all(0.5)))), *means, min(errors), max(errors)) in text


def test_the_leads_on_robustbenchs_images_are_those_of_the_records(tables):
    text = " ".join(_page("docs/results.md").split())
    rows = tables.table_text("lossless: differences over seeds").splitlines()[2:]
    found = [re.findall(r"[-+]?\d+\.\d", line.split("|")[2]) for line in rows]  # at 2/255: lead, and both errors
    (lead, images, seeds), (other, *errors) = found
    assert float(other) < 0 < float(lead)
    shown = (
        f"`knn_ib-k50` is {float(lead)} points above cross-entropy (standard errors: {images} from the images, {seeds}"
    )
    assert shown in text
    assert f"and `soft_ib` {-float(other)} points below it ({errors[0]} and {errors[1]})." in text
    known = tables.read_records("zoo-lossless")
    cases = [tables.worst_of(known[f"knn_ib-k50-w16-s{seed}"], "logistic", 2 / 255) for seed in range(3)]
    of_seeds = [100 * case.robust_accuracy for case in cases]
    other = tables.worst_of(known["knn_ib-k50-beta0.03-w16-s0"], "logistic", 2 / 255).robust_accuracy
    assert f"it keeps {100 * other:.1f}%, and they {min(of_seeds):.1f} to {max(of_seeds):.1f}%." in text


def test_the_leads_with_the_same_decoder_are_those_of_the_records(tables):
    text = " ".join(_page("docs/results.md").split())
    rows = [line.strip("| ").split(" | ") for line in tables.table_text("same decoder").splitlines()[2:]]
    numbers = {name: [list(map(float, re.findall(r"\d+\.\d", cell))) for cell in cells] for name, *cells in rows}
    with_mixture = [cells for name, cells in numbers.items() if "gaussian_mixture" in name]
    assert [round(lead) for (lead, *_), _ in with_mixture] == [3, 3]
    assert [round(lead) for _, (lead, *_) in with_mixture] == [2, 2]
    assert (
        "If all have a Gaussian mixture as decoder, the leads are 3 points, and 2 points on RobustBench's images"
        in text
    )
    large = [name for name, (_, (lead, *errors)) in numbers.items() if lead > 2 * math.hypot(*errors)]
    assert large == ["soft_ib-w16-s* (gaussian_mixture)"]


def test_what_decoders_keep_on_robustbenchs_images_is_that_of_the_records(tables):
    text = " ".join(_page("docs/results.md").split())
    known = tables.seeds_of(tables.read_records("zoo-lossless"))

    def keeps(model: str, decoder: str) -> str:
        cases = [tables.alone(content, decoder) for content in known[f"{model}-w16-s*"]]
        return f"{100 * sum(case.robust_accuracy for case in cases) / 3:.1f}"

    plain, soft, knn = (partial(keeps, name) for name in ("cross_entropy", "soft_ib", "knn_ib-k50"))
    fitted = ("logistic", "gaussian_mixture")
    shown = "With its head it keeps {}%, with a logistic decoder {}% and with a Gaussian mixture {}%."
    assert shown.format(*map(plain, ("head", *fitted))) in text
    shown = "`soft_ib` keeps {}% (logistic) and {}% (Gaussian mixture), and `knn_ib-k50` {} and {}%."
    assert shown.format(*map(soft, fitted), *map(knn, fitted)) in text


def test_what_a_gaussian_mixture_changes_in_the_worst_case_is_that_of_the_records(tables):
    known, text, at = tables.read_records(), " ".join(_page("docs/results.md").split()), 2 / 255
    pairs = {
        name: [tables.worst_of(content, decoder, at) for decoder in (tables.first_decoder(content), "gaussian_mixture")]
        for name, content in known.items()
        if "-w16-" in name
    }
    lower = [name for name, (first, mixture) in pairs.items() if mixture.robust_accuracy < first.robust_accuracy]
    assert f"a Gaussian mixture lowers the worst case of {len(lower)} of the {len(pairs)} models of width 16" in text
    change = {name: [per_cent(case.robust_accuracy) for case in pair] for name, pair in pairs.items()}
    of_resfc = {
        name: 100 * tables.worst_of(known[name], "resfc", at).robust_accuracy
        for name in ("soft_ib-no_noise-w16-s0", *(f"soft_ib-w16-s{seed}" for seed in range(3)))
    }
    without_noise, *of_seeds = of_resfc.values()
    logistic = change["soft_ib-no_noise-w16-s0"][0]
    assert (
        f"With resfc, `soft_ib-no_noise` keeps {without_noise:.1f}% at 2/255 (logistic: {logistic}%), and three seeds "
        f"of `soft_ib` {sum(of_seeds) / 3:.1f}%."
    ) in text
    assert "those of dropout ({} to {}%)".format(*change["dropout-w16-s0"]) in text
    assert "`adversarial-w16-s0` ({} to {}%)".format(*change["adversarial-w16-s0"]) in text
    for model, shown in (
        ("cross_entropy", "that of cross-entropy ({} to {}% over"),
        ("knn_ib-k50", "`knn_ib-k50` ({} to {}%)"),
        ("soft_ib", "`soft_ib` (at most {} to {}%)"),
    ):
        means = []
        for decoder in (0, 1):
            cases = [pairs[f"{model}-w16-s{seed}"][decoder] for seed in range(3)]
            mean = sum(case.robust_accuracy for case in cases) / 3
            means.append(per_cent(mean, is_bound=any(map(tables.is_bound, cases))))
        assert shown.format(*means) in text


def test_the_most_that_a_bottleneck_model_keeps_at_4_255_is_that_of_the_records(tables):
    def most(study: str) -> str:
        cases = [
            tables.worst_of(content, decoder, 4 / 255)
            for name, content in tables.read_records(study).items()
            if name.startswith(("knn_ib", "soft_ib", "ceb", "dib", "dvib"))
            for decoder in content["decoders"]
        ]
        return per_cent(max(case.robust_accuracy for case in cases if case is not None))

    text = " ".join(_page("docs/results.md").split())
    shown = f"or more than {most('zoo')}% at 4/255 ({most('zoo-lossless')}% on [RobustBench's 1,000 images]"
    assert shown in text
    assert f"the bottleneck models keep at most {most('zoo-lossless')}% at 4/255, and nothing at 8/255." in text
