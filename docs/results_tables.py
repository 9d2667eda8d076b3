"""The numbers of docs/results.md: tables, figures and CSV, from what a study of the shipped models measured.

    ibrobust study run zoo --dataset DIR --launcher local --jobs 2     # measures, and resumes
    ibrobust study cards zoo --shipped                                 # into the cards
    python docs/results_tables.py zoo                                  # into this folder, and into results.md
    python docs/results_tables.py                                      # again, from docs/records alone

A study's results are copied to docs/records/STUDY, one file per model with a result for every image. Each table in
results.md stands between two comments; the text around them is written by hand.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ibrobust.atomic import write_text
from ibrobust.epsilon import format_epsilon
from ibrobust.evaluation.attacks.comparison import paired_difference
from ibrobust.evaluation.attacks.result import AttackResult
from ibrobust.study.results import worst_cases
from ibrobust.verdicts import read_verdict

DOCS = Path(__file__).resolve().parent
RECORDS = DOCS / "records"
# What all others are compared with.
BASELINE = "cross_entropy-w16-s0"
# Behind an accuracy that a search in bfloat16 left.
MARK = "*"
EPSILONS = (2 / 255, 4 / 255, 8 / 255)
SWEPT = (1 / 255, *EPSILONS)
IMAGES = 1000  # of the attacks; a few more results have other numbers
# The start of an attack's name in the results, and its title in a figure.
FIGURE_ATTACKS = {"PGD:": "PGD, 50 steps", "AutoAttack": "AutoAttack"}
Content = dict[str, Any]
Lines = Iterator[str]


def read_records(study: str = "zoo") -> dict[str, Content]:
    """Return the results of every model by name."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((RECORDS / study).glob("*.json"))
    }


def attack_title(label: str) -> str:
    """Return an attack's name in a table: PGD-50, whatever its precision."""
    name, _, options = label.partition(":")
    given = dict(option.split("=") for option in options.split(",") if option)
    title = {"WorstCase": "worst-case attack"}.get(name, name) + (f"-{given['steps']}" if "steps" in given else "")
    return f"{title}, L2" if given.get("norm") == "L2" else title


def results_of(content: Content, decoder: str, title: str, epsilon: float) -> list[AttackResult]:
    """Return a decoder's results under an attack, those of a search in float32 first."""
    found = [
        AttackResult.from_dict(fields)
        for fields in content["decoders"][decoder]["attacks"]
        if attack_title(fields["attack"]) == title and fields["epsilon"] == epsilon and fields["total"] == IMAGES
    ]
    return sorted(found, key=lambda result: "bf16" in result.attack)


def attack_titles(known: dict[str, Content], *, norm: str = "Linf") -> list[str]:
    """Return the attacks that were run, in the order of their first result."""
    attacks = [each for content in known.values() for part in content["decoders"].values() for each in part["attacks"]]
    found = dict.fromkeys(attack_title(each["attack"]) for each in attacks if each["norm"] == norm)
    return sorted(found, key=lambda title: (not title.startswith("PGD"), title))


def cells_at(content: Content, decoder: str, epsilon: float, titles: list[str]) -> dict[str, str]:
    """Return a decoder's accuracies in % at an epsilon, by column."""
    part = content["decoders"][decoder]
    cells = {"clean": "", "FGSM": ""}
    if part.get("fgsm"):
        cells = {"clean": percent(part["fgsm"]["clean_accuracy"]), "FGSM": percent(swept(part["fgsm"], epsilon))}
    for title in titles:
        results = results_of(content, decoder, title, epsilon)
        mark = MARK if results and "bf16" in results[0].attack else ""
        cells[title] = percent(results[0].robust_accuracy, 1) + mark if results else ""
    worst = [case for case in worst_cases(content, decoder) if (case.norm, case.total) == ("Linf", IMAGES)]
    cells["worst case"] = next((percent(case.robust_accuracy, 1) for case in worst if case.epsilon == epsilon), "")
    audit: dict[str, Any] = next((each for each in part["audits"] if each["epsilon"] == epsilon), {})
    cells["audit's worst case"] = percent(audit.get("worst_case_accuracy"), 1)
    failed = f" ({', '.join(audit['failed'])})" if audit.get("failed") else ""
    answer = read_verdict(audit.get("verdict", ""))
    cells["audit"] = (answer.text if answer else "") + failed
    return cells


def fgsm_table(known: dict[str, Content]) -> Lines:
    """Yield the accuracy under FGSM of every decoder."""
    yield from header("model", "decoder", "clean", *(f"{255 * epsilon:g}/255" for epsilon in SWEPT))
    for name, decoder, part in decoders_of(known):
        if part.get("fgsm"):
            cells = (percent(swept(part["fgsm"], epsilon)) for epsilon in SWEPT)
            yield row(name, decoder, percent(part["fgsm"]["clean_accuracy"]), *cells)


