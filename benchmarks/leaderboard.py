"""The tables of docs/results.md: every shipped model under FGSM, PGD, AutoAttack and the audit, and what it knows.

    python benchmarks/leaderboard.py measure --dataset DIR
    python benchmarks/leaderboard.py measure --dataset DIR --models 'knn_ib*' --autoattack first --eps 2/255
    python benchmarks/leaderboard.py measure --dataset DIR --only autoattack --autoattack first --precision fp32
    python benchmarks/leaderboard.py table
    python benchmarks/leaderboard.py compare
    python benchmarks/leaderboard.py figures
    python benchmarks/leaderboard.py cards

`measure` keeps a file for each model in docs/records and leaves alone what is there already, of the same weights, so it
can be stopped at any time; AutoAttack goes on with the batch it was stopped in, from the folder --state. Cards of your
own models get the sweeps and the audits at the last epsilon. From those files alone `table` prints Markdown, `compare`
every model's robust accuracy less cross-entropy's over the same images and the spread over seeds, `figures` draws
accuracy against epsilon, and test error against beta, and `cards` writes them into the cards of the models that ship.
"""

from __future__ import annotations

import argparse
from fnmatch import fnmatch
from pathlib import Path

import torch
from leaderboard_records import AUTOATTACK, PGD, RECORDS, Records, keep_in_card, write_shipped_cards
from leaderboard_tables import BASELINE, draw, print_difference_over_seeds, print_differences, print_means, print_tables

from ibrobust.data import Dataset, load_dataset
from ibrobust.epsilon import format_epsilon, parse_epsilon
from ibrobust.estimators.latent_information import LatentInformation, latent_information
from ibrobust.evaluation.attacks.run import run_attacks
from ibrobust.evaluation.audit import audit
from ibrobust.evaluation.sweep import fgsm_sweep
from ibrobust.models import ImageClassifier, encode_in_batches
from ibrobust.registry import list_models, load_model, model_card
from ibrobust.registry.scoring import unit_batches

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
    for command in (measuring, drawing, *(commands.add_parser(name) for name in ("table", "compare", "cards"))):
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
        print_means(names, options)
        print_difference_over_seeds(names, options)
        return
    if options.command == "figures":
        draw(names, options)
        return
    if options.command == "cards":
        write_shipped_cards(names, options.records)
        return
    torch.set_num_threads(options.threads)
    data = load_dataset(options.dataset)
    for name in names:
        measure(name, data, options)


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
    surrogate = BASELINE if name != BASELINE else None
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


def information(name: str, data: Dataset, device: str) -> LatentInformation:
    """Return what `ibrobust entropy` reports."""
    model = load_model(name, device=device)
    assert isinstance(model, ImageClassifier)
    place = torch.device(device)
    latents = encode_in_batches(model.encoder, unit_batches(data.test, place))[:, : model.latent_dim]
    return latent_information(latents, data.test.labels.to(place), data.num_classes)


if __name__ == "__main__":
    main()
