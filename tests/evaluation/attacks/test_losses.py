"""The attack losses by hand."""

from __future__ import annotations

import pytest
import torch

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.losses import (
    LOSSES,
    TARGETED_LOSSES,
    cross_entropy,
    dlr,
    margin,
)

LOGITS = torch.tensor([[2.0, 5.0, 1.0, -3.0], [7.0, 0.5, 4.0, 4.0]])
LABELS = torch.tensor([1, 2])


def test_margin_is_positive_exactly_where_the_image_is_wrong() -> None:
    assert margin(LOGITS, LABELS).tolist() == [2.0 - 5.0, 7.0 - 4.0]


def test_dlr_is_the_margin_over_the_distance_from_first_to_third() -> None:
    torch.testing.assert_close(dlr(LOGITS, LABELS), torch.tensor([-3.0 / 4.0, 3.0 / 3.0]))


def test_dlr_does_not_see_shift_or_scale() -> None:
    torch.testing.assert_close(dlr(LOGITS * 1000 - 17, LABELS), dlr(LOGITS, LABELS))


def test_dlr_needs_three_classes() -> None:
    with pytest.raises(IbrobustError, match="at least 3 classes"):
        dlr(LOGITS[:, :2], torch.tensor([0, 1]))


@pytest.mark.parametrize(("loss", "vanishes"), [("cross_entropy", True), ("margin", False), ("dlr", False)])
def test_only_cross_entropy_loses_its_gradient_at_large_margins(loss: str, vanishes: bool) -> None:
    logits = torch.tensor([[200.0, 0.0, -1.0]], requires_grad=True)
    LOSSES[loss](logits, torch.tensor([0])).sum().backward()
    assert bool((logits.grad == 0).all()) == vanishes


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_gradients_are_right(loss: str) -> None:
    logits = (LOGITS + torch.arange(4) / 7).double().requires_grad_()  # no two are equal
    assert torch.autograd.gradcheck(lambda z: LOSSES[loss](z, LABELS), logits)


def test_cross_entropy_is_of_each_image() -> None:
    expected = -torch.log_softmax(LOGITS, 1)[[0, 1], LABELS]
    torch.testing.assert_close(cross_entropy(LOGITS, LABELS), expected)


TARGETS = torch.tensor([3, 0])


def test_targeted_losses_by_hand() -> None:
    values = {name: loss(LOGITS, LABELS, TARGETS) for name, loss in TARGETED_LOSSES.items()}
    torch.testing.assert_close(values["cross_entropy"], torch.log_softmax(LOGITS, 1)[[0, 1], TARGETS])
    torch.testing.assert_close(values["margin"], torch.tensor([-3.0 - 5.0, 7.0 - 4.0]))
    torch.testing.assert_close(values["dlr"], torch.tensor([-8.0 / (5.0 + 1.0), 3.0 / (7.0 - 2.25)]))


@pytest.mark.parametrize("loss", sorted(TARGETED_LOSSES))
def test_gradients_towards_targets_are_right(loss: str) -> None:
    logits = (LOGITS + torch.arange(4) / 7).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: TARGETED_LOSSES[loss](z, LABELS, TARGETS), logits)


def test_every_loss_has_its_targeted_form() -> None:
    assert list(TARGETED_LOSSES) == list(LOSSES)


def test_the_targeted_dlr_needs_four_classes() -> None:
    with pytest.raises(IbrobustError, match="at least 4 classes"):
        TARGETED_LOSSES["dlr"](LOGITS[:, :3], torch.tensor([0, 1]), torch.tensor([1, 0]))
