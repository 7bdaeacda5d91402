r"""Construction of a ReduNet, by forward passes alone: each makes the next layer from the features of the training samples.

    operators of layer l  <-  features z_l and labels of the training samples
    z_{l+1}               <-  the step of layer l, which no longer reads the labels

The rates before each layer come with its operators, from the same Cholesky factors.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from probes.errors import DataError, UsageError
from probes.options import shows_options
from repanalysis.networks.redunet.config import ReduNetConfig, ReduNetKeywords
from repanalysis.networks.redunet.layer_files import LayerFile
from repanalysis.networks.redunet.network import RATES, SPLITS, Design, ReduNet, checked
from repanalysis.networks.redunet.operators import Rates, Step, class_rates, normalized, norms_of, operators_of

__all__ = ["Plan", "construct", "plan"]

_UNEQUAL = 1.5  # ratio of the largest to the smallest class from which the paper's assignment is warned of
_UNSTABLE = 4.0  # eta_eff from which the rate reduction is expected to fall
_FALL = {"float64": 1e-9, "float32": 1e-5}  # falls below this are rounding
_PASS = 256  # samples that are lifted at once


@shows_options(ReduNetKeywords)
def construct(
    X: Any,  # noqa: N803  # as in scikit-learn
    y: Any,
    config: ReduNetConfig | None = None,
    *,
    test: tuple[Any, Any] | None = None,
    output: str | PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    source: Mapping[str, Any] | None = None,
    progress: bool | None = None,
    **options: Unpack[ReduNetKeywords],
) -> ReduNet:
    """Construct a ReduNet from labelled samples.

    Parameters
    ----------
    X : (n, d), (n, C, T) or (n, C, H, W) array or tensor
        Training samples. Only their directions count: each is divided by its norm, after lifting. Unless `shift_invariant`,
        samples are flattened.
    y : (n,) array
        Labels, integers or texts. They make the operators; the training samples themselves move by the assignment, as unseen
        ones do.
    config : ReduNetConfig, optional
        Parameters of the construction.
    test : (X, y), optional
        Samples whose rates are recorded as well; they do not affect the network.
    output : path-like, optional
        Safetensors file to which each layer is appended as it is made, so that memory holds one layer.
    resume, overwrite : bool, default False
        Continue the killed construction of `output` after its last layer; replace what exists.
    device : str, optional
        Such as "cuda"; by default the CPU.
    preprocessing, source : mapping, optional
        Saved with the network: of images, as timm's `pretrained_cfg`, and what the data are.
    progress : bool, optional
        Show a progress bar; by default only on a terminal.
    **options
        Fields of `config`, in place of its own: layers, eta, eps_sq, lam, eta_eff, lam_eff, tol, assignment, shift_invariant,
        channels, kernel, spectral_norm, dtype, seed.

    Returns
    -------
    ReduNet
        In eval mode; its `rates` and `curve()` are the rates of training and test samples by layer.

    Raises
    ------
    DataError
        If there are fewer than two classes, samples hold NaN, labels are missing, or test samples don't match.
    UsageError
        If a parameter is out of range, the step overflows, or `output` exists.

    Warns
    -----
    UserWarning
        If the rate reduction of the training samples falls, from eta_eff >= 4, if classes are unequal and the assignment is the
        paper's, if a class has one sample, or if samples are 0.

    Notes
    -----
    Time per layer n d^2 + (K + 1) d^3 for the operators and n (K + 1) d^2 for the step; of T frequencies T times that of C
    channels. Memory (K + 1) d^2 for the layer, 2 n d for the features. Never a matrix of n x n.

    References
    ----------
    K. H. R. Chan et al., "ReduNet: A white-box deep network from the principle of maximizing rate reduction", JMLR 23, 2022.

    Examples
    --------
    Two clusters at right angles reach the rate reduction of two lines, 0.875634.

    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(2).repeat(100)
    >>> x = np.eye(2)[y] + 0.1 * rng.normal(size=(200, 2))
    >>> network = construct(x, y, layers=400)
    >>> network.rates.shape, round(float(network.rates[-1, 0, 2]), 3)
    ((401, 2, 3), 0.876)
    """
    config = replace(config or ReduNetConfig(), **options)
    dtype = getattr(torch, config.dtype)
    samples, labels = _samples(X, y, dtype)
    classes, indices = _classes(labels)
    counts = tuple(np.bincount(indices, minlength=len(classes)).tolist())
    source = dict(source or {}) | {"samples": _fingerprint(samples, labels)}
    design = Design(config, tuple(samples.shape[1:]), classes, counts, preprocessing, source)
    prepare = _Preparation(design, design.entry.to(device or "cpu"), device)
    _warn(design)
    tests = None
    if test is not None:
        test_x, test_labels = _samples(*test, dtype)
        checked(test_x, design.shape)
        test_indices = _known(test_labels, classes)
        tests = prepare(test_x, test_indices, "test"), np.bincount(test_indices, minlength=len(classes)).tolist()
        design.source.update(test_samples=_fingerprint(test_x, test_labels), n_test=len(test_labels))
    u = prepare(samples, indices, "training")
    del samples
    with torch.no_grad(), ExitStack() as stack:
        features = _Features(u, tests, design.step)
        file = None
        if output is not None:
            options_of_file = {"resume": resume, "overwrite": overwrite}
            file = design.file(Path(output), prepare.entry, features.rates, config.layers, **options_of_file)
            stack.enter_context(file)
        bar = tqdm(total=config.layers, desc="construct", unit=" layers", disable=None if progress is None else not progress)
        layers, rates = _construct_layers(features, config, file, stack.enter_context(bar))
        if file is not None:
            file.finish(len(rates) - 1)
    network = ReduNet(design, layers, rates, prepare.entry) if output is None else ReduNet.load(output)
    return network.eval()


@dataclass
class _Preparation:
    """From samples to spectra, sorted by class."""

    design: Design
    entry: torch.nn.Module
    device: str | None

    @torch.no_grad()
    def __call__(self, x: Tensor, indices: NDArray[np.int64], name: str) -> Tensor:
        """Spectra (F, C, n) of normalised, lifted samples of classes `indices`."""
        grid = self.design.step.grid
        order = torch.from_numpy(np.argsort(indices, kind="stable"))
        lifted = torch.empty((len(x), *grid.shape), dtype=x.dtype, device=self.device)
        for first in range(0, len(x), _PASS):
            rows = slice(first, first + _PASS)
            lifted[rows] = normalized(self.entry(x[order[rows]].to(self.device)))
        zeros = int((lifted.flatten(1).abs().amax(dim=1) == 0).sum())
        if zeros:
            warnings.warn(
                f"{zeros:,} of {len(x):,} {name} samples are 0 and stay 0, in every layer; remove them, or look at their "
                "preprocessing.",
                stacklevel=3,
            )
        return grid.spectrum(lifted).contiguous()


class _Features:
    """Features of training and test samples as they go through the layers, and the operators that they give.

    Parameters
    ----------
    u : (F, C, n) tensor
        Spectra of training samples.
    tests : (tensor, list of int) or None
        Spectra of test samples, and their numbers per class.
    step : Step
        The step.
    """

    def __init__(self, u: Tensor, tests: tuple[Tensor, list[int]] | None, step: Step) -> None:
        self.u, self.tests, self.step = u, tests, step
        self.alive = self._alive()
        self.measure()

    def measure(self) -> None:
        """Compute operators and rates of the present features."""
        self.operators, train = operators_of(self.u, self.step)
        tests, step = self.tests, self.step
        test = Rates(np.nan, np.nan, np.nan) if tests is None else class_rates(*tests, step.grid, step.eps_sq)
        self.rates = np.array([train, test])

    def _alive(self) -> int:
        """Number of training samples whose norm is not 0; an overflow makes it 0 or NaN."""
        return int((norms_of(self.u) > 0).sum())

    def advance(self, operators: Tensor) -> None:
        """Go through a layer."""
        self.u = self.step.moved(self.u, operators)
        if self.tests is not None:
            self.tests = self.step.moved(self.tests[0], operators), self.tests[1]
        if self._alive() < self.alive:
            raise UsageError(f"The step of eta_eff = {self.step.eta_eff:.3g} overflows; give a smaller eta.")


def _construct_layers(
    features: _Features, config: ReduNetConfig, file: LayerFile | None, bar: Any
) -> tuple[list[Tensor], NDArray[np.float64]]:
    """Operators of all layers (none if a file holds them), and the rates (L + 1, 2, 3)."""
    layers: list[Tensor] = []
    rates = [features.rates]
    has_fallen = False
    for index in range(config.layers):
        if file is not None and index < file.done:  # made before the construction was stopped
            stored = file.layer(index)
            operators = torch.tensor(stored["operators"], device=features.u.device)
            features.advance(torch.view_as_complex(operators) if features.step.grid.size else operators)
            after = stored["rates"]
            if index + 1 == file.done:
                features.measure()
        else:
            operators = features.operators
            features.advance(operators)
            features.measure()
            after = features.rates
            parts = torch.view_as_real(operators) if operators.is_complex() else operators
            if file is None:
                layers.append(parts)
            else:
                file.append({"operators": parts.cpu().numpy(), "rates": after})
        before, now = (float(values[0, 2]) for values in (rates[-1], after))
        if config.tol is None and now < before - _FALL[config.dtype] and not has_fallen:
            has_fallen = True
            warnings.warn(
                f"The rate reduction of the training samples fell at layer {index}, from {before:.4g} to {now:.4g}: eta is too "
                f"large (eta_eff = {features.step.eta_eff:.3g}), or samples are assigned to wrong classes. Give a smaller eta, "
                "or tol=0 (--tol 0) to stop there.",
                stacklevel=3,
            )
        if config.tol is not None and now - before < min(config.tol, 0.0) and index:
            break  # without this layer
        rates.append(after)
        bar.update()
        bar.set_postfix({name: f"{after[s, 2]:.4g}" for s, name in enumerate(SPLITS) if np.isfinite(after[s, 2])})
        if config.tol is not None and now - before < config.tol:
            break
    return layers[: len(rates) - 1], np.stack(rates)


def _samples(x: Any, y: Any, dtype: torch.dtype) -> tuple[Tensor, NDArray[Any]]:
    """Samples as a tensor, and their labels, after all checks."""
    samples = x.detach() if isinstance(x, Tensor) else torch.from_numpy(np.ascontiguousarray(np.asarray(x)))
    labels = np.asarray(y.cpu() if isinstance(y, Tensor) else y)
    if samples.ndim < 2 or samples.is_complex() or samples.dtype == torch.bool:
        raise DataError(
            f"The samples have shape {tuple(samples.shape)} and type {samples.dtype}; real numbers (n, ...) are needed."
        )
    if labels.shape != (len(samples),):
        raise DataError(
            f"There are {len(samples)} samples, and labels of shape {labels.shape}; one label per sample is needed."
        )
    if labels.dtype.kind == "f":
        if not (np.isfinite(labels).all() and (labels == np.floor(labels)).all()):
            raise DataError("Labels are NaN or fractions; classes are integers or texts. Remove unlabelled samples.")
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "iubUSO":
        raise DataError(f"Labels have type {labels.dtype}; classes are integers or texts.")
    if not len(samples):
        raise DataError("There are no samples.")
    return checked(samples.to(dtype), samples.shape[1:]), labels


def _classes(labels: NDArray[Any]) -> tuple[tuple[int | str, ...], NDArray[np.int64]]:
    """The classes, and the index of each sample's."""
    values, indices = np.unique(labels, return_inverse=True)
    if len(values) < 2:
        raise DataError(f"All {len(labels)} samples are of class {values[0]}; a rate reduction needs two classes.")
    return tuple(value.item() if isinstance(value, np.generic) else str(value) for value in values), indices


