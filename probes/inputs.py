"""What one item of a loader means: inputs as the network takes them, one integer label and one id per sample.

The network's signature decides what it can: how many inputs it takes, by which names. Counts decide what is left: a label per
sample says how many samples there are. What neither decides is refused with a sentence that says what to write.

A tensor holds a row per sample along its first axis. A list of images, as detection networks take it, holds a sample per entry.
"""

from __future__ import annotations

import copy
import inspect
import re
import warnings
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_origin

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from probes.errors import DataError, IgnoredWarning, ReportedError, UsageError

__all__ = ["Inputs", "Item", "Reader", "as_inputs", "explained", "integers", "rows_of", "take_rows"]

_FORMS = "x, (x, labels), (x, labels, ids) or a dict"
_LABELS = ("labels", "label", "targets", "target", "y")
_IDS = ("ids", "id", "index", "idx")
_COLOURS = (1, 3, 4)


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a network is called with: `forward(*args, **kwargs)`.

    Attributes
    ----------
    args, kwargs : tuple, dict
        Positional and keyword arguments.
    rows : int
        Samples.
    listed : bool
        Whether an argument is a list with an entry per sample.
    guess : str
        What is assumed of the network, where its signature does not say it; for the message, should it fail.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    rows: int = 0
    listed: bool = False
    guess: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample of the first tensor; while it stays the same, so do the shapes inside the network."""
        first = next(tensors_in((self.args, self.kwargs)), None)
        return () if first is None else tuple(first.shape if self.listed else first.shape[1:])

    def to(self, device: torch.device, *, channels_last: bool = False) -> Inputs:
        """The same on a device; images in channels-last memory, if wanted."""

        def moved(value: Any) -> Any:
            if isinstance(value, Tensor):
                layout = torch.channels_last if channels_last and value.ndim == 4 else torch.preserve_format
                return value.to(device, non_blocking=True, memory_format=layout)
            return value.to(device) if isinstance(value, PackedSequence) else _rebuilt(value, moved)

        return replace(
            self, args=tuple(map(moved, self.args)), kwargs={key: moved(value) for key, value in self.kwargs.items()}
        )

    def take(self, k: int) -> Inputs:
        """The first k samples."""
        if k >= self.rows:
            return self
        args, kwargs = _cut((self.args, dict(self.kwargs)), k, self.rows, listed=self.listed)
        return replace(self, args=args, kwargs=kwargs, rows=k)

    def call(self, forward: Callable[..., Any]) -> Any:
        """Run a network on them."""
        return forward(*self.args, **self.kwargs)


@dataclass(frozen=True, eq=False)
class Item:
    """One item of a loader, read.

    Attributes
    ----------
    inputs : Inputs
        What the network is called with.
    labels, ids : (n,) int64 array or None
        Class and number of each sample, where the loader gives them.
    """

    inputs: Inputs
    labels: Int64[np.ndarray, " n"] | None
    ids: Int64[np.ndarray, " n"] | None


@dataclass(frozen=True)
class _Signature:
    """What a network's forward can be called with."""

    title: str
    positional: tuple[str, ...]
    required: int  # positional arguments without a default
    names: frozenset[str]
    needed: frozenset[str]  # names without a default
    any_positional: bool
    any_name: bool
    annotation: str  # of the first argument

    @classmethod
    def of(cls, forward: Callable[..., Any]) -> _Signature:
        title = type(forward).__name__ if isinstance(forward, nn.Module) else getattr(forward, "__name__", "the given forward")
        called = forward.forward if isinstance(forward, nn.Module) else forward
        try:
            parameters = list(inspect.signature(called).parameters.values())
        except (TypeError, ValueError):  # compiled code without a signature: anything may fit
            return cls(title, (), 0, frozenset(), frozenset(), any_positional=True, any_name=True, annotation="")
        kinds = inspect.Parameter
        positional = [one for one in parameters if one.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
        named = [one for one in parameters if one.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)]
        return cls(
            title,
            tuple(one.name for one in positional),
            sum(one.default is kinds.empty for one in positional),
            frozenset(one.name for one in named),
            frozenset(one.name for one in named if one.default is kinds.empty),
            any_positional=any(one.kind == kinds.VAR_POSITIONAL for one in parameters),
            any_name=any(one.kind == kinds.VAR_KEYWORD for one in parameters),
            annotation=_annotation(positional[0]) if positional else "",
        )

    @property
    def most(self) -> float:
        """Most positional arguments."""
        return float("inf") if self.any_positional else len(self.positional)

    @property
    def arguments(self) -> str:
        return f"{self.title}.forward({', '.join(self.positional or sorted(self.names))})"


