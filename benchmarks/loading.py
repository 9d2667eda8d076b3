"""Time to a model that is ready, and to the command line's help.

    python benchmarks/loading.py

`load_model` of a freshly stored model of width 16, once torch is imported, and whole processes: `ibrobust --help`
beside a Python that imports nothing and one that imports torch.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile

from measuring import add_options, cpu_seconds, machine, print_table, typical

# Everything is imported by then but what `load_model` itself asks for.
LOAD = """
import json, sys, time
import torch
torch.set_num_threads({threads})
clock = time.{clock}
begin = clock()
from ibrobust import load_model
imported = clock()
model = load_model("{name}", device="{device}")
loaded = clock()
model = load_model("{name}", device="{device}")
print(json.dumps([loaded - begin, imported - begin, clock() - loaded]))
"""

STORE = """
from ibrobust import Recipe, train
train(Recipe(dataset="digits", objective="cross_entropy", width=16, epochs=1), name="{name}", device="cpu")
"""


def seconds_of(command: list[str], options: argparse.Namespace) -> float:
    import time

    clock = cpu_seconds if options.cpu_time else time.perf_counter
    begin = clock()
    subprocess.run(command, check=True, capture_output=True)
    return clock() - begin


def main() -> None:
    """Measure in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, rounds=5)
    parser.add_argument("--model", help="a registered model, in place of one that is trained and stored for this")
    options = parser.parse_args()
    processes = {
        "ibrobust --help": [sys.executable, "-m", "ibrobust", "--help"],
        "python -c 'pass'": [sys.executable, "-c", "pass"],
        "python -c 'import torch'": [sys.executable, "-c", "import torch"],
    }
    clock = "process_time" if options.cpu_time else "perf_counter"
    load = [
        sys.executable,
        "-c",
        LOAD.format(name=options.model or "loaded", threads=options.threads, device=options.device, clock=clock),
    ]
    with tempfile.TemporaryDirectory() as home:
        if not options.model:
            os.environ["IBROBUST_HOME"] = home
            subprocess.run([sys.executable, "-c", STORE.format(name="loaded")], check=True, capture_output=True)
        times: dict[str, list[float]] = {}
        for _ in range(options.rounds):
            for name, command in processes.items():
                times.setdefault(name, []).append(seconds_of(command, options))
            answer = subprocess.run(load, check=True, capture_output=True, text=True).stdout
            first, imports, second = json.loads(answer.splitlines()[-1])
            times.setdefault("load_model, torch imported", []).append(first)
            times.setdefault("of that, imports", []).append(imports)
            times.setdefault("load_model, again", []).append(second)
    print(machine(options, ["ibrobust", "torch"]) + "\n")
    print_table(["", "time"], [[name, f"{1e3 * typical(seconds, options):.0f} ms"] for name, seconds in times.items()])


if __name__ == "__main__":
    main()
