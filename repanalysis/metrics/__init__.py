"""Metrics: one file each, pure functions of a statistic's state. `names()` lists them, `get(name)` finds one.

Every metric is a function in the file of its name: `from repanalysis.metrics.fisher_ratio import fisher_ratio`.
"""

from __future__ import annotations

from repanalysis.heads.head import Head
from repanalysis.metrics._registry import STRUCTURES, Metric, Structure, Value, get, metric, metric_of, names, parse

__all__ = ["STRUCTURES", "Head", "Metric", "Structure", "Value", "get", "metric", "metric_of", "names", "parse"]
