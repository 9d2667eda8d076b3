"""The audit names planted defects by the right check, and clears honest models."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from awkward_models import Wrapped
from light_audit import lighten
from torch import Tensor, nn

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.audit import AuditReport, audit
from ibrobust.evaluation.audit.report import BLINDING, SAYINGS, Check, gradient_answer
from ibrobust.evaluation.audit.subject import QUICK
from ibrobust.evaluation.statistics import chance_ceiling, exceeds, interval, lower_bound
from ibrobust.evaluation.worst_case_attack import worst_case_attack

EPSILON = 0.06


@pytest.fixture(autouse=True, scope="module")
def light():
    """Fewer draws, steps, targets and queries: they find no more here."""
    with pytest.MonkeyPatch.context() as patch:
        lighten(patch, replace(QUICK, steps=10, queries=100, draws=4, random_draws=20))
        yield


def quick_audit(model: nn.Module, data: tuple[Tensor, Tensor], **options) -> AuditReport:
    images, labels = data
    return audit(model, images[:64], labels[:64], epsilon=EPSILON, quick=True, **options)


def failed(report: AuditReport) -> set[str]:
    return {check.name for check in report.failed}


class ScaledLogits(Wrapped):
    def forward(self, images: Tensor) -> Tensor:
        return 1000.0 * self.model(images)


class OtherWithGradient(Wrapped):
    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        return logits.flip(1) if torch.is_grad_enabled() else logits


class ShatteredInput(Wrapped):
    """A ripple finer than a pixel's own steps, of next to no height and of a steep slope."""

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images + 0.002 * torch.sigmoid(20.0 * torch.sin(40_000.0 * images)))


class QuantisedInput(Wrapped):
    def forward(self, images: Tensor) -> Tensor:
        return self.model(torch.round(8.0 * images) / 8.0)


class NoisyInput(Wrapped):
    def forward(self, images: Tensor) -> Tensor:
        return self.model(images + 0.2 * torch.randn_like(images))


class Probabilities(Wrapped):
    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).softmax(dim=1)


class NanGradient(Wrapped):
    """sqrt at zero: the value is right, its gradient is NaN."""

    def forward(self, images: Tensor) -> Tensor:
        nothing = (images - images).sum(dim=(1, 2, 3))
        return self.model(images) + (nothing.sqrt() * 0.0)[:, None]


class DetachedBranch(Wrapped):
    """Nearly all of the logits come by a way that no gradient takes."""

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images.detach()) + 1e-3 * self.model(images.flip(3))


class Vote(Wrapped):
    """How many of four views of an image get each class."""

    def forward(self, images: Tensor) -> Tensor:
        views = (images, images.flip(3), images.roll(1, 3), images.roll(-1, 3))
        return torch.stack([F.one_hot(self.model(view).argmax(dim=1), 10) for view in views]).sum(dim=0)


class Plateau(Wrapped):
    """The logits are rounded, and what is left of the gradient points anywhere."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.register_buffer("direction", torch.randn(3 * 16 * 16, 10, generator=torch.Generator().manual_seed(0)))

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        return torch.round(logits / 4.0) * 4.0 + 1e-4 * (images.flatten(1) @ self.direction)


class Decoy(Wrapped):
    """One more class is always the nearest and never the first; its slope, the steepest, leads up and down a wave."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        signs = torch.randint(0, 2, (3 * 16 * 16,), generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
        self.register_buffer("direction", signs / len(signs))

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        wave = torch.sin(1e4 * (images.flatten(1) @ self.direction))
        decoy = logits.amax(dim=1) - 0.6 + 0.5 * wave
        return torch.cat([logits, decoy[:, None]], dim=1)


@pytest.mark.parametrize(
    ("defect", "named"),
    [
        (ScaledLogits, "zero_gradient_cross_entropy"),
        (ScaledLogits, "softmax_saturation"),
        (ShatteredInput, "gradient_matches_differences"),
        (QuantisedInput, "zero_gradient_margin"),
        (NoisyInput, "determinism"),
        (OtherWithGradient, "same_logits_with_gradient"),
        (Probabilities, "logits_not_probabilities"),
        (NanGradient, "nonfinite_gradient_margin"),
        (DetachedBranch, "gradient_matches_differences"),
        (Plateau, "square_not_stronger"),
        (Decoy, "targeted_changes_little"),
    ],
)
def test_a_planted_defect_is_named(defect, named, plain_model, test_data, reports):
    report = reports(defect, plain_model, test_data)
    assert named in failed(report)


