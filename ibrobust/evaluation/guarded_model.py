"""The wrapper of every model in an evaluation: all its calls go through a `GuardedModel`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.logit_distance import COMPARED, draws_random_numbers
from ibrobust.evaluation.model_state import attack_dtype, floating_dtypes, set_evaluation_mode
from ibrobust.evaluation.predictions import check_logits
from ibrobust.full_precision import default_dtype
from ibrobust.isolated_rng import isolated_rng
from ibrobust.suggestions import a_type

# torch's message if a forward pass calls `x.numpy()` on an image with a gradient.
_NO_NUMPY = "numpy() on Tensor that requires grad"


class GuardedModel(nn.Module):
    """Any classifier, made safe to attack: images (B, C, H, W) in [0, 1] -> logits (B, K), B >= 0.

    - The model gets a copy of the images, so that its in-place operations do not change the caller's images.
    - The copy has the dtype that the model takes: float32 if it does, else that of its parameters. Logits come back
      as float32, or float64 if the model gives that, on the images' device. So an attack changes float32 images,
      whatever the model's precision.
    - The logits always have a gradient for images that require one: zero if the model cuts the graph. The gradient is
      contiguous and has the images' dtype.
    - The model never gets an empty batch; if it rejects a batch of one, it gets the image twice.
    - An error in the model is reported in one sentence.

    Args:
        model: in evaluation mode; only `evaluation_mode` changes its mode.

    Raises:
        IbrobustError: the model is not a module, is not initialised, or was made in inference mode, so that it has no
            gradients.
    """

    def __init__(self, model: object) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise _no_module(model)
        tensors = (*model.parameters(), *model.buffers())
        if any(is_lazy(tensor) for tensor in tensors):
            raise IbrobustError("The model has parameters that are not initialised yet: call it on some images first.")
        if any(tensor.is_inference() for tensor in tensors):
            raise IbrobustError(
                "The model was made in torch.inference_mode(), in which nothing has a gradient: make it outside, or "
                "give copy.deepcopy(model), made outside."
            )
        self.training = False
        self.model = model
        self._num_classes: int | None = None
        # The dtypes that the model accepts, found at the first call.
        self._dtypes = tuple(dict.fromkeys([attack_dtype(model), torch.float32, *floating_dtypes(model)]))
        self._copies: tuple[int, ...] = (1, 2)
        self._is_random: bool | None = None
        self._half_logits = False

    def train(self, mode: bool = True) -> GuardedModel:
        """Do nothing: attack libraries switch modes, also of parts that must stay in evaluation mode."""
        del mode
        return self

    def eval(self) -> GuardedModel:
        """Put the model inside in evaluation mode."""
        set_evaluation_mode(self.model)
        return self

    @property
    def in_half_precision(self) -> bool:
        """Whether its parameters, or the logits of its last call, are in float16 or another short dtype."""
        return self._half_logits or any(dtype.itemsize < 4 for dtype in floating_dtypes(self.model))

    def is_random(self, images: Tensor) -> bool:
        """Return whether passes over the same images (B, C, H, W) differ; only the first call looks."""
        if self._is_random is None:
            with isolated_rng():
                self._is_random = draws_random_numbers(self, images[:COMPARED])
        return self._is_random

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K), a new tensor."""
        if len(images) == 0 and self._num_classes is not None:
            logits = images.new_zeros(0, self._num_classes)
        else:
            logits = self._ask(images)
            self._num_classes = logits.shape[1]
        # Zero, with a zero gradient, so that a gradient always exists.
        return logits + images[:0].sum()

    def _ask(self, images: Tensor) -> Tensor:
        first: Exception | None = None
        for copies in self._copies if len(images) == 1 else (1,):
            for dtype in self._dtypes:
                try:
                    logits = self._logits(images.expand(copies, *images.shape[1:]) if copies > 1 else images, dtype)
                except IbrobustError as error:
                    if isinstance(first, IbrobustError):
                        raise first from first.__cause__
                    if len(images) > 1 or copies == self._copies[-1]:
                        raise
                    first = error  # the output of one image may lack its first dimension
                    break
                except Exception as error:  # an outside model may raise any error
                    first = first or error
                    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
                        raise self._refusal(images, first) from first  # half precision would fit, and be another model
                    continue
                self._dtypes = (dtype,)
                if len(images) == 1:
                    self._copies = (copies,)
                return logits[: len(images)]
        assert first is not None
        if isinstance(first, IbrobustError):
            raise first
        raise self._refusal(images, first) from first

    @staticmethod
    def _refusal(images: Tensor, error: Exception) -> IbrobustError:
        remedy = (
            "correct its forward pass, or, if it takes images of another size, give ibrobust.resized(model, that size)"
        )
        if images.dim() == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
            remedy = "the channels come second, so give images.permute(0, 3, 1, 2)"
        return IbrobustError(
            f"The model cannot classify images of shape {tuple(images.shape)} ({_words(error)}): {remedy}."
        )

    def _logits(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        points = images.to(dtype, copy=True)
        if points.requires_grad:
            # The gradient is None if the model's graph does not reach the images.
            points.register_hook(lambda gradient: None if gradient is None else gradient.contiguous())
        try:
            logits = self.model(points)
        except RuntimeError as error:
            if not points.requires_grad or _NO_NUMPY not in str(error):
                raise
            logits = self.model(images.detach().to(dtype, copy=True))
        logits = check_logits(logits, images)
        if not logits.is_floating_point():
            # Votes and other counts, exactly; MPS has no float64.
            logits = logits.float() if logits.device.type == "mps" else logits.double()
        self._half_logits = logits.dtype.itemsize < 4
        return logits.to(images.device, torch.promote_types(logits.dtype, torch.float32))


def _no_module(given: object) -> IbrobustError:
    hint = f"; ibrobust.load_model({given!r}) loads a stored one" if isinstance(given, str) else ""
    return IbrobustError(
        f"The model is {a_type(given)}: a torch.nn.Module is needed, which may call it in its forward pass{hint}."
    )


class LibraryModel(GuardedModel):
    """A guard for attack libraries, which expect logits in the images' dtype. Final classifications do not use it.

    The libraries run with float32 as torch's default dtype; the model runs with the one it had when the guard was made.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._default_dtype = torch.get_default_dtype()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K)."""
        with default_dtype(self._default_dtype):
            return super().forward(images).to(images.dtype)


def guard(model: nn.Module) -> GuardedModel:
    """Return the model in a guard; unchanged if it is a guard already."""
    return model if isinstance(model, GuardedModel) else GuardedModel(model)


def image_gradient(value: Tensor, images: Tensor) -> Tensor:
    """Return the gradient (B, C, H, W) of `value` (), computed from a guarded model's logits, in the images.

    Raises:
        IbrobustError: the model's backward pass fails.
    """
    try:
        (gradient,) = torch.autograd.grad(value, images)
    except Exception as error:  # as in the forward pass
        raise IbrobustError(
            f"The model's gradient cannot be taken ({_words(error)}): correct its backward pass, or "
            "detach the parts without a gradient."
        ) from error
    return gradient


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def unguard(model: nn.Module) -> nn.Module:
    """Return the model inside the guard, for reading its forward pass."""
    return model.model if isinstance(model, GuardedModel) else model
