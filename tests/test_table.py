"""Table: writing and reading keep all values."""

from __future__ import annotations

import math
import re
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
def test_writing_and_reading_keeps_all_values(tmp_path: Path, name: str) -> None:
    table = Table.from_rows(ROWS, FACTS)
    table.save(tmp_path / name)
    reread = Table.load(tmp_path / name)
    pd.testing.assert_frame_equal(reread.frame, table.frame, check_exact=True)
    assert reread.provenance == FACTS


def test_csv_files_can_be_read_by_pandas(tmp_path: Path) -> None:
    Table.from_rows(ROWS, FACTS).to_csv(tmp_path / "t.csv")
    frame = pd.read_csv(tmp_path / "t.csv")
    assert list(frame)[:-1] == list(COLUMNS)
    assert frame["value"][0] == pytest.approx(0.1 + 0.2, rel=1e-15)  # pandas 2 reads the last digit differently from Python
    assert frame["provenance"].notna().tolist() == [True, False, True, False]


def test_concatenated_files_can_be_read(tmp_path: Path) -> None:
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


def test_concat_keeps_runs_separate() -> None:
    a, b = (Table.from_rows([row for row in ROWS if row["run"] == run], {run: FACTS[run]}) for run in "ab")
    joined = Table.concat([a, b])
    assert joined.provenance == FACTS
    assert np.array_equal(joined.frame["run"], ["a", "a", "b", "b"])
    conflicting = Table.from_rows(ROWS[:1], {"a": {"source": "another.h5"}})
    with pytest.raises(UsageError, match="Two runs are called 'a'"):
        Table.concat([a, conflicting])


def test_other_files_than_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no file"):
        Table.load(tmp_path / "none.csv")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        Table.load(tmp_path / "none.parquet")
    with pytest.raises(UsageError, match="Unknown table format '.xlsx'"):
        Table.load(tmp_path / "t.xlsx")
    for name, content in {"a.csv": "x,y\n1,2\n", "b.csv": "", "c.parquet": "hello"}.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(FormatError, match="is not a table of results"):
            Table.load(tmp_path / name)
    with pytest.raises(FormatError, match="lacks the columns run"):
        Table(pd.DataFrame({"value": [1.0]}))
    Table.from_rows(ROWS).to_csv(tmp_path / "d.csv")
    (tmp_path / "d.csv").write_text((tmp_path / "d.csv").read_text().replace("0.30000000000000004", "much"))
    with pytest.raises(FormatError, match="is not a table of results"):
        Table.load(tmp_path / "d.csv")


def test_tables_of_earlier_versions_have_no_p(tmp_path: Path) -> None:
    table = Table.from_rows([{**ROWS[0], "p": 0.05, "tail": "down"}])
    old = table.frame.drop(columns=["p", "tail"])
    old.to_csv(tmp_path / "old.csv", index=False)
    for frame in (Table.load(tmp_path / "old.csv").frame, Table(old).frame):
        assert frame["p"].isna().all()
        assert (frame["tail"] == "").all()
    assert table.frame["p"].item() == 0.05


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_table_truncated_at_any_byte_is_refused(tmp_path: Path, name: str) -> None:
    """Regression: 40 of 745 truncations were read without an error, one of them with n = 89 in place of 899."""
    rows = [{**row, "n": 899} for row in ROWS]
    for subset in (rows, rows[:1], rows[2:]) if name == "t.csv" else (rows,):
        Table.from_rows(subset, FACTS).save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        step = 1 if name == "t.csv" else 97  # the end of a parquet file has the data that a reader needs first
        for end in {*range(0, len(content), step), *range(len(content) - 20, len(content))}:
            (tmp_path / f"cut-{name}").write_bytes(content[:end])
            with pytest.raises(FormatError, match=f"cut-{name}"):
                Table.load(tmp_path / f"cut-{name}")


