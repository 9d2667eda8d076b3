"""Where the time goes: the operations of a sweep and of a training step, beside those of the plain way to do them.

    python benchmarks/hot_spots.py --threads 2

Before is a torchattacks loop, and a plain step of cross-entropy in the default memory format; after is what ibrobust
does. Times are an operation's own, without those it calls; profiling itself adds to the small ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from measuring import add_options, machine, print_table, wait_for
from sweep import make_model, ours, synthetic_images, torchattacks_loop
from torch import nn
from torch.profiler import ProfilerActivity, profile
from training import OBJECTIVES, steps_of

from ibrobust.models import Encoder


def plain_steps(options: argparse.Namespace) -> Callable[[], None]:
    """Return a function that does the options' number of plain training steps."""
    images, labels = synthetic_images(options.batch_size, options.device)
    model = nn.Sequential(Encoder(width=16), nn.Linear(256, 10)).to(options.device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)

    def run() -> None:
        for _ in range(options.steps):
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

    return run


def print_profile(name: str, run: Callable[[], object], options: argparse.Namespace) -> None:
    """Print the operations that take most of one run."""
    run()  # allocations, and kernels chosen
    wait_for(options.device)
    on_gpu = options.device.startswith("cuda")
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as found:
        run()
        wait_for(options.device)

    def own(event: object) -> float:
        return float(getattr(event, "self_device_time_total" if on_gpu else "self_cpu_time_total"))

    events = sorted(found.key_averages(), key=own, reverse=True)
    total = sum(map(own, events))
    shown = events[: options.operations]
    rows = [[event.key, str(event.count), f"{own(event) / 1e3:.0f} ms", f"{own(event) / total:.1%}"] for event in shown]
    rest = total - sum(map(own, shown))
    rows.append(["all others", "", f"{rest / 1e3:.0f} ms", f"{rest / total:.1%}"])
    rows.append(["together", "", f"{total / 1e3:.0f} ms", ""])
    print_table([name, "calls", "own time", "share"], rows)


def main() -> None:
    """Profile each and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--images", type=int, default=1000, help="in the sweep")
    parser.add_argument("--epsilons", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=128, help="of the training steps; the sweep's is 250")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--operations", type=int, default=8, help="this many are shown")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine(options, ["ibrobust", "torch", "torchattacks"]) + "\n")

    images, labels = synthetic_images(options.images, options.device)
    model = make_model(images, labels, width=16, steps=30)
    epsilons = [(index + 1) / 255 for index in range(options.epsilons)]
    what = f"sweep, {options.images} images, {options.epsilons} epsilons"
    print_profile(f"before: {what}", partial(torchattacks_loop, model, images, labels, epsilons, 250), options)
    print_profile(f"after: {what}", partial(ours, model, images, labels, epsilons, 250), options)

    what = f"{options.steps} training steps, batch {options.batch_size}"
    print_profile(f"before: {what}, cross-entropy", plain_steps(options), options)
    for name in OBJECTIVES:
        print_profile(f"after: {what}, {name}", steps_of(name, options.batch_size, options), options)


if __name__ == "__main__":
    main()
