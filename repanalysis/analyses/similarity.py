r"""How alike are two layers: CKA, CCA, Procrustes and RSA between all layers of one or two sources, matched by sample id.

For n samples with features X and Y, centred, K = X X^T and L = Y Y^T (or Gaussian kernels), off-diagonal parts K~, L~:

    cka         HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), by default with the unbiased estimator of Song et al. (2012):
                HSIC = [ Tr K~L~ + 1'K~1 1'L~1 / ((n-1)(n-2)) - 2/(n-2) 1'K~L~1 ] / (n(n-3))
    cca, svcca  mean canonical correlation, of all directions, or of the principal ones with 99 % of the variance
    procrustes  1 - || X'Y ||_* / (||X|| ||Y||), 0 for layers that are equal up to rotation and scale
    rsa         Spearman correlation of the n(n-1)/2 distances between samples

The values need no n x n matrix in memory: kernels are computed by blocks of rows, each once, and one product of the blocks of
all layers gives all pairs.

Standard errors: for cka and rsa a jackknife over groups of samples (`analyses.uncertainty`); cka gets all its replicates from
the same products, summed by pairs of groups. For svcca, whose number of directions is not a smooth function of the samples, the
standard deviation over random subsets of 70 % of the samples. For cca and procrustes the influence of each sample,

    cca         dv_i = mean_k [ u_ik v_ik - rho_k (u_ik^2 + v_ik^2) / 2 ]       u, v canonical variates of squared length 1
    procrustes  dv_i = x_i.(U V')y_i - ||X'Y||_* (||x_i||^2 + ||y_i||^2) / 2      X'Y = U S V',  se^2 = n/(n-1) sum_i dv_i^2

The null distribution permutes the samples of b: if a and b are independent, every pairing of their samples is equally likely,
for any n, d and distribution. All pairs of layers use the same pairings. Kernels and distances are permuted, not recomputed.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from annotated_doc import Doc
from annotated_types import Ge
from jaxtyping import Float64
from numpy.typing import NDArray
from scipy.linalg import blas, qr, svd, svdvals
from scipy.spatial.distance import squareform
from scipy.stats import rankdata
from tqdm.auto import tqdm

import probes
from probes import DataError, FormatError, LeftOutWarning, UsageError
from probes.atomic_files import replacing
from probes.errors import reason_of
from probes.patterns import select
from probes.source import Source
from repanalysis._checks import one_of
from repanalysis.analyses.declaration import GroupsOption, LayersOption, StrictOption, analysis
from repanalysis.analyses.sample_matching import shared_ids
from repanalysis.analyses.uncertainty import Null, few_groups, jackknife, permutation_test
from repanalysis.metrics import Structure
from repanalysis.statistics.draws import JACKKNIFE_SEED, SUBSAMPLE_SEED, hashed
from repanalysis.table import read_whole_lines

__all__ = ["METHODS", "Similarity", "compare"]

METHODS = ("cka", "cka_biased", "cka_rbf", "cca", "svcca", "procrustes", "rsa")
_COLUMNS = (
    "run_a", "layer_a", "order_a", "run_b", "layer_b", "order_b", "method", "value", "se", "null", "null_sd", "p", "tail", "n",
    "note",
)  # fmt: skip
# columns that tables of version 0.1 lack
_DEFAULTS: dict[str, Any] = {"se": np.nan, "null": np.nan, "null_sd": np.nan, "p": np.nan, "tail": ""}
_PERMUTED_BYTES = 1 << 30  # kernels of the second side that the null holds in memory at a time
_BLOCK_BYTES = 256 << 20
_ENERGY = 0.99  # share of the variance in svcca's directions
_OMITTED, _SUBSETS = 0.3, 20  # svcca's standard error: share of the samples that a subset omits, and number of subsets
_ROUNDING = 1e-9  # a draw and a value that differ by less are equal up to rounding
_RANK = 1e-10  # singular values below this share of the largest are rounding


@dataclass(frozen=True, eq=False)
class Similarity:
    """Similarity of pairs of layers.

    Parameters
    ----------
    frame : pandas.DataFrame
        A row per pair: run_a, layer_a, order_a, run_b, layer_b, order_b, method, value, se, n, note; for the null distribution
        its mean `null`, standard deviation `null_sd`, `p`, and `tail`: "up" if large values mean similar layers, else "down".
    failures : mapping of str to str
        Layers that could not be compared, "RUN, LAYER", each with the reason.
    provenance : mapping
        How the values were obtained.
    """

    frame: pd.DataFrame
    failures: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def failure(self) -> str:
        """The number of layers that could not be compared, with the first and its reason; empty if there are none."""
        if not self.failures:
            return ""
        layer, reason = next(iter(self.failures.items()))
        first = f"{layer!r}" if len(self.failures) == 1 else f"{layer!r} first"
        return f"{len(self.failures)} layer{'s' * (len(self.failures) > 1)} could not be compared, {first}: {reason}"

    def matrix(self) -> pd.DataFrame:
        """The values with layers of a as rows and layers of b as columns, in order of execution."""
        a, b = (list(dict.fromkeys(self.frame.sort_values(f"order_{side}")[f"layer_{side}"])) for side in "ab")
        return self.frame.set_index(["layer_a", "layer_b"])["value"].unstack().reindex(index=a, columns=b)  # noqa: PD010  # NaN stay

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Write a CSV file with all digits of every number. The last columns are the number of rows and the provenance."""
        provenances = [json.dumps(dict(self.provenance), ensure_ascii=False)] + [""] * (len(self.frame) - 1)
        with replacing(path) as draft:
            self.frame.assign(rows=len(self.frame), provenance=provenances[: len(self.frame)]).to_csv(draft, index=False)

    @classmethod
    def from_csv(cls, path: str | PathLike[str]) -> Similarity:
        """Read a table that `to_csv` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        FormatError
            If it can't be read or is truncated.
        UsageError
            If it lacks columns.
        """
        content = BytesIO(read_whole_lines(path, "table of similarities"))
        strings = dict.fromkeys(
            (*(f"{column}_{side}" for column in ("run", "layer") for side in "ab"), "method", "tail", "note", "provenance"),
            "str",
        )
        numbers = {name: [""] for name in ("value", *_DEFAULTS) if name != "tail"}
        try:
            frame = pd.read_csv(
                content,
                dtype=strings | {"rows": "int64"},
                keep_default_na=False,
                na_values=numbers,
                float_precision="round_trip",
            )
        except (ValueError, UnicodeDecodeError) as error:
            raise FormatError(f"{path} is not a table of similarities: {error}".strip()) from error
        if missing := [column for column in _COLUMNS if column not in frame and column not in _DEFAULTS]:
            raise UsageError(f"{path} is not a table of similarities: it lacks the columns {', '.join(missing)}.")
        row_counts = Counter(frame["rows"]) if "rows" in frame else {}  # earlier versions did not count
        if frame.empty or any(rows < 1 or count % rows for rows, count in row_counts.items()):  # several tables may be joined
            raise FormatError(
                f"{path} has {len(frame)} pairs of layers, not the number it was written with: it is truncated or edited."
            )
        for name in (column for column in _DEFAULTS if column not in frame):
            frame[name] = _DEFAULTS[name]
        try:
            provenances = [json.loads(text) for text in frame.get("provenance", []) if text]
        except ValueError as error:
            raise FormatError(f"{path} is not a table of similarities: its provenance can't be read ({error}).") from error
        return cls(
            frame[list(_COLUMNS)],
            provenance=provenances[0] if len(provenances) == 1 else {"joined": provenances} if provenances else {},
        )


