"""PGD against torchattacks' and against a linear model, whose nearest adversarial image is known."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
import torchattacks
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from ibrobust.evaluation.attacks.batch import attack_batch
from ibrobust.evaluation.attacks.by_name import read_attack
from ibrobust.evaluation.attacks.pgd import default_step_size, pgd
from ibrobust.evaluation.attacks.run import run_attacks
from ibrobust.evaluation.ball import Ball

Data = tuple[Tensor, Tensor]
EPSILON = 0.05


class Linear(nn.Module):
    """Logits of two classes whose margin falls by epsilon * sum |w| at most."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, images: Tensor) -> Tensor:
        score = (images * self.weight).sum(dim=(1, 2, 3))
        return torch.stack([score, torch.zeros_like(score)], dim=1)


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
@pytest.mark.parametrize(("factor", "breaks"), [(0.99, False), (1.01, True)])
def test_a_linear_model_breaks_exactly_at_its_margin(loss: str, factor: float, breaks: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1, 3, 8, 8, generator=generator)
    images = 0.5 + 0.2 * torch.randn(5, 3, 8, 8, generator=generator).clamp(-1, 1)
    scores = (images * weight).sum(dim=(1, 2, 3))
    labels = (scores < 0).long()
    radius = float((scores.abs() / weight.abs().sum()).max() if breaks else (scores.abs() / weight.abs().sum()).min())
    run = pgd(Linear(weight), images, labels, epsilon=factor * radius, steps=10, loss=loss)
    assert run.broken.all() if breaks else not run.broken.any()


def test_last_iterate_equals_that_of_torchattacks(robust_model: nn.Module, test_data: Data) -> None:
    images, labels = test_data[0][:40], test_data[1][:40]
    run = pgd(robust_model, images, labels, epsilon=EPSILON, steps=7, step_size=0.02, stop_when_broken=False)
    attack = torchattacks.PGD(robust_model, eps=EPSILON, alpha=0.02, steps=7, random_start=False)
    torch.testing.assert_close(run.last, attack(images, labels), rtol=0, atol=2e-7)


def test_stopping_keeps_what_is_broken_and_misses_nothing(robust_model: nn.Module, test_data: Data) -> None:
    options = {"epsilon": 0.1, "steps": 8, "loss": "margin"}
    stopped = pgd(robust_model, *test_data, **options)
    watched = pgd(robust_model, *test_data, **options, stop_when_broken=False)
    assert torch.equal(stopped.broken, watched.broken)
    assert 0 < int(stopped.broken.sum()) < 360
    assert (watched.last_broken <= watched.broken).all()
    torch.testing.assert_close(stopped.adversarial[stopped.broken], watched.adversarial[stopped.broken])
    assert (robust_model(stopped.adversarial).argmax(1) != test_data[1]).equal(stopped.broken)


