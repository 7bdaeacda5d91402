"""Labels and ids in any container; other values are left out with a warning or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import probes
from probes import DataError, IgnoredWarning
from tests.probes.loading.test_reader import IMAGES, X, Y, captured


@pytest.mark.parametrize(
    "labels",
    [
        Y,
        Y.int(),
        Y.to(torch.uint8),
        Y[:, None],
        Y.numpy(),
        Y.numpy()[:, None].astype(np.uint16),
        Y.tolist(),
        tuple(Y.tolist()),
        list(Y),
        [np.int32(y) for y in Y],
    ],
)
def test_labels_are_read_from_any_container(labels: Any) -> None:
    batch = captured(nn.Sequential(nn.Linear(3, 4)), (X, labels), "0")
    assert batch.labels is not None
    assert (batch.labels.dtype, batch.labels.tolist()) == (np.int64, Y.tolist())


def test_booleans_are_0_and_1_and_a_single_label_may_be_a_number() -> None:
    model = nn.Sequential(nn.Linear(3, 4))
    batch = captured(model, (X, Y > 0), "0")
    assert batch.labels is not None
    assert batch.labels.tolist() == [1, 0, 1, 0]
    for label in (5, torch.tensor(5), np.int64(5), [5]):
        batch = captured(model, (X[:1], label), "0")
        assert batch.labels is not None
        assert batch.labels.tolist() == [5]


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (["cat", "dog", "cat", "cat"], r"are text, .* give class_names=sorted\(set\(labels\)\)"),
        (["cat", 1, "cat", "cat"], "are text"),
        (torch.tensor([0, 1, -7, 1]), "hold -7: classes are 0, 1"),
        (torch.tensor([[0, 1], [1, 0], [0, 0], [1, 1]]), "2 columns of integers that are not one-hot"),
        (torch.tensor([0.5, 1.0, torch.inf, 2.0]), "hold inf"),
        (torch.tensor([0, 1, 1]), "3 labels for 4 rows of x"),
        (1, "a single label for 4 rows of x: samples without a batch axis"),
    ],
)
def test_labels_that_are_neither_classes_nor_targets_are_refused(labels: Any, sentence: str) -> None:
    model = nn.Sequential(nn.Linear(3, 4))
    with pytest.raises(DataError, match=sentence):
        captured(model, (X, labels), "0")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (torch.tensor([0, 1, -1, -100]), [0, 1, -1, -1]),
        ([None, 1, 2, 3], [-1, 1, 2, 3]),
        (torch.eye(4, 5), [0, 1, 2, 3]),
        (nn.functional.one_hot(Y, 5), Y.tolist()),
        (nn.functional.one_hot(Y, 5).bool(), Y.tolist()),
    ],
)
def test_one_hot_rows_are_classes_and_samples_may_be_unlabelled(labels: Any, expected: list[int]) -> None:
    batch = captured(nn.Sequential(nn.Linear(3, 4)), (X, labels), "0")
    assert batch.labels is not None
    assert batch.labels.tolist() == expected
    assert batch.targets is None


@pytest.mark.parametrize("labels", [[0.5, 1.0, float("nan"), -3.0], torch.tensor([0.5, 1.0, torch.nan, -3.0])])
def test_floats_are_targets_and_stay_targets(labels: Any) -> None:
    integral = torch.tensor([1.0, 2.0, 3.0, 4.0])
    batches = list(probes.capture(nn.Sequential(nn.Linear(3, 4)), [(X, labels), (X, integral)]))
    assert [batch.labels for batch in batches] == [None, None]
    np.testing.assert_array_equal(batches[0].targets, [[0.5], [1.0], [np.nan], [-3.0]])
    np.testing.assert_array_equal(batches[1].targets, integral[:, None])


def test_several_columns_of_floats_are_several_targets() -> None:
    targets = torch.rand(4, 2, dtype=torch.float64)
    batch = captured(nn.Sequential(nn.Linear(3, 4)), (X, targets), "0")
    assert batch.labels is None
    np.testing.assert_array_equal(batch.targets, targets)


def test_integral_floats_are_classes_and_may_not_become_targets() -> None:
    integral = torch.tensor([1.0, 0.0, 1.0, 0.0])
    with pytest.warns(IgnoredWarning, match="are floats, all whole: they are taken for 2 classes"):
        assert captured(nn.Sequential(nn.Linear(3, 4)), (X, integral), "0").labels.tolist() == [1, 0, 1, 0]  # type: ignore[union-attr]
    loader = [(X, integral), (X, integral + 0.5)]
    with pytest.warns(IgnoredWarning), pytest.raises(DataError, match=r"taken for classes, and now are none.*--targets FILE"):
        list(probes.capture(nn.Sequential(nn.Linear(3, 4)), loader))


def test_texts_are_numbered_by_the_class_names() -> None:
    loader = [(X, ["dog", "cat", "dog", ""])]
    batch = next(probes.capture(nn.Sequential(nn.Linear(3, 4)), loader, class_names=["cow", "cat", "dog"]))
    assert batch.labels is not None
    assert batch.labels.tolist() == [2, 1, 2, -1]
    with pytest.raises(DataError, match="hold 'pig', which is none of the class names"):
        next(probes.capture(nn.Sequential(nn.Linear(3, 4)), [(X, ["pig"] * 4)], class_names=["cow"]))


@pytest.mark.parametrize("targets", [torch.zeros(4, 8, 8, dtype=torch.long), IMAGES, {"boxes": X}, X])
def test_other_targets_are_left_out_with_a_warning(targets: Any) -> None:
    x = X if targets is X else IMAGES
    model = nn.Sequential(nn.Linear(x.shape[-1], 2))
    with pytest.warns(IgnoredWarning, match="not classes of samples: recorded without labels") as caught:
        batches = list(probes.capture(model, [(x, targets), (x, targets)]))
    assert [batch.labels for batch in batches] == [None, None]
    assert len(caught) == 1, "one sentence for all batches"


def test_sequence_first_inputs_are_refused() -> None:
    with pytest.raises(DataError, match=r"4 labels for 7 rows of x. Samples must be the first axis"):
        captured(nn.Sequential(nn.Linear(3, 4)), (torch.zeros(7, 4, 3), Y), "0")


@pytest.mark.parametrize("third", [[["a.png"], ["b.png"], [], []], torch.zeros(4, 2, dtype=torch.long), {"site": Y}, X])
def test_a_third_element_that_is_not_an_id_is_ignored_with_a_warning(third: Any) -> None:
    with pytest.warns(
        IgnoredWarning, match="third element .* is not one integer or one text per sample, so it is not taken for ids"
    ) as caught:
        batches = list(probes.capture(nn.Sequential(nn.Linear(3, 4)), [(X, Y, third), (X, Y, third)]))
    assert np.concatenate([batch.ids for batch in batches]).tolist() == list(range(8))
    assert len(caught) == 1


@pytest.mark.parametrize("ids", [torch.tensor([7, 5, 2, 9]), [7, 5, 2, 9], np.array([[7], [5], [2], [9]], np.uint8)])
def test_a_third_element_of_distinct_integers_is_ids(ids: Any) -> None:
    assert captured(nn.Sequential(nn.Linear(3, 4)), (X, Y, ids), "0").ids.tolist() == [7, 5, 2, 9]


def test_repeated_integers_are_not_ids() -> None:
    model = nn.Sequential(nn.Linear(3, 4))
    with pytest.raises(DataError, match="id 1 stands twice in one batch.*is something else, leave it out"):
        captured(model, (X, Y, torch.tensor([0, 1, 1, 2])), "0")
    with pytest.raises(DataError, match="id 5 comes a second time in the batch from row 4 on"):
        list(probes.capture(model, [(X, Y, [7, 5, 2, 9]), (X, Y, [1, 3, 5, 4])]))


@pytest.mark.parametrize(
    "third", [("a.png", "b.png", "c.png", "d.png"), np.array(["a.png", "b.png", "c.png", "d.png"]),
              [Path("a.png"), Path("b.png"), Path("c.png"), Path("d.png")], [b"a.png", b"b.png", b"c.png", b"d.png"]],
)  # fmt: skip
def test_a_third_element_of_distinct_texts_is_ids(third: Any) -> None:
    assert captured(nn.Sequential(nn.Linear(3, 4)), (X, Y, third), "0").ids.tolist() == ["a.png", "b.png", "c.png", "d.png"]


def test_a_third_element_shared_by_samples_is_not_an_id() -> None:
    with pytest.warns(IgnoredWarning, match="third element .a list of str. is the same text for several samples, so it is not"):
        assert captured(nn.Sequential(nn.Linear(3, 4)), (X, Y, ["red", "blue", "red", "red"]), "0").ids.tolist() == [0, 1, 2, 3]
    with pytest.raises(DataError, match="Sample id 'a' comes a second time .* something else than ids, leave them out"):
        list(probes.capture(nn.Sequential(nn.Linear(3, 4)), [(X, Y, list("abcd")), (X, Y, list("efga"))]))


@pytest.mark.parametrize("key", ["ids", "__key__"])
@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ([0.5, 1.5, 2.5, 3.5], "hold 0.5"),
        (["a", "b", "c"], "are 3 for 4 rows of x"),
        (torch.zeros(4, 2, dtype=torch.long), r"have shape \(4, 2\)"),
        ([["a"], ["b"], ["c"], ["d"]], "are a list of list; one integer or one text"),
        (np.array([1, 2, 3, 2**64 - 1], np.uint64), "hold 18446744073709551615, which 64 bits with a sign do not hold"),
    ],
)
def test_invalid_values_under_keys_of_ids_are_refused(key: str, values: Any, sentence: str) -> None:
    with pytest.raises(DataError, match=f"The loader's {key} {sentence}"):
        captured(nn.Sequential(nn.Linear(3, 4)), {"input": X, key: values}, "0")
