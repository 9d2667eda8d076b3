"""The tables of docs/results.md: every shipped model under FGSM, PGD, AutoAttack and the audit, and what it knows.

    python benchmarks/leaderboard.py measure --dataset DIR
    python benchmarks/leaderboard.py measure --dataset DIR --models 'knn_ib*' --autoattack first --eps 2/255
    python benchmarks/leaderboard.py measure --dataset DIR --only autoattack --autoattack first --precision fp32
    python benchmarks/leaderboard.py table
    python benchmarks/leaderboard.py compare
    python benchmarks/leaderboard.py figures

`measure` keeps a file for each model in docs/records and leaves alone what is there already, of the same weights, so it
can be stopped at any time; AutoAttack goes on with the batch it was stopped in, from the folder --state. Cards of your
own models get the sweeps and the audits at the last epsilon; those that ship are not changed. From those
files alone `table` prints Markdown, `compare` every model's robust accuracy less cross-entropy's over the same images,
and `figures` draws accuracy under FGSM against epsilon, and test error against beta.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch

from ibrobust.atomic import write_text
from ibrobust.data import Dataset, load_dataset
from ibrobust.epsilon import format_epsilon, parse_epsilon
from ibrobust.evaluation.attack_result import AttackResult
from ibrobust.evaluation.attacks import run_attacks
from ibrobust.evaluation.audit import audit
from ibrobust.evaluation.comparison import paired_difference
from ibrobust.evaluation.sweep import SweepResult, fgsm_sweep
from ibrobust.evaluation.worst_case import worst_case
from ibrobust.home import models_dir
from ibrobust.locking import locked
from ibrobust.models import ImageClassifier, encode_in_batches
from ibrobust.objectives import objective_class
from ibrobust.registry import add_evaluation, list_models, load_model, model_card
from ibrobust.registry.latent_information import LatentInformation, latent_information
from ibrobust.registry.scoring import unit_batches
from ibrobust.reporting.study_figures import draw_study_figures
from ibrobust.study.records import write_records

RECORDS = Path(__file__).resolve().parent.parent / "docs" / "records"
SURROGATE = "cross_entropy-w16-s0"
# By precision, the better one first, as their records name them.
PGD = {"fp32": "PGD:steps=50", "bf16": "PGD:precision=bf16,steps=50"}
AUTOATTACK = {"fp32": "AutoAttack", "bf16": "AutoAttack:precision=bf16"}
# Behind an accuracy that a search in bfloat16 left.
MARK = "*"
# What the sweep's figure needs; the tables show those of --eps, and a test holds cards to the first two.
SWEPT = tuple(f"{steps:g}/255" for steps in (2, 8, 0.5, 1, 3, 4, 6))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("--dataset", required=True, help="image folder that the models were trained on")
    measuring.add_argument("--autoattack", choices=("none", "first", "all"), default="none", help="of the decoders")
    measuring.add_argument("--decoders", default="*", help="shell pattern of their names")
    measuring.add_argument("--only", default="information,fgsm,pgd,autoattack,audit", help="some of these")
    measuring.add_argument("--state", type=Path, default=Path.home() / ".cache" / "ibrobust-leaderboard")
    measuring.add_argument("--precision", choices=tuple(PGD), default="fp32", help="of PGD and AutoAttack")
    measuring.add_argument("--threads", type=int, default=torch.get_num_threads())
    measuring.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    drawing = commands.add_parser("figures")
    drawing.add_argument("--out", type=Path, default=RECORDS.parent / "figures")
    for command in (measuring, drawing, commands.add_parser("table"), commands.add_parser("compare")):
        command.add_argument("--models", default="*", help="shell pattern of names")
        command.add_argument("--eps", default="2/255,4/255,8/255")
        command.add_argument("--n-examples", type=int, default=1000, help="images of PGD and AutoAttack")
        command.add_argument("--records", type=Path, default=RECORDS)
    options = parser.parse_args()
    names = [name for name in list_models() if fnmatch(name, options.models) and "-w16-s" in name]
    if options.command == "table":
        print_tables(names, options)
        return
    if options.command == "compare":
        print_differences(names, options)
        return
    if options.command == "figures":
        draw(names, options)
        return
    torch.set_num_threads(options.threads)
    data = load_dataset(options.dataset)
    for name in names:
        measure(name, data, options)


class Records:
    """What is known of one model, in a file of its own that several processes may add to."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / f"{name}.json"
        self._fresh = {"model": name, "weights": model_card(name).weights.sha256, "decoders": {}}
        self.content: dict[str, Any] = {}
        self._read()

    def _read(self) -> None:
        found = json.loads(self._path.read_text(encoding="utf-8")) if self._path.is_file() else self._fresh
        self.content = found if found["weights"] == self._fresh["weights"] else self._fresh

    def of(self, decoder: str) -> dict[str, Any]:
        """Return the part of a decoder."""
        part: dict[str, Any] = self.content["decoders"].setdefault(decoder, {"attacks": [], "audits": []})
        return part

    def attack(self, decoder: str, attack: str, epsilon: float, total: int) -> dict[str, Any] | None:
        """Return what is known of an attack on so many images."""
        wanted = (attack, epsilon, total)
        found = (
            each for each in self.of(decoder)["attacks"] if wanted == (each["attack"], each["epsilon"], each["total"])
        )
        return next(found, None)

    def most_precise(
        self, decoder: str, attacks: dict[str, str], epsilon: float, total: int
    ) -> tuple[str, AttackResult] | None:
        """Return the precision and the result of the first of those attacks, by precision, that is known."""
        for precision, attack in attacks.items():
            fields = self.attack(decoder, attack, epsilon, total)
            if fields is not None:
                return precision, AttackResult.from_dict(fields)
        return None

    def add(self, change: Callable[[Records], None]) -> None:
        """Apply a change to what the file holds now, and write it."""
        with locked(
            self._path.with_suffix(".lock"), f"{self._path} is being written by another process.", seconds=60.0
        ):
            self._read()
            change(self)
            write_text(self._path, json.dumps(self.content, indent=1) + "\n")


