"""ReduNetClassifier is an estimator of scikit-learn, and the constructed network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from sklearn.utils.estimator_checks import estimator_checks_generator

from repanalysis.networks.redunet.construction import construct
from repanalysis.networks.redunet.estimator import ReduNetClassifier

pytestmark = pytest.mark.filterwarnings("ignore:Classes have:UserWarning", "ignore:Class .* has one sample:UserWarning")


@pytest.mark.filterwarnings("ignore")
def test_all_checks_of_estimators_pass() -> None:
    failures = {}
    for estimator, check in estimator_checks_generator(ReduNetClassifier(layers=5)):
        name = getattr(check, "func", check).__name__
        try:
            check(estimator)
        except Exception as error:
            if "SkipTest" not in type(error).__name__:
                failures[name] = f"{type(error).__name__}: {error}"
    assert not failures


def test_it_is_the_constructed_network() -> None:
    x, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])
    model = ReduNetClassifier(layers=30).fit(x, names[y])
    network = construct(x, y, layers=30, eta_eff=1.0)
    np.testing.assert_array_equal(model.network_.rates[:, 0], network.rates[:, 0])
    assert set(model.predict(x)) <= set(names)
    shares = model.predict_proba(x)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert (names[shares.argmax(axis=1)] == model.predict(x)).all()
    assert (names[model.decision_function(x).argmax(axis=1)] == model.predict(x)).all()
    np.testing.assert_allclose(np.linalg.norm(model.transform(x), axis=1), 1)
    assert model.score(x, names[y]) == (model.predict(x) == names[y]).mean()


def test_it_works_in_pipelines_and_searches() -> None:
    x, y = load_iris(return_X_y=True)
    scores = cross_val_score(make_pipeline(Normalizer(), ReduNetClassifier(layers=20)), x, y, cv=3)
    assert min(scores) > 0.9
    options: dict[str, Any] = {"eps_sq": [0.05, 0.5]}
    search = GridSearchCV(ReduNetClassifier(layers=10), options, cv=3).fit(x, y)
    assert set(search.best_params_) == {"eps_sq"}
    assert clone(search.best_estimator_).get_params()["layers"] == 10
