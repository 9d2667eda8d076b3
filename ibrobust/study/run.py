"""Running a study: one cell, or all of them one after the other."""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ibrobust.atomic import write_text
from ibrobust.data import load_dataset
from ibrobust.devices import default_device
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.by_name import read_attack
from ibrobust.home import require_writable_folder, runs_dir
from ibrobust.integrations.references import is_reference
from ibrobust.registry import ModelCard, copy_model, list_models, model_card, train
from ibrobust.study.cells import Cell, can_be_measured, expand, find_cell, is_its_card
from ibrobust.study.checks import check_machine, check_study
from ibrobust.study.information_plane import has_snapshots, snapshot_taker, snapshots_folder
from ibrobust.study.measure import measure, state_folder
from ibrobust.study.results import RESULTS_FILE, has_older, has_other_code, is_outdated, read_results
from ibrobust.study.spec import Study, read_study
from ibrobust.study.state import (
    CellState,
    asked_digest,
    cell_folder,
    hold,
    now,
    read_state,
    stored_states,
    study_states,
    write_state,
)
from ibrobust.study.write_records import gather_records
from ibrobust.training.checkpoint import latest_checkpoint
from ibrobust.training.trainer import Progress

# A state is written this often during training.
SECONDS_BETWEEN_STATES = 2.0

# What nothing in the results depends on.
NOT_MEASURED = ("title", "figures", "slurm")

Launcher = Callable[[Study, Sequence[Cell]], None]


def prepare_study(study: Study) -> None:
    """Create the study's folder.

    Its title, figures and Slurm resources may be others than before. A study of models alone may also name more models
    or evaluations: those that are missing are measured.

    Raises:
        IbrobustError: the study is invalid, or its folder holds another study of that name.
    """
    check_study(study)
    path = study.folder / "study.yaml"
    if not path.is_file():
        write_text(path, study.to_text())
        return
    before = read_study(path)
    measures_same = before.model_copy(update={field: getattr(study, field) for field in NOT_MEASURED}) == study
    has_only_models = not study.grids and not before.grids and before.base == study.base
    if not measures_same and not has_only_models:
        raise IbrobustError(
            f"The folder {str(study.folder)!r} holds another study {study.name!r} ({_difference(before, study)}): run "
            "it as "
            "it was started, give this one another `name`, or remove that folder."
        )
    if before != study:
        write_text(path, study.to_text())


def run_study(
    study: Study,
    *,
    launch: Launcher | None = None,
    retry_failed: bool = False,
    device: str | None = None,
    data_dir: Path | None = None,
) -> list[CellState]:
    """Check the study, run every unfinished cell, and collect the records; return the states.

    A failed cell stays failed and does not stop the others. Finished cells are skipped, unless their stored model, a
    surrogate or the images of a stored model were replaced since, the rules of an audit changed, or the text of an
    attack function. References are not compared: to measure one again, remove ``state.json`` in the folder of its cell.
    Partly trained models resume from their last checkpoint.

    Args:
        study: the study.
        launch: runs cells somewhere by calling `run_cell`, and returns when they have ended; by default one after the
            other in this process.
        retry_failed: also run the cells that failed before.
        device: ``cpu``, ``cuda`` or ``cuda:N`` of cells that run in this process.
        data_dir: see `load_dataset`.

    Raises:
        IbrobustError: the study is invalid, another study has its name, or the device or a data set is missing.
    """
    require_writable_folder(study.folder)
    check_study(study)
    fingerprints = check_machine(study, device=device, data_dir=data_dir)
    prepare_study(study)
    _reopen_outdated(study, fingerprints)
    if retry_failed:
        _reopen_failed(study)
    wanted = [cell for cell in expand(study) if read_state(study, cell.name).status in ("waiting", "interrupted")]
    if launch is not None:
        launch(study, wanted)
    else:
        for cell in wanted:
            try:
                run_cell(study, cell.name, device=device, data_dir=data_dir)
            except Exception:
                # An error in one cell does not stop the others; the cell's state holds the error.
                continue
    gather_records(study)
    return study_states(study)


