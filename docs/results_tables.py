"""The numbers of docs/results.md: tables, figures and CSV, from what a study of the shipped models measured.

    ibrobust study run zoo --dataset DIR --launcher local --jobs 2     # measures, and resumes
    ibrobust study cards zoo --shipped                                 # into the cards
    python docs/results_tables.py zoo                                  # into this folder, and into results.md
    python docs/results_tables.py                                      # again, from docs/records alone

A study's results are copied to docs/records/STUDY, one file per model with a result for every image. Each table in
results.md stands between two comments; the text around them is written by hand. A table with a row for each model is
a CSV file in the folder tables, but for the two with which the page begins.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from widths import accuracy_cell, draw_widths, read_widths, widths_rows

from ibrobust.atomic import write_text
from ibrobust.epsilon import format_epsilon
from ibrobust.evaluation.attacks.comparison import paired_difference
from ibrobust.evaluation.attacks.result import AttackResult
from ibrobust.records import is_older_attack, is_older_audit, read_study_records
from ibrobust.reporting.figures.series import WORST_CASE
from ibrobust.reporting.model_rows import card_verdict
from ibrobust.study.results import worst_cases

DOCS = Path(__file__).resolve().parent
RECORDS = DOCS / "records"
# What all others are compared with.
BASELINE = "cross_entropy-w16-s0"
EPSILONS = (2 / 255, 4 / 255, 8 / 255)
L2_EPSILONS = (0.25, 0.5)
IMAGES = 1000  # of the attacks; a few more results have other numbers
PLANE = RECORDS / "figure2-small.csv"
REENCODING = RECORDS / "reencoding.csv"
WIDTHS = (RECORDS / "worst-case.csv", RECORDS / "widths.csv")
LEARNT = 0.5  # an accuracy; the error of a model that guesses would hide the differences of the others
# The objectives in the figures, and the beginning of the names of the models that are drawn: the figures say it.
DRAWN = {"knn_ib": "knn_ib-k50", "soft_ib": "soft_ib"}
WIDTH = 16  # of the networks in the figures
Content = dict[str, Any]
Lines = Iterator[str]


def read_records(study: str = "zoo") -> dict[str, Content]:
    """Return the results of every model by name."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((RECORDS / study).glob("*.json"))
    }


def worst_of(content: Content, decoder: str, epsilon: float, *, norm: str = "Linf") -> AttackResult | None:
    """Return a decoder's worst case over the attacks on it, image by image."""
    cases = [case for case in worst_cases(content, decoder) if (case.norm, case.total) == (norm, IMAGES)]
    return next((case for case in cases if case.epsilon == epsilon), None)


def worst_cell(case: AttackResult | None) -> str:
    """Return the accuracy in % that a worst case leaves, with a sign if it is an upper bound."""
    return "" if case is None else accuracy_cell(case.robust_accuracy, is_bound=is_bound(case))


def is_bound(case: AttackResult) -> bool:
    """Return whether another attack, or today's version of this one, may break more images."""
    return bool(case.robust_accuracy) and (case.upper_bound or is_older_attack(case.summary()))


def fgsm_cell(sweep: dict[str, Any] | None, epsilon: float) -> str:
    """Return the accuracy in % that a sweep leaves, with a sign if it is an upper bound."""
    return accuracy_cell(swept(sweep, epsilon), is_bound=bool(sweep.get("flags")), digits=2) if sweep else ""


def answers_table(known: dict[str, Content]) -> Lines:
    """Yield what every model's first decoder withstands, FGSM and worst case side by side, and the audit's answer."""
    radii = [format_epsilon(epsilon) for epsilon in EPSILONS]
    attacks = [column for radius in radii for column in (f"FGSM {radius}", f"worst case {radius}")]
    columns = ["clean", *attacks, f"audit at {radii[1]}"]
    decoders = {name: first_decoder(content) for name, content in known.items()}
    rows = {name: answer_cells(content, decoders[name]) for name, content in known.items()}
    measured = [any(cells[place] for cells in rows.values()) for place in range(len(columns))]
    yield from header("model (decoder)", *compress(columns, measured))
    for name, cells in rows.items():
        yield row(f"{name} ({decoders[name]})", *compress(cells, measured))