@pytest.mark.parametrize(
    ("defect", "answer"),
    [
        (ScaledLogits, "vanishing"),
        (QuantisedInput, "vanishing"),
        (NanGradient, "vanishing"),
        (Probabilities, "vanishing"),
        (DetachedBranch, "misleading"),
        (Plateau, "misleading"),
        (ShatteredInput, "misleading"),
        (Decoy, "misleading"),
        (NoisyInput, "random"),
        (OtherWithGradient, "misleading"),
    ],
)
def test_what_became_of_the_gradient_is_said(defect, answer, plain_model, test_data, reports):
    report = reports(defect, plain_model, test_data)
    assert report.gradient == answer
    assert report.reason


@pytest.mark.parametrize(
    "defect", [ScaledLogits, QuantisedInput, NanGradient, DetachedBranch, Plateau, ShatteredInput, Decoy]
)
def test_no_robustness_of_a_fake_is_called_real(defect, plain_model, test_data, reports):
    # The model within keeps nothing at this epsilon.
    assert reports(defect, plain_model, test_data).robustness in ("not real", "undecided")


@pytest.mark.parametrize(
    ("defect", "gradient"), [(QuantisedInput, "vanishing"), (Vote, "vanishing"), (DetachedBranch, "misleading")]
)
def test_nothing_is_left_undecided_if_a_gradient_past_the_cut_breaks_it(
    defect, gradient, plain_model, test_data, reports
):
    report = reports(defect, plain_model, test_data)
    assert (report.robustness, report.gradient) == ("not real", gradient)
    assert report.worst_case_correct <= 0.02 * len(test_data[1])
    assert "black_box_not_stronger" in failed(report)


def test_robustness_behind_a_shattered_gradient_is_undecided(robust_model, test_data):
    # The model within is robust. But no attack that follows this gradient is known to get far.
    report = audit(ShatteredInput(robust_model).eval(), *(part[:40] for part in test_data), epsilon=EPSILON, quick=True)
    assert report.worst_case_correct > 20
    assert (report.robustness, report.gradient) == ("undecided", "misleading")
    assert report.upper_bound
    assert "(an upper bound)" in report.headline


def test_batch_invariance_does_not_apply_to_a_stochastic_model(plain_model, test_data, reports):
    checks = {check.name: check for check in reports(NoisyInput, plain_model, test_data).checks}
    assert checks["batch_invariance"].passed is None


@pytest.fixture(scope="module")
def reports():
    """Audit each defective model once, whatever number of tests look at the report."""
    cache: dict[type, AuditReport] = {}

    def report_of(defect: type[Wrapped], model: nn.Module, data: tuple[Tensor, Tensor]) -> AuditReport:
        if defect not in cache:
            cache[defect] = quick_audit(defect(model).eval(), data)
        return cache[defect]

    return report_of


def test_an_ordinary_model_is_honest_and_not_robust(plain_model, test_data):
    report = quick_audit(plain_model, test_data)
    assert failed(report) == set()
    assert (report.robustness, report.gradient) == ("not real", "honest")


def test_an_adversarially_trained_model_is_honest_and_keeps_its_robustness(robust_model, plain_model, test_data):
    report = quick_audit(robust_model, test_data, surrogate=plain_model)
    assert failed(report) == set()
    assert (report.robustness, report.gradient) == ("real", "honest")
    assert report.worst_case_accuracy > quick_audit(plain_model, test_data).worst_case_accuracy + 0.2


def test_the_worst_case_is_never_above_fgsm_nor_fgsm_above_clean(plain_model, test_data):
    report = quick_audit(plain_model, test_data)
    assert report.worst_case_correct <= report.fgsm_correct <= report.clean_correct


