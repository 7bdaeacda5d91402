"""A model over a loader: `capture` yields a `Batch` per step, which `recording.py` writes and the engine analyses.

The model runs in eval mode and without gradients, hooks on, for one step at a time; between steps it is as it was.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn

from probes.axes import AxesOption
from probes.batch import Batch, LayerInfo
from probes.errors import DataError, LeftOutWarning, ReportedError, UsageError, did_you_mean
from probes.hooks import Enough, Recording, Reduction, first_tensor, hooked
from probes.layers import unwrap
from probes.measuring import measure
from probes.padding import padding_mask
from probes.patterns import Patterns
from probes.pooling import Pools

__all__ = ["PRECISIONS", "capture", "device_of", "examined", "integers", "unpack"]

PRECISIONS = ("float32", "bfloat16", "float16")


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
    pool: Pools = "mean",
    ops: bool = False,
    prefix_tokens: int | None = None,
    dtype: str = "auto",
    seed: int = 0,
    split: str | None = None,
    device: torch.device | str | None = None,
    precision: str = "float32",
    channels_last: bool = False,
    early_stop: bool = True,
    first_id: int = 0,
    forward: Callable[[Any], Any] | None = None,
    reduce: Reduction | None = None,
    axes: AxesOption = None,
) -> Iterator[Batch]:
    """Run `model` over `loader` and yield, step by step, what its layers gave out.

    Parameters
    ----------
    model : torch.nn.Module
        Any network. It is run in eval mode and without gradients; between steps it is as it was before.
    loader : iterable
        Yields `x`, `(x, labels)` or `(x, labels, ids)`; `x` is a tensor, or a dict of keyword arguments. A dict may
        itself hold `labels` and `ids`. Without ids, samples are numbered in the order in which they come.
    layers, pool, ops, prefix_tokens, dtype, seed, reduce
        As for `attach`.
    axes : str, mapping or sequence of str, optional
        As for `attach`. What it does not say is measured before the first step: two or three samples run through the network as
        batches of two sizes, and with another height and width or length; see `probes.measuring`.
    split : str, optional
        Name of the split that all samples belong to.
    device : torch.device or str, optional
        Where the inputs go; by default where the model's first parameter is. The model is not moved.
    precision : {"float32", "bfloat16", "float16"}, default "float32"
        What the network computes in: "float32" leaves everything as it is, the others are automatic mixed precision.
    channels_last : bool, default False
        Give images to the network in channels-last memory, which is faster on many devices; results may differ by
        rounding.
    early_stop : bool, default True
        Leave the forward pass once the last wanted layer has run. Not done where `forward` is given.
    first_id : int, default 0
        Number of the first sample, where the loader gives no ids.
    forward : callable, optional
        What to run instead of the model itself, such as `model.forward_features`.

    Yields
    ------
    Batch
        Activations as numpy arrays, with ids, labels and split. A layer whose shape is not that of the first step is
        in `left_out` from there on.

    Raises
    ------
    UsageError
        If a pattern matches nothing that runs (after the first step), or the precision is unknown.
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
    recording = Recording(
        model, layers, pool, ops=ops, prefix_tokens=prefix_tokens, dtype=dtype, seed=seed, reduce=reduce, axes=axes
    )
    where = torch.device(device) if device is not None else device_of(model)
    steps = _Steps(model, recording, forward or model, where, _autocast(precision, where), channels_last)
    shapes: dict[str, tuple[int, ...]] = {}
    info: dict[str, LayerInfo] = {}
    left_out: dict[str, str] = {}
    done = 0
    for step, item in enumerate(loader):
        inputs, labels, ids = unpack(item)
        first = first_tensor([inputs])
        if first is None:
            raise UsageError(f"The loader's item {step} holds no tensor; it should yield x, (x, labels) or (x, labels, ids).")
        rows = len(first)
        if step == 0:
            steps.measure(inputs, rows)
        steps.run(inputs, first, done, step)
        if step == 0:
            info = recording.info
            shapes = {name: tuple(kept.shape[1:]) for name, kept in recording.items()}
            left_out = recording.left_out | recording.idle
            if early_stop and forward is None and info and (last := list(info)[-1]) and info[last].depth < 1:
                recording.last = last
        varied = _varied(recording, shapes, done) if step else {}
        left_out |= varied
        kept = {name: value for name, value in recording.items() if name not in varied and (not step or name in shapes)}
        shapes = {name: shape for name, shape in shapes.items() if name not in varied}
        if not kept:
            reasons = "; ".join(f"{name}: {why}" for name, why in list(left_out.items())[:3])
            raise DataError(f"No layer of {type(model).__name__} can be recorded ({reasons or 'no module was called'}).")
        if said := _ran(varied if step else left_out):
            warnings.warn(_left_out(said), LeftOutWarning, stacklevel=2)
        yield Batch(
            ids=np.arange(first_id + done, first_id + done + rows) if ids is None else integers(ids, "ids"),
            layers={name: value.cpu().numpy() for name, value in kept.items()},
            labels=None if labels is None else integers(labels, "labels"),
            split=None if split is None else np.full(rows, split),
            info={name: info[name] for name in kept},
            left_out=dict(left_out),
        )
        done += rows


