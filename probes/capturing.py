"""A model over a loader: `capture` yields a `Batch` per step, `record` writes those batches to a file.

The model runs in eval mode and without gradients, hooks on, for one step at a time; between steps it is as it was.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn
from tqdm.auto import tqdm

from probes.batch import Batch
from probes.errors import DataError, LeftOutWarning, ReportedError, UsageError
from probes.hooks import Recording, hooked, rows_of
from probes.layers import unwrap
from probes.patterns import Patterns
from probes.store import Store, create, refuse_existing

__all__ = ["capture", "record", "versions"]


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; afterwards every module is in the mode that it was in."""
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        yield
    finally:
        for module in training:
            module.training = True


def capture(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    layers: Patterns = None,
    pool: str = "mean",
    split: str | None = None,
    device: torch.device | str | None = None,
    forward: Callable[[Any], Any] | None = None,
) -> Iterator[Batch]:
    """Run `model` over `loader` and yield, step by step, what its layers gave out.

    Parameters
    ----------
    model : torch.nn.Module
        Any network. It is run in eval mode and without gradients; between steps it is as it was before.
    loader : iterable
        Yields `x`, `(x, labels)` or `(x, labels, ids)`; `x` is a tensor, or a dict of keyword arguments. A dict may
        itself hold `labels` and `ids`. Without ids, samples are numbered in the order in which they come.
    layers : str or sequence of str, optional
        Patterns, as for `attach`. Default: every leaf call.
    pool : {"mean", "max", "flatten", "none"}, default "mean"
        What is kept of each output.
    split : str, optional
        Name of the split that all samples belong to.
    device : torch.device or str, optional
        Where the inputs go; by default where the model's first parameter is. The model is not moved.
    forward : callable, optional
        What to run instead of the model itself, such as `model.forward_features`.

    Yields
    ------
    Batch
        Activations as numpy arrays, with ids, labels and split.

    Raises
    ------
    UsageError
        If a pattern matches nothing that runs (after the first step).
    DataError
        If no layer at all can be recorded.

    Notes
    -----
    Memory: the kept parts of one step. An error of the model's own is raised as it is, with a note that says at which
    samples.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    >>> batch = next(capture(net, [(torch.zeros(2, 3), torch.tensor([0, 1]))]))
    >>> batch.layers["1"].shape, batch.labels.tolist(), net.training
    ((2, 4), [0, 1], True)
    """
    model = unwrap(model)
    recording = Recording(model, layers, pool)
    if device is None:
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    done = 0
    for step, item in enumerate(loader):
        inputs, labels, ids = _unpack(item)
        rows = rows_of([inputs])
        if rows is None:
            raise UsageError(f"The loader's item {step} holds no tensor; it should yield x, (x, labels) or (x, labels, ids).")
        # The hooks live for one step only: whoever stops iterating, by whatever way, leaves no hook behind.
        try:
            with hooked(model, recording), _eval_mode(model), torch.no_grad():
                recording.clear()
                recording.rows = rows
                _run(forward or model, _to(inputs, device))
                if step == 0:
                    recording.check()
        except ReportedError:
            raise
        except Exception as error:
            error.add_note(f"while {type(model).__name__} ran on samples {done} to {done + rows - 1} (step {step})")
            raise
        if not recording:
            reasons = "; ".join(f"{name}: {why}" for name, why in list(recording.left_out.items())[:3])
            raise DataError(f"No layer of {type(model).__name__} can be recorded ({reasons or 'no module was called'}).")
        if step == 0 and recording.left_out:
            warnings.warn(_left_out(recording.left_out), LeftOutWarning, stacklevel=2)
        yield Batch(
            ids=np.arange(done, done + rows) if ids is None else _integers(ids, "ids"),
            layers={name: kept.cpu().numpy() for name, kept in recording.items()},
            labels=None if labels is None else _integers(labels, "labels"),
            split=None if split is None else np.full(rows, split),
            info=recording.info,
            left_out=recording.left_out,
        )
        recording.reserve()
        done += rows


def _left_out(reasons: Mapping[str, str]) -> str:
    """One sentence on the layers that can't be recorded."""
    shown = "; ".join(f"{name}: {why}" for name, why in list(reasons.items())[:2])
    more = f"; and {len(reasons) - 2} more, all named in the batch's or the file's left_out" if len(reasons) > 2 else ""
    return f"{len(reasons)} layers are left out ({shown}{more})."


