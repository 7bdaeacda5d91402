"""Interprets an item of a loader for a network: arguments of the call, a class and an id per sample.

The network's signature determines the number and names of its inputs. Counts decide the rest: one label per sample gives the
number of samples. Items that neither decides are refused with a sentence that says what to write.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_origin

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from probes.errors import DataError, IgnoredWarning, UsageError
from probes.ids import Ids, are_texts
from probes.labels import Annotations
from probes.loading.inputs import Inputs, are_images, as_tensors, length_of, rows_among, rows_of, tensors_in
from probes.loading.targets import LABELS, annotations_of, are_integers, count_of, ids_of

__all__ = ["Item", "Reader", "as_inputs"]

_FORMS = "x, (x, labels), (x, labels, ids) or a dict"
_IDS = ("__key__", "ids", "id", "index", "idx")


@dataclass(frozen=True, eq=False)
class Item:
    """A parsed item of a loader.

    Attributes
    ----------
    inputs : Inputs
        Arguments of the network's call.
    labels : (n,) int64 array or None
        Class of each sample.
    ids : (n,) int64 or text array, or None
        Id of each sample.
    targets : (n, t) float64 array or None
        Continuous targets of each sample.
    target_names : tuple of str
        Names of the columns of targets; may be empty.
    """

    inputs: Inputs
    labels: Int64[np.ndarray, " n"] | None
    ids: Ids | None
    targets: Float64[np.ndarray, "n t"] | None = None
    target_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Signature:
    """The arguments that a network's forward accepts."""

    name: str
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
        except (TypeError, ValueError):  # compiled code without a signature: any arguments are possible
            return cls(title, (), 0, frozenset(), frozenset(), any_positional=True, any_name=True, annotation="")
        kinds = inspect.Parameter
        positional = [
            parameter for parameter in parameters if parameter.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
        ]
        named = [parameter for parameter in parameters if parameter.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)]
        return cls(
            title,
            tuple(parameter.name for parameter in positional),
            sum(parameter.default is kinds.empty for parameter in positional),
            frozenset(parameter.name for parameter in named),
            frozenset(parameter.name for parameter in named if parameter.default is kinds.empty),
            any_positional=any(parameter.kind == kinds.VAR_POSITIONAL for parameter in parameters),
            any_name=any(parameter.kind == kinds.VAR_KEYWORD for parameter in parameters),
            annotation=_annotation(positional[0]) if positional else "",
        )

    @property
    def most(self) -> float:
        """Maximal number of positional arguments."""
        return float("inf") if self.any_positional else len(self.positional)

    @property
    def arguments(self) -> str:
        return f"{self.name}.forward({', '.join(self.positional or sorted(self.names))})"


def _annotation(parameter: inspect.Parameter) -> str:
    """`"list"`, `"tuple"`, ...: the annotated type of an argument, given as an object or as text."""
    kind = parameter.annotation
    text = kind if isinstance(kind, str) else str(kind) if get_origin(kind) else getattr(kind, "__name__", "")
    return re.split(r"\W", text.removeprefix("typing."), maxsplit=1)[0].lower()


