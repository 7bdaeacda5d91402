"""Labels in a separate file: read by column, matched by name or by order, ambiguous matches refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from probes import DataError, FormatError, UsageError
from repanalysis.inputs.data import load_data
from repanalysis.inputs.labels import Column, aligned, column_of, label_file, typed

IDS = np.array(["val/cat/0.png", "val/cat/1.png", "val/dog/2.png"])


def labels_of(content: str, name: str = "l.csv", ids: np.ndarray = IDS) -> list[int]:
    matched, _ = aligned(column_of(content.encode(), *(name.partition(":")[::2])), ids, "the data")
    assert matched.labels is not None
    return matched.labels.tolist()


@pytest.mark.parametrize(
    "content",
    [
        "id,label\nval/dog/2.png,2\nval/cat/0.png,0\nval/cat/1.png,1\n",
        "label,file_name\n0,cat/0.png\n1,cat/1.png\n2,dog/2.png\n9,dog/3.png\n",
        "FileName,Class\n/home/me/val/cat/0.png,0\n/home/me/val/cat/1.png,1\n/home/me/val/dog/2.png,2\n",
        "path,y,comment\nval\\cat\\0.png,0,\nval\\cat\\1.png,1,\nval\\dog\\2.png,2,\n",
        "name,target\n0.jpg,0\n1.jpg,1\n2.jpg,2\n",
        "image_id,label\n0,0\n1,1\n2,2\n",
        "\ufeffid,label\r\nval/dog/2.png,2\r\nval/cat/0.png,0\r\nval/cat/1.png,1\r\n",
        'id,label\n"val/dog/2.png","2"\n"val/cat/0.png",0\n"val/cat/1.png",1\n',
    ],
)
def test_names_are_matched_in_full_or_as_the_end_of_a_path(content: str) -> None:
    assert labels_of(content) == [0, 1, 2]
    assert labels_of(content.replace(",", "\t"), "l.tsv") == [0, 1, 2]


def test_integers_are_matched_as_ids() -> None:
    ids = np.array([7, 3, 5])
    assert labels_of("id,label\n3,1\n5,2\n7,0\n", ids=ids) == [0, 1, 2]
    with pytest.raises(DataError, match="begin at 1 and those of the data at 0"):
        labels_of("id,label\n1,1\n2,2\n3,0\n", ids=np.arange(3))


def test_samples_missing_from_the_file_are_unlabelled_and_reported() -> None:
    column = column_of(b"id,label\n1.png,dog\n", "l.csv")
    matched, explanation = aligned(column, IDS, "the data")
    assert matched.labels is not None
    assert (matched.labels.tolist(), matched.class_names) == ([-1, 0, -1], ["dog"])
    assert explanation == "l.csv, by id; 2 of 3 samples are not in it"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("id,label\n0.png,1\n0.png,2\n", "'0.png' stands twice in l.csv"),
        ("id,label\na/0.png,1\nb/0.png,2\n", "No id of l.csv is one of the data: it has 'a/0.png'"),
        ("id,label\nx,1\n", "No id of l.csv is one of the data"),
        ("id,age\n0.png,1\n", "l.csv has no column of labels; it has id, age. Name one: --labels l.csv:COLUMN"),
        ("id,label,y\n0.png,1,2\n", "l.csv has 'label' and 'y', and each may hold the labels"),
        ("id,label\n0.png\n", "l.csv is not a table"),
        ("", "l.csv is not a table"),
        ("label\n1\n2\n", "l.csv has 2 labels, and the data has 3 samples"),
    ],
)
def test_unmatched_labels_have_one_sentence_errors(content: str, sentence: str) -> None:
    with pytest.raises((DataError, UsageError, FormatError), match=sentence):
        labels_of(content)


def test_a_name_that_matches_two_samples_is_refused() -> None:
    with pytest.raises(DataError, match=r"'0.png' of l.csv may be several samples; give their whole names"):
        labels_of("id,label\n0.png,1\n", ids=np.array(["cat/0.png", "dog/0.png"]))
    with pytest.raises(DataError, match=r"Several rows of l.csv may be sample '0.png'"):
        labels_of("id,label\na/0.png,1\nb/0.png,1\n", ids=np.array(["0.png"]))


def test_matching_by_order_requires_equal_numbers(tmp_path: Path) -> None:
    assert labels_of("2\n0\n1\n", "l.txt") == [2, 0, 1]
    assert labels_of("b\na\nb\n", "l.csv") == [1, 0, 1]
    np.save(tmp_path / "l.npy", [2, 0, 1])
    matched, explanation = aligned(label_file(str(tmp_path / "l.npy")), IDS, "the data")
    assert matched.labels is not None
    assert matched.labels.tolist() == [2, 0, 1]
    assert explanation.endswith("l.npy, by order")
    for count in (2, 4):
        with pytest.raises(DataError, match=f"has {count} labels, and the data has 3 samples"):
            aligned(Column("l.npy", np.zeros(count, int)), IDS, "the data")


def test_columns_and_arrays_are_selected_by_name(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("id,age,height\n2.png,30,1.5\n0.png,20,\n1.png,25,1.7\n")
    matched, _ = aligned(label_file(f"{tmp_path / 'l.csv'}:age,height"), IDS, "the data", continuous=True)
    np.testing.assert_array_equal(matched.targets, [[20, np.nan], [25, 1.7], [30, 1.5]])
    assert matched.target_names == ("age", "height")
    with pytest.raises(UsageError, match=r"no column of labels 'aeg'; it has id, age, height. Did you mean 'age'"):
        label_file(f"{tmp_path / 'l.csv'}:aeg")
    np.savez(tmp_path / "l.npz", ids=[2, 0, 1], mine=[20, 0, 10], labels=[1, 1, 1])
    matched, _ = aligned(label_file(f"{tmp_path / 'l.npz'}:mine"), np.arange(3), "the data")
    assert matched.labels is not None
    assert matched.labels.tolist() == [0, 10, 20]
    (tmp_path / "l.jsonl").write_text('{"file_name": "1.png", "label": "b"}\n{"file_name": "0.png", "label": "a"}\n')
    matched, _ = aligned(label_file(str(tmp_path / "l.jsonl")), IDS, "the data")
    assert matched.labels is not None
    assert matched.labels.tolist() == [0, 1, -1]


def test_unreadable_label_files_have_one_sentence_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no file .*l.csv"):
        label_file(str(tmp_path / "l.csv"))
    for name, content, sentence in (
        ("l.npy", b"nothing", "can't be read as plain numpy arrays"),
        ("l.csv", b"\xff\xfe", "is not text in UTF-8"),
        ("l.jsonl", b"{", "has a line that is no JSON"),
        ("l.jsonl", b"[1]", "one JSON object a line"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FormatError, match=sentence):
            label_file(str(tmp_path / name))
    np.save(tmp_path / "o.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(FormatError, match="can't be read as plain numpy arrays"):
        label_file(str(tmp_path / "o.npy"))
    (tmp_path / "l.txt").write_text("1\n")
    with pytest.raises(UsageError, match="has no column 'x'"):
        label_file(f"{tmp_path / 'l.txt'}:x")


def test_texts_are_parsed_as_numbers_where_possible() -> None:
    assert typed(["1", " 2", "-100"]).tolist() == [1, 2, -100]
    assert typed(["1e3", "2.", "N/A"]).tolist() == [1000.0, 2.0, None]
    assert typed(["1", "two"]).tolist() == ["1", "two"]
    assert typed([1, None, "x"]).tolist() == [1, None, "x"]


def test_labels_of_a_file_replace_those_of_the_data(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.eye(3), y=[0, 1, 2], labels=[0, 0, 0])
    (tmp_path / "l.txt").write_text("7\n255\n8\n")
    data = load_data(f"npz:{tmp_path / 'x.npz'}", labels=str(tmp_path / "l.txt"), ignore_labels=[255])
    assert data.labels is not None
    assert data.labels.tolist() == [7, -1, 8]
    assert data.labels_from == f"{tmp_path / 'l.txt'}, by order"
    with pytest.raises(
        UsageError, match="has 'y' and 'labels', and each may hold the labels: leave one, or name it: --labels FILE:y"
    ):
        load_data(f"npz:{tmp_path / 'x.npz'}")
    both = load_data(f"npz:{tmp_path / 'x.npz'}", labels=f"{tmp_path / 'x.npz'}:y", targets=str(tmp_path / "l.txt"))
    assert both.labels is not None
    assert both.targets is not None
    assert (both.labels.tolist(), both.targets.tolist()) == ([0, 1, 2], [[7.0], [255.0], [8.0]])
    _x, column, _ = next(iter(both.loader(2)))
    assert (column.labels.tolist(), column.targets.tolist()) == ([0, 1], [[7.0], [255.0]])
    assert both.sample(2, seed=0).targets.shape == (2, 1)  # type: ignore[union-attr]