@analysis
def compare(
    a: str | PathLike[str] | Source,
    b: str | PathLike[str] | Source | None = None,
    method: Annotated[str, Doc("cka, cka_biased, cka_rbf, cca, svcca, procrustes or rsa.")] = "cka",
    *,
    layers: LayersOption = None,
    samples: Annotated[int, Ge(4), Doc("Number of samples, drawn by id.")] = 2000,
    groups: GroupsOption = 10,
    null: Annotated[int, Ge(0), Doc("Random pairings of the samples: the values of unrelated layers.")] = 0,
    seed: int = 0,
    progress: bool | None = None,
    strict: StrictOption = False,
    same_samples: Annotated[bool, Doc("Equal ids are the same samples, whatever labels and names of data sets say.")] = False,
) -> Similarity:
    """Similarity of every layer of `a` to every layer of `b`, on the samples that both have.

    Parameters
    ----------
    a, b : path or probes.Source
        Activations; without `b`, layers of `a` are compared with one another. Samples are matched by id.
    method : {"cka", "cka_biased", "cka_rbf", "cca", "svcca", "procrustes", "rsa"}, default "cka"
        "cka" is linear and debiased, "cka_biased" linear and not debiased, "cka_rbf" debiased with a Gaussian kernel whose
        squared_width is the median distance. "rsa" compares Euclidean distances.
    layers : str or sequence of str, optional
        Layer patterns, for both.
    samples : int, default 2000
        Number of samples, drawn by id.
    groups : int, default 10
        Groups of samples that the jackknife leaves out in turn, for standard errors; 0 for none.
    null : int, default 0
        Number of random pairings of the samples of a with those of b, for the null distribution.
    seed : int, default 0
        Seed of the pairings.
    progress : bool, optional
        Show a progress bar; by default only on a terminal.
    strict : bool, default False
        Whether to raise at the first layer that cannot be compared. By default its pairs are NaN with the reason in their note,
        and a warning is given.
    same_samples : bool, default False
        Whether samples of equal id are the same, whatever labels and the names of data sets and splits say.

    Returns
    -------
    Similarity
        A row per pair, with its standard error, and with `null` the p value under the hypothesis that the
        layers are independent: (k + 1)/(null + 1) for k pairings that are at least as similar, ties included. Values are in [0,
        1] but for a debiased cka, which may be slightly below 0, and rsa in [-1, 1]; large values mean similar layers, except
        for `procrustes`, a distance.

    Raises
    ------
    UsageError
        If the method or a layer is unknown.
    DataError
        If a and b share fewer than 4 sample ids, or samples of equal id have different labels, or come from data sets in which
        equal ids may be different samples; with `strict`, if a layer contains NaN or inf or can't be read.

    Warns
    -----
    LeftOutWarning
        If layers could not be compared.

    Notes
    -----
    Time for L layers of n samples and d features: L n^2 d + L^2 n^2 for cka and rsa, L n d^2 + L^2 d^3 for the others.
    Memory: the samples of all layers, and 256 MB; for rsa L n^2/2 numbers. With n below d, cca and svcca are 1 in some
    directions for any data; the note of such a pair says so.

    value +- 1.96 se is a 95 % interval of the mean over data sets of n samples, not of the limit of many samples. Standard
    errors take as long as the sums for cka, the ranking for rsa, one decomposition per pair for cca and procrustes, and 14
    times the values for svcca. A pairing takes L^2 n^2 for cka and rsa (with kernels of up to 1 GB in memory), and the time of
    the values for the others. With 4 samples there are only 24 pairings, so that p is at least 1/25. If every pairing gives the
    same value, as with cca and n below d, p is NaN.

    References
    ----------
    S. Kornblith et al., "Similarity of neural network representations revisited", ICML 2019. L. Song et al., "Feature
    selection via dependence maximization", JMLR 13, 2012. M. Raghu et al., "SVCCA", NIPS 2017. N. Kriegeskorte, M. Mur,
    P. Bandettini, "Representational similarity analysis", Frontiers in Systems Neuroscience 2, 2008.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(100, 5))
    >>> rotated = x @ np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]
    >>> similarity = compare(probes.from_arrays({"a": x, "b": 3 * rotated}))
    >>> similarity.matrix().round(6).to_numpy().tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    one_of("method", method, METHODS)
    first, close_first = _open(a)
    second, close_second = (first, False) if b is None else _open(b)
    try:
        ids = _subsample(shared_ids(first, second, same_samples=same_samples), samples)
        sides = [(first, select(layers, first.info, first.name))]
        if second is not first:
            sides.append((second, select(layers, second.info, second.name)))
        total = sum(len(names) for _, names in sides)
        with tqdm(total=total, unit=" layers", desc=method, disable=None if progress is None else not progress) as bar:
            rows, reasons = [], []
            for source, names in sides:
                row_of = {sample: row for row, sample in enumerate(source.ids.tolist())}
                positions = np.array([row_of[sample] for sample in ids.tolist()])
                read = [_try_rows(source, name, positions, strict=strict) for name in names]
                bar.update(len(names))
                rows.append([x for x, _ in read])
                reasons.append({name: why for name, (_, why) in zip(names, read, strict=True) if why})
        if second is first:
            rows.append(rows[0])
        measure = _MEASURES[method](rows[0], rows[1])
        groups_of_rows = _equal_groups(ids, groups)
        errors = measure.errors(groups_of_rows) if groups else np.full_like(measure.pairs, np.nan)
        orders = [np.random.default_rng([seed, draw]).permutation(len(ids)) for draw in range(null)]
        draws = measure.permuted(orders) if null else None
        failures = {
            f"{_run(source)}, {name}": why
            for (source, _), reasons_of in zip(sides, reasons, strict=True)
            for name, why in reasons_of.items()
        }
        result = Similarity(_to_frame(sides, method, (measure.pairs, errors, draws), rows, reasons), failures)
        if failures:
            warnings.warn(f"{result.failure}; its pairs are NaN.", LeftOutWarning, stacklevel=3)
        return result
    finally:
        for source, close in ((first, close_first), (second, close_second)):
            if close:
                source.close()


def _open(source: Any) -> tuple[Source, bool]:
    """A source, and whether the caller has to close it."""
    return (source, False) if isinstance(source, Source) else (probes.open(source), True)


def _subsample(ids: NDArray[Any], samples: int) -> NDArray[Any]:
    """At most `samples` ids, ascending by hash."""
    order = np.argsort(hashed(ids, SUBSAMPLE_SEED), kind="stable")
    return ids[order[: max(4, samples)]]


def _try_rows(source: Source, name: str, positions: NDArray[np.int64], *, strict: bool) -> tuple[NDArray[np.float64], str]:
    """A layer's rows and ""; if they can't be read, rows without features and the reason."""
    try:
        return _rows(source, name, positions), ""
    except UsageError:
        raise
    except Exception as error:
        if strict:
            error.add_note(f"layers='!{name}', --layers '!{name}' leaves it out")
            raise
        return np.zeros((len(positions), 0)), reason_of(error)


def _rows(source: Source, name: str, positions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Rows of a layer in the order of `positions`, flattened, centred and scaled to norm 1."""
    ascending = np.argsort(positions, kind="stable")
    rows_read = source.take(name, positions[ascending]).reshape(len(positions), -1)
    x = np.empty(rows_read.shape)
    x[ascending] = rows_read
    finite = np.isfinite(x).all(axis=1)
    if not finite.all():
        raise DataError(
            f"Layer {name!r} of {source.name} holds NaN or inf in {int((~finite).sum()):,} of {len(x):,} samples, the first "
            f"of them id {source.ids[positions[~finite].min()].item()!r}."
        )
    return _to_unit_norm(x)


