"""Perturbations of images: smooth deformations, shifts, noise, rotation, scaling; one idea a file.

Every file of this folder is imported, so that its perturbations can be named in specifications; there is no list to edit.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

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

for _module in iter_modules(__path__, f"{__name__}."):
    import_module(_module.name)
