"""The worst-case attack beside AutoAttack, image by image: what each leaves, its passes and its CPU time.

    python benchmarks/worst_case.py --dataset DIR --output FILE --models '*-w16-s0' --linf 2/255,4/255 --l2 0.25,0.5
    python benchmarks/worst_case.py --dataset DIR --output FILE ... --autoattack 'knn_ib-*:Linf:4/255'
    python benchmarks/worst_case.py --output FILE --table
    python benchmarks/worst_case.py --output FILE --csv docs/records/worst-case.csv

A pair is a model, a norm and an epsilon. Every pair adds a line of JSON to FILE with the result of each image, and
AutoAttack one line per batch. Nothing that has a line is computed again: a killed run continues if it is started again.
AutoAttack runs in float32 on the pairs that a pattern of --autoattack names. On those that a pattern of --escalate
names it runs on the images that the worst-case attack leaves, which shows the images that this attack misses, but not
those that it gains. For other pairs the images that AutoAttack leaves come from docs/records, where they are known. If
AutoAttack did not run on all images, its passes (after ~) come from its schedule, a little too few: APGD does 101
passes forward and backward on every image, its targeted form 909 and FAB-T 900 with 900 more forward on each image that
is left, and Square 5,000 forward.

--csv writes a row per pair into a table. A pair's row is replaced; rows of pairs that FILE lacks stay, and so do the
counts of an AutoAttack on all images that FILE lacks.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from measuring import cpu_seconds, print_table, wait_for
from torch import Tensor, nn

from ibrobust.data import Split, load_dataset
from ibrobust.epsilon import format_epsilon, read_radius
from ibrobust.evaluation.attacks.autoattack import autoattack
from ibrobust.evaluation.attacks.pgd import pgd
from ibrobust.evaluation.attacks.result import AttackResult, from_bits, to_bits
from ibrobust.evaluation.guarded_model import guard
from ibrobust.evaluation.model_state import evaluation_mode
from ibrobust.evaluation.pass_counter import counting_passes
from ibrobust.evaluation.worst_case_attack import worst_case_attack
from ibrobust.registry import list_models, load_model, model_card

RECORDS = Path(__file__).resolve().parent.parent / "docs" / "records" / "zoo"
AUTOATTACK = "AutoAttack"
HEADER = ["model", "norm", "epsilon", "clean", "FGSM", "left", "AutoAttack on these", "AutoAttack", "missed", "gained"]
HEADER += ["passes", "AutoAttack's", "ratio", "CPU s", "AutoAttack's", "ratio"]
PAIR = ("model", "decoder", "norm", "epsilon", "images")
# What only AutoAttack on all images of a pair tells.
OF_ALL_IMAGES = ("autoattack_leaves", "autoattack_search", "missed", "gained")
OF_ALL_IMAGES += ("autoattack_passes", "autoattack_passes_counted")
STAGES = ("untargeted", "larger ball", "targets", "further steps", "shrinking ball", "last steps", "random corners")
STAGES += ("Square", "random restarts", "FAB-T")


@dataclass(frozen=True)
class Pair:
    """A model at one epsilon of one norm."""

    model: str
    norm: str
    epsilon: float

    @property
    def text(self) -> str:
        """As a pattern of --autoattack is compared with it: model:norm:epsilon."""
        written = f"{self.epsilon:g}" if self.norm == "L2" else format_epsilon(self.epsilon)
        return f"{self.model}:{self.norm}:{written}"


class Lines:
    """The file of results."""

    def __init__(self, path: Path) -> None:
        self.path = path
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        # A kill may leave an incomplete last line.
        self.content = [json.loads(line) for line in text.splitlines() if line.endswith("}") and _is_json(line)]

    def find(
        self, pair: Pair, images: int, attack: str, *, start: int = 0, surrogate: str | None = None
    ) -> dict[str, Any] | None:
        """Return the line of an attack on a pair, with a batch that begins at image `start`."""
        wanted = (pair.model, pair.norm, pair.epsilon, images, attack, start, surrogate)
        return next((line for line in self.content if _key(line) == wanted), None)

    def add(self, line: dict[str, Any]) -> None:
        """Append a line."""
        begun = self.path.is_file() and not self.path.read_text(encoding="utf-8").endswith("\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.write(("\n" if begun and self.content else "") + json.dumps(line) + "\n")
        self.content.append(line)


def _key(line: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(line[key] for key in ("model", "norm", "epsilon", "images", "attack", "start", "surrogate"))


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="file of JSON lines; an existing one is continued")
    parser.add_argument("--table", action="store_true", help="only print the table of what the file has")
    parser.add_argument("--csv", type=Path, help="only write what the file has into this table")
    parser.add_argument("--dataset", help="image folder that the models were trained on")
    parser.add_argument("--models", default="*-w16-s*", help="shell patterns of names, separated by commas")
    parser.add_argument("--linf", default="", help="epsilons in L-infinity, such as 2/255,4/255")
    parser.add_argument("--l2", default="", help="epsilons in L2, such as 0.25,0.5")
    parser.add_argument("--n-examples", type=int, default=1000)
    parser.add_argument("--surrogate", help="a stored model whose adversarial images are starting points")
    parser.add_argument(
        "--autoattack",
        action="append",
        default=[],
        metavar="PATTERN",
        help="run AutoAttack on the pairs MODEL:NORM:EPSILON that match; may be repeated",
    )
    parser.add_argument(
        "--escalate",
        action="append",
        default=[],
        metavar="PATTERN",
        help="run AutoAttack on what the worst-case attack leaves of these pairs; may be repeated",
    )
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    lines = Lines(options.output)
    if options.csv:
        _write_csv(options.csv, lines)
        return
    if not options.table:
        if options.dataset is None:
            parser.error("--dataset is needed to measure")
        _measure(lines, options)
    _print(lines)


def _pairs(options: argparse.Namespace) -> Iterator[Pair]:
    patterns = options.models.split(",")
    for model in list_models():
        if any(fnmatch(model, pattern) for pattern in patterns):
            for norm, written in (("Linf", options.linf), ("L2", options.l2)):
                for epsilon in filter(None, written.split(",")):
                    yield Pair(model, norm, read_radius(epsilon))


def _measure(lines: Lines, options: argparse.Namespace) -> None:
    test = load_dataset(options.dataset).test.subset(options.n_examples)
    surrogate = load_model(options.surrogate, device=options.device) if options.surrogate else None
    pairs = list(_pairs(options))
    for pair in pairs:  # every pair's suite first: AutoAttack takes much longer
        if lines.find(pair, len(test.images), "WorstCase", surrogate=options.surrogate) is None:
            lines.add(_suite(pair, test, surrogate, options))
    for pair in pairs:
        if any(fnmatch(pair.text, pattern) for pattern in options.autoattack):
            _run_autoattack(lines, pair, test, options)


def _suite(pair: Pair, test: Split, surrogate: nn.Module | None, options: argparse.Namespace) -> dict[str, Any]:
    """Return the line of the worst-case attack on a pair, with FGSM's result beside it."""
    model = load_model(pair.model, device=options.device)
    fgsm = _fgsm(model, pair, test, options)
    seconds, processor = _clocks(options)
    result = worst_case_attack(
        model,
        test.images,
        test.labels,
        epsilon=pair.epsilon,
        norm=pair.norm,
        surrogate=surrogate,
        batch_size=options.batch_size,
        escalate=any(fnmatch(pair.text, pattern) for pattern in options.escalate),
    )
    wall, used = (now - before for now, before in zip(_clocks(options), (seconds, processor), strict=True))
    own = [stage for stage in result.stages if stage.name != AUTOATTACK]
    # What the attack leaves by itself.
    robust = tuple(kept or by == AUTOATTACK for kept, by in zip(result.robust_correct, result.broken_by, strict=True))
    line = {
        **_head(pair, test, "WorstCase", 0, options),
        "clean": to_bits(result.clean_correct),
        "fgsm": to_bits(tuple(fgsm.tolist())),
        "robust": to_bits(robust),
        "escalated": to_bits(result.robust_correct) if result.escalated else None,
        "broken_by": list(result.broken_by),
        "stages": [stage.to_dict() for stage in own],
        "warnings": list(result.warnings),
        "upper_bound": result.upper_bound,
        "forward_images": sum(stage.cost.forward_images for stage in own),
        "backward_images": sum(stage.cost.backward_images for stage in own),
        "surrogate_passes": sum(
            stage.surrogate_cost.forward_images + stage.surrogate_cost.backward_images for stage in own
        ),
        # AutoAttack's share of the time, if it ran, is in them.
        "seconds": wall,
        "cpu_seconds": used,
    }
    after = f", {sum(result.robust_correct)} after AutoAttack" if result.escalated else ""
    print(f"{pair.text}: {sum(robust)} left of {sum(result.clean_correct)}{after}, {used:.0f} s", flush=True)
    return line