def _known(labels: NDArray[Any], classes: Sequence[int | str]) -> NDArray[np.int64]:
    """Indices of the classes of test labels."""
    positions = {label: index for index, label in enumerate(classes)}
    values = [value.item() if isinstance(value, np.generic) else value for value in labels]
    if unknown := sorted({str(value) for value in values if value not in positions}):
        raise DataError(f"No training sample is of class {', '.join(unknown[:5])}, as test samples are; leave these out.")
    return np.array([positions[value] for value in values], dtype=np.int64)


def _warn(design: Design) -> None:
    """What can be said before the construction."""
    counts, step = design.counts, design.step
    if single := [str(label) for label, count in zip(design.classes, counts, strict=True) if count == 1]:
        warnings.warn(f"Class {', '.join(single[:5])} has one sample: its subspace is a line. Give more.", stacklevel=3)
    if step.scheme == "paper" and max(counts) >= _UNEQUAL * min(counts):
        warnings.warn(
            f"Classes have {min(counts):,} to {max(counts):,} samples: the paper's assignment, by norms proportional to "
            "1 / n_k, prefers the large ones. assignment='balanced' (--assignment balanced) corrects it.",
            stacklevel=3,
        )
    if step.eta_eff >= _UNSTABLE:
        warnings.warn(
            f"eta is a step of eta_eff = {step.eta_eff:.3g} for {step.n:,} samples: from 4 on, the rate reduction may fall. "
            "Give eta_eff=1 (--eta-eff 1), or a smaller eta.",
            stacklevel=3,
        )


