"""From what a user types to stability curves: networks as trained, as initialised, and shuffled, over the same images.

The command line and the notebook call `stability_runs`; what it measures is in `stability.py`.
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
    """Options of `stability` that every network is measured with."""

    statistic: Reduction
    self_pairs: bool
    batch_norm: Norm
    strict: bool


_ROWS = 96  # images, with their perturbed versions, that go through together by default


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
    init: Annotated[int, Ge(0), Doc("Untrained networks to average over, beside the model.")] = 0,
    shuffled: Annotated[int, Ge(0), Doc("Channel-shuffled copies to average over, beside the model.")] = 0,
    split: SplitOption = None,
    limit: Annotated[int | None, Ge(0), Doc("Random subset of so many images; 0 for all.")] = 500,
    size: SizeOption = None,
    mean: ColoursOption = None,
    std: ColoursOption = None,
    device: DeviceOption = None,
    seed: int = 0,
    progress: bool | None = None,
    **options: Unpack[StabilityKeywords],
) -> Table:
    """Stability of one or several networks, and of their untrained and shuffled twins.

    Parameters
    ----------
    models : str or sequence of str
        As for `load_model`.
    data, split : str
        Images; as for `load_data`.
    perturb : str or sequence of str
        As for `repanalysis.perturbations.perturbations`.
    weights : path-like or sequence of path-like, optional
        One for all, one per model, or several checkpoints of one model: a run each.
    init : int, default 0
        So many random initialisations of every model, whose geometric mean is a run of its own. Batch norms normalise with the
        batch there, whatever `batch_norm` says: their running statistics are those of no data.
    shuffled : int, default 0
        So many copies of every network with shuffled channels, likewise.
    limit : int or None, default 500
        Random subset of so many images; None or 0 for all.
    size, mean, std
        As for `load_model`.
    device : str, optional
        By default the GPU, if there is one.
    seed : int, default 0
        Of the subset, the perturbations, the initialisations and the shuffles.
    progress : bool, optional
        Show progress bars; by default only on a terminal.
    **options
        `statistic`, `self_pairs`, `batch_norm`, `strict`, `layers`, `ops`, `precision`, `channels_last`, as for `stability`.
        The running statistics of a shuffled network are those of another wiring; with batch_norm="batch", all networks
        normalise alike, which is what to compare them with. `batch_size` images go through per step; by default as many as
        make 96 with their perturbed versions.

    Returns
    -------
    Table
        A run per network: its name, "NAME, init" and "NAME, shuffled"; where both are there, "NAME, parts" with
        `spatial_pooling` and `channel_pooling`.

    Raises
    ------
    UsageError
        If the numbers of models and weights don't go together, a network to be initialised comes with its weights, or as the
        functions above say.
    """
    specs, files = _paired(models, weights)
    all_perturbations = perturbations(perturb, seed=seed)
    look: dict[str, Any] = {"size": size, "mean": mean, "std": std}
    images: dict[str, Any] = {"split": split, "limit": limit or None, "seed": seed}
    options.setdefault("batch_size", max(4, _ROWS // (len(all_perturbations) + 1)))
    measuring = _Measuring(all_perturbations, device_of(device), options, progress)
    tables: list[Table] = []
    for spec, file in zip(specs, files, strict=True):
        torch.manual_seed(seed)
        model = load_model(spec, weights=file, **look)
        samples = _images(model, data, **images)
        names = [run for table in tables for run in table.provenance]
        run = _run_name(spec, file, several=len(set(map(str, files))) > 1, used_names=names)
        facts = {"dataset": data, "split": split or "", "seed": seed, "batch_size": options["batch_size"]}
        tables.append(measuring(model, samples, run, facts))
        seen = {str(model.card["weights_sha256"])}
        initial = [
            measuring(_initialised(spec, seen, look, seed + 1 + number), samples, f"{run}, init {number}",
                      facts | {"init_seed": seed + 1 + number}, batch_norm="batch")
            for number in range(init)
        ]  # fmt: skip
        rewired = [
            measuring(replace(model, module=shuffled_channels(model.module, seed=seed + number)), samples,
                      f"{run}, shuffled {number}", facts | {"shuffle_seed": seed + number})
            for number in range(shuffled)
        ]  # fmt: skip
        groups = ((initial, "init"), (rewired, "shuffled"))
        means = [geometric_mean(group, run=f"{run}, {kind}") for group, kind in groups if group]
        parts = [pooling_parts(tables[-1], means[1], means[0], run=f"{run}, parts")] if len(means) == 2 else []
        tables += means + parts
    return Table.concat(tables)


def _paired(models: str | Sequence[str], weights: Any) -> tuple[list[str], list[Any]]:
    """Models and weights, as many of both."""
    specs = [models] if isinstance(models, str) else list(models)
    files: list[Any] = [weights] if weights is None or isinstance(weights, str | PathLike) else list(weights)
    if len(specs) == 1:
        specs *= len(files)
    elif len(files) == 1:
        files *= len(specs)
    if len(specs) != len(files):
        raise UsageError(f"{len(specs)} models and {len(files)} weights; give one of them once, or as many of both.")
    return specs, files


@dataclass(frozen=True)
class _Measuring:
    """Measures one network after another in the same way."""

    perturbations: Sequence[Perturbation]
    device: str
    options: StabilityKeywords
    progress: bool | None

    def __call__(self, model: Model, samples: Data, run: str, facts: Mapping[str, Any], **changed: Any) -> Table:
        """Stability of a network that is called `run`."""
        model.module.to(self.device)
        options: Any = {**self.options, **changed}
        return stability(
            model.module, samples.loader(self.options["batch_size"]), self.perturbations, run=run, name=model.card["model"],
            recorded={**model.card, **facts}, device=self.device, progress=self.progress, **options,
        )  # fmt: skip


def _initialised(spec: str, seen: set[str], look: Mapping[str, Any], seed: int) -> Model:
    """The network with random weights of a seed.

    Raises
    ------
    UsageError
        If a network had the same before: it does not draw them.
    """
    torch.manual_seed(seed)  # the network itself may be random, from the seed
    model = load_model(spec, weights="random", **look)
    if (weights := str(model.card["weights_sha256"])) in seen:
        raise UsageError(f"{spec} gives the same weights every time: it has no random initialisation to compare with.")
    seen.add(weights)
    return model


def _images(model: Model, data: str, *, split: str | None, limit: int | None, seed: int) -> Data:
    samples = load_data(data, split=split, transform=model.transform, colours=input_channels(model))
    return samples if limit is None else samples.sample(limit, seed=seed)


def _run_name(spec: str, file: Any, *, several: bool, used_names: Sequence[str]) -> str:
    """A run's name: the model's, with its weights where there are several."""
    scheme, _, last = spec.rpartition(":")
    first = last.partition(",")[0]
    name = scheme if "=" in first else first  # not all the parameters of a network
    if several and file is not None:
        name = f"{name} {Path(file).stem}"
    elif str(file) == "random":
        name += " random"
    while name in used_names:
        name += "'"
    return name
