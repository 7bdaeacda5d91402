"""Shards read as one file, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import probes
from probes.storage.shards import shard_name
from probes.storage.writer import create


def shard(path: Path, ids: range, *, width: int = 3, labelled: bool = True) -> Path:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, width))[ids.start : ids.stop]
    with create(path) as writer:
        labels = np.array(ids) % 3 if labelled else None
        writer.append(probes.Batch(ids=np.array(ids), layers={"x": x}, labels=labels))
    return path


def test_a_folder_and_a_list_of_shards_are_read_as_one_file(tmp_path: Path) -> None:
    paths = [shard(tmp_path / f"{i}.h5", range(10 * i, 10 * i + 10)) for i in range(3)]
    expected = np.random.default_rng(0).normal(size=(100, 3))[:30]
    for source in (tmp_path, paths):
        shards = probes.open(source)
        assert len(shards) == 30
        np.testing.assert_array_equal(shards["x"], expected)
        np.testing.assert_array_equal(np.concatenate([batch.layers["x"] for batch in shards.iter(size=4)]), expected)
        assert shards.ids.tolist() == list(range(30))
        assert shards.labels is not None
        shards.close()


def test_samples_in_two_shards_are_refused(tmp_path: Path) -> None:
    with pytest.raises(probes.FormatError, match="Sample id 5 is in two shards"):
        probes.open([shard(tmp_path / "a.h5", range(6)), shard(tmp_path / "b.h5", range(5, 9))])


def test_shards_of_different_runs_are_refused(tmp_path: Path) -> None:
    a = shard(tmp_path / "a.h5", range(6))
    with pytest.raises(probes.FormatError, match="are not shards of one run: layer 'x' is not the same in both"):
        probes.open([a, shard(tmp_path / "b.h5", range(6, 9), width=4)])
    with pytest.raises(probes.FormatError, match="Only one of .* has labels"):
        probes.open([a, shard(tmp_path / "c.h5", range(6, 9), labelled=False)])


def test_an_empty_folder_has_a_one_sentence_error(tmp_path: Path) -> None:
    with pytest.raises(probes.FormatError, match=r"holds no \*.h5 and no \*.npy file"):
        probes.open(tmp_path)


def written(folder: Path, shards: int, only: range | None = None, **attrs: object) -> Path:
    for index in only or range(shards):
        with create(folder / shard_name(index, shards), attrs={"shard": index, "shards": shards, **attrs}) as writer:
            ids = np.arange(10 * index, 10 * index + 10)
            writer.append(probes.Batch(ids=ids, layers={"x": ids[:, None] * 1.0}, labels=ids % 3, split=np.full(10, "val")))
    return folder


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(probes.IncompleteError, match="2 of 12 shards are missing in .*: shard-00003-of-00012.h5, shard-00007"):
        probes.open(written(tmp_path, 12, [0, 1, 2, 4, 5, 6, 8, 9, 10, 11]))  # type: ignore[arg-type]


def test_shards_of_different_counts_or_models_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "a", 2, model="a")
    written(tmp_path / "b", 3, model="a")
    written(tmp_path / "c", 2, model="other")
    with pytest.raises(probes.FormatError, match="their shard numbers are inconsistent"):
        probes.open([*(tmp_path / "a").glob("*.h5"), *(tmp_path / "b").glob("*.h5")])
    with pytest.raises(probes.FormatError, match="are not shards of one run: their model differs"):
        probes.open([tmp_path / "a" / shard_name(0, 2), tmp_path / "c" / shard_name(1, 2)])


def test_an_unfinished_shard_is_incomplete(tmp_path: Path) -> None:
    written(tmp_path, 2, range(1))
    writer = create(tmp_path / shard_name(1, 2), attrs={"shard": 1, "shards": 2})
    writer.append(probes.Batch(ids=np.arange(10, 20), layers={"x": np.zeros((10, 1))}))
    writer.close(complete=False)
    with pytest.raises(probes.IncompleteError, match="shard-00001-of-00002.h5 is incomplete"):
        probes.open(tmp_path)


def test_shards_are_ordered_by_number_not_by_name(tmp_path: Path) -> None:
    written(tmp_path, 3)
    files = sorted(tmp_path.glob("*.h5"), reverse=True)
    assert probes.open(files).ids.tolist() == list(range(30))


def test_merging_writes_the_file_of_a_single_process(tmp_path: Path) -> None:
    shards = probes.open(written(tmp_path / "acts", 3, model="m", seed=4))
    store = probes.merge(shards, tmp_path / "one.h5", compression="gzip")
    np.testing.assert_array_equal(store["x"], shards["x"])
    assert store.labels is not None
    assert store.labels.tolist() == [sample % 3 for sample in range(30)]
    assert store.split is not None
    assert (store.attrs["model"], store.attrs["seed"], "shard" in store.attrs) == ("m", 4, False)
    with pytest.raises(probes.UsageError, match="exists already"):
        probes.merge(shards, tmp_path / "one.h5")
    with pytest.raises(probes.UsageError, match="is one of the files to merge"):
        probes.merge(shards, tmp_path / "acts" / shard_name(0, 3), overwrite=True)


def test_shards_with_text_ids_are_read_and_merged(tmp_path: Path) -> None:
    def named(path: Path, names: list[str]) -> Path:
        with create(path, attrs={"ids_from": "name"}) as writer:
            writer.append(probes.Batch(np.array(names), {"x": np.ones((len(names), 3))}, np.zeros(len(names), int)))
        return path

    a, b = named(tmp_path / "a.h5", ["cat/1.png", "x"]), named(tmp_path / "b.h5", ["cat/long name.png"])
    shards = probes.open([a, b])
    assert shards.ids.tolist() == ["cat/1.png", "x", "cat/long name.png"]
    merged = probes.merge(shards, tmp_path / "m.h5")
    assert (merged.ids.tolist(), merged.attrs["ids_from"]) == (shards.ids.tolist(), "name")
    with pytest.raises(probes.FormatError, match="Sample id 'x' is in two shards"):
        probes.open([a, named(tmp_path / "c.h5", ["y", "x"])])
    with pytest.raises(probes.FormatError, match="Only one of .* has texts as sample ids"):
        probes.open([a, shard(tmp_path / "d.h5", range(3))])


def test_shards_of_one_run_have_equal_attributes(tmp_path: Path) -> None:
    facts = dict.fromkeys(("weights_sha256", "preprocessing", "pool", "precision", "dtype"), "one") | {"forward": ""}
    first = written(tmp_path / "a", 2, **facts) / shard_name(0, 2)
    assert len(probes.open([first, written(tmp_path / "same", 2, **facts) / shard_name(1, 2)])) == 20
    for key in facts:
        second = written(tmp_path / key, 2, **(facts | {key: "another"})) / shard_name(1, 2)
        with pytest.raises(probes.FormatError, match=f"are not shards of one run: their {key} differs"):
            probes.open([first, second])
    older = {key: value for key, value in facts.items() if key != "forward"}
    assert len(probes.open([first, written(tmp_path / "older", 2, **older) / shard_name(1, 2)])) == 20


def test_a_repeated_shard_is_refused(tmp_path: Path) -> None:
    a, b = written(tmp_path / "a", 2), written(tmp_path / "b", 2)
    with pytest.raises(probes.FormatError, match="their shard numbers are inconsistent"):
        probes.open([a / shard_name(0, 2), b / shard_name(0, 2)])


@pytest.mark.parametrize(("present", "dots"), [([0, 4], ""), ([0], ", ...")])
def test_up_to_three_missing_shards_are_named(tmp_path: Path, present: list[int], dots: str) -> None:
    with pytest.raises(probes.IncompleteError) as caught:
        probes.open(written(tmp_path, 5, present))  # type: ignore[arg-type]
    names = "shard-00001-of-00005.h5, shard-00002-of-00005.h5, shard-00003-of-00005.h5"
    assert str(caught.value).startswith(f"{5 - len(present)} of 5 shards are missing in {tmp_path}: {names}{dots}. Extract")


def test_non_finite_values_are_counted_over_all_shards(tmp_path: Path) -> None:
    for index, (x, y) in enumerate(((np.nan, np.inf), (np.nan, 1.0), (2.0, 1.0))):
        with create(tmp_path / f"{index}.h5") as writer:
            writer.append(probes.Batch(ids=np.array([index]), layers={"x": np.full((1, 3), x), "y": np.full((1, 2), y)}))
    assert probes.open(tmp_path).non_finite == {"x": 6, "y": 2}