def _annotation(parameter: inspect.Parameter) -> str:
    """`"list"`, `"tuple"`, ...: what an argument is annotated as, whether that stands there as an object or as text."""
    kind = parameter.annotation
    text = kind if isinstance(kind, str) else str(kind) if get_origin(kind) else getattr(kind, "__name__", "")
    return re.split(r"\W", text.removeprefix("typing."), maxsplit=1)[0].lower()


class Reader:
    """Reads the items that a loader gives to one network: the first one says what the others must be like.

    Parameters
    ----------
    forward : torch.nn.Module or callable
        The network, or what is run in its place.
    labels : bool, default True
        Whether labels are read; without, they may be anything.

    Examples
    --------
    >>> item = Reader(nn.Linear(3, 4)).read((torch.zeros(2, 3), torch.tensor([[5], [7]])))
    >>> item.inputs.rows, item.labels.tolist(), item.ids
    (2, [5, 7], None)
    >>> pair = (torch.zeros(2, 3), torch.ones(2, 3))
    >>> Reader(nn.Bilinear(3, 3, 1)).read((pair, [0, 1])).inputs.call(nn.Bilinear(3, 3, 1)).shape
    torch.Size([2, 1])
    """

    def __init__(self, forward: Callable[..., Any], *, labels: bool = True) -> None:
        self._signature = _Signature.of(forward)
        self._wants_labels = labels
        self._first: Item | None = None
        self._rows = 0
        self._warned: set[str] = set()

    def read(self, value: Any) -> Item:
        """Inputs, labels and ids of an item.

        Raises
        ------
        UsageError
            If the network can't be called with what comes.
        DataError
            If labels or ids are not one integer per sample, or come and go.
        """
        inputs, labels, ids, name = self._apart(value)
        count = _count(labels)
        inputs = inputs if isinstance(inputs, Inputs) else self._called(_tensors(inputs), count)
        item = Item(
            inputs,
            self._classes(labels, inputs) if self._wants_labels else None,
            self._numbers(ids, name, inputs.rows),
        )
        if inputs.rows:
            self._same(item)
        return item

    def _same(self, item: Item) -> None:
        """Raise where labels or ids come and go."""
        first = self._first = self._first or item
        for what, before, now in (("labels", first.labels, item.labels), ("ids", first.ids, item.ids)):
            if (before is None) != (now is None):
                state = "stop" if now is None else "begin"
                raise DataError(f"The loader's {what} {state} at sample {self._rows}; give them with every item, or with none.")
        self._rows += item.inputs.rows

    def _warn(self, sentence: str) -> None:
        if sentence not in self._warned:
            self._warned.add(sentence)
            warnings.warn(sentence, IgnoredWarning, stacklevel=2)

    def _apart(self, value: Any) -> tuple[Any, Any, Any, str]:
        """Inputs, labels, ids, and what the ids are called."""
        if isinstance(value, Mapping):
            return self._mapping(value)
        if isinstance(value, PackedSequence) or not isinstance(value, list | tuple):
            return value, None, None, ""
        if hasattr(value, "_asdict") and self._fits(named := self._rest(value._asdict())):
            return self._mapping(value._asdict()) if named else (None, None, None, "")
        if len(value) > 1 and _are_images(value):
            raise UsageError(
                "The loader's items are lists of images, and the second could be taken for labels; write (images, None), or "
                "(images, targets)."
            )
        if len(value) > 3:
            self._warn(f"The loader's items have {len(value)} elements; those after (x, labels, ids) are not read.")
        inputs, labels, ids = [*value, None, None, None][:3]
        return inputs, labels, ids, "third element"

    def _rest(self, items: Mapping[str, Any]) -> dict[str, Any]:
        """The entries that are inputs: all but labels and ids that forward does not ask for.

        Many networks take `labels` to compute a loss, which is not wanted here.
        """
        ask = self._signature
        label = next((key for key in _LABELS if key in items), "")
        number = next((key for key in _IDS if key in items), "")
        drop = {label} if label not in (ask.needed if label in ("labels", "label") else ask.names) else set()
        drop |= {number} if number not in ask.names else set()
        return {key: one for key, one in items.items() if key not in drop}

    def _fits(self, items: Mapping[str, Any]) -> bool:
        """Whether forward takes these entries by name; some may be too many, but one at least is an input."""
        ask = self._signature
        return ask.needed <= set(items) and (bool(ask.names & set(items)) or (ask.any_name and not ask.positional))

    def _mapping(self, items: Mapping[str, Any], count: int | None = None) -> tuple[Inputs, Any, Any, str]:
        """Keyword arguments, or the whole mapping as one argument: whichever the signature takes."""
        ask, rest = self._signature, self._rest(items)
        label = next((key for key in _LABELS if key in items), "")
        number = next((key for key in _IDS if key in items and key not in rest), "")
        labels = items.get(label)
        if label in rest and ((values := _array(labels)) is None or values.ndim != 1 or values.dtype.kind not in "iub"):
            labels = None  # an input that happens to be called y
        count = _count(labels) if count is None else count
        rest = _tensors(rest)
        if not any(True for _ in tensors_in(rest)):
            raise UsageError(f"The loader's dicts hold no tensor ({', '.join(map(str, items))}); {ask.arguments} needs one.")
        if self._fits(rest):
            known = {name: one for name, one in rest.items() if ask.any_name or name in ask.names}
            if extra := [str(name) for name in rest if name not in known]:
                self._warn(f"{ask.arguments} does not take {', '.join(extra)} of the loader's dicts: not read.")
            return Inputs((), known, _rows(known, count)), labels, items.get(number), number
        keys = ", ".join(map(str, rest))
        if ask.required <= 1 <= ask.most and ask.needed <= set(ask.positional):
            guess = (
                f"The loader's dicts hold {keys}, none of which is an argument of {ask.arguments}, so it was given the whole "
                f"dict; name the keys like the arguments, yield (x, labels), or give forward=."
            )
            return Inputs((_tensors(items),), rows=_rows(rest, count), guess=guess), labels, items.get(number), number
        missing = ", ".join(sorted(ask.needed - set(rest)))
        raise UsageError(
            f"{ask.arguments} needs {missing}, and the loader's dicts hold {keys}; name the keys like the arguments."
        )

    def _called(self, value: Any, count: int | None) -> Inputs:
        """The first element of an item as the network's arguments."""
        ask = self._signature
        if isinstance(value, Mapping):
            return self._mapping(value, count)[0]
        if isinstance(value, list | tuple) and not isinstance(value, PackedSequence):
            return self._sequence(value, count)
        rows = rows_of(value)
        if rows is None:
            kind = type(value).__name__
            advice = " A transform such as ToTensor makes tensors of images." if hasattr(value, "getpixel") else ""
            raise UsageError(f"The loader's x is a {kind} and holds no tensor; it should yield {_FORMS}.{advice}")
        if ask.required > 1:
            names = ", ".join(ask.positional[: ask.required])
            raise UsageError(
                f"{ask.arguments} needs {ask.required} inputs, and the loader gives one: write (({names}), labels), or a dict "
                f"with the keys {names}."
            )
        return Inputs((value,), rows=rows)

    def _sequence(self, parts: Sequence[Any], count: int | None) -> Inputs:
        """Several arguments `(x1, x2)`, or one that is a list.

        Where the signature leaves both open, the number of labels says whether the list holds samples or inputs.
        """
        ask, m = self._signature, len(parts)
        if not any(True for _ in tensors_in(parts)):
            raise UsageError(f"The loader's x holds no tensor; it should yield {_FORMS}.")
        tensors = all(isinstance(one, Tensor) for one in parts)
        lengths = {_length(one) for one in parts if isinstance(one, Tensor | PackedSequence)}
        per_row, per_entry = lengths == {count}, tensors and count == m
        samples = per_entry and not per_row
        if count is None:
            samples = tensors and (len(lengths) > 1 or (ask.annotation == "list" and m > 1))
        images = tensors and _are_images(parts) and (count is None or per_entry)
        fits, takes_one = ask.required <= m <= ask.most, ask.required <= 1 <= ask.most
        if ask.annotation in ("list", "tuple", "sequence") or (ask.most == 1 < m) or (takes_one and not fits and images):
            listed = samples or (images and ask.annotation != "tuple")
            return Inputs((parts,), rows=m if listed else _rows(parts, count), listed=listed)
        if samples and takes_one:
            return Inputs((parts,), rows=m, listed=True)
        if not fits:
            raise UsageError(f"{ask.arguments} does not take the {m} inputs that the loader gives.")
        if images and m > 1 and takes_one and not ask.any_positional:
            raise UsageError(
                f"The loader's x is a list of {m} tensors of three axes: {m} inputs of {ask.arguments}, or a list of {m} images? "
                f"Write a dict with the keys {', '.join(ask.positional[:m])}, or {{{ask.positional[0]!r}: [...]}}."
            )
        return Inputs(tuple(parts), rows=_rows(parts, count))

    def _classes(self, labels: Any, inputs: Inputs) -> NDArray[np.int64] | None:
        """One class per sample, or None with a warning where the targets are no classes."""
        if labels is None:
            return None
        rows, values = inputs.rows, _array(labels)
        same = values is not None and any(tuple(one.shape) == values.shape for one in tensors_in((inputs.args, inputs.kwargs)))
        if values is None or values.ndim > 2 or (values.ndim == 2 and same and values.shape[1] > 1):
            self._warn(
                f"The loader's targets ({_described(labels)}) are no classes of samples: recorded without labels. Give one integer per "
                f"sample, or None."
            )
            return None
        if values.ndim == 0 and rows == 1:
            values = values.reshape(1)
        if values.ndim == 0:
            raise DataError(
                f"The loader gives a single label for {rows} rows of x: samples without a batch axis? Use batch_size=1 or more."
            )
        if values.dtype.kind in "iub" and values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        if values.ndim == 2 and values.shape[1] > 1:
            raise DataError(
                f"The loader's labels have shape {values.shape} and type {values.dtype}; one integer per sample is needed: give "
                f"labels.argmax(1) if they are one-hot or soft, and None in their place if they are no classes."
            )
        result = integers(values, "labels")
        if len(result) != rows:
            parts = list(tensors_in((inputs.args, inputs.kwargs)))
            first = any(one.ndim > 1 and one.shape[1] == len(result) for one in parts)
            advice = " Samples must be the first axis: transpose x, and give forward= to turn it back." if first else ""
            raise DataError(f"The loader gives {len(result)} labels for {rows} rows of x.{advice}")
        if (negative := result[result < 0]).size:
            raise DataError(
                f"The loader gives the label {negative[0]}; classes are 0, 1, ...: leave out samples without a class, or give None "
                f"for all labels, and number the classes -1 and 1 as 0 and 1."
            )
        return result

    def _numbers(self, ids: Any, name: str, rows: int) -> NDArray[np.int64] | None:
        """One id per sample; None, with a warning, where a third element is something else."""
        if ids is None:
            return None
        values = _array(ids)
        if values is not None and values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        if values is not None and values.ndim == 0 and rows == 1:
            values = values.reshape(1)
        if values is None or values.ndim != 1 or values.dtype.kind not in "iu" or len(values) != rows:
            if name == "ids":
                raise DataError(f"The loader's ids are {_described(ids)}; one integer per sample is needed.")
            self._warn(
                f"The loader's {name} ({_described(ids)}) is not one integer per sample, so it is not taken for ids: samples are "
                f"numbered in the order in which they come."
            )
            return None
        result = values.astype(np.int64)
        different, counts = np.unique(result, return_counts=True)
        if len(different) < rows:
            raise DataError(
                f"Sample id {different[counts > 1][0]} stands twice in one batch; ids must be unique. If the loader's {name} is "
                f"something else, leave it out."
            )
        return result


