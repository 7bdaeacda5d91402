r"""How alike are two layers: CKA, CCA, Procrustes and RSA between all layers of one or two sources, matched by sample id.

For n samples with features X and Y, centred, K = X X^T and L = Y Y^T (or Gaussian kernels), off-diagonal parts K~, L~:

    cka         HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), by default with the unbiased estimator of Song et al. (2012):
                HSIC = [ Tr K~L~ + 1'K~1 1'L~1 / ((n-1)(n-2)) - 2/(n-2) 1'K~L~1 ] / (n(n-3))
    cca, svcca  mean canonical correlation, of all directions or of those that hold 99 % of the variance
    procrustes  1 - || X'Y ||_* / (||X|| ||Y||), 0 for layers that are equal up to rotation and scale
    rsa         Spearman correlation of the n(n-1)/2 distances between samples

No n x n matrix of any layer is kept: kernels are made by blocks of rows, each once, and one product of all layers' blocks
gives every pair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float64
from numpy.typing import NDArray
from scipy.linalg import blas, svd, svdvals
from scipy.stats import rankdata
from tqdm.auto import tqdm

import probes
from probes import DataError, UsageError
from probes.patterns import Patterns, select
from probes.source import Source
from repanalysis._checks import one_of
from repanalysis.statistics.draws import DRAWN, hashed

__all__ = ["METHODS", "Similarity", "compare"]

METHODS = ("cka", "cka_biased", "cka_rbf", "cca", "svcca", "procrustes", "rsa")
_COLUMNS = ("run_a", "layer_a", "order_a", "run_b", "layer_b", "order_b", "method", "value", "n", "note")
_BLOCK_BYTES = 256 << 20
_ENERGY = 0.99  # share of variance that svcca keeps
_RANK = 1e-10  # singular values below this share of the largest are rounding


@dataclass(frozen=True, eq=False)
class Similarity:
    """Similarity of pairs of layers.

    Parameters
    ----------
    frame : pandas.DataFrame
        A row per pair: run_a, layer_a, order_a, run_b, layer_b, order_b, method, value, n, note.
    """

    frame: pd.DataFrame

    def matrix(self) -> pd.DataFrame:
        """The values with layers of a as rows and layers of b as columns, in order of execution."""
        a, b = (list(dict.fromkeys(self.frame.sort_values(f"order_{side}")[f"layer_{side}"])) for side in "ab")
        return self.frame.set_index(["layer_a", "layer_b"])["value"].unstack().reindex(index=a, columns=b)  # noqa: PD010  # NaN stay

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Write a CSV file; every number keeps all its digits."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self.frame.to_csv(path, index=False)

    @classmethod
    def from_csv(cls, path: str | PathLike[str]) -> Similarity:
        """Read what `to_csv` wrote."""
        frame = pd.read_csv(path, keep_default_na=False, na_values={"value": [""]}, float_precision="round_trip")
        if missing := [column for column in _COLUMNS if column not in frame]:
            raise UsageError(f"{path} is no table of similarities: it lacks the columns {', '.join(missing)}.")
        return cls(frame)


def compare(
    a: str | PathLike[str] | Source,
    b: str | PathLike[str] | Source | None = None,
    method: str = "cka",
    *,
    layers: Patterns = None,
    samples: int = 2000,
    progress: bool | None = None,
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
    progress : bool, optional
        Show a progress bar; by default only on a terminal.

    Returns
    -------
    Similarity
        A row per pair. In [0, 1] but for a debiased cka, which may be slightly below 0, and rsa in [-1, 1]; large: alike,
        except for `procrustes`, a distance.

    Raises
    ------
    UsageError
        If the method or a layer is unknown.
    DataError
        If the two share fewer than 4 sample ids.

    Notes
    -----
    Time for L layers of n samples and d features: L n^2 d + L^2 n^2 for cka and rsa, L n d^2 + L^2 d^3 for the others.
    Memory: the samples of all layers, and 256 MB; for rsa L n^2/2 numbers. With n below d, cca and svcca find perfect
    correlations in any data, and a note says so.

    References
    ----------
    S. Kornblith et al., "Similarity of neural network representations revisited", ICML 2019. L. Song et al., "Feature
    selection via dependence maximization", JMLR 13, 2012. M. Raghu et al., "SVCCA", NIPS 2017. N. Kriegeskorte, M. Mur,
    P. Bandettini, "Representational similarity analysis", Frontiers in Systems Neuroscience 2, 2008.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(100, 5))
    >>> turned = x @ np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]
    >>> found = compare(probes.from_arrays({"a": x, "b": 3 * turned}))
    >>> found.matrix().round(6).to_numpy().tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    one_of("method", method, METHODS)
    first, mine = _opened(a)
    second, theirs = (first, False) if b is None else _opened(b)
    try:
        chosen = _shared(first, second, samples)
        sides = [(first, select(layers, first.info, first.title))]
        if second is not first:
            sides.append((second, select(layers, second.info, second.title)))
        total = sum(len(names) for _, names in sides)
        with tqdm(total=total, unit=" layers", desc=method, disable=None if progress is None else not progress) as bar:
            rows = []
            for source, names in sides:
                order = np.argsort(source.ids, kind="stable")
                at = order[np.searchsorted(source.ids, chosen, sorter=order)]
                rows.append([_rows(source, name, at, bar) for name in names])
        values = _BETWEEN[method](rows[0], rows[-1])
        return Similarity(_framed(sides, method, values, rows, len(chosen)))
    finally:
        for source, ours in ((first, mine), (second, theirs)):
            if ours:
                source.close()


def _opened(source: Any) -> tuple[Source, bool]:
    """A source, and whether it was opened here."""
    return (source, False) if isinstance(source, Source) else (probes.open(source), True)


def _shared(first: Source, second: Source, samples: int) -> NDArray[np.int64]:
    """Ids that both hold, ascending by hash; at most so many."""
    ids = np.intersect1d(first.ids, second.ids)
    if len(ids) < 4:
        raise DataError(
            f"{first.title} and {second.title} share {len(ids)} sample ids; at least 4 are needed. Extract both from the same "
            "data, in the same order."
        )
    order = np.argsort(hashed(ids, DRAWN), kind="stable")
    found: NDArray[np.int64] = ids[order[: max(4, samples)]]
    return found


def _rows(source: Source, name: str, at: NDArray[np.int64], bar: Any) -> NDArray[np.float64]:
    """Chosen rows of a layer, flattened, centred and scaled to size 1; in the order of `at`."""
    ascending = np.argsort(at, kind="stable")
    taken = source.take(name, at[ascending]).reshape(len(at), -1)
    x = np.empty(taken.shape)
    x[ascending] = taken
    if not np.isfinite(x).all():
        raise DataError(f"Layer {name!r} of {source.title} holds NaN or inf; leave it out (layers=, --layers).")
    magnitude = float(np.abs(x).max())
    x -= x.mean(axis=0)
    size = float(np.linalg.norm(x))
    bar.update()
    return x / size if size > 1e-12 * magnitude * np.sqrt(x.size) else np.zeros((len(x), 0))


Layers = Sequence[NDArray[np.float64]]
Pairs = Float64[np.ndarray, "a b"]
Kernel = Callable[[NDArray[np.float64], slice], NDArray[np.float64]]


def _linear(x: NDArray[np.float64], rows: slice) -> NDArray[np.float64]:
    """Scalar products of some rows with all, (rows, n)."""
    found: NDArray[np.float64] = (
        blas.dgemm(1.0, x.T, x[rows].T, trans_a=1).T if x.shape[1] else np.zeros((len(x[rows]), len(x)))
    )
    return found


def _squared(x: NDArray[np.float64], rows: slice) -> NDArray[np.float64]:
    """Squared distances of some rows to all, (rows, n)."""
    squares = np.einsum("nd,nd->n", x, x)
    found: NDArray[np.float64] = np.maximum(squares[rows, None] + squares - 2.0 * _linear(x, rows), 0.0)
    return found


def _gaussian(x: NDArray[np.float64]) -> Kernel:
    """exp(-D^2 / 2 s^2) with s the median distance of (at most 1,000 of) the samples."""
    few = x[:1000]
    table = _squared(few, slice(None))[np.triu_indices(len(few), 1)]
    width = float(np.median(table)) or 1.0
    return lambda rows_of, rows: np.exp(_squared(rows_of, rows) / (-2.0 * width))


def _kernels(kind: Literal["linear", "rbf"], layers: Layers) -> list[Kernel]:
    return [_linear if kind == "linear" else _gaussian(x) for x in layers]


def _cka(first: Layers, second: Layers, kind: Literal["linear", "rbf"] = "linear", *, unbiased: bool = True) -> Pairs:
    """Centred kernel alignment of all pairs, by blocks of rows of all kernels."""
    same = second is first
    layers = list(first) if same else [*first, *second]
    kernels, n = _kernels(kind, layers), len(first[0])
    size = max(1, _BLOCK_BYTES // (8 * n * len(layers)))
    products, sums = np.zeros((len(layers), len(layers))), np.zeros((len(layers), n))
    diagonals = np.zeros((len(layers), n))
    for start in range(0, n, size):
        rows = slice(start, min(n, start + size))
        block = np.stack([kernel(x, rows) for kernel, x in zip(kernels, layers, strict=True)])
        at = np.arange(rows.stop - start)
        if unbiased:
            block[:, at, start + at] = 0.0
        else:
            diagonals[:, rows] = block[:, at, start + at]
        sums[:, rows] = block.sum(axis=2)
        flat = block.reshape(len(layers), -1)
        products += blas.dgemm(1.0, flat.T, flat.T, trans_a=1)
    crossed, totals = sums @ sums.T, sums.sum(axis=1)
    if unbiased:
        hsic = products + np.outer(totals, totals) / ((n - 1) * (n - 2)) - 2.0 / (n - 2) * crossed
    else:
        hsic = products + np.outer(totals, totals) / n**2 - 2.0 / n * crossed
    own = np.diag(hsic)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.where((own[:, None] > 0) & (own > 0), hsic / np.sqrt(np.outer(own, own)), np.nan)
    return found if same else found[: len(first), len(first) :]


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


def _cca(first: Layers, second: Layers, energy: float = 1.0) -> Pairs:
    """Mean canonical correlation of all pairs."""
    a = _bases(first, energy)
    b = a if second is first else _bases(second, energy)
    return _each(a, b, lambda x, y: float(np.clip(svdvals(x.T @ y), 0.0, 1.0).mean()))


def _procrustes(first: Layers, second: Layers) -> Pairs:
    """1 - nuclear norm of X'Y of all pairs of layers of size 1."""
    return _each(first, second, lambda x, y: 1.0 - float(svdvals(blas.dgemm(1.0, x.T, y.T, trans_b=1)).sum()))


