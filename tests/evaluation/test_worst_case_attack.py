"""The worst-case attack against closed forms, AutoAttack, and models made to mislead it."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from awkward_models import Hidden
from torch import Tensor, nn

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.autoattack import autoattack
from ibrobust.evaluation.attacks.pgd import pgd
from ibrobust.evaluation.gradient_lines import LINES, RANDOM_STEPS, STEPS
from ibrobust.evaluation.guarded_model import guard
from ibrobust.evaluation.logit_distance import REPEATED
from ibrobust.evaluation.model_state import evaluation_mode
from ibrobust.evaluation.worst_case_attack import guards, stages, worst_case_attack
from ibrobust.evaluation.worst_case_attack.ascent import climb, margin_loss, ratio_loss

NORMS = ("Linf", "L2")


class Linear(nn.Module):
    """Images (B, C, H, W) -> logits (B, K), linear in the pixels."""

    def __init__(self, num_classes: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(num_classes, math.prod(shape), generator=generator) / 8)

    def forward(self, images: Tensor) -> Tensor:
        return (images - 0.5).flatten(1) @ self.weight.T

    def distances(self, images: Tensor, labels: Tensor, norm: str) -> Tensor:
        """Return (B,) how far each image is from the nearest other class where pixels are not bounded."""
        logits = self(images).detach()
        gaps = logits.gather(1, labels[:, None]) - logits  # (B, K)
        between = self.weight.detach()[labels][:, None] - self.weight.detach()[None]  # (B, K, D)
        lengths = torch.linalg.vector_norm(between, ord=1 if norm == "Linf" else 2, dim=2)
        return (gaps / lengths).scatter(1, labels[:, None], torch.inf).amin(dim=1)


def _inner_images(count: int, shape: tuple[int, int, int]) -> Tensor:
    """Return images whose pixels are too far from 0 and 1 for either to matter."""
    return 0.3 + 0.4 * torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))


def _assert_holds(result, model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Assert that the adversarial images are what the result says, with torch alone."""
    size = (result.adversarial - images).flatten(1).norm(p=math.inf if result.norm == "Linf" else 2, dim=1)
    assert float(size.max()) <= result.epsilon + 1e-6
    assert float(result.adversarial.min()) >= 0.0
    assert float(result.adversarial.max()) <= 1.0
    right = model(result.adversarial).argmax(dim=1) == labels
    assert right.tolist() == list(result.robust_correct)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("num_classes", "channels"), [(2, 1), (3, 3), (10, 3), (100, 1)])
def test_a_linear_model_falls_exactly_where_its_distance_is_below_epsilon(norm, num_classes, channels):
    shape = (channels, 12, 12)
    model, images = Linear(num_classes, shape), _inner_images(60, shape)
    labels = model(images).argmax(dim=1)
    distances = model.distances(images, labels, norm)
    epsilon = float(distances.median()) * 1.0001
    assert float((distances / epsilon - 1).abs().min()) > 1e-5  # none is too near to tell

    result = worst_case_attack(model, images, labels, epsilon=epsilon, norm=norm)

    assert list(result.robust_correct) == (distances > epsilon).tolist()
    _assert_holds(result, model, images, labels)


@pytest.mark.parametrize(("norm", "epsilon"), [("Linf", 0.06), ("L2", 0.7)])
def test_it_leaves_no_more_than_autoattack(robust_model, test_data, norm, epsilon):
    images, labels = test_data[0][:20], test_data[1][:20]
    guarded = guard(robust_model)
    options = {"epsilon": epsilon, "norm": norm, "seed": 0, "n_iter": 10, "n_queries": 50, "batch_size": 20}
    with evaluation_mode(robust_model):
        left = autoattack(guarded, images, labels, **options).robust_correct

    result = worst_case_attack(robust_model, images, labels, epsilon=epsilon, norm=norm)

    assert 0 < sum(result.robust_correct) <= int(left.sum())
    _assert_holds(result, robust_model, images, labels)


class Detour(nn.Module):
    """A linear model of two classes whose gradient at the images points the wrong way.

    What it sees of the first pixel is a sawtooth: it falls gently around the images, and jumps at every 0.01.
    """

    def forward(self, images: Tensor) -> Tensor:
        seen = images[:, 0, 0, 0] - 0.5
        jumps = Hidden.apply(torch.floor(seen / 0.01 + 0.5)) * 0.01
        score = 2.0 * jumps - 0.5 * (seen - jumps) + 0.045
        return torch.stack([score, torch.zeros_like(score)], dim=1)


