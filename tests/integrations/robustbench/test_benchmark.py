"""Registered models through RobustBench's own functions, and its `benchmark` against AutoAttack by hand."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyautoattack
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import ibrobust.integrations.robustbench.images as robustbench_images
import ibrobust.integrations.robustbench.run_benchmark as rb
from ibrobust.data import Dataset, Split, load_dataset, to_unit_range
from ibrobust.data.image_folder import TEST_FOLDERS
from ibrobust.errors import IbrobustError
from ibrobust.integrations.external_models import UnitRangeInput
from ibrobust.integrations.robustbench.environment import imported_quietly
from ibrobust.integrations.robustbench.images import benchmark_images
from ibrobust.models import Encoder, ImageClassifier
from ibrobust.registry import ModelCard, load_model, model_card, register_model
from ibrobust.training.recipe import Recipe

with imported_quietly():
    import robustbench
    import timm
    from robustbench.model_zoo import model_dicts
    from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel


@pytest.fixture(autouse=True)
def listings_restored() -> Iterator[None]:
    before = {(d, t): dict(listing) for d, listings in model_dicts.items() for t, listing in listings.items()}
    yield
    for (dataset, threat_model), listing in before.items():
        model_dicts[dataset][threat_model].clear()
        model_dicts[dataset][threat_model].update(listing)


@pytest.fixture(autouse=True)
def suites(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The steps and queries of each AutoAttack that is made; it then makes far fewer, ours as well as the original."""
    wanted: list[tuple[int, ...]] = []
    make = pyautoattack.AutoAttack.__init__

    def make_shorter(suite: Any, *arguments: Any, **options: Any) -> None:
        make(suite, *arguments, **options)
        with_gradient = (suite.apgd, suite.apgd_targeted, suite.fab)
        wanted.append((*(attack.n_iter for attack in with_gradient), suite.square.n_queries))
        for attack in with_gradient:
            attack.n_iter = 5
        suite.square.n_queries = 20

    monkeypatch.setattr(pyautoattack.AutoAttack, "__init__", make_shorter)
    return wanted


def test_robustbench_loads_a_registered_model_by_its_name(
    registered: str, digits_images: tuple[Tensor, Tensor]
) -> None:
    rb.register()
    images, _ = digits_images
    loaded = robustbench.load_model(registered, dataset="cifar10", threat_model="Linf")
    assert torch.equal(loaded(images), load_model(registered)(images))
    assert not loaded.training


def test_nothing_is_left_in_the_current_folder(
    registered: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    rb.register()
    robustbench.load_model(registered, dataset="cifar10", threat_model="L2")
    assert list(empty.iterdir()) == []


def test_it_appears_in_the_listings(registered: str) -> None:
    offered = rb.register()
    assert list(offered) == [registered]
    assert "digits_net_b0.03_cifar10_linf" in offered[registered]
    listing = model_dicts[BenchmarkDataset.cifar_10][ThreatModel.Linf]
    assert registered in listing
    assert isinstance(listing[registered]["model"](), ImageClassifier)


def test_timms_own_transform_of_a_registered_model_leaves_the_images_as_they_are(registered: str) -> None:
    rb.register()
    model = timm.create_model("digits_net_b0.03_cifar10_linf", pretrained=True)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    image = (255 * torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))).byte()
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    assert torch.equal(transform(picture), image / 255)


def test_timm_is_told_the_channels_and_the_size_of_the_images_or_no_size(home: Path) -> None:
    digits = load_dataset("digits")
    grey = Dataset("grey", digits.class_names, *(Split(s.images[:, :1], s.labels) for s in (digits.train, digits.test)))
    encoder = Encoder(width=2, latent_dim=8, mean=(0.5,), std=(0.5,))
    register_model("grey", ImageClassifier(encoder, nn.Linear(8, 10)), dataset=grey)
    rb.register()
    config = timm.create_model("grey_cifar10_linf", pretrained=True).pretrained_cfg
    assert (len(config["mean"]), len(config["std"]), "input_size" in config) == (1, 1, False)


