"""The rule for a correct classification."""

from __future__ import annotations

from torch import Tensor


def is_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (B,) bool: the label's logit is the largest, and it is a number.

    argmax gives some class even if every logit is NaN or -inf, so such an image could be right by luck. It counts
    as wrong. Other classes' logits may be -inf, which rules those classes out.

    Args:
        logits: (B, K).
        labels: (B,) in [0, K).
    """
    own = logits.gather(1, labels[:, None])[:, 0]  # (B,)
    return (logits.argmax(dim=1) == labels) & own.isfinite() & ~logits.isnan().any(dim=1)
