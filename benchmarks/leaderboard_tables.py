"""The leaderboard's records as Markdown tables, and as figures."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
from leaderboard_records import AUTOATTACK, PGD, Records, worst_cases

from ibrobust.epsilon import format_epsilon, parse_epsilon
from ibrobust.evaluation.attacks.comparison import paired_difference
from ibrobust.evaluation.attacks.result import AttackResult
from ibrobust.evaluation.sweep import SweepResult
from ibrobust.objectives import objective_class
from ibrobust.registry import model_card
from ibrobust.reporting.figures.draw import draw_study_figures
from ibrobust.study.write_records import write_records

# What all others are compared with.
BASELINE = "cross_entropy-w16-s0"
# Behind an accuracy that a search in bfloat16 left.
MARK = "*"


def draw(names: list[str], options: argparse.Namespace) -> None:
    """Draw the kNN models beside the baselines, as a study of them would."""
    rows: list[dict[str, Any]] = []
    for name in names:
        card = model_card(name)
        assert card.recipe is not None
        kind = objective_class(card.recipe.objective)
        if "beta" in kind.options and card.recipe.objective != "knn_ib":
            continue  # every other bottleneck would get panels of its own
        common = {
            "study": "zoo",
            "cell": name,
            "model": name,
            **{
                key: getattr(card.recipe, key)
                for key in ("objective", "dropout", "dropconnect", "width", "seed", "epochs")
            },
            "beta": card.recipe.beta if "beta" in kind.options else None,
            "noise": card.recipe.noise if kind.adds_noise else None,
        }
        for decoder, part in Records(options.records, name).content["decoders"].items():
            if "fgsm" not in part:
                continue
            sweep = SweepResult.from_dict(part["fgsm"])
            of_decoder = {**common, "decoder": decoder, "num_images": sweep.total}
            rows.append({**of_decoder, "quantity": "test_accuracy", "value": sweep.clean_accuracy})
            rows.append({**of_decoder, "quantity": "clean_accuracy", "value": sweep.clean_accuracy})
            of_attack = {**of_decoder, "attack": "FGSM"}
            rows.append({**of_attack, "quantity": "zero_gradient_share", "value": sweep.zero_gradient_share})
            for epsilon, accuracy in zip(sweep.epsilons, sweep.accuracy, strict=True):
                rows.append({**of_attack, "epsilon": epsilon, "quantity": "accuracy", "value": accuracy})
            if decoder == card.decoders[0]:
                rows += _attacked({**common, "decoder": decoder}, Records(options.records, name), options)
    records = options.records / "zoo.csv"
    write_records(records, rows)
    for path in draw_study_figures(records, options.out, ["fgsm", "attacks", "generalization"]):
        print(path)


def _attacked(common: dict[str, Any], records: Records, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the rows of one decoder under PGD and AutoAttack, each in the best precision that is known."""
    for title, attacks in (("PGD, 50 steps", PGD), ("AutoAttack", AUTOATTACK)):
        for epsilon in _epsilons(options):
            known = records.most_precise(common["decoder"], attacks, epsilon, options.n_examples)
            if known is not None:
                _, result = known
                row = {**common, "num_images": result.total}
                yield {**row, "quantity": "clean_accuracy", "value": result.clean_accuracy}
                attacked = {"attack": title, "epsilon": epsilon, "value": result.robust_accuracy}
                yield {**row, **attacked, "quantity": "robust_accuracy"}


def print_tables(names: list[str], options: argparse.Namespace) -> None:
    """Print accuracy under FGSM of everything, a leaderboard for each epsilon, and what the latents hold."""
    known = [Records(options.records, name) for name in names]
    n = options.n_examples
    swept = [parse_epsilon(text) for text in ("1/255", *options.eps.split(","))]
    print("### Accuracy under FGSM\n")
    _print_row("model", "decoder", "clean", *(f"{255 * epsilon:g}/255" for epsilon in swept))
    _print_row(*("--" for _ in range(3 + len(swept))))
    for records in known:
        for decoder, part in records.content["decoders"].items():
            if "fgsm" in part:
                sweep = SweepResult.from_dict(part["fgsm"])
                cells = (_percent(_at(sweep, epsilon)) for epsilon in swept)
                _print_row(records.content["model"], decoder, _percent(sweep.clean_accuracy), *cells)
    for epsilon in swept[1:]:
        print(f"\n### At {format_epsilon(epsilon)}\n")
        print(
            f"PGD-50, AutoAttack and worst case: {n:,} images; clean and FGSM: all; audit: 256. {MARK}: in bfloat16.\n"
        )
        _print_row(
            "model", "decoder", "clean", "FGSM", "PGD-50", "AutoAttack", "worst case", "audit's worst case", "audit"
        )
        _print_row(*("--" for _ in range(9)))
        for records in known:
            for decoder in records.content["decoders"]:
                cells = _cells(records, decoder, epsilon, n)
                if any(cells[2:]):
                    _print_row(records.content["model"], decoder, *cells)
    print()
    _print_row("model", "H[Z]", "H[Z given Y]", "I[Y; Z]", "H[Y given Z] at most")
    _print_row(*("--" for _ in range(5)))
    for records in known:
        if (found := records.content.get("information")) is not None:
            kinds = ("entropy", "conditional_entropy", "mutual_information", "label_information")
            _print_row(records.content["model"], *(f"{found[kind]:.2f}" for kind in kinds))


