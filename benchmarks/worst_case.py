"""Images that the worst-case attack and AutoAttack leave, one by one, with the passes and the time of both.

    python benchmarks/worst_case.py --dataset DIR --models 'cross_entropy-*' --eps 2/255,4/255
    python benchmarks/worst_case.py --dataset DIR --norm L2 --eps 0.25,0.5 --run-autoattack

Without --run-autoattack the images that AutoAttack leaves come from docs/records, where they are known, and its passes
are those of its schedule, a little too few: APGD does 101 passes forward and backward on every image, its targeted form
909 and FAB-T 900 with 900 more forward on each that is left, and Square 5,000 forward. With it AutoAttack is run after
the worst-case attack, and everything is counted and timed.
"""

from __future__ import annotations

import argparse
import json
import time
from fnmatch import fnmatch
from pathlib import Path

import torch
from measuring import print_table
from torch import Tensor, nn

from ibrobust.data import Split, load_dataset
from ibrobust.epsilon import format_epsilon, parse_epsilon
from ibrobust.evaluation.attacks.result import AttackResult
from ibrobust.evaluation.autoattack_parts import autoattack
from ibrobust.evaluation.guarded_model import guard
from ibrobust.evaluation.model_state import evaluation_mode
from ibrobust.evaluation.pass_counter import Cost, counting_passes
from ibrobust.evaluation.predictions import is_correct
from ibrobust.evaluation.worst_case_attack import WorstCaseResult, worst_case_attack
from ibrobust.registry import list_models, load_model, model_card

RECORDS = Path(__file__).resolve().parent.parent / "docs" / "records" / "zoo"
HEADER = ["model", "epsilon", "clean", "worst case", "AutoAttack", "missed", "gained"]
HEADER += ["passes", "AutoAttack's", "time", "AutoAttack's"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="image folder that the models were trained on")
    parser.add_argument("--models", default="*-w16-s*", help="shell pattern of names")
    parser.add_argument("--eps", default="2/255,4/255,8/255")
    parser.add_argument("--norm", choices=("Linf", "L2"), default="Linf")
    parser.add_argument("--n-examples", type=int, default=1000)
    parser.add_argument("--surrogate", help="a shipped model whose adversarial images are starting points")
    parser.add_argument("--run-autoattack", action="store_true")
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    test = load_dataset(options.dataset).test.subset(options.n_examples)
    surrogate = load_model(options.surrogate, device=options.device) if options.surrogate else None
    rows, stages = [], []
    for name in (name for name in list_models() if fnmatch(name, options.models)):
        for epsilon in (parse_epsilon(text) for text in options.eps.split(",")):
            started = time.perf_counter()
            model = load_model(name, device=options.device)
            result = worst_case_attack(
                model,
                test.images,
                test.labels,
                epsilon=epsilon,
                norm=options.norm,
                surrogate=surrogate,
                batch_size=options.batch_size,
            )
            seconds = time.perf_counter() - started
            left, cost, its = _autoattack(name, model, test, epsilon, options)
            rows.append(_row(name, result, left, cost, seconds, its))
            print(*rows[-1], flush=True)
            stages.append(
                [name, format_epsilon(epsilon), *(f"{s.name} {s.broken}/{s.attacked}" for s in result.stages)]
            )
    print_table(HEADER, rows)
    for stage in stages:
        print(*stage, sep="; ")
    print(f"{options.device}, torch {torch.__version__}, {options.n_examples} images")


def _autoattack(
    name: str, model: nn.Module, test: Split, epsilon: float, options: argparse.Namespace
) -> tuple[Tensor | None, Cost | None, float | None]:
    """Return (N,) bool, the images that AutoAttack leaves, its passes and its seconds, as far as they are known."""
    if not options.run_autoattack:
        decoder = model_card(name).decoders[0]
        known = _recorded(name, decoder, epsilon, len(test.images))
        if options.norm != "Linf" or known is None:
            return None, None, None
        robust = torch.tensor(known.robust_correct)
        clean, left = sum(known.clean_correct), int(robust.sum())
        return robust, Cost(clean * 101 + left * 7709, clean * 101 + left * 1809), None
    guarded, started, parts = guard(model), time.perf_counter(), []
    with evaluation_mode(model), counting_passes(guarded) as counter:
        for images, labels in zip(
            test.images.split(options.batch_size), test.labels.split(options.batch_size), strict=True
        ):
            points, targets = images.to(options.device).float() / 255, labels.to(options.device).long()
            with torch.no_grad():
                robust = is_correct(guarded(points), targets)
            at = robust.nonzero()[:, 0]
            found = autoattack(guarded, points[at], targets[at], epsilon=epsilon, norm=options.norm, seed=0)
            with torch.no_grad():
                robust[at] = is_correct(guarded(found), targets[at])
            parts.append(robust.cpu())
    return torch.cat(parts), counter.cost, time.perf_counter() - started


def _recorded(name: str, decoder: str, epsilon: float, total: int) -> AttackResult | None:
    """Return what docs/records hold of AutoAttack, in float32 if they do."""
    path = RECORDS / f"{name}.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"decoders": {}}
    for label in ("AutoAttack", "AutoAttack:precision=bf16"):
        for fields in content["decoders"].get(decoder, {"attacks": []})["attacks"]:
            if (fields["attack"], fields["epsilon"], fields["total"]) == (label, epsilon, total):
                return AttackResult.from_dict(fields)
    return None


def _row(
    name: str, result: WorstCaseResult, left: Tensor | None, cost: Cost | None, seconds: float, its: float | None
) -> list[str]:
    robust = torch.tensor(result.robust_correct)
    return [
        name,
        f"{result.norm} {format_epsilon(result.epsilon)}",
        str(sum(result.clean_correct)),
        f"{int(robust.sum())}{' (upper bound)' if result.upper_bound else ''}",
        "" if left is None else str(int(left.sum())),
        "" if left is None else str(int((robust & ~left).sum())),
        "" if left is None else str(int((~robust & left).sum())),
        _passes(result.cost),
        "" if cost is None else _passes(cost),
        f"{seconds:.1f} s",
        "" if its is None else f"{its:.1f} s",
    ]


def _passes(cost: Cost) -> str:
    return f"{cost.forward_images} + {cost.backward_images}"


if __name__ == "__main__":
    main()
