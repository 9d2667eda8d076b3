"""What an audit may say of few images: no more than an exact binomial test does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from awkward_models import Detached, Wrapped
from scipy.stats import binomtest
from torch import Tensor

from ibrobust.evaluation.audit import AuditReport, audit
from ibrobust.evaluation.audit.attack_checks import (
    check_averaged_draws,
    check_better_start,
    check_random_search,
    check_unbounded,
    check_worst_case,
)
from ibrobust.evaluation.audit.attack_runs import (
    STEPS,
    SURROGATE_START,
    AttackRuns,
    Stages,
    run_attacks_for_audit,
)
from ibrobust.evaluation.audit.gradient_checks import (
    check_gradient_matches_differences,
    check_gradients,
    check_saturation,
    check_stable_predictions,
)
from ibrobust.evaluation.audit.model_checks import check_clean_accuracy
from ibrobust.evaluation.audit.robustness import Claim, is_it_real, share_kept
from ibrobust.evaluation.audit.subject import QUICK, Attempt, Subject
from ibrobust.evaluation.guarded_model import guard
from ibrobust.evaluation.statistics import more_often

pytestmark = pytest.mark.usefixtures("light_audits")


def some(count: int, total: int) -> Tensor:
    return torch.arange(total) < count


def attempt(broken: Tensor) -> Attempt:
    return Attempt(torch.zeros(len(broken), 3, 2, 2), broken, broken, torch.zeros(21, 0))


def runs(total: int, *, stages: dict[str, Tensor] | None = None, **found: Any) -> AttackRuns:
    none = torch.zeros(total, dtype=torch.bool)
    fields = {name: none for name in ("fgsm", "harder", "square", "random", "large", "unbounded", "worst_case")}
    fields |= {
        name: Attempt(torch.zeros(total, 3, 2, 2), none, none, torch.zeros(21, 0))
        for name in ("cross_entropy", "margin")
    }
    fields |= {"transfer": None, "plain": None, "tried": 1.0, "given": {}}
    names = [next((name for name, fell in (stages or {}).items() if fell[at]), "") for at in range(total)]
    by_stage = Stages(torch.tensor([name != "" for name in names]), none, names)
    return AttackRuns(**{**fields, **found}, stages=by_stage, protected=(), warned=False, draws=False)


def subject(model, images: Tensor, labels: Tensor, *, clean: Tensor | None = None, num_classes: int = 10) -> Subject:
    right = torch.ones(len(images), dtype=torch.bool) if clean is None else clean
    return Subject(model, model, images, labels, right, num_classes, 0.03, QUICK, 250, 0)


def test_one_image_says_nothing_against_the_gradient_nor_for_robustness(plain_model, test_data):
    images, labels = test_data
    report = audit(plain_model, images[:1], labels[:1], epsilon=0.001, quick=True)
    assert report.worst_case_correct == 1
    assert (report.robustness, report.gradient) == ("undecided", "honest")
    assert "too few images" in report.headline


def test_one_image_with_a_cut_gradient_is_not_honest(plain_model, test_data):
    images, labels = test_data
    report = audit(Detached(plain_model).eval(), images[:1], labels[:1], epsilon=0.03, quick=True)
    assert report.gradient == "vanishing"


@pytest.mark.parametrize(
    ("correct", "total", "classes", "passed"),
    [
        (1, 1, 10, None),
        (0, 1, 10, None),
        (2, 3, 10, None),  # a guesser gets two of three in 3 of 100 trials
        (3, 3, 10, None),  # a guesser of one of the three labels in 4 of 100
        (5, 5, 10, True),
        (10, 100, 10, False),
        (60, 100, 10, True),
        (48, 96, 2, False),
        (5, 5, 2, None),
    ],
)
def test_clean_accuracy_is_judged_where_there_are_images_enough(correct, total, classes, passed):
    images, labels = torch.zeros(total, 3, 8, 8), torch.arange(total) % classes
    clean = some(correct, total)
    assert check_clean_accuracy(subject(None, images, labels, clean=clean, num_classes=classes)).passed is passed


@pytest.mark.parametrize(("count", "total", "passed"), [(1, 1, True), (1, 10, True), (2, 10, False), (2, 96, True)])
def test_a_comparison_of_attacks_needs_two_images_and_a_share_above_what_is_tolerated(count, total, passed):
    assert check_random_search(runs(total, random=some(count, total))).passed is passed


def test_survivors_that_were_tried_stand_for_their_share_of_all_images():
    assert check_random_search(runs(100, random=some(2, 100))).passed is True
    check = check_random_search(runs(100, random=some(2, 100), tried=0.1))
    assert (check.value, check.passed) == (0.2, False)


@pytest.mark.parametrize(
    ("started", "left", "total", "passed"),
    [
        (10, 20, 256, False),  # of the trials: models whose gradient misleads
        (13, 68, 256, False),
        (2, 48, 256, True),  # and those whose gradient does not
        (1, 84, 256, True),
        (2, 3, 256, True),  # a large share of three images is little of 256
        (0, 0, 256, None),
    ],
)
def test_a_better_start_has_to_break_much_of_what_is_left_and_enough_of_all(started, left, total, passed):
    images, labels = torch.zeros(total, 3, 2, 2), torch.zeros(total, dtype=torch.long)
    stages = {STEPS: ~some(left, total), SURROGATE_START: some(started, total)}
    found = runs(total, stages=stages, transfer=some(0, total))
    assert check_better_start(subject(None, images, labels), found).passed is passed


@pytest.mark.parametrize(("beyond", "passed"), [(4, True), (7, True), (22, False), (17, False)])
def test_the_worst_case_may_break_a_few_images_beyond_ordinary_steps(beyond, passed):
    assert check_worst_case(runs(256, stages={"Square": some(beyond, 256)})).passed is passed


class Rough(Wrapped):
    """The margin changes by half of itself between neighbouring floats."""

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images) * (1.0 + 0.5 * torch.sin(1e6 * images.mean(dim=(1, 2, 3))))[:, None]


@pytest.mark.parametrize(("count", "passed"), [(4, True), (32, False)])
def test_a_rough_margin_is_unstable(count, passed, plain_model, test_data):
    images, labels = test_data
    assert check_stable_predictions(subject(Rough(plain_model), images[:count], labels[:count])).passed is passed


@pytest.mark.parametrize(
    ("correct", "total", "claimed", "upper_bound", "answer"),
    [
        (139, 256, 145, False, "real"),
        (109, 256, 145, False, "partly real"),
        (84, 256, 112, True, "undecided"),  # nobody knows how much more an attack would break
        (3, 256, 96, False, "not real"),
        (3, 256, 96, True, "not real"),
        (12, 256, 12, False, "not real"),  # all of a claim of 5%, which a constant answer keeps too
        (28, 256, 28, False, "undecided"),  # 11%, which is not clearly more than a constant answer keeps
        (45, 256, 50, False, "real"),
        (3, 3, 3, False, "undecided"),
        (0, 256, 0, False, "not real"),
        (2, 4, 4, False, "undecided"),
    ],
)
def test_the_robustness_is_what_the_worst_case_leaves_of_the_claim(correct, total, claimed, upper_bound, answer):
    kept = share_kept(Claim(claimed / total, "FGSM", claimed), correct, total)
    assert is_it_real(kept, correct, total, chance=0.1, upper_bound=upper_bound) == answer


@pytest.mark.parametrize(
    ("left", "total", "num_classes", "claimed", "answer"),
    [
        (0, 256, 100, 5, "not real"),
        (0, 1000, 1000, 3, "not real"),
        (0, 30, 10, 5, "not real"),
        (0, 4, 10, 4, "undecided"),  # up to 60% of the images with 95% confidence
    ],
)
def test_an_accuracy_that_is_at_most_chance_is_not_real(left, total, num_classes, claimed, answer):
    kept = share_kept(Claim(claimed / total, "FGSM", claimed), left, total)
    assert is_it_real(kept, left, total, chance=1 / num_classes, upper_bound=True) == answer


class Constant(torch.nn.Module):
    """Class 0 by a bias that always wins; the gradient is exact."""

    def forward(self, images: Tensor) -> Tensor:
        score = 2.0 + 0.01 * images.flatten(1).sum(dim=1)
        return torch.stack([score, -score], dim=1)


@pytest.mark.parametrize(("rare", "correct"), [(13, 115), (64, 64), (0, 128)])
def test_a_constant_answer_is_no_robustness_however_frequent_its_class_is(rare, correct):
    images = torch.rand(128, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    report = audit(Constant(), images, (~some(128 - rare, 128)).long(), epsilon=8 / 255, quick=True)
    assert report.worst_case_correct == report.clean_correct == correct
    assert (report.robustness, report.gradient) == ("undecided", "honest")
    assert "not better than guessing" in report.headline
    assert ("clean_accuracy" in {check.name for check in report.failed}) == (rare > 0)


class Lit(torch.nn.Module):
    """Class 1 if an image is bright; its margin is far beyond any small epsilon."""

    def forward(self, images: Tensor) -> Tensor:
        score = 10.0 * (images.mean(dim=(1, 2, 3)) - 0.5)
        return torch.stack([-score, score], dim=1)


def test_above_chance_but_not_surely_is_said_to_be_too_few_images():
    """14 of 20 images of two classes are 70%, whose 95% interval begins at 46%; 140 of 200 are enough."""
    assert binomtest(14, 20).proportion_ci(0.95, "exact").low < 0.5 < binomtest(140, 200).proportion_ci().low
    answers = {}
    for total in (20, 200):
        labels = torch.arange(total) % 2
        wrong = torch.arange(total) % 10 < 3
        images = (0.5 + 0.4 * ((labels == 1) ^ wrong).float() - 0.2)[:, None, None, None].expand(total, 1, 4, 4)
        answers[total] = audit(Lit(), images.contiguous(), labels, epsilon=0.01, quick=True)
        assert answers[total].worst_case_correct == 0.7 * min(total, answers[total].n)
    assert answers[20].robustness == "undecided"
    assert "(too few images to tell)" in answers[20].headline
    assert answers[200].robustness == "real"


def test_an_earlier_record_without_the_chance_is_read(plain_model, test_data):
    images, labels = test_data
    record = audit(plain_model, images[:4], labels[:4], epsilon=0.01, quick=True).to_dict()
    del record["chance"]
    assert AuditReport.from_dict(record).chance == 0.0


def test_better_than_the_most_frequent_label_is_better_than_guessing():
    kept = share_kept(Claim(0.99, "FGSM", 990), 980, 1000)
    assert is_it_real(kept, 980, 1000, chance=0.9, upper_bound=False) == "real"
    assert is_it_real(kept, 980, 1000, chance=0.98, upper_bound=False) == "undecided"


def test_the_interval_of_a_number_claimed_is_the_accuracy_s_over_the_claim():
    exact = binomtest(50, 256).proportion_ci(0.95, "exact")
    kept = share_kept(Claim(0.47, "claimed"), 50, 256)
    assert (kept.share, kept.low, kept.high) == pytest.approx((50 / 256 / 0.47, exact.low / 0.47, exact.high / 0.47))


@pytest.mark.parametrize(("left", "total", "passed"), [(1, 96, True), (1, 20, True), (4, 96, False), (1, 1, None)])
def test_an_image_that_withstands_pgd_without_a_bound_is_one_of_how_many(left, total, passed):
    images, labels = torch.zeros(total, 3, 8, 8), torch.zeros(total, dtype=torch.long)
    found = runs(total, unbounded=~some(left, total))
    assert check_unbounded(subject(None, images, labels), found).passed is passed


@pytest.mark.parametrize(
    ("labels", "clean", "passed"),
    [
        ([0] * 80 + [1] * 20, 80, None),  # a constant answer
        ([0] * 50 + [1] * 50, 100, False),  # an image of the one class breaks those of the other
        ([0] * 90 + [0] * 10, 90, False),  # a wrong image breaks the others
    ],
)
def test_a_model_of_which_no_other_answer_is_known_may_withstand_pgd_without_a_bound(labels, clean, passed):
    one = subject(None, torch.zeros(100, 1, 1, 1), torch.tensor(labels), clean=some(clean, 100), num_classes=2)
    assert check_unbounded(one, runs(100)).passed is passed


def test_a_linear_model_that_no_pixel_can_change_is_honest():
    class Brightness(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            score = 2.0 + images.flatten(1)[:, :1]
            return torch.cat([score, -score], dim=1)

    images = torch.linspace(0.0, 1.0, 40).reshape(40, 1, 1, 1)
    report = audit(Brightness(), images, torch.zeros(40, dtype=torch.long), epsilon=0.1, quick=True)
    assert report.gradient == "honest"


@pytest.mark.parametrize(("count", "passed"), [(4, True), (5, False)])
def test_gradients_are_judged_from_five_images_on(count, passed, plain_model, test_data):
    images, labels = test_data
    cut = Detached(plain_model)
    for check in check_gradient_matches_differences(subject(cut, images[:count], labels[:count])):
        assert check.passed is passed


class Saturated(Wrapped):
    def forward(self, images: Tensor) -> Tensor:
        return 1000.0 * self.model(images)


@pytest.mark.parametrize(("count", "passed"), [(4, True), (5, False)])
def test_saturation_is_judged_from_five_images_on(count, passed, plain_model, test_data):
    images, labels = test_data
    assert check_saturation(subject(Saturated(plain_model), images[:count], labels[:count])).passed is passed


class FirstIsFlat(Wrapped):
    """The first image of a batch has no gradient."""

    def forward(self, images: Tensor) -> Tensor:
        return self.model(torch.cat([images[:1].detach(), images[1:]]))


@pytest.mark.parametrize(("total", "passed"), [(20, True), (1, False)])
def test_one_zero_gradient_among_many_images_is_none_too_many(total, passed, plain_model, test_data):
    images, labels = test_data
    wrapped = FirstIsFlat(plain_model)
    checks = {check.name: check for check in check_gradients(subject(wrapped, images[:total], labels[:total]))}
    assert checks["zero_gradient_margin"].passed is passed


def test_images_that_fall_either_way_do_not_speak_against_a_stochastic_model():
    first, second = some(20, 100), torch.arange(100) >= 80
    assert check_averaged_draws(runs(100, margin=attempt(first), plain=second)).passed is True
    assert check_averaged_draws(runs(100, margin=attempt(first), plain=torch.zeros_like(first))).passed is False


@pytest.mark.parametrize(("one", "other"), [(0, 0), (4, 0), (5, 0), (15, 5), (13, 7), (5, 15)])
def test_more_often_is_an_exact_binomial_test(one, other):
    expected = one + other > 0 and binomtest(one, one + other, 0.5, alternative="greater").pvalue < 0.05
    assert more_often(one, other) == expected


class SmallStepsOnly(torch.nn.Module):
    """Wrong only if the one pixel rose by about 0.00375: the first step at epsilon 0.03, and twice that at 0.06."""

    def forward(self, images: Tensor) -> Tensor:
        risen = images.flatten(1)[:, :1] - 0.5
        margin = risen - 1.0 + 2.0 * ((risen - 0.00375).abs() < 1e-4).to(images)
        return torch.cat([-margin, margin], dim=1)


def test_images_that_a_larger_ball_protects_are_counted():
    images, labels = torch.full((20, 1, 1, 1), 0.5), torch.zeros(20, dtype=torch.long)
    of = subject(guard(SmallStepsOnly()), images, labels, num_classes=2)
    protected = run_attacks_for_audit(of, None, attacks=(), report=lambda stage: None).protected
    counts = {(round(small, 3), round(large, 3)): int(which.sum()) for small, large, which in protected}
    assert counts == {(0.015, 0.03): 0, (0.03, 0.06): 20}