def as_inputs(forward: Callable[..., Any], value: Any) -> Inputs:
    """Inputs as they stand in a loader's item, without labels: a tensor, several, or a mapping.

    Examples
    --------
    >>> as_inputs(nn.Bilinear(3, 3, 1), (torch.zeros(2, 3), torch.zeros(2, 3))).rows
    2
    """
    return Reader(forward).read((value,) if not isinstance(value, Mapping) else value).inputs


def explained(error: Exception, inputs: Inputs, model: nn.Module) -> UsageError | None:
    """The sentence that an error of the network's own stands for, where the inputs' types or a guess are its cause."""
    if isinstance(error, ReportedError):
        return None
    own = next((one.dtype for one in model.parameters() if one.is_floating_point()), None)
    types = {one.dtype for one in tensors_in((inputs.args, inputs.kwargs))}
    mismatched = [one for one in types if one != own and (one.is_floating_point or len(types) == 1)]
    reason = str(error).strip().partition("\n")[0]
    if isinstance(error, RuntimeError) and own is not None and mismatched and re.search(r"type|[Ll]ong|[Bb]yte", reason):
        given, needed = (str(one).removeprefix("torch.") for one in (mismatched[0], own))
        advice = f"x.to(torch.{needed})" + ("" if mismatched[0].is_floating_point else ", scaled as in training,")
        return UsageError(
            f"The loader's inputs are {given} and the weights of {type(model).__name__} are {needed} ({reason}): yield {advice} "
            f"or another type that the network takes."
        )
    if isinstance(error, RuntimeError) and "indices" in reason and own in types:
        return UsageError(f"{type(model).__name__} takes integers, such as token ids, and the loader gives {own} ({reason}).")
    return UsageError(f"{inputs.guess} It failed: {type(error).__name__}: {reason}") if inputs.guess else None


