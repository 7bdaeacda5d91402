r"""Stability across depth: how far perturbations of an image move what each layer makes of it.

With f_k(x) all that layer k gives out for image x, as one vector, tau x a perturbed image, and means over n images,

    sensitivity         S_k = mean_p ||f_k(tau_p x_p) - f_k(x_p)||^2 / mean_pq ||f_k(x_p) - f_k(x_q)||^2
    relative stability  R_k = S_k(tau) / S_k(eta),   eta noise as strong, image by image, as tau

(S is called D_k where tau is a diffeomorphism, and G_k where it is noise; docs/stability.md, Formulas.) The mean over
all n^2 pairs is twice the total variance, so one pass is enough: images and their perturbed versions go through the network
side by side, and each layer's distances are taken while its output exists. Nothing else is kept than, per layer, the mean
output and the means and covariances of one number per image and perturbation.
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

_CHUNK = 1 << 22  # numbers whose differences are taken together
_STRETCH = 1 << 12
_HELD_BYTES = 4 << 30  # outputs that medians may keep


@analysis
@shows_options(PassKeywords)
def stability(
    model: nn.Module,
    loader: Iterable[Any],
    perturbations: Sequence[Perturbation],
    *,
    statistic: Annotated[Reduction, Doc("mean or median, over images.")] = "mean",
    self_pairs: Annotated[bool, Doc("Count an image's distance to itself among all pairs.")] = True,
    batch_norm: Annotated[Norm, Doc("What batch norms use: running or batch statistics.")] = "running",
    device: torch.device | str | None = None,
    run: str = "run",
    name: str = "",
    recorded: Mapping[str, Any] | None = None,
    progress: bool | None = None,
    strict: StrictOption = False,
    **options: Unpack[PassKeywords],
) -> Table:
    r"""Sensitivity of every layer to perturbations of the images, and relative stability where noise matches one.

    Parameters
    ----------
    model : torch.nn.Module
        Any network that takes images; run in eval mode, without gradients, and left as it was.
    loader : iterable or torch.utils.data.Dataset
        As for `probes.capture`, with images x (n, c, h, w), clean ones; labels are not read. What is drawn for an image
        depends on its id.
    perturbations : sequence of Perturbation
        As `perturbations("diffeo:delta=1,c=3")` makes them.
    statistic : {"mean", "median"}, default "mean"
        Of squared distances, over images in the numerator and over pairs of images in the denominator. The median in the
        numerator is taken coordinate by coordinate and summed, as in Petrini et al. 2021; it has no standard error, depends on
        the basis, and keeps all outputs in memory.
    self_pairs : bool, default True
        Whether the n pairs of an image with itself are among the n^2 of the denominator. Without them it is n / (n - 1) times
        as large.
    batch_norm : {"running", "batch"}, default "running"
        What batch norms normalise with: their running statistics, or those of the images that go through together, each
        perturbation's by themselves. An untrained network has no running statistics worth the name.
    device
        As for `probes.capture`.
    run, name : str
        What the table calls the run and the network.
    recorded : mapping, optional
        Further provenance.
    progress : bool, optional
        Show a progress bar; by default only on a terminal.
    strict : bool, default False
        Whether to stop where a layer gives NaN or infinite values for an image, clean or perturbed. Otherwise its values are
        NaN with the reason in their note, the table's `failures` names it, and a warning says so.
    **options
        `layers`, `ops`, `precision`, `channels_last`, `batch_size`, as for `probes.capture`. The input is a layer of its own,
        the first.

    Returns
    -------
    Table
        Metrics `sensitivity`, variants "" and "numerator", and `relative_stability` for every perturbation, by its label, and
        strength; `squared_distance`, the denominator, without perturbation. `se` is the standard error over images, by the
        delta method: the squares of first-order errors are left out. Where all images give the same output, nothing is defined
        (NaN, with a note); an image that is not moved gets no matched noise and so leaves R alone.

    Raises
    ------
    UsageError
        If there is no perturbation, what comes is no image, or a pattern matches nothing.
    DataError
        If there are fewer than two images, or medians would need more than 4 GiB; with `strict`, if a layer is not finite.

    Warns
    -----
    LeftOutWarning
        If layers give NaN or infinite values.

    Notes
    -----
    Perturbations and distances at the input are in float64, so that there R = 1 to 1e-10; the network sees the images in the
    type they came in. In layers differences are float32 where the network is (their relative error is that of the outputs),
    and everything that is summed over images is float64. Memory: one forward pass of (perturbations + 1) batches, and twice an
    image's outputs. It does not grow with the number of images.

    References
    ----------
    L. Petrini, A. Favero, M. Geiger, M. Wyart, "Relative stability toward diffeomorphisms indicates performance in deep nets",
    NeurIPS 2021. U. M. Tomasini, L. Petrini, F. Cagnetta, M. Wyart, "How deep convolutional neural networks lose spatial
    information with training", Machine Learning: Science and Technology 2023.

    Examples
    --------
    A mean over space does not see circular shifts; matched noise moves it as far, up to chance, since both are independent
    from pixel to pixel here:

    >>> from repanalysis.perturbations import perturbations
    >>> net = nn.Sequential(nn.AvgPool2d(8))
    >>> images = torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> table = stability(net, [images], perturbations(["shift:1", "noise:match=shift"]))
    >>> found = table.select(layer="0", metric="sensitivity", variant="").frame
    >>> [f"{value:.2f}" for value in found["value"]]
    ['0.00', '0.93']
    """
    one_of("statistic", statistic, ("mean", "median"))
    one_of("batch_norm", batch_norm, ("running", "batch"))
    if not perturbations:
        raise UsageError("Stability needs at least one perturbation.")
    parts = len(perturbations) + 1
    distances = _Distances(parts) if statistic == "mean" else _Outputs(parts)
    model = unwrap(model)
    images = _Counted(model, as_loader(loader, options.get("batch_size", 64)))
    with batch_statistics(model, parts) if batch_norm == "batch" else nullcontext():
        batches = capture(model, _steps(images, perturbations, distances), device=device, reduce=distances, **options)
        total = getattr(loader, "__len__", lambda: None)()
        hidden = None if progress is None else not progress
        bar = tqdm(batches, desc=run, total=total, unit=" steps", disable=hidden)
        layers, skipped, non_finite = _summed(bar, distances, images, strict=strict)
    if images.n < 2:
        raise DataError(f"{images.n} image{'s' * (images.n != 1)} came; distances between images need at least two.")
    pairs = 1.0 if self_pairs else images.n / (images.n - 1)
    rows: list[dict[str, Any]] = []
    failures: dict[str, str] = {}
    for layer in layers:
        base = {"run": run, "model": name, "layer": layer.name, "order": layer.order + 1, "depth": layer.depth, "n": images.n}
        values = _rows(perturbations, distances.finish(layer.name), images.n, pairs)
        undefined: dict[str, Any] = {}
        if ids := non_finite.get(layer.name):
            others = "the only one" if len(ids) == 1 else f"the first of {len(ids):,}"
            failures[layer.name] = f"gives NaN or infinite values for image {ids[0]!r}, {others} of {images.n:,}"
            undefined = {"value": np.nan, "se": np.nan, "note": failures[layer.name]}
        rows += [base | row | undefined for row in values]
    facts: dict[str, Any] = {
        "model": name, "statistic": statistic, "self_pairs": self_pairs, "batch_norm": batch_norm, "n": images.n,
        "perturbations": [{"label": each.label} | _plain(asdict(each)) for each in perturbations], "left_out": skipped,
        **(recorded or {}),
    }  # fmt: skip
    table = Table.from_rows(rows, {run: facts | ({"failures": failures} if failures else {})})
    if failures:
        warnings.warn(f"{table.failure}; its values are NaN.", LeftOutWarning, stacklevel=3)
    return table


def _summed(
    batches: Iterable[Batch], distances: _Measure, images: _Counted, *, strict: bool
) -> tuple[list[LayerInfo], dict[str, str], dict[str, list[int | str]]]:
    """Sum the distances of all batches; returns the layers, the input first, those left out, and images that are not finite."""
    info: dict[str, LayerInfo] = {}
    skipped: dict[str, str] = {}
    non_finite: dict[str, list[int | str]] = {}  # images, by layer
    for step, batch in enumerate(batches):
        info, skipped = info or dict(batch.info), skipped | dict(batch.skipped)
        for layer, rows in batch.layers.items():
            if (finite := distances.add(layer, rows)).all():
                continue
            ids = images.ids[step][~finite].tolist()
            if strict:
                raise DataError(f"Layer {layer!r} gives NaN or infinite values for image {ids[0]!r}; leave it out (--layers).")
            non_finite.setdefault(layer, []).extend(ids)
    first = LayerInfo(name=INPUT, order=-1, depth=0.0, dims=("sample", "channel", "height", "width"))
    return [first, *(layer for layer in info.values() if layer.name not in skipped)], skipped, non_finite


def _plain(facts: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value if value is None or isinstance(value, str | int | float | dict) else str(value)
        for key, value in facts.items()
    }


class _Counted:
    """A loader, how many images it has given, and their ids, step by step."""

    def __init__(self, model: nn.Module, loader: Iterable[Any]) -> None:
        self.loader, self.n = loader, 0
        self.reader, self.versions = (Reader(model, labels=False) for _ in range(2))  # of what comes, and of what is made of it
        self.ids: list[NDArray[Any]] = []
        self.name: str | None = None  # of the argument that the images are

    def __iter__(self) -> Iterator[tuple[Tensor, NDArray[Any]]]:
        for item, ids, _ in identified(self.loader, self.reader):
            values = [*item.inputs.args, *item.inputs.kwargs.values()]
            images = values[0]
            if len(values) > 1 or not isinstance(images, Tensor):
                kinds = ", ".join(type(value).__name__ for value in values)
                raise UsageError(f"Stability perturbs images, one tensor; the loader's x is a {kinds}.")
            self.name = next(iter(item.inputs.kwargs), None)
            self.ids.append(ids)
            self.n += len(images)
            yield images, ids


def _steps(loader: _Counted, perturbations: Sequence[Perturbation], measured: _Measure) -> Iterator[Any]:
    """Clean images and, behind them, every perturbation's, as the network takes them."""
    for images, ids in loader:
        images_of(images)
        if not bool(torch.isfinite(images).all()):
            first, last = ids[[0, -1]].tolist()
            raise DataError(f"Images {first!r} to {last!r} hold NaN or infinite values.")
        exact, keys = images.double(), draw_keys(ids)
        perturbed: dict[Perturbation, Tensor] = {}
        for each in sorted(perturbations, key=lambda each: isinstance(each, MatchedNoise)):
            if isinstance(each, MatchedNoise) and each.other in perturbed:
                perturbed[each] = each.matched_to(exact, perturbed[each.other], keys)
            else:
                perturbed[each] = each(exact, keys)
        stacked = torch.cat([exact, *(perturbed[each] for each in perturbations)])
        measured.add(INPUT, measured(INPUT, stacked).numpy(force=True))
        stacked = stacked.to(images.dtype)
        item = loader.versions.read(stacked if loader.name is None else {loader.name: stacked})
        yield Identified(item, np.arange(len(stacked)), "index")  # rows of versions of images, whose distances alone are kept


