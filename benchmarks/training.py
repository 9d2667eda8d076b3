"""Training: what an objective costs beside cross-entropy, and the loop's throughput beside a plain PyTorch loop.

    python benchmarks/training.py --threads 2

A step is forward, backward and Adam on one batch that is there already. The throughput is that of whole epochs of
cross-entropy with Adam, random crops and flips, and the loss averaged; the plain loop also counts what is correct, as
such loops do. It is the one of most CIFAR repositories: PIL images, torchvision transforms, a DataLoader with two
workers, the network in the default memory format. All take turns in one process.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from measuring import add_options, machine, memory_of, print_memory, print_table, ratio, take_turns, typical
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from ibrobust.data import Dataset, Split
from ibrobust.models import Encoder
from ibrobust.training.accelerator import build_accelerator
from ibrobust.training.recipe import Recipe
from ibrobust.training.trainer import build_step, train_encoder

OBJECTIVES = {
    "cross-entropy": {"objective": "cross_entropy"},
    "kNN entropies, k = 3": {"objective": "knn_ib"},
    "kNN entropies, soft": {"objective": "knn_ib", "neighbor_sharpness": 2.0},
    "kNN entropies, soft, memory of 2048": {"objective": "knn_ib", "neighbor_sharpness": 2.0, "memory_size": 2048},
}
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


def synthetic(count: int) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.arange(count) % 10)
    return Dataset("synthetic", tuple("abcdefghij"), split, split)


def steps_of(name: str, batch_size: int, options: argparse.Namespace) -> Callable[[], None]:
    """Return a function that does the options' number of training steps under an objective."""
    recipe = Recipe(width=16, batch_size=batch_size, **OBJECTIVES[name])
    data = synthetic(batch_size)
    with tempfile.TemporaryDirectory() as folder:
        accelerator = build_accelerator(recipe, Path(folder), device=options.device, log_with=None)
        _, step, _, optimizer = build_step(recipe, data, accelerator)
    step.train()
    images = (data.train.images.float() / 255).to(options.device)
    labels = data.train.labels.to(options.device)

    def run() -> None:
        for _ in range(options.steps):
            total, _ = step(images, labels)
            accelerator.backward(total)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return run


def ibrobust_epoch(data: Dataset, width: int, options: argparse.Namespace) -> float:
    recipe = Recipe(objective="cross_entropy", width=width, batch_size=options.batch_size, epochs=1)
    with tempfile.TemporaryDirectory() as folder:
        return train_encoder(recipe, data, Path(folder), device=options.device).history[0]["loss"]


class PILImages(TorchDataset):
    """As torchvision's CIFAR10: an array of images, each made a PIL image and transformed when it is asked for."""

    def __init__(self, split: Split) -> None:
        self.arrays = split.images.permute(0, 2, 3, 1).contiguous().numpy()  # (N, H, W, 3)
        self.labels = split.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.arrays[index])), self.labels[index]


def plain_epoch(data: Dataset, width: int, options: argparse.Namespace) -> float:
    model = nn.Sequential(Encoder(width=width, mean=(0.0,) * 3, std=(1.0,) * 3), nn.Linear(256, 10)).to(options.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
    loader = DataLoader(
        PILImages(data.train), batch_size=options.batch_size, shuffle=True, num_workers=2, drop_last=True,
        pin_memory=options.device.startswith("cuda"),
    )  # fmt: skip
    model.train()
    loss_sum, correct = 0.0, 0
    for images, labels in loader:
        images, labels = images.to(options.device), labels.to(options.device)
        optimizer.zero_grad()
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        loss_sum += loss.item()
        correct += int((logits.argmax(dim=1) == labels).sum())
    assert 0 <= correct <= len(data.train)
    return loss_sum / len(loader)


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--steps", type=int, default=10, help="training steps a round, for the objectives")
    parser.add_argument(
        "--step-batches", type=int, nargs="*", default=[128, 512], help="batch sizes for the objectives"
    )
    parser.add_argument("--widths", type=int, nargs="*", default=[16, 64], help="widths for the throughput")
    parser.add_argument("--batch-size", type=int, default=200, help="for the throughput")
    parser.add_argument("--images", type=int, default=4000, help="in an epoch of width 16; a sixteenth of it for 64")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    runs: dict[str, Callable[[], object]] = {}
    for batch_size in options.step_batches:
        runs |= {f"{name}, batch {batch_size}": partial(steps_of, name, batch_size, options) for name in OBJECTIVES}
    epochs: dict[str, Callable[[], float]] = {}
    counts = {}
    for width in options.widths:
        # About the same time for every width, but some batches at least.
        counts[width] = max(4 * options.batch_size, options.images * 256 // width**2)
        data = synthetic(counts[width])
        epochs[f"ibrobust, width {width}"] = partial(ibrobust_epoch, data, width, options)
        epochs[f"plain PyTorch loop, width {width}"] = partial(plain_epoch, data, width, options)
    if options.memory_of:
        run = runs[options.memory_of]() if options.memory_of in runs else epochs[options.memory_of]
        print_memory(run, options)
        return

    print(machine(options, ["ibrobust", "torch", "torchvision", "accelerate"]) + "\n")
    rows = []
    for batch_size in options.step_batches:
        ready = {name: steps_of(name, batch_size, options) for name in OBJECTIVES}
        for run in ready.values():  # allocations, and kernels chosen
            run()
        seconds, _ = take_turns(ready, options)
        for name, times in seconds.items():
            rows.append(
                [
                    f"{name}, batch {batch_size}",
                    f"{1e3 * typical(times, options) / options.steps:.1f} ms",
                    f"{ratio(times, seconds['cross-entropy'], options):.3f}",
                    memory_of(f"{name}, batch {batch_size}", options),
                ]
            )
    if rows:
        print_table(["training step, width 16", "time", "to cross-entropy", "peak memory"], rows)

    rows = []
    for width in options.widths:
        names = [f"ibrobust, width {width}", f"plain PyTorch loop, width {width}"]
        seconds, _ = take_turns({name: epochs[name] for name in names}, options)
        for name, times in seconds.items():
            rows.append(
                [
                    name,
                    f"{counts[width] / typical(times, options):.0f} images/s",
                    f"{ratio(times, seconds[names[0]], options):.2f}",
                    memory_of(name, options),
                ]
            )
    if rows:
        print_table([f"training loop, batch {options.batch_size}", "speed", "time to ibrobust's", "peak memory"], rows)


if __name__ == "__main__":
    main()