def test_every_check_says_what_it_measured_and_where_it_comes_from(plain_model, test_data):
    report = quick_audit(plain_model, test_data)
    assert len({check.name for check in report.checks}) == len(report.checks) >= 17
    for check in report.checks:
        assert check.meaning.endswith(".")
        assert check.threshold
        assert check.reference
    assert {check.name for check in report.checks} >= BLINDING | SAYINGS.keys()


def test_the_docs_name_every_check(plain_model, test_data):
    images, labels = test_data
    page = (Path(__file__).parents[2] / "docs" / "audit-checks.md").read_text(encoding="utf-8")
    for check in audit(plain_model, images[:2], labels[:2], epsilon=EPSILON, quick=True).checks:
        family = re.sub("_(margin|cross_entropy)$", "_*", check.name)
        assert f"`{check.name}`" in page or f"`{family}`" in page


def test_the_docs_name_the_checks_that_make_the_worst_case_an_upper_bound():
    page = (Path(__file__).parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")
    (passage,) = re.findall(r"or if one of\s+these checks failed: (.*?)\. An upper", page, re.DOTALL)
    assert set(re.findall(r"`(\w+)`", passage)) == set(BLINDING)


def test_the_page_counts_each_network_once_for_the_rate_of_false_alarms():
    page = (Path(__file__).parents[2] / "docs" / "audit-checks.md").read_text(encoding="utf-8")
    table = page.partition("| honest models |")[2].partition("\n\n")[0]
    small = sum(map(int, re.findall(r"(\d+) seeds", table)))
    shipped = sum(len(re.findall("`", row)) // 2 for row in table.splitlines() if "seeds" not in row)
    ((networks, percent),) = re.findall(r"audits of (\d+) networks\. .*? is\s+below (\d+)%", page, re.DOTALL)
    assert small + shipped == int(networks)
    assert int(percent) - 1 < 100 * interval(0, int(networks))[1] < int(percent)


class WrongGradientForSome(Wrapped):
    """For the images that it takes for one of the later classes, all but nothing of the gradient is right."""

    def forward(self, images: Tensor) -> Tensor:
        honest = self.model(images)
        hidden = self.model(images.detach()) + 1e-3 * self.model(images.flip(3))
        return torch.where((honest.argmax(dim=1) >= 3)[:, None], hidden, honest)


def test_gradients_of_images_sorted_by_class_are_looked_at_for_all_classes(plain_model, test_data, monkeypatch):
    lighten(monkeypatch, replace(QUICK, steps=1, queries=1, total_queries=180, survivors=1, radii=(2.0,)))
    images, labels = (part[::2] for part in test_data)
    order = labels.argsort(stable=True)
    report = audit(WrongGradientForSome(plain_model).eval(), images[order], labels[order], epsilon=EPSILON, quick=True)
    assert "gradient_matches_differences" in failed(report)


def test_a_report_names_its_surrogate(plain_model, robust_model, test_data):
    alone = quick_audit(plain_model, test_data)
    assert (alone.surrogate, alone.gradient) == (None, "honest")
    assert alone.detail.endswith(" Without a surrogate, two checks of the gradient were not made.")
    report = quick_audit(plain_model, test_data, surrogate=robust_model, surrogate_name="the other one")
    assert report.surrogate == report.to_dict()["surrogate"] == "the other one"
    assert "Without a surrogate" not in report.detail


def test_a_surrogate_of_fewer_classes_is_refused(plain_model, test_data):
    fewer = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))
    with pytest.raises(IbrobustError, match="4 classes"):
        quick_audit(plain_model, test_data, surrogate=fewer)


def test_the_audit_is_the_same_twice(plain_model, test_data):
    assert quick_audit(plain_model, test_data) == quick_audit(plain_model, test_data)


def test_a_report_survives_json(plain_model, test_data):
    report = quick_audit(plain_model, test_data)
    assert AuditReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_the_passes_are_counted(plain_model, test_data):
    calls = 0

    def count(module, inputs, output) -> None:
        nonlocal calls
        calls += len(output)

    plain_model.register_forward_hook(count)
    report = quick_audit(plain_model, test_data)
    assert report.cost.forward_images == calls
    assert 0 < report.cost.backward_images < calls


