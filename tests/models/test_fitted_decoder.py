"""Decoders of other packages: registered in this process, or offered by an entry point."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from ibrobust import Dataset, ImageClassifier, Recipe, load_model, register_model, train
from ibrobust.errors import IbrobustError
from ibrobust.models import Encoder, FittedDecoder, decoder_names, fitted_decoder, fitted_decoders, register_decoder
from ibrobust.registry import export_model, model_card


class NearestMean(FittedDecoder):
    """Latents (B, D) -> minus their distances to the classes' means (B, C)."""

    def __init__(self, latent_dim: int, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(num_classes, latent_dim))

    def forward(self, latents):
        return -torch.cdist(latents, self.means)

    @classmethod
    def fit(cls, latents, labels, *, num_classes, **_):
        decoder = cls(latents.shape[1], num_classes)
        decoder.means = torch.stack([latents[labels == label].mean(dim=0) for label in range(num_classes)])
        return decoder


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch):
    monkeypatch.setattr(fitted_decoder, "_registered", {})
    monkeypatch.setattr(decoder_names, "registered_names", set())
    monkeypatch.setattr(fitted_decoder, "registered_names", decoder_names.registered_names)


@pytest.fixture
def data() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (24, 3, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.arange(24) % 3
    return Dataset.of((images, labels), train=(images, labels), name="blobs")


def recipe(*decoders: str) -> Recipe:
    return Recipe(objective="knn_ib", width=1, latent_dim=2, epochs=1, batch_size=12, memory_size=0, num_neighbors=1,
                  soft_share=0, decoders=decoders)  # fmt: skip


def install(site: Path, monkeypatch, name: str, value: str) -> None:
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[ibrobust.decoders]\n{name} = {value}\n")
    monkeypatch.syspath_prepend(site)


def test_a_decoder_of_a_package_is_fitted_stored_and_loaded(data, tmp_path, monkeypatch):
    module = ModuleType("a_decoder_package")
    module.NearestMean = NearestMean  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_decoder_package", module)
    install(tmp_path / "site", monkeypatch, "nearest_mean", "a_decoder_package:NearestMean")
    assert fitted_decoders() == ("gaussian_mixture", "logistic", "resfc", "nearest_mean")
    card = train(recipe("nearest_mean", "logistic"), name="net", dataset=data)
    assert card.decoders == ("nearest_mean", "logistic")
    model = load_model("net", device="cpu")
    images = data.train.images / 255
    with torch.no_grad():
        latents = model.latents(images)
        means = torch.stack([latents[data.train.labels == label].mean(dim=0) for label in range(3)])
        torch.testing.assert_close(model(images), -torch.cdist(latents, means))
        export_model("net", tmp_path / "given")
        # The name in a card imports nothing that is not installed.
        (tmp_path / "site" / "nearest_mean-1.0.dist-info" / "entry_points.txt").write_text("")
        fitted_decoder._registered.clear()
        assert load_model("net", decoder="logistic")(images).shape == (24, 3)
        with pytest.raises(IbrobustError, match="no decoder 'nearest_mean', but .*install the package that has it"):
            load_model("net")


def test_a_registered_decoder_in_a_classifier_in_memory(data):
    register_decoder("nearest_mean")(NearestMean)
    decoder = NearestMean(2, 3)
    decoder.means = torch.rand(3, 2)
    register_model("net", ImageClassifier(Encoder(width=1, latent_dim=2), decoder), dataset=data)
    assert torch.equal(load_model("net").decoder.means, decoder.means)


def test_an_mlp_head_is_trained_stored_and_loaded(data):
    own = Recipe(objective="cross_entropy", head_units=5, dropout=0.1, width=1, latent_dim=2, epochs=1, batch_size=12)
    assert train(own, name="net", dataset=data).decoders[0] == "head"
    assert [type(layer) for layer in load_model("net").decoder] == [nn.Linear, nn.ReLU, nn.Linear]
    assert load_model("net")(torch.rand(2, 3, 8, 8)).shape == (2, 3)
    assert model_card("net").recipe.head_units == 5
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5), nn.ReLU(), nn.Linear(4, 3)).eval()
    model = ImageClassifier(Encoder(width=1, latent_dim=2), head).eval()
    register_model("given", model, dataset=data)
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(load_model("given")(images), model(images))