def answer_cells(content: Content, decoder: str) -> list[str]:
    """Return a decoder's cells of the first table, after its name."""
    part = content["decoders"][decoder]
    sweep = part.get("fgsm")
    cells = [accuracy_cell(sweep["clean_accuracy"] if sweep else None, digits=2)]
    for epsilon in EPSILONS:
        cells += [fgsm_cell(sweep, epsilon), worst_cell(worst_of(content, decoder, epsilon))]
    return [*cells, audit_answer(part, EPSILONS[1])]


def audit_answer(part: dict[str, Any], epsilon: float) -> str:
    """Return both answers of the audit of a decoder at an epsilon."""
    audit: dict[str, Any] = next((each for each in part["audits"] if each["epsilon"] == epsilon), {})
    return card_verdict(audit).text if audit else ""


def audits_table(known: dict[str, Content]) -> Lines:
    """Yield every audit: clean accuracy, FGSM and the worst case on its images, and both answers."""
    yield from header("model (decoder)", "epsilon", "clean", "FGSM", "worst case", "answer", "checks that failed")
    for name, decoder, part in decoders_of(known):
        for audit in sorted(part["audits"], key=lambda audit: audit["epsilon"]):
            may_be_less = audit.get("upper_bound") or is_older_audit(audit)
            numbers = [accuracy_cell(audit[f"{kind}_accuracy"]) for kind in ("clean", "fgsm")]
            numbers.append(accuracy_cell(audit["worst_case_accuracy"], is_bound=may_be_less))
            answer, failed = audit_answer(part, audit["epsilon"]), ", ".join(audit["failed"])
            yield row(f"{name} ({decoder})", format_epsilon(audit["epsilon"]), *numbers, answer, failed)


def decoders_table(known: dict[str, Content]) -> Lines:
    """Yield the accuracy under FGSM at the largest epsilon with each decoder."""
    decoders = list(dict.fromkeys(decoder for _, decoder, _ in decoders_of(known)))
    yield from header("model", *decoders)
    for name, content in known.items():
        sweeps = [content["decoders"].get(decoder, {}).get("fgsm") for decoder in decoders]
        yield row(name, *(fgsm_cell(sweep, EPSILONS[-1]) for sweep in sweeps))


def decoder_cases_table(known: dict[str, Content]) -> Lines:
    """Yield the worst case with the first decoder and with each other one that was attacked, at each epsilon."""
    cases = {
        (name, decoder, epsilon): worst_of(content, decoder, epsilon)
        for name, content in known.items()
        for decoder in content["decoders"]
        for epsilon in EPSILONS
    }
    first = {name: first_decoder(content) for name, content in known.items()}
    attacked = {(decoder, at) for (name, decoder, at), case in cases.items() if case and decoder != first[name]}
    columns = [
        (decoder, epsilon)
        for epsilon in EPSILONS
        if any(at == epsilon for _, at in attacked)
        for decoder in ("", *sorted(decoder for decoder, at in attacked if at == epsilon))
    ]
    yield from header("model", *(f"{decoder or 'first decoder'} {format_epsilon(at)}" for decoder, at in columns))
    for name in known:
        # A first decoder of the same kind stands in the first column.
        shown = [
            worst_cell(cases.get((name, decoder or first[name], at))) if decoder != first[name] else ""
            for decoder, at in columns
        ]
        if any(cell for cell, (decoder, _) in zip(shown, columns, strict=True) if decoder):
            yield row(f"{name} ({first[name]})", *shown)


def l2_table(known: dict[str, Content]) -> Lines:
    """Yield the worst case in L2 of every first decoder that was attacked in it."""
    decoders = {name: first_decoder(content) for name, content in known.items()}
    cases = {
        name: [worst_of(content, decoders[name], epsilon, norm="L2") for epsilon in L2_EPSILONS]
        for name, content in known.items()
    }
    measured = [any(of_model[place] for of_model in cases.values()) for place in range(len(L2_EPSILONS))]
    yield from header("model (decoder)", *(f"{epsilon:g}" for epsilon in compress(L2_EPSILONS, measured)))
    for name, of_model in cases.items():
        if any(of_model):
            yield row(f"{name} ({decoders[name]})", *map(worst_cell, compress(of_model, measured)))