@pytest.mark.parametrize(
    ("source", "size"),
    [("svhn", (3, 32, 32)), ("svhn:test=extra", (3, 32, 32)), ("svhn:size=64", None), ("/mine/svhn", None)],
)
def test_timm_is_told_no_size_of_a_folder_that_has_the_name_of_a_data_set(home: Path, source: str, size) -> None:
    data = replace(load_dataset("digits"), name="svhn", source=source)
    register_model("sized", ImageClassifier(Encoder(width=1, latent_dim=2), nn.Linear(2, 10)), dataset=data)
    rb.register()
    assert timm.create_model("sized_cifar10_linf", pretrained=True).pretrained_cfg.get("input_size") == size


def test_a_model_trained_after_registration_needs_no_second_factory(
    registered: str, digits_classifier: ImageClassifier
) -> None:
    rb.register()
    register_model("Digits-Net_b0.5", copy.deepcopy(digits_classifier), dataset=load_dataset("digits"))
    assert set(rb.register()) == {registered, "Digits-Net_b0.5"}  # a warning would be an error
    assert isinstance(robustbench.load_model("Digits-Net_b0.5"), ImageClassifier)


def test_a_name_of_robustbench_is_not_hidden(home: Path, digits_classifier: ImageClassifier) -> None:
    register_model("standard", copy.deepcopy(digits_classifier), dataset=load_dataset("digits"))
    with pytest.warns(UserWarning, match="'standard' is not offered"):
        assert rb.register() == {}
    assert not timm.is_model("standard_cifar10_linf")


def test_a_name_of_timm_is_not_hidden(home: Path, digits_classifier: ImageClassifier) -> None:
    register_model("resnet18.mine", copy.deepcopy(digits_classifier), dataset=load_dataset("digits"))
    before = timm.models.model_entrypoint("resnet18")
    with pytest.warns(UserWarning, match="timm has its own 'resnet18'"):
        assert rb.register() == {}
    assert timm.models.model_entrypoint("resnet18") is before


def test_a_damaged_card_is_named_and_the_rest_goes_on(registered: str, home: Path) -> None:
    (home / "models" / "broken.yaml").write_text("schema_version: 1\n")
    with pytest.warns(UserWarning, match=r"'broken' is not offered.*damaged"):
        assert list(rb.register()) == [registered]


def test_names_that_timm_cannot_tell_apart_are_not_offered(registered: str, digits_classifier: ImageClassifier) -> None:
    for name in ("same-name", "same_name"):
        register_model(name, copy.deepcopy(digits_classifier), dataset=load_dataset("digits"))
    with pytest.warns(UserWarning, match="'same.name' is not offered to timm: timm cannot tell it from") as warned:
        assert list(rb.register()) == [registered]
    assert len(warned) == 2


def test_a_twin_that_was_made_after_registration_is_refused(home: Path, digits_classifier: ImageClassifier) -> None:
    register_model("late-name", copy.deepcopy(digits_classifier), dataset=load_dataset("digits"))
    rb.register()
    register_model("late_name", copy.deepcopy(digits_classifier), dataset=load_dataset("digits"))
    with pytest.raises(IbrobustError, match="stands for both late-name and late_name"):
        robustbench.load_model("late_name")


def test_another_number_of_classes_is_refused(home: Path, digits_classifier: ImageClassifier) -> None:
    def two_classes(split: Split) -> Split:
        chosen = split.labels < 2
        return Split(split.images[chosen], split.labels[chosen])

    digits = load_dataset("digits")
    pair = Dataset("pair", digits.class_names[:2], two_classes(digits.train), two_classes(digits.test))
    model = ImageClassifier(copy.deepcopy(digits_classifier.encoder), nn.Linear(48, 2))
    register_model("two-classes", model, dataset=pair)
    rb.register()
    with pytest.raises(IbrobustError, match="has 2 classes, but 10 were requested"):
        robustbench.load_model("two-classes")


