"""Metrics: one file each, pure functions of a statistic's state. `names()` lists them, `get(name)` finds one.

Every metric is also a function of this package: `from repanalysis.metrics import fisher_ratio`.
"""

from __future__ import annotations

from repanalysis.metrics._head import Head
from repanalysis.metrics._registry import STRUCTURES, Metric, Noted, Structure, get, metric, names, parse

__all__ = ["STRUCTURES", "Head", "Metric", "Noted", "Structure", "get", "metric", "names", "parse"]

for _name in names():
    globals()[_name] = get(_name).function  # in place of the module of the same name
