r"""How alike are two layers: CKA, CCA, Procrustes and RSA between all layers of one or two sources, matched by sample id.

For n samples with features X and Y, centred, K = X X^T and L = Y Y^T (or Gaussian kernels), off-diagonal parts K~, L~:

    cka         HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), by default with the unbiased estimator of Song et al. (2012):
                HSIC = [ Tr K~L~ + 1'K~1 1'L~1 / ((n-1)(n-2)) - 2/(n-2) 1'K~L~1 ] / (n(n-3))
    cca, svcca  mean canonical correlation, of all directions or of those that hold 99 % of the variance
    procrustes  1 - || X'Y ||_* / (||X|| ||Y||), 0 for layers that are equal up to rotation and scale
    rsa         Spearman correlation of the n(n-1)/2 distances between samples

No n x n matrix of any layer is kept for the values: kernels are made by blocks of rows, each once, and one product of all
layers' blocks gives every pair.

Standard errors: of cka and rsa by leaving out groups of samples (`analyses.uncertainty`); for cka the same products, summed by
pairs of groups, hold all of them. Of svcca, whose number of directions jumps, from its spread over random parts of 70 % of
the samples. Of cca and procrustes by the influence of each sample,

    cca         dv_i = mean_k [ u_ik v_ik - rho_k (u_ik^2 + v_ik^2) / 2 ]       u, v canonical variates of squared length 1
    procrustes  dv_i = x_i.(U V')y_i - ||X'Y||_* (||x_i||^2 + ||y_i||^2) / 2      X'Y = U S V',  se^2 = n/(n-1) sum_i dv_i^2

The null permutes which sample of b belongs to which of a: if the two have nothing to do with each other, every pairing is as
likely as the one at hand, whatever n, d and distributions are. One pairing serves all pairs of layers. Kernels and distances
are permuted, never computed again.
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
_ADDED: dict[str, Any] = {"se": np.nan, "null": np.nan, "null_sd": np.nan, "p": np.nan, "tail": ""}  # since version 0.2
_HELD_BYTES = 1 << 30  # kernels of the second side that the null permutes at a time
_BLOCK_BYTES = 256 << 20
_ENERGY = 0.99  # share of variance that svcca keeps
_LEFT_OUT, _PARTS = 0.3, 20  # of svcca: share of the samples that is left out, and how often
_SAME = 1e-9  # draws and value that differ by less are the same up to rounding
_RANK = 1e-10  # singular values below this share of the largest are rounding


@dataclass(frozen=True, eq=False)
class Similarity:
    """Similarity of pairs of layers.

    Parameters
    ----------
    frame : pandas.DataFrame
        A row per pair: run_a, layer_a, order_a, run_b, layer_b, order_b, method, value, se, n, note; of the null its mean
        `null`, standard deviation `null_sd`, `p`, and `tail`, "up" or "down", in which layers are more alike.
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
        """How many layers could not be compared, which is the first, and why; empty where all could."""
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
        """Write a CSV file; every number keeps all its digits. The last columns count the rows and hold the provenance."""
        facts = [json.dumps(dict(self.provenance), ensure_ascii=False)] + [""] * (len(self.frame) - 1)
        with replacing(path) as draft:
            self.frame.assign(rows=len(self.frame), provenance=facts[: len(self.frame)]).to_csv(draft, index=False)

    @classmethod
    def from_csv(cls, path: str | PathLike[str]) -> Similarity:
        """Read what `to_csv` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        FormatError
            If it can't be read, or was cut.
        UsageError
            If it lacks columns.
        """
        content = BytesIO(read_whole_lines(path, "table of similarities"))
        texts = dict.fromkeys(
            (*(f"{what}_{side}" for what in ("run", "layer") for side in "ab"), "method", "tail", "note", "provenance"), "str"
        )
        numbers = {name: [""] for name in ("value", *_ADDED) if name != "tail"}
        try:
            frame = pd.read_csv(
                content, dtype=texts | {"rows": "int64"}, keep_default_na=False, na_values=numbers, float_precision="round_trip"
            )
        except (ValueError, UnicodeDecodeError) as error:
            raise FormatError(f"{path} is no table of similarities: {error}".strip()) from error
        if missing := [column for column in _COLUMNS if column not in frame and column not in _ADDED]:
            raise UsageError(f"{path} is no table of similarities: it lacks the columns {', '.join(missing)}.")
        stated = Counter(frame["rows"]) if "rows" in frame else {}  # earlier versions did not count
        if frame.empty or any(rows < 1 or count % rows for rows, count in stated.items()):  # several tables may be joined
            raise FormatError(f"{path} has {len(frame)} pairs of layers, and was written with others: it was cut or changed.")
        for name in (column for column in _ADDED if column not in frame):
            frame[name] = _ADDED[name]
        try:
            facts = [json.loads(text) for text in frame.get("provenance", []) if text]
        except ValueError as error:
            raise FormatError(f"{path} is no table of similarities: its provenance can't be read ({error}).") from error
        return cls(frame[list(_COLUMNS)], provenance=facts[0] if len(facts) == 1 else {"joined": facts} if facts else {})


