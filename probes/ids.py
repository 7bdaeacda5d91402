"""Sample ids, integers or texts, and the 64-bit keys that determine random draws.

    key(id) = id                          of an integer
    key(id) = XXH3-64 of its UTF-8 bytes  of a text

All random draws for a sample (its half, its group, its noise) depend on its key. Samples are matched by ids. Two of a million
texts have equal keys with probability 3e-8; they have the same draws, and a run with both is refused, as for repeated ids.
"""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from pathlib import PurePath
from typing import Any

import numpy as np
import xxhash
from jaxtyping import Int64, Shaped
from numpy.typing import NDArray

from probes.errors import DataError

__all__ = ["IDS_FROM", "Ids", "SeenIds", "are_texts", "as_ids", "duplicate", "id_keys", "refuse_duplicates"]

Ids = Shaped[np.ndarray, " n"]  # int64, or text

IDS_FROM = {
    "name": "the names of their files",
    "key": "the keys that their data set gives them",
    "index": "their positions in the data set",
    "given": "ids that the loader or the caller gives",
    "arrival": "the order in which they came",
}
_LARGEST = 2**63 - 1


def as_ids(values: Iterable[Any], what: str = "The sample ids") -> NDArray[Any]:
    r"""Ids as an array of int64 or of text.

    Parameters
    ----------
    values : (n,) integers, or (n,) texts, bytes or paths
        Of any container: an array, a list, a pandas index. Bytes are read as UTF-8, paths are written with `/`. Bytes that
        are not UTF-8, as in some file names, become `\udcff`.
    what : str
        Name of the ids in messages.

    Returns
    -------
    (n,) int64 or text array

    Raises
    ------
    DataError
        If they are anything else, such as floats, integers beyond 64 bits with sign, or integers and texts together.

    Examples
    --------
    >>> as_ids([3, 1]), as_ids([b"cat/1.png", PurePath("dog/2.png")])
    (array([3, 1]), array(['cat/1.png', 'dog/2.png'], dtype='<U9'))
    """
    if isinstance(values, str | bytes):
        raise DataError(f"{what} are the text {values!r}; {_ONE}.")
    array = values if isinstance(values, np.ndarray) else _array(values)
    if array.ndim != 1:
        raise DataError(f"{what} have shape {array.shape}; {_ONE}.")
    if array.dtype.kind == "i":
        return array.astype(np.int64, copy=False)
    if array.dtype.kind not in "uUSOT":
        raise DataError(f"{what} have type {array.dtype}; {_ONE}.")
    if array.dtype.kind == "U":
        return _texts(array, array.tolist(), what)
    plain = array.tolist()
    if all(isinstance(value, Integral) and not isinstance(value, bool | np.bool_) for value in plain):
        if beyond := [value for value in plain if not -_LARGEST - 1 <= value <= _LARGEST]:
            raise DataError(f"{what} hold {beyond[0]}, which 64 bits with a sign do not hold; give such numbers as text.")
        return np.array(plain, np.int64)
    texts = [_text(value, what) for value in plain]
    return _texts(np.array(texts, np.str_), texts, what)


_ONE = "one integer or one text per sample is needed"


def _array(values: Iterable[Any]) -> NDArray[Any]:
    """A container as an array; a list as an array of objects, so that integers among texts stay integers."""
    if hasattr(values, "dtype") or hasattr(values, "__array__"):
        return np.asarray(values)
    entries = list(values)
    array = np.empty(len(entries), object)
    for row, value in enumerate(entries):
        array[row] = value
    return array


def _text(value: object, what: str) -> str:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, PurePath):
        return value.as_posix()
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    raise DataError(f"{what} hold {value!r} ({type(value).__name__}); {_ONE}, all integers or all texts.")


def _texts(array: NDArray[Any], texts: list[str], what: str) -> NDArray[Any]:
    """Texts that can be encoded as UTF-8."""
    whole = "".join(texts)
    if "\0" in whole:
        raise DataError(f"{what} hold the character NUL; {_ONE}, without it.")
    try:
        whole.encode()
    except UnicodeEncodeError:
        return np.array([text.encode("utf-8", "backslashreplace").decode() for text in texts], np.str_)
    return array


def are_texts(ids: Ids) -> bool:
    """Whether ids are texts."""
    return bool(ids.dtype.kind == "U")


def id_keys(ids: Ids) -> Int64[np.ndarray, " n"]:
    """The 64 bits by which each sample is drawn, as signed integers; integers are their own.

    Examples
    --------
    >>> id_keys(np.array([7, -1])).tolist(), id_keys(np.array(["cat/1.png"])).tolist()
    ([7, -1], [6971109639078617677])
    """
    if not are_texts(ids):
        return ids.astype(np.int64, copy=False)
    hashes = (xxhash.xxh3_64_intdigest(text.encode()) for text in ids.tolist())
    return np.fromiter(hashes, np.uint64, len(ids)).view(np.int64)


def refuse_duplicates(ids: Ids, where: str, more: str = "") -> None:
    """Raise `DataError` where an id stands twice; the first that does is named."""
    if (repeated := duplicate(ids)) is not None:
        raise DataError(f"Sample id {repeated!r} stands twice in {where}; ids must be unique.{more}")


def duplicate(ids: Ids) -> int | str | None:
    """The first id that stands a second time."""
    different = len(set(ids.tolist())) if are_texts(ids) else len(np.unique(ids))
    if different == len(ids):
        return None
    first = np.unique(ids, return_index=True)[1]
    again = np.ones(len(ids), bool)
    again[first] = False
    repeated: int | str = ids[again][:1].tolist()[0]
    return repeated


class SeenIds:
    """The ids of a run, their keys in sorted arrays of growing length: 8 bytes each.

    Examples
    --------
    >>> seen = SeenIds()
    >>> seen.add(np.array([3, 1])), seen.add(np.array([7, 3]))
    (None, 3)
    """

    def __init__(self) -> None:
        self._sorted: list[NDArray[np.int64]] = []

    def add(self, ids: Ids) -> int | str | None:
        """Take more ids in; one that has come before, if there is any."""
        new = id_keys(ids)
        for block in self._sorted:
            twice = block[np.minimum(np.searchsorted(block, new), len(block) - 1)] == new
            if twice.any():
                repeated: int | str = ids[twice].tolist()[0]
                return repeated
        new = np.sort(new)
        while self._sorted and len(self._sorted[-1]) <= len(new):
            new = np.sort(np.concatenate([self._sorted.pop(), new]))
        if len(new):
            self._sorted.append(new)
        return None
