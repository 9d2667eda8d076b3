"""An attack about as strong as AutoAttack, with a fraction of its passes."""

from ibrobust.evaluation.worst_case_attack.guards import EXTRA_ATTACKS
from ibrobust.evaluation.worst_case_attack.result import StageRecord, WorstCaseResult
from ibrobust.evaluation.worst_case_attack.run import AVERAGED, STRAIGHT_THROUGH, judge_of, worst_case_attack

__all__ = [
    "AVERAGED",
    "EXTRA_ATTACKS",
    "STRAIGHT_THROUGH",
    "StageRecord",
    "WorstCaseResult",
    "judge_of",
    "worst_case_attack",
]
