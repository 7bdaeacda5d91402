"""Tables as written by pandas, numpy and by hand: features, labels and ids by column, missing cells, invalid texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import probes
from repanalysis import analyze

X = np.random.default_rng(0).normal(size=(6, 3))


def text(path: Path, content: str) -> probes.Source:
    path.write_text(content, encoding="utf-8")
    return probes.open(path)


def test_columns_of_numbers_are_one_layer(tmp_path: Path) -> None:
    frame = pd.DataFrame(X, columns=["u", "v", "w"]).assign(label=list("bababc"), id=[9, 8, 7, 6, 5, 4], split="val")
    frame.to_csv(tmp_path / "x.csv", index=False)
    source = probes.open(tmp_path / "x.csv")
    assert source.layers == ["features"]
    np.testing.assert_array_equal(source["features"], X)  # every digit
    assert source.ids.tolist() == [9, 8, 7, 6, 5, 4]
    assert source.class_names == ["a", "b", "c"]
    assert source.labels is not None
    assert source.labels.tolist() == [1, 0, 1, 0, 1, 2]
    assert source.split is not None
    assert set(source.split.tolist()) == {"val"}


def test_the_index_of_pandas_is_not_a_feature(tmp_path: Path) -> None:
    """Its unnamed column of row numbers would otherwise be a feature."""
    pd.DataFrame(X, index=[5, 3, 1, 2, 4, 6]).to_csv(tmp_path / "x.csv")
    source = probes.open(tmp_path / "x.csv")
    assert source["features"].shape == (6, 3)
    assert source.ids.tolist() == [5, 3, 1, 2, 4, 6]
    pd.DataFrame(X, index=pd.Index([5, 3, 1, 2, 4, 6])).rename(columns=str).to_parquet(tmp_path / "x.parquet")
    from_parquet = probes.open(tmp_path / "x.parquet")
    assert from_parquet.ids.tolist() == [5, 3, 1, 2, 4, 6]
    np.testing.assert_array_equal(from_parquet["features"], X)


@pytest.mark.parametrize(
    "options", [{}, {"delimiter": ","}, {"delimiter": "\t"}, {"delimiter": ";"}, {"delimiter": ",", "header": "a,b,c"}]
)
def test_tables_of_numpy_have_no_header_or_a_commented_one(options: dict[str, str], tmp_path: Path) -> None:
    np.savetxt(tmp_path / "x.txt", X, fmt="%.17g", **options)  # type: ignore[arg-type]
    source = probes.open(tmp_path / "x.txt")
    np.testing.assert_array_equal(source["features"], X)


def test_labels_are_texts_or_numbers(tmp_path: Path) -> None:
    names = text(tmp_path / "a.csv", "f,label\n1,NA\n2,None\n3,NA\n")
    assert names.class_names == ["NA", "None"]  # class names, not missing cells
    numbers = text(tmp_path / "b.csv", "f,label\n1,10\n2,9\n3,10\n")
    assert numbers.labels is not None
    assert (numbers.labels.tolist(), numbers.class_names) == ([10, 9, 10], None)


def test_a_missing_cell_is_nan_and_named_by_the_analysis(tmp_path: Path) -> None:
    rows = "".join(f"{row[0]},{row[1]},{label}\n" for row, label in zip(X, [0, 1] * 3, strict=True))
    source = text(tmp_path / "x.csv", f"a,b,y\n{rows}0.5,,1\n")
    with pytest.warns(probes.LeftOutWarning, match="'features': holds nan at sample id 6, the only such sample of 7"):
        analyze(source, "class_mean_separation")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("a,b\n1,2\n3,x\n5,6\n", "Column 'b' of .* holds 'x' .row 2. among numbers; leave the cell empty"),
        ("a,a\n1,2\n", "two columns are called 'a'"),
        ("a,b\n1,2,3\n", "can't be read as a table"),
        ("a,b\n", "holds no samples|holds no array"),
        ("\n", "it is empty"),
        ("name\nx\ny\n", "holds no array that can be a layer .name: it holds text"),
        ("a,label,class\n1,2,3\n", "each may hold the labels"),
    ],
)
def test_invalid_tables_are_refused(content: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises((probes.FormatError, probes.DataError, probes.UsageError), match=sentence):
        text(tmp_path / "x.csv", content)


def test_other_encodings_byte_order_marks_and_line_ends_are_read(tmp_path: Path) -> None:
    source = text(tmp_path / "x.csv", "\ufeffa, b\r\n1, 2\r\n3, 4")
    np.testing.assert_array_equal(source["features"], [[1, 2], [3, 4]])
    (tmp_path / "y.csv").write_bytes("a,b\n1,2\nä,3\n".encode("latin-1"))
    with pytest.raises(probes.FormatError, match="y.csv can't be read as a table"):
        probes.open(tmp_path / "y.csv")


def test_a_text_column_that_is_no_label_is_left_out_with_a_warning(tmp_path: Path) -> None:
    with pytest.warns(probes.IgnoredWarning, match="'file' left out, since it holds text; a column of labels"):
        source = text(tmp_path / "x.csv", "file,a\nx.png,1\ny.png,2\n")
    assert source["features"].shape == (2, 1)


def test_lists_in_parquet_are_separate_layers(tmp_path: Path) -> None:
    maps = np.random.default_rng(1).normal(size=(4, 2, 3))
    table = pa.table({
        "fixed": pa.FixedSizeListArray.from_arrays(pa.array(maps.ravel()), 6),
        "nested": pa.array([item.tolist() for item in maps]),
        "ragged": pa.array([[1.0], [1.0, 2.0], [], [1.0]]),
        "gap": pa.array([[1.0], None, [2.0], [1.0]]),
        "number": pa.array([1, 2, None, 4]),
        "label": pa.array(list("abab")).dictionary_encode(),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.warns(probes.IgnoredWarning, match="'ragged' and 1 more left out, since its lists have different lengths"):
        source = probes.open(tmp_path / "x.parquet")
    np.testing.assert_array_equal(source["fixed"], maps.reshape(4, 6))
    np.testing.assert_array_equal(source["nested"], maps)
    np.testing.assert_array_equal(source["features"][:, 0], [1, 2, np.nan, 4])
    assert source.class_names == ["a", "b"]
