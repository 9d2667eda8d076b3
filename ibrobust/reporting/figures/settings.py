"""The settings that the cells of one line share, their names, and their grouping into panels."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ibrobust.records import UNKNOWN, StudyRecord

HEAD = "head"
DECODER_NAMES = {
    "gaussian_mixture": "Gaussian-mixture decoder",
    "logistic": "logistic decoder",
    "resfc": "network (ResFC) decoder",
    HEAD: "head trained with the encoder",
}
OBJECTIVE_NAMES = {
    "dib": "DIB",
    "dvib": "DVIB",
    "ceb": "CEB",
    "cross_entropy": "cross-entropy",
    "adversarial": "adversarial training",
}
NOISE_WORDS = {True: "noise", False: "no noise", None: ""}


@dataclass(frozen=True)
class Setting:
    """The common settings of the cells of one line: everything in the records except the seed.

    `decoder` is set, for the legend, if a baseline is not drawn with the decoder of its panel.
    """

    objective: str
    beta: float | None
    noise: bool | None
    dropout: float | None
    dropconnect: float | None
    width: int | None
    epochs: int | None
    other: str
    decoder: str = ""

    @property
    def is_baseline(self) -> bool:
        """Whether the objective has no bottleneck; such lines are black."""
        return self.beta is None

    def label(self) -> str:
        """Return a name that distinguishes the lines of one panel."""
        if self.beta is not None:
            return ", ".join(filter(None, [f"β = {self.beta:g}", NOISE_WORDS[self.noise]]))
        parts = []
        if self.dropout:
            parts.append(f"dropout {self.dropout:g}")
        if self.dropconnect:
            parts.append(f"DropConnect {self.dropconnect:g}")
        # In the field, a regulariser's name alone means that it is added to cross-entropy.
        if (self.objective != "cross_entropy" or not parts) and not (self.objective == UNKNOWN and self.other):
            parts.insert(0, OBJECTIVE_NAMES.get(self.objective, self.objective))
        name = ", ".join(filter(None, [" + ".join(parts), self.other]))
        return f"{name} ({self.decoder.replace('_', ' ')})" if self.decoder else name


def told_apart(settings: Iterable[Setting]) -> dict[Setting, Setting]:
    """Return each setting; a baseline's name says how it differs from its namesakes and from the models beside it."""
    found = list(dict.fromkeys(settings))
    baselines = [setting for setting in found if setting.is_baseline]
    variants = {variant_of(setting) for setting in found if not setting.is_baseline}
    named = {}
    for setting in found:
        namesakes = [other for other in baselines if other.label() == setting.label()]
        beside = [variant for variant in variants if fits(setting, variant, baselines)]
        words = []
        for field in ("noise", "width", "epochs"):
            own, others = getattr(setting, field), namesakes if field == "noise" else [*namesakes, *beside]
            if setting.is_baseline and own is not None and any(getattr(other, field) != own for other in others):
                words.append(NOISE_WORDS[own] if field == "noise" else f"{field} {own}")
        named[setting] = replace(setting, other=", ".join(filter(None, [setting.other, *words])))
    return named


def setting_of(record: StudyRecord) -> Setting:
    """Return the settings of a record, without its seed."""
    return Setting(
        objective=record.objective,
        beta=record.beta,
        noise=record.noise,
        dropout=record.dropout,
        dropconnect=record.dropconnect,
        width=record.width,
        epochs=record.epochs,
        other=record.setting,
    )


def variant_of(setting: Setting) -> Setting:
    """Return the common settings of the bottleneck models on one panel: all except beta and noise."""
    return replace(setting, beta=None, noise=None)


def variant_names(settings: Iterable[Setting]) -> dict[Setting, tuple[str, ...]]:
    """Return, in words, the difference between each variant of the bottleneck models and the others."""
    variants = dict.fromkeys(variant_of(setting) for setting in settings if not setting.is_baseline)
    names = {}
    for variant in variants:
        words = []
        if len({other.objective for other in variants}) > 1:
            words.append(OBJECTIVE_NAMES.get(variant.objective, variant.objective))
        for field in ("dropout", "dropconnect", "width", "epochs"):
            if len({getattr(other, field) for other in variants}) > 1:
                words.append(f"{field} {getattr(variant, field)}")
        if len({other.other for other in variants}) > 1 and variant.other:
            words.append(variant.other)
        names[variant] = tuple(words)
    return names


def fits(baseline: Setting, variant: Setting, baselines: Iterable[Setting]) -> bool:
    """Return whether a baseline belongs beside a variant: with its width and epochs, if one of its kind has them."""
    alike = (variant.width, variant.epochs)
    of_its_kind = [(other.width, other.epochs) for other in baselines if _kind(other) == _kind(baseline)]
    return (baseline.width, baseline.epochs) == alike or alike not in of_its_kind


def _kind(baseline: Setting) -> tuple[Any, ...]:
    return baseline.objective, baseline.dropout, baseline.dropconnect


def order(setting: Setting) -> tuple[float, bool, bool, str, float, float]:
    """Return the sort key of a setting: by beta, with noise before without, plain cross-entropy first."""
    return (
        -1.0 if setting.beta is None else setting.beta,
        setting.noise is False,
        setting.objective != "cross_entropy",
        setting.objective,
        setting.dropout or 0.0,
        setting.dropconnect or 0.0,
    )


def hidden_settings(records: Iterable[StudyRecord]) -> bool:
    """Return whether some cells of one line share their seed too, so that they differ in something not recorded."""
    cells: dict[tuple[Setting, int | None], set[str]] = {}
    for record in records:
        cells.setdefault((setting_of(record), record.seed), set()).add(record.cell)
    return any(len(names) > 1 for names in cells.values())


def betas_of(records: Iterable[StudyRecord]) -> tuple[float, ...]:
    """Return the betas, rising."""
    return tuple(sorted({record.beta for record in records if record.beta is not None}))


def decoder_name(decoder: str) -> str:
    """Return a decoder's name for readers."""
    return DECODER_NAMES.get(decoder, decoder)


def averaged_over(cells: Collection[int], records: Sequence[StudyRecord]) -> str | None:
    """Return a description of the points as means, such as "mean of 3 seeds"; None if no point is a mean.

    Args:
        cells: number of averaged cells of each point.
        records: behind the points.
    """
    fewest, most = min(cells), max(cells)
    if most < 2:
        return None
    what = "cells, which differ in more than their seed" if hidden_settings(records) else "seeds"
    return f"mean of {most if fewest == most else f'{fewest} to {most}'} {what}"
