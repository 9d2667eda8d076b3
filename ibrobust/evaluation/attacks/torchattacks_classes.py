"""torchattacks' attacks by class name: their options, requirements, inputs and results."""

from __future__ import annotations

import functools
import inspect
import io
from contextlib import redirect_stdout
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field, create_model, model_validator
from torch import Tensor, nn

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.attack import Found, NamedAttack
from ibrobust.evaluation.attacks.option_types import Count, NotNegative, Positive, PositiveShare, Share
from ibrobust.evaluation.attacks.text_form import RADIUS_OPTIONS, Value
from ibrobust.evaluation.attacks.watched_model import WatchedModel, judged_by_gradients
from ibrobust.evaluation.model_state import model_device
from ibrobust.full_precision import default_dtype

_NORMS = {
    **dict.fromkeys(("CW", "PGDL2", "PGDRSL2", "DeepFool", "EADEN"), "L2"),
    "EADL1": "L1",
    **dict.fromkeys(("SparseFool", "OnePixel", "Pixle", "JSMA"), "L0"),
}
_GRADIENT_FREE = {"VANILA", "GN", "Square", "SPSA", "OnePixel", "Pixle"}
# Their kernels are made for three channels.
_THREE_CHANNELS = {"TIFGSM", "PIFGSM", "PIFGSMPP"}
# DLR compares with the third largest logit, its targeted form with the fourth.
_FEWEST_CLASSES = {"ce": 2, "margin": 2, "dlr": 3}
# Filled in by ibrobust: the radius from the list of epsilons, the number of classes from the model.
_RESERVED = (*RADIUS_OPTIONS, "model", "n_classes", "verbose", "seed")


def _not_zero(value: float) -> float:
    if value == 0:
        raise ValueError("JSMA's option theta is 0: a number from -1 to 1 other than 0 is needed.")
    return value


# What their numbers may be, by the option's name: torchattacks checks none of them. It writes defaults such as c=1 and
# scale=10 for numbers that need not be whole; such a field takes both kinds, and keeps the one that it was given.
NUMBERS: dict[str, Any] = {
    # Sizes of steps and weights of losses.
    **dict.fromkeys(("alpha", "lr", "delta", "c", "initial_const", "scale", "amplification"), Positive),
    **dict.fromkeys(("nsig", "resize_rate"), Positive),
    # 0 is the attack without momentum, confidence, overshoot, noise or penalty.
    **dict.fromkeys(("decay", "momentum", "kappa", "overshoot", "std", "noise_sd", "beta"), NotNegative),
    "project_factor": NotNegative,
    **dict.fromkeys(("steps", "n_iter", "nb_iter", "num_iter_set", "max_iterations", "binary_search_steps"), Count),
    **dict.fromkeys(("restarts", "n_restarts", "n_queries", "eot_iter", "nb_sample", "N", "m"), Count),
    **dict.fromkeys(("inf_batch", "max_batch_size", "noise_batch_size", "batch_max"), Count),
    **dict.fromkeys(("pixels", "popsize", "len_kernel"), Count),
    **dict.fromkeys(("diversity_prob", "prob", "rho", "alpha_max"), Share),
    **dict.fromkeys(("p_init", "gamma"), PositiveShare),
    # Factors by which a step goes beyond the boundary.
    **dict.fromkeys(("eta", "lam"), Annotated[float, Field(ge=1)]),
    # The change of a pixel, up or down.
    "theta": Annotated[float, Field(ge=-1, le=1), AfterValidator(_not_zero)],
    # Keeps a division by the gradient's norm finite; a large one would make the step vanish.
    "eps_for_division": Annotated[float, Field(gt=0, le=1e-6)],
    "GN.std": Positive,  # its only effect
    "FAB.beta": PositiveShare,  # of the way back to the image
}


