"""How often the audit's checks fail on honest models, one JSON line per audit; `--table` makes the CSV of it.

    python benchmarks/audit_false_alarms.py --lines rates.jsonl --dataset DIR
    ibrobust audit MODEL --quick --dataset DIR --json reports/MODEL.json
    python benchmarks/audit_false_alarms.py --lines rates.jsonl --reports reports --table FILE.csv
    python benchmarks/audit_false_alarms.py --lines none.jsonl --reports reports --values docs/records/audit-checks.csv

Honest models: those that ship and were trained on DIR with cross-entropy, adversarially, or with DVIB, CEB and DIB, and
small networks trained here on the embedded digits, as usual and adversarially, with several seeds. Audits that are in
the file already are skipped. Reports that `ibrobust audit` has written count beside the lines.
"""

from __future__ import annotations

import argparse
import csv
import functools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibrobust.data import Split, load_dataset
from ibrobust.epsilon import format_epsilon, read_epsilon
from ibrobust.evaluation.audit import AuditReport, audit
from ibrobust.evaluation.statistics import interval
from ibrobust.registry import load_model

SHIPPED = [f"cross_entropy-w16-s{seed}" for seed in range(3)]
SHIPPED += [f"{objective}-w16-s0" for objective in ("adversarial", "dvib", "ceb", "dib")]
SURROGATES = {"cross_entropy-w16-s0": "cross_entropy-w16-s1"}  # of the others it is cross_entropy-w16-s0
EPSILONS = ("2/255", "4/255", "8/255")
SMALL = {"cross_entropy": (0.0, "0.01"), "adversarial": (0.06, "0.1")}  # trained at, audited at
IMAGES = 128  # spread evenly


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=Path, required=True, help="JSON lines, appended to")
    parser.add_argument("--dataset", help="images that the shipped models were trained on; by default digits only")
    parser.add_argument("--seeds", type=int, default=10, help="networks trained on digits, of each kind")
    parser.add_argument("--reports", type=Path, help="folder of reports of honest models, by ibrobust audit --json")
    parser.add_argument("--table", type=Path, help="only write this table of the lines and reports")
    parser.add_argument("--values", type=Path, help="only write the value of every check in every report")
    options = parser.parse_args()
    lines = [json.loads(line) for line in options.lines.read_text().splitlines()] if options.lines.exists() else []
    if options.values:
        write_values(options.values, reported(options.reports))
        return
    if options.table:
        write_table(options.table, lines + (reported(options.reports) if options.reports else []))
        return
    known = {(line["model"], line["epsilon"]) for line in lines}
    for name, data, epsilon, make in audits(options.dataset, options.seeds):
        if (name, epsilon) in known:
            continue
        line = audited(name, data, epsilon, *make())
        with options.lines.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(line["headline"], f"{line['cpu_seconds']:.0f} s", flush=True)


Made = tuple[nn.Module, nn.Module, Split]


def audits(dataset: str | None, seeds: int) -> Iterator[tuple[str, str, str, Callable[[], Made]]]:
    """Yield model, data set, epsilon, and what makes the model, its surrogate and the images."""
    digits = load_dataset("digits")

    def small(seed: int, epsilon: float) -> Made:
        return trained(seed, epsilon), trained(1000, 0.0), digits.test

    for seed in range(seeds):
        for kind, (trained_at, epsilon) in SMALL.items():
            yield f"{kind}-digits-s{seed}", "digits", epsilon, lambda s=seed, e=trained_at: small(s, e)
    if dataset is None:
        return
    test = load_dataset(dataset).test
    for epsilon in EPSILONS:
        for name in SHIPPED:
            other = SURROGATES.get(name, "cross_entropy-w16-s0")
            yield name, "cifar10-jpeg", epsilon, lambda n=name, o=other: (load_model(n), load_model(o), test)


