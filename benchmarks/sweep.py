"""Time of an FGSM sweep beside a torchattacks.FGSM loop and foolbox's list of epsilons, on the same images.

    python benchmarks/sweep.py                                   # synthetic images, a briefly trained network
    python benchmarks/sweep.py --model knn_ib-w16 --data DATASET # a registered model on the test images of a data set

The methods take turns in one process, so that whatever else the machine does hits them alike; the figures to quote are
the ratios. `one gradient and K forwards` is that with nothing around it. Counts that differ end the program.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from measuring import add_options, machine, memory_of, print_memory, print_table, ratio, take_turns, typical
from torch import Tensor, nn

from ibrobust.evaluation.sweep import fgsm_sweep
from ibrobust.models import Encoder, ImageClassifier

OURS = "ibrobust"
Counts = tuple[int, ...]
Method = Callable[[nn.Module, Tensor, Tensor, Sequence[float], int], Counts]


def ours(model: nn.Module, images: Tensor, labels: Tensor, epsilons: Sequence[float], batch_size: int) -> Counts:
    return fgsm_sweep(model, images, labels, epsilons, batch_size=batch_size).correct


def ours_unscreened(
    model: nn.Module, images: Tensor, labels: Tensor, epsilons: Sequence[float], batch_size: int
) -> Counts:
    return fgsm_sweep(model, images, labels, epsilons, batch_size=batch_size, screen=False).correct


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


def registered(name: str, data: str, count: int, device: str) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a model of the registry and evenly spaced test images of a data set."""
    from ibrobust.data import load_dataset
    from ibrobust.registry import load_model

    test = load_dataset(data).test
    chosen = torch.linspace(0, len(test) - 1, min(count, len(test))).long()
    model = load_model(name, device=device).requires_grad_(False)
    return model, (test.images[chosen].float() / 255).to(device), test.labels[chosen].to(device)


def main() -> None:
    """Measure, check the counts, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--epsilons", type=int, default=10, help="this many, from 1/255 on in steps of 1/255")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--training-steps", type=int, default=30)
    parser.add_argument("--model", help="a registered model in place of the briefly trained one")
    parser.add_argument("--data", default="digits", help="the data set for --model")
    parser.add_argument("--default-format", action="store_true", help="put the model in the default memory format")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    if options.model:
        model, images, labels = registered(options.model, options.data, options.images, options.device)
    else:
        images, labels = synthetic_images(options.images, options.device)
        model = make_model(images, labels, width=options.width, steps=options.training_steps)
    if options.default_format:
        model = model.to(memory_format=torch.contiguous_format)
    epsilons = [(index + 1) / 255 for index in range(options.epsilons)]
    methods: dict[str, Method] = {
        OURS: ours,
        "ibrobust, screen=False": ours_unscreened,
        "one gradient and K forwards": floor,
        "torchattacks.FGSM loop": torchattacks_loop,
    }
    peers = ["torch", "torchattacks"]
    if importlib.util.find_spec("foolbox"):
        methods["foolbox, list of epsilons"] = foolbox_list
        peers.append("foolbox")
    arguments = (model, images, labels, epsilons, options.batch_size)
    if options.memory_of:
        methods[options.memory_of](model, images[:10], labels[:10], epsilons[:1], 10)  # imports are not the method's
        print_memory(partial(methods[options.memory_of], *arguments), options)
        return

    # The model sees every method's kind of call before the clock runs.
    for run in methods.values():
        run(model, images[: options.batch_size], labels[: options.batch_size], epsilons[:1], options.batch_size)
    seconds, counts = take_turns({name: partial(run, *arguments) for name, run in methods.items()}, options)
    differing = [name for name in counts if counts[name] != counts[OURS]]
    if differing:
        raise SystemExit(f"The counts of {', '.join(differing)} differ from ibrobust's: the times are of other work.")

    layout = "channels_last" if _is_channels_last(model) else "default"
    print(
        f"{len(images)} images, {options.epsilons} epsilons, {options.model or f'ResNet18 width {options.width}'} in "
        f"the {layout} format, batch {options.batch_size}. {machine(options, peers)}\n"
    )
    rows = [
        [
            name,
            f"{typical(times, options):.2f} s",
            f"{ratio(times, seconds[OURS], options):.2f}",
            memory_of(name, options),
        ]
        for name, times in seconds.items()
    ]
    print_table(["method", "time", "to ibrobust", "peak memory"], rows)
    settled = fgsm_sweep(*arguments[:4], batch_size=options.batch_size).settled_in_bfloat16
    print(
        f"Settled in bfloat16: {settled / len(images) / len(epsilons):.1%}. Correct: {counts[OURS]}, all methods alike."
    )


def _is_channels_last(model: nn.Module) -> bool:
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d) and m.in_channels > 1]
    return all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights if weight.shape[2] > 1)


if __name__ == "__main__":
    main()