def test_a_model_whose_gradient_misleads_pgd_falls_and_the_number_is_called_an_upper_bound():
    images = torch.full((4, 3, 12, 12), 0.5)
    labels = torch.zeros(4, dtype=torch.long)
    model = Detour()
    assert not bool(pgd(model, images, labels, epsilon=0.03, steps=50, loss="margin").broken.any())

    result = worst_case_attack(model, images, labels, epsilon=0.03)

    assert not any(result.robust_correct)
    assert set(result.broken_by) <= {"random corners", "Square"}
    assert result.upper_bound


class Quantised(nn.Module):
    """A linear model behind pixels that are rounded: its gradient is zero everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = Linear(10, (3, 12, 12))

    def forward(self, images: Tensor) -> Tensor:
        return self.linear((images * 50).round() / 50)


def test_a_zero_gradient_is_said_and_attacked_without_one():
    model, images = Quantised(), _inner_images(20, (3, 12, 12))
    labels = model(images).argmax(dim=1)
    result = worst_case_attack(model, images, labels, epsilon=0.1)
    assert "exactly zero at 20 of 20" in result.warnings[0]
    assert sum(result.robust_correct) < 5


class Cut(nn.Module):
    """A linear model that cuts the gradient of a share of its logits, and adds noise to them."""

    def __init__(self, how: str, share: float = 1.0, noise: float = 0.0) -> None:
        super().__init__()
        self.linear, self.how, self.share, self.noise = Linear(10, (3, 12, 12)), how, share, noise

    def forward(self, images: Tensor) -> Tensor:
        if self.how == "no_grad":
            with torch.no_grad():
                logits = self.linear(images)
        else:
            logits = self.linear(images.detach() if self.how == "detach" else (images * 1e4).round() / 1e4)
        logits = self.share * logits + (1.0 - self.share) * self.linear(images.flip(3))
        return logits + self.noise * torch.randn_like(logits)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("how", ["detach", "no_grad", "round"])
def test_a_cut_gradient_breaks_exactly_the_images_within_epsilon_past_the_cut(how, norm):
    model, images = Cut(how), _inner_images(40, (3, 12, 12))
    labels = model(images).argmax(dim=1)
    distances = model.linear.distances(images, labels, norm)
    epsilon = float(distances.median())
    images, labels = images[far := (distances / epsilon - 1.0).abs() > 0.05], labels[far]

    result = worst_case_attack(model, images, labels, epsilon=epsilon, norm=norm)

    assert list(result.robust_correct) == (distances[far] > epsilon).tolist()
    assert set(result.broken_by) == {"", "straight-through"}
    assert result.upper_bound
    assert result.warnings[1].startswith("The model cuts its gradient")
    _assert_holds(result, model, images, labels)


def test_a_gradient_of_a_small_part_of_the_model_does_not_hide_the_rest():
    """The gradient is right, nowhere zero and raises the margin; attacks that follow it leave most images."""
    model, images = Cut("detach", share=0.97), _inner_images(40, (3, 12, 12))
    labels = model(images).argmax(dim=1)
    epsilon = 1.5 * float(model.linear.distances(images, labels, "Linf").max())

    result = worst_case_attack(model, images, labels, epsilon=epsilon)

    assert not any(result.robust_correct)
    assert result.broken_by.count("straight-through") > 10
    assert result.upper_bound


def test_a_random_model_s_cut_gradient_is_averaged_over_draws():
    model, images = Cut("detach", noise=0.02), _inner_images(12, (3, 12, 12))
    labels = model.linear(images).argmax(dim=1)
    epsilon = 2.0 * float(model.linear.distances(images, labels, "Linf").max())

    result = worst_case_attack(model, images, labels, epsilon=epsilon)

    (stage,) = [stage for stage in result.stages if stage.name == "straight-through"]
    assert stage.attacked == stage.broken >= 10
    assert not any(result.robust_correct)
    assert stage.cost.backward_images % 8 == 0
    assert stage.cost.backward_images >= 8 * stage.attacked


def test_a_surrogate_breaks_what_a_model_without_gradients_hides():
    model, images = Quantised(), _inner_images(20, (3, 12, 12))
    labels = model(images).argmax(dim=1)
    result = worst_case_attack(model, images, labels, epsilon=0.1, surrogate=model.linear)
    assert result.broken_by.count("surrogate start") >= 15


class Backwards(nn.Module):
    """A linear model whose gradient has the wrong sign."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = Linear(10, (3, 12, 12))

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(2.0 * images.detach() - images)