class Band(nn.Module):
    """Wrong only if the one pixel is 0.55; the loss rises with the pixel."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        margin = images.flatten(1) - 1.0 + ((images.flatten(1) - 0.55).abs() < 0.01).to(images)
        return torch.cat([-margin, margin], dim=1)


def test_an_attack_goes_on_after_a_success_up_to_the_step_from_which_it_stops() -> None:
    images = torch.tensor([0.5, 0.4, 0.35, 0.3, 0.05]).reshape(5, 1, 1, 1)  # at 0.55 after 1, 3, 4, 5 and 10 steps
    labels = torch.zeros(5, dtype=torch.long)
    run = pgd(Band(), images, labels, epsilon=1.0, steps=9, step_size=0.05, stop_from=4)
    assert run.broken.tolist() == [True, True, True, True, False]
    torch.testing.assert_close(run.adversarial.flatten(), torch.tensor([0.55, 0.55, 0.55, 0.55, 0.5]))
    torch.testing.assert_close(run.last.flatten(), torch.tensor([0.7, 0.6, 0.55, 0.55, 0.5]))
    assert run.last_broken.tolist() == [False, False, True, True, False]
    assert run.losses.isfinite().sum(dim=0).tolist() == [5, 5, 5, 6, 10]


def test_every_iterate_is_in_the_ball(plain_model: nn.Module, test_data: Data) -> None:
    images, labels = test_data
    start = Ball("Linf", EPSILON).random_point(images, torch.Generator().manual_seed(0))
    assert (start != images).any()
    for points in (
        start,
        pgd(plain_model, images, labels, epsilon=EPSILON, steps=5, start=start).adversarial,
        pgd(plain_model, images, labels, epsilon=EPSILON, steps=5, stop_when_broken=False).last,
    ):
        assert (points - images).abs().max() <= EPSILON + 1e-6
        assert points.min() >= 0
        assert points.max() <= 1


def test_losses_are_recorded_at_every_iterate_until_the_image_is_left_alone(
    robust_model: nn.Module, test_data: Data
) -> None:
    run = pgd(robust_model, *test_data, epsilon=0.1, steps=6, loss="margin")
    assert run.losses.shape == (7, 360)
    assert run.losses[:, ~run.broken].isfinite().all()
    reached = run.losses.nan_to_num(-torch.inf).max(dim=0).values
    assert (reached[run.broken] >= 0).all()
    assert (reached[~run.broken] <= 0).all()


def test_images_that_are_wrong_already_cost_no_step(plain_model: nn.Module, test_data: Data) -> None:
    images, labels = test_data[0][:20], (plain_model(test_data[0][:20]).argmax(1) + 1) % 10
    run = pgd(plain_model, images, labels, epsilon=EPSILON, steps=5)
    assert run.broken.all()
    assert torch.equal(run.adversarial, images)
    assert run.losses[1:].isnan().all()


def test_a_gradient_that_is_no_number_moves_nothing_and_is_reported(plain_model: nn.Module, test_data: Data) -> None:
    class NaNGradient(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits = plain_model(images)
            if logits.requires_grad:
                logits.register_hook(lambda gradient: gradient * float("nan"))
            return logits

    images, labels = test_data[0][:20], plain_model(test_data[0][:20]).argmax(1)
    run = pgd(NaNGradient(), images, labels, epsilon=EPSILON, steps=3)
    assert run.nonfinite.all()
    assert not run.broken.any()
    assert torch.equal(run.last, images)


def test_a_model_without_any_gradient_is_attacked_with_zero(plain_model: nn.Module, test_data: Data) -> None:
    class Detached(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return plain_model(images.detach()).detach()

    labels = plain_model(test_data[0]).argmax(1)
    run = pgd(Detached(), test_data[0], labels, epsilon=EPSILON, steps=2)
    assert not run.broken.any()
    assert not run.nonfinite.any()


def test_default_step_size_crosses_the_ball() -> None:
    assert default_step_size(0.1, 10) * 10 == pytest.approx(0.25)


def peak_bytes(call: Callable[[], object]) -> int:
    """Return the most memory that torch held at one time beyond what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    kineto = profiler.profiler
    assert kineto is not None
    events = [event for event in kineto.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in events))


@pytest.mark.filterwarnings("ignore:.*Profiler clears events")
def test_pgd_needs_no_more_memory_than_torchattacks(robust_model, test_data):
    images, labels = test_data[0][:50], test_data[1][:50]
    peer = torchattacks.PGD(robust_model, eps=0.03, alpha=0.01, steps=3)
    options = read_attack("PGD:steps=3,alpha=0.01,random_start=true")
    ours = peak_bytes(lambda: attack_batch(robust_model, images, labels, options, epsilon=0.03, seed=0))
    assert ours <= peak_bytes(lambda: peer(images, labels))


@pytest.mark.parametrize("attack", ["FGSM", "PGD:steps=3", "PGD:steps=3,targets=second"])
def test_a_gradient_that_vanished_is_a_warning(attack: str) -> None:
    """The softmax of large logits is one-hot: cross-entropy is exactly zero, and so is its gradient."""
    weight = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images = 0.5 + 0.2 * torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    labels = ((images * weight).sum(dim=(1, 2, 3)) < 0).long()
    honest, masked = (
        run_attacks(Linear(scale * weight), images, labels, attacks=attack, epsilons=0.05)[0] for scale in (1.0, 1e5)
    )
    assert not honest.upper_bound
    assert masked.upper_bound
    assert "gradient is exactly zero" in masked.flags[0]


GREY = torch.full((20, 1, 1, 1), 0.5), torch.zeros(20, dtype=torch.long)


class Valley(nn.Module):
    """Images (B, 1, 1, 1) -> logits (B, 2): the second class rises to both sides of grey, but is flat at grey."""

    def forward(self, images: Tensor) -> Tensor:
        rise = torch.relu((images.flatten(1) - 0.5).abs() - 1e-3)
        return torch.cat([torch.full_like(rise, 0.05), rise], dim=1)


def test_restarts_are_random_although_the_first_start_is_the_image() -> None:
    (result,) = run_attacks(Valley(), *GREY, attacks="PGD:steps=10,random_start=false,restarts=2", epsilons=0.2)
    assert result.robust_accuracy == 0.0


class NaNAtGrey(nn.Module):
    """Images (B, 1, 1, 1) -> logits (B, 2): always the first class; the gradient is NaN at grey alone."""

    def forward(self, images: Tensor) -> Tensor:
        pixel = images.flatten(1)
        return torch.cat([pixel + 1.0 + 0.0 * (pixel - 0.5).abs().sqrt(), 0.0 * pixel], dim=1)


def test_a_restart_with_a_gradient_does_not_hide_that_it_was_no_number_at_the_first_start() -> None:
    (result,) = run_attacks(NaNAtGrey(), *GREY, attacks="PGD:steps=1,random_start=false,restarts=2", epsilons=0.1)
    assert result.nonfinite_gradient == 20
