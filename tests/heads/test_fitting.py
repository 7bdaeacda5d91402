"""Heads: scikit-learn's optimum, the gauge of a converged head, the papers' protocol."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from probes.errors import DataError, UsageError
from repanalysis.heads.fitting import UnconvergedWarning, fit_head, refitted
from repanalysis.heads.scoring import accuracy_of

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]


def objective(weights: np.ndarray, x: np.ndarray, y: np.ndarray, alpha: float) -> float:
    logits = x @ weights.T
    peak = logits.max(1, keepdims=True)
    loss = np.log(np.exp(logits - peak).sum(1)) + peak[:, 0] - logits[np.arange(len(y)), y]
    return float(loss.mean() + alpha / 2 * np.square(weights).sum())


@pytest.mark.parametrize("alpha", [1e-3, 0.1])
def test_the_fit_is_scikit_learns_optimum(classes: Classes, alpha: float) -> None:
    x, y = classes(400, 12, 4)
    x = x * np.geomspace(1e-2, 1e2, 12)  # features of very different size
    weights = fit_head(x, y, classes=4, alpha=alpha)
    peer = LogisticRegression(C=1 / (alpha * 400), fit_intercept=False, tol=1e-10, max_iter=100_000).fit(x, y)
    assert objective(weights, x, y, alpha) <= objective(peer.coef_, x, y, alpha) + 1e-8
    if alpha == 0.1:
        np.testing.assert_allclose(weights, peer.coef_, atol=1e-3 * np.abs(peer.coef_).max())


def test_a_converged_head_is_in_the_gauge(classes: Classes) -> None:
    x, y = classes(300, 8, 5)
    weights = fit_head(x, y, classes=5)
    assert np.abs(weights.mean(0)).max() < 1e-8 * np.abs(weights).max() + 1e-10


def test_fits_are_deterministic_and_constant_zero_features_have_no_weight(classes: Classes) -> None:
    x, y = classes(300, 8, 3)
    x[:, 2] = 0.0
    a, b = fit_head(x, y, classes=3), fit_head(x, y, classes=3)
    np.testing.assert_array_equal(a, b)
    assert not a[:, 2].any()
    assert a[:, 3].any()


def test_the_papers_protocol_reaches_the_same_accuracy(classes: Classes) -> None:
    x, y = classes(600, 10, 3)
    x /= x.std()
    exact, slow = (fit_head(x[:400], y[:400], classes=3, solver=solver) for solver in ("lbfgs", "sgd"))
    shares = [accuracy_of(weights, x[400:], y[400:])[0] for weights in (exact, slow)]
    assert shares[1] == pytest.approx(shares[0], abs=0.04)
    np.testing.assert_array_equal(slow, fit_head(x[:400], y[:400], classes=3, solver="sgd"))
    # Only weight decay changes the mean over outputs, which has no gradient: its trajectory in plain numbers.
    start = ((torch.rand(3, 10, generator=torch.Generator().manual_seed(0)) * 2 - 1) / 10**0.5).double().numpy().mean(0)
    expected, speed = 1.0, 0.0
    for step in range(800):
        slope = 1e-3 * expected
        speed = 0.975 * speed + slope
        expected -= 0.01 * 0.975 ** (step // 4 + 1) * (slope + 0.975 * speed)
    np.testing.assert_allclose(slow.mean(0), expected * start, rtol=2e-3, atol=1e-6)


def test_refitting_is_a_newton_step_with_the_full_hessian(classes: Classes) -> None:
    x, y = classes(200, 6, 3)
    weights = fit_head(x, y, classes=3, alpha=0.01)
    counts = np.random.default_rng(0).poisson(1.0, size=(4, 200)).astype(float)
    logits = x @ weights.T
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    hessian = 0.01 * np.eye(18)
    for row, chance in zip(x, p, strict=True):
        hessian += np.kron(np.diag(chance) - np.outer(chance, chance), np.outer(row, row)) / 200
    slopes = (p - np.eye(3)[y])[:, :, None] * x[:, None]
    heads = refitted(weights, x, y, counts, alpha=0.01)
    for count, head in zip(counts, heads, strict=True):
        expected = -np.linalg.solve(hessian, np.einsum("n,nkd->kd", (count - 1) / 200, slopes).ravel())
        np.testing.assert_allclose((head - weights).ravel(), expected, atol=2e-3 * np.abs(expected).max())
    np.testing.assert_array_equal(refitted(weights, x, y, np.ones((1, 200)), alpha=0.01)[0], weights)
    twice = np.r_[np.arange(200), np.arange(100)]
    refit = fit_head(x[twice], y[twice], classes=3, alpha=0.01)
    counts = np.bincount(twice)[None] * (200 / 300)
    approximation = refitted(weights, x, y, counts, alpha=0.01)[0]
    assert np.linalg.norm(approximation - refit) < 0.4 * np.linalg.norm(weights - refit)


def test_invalid_input_has_a_one_sentence_error() -> None:
    x, y = np.ones((4, 2)), np.array([0, 1, 0, 1])
    with pytest.raises(UsageError, match="Did you mean 'lbfgs'"):
        fit_head(x, y, classes=2, solver="lbfg")
    with pytest.raises(DataError, match="NaN or infinite"):
        fit_head(np.full((4, 2), np.inf), y, classes=2)


def test_a_head_that_has_not_converged_warns(classes: Classes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repanalysis.heads.fitting._STEPS", 3)
    x, y = classes(200, 10, 4)
    with pytest.warns(UnconvergedWarning, match="10 features had not converged after 3 steps"):
        fit_head(x, y, classes=4)


def test_a_nearly_zero_feature_does_not_stop_the_solver(classes: Classes) -> None:
    """Regression: a channel of resnet32 was 1e-6 of the others; scaled to unit size, its penalty dominated L-BFGS."""
    x, y = classes(400, 12, 4)
    x[:, 3] *= 1e-7
    weights = fit_head(x, y, classes=4)
    peer = LogisticRegression(C=1 / (1e-3 * 400), fit_intercept=False, tol=1e-10, max_iter=100_000).fit(x, y)
    assert objective(weights, x, y, 1e-3) <= objective(peer.coef_, x, y, 1e-3) + 1e-8
