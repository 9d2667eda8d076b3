"""A logistic-regression decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ibrobust.errors import IbrobustError
from ibrobust.full_precision import default_dtype

MAX_ITERATIONS = 2000


class LogisticDecoder(nn.Linear):
    """Latents (B, D) -> logits (B, C), one linear layer."""


@default_dtype(torch.float32)
def fit_logistic(latents: Tensor, labels: Tensor, num_classes: int) -> LogisticDecoder:
    """Return the multinomial logistic regression of labels on latents, with a unit L2 penalty.

    The latents are standardised for the fit, so that the penalty does not depend on their scale; the decoder takes
    them as they are.

    Args:
        latents: (N, D) clean latents.
        labels: (N,) int64 in [0, C), every class present.
        num_classes: C.

    Raises:
        IbrobustError: a label is not in [0, C), or a class has no latents.
    """
    from sklearn.linear_model import LogisticRegression

    points = latents.detach().double().cpu()
    mean = points.mean(dim=0)
    scale = points.std(dim=0, correction=0)
    scale[scale == 0] = 1.0  # a constant latent has no information, but must not make the others NaN
    classes = torch.unique(labels).tolist()
    if outside := [label for label in classes if not 0 <= label < num_classes]:
        raise IbrobustError(
            f"A label is {outside[0]}, and there are {num_classes} classes: give labels from 0 to {num_classes - 1}."
        )
    present = len(classes)
    if present != num_classes:
        raise IbrobustError(f"Only {present} of {num_classes} classes have training images: every class needs some.")
    fitted = LogisticRegression(max_iter=MAX_ITERATIONS).fit(((points - mean) / scale).numpy(), labels.cpu().numpy())
    weight = torch.from_numpy(fitted.coef_)  # (C, D), or (1, D) for two classes
    bias = torch.from_numpy(fitted.intercept_)
    if num_classes == 2:  # scikit-learn gives the logit of the second class alone
        weight = torch.cat([torch.zeros_like(weight), weight])
        bias = torch.cat([torch.zeros_like(bias), bias])
    weight = weight / scale
    bias = bias - weight @ mean
    decoder = LogisticDecoder(points.shape[1], num_classes)
    with torch.no_grad():
        decoder.weight.copy_(weight)
        decoder.bias.copy_(bias)
    return decoder.to(latents.device)
