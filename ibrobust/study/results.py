"""What was measured of one model: a JSON file, from which its records and the evaluations of its card are made."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ibrobust.atomic import write_text
from ibrobust.card_results import attacked_in, is_own, results_in, strictest, with_result
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.over_attacks import agree_without_attack, worst_case
from ibrobust.evaluation.attacks.result import AttackResult
from ibrobust.evaluation.attacks.text_form import TRANSFER, name_and_options, read_options
from ibrobust.records import WORST_CASE_OF, is_older_attack, is_older_audit, is_thorough
from ibrobust.registry import ModelCard, list_models, model_card
from ibrobust.reporting.figures.series import WORST_CASE
from ibrobust.reporting.model_rows import card_verdict
from ibrobust.study.information_plane import QUANTITIES

Row = dict[str, Any]
RESULTS_FILE = "results.json"

# What the file always has, and what a finished measurement adds.
_NEEDED = ("model", "weights", "dataset", "dataset_fingerprint", "decoders")
_OF_FINISHED = ("card", "asked")


class Results:
    """The results of one model, kept in a file after each measurement.

    Its content has `model`, `weights` (their SHA-256; of a reference, the fingerprint of its module), `dataset`,
    `dataset_fingerprint`, `decoders` (by name, each with `fgsm`, `attacks` with a result for every image, and
    `audits`), and `information`, `train_accuracy`, `information_plane`, `examples` and `surrogates` (the SHA-256 of
    their weights, by name), if they were measured or used. A finished measurement adds `card`, that of the model
    without evaluations (None for a reference), and `asked`, see `asked_for`.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        """Read the results that are about the same model, weights and images; start anew if there are none."""
        self._path = path
        stored = read_results(path.parent)
        self.is_new = not stored or any(stored.get(key) != value for key, value in about.items())
        self.content: dict[str, Any] = {**about, "decoders": {}} if self.is_new else stored

    def of(self, decoder: str) -> dict[str, Any]:
        """Return the part of a decoder."""
        part: dict[str, Any] = self.content["decoders"].setdefault(decoder, {"attacks": [], "audits": []})
        return part

    def once(self, place: dict[str, Any], key: str, make: Callable[[], Any]) -> None:
        """Measure what a place does not hold under a key, and write the file."""
        if key not in place:
            place[key] = make()
            self.save()

    def save(self) -> None:
        """Write the file."""
        write_text(self._path, json.dumps(self.content, indent=1) + "\n")


def read_results(folder: Path, *, finished: bool = False) -> dict[str, Any]:
    """Return the results in the folder of a cell; empty if it has none.

    Args:
        folder: of the cell.
        finished: whether its measurement is finished, which adds to the results.

    Raises:
        IbrobustError: the file is damaged.
    """
    path = folder / RESULTS_FILE
    if not path.is_file():
        return {}
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("they are not a mapping")
        if missing := [key for key in (*_NEEDED, *(_OF_FINISHED if finished else ())) if key not in found]:
            raise ValueError(f"{missing[0]!r} is missing")
    except ValueError as error:
        raise IbrobustError(
            f"The results in {str(path)!r} are damaged ({error}): remove the file, and run the study again."
        ) from error
    return found


