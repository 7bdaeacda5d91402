"""Table: nothing is lost on the way to a file and back."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from probes import FormatError, UsageError
from repanalysis.table import COLUMNS, Table

ROWS = [
    {"run": "a", "model": "m", "layer": "NA", "order": 0, "depth": 0.1, "metric": "x", "value": 0.1 + 0.2, "n": 5},
    {
        "run": "a",
        "layer": "null",
        "order": 1,
        "metric": "x",
        "variant": "v,w",
        "value": math.nan,
        "note": 'a "quoted", note\n2nd',
    },
    {"run": "b", "layer": "ünï", "metric": "y", "value": math.inf, "strength": 0.5, "se": 1e-300, "note": "nan"},
    {"run": "b", "layer": "c", "metric": "y", "value": -math.inf},
]
FACTS = {"a": {"source": "a.h5", "n": [1, 2]}, "b": {"source": "ü"}}


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "new/folder/t.csv"])
def test_round_trip(tmp_path: Path, name: str) -> None:
    table = Table.from_rows(ROWS, FACTS)
    table.save(tmp_path / name)
    back = Table.load(tmp_path / name)
    pd.testing.assert_frame_equal(back.frame, table.frame, check_exact=True)
    assert back.provenance == FACTS


def test_any_tool_reads_the_csv(tmp_path: Path) -> None:
    Table.from_rows(ROWS, FACTS).to_csv(tmp_path / "t.csv")
    frame = pd.read_csv(tmp_path / "t.csv")
    assert list(frame)[:-1] == list(COLUMNS)
    assert frame["value"][0] == pytest.approx(0.1 + 0.2, rel=1e-15)  # pandas 2 reads the last digit otherwise than Python
    assert frame["provenance"].notna().tolist() == [True, False, True, False]


def test_files_may_be_concatenated(tmp_path: Path) -> None:
    for run in "ab":
        Table.from_rows([row for row in ROWS if row["run"] == run], {run: FACTS[run]}).to_csv(tmp_path / f"{run}.csv")
    text = (tmp_path / "a.csv").read_text() + (tmp_path / "b.csv").read_text().partition("\n")[2]
    (tmp_path / "both.csv").write_text(text)
    assert Table.load(tmp_path / "both.csv").provenance == FACTS


def test_columns_are_typed_and_rows_selected() -> None:
    table = Table.from_rows(ROWS)
    assert {name: str(table.frame[name].dtype) for name, kind in COLUMNS.items() if kind != "str"} == {
        name: kind for name, kind in COLUMNS.items() if kind != "str"
    }
    assert len(table.select(run="a", metric=["x", "y"])) == 2
    with pytest.raises(UsageError, match="Unknown column 'metrik'. Did you mean 'metric'?"):
        table.select(metrik="x")


def test_concat_keeps_every_run_apart() -> None:
    a, b = (Table.from_rows([row for row in ROWS if row["run"] == run], {run: FACTS[run]}) for run in "ab")
    both = Table.concat([a, b])
    assert both.provenance == FACTS
    assert np.array_equal(both.frame["run"], ["a", "a", "b", "b"])
    other = Table.from_rows(ROWS[:1], {"a": {"source": "another.h5"}})
    with pytest.raises(UsageError, match="Two runs are called 'a'"):
        Table.concat([a, other])


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no file"):
        Table.load(tmp_path / "none.csv")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        Table.load(tmp_path / "none.parquet")
    with pytest.raises(UsageError, match="Unknown table format '.xlsx'"):
        Table.load(tmp_path / "t.xlsx")
    for name, content in {"a.csv": "x,y\n1,2\n", "b.csv": "", "c.parquet": "hello"}.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(FormatError, match="is no table of results"):
            Table.load(tmp_path / name)
    with pytest.raises(FormatError, match="lacks the columns run"):
        Table(pd.DataFrame({"value": [1.0]}))
    Table.from_rows(ROWS).to_csv(tmp_path / "d.csv")
    (tmp_path / "d.csv").write_text((tmp_path / "d.csv").read_text().replace("0.30000000000000004", "much"))
    with pytest.raises(FormatError, match="is no table of results"):
        Table.load(tmp_path / "d.csv")


def test_tables_of_earlier_versions_have_no_p(tmp_path: Path) -> None:
    table = Table.from_rows([{**ROWS[0], "p": 0.05, "tail": "down"}])
    old = table.frame.drop(columns=["p", "tail"])
    old.to_csv(tmp_path / "old.csv", index=False)
    for frame in (Table.load(tmp_path / "old.csv").frame, Table(old).frame):
        assert frame["p"].isna().all()
        assert (frame["tail"] == "").all()
    assert table.frame["p"].item() == 0.05
