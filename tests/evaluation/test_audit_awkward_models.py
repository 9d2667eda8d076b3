"""What is right for models that look odd, and why: honest ones are cleared, fakes are named."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from awkward_models import (
    Detached,
    Detector,
    JpegLike,
    NoEmptyBatch,
    Noise,
    RandomResize,
    SparseGradient,
    StraightThroughQuantiser,
    Temperature,
    Thermometer,
    ThroughNumpy,
    WinnersTakeAll,
    WithoutGrad,
    Wrapped,
    straight_through,
)
from light_audit import lighten
from torch import Tensor, nn

from ibrobust.evaluation.audit import AuditReport, attack_runs, audit
from ibrobust.evaluation.audit.model_checks import check_determinism
from ibrobust.evaluation.audit.subject import QUICK, Effort, Subject
from ibrobust.evaluation.worst_case_attack import AVERAGED, WorstCaseResult, worst_case_attack
from ibrobust.evaluation.worst_case_attack.search import AveragedDraws
from ibrobust.isolated_rng import isolated_rng

EPSILON = 0.04
Data = tuple[Tensor, Tensor]


@pytest.fixture
def light(monkeypatch):
    lighten(monkeypatch, Effort(images=256, steps=10, queries=20, random_draws=4, draws=4))


def quick_audit(model: nn.Module, data: Data, *, images: int = 32, **options) -> AuditReport:
    return audit(model.eval(), data[0][:images], data[1][:images], epsilon=EPSILON, quick=True, **options)


def failed(report: AuditReport) -> set[str]:
    return {check.name for check in report.failed}


@pytest.mark.parametrize("honest", [StraightThroughQuantiser, Thermometer, JpegLike])
def test_a_straight_through_gradient_that_works_is_honest(honest, plain_model, test_data, light):
    # It is the gradient of the model within, not of the steps; PGD on it breaks all images, so that it hides none.
    report = quick_audit(honest(plain_model), test_data)
    assert report.worst_case_correct <= 2
    assert report.gradient == "honest"


def test_winners_take_all_is_honest_where_pgd_breaks_it(plain_model, train_data, test_data, light):
    # Its gradient jumps and is still good enough here: nothing is left for it to hide.
    model = copy.deepcopy(plain_model)
    for index, layer in enumerate(model.features):
        if isinstance(layer, nn.ReLU):
            model.features[index] = WinnersTakeAll()
    _train_briefly(model, train_data)
    report = quick_audit(model, test_data)
    assert report.clean_correct >= 28
    assert report.worst_case_correct <= 3
    assert report.gradient == "honest"
    assert report.upper_bound


class SeldomFlipped(Wrapped):
    """Mirrors a whole batch in one pass of a hundred."""

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images.flip(3) if float(torch.rand(())) < 0.01 else images)


def test_a_model_that_seldom_draws_anything_else_is_random():
    found = []
    for seed in range(20):
        with isolated_rng(seed):
            found.append(check_determinism(SeldomFlipped(nn.Flatten()), torch.rand(4, 1, 2, 2)).passed)
    assert found.count(False) >= 8  # 13 are expected; five passes find one


def test_a_pass_that_draws_in_vain_is_deterministic():
    class InVain(nn.Flatten):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) + 0 * torch.rand(())

    assert check_determinism(InVain(), torch.rand(4, 1, 2, 2)).passed


def test_randomness_that_only_the_worst_case_attack_finds_makes_the_answer_random(
    plain_model, test_data, light, monkeypatch
):
    def warned(*arguments: object, **options: object) -> WorstCaseResult:
        return replace(worst_case_attack(*arguments, **options), warnings=(AVERAGED,))

    monkeypatch.setattr(attack_runs, "worst_case_attack", warned)
    report = quick_audit(plain_model, test_data, images=12)
    assert report.gradient == "random"
    assert report.reason


def test_small_noise_is_no_masking_and_leaves_the_plain_model_s_worst_case(plain_model, test_data, light):
    # Passes differ, so that it is not as it is taken to be; the gradient misses nothing.
    report = quick_audit(Noise(plain_model, 0.003), test_data, images=16)
    assert failed(report) == {"determinism"}
    assert report.gradient == "random"
    assert abs(report.worst_case_correct - quick_audit(plain_model, test_data, images=16).worst_case_correct) <= 2


def test_small_noise_on_a_robust_model_is_no_masking(robust_model, test_data, light):
    report = quick_audit(Noise(robust_model, 0.003), test_data, images=16)
    assert failed(report) == {"determinism"}
    assert abs(report.worst_case_correct - quick_audit(robust_model, test_data, images=16).worst_case_correct) <= 2


@pytest.mark.parametrize(
    ("warning", "answer"), [(AVERAGED, "real"), ("The gradient is NaN or infinite for 1 of 20 images.", "undecided")]
)
def test_a_guard_of_the_worst_case_attack_makes_an_upper_bound_but_randomness_does_not(
    warning, answer, robust_model, test_data, light, monkeypatch
):
    # The guards see all images, the checks of the gradient some of a full audit's.
    def warned(*arguments: object, **options: object) -> WorstCaseResult:
        return replace(worst_case_attack(*arguments, **options), warnings=(warning,))

    monkeypatch.setattr(attack_runs, "worst_case_attack", warned)
    report = quick_audit(robust_model, test_data, images=40)
    assert report.robustness == answer
    assert report.upper_bound == (answer == "undecided")


def test_random_resizing_is_random_and_judged_by_its_average(plain_model, test_data, light):
    # Single answers are luck, so that FGSM's accuracy is none of robustness; the attack on the average leaves far less.
    report = quick_audit(RandomResize(plain_model), test_data, images=12)
    assert "determinism" in failed(report)
    assert report.gradient == "random"
    assert report.worst_case_correct < report.fgsm_correct


def test_randomness_that_hides_images_from_single_draws_is_named(plain_model, test_data, light):
    # The attack on its average breaks what an attack that sees one draw a step does not.
    report = quick_audit(SparseGradient(plain_model), test_data)
    assert "averaged_draws_not_stronger" in failed(report)
    assert report.gradient == "random"


@pytest.mark.parametrize("temperature", [1e-3, 1e-2])
def test_logits_over_a_low_temperature_vanish(temperature, plain_model, test_data, light):
    # Cross-entropy has no gradient left, so that FGSM and PGD on it find nothing; the margin has, and breaks all.
    report = quick_audit(Temperature(plain_model, temperature), test_data)
    assert {"zero_gradient_cross_entropy", "losses_agree"} <= failed(report)
    assert report.worst_case_correct < report.fgsm_correct - 20
    assert report.gradient == "vanishing"


def test_logits_over_a_high_temperature_do_not_vanish(plain_model, test_data, light):
    # Small gradients have the same sign.
    report = quick_audit(Temperature(plain_model, 1e3), test_data)
    assert report.worst_case_correct == quick_audit(plain_model, test_data).worst_case_correct
    assert report.gradient == "honest"


def test_a_regularised_gradient_is_honest_and_what_it_gains_is_real(plain_model, train_data, test_data, light):
    # A small gradient at the images is no masking: the attacks follow it as they do any other.
    model = copy.deepcopy(plain_model)
    _train_briefly(model, train_data, gradient_penalty=10.0)
    report = quick_audit(model, test_data)
    assert report.gradient == "honest"
    assert report.worst_case_correct >= quick_audit(plain_model, test_data).worst_case_correct + 3
    assert report.robustness in ("real", "partly real")


def test_an_image_that_a_detector_rejects_is_not_right(plain_model, test_data, light):
    # An attack succeeds with any answer but the label: a detector adds an answer, and cannot raise the accuracy.
    rough = (test_data[0][..., 1:] - test_data[0][..., :-1]).abs().mean(dim=(1, 2, 3))
    report = quick_audit(Detector(plain_model, float(rough.max()) + 0.002), test_data, claim=0.9)
    assert report.clean_correct == quick_audit(plain_model, test_data).clean_correct
    assert report.worst_case_correct <= 1
    assert (report.robustness, report.gradient) == ("not real", "honest")


@pytest.mark.parametrize("cut", [Detached, ThroughNumpy, WithoutGrad])
def test_a_gradient_that_is_cut_vanishes(cut, plain_model, test_data, light):
    # No attack by gradient moves an image, not even without a bound, where any image can be made any other.
    report = quick_audit(cut(plain_model), test_data, images=48)
    assert {"zero_gradient_margin", "unbounded_reaches_zero"} <= failed(report)
    assert report.gradient == "vanishing"


class Coin(nn.Module):
    """Right with probability 0.9 on an average of 32 draws, whatever an attack does: the first pixel is the class."""

    def forward(self, images: Tensor) -> Tensor:
        labels = (10.0 * images[:, 0, 0, 0]).round().long().clamp(max=9)
        logits = F.one_hot(labels, 10).to(images)
        noise = 32**0.5 / 1.2816 * torch.randn(len(images))  # Phi(1.2816) = 0.9
        return logits + noise[:, None] * F.one_hot((labels + 1) % 10, 10)


def test_the_worst_case_of_a_stochastic_model_is_no_union_over_draws(light):
    # Right without an attack and under FGSM, 0.9^2 of the images, and where a counterexample is evaluated once more,
    # on 128 draws: Phi(2 * 1.2816) = 0.9948 of those.
    labels = torch.arange(256) % 10
    images = (labels / 10.0)[:, None, None, None].expand(-1, 3, 8, 8).clone()
    report = audit(Coin(), images, labels, epsilon=0.01, quick=True)
    expected = 0.9**2 * 0.9948
    assert report.clean_correct / 256 == pytest.approx(0.9, abs=4 * (0.9 * 0.1 / 256) ** 0.5)
    assert report.worst_case_correct / 256 == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 256) ** 0.5)


@pytest.mark.parametrize("shift", [0, 1], ids=["every image broken", "every image wrong"])
def test_no_stage_calls_a_model_or_a_surrogate_without_an_image(shift, plain_model, test_data, light):
    images, labels = test_data
    model = NoEmptyBatch(plain_model)
    report = quick_audit(model, (images, (labels + shift) % 10), images=16, surrogate=NoEmptyBatch(plain_model))
    assert report.worst_case_correct == 0


class BatchStatistics(Wrapped):
    """A batch norm that keeps no running statistics: one image alone has no variance."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.norm = nn.BatchNorm1d(10, affine=False, track_running_stats=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.model(images))