@pytest.mark.parametrize(
    ("options", "message"),
    [({}, "pretrained=True"), ({"pretrained": True, "in_chans": 1}, "leave out the option 'in_chans'")],
)
def test_timm_options_that_mean_nothing_are_refused(registered: str, options: dict[str, Any], message: str) -> None:
    rb.register()
    with pytest.raises(IbrobustError, match=message):
        timm.create_model("digits_net_b0.03_cifar10_linf", **options)


def test_an_option_of_timm_without_a_value_is_none(registered: str) -> None:
    rb.register()
    create = timm.models.model_entrypoint("digits_net_b0")
    assert isinstance(create(pretrained=True, pretrained_cfg="03_cifar10_linf", cache_dir=None), ImageClassifier)


def test_a_module_in_training_mode_is_benchmarked_as_it_is(digits_folder: Path) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 32 * 32, 10)).train()
    rb.benchmark(model, eps=0.5, n_examples=2, data_dir=digits_folder, batch_size=2)
    assert model.training
    assert int(model[0].num_batches_tracked) == 0


def never() -> int:
    raise AssertionError("the number of classes is known without the model")


def test_images_are_never_those_of_another_data_set(registered: str, digits_folder: Path) -> None:
    card = model_card(registered)
    moved = card.dataset.model_copy(update={"name": "elsewhere", "source": None})
    with pytest.raises(IbrobustError, match="`data_dir`"):
        benchmark_images(card.model_copy(update={"dataset": moved, "recipe": None}), None, 2, never)


def test_a_data_set_of_the_same_name_is_not_the_models_own(home: Path, digits_classifier: ImageClassifier) -> None:
    digits = load_dataset("digits")
    inverted = Dataset.of((255 - digits.test.images, digits.test.labels), class_names=digits.class_names, name="digits")
    card = register_model("inverted", copy.deepcopy(digits_classifier), dataset=inverted)
    with pytest.raises(IbrobustError, match="given in memory, so they cannot be read again: give a folder"):
        benchmark_images(card, None, 2, never)
    # As after an export, which leaves out where the images were.
    moved = card.model_copy(update={"dataset": card.dataset.model_copy(update={"source": None})})
    with pytest.raises(IbrobustError, match="The images of 'digits' are not those that 'inverted' was trained on"):
        benchmark_images(moved, None, 2, never)