def _print_row(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |")


def _percent(share: float | None, digits: int = 2) -> str:
    return "" if share is None else f"{100 * share:.{digits}f}"


def _at(sweep: SweepResult, epsilon: float) -> float | None:
    """Return the accuracy at an epsilon of a sweep."""
    return next((share for known, share in zip(sweep.epsilons, sweep.accuracy, strict=True) if known == epsilon), None)


def _cells(records: Records, decoder: str, epsilon: float, total: int) -> list[str]:
    """Return a row's cells behind the model and the decoder; accuracies in %."""
    part = records.of(decoder)
    clean, fgsm = "", ""
    if "fgsm" in part:
        sweep = SweepResult.from_dict(part["fgsm"])
        clean, fgsm = _percent(sweep.clean_accuracy), _percent(_at(sweep, epsilon))
    pgd = records.most_precise(decoder, PGD, epsilon, total)
    autoattack = records.most_precise(decoder, AUTOATTACK, epsilon, total)
    worst = {case.epsilon: _percent(case.robust_accuracy, 1) for case in worst_cases(part, total)}
    audited, verdict = "", ""
    for report in (fields for fields in part["audits"] if fields["epsilon"] == epsilon):
        audited = _percent(report["worst_case_accuracy"], 1)
        verdict = report["verdict"] + (f" ({', '.join(report['failed'])})" if report["failed"] else "")
    return [clean, fgsm, _shown(pgd), _shown(autoattack), worst.get(epsilon, ""), audited, verdict]


def _shown(known: tuple[str, AttackResult] | None) -> str:
    """Return a robust accuracy in %, with a mark where the search was in bfloat16: it may have missed an image."""
    if known is None:
        return ""
    precision, result = known
    return _percent(result.robust_accuracy, 1) + ("" if precision == "fp32" else MARK)


def print_differences(names: list[str], options: argparse.Namespace) -> None:
    """Print by how much every first decoder's robust accuracy exceeds cross-entropy's, image by image."""
    epsilons = _epsilons(options)
    baseline = Records(options.records, BASELINE)
    print(f"Robust accuracy less that of {BASELINE}, points, +- one standard error.\n")
    _print_row("model", "decoder", "attack", *map(format_epsilon, epsilons))
    _print_row(*("--" for _ in range(3 + len(epsilons))))
    for name in names:
        if name == BASELINE:
            continue
        decoder = model_card(name).decoders[0]
        for title, attacks in (("PGD-50", PGD), ("AutoAttack", AUTOATTACK)):
            cells = [
                _difference(Records(options.records, name), decoder, baseline, attacks, epsilon, options.n_examples)
                for epsilon in epsilons
            ]
            if any(cells):
                _print_row(name, decoder, title, *cells)


def print_means(names: list[str], options: argparse.Namespace) -> None:
    """Print the first decoder's accuracy over the seeds of a model that has several: mean, smallest, largest."""
    seeds: dict[str, list[str]] = {}
    for name in names:
        seeds.setdefault(name.rstrip("0123456789") + "*", []).append(name)
    print(f"\nAccuracy over seeds in %, mean (smallest to largest). FGSM: all images. {MARK}: in bfloat16.\n")
    _print_row("model", "seeds", "attack", *map(format_epsilon, _epsilons(options)))
    _print_row(*("--" for _ in range(3 + len(_epsilons(options)))))
    for model, of_seeds in seeds.items():
        if len(of_seeds) < 2:
            continue
        for title in ("FGSM", "PGD-50", "AutoAttack"):
            cells = [_over_seeds(of_seeds, title, epsilon, options) for epsilon in _epsilons(options)]
            if any(cells):
                _print_row(model, str(len(of_seeds)), title, *cells)


def print_difference_over_seeds(names: list[str], options: argparse.Namespace) -> None:
    """Print by how much the mean over a model's seeds exceeds cross-entropy's, with two standard errors."""
    seeds: dict[str, list[str]] = {}
    for name in names:
        seeds.setdefault(name.rstrip("0123456789"), []).append(name)
    baseline = BASELINE.rstrip("0123456789")
    print("\nLess cross-entropy over its seeds, points, +- one standard error of the images, and of the seeds.\n")
    _print_row("model", "attack over seeds", *map(format_epsilon, _epsilons(options)))
    _print_row(*("--" for _ in range(2 + len(_epsilons(options)))))
    for model, of_seeds in seeds.items():
        if len(of_seeds) < 2 or model == baseline or len(seeds.get(baseline, [])) < 2:
            continue
        for title, attacks in (("PGD-50", PGD), ("AutoAttack", AUTOATTACK)):
            cells = []
            for epsilon in _epsilons(options):
                pairs = [
                    (_bits(of_seeds, a, epsilon, options), _bits(seeds[baseline], a, epsilon, options))
                    for a in attacks.values()
                ]
                cells.append(
                    next((_two_errors(one, other) for one, other in pairs if one is not None and other is not None), "")
                )
            if any(cells):
                _print_row(f"{model}*", title, *cells)


def _bits(names: list[str], attack: str, epsilon: float, options: argparse.Namespace) -> np.ndarray | None:
    """Return (seeds, images), whether each is right under the attack; None unless every seed was attacked."""
    known = [
        Records(options.records, name).attack(model_card(name).decoders[0], attack, epsilon, options.n_examples)
        for name in names
    ]
    if any(fields is None for fields in known):
        return None
    return np.array([AttackResult.from_dict(fields).robust_correct for fields in known if fields], dtype=float)


def _two_errors(one: np.ndarray, other: np.ndarray) -> str:
    """Return the difference of two means over seeds and images in points."""
    per_image = one.mean(axis=0) - other.mean(axis=0)  # (images,)
    of_images = per_image.std(ddof=1) / np.sqrt(len(per_image))
    of_seeds = np.sqrt(sum(each.mean(axis=1).var(ddof=1) / len(each) for each in (one, other)))
    return f"{100 * per_image.mean():+.1f} +- {100 * of_images:.1f}, {100 * of_seeds:.1f}"


def _over_seeds(names: list[str], title: str, epsilon: float, options: argparse.Namespace) -> str:
    """Return a cell; empty unless every seed was attacked, with one precision: else a mean would mix what differs."""
    parts = [(Records(options.records, name), model_card(name).decoders[0]) for name in names]
    if title == "FGSM":
        sweeps = [
            SweepResult.from_dict(part["fgsm"])
            for part in (records.of(decoder) for records, decoder in parts)
            if "fgsm" in part
        ]
        swept = [share for share in (_at(sweep, epsilon) for sweep in sweeps) if share is not None]
        return _mean_and_extremes(swept) if len(swept) == len(names) else ""
    for precision, attack in {"PGD-50": PGD, "AutoAttack": AUTOATTACK}[title].items():
        known = [records.attack(decoder, attack, epsilon, options.n_examples) for records, decoder in parts]
        shares = [fields["robust_accuracy"] for fields in known if fields is not None]
        if len(shares) == len(names):
            return _mean_and_extremes(shares) + ("" if precision == "fp32" else MARK)
    return ""


def _mean_and_extremes(shares: list[float]) -> str:
    mean = sum(shares) / len(shares)
    return f"{_percent(mean, 1)} ({_percent(min(shares), 1)} to {_percent(max(shares), 1)})"


def _epsilons(options: argparse.Namespace) -> list[float]:
    return [parse_epsilon(text) for text in options.eps.split(",")]


def _difference(
    records: Records, decoder: str, baseline: Records, attacks: dict[str, str], epsilon: float, total: int
) -> str:
    """Return the difference under the first attack that both are known under: a better search must favour neither."""
    for attack in attacks.values():
        one = records.attack(decoder, attack, epsilon, total)
        other = baseline.attack("head", attack, epsilon, total)
        if one is not None and other is not None:
            difference = paired_difference(AttackResult.from_dict(one), AttackResult.from_dict(other))
            return f"{100 * difference.value:+.1f} +- {100 * difference.standard_error:.1f}"
    return ""
