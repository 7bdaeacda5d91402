"""Data can be sent to other processes: a pickled copy reads the same samples under every start method."""

from __future__ import annotations

import pickle
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from probes import DataError, capture
from repanalysis.inputs.data import load_data
from repanalysis.inputs.samples import Data, as_tensor


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("inputs")
    for c, name in enumerate(("cat", "dog")):
        (root / "set" / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (6, 6), (c * 100, i, 7)).save(root / "set" / name / f"{i}.png")
    for ending in ("tar", "tar.gz"):
        with tarfile.open(root / f"set.{ending}", f"w:{ending.partition('.')[2]}") as tar:
            tar.add(root / "set", "set")
    rng = np.random.default_rng(0)
    np.savez(root / "images.npz", x=rng.integers(0, 256, (4, 6, 6, 3), dtype=np.uint8), y=np.arange(4))
    np.savez(root / "numbers.npz", x=rng.normal(size=(4, 5)), y=np.array(["a", "b", "a", "b"]))
    np.savez(root / "tokens.npz", x=rng.integers(0, 9, (4, 5)))
    return {
        "digits": "digits",
        "gaussians": "gaussians:K=3,d=4,n=6",
        "scale-detection": "scale-detection:task=1",
        "scale-detection in two dimensions": "scale-detection:task=2,dimensions=2,pixels=8,scale=4",
        "folder": f"imagefolder:{root / 'set'}",
        "tar": f"imagefolder:{root / 'set.tar'}",
        "tar.gz": f"imagefolder:{root / 'set.tar.gz'}",
        "images": f"npz:{root / 'images.npz'}",
        "numbers": f"npz:{root / 'numbers.npz'}",
        "tokens": f"npz:{root / 'tokens.npz'},integers=tokens",
    }


KINDS = ("digits", "gaussians", "scale-detection", "scale-detection in two dimensions", "folder", "tar", "tar.gz", "images",
         "numbers", "tokens")  # fmt: skip


def grey(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image.convert("L"), np.float32))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("transform", [None, grey])
def test_a_pickled_copy_reads_the_same_samples(kind: str, transform: object, specs: dict[str, str]) -> None:
    if transform is not None and kind in (
        "gaussians",
        "scale-detection",
        "scale-detection in two dimensions",
        "numbers",
        "tokens",
    ):
        pytest.skip("no pictures")
    data = load_data(specs[kind], transform=transform)  # type: ignore[arg-type]
    copy: Data = pickle.loads(pickle.dumps(data))
    for row in (0, len(data) - 1):
        (x, *expected), (y, *copied) = data[row], copy[row]
        assert torch.equal(x, y)
        assert expected == copied
    assert copy.class_names == data.class_names


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_processes_that_load_samples_may_be_spawned(method: str, specs: dict[str, str]) -> None:
    data = load_data(specs["tar"])
    loader = data.loader(2, workers=1)
    loader.multiprocessing_context = method
    images, labels, names = zip(*loader, strict=True)
    assert torch.equal(torch.cat(images), torch.stack([data[row][0] for row in range(4)]))
    assert torch.cat(labels).tolist() == [0, 0, 1, 1]
    assert [*names[0], *names[1]] == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]


def test_images_of_a_plain_archive_are_not_held_in_memory(specs: dict[str, str]) -> None:
    with tarfile.open(specs["tar"].partition(":")[2]) as tar:
        content = sum(member.size for member in tar)
    assert content > 0
    read = load_data(specs["tar"]).read
    assert all(isinstance(location, tuple) for location in read.files.members.values())  # type: ignore[attr-defined]


def test_subsamples_are_drawn_by_seed_and_keep_their_ids() -> None:
    data = load_data("digits")
    subset = data.sample(100, seed=1)
    assert len(subset) == len(set(subset.ids)) == 100
    assert np.array_equal(subset.ids, data.sample(100, seed=1).ids)
    assert not np.array_equal(subset.ids, data.sample(100, seed=2).ids)
    assert subset.labels is not None
    assert data.labels is not None
    np.testing.assert_array_equal(subset.labels, data.labels[subset.ids])
    assert data.sample(10**6, seed=0) is data


