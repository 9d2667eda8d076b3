"""Attacks that are functions: by themselves, by name, of a plugin and of foolbox, and what of theirs is not counted."""

from __future__ import annotations

import functools
import importlib
import sys

import pytest
import torch
from brightness import Brightness
from torch import nn

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks import text_form
from ibrobust.evaluation.attacks.attack import NamedAttack
from ibrobust.evaluation.attacks.by_name import create_attack, read_attack
from ibrobust.evaluation.attacks.fingerprint import fingerprint
from ibrobust.evaluation.attacks.over_attacks import worst_case
from ibrobust.evaluation.attacks.run import run_attacks
from ibrobust.evaluation.attacks.surrogate import Transfer
from ibrobust.evaluation.attacks.text_form import list_attacks

EPSILON = 0.1


# Class 0 is bright. Two images lie within 0.1 of the boundary, one beyond, and the last is wrong from the start.
IMAGES = torch.tensor([0.55, 0.45, 0.8, 0.3]).view(4, 1, 1, 1).expand(4, 1, 2, 2).clone()
LABELS = torch.tensor([0, 1, 0, 0])


def darken(model, images, labels, *, epsilon, seed):
    """Break class 0 alone."""
    return (images - epsilon).clamp(0, 1)


def brighten(model, images, labels, *, epsilon, seed, by=1.0):
    """Break class 1 alone."""
    images += by * epsilon  # in place, on what it was given
    return images.clamp(0, 1).double().numpy()


def towards_the_boundary(model, images, labels, *, epsilon, seed):
    images.requires_grad_()
    loss = nn.functional.cross_entropy(model(images), labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, images)
    return (images + epsilon * gradient.sign()).clamp(0, 1).detach()


def in_l2(model, images, labels, *, epsilon, seed):
    return (images - epsilon / 2).clamp(0, 1)  # four pixels: of length epsilon


in_l2.norm = "L2"


def mirrored_twice(model, images, labels, *, epsilon, seed):
    return (images - epsilon).clamp(0, 1).flip(3).numpy()[..., ::-1]  # of negative strides


def robust(*attacks, epsilon=EPSILON, images=IMAGES):
    return [r.robust_correct for r in run_attacks(Brightness(), images, LABELS, attacks=attacks, epsilons=[epsilon])]


def test_a_function_breaks_what_it_breaks():
    before = IMAGES.clone()
    assert robust(darken, brighten, towards_the_boundary) == [
        (False, True, True, False),
        (True, False, True, False),
        (False, False, True, False),
    ]
    assert torch.equal(IMAGES, before)
    assert robust(mirrored_twice) == robust(darken)


def test_it_counts_in_the_worst_case_beside_ibrobusts_own():
    results = run_attacks(Brightness(), IMAGES, LABELS, attacks=[darken, brighten, "FGSM"], epsilons=[EPSILON])
    assert worst_case(results[:2])[0].robust_correct == (False, False, True, False)
    assert worst_case(results)[0].robust_correct == results[2].robust_correct
    assert results[0].attack.endswith(":darken")


def test_a_function_in_another_norm():
    (result,) = run_attacks(Brightness(), IMAGES, LABELS, attacks=in_l2, epsilons=[EPSILON])
    assert (result.norm, result.robust_correct) == ("L2", (True, True, True, False))
    (result,) = run_attacks(Brightness(), IMAGES, LABELS, attacks=in_l2, epsilons=[0.11])
    assert result.robust_correct == (False, True, True, False)


def by_share(share, model, images, labels, *, epsilon, seed, steps=1):
    return (images - share * epsilon / 2).clamp(0, 1)


by_share.norm = "L2"


def in_its_own_norm(model, images, labels, *, epsilon, seed, norm="L2"):
    return in_l2(model, images, labels, epsilon=epsilon, seed=seed)


def norm_first(norm, model, images, labels, *, epsilon, seed):
    return in_l2(model, images, labels, epsilon=epsilon, seed=seed)


def with_attributes(function, **attributes):
    vars(function).update(attributes)
    return function


