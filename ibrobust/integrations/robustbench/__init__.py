"""RobustBench: its benchmark, its model zoo, and what it needs to be imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibrobust.lazy_names import lazy_names

if TYPE_CHECKING:
    from ibrobust.integrations.robustbench.run_benchmark import (
        BenchmarkResult,
        benchmark,
        find_zoo_model,
        load_zoo_model,
        register,
        store,
    )

__all__ = ["BenchmarkResult", "benchmark", "find_zoo_model", "load_zoo_model", "register", "store"]

__getattr__, __dir__ = lazy_names(__name__, {"ibrobust.integrations.robustbench.run_benchmark": " ".join(__all__)})
