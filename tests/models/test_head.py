from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ibrobust.errors import IbrobustError
from ibrobust.models import DropConnectLinear, build_decoder, build_head, evaluation_head
from ibrobust.registry.train_model import decoders_of
from ibrobust.training.recipe import Recipe


def test_dropconnect_in_training_averages_to_its_evaluation():
    torch.manual_seed(0)
    layer = DropConnectLinear(6, 3, rate=0.3)
    inputs = torch.rand(1, 6)
    draws = layer.train()(inputs.expand(40_000, 6))
    error = draws.std(0) / 200  # standard error of a mean of 40,000
    assert bool(((draws.mean(0) - layer.eval()(inputs)[0]).abs() < 5 * error).all())


def test_dropconnect_masks_weights_each_example_on_its_own():
    torch.manual_seed(0)
    layer = DropConnectLinear(2, 1, rate=0.5).train()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 10.0]]))
        layer.bias.copy_(torch.tensor([100.0]))
    outputs = layer(torch.ones(200, 2)).flatten()
    assert outputs.unique().tolist() == [100.0, 101.0, 110.0, 111.0]


def test_dropconnect_at_rate_zero_is_a_linear_layer():
    layer = DropConnectLinear(5, 3, rate=0.0).train()
    inputs = torch.rand(4, 5)
    torch.testing.assert_close(layer(inputs), nn.functional.linear(inputs, layer.weight, layer.bias))


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_a_rate_outside_its_range_is_refused(rate):
    with pytest.raises(IbrobustError, match="rate"):
        DropConnectLinear(5, 3, rate=rate)


@pytest.mark.parametrize("units", [0, 5])
@pytest.mark.parametrize("options", [{}, {"dropout": 0.4}, {"dropconnect": 0.4}])
def test_what_is_stored_of_a_head_computes_what_it_does_in_evaluation(options, units):
    torch.manual_seed(0)
    head = build_head(6, 3, units=units, **options).eval()
    inputs = torch.rand(4, 6)
    torch.testing.assert_close(evaluation_head(head)(inputs), head(inputs))


def test_dropout_and_dropconnect_together_are_refused():
    with pytest.raises(IbrobustError, match="choose one"):
        build_head(6, 3, dropout=0.1, dropconnect=0.1)


def test_linear_layers_with_relu_between_them_are_stored_as_such():
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(4, 7, bias=False), nn.Dropout(0.5), nn.ReLU(), nn.Linear(7, 5))
    head = nn.Sequential(inner, nn.ReLU(), DropConnectLinear(5, 2, rate=0.5)).eval()
    stored = evaluation_head(head)
    inputs = torch.rand(6, 4)
    torch.testing.assert_close(stored(inputs), head(inputs))
    rebuilt = build_decoder("head", stored.state_dict(), latent_dim=4, num_classes=2)
    rebuilt.load_state_dict(stored.state_dict())
    assert torch.equal(rebuilt(inputs), stored(inputs))


def test_a_head_in_double_precision_is_stored_in_float32():
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).double().eval()
    inputs = torch.rand(6, 4)
    torch.testing.assert_close(evaluation_head(head)(inputs), head(inputs.double()).float())


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.layer(self.layer(latents))


@pytest.mark.parametrize(
    "head",
    [
        nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)),
        nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)),
        nn.Sequential(nn.Linear(4, 2), nn.ReLU()),
        nn.Sequential(nn.ReLU(), nn.Linear(4, 2)),
        nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)),
        nn.Sequential(),
        Twice(),
    ],
)
def test_a_head_of_other_layers_cannot_be_stored(head):
    with pytest.raises(IbrobustError, match="linear layers with ReLU between them"):
        evaluation_head(head)


class Cosine(nn.Linear):
    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return F.linear(F.normalize(latents), F.normalize(self.weight))


class Residual(nn.Sequential):
    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return latents + super().forward(latents)


@pytest.mark.parametrize(
    "head",
    [Cosine(4, 2), Residual(nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Cosine(4, 2))],
    ids=lambda head: type(head).__name__,
)
def test_a_head_with_a_forward_of_its_own_cannot_be_stored(head):
    with pytest.raises(IbrobustError, match=rf"{type(head).__name__} cannot be stored.*other logits"):
        evaluation_head(head)


class Scaled(nn.Linear):
    def __init__(self, latent_dim: int, num_classes: int) -> None:
        super().__init__(latent_dim, num_classes)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.scale * super().forward(latents)


def test_a_head_that_differs_only_once_it_is_trained_is_refused_before(monkeypatch):
    monkeypatch.setattr(
        "ibrobust.training.build.build_head", lambda latent_dim, classes, **_: Scaled(latent_dim, classes)
    )
    with pytest.raises(IbrobustError, match="Scaled cannot be stored"):
        decoders_of(Recipe(objective="cross_entropy"), 10)
