"""The parameters of a ReduNet's construction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypedDict

from annotated_doc import Doc
from annotated_types import Ge

from probes.errors import UsageError
from repanalysis._checks import not_negative, one_of, positive
from repanalysis.networks.redunet.operators import Step
from repanalysis.networks.redunet.spectra import Grid

__all__ = ["ReduNetConfig", "ReduNetKeywords"]


class ReduNetKeywords(TypedDict, total=False):
    """The fields of `ReduNetConfig`, as keywords."""

    layers: int
    eta: float
    eps_sq: float
    lam: float
    eta_eff: float | None
    lam_eff: float | None
    tol: float | None
    assignment: Literal["paper", "balanced"]
    shift_invariant: bool
    channels: int
    kernel: int
    spectral_norm: Literal["exact", "official"]
    dtype: Literal["float64", "float32"]
    seed: int


@dataclass(frozen=True)
class ReduNetConfig:
    """Parameters of a construction; the defaults are the published code's.

    Attributes
    ----------
    layers : int
        Number of layers; fewer are built if `tol` stops the construction.
    eta, eps_sq, lam : float
        Step size, squared distortion eps^2, and inverse temperature of the assignment.
    eta_eff, lam_eff : float, optional
        In place of `eta` and `lam`, the same without their dependence on the number of samples: eta_eff = eta alpha,
        lam_eff = lam alpha K, alpha = C / (n eps^2) with C channels (d of vectors).
    tol : float, optional
        Stop at a layer that raises the training rate reduction by less, in nats; a layer that lowers it is left out, unless it
        is the first. By default all layers are built.
    assignment : {"paper", "balanced"}
        "balanced" corrects the assignment for the sizes of the classes: ||C_k z|| is proportional to 1 / n_k, so that the
        paper's assignment prefers large classes.
    shift_invariant : bool
        Use all circular shifts of samples (C, T) or (C, H, W), in the spectral domain; otherwise samples are vectors.
    channels, kernel : int
        Number and width of the random kernels that lift signals and images; 0 channels: no lifting.
    spectral_norm : {"exact", "official"}
        "official" is the published code's network for signals, the exact one at (T eps^2, T eta, T lam).
    dtype : {"float64", "float32"}
        Type of the operators and of the computation.
    seed : int
        Seed of the random kernels.
    """

    layers: Annotated[int, Ge(1), Doc("Layers to construct.")] = 40
    eta: Annotated[float, Doc("Step size.")] = 0.5
    eps_sq: Annotated[float, Doc("Squared distortion eps^2.")] = 0.1
    lam: Annotated[float, Doc("Inverse temperature of the assignment to classes.")] = 500.0
    eta_eff: Annotated[float | None, Doc("In place of --eta: eta C / (n eps^2), which does not depend on n.")] = None
    lam_eff: Annotated[float | None, Doc("In place of --lam: lam K C / (n eps^2), which does not depend on n.")] = None
    tol: Annotated[float | None, Doc("Stop at a layer that raises the rate reduction by less; default: build all.")] = None
    assignment: Annotated[str, Doc("paper, or balanced, which corrects for unequal classes.")] = "paper"
    shift_invariant: Annotated[bool, Doc("Signals or images with all their circular shifts; otherwise vectors.")] = False
    channels: Annotated[int, Ge(0), Doc("Random kernels that lift signals and images; 0 for no lifting.")] = 0
    kernel: Annotated[int, Ge(1), Doc("Width of these kernels.")] = 3
    spectral_norm: Annotated[str, Doc("exact, or official: the published code's rates at T eps^2.")] = "exact"
    dtype: Annotated[str, Doc("float64 or float32.")] = "float64"
    seed: int = 0

    def __post_init__(self) -> None:
        one_of("assignment", self.assignment, ("paper", "balanced"))
        one_of("spectral_norm", self.spectral_norm, ("exact", "official"))
        one_of("dtype", self.dtype, ("float64", "float32"))
        positive("eps_sq", self.eps_sq)
        for name in ("eta", "eta_eff"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))
        for name in ("lam", "lam_eff", "tol"):
            if getattr(self, name) is not None:
                not_negative(name, getattr(self, name))
        if self.layers < 1 or self.channels < 0 or self.kernel < 1:
            raise UsageError(
                f"{self.layers} layers, {self.channels} channels and kernels of width {self.kernel}: at least 1, 0 and 1 are "
                "needed."
            )
        if not self.shift_invariant and (self.channels or self.spectral_norm == "official"):
            raise UsageError(
                "Lifting channels and spectral_norm='official' are those of shift-invariant networks; set shift_invariant=True "
                "(--shift-invariant), or leave them out."
            )

    def grid(self, shape: Sequence[int]) -> Grid:
        """Shape of what the layers work on, for samples of a shape.

        Raises
        ------
        UsageError
            If the network is shift-invariant, and samples are not (channels, samples) or (channels, height, width).
        """
        if not self.shift_invariant:
            features = 1
            for side in shape:
                features *= int(side)
            return Grid(features)
        if len(shape) not in (2, 3):
            raise UsageError(
                f"Samples of shape {tuple(shape)} have no shifts: (channels, samples) or (channels, height, width) are needed. "
                "Reshape them, or leave shift_invariant (--shift-invariant) out."
            )
        return Grid(self.channels or int(shape[0]), tuple(int(side) for side in shape[1:]))

    def step(self, shape: Sequence[int], counts: Sequence[int]) -> Step:
        """The step of the layers, for samples of a shape and numbers of samples per class."""
        return Step.of(
            self.grid(shape), counts, eta=self.eta, eps_sq=self.eps_sq, lam=self.lam, eta_eff=self.eta_eff,
            lam_eff=self.lam_eff, scheme=self.assignment, spectral_norm=self.spectral_norm,  # type: ignore[arg-type]
        )  # fmt: skip
