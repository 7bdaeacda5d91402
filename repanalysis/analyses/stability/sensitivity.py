r"""Stability across depth: how much perturbations of an image change the output of each layer.

With f_k(x) the output of layer k for image x, as one vector, tau x a perturbed image, and means over n images,

    sensitivity         S_k = mean_p ||f_k(tau_p x_p) - f_k(x_p)||^2 / mean_pq ||f_k(x_p) - f_k(x_q)||^2
    relative stability  R_k = S_k(tau) / S_k(eta),   eta noise with the norm of tau x - x for each image

(S is called D_k for diffeomorphisms and G_k for noise; docs/stability.md, Formulas.) The mean over all n^2 pairs is twice the
total variance, so one pass is enough: images and their perturbed versions are in one batch, and each layer's distances are
computed from its output. Per layer, the state is the mean output, and the means and covariances of one number per image and
perturbation.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from types import MethodType
from typing import Annotated, Any, Literal, Unpack

import numpy as np
import torch
from annotated_doc import Doc
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from probes.batch import Batch, LayerInfo
from probes.capturing.network import unwrap
from probes.capturing.steps import capture
from probes.errors import DataError, LeftOutWarning, UsageError
from probes.loading.loaders import as_loader
from probes.loading.numbering import Identified, identified
from probes.loading.reader import Reader
from probes.options import PassKeywords, shows_options
from repanalysis._checks import one_of
from repanalysis.analyses.declaration import StrictOption, analysis
from repanalysis.perturbations import MatchedNoise, Perturbation
from repanalysis.perturbations.base import draw_keys, images_of
from repanalysis.table import Table

__all__ = ["INPUT", "Norm", "Reduction", "batch_statistics", "geometric_mean", "pooling_parts", "stability"]

INPUT = "input"
Reduction = Literal["mean", "median"]
Norm = Literal["running", "batch"]

_CHUNK = 1 << 22  # elements whose differences are computed at once
_BLOCK = 1 << 12  # elements summed in the dtype of the outputs
_OUTPUT_BYTES = 4 << 30  # limit on the outputs that medians store


@analysis
@shows_options(PassKeywords)
def stability(
    model: nn.Module,
    loader: Iterable[Any],
    perturbations: Sequence[Perturbation],
    *,
    statistic: Annotated[Reduction, Doc("mean or median, over images.")] = "mean",
    self_pairs: Annotated[bool, Doc("Whether the pairs of an image with itself are among all pairs.")] = True,
    batch_norm: Annotated[Norm, Doc("Statistics that batch norms use: running or batch.")] = "running",
    device: torch.device | str | None = None,
    run: str = "run",
    name: str = "",
    recorded: Mapping[str, Any] | None = None,
    progress: bool | None = None,
    strict: StrictOption = False,
    **options: Unpack[PassKeywords],
) -> Table:
    r"""Sensitivity of every layer to perturbations of the images, and relative stability if there is matched noise.

    Parameters
    ----------
    model : torch.nn.Module
        Any network that takes images; run in eval mode without gradients, and restored afterwards.
    loader : iterable or torch.utils.data.Dataset
        As for `probes.capture`, with clean images x (n, c, h, w); labels are not read. The perturbation of an image depends
        on its id.
    perturbations : sequence of Perturbation
        As `perturbations("diffeo:delta=1,c=3")` returns them.
    statistic : {"mean", "median"}, default "mean"
        Average of the squared distances, over images in the numerator and over pairs of images in the denominator. The median
        in the numerator is that of each coordinate, summed, as in Petrini et al. 2021; it has no standard error, depends on the
        basis, and needs all outputs in memory.
    self_pairs : bool, default True
        Whether the n pairs of an image with itself are among the n^2 of the denominator. Without them the denominator is
        n / (n - 1) times as large.
    batch_norm : {"running", "batch"}, default "running"
        Statistics that batch norms use: their running ones, or those of the batch, separately for each perturbation. The
        running statistics of an untrained network are not those of the data.
    device
        As for `probes.capture`.
    run, name : str
        Names of the run and the network in the table.
    recorded : mapping, optional
        Further provenance.
    progress : bool, optional
        Show a progress bar; by default only on a terminal.
    strict : bool, default False
        Whether to raise if a layer has NaN or infinite outputs for an image, clean or perturbed. By default its values are NaN
        with the reason in their note, the table's `failures` lists it, and a warning is given.
    **options
        `layers`, `ops`, `precision`, `channels_last`, `batch_size`, as for `probes.capture`. The first layer in
        the table is the input.

    Returns
    -------
    Table
        Metrics `sensitivity`, variants "" and "numerator", and `relative_stability` for every perturbation, by its label and
        strength; `squared_distance`, the denominator, without perturbation. `se` is the standard error over images, by the
        delta method (first order). If all images have the same output, S and R are NaN with a note. An image that a
        perturbation does not change gets no matched noise, and so does not change R.

    Raises
    ------
    UsageError
        If there is no perturbation, the loader's x is not one tensor of images, or a pattern matches no layer.
    DataError
        If there are fewer than two images, or medians would need more than 4 GiB; with `strict`, if a layer is not finite.

    Warns
    -----
    LeftOutWarning
        If layers have NaN or infinite outputs.

    Notes
    -----
    Perturbations, and distances at the input, are computed in float64, so that R = 1 to 1e-10 there; the network gets the
    images in their own dtype. In layers, differences have the dtype of the outputs, at least float32, and sums over images are
    float64. Memory: one forward pass of (perturbations + 1) batches, and twice an image's outputs, for any number of images.

    References
    ----------
    L. Petrini, A. Favero, M. Geiger, M. Wyart, "Relative stability toward diffeomorphisms indicates performance in deep nets",
    NeurIPS 2021. U. M. Tomasini, L. Petrini, F. Cagnetta, M. Wyart, "How deep convolutional neural networks lose spatial
    information with training", Machine Learning: Science and Technology 2023.

    Examples
    --------
    A mean over space is invariant to circular shifts. Matched noise has a sensitivity near 1, since pixels of these images are
    as independent as the noise:

    >>> from repanalysis.perturbations import perturbations
    >>> net = nn.Sequential(nn.AvgPool2d(8))
    >>> images = torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> table = stability(net, [images], perturbations(["shift:1", "noise:match=shift"]))
    >>> frame = table.select(layer="0", metric="sensitivity", variant="").frame
    >>> [f"{value:.2f}" for value in frame["value"]]
    ['0.00', '0.93']
    """
    one_of("statistic", statistic, ("mean", "median"))
    one_of("batch_norm", batch_norm, ("running", "batch"))
    if not perturbations:
        raise UsageError("Stability needs at least one perturbation.")
    parts = len(perturbations) + 1
    distances = _Distances(parts) if statistic == "mean" else _Outputs(parts)
    model = unwrap(model)
    images = _ImageLoader(model, as_loader(loader, options.get("batch_size", 64)))
    with batch_statistics(model, parts) if batch_norm == "batch" else nullcontext():
        batches = capture(model, _steps(images, perturbations, distances), device=device, reduce=distances, **options)
        total = getattr(loader, "__len__", lambda: None)()
        hidden = None if progress is None else not progress
        bar = tqdm(batches, desc=run, total=total, unit=" steps", disable=hidden)
        layers, skipped, non_finite = _sum_distances(bar, distances, images, strict=strict)
    if images.n < 2:
        raise DataError(f"The loader has {images.n} image{'s' * (images.n != 1)}; distances between images need at least two.")
    pair_factor = 1.0 if self_pairs else images.n / (images.n - 1)
    rows: list[dict[str, Any]] = []
    failures: dict[str, str] = {}
    for layer in layers:
        base = {"run": run, "model": name, "layer": layer.name, "order": layer.order + 1, "depth": layer.depth, "n": images.n}
        values = _rows(perturbations, distances.finish(layer.name), images.n, pair_factor)
        undefined: dict[str, Any] = {}
        if ids := non_finite.get(layer.name):
            count = "the only one" if len(ids) == 1 else f"the first of {len(ids):,}"
            failures[layer.name] = f"has NaN or infinite outputs for image {ids[0]!r}, {count} of {images.n:,}"
            undefined = {"value": np.nan, "se": np.nan, "note": failures[layer.name]}
        rows += [base | row | undefined for row in values]
    provenance: dict[str, Any] = {
        "model": name, "statistic": statistic, "self_pairs": self_pairs, "batch_norm": batch_norm, "n": images.n,
        "perturbations": [{"label": each.label} | _json_values(asdict(each)) for each in perturbations], "left_out": skipped,
        **(recorded or {}),
    }  # fmt: skip
    table = Table.from_rows(rows, {run: provenance | ({"failures": failures} if failures else {})})
    if failures:
        warnings.warn(f"{table.failure}; its values are NaN.", LeftOutWarning, stacklevel=3)
    return table


def _sum_distances(
    batches: Iterable[Batch], distances: _Measure, images: _ImageLoader, *, strict: bool
) -> tuple[list[LayerInfo], dict[str, str], dict[str, list[int | str]]]:
    """Sum the distances of all batches; returns the layers, input first, the skipped layers, and ids of non-finite images."""
    info: dict[str, LayerInfo] = {}
    skipped: dict[str, str] = {}
    non_finite: dict[str, list[int | str]] = {}  # ids of images, by layer
    for step, batch in enumerate(batches):
        info, skipped = info or dict(batch.info), skipped | dict(batch.skipped)
        for layer, rows in batch.layers.items():
            if (finite := distances.add(layer, rows)).all():
                continue
            ids = images.ids[step][~finite].tolist()
            if strict:
                raise DataError(f"Layer {layer!r} has NaN or infinite outputs for image {ids[0]!r}; exclude it (--layers).")
            non_finite.setdefault(layer, []).extend(ids)
    first = LayerInfo(name=INPUT, order=-1, depth=0.0, dims=("sample", "channel", "height", "width"))
    return [first, *(layer for layer in info.values() if layer.name not in skipped)], skipped, non_finite


def _json_values(parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value if value is None or isinstance(value, str | int | float | dict) else str(value)
        for key, value in parameters.items()
    }


class _ImageLoader:
    """A loader of images; counts them and collects their ids by step."""

    def __init__(self, model: nn.Module, loader: Iterable[Any]) -> None:
        self.loader, self.n = loader, 0
        self.reader, self.versions = (
            Reader(model, labels=False) for _ in range(2)
        )  # of the loader's images, and of their perturbed versions
        self.ids: list[NDArray[Any]] = []
        self.name: str | None = None  # of the network's argument, if images are passed by name

    def __iter__(self) -> Iterator[tuple[Tensor, NDArray[Any]]]:
        for item, ids, _ in identified(self.loader, self.reader):
            values = [*item.inputs.args, *item.inputs.kwargs.values()]
            images = values[0]
            if len(values) > 1 or not isinstance(images, Tensor):
                types = ", ".join(type(value).__name__ for value in values)
                raise UsageError(f"Stability needs images as one tensor; the loader's x is a {types}.")
            self.name = next(iter(item.inputs.kwargs), None)
            self.ids.append(ids)
            self.n += len(images)
            yield images, ids


def _steps(loader: _ImageLoader, perturbations: Sequence[Perturbation], distances: _Measure) -> Iterator[Any]:
    """Batches of clean images followed by their perturbed versions, in the dtype of the images."""
    for images, ids in loader:
        images_of(images)
        if not bool(torch.isfinite(images).all()):
            first, last = ids[[0, -1]].tolist()
            raise DataError(f"Images {first!r} to {last!r} contain NaN or infinite values.")
        exact, keys = images.double(), draw_keys(ids)
        perturbed: dict[Perturbation, Tensor] = {}
        for each in sorted(perturbations, key=lambda each: isinstance(each, MatchedNoise)):
            if isinstance(each, MatchedNoise) and each.other in perturbed:
                perturbed[each] = each.matched_to(exact, perturbed[each.other], keys)
            else:
                perturbed[each] = each(exact, keys)
        stacked = torch.cat([exact, *(perturbed[each] for each in perturbations)])
        distances.add(INPUT, distances(INPUT, stacked).numpy(force=True))
        stacked = stacked.to(images.dtype)
        item = loader.versions.read(stacked if loader.name is None else {loader.name: stacked})
        yield Identified(item, np.arange(len(stacked)), "index")  # rows are versions of images; ids are those of `images`


@dataclass(frozen=True)
class _LayerDistances:
    """A layer's numerators, denominator, and the covariance of the images' contributions to them.

    Attributes
    ----------
    perturbed : (P,) array
        Mean, or sum of medians, of squared distances from clean to perturbed outputs.
    distance : float
        Mean (or median) squared distance between two images, self-pairs included; 0 if all outputs are equal.
    covariance : (P + 1, P + 1) array or None
        Covariance of the images' terms, the first of which is half of an image's term in `distance`.
    """

    perturbed: NDArray[np.float64]
    distance: float
    covariance: NDArray[np.float64] | None


class _Distances:
    """Squared distances of a layer's outputs: clean to perturbed, and clean to the mean of the first step."""

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self.centre: dict[str, Tensor] = {}
        self.offset: dict[str, Tensor] = {}  # sum of clean outputs minus the centre
        self.state: dict[str, _Moments] = {}
        self.source: dict[str, str] = {}  # the layer that a layer's outputs come from
        self.buffer: Tensor | None = None

    def __call__(self, name: str, output: Tensor) -> Tensor:
        """(parts * n, ...) -> (parts * n, 2): ||f(x) - c||^2, then ||f(tau x) - f(x)||^2, float64; index of the layer."""
        flat = _flatten(output).view(self.parts, len(output) // self.parts, -1)
        flat = flat.float() if flat.dtype in (torch.float16, torch.bfloat16) else flat
        clean = flat[0]
        if name not in self.centre:
            self.centre[name] = clean.mean(0)
            self.offset[name] = torch.zeros_like(self.centre[name], dtype=torch.float64)
        centre, offset = self.centre[name], self.offset[name]
        distances = torch.empty(self.parts, clean.shape[0], dtype=torch.float64, device=flat.device)
        height = max(1, _CHUNK // max(1, self.parts * clean.shape[1]))
        for top in range(0, clean.shape[0], height):
            rows = slice(top, top + height)
            differences = self._scratch(flat[:, rows])
            torch.sub(clean[rows], centre, out=differences[0])
            torch.sub(flat[1:, rows], clean[rows], out=differences[1:])
            offset += differences[0].sum(0)
            distances[:, rows] = _squared_norms(differences.flatten(0, 1)).view(self.parts, -1)
        # Layers that return their input share its rows; column 1 is the index of the layer whose mean they are relative to.
        return torch.stack([distances.flatten(), torch.full_like(distances, list(self.centre).index(name)).flatten()], dim=1)

    def _scratch(self, rows: Tensor) -> Tensor:
        """A buffer for differences, reused: allocating costs more than the arithmetic."""
        if self.buffer is None or self.buffer.dtype != rows.dtype or len(self.buffer) < rows.numel():
            self.buffer = rows.new_empty(rows.numel())
        return self.buffer[: rows.numel()].view(rows.shape)

    def add(self, name: str, rows: NDArray[Any]) -> NDArray[np.bool_]:
        """Add a step's distances; returns for which images they are finite, (n,)."""
        values = rows[:, 0].reshape(self.parts, -1)
        self.source[name] = list(self.centre)[int(rows[0, 1])]
        with np.errstate(invalid="ignore", over="ignore"):
            self.state[name] = self.state[name].with_rows(values) if name in self.state else _Moments.of(values)
        finite = np.isfinite(values)
        centred = bool(torch.isfinite(self.centre[self.source[name]]).all())  # else all distances to it are NaN
        return np.asarray((finite if centred else finite[1:]).all(axis=0))

    def finish(self, name: str) -> _LayerDistances:
        """The result of all steps."""
        state, source = self.state[name], self.source[name]
        centre = self.centre[source].double()
        offset = float((self.offset[source] / state.n).square().sum())
        variance = float(state.mean[0]) - offset
        # The variance of n equal outputs is the rounding of their mean.
        floor = float(torch.finfo(self.centre[source].dtype).eps) ** 2 * float(centre.square().sum())
        distance = 2 * variance if variance > 4 * floor else 0.0
        return _LayerDistances(state.mean[1:], distance, state.scatter / max(1, state.n - 1))


class _Outputs:
    """Whole outputs, for medians."""

    def __init__(self, parts: int) -> None:
        self.parts, self.bytes = parts, 0
        self.outputs: dict[str, list[Tensor]] = {}
        self.source: dict[str, str] = {}

    def __call__(self, name: str, output: Tensor) -> Tensor:
        """Store clean outputs and squared differences; returns the layer's index and whether they are finite, per image."""
        flat = _flatten(output).view(self.parts, len(output) // self.parts, -1)
        outputs = torch.cat([flat[:1], (flat[1:] - flat[0]).square()]).cpu()
        self.bytes += outputs.nbytes
        if self.bytes > _OUTPUT_BYTES:
            raise DataError(
                f"Medians need all outputs in memory, and those up to layer {name} exceed {_OUTPUT_BYTES >> 30} GiB. Use fewer "
                "images (--limit) or layers (--layers), or the mean."
            )
        self.outputs.setdefault(name, []).append(outputs)
        finite = torch.isfinite(outputs).all(dim=2).all(dim=0).repeat(self.parts)
        return torch.stack([torch.full((len(output),), list(self.outputs).index(name)), finite.long()], dim=1)

    def add(self, name: str, rows: NDArray[Any]) -> NDArray[np.bool_]:
        """Record the layer that the outputs come from; returns for which images they are finite, (n,)."""
        self.source[name] = list(self.outputs)[int(rows[0, 0])]
        return np.asarray(rows[: len(rows) // self.parts, 1] == 1)

    def finish(self, name: str) -> _LayerDistances:
        """Medians over images, summed over coordinates; median over all pairs."""
        outputs = torch.cat(self.outputs[self.source[name]], dim=1)
        perturbed = torch.stack([_median(part).double().sum() for part in outputs[1:]])
        clean = outputs[0].double() - outputs[0].double().mean(0)
        squares = clean.square().sum(1)
        pairs = (squares[:, None] + squares - 2 * clean @ clean.T).clamp_(min=0)
        pairs.fill_diagonal_(0)
        return _LayerDistances(perturbed.numpy(), float(_median(pairs.flatten())), None)


_Measure = _Distances | _Outputs


def _flatten(output: Tensor) -> Tensor:
    """(n, features), also for channels-last memory without a copy: distances do not depend on the order of features."""
    output = output.detach()
    if output.ndim == 4 and not output.is_contiguous() and output.is_contiguous(memory_format=torch.channels_last):
        output = output.permute(0, 2, 3, 1)
    return output.reshape(len(output), -1)


def _squared_norms(rows: Tensor) -> Tensor:
    """Squared norm of each row: blocks of 4,096 are summed in the dtype of the rows, the sums of blocks in float64."""
    in_blocks = rows.shape[1] // _BLOCK * _BLOCK
    norms: Tensor = torch.linalg.vector_norm(rows[:, in_blocks:], dim=1).double().square()
    if in_blocks:
        blocks = rows[:, :in_blocks].view(len(rows), -1, _BLOCK)
        norms += torch.linalg.vector_norm(blocks, dim=2).double().square().sum(1)
    return norms


def _median(values: Tensor) -> Tensor:
    """Median over the first axis; for an even number, the mean of the two middle values."""
    n = len(values)
    ordered = values.sort(dim=0).values
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


@dataclass(frozen=True)
class _Moments:
    """Count, mean and scatter of vectors, in float64, updated as by Chan et al."""

    n: int
    mean: NDArray[np.float64]
    scatter: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> _Moments:
        """The moments of the columns of a matrix."""
        mean = values.mean(1)
        centred = values - mean[:, None]
        return cls(values.shape[1], mean, centred @ centred.T)

    def with_rows(self, values: NDArray[np.float64]) -> _Moments:
        """The moments with further columns."""
        new = _Moments.of(values)
        n, delta = self.n + new.n, new.mean - self.mean
        weight = self.n * new.n / n
        return _Moments(n, self.mean + delta * (new.n / n), self.scatter + new.scatter + weight * np.outer(delta, delta))


_CONSTANT = "all images give the same output here"
_UNCHANGED = "the perturbation changes no image"


def _rows(
    perturbations: Sequence[Perturbation], distances: _LayerDistances, n: int, pair_factor: float
) -> Iterator[dict[str, Any]]:
    """Rows of one layer."""
    distance = distances.distance * pair_factor if distances.distance else np.nan
    note = "" if distances.distance else _CONSTANT
    cov = distances.covariance
    se = np.nan if cov is None else 2 * pair_factor * np.sqrt(cov[0, 0] / n)
    yield {"metric": "squared_distance", "value": distance, "se": se if distances.distance else np.nan, "note": note}
    for index, perturbation in enumerate(perturbations):
        columns = {"perturbation": perturbation.label, "strength": perturbation.strength}
        numerator = float(distances.perturbed[index])
        error = np.nan if cov is None else np.sqrt(cov[index + 1, index + 1] / n)
        yield columns | {"metric": "sensitivity", "variant": "numerator", "value": numerator, "se": error}
        ratio = numerator / distance
        error = np.nan if cov is None else _ratio_error(cov, index + 1, 0, ratio * 2 * pair_factor, n) / distance
        yield columns | {"metric": "sensitivity", "value": ratio, "se": error, "note": note}
        noise_index = next(
            (i for i, noise in enumerate(perturbations) if isinstance(noise, MatchedNoise) and noise.match == perturbation),
            None,
        )
        if noise_index is not None:
            noise_distance = float(distances.perturbed[noise_index])
            ratio = numerator / noise_distance if noise_distance else np.nan
            error = (
                np.nan
                if cov is None or not noise_distance
                else _ratio_error(cov, index + 1, noise_index + 1, ratio, n) / noise_distance
            )
            yield columns | {
                "metric": "relative_stability",
                "value": ratio,
                "se": error,
                "note": "" if noise_distance else _UNCHANGED,
            }


def _ratio_error(cov: NDArray[np.float64], numerator: int, denominator: int, ratio: float, n: int) -> float:
    """Standard error of mean(a) - ratio mean(b)."""
    a, b = numerator, denominator
    variance = cov[a, a] - 2 * ratio * cov[a, b] + ratio**2 * cov[b, b]
    return float(np.sqrt(max(variance, 0.0) / n))


@contextmanager
def batch_statistics(model: nn.Module, parts: int = 1) -> Iterator[None]:
    """Inside the block, batch norms normalise each of the equal parts of a batch with its mean and variance.

    Parameters
    ----------
    model : torch.nn.Module
        Restored at the end of the block.
    parts : int, default 1
        Number of equal parts of a batch.

    Examples
    --------
    >>> net = nn.Sequential(nn.BatchNorm1d(1)).eval()
    >>> with batch_statistics(net):
    ...     [round(v, 3) for v in net(torch.tensor([[1.0], [3.0]])).flatten().tolist()]
    [-1.0, 1.0]
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    running = [(norm.running_mean, norm.running_var) for norm in norms]

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return torch.cat([type(self).forward(self, part) for part in x.chunk(parts)])

    try:
        for norm in norms:
            norm.running_mean = norm.running_var = None
            norm.forward = MethodType(forward, norm)  # type: ignore[method-assign]  # until the block ends
        yield
    finally:
        for norm, (mean, var) in zip(norms, running, strict=True):
            norm.__dict__.pop("forward", None)
            norm.running_mean, norm.running_var = mean, var


def geometric_mean(tables: Sequence[Table], *, run: str) -> Table:
    """Geometric mean over networks with the same layers, such as random initialisations of one architecture.

    Parameters
    ----------
    tables : sequence of Table
        As `stability` returns them.
    run : str
        Name of the mean in the table.

    Returns
    -------
    Table
        Geometric means; `se` is their standard error over networks, and the note their number. A value that is undefined or 0
        for one network is so here.

    Raises
    ------
    UsageError
        If the tables' rows are not of the same layers and perturbations.
    """
    frames = [table.frame for table in tables]
    keys = ["layer", "metric", "variant", "perturbation", "strength"]
    if not frames or any(not frame[keys].equals(frames[0][keys]) for frame in frames):
        raise UsageError("A mean needs tables of the same layers and perturbations.")
    values = np.stack([frame["value"].to_numpy() for frame in frames])
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(values)
        mean = np.exp(logs.mean(0))
        deviation = logs.std(0, ddof=1) if len(frames) > 1 else np.full(len(mean), np.nan)
        se = mean * deviation / np.sqrt(len(frames))
    notes = np.array([frame["note"].to_numpy() for frame in frames], dtype=object)
    notes_joined = [next(filter(None, column), f"geometric mean of {len(frames)} networks") for column in notes.T]
    frame = frames[0].assign(run=run, value=mean, se=se, note=notes_joined)
    runs = {name: dict(about) for table in tables for name, about in table.provenance.items()}
    failures = {layer: reason for about in runs.values() for layer, reason in about.get("failures", {}).items()}
    return Table(frame, {run: {"geometric_mean_of": runs} | ({"failures": failures} if failures else {})})


def pooling_parts(trained: Table, shuffled: Table, init: Table, *, run: str) -> Table:
    """The parts of a network's stability that single filters and the pairing of channels contribute.

        spatial_pooling = ln S(init) - ln S(shuffled)        channel_pooling = ln S(shuffled) - ln S(trained)

    Parameters
    ----------
    trained, shuffled, init : Table
        Tables of the same layers and perturbations: of a network, its channel-shuffled copies, its random initialisations.
    run : str
        Name of the run in the table.

    Returns
    -------
    Table
        Both in nats, whose sum is ln S(init) - ln S(trained); variants name perturbation and strength. `se` treats the three as
        independent. NaN if a sensitivity is 0 or undefined.

    Raises
    ------
    UsageError
        If the tables' rows are not of the same layers and perturbations.

    References
    ----------
    Tomasini et al. 2023; docs/stability.md, Formulas.
    """
    frames = [table.select(metric="sensitivity", variant="").frame for table in (init, shuffled, trained)]
    keys = ["layer", "perturbation", "strength"]
    if any(not frame[keys].equals(frames[0][keys]) for frame in frames):
        raise UsageError("The parts of pooling need tables of the same layers and perturbations.")
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = [np.log(frame["value"].to_numpy()) for frame in frames]
        errors = [(frame["se"] / frame["value"]).to_numpy() for frame in frames]
    first = frames[0]
    variants = [f"{label} {strength:g}" for label, strength in zip(first["perturbation"], first["strength"], strict=True)]
    rows: list[dict[str, Any]] = []
    for metric, a, b in (("spatial_pooling", 0, 1), ("channel_pooling", 1, 2)):
        value, se = logs[a] - logs[b], np.hypot(errors[a], errors[b])
        for index, variant in enumerate(variants):
            defined = bool(np.isfinite(value[index]))
            base = {name: first[name].iloc[index] for name in ("model", "layer", "order", "depth", "n")}
            note = "" if defined else "a sensitivity is 0 or undefined here"
            rows.append(base | {"run": run, "metric": metric, "variant": variant, "note": note,
                                "value": value[index] if defined else np.nan, "se": se[index]})  # fmt: skip
    return Table.from_rows(rows, {run: {"parts_of": [list(table.provenance) for table in (trained, shuffled, init)]}})
