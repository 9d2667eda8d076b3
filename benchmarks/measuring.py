"""What the benchmarks share: turns, clocks, peak memory in a process of its own, and a Markdown table."""

from __future__ import annotations

import argparse
import gc
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

import torch

Result = TypeVar("Result")
MEGABYTE = 1 << 20


def add_options(parser: argparse.ArgumentParser, *, rounds: int = 3) -> None:
    """Add the options that every benchmark has."""
    parser.add_argument("--rounds", type=int, default=rounds, help="turns of each method")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="CPU seconds of this process and its children, and the least of them: for a machine busy with other work",
    )
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)


def take_turns(
    methods: Mapping[str, Callable[[], Result]], options: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[str, Result]]:
    """Return the seconds of each round and the last result, by method.

    The methods alternate, so that whatever else the machine does hits all alike.
    """
    clock = cpu_seconds if options.cpu_time else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    results: dict[str, Result] = {}
    for _ in range(options.rounds):
        for name, run in methods.items():
            gc.collect()
            wait_for(options.device)
            begin = clock()
            results[name] = run()
            wait_for(options.device)
            seconds[name].append(clock() - begin)
    return seconds, results


def cpu_seconds() -> float:
    """Return the seconds that this process and its ended children have computed."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def wait_for(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def typical(times: Sequence[float], options: argparse.Namespace) -> float:
    """Return the median; of CPU seconds the least, since a busy machine only adds to them."""
    return min(times) if options.cpu_time else statistics.median(times)


def ratio(times: Sequence[float], to: Sequence[float], options: argparse.Namespace) -> float:
    """Return the typical ratio; of rounds, since both methods met the same load in one."""
    if options.cpu_time:
        return min(times) / min(to)
    return statistics.median(a / b for a, b in zip(times, to, strict=True))


def machine(options: argparse.Namespace, packages: Sequence[str]) -> str:
    """Return one line on what the figures were measured with."""
    names = (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name"))
    hardware = torch.cuda.get_device_name() if options.device.startswith("cuda") else next(names, platform.machine())
    clock = "least CPU time" if options.cpu_time else "median wall time"
    return (
        f"{hardware}, threads: {options.threads}, {clock} of {options.rounds} rounds, "
        f"Python {platform.python_version()}, " + ", ".join(f"{name} {_version(name)}" for name in packages)
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "from its checkout" if name == "ibrobust" else "missing"


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else []


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table: the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    print(line(header))
    print("|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|")
    for row in rows:
        print(line(row))
    print(flush=True)


def memory_of(name: str, options: argparse.Namespace, *more: str) -> str:
    """Return the peak megabytes above what was there before, of one run of a method in a process of its own.

    The process gets this one's arguments, and `more` after them.
    """
    if options.no_memory:
        return ""
    command = [sys.executable, *sys.argv, *more, "--memory-of", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return f"{json.loads(done.stdout.splitlines()[-1]) / MEGABYTE:,.0f} MiB"


def print_memory(run: Callable[[], object], options: argparse.Namespace) -> None:
    """Print the bytes for `memory_of`, in the process that it starts."""
    gc.collect()
    if options.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(options.device)
        before = torch.cuda.memory_allocated(options.device)
        run()
        print(json.dumps(torch.cuda.max_memory_allocated(options.device) - before))
        return
    forget_peak()
    before = status_bytes("VmRSS")
    run()
    print(json.dumps(status_bytes("VmHWM") - before))


def forget_peak() -> None:
    """Set the process's peak of resident memory to what it holds now.

    Without this the peak would be that of the imports, or of the parent process, from which `getrusage` inherits it.
    """
    if not Path("/proc/self/clear_refs").exists():
        raise SystemExit("Memory on the CPU is measured on Linux only: use --no-memory.")
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")


def status_bytes(field: str) -> int:
    return next(int(line.split()[1]) for line in _lines("/proc/self/status") if line.startswith(f"{field}:")) * 1024
