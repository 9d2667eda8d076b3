"""Time of PGD and AutoAttack beside torchattacks.PGD and pyautoattack on the same images, with what each leaves.

    python benchmarks/attacks.py --images 500 --steps 50 --autoattack

The methods take turns in one process, so that whatever else the machine does hits them alike; the figures to quote are
the ratios. The work is not the same where images fall early: ibrobust leaves those alone, which is the point. An
ibrobust PGD that leaves more images than torchattacks' from the same starts ends the program.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from measuring import add_options, machine, memory_of, print_memory, print_table, ratio, take_turns, typical
from sweep import make_model, synthetic_images
from torch import Tensor, nn

from ibrobust.evaluation.attacks.run import run_attacks

Method = Callable[[nn.Module, Tensor, Tensor, argparse.Namespace], int]


def our_pgd(model: nn.Module, images: Tensor, labels: Tensor, options: argparse.Namespace) -> int:
    attack = f"PGD:steps={options.steps},alpha={options.alpha},random_start=false"
    return _ours(model, images, labels, attack, options)


def torchattacks_pgd(model: nn.Module, images: Tensor, labels: Tensor, options: argparse.Namespace) -> int:
    import torchattacks

    attack = torchattacks.PGD(model, eps=options.epsilon, alpha=options.alpha, steps=options.steps, random_start=False)
    correct = 0
    for batch, targets in zip(images.split(options.batch_size), labels.split(options.batch_size), strict=True):
        with torch.no_grad():
            clean = model(batch).argmax(dim=1) == targets
        adversarial = attack(batch, targets)
        with torch.no_grad():
            correct += int((clean & (model(adversarial).argmax(dim=1) == targets)).sum())
    return correct


def our_autoattack(model: nn.Module, images: Tensor, labels: Tensor, options: argparse.Namespace) -> int:
    return _ours(model, images, labels, "AutoAttack", options)


def pyautoattack_standard(model: nn.Module, images: Tensor, labels: Tensor, options: argparse.Namespace) -> int:
    from pyautoattack import AutoAttack

    suite = AutoAttack(model, eps=options.epsilon, version="standard", device=images.device, seed=0)
    correct = 0
    for batch, targets in zip(images.split(options.batch_size), labels.split(options.batch_size), strict=True):
        result = suite.run_standard_evaluation(batch, targets, batch_size=options.batch_size)
        adversarial = result[0] if isinstance(result, tuple) else result
        with torch.no_grad():
            correct += int((model(adversarial).argmax(dim=1) == targets).sum())
    return correct


def _ours(model: nn.Module, images: Tensor, labels: Tensor, attack: str, options: argparse.Namespace) -> int:
    (result,) = run_attacks(
        model, images, labels, attacks=[attack], epsilons=[options.epsilon], batch_size=options.batch_size
    )
    return sum(result.robust_correct)


def main() -> None:
    """Measure, compare what is left, print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--epsilon", type=float, default=1.25 / 255)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--training-steps", type=int, default=30)
    parser.add_argument("--autoattack", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.alpha = round(2.5 * options.epsilon / options.steps, 8)

    images, labels = synthetic_images(options.images, options.device)
    model = make_model(images, labels, width=options.width, steps=options.training_steps)
    methods: dict[str, Method] = {
        "ibrobust PGD": our_pgd,
        "torchattacks.PGD": torchattacks_pgd,
        "ibrobust AutoAttack": our_autoattack,
        "pyautoattack": pyautoattack_standard,
    }
    pairs = [("ibrobust PGD", "torchattacks.PGD")]
    if options.autoattack:
        pairs.append(("ibrobust AutoAttack", "pyautoattack"))
    if options.memory_of:
        run = methods[options.memory_of]
        run(model, images[:10], labels[:10], options)  # imports are not the method's
        print_memory(partial(run, model, images, labels, options), options)
        return

    print(
        f"{options.images} images, epsilon {options.epsilon:.5f}, {options.steps} steps, ResNet18 width "
        f"{options.width}, batch {options.batch_size}. "
        + machine(options, ["torch", "torchattacks", "pyautoattack"])
        + "\n"
    )
    rows, left = [], {}
    for pair in pairs:
        seconds, robust = take_turns(
            {name: partial(methods[name], model, images, labels, options) for name in pair}, options
        )
        left |= robust
        for name, times in seconds.items():
            row = [name, f"{typical(times, options):.2f} s", f"{ratio(times, seconds[pair[0]], options):.2f}"]
            rows.append([*row, str(robust[name]), memory_of(name, options)])
    print_table(["method", "time", "to ibrobust", "images left", "peak memory"], rows)
    for ours, peer in pairs:
        if left[ours] > left[peer]:
            raise SystemExit(f"{ours} left {left[ours]} images and {peer} {left[peer]}.")


if __name__ == "__main__":
    main()