def difference_table(known: dict[str, Content]) -> Lines:
    """Yield by how much every first decoder's worst case exceeds cross-entropy's, image by image."""
    # A program for tables would compute "-2.7 +- 1.0" in one cell.
    radii = map(format_epsilon, EPSILONS)
    yield from header("model (decoder)", *(title for radius in radii for title in (radius, f"{radius} standard error")))
    for name, content in known.items():
        decoder = first_decoder(content)
        of_epsilons = [_difference(content, known[BASELINE], epsilon) for epsilon in EPSILONS]
        cells = [cell for of_epsilon in of_epsilons for cell in of_epsilon]
        if name != BASELINE and any(cells):
            yield row(f"{name} ({decoder})", *cells)


def mean_table(known: dict[str, Content]) -> Lines:
    """Yield the first decoder's accuracy over the seeds of a model that has several: mean, smallest, largest."""
    yield from header("model", "seeds", "under", *map(format_epsilon, EPSILONS))
    for model, of_seeds in seeds_of(known).items():
        for title, accuracy in (("FGSM", _under_fgsm), ("worst case", _in_the_worst_case)):
            of_epsilons = [[accuracy(content, epsilon) for content in of_seeds] for epsilon in EPSILONS]
            cells = [_mean_and_extremes(found) for found in of_epsilons]
            if any(cells):
                yield row(model, str(len(of_seeds)), title, *cells)


def seed_difference_table(known: dict[str, Content]) -> Lines:
    """Yield by how much the mean over a model's seeds exceeds cross-entropy's, with two standard errors."""
    seeds = seeds_of(known)
    baseline = seeds.pop(BASELINE.rstrip("0123456789") + "*")
    yield from header("worst case, over seeds", *map(format_epsilon, EPSILONS))
    for model, of_seeds in seeds.items():
        cells = []
        for epsilon in EPSILONS:
            of_both = [[worst_of(each, first_decoder(each), epsilon) for each in of] for of in (of_seeds, baseline)]
            cells.append(_two_errors(*of_both))
        if any(cells):
            yield row(model, *cells)


def information_table(known: dict[str, Content]) -> Lines:
    """Yield the entropies of every model's latents."""
    yield from header("model", "H[Z]", "H[Z given Y]", "I[Y; Z]", "H[Y given Z] at most")
    kinds = ("entropy", "conditional_entropy", "mutual_information", "label_information")
    for name, content in known.items():
        if (found := content.get("information")) is not None:
            yield row(name, *(f"{found[kind]:.2f}" for kind in kinds))


def widths_table(_known: dict[str, Content]) -> Lines:
    """Yield what the networks of several widths withstand, most of which do not ship."""
    columns, *rows = widths_rows(read_widths(*WIDTHS))
    yield from header(*columns)
    yield from (row(*cells) for cells in rows)


def reencoding_table(known: dict[str, Content]) -> Lines:
    """Yield the mean worst case over seeds, by the attack alone, of the same images in two encodings, and of others."""
    with REENCODING.open(encoding="utf-8") as file:
        of_copies = {line["model"]: float(line["worst_case"]) for line in csv.DictReader(file)}
    originals = read_records("zoo-lossless")
    yield from header("worst case, over seeds", "original files", "the same, re-encoded", "evenly spaced, re-encoded")
    for model, of_seeds in seeds_of(known).items():
        names = [content["model"] for content in of_seeds]
        by_images = (
            [_by_the_attack_alone(originals[name]) for name in names],
            [of_copies[name] for name in names],
            [_by_the_attack_alone(known[name]) for name in names],
        )
        yield row(model, *(f"{statistics.mean(of_images):.1f}" for of_images in by_images))


def same_decoder_table(known: dict[str, Content]) -> Lines:
    """Yield the leads over cross-entropy at the smallest epsilon, by the attack alone, with one decoder for both.

    The worst case of a first decoder has AutoAttack, which would not be compared with the same.
    """
    images = {"re-encoded images": known, "RobustBench's images": read_records("zoo-lossless")}
    yield from header("model (decoder of both)", *images)
    of_images = [seeds_of(each) for each in images.values()]
    baseline = BASELINE.rstrip("0123456789") + "*"
    for decoder in ("logistic", "gaussian_mixture"):
        for model in (name for name in of_images[0] if name != baseline):
            cells = [
                _two_errors(*([alone(each, decoder) for each in seeds[name]] for name in (model, baseline)))
                for seeds in of_images
            ]
            yield row(f"{model} ({decoder})", *cells)