def test_the_same_class_again_replaces_it_and_another_one_does_not():
    register_decoder("nearest_mean")(NearestMean)
    again = type("NearestMean", (FittedDecoder,), {"__module__": __name__, "__qualname__": "NearestMean"})
    assert register_decoder("nearest_mean")(again) is fitted_decoder.decoder_class("nearest_mean")
    other = type("Other", (FittedDecoder,), {})
    for name in ("nearest_mean", "logistic", "head"):
        with pytest.raises(IbrobustError, match=f"'{name}' already exists"):
            register_decoder(name)(other)


@pytest.mark.parametrize("name", ["logistic", "head"])
def test_a_decoder_of_a_package_with_a_name_of_ibrobusts_own_is_skipped_with_a_warning(name, tmp_path, monkeypatch):
    install(tmp_path / "site", monkeypatch, name, "a_decoder_package:NearestMean")
    with pytest.warns(UserWarning, match=f"'{name}' .* of {name} was skipped, since ibrobust has the name"):
        assert fitted_decoders() == ("gaussian_mixture", "logistic", "resfc")
    with pytest.warns(UserWarning, match=f"'{name}' .* was skipped"):
        assert decoder_names.known_decoder("logistic") == "logistic"


def test_of_two_decoders_of_one_name_the_second_is_skipped_with_a_warning(tmp_path, monkeypatch):
    for package in ("second", "first"):
        install(tmp_path / package, monkeypatch, package, f"{package}:Decoder")
        points = tmp_path / package / f"{package}-1.0.dist-info" / "entry_points.txt"
        points.write_text(f"[ibrobust.decoders]\nnearest = {package}:Decoder\n")
    with pytest.warns(UserWarning, match="'nearest' .second:Decoder. of second was skipped, since first"):
        assert decoder_names.decoder_plugins()["nearest"].value == "first:Decoder"


class InHalfPrecision(NearestMean):
    def __init__(self, latent_dim: int, num_classes: int) -> None:
        super().__init__(latent_dim, num_classes)
        self.means = self.means.half()

    def forward(self, latents):
        return -torch.cdist(latents, self.means.float())

    @classmethod
    def fit(cls, latents, labels, **others):
        decoder = super().fit(latents, labels, **others)
        decoder.means = decoder.means.half()
        return decoder


class FittedInDouble(NearestMean):
    def forward(self, latents):
        return super().forward(latents.to(self.means)).float()

    @classmethod
    def fit(cls, latents, labels, **others):
        return super().fit(latents, labels, **others).double()


class WithAConstant(NearestMean):
    def __init__(self, latent_dim: int, num_classes: int) -> None:
        super().__init__(latent_dim, num_classes)
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)
        self.shift = torch.tensor(-1.0) + torch.rand(()) * 0  # a tensor that is no buffer, and a random number

    def forward(self, latents):
        return 0.5 * self.scale * super().forward(latents) + self.shift + 1


class Tied(NearestMean):
    def __init__(self, latent_dim: int, num_classes: int) -> None:
        super().__init__(latent_dim, num_classes)
        self.one = self.other = nn.Linear(latent_dim, num_classes)
        nn.init.zeros_(self.one.weight)
        nn.init.zeros_(self.one.bias)

    def forward(self, latents):
        return super().forward(latents) + self.one(latents) + self.other(latents)


@pytest.mark.parametrize("kind", [InHalfPrecision, FittedInDouble, WithAConstant, Tied])
def test_what_can_be_stored_loads_with_the_same_logits(data, kind):
    register_decoder("odd")(kind)
    train(recipe("odd"), name="net", dataset=data)
    state = torch.get_rng_state()
    model = load_model("net", device="cpu")
    assert torch.equal(torch.get_rng_state(), state)  # loading changes no random numbers of the caller
    images = data.train.images / 255
    with torch.no_grad():
        latents = model.latents(images)
        means = torch.stack([latents[data.train.labels == label].mean(dim=0) for label in range(3)])
        torch.testing.assert_close(model(images), -torch.cdist(latents, means), rtol=2e-3, atol=2e-3)


