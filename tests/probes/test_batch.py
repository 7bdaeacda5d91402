"""Batch: consistent parts, and one-sentence errors."""

from __future__ import annotations

import numpy as np
import pytest

from probes import Batch, DataError, LayerInfo


def test_order_and_depth_default_to_the_order_of_the_layers() -> None:
    batch = Batch(ids=np.arange(2), layers={"a": np.zeros((2, 3)), "b": np.zeros((2, 4, 5, 6))})
    assert [info.order for info in batch.info.values()] == [0, 1]
    assert [info.depth for info in batch.info.values()] == [0.5, 1.0]
    assert batch.info["b"].dims == ("sample", "channel", "axis2", "axis3")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"ids": np.array([4, 4])}, "Sample id 4 stands twice in one batch"),
        ({"labels": np.arange(3)}, "labels has 3 rows for 2 sample ids"),
        ({"split": np.array(["a"])}, "split has 1 rows for 2 sample ids"),
        ({"layers": {"a": np.zeros((5, 3))}}, "layer 'a' has 5 rows for 2 sample ids"),
        (
            {"layers": {"a": np.zeros((2, 1)), "b": np.zeros((2, 1))}, "info": {"a": LayerInfo("a", 0, 1.0, ())}},
            "Layer 'b' comes without",
        ),
    ],
)
def test_mismatched_parts_are_refused(change: dict[str, object], sentence: str) -> None:
    arguments = {"ids": np.arange(2), "layers": {"a": np.zeros((2, 3))}} | change
    # The type check of the tests detects unequal lengths first; its message names shapes, that of Batch rows.
    with pytest.raises(Exception) as caught:  # noqa: PT011  (both are asserted below)
        Batch(**arguments)  # type: ignore[arg-type]
    assert sentence in str(caught.value) or not isinstance(caught.value, DataError)


def test_error_messages_without_the_type_check() -> None:
    batch = Batch(ids=np.arange(2), layers={"a": np.zeros((2, 3))})
    object.__setattr__(batch, "labels", np.arange(3))
    with pytest.raises(DataError, match="labels has 3 rows for 2 sample ids; every array needs one row per sample"):
        batch.__post_init__()


def test_ids_may_be_texts() -> None:
    batch = Batch(np.array(["a", "b"]), {"x": np.zeros((2, 3))})
    assert batch.ids.tolist() == ["a", "b"]
    assert batch.keys.dtype == np.int64
    assert Batch(np.array([3, 1], np.uint8), {"x": np.zeros((2, 3))}).keys.tolist() == [3, 1]
    with pytest.raises(DataError, match="Sample id 'a' stands twice in one batch"):
        Batch(np.array(["a", "a"]), {"x": np.zeros((2, 3))})
    with pytest.raises(DataError, match="The sample ids have type float64"):
        Batch(np.array([1.5, 2.5]), {"x": np.zeros((2, 3))})