def integers(values: Any, what: str) -> Int64[np.ndarray, " n"]:
    """One integer per sample, as an array; `what` is for the message."""
    array = _array(values)
    if array is None or array.ndim != 1 or array.dtype.kind not in "iub":
        shape = f"have shape {array.shape} and type {array.dtype}" if array is not None else f"are {_described(values)}"
        number = (
            f": give {what}.long() if they are classes, and None if not"
            if array is not None and array.dtype.kind == "f"
            else ""
        )
        number = ": number the classes 0, 1, ..." if array is not None and array.dtype.kind in "US" else number
        raise DataError(f"The loader's {what} {shape}; one integer per sample is needed{number}.")
    return array.astype(np.int64)


def rows_of(inputs: Any) -> int | None:
    """Number of samples in the inputs, however they are nested; None where they hold no tensor with a first axis.

    Examples
    --------
    >>> rows_of({"ids": torch.zeros(4, 7), "scale": torch.tensor(1.0)})
    4
    >>> rows_of([torch.zeros(3, 20, 30), torch.zeros(3, 25, 25)])
    2
    """
    if isinstance(inputs, Tensor | PackedSequence):
        return _length(inputs)
    if isinstance(inputs, list | tuple) and _are_images(inputs):
        return len(inputs)
    return next((rows for part in _entries(inputs) if (rows := rows_of(part)) is not None), None)


