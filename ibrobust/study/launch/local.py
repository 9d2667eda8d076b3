"""Cells in several processes on this machine, with its threads and GPUs divided between them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ibrobust.study.cells import Cell
from ibrobust.study.run import Launcher
from ibrobust.study.spec import Study
from ibrobust.study.state import cell_folder, read_state, write_state

SECONDS_BETWEEN_LOOKS = 0.1

# Seconds for a process to write its state after an interrupt, before it is killed.
SECONDS_TO_END = 15.0

Process = subprocess.Popen[bytes]


def local_launcher(*, jobs: int, device: str | None, data_dir: Path | None) -> Launcher:
    """Return a launcher for `jobs` cells at once, each in its own process.

    The threads that torch would use in this process are divided between them, and so are the GPUs if there are several
    and no `device` is named. A process that dies marks its cell as failed. Interrupted, the launcher ends them all;
    they also end when this process is killed.
    """
    threads = max(1, torch.get_num_threads() // jobs)
    gpus = torch.cuda.device_count()

    def start(study: Study, cell: Cell, slot: int) -> Process:
        chosen = device if device is not None or gpus < 2 else f"cuda:{slot % gpus}"
        return _start(study, cell, device=chosen, data_dir=data_dir, threads=threads)

    def launch(study: Study, cells: Sequence[Cell]) -> None:
        waiting = deque(cells)
        running: dict[int, tuple[Cell, Process]] = {}
        try:
            while waiting or running:
                for slot in range(jobs):
                    if waiting and slot not in running:
                        cell = waiting.popleft()
                        running[slot] = (cell, start(study, cell, slot))
                time.sleep(SECONDS_BETWEEN_LOOKS)
                for slot, (cell, process) in list(running.items()):
                    code = process.poll()
                    if code is not None:
                        del running[slot]
                        _close(process)
                        _mark_dead(study, cell, code)
        finally:
            _end([process for _, process in running.values()])

    return launch


def _start(study: Study, cell: Cell, *, device: str | None, data_dir: Path | None, threads: int) -> Process:
    command = [sys.executable, "-m", "ibrobust.study.launch.cell_process", study.name, cell.name]
    command += ["--device", device] if device is not None else []
    command += ["--data-dir", str(data_dir.resolve())] if data_dir is not None else []
    output = cell_folder(study, cell.name) / "output.txt"
    output.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    with output.open("wb") as file:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT, env=environment)


def _mark_dead(study: Study, cell: Cell, code: int) -> None:
    """Mark a cell as failed if its process ended with `code` and left no final state."""
    state = read_state(study, cell.name)
    if code == 0 or state.status not in ("waiting", "interrupted"):
        return
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    where = cell_folder(study, cell.name) / "output.txt"
    write_state(study, replace(state, status="failed", error=f"Its process {how}: its last output is in {where}."))


def _end(processes: Sequence[Process]) -> None:
    for process in processes:
        process.send_signal(signal.SIGINT)
    until = time.monotonic() + SECONDS_TO_END
    for process in processes:
        try:
            process.wait(timeout=max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _close(process)


def _close(process: Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