def audited(name: str, data: str, epsilon: str, model: nn.Module, surrogate: nn.Module, images: Split) -> dict:
    """Return the line of one quick audit, with the CPU seconds of each of its stages."""
    seconds: dict[str, float] = {}
    current, started = "", time.process_time()

    def progress(stage: str, _done: int, _total: int) -> None:
        nonlocal current, started
        if current:
            seconds[current] = round(time.process_time() - started, 2)
        current, started = stage, time.process_time()

    images = images.subset(IMAGES)
    report: AuditReport = audit(
        model,
        images.images,
        images.labels,
        epsilon=read_epsilon(epsilon),
        quick=True,
        surrogate=surrogate,
        progress=progress,
    )
    return {
        "model": name,
        "dataset": data,
        "epsilon": epsilon,
        "headline": f"{name} at {epsilon}: {report.headline}",
        "robustness": report.robustness,
        "gradient": report.gradient,
        "counts": [report.n, report.clean_correct, report.fgsm_correct, report.worst_case_correct],
        "upper_bound": report.upper_bound,
        "checks": {check.name: [check.value, check.passed] for check in report.checks},
        "cost": [report.cost.forward_images, report.cost.backward_images],
        "seconds": seconds,
        "cpu_seconds": round(sum(seconds.values()), 1),
    }


def reported(folder: Path) -> list[dict]:
    """Return what the table needs of each report in a folder, as in a line."""
    return [
        {
            "model": content["model"],
            "dataset": content["dataset"]["name"],
            "epsilon": format_epsilon(report["epsilon"]),
            "checks": {check["name"]: [check["value"], check["passed"]] for check in report["checks"]},
        }
        for path in sorted(folder.glob("*.json"))
        for content in [json.loads(path.read_text(encoding="utf-8"))]
        for report in content["audits"].values()
    ]


def write_values(path: Path, lines: list[dict]) -> None:
    """Write a row per audit and a column per check; a check that did not apply has no value."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = list(dict.fromkeys(name for line in lines for name in line["checks"]))
        writer.writerow(["model", "dataset", "epsilon", *names, "failed"])
        for line in lines:
            found = [line["checks"].get(name, [None, None]) for name in names]
            values = ["" if value is None else f"{value:.4g}" for value, _ in found]
            failed = [name for name, (_, passed) in zip(names, found, strict=True) if passed is False]
            writer.writerow([line["model"], line["dataset"], line["epsilon"], *values, " ".join(failed)])


def write_table(path: Path, lines: list[dict]) -> None:
    """Write one row per data set and check: audits, those it applied to, false alarms with a 95% interval."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["dataset", "check", "audits", "applied", "failed", "rate", "low", "high", "models"])
        for data in sorted({line["dataset"] for line in lines}):
            found = [line for line in lines if line["dataset"] == data]
            for name in found[0]["checks"]:
                outcomes = [(line["model"], line["epsilon"], line["checks"][name][1]) for line in found]
                applied = [outcome for outcome in outcomes if outcome[2] is not None]
                failed = [f"{model} at {epsilon}" for model, epsilon, passed in applied if not passed]
                share = f"{len(failed) / len(applied):.3f}" if applied else ""
                low, high = (f"{bound:.3f}" for bound in interval(len(failed), len(applied))) if applied else ("", "")
                row = [data, name, len(found), len(applied), len(failed), share, low, high, "; ".join(failed)]
                writer.writerow(row)


class SmallNet(nn.Module):
    """Images (B, 3, 32, 32) in [0, 1] -> logits (B, 10)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels, following in ((3, 12), (12, 24), (24, 24)):
            layers += [nn.Conv2d(channels, following, 3, stride=2, padding=1), nn.BatchNorm2d(following), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(24 * 16, 10))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers((images - 0.3) / 0.4)


@functools.cache
def trained(seed: int, epsilon: float) -> nn.Module:
    """Return a network trained on digits for 8 epochs, adversarially if epsilon is above 0."""
    train = load_dataset("digits").train
    images, labels = train.images.float() / 255.0, train.labels
    torch.manual_seed(seed)
    model = SmallNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(8):
        for indices in torch.randperm(len(images)).split(64):
            batch, targets = images[indices], labels[indices]
            if epsilon:
                batch = moved(model, batch, targets, epsilon)
            optimizer.zero_grad()
            F.cross_entropy(model(batch), targets).backward()
            optimizer.step()
    return model.eval()


def moved(model: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Return four steps of PGD on images (B, 3, 32, 32)."""
    points = (images + (2 * torch.rand_like(images) - 1) * epsilon).clamp(0, 1)
    for _ in range(4):
        points.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(points), labels), points)
        points = (points.detach() + epsilon / 2 * gradient.sign()).clamp(images - epsilon, images + epsilon)
        points = points.clamp(0, 1).detach()
    return points


if __name__ == "__main__":
    main()
