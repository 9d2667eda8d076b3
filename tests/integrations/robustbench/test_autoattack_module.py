"""AutoAttack as RobustBench calls it, against pyautoattack itself, and its resume against an uninterrupted run."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyautoattack
import pytest
import torch
from torch import Tensor, nn

from ibrobust.errors import IbrobustError
from ibrobust.integrations.robustbench import autoattack_module
from ibrobust.integrations.robustbench.autoattack_module import AutoAttack, EvaluationState

EPSILON = 0.1
ATTACKS = ["apgd-ce", "apgd-t", "fab-t", "square"]


def shortened(adversary: Any) -> Any:
    for attack in (adversary.apgd, adversary.apgd_targeted, adversary.fab):
        attack.n_iter = 5
    adversary.square.n_queries = 20
    return adversary


def ours(model: nn.Module, **options: Any) -> AutoAttack:
    settings = {"eps": EPSILON, "seed": 3, "verbose": False, "device": "cpu", **options}
    return shortened(AutoAttack(model, **settings))


@pytest.fixture
def without_autoattack() -> Iterator[None]:
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "autoattack"}
    for name in before:
        del sys.modules[name]
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "autoattack"]:
        del sys.modules[name]
    sys.modules.update(before)


@pytest.mark.parametrize(("norm", "epsilon"), [("Linf", EPSILON), ("L2", 1.0)])
def test_images_equal_those_of_pyautoattack(
    tiny_model: nn.Module, digits_images: tuple[Tensor, Tensor], norm: str, epsilon: float
) -> None:
    images, labels = digits_images
    peer = shortened(pyautoattack.AutoAttack(tiny_model, norm=norm, eps=epsilon, seed=3))
    expected, expected_labels = peer.run_standard_evaluation(images, labels, batch_size=12)
    found, found_labels = ours(tiny_model, norm=norm, eps=epsilon).run_standard_evaluation(
        images, labels, bs=12, return_labels=True
    )
    assert torch.equal(found, expected)
    assert torch.equal(found_labels, expected_labels)
    assert 0 < int(found_labels.eq(labels).sum()) < len(labels)  # else the test would say little


def test_each_attack_alone_equals_pyautoattack(tiny_model: nn.Module, digits_images: tuple[Tensor, Tensor]) -> None:
    images, labels = digits_images
    version = {"version": "custom", "seed": 1}
    attacks = ["apgd-dlr", "fab", "square"]
    peer = shortened(pyautoattack.AutoAttack(tiny_model, eps=EPSILON, attacks=attacks, **version))
    expected = peer.run_standard_evaluation_individual(images, labels, batch_size=20)
    adversary = ours(tiny_model, attacks_to_run=attacks, **version)
    found = adversary.run_standard_evaluation_individual(images, labels, bs=20)
    assert list(found) == attacks
    assert adversary.attacks_to_run == attacks
    for attack in attacks:
        assert torch.equal(found[attack], expected[attack][0]), attack


def test_attributes_set_by_the_user_are_used(tiny_model: nn.Module, digits_images: tuple[Tensor, Tensor]) -> None:
    images, labels = digits_images
    adversary = ours(tiny_model, version="custom")
    adversary.attacks_to_run = ["apgd-ce"]
    adversary.apgd.n_restarts = 2
    adversary.seed = 5
    peer = shortened(pyautoattack.AutoAttack(tiny_model, eps=EPSILON, version="custom", attacks=["apgd-ce"], seed=5))
    peer.apgd.n_restarts = 2
    expected, _ = peer.run_standard_evaluation(images, labels, batch_size=32)
    assert torch.equal(adversary.run_standard_evaluation(images, labels), expected)


def test_clean_accuracy_counts(tiny_model: nn.Module, digits_images: tuple[Tensor, Tensor]) -> None:
    images, labels = digits_images
    expected = int(tiny_model(images).argmax(dim=1).eq(labels).sum()) / len(labels)
    assert ours(tiny_model).clean_accuracy(images, labels, bs=10) == expected


def test_the_model_is_in_evaluation_mode_throughout(digits_images: tuple[Tensor, Tensor]) -> None:
    images, labels = digits_images
    modes = []
    model = nn.Sequential(nn.BatchNorm2d(images.shape[1]), nn.Flatten(), nn.Linear(images[0].numel(), 10)).train()
    model[0].register_forward_hook(lambda module, *_: modes.append(module.training))
    attack = ours(model)
    attack.clean_accuracy(images, labels, bs=10)
    attack.run_standard_evaluation(images[:4], labels[:4])
    assert set(modes) == {False}
    assert model[0].training


class Interrupting(nn.Module):
    """The same model, which is interrupted at its n-th call."""

    def __init__(self, model: nn.Module, calls: int) -> None:
        super().__init__()
        self.model, self.calls = model, calls

    def forward(self, images: Tensor) -> Tensor:
        self.calls -= 1
        if self.calls == 0:
            raise KeyboardInterrupt
        return self.model(images)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.4, 0.6, 0.8, 0.99])
def test_a_resumed_evaluation_equals_an_uninterrupted_one(
    tiny_model: nn.Module, digits_images: tuple[Tensor, Tensor], tmp_path: Path, share: float
) -> None:
    images, labels = digits_images
    path = tmp_path / "state.json"
    model = Interrupting(tiny_model, 0)
    expected = ours(model).run_standard_evaluation(images, labels, bs=7, return_labels=True)
    calls = round(-model.calls * share)
    with pytest.raises(KeyboardInterrupt):
        ours(Interrupting(tiny_model, calls)).run_standard_evaluation(images, labels, bs=7, state_path=path)
    resumed = ours(Interrupting(tiny_model, 0)).run_standard_evaluation(
        images, labels, bs=7, return_labels=True, state_path=path
    )
    assert torch.equal(resumed[0], expected[0])
    assert torch.equal(resumed[1], expected[1])
    assert EvaluationState.from_disk(path).robust_flags.mean().item() == resumed[1].eq(labels).float().mean().item()


def test_a_finished_state_runs_nothing_again(
    tiny_model: nn.Module, digits_images: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    images, labels = digits_images
    path = str(tmp_path / "state.json")
    model = Interrupting(tiny_model, 0)
    first = ours(model).run_standard_evaluation(images, labels, state_path=path)
    model.calls = 2  # the second call raises; the first is for the answers by which the state knows the model
    assert torch.equal(ours(model).run_standard_evaluation(images, labels, state_path=path), first)
    state = EvaluationState.from_disk(path)
    assert state.run_attacks == state.attacks_to_run == set(ATTACKS)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"eps": 0.2}, "epsilon"),
        ({"norm": "L2"}, "norm"),
        ({"seed": 4}, "seed"),
        ({"version": "plus"}, "attacks"),
    ],
)
def test_a_state_of_another_evaluation_is_refused(
    tiny_model: nn.Module,
    digits_images: tuple[Tensor, Tensor],
    tmp_path: Path,
    change: dict[str, Any],
    named: str,
) -> None:
    images, labels = digits_images
    path = tmp_path / "state.json"
    ours(tiny_model).run_standard_evaluation(images, labels, state_path=path)
    with pytest.raises(IbrobustError, match=rf"another evaluation \({named}"):
        ours(tiny_model, **change).run_standard_evaluation(images, labels, state_path=path)


def test_a_state_of_other_images_is_refused(
    tiny_model: nn.Module, digits_images: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    images, labels = digits_images
    path = tmp_path / "state.json"
    ours(tiny_model).run_standard_evaluation(images[:4], labels[:4], state_path=path)
    with pytest.raises(IbrobustError, match="another evaluation"):
        ours(tiny_model).run_standard_evaluation(images[4:8], labels[4:8], state_path=path)


def test_a_state_of_another_model_is_refused(
    tiny_model: nn.Module, digits_images: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    images, labels = digits_images
    path = tmp_path / "state.json"
    ours(tiny_model).run_standard_evaluation(images[:4], labels[:4], state_path=path)
    torch.manual_seed(1)
    with pytest.raises(IbrobustError, match="another evaluation"):
        ours(type(tiny_model)().eval()).run_standard_evaluation(images[:4], labels[:4], state_path=path)


class Divided(nn.Module):
    """The same weights at another temperature, which is no tensor."""

    def __init__(self, model: nn.Module, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images) / self.temperature


class Unfollowed(nn.Module):
    """The same logits, without a gradient."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images.detach()) + 0 * images.sum()