def alone(content: Content, decoder: str) -> AttackResult | None:
    """Return what the worst-case attack by itself leaves of a decoder at the smallest epsilon."""
    return next(
        (
            AttackResult.from_dict(result)
            for result in content["decoders"].get(decoder, {}).get("attacks", ())
            if (result["attack"], result["norm"], result["epsilon"]) == ("WorstCase", "Linf", EPSILONS[0])
        ),
        None,
    )


def autoattack_table(known: dict[str, Content]) -> Lines:
    """Yield how many images the attack alone leaves at the smallest epsilon, and how many of them AutoAttack breaks."""
    yield from header("model (decoder)", "left by the attack", "of these broken by AutoAttack")
    for name, content in known.items():
        if counts := left_and_broken(content, EPSILONS[0]):
            yield row(f"{name} ({first_decoder(content)})", *map(str, counts))


def left_and_broken(content: Content, epsilon: float) -> tuple[int, int] | None:
    """Return how many images the attack alone leaves of the first decoder, and how many AutoAttack then breaks."""
    left = {
        result["attack"]: [int(image) for image in result["attacked_correct"]]
        for result in content["decoders"][first_decoder(content)]["attacks"]
        if result["attack"].startswith("WorstCase") and (result["norm"], result["epsilon"]) == ("Linf", epsilon)
    }
    if not {"WorstCase", "WorstCase:escalate=true"} <= set(left):
        return None
    before = sum(left["WorstCase"])
    return before, before - sum(map(min, *left.values()))


def _by_the_attack_alone(content: Content) -> float:
    """Return the accuracy in % that the worst-case attack leaves of the first decoder at the smallest epsilon."""
    found = alone(content, first_decoder(content))
    assert found is not None, content["model"]
    return 100 * found.robust_accuracy


TABLES: dict[str, Callable[[dict[str, Content]], Lines]] = {
    "answers": answers_table,
    "audits": audits_table,
    "decoders": decoders_table,
    "decoders in the worst case": decoder_cases_table,
    "L2": l2_table,
    "differences": difference_table,
    "means": mean_table,
    "differences over seeds": seed_difference_table,
    "information": information_table,
    "widths": widths_table,
    "reencoding": reencoding_table,
    "AutoAttack": autoattack_table,
    "same decoder": same_decoder_table,
}


# The tables that are files of their own, by the name of the file.
FILES = {
    "audits": "audits",
    "difference-from-cross-entropy": "differences",
    "decoders-fgsm": "decoders",
    "decoders-worst-case": "decoders in the worst case",
    "l2": "L2",
    "information": "information",
    "robustbench-images-autoattack": "lossless: AutoAttack",
    "robustbench-images-decoders-worst-case": "lossless: decoders in the worst case",
    "robustbench-images-l2": "lossless: L2",
}


def table_text(name: str) -> str:
    """Return a table of results.md; ``lossless: NAME`` is that of the other images."""
    images, _, of_them = name.rpartition(": ")
    return "\n".join(TABLES[of_them](read_records(f"zoo-{images}" if images else "zoo")))


def table_csv(name: str) -> str:
    """Return the same table as CSV, with its cells as the page would show them."""
    lines = table_text(name).splitlines()
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], *lines[2:]))
    return file.getvalue()


def with_tables(text: str) -> str:
    """Return the text of the page with its tables as the records give them."""

    def fill(place: re.Match[str]) -> str:
        return f"{place[1]}\n\n{table_text(place[2])}\n\n{place[3]}"

    return re.sub(r"(<!-- table (.+?) -->)\n.*?\n(<!-- end -->)", fill, text, flags=re.DOTALL)