@analysis
def compare(
    a: str | PathLike[str] | Source,
    b: str | PathLike[str] | Source | None = None,
    method: Annotated[str, Doc("cka, cka_biased, cka_rbf, cca, svcca, procrustes or rsa.")] = "cka",
    *,
    layers: LayersOption = None,
    samples: Annotated[int, Ge(4), Doc("Samples to look at, drawn by id.")] = 2000,
    groups: GroupsOption = 10,
    null: Annotated[int, Ge(0), Doc("Random pairings of the samples: what unrelated layers would give.")] = 0,
    seed: int = 0,
    progress: bool | None = None,
    strict: StrictOption = False,
    same_samples: Annotated[bool, Doc("Equal ids are the same samples, whatever labels and names of data sets say.")] = False,
) -> Similarity:
    """Similarity of every layer of `a` to every layer of `b`, on samples that both hold.

    Parameters
    ----------
    a, b : path or probes.Source
        Activations; without `b`, layers of `a` are compared with one another. Samples are matched by id.
    method : {"cka", "cka_biased", "cka_rbf", "cca", "svcca", "procrustes", "rsa"}, default "cka"
        "cka" is linear and debiased, "cka_biased" linear without that, "cka_rbf" debiased with a Gaussian kernel whose width
        is the median distance. "rsa" compares Euclidean distances.
    layers : str or sequence of str, optional
        Layer patterns, for both.
    samples : int, default 2000
        Samples to look at, drawn by id.
    groups : int, default 10
        Groups of samples that the jackknife leaves out in turn, for standard errors; 0 for none.
    null : int, default 0
        How many times to pair samples of a with samples of b at random, and compare again.
    seed : int, default 0
        Of the pairings.
    progress : bool, optional
        Show a progress bar; by default only on a terminal.
    strict : bool, default False
        Whether to stop at the first layer that cannot be compared. Otherwise its pairs are NaN with the reason in their note,
        and a warning says so.
    same_samples : bool, default False
        Whether samples of equal id are the same, whatever labels and the names of data sets and splits say.

    Returns
    -------
    Similarity
        A row per pair, with its standard error, and with `null` the p of the test that the layers have nothing to do with
        each other: (k + 1)/(null + 1) for k pairings that are as alike, ties included. Values are in [0, 1] but for a debiased
        cka, which may be slightly below 0, and rsa in [-1, 1]; large: alike, except for `procrustes`, a distance.

    Raises
    ------
    UsageError
        If the method or a layer is unknown.
    DataError
        If the two share fewer than 4 sample ids, or samples of equal id have different labels, or come from data sets in which
        equal ids may be different samples; with `strict`, if a layer holds NaN or inf or can't be read.

    Warns
    -----
    LeftOutWarning
        If layers could not be compared.

    Notes
    -----
    Time for L layers of n samples and d features: L n^2 d + L^2 n^2 for cka and rsa, L n d^2 + L^2 d^3 for the others.
    Memory: the samples of all layers, and 256 MB; for rsa L n^2/2 numbers. With n below d, cca and svcca find perfect
    correlations in any data, and a note says so; where every pairing gives the same value, p is NaN.

    value +- 1.96 se is a 95 % interval of the mean over data sets of n samples, not of what more samples would give. Errors
    take the time of the sums of cka, of the ranks of rsa, of one decomposition of every pair for cca and procrustes, and 14
    times that of the values for svcca. A pairing takes L^2 n^2 for cka and rsa, whose kernels of up to 1 GB are held, and the
    time of the values for the others. p can't be small with 4 samples, of which there are only 24 pairings; where every
    pairing gives the same value, as with cca and n below d, it is NaN.

    References
    ----------
    S. Kornblith et al., "Similarity of neural network representations revisited", ICML 2019. L. Song et al., "Feature
    selection via dependence maximization", JMLR 13, 2012. M. Raghu et al., "SVCCA", NIPS 2017. N. Kriegeskorte, M. Mur,
    P. Bandettini, "Representational similarity analysis", Frontiers in Systems Neuroscience 2, 2008.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(100, 5))
    >>> rotated = x @ np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]
    >>> found = compare(probes.from_arrays({"a": x, "b": 3 * rotated}))
    >>> found.matrix().round(6).to_numpy().tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    one_of("method", method, METHODS)
    first, mine = _opened(a)
    second, theirs = (first, False) if b is None else _opened(b)
    try:
        samples_drawn = _drawn(shared_ids(first, second, same_samples=same_samples), samples)
        sides = [(first, select(layers, first.info, first.name))]
        if second is not first:
            sides.append((second, select(layers, second.info, second.name)))
        total = sum(len(names) for _, names in sides)
        with tqdm(total=total, unit=" layers", desc=method, disable=None if progress is None else not progress) as bar:
            rows, reasons = [], []
            for source, names in sides:
                row_of = {sample: row for row, sample in enumerate(source.ids.tolist())}
                at = np.array([row_of[sample] for sample in samples_drawn.tolist()])
                attempts = [_attempted(source, name, at, strict=strict) for name in names]
                bar.update(len(names))
                rows.append([x for x, _ in attempts])
                reasons.append({name: why for name, (_, why) in zip(names, attempts, strict=True) if why})
        if second is first:
            rows.append(rows[0])
        measure = _MEASURES[method](rows[0], rows[1])
        label = _balanced(samples_drawn, groups)
        errors = measure.errors(label) if groups else np.full_like(measure.pairs, np.nan)
        orders = [np.random.default_rng([seed, draw]).permutation(len(samples_drawn)) for draw in range(null)]
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
        for source, ours in ((first, mine), (second, theirs)):
            if ours:
                source.close()


def _opened(source: Any) -> tuple[Source, bool]:
    """A source, and whether it was opened here."""
    return (source, False) if isinstance(source, Source) else (probes.open(source), True)


def _drawn(ids: NDArray[Any], samples: int) -> NDArray[Any]:
    """Ids ascending by hash; at most so many."""
    order = np.argsort(hashed(ids, SUBSAMPLE_SEED), kind="stable")
    return ids[order[: max(4, samples)]]


def _attempted(source: Source, name: str, at: NDArray[np.int64], *, strict: bool) -> tuple[NDArray[np.float64], str]:
    """A layer's rows, or, where they can't be had, none and the reason."""
    try:
        return _rows(source, name, at), ""
    except UsageError:
        raise
    except Exception as error:
        if strict:
            error.add_note(f"layers='!{name}', --layers '!{name}' leaves it out")
            raise
        return np.zeros((len(at), 0)), reason_of(error)


def _rows(source: Source, name: str, at: NDArray[np.int64]) -> NDArray[np.float64]:
    """Chosen rows of a layer, flattened, centred and scaled to size 1; in the order of `at`."""
    ascending = np.argsort(at, kind="stable")
    rows_read = source.take(name, at[ascending]).reshape(len(at), -1)
    x = np.empty(rows_read.shape)
    x[ascending] = rows_read
    finite = np.isfinite(x).all(axis=1)
    if not finite.all():
        raise DataError(
            f"Layer {name!r} of {source.name} holds NaN or inf in {int((~finite).sum()):,} of {len(x):,} samples, the first "
            f"of them id {source.ids[at[~finite].min()].item()!r}."
        )
    return _sized(x)


Layers = Sequence[NDArray[np.float64]]
Pairs = Float64[np.ndarray, "a b"]
Rows = slice | NDArray[np.int64]
Kernel = Callable[[NDArray[np.float64], Rows], NDArray[np.float64]]


def _linear(x: NDArray[np.float64], rows: Rows) -> NDArray[np.float64]:
    """Scalar products of some rows with all, (rows, n)."""
    products: NDArray[np.float64] = (
        blas.dgemm(1.0, x.T, x[rows].T, trans_a=1).T if x.shape[1] else np.zeros((len(x[rows]), len(x)))
    )
    return products


def _squared(x: NDArray[np.float64], rows: Rows) -> NDArray[np.float64]:
    """Squared distances of some rows to all, (rows, n)."""
    squares = np.einsum("nd,nd->n", x, x)
    distances: NDArray[np.float64] = np.maximum(squares[rows, None] + squares - 2.0 * _linear(x, rows), 0.0)
    return distances


def _gaussian(x: NDArray[np.float64]) -> Kernel:
    """exp(-D^2 / 2 s^2) with s the median distance of (at most 1,000 of) the samples."""
    few = x[:1000]
    table = _squared(few, slice(None))[np.triu_indices(len(few), 1)]
    width = float(np.median(table)) or 1.0
    return lambda rows_of, rows: np.exp(_squared(rows_of, rows) / (-2.0 * width))


def _kernels(kind: Literal["linear", "rbf"], layers: Layers) -> list[Kernel]:
    return [_linear if kind == "linear" else _gaussian(x) for x in layers]


class Measure:
    """A similarity of all pairs of layers of two sides: its values, without groups of samples, and under other pairings.

    Parameters
    ----------
    first, second : sequence of (n, d) arrays
        Centred rows of the layers; of n samples in the same order. The same object where one source is compared with itself.
    """

    pairs: Pairs

    def __init__(self, first: Layers, second: Layers) -> None:
        self.first, self.second, self.same = first, second, second is first
        self.n = len(first[0])

    def without(self, groups: NDArray[np.int64]) -> Iterator[Pairs]:
        """The values without the samples of each group."""
        raise NotImplementedError

    def errors(self, groups: NDArray[np.int64]) -> Pairs:
        """Standard errors: here, by leaving out groups."""
        sizes = np.bincount(groups).tolist()
        skipped = np.array(list(self.without(groups)))
        errors = np.full_like(self.pairs, np.nan)
        for i, j in np.ndindex(*errors.shape):
            errors[i, j] = jackknife(float(self.pairs[i, j]), skipped[:, i, j].tolist(), sizes)
        return errors * few_groups(len(sizes))

    def permuted(self, orders: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
        """The values where row i of the first side goes with row order[i] of the second, (draws, a, b)."""
        raise NotImplementedError

    def _mirrored(self, pairs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of one source with itself, the pair of j and i is that of i and j."""
        if self.same:
            low = np.tril_indices(pairs.shape[-1], -1)
            pairs[..., low[0], low[1]] = pairs[..., low[1], low[0]]
        return pairs


