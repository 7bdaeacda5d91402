"""Mergeable states of a single pass over the data; `base` holds the protocol, every other module one family."""

from __future__ import annotations

from repanalysis.statistics.base import NonFiniteError, Statistic
from repanalysis.statistics.geometry import ClassGeometry, Weighting
from repanalysis.statistics.groups import GroupedMoments, Groups
from repanalysis.statistics.moments import ClassMoments, Moments
from repanalysis.statistics.rows import RowMoments, Rows
from repanalysis.statistics.samples import Samples, SampleSet, TargetSamples
from repanalysis.statistics.shifts import ShiftMoments, SpectralMoments

__all__ = [
    "ClassGeometry", "ClassMoments", "GroupedMoments", "Groups", "Moments", "NonFiniteError", "RowMoments", "Rows",
    "SampleSet", "Samples", "ShiftMoments", "SpectralMoments", "Statistic", "TargetSamples", "Weighting",
]  # fmt: skip
