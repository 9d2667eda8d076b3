"""All stages, one after the other, each on the unbroken images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ibrobust.epsilon import read_radius
from ibrobust.evaluation.attacks.autoattack import autoattack
from ibrobust.evaluation.attacks.result import are_bits, from_bits, to_bits
from ibrobust.evaluation.attacks.state import AttackLog
from ibrobust.evaluation.ball import Ball
from ibrobust.evaluation.grad_mode import GRAD_MODE, grad_mode_flags
from ibrobust.evaluation.gradient_lines import unexplained_at_random, unexplained_shares
from ibrobust.evaluation.guarded_model import GuardedModel, guard
from ibrobust.evaluation.inputs import ArrayLike, check_batch_size, images_and_labels, unit_range
from ibrobust.evaluation.logit_distance import BATCH_DEPENDENT, COMPARED, draws_random_numbers, logits_depend_on
from ibrobust.evaluation.model_state import evaluation_mode, model_device, model_reference
from ibrobust.evaluation.pass_counter import Cost, counting_passes
from ibrobust.evaluation.predictions import count_classes
from ibrobust.evaluation.straight_through import PROBED, Cuts, gradient_cuts
from ibrobust.evaluation.worst_case_attack import guards, stages
from ibrobust.evaluation.worst_case_attack.result import StageRecord, WorstCaseResult
from ibrobust.evaluation.worst_case_attack.search import Search, judging
from ibrobust.isolated_rng import isolated_rng
from ibrobust.live_line import LiveLine, following
from ibrobust.seeds import check_seed, evaluation_seed
from ibrobust.spread import evenly_spaced

DRAWS = 8  # of a stochastic model for a gradient; four times as many say whether an image is broken
AGAIN = 4  # times as many draws, where a broken image is judged once more
STRAIGHT_THROUGH, AUTOATTACK = "straight-through", "AutoAttack"  # names of stages
AVERAGED = "The model draws random numbers: it was attacked and judged through averages over draws."


def worst_case_attack(
    model: nn.Module,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    epsilon: float | str,
    norm: str = "Linf",
    surrogate: nn.Module | None = None,
    seed: int = 0,
    batch_size: int = 250,
    queries: int | None = None,
    escalate: bool = False,
    progress: bool | Callable[[str, int, int], None] | None = None,
    log: AttackLog | None = None,
    key: Mapping[str, Any] | None = None,
) -> WorstCaseResult:
    """Return the images that stay correct in the worst case at `epsilon`, with adversarial images for the others.

    Each stage attacks the images that earlier stages did not break: the margin from the image; the margin from a better
    start; the ratio loss towards each class through shrinking balls; further steps, slower balls and last steps for
    images near another class; attacks without gradients, and FAB on a few. If the model cuts its gradient, for example
    by rounding, the stages are repeated with a gradient that passes straight through. If gradients are zero or NaN or
    do not raise the margin, or do not add up along lines, or if a gradient that is averaged over the ball, attacks
    without the model's gradient or the surrogate's images break what it left, the number is an upper bound. Random
    restarts, more queries on all that is left and FAB on more images then follow. If better starts and targets break
    more than 3% of the correct images after the untargeted steps, the gradient misleads: FAB then runs on more images,
    and the number is an upper bound if FAB breaks more than 0.2% of the images.
    Model mode, parameter gradients and random state are restored afterwards.

    A model that draws random numbers is attacked through its logits' mean over 8 draws (EOT, expectation over
    transformation). An image counts as correct or broken by the mean over 32 draws, and at last a broken one by that
    over 128 new draws: many points were tried, and each had a chance to be wrong by luck. So the result is that of the
    averaged classifier, not of a single draw. Its number is always called an upper bound.

    Stages attack fewer and fewer images together. So a model whose logits for an image depend on the others of its
    batch gets a warning, and its number is called an upper bound too. The same holds for a model that gives other
    logits when a gradient is taken.

    Args:
        model: images (B, C, H, W) in [0, 1] -> logits (B, K), on its own device; any module.
        images: (N, C, H, W) floats in [0, 1], or uint8 in [0, 255].
        labels: (N,) integers in [0, K).
        epsilon: radius in [0, 1] pixel scale, above 0, in L2 also above 1; a number or text such as 8/255.
        norm: Linf or L2.
        surrogate: another classifier of the same images, on the same device; images that break it are starting points.
        seed: of all random numbers.
        batch_size: images per batch.
        queries: limit of Square's queries on all remaining images together, if gradients mislead; at least 100 per
            image are made. By default 2,000 per image.
        escalate: run AutoAttack on the remaining images.
        progress: whether to show it; by default in a notebook or on a terminal. Or a function, called with (name of the
            stage, images that are left to attack, correct images without an attack) at the start of each stage, and
            after each batch of AutoAttack.
        log: the finished steps of an interrupted run with `escalate`, from `run_attacks` with a `state_path`: what the
            stages before AutoAttack found, and each batch of AutoAttack. It has to keep images.
        key: tells this run's steps from those of other runs in the log.

    Raises:
        IbrobustError: an argument is not of that form, or a model's output is not (B, K) logits.

    Examples:
        >>> import ibrobust
        >>> import torch
        >>> model = torch.nn.Flatten()  # images of two pixels: the brighter pixel is the class
        >>> images = torch.tensor([[0.2, 0.8], [0.55, 0.45]]).reshape(2, 1, 1, 2)
        >>> ibrobust.worst_case_attack(model, images, [1, 0], epsilon=0.1).robust_correct
        (True, False)
    """
    ball = Ball(norm, read_radius(epsilon, norm=norm))
    batch_size, seed = check_batch_size(batch_size), check_seed(seed)
    images, labels = images_and_labels(images, labels)
    guarded, other = guard(model), None if surrogate is None else guard(surrogate)
    points = unit_range(images, model_reference(guarded))
    targets = labels.to(model_device(guarded)).long()
    with ExitStack() as stack:
        report = stack.enter_context(following(progress, "worst case", _described))
        stack.enter_context(evaluation_mode(model, seed=seed))
        if surrogate is not None and other is not None:
            stack.enter_context(evaluation_mode(surrogate))
            count_classes(other, points, targets)
        count_classes(guarded, points, targets)
        with counting_passes(guarded) as counter:
            by_grad_mode = grad_mode_flags(guarded, points[:batch_size])
            with isolated_rng():  # the attack's draws do not depend on how many this takes
                depends = logits_depend_on(guarded, points[: min(batch_size, COMPARED)])
                probed = evenly_spaced(len(points), min(len(points), PROBED), points.device)
                cuts = gradient_cuts(guarded, points[probed], ball, batch_size=batch_size)
                by_lines = () if depends else _lines(guarded, points, batch_size)
            with clean_draws(seed):
                search = Search(guarded, DRAWS if depends == "draws" else 1, points, targets, ball, batch_size)
        run = _Run(search, other, seed, report, [StageRecord("clean", len(points), 0, counter(), Cost(0, 0))])
        if escalate:
            log, key = log or AttackLog(), key or {}
            before = log.step(
                {**key, "part": "before AutoAttack"},
                lambda: run.to_fields(run.own_stages(cuts, by_lines, queries=queries, advice="")),
                run.is_mine,
            )
            warnings = (*run.restore(before), *run.autoattack(log, key))
        else:
            warnings = run.own_stages(cuts, by_lines, queries=queries, advice=": give escalate=true")
        if depends == "batch":
            warnings = (BATCH_DEPENDENT, *warnings)
        # Both may say that the logits change with a gradient.
        warnings = tuple(dict.fromkeys((*by_grad_mode, *search.probabilities, *cuts.warnings, *warnings)))
        run.judge_again()
    robust = search.clean & ~search.broken
    return WorstCaseResult(
        norm=norm,
        epsilon=ball.epsilon,
        clean_correct=tuple(search.clean.tolist()),
        robust_correct=tuple(robust.tolist()),
        broken_by=tuple(run.records[number].name if number else "" for number in run.broken_in),
        stages=tuple(run.records),
        warnings=warnings,
        escalated=escalate,
        seed=seed,
        adversarial=search.adversarial,
        nonfinite_gradient=tuple((search.nonfinite & search.clean).tolist()),
    )


def _lines(model: GuardedModel, images: Tensor, batch_size: int) -> tuple[str, ...]:
    between = unexplained_shares(model, images, batch_size=batch_size)
    return guards.line_warnings(between, unexplained_at_random(model, images, batch_size=batch_size))


def _described(line: LiveLine) -> Callable[[str, int, int], None]:
    return lambda stage, left, clean: line.show(clean - left, clean, f"{stage}, {left} images are left")


def _stage_record(fields: dict[str, Any]) -> StageRecord:
    costs = (Cost(**fields[name]) for name in ("cost", "surrogate_cost"))
    return StageRecord(fields["name"], fields["attacked"], fields["broken"], *costs)


class _Run:
    """One search, stage by stage, with a record of each."""

    def __init__(
        self,
        search: Search,
        surrogate: GuardedModel | None,
        seed: int,
        on_progress: Callable[[str, int, int], None] | None,
        records: list[StageRecord],
    ) -> None:
        self.search, self.surrogate, self.seed, self.on_progress = search, surrogate, seed, on_progress
        self.records = records
        # For each image, the position in `records` of the stage that broke it; 0, the clean images', if none did.
        self.broken_in = [0] * len(search.images)

    def own_stages(self, cuts: Cuts, by_lines: Sequence[str], *, queries: int | None, advice: str) -> tuple[str, ...]:
        """Run every stage but AutoAttack; return the warnings, with advice after FAB's."""
        search, surrogate = self.search, self.surrogate
        self.stage("untargeted", lambda: stages.untargeted(search))
        by_untargeted = len(search.left)
        if surrogate is not None:
            self.stage("surrogate start", lambda: stages.from_surrogate(search, surrogate))
        else:
            self.stage("larger ball", lambda: stages.from_larger_ball(search))
        self.stage("targets", lambda: stages.towards_each_class(search))
        self.stage("further steps", lambda: stages.further_steps(search))
        self.stage("shrinking ball", lambda: stages.shrinking_slowly(search))
        self.stage("last steps", lambda: stages.last_steps(search))
        misled = by_untargeted - len(search.left) > guards.MISLED * int(search.clean.sum())
        past_cuts = 0
        if cuts.operations:
            past_cuts = self.stage(STRAIGHT_THROUGH, lambda: stages.straight_through(search, in_place=cuts.in_place))
        warnings = partial(
            guards.warnings,
            search,
            by_untargeted=by_untargeted,
            cuts=cuts.operations,
            past_cuts=past_cuts,
            by_lines=by_lines,
        )
        by_fab = 0  # as long as it is not many
        if misled:
            # Before the attacks without a gradient: those cost more, and FAB breaks most of what is left. It goes on
            # to the images further away as long as it breaks some.
            broken = self._fab(guards.MORE_FAB, continues=True)
            if broken > guards.TOLERATED * len(search.images):
                by_fab = broken + self._fab(guards.FAB_FURTHER)
        watched = guards.watched(search)
        by_others = {name: self._extra_attack(name, watched) for name in guards.EXTRA_ATTACKS}
        by_guards = self._without_gradient(watched, guards.QUERIES)
        fired = bool(by_guards or warnings(by_guards=by_guards, by_others=by_others))
        if fired:
            seed = evaluation_seed(self.seed, "random restarts")
            self.stage("random restarts", lambda: stages.random_restarts(search, seed))
            for name in (name for name, broken in by_others.items() if broken):
                by_others[name] += self._extra_attack(name, search.left, more=True)
            more = guards.MORE_QUERIES
            if queries is not None:
                more = min(more, max(queries // max(len(search.left), 1), guards.QUERIES))
            by_guards += self._without_gradient(search.left, more)
        if not misled:
            effort, left = guards.MORE_FAB if fired else guards.FAB, len(search.left)
            broken = self._fab(effort)
            if guards.fab_breaks_many(broken, left, effort, len(search.images)):
                by_fab = broken + self._fab(guards.MORE_FAB, continues=True)
        found = warnings(by_guards=by_guards, by_others=by_others)
        if by_fab:
            images = "an image" if by_fab == 1 else f"{by_fab} images"
            found = (*found, f"FAB broke {images} that the other gradient stages left{advice}.")
        if len(search.rejected):  # a model may give other logits with a gradient only to attacked images
            found = (*grad_mode_flags(search.model, search.rejected), *found)
        return found if search.target is search.model else (AVERAGED, *found)

    def _fab(self, effort: guards.FabEffort, *, continues: bool = False) -> int:
        return self.stage(
            "FAB-T", lambda: guards.fast_adaptive_boundary(self.search, effort=effort, continues=continues)
        )

    def _extra_attack(self, name: str, positions: Tensor, *, more: bool = False) -> int:
        """Return the number of images at `positions` that one of `guards.EXTRA_ATTACKS` broke."""
        search = self.search
        if search.target is not search.model:  # its draws are averaged already, and the number is an upper bound
            return 0
        return self.stage(name, lambda: guards.EXTRA_ATTACKS[name].attack(search, positions, self.seed, more))

    def _without_gradient(self, positions: Tensor, queries: int) -> int:
        """Return the number of images at `positions` that attacks without gradients broke."""
        search = self.search
        broken = self.stage(
            "random corners",
            lambda: guards.random_corners(search, positions, evaluation_seed(self.seed, "random corners", queries)),
        )
        broken += self.stage(
            "Square",
            lambda: guards.search_by_square(search, positions, evaluation_seed(self.seed, "Square", queries), queries),
        )
        return broken

    def to_fields(self, warnings: tuple[str, ...]) -> dict[str, Any]:
        """Return what the stages found so far, for a log."""
        search = self.search
        return {
            "broken in": list(self.broken_in),
            "nonfinite": to_bits(tuple(search.nonfinite.tolist())),
            "stages": [asdict(record) for record in self.records],
            "warnings": list(warnings),
            "images": search.adversarial[search.broken],
        }

    def is_mine(self, fields: dict[str, Any]) -> bool:
        """Return whether a log's fields can be those of `to_fields`."""
        size, names = len(self.broken_in), [_stage_record(stage).name for stage in fields["stages"]]
        places = fields["broken in"]
        return (
            len(places) == size
            and all(isinstance(place, int) and 0 <= place < len(names) for place in places)
            and are_bits(fields["nonfinite"], size)
            and all(isinstance(warning, str) for warning in fields["warnings"])
        )

    def restore(self, fields: dict[str, Any]) -> tuple[str, ...]:
        """Take over what `to_fields` returned, perhaps in an earlier run; return its warnings."""
        self.broken_in = list(fields["broken in"])
        self.records = [_stage_record(stage) for stage in fields["stages"]]
        broken = torch.tensor(self.broken_in) > 0
        self.search.restore(broken, torch.tensor(from_bits(fields["nonfinite"])), fields["images"])
        return tuple(fields["warnings"])

    def autoattack(self, log: AttackLog, key: Mapping[str, Any]) -> tuple[str, ...]:
        """Run AutoAttack, batch by batch as in the log; return its warnings."""
        search, flags = self.search, list[str]()
        left, clean = search.left, int(search.clean.sum())

        def show(share: float) -> None:
            if self.on_progress:
                self.on_progress(AUTOATTACK, round((1 - share) * len(left)), clean)

        def work() -> None:
            outcome = autoattack(
                guard(search.target),
                search.images[left],
                search.labels[left],
                epsilon=search.ball.epsilon,
                norm=search.ball.norm,
                version="standard" if search.target is search.model else "rand",
                batch_size=search.batch_size,
                seed=self.seed,
                log=log,
                key=key,
                keep_images=True,
                progress=show,
            )
            assert outcome.adversarial is not None
            # Its warnings that the logits depend on the batch or on gradients are given once, for all stages.
            flags.extend(flag for flag in outcome.flags if flag not in (BATCH_DEPENDENT, GRAD_MODE))
            found = search.ball.project(outcome.adversarial.to(search.images), search.images[left])
            for at, candidates in zip(search.batches(left), found.split(search.batch_size), strict=True):
                search.offer(at, candidates)

        self.stage(AUTOATTACK, work)
        return tuple(f"AutoAttack warns: {flag}" for flag in flags)

    def judge_again(self) -> None:
        """Judge the broken images of a model that draws random numbers on draws that had no part in breaking them.

        Each of many candidates had a chance to be wrong by luck. The last one is moved beyond the boundary if possible,
        and if it is then right, its image counts as unbroken.
        """
        search, positions = self.search, self.search.broken.nonzero()[:, 0]
        if search.judge is search.model or len(positions) == 0:
            return
        with counting_passes(search.model) as counter, isolated_rng(evaluation_seed(self.seed, "judged again")):
            stages.beyond_the_boundary(search, positions)
            judge = judging(search.model, AGAIN * DRAWS)
            lucky = torch.cat([at[search.withdraw(at, judge)] for at in search.batches(positions)])
        for position in lucky.tolist():
            record = self.records[self.broken_in[position]]
            self.records[self.broken_in[position]] = replace(record, broken=record.broken - 1)
            self.broken_in[position] = 0
        self.records.append(StageRecord("judged again", len(positions), 0, counter(), Cost(0, 0)))

    def stage(self, name: str, work: Callable[[], None]) -> int:
        """Run a stage, record it, and return the number of images that it broke."""
        search, before = self.search, self.search.left
        if self.on_progress:
            self.on_progress(name, len(before), int(search.clean.sum()))
        if len(before) == 0:
            return 0
        with ExitStack() as stack:
            counter = stack.enter_context(counting_passes(search.model))
            other = None if self.surrogate is None else stack.enter_context(counting_passes(self.surrogate))
            stack.enter_context(isolated_rng(evaluation_seed(self.seed, name)))
            work()
        fell = before[search.broken[before]].tolist()
        for position in fell:
            self.broken_in[position] = len(self.records)
        cost = Cost(0, 0) if other is None else other()
        self.records.append(StageRecord(name, len(before), len(fell), counter(), cost))
        return len(fell)


def clean_draws(seed: int) -> AbstractContextManager[None]:
    """Return the block in which an attack with this seed judges the images without an attack, on draws of its own.

    An audit judges them on the same draws, so that both find the same images correct.
    """
    return isolated_rng(evaluation_seed(seed, "clean"))


def judge_of(model: nn.Module, images: Tensor) -> nn.Module:
    """Return the judge of images (B, C, H, W): the model, or its logits' mean over draws."""
    return judging(model, DRAWS) if draws_random_numbers(model, images[:COMPARED]) else model