def test_a_model_that_mixes_the_images_of_a_batch_is_named(plain_model, test_data, light):
    assert "batch_invariance" in failed(quick_audit(BatchStatistics(plain_model), test_data, images=33))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
def test_a_scripted_model_has_the_report_of_the_module_it_was_made_from(plain_model, test_data, light):
    scripted = torch.jit.script(plain_model)
    one, other = quick_audit(scripted, test_data, images=16), quick_audit(plain_model, test_data, images=16)
    assert (one.gradient, one.worst_case_correct) == (other.gradient, other.worst_case_correct)


def _train_briefly(model: nn.Module, data: Data, *, gradient_penalty: float = 0.0) -> None:
    images, labels = data
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(3):
            for indices in torch.randperm(len(images)).split(64):
                optimizer.zero_grad()
                batch = images[indices].requires_grad_()
                loss = F.cross_entropy(model(batch), labels[indices])
                if gradient_penalty:  # of Ross and Doshi-Velez 2018
                    (gradient,) = torch.autograd.grad(len(batch) * loss, batch, create_graph=True)
                    loss = loss + gradient_penalty * gradient.square().sum(dim=(1, 2, 3)).mean()
                loss.backward()
                optimizer.step()
    model.eval()


class GradientNoise(Wrapped):
    """The forward pass is deterministic; each backward pass adds noise as large as the gradient, or rounding."""

    def __init__(self, model: nn.Module, size: float) -> None:
        super().__init__(model)
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        images = images.clone()
        if images.requires_grad:
            images.register_hook(lambda gradient: gradient + self.size * gradient.std() * torch.randn_like(gradient))
        return self.model(images)