@pytest.mark.parametrize(
    ("other", "what"), [(lambda model: Divided(model, 1.0001), "logits"), (Unfollowed, "gradients")]
)
def test_a_state_of_another_forward_pass_is_refused(
    tiny_model: nn.Module, digits_images: tuple[Tensor, Tensor], tmp_path: Path, other: Any, what: str
) -> None:
    path = tmp_path / "state.json"
    short = {"version": "custom", "attacks_to_run": ["square"]}
    first = ours(tiny_model, **short).run_standard_evaluation(*digits_images, state_path=path)
    assert torch.equal(
        ours(Divided(tiny_model, 1.0), **short).run_standard_evaluation(*digits_images, state_path=path), first
    )
    with pytest.raises(IbrobustError, match=f"the same weights but gave other {what}"):
        ours(other(tiny_model), **short).run_standard_evaluation(*digits_images, state_path=path)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("checks", "classes", "10"),
        ("checks", "flags", None),
        ("clean", "clean", "111"),
        ("clean", "clean", "2" * 8),
        ("clean", "clean", [True, [1]]),
        ("clean", "nonfinite", ""),
        ("clean", "predictions", [0]),
        ("clean", "predictions", [10] * 8),
        ("clean", "part", "square"),
        ("apgd-ce", "wrong", "1"),
        ("apgd-ce", "attacked", "1" * 9),
        ("apgd-ce", "predictions", ["x"]),
        ("apgd-ce", "batch", 3),
        ("apgd-ce", "batch", -1),
    ],
)
def test_a_state_that_contradicts_itself_is_refused(
    tiny_model: nn.Module, digits_images: tuple[Tensor, Tensor], tmp_path: Path, part: str, key: str, value: object
) -> None:
    path = tmp_path / "state.jsonl"
    short = {"version": "custom", "attacks_to_run": ["apgd-ce", "square"]}
    with pytest.raises(KeyboardInterrupt):
        ours(Interrupting(tiny_model, 60), **short).run_standard_evaluation(*digits_images, bs=8, state_path=path)
    lines = lines_of(path)
    number = next(number for number, line in enumerate(lines) if line.get("part") == part)
    lines[number][key] = value
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(IbrobustError, match=f"Line {number + 1} of .* is damaged"):
        ours(tiny_model, **short).run_standard_evaluation(*digits_images, bs=8, state_path=path)