def test_a_folder_is_one_even_if_a_data_set_has_its_name(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cifar100").symlink_to(digits_folder)
    assert len(benchmark_images(None, Path("cifar100"), 2, never).class_names) == 10


def test_a_folder_without_images_is_refused(registered: str, tmp_path: Path) -> None:
    with pytest.raises(IbrobustError, match="holds no images"):
        benchmark_images(model_card(registered), tmp_path / "typo", 2, never)


@pytest.mark.parametrize("test", TEST_FOLDERS)
def test_an_image_folder_may_name_its_test_images_as_everywhere(test: str, digits_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(digits_folder / "test", tmp_path / "other" / test)
    assert benchmark_images(None, tmp_path / "other", 2, never).source == "other"


def test_a_folder_of_other_files_is_not_downloaded_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robustbench_images, "load_dataset", None)
    (tmp_path / "photos").mkdir()
    with pytest.raises(IbrobustError, match="neither test images by class nor a data set: give a folder that holds"):
        benchmark_images(None, tmp_path, 2, lambda: 10)


def test_benchmark_equals_autoattack_run_by_hand(
    tiny_model: nn.Module, digits_folder: Path, suites: list[tuple[int, ...]]
) -> None:
    lines: list[str] = []
    result = rb.benchmark(
        tiny_model,
        eps=0.06,
        n_examples=10,
        data_dir=digits_folder,
        batch_size=10,
        seed=1,
        progress=lines.append,
    )
    test = load_dataset(str(digits_folder)).test.subset(10)
    images, labels = to_unit_range(test.images), test.labels
    peer = pyautoattack.AutoAttack(tiny_model, eps=0.06, seed=1)
    _, predictions = peer.run_standard_evaluation(images, labels, batch_size=10)
    assert suites == [(100, 100, 100, 5000)] * 2
    assert result.total == 10
    assert result.clean_correct == int(tiny_model(images).argmax(dim=1).eq(labels).sum())
    assert result.robust_correct == int(predictions.eq(labels).sum())
    assert 0 < result.robust_correct < result.clean_correct
    assert result.flags == ()
    assert any(line.startswith("Adversarial accuracy") for line in lines)


class Centred(nn.Module):
    def __init__(self, model: nn.Module, *, in_place: bool) -> None:
        super().__init__()
        self.model, self.in_place = model, in_place

    def forward(self, images: Tensor) -> Tensor:
        return self.model((images.sub_(0.1) if self.in_place else images - 0.1).clamp(0, 1))


def test_a_model_that_works_in_place_has_the_result_of_its_twin(tiny_model: nn.Module, digits_folder: Path) -> None:
    first, second = (
        rb.benchmark(
            Centred(tiny_model, in_place=in_place), eps="0.04", n_examples=10, data_dir=digits_folder, batch_size=10
        )
        for in_place in (True, False)
    )
    assert first == second


def test_benchmark_of_a_registered_model_is_stored_in_its_card(
    registered: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = rb.benchmark(registered, eps=8 / 255, n_examples=16)
    assert capsys.readouterr().out == ""
    assert (result.model, result.decoder) == (registered, "logistic")
    key = rb.store(result)
    record = model_card(registered).evaluations[key]
    assert (record["total"], record["dataset"], record["seed"]) == (16, "digits", 0)
    assert record["clean_accuracy"] == result.clean_correct / 16
    assert record["robust_accuracy"] == result.robust_correct / 16
    assert json.dumps(record)
    repeated = rb.benchmark(registered, eps=8 / 255, n_examples=16)
    assert repeated == result
    with pytest.raises(IbrobustError, match="is of a module, which may not be the stored model"):
        rb.store(replace(result, decoder=None))


def test_a_repeat_does_not_replace_a_stronger_result(registered: str) -> None:
    strong = rb.BenchmarkResult(
        model=registered,
        decoder="logistic",
        dataset="digits",
        threat_model="Linf",
        epsilon=8 / 255,
        total=100,
        clean_correct=90,
        robust_correct=20,
        seed=0,
        batch_size=250,
        flags=(),
        hardware="CPU",
        versions={},
        dataset_fingerprint=model_card(registered).dataset.fingerprint,
    )
    stored = []
    for seed, left in ((0, 20), (1, 35), (2, 20), (3, 10)):
        key = rb.store(replace(strong, seed=seed, robust_correct=left))
        stored.append(model_card(registered).evaluations[key]["seed"])
    assert stored == [0, 0, 2, 3]


def test_benchmark_goes_on_from_a_state_file(tiny_model: nn.Module, digits_folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"eps": 0.2, "n_examples": 8, "data_dir": digits_folder}
    expected = rb.benchmark(tiny_model, **options)
    state, log = tmp_path / "state.json", tmp_path / "log.txt"
    first = rb.benchmark(tiny_model, state_path=state, log_path=log, **options)
    second = rb.benchmark(tiny_model, state_path=state, log_path=log, **options)
    assert first == second == expected
    assert "restored state" in log.read_text()


def test_what_the_checks_warn_of_is_in_the_result(tiny_model: nn.Module, digits_folder: Path) -> None:
    model = nn.Sequential(tiny_model, nn.Softmax(dim=1)).eval()
    result = rb.benchmark(model, eps=0.3, n_examples=4, data_dir=digits_folder)
    assert any("probability distribution" in flag for flag in result.flags)


def test_the_module_is_left_in_its_mode(tiny_model: nn.Module, digits_folder: Path) -> None:
    model = copy.deepcopy(tiny_model).train()
    rb.benchmark(model, eps=0.3, n_examples=4, data_dir=digits_folder)
    assert model.training


def counting(name: str, num_classes: int) -> Dataset:
    """150 grey images, brighter by 1 each, whose label is their index modulo the number of classes."""
    images = torch.arange(150, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 32, 32).contiguous()
    class_names = [f"{name} {index}" for index in range(num_classes)]
    return Dataset.of((images, torch.arange(150) % num_classes), class_names=class_names, name=name)


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path | None]]:
    """The data sets that are loaded, and their folders; each is of grey images."""
    loaded: list[tuple[str, Path | None]] = []

    def load(spec: str, data_dir: Path | None = None) -> Dataset:
        loaded.append((spec, data_dir))
        return counting(spec, 100 if spec == "cifar100" else 10)

    monkeypatch.setattr(robustbench_images, "load_dataset", load)
    return loaded


