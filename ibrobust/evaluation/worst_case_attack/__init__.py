"""An attack about as strong as AutoAttack, with a fraction of its passes."""

from ibrobust.evaluation.worst_case_attack.guards import OTHER_WAYS
from ibrobust.evaluation.worst_case_attack.result import StageRecord, WorstCaseResult
from ibrobust.evaluation.worst_case_attack.run import AVERAGED, STRAIGHT_THROUGH, judge_of, worst_case_attack

__all__ = [
    "AVERAGED",
    "OTHER_WAYS",
    "STRAIGHT_THROUGH",
    "StageRecord",
    "WorstCaseResult",
    "judge_of",
    "worst_case_attack",
]