def _fingerprint(x: Tensor, labels: NDArray[Any]) -> str:
    """A hash of samples and labels."""
    state = xxhash.xxh3_64(np.ascontiguousarray(x.cpu().numpy()).data)
    state.update("\n".join(map(str, labels)).encode())
    return state.hexdigest()


@dataclass(frozen=True)
class Plan:
    """What a construction will need.

    Attributes
    ----------
    shape : tuple of int
        Shape of what the layers work on.
    layer_bytes, file_bytes : int
        Operators of one layer, and of all.
    state_bytes : int
        Features of training and test samples, twice.
    memory_bytes : int
        Largest need while layers are made, with an output file: features, two layers, and moments.
    """

    shape: tuple[int, ...]
    layer_bytes: int
    file_bytes: int
    state_bytes: int
    memory_bytes: int


def plan(
    shape: Sequence[int], classes: int, samples: int, *, test_samples: int = 0, config: ReduNetConfig | None = None
) -> Plan:
    """Sizes of a network and of its construction, without building anything.

    Parameters
    ----------
    shape : sequence of int
        Shape of a sample.
    classes, samples, test_samples : int
        K, n, and number of test samples.
    config : ReduNetConfig, optional
        Parameters of the construction.

    Examples
    --------
    The published network for translated MNIST: 388 MB per layer in complex64.

    >>> config = ReduNetConfig(shift_invariant=True, channels=75, kernel=9, layers=25, dtype="float32")
    >>> sizes = plan((1, 28, 28), 10, 100, config=config)
    >>> round(sizes.layer_bytes / 1e6), sizes.shape  # half of the frequencies
    (208, (75, 28, 28))
    """
    config = config or ReduNetConfig()
    design = Design(config, tuple(shape), tuple(range(classes)), (1,) * classes)
    grid = design.step.grid
    word = 8 if config.dtype == "float64" else 4
    features = word * (2 if grid.size else 1) * grid.frequencies * grid.channels * (samples + test_samples)
    layer = word * math.prod(design.operators_shape)
    return Plan(grid.shape, layer, layer * config.layers, 2 * features, 2 * features + 4 * layer + len(RATES) * word)