def test_a_module_is_benchmarked_on_the_first_images_of_cifar10(
    tiny_model: nn.Module, tmp_path: Path, downloads: list[tuple[str, Path | None]]
) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    result = rb.benchmark(tiny_model, eps=0.01, n_examples=20, data_dir=tmp_path)
    assert downloads == [("cifar10", tmp_path)]
    images = torch.arange(20).view(-1, 1, 1, 1).expand(-1, 3, 32, 32) / 255  # the first 20, in order
    expected = tiny_model(images).argmax(dim=1).eq(torch.arange(20) % 10).sum()
    assert (result.dataset, result.total, result.clean_correct) == ("cifar10", 20, int(expected))
    assert result.to_dict()["first_images"] is True
    with pytest.raises(IbrobustError, match="but cifar10 has 150: give `n_examples`, at most 150"):
        rb.benchmark(tiny_model, eps=0.01, n_examples=151, data_dir=tmp_path)


@pytest.mark.parametrize("folder", [None, "cifar-10-batches-py", "cifar-100-python"])
def test_a_module_of_100_classes_is_benchmarked_on_cifar100(
    folder: str | None, tmp_path: Path, downloads: list[tuple[str, Path | None]]
) -> None:
    if folder:
        (tmp_path / folder).mkdir()
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 100))
    result = rb.benchmark(model, eps=0.01, n_examples=2, data_dir=tmp_path if folder else None)
    assert downloads == [("cifar100", tmp_path if folder else None)]
    assert result.dataset == "cifar100"


def test_a_module_of_other_classes_is_told_so_before_anything_is_downloaded(
    downloads: list[tuple[str, Path | None]],
) -> None:
    with pytest.raises(IbrobustError, match="has 7 classes, but the benchmark supports 10 or 100: use ibrobust attack"):
        rb.benchmark(nn.Sequential(nn.Flatten(), nn.Linear(3072, 7)), eps=0.01)
    assert downloads == []


def test_a_model_of_other_images_is_not_told_to_scale_them(tiny_model: nn.Module) -> None:
    model = UnitRangeInput(tiny_model, mean=(0.5,) * 3, std=(0.5,) * 3, image_size=(64, 64), name="timm:some")
    message = "timm:some was trained on 64x64 images, but these are 32x32: give images of that size as `data_dir`."
    with pytest.raises(IbrobustError, match=f"^{message}$"):
        rb.benchmark(model, eps=0.01)


