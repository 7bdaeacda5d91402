"""Do a file's numbers come out again? `compare` measures how far a network's outputs now are from those in a file.

Running a network again rarely gives the same bits (another batch size, another number of threads), so differences are relative
to the largest value of the layer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probes.batch import Batch
from probes.errors import DataError
from probes.source import Source

__all__ = ["LayerDifference", "compare"]


_TOLERANCE = {"float64": 1e-8, "float32": 1e-4, "float16": 2e-2, "bfloat16": 5e-2}


@dataclass(frozen=True)
class LayerDifference:
    """How far a layer is from what the file holds.

    Attributes
    ----------
    layer : str
        Its name.
    largest : float
        Largest absolute difference; NaN where one side is NaN and the other is not.
    scale : float
        Largest absolute value in the file, among the samples compared.
    tolerance : float
        Share of `scale` that rounding may explain, by the type that the network computes in.
    """

    layer: str
    largest: float
    scale: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether rounding explains it."""
        return self.largest <= self.tolerance * self.scale


def compare(source: Source, batches: Iterable[Batch]) -> list[LayerDifference]:
    """Compare what a network gives out now with what a file holds, sample by sample.

    Parameters
    ----------
    source : Source
        The file.
    batches : iterable of Batch
        The same layers and pools, for some of the samples.

    Returns
    -------
    list of Difference
        One per layer of the file.

    Raises
    ------
    DataError
        If a layer or sample is missing on one side, or shapes differ.

    Examples
    --------
    >>> from probes.arrays import from_arrays
    >>> ours = from_arrays({"x": np.eye(3)})
    >>> compare(ours, from_arrays({"x": np.eye(3)}).iter())[0].ok
    True
    """
    position = {sample: row for row, sample in enumerate(source.ids.tolist())}
    largest = dict.fromkeys(source.layers, 0.0)
    scale = dict.fromkeys(source.layers, 0.0)
    for batch in batches:
        samples = batch.ids.tolist()
        if unknown := [sample for sample in samples if sample not in position]:
            raise DataError(f"{source.name} has no sample {unknown[0]!r}; compare samples that are in it.")
        rows = np.array([position[sample] for sample in samples])
        _refuse_other_labels(source, batch, rows)
        for name in source.layers:
            if name not in batch.layers:
                why = batch.skipped.get(name, "it does not run")
                raise DataError(f"Layer {name!r} of {source.name} is not given out now: {why}.")
            old, new = source.take(name, rows).astype(np.float64), batch.layers[name].astype(np.float64)
            if old.shape != new.shape:
                raise DataError(f"Layer {name!r} has shape {old.shape[1:]} in {source.name}, and {new.shape[1:]} now.")
            with np.errstate(invalid="ignore"):
                apart = np.where((old == new) | (np.isnan(old) & np.isnan(new)), 0.0, np.abs(old - new))
            largest[name] = float(np.maximum(largest[name], apart.max(initial=0.0)))
            scale[name] = max(scale[name], float(np.abs(old[np.isfinite(old)]).max(initial=0.0)))
    info = source.info
    kinds = {name: "float16" if source.attrs.get("dtype") == "float16" else info[name].dtype_source for name in largest}
    if (precision := str(source.attrs.get("precision", "float32"))) != "float32":
        kinds = dict.fromkeys(kinds, precision)
    return [LayerDifference(name, largest[name], scale[name], _TOLERANCE.get(kinds[name], 1e-4)) for name in largest]


def _refuse_other_labels(source: Source, batch: Batch, rows: NDArray[np.int64]) -> None:
    """Raise where a sample has another label now: then ids do not name the samples that they named."""
    labels = source.labels
    if labels is None or batch.labels is None or np.array_equal(labels[rows], batch.labels):
        return
    first = int(np.flatnonzero(labels[rows] != batch.labels)[0])
    raise DataError(
        f"Sample {batch.ids[first]} has label {labels[rows][first]} in {source.name}, and {batch.labels[first]} now: these "
        f"are other data, or their order has changed."
    )
