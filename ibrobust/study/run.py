"""Running a study: one cell whole, or all of them one after the other."""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ibrobust.atomic import write_text
from ibrobust.data import load_dataset
from ibrobust.errors import IbrobustError
from ibrobust.home import runs_dir
from ibrobust.registry import ModelCard, copy_model, list_models, model_card, train
from ibrobust.study.cells import Cell, expand, find_cell
from ibrobust.study.checks import check_machine, check_study
from ibrobust.study.information_plane import has_snapshots, snapshot_taker, snapshots_folder
from ibrobust.study.measure import kept_folder, measure
from ibrobust.study.spec import Study, read_study
from ibrobust.study.state import CellState, hold, now, read_state, study_states, write_state
from ibrobust.study.write_records import cell_columns, cell_folder, gather_records, write_records
from ibrobust.training.checkpoint import latest_checkpoint
from ibrobust.training.trainer import Progress

# A state is written this often while a training is under way.
SECONDS_BETWEEN_STATES = 2.0

Launcher = Callable[[Study, Sequence[Cell]], None]


def prepare_study(study: Study) -> None:
    """Make the study's folder.

    Raises:
        IbrobustError: the study is wrong, or there is another one of its name in the folder.
    """
    check_study(study)
    path = study.folder / "study.yaml"
    if not path.is_file():
        write_text(path, study.to_text())
        return
    before = read_study(path)
    if before != study:
        raise IbrobustError(
            f"There is another study {study.name!r} in {str(study.folder)!r} ({_difference(before, study)}): run it as "
            "it was begun, give this one another name (--name), or remove that folder."
        )


def run_study(
    study: Study,
    *,
    launch: Launcher | None = None,
    retry_failed: bool = False,
    device: str | None = None,
    data_dir: Path | None = None,
) -> list[CellState]:
    """Check the study, run every cell that is not done, and gather the records; return the states.

    A cell that fails stays failed and the others go on. A finished cell is never touched again, a half-trained one
    goes on from its last checkpoint.

    Args:
        study: what to run.
        launch: runs cells somewhere by calling `run_cell`, and returns when they have ended; by default one after the
            other in this process.
        retry_failed: also run the cells that failed before.
        device: ``cpu``, ``cuda`` or ``cuda:N`` of cells that run in this process.
        data_dir: see `load_dataset`.

    Raises:
        IbrobustError: the study is wrong, there is another one of its name, or the device or a data set is not there.
    """
    check_study(study)
    check_machine(study, device=device, data_dir=data_dir)
    prepare_study(study)
    wanted = [cell for cell in expand(study) if _is_to_run(read_state(study, cell.name), retry_failed=retry_failed)]
    if launch is not None:
        launch(study, wanted)
    else:
        for cell in wanted:
            try:
                run_cell(study, cell.name, device=device, data_dir=data_dir)
            except Exception:
                # Whatever happens to one cell, the others go on; its state says what it was.
                continue
    gather_records(study)
    return study_states(study)


def run_cell(study: Study, name: str, *, device: str | None = None, data_dir: Path | None = None) -> None:
    """Train or resume one cell, measure it and write its records, from wherever an earlier call was ended.

    Args:
        study: that the cell is of.
        name: of the cell.
        device: ``cpu``, ``cuda`` or ``cuda:N``; by default what is there.
        data_dir: see `load_dataset`.

    Raises:
        IbrobustError: there is no such cell, or another process works on it.
        Exception: whatever went wrong; the cell's state is `failed` then, with a sentence about it.
    """
    cell = find_cell(study, name)
    with hold(study, name):
        folder = cell_folder(study, name)
        if (folder / "records.csv").is_file():
            _drop_what_is_used(folder)
            return
        reporter = _Reporter(study, cell)
        try:
            card = _trained(study, cell, folder, reporter, device=device, data_dir=data_dir)
            rows = measure(
                study.evaluations,
                cell,
                card,
                folder,
                device=device or default_device(),
                data_dir=data_dir,
                stage=reporter.stage,
            )
            common = cell_columns(study, cell)
            write_records(folder / "records.csv", ({**common, **row} for row in rows))
            reporter.write(status="done", stage="", seconds_left=None)
        except KeyboardInterrupt:
            reporter.write(status="interrupted", seconds_left=None)
            raise
        except Exception as error:
            write_text(folder / "error.txt", traceback.format_exc())
            reporter.write(status="failed", seconds_left=None, error=_sentence(error))
            raise
        _drop_what_is_used(folder)


