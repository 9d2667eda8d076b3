"""All evaluations of one cell, kept as its results and turned into rows of its records."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ibrobust.card_results import WeakerResultError
from ibrobust.data import Dataset, Split, load_dataset
from ibrobust.data.names import attacked_name
from ibrobust.epsilon import format_epsilon
from ibrobust.errors import IbrobustError
from ibrobust.estimators.latent_information import latent_information
from ibrobust.evaluation.attacks.attack import Attack
from ibrobust.evaluation.attacks.by_name import read_attack
from ibrobust.evaluation.attacks.fingerprint import fingerprint
from ibrobust.evaluation.attacks.run import run_attacks
from ibrobust.evaluation.attacks.state import remove_state
from ibrobust.evaluation.attacks.surrogate import SurrogateAttack
from ibrobust.evaluation.audit import audit
from ibrobust.evaluation.audit.subject import QUICK
from ibrobust.evaluation.model_state import model_device
from ibrobust.evaluation.sweep import fgsm_sweep
from ibrobust.integrations.external_models import load_reference
from ibrobust.models import HEAD, ImageClassifier, encode_in_batches
from ibrobust.records import AUDIT_VERSION
from ibrobust.registry import ModelCard, add_evaluation, load_model, model_card
from ibrobust.registry.catalog import require_fit
from ibrobust.registry.scoring import clean_accuracy, unit_batches
from ibrobust.study.cells import Cell, dataset_of, images_of
from ibrobust.study.examples import adversarial_examples
from ibrobust.study.information_plane import information_plane, snapshot_path
from ibrobust.study.results import (
    RESULTS_FILE,
    Results,
    Row,
    forget_older,
    forget_surrogates,
    has_older,
    replaced_surrogates,
)
from ibrobust.study.spec import AttackAt, Audit, Entropies, Study

Stage = Callable[[str], None]
BATCH = 250


def state_folder(folder: Path) -> Path:
    """Return the folder of a cell's interrupted attacks."""
    return folder / "measured"


