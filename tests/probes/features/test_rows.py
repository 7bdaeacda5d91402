"""Numbers as features: every type in files is read exactly."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array

from probes.features.rows import ReadRows, SparseRows, as_floats, unfit


@pytest.mark.parametrize(
    "dtype", ["?", "i1", "u1", "<i2", ">u2", "<i4", ">i8", "u8", "<f2", ">f2", "<f4", ">f4", "f8", ">f8", "g"]
)
def test_values_are_the_same_as_floats(dtype: str) -> None:
    values = np.array([0, 1, 100], dtype=dtype)
    floats = as_floats(values)
    assert floats.dtype.kind == "f"
    assert floats.dtype.isnative
    assert floats.dtype.itemsize <= 8
    np.testing.assert_array_equal(floats, values.astype("f8"))
    assert floats.dtype.itemsize == 2 or dtype not in ("<f2", ">f2")
    assert unfit(values[:, None]) == ""


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4"])
def test_the_largest_integers_are_exact(dtype: str) -> None:
    info = np.iinfo(dtype)
    assert as_floats(np.array([info.min, info.max], dtype)).tolist() == [info.min, info.max]


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((2, 2), "c8"), "complex"), (np.array(["a"]), "text"), (np.array([None]), "Python objects"),
        (np.zeros(2, "M8[s]"), "datetime64"), (np.float64(1.0), "single number"), (np.zeros((3, 0)), "no features"),
    ],
)  # fmt: skip
def test_invalid_features_have_a_reason(array: np.ndarray, reason: str) -> None:
    assert reason in unfit(array)


def test_types_that_numpy_lacks_are_floats() -> None:
    assert unfit(ReadRows((2, 2), "bfloat16", lambda rows: np.zeros((2, 2))[rows])) == ""


def test_sparse_rows_are_dense_where_they_are_read() -> None:
    dense = np.random.default_rng(0).normal(size=(9, 5)) * (np.random.default_rng(1).random((9, 5)) < 0.3)
    sparse = csr_array(dense)
    rows = SparseRows((9, 5), sparse.data, sparse.indices, sparse.indptr)
    for part in (slice(0, 9), slice(2, 5), slice(8, 20), slice(4, 4), slice(9, 12)):
        np.testing.assert_array_equal(rows[part], dense[part])
