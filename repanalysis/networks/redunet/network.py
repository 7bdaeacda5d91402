"""A ReduNet as a torch module: lifting, normalisation, layers, and the assignment to classes that the last layer makes.

Layers for hooks, in order: `lift`, the rectified convolutions (or the flattened samples of a vector network); `norm`, samples
of norm 1; `layers.0` ... `layers.L-1`, features after each layer, of the shape of its input and of norm 1; and `classifier`,
the logits -lam ||C_k z||, (n, K), of the input of the last layer. Each sample is mapped independently of its batch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from probes.errors import DataError
from repanalysis.networks.redunet.config import ReduNetConfig
from repanalysis.networks.redunet.layer_files import LayerFile, read_layers
from repanalysis.networks.redunet.lifting import Lift
from repanalysis.networks.redunet.operators import Step, normalized

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Design", "Layer", "ReduNet"]

SPLITS = ("train", "test")
RATES = ("coding_rate", "coding_rate_classes", "rate_reduction")


class Normalize(nn.Module):
    """z / ||z|| of every sample, in the type of the operators."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """Samples of norm 1; zeros stay zeros."""
        return normalized(x.to(self.dtype))


class Layer(nn.Module):
    """One layer: (n, C, *size) -> the same.

    Parameters
    ----------
    step : Step
        Parameters that all layers share.
    operators : Tensor
        E and C_1 ... C_K as `operators_of` gives them; for spectra as real and imaginary parts, (F, (K + 1) C, C, 2).

    Attributes
    ----------
    expansion : (F, C, C) tensor
        E per frequency; (1, d, d) of vectors.
    compression : (K, F, C, C) tensor
        C_1 ... C_K.
    """

    operators: Tensor

    def __init__(self, step: Step, operators: Tensor) -> None:
        super().__init__()
        self.step = step
        self.register_buffer("operators", operators)

    @property
    def matrices(self) -> Tensor:
        """The operators, complex for spectra, (F, (K + 1) C, C)."""
        return torch.view_as_complex(self.operators) if self.step.grid.size else self.operators

    @property
    def expansion(self) -> Tensor:
        """E."""
        return self.matrices[:, : self.step.grid.channels]

    @property
    def compression(self) -> Tensor:
        """C_1 ... C_K."""
        return torch.unflatten(self.matrices, 1, (-1, self.step.grid.channels))[:, 1:].transpose(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Features after the step."""
        grid = self.step.grid
        return grid.signal(self.step.moved(grid.spectrum(x), self.matrices))

    def logits(self, x: Tensor) -> Tensor:
        """-lam ||C_k x||, (n, K), corrected for sizes of classes if the scheme says so."""
        logits: Tensor = self.step.assigned(self.step.grid.spectrum(x), self.matrices).T
        return logits

    def extra_repr(self) -> str:
        """Its parameters."""
        step = self.step
        return f"{step.grid.shape}, K={len(step.counts)}, eta={step.eta:g}, eps_sq={step.eps_sq:g}, lam={step.lam:g}"


@dataclass(frozen=True)
class Design:
    """What a construction starts from.

    Attributes
    ----------
    config : ReduNetConfig
        Parameters of the construction.
    shape : tuple of int
        Shape of a sample: (d,), (channels, samples), (channels, height, width), or any for vectors.
    classes : tuple of int or str
        Labels of the K classes.
    counts : tuple of int
        Numbers of their training samples.
    preprocessing : mapping or None
        `input_size`, `mean`, `std`, `interpolation` and `crop_pct` of images, as timm's.
    source : dict
        Data and versions, for provenance.
    """

    config: ReduNetConfig
    shape: tuple[int, ...]
    classes: tuple[int | str, ...]
    counts: tuple[int, ...]
    preprocessing: Mapping[str, Any] | None = None
    source: dict[str, Any] = field(default_factory=dict)

    @property
    def step(self) -> Step:
        """The step of the layers."""
        return self.config.step(self.shape, self.counts)

    @property
    def entry(self) -> nn.Module:
        """What samples go through before they are normalised."""
        config = self.config
        if not config.shift_invariant:
            return nn.Flatten()
        if config.channels:
            return Lift(self.shape[0], config.channels, config.kernel, len(self.shape) - 1, seed=config.seed)
        return nn.Identity()

    @property
    def operators_shape(self) -> tuple[int, ...]:
        """Shape of a layer's operators in real numbers."""
        grid = self.step.grid
        shape = (grid.frequencies, (len(self.counts) + 1) * grid.channels, grid.channels)
        return (*shape, 2) if grid.size else shape

    def file(
        self, path: Path, entry: nn.Module, first: NDArray[np.float64], layers: int, *, resume: bool, overwrite: bool
    ) -> LayerFile:
        """A file, ready for the layers; `first` are the rates before them."""
        tensors: dict[str, NDArray[Any]] = {"rates": np.asarray(first, dtype=np.float64)}
        if isinstance(entry, Lift):
            tensors["kernels"] = entry.kernels.cpu().numpy()
        layer = {"operators": (self.config.dtype, self.operators_shape), "rates": ("float64", (len(SPLITS), len(RATES)))}
        metadata = json.loads(json.dumps(asdict(self)))
        return LayerFile(path, metadata, tensors, layer, layers, resume=resume, overwrite=overwrite)

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Design:
        """The design in a file's metadata."""
        values = {item.name: metadata[item.name] for item in fields(cls)}
        values |= {name: tuple(values[name]) for name in ("shape", "classes", "counts")}
        return cls(**values | {"config": ReduNetConfig(**values["config"])})


