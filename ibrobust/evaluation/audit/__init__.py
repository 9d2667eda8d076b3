"""Is the robustness real, or did the gradient vanish?"""

from ibrobust.evaluation.audit.report import AuditReport, Check
from ibrobust.evaluation.audit.run import audit

__all__ = ["AuditReport", "Check", "audit"]
