"""One cell of a study in a process of its own: `python -m ibrobust.study.launch.cell_process STUDY CELL`.

Its standard input is a pipe; the launcher holds the other end. When the launcher ends, for whatever reason, this
process ends too.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

from ibrobust.study.run import run_cell
from ibrobust.study.spec import stored_study


def main() -> None:
    parser = argparse.ArgumentParser(prog="ibrobust.study.launch.cell_process")
    parser.add_argument("study", help="name of a study that was run")
    parser.add_argument("cell")
    parser.add_argument("--device")
    parser.add_argument("--data-dir", type=Path)
    given = parser.parse_args()
    # A shell that starts the launcher in the background has it, and this process, ignore interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_end_with_launcher, daemon=True).start()
    # An error's traceback goes to the cell's output.txt, its sentence into the state.
    run_cell(stored_study(given.study), given.cell, device=given.device, data_dir=given.data_dir)


def _end_with_launcher() -> None:
    os.read(sys.stdin.fileno(), 1)  # of the file itself: a lock on sys.stdin would be in the way at exit
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    main()
