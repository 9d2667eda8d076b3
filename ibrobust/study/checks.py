"""Checks of a study before training: a mistake must not fail every cell one by one."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

from ibrobust.data import Dataset, load_dataset
from ibrobust.devices import check_device
from ibrobust.epsilon import check_epsilon
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.attack import Attack
from ibrobust.evaluation.attacks.by_name import read_attack
from ibrobust.evaluation.attacks.surrogate import SurrogateAttack
from ibrobust.evaluation.audit.run import own_attacks
from ibrobust.integrations.references import is_reference
from ibrobust.models import HEAD
from ibrobust.objectives import objective_class
from ibrobust.registry import model_card
from ibrobust.registry.catalog import require_fit
from ibrobust.registry.train_model import decoders_of
from ibrobust.study.cells import Cell, dataset_of, expand, images_of
from ibrobust.study.spec import InformationPlane, Study
from ibrobust.training.build import check_fit


def check_study(study: Study) -> None:
    """Raise IbrobustError, with the remedy, if a recipe is invalid or an evaluation does not fit the cells."""
    cells = expand(study)
    for cell in cells:
        if cell.recipe is not None:
            objective_class(cell.recipe.objective)
        else:
            dataset_of(study, cell)  # which reads its card
    if study.models and (study.evaluations.information_plane or study.evaluations.train_accuracy):
        raise IbrobustError(
            f"The study {study.name!r} measures its trainings (information_plane or train_accuracy), and models are "
            "not trained by it: make a study of its own for the models."
        )
    if study.evaluations.attacks is not None:
        for run in study.evaluations.attacks.runs:
            chosen = read_attack(run.attack)
            _check_surrogate(chosen)
            for epsilon in run.eps:
                check_epsilon(epsilon, norm=chosen.norm)
            for pattern in run.cells:
                if not any(fnmatchcase(cell.name, pattern) for cell in cells):
                    raise IbrobustError(
                        f"The attack {run.attack!r} is for the cells {pattern!r}, but no cell is called like this: use "
                        f"a pattern of names such as {cells[0].name!r}."
                    )
    if (wanted := study.evaluations.audit) is not None:
        if wanted.surrogate is not None:
            model_card(wanted.surrogate)
        for own in own_attacks(wanted.attacks):
            _check_surrogate(own)
    if study.evaluations.information_plane is not None:
        for cell in cells:
            _check_plane(study.evaluations.information_plane, cell)
    _check_figures(study)


def check_machine(study: Study, *, device: str | None, data_dir: Path | None) -> dict[str, str]:
    """Return the fingerprint of each cell's images, by its name.

    Raise IbrobustError, with the remedy, if the device or a data set is missing or does not fit a cell.
    Reading each data set once also downloads and decodes it, before many processes read it at once.
    """
    if device is not None:
        check_device(device)
    cells = expand(study)
    fingerprints = {}
    for name in dict.fromkeys(dataset_of(study, cell) for cell in cells):
        dataset = load_dataset(name, data_dir=data_dir)
        for cell in cells:
            if dataset_of(study, cell) == name:
                fingerprints[cell.name] = _check_cell(study, cell, dataset).fingerprint
    return fingerprints


def _check_cell(study: Study, cell: Cell, dataset: Dataset) -> Dataset:
    """Return the images as the cell's model takes them.

    Raise IbrobustError if the model could not be built, lacks a decoder, or has other images or too few classes.
    """
    if cell.recipe is not None:
        check_fit(cell.recipe, dataset)
        _check_neighbors(study, dataset)
        has = decoders_of(cell.recipe, dataset.num_classes)
    elif is_reference(cell.model):
        has = (HEAD,)
    else:
        card = model_card(cell.model)
        dataset = images_of(study, cell, card, dataset)
        require_fit(card, dataset)
        has = card.decoders
    sweep, attacks, audit = study.evaluations.sweep, study.evaluations.attacks, study.evaluations.audit
    runs = [run for run in attacks.runs if run.is_for(cell.name)] if attacks is not None else []
    asked = [(f"attack {run.attack!r}", run.decoders or ()) for run in runs]  # one attack may occur twice
    asked += [("evaluation 'sweep'", sweep.decoders)] if sweep is not None else []
    asked += [("evaluation 'audit'", audit.decoders)] if audit is not None else []
    for what, decoders in asked:
        if decoders and not {*decoders} & {*has, "default"}:
            raise IbrobustError(
                f"The {what} is for {', '.join(sorted(decoders))}, but the cell {cell.name!r} has "
                f"{', '.join(has)}: name one of its decoders."
            )
    for attack in (*(run.attack for run in runs), *(audit.attacks if audit is not None else ())):
        chosen = read_attack(attack)
        if not isinstance(chosen, SurrogateAttack):  # whose model is loaded later
            chosen.check_fit(channels=dataset.test.images.shape[1], num_classes=dataset.num_classes)
    return dataset


def _check_surrogate(attack: Attack) -> None:
    """Raise IbrobustError if an attack names a model as its surrogate that is not stored."""
    if isinstance(attack, SurrogateAttack) and isinstance(attack.surrogate, str):
        model_card(attack.surrogate)


def _check_plane(plane: InformationPlane, cell: Cell) -> None:
    if cell.recipe is None:
        return
    late = [epoch for epoch in plane.epochs if epoch > cell.recipe.epochs]
    if late:
        raise IbrobustError(
            f"The information plane needs epoch {late[0]}, but the cell {cell.name!r} is trained for "
            f"{cell.recipe.epochs}: leave that epoch out, or train longer."
        )
    if objective_class(cell.recipe.objective).outputs_per_latent != 1:
        raise IbrobustError(
            f"The information plane needs an encoder that gives points, but {cell.recipe.objective!r} trains one "
            "that gives distributions: leave out the cells of that objective or the information plane."
        )


def _check_neighbors(study: Study, dataset: Dataset) -> None:
    """Raise IbrobustError if entropies of the test latents would be found impossible only after the training."""
    asked = {"entropies": study.evaluations.entropies, "information_plane": study.evaluations.information_plane}
    for name, wanted in asked.items():
        if wanted is None:
            continue
        labels = dataset.test.labels if wanted.n_examples is None else dataset.test.subset(wanted.n_examples).labels
        classes, sizes = labels.unique(return_counts=True)
        if int(sizes.min()) <= wanted.num_neighbors:
            few = dataset.class_names[int(classes[sizes.argmin()])]
            raise IbrobustError(
                f"The evaluation {name!r} would have too few test images of the class {few!r} for "
                f"{wanted.num_neighbors} neighbours ({int(sizes.min())}): raise its n_examples, or lower its "
                "num_neighbors."
            )


def _check_figures(study: Study) -> None:
    asked = study.evaluations
    needs = {"fgsm": asked.sweep, "attacks": asked.attacks, "information_plane": asked.information_plane}
    for figure in study.figures:
        if figure in needs and needs[figure] is None:
            wanted = "sweep" if figure == "fgsm" else figure
            raise IbrobustError(
                f"The figure {figure!r} of the study {study.name!r} needs the evaluation {wanted!r}: add it, or leave "
                "the figure out."
            )