@pytest.mark.parametrize(("size", "answer"), [(1.0, "random"), (1e-3, "honest"), (0.0, "honest")])
def test_a_random_backward_pass_is_random_and_rounding_is_not(size, answer, plain_model, test_data, light):
    report = quick_audit(GradientNoise(plain_model, size), test_data, images=16)
    assert report.gradient == answer


class NoisyOffTheGrid(Wrapped):
    """Noise on images that are not of 8 bits."""

    def forward(self, images: Tensor) -> Tensor:
        levels = 255.0 * images.detach()
        moved = ((levels - levels.round()).abs() > 1e-3).flatten(1).any(dim=1)
        noise = 0.2 * torch.randn_like(images) if bool(moved.any()) else torch.zeros_like(images)
        return self.model(images + noise * moved[:, None, None, None])


def test_noise_on_attacked_images_alone_is_random(plain_model, test_data, light):
    images = test_data[0].mul(255.0).round() / 255.0
    report = quick_audit(NoisyOffTheGrid(plain_model), (images, test_data[1]), images=16)
    assert report.gradient == "random"


class PartlyDetached(Wrapped):
    """A share of the logits of one classifier, and those of another one without a gradient."""

    def __init__(self, model: nn.Module, other: nn.Module) -> None:
        super().__init__(model)
        self.other = other

    def forward(self, images: Tensor) -> Tensor:
        return 0.3 * self.model(images) + self.other(images.detach())