def take_rows(inputs: Any, k: int, *, rows: int | None = None) -> Any:
    """The first k samples of inputs, however they are nested.

    Parameters
    ----------
    inputs : Inputs, tensor, list, tuple, mapping
        As a network takes them.
    k : int
        How many samples; all of them where there are fewer.
    rows : int, optional
        How many there are, by default what `rows_of` says. A tensor of another length is shared by all samples, and stays.

    Returns
    -------
    object
        Of the same kind and nesting; tensors are views.

    Examples
    --------
    >>> cut = take_rows({"x": torch.zeros(4, 7), "pair": (torch.zeros(4), torch.zeros(1, 5))}, 2)
    >>> cut["x"].shape[0], cut["pair"][0].shape[0], cut["pair"][1].shape[0]
    (2, 2, 1)
    """
    if isinstance(inputs, Inputs):
        return inputs.take(k)
    rows = rows_of(inputs) if rows is None else rows
    listed = isinstance(inputs, list | tuple) and _are_images(inputs)
    return inputs if rows is None or k >= rows else _cut(inputs, k, rows, listed=listed)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor with an axis, however nested."""
    if isinstance(value, Tensor):
        if value.ndim:
            yield value
    elif isinstance(value, PackedSequence):
        yield value.data
    else:
        for part in _entries(value):
            yield from tensors_in(part)


def _cut(value: Any, k: int, rows: int, *, listed: bool) -> Any:
    if isinstance(value, Tensor):
        return value[:k] if value.ndim and len(value) == rows and not listed else value
    if isinstance(value, PackedSequence):
        padded, lengths = pad_packed_sequence(value, batch_first=True)
        return pack_padded_sequence(padded[:k], lengths[:k], batch_first=True, enforce_sorted=False)
    if isinstance(value, list | tuple) and len(value) == rows:
        if (
            all(isinstance(one, Tensor) for one in value)
            if listed
            else all(isinstance(one, str | int | float) for one in value)
        ):
            return value[:k]
    return _rebuilt(value, lambda one: _cut(one, k, rows, listed=listed))


def _entries(value: Any) -> Iterator[Any]:
    """What a mapping, a list or a tuple holds."""
    return iter(value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ())


def _rebuilt(value: Any, change: Callable[[Any], Any]) -> Any:
    """A mapping, list or tuple of the same kind with its entries changed; anything else as it is."""
    if isinstance(value, UserDict):
        result = copy.copy(value)  # keeps the class, and with it access by attribute
        result.update({key: change(one) for key, one in value.items()})
        return result
    if isinstance(value, Mapping):
        changed = {key: change(one) for key, one in value.items()}
        try:
            return type(value)(changed)  # type: ignore[call-arg]  # most mappings are made of one
        except TypeError:
            return changed
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(change, value))
    return type(value)(map(change, value)) if isinstance(value, list | tuple) else value


def _tensors(value: Any) -> Any:
    """Numpy arrays of numbers turned into tensors, however nested."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, Tensor | PackedSequence) or not any(_holds_arrays(one) for one in _entries(value)):
        return value
    return _rebuilt(value, _tensors)


