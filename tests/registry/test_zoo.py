"""The models that ship with ibrobust: small enough, loadable as they are, and worth what their cards say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from ibrobust.data import Dataset, load_dataset
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.result import AttackResult
from ibrobust.evaluation.ball import Ball
from ibrobust.evaluation.gradient_lines import UNEXPLAINED_AT_RANDOM, unexplained_at_random, unexplained_shares
from ibrobust.evaluation.guarded_model import guard
from ibrobust.evaluation.straight_through import Cuts, gradient_cuts
from ibrobust.evaluation.sweep import fgsm_sweep
from ibrobust.evaluation.worst_case_attack import worst_case_attack
from ibrobust.home import zoo_dir
from ibrobust.registry import load_model, model_card
from ibrobust.registry.card import read_card
from ibrobust.registry.store import read_weights

# The folder of the CIFAR-10 images that most of the zoo's models were trained on; the others come with ibrobust.
IMAGES = "IBROBUST_CIFAR10_IMAGES"
CARDS = sorted(zoo_dir().glob("*.yaml"))
RECORDS = Path(__file__).resolve().parents[2] / "docs" / "records" / "zoo"

each_model = pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)


def test_files_are_small():
    sizes = {path.name: path.stat().st_size for path in zoo_dir().glob("*") if path.is_file()}
    assert [name for name, size in sizes.items() if size > 24e6] == []
    assert sum(sizes.values()) < 75e6
    assert [name for name, size in sizes.items() if "-digits" in name and size > 500e3] == []


@each_model
def test_a_card_names_the_weights_beside_it_and_no_path(path: Path):
    card = read_card(path)
    assert card.name == path.stem
    read_weights(card, path)
    assert card.recipe is not None
    assert card.recipe.dataset == card.dataset.name
    assert {"cifar10-jpeg": "JPEG", "digits": "digits"}[card.dataset.name] in card.description


@pytest.mark.parametrize("place", [0, 31, 63])
def test_every_digit_of_the_sha_256_counts(place: int):
    path = zoo_dir() / "cross_entropy-digits.yaml"
    card = read_card(path)
    digits = card.weights.sha256
    digits = digits[:place] + ("0" if digits[place] != "0" else "1") + digits[place + 1 :]
    changed = card.model_copy(update={"weights": card.weights.model_copy(update={"sha256": digits})})
    with pytest.raises(IbrobustError, match="SHA-256"):
        read_weights(changed, path)


@each_model
def test_a_card_is_written_as_it_stands(path: Path):
    assert read_card(path).to_text() == path.read_text(encoding="utf-8")


@each_model
def test_a_model_loads_with_each_decoder(path: Path):
    for decoder in read_card(path).decoders:
        assert load_model(path.stem, decoder=decoder)(torch.rand(2, 3, 32, 32)).shape == (2, 10)


@cache
def images_of(dataset: str) -> Dataset:
    folder = os.environ.get(IMAGES) if dataset == "cifar10-jpeg" else dataset
    if not folder:
        pytest.skip(f"{IMAGES} does not name the folder of images")
    return load_dataset(folder)


@pytest.mark.parametrize(
    "path", [pytest.param(p, marks=() if "-digits" in p.stem else pytest.mark.slow, id=p.stem) for p in CARDS]
)
def test_a_cards_accuracies_are_those_of_its_model(path: Path):
    card = model_card(path.stem)
    images = images_of(card.dataset.name)
    assert images.fingerprint == card.dataset.fingerprint
    for decoder, stored in card.evaluations["fgsm"].items():
        assert stored["total"] == len(images.test)
        epsilons = stored["epsilons"][:2]
        model = load_model(path.stem, decoder=decoder)
        result = fgsm_sweep(model, images.test.images, images.test.labels, epsilons)
        tolerated = 0.0005 * len(images.test)
        assert abs(result.clean_correct - card.clean_accuracy[decoder].correct) <= tolerated
        for correct, expected in zip(result.correct, stored["correct"][:2], strict=True):
            assert abs(correct - expected) <= tolerated


@pytest.mark.slow
@each_model
def test_no_model_cuts_its_gradient(path: Path):
    """So the numbers of earlier versions of the attack and the audit are those of today's."""
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for decoder in read_card(path).decoders:
        model = guard(load_model(path.stem, decoder=decoder))
        assert gradient_cuts(model, images, Ball("Linf", 4 / 255)) == Cuts()


@pytest.mark.slow
@each_model
def test_the_gradient_explains_each_model_as_the_page_on_the_worst_case_says(path: Path):
    images = images_of(read_card(path).dataset.name).test.subset(64).images / 255
    for decoder in read_card(path).decoders:
        model = guard(load_model(path.stem, decoder=decoder).cpu())
        assert unexplained_shares(model, images, batch_size=64).median() < 0.045
        assert (unexplained_at_random(model, images, batch_size=64) > UNEXPLAINED_AT_RANDOM).sum() <= 1


@pytest.mark.parametrize("name", ["cross_entropy-w16-s1", "dvib-w16-s0", "knn_ib-k50-w16-s1"])
def test_the_worst_case_of_a_card_is_that_of_its_model_image_by_image(name: str):
    images = images_of("cifar10-jpeg").test.subset(1000)
    records = json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))["decoders"]
    decoder, found = next(iter(records.items()))
    stored = next(
        AttackResult.from_dict(fields)
        for fields in found["attacks"]
        if fields["attack"].startswith("WorstCase") and fields["epsilon"] == 4 / 255
    )
    model = load_model(name, decoder=decoder)
    result = worst_case_attack(model, images.images, images.labels, epsilon=4 / 255)
    assert not result.upper_bound
    assert result.clean_correct == stored.clean_correct
    # AutoAttack, which was run on the images that were left, broke none of them for these models.
    assert result.robust_correct == stored.robust_correct


def test_loading_imports_neither_the_compiler_nor_the_training() -> None:
    """Either would take longer than all the rest."""
    code = (
        "import sys, ibrobust; ibrobust.load_model('cross_entropy-w16-s0'); "
        "print([name for name in ('torch._dynamo', 'accelerate', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
