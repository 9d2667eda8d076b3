"""The two answers of an audit, in words, and how a table shows and ranks them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# Is the robustness real? The best answer first.
ROBUSTNESS = ("real", "partly real", "undecided", "not real")
# Did the gradient vanish? The best answer first.
GRADIENT = ("honest", "random", "misleading", "vanishing")
OLDER = "older audit: "


@dataclass(frozen=True)
class Verdict:
    """What an audit answered.

    Attributes:
        robustness: one of `ROBUSTNESS`; "" if an older audit was made.
        gradient: one of `GRADIENT`; "" if an older audit was made.
        older: the one word of an audit that did not give these answers, such as sound; else "".
    """

    robustness: str
    gradient: str
    older: str = ""

    @property
    def text(self) -> str:
        """Both answers, "not real, misleading"; or "older audit: sound"."""
        return f"{OLDER}{self.older}" if self.older else f"{self.robustness}, {self.gradient}"

    @property
    def is_honest(self) -> bool:
        """Whether the audit found no fault with the gradient, which would mislead attacks in every norm."""
        if self.older:
            answers = read_verdict(self.older)  # an older audit may have given the same answers, by other rules
            return self.older != "masked" if answers is None or answers.older else answers.is_honest
        return self.gradient == "honest"

    @property
    def may_be_best(self) -> bool:
        """Whether an accuracy under attack of this model, in L-infinity, may be marked as the best of its column."""
        answers = read_verdict(self.older) if self.older else self
        return self.is_honest and (answers is None or answers.robustness != "not real")

    @property
    def tone(self) -> str:
        """A word for colours: real, partly, undecided, not or older. `real` needs an honest gradient too."""
        if self.older:
            return "older"
        if self.robustness == "real" and self.gradient != "honest":
            return "undecided"
        return self.robustness.split()[0]

    @property
    def rank(self) -> tuple[int, int]:
        """A key that sorts the most trustworthy first; older audits come between `partly real` and `undecided`."""
        if self.older:
            return (2 if self.may_be_best else 3), 0
        places = {"real": 0, "partly real": 1, "undecided": 3, "not real": 4}
        return places[self.robustness], GRADIENT.index(self.gradient)


@dataclass(frozen=True)
class Audited:
    """An audit of a model with one decoder, at an epsilon in L-infinity; None if this is unknown."""

    decoder: str
    epsilon: float | None
    verdict: Verdict


def speak_against(audits: Iterable[Audited], epsilon: float, norm: str = "Linf") -> bool:
    """Return whether a model's audits rule out that its accuracy at an epsilon is the best, whatever its decoder.

    All decoders have one encoder: what an audit says of one of them is a doubt about all. Audits are in L-infinity, so
    in another norm only a gradient that is not honest counts, at any epsilon.
    """
    if norm != "Linf":
        return not all(audit.verdict.is_honest for audit in audits)
    return bool(doubts(audits, epsilon))


def doubts(audits: Iterable[Audited], epsilon: float) -> list[Audited]:
    """Return the audits that rule out that a model's accuracy at an epsilon in L-infinity is the best.

    Of each decoder, the audits at this epsilon count, or all of its audits if there is none at this epsilon.
    """
    of_decoders: dict[str, list[Audited]] = {}
    for audit in audits:
        of_decoders.setdefault(audit.decoder, []).append(audit)
    return [
        audit
        for of_it in of_decoders.values()
        for audit in [each for each in of_it if each.epsilon == epsilon] or of_it
        if not audit.verdict.may_be_best
    ]


def read_verdict(text: str) -> Verdict | None:
    """Return the verdict that a record or a card holds as `text`; None if it holds none.

    It reads its own `Verdict.text`. What is not two of today's answers was written by an older audit.

    Examples:
        >>> read_verdict("not real, misleading").gradient
        'misleading'
        >>> read_verdict("sound").text
        'older audit: sound'
    """
    robustness, _, gradient = text.partition(", ")
    if robustness in ROBUSTNESS and gradient in GRADIENT:
        return Verdict(robustness, gradient)
    return Verdict("", "", text.removeprefix(OLDER)) if text else None
