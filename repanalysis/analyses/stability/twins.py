"""From what a user types to stability curves: networks as trained, as initialised, and shuffled, over the same images.

The command line and the notebook call `stability_runs`; what it measures is in `stability.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch

from probes.errors import UsageError
from probes.patterns import Patterns
from repanalysis.analyses.stability.sensitivity import Statistic, geometric_mean, pooling_parts, stability
from repanalysis.inputs.data import Data, load_data
from repanalysis.inputs.devices import device_of
from repanalysis.inputs.models import Model, Size, input_channels, load_model
from repanalysis.networks.shuffling import shuffled_channels
from repanalysis.perturbations import Perturbation, perturbations
from repanalysis.table import Table

__all__ = ["stability_runs"]

Norm = Literal["running", "batch"]

_ROWS = 96  # images, with their perturbed versions, that go through together by default


def stability_runs(
    models: str | Sequence[str],
    data: str,
    perturb: str | Sequence[str],
    *,
    weights: str | PathLike[str] | Sequence[str | PathLike[str]] | None = None,
    init: int = 0,
    shuffled: int = 0,
    split: str | None = None,
    limit: int | None = 500,
    layers: Patterns = None,
    ops: bool = False,
    statistic: Statistic = "mean",
    self_pairs: bool = True,
    batch_norm: Norm = "running",
    size: Size | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    precision: str = "float32",
    seed: int = 0,
    progress: bool | None = None,
    strict: bool = False,
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
        Random subset of so many images; None for all.
    layers, ops, statistic, self_pairs, batch_norm, precision, strict
        As for `stability`. The running statistics of a shuffled network are those of another wiring; with "batch", all networks
        normalise alike, which is what to compare them with.
    size, mean, std
        As for `load_model`.
    batch_size : int, optional
        Images per step; by default as many as make 96 with their perturbed versions.
    device : str, optional
        By default the GPU, if there is one.
    seed : int, default 0
        Of the subset, the perturbations, the initialisations and the shuffles.
    progress : bool, optional
        Show progress bars; by default only on a terminal.

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
    specs = [models] if isinstance(models, str) else list(models)
    files: list[Any] = [weights] if weights is None or isinstance(weights, str | PathLike) else list(weights)
    if len(specs) == 1:
        specs *= len(files)
    elif len(files) == 1:
        files *= len(specs)
    if len(specs) != len(files):
        raise UsageError(f"{len(specs)} models and {len(files)} weights; give one of them once, or as many of both.")
    made = perturbations(perturb, seed=seed)
    where = device_of(device)
    look = {"size": size, "mean": mean, "std": std}
    options: dict[str, Any] = {
        "layers": layers, "ops": ops, "statistic": statistic, "self_pairs": self_pairs, "device": where, "precision": precision,
        "progress": progress, "strict": strict,
    }  # fmt: skip
    step = batch_size or max(4, _ROWS // (len(made) + 1))
    tables: list[Table] = []
    for spec, file in zip(specs, files, strict=True):
        torch.manual_seed(seed)
        built = load_model(spec, weights=file, **look)  # type: ignore[arg-type]
        samples = _images(built, data, split, limit, seed)
        taken = [run for table in tables for run in table.provenance]
        run = _named(spec, file, several=len(set(map(str, files))) > 1, taken=taken)
        facts = {
            "dataset": data, "split": split or "", "batch_size": step, "seed": seed,
            "command": " ".join(["repanalysis", *sys.argv[1:]]),
        }  # fmt: skip
        loader = samples.loader(step)
        tables.append(_measured(built, loader, made, run, facts, options | {"batch_norm": batch_norm}))
        twins, met = [], {str(built.card["weights_sha256"])}
        for number in range(init):
            torch.manual_seed(seed + 1 + number)  # the network itself may be random, from the seed
            fresh = load_model(spec, weights="random", **look)  # type: ignore[arg-type]
            if fresh.card["weights_sha256"] in met:
                raise UsageError(f"{spec} gives the same weights every time: it has no random initialisation to compare with.")
            met.add(fresh.card["weights_sha256"])
            known = facts | {"init_seed": seed + 1 + number}
            twins.append(_measured(fresh, loader, made, f"{run}, init {number}", known, options | {"batch_norm": "batch"}))
        copies = []
        for number in range(shuffled):
            twin = replace(built, module=shuffled_channels(built.module, seed=seed + number))
            known = facts | {"shuffle_seed": seed + number}
            copies.append(
                _measured(twin, loader, made, f"{run}, shuffled {number}", known, options | {"batch_norm": batch_norm})
            )
        means = [geometric_mean(some, run=f"{run}, {what}") for some, what in ((twins, "init"), (copies, "shuffled")) if some]
        parts = [pooling_parts(tables[-1], means[1], means[0], run=f"{run}, parts")] if len(means) == 2 else []
        tables += means + parts
    return Table.concat(tables)


def _measured(  # noqa: PLR0917
    built: Model, loader: Any, made: Sequence[Perturbation], /, run: str, facts: dict[str, Any], options: dict[str, Any]
) -> Table:
    built.module.to(options["device"])
    return stability(built.module, loader, made, run=run, name=built.card["model"], recorded=built.card | facts, **options)


def _images(built: Model, data: str, split: str | None, limit: int | None, seed: int) -> Data:
    samples = load_data(data, split=split, transform=built.transform, colours=input_channels(built))
    return samples if limit is None else samples.sample(limit, seed=seed)


def _named(spec: str, file: Any, *, several: bool, taken: Sequence[str]) -> str:
    """A run's name: the model's, with its weights where there are several."""
    scheme, _, last = spec.rpartition(":")
    first = last.partition(",")[0]
    name = scheme if "=" in first else first  # not all the parameters of a network
    if several and file is not None:
        name = f"{name} {Path(file).stem}"
    elif str(file) == "random":
        name += " random"
    while name in taken:
        name += "'"
    return name