@dataclass(frozen=True)
class _LayerDistances:
    """What a layer's distances come to: numerators, denominator, and the covariance of images' contributions to them.

    Attributes
    ----------
    moved : (P,) array
        Mean, or sum of medians, of squared distances per perturbation.
    distance : float
        Between two images, self-pairs included; 0 where all give the same.
    covariance : (P + 1, P + 1) array or None
        Of the images' own terms, the first of which is half of their part in `distance`.
    """

    moved: NDArray[np.float64]
    distance: float
    covariance: NDArray[np.float64] | None


class _Distances:
    """Squared distances of a layer's outputs: from clean to perturbed, and from clean to the mean of the first step's."""

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self.centre: dict[str, Tensor] = {}
        self.offset: dict[str, Tensor] = {}  # sum of clean outputs minus the centre
        self.state: dict[str, _Moments] = {}
        self.source: dict[str, str] = {}  # the layer that a layer's outputs come from
        self.buffer: Tensor | None = None

    def __call__(self, name: str, output: Tensor) -> Tensor:
        """(parts * n, ...) -> (parts * n, 2): ||f(x) - c||^2, then ||f(tau x) - f(x)||^2, in float64; beside it the layer."""
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
            room = self._scratch(flat[:, rows])
            torch.sub(clean[rows], centre, out=room[0])
            torch.sub(flat[1:, rows], clean[rows], out=room[1:])
            offset += room[0].sum(0)
            distances[:, rows] = _squares(room.flatten(0, 1)).view(self.parts, -1)
        # An Identity hands the same on, and hooks give it these rows unasked: they say whose mean is meant.
        return torch.stack([distances.flatten(), torch.full_like(distances, list(self.centre).index(name)).flatten()], dim=1)

    def _scratch(self, rows: Tensor) -> Tensor:
        """Where differences are put: the same memory in every layer, since asking for it anew costs more than the sums."""
        if self.buffer is None or self.buffer.dtype != rows.dtype or len(self.buffer) < rows.numel():
            self.buffer = rows.new_empty(rows.numel())
        return self.buffer[: rows.numel()].view(rows.shape)

    def add(self, name: str, rows: NDArray[Any]) -> NDArray[np.bool_]:
        """Remember a step's distances; for which images they are finite, (n,)."""
        values = rows[:, 0].reshape(self.parts, -1)
        self.source[name] = list(self.centre)[int(rows[0, 1])]
        with np.errstate(invalid="ignore", over="ignore"):
            self.state[name] = self.state[name].with_rows(values) if name in self.state else _Moments.of(values)
        finite = np.isfinite(values)
        centred = bool(torch.isfinite(self.centre[self.source[name]]).all())  # else distances to it tell nothing of an image
        return np.asarray((finite if centred else finite[1:]).all(axis=0))

    def finish(self, name: str) -> _LayerDistances:
        """What all steps come to."""
        state, source = self.state[name], self.source[name]
        centre = self.centre[source].double()
        offset = float((self.offset[source] / state.n).square().sum())
        variance = float(state.mean[0]) - offset
        # What is left of n equal outputs is the rounding of their mean.
        floor = float(torch.finfo(self.centre[source].dtype).eps) ** 2 * float(centre.square().sum())
        distance = 2 * variance if variance > 4 * floor else 0.0
        return _LayerDistances(state.mean[1:], distance, state.scatter / max(1, state.n - 1))


