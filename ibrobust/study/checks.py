"""What can be said of a study before anything is trained: a mistake must not fail every cell one by one."""

from __future__ import annotations

from pathlib import Path

import torch

from ibrobust.data import load_dataset
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attack_spec import parse_attack
from ibrobust.objectives import objective_class
from ibrobust.study.cells import Cell, expand
from ibrobust.study.spec import InformationPlane, Study


def check_study(study: Study) -> None:
    """Raise IbrobustError, with the remedy, where a recipe is wrong or an evaluation does not fit the cells."""
    cells = expand(study)
    if study.evaluations.attacks is not None:
        for attack in study.evaluations.attacks.attacks:
            parse_attack(attack)
    if study.evaluations.information_plane is not None:
        for cell in cells:
            _check_plane(study.evaluations.information_plane, cell)
    _check_figures(study)


def check_machine(study: Study, *, device: str | None, data_dir: Path | None) -> None:
    """Raise IbrobustError, with the remedy, where the device or a data set of the study is not there.

    Reading each data set once also leaves it downloaded and decoded, before many processes begin with it at once.
    """
    if device is not None:
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise IbrobustError(f"The device {device!r} is not there: use cpu, or a GPU that torch sees.") from error
    for dataset in dict.fromkeys(cell.recipe.dataset for cell in expand(study)):
        load_dataset(dataset, data_dir=data_dir)


def _check_plane(plane: InformationPlane, cell: Cell) -> None:
    late = [epoch for epoch in plane.epochs if epoch > cell.recipe.epochs]
    if late:
        raise IbrobustError(
            f"The information plane wants epoch {late[0]}, and the cell {cell.name!r} is trained for "
            f"{cell.recipe.epochs}: leave that epoch out, or train for longer."
        )
    if objective_class(cell.recipe.objective).outputs_per_latent != 1:
        raise IbrobustError(
            f"The information plane is that of an encoder that gives points, and {cell.recipe.objective!r} trains one "
            "that gives distributions: leave the cells of that objective, or the information plane, out."
        )


def _check_figures(study: Study) -> None:
    needs = {"fgsm": study.evaluations.sweep, "information_plane": study.evaluations.information_plane}
    for figure in study.figures:
        if figure in needs and needs[figure] is None:
            wanted = "sweep" if figure == "fgsm" else figure
            raise IbrobustError(
                f"The figure {figure!r} of the study {study.name!r} needs the evaluation {wanted!r}: add it, or leave "
                "the figure out."
            )
