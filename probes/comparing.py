"""Reproducibility of a file: `compare` measures the difference between a network's outputs and those in a file.

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
    """Difference of a layer's outputs from those in the file.

    Attributes
    ----------
    layer : str
        Name of the layer.
    largest : float
        Largest absolute difference; NaN if only one of two values is NaN.
    scale : float
        Largest absolute value in the file, among the samples compared.
    tolerance : float
        Share of `scale` that rounding in the network's dtype explains.
    """

    layer: str
    largest: float
    scale: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether rounding explains the difference."""
        return self.largest <= self.tolerance * self.scale


def compare(source: Source, batches: Iterable[Batch]) -> list[LayerDifference]:
    """Compare a network's outputs with those in a file, sample by sample.

    Parameters
    ----------
    source : Source
        The file.
    batches : iterable of Batch
        Outputs of the same layers and pools, for some of the samples.

    Returns
    -------
    list of Difference
        One per layer of the file.

    Raises
    ------
    DataError
        If a layer or sample is missing, or shapes differ.

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
    """Raise DataError if a sample has another label: then its id is that of another sample."""
    labels = source.labels
    if labels is None or batch.labels is None or np.array_equal(labels[rows], batch.labels):
        return
    first = int(np.flatnonzero(labels[rows] != batch.labels)[0])
    raise DataError(
        f"Sample {batch.ids[first]} has label {labels[rows][first]} in {source.name}, and {batch.labels[first]} now: these "
        f"are other data, or their order has changed."
    )