def test_a_surrogate_s_images_that_break_what_gradients_left_make_the_number_an_upper_bound():
    model, images = Backwards(), _inner_images(20, (3, 12, 12))
    labels = model(images).argmax(dim=1)
    epsilon = 2.0 * float(model.linear.distances(images, labels, "Linf").max())

    result = worst_case_attack(model, images, labels, epsilon=epsilon, surrogate=model.linear)
    honest = worst_case_attack(model.linear, images, labels, epsilon=epsilon, surrogate=model.linear)

    assert any("break the surrogate" in warning for warning in result.warnings)
    assert set(result.broken_by) == {"surrogate start"}
    assert honest.warnings == ()


class NarrowForSome(nn.Module):
    """A linear model of which some images, the bright ones, have a gradient in three numbers alone."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.linear, self.threshold = Linear(10, (3, 12, 12)), threshold

    def forward(self, images: Tensor) -> Tensor:
        narrow = Hidden.apply(images)
        narrow[:, 0, 0, :3] = images[:, 0, 0, :3]
        bright = images.detach().mean(dim=(1, 2, 3), keepdim=True) > self.threshold
        return self.linear(torch.where(bright, narrow, images))


def test_images_that_a_gradient_hides_are_watched_although_they_look_far() -> None:
    """The bright images are near the boundary and look far away, the others are beyond epsilon and look near."""
    images = _inner_images(1000, (3, 12, 12))
    brightness = images.mean(dim=(1, 2, 3))
    model = NarrowForSome(float(brightness.median()))
    labels = model(images).argmax(dim=1)
    distances, bright = model.linear.distances(images, labels, "Linf"), brightness > model.threshold
    epsilon = float(distances.quantile(0.8))
    near = (bright & (distances > 0.15 * epsilon) & (distances < 0.3 * epsilon)).nonzero()[:40]
    far = (~bright & (distances > 1.02 * epsilon) & (distances < 1.4 * epsilon)).nonzero()[:40]
    some = torch.cat([near, far])[:, 0]
    images, labels = images[some], labels[some]

    result, honest = (worst_case_attack(each, images, labels, epsilon=epsilon) for each in (model, model.linear))

    assert any(warning.startswith("Attacks without a gradient") for warning in result.warnings)
    assert honest.warnings == ()
    assert sum(result.robust_correct) == sum(honest.robust_correct) == len(far)


@pytest.mark.parametrize("norm", NORMS)
def test_a_margin_that_never_rises_makes_the_number_an_upper_bound(norm: str) -> None:
    """Attacks without a gradient break none here: each image is nearly epsilon away."""
    model, images = Backwards(), _inner_images(200, (3, 12, 12))
    labels = model(images).argmax(dim=1)
    distances = model.linear.distances(images, labels, norm)
    epsilon = float(distances.median())
    some = (distances > 0.9 * epsilon) & (distances < 1.2 * epsilon)
    images, labels = images[some], labels[some]

    result, honest = (
        worst_case_attack(each, images, labels, epsilon=epsilon, norm=norm) for each in (model, model.linear)
    )

    count = len(images)
    assert result.warnings[0] == f"For {count} of the {count} images that 20 steps left, the margin never rose."
    assert honest.warnings == ()


@pytest.mark.parametrize("norm", NORMS)
def test_an_honest_robust_model_is_no_upper_bound(robust_model, test_data, norm: str) -> None:
    images, labels = (part[:96] for part in test_data)
    result = worst_case_attack(robust_model, images, labels, epsilon={"Linf": 0.06, "L2": 0.7}[norm], norm=norm)
    assert sum(result.robust_correct) > 20
    assert result.warnings == ()


class RuledOut(nn.Module):
    """A linear model with further classes, of which every logit is -inf."""

    def __init__(self, linear: Linear, further: int) -> None:
        super().__init__()
        self.linear, self.further = linear, further

    def forward(self, images: Tensor) -> Tensor:
        logits = self.linear(images)
        return torch.cat([logits.new_full((len(logits), self.further), -torch.inf), logits], dim=1)


@pytest.mark.parametrize("further", [1, 7, 17])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_classes_that_are_ruled_out_change_nothing(num_classes: int, further: int) -> None:
    linear, images = Linear(num_classes, (1, 12, 12)), _inner_images(40, (1, 12, 12))
    labels = linear(images).argmax(dim=1)
    distances = linear.distances(images, labels, "Linf")
    epsilon = float(distances.median()) * 1.0001
    result = worst_case_attack(RuledOut(linear, further), images, labels + further, epsilon=epsilon)
    assert list(result.robust_correct) == (distances > epsilon).tolist()
    assert result.warnings == ()


@pytest.mark.parametrize("finite", [2, 3, 4])
def test_the_ratio_loss_of_ruled_out_classes_is_that_of_the_others(finite: int) -> None:
    logits = torch.tensor([[3.0, 1.0, 0.0, -2.0]])[:, :finite]
    every = torch.cat([logits, torch.full((1, 3), -torch.inf)], dim=1)
    zero, one = torch.tensor([0]), torch.tensor([1])
    gradients = []
    for each in (logits, every):
        each.requires_grad_()
        gradients.append(torch.autograd.grad(ratio_loss(each, zero, one).sum(), each)[0][:, :finite])
    assert torch.equal(*gradients)
    assert bool((gradients[0][:, :2] != 0).all())


def test_effort_goes_up_only_where_a_guard_fires():
    images = _inner_images(20, (3, 12, 12))
    model = Quantised()
    labels = model(images).argmax(dim=1)
    epsilon = 0.5 * float(model.linear.distances(images, labels, "Linf").min())
    quiet, fired = (worst_case_attack(each, images, labels, epsilon=epsilon) for each in (model.linear, model))
    assert quiet.warnings == ()
    assert not {"random restarts", "AutoAttack"} & {stage.name for stage in quiet.stages}
    queries = [stage.cost.forward_images for stage in fired.stages if stage.name == "Square"]
    assert "random restarts" in {stage.name for stage in fired.stages}
    assert queries[1] > 10 * queries[0]


@pytest.mark.parametrize("untargeted_fails", [False, True])
def test_fab_stops_at_the_nearest_survivors_if_it_breaks_none_of_them(monkeypatch, untargeted_fails):
    images, model = _inner_images(40, (3, 12, 12)), Linear(10, (3, 12, 12))
    labels = model(images).argmax(dim=1)
    distances = model.distances(images, labels, "Linf").sort().values
    epsilon = float(distances[-4:-2].mean())  # three images are out of reach
    given: list[int] = []
    follow = guards.follow_boundary

    def spy(model, points, *args, **options):
        given.append(len(points))
        return follow(model, points, *args, **options)

    monkeypatch.setattr(guards, "follow_boundary", spy)
    monkeypatch.setattr(guards, "LEAST_FAB", 2)
    monkeypatch.setattr(guards, "FAB", replace(guards.FAB, one_in=40))
    monkeypatch.setattr(guards, "MORE_FAB", replace(guards.MORE_FAB, one_in=40))
    if untargeted_fails:  # then later stages break many images, and the gradient counts as misleading
        monkeypatch.setattr(stages, "untargeted", lambda search: None)
    result = worst_case_attack(model, images, labels, epsilon=epsilon)
    assert sum(result.robust_correct) == 3
    assert given == [2] * 3


@pytest.mark.parametrize("at_once", [8, 40])
def test_fab_goes_on_if_it_breaks_what_the_other_gradient_stages_left(monkeypatch, at_once):
    """To images further away, a few at once, and in the end towards further classes."""
    images, model = _inner_images(40, (3, 12, 12)), Linear(10, (3, 12, 12))
    labels = model(images).argmax(dim=1)
    epsilon = float(model.distances(images, labels, "Linf").sort().values[-4:-2].mean())  # three are out of reach

    def only_gaps(search):
        logits = model(search.images).detach()
        gaps = logits - logits.gather(1, search.labels[:, None])
        search.gaps = gaps.scatter(1, search.labels[:, None], -torch.inf)

    def half(search):
        """Break 20 images."""
        reachable = (model.distances(images, labels, "Linf") < epsilon).nonzero()[:20, 0]
        run = climb(
            model, images[reachable], labels[reachable], images[reachable], ball=search.ball, steps=20, loss=margin_loss
        )
        search.learn(reachable, run)

    monkeypatch.setattr(stages, "untargeted", only_gaps)
    monkeypatch.setattr(stages, "from_larger_ball", half)
    for name in ("towards_each_class", "further_steps", "shrinking_slowly", "last_steps"):
        monkeypatch.setattr(stages, name, lambda search: None)
    monkeypatch.setattr(guards, "LEAST_FAB", at_once)

    result = worst_case_attack(model, images, labels, epsilon=epsilon)

    first, further = (stage for stage in result.stages if stage.name == "FAB-T")
    assert (first.attacked, first.broken) == (20, 17)
    assert (further.attacked, further.broken) == (3, 0)
    assert result.warnings == ("FAB broke 17 images that the other gradient stages left: give escalate=true.",)
    escalated = worst_case_attack(model, images, labels, epsilon=epsilon, escalate=True)
    assert escalated.warnings == ("FAB broke 17 images that the other gradient stages left.",), "AutoAttack was run"


def test_an_image_far_from_every_class_takes_the_first_ball_of_each_class_and_no_more():
    shape = (3, 12, 12)
    model, images = Linear(10, shape), _inner_images(20, shape)
    labels = model(images).argmax(dim=1)
    epsilon = float(model.distances(images, labels, "Linf").min()) / 20
    result = worst_case_attack(model, images, labels, epsilon=epsilon)
    assert all(result.robust_correct)
    # 20 untargeted steps, 10 in the larger ball, 10 towards each of five classes and 5 towards each of four; FAB steps
    # until it gives up, on a few images towards three classes. On those that are watched, 20 steps at four points and
    # 10 steps, 15 short steps in each of six balls, and a step of the walk from each of two images, since no
    # misclassified point is within eight radii. And the points of the lines between images
    # and in random directions.
    fab, lines = guards.LEAST_FAB * 3 * guards.FAB_PATIENCE, LINES * (STEPS + 1 + RANDOM_STEPS + 1)
    watched = guards.LEAST_WATCHED * (20 * 4 + 10 + 15 * 6 + 2)
    steps = len(images) * (20 + 10 + 5 * 10 + 4 * 5)
    assert result.cost.backward_images == steps + fab + watched + lines + 2 * REPEATED


class Noisy(nn.Module):
    """A linear model with noise on its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = Linear(3, (1, 12, 12))

    def forward(self, images: Tensor) -> Tensor:
        logits = self.linear(images)
        return logits + 0.2 * torch.randn_like(logits)


