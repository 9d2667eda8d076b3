"""What was measured of each shipped model: a file a model in docs/records, and the part of it that its card carries."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ibrobust.atomic import write_text
from ibrobust.data import Dataset
from ibrobust.evaluation.attacks.result import AttackResult
from ibrobust.evaluation.attacks.worst_case import worst_case
from ibrobust.home import models_dir, zoo_dir
from ibrobust.locking import locked
from ibrobust.registry import ModelCard, add_evaluation, model_card

RECORDS = Path(__file__).resolve().parent.parent / "docs" / "records"
# By precision, the better one first, as their records name them.
PGD = {"fp32": "PGD:steps=50", "bf16": "PGD:precision=bf16,steps=50"}
AUTOATTACK = {"fp32": "AutoAttack", "bf16": "AutoAttack:precision=bf16"}


class Records:
    """What is known of one model, in a file of its own that several processes may add to."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / f"{name}.json"
        self._fresh = {"model": name, "weights": model_card(name).weights.sha256, "decoders": {}}
        self.content: dict[str, Any] = {}
        self._read()

    def _read(self) -> None:
        found = json.loads(self._path.read_text(encoding="utf-8")) if self._path.is_file() else self._fresh
        self.content = found if found["weights"] == self._fresh["weights"] else self._fresh

    def of(self, decoder: str) -> dict[str, Any]:
        """Return the part of a decoder."""
        part: dict[str, Any] = self.content["decoders"].setdefault(decoder, {"attacks": [], "audits": []})
        return part

    def attack(self, decoder: str, attack: str, epsilon: float, total: int) -> dict[str, Any] | None:
        """Return what is known of an attack on so many images."""
        wanted = (attack, epsilon, total)
        found = (
            each for each in self.of(decoder)["attacks"] if wanted == (each["attack"], each["epsilon"], each["total"])
        )
        return next(found, None)

    def most_precise(
        self, decoder: str, attacks: dict[str, str], epsilon: float, total: int
    ) -> tuple[str, AttackResult] | None:
        """Return the precision and the result of the first of those attacks, by precision, that is known."""
        for precision, attack in attacks.items():
            fields = self.attack(decoder, attack, epsilon, total)
            if fields is not None:
                return precision, AttackResult.from_dict(fields)
        return None

    def add(self, change: Callable[[Records], None]) -> None:
        """Apply a change to what the file holds now, and write it."""
        with locked(
            self._path.with_suffix(".lock"), f"{self._path} is being written by another process.", seconds=60.0
        ):
            self._read()
            change(self)
            write_text(self._path, json.dumps(self.content, indent=1) + "\n")


def keep_in_card(name: str, key: str, decoder: str, record: dict[str, Any], data: Dataset) -> None:
    """Put a record into the card of one's own model, and of no other."""
    if (models_dir() / f"{name}.yaml").is_file():
        add_evaluation(name, key, decoder, record, data)


def write_shipped_cards(names: list[str], folder: Path) -> None:
    """Write what the records hold into the cards of the models that ship, and nothing else of an evaluation."""
    for name in names:
        path = zoo_dir() / f"{name}.yaml"
        if path.is_file() and not (models_dir() / path.name).is_file():
            card = model_card(name)
            evaluations = shipped_evaluations(Records(folder, name).content, card)
            write_text(path, card.model_copy(update={"evaluations": evaluations}).to_text())
            print(path)


def worst_cases(part: dict[str, Any], total: int) -> list[AttackResult]:
    """Return a decoder's worst cases over so many images, at each epsilon that AutoAttack was run at.

    A worst case of PGD alone would be no news.
    """
    results = [AttackResult.from_dict(fields) for fields in part["attacks"] if fields["total"] == total]
    attacked = {result.epsilon for result in results if result.attack in AUTOATTACK.values()}
    return [case for case in worst_case(results) if case.epsilon in attacked] if attacked else []


def shipped_evaluations(content: dict[str, Any], card: ModelCard) -> dict[str, dict[str, Any]]:
    """Return what a card carries of a model's record, by key and decoder: sweep, attacks, and the widest audit."""
    images = {"dataset": card.dataset.name, "dataset_fingerprint": card.dataset.fingerprint}
    evaluations: dict[str, dict[str, Any]] = {"fgsm": {}, "attacks": {}, "audit": {}}
    for decoder, part in content["decoders"].items():
        known: dict[str, Any] = {"fgsm": part.get("fgsm")}
        if part["attacks"]:
            results = [AttackResult.from_dict(fields) for fields in part["attacks"]]
            totals = sorted({result.total for result in results})
            worst = [case for total in totals for case in worst_cases(part, total)]
            known["attacks"] = {"results": [result.summary() for result in (*results, *worst)]}
        if part["audits"]:
            known["audit"] = max(part["audits"], key=lambda audit: audit["epsilon"])
        for key, record in known.items():
            if record:
                evaluations[key][decoder] = {**record, **images}
    return {key: found for key, found in evaluations.items() if found}