@pytest.mark.parametrize(
    ("function", "label"),
    [
        (functools.partial(by_share, 1.0), "by_share"),
        (functools.partial(by_share, 1.0, steps=2), "by_share:steps=2"),
        (functools.partial(functools.partial(by_share, 1.0), steps=2), "by_share:steps=2"),
        (with_attributes(functools.partial(darken), norm="L2"), "darken"),
        (functools.partial(with_attributes(functools.partial(brighten), norm="L2"), by=-0.5), "brighten:by=-0.5"),
        (in_its_own_norm, "in_its_own_norm"),
        (functools.partial(norm_first, "L2"), "norm_first"),
    ],
)
def test_the_norm_of_a_function_is_found(function, label):
    attack = read_attack(function)
    assert (attack.norm, attack.label) == ("L2", f"{__name__}:{label}")
    assert not attack.minimal
    assert read_attack(with_attributes(functools.partial(function), minimal=True)).minimal


def test_a_norm_that_is_given_outranks_the_attribute_and_the_attribute_the_default_value():
    function = with_attributes(functools.partial(in_its_own_norm), norm="L1")
    assert read_attack(function).norm == "L1"
    assert read_attack(functools.partial(function, norm="Linf")).norm == "Linf"
    assert create_attack(f"{__name__}:in_its_own_norm", norm="L1").norm == "L1"


def test_a_partial_with_a_value_by_position_runs_with_it():
    # 0.05 from the boundary in each of four pixels: 0.1 in L2.
    for share, broken in ((1.0, True), (0.5, False)):
        attack = functools.partial(by_share, share)
        (result,) = run_attacks(Brightness(), IMAGES, LABELS, attacks=attack, epsilons=[0.11])
        assert (result.norm, result.robust_correct[0]) == ("L2", not broken)


def test_two_partials_of_one_name_are_refused_with_the_remedy():
    attacks = [functools.partial(by_share, share) for share in (0.5, 1.0)]
    with pytest.raises(IbrobustError, match="give each once, and different functions different names"):
        run_attacks(Brightness(), IMAGES, LABELS, attacks=attacks, epsilons=[0.11])


def test_a_state_is_not_resumed_with_another_option_that_its_text_does_not_tell(tmp_path):
    def scaled(model, images, labels, *, epsilon, seed, scale):
        return (images - scale[500] * epsilon).clamp(0, 1)

    def run(at):
        scale = torch.zeros(1001)
        scale[500] = at
        attack = functools.partial(scaled, scale=scale)
        run_attacks(Brightness(), IMAGES, LABELS, attacks=attack, epsilons=[EPSILON], state_path=tmp_path / "state")

    run(0.0)
    run(0.0)
    with pytest.raises(IbrobustError, match="other sources"):
        run(1.0)


def test_random_numbers_follow_from_the_seed():
    seen = []

    def noisy(model, images, labels, *, epsilon, seed):
        noise = torch.rand_like(images)
        seen.append((seed, noise))
        return (images + epsilon * (2 * noise - 1)).clamp(0, 1)

    for _ in range(2):
        robust(noisy)
    assert seen[0][0] == seen[1][0]
    assert torch.equal(seen[0][1], seen[1][1])


def returning(value):
    def attack(model, images, labels, *, epsilon, seed):
        return value(images, epsilon)

    return attack


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda images, epsilon: images - 1.01 * epsilon, "more than epsilon 0.1"),
        (lambda images, epsilon: images - 0.95, r"more than epsilon"),
        (lambda images, epsilon: images / 0, "NaN or infinite pixels for 3 images"),
        (lambda images, epsilon: images[:1], r"gave torch.float32 of \(1, 1, 2, 2\), but floats of \(3, 1, 2, 2\)"),
        (lambda images, epsilon: images.long(), "gave torch.int64"),
        (lambda images, epsilon: (images, images), "gave a tuple"),
        (lambda images, epsilon: None, "gave a NoneType"),
        (lambda images, epsilon: 1 / 0, "fails .ZeroDivisionError"),
    ],
)
def test_what_does_not_count_is_refused(value, message):
    with pytest.raises(IbrobustError, match=message) as caught:
        robust(returning(value))
    assert "\n" not in str(caught.value)


def test_an_attack_that_changes_the_model_is_refused():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 4))

    def cheat(model, images, labels, *, epsilon, seed):
        for weight in model.parameters():
            weight.data = -weight.data
        return images

    with pytest.raises(IbrobustError, match=r"changes the model's '.*weight': its result is not counted"):
        run_attacks(model, IMAGES, model(IMAGES).argmax(dim=1), attacks=cheat, epsilons=0.1)


