"""Pruning by clusters: masks, momentum, controls, and a planted layer that loses nothing."""

from __future__ import annotations

from math import comb
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from probes.errors import UsageError
from repanalysis.cli import app
from repanalysis.heads import fit_head
from repanalysis.pruning import conv_mask, head_mask, kept_masked, masked, multiplications, prune_head, random_serves


def planted(n: int, seed: int, k: int = 20, f: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % k
    x = 0.15 * np.abs(rng.normal(size=(n, f, 1)))
    for one in range(f):
        x[(y == one % k) | (y == (3 * one + 1) % k), one] += 1.0
    return x, y


def test_a_planted_layer_is_pruned_without_loss_and_better_than_at_random() -> None:
    table = prune_head(planted(800, 0), planted(600, 1), thetas=(0.3, 0.6), progress=False)
    rows = dict(iter(table.select(metric="head_accuracy").frame.groupby("variant")))
    full = rows["full"]["value"].item()
    assert full > 0.85
    assert (rows["clusters retrained"]["strength"] > 0.8).all()
    assert (rows["clusters retrained"]["value"] > full - 0.02).all()
    better = rows["clusters retrained"]["value"].to_numpy() - rows["random retrained"]["value"].to_numpy()
    assert (better > 0.1).all()
    kept = table.select(metric="kept_multiplications").frame["value"].to_numpy()
    np.testing.assert_allclose(kept, 1 - rows["clusters retrained"]["strength"].to_numpy())


@pytest.mark.parametrize("solver", ["lbfgs", "sgd"])
def test_masked_weights_of_a_head_are_exactly_0(solver: str) -> None:
    x, y = planted(100, 0, k=4, f=6)
    mask = np.random.default_rng(0).random((4, 6)) < 0.5
    weights = fit_head(x[:, :, 0], y, classes=4, solver=solver, mask=mask)
    assert not weights[~mask].any()
    assert weights[mask].all()


def test_t15_kernels_stay_where_labels_are_shared() -> None:
    after, before = random_serves(300, 100, 5, seed=1), random_serves(300, 100, 5, seed=2)
    mask = conv_mask(after, before)
    for g, f in ((0, 0), (17, 200), (299, 3)):
        assert mask[g, f] == bool((after[g] & before[f]).any())
    expected = 1 - comb(95, 5) / comb(100, 5)
    assert mask.mean() == pytest.approx(expected, abs=0.01)


def test_t16_random_labels_are_balanced_and_distinct() -> None:
    drawn = random_serves(512, 100, 5, seed=3)
    assert set(drawn.sum(1).tolist()) == {5}
    assert set(drawn.sum(0).tolist()) == {25, 26}
    assert not np.array_equal(drawn, random_serves(512, 100, 5, seed=4))
    with pytest.raises(UsageError, match="between 1 and 10"):
        random_serves(4, 10, 11)


def test_a_heads_mask_repeats_every_place() -> None:
    serves = np.random.default_rng(0).random((5, 3)) < 0.5
    mask = head_mask(serves, 4)
    assert mask.shape == (3, 20)
    np.testing.assert_array_equal(mask.reshape(3, 5, 4).all(2), serves.T)
    np.testing.assert_array_equal(mask.reshape(3, 5, 4).any(2), serves.T)


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(20, 2))


def test_masked_weights_stay_0_through_steps_with_momentum(net: nn.Sequential) -> None:
    masks = {"2.weight": torch.rand(5, 4) < 0.5, "4.weight": torch.rand(2, 20) < 0.5}
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    net(torch.rand(2, 3, 6, 6)).sum().backward()
    optimizer.step()  # momentum of the weights to be masked
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.rand(2, 3, 6, 6)).square().sum().backward()
        optimizer.step()
        kept_masked(net, masks)
        assert not net[2].weight[~masks["2.weight"]].any()
        assert not net[4].weight[~masks["4.weight"]].any()


def test_the_model_is_as_it_was_after_the_block(net: nn.Sequential) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x = torch.rand(2, 3, 6, 6)
    whole = net(x)
    with masked(net, {"2.weight": torch.zeros(5, 4, dtype=torch.bool)}) as pruned:
        assert not torch.allclose(pruned(x), whole)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_multiplications_are_counted_and_masks_take_theirs_away(net: nn.Sequential) -> None:
    example = torch.zeros(1, 3, 6, 6)
    whole = multiplications(net, example)
    assert whole == {"0": 4 * 3 * 9 * 16, "2": 5 * 4 * 9 * 4, "4": 40}
    mask = torch.zeros(5, 4, dtype=torch.bool)
    mask[:2, 0] = True
    assert multiplications(net, example, {"2.weight": mask})["2"] == 2 * 9 * 4
    assert not any(module._forward_hooks for module in net.modules())


def test_masks_that_do_not_fit_are_one_sentence(net: nn.Sequential) -> None:
    with pytest.raises(UsageError, match="has no parameter '3.weight'"):
        kept_masked(net, {"3.weight": torch.ones(2, 2)})
    with pytest.raises(UsageError, match="and its weights are"):
        kept_masked(net, {"2.weight": torch.ones(3, 3)})


def test_from_the_command_line(tmp_path: Path) -> None:
    import probes

    files = {}
    for split, seed, start in (("train", 0, 0), ("test", 1, 10_000)):
        x, y = planted(300, seed, k=6, f=12)
        files[split] = tmp_path / f"{split}.npz"
        np.savez(files[split], layer=x[:, :, 0], labels=y, ids=np.arange(300) + start)
        assert len(probes.open(files[split])) == 300
    arguments = ["prune", str(files["train"]), str(files["test"]), "-o", str(tmp_path / "p.csv"), "-f", str(tmp_path / "p.svg"),
                 "--theta", "0.3", "--theta", "0.6", "--controls", "2"]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "clusters retrained" in done.output
    assert (tmp_path / "p.svg").stat().st_size > 5000
    odd = CliRunner().invoke(app, [*arguments, "--layer", "layr", "--overwrite"])
    assert odd.exit_code == 2
    assert "Did you mean 'layer'" in odd.output
