"""Checks that import a package and try it: certain, and seconds long."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

from ibrobust.errors import IbrobustError
from ibrobust.integrations.doctor.check import Check, problem


def try_torch() -> Check:
    """torch and torchvision; torchvision can be imported only if their releases match."""
    import torch
    import torchvision

    threads = torch.get_num_threads()
    return Check(
        "torch",
        "ok",
        f"{torch.__version__}, torchvision {torchvision.__version__}, {threads} thread{'s' if threads > 1 else ''}",
    )


def try_cuda() -> Check:
    """Whether a GPU is available and works."""
    import torch

    if not torch.cuda.is_available():
        return Check("CUDA", "note", "torch finds no GPU: everything runs on the CPU")
    torch.ones(2, device="cuda").sum().item()  # raises if the build has no kernels for this GPU
    names = {torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())}
    return Check("CUDA", "ok", f"{torch.cuda.device_count()} x {', '.join(sorted(names))}, CUDA {torch.version.cuda}")


def try_torchattacks() -> Check:
    """Whether torchattacks' FGSM moves an image by epsilon."""
    import torch
    import torchattacks

    with torch.random.fork_rng(devices=[]):  # the caller's random state is not changed
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2)).eval()
    images = torch.full((1, 3, 2, 2), 0.5)
    moved = torchattacks.FGSM(model, eps=0.1)(images, torch.zeros(1, dtype=torch.int64))
    if not torch.allclose((moved - images).abs(), torch.full_like(images, 0.1), atol=1e-6):
        return problem("torchattacks", "its FGSM does not move an image by epsilon", "torchattacks")
    return Check("torchattacks", "ok", f"{version('torchattacks')}, FGSM works")


def try_robustbench() -> Check:
    """Whether RobustBench can be imported and has its `benchmark`."""
    from ibrobust.integrations.robustbench.environment import adapt_robustbench, provides_pkg_resources

    adapt_robustbench()
    import robustbench

    if not callable(getattr(robustbench, "benchmark", None)):
        return problem("RobustBench", "its function benchmark is missing", "robustbench")
    stand_in = ", with a stand-in for pkg_resources" if provides_pkg_resources() else ""
    return Check("RobustBench", "ok", f"imports, benchmark can be called{stand_in}")


def try_timm() -> Check:
    """Whether timm can download weights; only models of the form timm:NAME need this."""
    import timm  # noqa: F401  # a missing timm is none that cannot download

    from ibrobust.integrations.robustbench.environment import adapt_timm

    try:
        adapted = adapt_timm()
    except IbrobustError as error:
        problem, _, command = str(error).rpartition(": ")
        return Check("timm", "note", problem, command.rstrip("."))
    stand_in = f", adapted to huggingface_hub {version('huggingface_hub')}" if adapted else ""
    return Check("timm", "ok", f"{version('timm')}, can download{stand_in}")


def try_autoattack() -> Check:
    """The AutoAttack for RobustBench, and whether it breaks a linear model."""
    import torch

    from ibrobust.integrations.robustbench.autoattack_module import AutoAttack, real_autoattack

    genuine = real_autoattack()
    if genuine is not None:
        return Check("AutoAttack", "ok", f"the installed autoattack in {genuine}")
    # The fork preserves the caller's random state.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        linear = torch.nn.Linear(12, 4)
        linear.weight.copy_(torch.eye(4, 12))
        linear.bias.copy_(torch.tensor([0.01, 0.0, 0.0, 0.0]))  # class 0, by a small margin
    model = torch.nn.Sequential(torch.nn.Flatten(), linear).eval()
    adversary = AutoAttack(
        model,
        eps=0.1,
        seed=0,
        verbose=False,
        version="custom",
        attacks_to_run=["apgd-ce"],
        device="cpu",
    )
    adversary.apgd.n_iter = 5
    labels = torch.zeros(1, dtype=torch.int64)
    images = adversary.run_standard_evaluation(torch.full((1, 3, 2, 2), 0.5), labels)
    if not isinstance(images, torch.Tensor) or adversary.clean_accuracy(images, labels) != 0:
        return problem("AutoAttack", "it does not break a linear model", "pyautoattack")
    return Check("AutoAttack", "ok", f"pyautoattack {version('pyautoattack')} through ibrobust's adapter, works")


TRIALS: dict[str, Callable[[], Check]] = {
    "torch": try_torch,
    "CUDA": try_cuda,
    "torchattacks": try_torchattacks,
    "RobustBench": try_robustbench,
    "timm": try_timm,
    "AutoAttack": try_autoattack,
}
