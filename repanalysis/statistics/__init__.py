"""Mergeable states of a single pass over the data; `base` holds the protocol, every other module one family."""

from __future__ import annotations

from repanalysis.statistics.base import NonFiniteError, Statistic
from repanalysis.statistics.moments import ClassMoments, Moments

__all__ = ["ClassMoments", "Moments", "NonFiniteError", "Statistic"]
