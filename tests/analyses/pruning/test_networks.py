"""Networks pruned by clusters: masks from the definition, which weights are retrained, controls, and the table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from probes.errors import DataError, LeftOutWarning, UsageError
from repanalysis.analyses.pruning.chains import links
from repanalysis.analyses.pruning.networks import RETRAINING, UntrainedWarning, cluster_masks, filter_fields, prune, retrain
from repanalysis.heads.clusters import ClusterOptions
from repanalysis.inputs.data import load_data
from repanalysis.networks.small import small
from repanalysis.statistics.draws import fitted_on
from repanalysis.training.epochs import Images, TrainConfig, accuracy, train_epoch
from tests.heads.plain import class_means, head, serves

Parts = tuple[Images, Images]


@pytest.fixture(scope="module")
def digits() -> Parts:
    return tuple(Images.of(load_data("digits", split=split), hidden=True) for split in ("train", "test"))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def trained(digits: Parts) -> nn.Module:
    torch.manual_seed(0)
    net = small("vgg_bn", width=16, colours=1, size=8)
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    for epoch in range(1, 9):
        train_epoch(
            net.train(), digits[0], optimizer, TrainConfig(8, 64, 0.05, "cosine"), epoch=epoch, device="cpu", hidden=True
        )
    return net.eval()


def test_fields_and_masks_agree_with_a_plain_calculation(trained: nn.Module, digits: Parts) -> None:
    images = digits[0]
    chain, _ = links(trained, images.batch(torch.arange(4))[0], ["conv4", "head"])
    fields = filter_fields(trained, chain, images, classes=10, hidden=True)
    assert set(fields) == {"conv4", "conv5", "head"}
    layers = list(trained.children())
    names = [name for name, _ in trained.named_children()]
    y = images.labels.numpy()
    half = fitted_on(images.data.ids)
    with torch.no_grad():
        before = nn.Sequential(*layers[: names.index("conv4")])(images.images)
        after = nn.Sequential(*layers[: names.index("conv5")])(images.images)
        flat = nn.Sequential(*layers[: names.index("head")])(images.images).numpy()
    served = []
    for x in (before, after):
        pooled = nn.functional.adaptive_avg_pool2d(x, 2).numpy().reshape(len(y), x.shape[1], 4)
        weights = head(pooled[half].reshape(half.sum(), -1), y[half], 10).reshape(10, x.shape[1], 4)
        served.append(serves(class_means(pooled[~half], y[~half], 10), weights, 0.4))
    masks = cluster_masks(chain, fields, ClusterOptions(0.4))
    expected = np.array([[bool((g & f).any()) for f in served[0]] for g in served[1]])
    np.testing.assert_array_equal(masks["conv4"], expected)
    means = class_means(flat.reshape(len(y), 64, -1)[~half], y[~half], 10)
    head_weight = trained.get_submodule("head").weight.detach().double().numpy().reshape(10, 64, -1)  # type: ignore[union-attr, operator]
    np.testing.assert_allclose(fields["head"][0], means, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(fields["head"][1], head_weight)
    np.testing.assert_array_equal(masks["head"], serves(means, head_weight, 0.4).T)


def test_only_pruned_layers_are_retrained_and_masked_weights_stay_0(trained: nn.Module, digits: Parts) -> None:
    import copy

    net = copy.deepcopy(trained)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    mask = torch.rand(64, 64, generator=torch.Generator().manual_seed(0)) < 0.5
    net.get_submodule("conv6").weight.requires_grad_(False)  # type: ignore[union-attr, operator]
    retrain(net, digits[0], {"conv6.weight": mask}, replace(RETRAINING, epochs=1), hidden=True)
    after = net.state_dict()
    assert not after["conv6.weight"][~mask].any()
    assert not torch.equal(after["conv6.weight"][mask], before["conv6.weight"][mask])
    assert all(torch.equal(after[name], value) for name, value in before.items() if name != "conv6.weight")
    assert not net.get_submodule("conv6").weight.requires_grad  # type: ignore[union-attr]
    assert net.get_submodule("conv5").weight.requires_grad  # type: ignore[union-attr]


def test_t19_pruning_by_clusters_costs_little_accuracy_and_beats_random_masks(trained: nn.Module, digits: Parts) -> None:
    table, networks = prune(trained, *digits, thetas=(0.3, 0.6), controls=2, run="digits", progress=False)
    rows = dict(iter(table.select(metric="network_accuracy").frame.groupby("variant")))
    full = rows["full"]["value"].item()
    assert full > 0.93
    assert full == accuracy(trained, digits[1], 50, "cpu")
    pruned, random = (rows[f"{kind} retrained"]["value"].to_numpy() for kind in ("clusters", "random"))
    assert (pruned > full - 0.03).all()
    assert (pruned >= random).all()
    assert rows["clusters masked"]["value"].iloc[0] > 0.6
    dilution = rows["clusters retrained"]["strength"].to_numpy()
    assert 0.3 < dilution[0] < dilution[1] < 1
    share = table.select(metric="kept_multiplications").frame["value"].to_numpy()
    assert 0 < share[1] < share[0] < 1
    net = networks[0.6]
    conv, head = (net.get_submodule(name).weight for name in ("conv6", "head"))
    gone = int((conv == 0).sum() + (head == 0).sum())  # type: ignore[operator, union-attr]
    assert gone / (conv.numel() + head.numel()) == pytest.approx(dilution[1], abs=1e-3)  # type: ignore[operator]
    assert accuracy(net, digits[1], 50, "cpu") == pytest.approx(pruned[1])
    layers = table.select(metric="kept_weights").frame
    assert set(layers["layer"]) == {"conv6", "head"}
    assert table.provenance["digits"]["observed_at"] == {"conv6": "head", "head": "(output)"}


def test_the_original_network_is_unchanged(trained: nn.Module, digits: Parts) -> None:
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    prune(trained, *digits, layers="head", controls=0, config=replace(RETRAINING, epochs=1), progress=False)
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())


def test_invalid_input_has_a_one_sentence_error(trained: nn.Module, digits: Parts) -> None:
    with pytest.raises(DataError, match="give a network that was trained on these classes"):
        prune(small("vgg_bn", width=4, colours=1, size=8, classes=7), *digits, progress=False)
    with pytest.raises(UsageError, match="Use fewer images or fewer layers"):
        prune(trained, *digits, state_budget=1000, progress=False)
    with pytest.raises(UsageError, match="theta is"):
        prune(trained, *digits, layers="head", thetas=(1.5,), config=replace(RETRAINING, epochs=1), progress=False)
    data = load_data("digits", split="train")
    assert data.labels is not None
    without_label = Images.of(data.pick(data.ids[data.labels != 3]), hidden=True)
    with pytest.raises(DataError, match="No training image has label 3"):
        prune(trained, without_label, digits[1], progress=False)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(64, 10)).eval()
    with (
        pytest.warns(LeftOutWarning, match="1 layers are not pruned: 1: its channels come in groups"),
        pytest.warns(UntrainedWarning, match="no better than chance; give the weights of a trained one"),
    ):
        table, _ = prune(net, *digits, layers="*", controls=0, config=replace(RETRAINING, epochs=1), progress=False)
    assert table.select(variant="full").frame["note"].item() == "no better than chance, 0.100"
    with pytest.raises(UsageError, match="digits is both trained and tested on"):
        prune(trained, digits[0], digits[0], progress=False)
