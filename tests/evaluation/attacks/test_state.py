"""A state answers for the model that it was made with, and for no other; what is damaged in it is said."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.behaviour import Behaviour, behaviour, some_images
from ibrobust.evaluation.attacks.run import run_attacks
from ibrobust.evaluation.attacks.state import AttackLog, data_digests, images_folder, remove_state

Data = tuple[Tensor, Tensor]


def network(activation: nn.Module) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 32), activation, nn.Linear(32, 10))


class Defence(nn.Module):
    """The same weights behind what a caller sets: nothing of it is in the state dict.

    Args:
        levels: that a pixel is rounded to, with a straight-through gradient; None for no rounding.
        temperature: that logits are divided by.
        draws: of noise, averaged.
        cut: whether rounding has its true gradient, zero.
    """

    def __init__(
        self, *, levels: int | None = None, temperature: float = 1.0, draws: int = 0, cut: bool = False
    ) -> None:
        super().__init__()
        self.net = network(nn.ReLU())
        self.levels, self.temperature, self.draws, self.cut = levels, temperature, draws, cut

    def forward(self, images: Tensor) -> Tensor:
        if self.levels is not None:
            rounded = (images * self.levels).round() / self.levels
            images = rounded if self.cut else images + (rounded - images).detach()
        if self.draws:
            parts = [self.net(images + 0.05 * torch.randn_like(images)) for _ in range(self.draws)]
            return torch.stack(parts).mean(dim=0)
        return self.net(images) / self.temperature


@pytest.fixture
def data() -> Data:
    """Pixels of 256 levels, as data sets have them."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (12, 3, 8, 8), generator=generator, dtype=torch.uint8)
    with torch.no_grad():
        return images, Defence()(images.float() / 255).argmax(dim=1)


def attacked(model: nn.Module, data: Data, path: Path) -> object:
    return run_attacks(model, *data, attacks=["FGSM"], epsilons=[8 / 255], batch_size=5, state_path=path)


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        (lambda: network(nn.ReLU()), lambda: network(nn.Tanh()), "logits"),
        (lambda: Defence(), lambda: Defence(levels=2), "logits"),
        (lambda: Defence(), lambda: Defence(temperature=1.0001), "logits"),
        # Between the 256 levels alone.
        (lambda: Defence(), lambda: Defence(levels=255), "logits"),
        (lambda: Defence(draws=2), lambda: Defence(draws=3), "logits"),
        (lambda: Defence(levels=16), lambda: Defence(levels=16, cut=True), "gradients"),
    ],
    ids=["activation", "rounding", "temperature", "rounding to 255", "draws", "gradient"],
)
def test_another_forward_pass_with_these_weights_is_refused(
    first: Callable[[], nn.Module], second: Callable[[], nn.Module], what: str, data: Data, tmp_path: Path
) -> None:
    path = tmp_path / "state.jsonl"
    attacked(first(), data, path)
    before = path.read_bytes()
    with pytest.raises(IbrobustError, match=f"has the same weights but gave other {what}"):
        attacked(second(), data, path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("model", [Defence(), Defence(levels=16, cut=True), Defence(draws=2)])
def test_the_same_model_goes_on(model: nn.Module, data: Data, tmp_path: Path) -> None:
    path = tmp_path / "state.jsonl"
    first = attacked(model, data, path)
    torch.manual_seed(5)  # of no consequence
    assert attacked(copy.deepcopy(model), data, path) == first


def test_rounding_is_no_difference(robust_model: nn.Module, test_data: Data) -> None:
    """Sums in float64 are those in float32 but for rounding, as with another number of threads."""
    images = some_images(test_data[0])
    single = behaviour(robust_model, images)
    double = behaviour(copy.deepcopy(robust_model).double(), images.double())
    assert single != double
    assert single.difference(double) is None
    assert single.difference(behaviour(lambda points: robust_model(points) / 1.0001, images)) == "logits"


def test_answers_that_are_no_numbers_are_compared_as_they_are(data: Data) -> None:
    images = data[0][:2] / 255

    def model(points: Tensor) -> Tensor:
        logits = Defence()(points)
        return torch.cat([logits, torch.full_like(logits[:, :1], -torch.inf), logits[:, :1] * torch.nan], dim=1)

    assert behaviour(model, images).difference(behaviour(model, images)) is None
    assert behaviour(model, images).difference(behaviour(lambda points: model(points).nan_to_num(), images))


def spoil(path: Path, change: Callable[[dict[str, Any]], object], line: int) -> None:
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    change(lines[line])
    path.write_text("".join(json.dumps(entry) + "\n" for entry in lines))


@pytest.mark.parametrize("key", ["attack", "epsilon", "batch", "clean", "attacked", "nonfinite"])
def test_a_line_without_one_of_its_keys_is_refused(key: str, data: Data, tmp_path: Path) -> None:
    path = tmp_path / "state.jsonl"
    attacked(Defence(), data, path)
    spoil(path, lambda line: line.pop(key), 2)
    with pytest.raises(IbrobustError, match="Line 3 of .* is damaged"):
        attacked(Defence(), data, path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("clean", "111"),  # the batch has five images
        ("attacked", "0000"),
        ("attacked", "00002"),
        ("clean", 11111),
        ("batch", 3),
        ("batch", -1),
        ("nonfinite", 6),
        ("nonfinite", -1),
        ("nonfinite", None),
        ("epsilon", "0.1"),
    ],
)
def test_a_line_that_would_change_a_count_is_refused(key: str, value: object, data: Data, tmp_path: Path) -> None:
    path = tmp_path / "state.jsonl"
    attacked(Defence(), data, path)
    spoil(path, lambda line: line.update({key: value}), 1)
    with pytest.raises(IbrobustError, match="Line 2 of .* is damaged"):
        attacked(Defence(), data, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: header.update(format=1), "another version of ibrobust"),
        (lambda header: header.pop("behaviour"), "not an evaluation's state"),
        (lambda header: header["behaviour"].pop("logits"), "not an evaluation's state"),
        (lambda header: header["behaviour"].update(logits=[["x"]]), "not an evaluation's state"),
        (lambda header: header["behaviour"]["logits"].pop(), "gave other logits"),
        (lambda header: header.clear(), "not an evaluation's state"),
    ],
)
def test_a_header_that_says_too_little_is_refused(
    change: Callable[[dict[str, Any]], object], message: str, data: Data, tmp_path: Path
) -> None:
    path = tmp_path / "state.jsonl"
    attacked(Defence(), data, path)
    spoil(path, change, 0)
    with pytest.raises(IbrobustError, match=message):
        attacked(Defence(), data, path)


