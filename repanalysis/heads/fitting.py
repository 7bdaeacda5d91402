r"""Fits a linear head to the features of a layer.

    min_W  mean_i [ log sum_j exp(w_j . x_i) - w_{y_i} . x_i ] + (alpha / 2) ||W||_F^2

without offsets. The default solver is L-BFGS, which is deterministic. `sgd` is the protocol of the papers
(docs/filter_clusters.md, Formulas): 200 epochs in batches of 100, Nesterov momentum 0.975, weight decay alpha, a learning rate
of 0.01 that is multiplied by 0.975 after every epoch. The tests compare with
LogisticRegression of scikit-learn, which has no mask of weights.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from annotated_doc import Doc
from annotated_types import Ge
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from scipy.linalg import blas
from scipy.optimize import minimize

from probes.errors import DataError
from repanalysis._checks import not_negative, one_of

__all__ = ["HeadOptions", "UnconvergedWarning", "fit_head", "refitted"]

SOLVERS = ("lbfgs", "sgd")
_STEPS = 3000
_NEWTON_STEPS = 60
_EPOCHS, _BATCH, _RATE, _MOMENTUM, _FALL = 200, 100, 0.01, 0.975, 0.975


@dataclass(frozen=True)
class HeadOptions:
    """Options of `fit_head`."""

    solver: Annotated[str, Doc("lbfgs, or sgd for the papers' protocol.")] = "lbfgs"
    alpha: Annotated[float, Ge(0), Doc("Penalty on the squared weights.")] = 1e-3

    def fit(
        self, x: NDArray[Any], y: NDArray[np.int64], classes: int, *, mask: NDArray[np.bool_] | None = None, seed: int = 0
    ) -> NDArray[np.float64]:
        """A head, (classes, d), for features (n, d)."""
        return fit_head(x, y, classes=classes, alpha=self.alpha, solver=self.solver, mask=mask, seed=seed)


class UnconvergedWarning(UserWarning):
    """The solver stopped before the head had converged."""


def fit_head(
    x: Float[np.ndarray, "n d"],
    y: Int64[np.ndarray, " n"],
    *,
    classes: int,
    alpha: float = 1e-3,
    solver: str = "lbfgs",
    mask: NDArray[np.bool_] | None = None,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Weights of a linear classifier without offset, (classes, d).

    Parameters
    ----------
    x : (n, d) array
        Features; not modified, and neither centred nor scaled.
    y : (n,) int64
        Classes, 0 to classes - 1.
    classes : int
        K.
    alpha : float, default 1e-3
        Penalty on the squared weights.
    solver : {"lbfgs", "sgd"}, default "lbfgs"
        See above. L-BFGS works with scaled weights, which changes its steps but not the optimum.
    mask : (classes, d) bool, optional
        True for weights that may differ from 0; by default all.
    seed : int, default 0
        Seed of the initial weights and the order of samples of `sgd`.

    Raises
    ------
    UsageError, DataError
        If the solver is unknown, alpha is negative, or a feature is not finite.

    Notes
    -----
    Time n d K per step. Memory: one copy of x in its own type (float64 below 1 GiB).

    Examples
    --------
    >>> weights = fit_head(np.array([[1.0], [-1.0]]), np.array([0, 1]), classes=2)
    >>> bool(weights[0, 0] > 0 > weights[1, 0]), bool(np.allclose(weights.sum(0), 0))
    (True, True)
    """
    one_of("solver", solver, SOLVERS)
    not_negative("alpha", alpha)
    size = np.sqrt(np.einsum("nd,nd->d", x, x, dtype=np.float64) / max(1, len(x)))
    if not np.isfinite(size).all():
        raise DataError("Features of a layer hold NaN or infinite values; a head can't be fitted to them.")
    if solver == "sgd":
        return _sgd(x, y, classes, alpha, seed, mask)
    # Weights are scaled by the curvature of loss plus penalty, so that all directions converge at the same speed; without the
    # penalty, nearly dead features would dominate. A feature that is always 0 gets no weight.
    scale = np.where(size > 0, 1 / np.sqrt(np.square(size) / classes + alpha + np.finfo(np.float64).tiny), 0.0)
    dtype = np.float64 if x.size * 8 <= 1 << 30 else np.float32
    scaled = (x * scale).astype(dtype)
    product = blas.dgemm if dtype == np.float64 else blas.sgemm
    n, d = x.shape
    rows = np.arange(n)
    free = 1.0 if mask is None else mask.astype(np.float64)

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        inner = flat.reshape(classes, d)
        weights = inner * scale  # unscaled: these are penalised
        logits = product(1.0, scaled.T, inner.astype(dtype).T, trans_a=1).astype(np.float64)
        logits -= logits.max(1, keepdims=True)
        right = logits[rows, y].copy()
        np.exp(logits, out=logits)
        total = logits.sum(1)
        loss = float((np.log(total) - right).mean()) + alpha / 2 * float(np.square(weights).sum())
        logits /= total[:, None]
        logits[rows, y] -= 1.0
        slope = product(1.0 / n, scaled.T, logits.astype(dtype).T, trans_b=1).T.astype(np.float64)
        return loss, ((slope + alpha * weights * scale) * free).ravel()

    options: Any = {"maxiter": _STEPS, "maxfun": 2 * _STEPS, "maxcor": 30, "ftol": 1e-11, "gtol": 1e-7}
    optimum = minimize(objective, np.zeros(classes * d), jac=True, method="L-BFGS-B", options=options)
    if optimum.nit >= _STEPS:
        warnings.warn(f"The head of {d} features had not converged after {_STEPS:,} steps.", UnconvergedWarning, stacklevel=2)
    weights: NDArray[np.float64] = optimum.x.reshape(classes, d) * scale
    return weights