def _reopen_outdated(study: Study, fingerprints: Mapping[str, str]) -> None:
    """Let finished cells be measured again whose results are of other weights, surrogates or images than today's.

    Also those with an audit or a worst-case attack by older rules, or with an attack by other code, if the study has
    such. The weights of references are not compared, since loading them may take long.
    """
    stored, sources = set(list_models()), _sources(study)
    for cell in expand(study):
        state = read_state(study, cell.name)
        if state.status != "done":
            continue
        card = model_card(cell.model) if cell.model in stored else None
        if not can_be_measured(cell, card):
            continue
        # A model that the study trained keeps the results on the images of its training.
        images = fingerprints[cell.name] if cell.recipe is None else None
        results = read_results(cell_folder(study, cell.name), finished=True)
        wanted = {"attacks": study.evaluations.attacks, "audits": study.evaluations.audit}
        has_old = any(has_older(results, kind) for kind, asked in wanted.items() if asked is not None)
        is_old = is_outdated(results, card.weights.sha256 if card is not None else None, images)
        if is_old or has_old or has_other_code(results, sources):
            write_state(study, replace(state, asked=""))


def _sources(study: Study) -> dict[str, str]:
    """Return the sources, by label, of the attacks of a study that have one, such as functions."""
    attacks, audit = study.evaluations.attacks, study.evaluations.audit
    texts = [run.attack for run in attacks.runs] if attacks is not None else []
    chosen = map(read_attack, [*texts, *(audit.attacks if audit is not None else ())])
    return {attack.label: attack.source for attack in chosen if attack.source}


def _reopen_failed(study: Study) -> None:
    """Let failed cells run again. Their error is removed, as a process that dies early would leave it behind."""
    for state in stored_states(study):
        if state.status == "failed":
            write_state(study, CellState(state.cell))


def run_cell(study: Study, name: str, *, device: str | None = None, data_dir: Path | None = None) -> None:
    """Train or resume one cell, and evaluate it; continue an interrupted call.

    Args:
        study: of the cell.
        name: of the cell.
        device: ``cpu``, ``cuda`` or ``cuda:N``; by default cuda if available.
        data_dir: see `load_dataset`.

    Raises:
        IbrobustError: the cell does not exist, or another process works on it.
        Exception: any other error; the cell's state is then `failed`, with a sentence about it.
    """
    cell = find_cell(study, name)
    with hold(study, name):
        folder = cell_folder(study, name)
        if read_state(study, name).status == "done":
            _drop_what_is_used(folder)
            return
        reporter = _Reporter(study, cell)
        try:
            card = _trained(study, cell, folder, reporter, device=device, data_dir=data_dir)
            measure(
                study,
                cell,
                card,
                folder,
                device=device or default_device(),
                data_dir=data_dir,
                stage=reporter.stage,
            )
            reporter.write(status="done", stage="", seconds_left=None, asked=asked_digest(study))
        except KeyboardInterrupt:
            reporter.write(status="interrupted", seconds_left=None)
            raise
        except Exception as error:
            write_text(folder / "error.txt", traceback.format_exc())
            reporter.write(status="failed", seconds_left=None, error=_sentence(error))
            raise
        _drop_what_is_used(folder)


def _drop_what_is_used(folder: Path) -> None:
    """Remove the snapshots of a finished cell, which take much space, and the states of its attacks."""
    for used in (snapshots_folder(folder), state_folder(folder)):
        shutil.rmtree(used, ignore_errors=True)
    (folder / "error.txt").unlink(missing_ok=True)