def measure(name: str, data: Dataset, options: argparse.Namespace) -> None:
    """Measure what is missing of one model."""
    card = model_card(name)
    if card.dataset.fingerprint != data.fingerprint:
        raise SystemExit(f"The images in {options.dataset} are not those that {name} was trained on: give its own.")
    records = Records(options.records, name)
    if "information" in options.only and "information" not in records.content:
        found = information(name, data, options.device).to_dict()
        records.add(lambda now: now.content.update(information=found))
    for decoder in (each for each in card.decoders if fnmatch(each, options.decoders)):
        measure_decoder(name, decoder, data, records, options)


def measure_decoder(name: str, decoder: str, data: Dataset, records: Records, options: argparse.Namespace) -> None:
    """Measure what is missing of one decoder: the sweep on all test images, attacks on some, audits on 256."""
    model = load_model(name, decoder=decoder, device=options.device)
    test, some = data.test, data.test.subset(options.n_examples)
    epsilons = [parse_epsilon(text) for text in options.eps.split(",")]
    if "fgsm" in options.only and "fgsm" not in records.of(decoder):
        sweep = fgsm_sweep(model, test.images, test.labels, [parse_epsilon(text) for text in SWEPT]).to_dict()
        records.add(lambda now: now.of(decoder).update(fgsm=sweep))
        keep_in_card(name, "fgsm", decoder, sweep, data)
        print(name, decoder, "FGSM", sweep["accuracy"], flush=True)
    wanted = [PGD[options.precision]] if "pgd" in options.only else []
    decoders = model_card(name).decoders
    attacked = {"none": (), "first": decoders[:1], "all": decoders}[options.autoattack]
    if "autoattack" in options.only and decoder in attacked:
        wanted.append(AUTOATTACK[options.precision])
    # Large radii first: they take the least time.
    for attack, epsilon in ((attack, epsilon) for attack in wanted for epsilon in sorted(epsilons, reverse=True)):
        if records.attack(decoder, attack, epsilon, len(some)) is not None:
            continue
        state = options.state / f"{name}-{decoder}-{attack}-{epsilon:.6f}-{len(some)}.jsonl".replace(":", "_").replace(
            ",", "_"
        )
        state.parent.mkdir(parents=True, exist_ok=True)
        (result,) = run_attacks(model, some.images, some.labels, attacks=[attack], epsilons=[epsilon], state_path=state)
        record = result.to_dict()
        records.add(lambda now, record=record: now.of(decoder)["attacks"].append(record))
        print(name, decoder, attack, format_epsilon(epsilon), result.robust_accuracy, flush=True)
    if "audit" not in options.only:
        return
    surrogate = SURROGATE if name != SURROGATE else None
    for epsilon in epsilons:
        if any(known["epsilon"] == epsilon for known in records.of(decoder)["audits"]):
            continue
        report = audit(
            model,
            test.images,
            test.labels,
            epsilon=epsilon,
            quick=True,
            surrogate=load_model(surrogate, device=options.device) if surrogate else None,
            surrogate_name=surrogate,
        )
        # The sentences of the checks would fill most of the file; ibrobust audit prints them.
        kept = {key: value for key, value in report.to_dict().items() if key != "checks"}
        records.add(lambda now, kept=kept: now.of(decoder)["audits"].append(kept))
        keep_in_card(name, "audit", decoder, report.to_dict(), data)
        print(name, decoder, report.headline, flush=True)