def test_a_gradient_of_a_part_of_the_model_makes_an_upper_bound(plain_model, robust_model, test_data, light):
    report = quick_audit(PartlyDetached(plain_model, robust_model), test_data, images=64)
    explained = {check.name: check.passed for check in report.checks}
    assert (explained["gradient_matches_differences"], explained["gradient_explains_most"]) == (True, False)
    assert report.upper_bound
    assert report.robustness in ("undecided", "not real")


class EightLevels(Wrapped):
    def forward(self, images: Tensor) -> Tensor:
        return self.model(straight_through(images, torch.round(7.0 * images) / 7.0))


def test_a_straight_through_gradient_of_eight_levels_does_not_mislead(robust_model, test_data, light):
    report = quick_audit(EightLevels(robust_model), test_data, images=64)
    assert report.gradient == "honest"


class NoisyLogits(Wrapped):
    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        return logits + 6.0 * torch.randn_like(logits)


def test_the_audit_and_its_worst_case_attack_find_the_same_images_correct(robust_model, test_data, light, monkeypatch):
    found = []

    def keeping(*arguments: object, **options: object) -> WorstCaseResult:
        found.append(worst_case_attack(*arguments, **options))
        return found[0]

    monkeypatch.setattr(attack_runs, "worst_case_attack", keeping)
    report = quick_audit(NoisyLogits(robust_model), test_data, images=48)
    assert report.clean_correct == sum(found[0].clean_correct)
    assert report.worst_case_correct <= sum(found[0].robust_correct) + 2  # judged again on other draws


class Marked(nn.Module):
    """Noisy logits: images (B, 1, 2, 2) are on the boundary, and beyond it if the first pixel is above 0.5."""

    def forward(self, images: Tensor) -> Tensor:
        score = (images.flatten(1)[:, 0] > 0.5) * 10.0 + torch.randn(len(images))
        return torch.stack([-score, score], dim=1)


def _on_the_boundary(count: int) -> tuple[Subject, Tensor, Tensor]:
    """Return an audit's subject with the noisy model, the broken images, and (N,) true."""
    model, images, every = Marked(), torch.full((count, 1, 2, 2), 0.48), torch.ones(count, dtype=torch.bool)
    labels = torch.zeros(count, dtype=torch.long)
    average = AveragedDraws(model, 8)
    return Subject(model, average, images, labels, every, 2, EPSILON, QUICK, 250, 0), images + 0.03, every


def test_luck_does_not_hide_the_image_that_breaks_a_random_model():
    """What was broken by luck first is replaced by what is broken on all draws, and not the other way round."""
    subject, beyond, every = _on_the_boundary(40)
    for offers in ([subject.images, beyond], [beyond, subject.images]):
        found = attack_runs._Counterexamples(subject)
        for images in offers:
            found.add(images, every)
        assert bool(found.worst_case(~every).all())