def _fgsm(model: nn.Module, pair: Pair, test: Split, options: argparse.Namespace) -> Tensor:
    """Return (N,) bool, the images that one step along the gradient of cross-entropy leaves."""
    parts = []
    with evaluation_mode(model):
        for images, labels in _batches(test, options):
            run = pgd(
                model,
                images,
                labels,
                epsilon=pair.epsilon,
                steps=1,
                step_size=pair.epsilon,
                norm=pair.norm,
                stop_when_broken=False,
            )
            parts.append(~run.broken.cpu())
    return torch.cat(parts)


def _run_autoattack(lines: Lines, pair: Pair, test: Split, options: argparse.Namespace) -> None:
    model = load_model(pair.model, device=options.device)
    guarded = guard(model)
    for index, (images, labels) in enumerate(_batches(test, options)):
        start = index * options.batch_size
        if lines.find(pair, len(test.images), "AutoAttack", start=start) is not None:
            continue
        seconds, processor = _clocks(options)
        with evaluation_mode(model), counting_passes(guarded) as counter:
            outcome = autoattack(
                guarded, images, labels, epsilon=pair.epsilon, norm=pair.norm, batch_size=len(images), seed=0
            )
            robust = outcome.robust_correct
        wall, used = (now - before for now, before in zip(_clocks(options), (seconds, processor), strict=True))
        lines.add(
            {
                **_head(pair, test, "AutoAttack", start, options),
                "robust": to_bits(tuple(robust.tolist())),
                **asdict(counter()),
                "seconds": wall,
                "cpu_seconds": used,
            }
        )
        print(f"{pair.text}: AutoAttack leaves {int(robust.sum())} from image {start} on, {used:.0f} s", flush=True)