def keep_in_card(name: str, key: str, decoder: str, record: dict[str, Any], data: Dataset) -> None:
    """Put a record into the card of one's own model, and of no other."""
    if (models_dir() / f"{name}.yaml").is_file():
        add_evaluation(name, key, decoder, record, data)


def information(name: str, data: Dataset, device: str) -> LatentInformation:
    """Return what `ibrobust entropy` reports."""
    model = load_model(name, device=device)
    assert isinstance(model, ImageClassifier)
    place = torch.device(device)
    latents = encode_in_batches(model.encoder, unit_batches(data.test, place))[:, : model.latent_dim]
    return latent_information(latents, data.test.labels.to(place), data.num_classes)


def draw(names: list[str], options: argparse.Namespace) -> None:
    """Draw the kNN models beside the baselines, as a study of them would."""
    rows: list[dict[str, Any]] = []
    for name in names:
        card = model_card(name)
        assert card.recipe is not None
        kind = objective_class(card.recipe.objective)
        if "beta" in kind.options and card.recipe.objective != "knn_ib":
            continue  # every other bottleneck would get panels of its own
        common = {
            "study": "zoo",
            "cell": name,
            "model": name,
            **{
                key: getattr(card.recipe, key)
                for key in ("objective", "dropout", "dropconnect", "width", "seed", "epochs")
            },
            "beta": card.recipe.beta if "beta" in kind.options else None,
            "noise": card.recipe.noise if kind.adds_noise else None,
        }
        for decoder, part in Records(options.records, name).content["decoders"].items():
            if "fgsm" not in part:
                continue
            sweep = SweepResult.from_dict(part["fgsm"])
            of_decoder = {**common, "decoder": decoder, "num_images": sweep.total}
            rows.append({**of_decoder, "quantity": "test_accuracy", "value": sweep.clean_accuracy})
            rows.append({**of_decoder, "quantity": "clean_accuracy", "value": sweep.clean_accuracy})
            of_attack = {**of_decoder, "attack": "FGSM"}
            rows.append({**of_attack, "quantity": "zero_gradient_share", "value": sweep.zero_gradient_share})
            for epsilon, accuracy in zip(sweep.epsilons, sweep.accuracy, strict=True):
                rows.append({**of_attack, "epsilon": epsilon, "quantity": "accuracy", "value": accuracy})
    records = options.records / "zoo.csv"
    write_records(records, rows)
    for path in draw_study_figures(records, options.out, ["fgsm", "generalization"]):
        print(path)


def print_tables(names: list[str], options: argparse.Namespace) -> None:
    """Print accuracy under FGSM of everything, a leaderboard for each epsilon, and what the latents hold."""
    known = [Records(options.records, name) for name in names]
    n = options.n_examples
    swept = [parse_epsilon(text) for text in ("1/255", *options.eps.split(","))]
    print("### Accuracy under FGSM\n")
    _print_row("model", "decoder", "clean", *(f"{255 * epsilon:g}/255" for epsilon in swept))
    _print_row(*("--" for _ in range(3 + len(swept))))
    for records in known:
        for decoder, part in records.content["decoders"].items():
            if "fgsm" in part:
                sweep = SweepResult.from_dict(part["fgsm"])
                cells = (_percent(_at(sweep, epsilon)) for epsilon in swept)
                _print_row(records.content["model"], decoder, _percent(sweep.clean_accuracy), *cells)
    for epsilon in swept[1:]:
        print(f"\n### At {format_epsilon(epsilon)}\n")
        print(
            f"PGD-50, AutoAttack and worst case: {n:,} images; clean and FGSM: all; audit: 256. {MARK}: in bfloat16.\n"
        )
        _print_row(
            "model", "decoder", "clean", "FGSM", "PGD-50", "AutoAttack", "worst case", "audit's worst case", "audit"
        )
        _print_row(*("--" for _ in range(9)))
        for records in known:
            for decoder in records.content["decoders"]:
                cells = _cells(records, decoder, epsilon, n)
                if any(cells[2:]):
                    _print_row(records.content["model"], decoder, *cells)
    print()
    _print_row("model", "H[Z]", "H[Z given Y]", "I[Y; Z]", "H[Y given Z] at most")
    _print_row(*("--" for _ in range(5)))
    for records in known:
        if (found := records.content.get("information")) is not None:
            kinds = ("entropy", "conditional_entropy", "mutual_information", "label_information")
            _print_row(records.content["model"], *(f"{found[kind]:.2f}" for kind in kinds))