def _holds_arrays(value: Any) -> bool:
    return isinstance(value, np.ndarray) or (not isinstance(value, PackedSequence) and any(map(_holds_arrays, _entries(value))))


def _length(value: Tensor | PackedSequence) -> int | None:
    """Samples of a tensor: its first axis."""
    if isinstance(value, PackedSequence):
        return int(value.batch_sizes[0])
    return len(value) if value.ndim else None


def _rows(value: Any, count: int | None) -> int:
    """Samples of several inputs: as many as labels, if some tensor has so many rows, or those of the first."""
    if count is not None and any(_length(one) == count for one in tensors_in(value)):
        return count
    return rows_of(value) or 0


def _are_images(parts: Sequence[Any]) -> bool:
    """Whether all are images (C, H, W), of one, three or four colours."""
    return bool(parts) and all(
        isinstance(one, Tensor) and one.ndim == 3 and one.shape[0] in _COLOURS and one.is_floating_point() for one in parts
    )


def _count(labels: Any) -> int | None:
    """How many samples labels are for, as far as they say it."""
    if isinstance(labels, Tensor | np.ndarray):
        return len(labels) if labels.ndim else None
    return len(labels) if isinstance(labels, list | tuple) else None


def _array(values: Any) -> NDArray[Any] | None:
    """Numbers or texts as an array; None where they are nested otherwise."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return values.float().numpy() if values.dtype == torch.bfloat16 else values.numpy()
    if isinstance(values, list | tuple) and any(isinstance(one, Tensor | np.ndarray) and one.ndim for one in values):
        return None
    if isinstance(values, list | tuple) and any(isinstance(one, Mapping | list | tuple) or one is None for one in values):
        return None
    try:
        array = np.asarray(
            [one.item() if isinstance(one, Tensor) else one for one in values] if isinstance(values, list | tuple) else values
        )
    except (TypeError, ValueError):
        return None
    return None if array.dtype == object else array


def _described(value: Any) -> str:
    """`"a tuple of str"`, `"float32 (8, 3)"`."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    inner = f" of {type(value[0]).__name__}" if isinstance(value, list | tuple) and value else ""
    return f"a {type(value).__name__}{inner}"