def _batches(test: Split, options: argparse.Namespace) -> Iterator[tuple[Tensor, Tensor]]:
    for images, labels in zip(
        test.images.split(options.batch_size), test.labels.split(options.batch_size), strict=True
    ):
        yield images.to(options.device).float() / 255, labels.to(options.device).long()


def _head(pair: Pair, test: Split, attack: str, start: int, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "model": pair.model,
        "decoder": model_card(pair.model).decoders[0],
        "norm": pair.norm,
        "epsilon": pair.epsilon,
        "images": len(test.images),
        "attack": attack,
        "start": start,
        "surrogate": options.surrogate if attack == "WorstCase" else None,
        "device": options.device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _clocks(options: argparse.Namespace) -> tuple[float, float]:
    wait_for(options.device)
    return time.perf_counter(), cpu_seconds()


def _print(lines: Lines) -> None:
    suites = [line for line in lines.content if line["attack"] == "WorstCase"]
    print_table(HEADER, [_row(suite, _counts(suite, _joined(lines, suite))) for suite in suites])
    _print_stages(suites)


def _write_csv(path: Path, lines: Lines) -> None:
    """Put a row per pair into a table, in place of the pair's old row."""
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            rows = {tuple(row[key] for key in PAIR): row for row in csv.DictReader(file)}
    for suite in lines.content:
        if suite["attack"] != "WorstCase" or suite["surrogate"] is not None:
            continue
        counts = {key: "" if value is None else value for key, value in _counts(suite, _joined(lines, suite)).items()}
        row = {**counts, **{f"broken_by_{_snake(name)}": broken for name, broken in _broken(suite).items()}}
        row = {**row, "epsilon": f"{suite['epsilon']:.6f}"}
        old = rows.get(tuple(str(row[key]) for key in PAIR), {})
        if row["autoattack_leaves"] == "" and old.get("autoattack_leaves"):
            row |= {key: old[key] for key in OF_ALL_IMAGES if key != "missed" or row["missed"] == ""}
        rows[tuple(str(row[key]) for key in PAIR)] = row
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    ordered = sorted(rows.values(), key=lambda row: (row["norm"] != "Linf", row["model"], float(row["epsilon"])))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(ordered)


def _broken(suite: dict[str, Any]) -> dict[str, int]:
    """Return how many images each stage breaks; a stage that was not needed breaks none."""
    broken = dict.fromkeys(STAGES, 0)
    for stage in suite["stages"]:
        if stage["stage"] in broken:
            broken[stage["stage"]] += stage["broken"]
    return broken


def _snake(name: str) -> str:
    return name.lower().replace(" ", "_").replace("-", "_")


def _joined(lines: Lines, suite: dict[str, Any]) -> dict[str, Any] | None:
    """Return AutoAttack's batches on a pair as one, or None if one is missing."""
    key = _key(suite)[:4]
    parts = [line for line in lines.content if line["attack"] == AUTOATTACK and _key(line)[:4] == key]
    robust = "".join(part["robust"] for part in sorted(parts, key=lambda line: line["start"]))
    if len(robust) < suite["images"]:
        return None
    counts = ("forward_images", "backward_images", "cpu_seconds")
    return {"robust": robust, **{key: sum(part[key] for part in parts) for key in counts}}


def _counts(suite: dict[str, Any], other: dict[str, Any] | None) -> dict[str, Any]:
    """Return a pair's counts of images, passes and seconds; None where something was not measured."""
    robust, clean, fgsm = (torch.tensor(from_bits(suite[key])) for key in ("robust", "clean", "fgsm"))
    known = _recorded(suite) if other is None else other["robust"]
    alone = None if known is None else torch.tensor(from_bits(known))
    escalated = None if suite.get("escalated") is None else torch.tensor(from_bits(suite["escalated"]))
    # Of the images that the attack leaves, AutoAttack in float32 on them says more than a record.
    judge = escalated if escalated is not None and other is None else alone
    theirs = None if other is None else other["forward_images"] + other["backward_images"]
    survivors = alone if alone is not None else escalated
    if theirs is None and survivors is not None:
        theirs = int(clean.sum()) * 2 * 101 + int(survivors.sum()) * (2 * 909 + 3 * 900 + 5000)
    return {
        **{key: suite[key] for key in PAIR},
        "clean": int(clean.sum()),
        "fgsm": int((clean & fgsm).sum()),
        "left": int(robust.sum()),
        "upper_bound": int(suite["upper_bound"]),
        "autoattack_leaves_of_these": None if escalated is None else int(escalated.sum()),
        "autoattack_leaves": None if alone is None else int(alone.sum()),
        "autoattack_search": None if alone is None else "float32",
        "missed": None if judge is None else int((robust & ~judge).sum()),
        "gained": None if alone is None else int((~robust & alone).sum()),
        "passes": suite["forward_images"] + suite["backward_images"] + suite["surrogate_passes"],
        "autoattack_passes": theirs,
        "autoattack_passes_counted": int(other is not None),
        # With AutoAttack on what is left, its time is in the attack's.
        "cpu_seconds": None if escalated is not None else round(suite["cpu_seconds"], 1),
        "autoattack_cpu_seconds": None if other is None else round(other["cpu_seconds"], 1),
    }


def _row(suite: dict[str, Any], counts: dict[str, Any]) -> list[str]:
    shown = {
        key: "" if value is None else f"{value:,}" if isinstance(value, int) else value for key, value in counts.items()
    }
    about = "" if counts["autoattack_passes_counted"] or counts["autoattack_passes"] is None else "~"
    return [
        *(shown[key] for key in ("model", "norm")),
        Pair(suite["model"], suite["norm"], suite["epsilon"]).text.rpartition(":")[2],
        *(shown[key] for key in ("clean", "fgsm")),
        shown["left"] + (" (upper bound)" if counts["upper_bound"] else ""),
        *(shown[key] for key in ("autoattack_leaves_of_these", "autoattack_leaves", "missed", "gained", "passes")),
        about + shown["autoattack_passes"],
        about + _ratio(counts["passes"], counts["autoattack_passes"]),
        *("" if counts[key] is None else f"{counts[key]:.0f}" for key in ("cpu_seconds", "autoattack_cpu_seconds")),
        _ratio(counts["cpu_seconds"], counts["autoattack_cpu_seconds"]),
    ]


def _ratio(own: float | None, other: float | None) -> str:
    return "" if own is None or not other else f"{own / other:.1%}"


def _recorded(suite: dict[str, Any]) -> str | None:
    """Return the images that AutoAttack in float32 leaves, from docs/records, if they are known."""
    path = RECORDS / f"{suite['model']}.json"
    if suite["norm"] != "Linf" or not path.is_file():
        return None
    attacks = json.loads(path.read_text(encoding="utf-8"))["decoders"].get(suite["decoder"], {"attacks": []})["attacks"]
    for fields in attacks:
        if (fields["attack"], fields["epsilon"], fields["total"]) == (AUTOATTACK, suite["epsilon"], suite["images"]):
            return to_bits(AttackResult.from_dict(fields).robust_correct)
    return None


def _print_stages(suites: list[dict[str, Any]]) -> None:
    """Print what each stage breaks and costs over all pairs."""
    totals: dict[str, list[int]] = {}
    for suite in suites:
        for stage in suite["stages"]:
            total = totals.setdefault(stage["stage"], [0, 0, 0])
            total[0] += stage["attacked"]
            total[1] += stage["broken"]
            total[2] += stage["forward_images"] + stage["backward_images"]
    everything = sum(total[2] for total in totals.values()) or 1
    rows = [[name, f"{a:,}", f"{b:,}", f"{c:,}", f"{c / everything:.1%}"] for name, (a, b, c) in totals.items()]
    print_table(["stage", "attacked", "broken", "passes", "share"], rows)


if __name__ == "__main__":
    main()