def measure(
    study: Study,
    cell: Cell,
    card: ModelCard | None,
    folder: Path,
    *,
    device: str,
    data_dir: Path | None,
    stage: Stage,
) -> None:
    """Measure what the study asks for of one cell, and store it in the cell's results.

    Completed evaluations of an earlier call are reused, and interrupted attacks resume at their last batch.

    Args:
        study: the measurements, and the images.
        cell: the cell.
        card: of its model; None for a reference.
        folder: of the cell, for results and snapshots.
        device: where the model runs.
        data_dir: see `load_dataset`.
        stage: called with a few words when a step begins, and with its progress after a comma.

    Raises:
        IbrobustError: the images are not those of the model's training, or do not fit it, see `images_of`; the model
            has none of an evaluation's decoders; or an evaluation raises it.
    """
    evaluations, dataset = study.evaluations, dataset_of(study, cell)
    stage(f"reading {dataset}")
    data = images_of(study, cell, card, load_dataset(dataset, data_dir=data_dir, progress=False))
    models = _models(cell, card, data, device)
    # A reference has no card: its module says whether it is the one that was measured before.
    weights = card.weights.sha256 if card is not None else fingerprint(models[HEAD])
    about = {"model": cell.model, "weights": weights}
    images = {"dataset": attacked_name(data.name, data.source), "dataset_fingerprint": data.fingerprint}
    results = Results(folder / RESULTS_FILE, {**about, **images})
    if results.is_new:
        shutil.rmtree(state_folder(folder), ignore_errors=True)  # of other weights or images
        results.save()
    if replaced := replaced_surrogates(results.content):
        # Stored now: the study may ask for nothing of these any more, and then nothing else would be stored.
        forget_surrogates(results.content, replaced)
        results.save()
        shutil.rmtree(state_folder(folder), ignore_errors=True)  # an interrupted attack may have used one of them
    for kind, evaluation in {"attacks": evaluations.attacks, "audits": evaluations.audit}.items():
        if evaluation is not None and has_older(results.content, kind):
            forget_older(results.content, kind)
            results.save()
    work = _Measuring(cell, data, results, models, state_folder(folder), stage)
    others = work.asked["others"]
    if evaluations.train_accuracy:
        others.append("train_accuracy")
        results.once(results.content, "train_accuracy", work.train_accuracy)
    if evaluations.entropies is not None and all(isinstance(model, ImageClassifier) for model in models.values()):
        wanted = evaluations.entropies
        asked = {
            "noise": wanted.noise,
            "num_neighbors": wanted.num_neighbors,
            "num_points": len(data.test.subset(wanted.n_examples)),
        }
        known = results.content.get("information", {})
        if any(known.get(key) != value for key, value in asked.items()):
            results.content.pop("information", None)
        others.append("information")
        results.once(results.content, "information", lambda: work.entropies(wanted))
    if (sweep := evaluations.sweep) is not None:
        for name in work.chosen(sweep.decoders, "sweep"):
            work.sweep(name, sweep.eps, data.test.subset(sweep.n_examples))
    runs: list[AttackAt] = []
    if (attacks := evaluations.attacks) is not None:
        runs = [run for run in attacks.runs if run.is_for(cell.name)]
        for run in runs:
            for name in work.chosen(run.decoders or (), "attacks"):
                work.attack(name, run.attack, run.eps, data.test.subset(attacks.n_examples))
    if evaluations.audit is not None:
        for name in work.chosen(evaluations.audit.decoders, "audit"):
            for epsilon in evaluations.audit.eps:
                work.audit(name, evaluations.audit, epsilon, None if cell.recipe is None else card)
    # The images are attacked in L-infinity: the radii of attacks in other norms are much larger.
    in_linf = [run for run in runs if read_attack(run.attack).norm == "Linf"]
    epsilons = [at for each in (sweep, evaluations.audit, *in_linf) if each is not None for at in each.eps]
    if any(epsilons):
        if results.content.get("examples", {}).get("epsilon") != max(epsilons):
            results.content.pop("examples", None)
        try:
            results.once(results.content, "examples", lambda: work.examples(max(epsilons)))
            others.append("examples")
        except Exception as error:  # a picture for the report, which no number depends on
            warnings.warn(f"The report has no adversarial images of {cell.name}: {error}", stacklevel=2)
    if (plane := evaluations.information_plane) is not None and cell.recipe is not None:
        others.append("information_plane")
        planes = results.content.setdefault("information_plane", {})
        for epoch in plane.epochs:
            at = (cell.recipe, data, plane, snapshot_path(folder, epoch))

            def points(at: Any = at, epoch: int = epoch) -> list[Row]:
                stage(f"information plane epoch {epoch}")
                return [{**row, "epoch": epoch} for row in information_plane(*at, device=torch.device(device))]

            results.once(planes, str(epoch), points)
    results.content["card"] = None if card is None else card.model_dump(mode="json", exclude={"evaluations"})
    results.content["asked"] = work.asked
    results.save()


def _models(cell: Cell, card: ModelCard | None, data: Dataset, device: str) -> dict[str, nn.Module]:
    """Return a cell's model with each of its decoders."""
    if card is None:
        channels, height, width = data.test.images.shape[1:]
        size = (height, width)
        return {
            HEAD: load_reference(
                cell.model, device=device, channels=channels, image_size=size, num_classes=data.num_classes
            ),
        }
    require_fit(card, data)
    return {name: load_model(card.name, decoder=name, device=device) for name in card.decoders}