def test_a_stochastic_model_is_judged_by_averages_and_said_to_be_one():
    model, images = Noisy(), _inner_images(40, (1, 12, 12))
    labels = model.linear(images).argmax(dim=1)
    distances = model.linear.distances(images, labels, "Linf")
    epsilon = float(distances.median())
    result = worst_case_attack(model, images, labels, epsilon=epsilon)
    robust = torch.tensor(result.robust_correct)
    assert "random numbers" in result.warnings[0]
    assert not bool(robust[distances < 0.7 * epsilon].any())
    # Single draws would be wrong at some of the many points that are tried, averages are not.
    clear = distances > 3.0 * epsilon
    assert bool(clear.any())
    assert bool(robust[clear].all())


class Unmoved(nn.Module):
    """Two noisy logits on which the image has no effect to speak of; the mean over 32 draws is wrong for one in six."""

    def forward(self, images: Tensor) -> Tensor:
        base = torch.tensor([1.0, 0.0]) + 1e-6 * images.flatten(1)[:, :2]
        return base + 4.0 * torch.randn_like(base)


def test_many_chances_to_be_wrong_by_luck_break_no_image():
    """Each point that is tried is one more chance, and none of them changes the averaged classifier."""
    images, labels = _inner_images(200, (1, 2, 2)), torch.zeros(200, dtype=torch.long)
    result = worst_case_attack(Unmoved(), images, labels, epsilon=0.1, queries=1)
    broken = sum(stage.broken for stage in result.stages)
    assert sum(result.robust_correct) > 0.75 * sum(result.clean_correct) > 120
    assert broken == sum(result.clean_correct) - sum(result.robust_correct) == sum(map(bool, result.broken_by))
    unbroken = torch.tensor([name == "" for name in result.broken_by])
    assert torch.equal(result.adversarial[unbroken], images[unbroken])