def test_a_model_may_count_its_own_calls():
    class Counting(Brightness):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, images):
            self.calls += 1
            return super().forward(images)

    def still(model, images, labels, *, epsilon, seed):
        model(images)
        return images

    (result,) = run_attacks(Counting(), IMAGES, LABELS, attacks=still, epsilons=0.1)
    assert result.robust_correct == result.clean_correct


def test_pixels_outside_the_range_are_refused():
    images = IMAGES.clone()
    images[2] = 0.99
    with pytest.raises(IbrobustError, match=r"outside \[0, 1\] for 1 images"):
        robust(returning(lambda images, epsilon: images + epsilon), images=images)


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_attacks.py").write_text(
        "def darken(model, images, labels, *, epsilon, seed, share=1.0):\n"
        "    return (images - share * epsilon).clamp(0, 1)\n"
        "def odd(model, images):\n    return images\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_attacks", raising=False)


def test_a_function_by_name_with_options(module):
    assert robust("my_attacks:darken") == [(False, True, True, False)]
    assert robust("my_attacks:darken:share=0.1") == [(True, True, True, False)]
    assert read_attack("my_attacks:darken:share=0.1").label == "my_attacks:darken:share=0.1"


def test_a_function_may_import_from_the_current_folder_when_it_is_called(module, tmp_path):
    (tmp_path / "late_attacks.py").write_text(
        "def darken(*given, **options):\n    import my_attacks\n    return my_attacks.darken(*given, **options)\n"
    )
    assert robust("late_attacks:darken") == [(False, True, True, False)]


def test_an_attack_of_a_plugin(module, tmp_path, monkeypatch):
    info = tmp_path / "plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{text_form.ENTRY_POINT_GROUP}]\ndark = my_attacks:darken\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert robust("dark", "dark:share=0.1") == [(False, True, True, False), (True, True, True, False)]


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        ("my_attacks:absent", "'my_attacks' has no 'absent'"),
        ("absent_attacks:darken", "needs the Python module 'absent_attacks'"),
        ("my_attacks:odd", r"cannot be called as attack\(model, images, labels, \*, epsilon, seed\)"),
        ("my_attacks:number", "is an int, but a function is needed"),
        ("my_attacks:darken:share", "has no value: write share=VALUE"),
        ("my_attacks:darken:eps=0.1", "the radii come from `epsilons`"),
        ("my_attacks:darken:speed=3", "cannot be called .* with its options"),
        ("PDG:steps=50", "did you mean PGD"),
        ("foolbox:LinfPDG", "foolbox has no attack 'LinfPDG': did you mean LinfPGD"),
        ("foolbox:LinfPGD:step=3", "has no option 'step': it takes"),
        ("foolbox:VirtualAdversarialAttack", "cannot be made with these options"),
        ("foolbox:InversionAttack:distance=l2", "has no distance 'l2': choose Linf or L2 or L1"),
        (3, "The attack is an int: give a name or a function"),
        (lambda model, images: images, "cannot be called as"),
    ],
)
def test_what_is_no_attack_is_one_sentence(module, attack, message):
    with pytest.raises(IbrobustError, match=message) as caught:
        read_attack(attack)
    assert "\n" not in str(caught.value)


def test_what_foolbox_lacks_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(IbrobustError, match="needs numba: pip install numba"):
        read_attack("foolbox:L2BrendelBethgeAttack")


@pytest.mark.parametrize(
    "attack", ["foolbox:LinfFastGradientAttack", "foolbox:LinfPGD:steps=4,abs_stepsize=0.05", "FGSM"]
)
def test_foolbox_breaks_what_the_gradient_breaks(attack):
    assert robust(attack) == [(False, False, True, False)]


def test_a_foolbox_attack_that_searches_the_smallest_perturbation_in_l2():
    # The images are 0.05 from the boundary in each of four pixels, 0.1 in L2.
    results = run_attacks(Brightness(), IMAGES, LABELS, attacks="foolbox:L2DeepFoolAttack", epsilons=[0.05, 0.12])
    assert [result.norm for result in results] == ["L2", "L2"]
    assert [result.robust_correct for result in results] == [(True, True, True, False), (False, False, True, False)]