@pytest.mark.parametrize("what", ["missing", "others"])
def test_images_and_state_that_do_not_belong_together_are_refused(
    tiny_model: nn.Module, digits_images: tuple[Tensor, Tensor], tmp_path: Path, what: str
) -> None:
    """The adversarial images are in files beside the state; without them clean images would be returned for them."""
    path = tmp_path / "state.jsonl"
    short = {"version": "custom", "attacks_to_run": ["square"]}
    images, _ = ours(tiny_model, **short).run_standard_evaluation(*digits_images, return_labels=True, state_path=path)
    assert not torch.equal(images, digits_images[0])
    if what == "missing":
        shutil.rmtree(tmp_path / "state.jsonl.images")
    else:
        lines = lines_of(path)
        next(line for line in lines if line.get("images"))["images"] += 1
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(IbrobustError, match="do not belong together"):
        ours(tiny_model, **short).run_standard_evaluation(*digits_images, state_path=path)


def test_a_state_of_the_earlier_format_is_refused(
    tiny_model: nn.Module, digits_images: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "state.json"
    path.write_text(json.dumps({"settings": {"norm": "Linf"}, "robust": [1, 0], "finished": ["apgd-ce"]}))
    with pytest.raises(IbrobustError, match="another version of ibrobust"):
        ours(tiny_model).run_standard_evaluation(*digits_images, state_path=path)


def test_the_state_keeps_the_clean_predictions(
    tiny_model: nn.Module, digits_images: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "state.jsonl"
    short = {"version": "custom", "attacks_to_run": ["square"]}
    ours(tiny_model, **short).run_standard_evaluation(*digits_images, bs=10, state_path=path)
    with torch.no_grad():
        expected = tiny_model(digits_images[0]).argmax(dim=1)
    found = [line["predictions"] for line in lines_of(path) if line.get("part") == "clean"]
    assert [prediction for batch in found for prediction in batch] == expected.tolist()


def test_a_state_that_is_not_finished_has_no_result_for_robustbench(
    tiny_model: nn.Module, digits_images: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "state.jsonl"
    with pytest.raises(KeyboardInterrupt):
        ours(Interrupting(tiny_model, 30)).run_standard_evaluation(*digits_images, bs=8, state_path=path)
    with pytest.raises(IbrobustError, match="is not finished"):
        EvaluationState.from_disk(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": 0.0}, "eps is 0.0"),
        ({"eps": -0.1}, "eps is -0.1"),
        ({"eps": float("nan")}, "eps is nan"),
        ({"apgd.n_iter": 0}, "apgd.n_iter is 0"),
        ({"fab.n_restarts": 1.5}, "fab.n_restarts is 1.5"),
        ({"square.n_queries": 0}, "square.n_queries is 0"),
        ({"bs": 0}, "bs is 0"),
    ],
)
def test_numbers_with_which_nothing_would_be_attacked_are_refused(
    tiny_model: nn.Module, digits_images: tuple[Tensor, Tensor], change: dict[str, Any], message: str
) -> None:
    bs = change.pop("bs", 250)
    adversary = ours(tiny_model, **{key: value for key, value in change.items() if "." not in key})
    for name, value in change.items():
        attack, _, option = name.partition(".")
        if option:
            setattr(getattr(adversary, attack), option, value)
    with pytest.raises(IbrobustError, match=message):
        adversary.run_standard_evaluation(*digits_images, bs=bs)


def test_an_image_outside_the_ball_is_not_counted(
    tiny_model: nn.Module, digits_images: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    adversary = ours(tiny_model, version="custom", attacks_to_run=["square"])
    monkeypatch.setattr(adversary.square, "perturb", lambda images, labels: 1 - images)
    with pytest.raises(IbrobustError, match="square changed pixels by up to .*, more than epsilon 0.1"):
        adversary.run_standard_evaluation(*digits_images)


@pytest.mark.parametrize("text", ["", "{", "[]", json.dumps({"settings": {}})])
def test_a_damaged_state_is_refused(
    tiny_model: nn.Module, digits_images: tuple[Tensor, Tensor], tmp_path: Path, text: str
) -> None:
    path = tmp_path / "state.json"
    path.write_text(text)
    with pytest.raises(IbrobustError, match="cannot be read"):
        ours(tiny_model).run_standard_evaluation(*digits_images, state_path=path)


def test_the_log_file_has_every_line_and_the_terminal_none_unless_verbose(
    tiny_model: nn.Module,
    digits_images: tuple[Tensor, Tensor],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "log.txt"
    images, labels = digits_images
    ours(tiny_model, log_path=path).run_standard_evaluation(images, labels)
    assert capsys.readouterr().out == ""
    quiet = path.read_text()
    assert "robust accuracy after SQUARE" in quiet
    ours(tiny_model, verbose=True).run_standard_evaluation(images, labels)
    without_times = [line.split("(total time")[0] for line in capsys.readouterr().out.splitlines()]
    assert without_times == [line.split("(total time")[0] for line in quiet.splitlines()]


def test_the_caller_finds_random_state_and_gradients_as_they_were(
    tiny_model: nn.Module, digits_images: tuple[Tensor, Tensor]
) -> None:
    images, labels = digits_images
    nn.functional.cross_entropy(tiny_model(images), labels).backward()
    gradients = [parameter.grad.clone() for parameter in tiny_model.parameters()]
    state = torch.get_rng_state()
    ours(tiny_model).run_standard_evaluation(images, labels)
    assert torch.equal(torch.get_rng_state(), state)
    for parameter, gradient in zip(tiny_model.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)
        parameter.grad = None


class Probabilities(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).softmax(dim=1)


class TakingGradients(Probabilities):
    def forward(self, images: Tensor) -> Tensor:
        with torch.enable_grad():
            inner = images.detach().requires_grad_()
            torch.autograd.grad(self.model(inner).sum(), inner)
        return self.model(images)


def test_warnings_of_the_checks_are_kept(tiny_model: nn.Module, digits_images: tuple[Tensor, Tensor]) -> None:
    images, labels = digits_images
    adversary = ours(Probabilities(tiny_model))
    adversary.run_standard_evaluation(images[:4], labels[:4])
    assert any("probability distribution" in flag for flag in adversary.flags)


def test_a_dynamic_defence_does_not_taint_the_next_model(
    tiny_model: nn.Module, digits_images: tuple[Tensor, Tensor]
) -> None:
    images, labels = digits_images
    adversary = ours(TakingGradients(tiny_model))
    adversary.run_standard_evaluation(images[:4], labels[:4])
    assert any("dynamic defense" in flag for flag in adversary.flags)
    adversary = ours(tiny_model)
    adversary.run_standard_evaluation(images[:4], labels[:4])
    assert not any("dynamic defense" in flag for flag in adversary.flags)


def test_impossible_requests_are_refused(tiny_model: nn.Module, digits_images: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(IbrobustError, match="is_tf_model"):
        AutoAttack(tiny_model, is_tf_model=True, device="cpu")
    for attacks in ([], ["deepfool"]):
        with pytest.raises(IbrobustError, match="choose among apgd-ce"):
            ours(tiny_model, version="custom", attacks_to_run=attacks).run_standard_evaluation(*digits_images)


def test_it_can_be_imported_as_robustbench_does(without_autoattack: None) -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("autoattack")
    assert autoattack_module.install()
    assert importlib.import_module("autoattack").AutoAttack is AutoAttack
    assert importlib.import_module("autoattack.state").EvaluationState is EvaluationState
    assert importlib.import_module("autoattack.square").SquareAttack is not None
    assert autoattack_module.install()  # again is no trouble
    assert autoattack_module.real_autoattack() is None


def test_a_real_autoattack_goes_first(
    without_autoattack: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "autoattack"
    package.mkdir()
    (package / "__init__.py").write_text("AutoAttack = 'the real one'\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert not autoattack_module.install()
    assert importlib.import_module("autoattack").AutoAttack == "the real one"
    assert autoattack_module.real_autoattack() == str(package / "__init__.py")


def test_a_mere_folder_of_that_name_does_not_count(
    without_autoattack: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "autoattack").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert autoattack_module.install()