def test_an_epsilon_in_levels_is_refused():
    model, images = Linear(3, (1, 2, 2)), _inner_images(2, (1, 2, 2))
    with pytest.raises(IbrobustError, match="did you mean a fraction of 255"):
        worst_case_attack(model, images, torch.zeros(2, dtype=torch.long), epsilon=8)


def test_a_seed_gives_the_same_result_and_leaves_no_trace(plain_model, test_data):
    images, labels = test_data[0][:40], test_data[1][:40]
    plain_model.train()
    before = torch.get_rng_state()
    first, second = (worst_case_attack(plain_model, images, labels, epsilon=0.03, seed=3) for _ in range(2))
    assert first == second
    assert torch.equal(first.adversarial, second.adversarial)
    assert torch.equal(before, torch.get_rng_state())
    assert plain_model.training
    assert all(parameter.grad is None for parameter in plain_model.parameters())


def test_passes_are_counted_where_they_are_made(plain_model, test_data):
    images, labels = test_data[0][:40], test_data[1][:40]
    seen = []
    plain_model.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    result = worst_case_attack(plain_model, images, labels, epsilon=0.03)
    assert result.cost.forward_images == sum(seen) - 1  # the classes are counted on one image
    assert 0 < result.cost.backward_images < result.cost.forward_images
    broken = sum(stage.broken for stage in result.stages)
    assert broken == sum(result.clean_correct) - sum(result.robust_correct)
    assert broken == sum(name != "" for name in result.broken_by)


