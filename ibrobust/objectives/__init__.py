"""Objectives: from latents (B, D) and labels (B,) to a loss in nats with its named terms."""

from ibrobust.objectives.base import Loss, Objective
from ibrobust.objectives.registry import build_objective, list_objectives, objective_class, register_objective

__all__ = ["Loss", "Objective", "build_objective", "list_objectives", "objective_class", "register_objective"]