def main(studies: list[str]) -> None:
    """Take the results of the studies, then write the CSV files, the figures and the page."""
    from ibrobust.reporting.figures.draw import draw_study_figures
    from ibrobust.study import stored_study
    from ibrobust.study.write_cards import study_results
    from ibrobust.study.write_records import rows_of_models, write_records

    for study in studies:
        for content, is_done in study_results(stored_study(study)):
            if not is_done:
                raise SystemExit(f"{content['model']} of {study} is not done: run the study first.")
            content.pop("examples", None)  # pictures, which no number comes from
            write_text(RECORDS / study / f"{content['model']}.json", json.dumps(content, indent=1) + "\n")
    for folder in (folder for folder in sorted(RECORDS.glob("zoo*")) if folder.is_dir()):
        known = read_records(folder.name)
        write_records(RECORDS / f"{folder.name}.csv", rows_of_models(folder.name, known))
    drawn = drawn_rows(rows_of_models("zoo", read_records()), first_decoders(read_records()))
    selected, figures = DOCS / "figures" / "records.csv", DOCS / "figures"
    write_records(selected, drawn)
    paths = draw_study_figures(selected, figures, ["attacks"])
    plane = [under_drawn_name(row) for row in read_rows(PLANE)]
    trained = [row for row in plane if row["quantity"] == "test_accuracy"]
    write_records(selected, [*drawn, *further_settings(drawn, trained)])
    paths += draw_study_figures(selected, figures, ["generalization"])
    write_records(selected, plane)
    paths += draw_study_figures(selected, figures, ["information_plane"])
    selected.unlink()
    paths += draw_widths(read_widths(*WIDTHS), figures)
    print(*paths, sep="\n")
    for file, name in FILES.items():
        write_text(DOCS / "tables" / f"{file}.csv", table_csv(name))
    page = DOCS / "results.md"
    write_text(page, with_tables(page.read_text(encoding="utf-8")))


def first_decoders(known: dict[str, Content]) -> dict[str, str]:
    """Return the first decoder of each model by name."""
    return {name: first_decoder(content) for name, content in known.items()}


def drawn_rows(rows: Iterable[dict[str, Any]], first: dict[str, str]) -> list[dict[str, Any]]:
    """Return the rows that the figures show: of FGSM and the worst case, for the models in `DRAWN`.

    The worst case is that of the first decoder, and for a baseline also that of a bottleneck's first decoder, if it was
    attacked at the same epsilons. Each other bottleneck would get panels of its own.
    """
    # A wider network would be averaged with the others, as if it were another seed.
    shown = [row for row in rows if row["width"] == WIDTH and (row.get("beta") is None or is_drawn(row))]
    compared = {first[row["cell"]] for row in shown if row.get("beta") is not None}
    cases: dict[tuple[str, str], set[float | None]] = {}
    for row in shown:
        if row.get("attack") == WORST_CASE and row["num_images"] == IMAGES:
            cases.setdefault((row["cell"], row["decoder"]), set()).add(row.get("epsilon"))

    def is_case(row: dict[str, Any]) -> bool:
        decoder, of_first = row["decoder"], first[row["cell"]]
        epsilons, wanted = (cases.get((row["cell"], name), set()) for name in (decoder, of_first))
        is_beside = row.get("beta") is None and decoder in compared and epsilons >= wanted
        return row["attack"] == WORST_CASE and row["num_images"] == IMAGES and (decoder == of_first or is_beside)

    # Without the others of its objective, nothing needs to be distinguished.
    kept = (row for row in shown if (row.get("attack") or "") in ("", "FGSM") or is_case(row))
    return [{**under_drawn_name(row), "setting": ""} for row in kept]


def is_drawn(row: dict[str, Any]) -> bool:
    """Return whether a row is of a bottleneck model that the figures show."""
    return row["cell"].startswith(DRAWN.get(row["objective"], "none"))