def test_images_that_are_wrong_already_are_left_alone(plain_model, test_data):
    images, labels = test_data[0][:30], (test_data[1][:30] + 1) % 10
    result = worst_case_attack(plain_model, images, labels, epsilon=0.06)
    wrong = ~torch.tensor(result.clean_correct)
    assert torch.equal(result.adversarial[wrong], images[wrong])
    assert not any(torch.tensor(result.robust_correct)[wrong])


def test_escalation_runs_autoattack_on_what_is_left(robust_model, test_data, monkeypatch):
    from ibrobust.evaluation.worst_case_attack import run

    images, labels = test_data[0][:20], test_data[1][:20]
    asked = []

    def attack(model: nn.Module, images: Tensor, labels: Tensor, **options: object) -> SimpleNamespace:
        asked.append(len(images))
        # Outside the ball: must be moved into it.
        return SimpleNamespace(adversarial=torch.ones_like(images), flags=("it seems to be a dynamic defense!",))

    monkeypatch.setattr(run, "autoattack", attack)
    result = worst_case_attack(robust_model, images, labels, epsilon=0.06, escalate=True)
    assert result.escalated
    assert sum(asked) == result.stages[-1].attacked > 0
    assert result.warnings[-1] == "AutoAttack warns: it seems to be a dynamic defense!"
    assert result.upper_bound
    _assert_holds(result, robust_model, images, labels)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"epsilon": 0.0}, "not a positive number"),
        ({"epsilon": 0.1, "norm": "L1"}, "Unknown norm 'L1'"),
        ({"epsilon": 0.1, "batch_size": 0}, "batch size is 0"),
    ],
)
def test_bad_arguments_are_named(plain_model, test_data, arguments, said):
    with pytest.raises(IbrobustError, match=said):
        worst_case_attack(plain_model, *(part[:2] for part in test_data), **arguments)


class TwoClasses(nn.Module):
    """Images (B, 1, 8, 8) -> logits (B, 2), linear; masked, only a fine ripple has a gradient."""

    def __init__(self, *, masked: bool) -> None:
        super().__init__()
        self.masked = masked
        weight = torch.randn(64, generator=torch.Generator().manual_seed(0))
        self.weight = nn.Parameter(weight / weight.norm())

    def forward(self, images: Tensor) -> Tensor:
        score = (images.flatten(1) - 0.5) @ self.weight
        if self.masked:
            score = score.detach() + 1e-3 * torch.sin(1000.0 * images).flatten(1).mean(dim=1)
        return torch.stack([-score, score], dim=1)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("near", [0.5, 1.1])
def test_masking_is_found_in_l2_on_images_too_small_for_square(masked: bool, near: float) -> None:
    """Every image is `near` times epsilon away from the boundary."""
    model, epsilon = TwoClasses(masked=masked), 0.3
    images = 0.5 + 0.05 * torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    flat, weight = images.flatten(1) - 0.5, model.weight.detach()
    images = (0.5 + flat + (near * epsilon - flat @ weight)[:, None] * weight).reshape(40, 1, 8, 8)
    result = worst_case_attack(model, images, torch.ones(40, dtype=torch.long), epsilon=epsilon, norm="L2")
    assert result.clean_accuracy == 1.0
    assert result.robust_accuracy == (0.0 if near < 1 else 1.0)
    assert result.upper_bound is masked