def leaderboard_table(known: dict[str, Content], epsilon: float) -> Lines:
    """Yield every decoder that was attacked or audited at an epsilon."""
    titles = attack_titles(known)
    shown = titles if len(titles) > 1 else []  # the worst case over one attack is that attack's
    for number, (name, decoder, _) in enumerate(decoders_of(known)):
        cells = cells_at(known[name], decoder, epsilon, titles)
        columns = ["clean", "FGSM", *shown, "worst case", "audit's worst case", "audit"]
        if number == 0:
            yield from header("model", "decoder", *columns)
        if any(cells[column] for column in columns[2:]):
            yield row(name, decoder, *(cells[column] for column in columns))


def l2_table(known: dict[str, Content]) -> Lines:
    """Yield the worst case in L2 of every decoder that was attacked in it."""
    found = {
        (name, decoder): {case.epsilon: case for case in worst_cases(known[name], decoder) if case.norm == "L2"}
        for name, decoder, _ in decoders_of(known)
    }
    epsilons = sorted({epsilon for cases in found.values() for epsilon in cases})
    if not epsilons:
        return
    yield from header("model", "decoder", *(f"{epsilon:g}" for epsilon in epsilons))
    for (name, decoder), cases in found.items():
        if cases:
            values = (cases[epsilon].robust_accuracy if epsilon in cases else None for epsilon in epsilons)
            yield row(name, decoder, *(percent(value, 1) for value in values))


def difference_table(known: dict[str, Content]) -> Lines:
    """Yield by how much every first decoder's robust accuracy exceeds cross-entropy's, image by image."""
    yield from header("model", "decoder", "attack", *map(format_epsilon, EPSILONS))
    for name, content in known.items():
        decoder = first_decoder(content)
        for title in attack_titles(known) if name != BASELINE else ():
            cells = [_difference(content, known[BASELINE], title, epsilon) for epsilon in EPSILONS]
            if any(cells):
                yield row(name, decoder, title, *cells)


def mean_table(known: dict[str, Content]) -> Lines:
    """Yield the first decoder's accuracy over the seeds of a model that has several: mean, smallest, largest."""
    yield from header("model", "seeds", "attack", *map(format_epsilon, EPSILONS))
    for model, of_seeds in seeds_of(known).items():
        for title in ("FGSM", *attack_titles(known)):
            cells = [_over_seeds(of_seeds, title, epsilon) for epsilon in EPSILONS]
            if any(cells):
                yield row(model, str(len(of_seeds)), title, *cells)


def seed_difference_table(known: dict[str, Content]) -> Lines:
    """Yield by how much the mean over a model's seeds exceeds cross-entropy's, with two standard errors."""
    seeds = seeds_of(known)
    baseline = seeds.pop(BASELINE.rstrip("0123456789") + "*")
    yield from header("model", "attack over seeds", *map(format_epsilon, EPSILONS))
    for model, of_seeds in seeds.items():
        for title in attack_titles(known):
            cells = [_two_errors(of_seeds, baseline, title, epsilon) for epsilon in EPSILONS]
            if any(cells):
                yield row(model, title, *cells)


def information_table(known: dict[str, Content]) -> Lines:
    """Yield the entropies of every model's latents."""
    yield from header("model", "H[Z]", "H[Z given Y]", "I[Y; Z]", "H[Y given Z] at most")
    kinds = ("entropy", "conditional_entropy", "mutual_information", "label_information")
    for name, content in known.items():
        if (found := content.get("information")) is not None:
            yield row(name, *(f"{found[kind]:.2f}" for kind in kinds))


TABLES: dict[str, Callable[[dict[str, Content]], Lines]] = {
    "fgsm": fgsm_table,
    **{
        f"at {255 * epsilon:g}/255": lambda known, epsilon=epsilon: leaderboard_table(known, epsilon)
        for epsilon in EPSILONS
    },
    "L2": l2_table,
    "differences": difference_table,
    "means": mean_table,
    "differences over seeds": seed_difference_table,
    "information": information_table,
}


def table_text(name: str) -> str:
    """Return a table of results.md; ``lossless: NAME`` is that of the other images."""
    images, _, of_them = name.rpartition(": ")
    return "\n".join(TABLES[of_them](read_records(f"zoo-{images}" if images else "zoo")))


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
        for content in study_results(stored_study(study)):
            content.pop("examples", None)  # pictures, which no number comes from
            write_text(RECORDS / study / f"{content['model']}.json", json.dumps(content, indent=1) + "\n")
    for folder in (folder for folder in sorted(RECORDS.iterdir()) if folder.is_dir()):
        known = read_records(folder.name)
        write_records(RECORDS / f"{folder.name}.csv", rows_of_models(folder.name, known))
    drawn = drawn_rows(rows_of_models("zoo", read_records()))
    selected = DOCS / "figures" / "records.csv"
    write_records(selected, drawn)
    for path in draw_study_figures(selected, DOCS / "figures", ["fgsm", "attacks", "generalization"]):
        print(path)
    selected.unlink()
    page = DOCS / "results.md"
    write_text(page, with_tables(page.read_text(encoding="utf-8")))


