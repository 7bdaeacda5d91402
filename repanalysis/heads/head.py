"""The last linear layer of a network, which nc3 and nc4 compare with the class means."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

__all__ = ["Head", "unfit"]


class Head(NamedTuple):
    """Weights and offsets of a linear classifier; row c belongs to class c.

    Attributes
    ----------
    weight : (K, d) float64
    bias : (K,) float64
    foreign : str
        Why features of the right number are not the input of this head; empty if they may be.
    unmatched : str
        Why rows can't be matched to classes; empty if row c belongs to class c.
    """

    weight: Float64[np.ndarray, "K d"]
    bias: Float64[np.ndarray, " K"]
    foreign: str = ""
    unmatched: str = ""

    def takes(self, d: int) -> bool:
        """Whether its input has d features."""
        return bool(self.weight.shape[1] == d)

    def at(self, d: int, shape: tuple[int, ...]) -> Head:
        """The head for a layer of d pooled features, marked as foreign if the d features are positions of a map."""
        if not self.takes(d) or not shape or d in {*shape, math.prod(shape)}:
            return self
        return self._replace(
            foreign=f"the head takes {d} features, and these {d} are positions of {'x'.join(map(str, shape))} maps"
        )


def unfit(head: Head | None, classes: Int64[np.ndarray, " C"], d: int) -> str:
    """The reason why a head can't be compared with a layer of d features; empty if it can."""
    if head is None:
        advice = "give analyze(head=(weight, bias)), or --head FILE:NAME"
        return f"needs the head's weights, but none are recorded for these classes; {advice}"
    if not head.takes(d):
        return f"the head takes {head.weight.shape[1]} features, and this layer has {d}"
    if head.foreign:
        return head.foreign
    if head.unmatched:
        return f"the classes are not matched to the rows of the head: {head.unmatched}"
    if len(classes) and (classes.min() < 0 or classes.max() >= len(head.weight)):
        return f"the head has {len(head.weight)} classes, but labels go from {classes.min()} to {classes.max()}"
    return ""