@pytest.mark.parametrize(("norm", "size"), [("Linf", 0.1), ("L2", 0.2), ("L1", 0.4)])
def test_the_distance_of_a_foolbox_attack_is_its_norm(norm, size):
    # The first image is 0.55, and its inversion 0.45, which is of class 1: all four pixels move by 0.1.
    attack = f"foolbox:InversionAttack:distance={norm}"
    results = run_attacks(Brightness(), IMAGES, LABELS, attacks=attack, epsilons=[0.9 * size, 1.1 * size])
    assert [(result.norm, result.attack) for result in results] == [(norm, attack)] * 2
    assert [result.robust_correct[0] for result in results] == [True, False]


def test_a_state_is_not_resumed_with_another_function_of_the_name(tmp_path):
    def run(value):
        attack = returning(value)
        run_attacks(Brightness(), IMAGES, LABELS, attacks=attack, epsilons=[EPSILON], state_path=tmp_path / "state")

    def other():
        def attack(model, images, labels, *, epsilon, seed):
            return images + 0 * epsilon

        attack.__qualname__ = returning(None).__qualname__
        return attack

    run(lambda images, epsilon: images)
    run(lambda images, epsilon: images)
    with pytest.raises(IbrobustError, match="another"):
        run_attacks(Brightness(), IMAGES, LABELS, attacks=other(), epsilons=[EPSILON], state_path=tmp_path / "state")


STEP = 1.0


def enclosing(by):
    def attack(model, images, labels, *, epsilon, seed):
        return (images - by * epsilon).clamp(0, 1)

    return attack


class Darkening:
    def __init__(self, by):
        self.by = by

    def __call__(self, model, images, labels, *, epsilon, seed):
        return (images - self.by * epsilon).clamp(0, 1)

    def method(self, model, images, labels, *, epsilon, seed):
        return self(model, images, labels, epsilon=epsilon, seed=seed)


def reading(by):
    def attack(model, images, labels, *, epsilon, seed):
        return (images - STEP * epsilon).clamp(0, 1)

    globals()["STEP"] = by
    return attack


def stepping(by):
    def attack(model, images, labels, *, epsilon, seed):
        return (images - steps[0] * epsilon).clamp(0, 1)

    steps = torch.tensor([by])
    return attack


@pytest.mark.parametrize("make", [enclosing, Darkening, lambda by: Darkening(by).method, reading, stepping])
def test_a_state_is_not_resumed_with_other_values_of_the_function(make, tmp_path):
    def run(attack):
        options = {"attacks": attack, "epsilons": [EPSILON], "state_path": tmp_path / "state"}
        return run_attacks(Brightness(), IMAGES, LABELS, **options)[0].robust_correct

    weak = run(make(0.0))
    assert run(make(0.0)) == weak
    with pytest.raises(IbrobustError, match="other sources"):
        run(make(1.0))
    assert robust(make(1.0)) != [weak]


CLASSES = """
from typing import ClassVar
import torch
from ibrobust.evaluation.attacks import Attack, NamedAttack
from ibrobust.evaluation.attacks.surrogate import Transfer

SHARE = 0.0

def step(images, epsilon):
    return (images - 0.0 * epsilon).clamp(0, 1)

class Mean:
    def of(self, images):
        return 0.0

class Base(NamedAttack):
    norm: ClassVar[str] = "Linf"
    def moved(self, images, epsilon):
        return (images - 0.00 * epsilon).clamp(0, 1)

class Derived(Base):
    def find(self, model, images, labels, *, epsilon, seed):
        return self.moved(images, epsilon), labels < 0

class Calls(Base):
    by: float = SHARE
    def find(self, model, images, labels, *, epsilon, seed):
        return step(images, epsilon * (1 - self.by)) + Mean().of(images), labels < 0

class Plain(Attack):
    label, norm, minimal = "plain", "Linf", False
    @staticmethod
    def factor():
        return 0.0
    def find(self, model, images, labels, *, epsilon, seed):
        return (images - self.factor() * epsilon).clamp(0, 1), labels < 0

class Moved(Transfer):
    def find(self, model, images, labels, *, epsilon, seed):
        return images + 0.0, labels < 0

def function(model, images, labels, *, epsilon, seed):
    return images + Mean().of(images)
"""


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("Derived", "self.moved(images, epsilon)", "self.moved(images, -epsilon)"),
        ("Derived", "0.00 *", "1.00 *"),
        ("Calls", "0.0 *", "1.0 *"),
        ("Calls", "SHARE = 0.0", "SHARE = 0.1"),
        ("Calls", "return 0.0\n\nclass Base", "return 0.01\n\nclass Base"),
        ("Plain", "return 0.0\n    def find", "return 1.0\n    def find"),
        ("Plain", "self.factor() *", "2 * self.factor() *"),
        ("Moved", "images + 0.0", "images + 0.01"),
        ("function", "return 0.0\n\nclass Base", "return 0.01\n\nclass Base"),
    ],
)
def test_a_state_is_not_resumed_with_edited_code_of_a_class(name, before, after, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)

    def run(text):
        (tmp_path / "edited_attacks.py").write_text(text)
        monkeypatch.delitem(sys.modules, "edited_attacks", raising=False)
        importlib.invalidate_caches()
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        kind = getattr(importlib.import_module("edited_attacks"), name)
        attack = kind(surrogate=Brightness()) if name == "Moved" else kind if name == "function" else kind()
        options = {"attacks": [attack], "epsilons": [EPSILON], "state_path": tmp_path / "state"}
        return run_attacks(Brightness(), IMAGES, LABELS, **options)

    assert before in CLASSES
    first = run(CLASSES)
    assert run("# A comment elsewhere changes nothing.\n" + CLASSES) == first
    with pytest.raises(IbrobustError, match="other sources"):
        run(CLASSES.replace(before, after))


