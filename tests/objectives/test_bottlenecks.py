from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibrobust.errors import IbrobustError
from ibrobust.estimators import conditional_knn_entropy, knn_entropy
from ibrobust.objectives import build_objective


@pytest.fixture
def latents() -> Tensor:
    return torch.randn(40, 5, generator=torch.Generator().manual_seed(0))


LABELS = torch.arange(40) % 4


@pytest.mark.parametrize("average", [False, True])
def test_knn_bottleneck_is_equation_10(latents: Tensor, average: bool):
    objective = build_objective(
        "knn_ib", latent_dim=5, num_classes=4, beta=0.2, num_neighbors=2, average_neighbors=average
    )
    loss = objective(latents, LABELS)
    within = conditional_knn_entropy(latents, LABELS, 2, average=average)
    overall = knn_entropy(latents, 2, average=average)
    assert torch.allclose(loss.total, within - 0.8 * overall)
    assert float(loss.terms["H[Z|Y]"]) == pytest.approx(float(within), rel=1e-5)
    assert float(loss.terms["H[Z]"]) == pytest.approx(float(overall), rel=1e-5)


def test_knn_bottleneck_has_no_head(latents: Tensor):
    objective = build_objective(
        "knn_ib", latent_dim=5, num_classes=4, beta=0.0, num_neighbors=1, average_neighbors=False
    )
    assert objective.head is None
    assert list(objective.parameters()) == []


def test_knn_bottleneck_names_a_class_that_is_too_small(latents: Tensor):
    objective = build_objective(
        "knn_ib", latent_dim=5, num_classes=4, beta=0.0, num_neighbors=3, average_neighbors=False
    )
    with pytest.raises(IbrobustError, match="Class 3 has 2 points"):
        objective(latents, torch.tensor([0] * 20 + [1] * 18 + [3] * 2))


def test_latents_that_are_not_finite_make_the_loss_so(latents: Tensor):
    # The training loop stops at a non-finite loss and knows the step.
    objective = build_objective(
        "knn_ib", latent_dim=5, num_classes=4, beta=0.0, num_neighbors=3, average_neighbors=False
    )
    latents[0, 0] = torch.nan
    assert not bool(objective(latents, LABELS).total.isfinite())


@pytest.mark.parametrize("conditional", [False, True])
def test_dib_is_cross_entropy_plus_beta_entropy(latents: Tensor, conditional: bool):
    torch.manual_seed(0)
    objective = build_objective(
        "dib", latent_dim=5, num_classes=4, beta=0.3, conditional=conditional, num_neighbors=3, average_neighbors=False
    )
    loss = objective(latents, LABELS)
    decoding = F.cross_entropy(objective.head(latents), LABELS)
    entropy = conditional_knn_entropy(latents, LABELS) if conditional else knn_entropy(latents)
    assert torch.allclose(loss.total, decoding + 0.3 * entropy)
    assert set(loss.terms) == {"H[Y|Z]", "H[Z|Y]" if conditional else "H[Z]"}


def test_dib_gradient_reaches_latents_and_decoder(latents: Tensor):
    torch.manual_seed(0)
    objective = build_objective("dib", latent_dim=5, num_classes=4, beta=0.3, num_neighbors=3, average_neighbors=False)
    latents.requires_grad_()
    objective(latents, LABELS).total.backward()
    assert bool(latents.grad.any())
    assert bool(objective.head.weight.grad.any())


@pytest.mark.parametrize("name", ["cross_entropy", "dib", "adversarial"])
def test_given_head_is_the_one_that_is_trained(name: str):
    head = nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 4))
    options = {"beta": 0.1, "num_neighbors": 3, "average_neighbors": False} if name == "dib" else {}
    objective = build_objective(name, latent_dim=5, num_classes=4, head=head, **options)
    assert objective.head is head
    assert set(head.parameters()) <= set(objective.parameters())


def test_cross_entropy_is_torchs(latents: Tensor):
    torch.manual_seed(0)
    objective = build_objective("cross_entropy", latent_dim=5, num_classes=4)
    expected = F.cross_entropy(objective.head(latents), LABELS)
    loss = objective(latents, LABELS)
    assert torch.equal(loss.total, expected)
    assert torch.equal(loss.terms["H[Y|Z]"], expected.detach())