@pytest.mark.parametrize(
    ("spec", "are_first"),
    [
        ("cifar10", True),
        ("cifar100:train=none", True),
        ("torchvision:CIFAR10", True),
        ("torchvision:CIFAR100:size=64", True),
        ("cifar10-jpeg", False),
        ("svhn", False),
    ],
)
def test_the_first_images_of_cifar_are_used_as_in_robustbench(
    spec: str, are_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = counting("of the card", 10)
    monkeypatch.setattr(robustbench_images, "load_dataset", lambda *_, **__: dataset)
    found = benchmark_images(card_of(dataset, spec), None, 3, never)
    assert ((found.images[:, 0, 0, 0] * 255).round().tolist() == [0, 1, 2]) is found.are_first is are_first


def card_of(dataset: Dataset, spec: str) -> ModelCard:
    facts = SimpleNamespace(fingerprint=dataset.fingerprint, class_names=dataset.class_names)
    return SimpleNamespace(images=spec, name="net", dataset=facts)  # type: ignore[return-value]


def test_other_numbers_of_classes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = counting("three", 3)
    monkeypatch.setattr(robustbench_images, "load_dataset", lambda *_, **__: dataset)
    with pytest.raises(IbrobustError, match="three has 3 classes, but the benchmark supports 10 or 100: use ibrobust"):
        benchmark_images(card_of(dataset, "three"), None, None, never)


def test_missing_cifar10_that_cannot_be_downloaded_is_one_sentence(
    tiny_model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Offline:
        def __init__(self, root: str, train: bool = True, download: bool = False) -> None:
            raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.CIFAR10", Offline)
    with pytest.raises(
        IbrobustError, match=r"CIFAR-10 are not in .* \(no route to host\): .*: give a folder .* `data_dir`\.$"
    ):
        rb.benchmark(tiny_model, eps=0.01, n_examples=2, data_dir=tmp_path)


def test_a_model_of_other_classes_is_refused(
    registered: str, tmp_path: Path, downloads: list[tuple[str, Path | None]]
) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    message = "on 'digits', whose classes are not those of 'cifar10': leave `data_dir` out, or give a folder of"
    with pytest.raises(IbrobustError, match=message):
        rb.benchmark(registered, eps=0.01, n_examples=2, data_dir=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": 0.0}, "epsilon 0.0 is not a positive number"),
        ({"eps": float("nan")}, "epsilon nan"),
        ({"eps": 0.1, "threat_model": "corruptions"}, "'corruptions' is unknown: choose one of Linf, L2"),
        ({"eps": 0.1, "n_examples": 0}, "n_examples is 0: give"),
        ({"eps": 0.1, "n_examples": 5.5}, "n_examples is 5.5: give"),
        ({"eps": 0.1, "n_examples": "10"}, "n_examples is '10': give"),
        ({"eps": 0.1, "batch_size": 0}, "The batch size is 0: "),
        ({"eps": 0.1, "seed": -1}, "The seed is -1: "),
        ({"eps": 0.1, "n_examples": 61}, "61 images were requested"),
    ],
)
def test_impossible_requests_are_refused(
    tiny_model: nn.Module, digits_folder: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(IbrobustError, match=message):
        rb.benchmark(tiny_model, data_dir=digits_folder, **options)


def test_a_reference_is_answered_with_the_function_that_loads_it() -> None:
    with pytest.raises(IbrobustError, match=r"external_models.load_reference\('robustbench:Standard'\)\.$"):
        rb.benchmark("robustbench:Standard", eps=0.1)


def test_a_module_with_other_outputs_is_refused(digits_folder: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 7))
    with pytest.raises(IbrobustError, match="has 7 classes, but '.*' has 10: give images of the model's"):
        rb.benchmark(model, eps=0.1, data_dir=digits_folder)


def test_the_image_folder_that_a_model_was_trained_on_is_its_own_data(
    home: Path, digits_classifier: ImageClassifier, digits_folder: Path
) -> None:
    dataset = load_dataset(str(digits_folder))
    recipe = Recipe(dataset=str(digits_folder))
    register_model("from-a-folder", copy.deepcopy(digits_classifier), dataset=dataset, recipe=recipe)
    assert rb.benchmark("from-a-folder", eps=0.3, n_examples=2).dataset == digits_folder.name