@pytest.mark.parametrize("text", ['{"results": []}', "notes", '{"results": []}\n', "[]\n"])
def test_a_file_that_is_no_state_is_left_as_it_is(text: str, data: Data, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(IbrobustError, match="state"):
        attacked(Defence(), data, path)
    assert path.read_text() == text


def test_a_state_that_says_more_than_the_run_is_refused(data: Data, tmp_path: Path) -> None:
    path = tmp_path / "state.jsonl"
    attacked(Defence(), data, path)
    header, *steps = path.read_text().splitlines()
    fields = json.loads(header)
    fields["settings"]["sources"] = ["of a surrogate"]
    path.write_text("\n".join([json.dumps(fields), *steps, ""]))
    with pytest.raises(IbrobustError, match="other sources"):
        attacked(Defence(), data, path)


def test_the_same_pixels_in_another_shape_are_other_images() -> None:
    images, labels = torch.arange(24.0).reshape(1, 1, 4, 6), torch.zeros(1)
    digests = [data_digests(None, shaped, labels)["images"] for shaped in (images, images.reshape(1, 1, 6, 4))]
    assert digests[0] != digests[1]


def log_with_images(path: Path) -> None:
    log = AttackLog(path, {}, Behaviour(logits=[[0.0]], gradients=[[0.0]]), keep_images=True)
    log.step({"batch": 0}, lambda: {"images": torch.zeros(1, 3, 2, 2)}, lambda line: True)


@pytest.mark.parametrize("name", ["notes.txt", "run/000001.safetensors"])
def test_a_folder_of_other_files_is_refused_and_left_as_it_is(name: str, tmp_path: Path) -> None:
    file = tmp_path / "run1.images" / name
    file.parent.mkdir(parents=True)
    file.touch()
    with pytest.raises(IbrobustError, match=r"run1.images' is needed for the images of the state .*: move it, or give"):
        log_with_images(tmp_path / "run1")
    assert file.exists()
    assert not (tmp_path / "run1").exists()


def test_the_images_of_an_earlier_evaluation_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "run1"
    log_with_images(path)
    path.unlink()
    for name in ("000002.safetensors", ".000003.safetensors.a_b1.tmp"):
        (images_folder(path) / name).touch()
    log_with_images(path)
    assert [file.name for file in images_folder(path).iterdir()] == ["000001.safetensors"]


def test_a_state_is_removed_with_its_images_and_nothing_else(tmp_path: Path) -> None:
    for other in ([], ["notes.txt"]):
        log_with_images(tmp_path / "run1")
        for name in other:
            (images_folder(tmp_path / "run1") / name).touch()
        remove_state(tmp_path / "run1")
        assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == other
    assert images_folder(tmp_path / "run1").is_dir()