def examined(
    model: nn.Module,
    example: Any,
    *,
    layers: Patterns = None,
    ops: bool = False,
    prefix_tokens: int | None = None,
    axes: AxesOption = None,
) -> Recording:
    """Every output of one pass as it is, with its axes as `capture` would find them.

    Parameters
    ----------
    model : torch.nn.Module
        Run in eval mode and without gradients; afterwards it is as it was.
    example : torch.Tensor or dict
        Inputs of one sample or a few, as the loader would give them.
    layers, ops, prefix_tokens, axes
        As for `capture`.

    Raises
    ------
    UsageError
        If a pattern matches nothing, or the axes do not fit.

    Examples
    --------
    >>> recording = examined(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), torch.zeros(1, 3))
    >>> recording.info["1"].axes_from, recording.info["1"].source_dims
    ('measured', ('sample', 'channel'))
    """
    model = unwrap(model)
    recording = Recording(model, layers, "none", ops=ops, prefix_tokens=prefix_tokens, axes=axes)
    first = first_tensor([example])
    if first is None:
        raise UsageError("The example holds no tensor.")
    steps = _Steps(model, recording, model, device_of(model), nullcontext, channels_last=False)
    steps.measure(example, len(first))
    steps.run(example, first, 0, 0)
    return recording


@dataclass
class _Steps:
    """One step of a recording: hooks on, eval mode, no gradients; afterwards the model is as it was."""

    model: nn.Module
    recording: Recording
    forward: Callable[..., Any]
    device: torch.device
    autocast: Callable[[], AbstractContextManager[Any]]
    channels_last: bool

    def measure(self, inputs: Any, rows: int) -> None:
        """Find out what the axes of the outputs mean, on a few of the first step's inputs."""

        def call(inputs: Any) -> Any:
            return self.forward(**inputs) if isinstance(inputs, Mapping) else self.forward(inputs)

        inputs = _to(inputs, self.device, channels_last=self.channels_last)
        with _eval_mode(self.model), torch.no_grad(), self.autocast():
            measure(self.model, self.recording, call, inputs, rows)

    def run(self, inputs: Any, first: Tensor, done: int, step: int) -> None:
        """Run the network on one step's inputs."""
        inputs = _to(inputs, self.device, channels_last=self.channels_last)
        # The hooks live for one step only: whoever stops iterating, by whatever way, leaves no hook behind.
        try:
            with hooked(self.recording), _eval_mode(self.model), torch.no_grad(), self.autocast():
                self.recording.clear(tuple(first.shape[1:]))
                self.recording.rows = len(first)
                self.recording.mask = padding_mask(inputs)
                with suppress(Enough):
                    if isinstance(inputs, Mapping):
                        self.forward(**inputs)
                    else:
                        self.forward(inputs)
                if step == 0:
                    self.recording.check()
        except ReportedError:
            raise
        except Exception as error:
            error.add_note(f"while {type(self.model).__name__} ran on samples {done} to {done + len(first) - 1} (step {step})")
            raise


def device_of(model: nn.Module) -> torch.device:
    """Where a network's first parameter is."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _autocast(precision: str, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    if precision not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise UsageError(f"Unknown precision {precision!r}.{did_you_mean(precision, PRECISIONS)} Known are {known}.")
    return nullcontext if precision == "float32" else partial(torch.autocast, device.type, getattr(torch, precision))


def _varied(recording: Recording, shapes: Mapping[str, tuple[int, ...]], done: int) -> dict[str, str]:
    """Layers that do not give out what they gave out in the first step, each with the reason."""
    found = {}
    for name, before in shapes.items():
        now = tuple(recording[name].shape[1:]) if name in recording else None
        if now != before:
            what = f"its shape is {now} from sample {done} on, and was {before} before: pool it (mean, max)"
            found[name] = what if now else f"it did not run at sample {done}, as it had before"
    return found


def _ran(reasons: Mapping[str, str]) -> dict[str, str]:
    """The layers that did run."""
    return {name: why for name, why in reasons.items() if not why.startswith("the forward pass never calls it")}


def _left_out(reasons: Mapping[str, str]) -> str:
    """One sentence on the layers that can't be recorded."""
    shown = "; ".join(f"{name}: {why}" for name, why in list(reasons.items())[:2])
    more = f"; and {len(reasons) - 2} more, all named in the batch's or the file's left_out" if len(reasons) > 2 else ""
    return f"{len(reasons)} layers are left out ({shown}{more})."


def unpack(item: Any) -> tuple[Any, Any, Any]:
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


def integers(values: Any, what: str) -> Int64[np.ndarray, " n"]:
    """One integer per sample, as an array; `what` is for the message."""
    array = np.asarray(values.cpu() if isinstance(values, Tensor) else values)
    if array.ndim != 1 or array.dtype.kind not in "iub":
        raise DataError(
            f"The loader's {what} have shape {array.shape} and type {array.dtype}; one integer per sample is needed."
        )
    return array.astype(np.int64)


def _to(inputs: Any, device: torch.device, *, channels_last: bool) -> Any:
    if isinstance(inputs, Tensor):
        layout = torch.channels_last if channels_last and inputs.ndim == 4 else torch.preserve_format
        return inputs.to(device, non_blocking=True, memory_format=layout)
    if isinstance(inputs, Mapping):
        return {key: _to(value, device, channels_last=channels_last) for key, value in inputs.items()}
    return inputs
