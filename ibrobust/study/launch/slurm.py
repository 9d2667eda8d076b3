"""Cells as jobs of a Slurm job array, through submitit."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibrobust.atomic import write_text
from ibrobust.errors import IbrobustError
from ibrobust.study.cells import Cell
from ibrobust.study.run import Launcher, run_cell
from ibrobust.study.spec import Study, stored_study
from ibrobust.study.state import read_state, write_state

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

SECONDS_BETWEEN_LOOKS = 5.0

# How often a job may reach its time limit and resume from its checkpoint. If an epoch is longer than the limit, the job
# makes no progress and would never stop.
MOST_TIMEOUTS = 50

# Seconds before its time limit at which a job returns to the queue; fewer if the limit is short.
SECONDS_BEFORE_LIMIT = 90


class CellJob:
    """The work of a job. submitit pickles it and calls `checkpoint` when the time is up or the job is preempted."""

    def __init__(self, study: str, cell: str, *, device: str, data_dir: Path | None) -> None:
        self._study = study
        self._cell = cell
        self._device = device
        self._data_dir = data_dir

    def __call__(self) -> None:
        run_cell(stored_study(self._study), self._cell, device=self._device, data_dir=self._data_dir)

    def checkpoint(self) -> DelayedSubmission:
        """Return the same job for the queue, since a cell resumes from its stored state."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def slurm_launcher(*, device: str | None, data_dir: Path | None) -> Launcher:
    """Return a launcher for Slurm. It submits one job per cell, as an array, and returns when all have left the queue.

    Partition, GPUs, CPUs, memory, time limit and jobs at once are those of the study. Jobs need this Python environment
    and ibrobust's home under the same paths. Interrupted, the launcher cancels the jobs. A cell whose job was cancelled
    is interrupted, not failed: the next run resumes it.

    Raises:
        IbrobustError: submitit or Slurm is missing; at launch, jobs of an earlier launch are still in the queue, or
            Slurm rejects the jobs.
    """
    if importlib.util.find_spec("submitit") is None:
        raise IbrobustError("The slurm launcher needs submitit: pip install 'ibrobust[slurm]'.")
    if shutil.which("sbatch") is None:
        raise IbrobustError(
            "The command sbatch is missing: run the study on a machine of a Slurm cluster, or choose local."
        )

    def launch(study: Study, cells: Sequence[Cell]) -> None:
        if not cells:
            return
        # Name and folder become lines of the batch script; a line break in them would start a command.
        if not str(study.folder).isprintable():
            raise IbrobustError(
                f"The study's folder {str(study.folder)!r} cannot be used with Slurm: choose a name and a home "
                "(IBROBUST_HOME) without line breaks."
            )
        _refuse_second_launch(study)
        jobs = _submit(study, cells, device=device, data_dir=data_dir)
        array = str(jobs[0].job_id).partition("_")[0]
        write_text(_array_file(study), array + "\n")
        try:
            while in_queue(array):
                time.sleep(SECONDS_BETWEEN_LOOKS)
        except BaseException:
            subprocess.run(["scancel", array], check=False, capture_output=True)
            raise
        for cell, job in zip(cells, jobs, strict=True):
            _mark_never_started(study, cell, job)

    return launch


def in_queue(array: str) -> bool:
    """Return whether any job of this array is pending, running or ending.

    squeue, because submitit asks sacct, which knows nothing on a cluster without accounting.
    """
    done = subprocess.run(["squeue", "--noheader", "--format=%i", f"--jobs={array}"], capture_output=True, text=True)
    if done.returncode == 0:
        return bool(done.stdout.strip())
    # Slurm forgets jobs some minutes after their end. A controller that does not answer has forgotten nothing.
    return "Invalid job id" not in done.stderr


def _submit(study: Study, cells: Sequence[Cell], *, device: str | None, data_dir: Path | None) -> list[Any]:
    import submitit

    wanted = study.slurm
    seconds = wanted.minutes * 60
    executor = submitit.SlurmExecutor(folder=study.folder / "slurm", max_num_timeout=MOST_TIMEOUTS)
    executor.update_parameters(
        job_name=f"ibrobust-{study.name}",
        time=wanted.minutes,
        cpus_per_task=wanted.cpus,
        mem=f"{wanted.memory_gib}G",
        array_parallelism=wanted.array,
        signal_delay_s=min(SECONDS_BEFORE_LIMIT, seconds // 4),
        setup=[f"export OMP_NUM_THREADS={wanted.cpus} MKL_NUM_THREADS={wanted.cpus}"],
        **({"partition": wanted.partition} if wanted.partition else {}),
        **({"gpus_per_node": wanted.gpus} if wanted.gpus else {}),
    )
    place = data_dir.resolve() if data_dir is not None else None
    # A job without a requested GPU must not use one that it happens to see.
    chosen = device if device is not None else ("cuda" if wanted.gpus else "cpu")
    try:
        with executor.batch():
            return [executor.submit(CellJob(study.name, cell.name, device=chosen, data_dir=place)) for cell in cells]
    except submitit.core.utils.FailedJobError as error:
        raise IbrobustError(f"Slurm rejected the study's jobs: {' '.join(str(error).split())}") from error


def _array_file(study: Study) -> Path:
    return study.folder / "slurm" / "array.txt"


def _refuse_second_launch(study: Study) -> None:
    path = _array_file(study)
    array = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    if array and in_queue(array):
        raise IbrobustError(
            f"Jobs of {study.name!r} are still in Slurm's queue ({array}): wait for them (ibrobust study status), or "
            f"cancel them (scancel {array})."
        )


def _mark_never_started(study: Study, cell: Cell, job: Any) -> None:
    """Mark a cell as failed if its job started and ended before the cell started."""
    state = read_state(study, cell.name)
    if state.status == "waiting" and job.paths.stderr.is_file():
        error = f"Its job {job.job_id} ended before the cell started: its last output is in {job.paths.stderr}."
        write_state(study, replace(state, status="failed", error=error))