def test_names_with_a_dot_are_refused(tmp_path, monkeypatch):
    # The weights of "near.5" would be among those of "near".
    with pytest.raises(IbrobustError, match="'near.5' has a dot"):
        register_decoder("near.5")(NearestMean)
    install(tmp_path / "site", monkeypatch, "near.5", "a_decoder_package:NearestMean")
    with pytest.warns(UserWarning, match="'near.5' .* was skipped, since its name has a dot"):
        assert fitted_decoders() == ("gaussian_mixture", "logistic", "resfc")


def test_a_decoder_that_cannot_be_fitted_to_random_latents_is_used(data):
    class Choosy(NearestMean):
        @classmethod
        def fit(cls, latents, labels, **others):
            if len(latents) != len(data.train):
                raise ValueError("other latents")
            return super().fit(latents, labels, **others)

    register_decoder("choosy")(Choosy)
    assert train(recipe("choosy"), name="net", dataset=data).decoders == ("choosy",)


class Forgetful(NearestMean):
    """It loses its means when it is stored."""

    def __init__(self, latent_dim: int, num_classes: int) -> None:
        super().__init__(latent_dim, num_classes)
        self.register_buffer("means", torch.zeros(num_classes, latent_dim), persistent=False)


class OneLogit(NearestMean):
    def forward(self, latents):
        return latents[:, 0]


class LogitsInDouble(NearestMean):
    """Its constructor makes them float32."""

    def forward(self, latents):
        return super().forward(latents.to(self.means))

    @classmethod
    def fit(cls, latents, labels, **others):
        return super().fit(latents, labels, **others).double()


class InDoubleAlone(LogitsInDouble):
    def forward(self, latents):
        return (latents.double() @ self.means.T).float()


class NoModule(NearestMean):
    @classmethod
    def fit(cls, *_, **__):
        return lambda latents: latents


class WithoutFit(FittedDecoder):
    def forward(self, latents):
        return latents


class WithoutForward(FittedDecoder):
    @classmethod
    def fit(cls, *_, **__):
        return cls()


class FitOfTwo(NearestMean):
    @classmethod
    def fit(cls, latents, labels):
        return super().fit(latents, labels, num_classes=3)


class FitOfAnObject(NearestMean):
    def fit(self, latents, labels, *, num_classes, noise_variance, seed):
        return self


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (WithoutFit, "'odd' has no fit: write it in its class WithoutFit"),
        (WithoutForward, "'odd' has no forward"),
        (FitOfTwo, "unexpected keyword argument 'num_classes'"),
        (FitOfAnObject, "missing a required argument: 'labels'.*: make it a class method"),
        (Forgetful, "gives other logits when it is built"),
        (OneLogit, r"gives \(8,\), not logits"),
        (LogitsInDouble, "gives other logits when it is built .* in the dtype that they have in its constructor"),
        (InDoubleAlone, "weights do not fit .*dtype.*: keep all .* in the dtype that they have in its constructor"),
        (NoModule, r"gives function, not logits"),
    ],
)
def test_what_cannot_be_stored_is_refused(data, kind, message):
    register_decoder("odd")(kind)
    stages: list[str] = []
    with pytest.raises(IbrobustError, match=message):
        train(recipe("odd"), name="net", dataset=data, on_stage=stages.append)
    assert "training" not in stages


def test_what_is_wrong_with_a_name_is_told_before_training(data, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no decoder of this name: choose from gaussian_mixture, logistic, resfc"):
        recipe("nearest")
    install(tmp_path / "site", monkeypatch, "broken", "no_such_package:Thing")
    with pytest.raises(IbrobustError, match=r"'broken' \(no_such_package:Thing\) cannot be imported"):
        train(recipe("broken"), name="net", dataset=data)
    install(tmp_path / "other", monkeypatch, "number", "math:pi")
    with pytest.raises(IbrobustError, match=r"'number' \(math:pi\) is no ibrobust.models.FittedDecoder"):
        train(recipe("number"), name="net", dataset=data)
