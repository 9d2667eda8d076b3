"""Outside models, by reference: ``robustbench:``, ``timm:`` or ``module:``."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn

from ibrobust.devices import check_device
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.model_state import model_device
from ibrobust.evaluation.predictions import check_logits
from ibrobust.function_names import function_by_name, importable, short_reason
from ibrobust.home import home
from ibrobust.integrations.references import FORMS, check_reference
from ibrobust.integrations.robustbench.environment import adapt_robustbench, adapt_timm
from ibrobust.models import Normalized
from ibrobust.suggestions import a_type, no_such_model


def load_reference(
    reference: str,
    *,
    device: str | torch.device | None = None,
    num_classes: int | None = None,
    channels: int = 3,
    image_size: tuple[int, int] | None = None,
) -> nn.Module:
    """Return the model of a reference: images (B, 3, H, W) in [0, 1] -> logits (B, C), in evaluation mode.

    Args:
        reference: ``robustbench:NAME`` or ``robustbench:DATASET/THREAT/NAME`` of RobustBench's model zoo,
            ``timm:NAME`` of timm's pretrained models, ``module:function`` of a function without arguments
            that returns an nn.Module and is imported as Python imports, from the current folder too.
        device: of the model; the CPU by default.
        num_classes: C that the caller requires.
        channels: of the images that the caller requires.
        image_size: (H, W) that the caller requires.

    Raises:
        IbrobustError: the model does not exist, its weights are missing and cannot be downloaded, or it does not take
            such images or give such logits.
    """
    check_reference(reference)
    scheme, _, name = reference.partition(":")
    loaders: dict[str, Callable[[str], nn.Module]] = {"robustbench": _load_robustbench, "timm": _load_timm}
    model = loaders[scheme](name) if scheme in loaders else _call_function(scheme, name)
    model_device(model)  # it has weights
    model = model.to(check_device(device or "cpu")).eval()
    if image_size is not None:
        _require_fit(reference, model, (channels, *image_size), num_classes)
    return model


class UnitRangeInput(Normalized):
    """A model that expects normalised images, made to take images (B, 3, H, W) in [0, 1] of its own size.

    Args:
        model: normalised images -> logits (B, C).
        mean: of each channel, in [0, 1] scale.
        std: standard deviation of each channel, in [0, 1] scale.
        image_size: (H, W) that the model was trained on.
        name: for messages.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        image_size: tuple[int, int],
        name: str,
    ) -> None:
        super().__init__(model, mean, std)
        self.image_size = image_size
        self.name = name

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of images (B, 3, H, W) in [0, 1]; raise IbrobustError for another size."""
        if tuple(images.shape[-2:]) != self.image_size:
            height, width = self.image_size
            raise IbrobustError(
                f"{self.name} was trained on {width}x{height} images but got {images.shape[-1]}x{images.shape[-2]}: "
                f"give a data set of that size{f', or `resize` {height}' if height == width else ''}."
            )
        return super().forward(images)


def _load_timm(name: str) -> nn.Module:
    adapt_timm()
    import timm

    if not timm.is_model(name):
        raise no_such_model("timm", name, timm.list_models())
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            model = timm.create_model(name, pretrained=True)
    except IbrobustError:
        raise
    # timm and its download library raise many types of errors: offline, unknown tag, damaged file.
    except Exception as error:
        raise IbrobustError(
            f"The weights of timm:{name} are not in the Hugging Face cache and could not be downloaded "
            f"({short_reason(error)}): check the name and the network."
        ) from error
    config = model.pretrained_cfg
    if not config.get("mean") or not config.get("std") or not config.get("input_size"):
        raise IbrobustError(
            f"timm does not give the normalisation of timm:{name}: wrap the model in a function (module:function)."
        )
    height, width = config["input_size"][1:]
    return UnitRangeInput(
        model,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        image_size=(height, width),
        name=f"timm:{name}",
    )


def robustbench_models_dir() -> Path:
    """Return the folder of RobustBench's weights: its own ``./models`` if that has a data set's, else one of ours."""
    customary = Path("models")
    has_weights = any((customary / name).is_dir() for name in ("cifar10", "cifar100", "imagenet"))
    return customary if has_weights else home() / "robustbench"


def _load_robustbench(name: str) -> nn.Module:
    from ibrobust.integrations.robustbench import run_benchmark as robustbench

    dataset, threat_model, name = robustbench.find_zoo_model(name)
    folder = robustbench_models_dir()
    output = io.StringIO()
    try:
        # Older versions of torch unpickle any file by default.
        with (
            patch.dict(os.environ, {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
        ):
            return robustbench.load_zoo_model(name, folder, dataset, threat_model)
    except IbrobustError:
        raise
    # torch raises many types of errors for a damaged file.
    except Exception as error:
        file = folder / dataset / threat_model / f"{name}.pt"
        where = str(file if file.exists() else f"{file}_m*.pt")  # of a model that is several
        if "Unsupported global" in str(error):
            raise IbrobustError(
                f"The weights in {where!r} hold Python objects, which ibrobust does not unpickle, since they may run "
                "code: if you trust the file, load the model in a function of your own and give module:function."
            ) from error
        raise IbrobustError(
            f"The weights in {where!r} cannot be loaded ({short_reason(error)}): remove the file, so that it is "
            "downloaded again, or replace it."
        ) from error


def _call_function(module_name: str, function_name: str) -> nn.Module:
    reference = f"{module_name}:{function_name}"
    # The function may import RobustBench. An autoattack in the current folder takes precedence.
    with patch.object(sys, "path", [*sys.path, str(Path.cwd())]), contextlib.suppress(IbrobustError):
        adapt_robustbench()
    function = function_by_name(reference, f"The model {reference!r}", forms=FORMS)
    try:
        with importable(None):
            model = function()
    except Exception as error:
        raise IbrobustError(f"{reference} fails when it is called without arguments: {short_reason(error)}") from error
    if not isinstance(model, nn.Module):
        raise IbrobustError(f"{reference} returns {a_type(model)}: return the torch.nn.Module itself.")
    return model


def _require_fit(reference: str, model: nn.Module, shape: tuple[int, int, int], num_classes: int | None) -> None:
    reading = next((each for each in model.parameters() if each.is_floating_point()), torch.empty(0))
    images = torch.full((2, *shape), 0.5, device=reading.device, dtype=reading.dtype)
    try:
        with torch.no_grad():
            logits = model(images)
    except IbrobustError:
        raise
    except Exception as error:
        remedy = ""
        if _takes(model, images.permute(0, 2, 3, 1)):
            remedy = ", but it takes (H, W, C): in its forward pass, begin with images.permute(0, 2, 3, 1)"
        raise IbrobustError(
            f"The model {reference!r} does not take images of shape {tuple(images.shape[1:])} "
            f"({short_reason(error)}){remedy}."
        ) from error
    try:
        got = tuple(check_logits(logits, images).shape)
    except IbrobustError as error:
        raise IbrobustError(f"{reference!r}: {error}") from error
    if num_classes is not None and got[1] != num_classes:
        raise IbrobustError(
            f"The model {reference!r} gives {got} for 2 images, but logits of shape {(2, num_classes)} are needed: "
            "choose a data set with the model's classes."
        )


def _takes(model: nn.Module, images: Tensor) -> bool:
    try:
        with torch.no_grad():
            check_logits(model(images), images)
    except Exception:  # whatever it does with images of another shape
        return False
    return True