def asked_for(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a cell's results without those that the study asked for earlier only, by what `asked` lists.

    Other cells may lack these, and a worst case over more attacks would be compared with one over fewer. `asked` has
    the epsilons of `fgsm` by decoder; `attacks` and `audits`, as [decoder, label, epsilon, images] and [decoder,
    epsilon]; and `others`, keys of the content.
    """
    asked, decoders = content["asked"], {}
    for name, part in content["decoders"].items():
        sweep, epsilons = part.get("fgsm") or {}, asked["fgsm"].get(name, ())
        kept = [place for place, epsilon in enumerate(sweep.get("epsilons", ())) if epsilon in epsilons]
        swept = {key: [sweep[key][place] for place in kept] for key in ("epsilons", "correct") if kept}
        decoders[name] = {
            "fgsm": {**sweep, **swept} if kept else {},
            "attacks": [
                each
                for each in part.get("attacks", ())
                if [name, each["attack"], each["epsilon"], each["total"]] in asked["attacks"]
            ],
            "audits": [each for each in part.get("audits", ()) if [name, each["epsilon"]] in asked["audits"]],
        }
    return {"decoders": decoders, **{key: content[key] for key in asked["others"]}}


def is_outdated(content: Mapping[str, Any], weights: str | None, images: str | None) -> bool:
    """Return whether results are of other weights or images than today's, or of a surrogate that was replaced.

    Args:
        content: the results.
        weights: SHA-256 of the model's; None if they are not known.
        images: fingerprint of the data set; None if it is not known.
    """
    today = {"weights": weights, "dataset_fingerprint": images}
    differs = any(value is not None and content.get(key) != value for key, value in today.items())
    return bool(content) and (differs or bool(replaced_surrogates(content)))


def has_other_code(content: Mapping[str, Any], sources: Mapping[str, str]) -> bool:
    """Return whether an attack that the study asks for was run by other code than today's.

    Args:
        content: the results of a finished cell.
        sources: today's `Attack.source` by label, of attacks that have one without a surrogate.
    """
    for part in asked_for(content)["decoders"].values():
        used = [(each["attack"], each.get("source", "")) for each in part["attacks"]]
        for report in part["audits"]:
            labels = [label for label, _ in report.get("attacks", ())]
            used += zip(labels, report.get("sources", [""] * len(labels)), strict=True)
        if any(sources.get(label, source) != source for label, source in used):
            return True
    return False


def replaced_surrogates(content: Mapping[str, Any]) -> set[str]:
    """Return the names of the surrogates that have other weights today than those that were used."""
    stored = set(list_models())
    used = content.get("surrogates", {}).items()
    return {name for name, weights in used if name in stored and model_card(name).weights.sha256 != weights}


def forget_surrogates(content: dict[str, Any], names: Collection[str]) -> None:
    """Remove the results that were made with some surrogates."""
    for part in content["decoders"].values():
        part["attacks"] = [each for each in part["attacks"] if surrogate_of(each["attack"]) not in names]
        part["audits"] = [each for each in part["audits"] if not _surrogates_of_audit(each) & set(names)]
    for name in names:
        del content["surrogates"][name]


def has_older(content: Mapping[str, Any], kind: str) -> bool:
    """Return whether a result was made by older rules than today's; the kind is audits or attacks."""
    return any(_is_older(each, kind) for part in content.get("decoders", {}).values() for each in part.get(kind, ()))


def forget_older(content: dict[str, Any], kind: str) -> None:
    """Remove the results of a kind by older rules than today's."""
    for part in content["decoders"].values():
        part[kind] = [each for each in part.get(kind, ()) if not _is_older(each, kind)]


def _is_older(result: Mapping[str, Any], kind: str) -> bool:
    return is_older_audit(result) if kind == "audits" else is_older_attack(result)


def surrogate_of(label: str) -> str:
    """Return the name of the surrogate of an attack, as its label has it; empty without one."""
    name, written = name_and_options(label)
    if name.startswith(f"{TRANSFER}:"):
        return name.partition(":")[2]
    return str(read_options(written).get("surrogate", ""))


def _surrogates_of_audit(report: Mapping[str, Any]) -> set[str]:
    return {report.get("surrogate") or "", *(surrogate_of(label) for label, _ in report.get("attacks", ()))} - {""}


def rows_of(content: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the rows of the records, without the columns that are equal in all rows of a model."""
    for decoder, accuracy in content.get("train_accuracy", {}).items():
        yield _row(decoder, "train_accuracy", accuracy["correct"] / accuracy["total"], accuracy["total"])
    for decoder, part in content["decoders"].items():
        if part.get("fgsm"):
            yield from _sweep_rows(decoder, part["fgsm"])
        yield from _attack_rows(content, decoder)
        for audit in part.get("audits", ()):
            row = _row(decoder, "audit_worst_case_accuracy", audit["worst_case_accuracy"], audit["n"])
            where = {"epsilon": audit["epsilon"], "norm": "Linf"}
            bound = audit.get("upper_bound") or is_older_audit(audit) or None
            yield {**row, **where, "verdict": card_verdict(audit).text, "upper_bound": bound}
    if (information := content.get("information")) is not None:
        for quantity in (*QUANTITIES, "mutual_information"):
            if information.get(quantity) is not None:
                yield _row("", quantity, information[quantity], information["num_points"])
    for rows in content.get("information_plane", {}).values():
        yield from rows


def worst_cases(content: Mapping[str, Any], decoder: str) -> list[AttackResult]:
    """Return a decoder's worst case over its attacks, by norm, number of images and epsilon.

    If the model was attacked by a thorough attack in a norm, only where this was done: a worst case over others alone
    would be too high beside it. If the attacks do not agree on what is correct without them, which happens for a model
    that draws random numbers, the strictest thorough one is the worst case by itself.
    """
    attacks = [fields for part in content["decoders"].values() for fields in part.get("attacks", ())]
    searched = {fields["norm"] for fields in attacks if is_thorough(fields["attack"])}
    stored = content["decoders"][decoder].get("attacks", ())
    known = [AttackResult.from_dict(fields) for fields in stored if "attacked_correct" in fields]
    found = []
    for norm, total in sorted({(result.norm, result.total) for result in known}):
        alike = [result for result in known if (result.norm, result.total) == (norm, total)]
        thorough = {result.epsilon for result in alike if is_thorough(result.attack)}
        cases = worst_case(alike) if agree_without_attack(alike) else _strictest(alike)
        found += [case for case in cases if norm not in searched or case.epsilon in thorough]
    return found


def _strictest(results: Sequence[AttackResult]) -> list[AttackResult]:
    """Return one worst case per epsilon, that of the thorough attack which leaves the fewest images."""
    found: dict[float, AttackResult] = {}
    for label in dict.fromkeys(result.attack for result in results if is_thorough(result.attack)):
        of_attack = [result for result in results if result.attack == label]
        groups = [of_attack] if agree_without_attack(of_attack) else [[result] for result in of_attack]
        for case in (case for group in groups for case in worst_case(group)):
            known = found.get(case.epsilon)
            if known is None or case.robust_accuracy < known.robust_accuracy:
                found[case.epsilon] = case
    return [found[epsilon] for epsilon in sorted(found)]


def card_evaluations(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the results for a card, by key and decoder: the sweep, the attacks, and each audit."""
    own = content["dataset_fingerprint"]
    images = {"dataset": content["dataset"], "dataset_fingerprint": own}
    evaluations: dict[str, dict[str, Any]] = {}
    for decoder, part in content["decoders"].items():
        known: list[tuple[str, dict[str, Any]]] = [("fgsm", part["fgsm"])] if part.get("fgsm") else []
        if part.get("attacks"):
            results = [AttackResult.from_dict(fields) for fields in part["attacks"]]
            summaries = [each.summary() for each in (*results, *worst_cases(content, decoder))]
            known.append(("attacks", {"results": summaries}))
        known += [("audit", audit) for audit in sorted(part.get("audits", ()), key=lambda audit: audit["epsilon"])]
        for kind, record in known:
            evaluations = with_result(evaluations, kind, decoder, {**record, **images}, own)
    return evaluations


def results_of_card(card: ModelCard) -> dict[str, Any]:
    """Return the results that a card carries on its own test images, without those for every image."""
    own = card.dataset.fingerprint

    def of(kind: str, decoder: str) -> list[dict[str, Any]]:
        return [found for found in results_in(card.evaluations, kind, decoder) if is_own(found, own)]

    decoders = {
        name: {
            "fgsm": next(iter(of("fgsm", name)), {}),
            "attacks": [each for each in attacked_in(card.evaluations, name, own) if "dataset" not in each],
            "audits": of("audit", name),
        }
        for name in card.decoders
    }
    return {"model": card.name, "decoders": decoders}


def card_rows(card: ModelCard) -> Iterator[Row]:
    """Yield the rows of what a card says of the training: clean accuracies, final loss and time."""
    for decoder, record in card.clean_accuracy.items():
        yield _row(decoder, "test_accuracy", record.accuracy, record.total)
    if card.training is not None:
        yield {"quantity": "final_loss", "value": card.training.final_terms["loss"]}
        yield {"quantity": "seconds_per_epoch", "value": card.training.seconds / card.training.epochs_run}


def _row(decoder: str, quantity: str, value: float, num_images: int) -> Row:
    return {"decoder": decoder, "quantity": quantity, "value": value, "num_images": num_images}


def _sweep_rows(decoder: str, sweep: Mapping[str, Any]) -> Iterator[Row]:
    total = sweep["total"]
    yield _row(decoder, "clean_accuracy", sweep["clean_correct"] / total, total)
    for quantity in ("zero_gradient", "nonfinite_gradient"):
        yield {**_row(decoder, f"{quantity}_share", sweep[quantity] / total, total), "attack": "FGSM"}
    bound = bool(sweep.get("flags")) or None
    for epsilon, correct in zip(sweep["epsilons"], sweep["correct"], strict=True):
        where = {"attack": "FGSM", "epsilon": epsilon, "norm": "Linf", "upper_bound": bound}
        yield {**_row(decoder, "accuracy", correct / total, total), **where}


def _stored_worst_cases(attacks: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the worst case of results without those for every image, as a card has them, where one is thorough.

    It is the smallest accuracy: the card may hold worst cases over the attacks of several runs.
    """
    places: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for result in attacks:
        if "attacked_correct" not in result:
            places.setdefault((result["norm"], result["total"], result["epsilon"]), []).append(result)
    for (norm, total, epsilon), found in places.items():
        if any(is_thorough(result["attack"]) for result in found):
            least, is_bound = strictest(found)
            yield _worst_row(norm, epsilon, total, least, is_bound=is_bound)


def _worst_row(norm: str, epsilon: float, total: int, accuracy: float, *, is_bound: bool) -> Row:
    attack = WORST_CASE if norm == "Linf" else f"{WORST_CASE}, {norm}"
    return {
        "quantity": "worst_case_accuracy",
        "value": accuracy,
        "num_images": total,
        "attack": attack,
        "epsilon": epsilon,
        "norm": norm,
        "upper_bound": is_bound or None,
    }


def _attack_rows(content: Mapping[str, Any], decoder: str) -> Iterator[Row]:
    part = content["decoders"][decoder]
    attacks = part.get("attacks", ())
    # A figure takes the accuracy without an attack on the same images.
    for total, clean in {result["total"]: result["clean_accuracy"] for result in attacks}.items():
        if total != (part.get("fgsm") or {}).get("total"):
            yield _row(decoder, "clean_accuracy", clean, total)
    for result in attacks:
        if result["attack"].startswith(WORST_CASE_OF):
            continue
        bound = result.get("upper_bound") or is_older_attack(result) or None
        where = {**{key: result[key] for key in ("attack", "epsilon", "norm")}, "upper_bound": bound}
        for quantity, key in (("accuracy", "accuracy_under_attack"), ("robust_accuracy", "robust_accuracy")):
            yield {**_row(decoder, quantity, result[key], result["total"]), **where}
    for case in worst_cases(content, decoder):
        bound = case.upper_bound or is_older_attack(case.summary())
        yield {
            "decoder": decoder,
            **_worst_row(case.norm, case.epsilon, case.total, case.robust_accuracy, is_bound=bound),
        }
    for row in _stored_worst_cases(attacks):
        yield {"decoder": decoder, **row}
