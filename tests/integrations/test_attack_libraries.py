"""A registered model straight in foolbox, ART, torchattacks and pyautoattack: the same attack, the same images.

Measured on 32 digits at epsilon 0.25/255, 4/255 and 0.1 with foolbox 3.3.4, ART 1.20.1 and torchattacks 3.5.1:

- FGSM of each equals `FGSMSweep` bit for bit.
- PGD of each equals the textbook's bit for bit, and ours to 4e-8 a pixel with the same outcome for every image: we
  clip to the interval [x - epsilon, x + epsilon], they clip the difference and add it again, which rounds otherwise.
- They part where the gradient is about to underflow: foolbox and our PGD sum the loss over the batch; torchattacks,
  ART and the sweep, which follows torchattacks, take its mean, and dividing by the batch size makes some gradients
  zero (last test).
"""

from __future__ import annotations

import pyautoattack
import pytest
import torch
import torchattacks
from torch import Tensor, nn

from ibrobust.evaluation.attacks.pgd import pgd as our_pgd
from ibrobust.evaluation.sweep import FGSMSweep, fgsm_sweep
from ibrobust.integrations.robustbench.autoattack_module import AutoAttack
from ibrobust.integrations.robustbench.environment import imported_quietly
from ibrobust.registry import load_model

with imported_quietly():
    import foolbox
    from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

LIBRARIES = ("torchattacks", "foolbox", "art")
EPSILONS = (0.25 / 255, 4 / 255, 0.1)
STEPS = 8


@pytest.fixture
def model(registered: str) -> nn.Module:
    return load_model(registered)


@pytest.fixture
def images(digits_images: tuple[Tensor, Tensor]) -> Tensor:
    """The digits with a little noise, so that no pixel is a round number."""
    noise = torch.rand(digits_images[0].shape, generator=torch.Generator().manual_seed(0))
    return 0.9 * digits_images[0] + 0.1 * noise


@pytest.fixture
def labels(digits_images: tuple[Tensor, Tensor]) -> Tensor:
    return digits_images[1]


def art_classifier(model: nn.Module) -> PyTorchClassifier:
    return PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=(3, 32, 32),
        nb_classes=10,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )


def fgsm(library: str, model: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    if library == "torchattacks":
        return torchattacks.FGSM(model, eps=epsilon)(images, labels)
    if library == "foolbox":
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        return foolbox.attacks.LinfFastGradientAttack()(wrapped, images, labels, epsilons=[epsilon])[1][0]
    attack = FastGradientMethod(art_classifier(model), eps=epsilon, batch_size=len(images))
    return torch.from_numpy(attack.generate(images.numpy(), labels.numpy()))


def pgd(library: str, model: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    step = epsilon / 4
    if library == "torchattacks":
        attack = torchattacks.PGD(model, eps=epsilon, alpha=step, steps=STEPS, random_start=False)
        return attack(images, labels)
    if library == "foolbox":
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        attack = foolbox.attacks.LinfPGD(abs_stepsize=step, steps=STEPS, random_start=False)
        return attack(wrapped, images, labels, epsilons=[epsilon])[1][0]
    attack = ProjectedGradientDescent(
        art_classifier(model),
        eps=epsilon,
        eps_step=step,
        max_iter=STEPS,
        batch_size=len(images),
        verbose=False,
    )
    return torch.from_numpy(attack.generate(images.numpy(), labels.numpy()))


def plain_pgd(model: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Projected gradient ascent as a textbook has it."""
    adversarial = images.clone()
    for _ in range(STEPS):
        adversarial.requires_grad_()
        loss = nn.functional.cross_entropy(model(adversarial), labels)
        (gradient,) = torch.autograd.grad(loss, adversarial)
        stepped = adversarial.detach() + epsilon / 4 * gradient.sign()
        adversarial = (images + (stepped - images).clamp(-epsilon, epsilon)).clamp(0, 1)
    return adversarial


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_fgsm_of_every_library_equals_ours(
    model: nn.Module, images: Tensor, labels: Tensor, library: str, epsilon: float
) -> None:
    ours = FGSMSweep(model, [epsilon])(images, labels)[0]
    theirs = fgsm(library, model, images, labels, epsilon)
    assert torch.equal(theirs, ours)
    correct = int(model(theirs).argmax(dim=1).eq(labels).sum())
    assert fgsm_sweep(model, images, labels, [epsilon]).correct == (correct,)


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_pgd_of_every_library_equals_ours(
    model: nn.Module, images: Tensor, labels: Tensor, library: str, epsilon: float
) -> None:
    theirs = pgd(library, model, images, labels, epsilon)
    assert torch.equal(theirs, plain_pgd(model, images, labels, epsilon))
    ours = our_pgd(model, images, labels, epsilon=epsilon, steps=STEPS, step_size=epsilon / 4, stop_when_broken=False)
    torch.testing.assert_close(ours.last, theirs, rtol=0, atol=1e-7)
    assert torch.equal(ours.last_broken, model(theirs).argmax(dim=1).ne(labels))


def test_pyautoattack_takes_a_registered_model(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Its PGD is APGD, with other steps than the textbook's; through our adapter it gives the same images."""
    options = {"eps": 1 / 255, "version": "custom", "seed": 0, "device": "cpu"}
    peer = pyautoattack.AutoAttack(model, attacks=["apgd-ce"], **options)
    adversary = AutoAttack(model, attacks_to_run=["apgd-ce"], verbose=False, **options)
    for attack in (peer, adversary):
        attack.apgd.n_iter = STEPS
    theirs, _ = peer.run_standard_evaluation(images, labels, batch_size=32)
    ours = adversary.run_standard_evaluation(images, labels)
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, images)


class Scaled(nn.Module):
    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, images: Tensor) -> Tensor:
        return self.factor * self.model(images)


def test_foolbox_sums_the_loss_so_its_gradient_underflows_later(
    tiny_model: nn.Module, images: Tensor, labels: Tensor
) -> None:
    """With margins near 100 float32 gradients nearly underflow: a division by the batch size tips some over."""
    model = Scaled(tiny_model, 30.0).eval()
    moved = {library: fgsm(library, model, images, labels, 4 / 255).sub(images).ne(0).sum() for library in LIBRARIES}
    assert moved["torchattacks"] == moved["art"]
    assert moved["foolbox"] > moved["torchattacks"]
