"""Stability of networks as trained, as initialised and with shuffled channels, for the same images.

The command line and the notebook call `stability_runs`; `sensitivity.py` defines the measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Unpack

import torch
from annotated_doc import Doc
from annotated_types import Ge

from probes.errors import UsageError
from probes.options import PassKeywords
from repanalysis.analyses.declaration import analysis
from repanalysis.analyses.stability.sensitivity import Norm, Reduction, geometric_mean, pooling_parts, stability
from repanalysis.inputs.data import Data, load_data
from repanalysis.inputs.devices import device_of
from repanalysis.inputs.models import Model, input_channels, load_model
from repanalysis.inputs.options import ColoursOption, DeviceOption, SizeOption, SplitOption
from repanalysis.networks.shuffling import shuffled_channels
from repanalysis.perturbations import Perturbation, perturbations
from repanalysis.specs import Read
from repanalysis.table import Table

__all__ = ["stability_runs"]


class StabilityKeywords(PassKeywords, total=False):
    """Options of `stability`, the same for all networks."""

    statistic: Reduction
    self_pairs: bool
    batch_norm: Norm
    strict: bool


_BATCH_ROWS = 96  # default size of a batch of images and their perturbed versions


@analysis
def stability_runs(
    models: str | Sequence[str],
    data: str,
    perturb: str | Sequence[str],
    *,
    weights: Annotated[
        str | PathLike[str] | Sequence[str | PathLike[str]] | None,
        Doc("Weights file, one per model; or several checkpoints of one model."),
        Read(list, list[str]),
    ] = None,
    init: Annotated[int, Ge(0), Doc("Number of untrained networks to average over.")] = 0,
    shuffled: Annotated[int, Ge(0), Doc("Number of channel-shuffled copies to average over.")] = 0,
    split: SplitOption = None,
    limit: Annotated[int | None, Ge(0), Doc("Size of a random subset of the images; 0 for all.")] = 500,
    size: SizeOption = None,
    mean: ColoursOption = None,
    std: ColoursOption = None,
    device: DeviceOption = None,
    seed: int = 0,
    progress: bool | None = None,
    **options: Unpack[StabilityKeywords],
) -> Table:
    """Stability of one or several networks, and of untrained and channel-shuffled copies of them.

    Parameters
    ----------
    models : str or sequence of str
        As for `load_model`.
    data, split : str
        Images; as for `load_data`.
    perturb : str or sequence of str
        As for `repanalysis.perturbations.perturbations`.
    weights : path-like or sequence of path-like, optional
        One for all models, one per model, or several checkpoints of one model; each is a run.
    init : int, default 0
        Number of random initialisations of every model; their geometric mean is a run. Their batch norms use batch statistics
        for any `batch_norm`, since their running statistics are not those of the data.
    shuffled : int, default 0
        Number of copies of every network with shuffled channels; their geometric mean is a run.
    limit : int or None, default 500
        Size of a random subset of the images; None or 0 for all.
    size, mean, std
        As for `load_model`.
    device : str, optional
        By default the GPU, if there is one.
    seed : int, default 0
        Seed of the subset, the perturbations, the initialisations and the shuffles.
    progress : bool, optional
        Show progress bars; by default only on a terminal.
    **options
        `statistic`, `self_pairs`, `batch_norm`, `strict`, `layers`, `ops`, `precision`, `channels_last`, as for `stability`.
        The running statistics of a shuffled network are those of the unshuffled one; to compare networks, use
        batch_norm="batch". `batch_size` is the number of images per step; by default that of 96 rows with their perturbed
        versions.

    Returns
    -------
    Table
        A run per network: its name, "NAME, init" and "NAME, shuffled"; with both, "NAME, parts" with
        `spatial_pooling` and `channel_pooling`.

    Raises
    ------
    UsageError
        If the numbers of models and weights don't match, a network has the same weights for every seed of initialisation, or as
        for `load_model`, `load_data` and `stability`.
    """
    specs, files = _paired(models, weights)
    all_perturbations = perturbations(perturb, seed=seed)
    preprocessing: dict[str, Any] = {"size": size, "mean": mean, "std": std}
    images: dict[str, Any] = {"split": split, "limit": limit or None, "seed": seed}
    options.setdefault("batch_size", max(4, _BATCH_ROWS // (len(all_perturbations) + 1)))
    measure = _Measurement(all_perturbations, device_of(device), options, progress)
    tables: list[Table] = []
    for spec, file in zip(specs, files, strict=True):
        torch.manual_seed(seed)
        model = load_model(spec, weights=file, **preprocessing)
        samples = _images(model, data, **images)
        names = [run for table in tables for run in table.provenance]
        run = _run_name(spec, file, several=len(set(map(str, files))) > 1, used_names=names)
        provenance = {"dataset": data, "split": split or "", "seed": seed, "batch_size": options["batch_size"]}
        tables.append(measure(model, samples, run, provenance))
        seen = {str(model.card["weights_sha256"])}
        initial_tables = [
            measure(_initialised(spec, seen, preprocessing, seed + 1 + number), samples, f"{run}, init {number}",
                      provenance | {"init_seed": seed + 1 + number}, batch_norm="batch")
            for number in range(init)
        ]  # fmt: skip
        shuffled_tables = [
            measure(replace(model, module=shuffled_channels(model.module, seed=seed + number)), samples,
                      f"{run}, shuffled {number}", provenance | {"shuffle_seed": seed + number})
            for number in range(shuffled)
        ]  # fmt: skip
        groups = ((initial_tables, "init"), (shuffled_tables, "shuffled"))
        means = [geometric_mean(group, run=f"{run}, {kind}") for group, kind in groups if group]
        parts = [pooling_parts(tables[-1], means[1], means[0], run=f"{run}, parts")] if len(means) == 2 else []
        tables += means + parts
    return Table.concat(tables)


def _paired(models: str | Sequence[str], weights: Any) -> tuple[list[str], list[Any]]:
    """Models and weights as lists of equal length."""
    specs = [models] if isinstance(models, str) else list(models)
    files: list[Any] = [weights] if weights is None or isinstance(weights, str | PathLike) else list(weights)
    if len(specs) == 1:
        specs *= len(files)
    elif len(files) == 1:
        files *= len(specs)
    if len(specs) != len(files):
        raise UsageError(f"{len(specs)} models and {len(files)} weights; give one model, one weights file, or as many of both.")
    return specs, files


@dataclass(frozen=True)
class _Measurement:
    """What is the same for all networks: perturbations, device and options; a call measures a network."""

    perturbations: Sequence[Perturbation]
    device: str
    options: StabilityKeywords
    progress: bool | None

    def __call__(self, model: Model, samples: Data, run: str, provenance: Mapping[str, Any], **changed: Any) -> Table:
        """Stability of a network; `run` is its name in the table."""
        model.module.to(self.device)
        options: Any = {**self.options, **changed}
        return stability(
            model.module, samples.loader(self.options["batch_size"]), self.perturbations, run=run, name=model.card["model"],
            recorded={**model.card, **provenance}, device=self.device, progress=self.progress, **options,
        )  # fmt: skip


def _initialised(spec: str, seen: set[str], preprocessing: Mapping[str, Any], seed: int) -> Model:
    """The network with random weights of a seed.

    Raises
    ------
    UsageError
        If the weights are among `seen`: the network does not draw them at random.
    """
    torch.manual_seed(seed)  # the function that builds the network may draw weights itself
    model = load_model(spec, weights="random", **preprocessing)
    if (weights := str(model.card["weights_sha256"])) in seen:
        raise UsageError(
            f"{spec} has the same weights for every seed, so that there is no random initialisation to compare with."
        )
    seen.add(weights)
    return model


def _images(model: Model, data: str, *, split: str | None, limit: int | None, seed: int) -> Data:
    samples = load_data(data, split=split, transform=model.transform, colours=input_channels(model))
    return samples if limit is None else samples.sample(limit, seed=seed)


def _run_name(spec: str, file: Any, *, several: bool, used_names: Sequence[str]) -> str:
    """A run's name: that of the model, with that of the weights if there are several."""
    scheme, _, argument = spec.rpartition(":")
    first = argument.partition(",")[0]
    name = scheme if "=" in first else first  # without the parameters of a network
    if several and file is not None:
        name = f"{name} {Path(file).stem}"
    elif str(file) == "random":
        name += " random"
    while name in used_names:
        name += "'"
    return name
