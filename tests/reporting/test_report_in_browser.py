"""The report in a real browser: Debian's chromium, driven by playwright. Run with ``pytest -m browser``."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ibrobust.reporting.figures.draw import FIGURES, draw_study_figures
from ibrobust.reporting.html.report import write_report

pytestmark = pytest.mark.browser

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"
LONG = "a-cell-with-a-very-long-name-" * 5


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium; without it, or without playwright, tests that were asked for fail, they are not skipped."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or "/usr/bin/chromium", args=list(FLAGS)
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(stored_study) -> Path:
    """A report with a masked model, a failed cell, names that are code, and one that is long."""
    records, names = stored_study({"knn_ib-0.0-True-0.0-0": EVIL, "cross_entropy-None-None-0.5-1": LONG})
    assert {EVIL, LONG} < set(names)
    cells = [
        {
            "name": name,
            "status": "done",
            "recipe": {"dataset": "digits", "objective_options": {"x" * 80: "y" * 80}},
            "versions": {"torch": "2.9.1"},
            "hardware": "a machine",
        }
        for name in names
    ]
    cells.append({"name": "bad", "status": "failed", "error": "No such file: /" + "x" * 200})
    return write_report(
        title=f"A study {EVIL}",
        records=records,
        figures=draw_study_figures(records, records.parent / "figures", list(FIGURES)),
        cells=cells,
        out=records.parent / "report.html",
    )


@pytest.fixture
def visit(browser, report) -> Iterator[Any]:
    """Open the report; afterwards, nothing but the file was asked for and nothing was complained about."""
    asked: list[str] = []
    complaints: list[str] = []
    contexts = []

    def visit(width: int = 1280, scheme: str = "light", *, touch: bool = False) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, has_touch=touch)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        page.goto(report.as_uri())
        return page

    yield visit
    for context in contexts:
        context.close()
    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()] * len(contexts)
    assert complaints == []


def order(page: Any, key: str) -> list[str]:
    place = [head.get_attribute("data-key") for head in page.locator(".board thead th").all()].index(key)
    return page.locator(f".board tbody tr > :nth-child({place + 1})").all_inner_texts()


def head(page: Any, key: str) -> Any:
    return page.locator(f'.board th[data-key="{key}"]')


def numbers(texts: list[str]) -> list[float]:
    return [float(text.rstrip("†")) for text in texts if text != "–"]


def test_a_column_is_sorted_by_its_numbers_and_back(visit):
    page = visit()
    before = order(page, "accuracy-32")
    assert numbers(before) != sorted(numbers(before), reverse=True)
    head(page, "accuracy-32").get_by_role("button").click()
    assert order(page, "accuracy-32") == sorted(before, key=lambda text: -float(text.rstrip("†")))
    assert order(page, "accuracy-32")[0] == "51.1†"  # the masked model, as high as it is, with its dagger
    assert head(page, "accuracy-32").get_attribute("aria-sort") == "descending"
    head(page, "accuracy-32").get_by_role("button").click()
    assert numbers(order(page, "accuracy-32")) == sorted(numbers(before))
    assert head(page, "accuracy-32").get_attribute("aria-sort") == "ascending"
    assert page.locator('.board th[aria-sort="ascending"], .board th[aria-sort="descending"]').count() == 1


def test_a_column_is_sorted_by_keyboard_and_empty_fields_come_last_both_ways(visit):
    page = visit()
    head(page, "beta").get_by_role("button").focus()
    page.keyboard.press("Enter")
    rising = order(page, "beta")
    page.keyboard.press("Space")
    falling = order(page, "beta")
    assert rising[0] == "0"
    assert falling[0] == "0.3"
    assert rising[-1] == falling[-1] == "–"  # cross-entropy has no beta
    assert numbers(rising) == sorted(numbers(rising))
    assert numbers(falling) == sorted(numbers(rising), reverse=True)
    assert page.locator("#sorted").inner_text() == "Sorted by β, descending."


def test_the_verdict_is_sorted_by_what_it_means(visit):
    page = visit()
    head(page, "verdict").get_by_role("button").click()
    found = order(page, "verdict")
    assert list(dict.fromkeys(found)) == ["real, honest", "real, misleading", "not real, vanishing"]


def shown(page: Any, key: str) -> list[str]:
    place = [head.get_attribute("data-key") for head in page.locator(".board thead th").all()].index(key)
    return page.locator(f".board tbody tr:not([hidden]) > :nth-child({place + 1})").all_inner_texts()


def test_rows_are_searched_and_filtered(visit):
    page = visit()
    columns = ("cell", "decoder", "objective")
    everything = list(zip(*(shown(page, key) for key in columns), strict=True))
    page.get_by_label("Search").fill("KNN_ib logistic")
    found = list(zip(*(shown(page, key) for key in columns), strict=True))
    # The model whose name is code has the objective, but not in its name.
    assert found == [row for row in everything if row[1] == "logistic" and row[2] == "knn_ib"]
    assert EVIL in [cell for cell, *_ in found]
    assert page.locator("#shown").inner_text() == f"{len(found)} of {len(everything)} rows"
    page.get_by_label("Search").fill("")
    page.locator('select[data-key="decoder"]').select_option("head")
    assert set(shown(page, "decoder")) == {"head"}
    assert len(shown(page, "decoder")) == sum(decoder == "head" for _, decoder, _ in everything)
    page.locator('select[data-key="decoder"]').select_option("all")
    assert len(shown(page, "cell")) == len(everything)


@pytest.mark.parametrize("width", [400, 1280])
def test_what_is_shown_can_be_downloaded_with_its_exact_numbers(visit, width):
    page = visit(width)
    page.locator('select[data-key="decoder"]').select_option("head")
    files = {}
    for name in ("CSV", "JSON"):
        with page.expect_download() as download:
            page.get_by_role("button", name=name, exact=True).click()
        assert download.value.suggested_filename == f"leaderboard.{name.lower()}"
        files[name] = Path(download.value.path()).read_text(encoding="utf-8")
    from_json = json.loads(files["JSON"])
    from_csv = list(csv.DictReader(files["CSV"].splitlines()))
    assert [row["cell"] for row in from_json] == [row["cell"] for row in from_csv] == shown(page, "cell")
    exact = page.locator('.board tbody tr:not([hidden]) td[data-label="clean"]').first.get_attribute("data-sort")
    assert from_json[0]["clean (share)"] == float(from_csv[0]["clean (share)"]) == float(exact) <= 1
    with page.expect_download() as download:
        page.get_by_role("link", name="all records").click()
    assert download.value.suggested_filename == "records.csv"


def test_a_download_says_which_numbers_are_upper_bounds(browser, study_rows, write_records, tmp_path):
    audited = [row for row in study_rows if row["quantity"] == "audit_worst_case_accuracy"]
    audited[0]["upper_bound"] = True
    records = write_records(study_rows)
    report = write_report(title="A study", records=records, figures=(), cells=[], out=tmp_path / "report.html")
    page = browser.new_page()
    page.goto(report.as_uri())
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV", exact=True).click()
    lines = list(csv.DictReader(Path(download.value.path()).read_text(encoding="utf-8").splitlines()))
    page.close()
    bounds = [line for line in lines if line["audit worst case 8/255 is an upper bound"] == "true"]
    assert len(lines) == len(audited)
    assert [(line["cell"], float(line["audit worst case 8/255 (share)"])) for line in bounds] == [
        (audited[0]["cell"], audited[0]["value"])
    ]


def test_a_download_says_which_numbers_are_masked_and_on_how_many_images(browser, study_rows, write_records, tmp_path):
    few = "cross_entropy-None-None-0.5-1"
    rows = [
        {**row, "num_images": 40} if row["cell"] == few and row.get("attack") in ("FGSM", "PGD:steps=50") else row
        for row in study_rows
    ]
    report = write_report(title="A study", records=write_records(rows), figures=(), cells=[], out=tmp_path / "r.html")
    page = browser.new_page()
    page.goto(report.as_uri())
    files = {}
    for name in ("CSV", "JSON"):
        with page.expect_download() as download:
            page.get_by_role("button", name=name, exact=True).click()
        files[name] = Path(download.value.path()).read_text(encoding="utf-8")
    page.close()
    lines = list(csv.DictReader(files["CSV"].splitlines()))
    marked = [key for key in lines[0] if key.endswith(("robustness", "images"))]
    fgsm = [key.removesuffix(" (share)") for key in lines[0] if re.fullmatch(r"FGSM \d+/255 \(share\)", key)]
    counted = {key.removesuffix(" number of images") for key in marked if key.endswith("images")}
    assert counted >= {"clean", *fgsm}, "also of a column whose numbers are all on as many"
    assert [key for key in marked if key.endswith("robustness")] == [
        f"{key} is not a sign of robustness" for key in fgsm
    ]
    for line, other in zip(lines, json.loads(files["JSON"]), strict=True):
        is_marked = line["cell"].startswith("knn_ib-0.3-True") and line["decoder"] == "gaussian mixture"
        count = 40 if line["cell"] == few else 1000
        for key in fgsm:
            assert line[f"{key} is not a sign of robustness"] == ("true" if is_marked else "false")
            assert int(line[f"{key} number of images"]) == other[f"{key} number of images"] == count
    assert sum(line["cell"] == few for line in lines) == 2


def test_answers_at_two_epsilons_are_sorted_and_saved_each(browser, study_rows, write_records, tmp_path):
    audited = [row for row in study_rows if row["quantity"] == "audit_worst_case_accuracy"]
    at_4 = [{**row, "epsilon": 4 / 255, "verdict": "real, random"} for row in audited[1:]]
    at_4.append({**audited[0], "epsilon": 4 / 255, "verdict": "undecided, honest"})
    report = write_report(
        title="A study", records=write_records([*study_rows, *at_4]), figures=(), cells=[], out=tmp_path / "report.html"
    )
    page = browser.new_page()
    page.goto(report.as_uri())
    for _ in range(2):
        head(page, "verdict-4").get_by_role("button").click()
    assert list(dict.fromkeys(order(page, "verdict-4"))) == ["undecided, honest", "real, random"]
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV", exact=True).click()
    lines = list(csv.DictReader(Path(download.value.path()).read_text(encoding="utf-8").splitlines()))
    page.close()
    assert [line["audit 4/255"] for line in lines[:2]] == ["undecided, honest", "real, random"]
    assert {line["audit 8/255"] for line in lines} == {row["verdict"] for row in audited}


def test_a_curve_is_read_under_the_pointer(visit):
    page = visit()
    plot = page.locator(".plot").first
    mark = plot.locator(".curve.masked .mark").last
    output = plot.locator("output")
    assert output.inner_text().strip() == ""
    mark.scroll_into_view_if_needed()
    box = mark.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert output.inner_text() == (
        "β = 0.3, noise at ε = 32/255: 51.0% (50.8 to 51.1 in 2 cells), n = 1,000 "
        "† 37.0% of the images were not attacked"
    )
    assert plot.locator(".curve.read").get_attribute("data-label") == "β = 0.3, noise"
    page.mouse.move(0, 0)
    assert output.inner_text().strip() == ""


def test_a_curve_is_read_by_keyboard(visit):
    page = visit()
    plot = page.locator(".plot").first
    page.get_by_role("link", name="Epsilon curves").focus()
    plot.focus()
    page.keyboard.press("ArrowRight")
    first = plot.locator("output").inner_text()
    page.keyboard.press("ArrowRight")
    second = plot.locator("output").inner_text()
    page.keyboard.press("ArrowDown")
    third = plot.locator("output").inner_text()
    marks = plot.locator(".curve").nth(0).locator(".mark").all()
    below = plot.locator(".curve").nth(1).locator(".mark").all()
    assert first in [mark.get_attribute("data-reading") for mark in marks]
    assert second == marks[marks_index(marks, first) + 1].get_attribute("data-reading")
    assert third == below[marks_index(marks, second)].get_attribute("data-reading")
    for _ in range(40):
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
    last = plot.locator(".curve").last.locator(".mark").last.get_attribute("data-reading")
    assert plot.locator("output").inner_text() == last
    page.keyboard.press("Escape")
    assert plot.locator("output").inner_text().strip() == ""


def marks_index(marks: list[Any], reading: str) -> int:
    return [mark.get_attribute("data-reading") for mark in marks].index(reading)


def test_a_touch_reads_a_curve_and_it_stays(visit):
    page = visit(400, touch=True)
    plot = page.locator(".plot").first
    mark = plot.locator(".curve").last.locator(".mark").last
    mark.scroll_into_view_if_needed()
    box = mark.bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert "at ε = 32/255" in plot.locator("output").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_scrolls_sideways(visit, width, scheme):
    page = visit(width, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    # What sticks out would be cut off without a scroll bar too; tables scroll in boxes of their own.
    outside = page.evaluate(
        """width => [...document.querySelectorAll('body *')]
            .filter(one => !one.closest('.wide, .visually-hidden, svg'))
            .filter(one => one.getBoundingClientRect().right > width + 1)
            .map(one => one.outerHTML.slice(0, 200))""",
        width,
    )
    assert outside == []
    # On a phone the leaderboard is cards, of which nothing hides in a box either.
    box = page.locator("#leaderboard .wide")
    assert box.evaluate("box => box.scrollWidth - box.clientWidth") <= 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible_on_its_background(visit, scheme):
    page = visit(1280, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    poor = page.evaluate(
        """() => {
            const parse = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
            const light = (c) => {
                const [r, g, b] = c.slice(0, 3).map((v) => v / 255)
                    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const ground = (one) => {
                for (let at = one; at; at = at.parentElement) {
                    const c = parse(getComputedStyle(at).backgroundColor);
                    if (c.length === 3 || c[3] === 1) return c;
                }
                return [255, 255, 255];
            };
            const found = [];
            for (const one of document.querySelectorAll('body *:not(script)')) {
                const own = [...one.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
                if (!own) continue;
                const style = getComputedStyle(one);
                const ink = one.closest('svg') ? style.fill : style.color;
                const [a, b] = [light(parse(ink)), light(ground(one))];
                const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
                if (contrast < 4.5) found.push([contrast, one.outerHTML.slice(0, 120)]);
            }
            return found;
        }"""
    )
    assert poor == []


def test_in_the_dark_curves_are_turned_round_as_the_figures_are(visit):
    page = visit(1280, "dark")
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<div class=figures><img alt=x></div>')")
    filters = page.evaluate(
        """['.figures img', '.curve', '#curves .legend svg']
            .map(of => getComputedStyle(document.querySelector(of)).filter)"""
    )
    assert filters[0] != "none"
    assert set(filters) == {filters[0]}


def test_a_recipe_opens_and_a_name_is_only_text(visit):
    page = visit()
    assert page.title() == f"A study {EVIL}"
    cell = page.locator("details.cell").first
    assert cell.locator(".name").inner_text() == EVIL
    assert not cell.locator(".recipe").is_visible()
    cell.locator("summary").click()
    assert cell.locator(".recipe").is_visible()
    assert page.locator("#failed dt").all_inner_texts() == ["bad"]


@pytest.mark.parametrize("policy", [True, False])
def test_a_script_that_got_in_would_not_run(browser, report, policy):
    """A planted defect: were a name not escaped, the page's policy would still keep it from running."""
    text = report.read_text(encoding="utf-8").replace("</main>", "<script>document.title = 'run'</script></main>")
    if not policy:  # the script does run without
        text = text.replace("Content-Security-Policy", "nothing")
    planted = report.with_name("planted.html")
    planted.write_text(text, encoding="utf-8")
    context = browser.new_context()
    page = context.new_page()
    page.goto(planted.as_uri())
    assert page.title() == (f"A study {EVIL}" if policy else "run")
    context.close()


def test_a_figure_keeps_its_size_on_a_narrow_screen_and_the_page_does_not_scroll(visit):
    page = visit(400)
    sizes = page.evaluate(
        "[...document.querySelectorAll('.figures img')].map(image => [image.clientWidth - 16, image.naturalWidth])"
    )
    assert sizes
    assert all(shown == natural for shown, natural in sizes)
    assert page.evaluate("document.documentElement.scrollWidth") == 400