def _unpack(item: Any) -> tuple[Any, Any, Any]:
    """Inputs, labels and ids of what a loader yielded."""
    if isinstance(item, Mapping):
        inputs = dict(item)
        labels = inputs.pop("labels", None)
        ids = inputs.pop("ids", None)
        return inputs, labels, ids
    if isinstance(item, list | tuple):
        inputs, labels, ids = [*item, None, None][:3]
        return inputs, labels, ids
    return item, None, None


def _integers(values: Any, what: str) -> Int64[np.ndarray, " n"]:
    array = np.asarray(values.cpu() if isinstance(values, Tensor) else values)
    if array.ndim != 1 or array.dtype.kind not in "iub":
        raise DataError(
            f"The loader's {what} have shape {array.shape} and type {array.dtype}; one integer per sample is needed."
        )
    return array.astype(np.int64)


def _to(inputs: Any, device: torch.device | str) -> Any:
    if isinstance(inputs, Tensor):
        return inputs.to(device, non_blocking=True)
    if isinstance(inputs, Mapping):
        return {key: _to(value, device) for key, value in inputs.items()}
    return inputs


def _run(forward: Callable[..., Any], inputs: Any) -> None:
    if isinstance(inputs, Mapping):
        forward(**inputs)
    else:
        forward(inputs)


def record(
    model: nn.Module,
    loader: Iterable[Any],
    path: str | PathLike[str],
    *,
    layers: Patterns = None,
    pool: str = "mean",
    split: str | None = None,
    device: torch.device | str | None = None,
    forward: Callable[[Any], Any] | None = None,
    attrs: Mapping[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
    compression: str = "none",
    overwrite: bool = False,
    progress: bool | None = None,
) -> Store:
    """Run `model` over `loader` and write what its layers gave out to an activations file, batch by batch.

    Parameters
    ----------
    model, loader, layers, pool, split, device, forward
        As for `capture`.
    path : path-like
        File to write, such as `"acts.h5"`.
    attrs : mapping, optional
        Provenance to keep: model, weights_sha256, preprocessing, dataset, seed, command, versions.
    class_names : sequence of str, optional
        Name of class 0, 1, ...
    compression : {"none", "lzf", "gzip"}, default "none"
        How the file is packed.
    overwrite : bool, default False
        Replace a file that exists, once the first step has run.
    progress : bool, optional
        Show a progress bar; by default only on a terminal.

    Returns
    -------
    Store
        The file, for reading.

    Raises
    ------
    UsageError
        If `path` exists and `overwrite` is false.
    DataError
        If the loader gives nothing.

    Notes
    -----
    If the model fails in the middle, everything up to the failing step is in the file: `probes.open(path, partial=True)`.
    """
    path = refuse_existing(path, overwrite=overwrite)
    attrs = {"model": type(unwrap(model)).__name__, "versions": versions()} | dict(attrs or {})
    expected = _length(loader)
    batches = capture(model, loader, layers=layers, pool=pool, split=split, device=device, forward=forward)
    first = next(batches, None)
    if first is None:
        raise DataError("The loader gave no batch; there is nothing to record.")
    writer = create(path, attrs=attrs, class_names=class_names, compression=compression, expected=expected, overwrite=overwrite)
    hidden = None if progress is None else not progress
    with tqdm(total=expected, unit=" samples", disable=hidden, desc=path.name) as bar:
        try:
            with writer:
                writer.append(first)
                bar.update(len(first))
                for batch in batches:
                    writer.append(batch)
                    bar.update(len(batch))
        except BaseException as error:
            error.add_note(
                f"{writer.n_committed} samples are whole in {path}; read them with probes.open({str(path)!r}, partial=True)"
            )
            raise
    return Store(path)


def _length(loader: Iterable[Any]) -> int | None:
    """Number of samples to come, where the loader knows it."""
    try:
        return len(loader.dataset)  # type: ignore[attr-defined]  # a torch DataLoader
    except (AttributeError, TypeError):
        return None


def versions() -> dict[str, str]:
    """Versions of what computes a number: Python, torch, numpy, h5py and, where installed, timm and this package."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("torch", "numpy", "h5py", "timm", "torchvision", "repanalysis"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