def test_ibrobusts_own_attacks_have_no_fingerprint_but_that_of_a_surrogate():
    names = ("FGSM", "PGD:steps=3", "AutoAttack", "worst_case", "CW", "APGD:norm=L2", "transfer:MODEL")
    assert {read_attack(name).source for name in names} == {""}
    surrogate = Brightness()
    assert Transfer(surrogate=surrogate).source == fingerprint(surrogate)


def offer(folder, package, **attacks):
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = "".join(f"{name} = {value}\n" for name, value in attacks.items())
    (info / "entry_points.txt").write_text(f"[{text_form.ENTRY_POINT_GROUP}]\n{lines}")


@pytest.mark.parametrize(
    ("name", "owner", "kind"),
    [("Square", "torchattacks", "Square"), ("p_g_d", "ibrobust", "PGD"), ("foolbox", "ibrobust", None)],
)
def test_a_plugin_whose_name_is_taken_is_skipped_with_a_warning(name, owner, kind, tmp_path, monkeypatch):
    offer(tmp_path, "some-package", **{name: "my_attacks:darken"})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(UserWarning, match=f"'{name}' .my_attacks:darken. of some-package .* {owner} has the name"):
        names = list_attacks()
    assert names.count(name) == (name == "Square")
    with pytest.warns(UserWarning, match="some-package"):
        attack = create_attack(name if kind else "foolbox:LinfPGD")
    assert type(attack).__name__ == (kind or "FunctionAttack")


def test_of_two_plugins_of_one_name_the_second_is_skipped_with_a_warning(module, tmp_path, monkeypatch):
    offer(tmp_path, "first", dark="my_attacks:darken")
    (tmp_path / "other").mkdir()
    offer(tmp_path / "other", "second", Dark="my_attacks:odd")
    monkeypatch.syspath_prepend(tmp_path / "other")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(UserWarning, match="'Dark' .my_attacks:odd. of second was skipped, since first has the name"):
        assert read_attack("dark").function.__name__ == "darken"


def test_a_class_without_a_norm_is_in_linf():
    class Darker(NamedAttack):
        def find(self, model, images, labels, *, epsilon, seed):
            return (images - epsilon).clamp(0, 1), torch.zeros(len(images), dtype=torch.bool)

    (result,) = run_attacks(Brightness(), IMAGES, LABELS, attacks=Darker, epsilons=[EPSILON])
    assert (result.norm, result.robust_correct) == ("Linf", (False, True, True, False))


def test_the_label_of_a_class_of_a_plugin_reads_back_as_the_same_attack(tmp_path, monkeypatch):
    offer(tmp_path, "some-package", my_calls="edited_attacks:Calls")
    (tmp_path / "edited_attacks.py").write_text(CLASSES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "edited_attacks", raising=False)
    attack = create_attack("My_Calls", by=0.5)
    assert attack.label == "my_calls:by=0.5"
    assert read_attack(attack.label) == attack
    (result,) = run_attacks(Brightness(), IMAGES, LABELS, attacks=attack, epsilons=[EPSILON])
    assert result.attack == "my_calls:by=0.5"
