"""Running a model over a loader: `capture` yields one `Batch` per step.

During a step the model has hooks and runs in eval mode without gradients. Between steps the hooks are removed, every module is
in its original mode, and other forward passes of the model are not recorded.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, Unpack

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from probes.batch import Batch, LayerInfo
from probes.capturing.hooks import Recording, Reduction, StopForward, hooked
from probes.capturing.keywords import options_of
from probes.capturing.measuring import measure
from probes.capturing.network import unwrap
from probes.capturing.padding import UNKNOWN_LENGTH, padding_mask
from probes.errors import DataError, IgnoredWarning, LeftOutWarning, ReportedError
from probes.loading.inputs import Inputs, explained
from probes.loading.loaders import as_loader
from probes.loading.numbering import identified
from probes.loading.reader import Reader, as_inputs
from probes.options import CaptureKeywords, CaptureOptions, shows_options

__all__ = ["capture", "device_of", "examined"]


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; afterwards every module is in its original mode.

    If no module is in training mode, `eval` is called only if a module overrides `eval` or `train`, which may do more.
    """
    modules = list(model.modules())
    training = [module for module in modules if module.training]
    try:
        if training or any(
            type(module).train is not nn.Module.train or type(module).eval is not nn.Module.eval for module in modules
        ):
            model.eval()
        yield
    finally:
        for module in training:
            module.training = True


@shows_options(CaptureKeywords)
def capture(
    model: nn.Module,
    loader: Iterable[Any] | Dataset[Any],
    *,
    device: torch.device | str | None = None,
    early_stop: bool = True,
    first_id: int = 0,
    forward: Callable[..., Any] | None = None,
    reduce: Reduction | None = None,
    class_names: Sequence[str] | None = None,
    **options: Unpack[CaptureKeywords],
) -> Iterator[Batch]:
    """Run `model` over `loader` and yield the outputs of its layers, step by step.

    Parameters
    ----------
    model : torch.nn.Module
        Any network. It is run in eval mode and without gradients; between steps it is as it was before, without hooks, and may
        be used, also by another `capture`.
    loader : iterable or torch.utils.data.Dataset
        Yields `x`, `(x, labels)` or `(x, labels, ids)`, or a mapping that may itself hold `labels` and `ids`; see the
        notes. Where it gives no ids and is a torch `DataLoader` of a data set with positions, a sample's id is its position
        in that data set, whatever order the sampler draws; else samples are numbered in the order in which they come.
    device : torch.device or str, optional
        Where the inputs go; by default where the model's first parameter is. The model is not moved.
    early_stop : bool, default True
        Stop each forward pass after the last selected layer. Ignored with `forward`.
    first_id : int, default 0
        Number of the first sample, where samples are numbered in the order in which they come.
    forward : callable, optional
        What to run instead of the model itself, such as `model.forward_features`. Its signature takes the place of the
        model's.
    reduce : callable, optional
        As for `attach`.
    class_names : sequence of str, optional
        Name of class 0, 1, ..., by which labels that are text are numbered.
    **options
        See `probes.CaptureOptions`: `layers`, `pool`, `ops`, `prefix_tokens`, `dtype`, `seed`, `split`, `precision`,
        `channels_last`, `axes`, `batch_size`. Axes that are not stated are measured before the first step: two or three samples
        run through the network as batches of two sizes, and with another height and width or length
        (`probes.capturing.measuring`). `batch_size` counts where a data set comes in place of a loader.

    Yields
    ------
    Batch
        Activations as numpy arrays, with ids, labels or continuous targets, and split. A layer whose
        shape is not that of the first step is
        in `skipped` from there on.

    Raises
    ------
    UsageError
        If a pattern matches nothing that runs (after the first step), the precision is unknown, or the model can't be
        called with what the loader yields.
    DataError
        If no layer can be recorded; if labels are neither classes nor targets, or ids are not one integer or text per sample;
        if only some batches have labels or ids; if an id repeats; if several workers of an `IterableDataset` each yield all
        samples.

    Notes
    -----
    Memory: the pooled outputs of one step, and 8 bytes per id. An exception of the model is raised unchanged, with a note
    that names the samples.

    What the network's `forward` takes decides how x is read; numpy arrays count as tensors.

    ========================================  =====================================================================
    x, or the item itself                     is run as
    ========================================  =====================================================================
    a tensor                                  `model(x)`
    a tuple or list of tensors                `model(x1, x2)`, or `model([x1, x2])` where forward takes one argument
    a list of images, one label each          `model(images)`, a sample per entry, as in detection
    a mapping whose keys are arguments        `model(**x)`; other keys are not read, with a warning
    another mapping                           `model(x)`
    ========================================  =====================================================================

    Labels are integers from 0, text or one-hot rows, in any container: a tensor on any device, an array, a list; -1, -100, NaN
    and None mean that a sample has none. Floats, (n,) or (n, t), are continuous targets, unless all are whole. Text needs
    `class_names`. Targets of another kind (boxes, masks, images, a class per token) are not read, with a warning. A third
    element is taken for ids if it is one integer per sample, or one text that no other sample has, such as its path; other
    metadata are not read, with a warning. An empty batch is passed over.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    >>> batch = next(capture(net, [(torch.zeros(2, 3), torch.tensor([0, 1]))]))
    >>> batch.layers["1"].shape, batch.labels.tolist(), net.training
    ((2, 4), [0, 1], True)
    """
    return captured(
        model, loader, options_of(**options), device=device, early_stop=early_stop, first_id=first_id, forward=forward,
        reduce=reduce, class_names=class_names,
    )  # fmt: skip