def refitted(
    weights: NDArray[np.float64],
    x: Float[np.ndarray, "n d"],
    y: Int64[np.ndarray, " n"],
    counts: Float[np.ndarray, "B n"],
    *,
    alpha: float = 1e-3,
) -> NDArray[np.float64]:
    """Heads refitted to B reweightings of the samples, by one Newton step from the head of all samples: (B, classes, d).

    Parameters
    ----------
    weights : (classes, d) float64
        The result of `fit_head` for x, y and alpha.
    x, y
        As for `fit_head`.
    counts : (B, n) array
        Weight of each sample, such as its count in a bootstrap.
    alpha : float, default 1e-3
        Penalty on the squared weights.

    Notes
    -----
    With the Hessian H of the objective at the head, and g_i the gradient of the loss of sample i, the step is
    -H^-1 mean_i (c_bi - 1) g_i. Conjugate gradients solve all B systems together, in at most 60 steps. Time n d K B per step;
    memory n K B.
    """
    n, d = x.shape
    k, b = len(weights), len(counts)
    z = np.asarray(x, np.float64)
    logits = blas.dgemm(1.0, z.T, weights.T, trans_a=1)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    slope = p.copy()
    slope[np.arange(n), y] -= 1.0

    def times(v: NDArray[np.float64]) -> NDArray[np.float64]:
        """H v of all B systems, (d, B K)."""
        u = blas.dgemm(1.0, z.T, v, trans_a=1).reshape(n, b, k)
        u = p[:, None] * (u - np.einsum("nk,nbk->nb", p, u)[:, :, None])
        return np.asarray(blas.dgemm(1.0 / n, z.T, u.reshape(n, b * k)) + alpha * v)

    def inner(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.repeat(np.einsum("dbk,dbk->b", u.reshape(d, b, k), v.reshape(d, b, k)), k)

    force = ((1.0 - counts.T)[:, :, None] * slope[:, None]).reshape(n, b * k)
    rest = np.asarray(blas.dgemm(1.0 / n, z.T, force))
    scale = 1.0 / (np.einsum("nd,nd->d", z, z)[:, None] / (n * k) + alpha)  # preconditioner: the Hessian's diagonal
    step, towards = np.zeros_like(rest), scale * rest
    energy = first = inner(rest, towards)
    for _ in range(_NEWTON_STEPS):
        if (energy <= 1e-8 * first).all():
            break
        bent = times(towards)
        length = energy / np.maximum(inner(towards, bent), np.finfo(np.float64).tiny)
        step, rest = step + length * towards, rest - length * bent
        fresh = inner(rest, scale * rest)
        towards = scale * rest + fresh / np.maximum(energy, np.finfo(np.float64).tiny) * towards
        energy = fresh
    return np.asarray(weights + step.reshape(d, b, k).transpose(1, 2, 0))


def _sgd(  # noqa: PLR0917  # one call, above
    x: NDArray[Any], y: NDArray[np.int64], classes: int, alpha: float, seed: int, mask: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """SGD with the protocol of the papers."""
    import torch
    from torch.nn import functional

    generator = torch.Generator().manual_seed(seed)
    d = x.shape[1]
    free = torch.ones(classes, d) if mask is None else torch.from_numpy(mask.astype(np.float32))
    weights = ((torch.rand(classes, d, generator=generator) * 2 - 1) / d**0.5 * free).requires_grad_()
    features, labels = torch.from_numpy(np.asarray(x, np.float32)), torch.from_numpy(y)
    optimizer = torch.optim.SGD([weights], _RATE, momentum=_MOMENTUM, nesterov=True, weight_decay=alpha)
    for _ in range(_EPOCHS):
        optimizer.param_groups[0]["lr"] *= _FALL
        for rows in torch.split(torch.randperm(len(features), generator=generator), _BATCH):
            optimizer.zero_grad()
            torch.autograd.backward(functional.cross_entropy(features[rows] @ weights.T, labels[rows]))
            optimizer.step()
            if mask is not None:
                weights.data.mul_(free)
    fitted: NDArray[np.float64] = weights.detach().double().numpy()
    return fitted
