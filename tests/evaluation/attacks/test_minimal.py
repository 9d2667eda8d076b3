"""Attacks that search for the smallest perturbation: one run gives the robust accuracy at every epsilon."""

from __future__ import annotations

import json
import math

import pytest
import torch
from brightness import Brightness

import ibrobust
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.by_name import read_attack

EPSILONS = [0.09, 0.11, 0.59, 0.62]


# Class 0 is bright. In L2 the boundary is twice the distance of the brightness from 0.5 away; the last image is wrong.
IMAGES = torch.tensor([0.55, 0.45, 0.8, 0.3]).view(4, 1, 1, 1).expand(4, 1, 2, 2).clone()
LABELS = torch.tensor([0, 1, 0, 0])
DISTANCES = [0.1, 0.1, 0.6, 0.0]
ROBUST = [(True, True, True), (False, False, True), (False, False, True), (False, False, False)]

MINIMAL = {
    "DeepFool of foolbox": "foolbox:L2DeepFoolAttack:overshoot=0.001",
    "DDN": "foolbox:DDNAttack:steps=100",
    "DeepFool of torchattacks": "DeepFool:overshoot=0.001",
}


def run(attack, epsilons=EPSILONS, **options):
    return ibrobust.run_attacks(Brightness(), IMAGES, LABELS, attacks=attack, epsilons=epsilons, **options)


@pytest.mark.parametrize("attack", MINIMAL.values(), ids=MINIMAL)
def test_the_smallest_perturbations_and_the_curve_are_those_of_a_linear_model(attack):
    results = run(attack)
    assert [(result.norm, result.epsilon) for result in results] == [("L2", epsilon) for epsilon in EPSILONS]
    assert [result.robust_correct for result in results] == [(*right, False) for right in ROBUST]
    for result in results:
        assert result.minimal_norm == pytest.approx(DISTANCES, abs=5e-3)


def test_what_is_not_the_smallest_is_counted_as_it_is():
    """On this model FMN of foolbox goes too far; the curve says so."""
    results = run("foolbox:L2FMNAttack:steps=100,max_stepsize=0.1")
    norms = results[0].minimal_norm
    assert all(norm >= distance - 1e-6 for norm, distance in zip(norms, DISTANCES, strict=True))
    for result in results:
        assert result.robust_correct == tuple(norm > result.epsilon for norm in norms)


def to_the_boundary(model, images, labels, *, epsilon, seed):
    """Move every image just over the boundary, but the brightest."""
    to_the_boundary.calls.append((len(images), epsilon))
    moved = torch.where(labels[:, None, None, None] == 0, 0.499, 0.501).expand_as(images)
    return torch.where(images > 0.7, images, moved)


to_the_boundary.norm = "L2"
to_the_boundary.minimal = True


@pytest.fixture
def calls():
    to_the_boundary.calls = []
    return to_the_boundary.calls


def test_a_function_of_this_kind_runs_once_for_all_epsilons(calls):
    results = run(to_the_boundary)
    assert calls == [(3, math.inf)]
    assert [result.robust_correct[:3] for result in results] == [ROBUST[0], *[(False, False, True)] * 3]
    assert results[0].minimal_norm == pytest.approx([0.102, 0.102, None, 0.0])


def test_the_attack_of_torchattacks_runs_once_for_all_epsilons(monkeypatch):
    model = Brightness()
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))

    def passes(epsilons):
        calls.clear()
        ibrobust.run_attacks(model, IMAGES, LABELS, attacks="CW:steps=3", epsilons=epsilons)
        return len(calls)

    assert passes(EPSILONS) == passes(EPSILONS[:1])


def test_the_record_holds_the_norms(calls):
    result = run(to_the_boundary)[0]
    record = json.loads(json.dumps(result.to_dict()))
    assert record["minimal_norm"][2:] == [None, 0.0]
    assert ibrobust.AttackResult.from_dict(record) == result
    assert "minimal_norm" not in run("FGSM")[0].to_dict()


def test_an_interrupted_run_resumes_without_attacking_again(calls, tmp_path):
    class KilledError(Exception):
        pass

    def kill(done, total):
        if done == 2:
            raise KilledError

    options = {"state_path": tmp_path / "state", "batch_size": 1}
    whole = run(to_the_boundary, batch_size=1)
    calls.clear()
    with pytest.raises(KilledError):
        run(to_the_boundary, progress=kill, **options)
    assert run(to_the_boundary, **options) == whole
    assert len(calls) == 3  # the wrong image is not attacked


def test_a_damaged_norm_in_the_state_is_refused(calls, tmp_path):
    path = tmp_path / "state"
    run(to_the_boundary, state_path=path)
    header, line = path.read_text().splitlines()
    path.write_text(f"{header}\n{json.dumps({**json.loads(line), 'minimal_norm': [1.0]})}\n")
    with pytest.raises(IbrobustError, match="Line 2 .* is damaged"):
        run(to_the_boundary, state_path=path)


def test_the_images_of_an_epsilon_are_those_within_it(calls):
    kept = []
    (result,) = run(to_the_boundary, 0.11, on_images=lambda *batch: kept.append(batch))
    ((clean, adversarial),) = kept
    moved = (adversarial != clean).flatten(1).any(dim=1)
    assert moved.tolist() == [True, True, False, False]
    assert result.robust_correct == (False, False, True, False)
    assert not torch.equal(run_alone(0.11), IMAGES)
    assert torch.equal(run_alone(0.1), IMAGES)  # nothing was found within it


def run_alone(epsilon):
    attack = read_attack(to_the_boundary)
    return attack(Brightness(), IMAGES, LABELS, epsilon=epsilon)


def test_the_worst_case_beside_an_attack_with_a_radius(calls):
    results = run([ibrobust.PGD(norm="L2", steps=20), to_the_boundary])
    worst = ibrobust.worst_case(results)
    assert [result.robust_correct[:3] for result in worst] == ROBUST


def test_pixels_outside_the_range_are_refused():
    def outside(model, images, labels, *, epsilon, seed):
        return images - 1

    outside.minimal = True
    with pytest.raises(IbrobustError, match=r"outside \[0, 1\]"):
        run(outside)


def test_a_perturbation_larger_than_epsilon_by_rounding_alone_is_within_it():
    """In float32, x and x - 0.15 are a little more than 0.15 apart."""

    def darker(model, images, labels, *, epsilon, seed):
        return images - 0.15

    darker.minimal, darker.norm = True, "Linf"
    images = torch.tensor([0.51, 0.53, 0.55, 0.6]).view(4, 1, 1, 1).expand(4, 1, 2, 2)
    labels = torch.zeros(4, dtype=torch.long)
    (result,) = ibrobust.run_attacks(Brightness(), images, labels, attacks=darker, epsilons=0.15)
    assert result.robust_accuracy == 0.0