def under_drawn_name(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row whose objective says which of its models are drawn."""
    return {**row, "objective": DRAWN.get(row["objective"], row["objective"])}


def further_settings(rows: Sequence[dict[str, Any]], others: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return those of the other rows, of models that learnt the labels, whose setting no row has with the decoder."""

    def setting(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["objective"], row["beta"], row["noise"], row.get("decoder")

    known = {setting(row) for row in rows}
    return [row for row in others if setting(row) not in known and row["value"] > LEARNT]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a study's records."""
    return [asdict(record) for record in read_study_records(path)]


def decoders_of(known: dict[str, Content]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield every model's name and decoder, and its part of the results."""
    for name, content in known.items():
        for decoder, part in content["decoders"].items():
            yield name, decoder, part


def first_decoder(content: Content) -> str:
    """Return the decoder that is attacked."""
    return next(iter(content["decoders"]))


def seeds_of(known: dict[str, Content]) -> dict[str, list[Content]]:
    """Return the models that differ only in their seed, those with several seeds, by their name with a star."""
    seeds: dict[str, list[Content]] = {}
    for name, content in known.items():
        seeds.setdefault(name.rstrip("0123456789") + "*", []).append(content)
    return {name: contents for name, contents in seeds.items() if len(contents) > 1}


def swept(sweep: dict[str, Any], epsilon: float) -> float | None:
    """Return the accuracy of a sweep at an epsilon."""
    return dict(zip(sweep["epsilons"], sweep["accuracy"], strict=True)).get(epsilon)


def row(*cells: str) -> str:
    """Return a row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def header(*names: str) -> Lines:
    """Yield the first two rows of a Markdown table."""
    yield row(*names)
    yield row(*("--" for _ in names))


def _difference(content: Content, baseline: Content, epsilon: float) -> tuple[str, str]:
    one, other = (worst_of(each, first_decoder(each), epsilon) for each in (content, baseline))
    if one is None or other is None:
        return "", ""
    difference = paired_difference(one, other)
    points = in_points(difference.value, difference_sign(is_bound(one), is_bound(other)))
    return points, f"{100 * difference.standard_error:.1f}"


def in_points(difference: float, sign: str) -> str:
    """Return a difference of two accuracies in points with its sign; a bound is rounded so that it remains one."""
    tenths = round(1000 * difference, 6)  # a difference of 0.0007 is 0.7 tenths, and not a bit more
    rounded = {"≤ ": math.ceil, "≥ ": math.floor}.get(sign, lambda value: value)(tenths)
    return f"{sign}{rounded / 10:+.1f}"


def difference_sign(one_is_bound: bool, other_is_bound: bool) -> str:
    """Return the sign before the difference of two accuracies: it is at most, at least, or only about this."""
    if one_is_bound and other_is_bound:
        return "~ "
    return "≤ " if one_is_bound else "≥ " if other_is_bound else ""


def _under_fgsm(content: Content, epsilon: float) -> tuple[float, bool] | None:
    sweep = content["decoders"][first_decoder(content)].get("fgsm")
    share = swept(sweep, epsilon) if sweep else None
    return None if sweep is None or share is None else (share, bool(sweep.get("flags")))


def _in_the_worst_case(content: Content, epsilon: float) -> tuple[float, bool] | None:
    case = worst_of(content, first_decoder(content), epsilon)
    return (case.robust_accuracy, is_bound(case)) if case is not None else None


def _mean_and_extremes(found: list[tuple[float, bool] | None]) -> str:
    """Return the mean of accuracies, which is an upper bound if one of them is, with the smallest and the largest.

    A mean over some of the seeds alone would stand beside one over all.
    """
    known = [each for each in found if each is not None]
    if len(known) < len(found):
        return ""
    mean = accuracy_cell(sum(share for share, _ in known) / len(known), is_bound=any(bound for _, bound in known))
    low, high = (accuracy_cell(share, is_bound=bound) for share, bound in (min(known), max(known)))
    return f"{mean} ({low} to {high})"


def _two_errors(*cases: list[AttackResult | None]) -> str:
    """Return the difference of two means over seeds and images in points, with the standard errors from both."""
    if any(case is None for group in cases for case in group):
        return ""
    one, other = (np.array([case.robust_correct for case in group if case], dtype=float) for group in cases)
    per_image = one.mean(axis=0) - other.mean(axis=0)  # (images,)
    of_images = per_image.std(ddof=1) / np.sqrt(len(per_image))
    of_seeds = np.sqrt(sum(each.mean(axis=1).var(ddof=1) / len(each) for each in (one, other)))
    sign = difference_sign(*(any(is_bound(case) for case in group if case) for group in cases))
    return f"{in_points(float(per_image.mean()), sign)} +- {100 * of_images:.1f}, {100 * of_seeds:.1f}"


if __name__ == "__main__":
    main(sys.argv[1:])