def test_the_model_is_as_before(plain_model, test_data):
    plain_model.train()
    plain_model.head.eval()
    state = torch.get_rng_state()
    quick_audit(plain_model, test_data)
    assert plain_model.training
    assert not plain_model.head.training
    assert all(parameter.grad is None for parameter in plain_model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_an_epsilon_of_zero_is_refused(plain_model, test_data):
    with pytest.raises(IbrobustError, match="epsilon is 0"):
        audit(plain_model, *test_data, epsilon=0.0)


def check(name: str, passed: bool | None) -> Check:
    return Check(name, 0.0, "at most 0", passed, "Something.", "Somebody")


@pytest.mark.parametrize(
    ("names", "answer"),
    [
        ([], "honest"),
        (["loss_converged", "no_silent_success", "more_effort_changes_little", "batch_invariance"], "honest"),
        (["losses_agree"], "misleading"),
        (["better_start_changes_little"], "misleading"),
        (["determinism", "averaged_draws_not_stronger"], "random"),
        (["zero_gradient_margin", "determinism", "square_not_stronger"], "vanishing"),
    ],
)
def test_the_answer_about_the_gradient_follows_from_the_checks(names, answer):
    assert gradient_answer([check("square_not_stronger", None), *(check(name, False) for name in names)]) == answer


def test_the_worst_case_has_everything_that_the_worst_case_attack_breaks(plain_model, test_data):
    images, labels = test_data[0][:32], test_data[1][:32]
    report = audit(plain_model, images, labels, epsilon=0.02, quick=True)
    assert report.worst_case_correct <= sum(worst_case_attack(plain_model, images, labels, epsilon=0.02).robust_correct)


def test_the_full_audit_attacks_every_image_and_compares_attacks_on_some(monkeypatch, plain_model, test_data):
    images, labels = test_data[0][:48], test_data[1][:48]
    monkeypatch.setattr("ibrobust.evaluation.audit.run.FULL", replace(QUICK, images=None))
    monkeypatch.setattr("ibrobust.evaluation.audit.subject.COMPARED", 16)
    report = audit(plain_model, images, labels, epsilon=0.02, surrogate=None)
    found = {check.name: check.meaning for check in report.checks}
    assert report.n == 48
    assert report.worst_case_correct <= sum(worst_case_attack(plain_model, images, labels, epsilon=0.02).robust_correct)
    on_all = ("worst_case_changes_little", "targeted_changes_little", "black_box_not_stronger")
    assert all(" of 48 " in found[name] for name in (*on_all, "clean_accuracy"))
    on_some = ("iterative_not_weaker", "losses_agree", "no_silent_success", "accuracy_falls_with_epsilon")
    assert all(" of 16 " in found[name] for name in (*on_some, "zero_gradient_margin", "unbounded_reaches_zero"))


def test_the_two_sided_interval_is_that_of_the_exact_binomial_test():
    from scipy.stats import binomtest

    for count, total in ((0, 20), (3, 35), (35, 35), (47, 256)):
        exact = binomtest(count, total).proportion_ci(0.95, "exact")
        assert interval(count, total) == pytest.approx((exact.low, exact.high))


def test_progress_counts_every_stage(plain_model, test_data):
    images, labels = test_data
    seen: list[tuple[int, int]] = []
    audit(
        plain_model,
        images[:4],
        labels[:4],
        epsilon=EPSILON,
        quick=True,
        progress=lambda stage, done, total: seen.append((done, total)),
    )
    total = seen[0][1]
    assert seen == [(done, total) for done in range(total + 1)]


def test_the_lower_bound_is_where_the_binomial_tail_is_five_per_cent():
    from scipy.stats import binom

    bound = lower_bound(7, 100)
    assert float(binom.sf(6, 100, bound)) == pytest.approx(0.05)


def test_one_odd_image_in_a_small_sample_raises_no_alarm():
    assert not exceeds(1, 100, 0.005)
    assert exceeds(10, 100, 0.005)


def test_a_guesser_exceeds_the_ceiling_once_in_a_hundred_times():
    from scipy.stats import binom

    ceiling = chance_ceiling(360, 0.1)
    assert float(binom.sf(ceiling, 360, 0.1)) <= 0.01 < float(binom.sf(ceiling - 1, 360, 0.1))