def _drop_what_is_used(folder: Path) -> None:
    """Remove what a cell's records were made from: an encoder for each snapshot takes much room."""
    for used in (snapshots_folder(folder), kept_folder(folder)):
        shutil.rmtree(used, ignore_errors=True)
    (folder / "error.txt").unlink(missing_ok=True)


def default_device() -> str:
    """Return cuda where it is there, else cpu."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _trained(
    study: Study, cell: Cell, folder: Path, reporter: _Reporter, *, device: str | None, data_dir: Path | None
) -> ModelCard:
    """Return the card of the cell's model, trained now where it, or a snapshot that is wanted of it, is not there.

    A model of the same recipe and images is taken over, where no snapshots of its training are wanted.
    """
    card = model_card(cell.model) if list_models(cell.model) else None
    if card is not None and card.recipe != cell.recipe:
        raise IbrobustError(
            f"There is a model {cell.model!r} with another recipe: give the study another name (--name), or remove "
            "the model."
        )
    plane = study.evaluations.information_plane
    wanted = plane.epochs if plane else ()
    if card is None and not wanted and (twin := _trained_elsewhere(cell, data_dir)):
        reporter.stage(f"taking over {twin}")
        return copy_model(twin, cell.model)
    done = cell.recipe.epochs if card is not None else _epochs_done(cell)
    # Where a snapshot of an epoch that is over was lost, only another training brings it back.
    whole = has_snapshots(folder, [epoch for epoch in wanted if epoch <= done])
    if card is not None and whole:
        return card
    if done == 0 or not whole:
        shutil.rmtree(kept_folder(folder), ignore_errors=True)
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
    """Return the name of a model that the cell's recipe has already trained on the same images: studies share cells."""
    for name in list_models():
        try:
            card = model_card(name)
        except IbrobustError:  # damaged, and not this study's
            continue
        if card.recipe == cell.recipe:
            dataset = load_dataset(cell.recipe.dataset, data_dir=data_dir)
            if card.dataset.fingerprint == dataset.fingerprint:
                return name
    return None


def _epochs_done(cell: Cell) -> int:
    """Return how many epochs of a half-trained cell are in its checkpoint."""
    checkpoint = latest_checkpoint(runs_dir() / cell.model / "checkpoints")
    return 0 if checkpoint is None else int(checkpoint.name.removeprefix("epoch-"))


class _Reporter:
    """Keeps the state file of a cell that this process works on."""

    def __init__(self, study: Study, cell: Cell) -> None:
        self._study = study
        self._state = CellState(cell.name, "running", "starting", epochs=cell.recipe.epochs, started=now())
        self._written = 0.0
        self.write()

    def stage(self, text: str) -> None:
        """Say what is being done: in words, and after a comma how much of it."""
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
    """Return in a few words where two studies differ first."""
    for field in Study.model_fields:
        old, new = getattr(before, field), getattr(after, field)
        if old != new and field == "base":
            changed = sorted(key for key in {**old, **new} if old.get(key) != new.get(key))
            return "; ".join(f"{key} was {old.get(key)!r} and is {new.get(key)!r}" for key in changed)
        if old != new:
            return f"with other {field}"
    return ""


def _is_to_run(state: CellState, *, retry_failed: bool) -> bool:
    return state.status in ("waiting", "interrupted") or (retry_failed and state.status == "failed")


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, IbrobustError) else f"{type(error).__name__}: {text}"
