"""Time of an FGSM sweep beside a torchattacks.FGSM loop and foolbox's list of epsilons, on the same images.

    python benchmarks/sweep.py --images 2000 --epsilons 10 --json sweep.json

The methods take turns in one process, so that whatever else the machine does hits them alike; the figures to quote are
the ratios. `floor` is one gradient and K forward passes with nothing around them. Counts that differ end the program.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibrobust.evaluation.sweep import fgsm_sweep
from ibrobust.models import Encoder, ImageClassifier

Counts = tuple[int, ...]
Method = Callable[[nn.Module, Tensor, Tensor, Sequence[float], int], Counts]


def ours(model: nn.Module, images: Tensor, labels: Tensor, epsilons: Sequence[float], batch_size: int) -> Counts:
    return fgsm_sweep(model, images, labels, epsilons, batch_size=batch_size).correct


def torchattacks_loop(
    model: nn.Module, images: Tensor, labels: Tensor, epsilons: Sequence[float], batch_size: int
) -> Counts:
    import torchattacks

    counts = []
    for epsilon in epsilons:
        attack = torchattacks.FGSM(model, eps=epsilon)
        correct = torch.zeros((), dtype=torch.long, device=images.device)
        for batch, targets in zip(images.split(batch_size), labels.split(batch_size), strict=True):
            adversarial = attack(batch, targets)
            with torch.no_grad():
                correct += (model(adversarial).argmax(dim=1) == targets).sum()
        counts.append(int(correct))
    return tuple(counts)


def foolbox_list(
    model: nn.Module, images: Tensor, labels: Tensor, epsilons: Sequence[float], batch_size: int
) -> Counts:
    import foolbox

    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=images.device)
    attack = foolbox.attacks.LinfFastGradientAttack(random_start=False)
    correct = torch.zeros(len(epsilons), dtype=torch.long, device=images.device)
    for batch, targets in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        _, _, broken = attack(wrapped, batch, targets, epsilons=list(epsilons))
        correct += (~broken).sum(dim=1)
    return tuple(correct.tolist())


def floor(model: nn.Module, images: Tensor, labels: Tensor, epsilons: Sequence[float], batch_size: int) -> Counts:
    counts = torch.zeros(len(epsilons), dtype=torch.long, device=images.device)
    for batch, targets in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        points = batch.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(points), targets), points)
        sign = gradient.sign()
        with torch.no_grad():
            for row, epsilon in enumerate(epsilons):
                counts[row] += (model((batch + epsilon * sign).clamp(0, 1)).argmax(dim=1) == targets).sum()
    return tuple(counts.tolist())


def make_model(images: Tensor, labels: Tensor, *, width: int, steps: int) -> nn.Module:
    """Return a ResNet18 after a few training steps: at random weights one class would take every image."""
    torch.manual_seed(0)
    model = ImageClassifier(Encoder(width=width), nn.Linear(256, 10)).to(images.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(steps):
        part = torch.arange(step * 50, step * 50 + 50, device=images.device) % len(images)
        optimizer.zero_grad()
        F.cross_entropy(model(images[part]), labels[part]).backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


def synthetic_images(count: int, device: str) -> tuple[Tensor, Tensor]:
    """Return images (N, 3, 32, 32) in [0, 1] and labels (N,): a coarse pattern for each class, under noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (count,), generator=generator)
    patterns = F.interpolate(torch.rand(10, 3, 4, 4, generator=generator), size=32, mode="bilinear")
    images = 0.3 * patterns[labels] + 0.7 * torch.rand(count, 3, 32, 32, generator=generator)
    return images.to(device), labels.to(device)


def main() -> None:
    """Measure, check the counts, print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--epsilons", type=int, default=10)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--training-steps", type=int, default=30)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    images, labels = synthetic_images(options.images, options.device)
    model = make_model(images, labels, width=options.width, steps=options.training_steps)
    epsilons = [(index + 1) / 255 for index in range(options.epsilons)]
    methods: dict[str, Method] = {"ibrobust": ours, "torchattacks loop": torchattacks_loop, "floor": floor}
    peers = ["torch", "torchattacks"]
    if importlib.util.find_spec("foolbox"):
        methods["foolbox list"] = foolbox_list
        peers.append("foolbox")

    # The model sees every method's kind of call before the clock runs.
    for run in methods.values():
        run(model, images[: options.batch_size], labels[: options.batch_size], epsilons[:1], options.batch_size)
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    counts: dict[str, Counts] = {}
    for _ in range(options.rounds):
        for name, run in methods.items():
            begin = time.perf_counter()
            counts[name] = run(model, images, labels, epsilons, options.batch_size)  # ends with a read of the counts
            seconds[name].append(time.perf_counter() - begin)

    print(
        f"{options.images} images, {options.epsilons} epsilons, ResNet18 width {options.width}, batch "
        f"{options.batch_size}, {options.device}, {torch.get_num_threads()} threads, {platform.machine()}, "
        + ", ".join(f"{peer} {version(peer)}" for peer in peers)
    )
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, median in medians.items():
        # Pairs of one round, since both met the same load.
        ratio = statistics.median(a / b for a, b in zip(seconds[name], seconds["ibrobust"], strict=True))
        print(f"{name:<20}{median:9.2f} s {ratio:7.2f} x ibrobust   correct {counts[name]}")
    if options.json:
        record = {"options": {**vars(options), "json": str(options.json)}, "seconds": seconds, "counts": counts}
        options.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    differing = [name for name in counts if counts[name] != counts["ibrobust"]]
    if differing:
        raise SystemExit(f"The counts of {', '.join(differing)} differ from ibrobust's: the times are of other work.")


if __name__ == "__main__":
    main()
