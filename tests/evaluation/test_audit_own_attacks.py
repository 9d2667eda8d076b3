"""Attacks of the caller's own count in the audit's worst case."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

import ibrobust
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.audit import AuditReport, audit

pytestmark = pytest.mark.usefixtures("light_audits")

EPSILON = 0.05
SECRET = torch.tensor([0.0123, -0.0234, 0.0345])


class BackDoor(nn.Module):
    """Images (B, 1, 4, 4) -> two logits by brightness; both are swapped if three pixels hold secret values.

    No gradient leads there.
    """

    def forward(self, images):
        score = images.flatten(1).mean(dim=1) - 0.5
        opened = ((images.flatten(1)[:, :3] - 0.7 - SECRET).abs() < 1e-5).all(dim=1)
        score = torch.where(opened, -score, score)
        return torch.stack([score, -score], dim=1)


IMAGES = torch.full((40, 1, 4, 4), 0.7)
LABELS = torch.zeros(40, dtype=torch.long)


def open_the_door(model, images, labels, *, epsilon, seed):
    opened = images.flatten(1).clone()
    opened[:, :3] += SECRET
    return opened.view_as(images)


def in_l2(model, images, labels, *, epsilon, seed):
    return images


in_l2.norm = "L2"


def run(attacks=(), **options):
    return audit(BackDoor(), IMAGES, LABELS, epsilon=EPSILON, quick=True, attacks=attacks, **options)


@pytest.fixture(scope="module")
def report():
    return run([ibrobust.PGD(steps=2), open_the_door])


class Saturated(nn.Module):
    """Images -> two logits by brightness, whose margin is 800: cross-entropy has a zero gradient, the margin not."""

    def forward(self, images):
        score = 2000 * (images.flatten(1).mean(dim=1) - 0.5)
        return torch.stack([score, -score], dim=1)


def on_margin(model, images, labels, *, epsilon, seed):
    points = images.clone().requires_grad_()
    logits = model(points)
    (gradient,) = torch.autograd.grad((logits[:, 1] - logits[:, 0]) @ (1.0 - 2.0 * labels), points)
    return (images + epsilon * gradient.sign()).clamp(0, 1)


def test_an_own_attack_that_had_a_gradient_leaves_the_answer_as_it_is():
    labels = torch.arange(40) % 2
    images = torch.where(labels == 0, 0.7, 0.3)[:, None, None, None].expand(40, 1, 4, 4).contiguous()
    without, beside = (
        audit(Saturated(), images, labels, epsilon=EPSILON, quick=True, attacks=attacks) for attacks in ([], on_margin)
    )
    assert without.worst_case_correct == beside.worst_case_correct == 40
    assert without.robustness == beside.robustness == "real"


def test_what_only_an_own_attack_breaks_is_broken_in_the_worst_case(report):
    assert run().worst_case_correct == 40
    assert report.worst_case_correct == 0
    (weak, broken_by_pgd), (own, broken) = report.attacks
    assert (weak, broken_by_pgd) == ("PGD:steps=2", 0)
    assert (own.endswith(":open_the_door"), broken) == (True, 40)
    assert report.robustness == "not real"
    assert f"{own} broke 40 images that all others had left." in report.detail


def test_the_record_holds_them(report):
    record = json.loads(json.dumps(report.to_dict()))
    assert AuditReport.from_dict(record) == report


def test_progress_counts_them():
    seen = []
    run("PGD:steps=1", progress=lambda stage, done, total: seen.append((stage, done, total)))
    stages = [stage for stage, _, _ in seen]
    assert stages.count("PGD:steps=1") == 1
    assert seen[-1][1] == seen[-1][2]
    assert [done for _, done, _ in seen] == list(range(len(seen)))


@pytest.mark.parametrize(
    ("attacks", "message"),
    [
        (in_l2, "in_l2 is in L2, but the audit is in Linf"),
        ("CW", "CW is in L2"),
        (["FGSM", "FGSM"], "occurs twice"),
        ("PGD:precision=bf16", "leave precision=bf16 out"),
        ("PDG", "Unknown attack"),
        ("APGDT", "APGDT needs 4 classes"),
        (lambda model, images, labels, *, epsilon, seed: images + math.nan, "NaN or infinite pixels"),
    ],
)
def test_what_cannot_count_is_refused(attacks, message):
    with pytest.raises(IbrobustError, match=message):
        run(attacks)


def test_a_warning_of_an_own_attack_makes_the_worst_case_an_upper_bound(report):
    # With two classes AutoAttack leaves parts out, and says so.
    warned = run("AutoAttack:n_iter=1,n_queries=1")
    assert (report.upper_bound, warned.upper_bound) == (False, True)


class NoisyBackDoor(BackDoor):
    """Either answer is as likely, but for the opened door, which is wrong on all draws."""

    def forward(self, images):
        opened = super().forward(images)[:, 0] < 0.0
        score = torch.where(opened, -10.0, 0.0) + torch.randn(len(images))
        return torch.stack([score, -score], dim=1)


def test_an_attack_runs_on_what_others_broke_by_luck():
    """Without it, some images that others broke by luck are right when they are judged at last."""
    alone = audit(NoisyBackDoor(), IMAGES, LABELS, epsilon=EPSILON, quick=True)
    opened = audit(NoisyBackDoor(), IMAGES, LABELS, epsilon=EPSILON, quick=True, attacks=open_the_door)
    assert alone.worst_case_correct > 0
    assert opened.worst_case_correct == 0
    assert opened.attacks[0][1] > 0
