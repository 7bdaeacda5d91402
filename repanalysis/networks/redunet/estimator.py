"""`ReduNetClassifier`: a vector ReduNet in the manner of scikit-learn."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from repanalysis.networks.redunet.config import ReduNetConfig
from repanalysis.networks.redunet.construction import construct
from repanalysis.networks.redunet.network import ReduNet

__all__ = ["ReduNetClassifier"]


class ReduNetClassifier(ClassifierMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]  # without types
    """A ReduNet on vectors: features by `transform`, classes by the last layer's assignment.

    Parameters
    ----------
    layers : int, default 40
        Largest number of layers.
    tol : float or None, default 0
        Stop at a layer that raises the training rate reduction by less; None: build all layers.
    eps_sq, assignment, dtype
        As for `ReduNetConfig`.
    eta_eff, lam_eff : float or None, default 1 and None
        Step and inverse temperature without their dependence on the number of samples; None: `eta`, `lam`.
    eta, lam : float
        The published parameters; `eta` counts if `eta_eff` is None, `lam` if `lam_eff` is None.

    Attributes
    ----------
    network_ : ReduNet
        The constructed network, with its rates.
    classes_ : (K,) array
        Labels.
    n_features_in_ : int
        d.

    Notes
    -----
    Only directions of samples count: each is divided by its norm, so that scaled samples have the same features. Centre or
    scale features by a pipeline where that is not wanted. Classes become orthogonal subspaces, of which d features hold d at
    most: more classes than features, and classes that differ by their distance from 0 alone, can't be told apart. So
    scikit-learn's check of the accuracy, three clusters in a plane, does not apply (`poor_score`); all other checks pass.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> x, y = load_iris(return_X_y=True)
    >>> model = ReduNetClassifier(layers=50).fit(x, y)
    >>> model.transform(x).shape, model.predict_proba(x).shape
    ((150, 4), (150, 3))
    """

    def __init__(
        self,
        layers: int = 40,
        *,
        eta_eff: float | None = 1.0,
        lam_eff: float | None = None,
        eta: float = 0.5,
        eps_sq: float = 0.1,
        lam: float = 500.0,
        tol: float | None = 0.0,
        assignment: str = "paper",
        dtype: str = "float64",
    ) -> None:
        self.layers = layers
        self.eta_eff = eta_eff
        self.lam_eff = lam_eff
        self.eta = eta
        self.eps_sq = eps_sq
        self.lam = lam
        self.tol = tol
        self.assignment = assignment
        self.dtype = dtype

    def __sklearn_tags__(self) -> Any:
        """Tags: three clusters in a plane, the data of scikit-learn's accuracy check, have no three orthogonal lines."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True
        return tags

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:  # noqa: N803  # scikit-learn's name
        """Construct the network from samples (n, d) and labels (n,)."""
        rows, labels = validate_data(self, X, y)
        check_classification_targets(labels)
        self.classes_, indices = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"The data hold one class, {self.classes_[0]}; at least two classes are needed.")
        config = ReduNetConfig(**self.get_params())
        self.network_: ReduNet = construct(rows.astype(np.float64), indices, config, progress=False)
        return self

    def _rows(self, X: ArrayLike) -> torch.Tensor:  # noqa: N803
        check_is_fitted(self)
        return torch.from_numpy(validate_data(self, X, reset=False).astype(np.float64))

    @torch.no_grad()
    def transform(self, X: ArrayLike) -> NDArray[np.floating[Any]]:  # noqa: N803
        """Features (n, d) after the last layer, of norm 1."""
        rows = self._rows(X)
        features: NDArray[np.floating[Any]] = self.network_.forward_features(rows).numpy()
        return features

    @torch.no_grad()
    def decision_function(self, X: ArrayLike) -> NDArray[np.floating[Any]]:  # noqa: N803
        """Logits (n, K); for two classes their difference (n,), above 0 for the second."""
        rows = self._rows(X)
        logits = self.network_(rows).numpy()
        values: NDArray[np.floating[Any]] = logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits
        return values

    @torch.no_grad()
    def predict_proba(self, X: ArrayLike) -> NDArray[np.floating[Any]]:  # noqa: N803
        """The last layer's assignment (n, K)."""
        rows = self._rows(X)
        shares: NDArray[np.floating[Any]] = self.network_(rows).double().softmax(dim=1).numpy()
        return shares

    def predict(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803
        """Labels (n,) of the largest logits."""
        rows = self._rows(X)
        with torch.no_grad():
            predicted: NDArray[Any] = self.classes_[self.network_(rows).argmax(dim=1).numpy()]
        return predicted