class _Outputs:
    """Whole outputs, for medians."""

    def __init__(self, parts: int) -> None:
        self.parts, self.bytes = parts, 0
        self.kept: dict[str, list[Tensor]] = {}
        self.source: dict[str, str] = {}

    def __call__(self, name: str, output: Tensor) -> Tensor:
        """Keep clean outputs, and coordinates' squared differences; rows that go on say whose, and whether finite."""
        flat = _flatten(output).view(self.parts, len(output) // self.parts, -1)
        held = torch.cat([flat[:1], (flat[1:] - flat[0]).square()]).cpu()
        self.bytes += held.nbytes
        if self.bytes > _HELD_BYTES:
            raise DataError(
                f"Medians over images keep all outputs, and {_HELD_BYTES >> 30} GiB are full in layer {name}: choose fewer "
                "images (--limit) or layers (--layers), or the mean."
            )
        self.kept.setdefault(name, []).append(held)
        finite = torch.isfinite(held).all(dim=2).all(dim=0).repeat(self.parts)
        return torch.stack([torch.full((len(output),), list(self.kept).index(name)), finite.long()], dim=1)

    def add(self, name: str, rows: NDArray[Any]) -> NDArray[np.bool_]:
        """Everything is kept already; remember whose it is, and say for which images it is finite, (n,)."""
        self.source[name] = list(self.kept)[int(rows[0, 0])]
        return np.asarray(rows[: len(rows) // self.parts, 1] == 1)

    def finish(self, name: str) -> _LayerDistances:
        """Medians over images, summed over coordinates; median over all pairs."""
        held = torch.cat(self.kept[self.source[name]], dim=1)
        moved = torch.stack([_median(part).double().sum() for part in held[1:]])
        clean = held[0].double() - held[0].double().mean(0)
        squares = clean.square().sum(1)
        pairs = (squares[:, None] + squares - 2 * clean @ clean.T).clamp_(min=0)
        pairs.fill_diagonal_(0)
        return _LayerDistances(moved.numpy(), float(_median(pairs.flatten())), None)


_Measure = _Distances | _Outputs


def _flatten(output: Tensor) -> Tensor:
    """(n, features), without a copy for images in channels-last memory either: distances do not mind the order."""
    output = output.detach()
    if output.ndim == 4 and not output.is_contiguous() and output.is_contiguous(memory_format=torch.channels_last):
        output = output.permute(0, 2, 3, 1)
    return output.reshape(len(output), -1)


def _squares(rows: Tensor) -> Tensor:
    """Squared norm of each row: blocks of 4,096 are summed in the dtype of the rows, the sums of blocks in float64."""
    whole = rows.shape[1] // _STRETCH * _STRETCH
    norms: Tensor = torch.linalg.vector_norm(rows[:, whole:], dim=1).double().square()
    if whole:
        stretches = rows[:, :whole].view(len(rows), -1, _STRETCH)
        norms += torch.linalg.vector_norm(stretches, dim=2).double().square().sum(1)
    return norms


def _median(values: Tensor) -> Tensor:
    """Median over the first axis, the mean of the two in the middle where their number is even."""
    n = len(values)
    ordered = values.sort(dim=0).values
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


@dataclass(frozen=True)
class _Moments:
    """Number, means and scatter of vectors, in float64; steps are joined as by Chan et al."""

    n: int
    mean: NDArray[np.float64]
    scatter: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> _Moments:
        """Of the columns of a matrix."""
        mean = values.mean(1)
        centred = values - mean[:, None]
        return cls(values.shape[1], mean, centred @ centred.T)

    def with_rows(self, values: NDArray[np.float64]) -> _Moments:
        """These and further columns."""
        new = _Moments.of(values)
        n, gap = self.n + new.n, new.mean - self.mean
        weight = self.n * new.n / n
        return _Moments(n, self.mean + gap * (new.n / n), self.scatter + new.scatter + weight * np.outer(gap, gap))


_SAME = "all images give the same output here"
_STILL = "no image is moved"


def _rows(perturbations: Sequence[Perturbation], distances: _LayerDistances, n: int, pairs: float) -> Iterator[dict[str, Any]]:
    """Rows of one layer."""
    distance = distances.distance * pairs if distances.distance else np.nan
    same = "" if distances.distance else _SAME
    cov = distances.covariance
    se = np.nan if cov is None else 2 * pairs * np.sqrt(cov[0, 0] / n)
    yield {"metric": "squared_distance", "value": distance, "se": se if distances.distance else np.nan, "note": same}
    for index, perturbation in enumerate(perturbations):
        about = {"perturbation": perturbation.label, "strength": perturbation.strength}
        moved = float(distances.moved[index])
        error = np.nan if cov is None else np.sqrt(cov[index + 1, index + 1] / n)
        yield about | {"metric": "sensitivity", "variant": "numerator", "value": moved, "se": error}
        ratio = moved / distance
        error = np.nan if cov is None else _error(cov, index + 1, 0, ratio * 2 * pairs, n) / distance
        yield about | {"metric": "sensitivity", "value": ratio, "se": error, "note": same}
        noise = next(
            (at for at, other in enumerate(perturbations) if isinstance(other, MatchedNoise) and other.match == perturbation),
            None,
        )
        if noise is not None:
            below = float(distances.moved[noise])
            ratio = moved / below if below else np.nan
            error = np.nan if cov is None or not below else _error(cov, index + 1, noise + 1, ratio, n) / below
            yield about | {"metric": "relative_stability", "value": ratio, "se": error, "note": "" if below else _STILL}


def _error(cov: NDArray[np.float64], over: int, under: int, ratio: float, n: int) -> float:
    """Standard error of mean(a) - ratio mean(b)."""
    spread = cov[over, over] - 2 * ratio * cov[over, under] + ratio**2 * cov[under, under]
    return float(np.sqrt(max(spread, 0.0) / n))


@contextmanager
def batch_statistics(model: nn.Module, parts: int = 1) -> Iterator[None]:
    """Let batch norms normalise with the batch's own mean and variance inside the block, each of its parts with its own.

    Parameters
    ----------
    model : torch.nn.Module
        Left as it was.
    parts : int, default 1
        Equal parts that batches consist of.

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
    """One run from several networks' of the same layers, such as an architecture's random initialisations.

    Parameters
    ----------
    tables : sequence of Table
        As `stability` gives them.
    run : str
        What the table calls the mean.

    Returns
    -------
    Table
        Geometric means; `se` is their standard error over networks, and the note says how many there are. Where a value is
        undefined or 0 for one network, so it is here.

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
        spread = logs.std(0, ddof=1) if len(frames) > 1 else np.full(len(mean), np.nan)
        se = mean * spread / np.sqrt(len(frames))
    notes = np.array([frame["note"].to_numpy() for frame in frames], dtype=object)
    notes_joined = [next(filter(None, column), f"geometric mean of {len(frames)} networks") for column in notes.T]
    frame = frames[0].assign(run=run, value=mean, se=se, note=notes_joined)
    facts = {name: dict(about) for table in tables for name, about in table.provenance.items()}
    failures = {layer: why for about in facts.values() for layer, why in about.get("failures", {}).items()}
    return Table(frame, {run: {"geometric_mean_of": facts} | ({"failures": failures} if failures else {})})


def pooling_parts(trained: Table, shuffled: Table, init: Table, *, run: str) -> Table:
    """How much of a network's stability is the work of single filters, and how much of their wiring.

        spatial_pooling = ln S(init) - ln S(shuffled)        channel_pooling = ln S(shuffled) - ln S(trained)

    Parameters
    ----------
    trained, shuffled, init : Table
        Of the same layers and perturbations: a network, its channel-shuffled copies, its random initialisations.
    run : str
        What the table calls the run.

    Returns
    -------
    Table
        Both in nats, whose sum is ln S(init) - ln S(trained); variants name perturbation and strength. `se` takes the three as
        independent. Undefined where a sensitivity is 0 or undefined.

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
    named = [f"{label} {strength:g}" for label, strength in zip(first["perturbation"], first["strength"], strict=True)]
    rows: list[dict[str, Any]] = []
    for metric, a, b in (("spatial_pooling", 0, 1), ("channel_pooling", 1, 2)):
        value, se = logs[a] - logs[b], np.hypot(errors[a], errors[b])
        for at, variant in enumerate(named):
            defined = bool(np.isfinite(value[at]))
            base = {name: first[name].iloc[at] for name in ("model", "layer", "order", "depth", "n")}
            note = "" if defined else "a sensitivity is 0 or undefined here"
            rows.append(base | {"run": run, "metric": metric, "variant": variant, "note": note,
                                "value": value[at] if defined else np.nan, "se": se[at]})  # fmt: skip
    return Table.from_rows(rows, {run: {"parts_of": [list(table.provenance) for table in (trained, shuffled, init)]}})