class Reader:
    """Parses the items of a loader for one network; all items must have the form of the first.

    Parameters
    ----------
    forward : torch.nn.Module or callable
        The network, or a function that is called in its place.
    labels : bool, default True
        Whether labels are read; if not, they are not checked.
    class_names : sequence of str, optional
        Name of class 0, 1, ..., if labels are text.

    Examples
    --------
    >>> import torch
    >>> item = Reader(nn.Linear(3, 4)).read((torch.zeros(2, 3), torch.tensor([[5], [7]])))
    >>> item.inputs.rows, item.labels.tolist(), item.ids
    (2, [5, 7], None)
    >>> pair = (torch.zeros(2, 3), torch.ones(2, 3))
    >>> Reader(nn.Bilinear(3, 3, 1)).read((pair, [0, 1])).inputs.call(nn.Bilinear(3, 3, 1)).shape
    torch.Size([2, 1])
    """

    def __init__(self, forward: Callable[..., Any], *, labels: bool = True, class_names: Sequence[str] | None = None) -> None:
        self._class_names = class_names
        self._annotations: Annotations | None = None
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
            If the network can't be called with the item.
        DataError
            If labels are not one integer per sample or ids not one integer or text, or if only some items have them.
        """
        inputs, labels, ids, name = self._split(value)
        count = count_of(labels)
        inputs = inputs if isinstance(inputs, Inputs) else self._called(as_tensors(inputs), count)
        annotations = self._annotated(labels, inputs) if self._wants_labels else Annotations()
        numbers = self._checked(ids_of, ids, inputs.rows, name)
        item = Item(inputs, annotations.labels, numbers, annotations.targets, annotations.target_names)
        if inputs.rows:
            self._same(item)
        return item

    def _same(self, item: Item) -> None:
        """Raise DataError if only some items have labels or ids."""
        first = self._first = self._first or item
        columns = (
            ("labels", first.labels, item.labels),
            ("targets", first.targets, item.targets),
            ("ids", first.ids, item.ids),
        )
        for what, before, now in columns:
            if (before is None) != (now is None):
                state = "stop" if now is None else "begin"
                raise DataError(f"The loader's {what} {state} at sample {self._rows}; give them with every item, or with none.")
        if first.ids is not None and item.ids is not None and are_texts(first.ids) != are_texts(item.ids):
            raise DataError(f"The loader's ids are integers and texts, by turns, at sample {self._rows}; give one kind.")
        self._rows += item.inputs.rows

    def _annotated(self, labels: Any, inputs: Inputs) -> Annotations:
        """Labels and targets; neither, with a warning, if the values are not of samples."""
        result = annotations_of(labels, inputs, self._class_names, before=self._annotations) if inputs.rows else None
        if isinstance(result, str):
            self._warn(result)
            return Annotations()
        if result is not None and self._annotations is None:
            self._annotations = result
            if result.note:
                self._warn(result.note)
        return result or Annotations()

    def _checked(self, read: Callable[..., NDArray[Any] | str | None], *what: Any) -> NDArray[Any] | None:
        """Ids; None, with a warning, if the values are not ids."""
        result = read(*what)
        if isinstance(result, str):
            self._warn(result)
            return None
        return result

    def _warn(self, sentence: str) -> None:
        if sentence not in self._warned:
            self._warned.add(sentence)
            warnings.warn(sentence, IgnoredWarning, stacklevel=2)

    def _split(self, value: Any) -> tuple[Any, Any, Any, str]:
        """Inputs, labels, ids, and the name of the ids."""
        if isinstance(value, Mapping):
            return self._mapping(value)
        if isinstance(value, PackedSequence) or not isinstance(value, list | tuple):
            return value, None, None, ""
        if hasattr(value, "_asdict") and self._fits(named := self._input_entries(value._asdict())):
            return self._mapping(value._asdict()) if named else (None, None, None, "")
        if len(value) > 1 and are_images(value):
            raise UsageError(
                "The loader's items are lists of images, and the second could be taken for labels; write (images, None), or "
                "(images, targets)."
            )
        if len(value) > 3:
            self._warn(f"The loader's items have {len(value)} elements; those after (x, labels, ids) are not read.")
        inputs, labels, ids = [*value, None, None, None][:3]
        wide = isinstance(labels, Tensor | np.ndarray) and labels.ndim > 1 and labels.shape[1:] != (1,)
        if wide and self._signature.most > 1 and are_integers(ids):
            raise UsageError(
                f"The loader's second element has shape {tuple(labels.shape)} and the third is one integer per sample: write "
                f"((x1, x2), labels) if the second is an input of {self._signature.arguments}, and (x, None, ids) if not."
            )
        return inputs, labels, ids, "third element"

    def _input_entries(self, items: Mapping[str, Any]) -> dict[str, Any]:
        """The entries that are inputs: all but labels, and ids that are not arguments of forward.

        Many networks take `labels` to compute a loss, which is not needed here.
        """
        ask = self._signature
        label = next((key for key in LABELS if key in items), "")
        number = next((key for key in _IDS if key in items), "")
        drop = {label} if label not in (ask.needed if label in ("labels", "label") else ask.names) else set()
        drop |= {number} if number not in ask.names else set()
        return {key: item for key, item in items.items() if key not in drop}

    def _fits(self, items: Mapping[str, Any]) -> bool:
        """Whether forward accepts these entries by name. Extra entries are allowed, but at least one must be an input."""
        ask = self._signature
        return ask.needed <= set(items) and (bool(ask.names & set(items)) or (ask.any_name and not ask.positional))

    def _mapping(self, items: Mapping[str, Any], count: int | None = None) -> tuple[Inputs, Any, Any, str]:
        """Keyword arguments, or the mapping as a single argument, depending on the signature."""
        ask, rest = self._signature, self._input_entries(items)
        label = next((key for key in LABELS if key in items), "")
        number = next((key for key in _IDS if key in items and key not in rest), "")
        labels = items.get(label)
        if label in rest and not are_integers(labels):
            labels = None  # an input named y
        count = count_of(labels) if count is None else count
        rest = as_tensors(rest)
        if not any(True for _ in tensors_in(rest)):
            raise UsageError(f"The loader's dicts hold no tensor ({', '.join(map(str, items))}); {ask.arguments} needs one.")
        if self._fits(rest):
            arguments = {name: item for name, item in rest.items() if ask.any_name or name in ask.names}
            if extra := [str(name) for name in rest if name not in arguments]:
                self._warn(f"{ask.arguments} does not take {', '.join(extra)} of the loader's dicts: not read.")
            if ask.any_name and (unnamed := [str(name) for name in arguments if name not in ask.names]):
                self._warn(
                    f"{ask.name}.forward names no argument {', '.join(unnamed)}; it takes any, and may not read what it does "
                    f"not know. Is that what it is called?"
                )
            listed = any(isinstance(item, list | tuple) and are_images(item) for item in arguments.values())
            return Inputs((), arguments, rows_among(arguments, count), listed=listed), labels, items.get(number), number
        keys = ", ".join(map(str, rest))
        if ask.required <= 1 <= ask.most and ask.needed <= set(ask.positional):
            guess = (
                f"The loader's dicts hold {keys}, none of which is an argument of {ask.arguments}, so it was given the whole "
                f"dict; name the keys like the arguments, yield (x, labels), or give forward=."
            )
            return Inputs((as_tensors(items),), rows=rows_among(rest, count), guess=guess), labels, items.get(number), number
        missing = ", ".join(sorted(ask.needed - set(rest)))
        raise UsageError(
            f"{ask.arguments} needs {missing}, and the loader's dicts hold {keys}; name the keys like the arguments."
        )

    def _called(self, value: Any, count: int | None) -> Inputs:
        """The arguments of the network's call from the first element of an item."""
        ask = self._signature
        if isinstance(value, Mapping):
            return self._mapping(value, count)[0]
        if isinstance(value, list | tuple) and not isinstance(value, PackedSequence):
            return self._sequence(value, count)
        rows = rows_of(value)
        if rows is None:
            kind = "a single number" if isinstance(value, Tensor) else f"of type {type(value).__name__}"
            raise UsageError(f"The loader's x is {kind} and holds no tensor; it should yield {_FORMS}.")
        if ask.required > 1:
            names = ", ".join(ask.positional[: ask.required])
            raise UsageError(
                f"{ask.arguments} needs {ask.required} inputs, and the loader gives one: write (({names}), labels), or a dict "
                f"with the keys {names}."
            )
        return Inputs((value,), rows=rows)

    def _sequence(self, parts: Sequence[Any], count: int | None) -> Inputs:
        """Several arguments `(x1, x2)`, or one that is a list.

        If the signature allows both, the number of labels decides whether the list contains samples or inputs.
        """
        ask, m = self._signature, len(parts)
        if not any(True for _ in tensors_in(parts)):
            raise UsageError(f"The loader's x holds no tensor; it should yield {_FORMS}.")
        tensors = all(isinstance(part, Tensor) for part in parts)
        lengths = {length_of(part) for part in parts if isinstance(part, Tensor | PackedSequence)}
        per_row, per_entry = lengths == {count}, tensors and count == m
        samples = per_entry and (not per_row or (self._first is not None and self._first.inputs.listed))
        if count is None:
            samples = tensors and (len(lengths) > 1 or (ask.annotation == "list" and m > 1))
        images = tensors and are_images(parts) and (count is None or per_entry)
        fits, takes_one = ask.required <= m <= ask.most, ask.required <= 1 <= ask.most
        if ask.annotation in ("list", "tuple", "sequence") or (ask.most == 1 < m) or (takes_one and not fits and images):
            listed = samples or (images and ask.annotation != "tuple")
            guess = (
                f"The loader's x is a list of {m}, and {ask.arguments} takes one argument, so it was given the whole list; "
                f"yield one tensor, or give forward=."
            )
            return Inputs((parts,), rows=m if listed else rows_among(parts, count), listed=listed, guess=guess)
        if samples and takes_one:
            return Inputs((parts,), rows=m, listed=True)
        if not fits:
            raise UsageError(f"{ask.arguments} does not take the {m} inputs that the loader gives.")
        if images and m > 1 and takes_one and not ask.any_positional:
            raise UsageError(
                f"The loader's x is a list of {m} tensors of three axes: {m} inputs of {ask.arguments}, or {m} images? Write a "
                f"dict with the keys {', '.join(ask.positional[:m])}, or {{{ask.positional[0]!r}: [...]}}."
            )
        return Inputs(tuple(parts), rows=rows_among(parts, count))


def as_inputs(forward: Callable[..., Any], value: Any) -> Inputs:
    """Inputs of a loader's item without labels: a tensor, several tensors, or a mapping.

    Examples
    --------
    >>> import torch
    >>> as_inputs(nn.Bilinear(3, 3, 1), (torch.zeros(2, 3), torch.zeros(2, 3))).rows
    2
    """
    return Reader(forward).read((value,) if not isinstance(value, Mapping) else value).inputs