def test_rows_missing_from_joined_tables_are_detected(tmp_path: Path) -> None:
    texts = {}
    for run in "ab":
        Table.from_rows([row for row in ROWS if row["run"] == run], {run: FACTS[run]}).to_csv(tmp_path / f"{run}.csv")
        texts[run] = (tmp_path / f"{run}.csv").read_text().splitlines(keepends=True)
    for lines in ([*texts["a"][:2], *texts["b"][1:]], [*texts["a"], *texts["b"][1:-1]]):
        (tmp_path / "cut.csv").write_text("".join(lines))
        with pytest.raises(FormatError, match=r"has 1 rows of the run '[ab]', and says that there are 2: it was cut"):
            Table.load(tmp_path / "cut.csv")
    Table.from_rows(ROWS, FACTS).to_csv(tmp_path / "both.csv")
    frame = pd.read_csv(tmp_path / "both.csv", dtype=str, keep_default_na=False)
    frame.iloc[::-1].to_csv(tmp_path / "turned.csv", index=False)  # sorted by another program, it is complete
    assert Table.load(tmp_path / "turned.csv").provenance == FACTS
    frame[frame["run"] == "a"].to_csv(tmp_path / "cut.csv", index=False)
    with pytest.raises(FormatError, match="has 1 runs, and says that there are 2"):
        Table.load(tmp_path / "cut.csv")
    selected = frame[frame["metric"] == "y"].drop(columns="provenance")
    selected.to_csv(tmp_path / "chosen.csv", index=False)  # as the message advises
    assert len(Table.load(tmp_path / "chosen.csv")) == 2


def test_a_run_in_two_tables_and_tables_without_counts_are_accepted(tmp_path: Path) -> None:
    table = Table.from_rows([row for row in ROWS if row["run"] == "a"], {"a": FACTS["a"]})
    table.to_csv(tmp_path / "a.csv")
    lines = (tmp_path / "a.csv").read_text().splitlines(keepends=True)
    old = [re.sub(r', ""written"".*?\}', "", line) for line in lines]  # as version 0.1 wrote it
    assert "written" not in "".join(old)
    for parts, count in (([lines, lines], 4), ([old], 2), ([old, lines], 4), ([lines, old], 4)):
        (tmp_path / "joined.csv").write_text("".join([parts[0][0], *(line for part in parts for line in part[1:])]))
        reread = Table.load(tmp_path / "joined.csv")
        assert len(reread) == count
        assert reread.provenance == {"a": FACTS["a"]}
    for damage in ("[1]", '{""written"": {""rows"": ""x""}}', '{""written"": 3}', "nothing"):
        (tmp_path / "bad.csv").write_text(re.sub(r'"\{""source.*\}\}"', f'"{damage}"', "".join(lines)))
        with pytest.raises(FormatError, match="its provenance can't be read"):
            Table.load(tmp_path / "bad.csv")


def test_a_failed_write_leaves_the_old_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table.from_rows(ROWS, FACTS)
    for name, method in {"t.csv": "to_csv", "t.parquet": "to_parquet"}.items():
        table.save(tmp_path / name)
        before = (tmp_path / name).read_bytes()

        def failing(frame: pd.DataFrame, path: Path, **options: object) -> None:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(pd.DataFrame, method, failing)
        with pytest.raises(OSError, match=f"No space left on device: '.*{name}'"):
            table.save(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["t.csv", "t.parquet"]


def test_joined_files_of_a_run_need_equal_provenance(tmp_path: Path) -> None:
    def lines(facts: dict[str, object]) -> list[str]:
        Table.from_rows(ROWS[:1], {"a": facts}).to_csv(tmp_path / "a.csv")
        return (tmp_path / "a.csv").read_text().splitlines(keepends=True)

    first, second, silent = lines({"source": "first.h5"}), lines({"source": "second.h5"}), lines({})
    for parts in ([first, first], [silent, first], [first, silent]):
        (tmp_path / "joined.csv").write_text("".join([*parts[0], *parts[1][1:]]))
        assert Table.load(tmp_path / "joined.csv").provenance == {"a": {"source": "first.h5"}}
    for parts in ([first, second], [second, first]):
        (tmp_path / "joined.csv").write_text("".join([*parts[0], *parts[1][1:]]))
        with pytest.raises(FormatError, match="two runs called 'a' with different provenance; give each its own name"):
            Table.load(tmp_path / "joined.csv")


def test_runs_are_in_the_order_of_the_tables() -> None:
    a, b, joined = (Table.from_rows([], {run: FACTS[run] for run in runs}) for runs in ("a", "b", "ba"))
    for tables, order in (([a, b], "ab"), ([b, a], "ba"), ([a, joined], "ab"), ([joined, a], "ba")):
        assert list(Table.concat(tables).provenance) == list(order)