class ReduNet(nn.Module):
    """A constructed network, samples -> logits (n, K). `construct` makes one, `ReduNet.load` reads one.

    Parameters
    ----------
    design : Design
        Parameters, shape of samples and classes.
    operators : iterable of Tensor
        Of each layer; see `Layer`.
    rates : (L + 1, 2, 3) array
        R, R_c and R - R_c of training and test samples (NaN without any), in nats, before the first layer and after each.
    entry : torch.nn.Module, optional
        What samples go through before they are normalised; by default made from the design.

    Attributes
    ----------
    step : Step
        Parameters of the exact rates: `step.eps_sq` is T times that of the configuration if its spectral norm is "official".
    """

    def __init__(
        self, design: Design, operators: Iterable[Tensor], rates: NDArray[np.float64], entry: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.design, self.step = design, design.step
        self.rates = np.asarray(rates, dtype=np.float64)
        self.lift = entry or design.entry
        self.norm = Normalize(getattr(torch, design.config.dtype))
        self.layers = nn.ModuleList(Layer(self.step, matrices) for matrices in operators)
        self.classifier = nn.Identity()
        if design.preprocessing:
            self.pretrained_cfg = dict(design.preprocessing)

    def forward_features(self, x: Tensor) -> Tensor:
        """Features after the last layer, (n, C, *size), of norm 1."""
        return cast(Tensor, self.layers[-1](self._before_last(x)))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, K): their softmax is the last layer's assignment.

        Raises
        ------
        DataError
            If the samples have another shape than those of the construction, or hold NaN or infinite values.
        """
        before = self._before_last(x)
        last = cast(Layer, self.layers[-1])
        last(before)  # for hooks
        return cast(Tensor, self.classifier(last.logits(before)))

    def _before_last(self, x: Tensor) -> Tensor:
        checked(x, self.design.shape)
        z = self.norm(self.lift(x))
        for layer in self.layers[:-1]:
            z = layer(z)
        return cast(Tensor, z)

    @torch.no_grad()
    def predict(self, x: Tensor) -> NDArray[Any]:
        """Labels (n,): the class that the last layer assigns with the largest probability."""
        return np.asarray(np.asarray(self.design.classes)[self(x).argmax(dim=1).cpu().numpy()])

    def curve(self) -> pd.DataFrame:
        """Rates of the construction: layer, order, split, coding_rate, coding_rate_classes, rate_reduction."""
        import pandas as pd

        names = ["norm", *(f"layers.{index}" for index in range(len(self.layers)))]
        rows = [
            {"layer": name, "order": order, "split": split, **dict(zip(RATES, self.rates[order, s], strict=True))}
            for s, split in enumerate(SPLITS)
            for order, name in enumerate(names)
            if np.isfinite(self.rates[order, s]).all()
        ]
        return pd.DataFrame(rows, columns=["layer", "order", "split", *RATES])

    def save(self, path: str | PathLike[str], *, overwrite: bool = False) -> None:
        """Write the network to a safetensors file, whole or not at all.

        Raises
        ------
        UsageError
            If the file exists and `overwrite` is false.
        """
        options = {"resume": False, "overwrite": overwrite}
        with self.design.file(Path(path), self.lift, self.rates[0], len(self.layers), **options) as file:
            for index, layer in enumerate(self.layers):
                operators = cast(Layer, layer).operators
                file.append({"operators": operators.cpu().numpy(), "rates": self.rates[index + 1]})
            file.finish(len(self.layers))

    @classmethod
    def load(cls, path: str | PathLike[str]) -> ReduNet:
        """The network of a file, in eval mode.

        Raises
        ------
        FileNotFoundError, FormatError
            If there is no such file, or it can't be read.
        """
        metadata, tensors = read_layers(Path(path))
        count = metadata["layers"]
        rates = torch.stack([tensors["rates"], *(tensors[f"layers.{index}.rates"] for index in range(count))])
        operators = (tensors[f"layers.{index}.operators"] for index in range(count))
        network = cls(Design.of(metadata), operators, rates.numpy())
        if isinstance(network.lift, Lift):
            network.lift.kernels.copy_(tensors["kernels"])
        return network.eval()

    def extra_repr(self) -> str:
        """Effective parameters, which do not depend on the number of samples."""
        step, spectral = self.step, self.design.config.spectral_norm
        return (
            f"{len(self.layers)} layers, {len(step.counts)} classes, {step.n} samples, effective eps_sq={step.eps_sq:g} "
            f"({spectral} spectral norm), eta_eff={step.eta_eff:.4g}, lam_eff={step.lam_eff:.4g}"
        )


def checked(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Samples, if they have a shape and are finite."""
    if tuple(x.shape[1:]) != tuple(shape):
        raise DataError(
            f"The samples have shape {tuple(x.shape[1:])}; this network was constructed for {tuple(shape)}. Resize them, or "
            "construct a network for theirs."
        )
    if x.is_floating_point() and not torch.isfinite(x).all():
        row = int((~torch.isfinite(x.flatten(1))).any(dim=1).nonzero()[0, 0])
        raise DataError(f"Sample {row} holds NaN or infinite values; remove it, or fill in its values.")
    return x