class TorchattacksAttack(NamedAttack):
    """A class of torchattacks; see `torchattacks_class`."""

    @model_validator(mode="after")
    def _runs_together(self) -> TorchattacksAttack:
        """Reject options that exclude each other."""
        option = vars(self)
        if self.name == "FAB" and option["norm"] == "L1":
            raise ValueError("torchattacks' FAB has no L1 result: give norm=Linf or norm=L2.")
        if self.name in ("EADL1", "EADEN") and option["abort_early"] and option["max_iterations"] < 10:
            raise ValueError(
                f"{self.name} with max_iterations={option['max_iterations']} cannot abort early, which it checks ten "
                "times: give at least 10 or abort_early=false."
            )
        if self.name in ("PGDRS", "PGDRSL2") and option["batch_max"] < option["noise_batch_size"]:
            raise ValueError(
                f"{self.name}'s batch_max={option['batch_max']} is smaller than noise_batch_size="
                f"{option['noise_batch_size']}, the number of copies of one image: give at least that."
            )
        return self

    def check_fit(self, *, channels: int, num_classes: int) -> None:
        """Raise IbrobustError if the attack cannot work on images of so many channels or with so few classes."""
        if self.name in _THREE_CHANNELS and channels != 3:
            raise IbrobustError(
                f"{self.label} works on images with 3 channels, but these have {channels}: leave this attack out."
            )
        fewest = 4 if self.name == "APGDT" else _FEWEST_CLASSES.get(getattr(self, "loss", "ce"), 2)
        if num_classes < fewest:
            raise IbrobustError(
                f"{self.label} needs {fewest} classes, but the model has {num_classes}: leave this attack out."
            )

    def find(self, model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, seed: int) -> Found:
        """Return adversarial images (B, C, H, W); see `judged_by_gradients` for the warnings.

        Raises:
            IbrobustError: torchattacks cannot run it, or does not return images.
        """
        signature = _signature(self.name)
        arguments = self.options
        arguments |= {option: epsilon for option in RADIUS_OPTIONS if option in signature}
        if "seed" in signature:
            arguments["seed"] = seed
        with torch.no_grad():
            num_classes = model(images[:1]).shape[1]
        if "n_classes" in signature:
            arguments["n_classes"] = num_classes
        watched = WatchedModel(model, len(images))
        with default_dtype(torch.float32):
            adversarial = self._run(watched, images, labels, arguments, num_classes)
        return judged_by_gradients(
            watched,
            adversarial,
            images,
            labels,
            label=self.label,
            minimal=self.minimal,
            gradient_free=self.name in _GRADIENT_FREE,
        )

    def _run(
        self, model: nn.Module, images: Tensor, labels: Tensor, arguments: dict[str, Any], num_classes: int
    ) -> Tensor:
        # torchattacks views gradients as if they were contiguous; the guard makes them so.
        import torchattacks

        try:
            with redirect_stdout(io.StringIO()):  # torchattacks reports progress by print
                attack = getattr(torchattacks, self.name)(model, **arguments)
                attack.set_device(model_device(model))
                if self.name == "JSMA":  # its own targets are the next of ten classes
                    attack.set_mode_targeted_by_function(lambda _, labels: (labels + 1) % num_classes, quiet=True)
                adversarial: Tensor = attack(images.contiguous(), labels).detach().to(images)
        except (MemoryError, torch.cuda.OutOfMemoryError):
            raise
        except Exception as error:  # any error of its code, or of the model on its images
            if isinstance(error, IbrobustError) and error.__cause__ is None:
                raise
            reason = error.__cause__ if isinstance(error, IbrobustError) else error
            why = " ".join(str(reason).split()) or type(reason).__name__
            raise IbrobustError(
                f"torchattacks cannot run {self.label} ({why}): correct its options, or leave this attack out."
            ) from error
        if adversarial.shape != images.shape:
            raise IbrobustError(
                f"{self.label} gave images of shape {tuple(adversarial.shape)} for {tuple(images.shape)}: its result "
                "is not counted. Leave this attack out."
            )
        return adversarial


@functools.cache
def torchattacks_class(name: str) -> type[TorchattacksAttack]:
    """Return the attack of a torchattacks class, with the class's own options and defaults as fields."""
    fields: dict[str, Any] = {}
    for key, default in _signature(name).items():
        # Pixle's pairs of numbers cannot be written as an option.
        if key not in _RESERVED and isinstance(default, Value):
            fields[key] = (_option_type(name, key, default), default)
    if "norm" not in fields:
        fields["norm"] = (ClassVar[str], _NORMS.get(name, "Linf"))
    fields["minimal"] = (ClassVar[bool], not set(RADIUS_OPTIONS) & set(_signature(name)))
    return create_model(name, __base__=TorchattacksAttack, __doc__=f"torchattacks' {name}.", **fields)


def _option_type(name: str, key: str, default: Value) -> Any:
    if key == "noise_type":
        return Literal["guassian", "uniform"]
    if isinstance(default, bool | str):
        return type(default)
    kind = NUMBERS.get(f"{name}.{key}", NUMBERS.get(key, Annotated[float, Field()]))
    whole_is_enough = isinstance(default, int) and kind.__origin__ is float
    return Annotated[(int | float, *kind.__metadata__)] if whole_is_enough else kind


def _signature(name: str) -> dict[str, Any]:
    """Return every argument of a torchattacks class but the model, with its default."""
    import torchattacks

    parameters = inspect.signature(getattr(torchattacks, name)).parameters
    return {key: parameter.default for key, parameter in parameters.items() if key != "model"}