def captured(
    model: nn.Module,
    loader: Iterable[Any] | Dataset[Any],
    options: CaptureOptions,
    *,
    device: torch.device | str | None = None,
    early_stop: bool = True,
    first_id: int = 0,
    forward: Callable[..., Any] | None = None,
    reduce: Reduction | None = None,
    class_names: Sequence[str] | None = None,
) -> Iterator[Batch]:
    """As `capture`, with options from `options_of`."""
    model = unwrap(model)
    recording = Recording(model, options, reduce=reduce)
    where = torch.device(device) if device is not None else device_of(model)
    loader = as_loader(loader, options.batch_size)
    reader = Reader(forward or model, class_names=class_names)
    steps = _ForwardPass(model, recording, forward or model, where, _autocast(options.precision, where), options.channels_last)
    layers = _Layers(recording)
    done = 0
    for step, (item, ids, ids_from) in enumerate(islice(identified(loader, reader, first=first_id), options.max_batches)):
        rows = item.inputs.rows
        if step == 0:
            steps.measure(item.inputs)
        steps.run(item.inputs, done, step)
        if step == 0:
            layers.begin(early_stop=early_stop and forward is None)
        else:
            layers.drop_changed(done)
        if not layers.shapes:
            raise DataError(f"No layer of {type(model).__name__} can be recorded ({layers.reasons}).")
        layers.warn_of_padding()
        yield Batch(
            ids=ids,
            layers={name: recording.array(name) for name in layers.shapes},
            labels=item.labels,
            split=np.full(rows, options.split) if options.split else None,
            info={name: layers.info[name] for name in layers.shapes},
            skipped=dict(layers.skipped),
            ids_from=ids_from,
            targets=item.targets,
            target_names=item.target_names,
        )
        done += rows


class _Layers:
    """The layers of a run whose shape was the same in every step so far, and the reasons why others were skipped."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.info: dict[str, LayerInfo] = {}
        self.skipped: dict[str, str] = {}
        self._has_padding = False

    def begin(self, *, early_stop: bool) -> None:
        """Take the layers of the first step; with `early_stop`, later passes end after the last of them."""
        recording = self.recording
        self.info, self.shapes = recording.info, recording.shapes
        self.skipped = recording.skipped | recording.uncalled_modules
        if early_stop and self.info and (last := list(self.info)[-1]) and self.info[last].depth < 1:
            recording.last = last
        self._warn(_called(self.skipped))

    def drop_changed(self, done: int) -> None:
        """Skip the layers whose shape differs from the first step's; `done` samples were processed before."""
        changed = _changed_shapes(self.recording, self.shapes, done)
        self.skipped |= changed
        self.shapes = {name: shape for name, shape in self.shapes.items() if name not in changed}
        self._warn(_called(changed))

    @property
    def reasons(self) -> str:
        """The reasons of the first three skipped layers."""
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(self.skipped.items())[:3])
        return reasons or "no module was called that the layer patterns select"

    def warn_of_padding(self) -> None:
        """At the first batch with padding, warn of the layers whose pools include the padding."""
        mask = self.recording.mask
        if self._has_padding or mask is None or mask.all():
            return
        self._has_padding = True
        if padded := [name for name in self.shapes if self.info[name].padding.startswith(UNKNOWN_LENGTH)]:
            warnings.warn(_padded(padded), IgnoredWarning, stacklevel=3)

    def _warn(self, reasons: Mapping[str, str]) -> None:
        if reasons and self.shapes:
            warnings.warn(_skipped(reasons), LeftOutWarning, stacklevel=4)


