"""Specifications of perturbations: sweeps, matched noise, and every error message."""

from __future__ import annotations

import pytest

from probes.errors import UsageError
from repanalysis.perturbations import (
    Diffeomorphism,
    GaussianNoise,
    MatchedNoise,
    Perturbation,
    Shift,
    SphereNoise,
    perturbations,
)


def test_names_and_parameters() -> None:
    assert perturbations("diffeo:delta=2,c=5", seed=4) == [Diffeomorphism(4, delta=2.0, c=5)]
    assert perturbations(["noise:sigma=0.2", "noise:norm=3", "rotation:10"])[:2] == [
        GaussianNoise(sigma=0.2),
        SphereNoise(norm=3.0),
    ]
    assert perturbations("diffeo") == [Diffeomorphism()]


def test_ranges_give_one_perturbation_per_strength() -> None:
    assert perturbations("shift:1..4,border=reflect") == [Shift(pixels=float(p), border="reflect") for p in (1, 2, 3, 4)]
    strengths = [perturbation.strength for perturbation in perturbations("diffeo:0.5..2/3,c=3")]
    assert strengths == pytest.approx([0.5, 1.0, 2.0])


def test_matched_noise_covers_every_strength_in_any_order() -> None:
    result = perturbations(["noise:match=diffeo", "diffeo:1..2"])
    assert result[:2] == [MatchedNoise(match=Diffeomorphism(delta=float(d))) for d in (1, 2)]


def test_labels_are_distinct_for_kinds_and_parameters() -> None:
    labels = [
        perturbation.label
        for perturbation in perturbations(
            ["noise:sigma=1", "noise:norm=1", "shift:2,direction=up", "diffeo:c=5", "noise:match=diffeo"]
        )
    ]
    assert labels == ["noise:sigma", "noise:norm", "shift:direction=up", "diffeo:c=5", "noise:match=diffeo:c=5"]
    assert len(set(labels)) == 5


def test_a_new_kind_is_registered_by_its_class() -> None:
    names = {kind.name for kind in Perturbation.kinds}
    assert {"diffeo", "shift", "noise", "rotation", "scaling"} <= names


@pytest.mark.parametrize(
    ("specs", "sentence"),
    [
        ([], "needs a perturbation"),
        (["difeo"], "Did you mean 'diffeo'"),
        (["diffeo:detla=1"], "Did you mean 'delta'"),
        (["noise:0.1"], "is ambiguous"),
        (["noise:match=diffeo"], "Add --perturb"),
        (["shift:1", "noise:match=diffeo"], "This run has shift"),
        (["shift:3..1"], "is not a range"),
        (["shift:0.5..2"], "is not a range"),
        (["diffeo:a..b"], "is not a range"),
        (["shift:1", "shift:1"], "equal; give each once"),
        (["diffeo:c=1"], "at least 2"),
    ],
)
def test_invalid_specifications_have_one_sentence_errors(specs: list[str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        perturbations(specs)