class _Cka(Measure):
    """Centred kernel alignment, by blocks of rows of all kernels, whose products are summed by pairs of groups."""

    def __init__(
        self, first: Layers, second: Layers, kind: Literal["linear", "rbf"] = "linear", *, unbiased: bool = True
    ) -> None:
        super().__init__(first, second)
        self.layers = list(first) if self.same else [*first, *second]
        self.kernels, self.unbiased = _kernels(kind, self.layers), unbiased
        self.groups = np.zeros(self.n, np.int64)
        self._sum()
        self.pairs = self._between(self.products.sum(axis=(0, 1)), self.sums.sum(axis=2))

    def _sum(self) -> None:
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

    def _rows(self, which: slice, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Rows of kernels, (L, rows, n), without the diagonal where that does not count."""
        block = np.stack([kernel(x, rows) for kernel, x in zip(self.kernels[which], self.layers[which], strict=True)])
        if self.unbiased:
            block[:, np.arange(len(rows)), rows] = 0.0
        return block

    def _hsic(self, products: NDArray[np.float64], sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """HSIC of all pairs of kernels, up to a factor, from their products and row sums."""
        crossed, totals, n = sums @ sums.T, sums.sum(axis=1), sums.shape[1]
        if self.unbiased:
            return np.asarray(products + np.outer(totals, totals) / ((n - 1) * (n - 2)) - 2.0 / (n - 2) * crossed)
        return np.asarray(products + np.outer(totals, totals) / n**2 - 2.0 / n * crossed)

    def _between(self, products: NDArray[np.float64], sums: NDArray[np.float64]) -> Pairs:
        if sums.shape[1] < 4:
            return np.full((len(self.first), len(self.second)), np.nan)
        hsic = self._hsic(products, sums)
        own = np.diag(hsic)
        with np.errstate(invalid="ignore", divide="ignore"):
            cka = np.where((own[:, None] > 0) & (own > 0), hsic / np.sqrt(np.outer(own, own)), np.nan)
        return cka if self.same else cka[: len(self.first), len(self.first) :]

    def without(self, groups: NDArray[np.int64]) -> Iterator[Pairs]:
        """Of sums over pairs of groups, those without one."""
        self.groups = groups
        self._sum()
        for g in range(int(groups.max()) + 1):
            rest = np.delete(np.delete(self.products, g, 0), g, 1).sum(axis=(0, 1))
            yield self._between(rest, np.delete(self.sums, g, 2).sum(axis=2)[:, groups != g])

    def permuted(self, orders: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
        """Products of the first side's kernels with permuted kernels of the second, which are centred and of size 1."""
        offset = 0 if self.same else len(self.first)
        own = np.sqrt(np.diag(self._hsic(self.products.sum(axis=(0, 1)), self.sums.sum(axis=2))))[: len(self.first)]

        def centred(j: int) -> NDArray[np.float64]:
            matrix = self._rows(slice(offset + j, offset + j + 1), np.arange(self.n))[0]
            return _centred(matrix, unbiased=self.unbiased)

        def rows_of(rows: NDArray[np.int64]) -> NDArray[np.float64]:
            return self._rows(slice(0, len(self.first)), rows)

        with np.errstate(invalid="ignore", divide="ignore"):
            return self._mirrored(_permuted_products(rows_of, centred, len(self.second), orders) / own[:, None])


class _Rsa(Measure):
    """Spearman correlation of the distances between samples."""

    def __init__(self, first: Layers, second: Layers) -> None:
        super().__init__(first, second)
        self.upper = np.triu_indices(self.n, 1)
        self.a = _ranks(first, self.upper)
        self.b = self.a if self.same else _ranks(second, self.upper)
        self.pairs = _correlated(self.a) @ _correlated(self.b).T

    def without(self, groups: NDArray[np.int64]) -> Iterator[Pairs]:
        """Distances of the samples that stay are ranked anew, from their ranks among all."""
        for g in range(int(groups.max()) + 1):
            stays = (groups[self.upper[0]] != g) & (groups[self.upper[1]] != g)
            a = _correlated(_ranked_anew(self.a[:, stays]))
            yield a @ (a if self.same else _correlated(_ranked_anew(self.b[:, stays]))).T

    def permuted(self, orders: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
        """Ranks of permuted samples are permuted ranks; every distance counts twice in a matrix."""
        a, b = _correlated(self.a), _correlated(self.b)

        def rows_of(rows: NDArray[np.int64]) -> NDArray[np.float64]:
            return np.stack([squareform(distances, checks=False)[rows] for distances in a]) / 2.0

        products = _permuted_products(rows_of, lambda j: squareform(b[j], checks=False), len(b), orders, scale=False)
        return self._mirrored(products)


class _Svd(Measure):
    """Singular values of a product of both layers: their mean, or 1 - their sum for a `distance`.

    `prepare` returns the factors; `truncates` says whether their number of directions depends on the samples.
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
        self.pairs = self._each(self.a, self.b, self._value)

    def errors(self, groups: NDArray[np.int64]) -> Pairs:  # noqa: ARG002
        """By the influence of each sample; if `truncates`, by random parts of the samples."""
        if not self.truncates:
            return self._each(self.a, self.b, self._error)
        rng, out, parts = np.random.default_rng(0), round(_LEFT_OUT * self.n), []
        for _ in range(_PARTS):
            rows = rng.permutation(self.n)[out:]
            a = self.prepare([_sized(x[rows]) for x in self.first])
            parts.append(self._each(a, a if self.same else self.prepare([_sized(x[rows]) for x in self.second]), self._value))
        spread = np.std(parts, axis=0, ddof=1) * np.sqrt((self.n - out) / out)
        return np.asarray(spread * few_groups(_PARTS))

    def permuted(self, orders: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
        """Rows of the second side in other orders."""
        return np.array([self._each(self.a, [y[order] for y in self.b], self._value) for order in orders])

    def _value(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
        sizes = svdvals(blas.dgemm(1.0, x.T, y.T, trans_b=1), check_finite=False)
        return 1.0 - float(sizes.sum()) if self.distance else float(np.clip(sizes, 0.0, 1.0).mean())

    def _error(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
        """Se above; with orthonormal bases in place of X and Y, cca is the nuclear norm over the number of directions."""
        left, sizes, right = svd(blas.dgemm(1.0, x.T, y.T, trans_b=1), full_matrices=False, check_finite=False)
        u, v = blas.dgemm(1.0, x.T, left, trans_a=1), blas.dgemm(1.0, y.T, right.T, trans_a=1)
        if self.distance:
            squares = np.square(x).sum(axis=1) + np.square(y).sum(axis=1)
            influence = (u * v).sum(axis=1) - float(sizes.sum()) / 2.0 * squares
        else:
            influence = (u * v - sizes / 2.0 * (np.square(u) + np.square(v))).mean(axis=1)
        return float(np.sqrt(self.n / (self.n - 1) * np.square(influence).sum()))

    def _each(self, a: Layers, b: Layers, of: Callable[..., float]) -> Pairs:
        """Of every pair, once for each where both are the same; NaN where a layer is constant."""
        pairs = np.full((len(a), len(b)), np.nan)
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                if x.shape[1] and y.shape[1] and not (self.same and j < i):
                    pairs[i, j] = of(x, y)
        return self._mirrored(pairs)


def _balanced(ids: NDArray[Any], groups: int) -> NDArray[np.int64]:
    """Groups of equal size up to one, drawn by id."""
    place = np.empty(len(ids), np.int64)
    place[np.argsort(hashed(ids, JACKKNIFE_SEED), kind="stable")] = np.arange(len(ids))
    return place % max(1, min(groups, len(ids)))


def _centred(matrix: NDArray[np.float64], *, unbiased: bool) -> NDArray[np.float64]:
    """A kernel without its row and column means; unbiased: after Szekely and Rizzo (2014), without a diagonal."""
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
    """sum_ij A_ij B_p(i)p(j) of all A and B under every order p, (draws, a, b); B scaled to size 1 if wanted.

    A by blocks of rows, each made once for as many B as 1 GB holds.
    """
    n = len(orders[0])
    held = max(1, _HELD_BYTES // (8 * n * n))
    parts = []
    for start in range(0, count, held):
        b = np.stack([matrix_of(j) for j in range(start, min(count, start + held))])
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
                moved = np.take(b[:, order[rows]], order, axis=2).reshape(len(b), -1)
                products[draw] += blas.dgemm(1.0, a.T, moved.T, trans_a=1)
        parts.append(products)
    return np.concatenate(parts, axis=2)


def _sized(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows centred and scaled to size 1; no features where they are constant."""
    magnitude = float(np.abs(x).max()) if x.size else 0.0
    x = x - x.mean(axis=0)
    size = float(np.linalg.norm(x))
    return x / size if size > 1e-12 * magnitude * np.sqrt(x.size) else np.zeros((len(x), 0))


def _bases(layers: Layers, energy: float) -> list[NDArray[np.float64]]:
    """Orthonormal bases of the samples' directions that hold a share of the variance."""
    bases = []
    for x in layers:
        if not x.shape[1]:
            bases.append(x)
            continue
        left, sizes, _ = svd(x, full_matrices=False, check_finite=False)
        held = np.cumsum(sizes**2) / np.square(sizes).sum()
        rank = int((sizes > _RANK * sizes[0]).sum())
        bases.append(left[:, : min(rank, int(np.searchsorted(held, energy)) + 1) if energy < 1 else rank])
    return bases


def _narrow(layers: Layers) -> Layers:
    """Layers of more features than samples in n coordinates: singular values of products stay."""
    narrow = []
    for x in layers:
        wide = x.shape[1] > len(x)
        narrow.append(np.asarray(qr(x.T, mode="r", check_finite=False)[0][: len(x)].T, np.float64) if wide else x)
    return narrow


def _cca(first: Layers, second: Layers, energy: float = 1.0) -> Measure:
    """Mean canonical correlation."""
    return _Svd(first, second, lambda layers: _bases(layers, energy), truncates=energy < 1)


def _procrustes(first: Layers, second: Layers) -> Measure:
    """1 - nuclear norm of X'Y of layers of size 1."""
    return _Svd(first, second, _narrow, distance=True)


def _ranks(layers: Layers, upper: tuple[NDArray[np.int64], NDArray[np.int64]]) -> NDArray[np.float64]:
    """Ranks of the distances between samples, one of equal ones' mean; 0 where a layer is constant."""
    ranks = np.zeros((len(layers), len(upper[0])))
    for index, x in enumerate(layers):
        if x.shape[1]:
            ranks[index] = rankdata(_squared(x, slice(None))[upper])
    return ranks


def _ranked_anew(ranks: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks among fewer, by counting: twice a rank is a whole number."""
    places = np.rint(2.0 * ranks).astype(np.int64)
    again = np.empty(ranks.shape)
    for row, place in enumerate(places):
        counts = np.bincount(place)
        again[row] = (np.cumsum(counts) - 0.5 * (counts - 1))[place]
    return again


def _correlated(ranks: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows centred and scaled to size 1, so that products are correlations; NaN where all are equal."""
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
    """Values, errors and draws as rows, with what a reader must know."""
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
                notes.append(f"{n} samples of {widest} features correlate perfectly in some directions whatever they are")
            null = _null(value, None if draws is None else draws[:, i, j], method)
            notes += [null.note] if null.note and not np.isnan(value) else []
            place = (_run(a), x, a.info[x].order, _run(b), y, b.info[y].order)
            result = value, float(errors[i, j]), null.mean, null.spread, null.p, null.tail
            lines.append((*place, method, *result, n, "; ".join(notes)))
    return pd.DataFrame(lines, columns=list(_COLUMNS))


def _null(value: float, draws: NDArray[np.float64] | None, method: str) -> Null:
    """The permutation test of one pair; no p where no pairing differs from another."""
    if draws is None:
        return Null(np.nan, np.nan, np.nan, "", "")
    tail: Structure = "down" if method == "procrustes" else "up"
    null = permutation_test(value, draws.tolist(), tail, dimensionless=True, of="pairs of samples")
    if np.isfinite(null.mean) and np.ptp([value, *draws]) < _SAME:
        return null._replace(p=np.nan, note="every pairing of the samples gives this value, so that there is nothing to test")
    return null


def _run(source: Source) -> str:
    return Path(source.name).stem