def _print_row(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |")


def _percent(share: float | None, digits: int = 2) -> str:
    return "" if share is None else f"{100 * share:.{digits}f}"


def _at(sweep: SweepResult, epsilon: float) -> float | None:
    """Return the accuracy at an epsilon of a sweep."""
    return next((share for known, share in zip(sweep.epsilons, sweep.accuracy, strict=True) if known == epsilon), None)


def _cells(records: Records, decoder: str, epsilon: float, total: int) -> list[str]:
    """Return a row's cells behind the model and the decoder; accuracies in %."""
    part = records.of(decoder)
    clean, fgsm = "", ""
    if "fgsm" in part:
        sweep = SweepResult.from_dict(part["fgsm"])
        clean, fgsm = _percent(sweep.clean_accuracy), _percent(_at(sweep, epsilon))
    pgd = records.most_precise(decoder, PGD, epsilon, total)
    autoattack = records.most_precise(decoder, AUTOATTACK, epsilon, total)
    # A worst case of PGD alone would be no news, and one over some radii's AutoAttack only could mislead.
    worst = ""
    if autoattack:
        results = [AttackResult.from_dict(fields) for fields in part["attacks"] if fields["total"] == total]
        (worst,) = (_percent(each.robust_accuracy, 1) for each in worst_case(results) if each.epsilon == epsilon)
    audited, verdict = "", ""
    for report in (fields for fields in part["audits"] if fields["epsilon"] == epsilon):
        audited = _percent(report["worst_case_accuracy"], 1)
        verdict = report["verdict"] + (f" ({', '.join(report['failed'])})" if report["failed"] else "")
    return [clean, fgsm, _shown(pgd), _shown(autoattack), worst, audited, verdict]


def _shown(known: tuple[str, AttackResult] | None) -> str:
    """Return a robust accuracy in %, with a mark where the search was in bfloat16: it may have missed an image."""
    if known is None:
        return ""
    precision, result = known
    return _percent(result.robust_accuracy, 1) + ("" if precision == "fp32" else MARK)


def print_differences(names: list[str], options: argparse.Namespace) -> None:
    """Print by how much every first decoder's robust accuracy exceeds cross-entropy's, image by image."""
    epsilons = [parse_epsilon(text) for text in options.eps.split(",")]
    baseline = Records(options.records, SURROGATE)
    print(f"Robust accuracy less that of {SURROGATE}, points, +- one standard error.\n")
    _print_row("model", "decoder", "attack", *map(format_epsilon, epsilons))
    _print_row(*("--" for _ in range(3 + len(epsilons))))
    for name in names:
        if name == SURROGATE:
            continue
        decoder = model_card(name).decoders[0]
        for title, attacks in (("PGD-50", PGD), ("AutoAttack", AUTOATTACK)):
            cells = [
                _difference(Records(options.records, name), decoder, baseline, attacks, epsilon, options.n_examples)
                for epsilon in epsilons
            ]
            if any(cells):
                _print_row(name, decoder, title, *cells)


def _difference(
    records: Records, decoder: str, baseline: Records, attacks: dict[str, str], epsilon: float, total: int
) -> str:
    """Return the difference under the first attack that both are known under: a better search must favour neither."""
    for attack in attacks.values():
        one = records.attack(decoder, attack, epsilon, total)
        other = baseline.attack("head", attack, epsilon, total)
        if one is not None and other is not None:
            difference = paired_difference(AttackResult.from_dict(one), AttackResult.from_dict(other))
            return f"{100 * difference.value:+.1f} +- {100 * difference.standard_error:.1f}"
    return ""


if __name__ == "__main__":
    main()