def test_data_without_labels_may_replace_a_loader() -> None:
    data = load_data("digits", split="test")
    silent = type(data)(data.spec, data.read, data.ids, None)
    (batch, *_) = list(capture(torch.nn.Flatten(), silent))
    assert batch.labels is None
    assert batch.ids.tolist() == data.ids[:64].tolist()


def test_a_grey_image_becomes_a_tensor_without_a_warning() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert (as_tensor(Image.fromarray(grey))[0] * 255).round().tolist() == grey.tolist()


def test_subsamples_by_name_do_not_depend_on_the_other_files() -> None:
    """Regression: with draws by position, an added file changed the entire subsample."""
    names = np.array([f"{i:04}.png" for i in range(500)])
    data = Data("somewhere", lambda row: np.zeros(2), names, None, rows=np.arange(500), ids_from="name")
    fewer = Data("somewhere", lambda row: np.zeros(2), names[1:], None, rows=np.arange(499), ids_from="name")
    before, after = set(data.sample(100, seed=3).ids.tolist()), set(fewer.sample(100, seed=3).ids.tolist())
    assert len(before - after) <= 1
    assert before != set(data.sample(100, seed=4).ids.tolist())
    subsample = data.sample(100, seed=3)
    assert subsample.ids.tolist() == sorted(subsample.ids.tolist()), "in the original order"
    assert subsample.rows is not None
    assert names[subsample.rows].tolist() == subsample.ids.tolist()
    positions = Data(
        "somewhere", lambda row: np.zeros(2), np.array([f"test/{i}" for i in range(500)]), None, rows=np.arange(500)
    )
    expected = np.sort(np.random.default_rng(3).choice(500, 100, replace=False))
    np.testing.assert_array_equal(positions.sample(100, seed=3).rows, expected)  # type: ignore[arg-type]


def test_samples_are_picked_by_name_or_by_number_for_older_files() -> None:
    data = Data("somewhere", lambda row: np.full(2, row), np.array(["a", "b", "c"]), np.array([0, 1, 0]), rows=np.arange(3))
    subset = data.pick(np.array(["c", "a"]))
    assert (subset.ids.tolist(), subset[0][0].tolist(), subset[0][1:]) == (["c", "a"], [2, 2], (0, "c"))
    older = data.pick(np.array([2, 0]))
    assert (older.ids.tolist(), older[0][0].tolist(), older[0][1:]) == ([2, 0], [2, 2], (0, 2))
    with pytest.raises(DataError, match="somewhere has no sample 'd': these are other data"):
        data.pick(np.array(["d"]))
    with pytest.raises(DataError, match="Sample id 'a' stands twice in somewhere"):
        Data("somewhere", lambda row: np.zeros(2), np.array(["a", "b", "a"]), None, rows=np.arange(3))


@pytest.mark.parametrize("batch_size", [1, 3, 4])
@pytest.mark.parametrize("parts", [1, 2, 3, 5, 8])
def test_parts_divide_the_samples_by_whole_batches(parts: int, batch_size: int) -> None:
    """No sample is lost or repeated, no batch is divided, and the longest part is as short as possible."""
    for n in range(1, 30):
        data = Data("numbers", np.zeros, np.arange(n) * 7, np.arange(n) % 2, rows=np.arange(n)[::-1], targets=np.ones((n, 1)))
        shares = data.parts(parts, batch_size)
        assert np.concatenate([share.ids for share in shares]).tolist() == data.ids.tolist()
        for name in ("labels", "rows", "targets"):
            joined = np.concatenate([getattr(share, name) for share in shares])
            np.testing.assert_array_equal(joined, getattr(data, name))
        assert 1 <= len(shares) <= parts
        assert all(len(share) % batch_size == 0 for share in shares[:-1])
        assert min(map(len, shares)) > 0
        batches = range(0, n, batch_size)
        longest = max(len(range(0, len(share), batch_size)) for share in shares)
        assert parts * (longest - 1) < len(batches) <= parts * longest
    assert Data("none", np.zeros, np.arange(0), None).parts(parts, batch_size) == []