def examined(model: nn.Module, example: Any, **options: Unpack[CaptureKeywords]) -> Recording:
    """The unpooled outputs of one pass, with the axes that `capture` would determine.

    Parameters
    ----------
    model : torch.nn.Module
        Network; it runs in eval mode without gradients, and its modes are restored afterwards.
    example : torch.Tensor, tuple or mapping
        Inputs of one sample or a few, as the loader would give them.
    **options
        `layers`, `ops`, `prefix_tokens` and `axes`, as for `capture`; other options have no effect.

    Raises
    ------
    UsageError
        If a pattern matches nothing, or the axes do not fit.

    Examples
    --------
    >>> recording = examined(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), torch.zeros(1, 3))
    >>> recording.info["1"].axes_from, recording.info["1"].source_dims
    ('weight', ('sample', 'channel'))
    """
    model = unwrap(model)
    recording = Recording(model, replace(options_of(**options), pool=("none",), dtype="auto"))
    inputs = as_inputs(model, example)
    steps = _ForwardPass(model, recording, model, device_of(model), nullcontext, channels_last=False)
    steps.measure(inputs)
    steps.run(inputs, 0, 0)
    return recording


@dataclass
class _ForwardPass:
    """Runs single steps of a recording, with hooks, in eval mode and without gradients; restores the model afterwards."""

    model: nn.Module
    recording: Recording
    forward: Callable[..., Any]
    device: torch.device
    autocast: Callable[[], AbstractContextManager[Any]]
    channels_last: bool

    def measure(self, inputs: Inputs) -> None:
        """Measure the axes of the outputs on a few inputs of the first step."""
        inputs = inputs.to(self.device, channels_last=self.channels_last)
        with _eval_mode(self.model), torch.no_grad(), self.autocast():
            measure(self.model, self.recording, self.forward, inputs)

    def run(self, inputs: Inputs, done: int, step: int) -> None:
        """Run the network on one step's inputs."""
        inputs = inputs.to(self.device, channels_last=self.channels_last)
        # Hooks exist during one step only, so that no hook is left if the caller stops iterating.
        try:
            with hooked(self.recording), _eval_mode(self.model), torch.no_grad(), self.autocast():
                self.recording.clear(inputs.shape)
                self.recording.rows = inputs.rows
                self.recording.mask = padding_mask((inputs.args, inputs.kwargs))
                self.recording.expected = inputs.rows, inputs.shape
                with suppress(StopForward):
                    inputs.call(self.forward)
                if step == 0:
                    self.recording.check()
        except ReportedError:
            raise
        except Exception as error:
            if not step and (reason := explained(error, inputs, self.model)):
                raise reason from error
            error.add_note(f"while {type(self.model).__name__} ran on samples {done} to {done + inputs.rows - 1} (step {step})")
            raise


def device_of(model: nn.Module) -> torch.device:
    """Where a network's first parameter is."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _autocast(precision: str, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    return nullcontext if precision == "float32" else partial(torch.autocast, device.type, getattr(torch, precision))


def _changed_shapes(recording: Recording, shapes: Mapping[str, tuple[int, ...]], done: int) -> dict[str, str]:
    """Layers whose shape differs from the first step's or that did not run, each with the reason."""
    changed: dict[str, str] = {}
    if shapes == (now_shapes := recording.shapes):
        return changed
    for name, before in shapes.items():
        now = now_shapes.get(name)
        if now is None:
            changed[name] = f"it did not run at sample {done}, as it had before"
        elif now != before:
            changed[name] = f"its shape is {now} from sample {done} on, and was {before} before: pool it (mean, max)"
    return changed


def _padded(names: list[str]) -> str:
    """The warning about layers whose pools include padding."""
    return (
        f"{len(names)} layers are pooled with their padding ({', '.join(names[:3])}{', ...' * (len(names) > 3)}): it could not "
        f"be measured whether their positions are those of the batch's mask. Leave them out, or keep the positions apart "
        f"(pool none)."
    )


def _called(reasons: Mapping[str, str]) -> dict[str, str]:
    """The reasons of those layers that were called."""
    return {name: why for name, why in reasons.items() if not why.startswith("the forward pass never calls it")}


def _skipped(reasons: Mapping[str, str]) -> str:
    """The warning about layers that can't be recorded."""
    shown = "; ".join(f"{name}: {why}" for name, why in list(reasons.items())[:2])
    more = f"; and {len(reasons) - 2} more, all named in the batch's or the file's left_out" if len(reasons) > 2 else ""
    return f"{len(reasons)} layers are left out ({shown}{more})."
