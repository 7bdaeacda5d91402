"""Ids in any container, integers or texts; keys used by published numbers; no repeated ids."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xxhash

from probes import DataError
from probes.ids import SeenIds, as_ids, duplicate, id_keys, refuse_duplicates


@pytest.mark.parametrize(
    "values",
    [[3, -1, 2**63 - 1], (np.int8(3), -1, 2**63 - 1), np.array([3, -1, 2**63 - 1]), pd.Index([3, -1, 2**63 - 1]),
     pd.Series([3, -1, 2**63 - 1]), np.array([3, -1, 2**63 - 1], object)],
)  # fmt: skip
def test_integers_of_any_container(values: Any) -> None:
    ids = as_ids(values)
    assert ids.dtype == np.int64
    assert ids.tolist() == [3, -1, 2**63 - 1]


@pytest.mark.parametrize(
    "values",
    [["a/é.png", "b"], np.array(["a/é.png", "b"]), np.array(["a/é.png", "b"], object), pd.Index(["a/é.png", "b"]),
     pd.Series(["a/é.png", "b"]).astype("string"), pd.Categorical(["a/é.png", "b"]), ["a/é.png".encode(), b"b"],
     np.array(["a/é.png".encode(), b"b"]), [PurePosixPath("a/é.png"), "b"]],
)  # fmt: skip
def test_texts_of_any_container(values: Any) -> None:
    ids = as_ids(values)
    assert ids.dtype.kind == "U"
    assert ids.tolist() == ["a/é.png", "b"]


@pytest.mark.parametrize("kind", ["i1", "u1", "i4", "u4", "u8", "i8"])
def test_every_integer_type(kind: str) -> None:
    assert as_ids(np.array([7, 1], kind)).dtype == np.int64
    assert as_ids(np.array([7, 1], kind)).tolist() == [7, 1]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            np.array([1, 2**63], np.uint64),
            "hold 9223372036854775808, which 64 bits with a sign do not hold; give such numbers as",
        ),
        ([2**70], "hold 1180591620717411303424"),
        ([1, "1"], r"hold 1 \(int\); one integer or one text per sample is needed, all integers or all texts"),
        ("abc", "are the text 'abc'"),
        ([1.0, 2.0], r"hold 1.0 \(float\)"),
        (np.array([1.0, 2.0]), "have type float64"),
        ([True, False], r"hold True \(bool\)"),
        (np.array([True]), "have type bool"),
        (["a", None], r"hold None \(NoneType\)"),
        ([[1], [2]], r"hold \[1\] \(list\)"),
        (np.zeros((2, 1), int), r"have shape \(2, 1\)"),
        (np.array(["2020-01-01"], "M8[D]"), "have type datetime64"),
        (["a\0b"], "hold the character NUL"),
        (["a\0"], "hold the character NUL"),
    ],
)
def test_invalid_ids_are_refused(values: Any, sentence: str) -> None:
    with pytest.raises(DataError, match=f"^The sample ids {sentence}"):
        as_ids(values)


def test_file_names_that_are_not_utf8_are_escaped_and_stay_distinct() -> None:
    """The operating system gives such names with lone surrogates, which UTF-8, and so a file, can not hold."""
    ids = as_ids(["\udcff.png", "\udcfe.png", "é.png", b"\xff.jpg"])
    assert ids.tolist() == [r"\udcff.png", r"\udcfe.png", "é.png", r"\udcff.jpg"]


def test_keys_are_the_integers_themselves_and_hashes_of_texts() -> None:
    """Published numbers depend on both."""
    assert id_keys(np.array([5, -3, 2**63 - 1])).tolist() == [5, -3, 2**63 - 1]
    texts = ["cat/1.png", "é", "", "x" * 300]
    expected = [xxhash.xxh3_64(text.encode("utf-8")).intdigest() for text in texts]
    assert id_keys(np.array(texts)).view(np.uint64).tolist() == expected
    assert id_keys(np.array(texts)[[1]]).view(np.uint64)[0] == expected[1], "the width of the array does not matter"
    keys = id_keys(np.array([str(i) for i in range(100_000)]))
    assert len(set(keys.tolist())) == 100_000


def test_the_first_repeated_id_is_named() -> None:
    assert duplicate(np.array([4, 7, 9])) is None
    assert duplicate(np.array([9, 4, 7, 4, 9])) == 4
    assert duplicate(np.array(["b", "a", "b", "a"])) == "b"
    with pytest.raises(DataError, match="Sample id 'b' stands twice in the set; ids must be unique. Look."):
        refuse_duplicates(np.array(["b", "a", "b"]), "the set", " Look.")


@pytest.mark.parametrize("texts", [False, True])
def test_ids_are_located_in_any_order(texts: bool) -> None:
    rng, seen_ids = np.random.default_rng(0), SeenIds()
    order: Any = rng.permutation(10_000)
    order = np.array([f"{i}.png" for i in order]) if texts else order
    for part in np.array_split(order[:9_000], 173):
        assert seen_ids.add(part) is None
    for i in rng.integers(0, 9_000, 50):
        assert seen_ids.add(order[[9_000, i]]) == order[i]
    assert seen_ids.add(order[9_000:]) is None