def drawn_rows(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows that the figures show, with one name per attack.

    Each bottleneck other than the surrogate would get panels of its own. Of an attack in two precisions, float32 counts
    where it was run. The worst case has a panel if the worst-case attack was run, which it replaces.
    """
    rows = list(rows)
    has_worst_case = any((row.get("attack") or "").startswith("WorstCase") for row in rows)
    drawn: dict[tuple[Any, ...], dict[str, Any]] = {}
    # Those in bfloat16 first, so that those in float32 take their places.
    for row in sorted(rows, key=lambda row: "bf16" not in (row.get("attack") or "")):
        attack = row.get("attack") or ""
        other_images = attack not in ("", "FGSM") and row.get("num_images") != IMAGES
        is_other = row.get("beta") is not None and row["objective"] != "soft_ib"
        if is_other or other_images or (attack == "worst case" and not has_worst_case):
            continue
        title = next((title for start, title in FIGURE_ATTACKS.items() if attack.startswith(start)), attack)
        place = tuple(row.get(key) for key in ("cell", "decoder", "epoch", "epsilon", "quantity", "num_images"))
        drawn[(title, *place)] = {**row, "attack": title or None}
    order = [None, "FGSM", *FIGURE_ATTACKS.values()]
    return sorted(drawn.values(), key=lambda row: order.index(row["attack"]) if row["attack"] in order else len(order))


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


def percent(share: float | None, digits: int = 2) -> str:
    """Return a share in %, or nothing."""
    return "" if share is None else f"{100 * share:.{digits}f}"


def row(*cells: str) -> str:
    """Return a row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def header(*names: str) -> Lines:
    """Yield the first two rows of a Markdown table."""
    yield row(*names)
    yield row(*("--" for _ in names))


def _difference(content: Content, baseline: Content, title: str, epsilon: float) -> str:
    """Return the difference under the first search that both are known under: a better one must favour neither."""
    others = {other.attack: other for other in results_of(baseline, first_decoder(baseline), title, epsilon)}
    for one in results_of(content, first_decoder(content), title, epsilon):
        if one.attack in others:
            difference = paired_difference(one, others[one.attack])
            return f"{100 * difference.value:+.1f} +- {100 * difference.standard_error:.1f}"
    return ""


def _labels(contents: list[Content], title: str, epsilon: float) -> list[str]:
    """Return the searches, float32 first, that every one of the models is known under."""
    found = [[each.attack for each in results_of(one, first_decoder(one), title, epsilon)] for one in contents]
    return [label for label in found[0] if all(label in labels for labels in found)]


def _robust(contents: list[Content], title: str, epsilon: float, label: str) -> np.ndarray:
    """Return (models, images), whether each image stays right."""
    found = [results_of(content, first_decoder(content), title, epsilon) for content in contents]
    return np.array([next(r.robust_correct for r in results if r.attack == label) for results in found], dtype=float)


def _over_seeds(contents: list[Content], title: str, epsilon: float) -> str:
    """Return a cell; empty unless every seed was attacked, with one precision: else a mean would mix what differs."""
    if title == "FGSM":
        sweeps = [content["decoders"][first_decoder(content)].get("fgsm") for content in contents]
        accuracies = [swept(sweep, epsilon) for sweep in sweeps if sweep]
        shares = [share for share in accuracies if share is not None]
        return _mean_and_extremes(shares) if len(shares) == len(contents) else ""
    for label in _labels(contents, title, epsilon)[:1]:
        shares = [float(robust.mean()) for robust in _robust(contents, title, epsilon, label)]
        return _mean_and_extremes(shares) + (MARK if "bf16" in label else "")
    return ""


def _mean_and_extremes(shares: list[float]) -> str:
    mean = sum(shares) / len(shares)
    return f"{percent(mean, 1)} ({percent(min(shares), 1)} to {percent(max(shares), 1)})"


def _two_errors(contents: list[Content], baseline: list[Content], title: str, epsilon: float) -> str:
    """Return the difference of two means over seeds and images in points."""
    for label in _labels([*contents, *baseline], title, epsilon)[:1]:
        one, other = (_robust(each, title, epsilon, label) for each in (contents, baseline))
        per_image = one.mean(axis=0) - other.mean(axis=0)  # (images,)
        of_images = per_image.std(ddof=1) / np.sqrt(len(per_image))
        of_seeds = np.sqrt(sum(each.mean(axis=1).var(ddof=1) / len(each) for each in (one, other)))
        return f"{100 * per_image.mean():+.1f} +- {100 * of_images:.1f}, {100 * of_seeds:.1f}"
    return ""


if __name__ == "__main__":
    main(sys.argv[1:])