Layers = Sequence[NDArray[np.float64]]
Pairs = Float64[np.ndarray, "a b"]
Rows = slice | NDArray[np.int64]
Kernel = Callable[[NDArray[np.float64], Rows], NDArray[np.float64]]


def _linear(x: NDArray[np.float64], rows: Rows) -> NDArray[np.float64]:
    """Inner products of the selected rows with all rows, (rows, n)."""
    products: NDArray[np.float64] = (
        blas.dgemm(1.0, x.T, x[rows].T, trans_a=1).T if x.shape[1] else np.zeros((len(x[rows]), len(x)))
    )
    return products


def _squared_distances(x: NDArray[np.float64], rows: Rows) -> NDArray[np.float64]:
    """Squared distances of the selected rows to all rows, (rows, n)."""
    squares = np.einsum("nd,nd->n", x, x)
    distances: NDArray[np.float64] = np.maximum(squares[rows, None] + squares - 2.0 * _linear(x, rows), 0.0)
    return distances


def _gaussian(x: NDArray[np.float64]) -> Kernel:
    """exp(-D^2 / 2 s^2), s the median distance between the samples (at most the first 1,000)."""
    subset = x[:1000]
    squared = _squared_distances(subset, slice(None))[np.triu_indices(len(subset), 1)]
    squared_width = float(np.median(squared)) or 1.0
    return lambda layer, rows: np.exp(_squared_distances(layer, rows) / (-2.0 * squared_width))


