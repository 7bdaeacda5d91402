"""What a network does to its data, layer by layer: class geometry across depth, from recorded activations.

>>> import repanalysis
>>> "fisher_ratio" in repanalysis.metrics.names()
True
"""

from __future__ import annotations

from repanalysis import metrics
from repanalysis.engine import analyze
from repanalysis.similarity import compare
from repanalysis.table import Table

__all__ = ["Table", "analyze", "compare", "metrics"]
