from __future__ import annotations

import base64
import math
import re
import subprocess
import sys
import tarfile
import zipfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ibrobust.errors import IbrobustError
from ibrobust.readable import per_cent
from ibrobust.records import read_study_records
from ibrobust.reporting.html.charts import epsilon_charts
from ibrobust.reporting.html.leaderboard import leaderboard
from ibrobust.reporting.html.report import TEMPLATES, write_report
from ibrobust.reporting.html.summary import summary
from ibrobust.reporting.html.training_curves import training_curves
from ibrobust.study.setting_words import usual_settings

# What would run, or break the page open, wherever a name goes: into text, into attributes, into a style or a script.
EVIL = "</style></script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7 * 7 }}"
CHECKOUT = Path(__file__).parents[2]
VOID = {"meta", "link", "img", "br", "input", "hr"}


class Page(HTMLParser):
    """Tags, their attributes and all text of a page; every tag must be closed by its own."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def cell(name: str, status: str = "done", **rest: Any) -> dict[str, Any]:
    return {"name": name, "status": status, **rest}


@pytest.fixture
def write(tmp_path: Path, study_rows, write_records):
    """Write a report about some rows; return its text."""

    def write(rows=None, *, cells=(), figures=(), title="a study") -> str:
        records = write_records(study_rows if rows is None else rows)
        path = write_report(title=title, records=records, figures=figures, cells=cells, out=tmp_path / "out" / "r.html")
        assert path == tmp_path / "out" / "r.html"
        return path.read_text(encoding="utf-8")

    return write


@pytest.fixture
def records(study_rows, write_records):
    return read_study_records(write_records(study_rows))


def column(board, key: str) -> list[Any]:
    place = [column.key for column in board.columns].index(key)
    return [row[place] for row in board.rows]


# The page


def test_nothing_of_a_name_is_taken_for_markup(write, study_rows):
    clean = Page(write(cells=[cell("one", "failed", error="x", recipe={"x": "y"}, versions={"x": "y"}, hardware="x")]))
    for row in study_rows:
        row |= {key: f"{row[key]}{EVIL}" for key in ("study", "cell", "model")}
        row |= {key: f"{row[key]}{EVIL}" for key in ("decoder", "verdict", "setting") if row.get(key)}
        row["objective"] += EVIL
    evil = cell(
        study_rows[0]["cell"],
        "failed",
        error=EVIL,
        recipe={EVIL: EVIL, "list": [EVIL]},
        versions={EVIL: EVIL},
        hardware=EVIL,
    )
    text = write(study_rows, cells=[evil, cell(EVIL, EVIL)], title=EVIL)
    page = Page(text)
    assert "<img src=x" not in text
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert [tag for tag, _ in page.tags].count("style") == 1
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in clean.tags}
    assert not [attrs for _, attrs in page.tags if any(key.startswith("on") for key in attrs)]
    assert EVIL in page.text  # the title, whole
    assert "49" not in [part.strip() for part in page.text]


def test_the_page_asks_for_nothing(write, tmp_path):
    (tmp_path / "fgsm.png").write_bytes(b"png")
    page = Page(write(figures=[tmp_path / "fgsm.png"], cells=[cell("one")]))
    for tag, attrs in page.tags:
        for key in ("src", "href", "srcset", "data", "action", "xlink:href"):
            assert attrs.get(key, "#").startswith(("#", "data:")), (tag, attrs)
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy


def test_every_link_leads_somewhere(write):
    page = Page(write(cells=[cell("one", "failed", versions={"torch": "2"})]))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [attrs["href"][1:] for tag, attrs in page.tags if tag == "a" and "download" not in attrs]
    assert len(links) == 5
    assert set(links) <= set(ids)
    for _, attrs in page.tags:
        for key in ("aria-labelledby", "aria-describedby"):
            assert attrs.get(key, ids[0]) in ids


def test_the_svg_of_a_figure_is_preferred_and_is_inlined_whole(write, tmp_path):
    for name in ("fgsm.png", "fgsm.svg", "other.png"):
        (tmp_path / name).write_bytes(name.encode())
    page = Page(write(figures=[tmp_path / name for name in ("fgsm.png", "fgsm.svg", "other.png")]))
    sources = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert [source.partition(",")[0] for source in sources] == ["data:image/svg+xml;base64", "data:image/png;base64"]
    assert [base64.b64decode(source.partition(",")[2]) for source in sources] == [b"fgsm.svg", b"other.png"]
    assert all(attrs["alt"] for tag, attrs in page.tags if tag == "img")


def test_failed_cells_are_listed_with_their_error(write):
    text = write(cells=[cell("good"), cell("bad", "failed", error="The loss was not finite.")])
    section = text[text.index('<section id="failed"') : text.index('<section id="leaderboard"')]
    assert re.findall(r"<dt>(.*)</dt>\s*<dd>(.*)</dd>", section) == [("bad", "The loss was not finite.")]
    assert 'id="failed"' not in write(cells=[cell("good")])


def test_recipes_versions_and_hardware_are_there(write):
    shared = {"versions": {"torch": "2.9.1"}, "hardware": "a fast machine"}
    text = write(
        cells=[
            cell("a", recipe={"noise": True, "warm_start": None, "decoders": ["resfc"], "dataset": "digits"}, **shared),
            cell("b", **shared),
            cell("c", versions={"torch": "2.8.0"}, hardware="another"),
        ]
    )
    found = dict(re.findall(r"<div><dt>(.*?)</dt><dd>(.*?)</dd></div>", text))
    assert found["noise"] == "true"
    assert found["warm_start"] == "null"
    assert found["decoders"] == "[&#34;resfc&#34;]"
    assert "2 cells: a, b" in text
    assert "1 cells: c" not in text
    assert "1 cell: c" in text
    assert "a fast machine" in text


def test_what_is_unknown_of_a_training_is_left_out(write):
    versions = {"ibrobust": "not installed", "torch": "2.9.1"}
    text = write(cells=[cell("a", versions=versions, hardware="")])
    assert "not installed" not in text
    assert "<dt>torch</dt><dd>2.9.1</dd>" in text
    assert "<dt>hardware</dt>" not in text


def _setting_cells(text: str) -> set[str]:
    return set(re.findall(r'<td role="cell" data-label="setting".*?>(.*?)</td>', text))


def test_the_leaderboard_shows_settings_besides_the_defaults_and_k(write, study_rows):
    told = {
        "knn_ib-0.0-True-0.0-0": (50, "neighbor ratio 4, no first neighbors, memory size 2000"),
        "knn_ib-0.0-False-0.0-0": (50, "neighbor ratio 1, first neighbors 400, memory size 5000"),
        "knn_ib-0.0-True-0.0-1": (3, "num neighbors 3, neighbor ratio 4, memory size 2000"),
        "knn_ib-0.0-False-0.0-1": (7, "num neighbors 7, neighbor ratio 4, memory size 2000"),
    }
    rows = [{**row, "setting": told[row["cell"]][1]} for row in study_rows if row["cell"] in told]
    usual = usual_settings("knn_ib")
    cells = [cell(name, recipe={"num_neighbors": k}, usual=usual) for name, (k, _) in told.items()]
    text = write(rows, cells=cells)
    assert '<figcaption id="chart-1">Gaussian-mixture decoder, k = 50</figcaption>' in text
    assert _setting_cells(text) == {
        "k = 50",
        "k = 50, neighbor ratio 1, first neighbors 400, memory size 5000",
        "–",
        "k = 7",
    }
    # Without the defaults, every setting is shown.
    assert _setting_cells(write(rows, cells=[cell(name) for name in told])) == {words for _, words in told.values()}


def test_a_study_without_any_record_has_a_report(write):
    text = write([], cells=[cell("one", "waiting")])
    assert "1 cell: 1 waiting." in text
    assert "leaderboard-title" not in text


def test_a_report_is_written_without_torch():
    code = "import sys, ibrobust.reporting.html.report; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_same_study_gives_the_same_bytes(write):
    assert write(cells=[cell("one")]) == write(cells=[cell("one")])


def test_what_cannot_be_used_is_named(write, tmp_path):
    with pytest.raises(IbrobustError, match="name None"):
        write(cells=[{"status": "done"}])
    with pytest.raises(IbrobustError, match=r"missing.png.* cannot be read"):
        write(figures=[tmp_path / "missing.png"])
    with pytest.raises(IbrobustError, match="neither PNG nor SVG"):
        write(figures=[tmp_path / "figure.pdf"])


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_the_templates_are_in_what_is_installed(tmp_path, kind):
    if kind == "wheel":
        from hatchling.builders.wheel import WheelBuilder

        (built,) = WheelBuilder(str(CHECKOUT)).build(directory=str(tmp_path), versions=["standard"])
        with zipfile.ZipFile(built) as archive:
            names = set(archive.namelist())
    else:
        from hatchling.builders.sdist import SdistBuilder

        (built,) = SdistBuilder(str(CHECKOUT)).build(directory=str(tmp_path))
        with tarfile.open(built) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}
    there = {f"ibrobust/reporting/html/templates/{path.name}" for path in TEMPLATES.iterdir()}
    assert len(there) == 3
    assert there <= names


def test_the_page_carries_its_records_and_says_how_it_was_made(study_rows, write_records, tmp_path):
    records = write_records(study_rows)
    out = tmp_path / "r.html"
    made = "Made on 2026-01-02 with <ibrobust>"
    page = Page(write_report(title="a", records=records, figures=(), cells=(), out=out, made=made).read_text())
    (link,) = [attrs["href"] for _, attrs in page.tags if attrs.get("download") == "records.csv"]
    assert base64.b64decode(link.partition(",")[2]) == records.read_bytes()
    assert made in page.text


def test_a_cell_shows_its_adversarial_images_and_its_training(write):
    examples = {
        "images": "images of split val",
        "attack": "PGD:steps=20",
        "epsilon": 8 / 255,
        "labels": ["cat", "dog"],
        "predicted": ["cat", "cat"],
        "attacked": ["dog", "cat"],
        "image": "QUJD",
    }
    training = [{"loss": 2.0, "H[Z]": 1.0}, {"loss": 0.0, "H[Z]": math.nan}, {"loss": 1.0, "H[Z]": 0.5}]
    page = Page(write(cells=[cell("one", examples=examples, training=training), cell("two")]))
    assert [attrs["src"] for tag, attrs in page.tags if tag == "img"] == ["data:image/png;base64,QUJD"]
    assert [text for text in page.text if "→" in text] == ["cat → dog", "cat → cat"]
    assert any(text.startswith("From above: images of split val; perturbations") for text in page.text)
    assert [attrs["class"] for tag, attrs in page.tags if attrs.get("class") == "error"] == ["error"], "the broken one"
    curves = training_curves(training)
    places = {label: place for place, label in curves.y_ticks}
    assert {"0", "2"} <= set(places)
    assert [label for _, label in curves.x_ticks] == ["1", "2", "3"]
    (_, loss), (_, entropy) = curves.lines
    across = [place for place, _ in curves.x_ticks]
    assert loss == f"M{across[0]} {places['2']}L{across[1]} {places['0']}L{across[2]} {places['1']}"
    assert entropy.count("L") == 1, "NaN has no place"
    assert training_curves(training[:1]) is None


# The leaderboard


def test_what_was_measured_at_one_epsilon_stands_side_by_side(records):
    columns = leaderboard(records).columns
    keys = [column.key for column in columns]
    for epsilon, audited in ((4, []), (8, ["audit_worst_case_accuracy-8"])):
        together = [f"accuracy-{epsilon}", f"worst_case_accuracy-{epsilon}", *audited]
        first = keys.index(together[0])
        assert keys[first : first + len(together)] == together
        assert [column.starts for column in columns[first : first + len(together)]] == [True] + [False] * (
            len(together) - 1
        )


@pytest.mark.parametrize(("unit", "is_said"), [("model", True), ("cell", False)])
def test_the_page_of_all_models_says_that_worst_cases_may_be_over_different_attacks(
    study_rows, write_records, tmp_path, unit, is_said
):
    page = write_report(
        title="t", records=write_records(study_rows), figures=(), cells=[], out=tmp_path / "r.html", unit=unit
    ).read_text(encoding="utf-8")
    assert ("may be over different attacks" in page) == is_said


def test_the_page_says_which_audits_count_in_l2_if_it_has_such_a_column(study_rows, write):
    wanted = next(row for row in study_rows if row["quantity"] == "worst_case_accuracy")
    sentence = "In L2, only models whose gradient is not honest are left out"
    assert sentence in write([*study_rows, {**wanted, "attack": "worst case, L2", "epsilon": 0.5, "value": 0.99}])
    assert sentence not in write()


def test_a_worst_case_in_l2_has_a_column_of_its_own(study_rows, write_records):
    wanted = next(row for row in study_rows if row["quantity"] == "worst_case_accuracy")
    rows = [*study_rows, {**wanted, "attack": "worst case, L2", "epsilon": 0.5, "value": 0.99}]
    found = read_study_records(write_records([row for row in rows if not row.get("verdict")]))
    board = leaderboard(found)
    assert [entry.text for entry in column(board, "worst_case_accuracy-L2-0.5") if entry.sort] == ["99.0"]
    assert "99.0%" not in " ".join(summary(found, []))


def _numbers(cell: str, **values: float) -> list[dict]:
    """Rows of a model that no audit judged: worst cases at 8/255 and in L2."""
    common = {"study": "s", "cell": cell, "model": cell, "objective": "x", "decoder": "head", "num_images": 100}
    linf = {"quantity": "worst_case_accuracy", "attack": "worst case", "epsilon": 8 / 255, "norm": "Linf"}
    places = {"linf": linf, "l2": {**linf, "attack": "worst case, L2", "epsilon": 0.5, "norm": "L2"}}
    return [{**common, **places[key], "value": value} for key, value in values.items()]


def _cells(write_records, rows: list[dict], datasets: dict[str, str] | None = None) -> list[str]:
    board = leaderboard(read_study_records(write_records(rows)), datasets)
    return [entry.text for entry in column(board, "cell")]


def test_a_number_in_l2_or_its_absence_does_not_decide_the_order(write_records):
    rows = [*_numbers("weak", linf=0.05, l2=0.21), *_numbers("strong", linf=0.5, l2=0.2), *_numbers("best", linf=0.6)]
    assert _cells(write_records, rows) == ["best", "strong", "weak"]


def test_a_model_without_an_audit_that_keeps_nothing_comes_after_those_that_are_not_real(write_records):
    audit = {"quantity": "audit_worst_case_accuracy", "attack": "", "verdict": "not real, honest"}
    audited = [*_numbers("audited", linf=0.0), *[{**row, **audit} for row in _numbers("audited", linf=0.0)]]
    rows = [*_numbers("broken", linf=0.0, l2=0.3), *audited, *_numbers("left", linf=0.1)]
    assert _cells(write_records, rows) == ["left", "audited", "broken"]


def _with_decoder(rows: list[dict], decoder: str, **changed: Any) -> list[dict]:
    return [{**row, "decoder": decoder, **changed} for row in rows]


def test_a_decoder_without_an_audit_is_neither_first_nor_best_if_an_audit_speaks_against_its_model(write_records):
    audit = {"quantity": "audit_worst_case_accuracy", "attack": ""}
    doubtful = _numbers("doubtful", linf=0.1)
    rows = [
        *doubtful,
        *_with_decoder(doubtful, "head", **audit, verdict="not real, misleading"),
        *_with_decoder(doubtful, "logistic", value=0.9),
        *_numbers("safe", linf=0.3),
        *_with_decoder(_numbers("safe", linf=0.3), "head", **audit, verdict="partly real, honest"),
        *_with_decoder(_numbers("safe", linf=0.8), "logistic"),
        *_numbers("sound", linf=0.2),
        *_with_decoder(_numbers("sound", linf=0.2), "head", **audit, verdict="real, honest"),
        *_numbers("unknown", linf=0.5),
    ]
    found = read_study_records(write_records(rows))
    board = leaderboard(found)
    entries = zip(*(column(board, key) for key in ("cell", "decoder", "worst_case_accuracy-8")), strict=True)
    assert [(cell.text, decoder.text, number.text, number.is_best) for cell, decoder, number in entries] == [
        ("sound", "head", "20.0", False),
        ("safe", "head", "30.0", True),
        ("safe", "logistic", "80.0", False),
        ("unknown", "head", "50.0", False),
        ("doubtful", "head", "10.0", False),
        ("doubtful", "logistic", "90.0", False),
    ]
    plain = [row for row in rows if not row.get("verdict")]
    known = read_study_records(write_records(plain))
    assert [entry.text for entry in column(leaderboard(known), "worst_case_accuracy-8") if entry.is_best] == ["90.0"]
    assert "90.0%" in " ".join(summary(known, []))
    # Without a worst case of the audit, the summary names one of the attacks, by the same rule.
    for row in rows:
        row["quantity"] = "other_accuracy" if row.get("verdict") else row["quantity"]
    said = " ".join(summary(read_study_records(write_records(rows)), []))
    assert "and those without an audit: 30.0% (95% interval" in said


def test_exact_numbers_come_before_upper_bounds(write_records):
    bound = [{**row, "upper_bound": True} for row in _numbers("bound", linf=0.8)]
    assert _cells(write_records, [*bound, *_numbers("exact", linf=0.4)]) == ["exact", "bound"]


def test_a_number_on_fewer_images_says_so_and_is_not_the_best(write_records):
    few = [{**row, "num_images": 5} for row in _numbers("few", linf=0.6)]
    rows = [*few, *_numbers("a", linf=0.4), *_numbers("b", linf=0.3)]
    board = leaderboard(read_study_records(write_records(rows)))
    entries = column(board, "worst_case_accuracy-8")
    assert [(entry.text, entry.is_best) for entry in entries] == [
        ("60.0 (n = 5)", False),
        ("40.0", True),
        ("30.0", False),
    ]


def _clean(cell: str, quantity: str, share: float, images: int) -> dict[str, Any]:
    (row,) = _numbers(cell, linf=share)
    return {**row, "quantity": quantity, "attack": "", "epsilon": "", "norm": "", "num_images": images}


def test_a_model_without_a_card_has_its_clean_accuracy_beside_test_accuracies(write_records):
    rows = [
        *_numbers("a", linf=0.3),
        *_numbers("b", linf=0.3),
        *_numbers("reference", linf=0.3),
        _clean("a", "test_accuracy", 0.8, 1000),
        _clean("a", "clean_accuracy", 0.5, 100),
        _clean("b", "test_accuracy", 0.7, 1000),
        _clean("reference", "clean_accuracy", 0.9, 100),
        _clean("reference", "clean_accuracy", 0.6, 50),
    ]
    board = leaderboard(read_study_records(write_records(rows)))
    assert [(entry.text, entry.is_best) for entry in column(board, "test_accuracy")] == [
        ("90.0 (n = 100)", False),
        ("80.0", True),
        ("70.0", False),
    ]
    assert [entry.text for entry in column(board, "cell")] == ["reference", "a", "b"]
    plain = [row for row in rows if row["quantity"] != "test_accuracy"]
    (clean,) = [each for each in leaderboard(read_study_records(write_records(plain))).columns if each.label == "clean"]
    assert clean.unit == "%, n = 100"


def test_the_noise_of_an_objective_without_beta_is_shown(study_rows, write_records):
    rows = [row for row in study_rows if row["beta"] is None]
    rows = [{**row, "noise": noise, "cell": f"{row['cell']}-{noise}"} for row in rows for noise in (True, False)]
    board = leaderboard(read_study_records(write_records(rows)))
    entries = zip(column(board, "cell"), column(board, "noise"), strict=True)
    assert {(cell.text.rpartition("-")[2], noise.text) for cell, noise in entries} == {("True", "yes"), ("False", "no")}


def test_each_data_set_has_a_best_number_and_a_sentence_of_its_own(write_records):
    datasets = {"a": "digits", "b": "digits", "c": "cifar10", "d": "cifar10"}
    rows = [row for name, share in zip("abcd", (0.9, 0.8, 0.4, 0.3), strict=True) for row in _numbers(name, linf=share)]
    found = read_study_records(write_records(rows))
    board = leaderboard(found, datasets)
    best = [entry.text for entry in column(board, "worst_case_accuracy-8") if entry.is_best]
    assert best == ["90.0", "40.0"]
    said = summary(found, [{"name": name, "status": "done", "dataset": images} for name, images in datasets.items()])
    assert [("on digits" in text, "on cifar10" in text) for text in said if text.startswith("Highest")] == [
        (True, False),
        (False, True),
    ]


def test_epsilons_are_written_as_people_write_them(write, study_rows):
    wanted = next(row for row in study_rows if row["quantity"] == "worst_case_accuracy")
    row = {**wanted, "attack": "CW", "norm": "L2", "epsilon": 0.3, "value": 0.99}
    page = Page(write([*study_rows, row], cells=[cell(row["cell"], recipe={"epsilon": 8 / 255})]))
    assert {"0.3", "8/255"} <= set(page.text)
    assert not {"0.3 (76.5/255)", repr(8 / 255)} & set(page.text)


def test_each_audited_epsilon_has_an_answer_and_the_largest_orders_the_rows(write_records):
    answers = {
        "first": {4: "not real, misleading", 8: "real, honest"},
        "last": {4: "real, honest", 8: "not real, honest"},
    }
    numbers = [row for name in ("last", "first", "half") for row in _numbers(name, linf=0.0)]
    audit = {"quantity": "audit_worst_case_accuracy", "attack": "", "value": 0.5}
    rows = [
        {**row, **audit, "epsilon": n / 255, "verdict": verdict}
        for row in numbers
        for n, verdict in answers.get(row["cell"], {4: "undecided, honest"}).items()
    ]
    found = read_study_records(write_records([*numbers, *rows]))
    board = leaderboard(found)
    assert [(column.key, column.label) for column in board.columns[:2]] == [
        ("verdict-4", "audit 4/255"),
        ("verdict-8", "audit 8/255"),
    ]
    assert [[entry.text for entry in row[:3]] for row in board.rows] == [
        ["not real, misleading", "real, honest", "first"],
        ["undecided, honest", "–", "half"],
        ["real, honest", "not real, honest", "last"],
    ]
    assert [sentence for sentence in summary(found, []) if sentence.startswith("Audits")] == [
        "Audits at ε = 4/255, one per cell and decoder: 1 real, honest; 1 undecided, honest; 1 not real, misleading.",
        "Audits at ε = 8/255, one per cell and decoder: 1 real, honest; 1 not real, honest.",
    ]


def test_a_model_that_only_fgsm_attacked_comes_after_those_that_were_searched(study_rows, write_records):
    searched = study_rows[0]["cell"]
    rows = [row for row in study_rows if row["cell"] == searched or "worst_case" not in row["quantity"]]
    for row in rows:
        row |= {"verdict": "sound"} if row.get("verdict") else {}
    board = leaderboard(read_study_records(write_records(rows)))
    verdicts = [entry.text for entry in column(board, "verdict")]
    assert set(verdicts) == {"older audit: sound", "not audited"}
    assert verdicts == sorted(verdicts, reverse=True), "the audited ones first"


def test_of_two_numbers_the_one_on_more_images_is_shown(study_rows, write_records):
    wanted = next(row for row in study_rows if row["quantity"] == "worst_case_accuracy")
    rows = [{**wanted, "value": 0.875, "num_images": 7}, *study_rows]
    board = leaderboard(read_study_records(write_records(rows)))
    assert "87.5" not in [entry.text for entry in column(board, "worst_case_accuracy-4")]


def test_the_images_of_a_cell_are_a_column_where_they_differ(records):
    cells = list(dict.fromkeys(record.cell for record in records))
    same = leaderboard(records, dict.fromkeys(cells, "digits"))
    assert "dataset" not in [column.key for column in same.columns]
    two = leaderboard(records, {**dict.fromkeys(cells, "digits"), cells[0]: "cifar10"})
    assert {entry.text for entry in column(two, "dataset")} == {"digits", "cifar10"}


def test_numbers_are_those_of_the_records_in_per_cent(records):
    board = leaderboard(records)
    for row in board.rows:
        of_it = {column.key: entry for column, entry in zip(board.columns, row, strict=True)}
        for record in records:
            if (record.cell, record.decoder) == (of_it["cell"].sort, of_it["decoder"].sort):
                if record.quantity == "worst_case_accuracy" and record.epsilon == 8 / 255:
                    assert float(of_it["worst_case_accuracy-8"].sort) == record.value
                    assert of_it["worst_case_accuracy-8"].text == f"{100 * record.value:.1f}"
                if record.quantity == "test_accuracy":
                    assert float(of_it["test_accuracy"].sort) == record.value


def test_models_that_an_audit_speaks_against_come_last_and_are_never_the_best_under_attack(records):
    board = leaderboard(records)
    assert board.columns[0].key == "verdict"
    verdicts = [entry.text for entry in column(board, "verdict")]
    assert verdicts == sorted(verdicts, key=["real, honest", "real, misleading", "not real, vanishing"].index)
    assert verdicts.count("not real, vanishing") == 2
    fgsm = column(board, "accuracy-32")
    assert max(float(entry.sort) for entry in fgsm) == max(float(entry.sort) for entry in fgsm[-2:])
    assert [entry.text.endswith("†") for entry in fgsm] == [verdict == "not real, vanishing" for verdict in verdicts]
    cells = [entry.text for entry in column(board, "cell")]
    # All decoders of a model have one encoder: a doubt about one is a doubt about the others.
    doubted = {cell for cell, verdict in zip(cells, verdicts, strict=True) if verdict != "real, honest"}
    honest = [entry for entry, cell in zip(fgsm, cells, strict=True) if cell not in doubted]
    assert 0 < len(honest) < verdicts.count("real, honest")
    best = [entry for entry in fgsm if entry.is_best]
    assert [float(entry.sort) for entry in best] == [max(float(entry.sort) for entry in honest)]


def test_verdicts_of_older_audits_are_shown_as_that_and_masked_models_never_win(study_rows, write_records):
    older = {"real, honest": "sound", "real, misleading": "suspicious", "not real, vanishing": "masked"}
    for row in study_rows:
        row["verdict"] = older.get(row.get("verdict"), "")
    board = leaderboard(read_study_records(write_records(study_rows)))
    verdicts = column(board, "verdict")
    assert {entry.text for entry in verdicts} == {f"older audit: {word}" for word in older.values()}
    assert {entry.tone for entry in verdicts} == {"older"}
    assert [entry.text for entry in verdicts[-2:]] == ["older audit: masked"] * 2
    assert not any(entry.is_best for entry in column(board, "accuracy-32")[-2:])


def test_older_audits_that_spoke_against_a_model_still_do(study_rows, write_records):
    for row in study_rows:
        row["verdict"] = f"older audit: {row['verdict']}" if row.get("verdict") else ""
    board = leaderboard(read_study_records(write_records(study_rows)))
    assert {entry.text for entry in column(board, "verdict")[-26:]} == {
        "older audit: real, misleading",
        "older audit: not real, vanishing",
    }
    assert not any(entry.is_best for entry in column(board, "audit_worst_case_accuracy-8")[-26:])


def test_a_column_is_judged_by_the_audit_at_its_epsilon(study_rows, write_records):
    (best,) = [
        entry
        for entry in column(leaderboard(read_study_records(write_records(study_rows))), "accuracy-8")
        if entry.is_best
    ]
    of_fgsm = [row for row in study_rows if (row["quantity"], row.get("attack")) == ("accuracy", "FGSM")]
    (row,) = [row for row in of_fgsm if row["epsilon"] == 8 / 255 and repr(row["value"]) == best.sort]
    audit = next(
        each
        for each in study_rows
        if each["quantity"] == "audit_worst_case_accuracy"
        and (each["cell"], each["decoder"]) == (row["cell"], row["decoder"])
    )
    # At a larger epsilon nothing is known against it.
    study_rows.append({**audit, "epsilon": 16 / 255, "verdict": "undecided, honest"})
    audit["verdict"] = "not real, misleading"
    entries = column(leaderboard(read_study_records(write_records(study_rows))), "accuracy-8")
    assert not any(entry.is_best for entry in entries if entry.sort == best.sort)


def test_an_upper_bound_is_marked_and_is_never_the_best(study_rows, write_records):
    audits = [row for row in study_rows if row["quantity"] == "audit_worst_case_accuracy"]
    doubted = {row["cell"] for row in audits if row["verdict"] != "real, honest"}
    best = max((row for row in audits if row["cell"] not in doubted), key=lambda row: row["value"])
    best["upper_bound"] = True
    for row in audits:
        row["num_images"] = 1000  # as many as in the worst case over attacks
    known = read_study_records(write_records(study_rows))
    board = leaderboard(known)
    worst = column(board, "audit_worst_case_accuracy-8")
    (marked,) = [entry for entry in worst if entry.is_bound]
    assert marked.text == f"≤{per_cent(best['value'], is_bound=True)}"
    assert not marked.is_best
    others = [
        float(entry.sort)
        for entry, name in zip(worst, column(board, "cell"), strict=True)
        if name.text not in doubted and not entry.is_bound
    ]
    assert [float(entry.sort) for entry in worst if entry.is_best] == [max(others)]
    sentence = summary(known, [])[1]
    assert sentence.startswith("Highest accuracy in the audit's worst case")
    assert f"calls not real or not honest; upper bounds (≤) are left out: {100 * max(others):.1f}%" in sentence


@pytest.mark.parametrize(
    ("of_audit", "named"), [(256, "the worst case over attacks"), (1000, "the audit's worst case")]
)
def test_the_first_lines_name_the_worst_case_on_more_images(study_rows, write_records, of_audit, named):
    for row in study_rows:
        if row["quantity"] in ("audit_worst_case_accuracy", "worst_case_accuracy"):
            row["num_images"] = of_audit if row["quantity"].startswith("audit") else 1000
    sentence = summary(read_study_records(write_records(study_rows)), [])[1]
    assert sentence.startswith(f"Highest accuracy in {named} at ε = 8/255")
    assert f"n = {1000:,})" in sentence


def test_fgsm_accuracies_that_are_upper_bounds_are_marked_and_never_the_best(study_rows, write_records):
    def fgsm_column():
        return column(leaderboard(read_study_records(write_records(study_rows))), "accuracy-8")

    (best,) = [entry for entry in fgsm_column() if entry.is_best]
    of_fgsm = [row for row in study_rows if (row["quantity"], row.get("attack")) == ("accuracy", "FGSM")]
    (row,) = [row for row in of_fgsm if row["epsilon"] == 8 / 255 and repr(row["value"]) == best.sort]
    row["upper_bound"] = True
    (marked,) = [entry for entry in fgsm_column() if entry.is_bound]
    assert (marked.text, marked.is_best) == (f"≤{best.text}", False)


def test_the_curves_mark_upper_bounds(study_rows, write_records):
    of_fgsm = [row for row in study_rows if (row["quantity"], row.get("attack")) == ("accuracy", "FGSM")]
    next(row for row in of_fgsm if row["epsilon"] == 8 / 255)["upper_bound"] = True
    charts = epsilon_charts(read_study_records(write_records(study_rows)))
    marks = [mark for chart in charts for curve in chart.curves for mark in curve.marks]
    (bound,) = [mark for mark in marks if mark.accuracy.startswith("≤")]
    assert bound.epsilon == "8/255"
    assert f": {bound.accuracy}%" in bound.reading


def test_the_numbers_of_a_cell_mark_upper_bounds(study_rows, write_records, tmp_path):
    row = next(row for row in study_rows if row["quantity"] == "worst_case_accuracy")
    row["upper_bound"] = True
    records = write_records(study_rows)
    page = write_report(
        title="A study", records=records, figures=(), cells=[cell(row["cell"])], out=tmp_path / "a.html"
    )
    text = page.read_text(encoding="utf-8")
    assert f"≤{per_cent(row['value'], 2, is_bound=True)}%" in text
    assert f"≤{per_cent(row['value'], is_bound=True)}<" in text


def test_within_a_verdict_the_audits_worst_case_decides(records):
    board = leaderboard(records)
    worst, verdicts = column(board, "audit_worst_case_accuracy-8"), column(board, "verdict")
    honest = [
        float(entry.sort) for entry, verdict in zip(worst, verdicts, strict=True) if verdict.text == "real, honest"
    ]
    assert len(honest) == 30
    assert honest == sorted(honest, reverse=True)


def test_the_header_says_how_many_images(records):
    units = {column.key: column.unit for column in leaderboard(records).columns}
    assert units["accuracy-8"] == "%, n = 1,000"
    assert units["test_accuracy"] == "%, n = 2,000"


def test_without_an_audit_nothing_is_called_real(study_rows, write_records):
    rows = [row for row in study_rows if not row.get("verdict")]
    found = read_study_records(write_records(rows))
    assert "verdict" not in [column.key for column in leaderboard(found).columns]
    assert "No model was audited" in " ".join(summary(found, []))


# The summary and the curves


def test_the_summary_counts_and_names_the_best_worst_case(records):
    cells = [cell("a"), cell("b"), cell("c", "failed"), cell("d", "interrupted")]
    progress, audits, best, overstated = summary(records, cells)
    assert progress == "4 cells: 2 done, 1 failed, 1 interrupted."
    assert audits == (
        "Audits at ε = 8/255, one per cell and decoder: 30 real, honest; 24 real, misleading; 2 not real, vanishing."
    )
    doubted = {record.cell for record in records if record.verdict not in ("", "real, honest")}
    worst = {
        (record.cell, record.decoder): record.value
        for record in records
        if record.quantity == "worst_case_accuracy" and record.epsilon == 8 / 255 and record.cell not in doubted
    }
    name, decoder = max(worst, key=worst.get)
    assert f"{100 * worst[name, decoder]:.1f}% (95% interval" in best
    assert best.endswith(f"n = 500), {name} ({decoder.replace('_', ' ')}).")
    assert "knn_ib-0.3-True-0.0-0 (gaussian mixture) keeps 51.1% under FGSM at ε = 32/255" in overstated
    assert overstated.endswith("its audit at 8/255 says: not real, vanishing.")


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ((0.2, 0.4, 0.1), ": 40.0% (95% interval 30.9 to 49.8, n = 100), b (head)."),
        ((0.4, 0.4, 0.1), "n = 100), a (head) and b (head)."),
        ((0.4, 0.4, 0.4), "n = 100), a (head), b (head) and c (head)."),
        ((0.4, 0.4, 0.4, 0.4), "n = 100), 4 models."),
        ((0.0, 0.0), ": 0.0% (95% interval 0.0 to 3.7, n = 100); no model keeps any image."),
    ],
)
def test_the_summary_names_all_models_with_the_highest_accuracy(write_records, shares, said):
    rows = [row for name, share in zip("abcd", shares, strict=False) for row in _numbers(name, linf=share)]
    sentence = summary(read_study_records(write_records(rows)), [])[-1]
    assert sentence.startswith("Highest accuracy in the worst case over attacks at ε = 8/255: ")
    assert sentence.endswith(said)


def test_the_summary_names_a_model_once_with_its_decoders(write_records):
    rows = _numbers("a", linf=0.4)
    rows += [*_with_decoder(rows, "gaussian_mixture"), *_numbers("b", linf=0.4), *_numbers("c", linf=0.4)]
    sentence = summary(read_study_records(write_records(rows)), [])[-1]
    assert sentence.endswith("n = 100), a (head, gaussian mixture), b (head) and c (head).")


def test_the_summary_does_not_say_that_no_model_keeps_an_image_if_it_leaves_one_out(write_records):
    bound = [{**row, "upper_bound": True} for row in _numbers("bound", linf=0.3)]
    sentence = summary(read_study_records(write_records([*bound, *_numbers("a", linf=0.0)])), [])[-1]
    assert sentence.startswith(
        "Highest accuracy in the worst case over attacks at ε = 8/255; upper bounds (≤) are left out: 0.0% ("
    )
    assert sentence.endswith("; none of these models keeps any image.")


def test_the_summary_says_of_an_accuracy_what_the_audit_at_its_epsilon_says(study_rows, write_records):
    measured = next(row for row in study_rows if row.get("verdict"))
    audit = {**measured, "quantity": "audit_worst_case_accuracy", "verdict": "real, honest"}
    wider = {**audit, "epsilon": 2 * audit["epsilon"], "verdict": "not real, honest"}
    fgsm = {**audit, "attack": "FGSM", "quantity": "accuracy", "value": 0.47, "verdict": ""}
    found = read_study_records(write_records([audit, wider, fgsm]))
    assert not [sentence for sentence in summary(found, []) if "Not a sign" in sentence]
    found = read_study_records(write_records([wider, fgsm]))
    assert summary(found, [])[-1].endswith("its audit at 16/255 says: not real, honest.")


def test_the_summary_names_the_number_of_the_leaderboard(study_rows, write_records):
    rows = [row for row in study_rows if row["quantity"] == "worst_case_accuracy"]
    widest = [row for row in rows if row["epsilon"] == 8 / 255]
    fewer = {**widest[0], "value": 0.99, "num_images": 7}
    best = max(row["value"] for row in widest)
    text = " ".join(summary(read_study_records(write_records([*rows, fewer])), []))
    assert f"{100 * best:.1f}% (95% interval" in text


def test_the_interval_is_wilsons(study_rows, write_records):
    from scipy.stats import binomtest

    rows = [row for row in study_rows if row["quantity"] == "audit_worst_case_accuracy"][:1]
    rows[0] |= {"value": 0.0, "num_images": 50}
    text = " ".join(summary(read_study_records(write_records(rows)), []))
    oracle = binomtest(0, 50).proportion_ci(0.95, "wilson")
    assert f"(95% interval {100 * oracle.low:.1f} to {100 * oracle.high:.1f}, n = 50)" in text


def test_marks_are_where_their_accuracy_is(records):
    chart = epsilon_charts(records)[0]
    heights = {label: place for place, label in chart.y_ticks}
    widths = {label: place for place, label in chart.x_ticks}
    for curve in chart.curves:
        for mark in curve.marks:
            share = float(mark.accuracy) / 100
            assert mark.y == pytest.approx(heights["0"] + share * (heights["100"] - heights["0"]), abs=0.2)
            if mark.epsilon in widths:
                assert mark.x == widths[mark.epsilon]
    assert [tick for _, tick in chart.x_ticks] == ["0", "8/255", "16/255", "24/255", "32/255"]


def test_the_charts_of_the_objectives_with_most_cells_come_first(study_rows, write_records):
    first = [row for row in study_rows if row["cell"] == study_rows[0]["cell"]]
    few = [{**row, "cell": "dvib", "objective": "dvib"} for row in first]
    few += [{**row, "cell": "once more", "setting": "k = 7"} for row in first]
    charts = epsilon_charts(read_study_records(write_records([*few, *study_rows])))
    assert [chart.title for chart in charts] == [
        f"{decoder} decoder, {model}"
        for model in ("knn_ib", "knn_ib, k = 7", "DVIB")
        for decoder in ("Gaussian-mixture", "logistic")
    ]


def test_a_chart_says_if_a_baseline_has_another_decoder(records):
    mixture, logistic = epsilon_charts(records)
    assert [curve.label for curve in mixture.curves[-2:]] == ["cross-entropy", "DropConnect 0.5"]
    assert [curve.label for curve in logistic.curves[-2:]] == ["cross-entropy (head)", "DropConnect 0.5 (head)"]


def test_a_reading_says_all_there_is_to_a_point(records):
    curve = next(curve for curve in epsilon_charts(records)[0].curves if curve.is_marked)
    assert curve.marks[-1].reading == (
        "β = 0.3, noise at ε = 32/255: 51.0% (50.8 to 51.1 in 2 cells), n = 1,000 "
        "† 37.0% of the images were not attacked"
    )