def _kernels(kind: Literal["linear", "rbf"], layers: Layers) -> list[Kernel]:
    return [_linear if kind == "linear" else _gaussian(x) for x in layers]


class Measure:
    """A similarity of all pairs of layers: its values, their standard errors, and the values under permuted pairings.

    Parameters
    ----------
    first, second : sequence of (n, d) arrays
        Centred rows of the layers, the same n samples in the same order. The same object if a source is compared with itself.
    """

    pairs: Pairs

    def __init__(self, first: Layers, second: Layers) -> None:
        self.first, self.second, self.same = first, second, second is first
        self.n = len(first[0])

    def leave_one_out(self, groups: NDArray[np.int64]) -> Iterator[Pairs]:
        """Yields the values without group 0, 1, ... (the jackknife's replicates)."""
        raise NotImplementedError

    def errors(self, groups: NDArray[np.int64]) -> Pairs:
        """Standard errors by the jackknife over groups."""
        sizes = np.bincount(groups).tolist()
        replicates = np.array(list(self.leave_one_out(groups)))
        errors = np.full_like(self.pairs, np.nan)
        for i, j in np.ndindex(*errors.shape):
            errors[i, j] = jackknife(float(self.pairs[i, j]), replicates[:, i, j].tolist(), sizes)
        return errors * few_groups(len(sizes))

    def permuted(self, orders: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
        """The values if row i of the first side is paired with row order[i] of the second, (draws, a, b)."""
        raise NotImplementedError

    def _mirrored(self, pairs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Copies the upper triangle to the lower one if a source is compared with itself."""
        if self.same:
            low = np.tril_indices(pairs.shape[-1], -1)
            pairs[..., low[0], low[1]] = pairs[..., low[1], low[0]]
        return pairs


class _Cka(Measure):
    """Centred kernel alignment, from products of blocks of rows of all kernels, summed by pairs of groups."""

    def __init__(
        self, first: Layers, second: Layers, kind: Literal["linear", "rbf"] = "linear", *, unbiased: bool = True
    ) -> None:
        super().__init__(first, second)
        self.layers = list(first) if self.same else [*first, *second]
        self.kernels, self.unbiased = _kernels(kind, self.layers), unbiased
        self.groups = np.zeros(self.n, np.int64)
        self._sum_products()
        self.pairs = self._cka(self.products.sum(axis=(0, 1)), self.sums.sum(axis=2))

    def _sum_products(self) -> None:
        """Products of all kernels summed over pairs of groups, (G, G, L, L), and row sums by group, (L, n, G)."""
        count, groups = len(self.layers), int(self.groups.max()) + 1
        order = np.argsort(self.groups, kind="stable")
        edges = np.searchsorted(self.groups[order], np.arange(groups + 1))
        size = max(1, _BLOCK_BYTES // (8 * self.n * count))
        self.products = np.zeros((groups, groups, count, count))
        self.sums = np.zeros((count, self.n, groups))
        for g in range(groups):
            for start in range(edges[g], edges[g + 1], size):
                rows = order[start : min(start + size, edges[g + 1])]
                block = self._rows(slice(0, count), rows)[:, :, order] if groups > 1 else self._rows(slice(0, count), rows)
                for h in range(groups):
                    part = block[:, :, edges[h] : edges[h + 1]]
                    self.sums[:, rows, h] = part.sum(axis=2)
                    flat = part.reshape(count, -1)
                    self.products[g, h] += blas.dgemm(1.0, flat.T, flat.T, trans_a=1)

    def _rows(self, selected: slice, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Rows of the selected kernels, (L, rows, n); the unbiased estimator has the diagonal 0."""
        block = np.stack([kernel(x, rows) for kernel, x in zip(self.kernels[selected], self.layers[selected], strict=True)])
        if self.unbiased:
            block[:, np.arange(len(rows)), rows] = 0.0
        return block

    def _hsic(self, products: NDArray[np.float64], sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """HSIC of all pairs of kernels, up to a common factor, from their products and row sums."""
        row_products, totals, n = sums @ sums.T, sums.sum(axis=1), sums.shape[1]
        if self.unbiased:
            return np.asarray(products + np.outer(totals, totals) / ((n - 1) * (n - 2)) - 2.0 / (n - 2) * row_products)
        return np.asarray(products + np.outer(totals, totals) / n**2 - 2.0 / n * row_products)

    def _cka(self, products: NDArray[np.float64], sums: NDArray[np.float64]) -> Pairs:
        if sums.shape[1] < 4:
            return np.full((len(self.first), len(self.second)), np.nan)
        hsic = self._hsic(products, sums)
        diagonal = np.diag(hsic)
        with np.errstate(invalid="ignore", divide="ignore"):
            cka = np.where((diagonal[:, None] > 0) & (diagonal > 0), hsic / np.sqrt(np.outer(diagonal, diagonal)), np.nan)
        return cka if self.same else cka[: len(self.first), len(self.first) :]

    def leave_one_out(self, groups: NDArray[np.int64]) -> Iterator[Pairs]:
        """From the sums over pairs of the other groups."""
        self.groups = groups
        self._sum_products()
        for g in range(int(groups.max()) + 1):
            products = np.delete(np.delete(self.products, g, 0), g, 1).sum(axis=(0, 1))
            yield self._cka(products, np.delete(self.sums, g, 2).sum(axis=2)[:, groups != g])

    def permuted(self, orders: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
        """Products of the first side's kernels with the second side's, which are permuted, centred and of norm 1."""
        offset = 0 if self.same else len(self.first)
        norms = np.sqrt(np.diag(self._hsic(self.products.sum(axis=(0, 1)), self.sums.sum(axis=2))))[: len(self.first)]

        def centred(j: int) -> NDArray[np.float64]:
            matrix = self._rows(slice(offset + j, offset + j + 1), np.arange(self.n))[0]
            return _centred(matrix, unbiased=self.unbiased)

        def rows_of(rows: NDArray[np.int64]) -> NDArray[np.float64]:
            return self._rows(slice(0, len(self.first)), rows)

        with np.errstate(invalid="ignore", divide="ignore"):
            return self._mirrored(_permuted_products(rows_of, centred, len(self.second), orders) / norms[:, None])


class _Rsa(Measure):
    """Spearman correlation of the distances between samples."""

    def __init__(self, first: Layers, second: Layers) -> None:
        super().__init__(first, second)
        self.upper = np.triu_indices(self.n, 1)
        self.a = _ranks(first, self.upper)
        self.b = self.a if self.same else _ranks(second, self.upper)
        self.pairs = _unit_rows(self.a) @ _unit_rows(self.b).T

    def leave_one_out(self, groups: NDArray[np.int64]) -> Iterator[Pairs]:
        """The remaining distances are ranked again, from their ranks among all distances."""
        for g in range(int(groups.max()) + 1):
            mask = (groups[self.upper[0]] != g) & (groups[self.upper[1]] != g)
            a = _unit_rows(_rerank(self.a[:, mask]))
            yield a @ (a if self.same else _unit_rows(_rerank(self.b[:, mask]))).T

    def permuted(self, orders: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
        """Permuting samples permutes ranks; the factor 1/2 is because a matrix contains every distance twice."""
        a, b = _unit_rows(self.a), _unit_rows(self.b)

        def rows_of(rows: NDArray[np.int64]) -> NDArray[np.float64]:
            return np.stack([squareform(distances, checks=False)[rows] for distances in a]) / 2.0

        products = _permuted_products(rows_of, lambda j: squareform(b[j], checks=False), len(b), orders, scale=False)
        return self._mirrored(products)


class _Svd(Measure):
    """Mean of the singular values of the product of two layers, or 1 - their sum if `distance`.

    `prepare` returns the factors; with `truncates` their number of directions depends on the samples.
    """

    def __init__(
        self,
        first: Layers,
        second: Layers,
        prepare: Callable[[Layers], Layers],
        *,
        distance: bool = False,
        truncates: bool = False,
    ) -> None:
        super().__init__(first, second)
        self.prepare, self.distance, self.truncates = prepare, distance, truncates
        self.a = prepare(first)
        self.b = self.a if self.same else prepare(second)
        self.pairs = self._pairwise(self.a, self.b, self._value)

    def errors(self, groups: NDArray[np.int64]) -> Pairs:  # noqa: ARG002
        """By the influence of each sample; with `truncates`, by random subsets of the samples."""
        if not self.truncates:
            return self._pairwise(self.a, self.b, self._error)
        rng, n_omitted, subsets = np.random.default_rng(0), round(_OMITTED * self.n), []
        for _ in range(_SUBSETS):
            rows = rng.permutation(self.n)[n_omitted:]
            a = self.prepare([_to_unit_norm(x[rows]) for x in self.first])
            subsets.append(
                self._pairwise(a, a if self.same else self.prepare([_to_unit_norm(x[rows]) for x in self.second]), self._value)
            )
        errors = np.std(subsets, axis=0, ddof=1) * np.sqrt((self.n - n_omitted) / n_omitted)
        return np.asarray(errors * few_groups(_SUBSETS))

    def permuted(self, orders: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
        """Permutes the rows of the second side."""
        return np.array([self._pairwise(self.a, [y[order] for y in self.b], self._value) for order in orders])

    def _value(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
        singular_values = svdvals(blas.dgemm(1.0, x.T, y.T, trans_b=1), check_finite=False)
        return 1.0 - float(singular_values.sum()) if self.distance else float(np.clip(singular_values, 0.0, 1.0).mean())

    def _error(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
        """The standard error above; cca is the nuclear norm for orthonormal bases, divided by the number of directions."""
        left, singular_values, right = svd(blas.dgemm(1.0, x.T, y.T, trans_b=1), full_matrices=False, check_finite=False)
        u, v = blas.dgemm(1.0, x.T, left, trans_a=1), blas.dgemm(1.0, y.T, right.T, trans_a=1)
        if self.distance:
            squares = np.square(x).sum(axis=1) + np.square(y).sum(axis=1)
            influence = (u * v).sum(axis=1) - float(singular_values.sum()) / 2.0 * squares
        else:
            influence = (u * v - singular_values / 2.0 * (np.square(u) + np.square(v))).mean(axis=1)
        return float(np.sqrt(self.n / (self.n - 1) * np.square(influence).sum()))

    def _pairwise(self, a: Layers, b: Layers, of: Callable[..., float]) -> Pairs:
        """`of` for every pair of layers; NaN if one is constant."""
        pairs = np.full((len(a), len(b)), np.nan)
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                if x.shape[1] and y.shape[1] and not (self.same and j < i):
                    pairs[i, j] = of(x, y)
        return self._mirrored(pairs)


def _equal_groups(ids: NDArray[Any], groups: int) -> NDArray[np.int64]:
    """Group of each sample; sizes differ by at most 1, membership depends on the id."""
    rank = np.empty(len(ids), np.int64)
    rank[np.argsort(hashed(ids, JACKKNIFE_SEED), kind="stable")] = np.arange(len(ids))
    return rank % max(1, min(groups, len(ids)))


def _centred(matrix: NDArray[np.float64], *, unbiased: bool) -> NDArray[np.float64]:
    """A kernel without its row and column means; if unbiased, as Szekely and Rizzo (2014) centre it, with diagonal 0."""
    n = len(matrix)
    rows, total = matrix.sum(axis=1), float(matrix.sum())
    if not unbiased:
        return np.asarray(matrix - (rows[:, None] + rows) / n + total / n**2)
    matrix = matrix - (rows[:, None] + rows) / (n - 2) + total / ((n - 1) * (n - 2))
    np.fill_diagonal(matrix, 0.0)
    return matrix


def _permuted_products(
    rows_of: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    matrix_of: Callable[[int], NDArray[np.float64]],
    count: int,
    orders: Sequence[NDArray[np.int64]],
    *,
    scale: bool = True,
) -> NDArray[np.float64]:
    """sum_ij A_ij B_p(i)p(j) for all A, B and orders p, (draws, a, b); with `scale`, B has norm 1.

    A is computed by blocks of rows, once for as many B as fit in 1 GB.
    """
    n = len(orders[0])
    batch = max(1, _PERMUTED_BYTES // (8 * n * n))
    parts = []
    for start in range(0, count, batch):
        b = np.stack([matrix_of(j) for j in range(start, min(count, start + batch))])
        if scale:
            with np.errstate(invalid="ignore", divide="ignore"):
                b /= np.sqrt(np.einsum("bij,bij->b", b, b))[:, None, None]
        first = rows_of(np.arange(1))
        size = max(1, _BLOCK_BYTES // (8 * n * (len(first) + len(b))))
        products = np.zeros((len(orders), len(first), len(b)))
        for top in range(0, n, size):
            rows = np.arange(top, min(n, top + size))
            a = rows_of(rows).reshape(len(first), -1)
            for draw, order in enumerate(orders):
                permuted = np.take(b[:, order[rows]], order, axis=2).reshape(len(b), -1)
                products[draw] += blas.dgemm(1.0, a.T, permuted.T, trans_a=1)
        parts.append(products)
    return np.concatenate(parts, axis=2)


def _to_unit_norm(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows centred and scaled to norm 1; an array without features if they are constant."""
    magnitude = float(np.abs(x).max()) if x.size else 0.0
    x = x - x.mean(axis=0)
    size = float(np.linalg.norm(x))
    return x / size if size > 1e-12 * magnitude * np.sqrt(x.size) else np.zeros((len(x), 0))


def _bases(layers: Layers, energy: float) -> list[NDArray[np.float64]]:
    """Left singular vectors of each layer, as many as explain the share `energy` of the variance."""
    bases = []
    for x in layers:
        if not x.shape[1]:
            bases.append(x)
            continue
        left, singular_values, _ = svd(x, full_matrices=False, check_finite=False)
        explained = np.cumsum(singular_values**2) / np.square(singular_values).sum()
        rank = int((singular_values > _RANK * singular_values[0]).sum())
        bases.append(left[:, : min(rank, int(np.searchsorted(explained, energy)) + 1) if energy < 1 else rank])
    return bases


def _at_most_n_features(layers: Layers) -> Layers:
    """Layers with more features than samples in n coordinates, which keeps the singular values of products."""
    reduced = []
    for x in layers:
        wide = x.shape[1] > len(x)
        reduced.append(np.asarray(qr(x.T, mode="r", check_finite=False)[0][: len(x)].T, np.float64) if wide else x)
    return reduced


def _cca(first: Layers, second: Layers, energy: float = 1.0) -> Measure:
    """Mean canonical correlation."""
    return _Svd(first, second, lambda layers: _bases(layers, energy), truncates=energy < 1)


def _procrustes(first: Layers, second: Layers) -> Measure:
    """1 - nuclear norm of X'Y of layers of norm 1."""
    return _Svd(first, second, _at_most_n_features, distance=True)


def _ranks(layers: Layers, upper: tuple[NDArray[np.int64], NDArray[np.int64]]) -> NDArray[np.float64]:
    """Ranks of the distances between samples, ties with their mean rank; 0 if a layer is constant."""
    ranks = np.zeros((len(layers), len(upper[0])))
    for index, x in enumerate(layers):
        if x.shape[1]:
            ranks[index] = rankdata(_squared_distances(x, slice(None))[upper])
    return ranks


def _rerank(ranks: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks within a subset of ranks, by counting: twice a rank is an integer."""
    doubled = np.rint(2.0 * ranks).astype(np.int64)
    reranked = np.empty(ranks.shape)
    for row, values in enumerate(doubled):
        counts = np.bincount(values)
        reranked[row] = (np.cumsum(counts) - 0.5 * (counts - 1))[values]
    return reranked


def _unit_rows(ranks: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows centred and scaled to norm 1, so that their products are correlations; NaN if a row is constant."""
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    size = np.linalg.norm(centred, axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(size > 0, centred / size, np.nan))


_MEASURES: dict[str, Callable[[Layers, Layers], Measure]] = {
    "cka": _Cka,
    "cka_biased": lambda a, b: _Cka(a, b, unbiased=False),
    "cka_rbf": lambda a, b: _Cka(a, b, "rbf"),
    "cca": _cca,
    "svcca": lambda a, b: _cca(a, b, _ENERGY),
    "procrustes": _procrustes,
    "rsa": _Rsa,
}


def _to_frame(
    sides: Sequence[tuple[Source, Sequence[str]]],
    method: str,
    numbers: tuple[Pairs, Pairs, NDArray[np.float64] | None],
    rows: Sequence[Layers],
    reasons: Sequence[Mapping[str, str]],
) -> pd.DataFrame:
    """A row per pair: value, error, null distribution and notes."""
    (a, names_a), (b, names_b) = sides[0], sides[-1]
    (values, errors, draws), n = numbers, len(rows[0][0])
    lines = []
    for i, x in enumerate(names_a):
        for j, y in enumerate(names_b):
            value = float(values[i, j])
            widest = max(rows[0][i].shape[1], rows[1][j].shape[1])
            failed = list(dict.fromkeys(filter(None, (reasons[0].get(x), reasons[-1].get(y)))))
            notes = failed or (["a layer is constant"] if np.isnan(value) else [])
            if not notes and method in ("cca", "svcca") and widest >= n:
                notes.append(f"{n} samples of {widest} features have canonical correlations of 1 for any data")
            null = _null(value, None if draws is None else draws[:, i, j], method)
            notes += [null.note] if null.note and not np.isnan(value) else []
            pair = (_run(a), x, a.info[x].order, _run(b), y, b.info[y].order)
            result = value, float(errors[i, j]), null.mean, null.sd, null.p, null.tail
            lines.append((*pair, method, *result, n, "; ".join(notes)))
    return pd.DataFrame(lines, columns=list(_COLUMNS))


def _null(value: float, draws: NDArray[np.float64] | None, method: str) -> Null:
    """The permutation test of one pair; p is NaN if all pairings give the same value."""
    if draws is None:
        return Null(np.nan, np.nan, np.nan, "", "")
    tail: Structure = "down" if method == "procrustes" else "up"
    null = permutation_test(value, draws.tolist(), tail, dimensionless=True, of="pairs of samples")
    if np.isfinite(null.mean) and np.ptp([value, *draws]) < _ROUNDING:
        return null._replace(p=np.nan, note="every pairing of the samples gives the same value, so that there is no test")
    return null


def _run(source: Source) -> str:
    return Path(source.name).stem
