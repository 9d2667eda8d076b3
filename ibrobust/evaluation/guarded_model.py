"""The one way to a model: every call that an evaluation makes goes through a `GuardedModel`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.model_state import attack_dtype, floating_dtypes
from ibrobust.evaluation.predictions import check_logits

# What torch says to a forward pass that calls `x.numpy()` where a gradient is asked for.
_NO_NUMPY = "numpy() on Tensor that requires grad"


class GuardedModel(nn.Module):
    """Any classifier, made safe to attack: images (B, C, H, W) in [0, 1] -> logits (B, K), B >= 0.

    - The model gets a copy of the images, so that its in-place operations change nothing of the caller's.
    - The copy has the dtype that the model takes: float32 if it does, else that of its parameters. Logits come back
      as float32, or float64 if the model gives that, on the images' device. So an attack moves float32 images
      whatever the model computes in.
    - The logits always have a gradient in images that ask for one: zero if the model cuts the graph. The gradient is
      contiguous and has the images' dtype.
    - The model sees no empty batch, and an image twice if it takes no batch of one.
    - What the model raises is said in one sentence.

    Args:
        model: to be used in evaluation mode; see `evaluation_mode`, which alone changes its mode.

    Raises:
        IbrobustError: the model is no module, is not initialised, or was made where nothing can have a gradient.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise IbrobustError(
                f"The model is a {type(model).__name__}: a torch.nn.Module is needed, which may call it in its "
                "forward pass."
            )
        tensors = (*model.parameters(), *model.buffers())
        if any(is_lazy(tensor) for tensor in tensors):
            raise IbrobustError("The model has parameters that are not initialised yet: call it on some images first.")
        if any(tensor.is_inference() for tensor in tensors):
            raise IbrobustError(
                "The model was made in torch.inference_mode(), where nothing has a gradient: make it outside, or "
                "give copy.deepcopy(model), made outside."
            )
        self.training = False
        self.model = model
        self._num_classes: int | None = None
        # What the model takes, found out at the first call: only what worked remains.
        self._dtypes = tuple(dict.fromkeys([attack_dtype(model), torch.float32, *floating_dtypes(model)]))
        self._copies: tuple[int, ...] = (1, 2)

    def train(self, mode: bool = True) -> GuardedModel:
        """Do nothing: attack libraries switch modes, and would switch parts that are to stay in evaluation mode."""
        del mode
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K), a new tensor."""
        if len(images) == 0 and self._num_classes is not None:
            logits = images.new_zeros(0, self._num_classes)
        else:
            logits = self._ask(images)
            self._num_classes = logits.shape[1]
        # Zero, with a zero gradient: so there always is one.
        return logits + images[:0].sum()

    def _ask(self, images: Tensor) -> Tensor:
        first: Exception | None = None
        for copies in self._copies if len(images) == 1 else (1,):
            for dtype in self._dtypes:
                try:
                    logits = self._logits(images.expand(copies, *images.shape[1:]) if copies > 1 else images, dtype)
                except IbrobustError:
                    raise
                except Exception as error:  # a model that is not ours may raise anything
                    first = first or error
                    continue
                self._dtypes = (dtype,)
                if len(images) == 1:
                    self._copies = (copies,)
                return logits[: len(images)]
        assert first is not None
        raise IbrobustError(
            f"The model cannot classify images of shape {tuple(images.shape)} ({_words(first)}): give it a batch that "
            "it takes, or correct its forward pass."
        ) from first

    def _logits(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        points = images.to(dtype, copy=True)
        if points.requires_grad:
            # There is no gradient at all if the model has a graph in which the images' part leads nowhere.
            points.register_hook(lambda gradient: None if gradient is None else gradient.contiguous())
        try:
            logits = self.model(points)
        except RuntimeError as error:
            if not points.requires_grad or _NO_NUMPY not in str(error):
                raise
            logits = self.model(images.detach().to(dtype, copy=True))
        logits = check_logits(logits, images)
        if not logits.is_floating_point():
            logits = logits.double()  # votes and other counts, exactly
        return logits.to(images.device, torch.promote_types(logits.dtype, torch.float32))


class LibraryModel(GuardedModel):
    """The same for attack libraries, which take it that logits have the images' dtype. What counts is asked without."""

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K)."""
        return super().forward(images).to(images.dtype)


def guard(model: nn.Module) -> GuardedModel:
    """Return the model behind a guard; as it is if it is behind one."""
    return model if isinstance(model, GuardedModel) else GuardedModel(model)


def image_gradient(value: Tensor, images: Tensor) -> Tensor:
    """Return the gradient (B, C, H, W) in the images of `value` (), which is made of a guarded model's logits.

    Raises:
        IbrobustError: the model's backward pass fails.
    """
    try:
        (gradient,) = torch.autograd.grad(value, images)
    except Exception as error:  # as in the forward pass
        raise IbrobustError(
            f"The model's gradient cannot be taken ({_words(error)}): correct its backward pass, or "
            "detach what has none."
        ) from error
    return gradient


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def unguard(model: nn.Module) -> nn.Module:
    """Return the model itself, whose forward pass can be read."""
    return model.model if isinstance(model, GuardedModel) else model
