"""Perturbations of images: smooth deformations, shifts, noise, rotation, scaling; one idea a file."""

from __future__ import annotations

from repanalysis.perturbations.affine import Rotation, Scaling
from repanalysis.perturbations.base import Perturbation
from repanalysis.perturbations.diffeomorphism import Diffeomorphism, FoldWarning
from repanalysis.perturbations.moves import Moves
from repanalysis.perturbations.noise import GaussianNoise, MatchedNoise, SphereNoise
from repanalysis.perturbations.shift import Shift
from repanalysis.perturbations.specification import perturbations

__all__ = [
    "Diffeomorphism", "FoldWarning", "GaussianNoise", "MatchedNoise", "Moves", "Perturbation", "Rotation", "Scaling", "Shift",
    "SphereNoise", "perturbations",
]  # fmt: skip
