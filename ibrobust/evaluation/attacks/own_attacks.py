"""ibrobust's own attacks.

FGSM and PGD replace torchattacks' classes of that name: they have three losses, and PGD skips images that are already
wrong and stops at the first success.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ibrobust.evaluation.attacks.attack import Found, NamedAttack
from ibrobust.evaluation.attacks.option_types import Count, LossName, Norm, Positive, Precision
from ibrobust.evaluation.attacks.surrogate import SurrogateAttack
from ibrobust.records import WORST_CASE_VERSION

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ibrobust.evaluation.attacks.autoattack import AutoAttackOutcome
    from ibrobust.evaluation.worst_case_attack import WorstCaseResult


class FGSM(NamedAttack):
    """One step of epsilon along the sign of the gradient (Goodfellow et al. 2015), in L-infinity.

    Attributes:
        loss: that the step increases: cross_entropy, margin or dlr.

    Raises:
        IbrobustError: an option is unknown, or the attack cannot work with a value.

    Examples:
        >>> import ibrobust, torch
        >>> model = torch.nn.Flatten()  # images of two pixels: the brighter pixel is the class
        >>> images = torch.tensor([[0.55, 0.45]]).reshape(1, 1, 1, 2)
        >>> ibrobust.FGSM()(model, images, [0], epsilon=0.1).flatten()
        tensor([0.4500, 0.5500])
    """

    norm: ClassVar[Literal["Linf"]] = "Linf"
    skips_misclassified: ClassVar[bool] = False  # it has to equal the sweep

    loss: LossName = "cross_entropy"

    def find(self, model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, seed: int) -> Found:
        """Return the images after the step, and a warning if many gradients are exactly zero."""
        from ibrobust.evaluation.attacks.pgd import pgd, zero_gradient_flags

        del seed  # nothing in it is random
        run = pgd(
            model,
            images,
            labels,
            epsilon=epsilon,
            steps=1,
            step_size=epsilon,
            loss=self.loss,
            stop_when_broken=False,
        )
        return Found(run.last, run.nonfinite, zero_gradient_flags(run.zero))


class PGD(NamedAttack):
    """Projected gradient descent (Madry et al. 2018); it stops on an image at the first success.

    On a model that draws random numbers, a success may be luck: there it makes all steps and returns the last iterate.

    Attributes:
        steps: gradients per image and start.
        alpha: step size in pixel scale; by default 2.5 epsilon / steps.
        random_start: start at a random point of the ball, else at the image.
        restarts: number of starts; from the second on they are random.
        loss: that the steps increase: cross_entropy, margin or dlr.
        norm: of the ball: Linf or L2.
        targets: the class that the steps lead to: second, the likeliest class but the label; least_likely; random, any
            class but the label; or all, each class but the label in turn, the likeliest first. By default the steps
            lead away from the label. An image is broken by any misclassification, also as another class than the
            target.
        precision: with bf16 it searches on a bfloat16 copy of the model; only the model's own answer counts.

    Raises:
        IbrobustError: an option is unknown, or the attack cannot work with a value.

    Examples:
        >>> import ibrobust, torch
        >>> model = torch.nn.Flatten()  # images of two pixels: the brighter pixel is the class
        >>> images = torch.tensor([[0.55, 0.45]]).reshape(1, 1, 1, 2)
        >>> attack = ibrobust.PGD(steps=20, norm="L2")
        >>> attack.label
        'PGD:norm=L2,steps=20'
        >>> model(attack(model, images, [0], epsilon="1/10")).argmax(dim=1)
        tensor([1])
    """

    steps: Count = 10
    alpha: Positive | None = None
    random_start: bool = True
    restarts: Count = 1
    loss: LossName = "cross_entropy"
    norm: Norm = "Linf"
    targets: Literal["second", "least_likely", "random", "all"] | None = None
    precision: Precision = "fp32"

    def find(self, model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, seed: int) -> Found:
        """Return the first misclassified iterates, else the last ones; these alone if the model is random.

        There is a warning if many gradients are exactly zero at the first starting points.
        """
        import torch

        from ibrobust.evaluation.attacks.pgd import pgd, target_classes, zero_gradient_flags
        from ibrobust.evaluation.ball import Ball
        from ibrobust.evaluation.guarded_model import guard

        model, ball = guard(model), Ball(self.norm, epsilon)
        is_random = model.is_random(images)
        generator = torch.Generator().manual_seed(seed)
        adversarial = images
        nonfinite = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        left = torch.arange(len(images), device=images.device)
        flags: tuple[str, ...] = ()
        aims = [None] if self.targets is None else target_classes(model, images, labels, self.targets, generator)
        for attempt, (aim, restart) in enumerate((aim, restart) for aim in aims for restart in range(self.restarts)):
            # The first time without a copy.
            classes, points = (labels, images) if attempt == 0 else (labels[left], images[left])
            # From the second on, a start at the image would only repeat the first.
            moved = self.random_start or restart > 0
            run = pgd(
                model,
                points,
                classes,
                epsilon=epsilon,
                steps=self.steps,
                step_size=self.alpha,
                loss=self.loss,
                targets=None if aim is None else aim[left],
                start=ball.random_point(points, generator) if moved else None,
                stop_when_broken=not is_random,
                norm=self.norm,
            )
            found, broken = (run.last, run.last_broken) if is_random else (run.adversarial, run.broken)
            adversarial = found if attempt == 0 else adversarial.index_copy(0, left, found)
            nonfinite[left] |= run.nonfinite
            flags = zero_gradient_flags(run.zero) if attempt == 0 else flags
            left = left[~broken]
            if len(left) == 0:
                break
        return Found(adversarial, nonfinite, flags)


class AutoAttack(NamedAttack):
    """The ensemble of Croce and Hein (2020): APGD with two losses, FAB and Square, each on what is not yet broken.

    Attributes:
        version: standard, or rand for models that draw random numbers.
        norm: of the ball: Linf or L2.
        n_iter: steps of the attacks that take a gradient. APGD halves its step size by the schedule for 100 steps, as
            in pyautoattack, so with far fewer steps it hardly does.
        n_queries: of Square.
        precision: with bf16 it searches on a bfloat16 copy of the model; only the model's own answer counts.

    Raises:
        IbrobustError: an option is unknown, or the attack cannot work with a value.

    Examples:
        >>> import ibrobust
        >>> ibrobust.AutoAttack(norm="L2").label
        'AutoAttack:norm=L2'
    """

    version: Literal["standard", "rand"] = "standard"
    norm: Norm = "Linf"
    n_iter: Count = 100
    n_queries: Count = 5000
    precision: Precision = "fp32"

    def find(self, model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, seed: int) -> Found:
        """Return images, adversarial if an attack succeeded, and the warnings of AutoAttack's checks."""
        outcome = self.run(model, images, labels, epsilon=epsilon, batch_size=len(images), seed=seed, keep_images=True)
        assert outcome.adversarial is not None
        return Found(outcome.adversarial.to(images), outcome.nonfinite.to(images.device), outcome.flags)

    def run(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, **options: Any
    ) -> AutoAttackOutcome:
        """Return the outcome on any number of images; for the arguments see `autoattack`."""
        from ibrobust.evaluation.attacks.autoattack import autoattack
        from ibrobust.evaluation.guarded_model import guard

        return autoattack(
            guard(model),
            images,
            labels,
            epsilon=epsilon,
            norm=self.norm,
            version=self.version,
            n_iter=self.n_iter,
            n_queries=self.n_queries,
            **options,
        )


