"""The base class of perturbations: frozen specifications that are called with images and their ids.

Strength 0 returns the images unchanged, bit for bit. The random numbers of an image depend on (seed, id) alone, not on its
batch, its position in the batch or the device: they are always drawn on the CPU.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probes.errors import UsageError
from probes.ids import as_ids, id_keys
from repanalysis.statistics.draws import hashed

__all__ = ["Perturbation", "draw_keys", "images_of"]


@dataclass(frozen=True)
class Perturbation(ABC):
    """A perturbation of images: a frozen dataclass in a file of its own.

    Parameters
    ----------
    seed : int, default 0
        Seed of the draws; each sample's draws also depend on its id.
    """

    seed: int = 0

    name: ClassVar[str]  # in specifications
    strength_field: ClassVar[str]  # name of the field that holds the strength
    kinds: ClassVar[list[type[Perturbation]]] = []  # all subclasses

    def __init_subclass__(cls) -> None:
        qualified_name = cls.__module__, cls.__qualname__  # a notebook cell that runs again replaces its class
        kinds = [kind for kind in Perturbation.kinds if (kind.__module__, kind.__qualname__) != qualified_name]
        Perturbation.kinds[:] = [*kinds, cls]

    @property
    def label(self) -> str:
        """Name and the parameters that are not at their default, without strength and seed.

        Examples
        --------
        >>> from repanalysis.perturbations import Diffeomorphism
        >>> Diffeomorphism().label, Diffeomorphism(delta=2.0, c=5).label
        ('diffeo', 'diffeo:c=5')
        """
        params = [
            f"{field.name}={value}"
            for field in fields(self)
            if field.name not in ("seed", self.strength_field) and field.default is not MISSING
            if (value := getattr(self, field.name)) != field.default
        ]
        shared = sum(kind.name == self.name for kind in self.kinds) > 1
        return f"{self.name}:{','.join([self.strength_field] * shared + params)}" if params or shared else self.name

    @property
    def strength(self) -> float:
        """Strength, in the units of its field; 0 is the identity."""
        return float(getattr(self, self.strength_field))

    def with_strength(self, strength: float) -> Self:
        """The same perturbation with another strength."""
        changed: dict[str, Any] = {self.strength_field: strength}
        return replace(self, **changed)

    @abstractmethod
    def apply(self, images: Tensor, ids: Sequence[int]) -> Tensor:
        """Perturbed images, (n, c, h, w); only called if the strength is not 0."""

    def __call__(self, images: Tensor, ids: Sequence[int | str] | NDArray[Any] | Tensor) -> Tensor:
        """Perturbed images.

        Parameters
        ----------
        images : (n, c, h, w) floating-point tensor
            On any device; not modified.
        ids : n integers or strings
            Sample ids.

        Returns
        -------
        (n, c, h, w) tensor
            Of the same type, on the same device.

        Raises
        ------
        UsageError
            If the images have another shape or type, or the number of ids differs from that of images.
        DataError
            If ids are neither integers nor strings.
        """
        images_of(images)
        if len(ids) != len(images):
            raise UsageError(f"There are {len(images)} images and {len(ids)} ids; each image needs its id.")
        return images if self.strength == 0 else self.apply(images, draw_keys(ids))

    def normal(self, ids: Sequence[int], shape: Sequence[int]) -> Tensor:
        """Standard normal numbers, (n, *shape) float64, on the CPU; an id always gets the same ones.

        Ids must be integers; `draw_keys` converts strings.

        Examples
        --------
        >>> from repanalysis.perturbations.shift import Shift
        >>> a, b = Shift().normal([3, 5], (2,)), Shift().normal([5], (2,))
        >>> bool((a[1] == b[0]).all())
        True
        """
        seeds = hashed(np.asarray(ids, np.int64), self.seed)
        numbers = torch.empty(len(ids), *shape, dtype=torch.float64)
        generator = torch.Generator()
        for row, seed in zip(numbers, seeds.tolist(), strict=True):
            generator.manual_seed(seed & (2**63 - 1))
            torch.randn(tuple(shape), generator=generator, dtype=torch.float64, out=row)
        return numbers

    def reseeded(self, seed: int) -> Self:
        """The same perturbation with another seed."""
        return replace(self, seed=seed)


def draw_keys(ids: Sequence[int | str] | NDArray[Any] | Tensor) -> list[int]:
    """The integers that seed the draws: the ids themselves, or the hashes of strings.

    Examples
    --------
    >>> draw_keys([3, 5]), draw_keys(["cat/1.png"])
    ([3, 5], [6971109639078617677])
    """
    plain = ids.cpu().numpy() if isinstance(ids, Tensor) else ids
    return list(map(int, id_keys(as_ids(plain, "The images' ids"))))


def images_of(images: Tensor) -> tuple[int, int]:
    """Height and width of images; raises UsageError if they are not (n, c, h, w) floats."""
    if images.ndim != 4 or not images.is_floating_point():
        raise UsageError(
            f"Images are (n, c, h, w) of a floating-point type; these are {tuple(images.shape)} of {images.dtype}."
        )
    return int(images.shape[2]), int(images.shape[3])