def _trained(
    study: Study, cell: Cell, folder: Path, reporter: _Reporter, *, device: str | None, data_dir: Path | None
) -> ModelCard | None:
    """Return the card of the cell's model; train it now if it, or a needed snapshot, is missing.

    A model of the same recipe and images is reused if no snapshots of its training are needed and it did not start from
    another model. A model that the study
    names is never trained, and a reference has no card.
    """
    if cell.recipe is None:
        return None if is_reference(cell.model) else model_card(cell.model)
    card = model_card(cell.model) if list_models(cell.model) else None
    if card is not None and not is_its_card(cell, card):
        raise IbrobustError(
            f"The model {cell.model!r} exists with another recipe, or was not trained by ibrobust: give the study "
            "another `name`, or remove the model."
        )
    plane = study.evaluations.information_plane
    wanted = plane.epochs if plane else ()
    # The model that another training started from may have been replaced since.
    may_share = not wanted and cell.recipe.warm_start is None
    if card is None and may_share and (twin := _trained_elsewhere(cell, data_dir)):
        reporter.stage(f"reusing {twin}")
        return copy_model(twin, cell.model)
    done = cell.recipe.epochs if card is not None else _epochs_done(cell)
    # A lost snapshot of a finished epoch can only be restored by training again, and is not needed if it was measured.
    results = read_results(folder)
    measured = results.get("information_plane", {}) if card and results.get("weights") == card.weights.sha256 else {}
    whole = has_snapshots(folder, [epoch for epoch in wanted if epoch <= done and str(epoch) not in measured])
    if card is not None and whole:
        return card
    if done == 0 or not whole:
        shutil.rmtree(state_folder(folder), ignore_errors=True)
        (folder / RESULTS_FILE).unlink(missing_ok=True)
    return train(
        cell.recipe,
        name=cell.model,
        data_dir=data_dir,
        device=device,
        resume=whole,
        overwrite=not whole,
        on_progress=reporter.progress,
        on_epoch=snapshot_taker(folder, wanted) if wanted else None,
        on_stage=reporter.stage,
    )


def _trained_elsewhere(cell: Cell, data_dir: Path | None) -> str | None:
    """Return the name of an existing model that the cell's recipe and images gave, so that studies share models."""
    assert cell.recipe is not None
    for name in list_models():
        try:
            card = model_card(name)
        except IbrobustError:  # damaged, but not part of this study
            continue
        if is_its_card(cell, card):
            dataset = load_dataset(cell.recipe.dataset, data_dir=data_dir, progress=False)
            if card.dataset.fingerprint == dataset.fingerprint:
                return name
    return None


def _epochs_done(cell: Cell) -> int:
    """Return the number of epochs in the checkpoint of a partly trained cell."""
    checkpoint = latest_checkpoint(runs_dir() / cell.model / "checkpoints")
    return 0 if checkpoint is None else int(checkpoint.name.removeprefix("epoch-"))


class _Reporter:
    """Writes the state file of the cell of this process."""

    def __init__(self, study: Study, cell: Cell) -> None:
        self._study = study
        self._state = CellState(
            cell.name, "running", "starting", epochs=cell.recipe.epochs if cell.recipe else 0, started=now()
        )
        self._written = 0.0
        self.write()

    def stage(self, text: str) -> None:
        """Report the current step in words, and its progress after a comma."""
        is_new = text.partition(",")[0] != self._state.stage.partition(",")[0]
        if is_new or time.monotonic() - self._written > SECONDS_BETWEEN_STATES:
            self.write(stage=text, seconds_left=None)

    def progress(self, at: Progress) -> None:
        self._state = replace(self._state, stage="training", epoch=at.epoch, seconds_left=at.seconds_left)
        if time.monotonic() - self._written > SECONDS_BETWEEN_STATES or at.step == at.steps:
            self.write()

    def write(self, **changes: object) -> None:
        self._state = replace(self._state, **changes)  # type: ignore[arg-type]
        write_state(self._study, self._state)
        self._written = time.monotonic()


def _difference(before: Study, after: Study) -> str:
    """Return the first difference between two studies in a few words."""
    for field in Study.model_fields:
        old, new = getattr(before, field), getattr(after, field)
        if old == new or field in NOT_MEASURED:
            continue
        if field == "base":
            changed = sorted(key for key in {**old, **new} if old.get(key) != new.get(key))
            return "; ".join(f"{key} was {old.get(key)!r} and is {new.get(key)!r}" for key in changed)
        return f"with other {field}"
    return ""


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, IbrobustError) else f"{type(error).__name__}: {text}"