class WorstCase(SurrogateAttack):
    """The attack of `worst_case_attack`, in stages, each on what is not yet broken; also written worst_case.

    Attributes:
        norm: of the ball: Linf or L2.
        escalate: run AutoAttack on the images that are left.
        surrogate: another classifier of the same images, on the same device, whose adversarial images are starting
            points; none by default. The command line and studies take the name of a stored model.

    Raises:
        IbrobustError: an option is unknown, or the attack cannot work with a value.

    Examples:
        >>> import ibrobust
        >>> ibrobust.WorstCase(escalate=True).label
        'WorstCase:escalate=true'
    """

    attack_version: ClassVar[int] = WORST_CASE_VERSION

    norm: Norm = "Linf"
    escalate: bool = False

    def find(self, model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, seed: int) -> Found:
        """Return images, adversarial if a stage succeeded, and the warnings of `WorstCaseResult`."""
        import torch

        result = self.run(model, images, labels, epsilon=epsilon, seed=seed, batch_size=len(images), progress=False)
        nonfinite = torch.tensor(result.nonfinite_gradient, device=result.adversarial.device)
        return Found(result.adversarial, nonfinite, result.warnings)

    def run(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, **options: Any
    ) -> WorstCaseResult:
        """Return the result of `worst_case_attack` with the options of this attack; the arguments are its own."""
        from ibrobust.evaluation.worst_case_attack import worst_case_attack

        return worst_case_attack(
            model,
            images,
            labels,
            epsilon=epsilon,
            norm=self.norm,
            surrogate=self.surrogate_model,
            escalate=self.escalate,
            **options,
        )


OWN_ATTACKS: tuple[type[NamedAttack], ...] = (FGSM, PGD, AutoAttack, WorstCase)