def _rsa(first: Layers, second: Layers) -> Pairs:
    """Spearman correlation of the distances between samples of all pairs."""
    a = _ranks(first)
    b = a if second is first else _ranks(second)
    return a @ b.T


def _ranks(layers: Layers) -> NDArray[np.float64]:
    """Ranks of the distances, centred and scaled to norm 1; NaN where all distances are equal."""
    upper = np.triu_indices(len(layers[0]), 1)
    found = np.empty((len(layers), len(upper[0])))
    for index, x in enumerate(layers):
        ranks = rankdata(_squared(x, slice(None))[upper])
        ranks -= ranks.mean()
        size = float(np.linalg.norm(ranks))
        found[index] = ranks / size if size > 0 and x.shape[1] else np.nan
    return found


def _each(first: Layers, second: Layers, of: Callable[..., float]) -> Pairs:
    """A function of every pair, once for each where both are the same; NaN where a layer is constant."""
    same, found = second is first, np.full((len(first), len(second)), np.nan)
    for i, x in enumerate(first):
        for j, y in enumerate(second):
            if same and j < i:
                found[i, j] = found[j, i]
            elif x.shape[1] and y.shape[1]:
                found[i, j] = of(x, y)
    return found


_BETWEEN: dict[str, Callable[[Layers, Layers], Pairs]] = {
    "cka": _cka,
    "cka_biased": lambda a, b: _cka(a, b, unbiased=False),
    "cka_rbf": lambda a, b: _cka(a, b, "rbf"),
    "cca": _cca,
    "svcca": lambda a, b: _cca(a, b, _ENERGY),
    "procrustes": _procrustes,
    "rsa": _rsa,
}


def _framed(
    sides: Sequence[tuple[Source, Sequence[str]]], method: str, values: Pairs, rows: Sequence[Layers], n: int
) -> pd.DataFrame:
    """The values as rows, with what a reader must know."""
    (a, names_a), (b, names_b) = sides[0], sides[-1]
    found = []
    for i, x in enumerate(names_a):
        for j, y in enumerate(names_b):
            widest = max(rows[0][i].shape[1], rows[-1][j].shape[1])
            note = "a layer is constant" if np.isnan(values[i, j]) else ""
            if not note and method in ("cca", "svcca") and widest >= n:
                note = f"{n} samples of {widest} features correlate perfectly in some directions whatever they are"
            place = (_run(a), x, a.info[x].order, _run(b), y, b.info[y].order)
            found.append((*place, method, float(values[i, j]), n, note))
    return pd.DataFrame(found, columns=list(_COLUMNS))


def _run(source: Source) -> str:
    return Path(source.title).stem
