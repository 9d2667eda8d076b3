"""RobustBench, made to work, with the registered models in it.

Importing this module adapts the environment in memory (see `environment`). RobustBench's own functions then work:

    import ibrobust.integrations.robustbench as rb
    rb.register()
    from robustbench import load_model
    model = load_model("NAME", dataset="cifar10", threat_model="Linf")
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from ibrobust.card_results import BENCHMARK, benchmark_key
from ibrobust.epsilon import format_epsilon, read_radius
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.option_types import NORMS
from ibrobust.evaluation.guarded_model import LibraryModel, guard
from ibrobust.evaluation.inputs import check_batch_size
from ibrobust.evaluation.model_state import evaluation_mode, model_device
from ibrobust.function_names import short_reason
from ibrobust.home import expanded
from ibrobust.integrations.external_models import UnitRangeInput
from ibrobust.integrations.references import is_reference, no_such_zoo_model
from ibrobust.integrations.robustbench.environment import adapt_robustbench, imported_quietly
from ibrobust.integrations.robustbench.images import BenchmarkImages, benchmark_images
from ibrobust.live_line import LiveLine, following
from ibrobust.readable import Readable, percent
from ibrobust.registry import ModelCard, add_evaluations, load_model, model_card
from ibrobust.registry.provenance import hardware, library_versions
from ibrobust.seeds import check_seed, whole_number

adapt_robustbench()

with imported_quietly():
    import robustbench.data
    import robustbench.eval
    import robustbench.utils
    from robustbench.model_zoo import model_dicts
    from robustbench.model_zoo.enums import BenchmarkDataset

    from ibrobust.integrations import timm as timm_integration
    from ibrobust.integrations.robustbench.autoattack_module import AutoAttack, EvaluationState


@dataclass(frozen=True, repr=False)
class BenchmarkResult(Readable):
    """The result of RobustBench's `benchmark`, with its settings.

    Attributes:
        model: its name, or its class for a module that was given without one.
        decoder: of a registered model.
        dataset: of the images.
        dataset_fingerprint: of it.
        first_images: whether the images are the first of it, and not evenly spaced.
        threat_model: ``Linf`` or ``L2``.
        epsilon: radius in [0, 1] pixel scale.
        total: number of images.
        clean_correct: images that are correct without an attack.
        robust_correct: images that are correct under AutoAttack.
        seed: of the attacks.
        batch_size: of the attacks, whose random draws depend on it.
        flags: warnings of AutoAttack's checks; with any warning, the robust accuracy is not reliable.
        hardware: processor or GPU.
        versions: of the libraries.
    """

    model: str
    decoder: str | None
    dataset: str
    threat_model: str
    epsilon: float
    total: int
    clean_correct: int
    robust_correct: int
    seed: int
    batch_size: int
    flags: tuple[str, ...]
    hardware: str
    versions: dict[str, str]
    dataset_fingerprint: str
    first_images: bool = False

    @property
    def clean_accuracy(self) -> float:
        """Accuracy in [0, 1] without an attack."""
        return self.clean_correct / self.total

    @property
    def robust_accuracy(self) -> float:
        """Robust accuracy in [0, 1]."""
        return self.robust_correct / self.total

    @property
    def upper_bound(self) -> bool:
        """Whether other attacks may break more images, by a warning of AutoAttack's checks."""
        return bool(self.flags) and self.robust_correct > 0

    def _sentence(self) -> str:
        bound = "at most " if self.upper_bound else ""
        warned = f"; AutoAttack warns: {'; '.join(self.flags)}" if self.flags else ""
        return (
            f"{self.model}: {percent(self.clean_accuracy)} of {self.total:,} images of {self.dataset} clean, "
            f"AutoAttack at {self.threat_model} {format_epsilon(self.epsilon, norm=self.threat_model)} leaves "
            f"{bound}{percent(self.robust_accuracy, is_bound=self.upper_bound)}{warned}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the result in the plain types of YAML and JSON."""
        accuracies = {"clean_accuracy": self.clean_accuracy, "robust_accuracy": self.robust_accuracy}
        return asdict(self) | {"flags": list(self.flags), "upper_bound": self.upper_bound} | accuracies


def register() -> dict[str, tuple[str, ...]]:
    """Make all registered models loadable by RobustBench's `load_model`; return model -> names in timm.

    They also appear in its `model_dicts`, hence in its listings. A model that would hide one of RobustBench's
    or timm's own is left out with a warning. Nothing is downloaded, and nothing is loaded yet.
    """
    reserved = {
        timm_integration.timm_name(name, dataset.value, threat_model.value)
        for dataset, listings in model_dicts.items()
        for threat_model, listing in listings.items()
        for name, entry in listing.items()
        if not isinstance(entry["model"], _Loader)
    }
    offered = timm_integration.register(reserved=reserved)
    for name in offered:
        dataset = timm_integration.dataset_of(len(model_card(name).dataset.class_names))
        for listing in model_dicts[BenchmarkDataset(dataset)].values():
            # RobustBench would download from gdrive_id; it asks timm before it looks at this.
            listing[name] = {"model": _Loader(name), "gdrive_id": None}
    return offered


@dataclass(frozen=True)
class _Loader:
    name: str

    def __call__(self) -> nn.Module:
        return load_model(self.name)


def benchmark(
    model: str | nn.Module,
    *,
    eps: float | str,
    n_examples: int | None = None,
    threat_model: str = "Linf",
    data_dir: str | Path | None = None,
    batch_size: int = 250,
    device: str | torch.device | None = None,
    seed: int = 0,
    decoder: str | None = None,
    name: str | None = None,
    state_path: str | Path | None = None,
    log_path: str | Path | None = None,
    progress: bool | Callable[[str], None] | None = None,
) -> BenchmarkResult:
    """Return the result of RobustBench's own `benchmark`: clean accuracy, and accuracy under AutoAttack.

    Args:
        model: name of a registered model, or a module: images (B, 3, H, W) in [0, 1] -> logits (B, C), with C of 10
            or 100.
        eps: epsilon, in [0, 1] pixel scale.
        n_examples: number of test images: the first of CIFAR-10 and CIFAR-100, as RobustBench takes them, or evenly
            spaced ones of an image folder, which is sorted by class. All by default.
        threat_model: ``Linf`` or ``L2``.
        data_dir: folder with CIFAR-10 or CIFAR-100 in RobustBench's layout (it holds ``cifar-10-batches-py`` or
            ``cifar-100-python``), or an image folder ``train/<class>/*``, ``test/<class>/*``. By default the model's
            own data set, and for a module CIFAR-10 or CIFAR-100, by its number of classes.
        batch_size: of the attacks.
        device: by default that of the model, and the CPU for a name.
        seed: of the attacks; RobustBench itself uses the time.
        decoder: of a registered model; its first by default.
        name: for the record, of a module.
        state_path: file for the progress; an existing one is resumed.
        log_path: file to which AutoAttack's messages are appended.
        progress: whether to show the last line of output; by default in a notebook or on a terminal. Or a function,
            called with every line of output of RobustBench and AutoAttack.

    Raises:
        IbrobustError: the model, epsilon, threat model, data or a number do not fit, or the images are missing.
    """
    if threat_model not in NORMS:
        raise IbrobustError(f"The threat model {threat_model!r} is unknown: choose one of {', '.join(NORMS)}.")
    if decoder is not None and not isinstance(model, str):
        raise IbrobustError(f"A module has no choice of decoders: leave `decoder` {decoder!r} out.")
    eps = read_radius(eps, norm=threat_model)
    batch_size, seed = check_batch_size(batch_size), check_seed(seed)
    if n_examples is not None:
        n_examples = _number_of_images(n_examples)
    if isinstance(model, str) and is_reference(model):
        raise IbrobustError(
            f"{model!r} is a reference, but a module or the name of a stored model is needed: give "
            f"ibrobust.integrations.external_models.load_reference({model!r})."
        )
    card = model_card(model) if isinstance(model, str) else None
    module = load_model(model, decoder=decoder, device=device) if isinstance(model, str) else model
    target = torch.device(device) if device is not None else model_device(module)
    folder = None if data_dir is None else expanded(data_dir)
    of_cifar = torch.full((2, 3, 32, 32), 0.5)
    with evaluation_mode(module):
        images = benchmark_images(card, folder, n_examples, lambda: _num_outputs(module, of_cifar, target))
        _require_classes(module, card, images, target)
    adversaries: list[AutoAttack] = []

    def seeded(model: nn.Module, **options: Any) -> AutoAttack:
        adversaries.append(AutoAttack(model, seed=seed, **options))
        return adversaries[-1]

    dataset = BenchmarkDataset(timm_integration.dataset_of(len(images.class_names)))
    loaders = {dataset: lambda *_: (images.images, images.labels)}
    with (
        following(progress, "AutoAttack", _described) as report,
        evaluation_mode(module),
        patch.dict(robustbench.data._clean_dataset_loaders, loaders),
        # Also in place of an installed `autoattack`, so that a model has one number.
        patch.multiple(robustbench.eval, AutoAttack=seeded, EvaluationState=EvaluationState),
        contextlib.redirect_stdout(_Lines(report)),
    ):
        robustbench.eval.benchmark(
            LibraryModel(module),
            n_examples=len(images.labels),
            dataset=dataset,
            threat_model=threat_model,
            eps=eps,
            device=target,
            batch_size=batch_size,
            aa_state_path=None if state_path is None else Path(state_path),
            log_path=None if log_path is None else str(log_path),
        )
    outcome = adversaries[0].outcome
    assert outcome is not None
    return BenchmarkResult(
        model=card.name if card is not None else name or type(model).__name__,
        decoder=(decoder or card.decoders[0]) if card is not None else None,
        dataset=images.source,
        threat_model=threat_model,
        epsilon=eps,
        total=len(images.labels),
        clean_correct=int(outcome.clean_correct.sum()),
        robust_correct=int(outcome.robust_correct.sum()),
        seed=seed,
        batch_size=batch_size,
        flags=outcome.flags,
        hardware=hardware(target),
        versions={**library_versions(), "pyautoattack": version("pyautoattack")},
        dataset_fingerprint=images.fingerprint,
        first_images=images.are_first,
    )


def _described(line: LiveLine) -> Callable[[str], None]:
    return lambda message: line.show(0, None, message) if message else None


def store(result: BenchmarkResult) -> str:
    """Store a result in the card of its registered model; return its key there.

    If the card holds a result on the same images that leaves fewer of them, with another seed, that one stays.

    Raises:
        IbrobustError: the model was given as a module, is not in the registry, or ships with ibrobust.
    """
    if result.decoder is None:
        raise IbrobustError(
            f"The result of {result.model!r} is of a module, which may not be the stored model of that name: call "
            "benchmark with the name of a stored model."
        )
    record = result.to_dict()
    card = add_evaluations(result.model, {BENCHMARK: {result.decoder: record}})
    return benchmark_key(card.evaluations, result.decoder, record, card.dataset.fingerprint)


def find_zoo_model(name: str) -> tuple[str, str, str]:
    """Return (data set, threat model, name) of a model in RobustBench's zoo.

    Args:
        name: ``NAME``, searched for among the models for CIFAR-10 and Linf first, or
            ``DATASET/THREAT/NAME``.

    Raises:
        IbrobustError: no model or several models have this name.
    """
    zoo = [
        (dataset.value, threat_model.value, entry)
        for dataset, listings in model_dicts.items()
        for threat_model, listing in listings.items()
        for entry in listing
    ]
    found = [place for place in zoo if name in (place[2], "/".join(place))]
    preferred = [place for place in found if place[:2] == ("cifar10", "Linf")]
    if len(found) == 1 or preferred:
        return (preferred or found)[0]
    if found:
        choices = " or ".join("robustbench:" + "/".join(place) for place in found)
        raise IbrobustError(f"RobustBench has several models {name!r}: choose {choices}.")
    raise no_such_zoo_model(name, {place[2] for place in zoo})


def load_zoo_model(name: str, folder: Path, dataset: str, threat_model: str) -> nn.Module:
    """Return the model from RobustBench's `load_model`, which downloads weights that are missing in `folder`.

    Raises:
        IbrobustError: the weights are missing and cannot be downloaded.
    """
    download = robustbench.utils.download_gdrive_new

    def whole(gdrive_id: str, target: str | Path) -> None:
        """Download a file completely or not at all: a part of it would be taken for the weights next time."""
        target = Path(target)
        try:
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
                download(gdrive_id, Path(temporary) / target.name)
                (Path(temporary) / target.name).replace(target)
        # gdown and requests raise many types of errors: offline, over quota.
        except Exception as error:
            raise IbrobustError(
                f"The weights of robustbench:{name} are not in {str(target)!r} and could not be downloaded "
                f"({short_reason(error)}): check the network, or put the file there."
            ) from error

    with imported_quietly(), patch.object(robustbench.utils, "download_gdrive_new", whole):
        model: nn.Module = robustbench.utils.load_model(
            name, model_dir=folder, dataset=dataset, threat_model=threat_model
        )
    return model


def _number_of_images(n_examples: object) -> int:
    number = whole_number(n_examples)
    if number is None or number < 1:
        raise IbrobustError(f"n_examples is {n_examples!r}: give a whole number of at least 1.")
    return number


def _require_classes(module: nn.Module, card: ModelCard | None, images: BenchmarkImages, device: torch.device) -> None:
    if card is not None and card.dataset.class_names != images.class_names:
        raise IbrobustError(
            f"The model {card.name!r} was trained on {card.dataset.name!r}, whose classes are not those of "
            f"{images.source!r}: leave `data_dir` out, or give a folder of the model's own images."
        )
    classes = _num_outputs(module, images.images[:2], device)
    if classes != len(images.class_names):
        raise IbrobustError(
            f"The model has {classes} classes, but {images.source!r} has {len(images.class_names)}: give images of the "
            "model's classes as `data_dir`."
        )


def _num_outputs(module: nn.Module, images: Tensor, device: torch.device) -> int:
    """Return the number of classes of a model of such images."""
    height, width = images.shape[-2:]
    own = module.image_size if isinstance(module, UnitRangeInput) else None
    if own is not None and own != (height, width):
        raise IbrobustError(
            f"{module.name} was trained on {own[1]}x{own[0]} images, but these are {width}x{height}: give images of "
            "that size as `data_dir`."
        )
    with torch.no_grad():
        return guard(module.to(device))(images.to(device)).shape[1]


class _Lines(io.TextIOBase):
    """A text stream that hands on whole lines."""

    def __init__(self, receive: Callable[[str], None] | None) -> None:
        super().__init__()
        self._receive = receive
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        if self._receive is not None:
            for line in lines:
                self._receive(line)
        return len(text)