class _Measuring:
    """The evaluations of one cell."""

    def __init__(
        self, cell: Cell, data: Dataset, results: Results, models: dict[str, nn.Module], state: Path, stage: Stage
    ) -> None:
        self._cell, self._data, self._results, self._models = cell, data, results, models
        self._state, self._stage = state, stage
        self.asked: dict[str, Any] = {"fgsm": {}, "attacks": [], "audits": [], "others": []}  # see `asked_for`

    def chosen(self, decoders: Sequence[str], evaluation: str) -> list[str]:
        """Return the decoders of an evaluation that the model has."""
        names = list(self._models)
        found = [
            name for name in names if not decoders or name in decoders or ("default" in decoders and name == names[0])
        ]
        if not found:
            raise IbrobustError(
                f"The model of {self._cell.name!r} has none of the decoders of the evaluation {evaluation!r} "
                f"({', '.join(decoders)}): name one of {', '.join(names)}."
            )
        return found

    def train_accuracy(self) -> dict[str, Any]:
        self._stage("training images")
        models = {name: model for name, model in self._models.items() if isinstance(model, ImageClassifier)}
        some = next(iter(models.values()))
        decoders = {name: model.decoder for name, model in models.items()}
        on_training = replace(self._data, test=self._data.train)
        found = clean_accuracy(some.encoder, decoders, some.latent_dim, on_training)
        return {name: record.model_dump() for name, record in found.items()}

    def entropies(self, wanted: Entropies) -> dict[str, Any]:
        self._stage("entropies")
        some = next(iter(self._models.values()))
        assert isinstance(some, ImageClassifier)
        test, device = self._data.test.subset(wanted.n_examples), model_device(some)
        latents = encode_in_batches(some.encoder, unit_batches(test, device))[:, : some.latent_dim]
        labels = test.labels.to(device)
        return latent_information(
            latents,
            labels,
            self._data.num_classes,
            noise=wanted.noise,
            num_neighbors=wanted.num_neighbors,
            seed=self._cell.seed,
        ).to_dict()

    def examples(self, epsilon: float) -> dict[str, Any]:
        self._stage("adversarial images")
        return adversarial_examples(
            next(iter(self._models.values())), self._data, epsilon=epsilon, seed=self._cell.seed
        )

    def sweep(self, name: str, epsilons: Sequence[float], test: Split) -> None:
        part, model, what = self._results.of(name), self._models[name], f"FGSM sweep {name}"
        known = part.get("fgsm") or {}
        self.asked["fgsm"][name] = list(epsilons)
        if set(epsilons) <= set(known.get("epsilons", ())) and known["total"] == len(test):
            return
        self._stage(what)
        result = fgsm_sweep(
            model, test.images, test.labels, epsilons, batch_size=BATCH, progress=_share_of(what, self._stage)
        )
        part["fgsm"] = result.to_dict()
        self._results.save()

    def attack(self, name: str, text: str, epsilons: Sequence[float], test: Split) -> None:
        """Run an attack on a decoder at the epsilons that are missing, the large radii first: they take less time."""
        known = self._results.of(name)["attacks"]
        attack = self._attack(text, self._models[name])
        if attack is None:
            return
        self.asked["attacks"] += [[name, attack.label, epsilon, len(test)] for epsilon in epsilons]
        # What the label leaves out, such as the text of a function, may have changed.
        source = {"source": attack.source} if attack.source else {}
        known[:] = [r for r in known if r["attack"] != attack.label or r.get("source") == source.get("source")]
        done = {r["epsilon"] for r in known if (r["attack"], r["total"]) == (attack.label, len(test))}
        missing = sorted(set(epsilons) - done, reverse=True)
        # One run of an attack that searches for the smallest perturbation is for all epsilons.
        for radii in [missing] if missing and attack.minimal else [[epsilon] for epsilon in missing]:
            shown = " ".join(format_epsilon(radius, norm=attack.norm) for radius in radii)
            what = f"{attack.label.replace(',', ' ')} at {shown} {name}"  # progress follows a comma
            self._stage(what)
            # A run that an older version or other code of the attack began is not resumed.
            version = attack.attack_version
            began = (f"v{version}" if version > 1 else "", source.get("source", "")[:12])
            parts = filter(None, (name, attack.label, repr(radii[0]), *began))
            state = self._state / re.sub(r"[^A-Za-z0-9._-]", "_", f"{'-'.join(parts)}.jsonl")
            results = run_attacks(
                self._models[name],
                test.images,
                test.labels,
                attacks=[attack],
                epsilons=radii,
                batch_size=BATCH,
                seed=self._cell.seed,
                state_path=state,
                progress=_share_of(what, self._stage),
            )
            known.extend({**result.to_dict(), **source} for result in results)
            self._results.save()
            remove_state(state)

    def audit(self, name: str, wanted: Audit, epsilon: float, card: ModelCard | None) -> None:
        """Audit a decoder at an epsilon; store the report in the card of a model that the study trained as well."""
        known, chosen = self._results.of(name)["audits"], self._data.test.subset(wanted.n_examples)
        model, other = self._models[name], wanted.surrogate if wanted.surrogate != self._cell.model else None
        found = [self._attack(text, model) for text in wanted.attacks]
        own = [attack for attack in found if attack is not None]
        self.asked["audits"].append([name, epsilon])
        sources = [attack.source for attack in own]
        asked = {
            "quick": wanted.quick,
            "n": min(len(chosen), QUICK.images or len(chosen)) if wanted.quick else len(chosen),
            "surrogate": other,
            "attacks": [attack.label for attack in own],
            "sources": sources,
            "audit_version": AUDIT_VERSION,
        }
        earlier = [report for report in known if report["epsilon"] == epsilon]
        if any(_asked(report) == asked for report in earlier):
            return
        self._stage(f"audit {name}")
        report = audit(
            model,
            chosen.images,
            chosen.labels,
            epsilon=epsilon,
            quick=wanted.quick,
            surrogate=None if other is None else self._surrogate(other, model),
            surrogate_name=other,
            attacks=own,
            batch_size=BATCH,
            seed=self._cell.seed,
            progress=lambda what, done, total: self._stage(f"audit {name}, {done} of {total}: {what}"),
        ).to_dict()
        if card is not None:
            # As after `ibrobust audit`, so that the list of models shows the verdict.
            with suppress(WeakerResultError):  # the card keeps an audit on more images
                add_evaluation(card.name, "audit", name, report, self._data, weights=card.weights.sha256)
        for outdated in earlier:  # made with other settings
            known.remove(outdated)
        # The sentences of the checks would fill most of the file; ibrobust audit prints them.
        kept = {key: value for key, value in report.items() if key != "checks"}
        known.append({**kept, **({"sources": sources} if any(sources) else {})})
        self._results.save()

    def _attack(self, text: str, model: nn.Module) -> Attack | None:
        """Return the attack, with the model that its surrogate names; None for a transfer from the model itself."""
        attack = read_attack(text)
        if not isinstance(attack, SurrogateAttack) or not isinstance(attack.surrogate, str):
            return attack
        if attack.surrogate == self._cell.model:  # a model is no surrogate of itself
            return attack.without_surrogate()
        return attack.with_surrogate(self._surrogate(attack.surrogate, model))

    def _surrogate(self, name: str, model: nn.Module) -> nn.Module:
        """Return a stored model, on the device of `model`; raise IbrobustError if it has other classes."""
        card = model_card(name)
        if card.dataset.class_names != self._data.class_names:
            raise IbrobustError(
                f"The surrogate {name!r} was trained on other classes than those of {self._data.name!r}: name another "
                "one in the study."
            )
        # Stored before it is used, since the state of an interrupted attack depends on it.
        self._results.once(self._results.content.setdefault("surrogates", {}), name, lambda: card.weights.sha256)
        return load_model(name, device=model_device(model))


def _asked(report: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of an audit that a study chooses, from the report of it."""
    attacks = [label for label, _ in report.get("attacks", ())]
    settings = {key: report.get(key) for key in ("quick", "n", "surrogate", "audit_version")}
    return {**settings, "attacks": attacks, "sources": report.get("sources", [""] * len(attacks))}


def _share_of(what: str, stage: Stage) -> Callable[[int, int], None]:
    return lambda done, total: stage(f"{what}, {done / total:.0%}")
