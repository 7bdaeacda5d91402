"""An epoch: reproducible batches, and the function called after each step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from probes.errors import DataError, UsageError
from repanalysis.inputs.data import Data, load_data
from repanalysis.networks.digits_cnn import digits_cnn
from repanalysis.studies.demo import TRAINING
from repanalysis.training.epochs import Images, TrainConfig, _augmented, accuracy, fit, train_epoch

RECIPE = TrainConfig(2, 32, 0.1, "constant", augment=True)


@pytest.fixture(scope="module")
def digits() -> Images:
    return Images.of(load_data("digits", split="train").sample(200, seed=0), hidden=True)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


def after(images: Images, epoch: int, config: TrainConfig = RECIPE, net: nn.Module | None = None) -> dict[str, torch.Tensor]:
    net = network() if net is None else net
    train_epoch(net, images, torch.optim.SGD(net.parameters(), 0.1), config, epoch=epoch, device="cpu", hidden=True)
    return net.state_dict()


def test_an_epoch_depends_on_its_number_and_the_seed_alone(digits: Images) -> None:
    first = after(digits, 1)
    torch.rand(100)
    assert all(torch.equal(value, first[name]) for name, value in after(digits, 1).items())
    assert not torch.equal(after(digits, 2)["0.weight"], first["0.weight"])
    assert not torch.equal(after(digits, 1, replace(RECIPE, seed=1))["0.weight"], first["0.weight"])


def test_images_read_from_disk_equal_images_in_memory(digits: Images) -> None:
    uncached = Images(digits.data, None)
    in_memory = after(digits, 1)
    assert all(torch.equal(value, in_memory[name]) for name, value in after(uncached, 1).items())


def test_the_mode_of_the_network_is_kept(digits: Images) -> None:
    before = network().state_dict()
    state = after(digits, 1, net=network().eval())
    assert torch.equal(state["1.running_mean"], before["1.running_mean"])
    assert not torch.equal(state["0.weight"], before["0.weight"])
    assert not torch.equal(after(digits, 1)["1.running_mean"], before["1.running_mean"])


def test_after_step_is_called_after_every_full_batch(digits: Images) -> None:
    net, calls = network(), []
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    log = train_epoch(net, digits, optimizer, RECIPE, epoch=1, device="cpu", after_step=lambda: calls.append(1), hidden=True)
    assert len(calls) == 200 // 32
    assert log["lr"] == 0.1
    assert 0 < log["train_accuracy"] < 1


def test_accuracy_is_the_share_of_largest_scores_at_the_label(digits: Images) -> None:
    net = network()
    images = digits.images
    assert images is not None
    predictions = net.eval()(images).argmax(1)
    assert accuracy(net.train(), digits, 64, "cpu") == pytest.approx(float((predictions == digits.labels).double().mean()))


def test_invalid_input_has_a_one_sentence_error(digits: Images) -> None:
    unlabelled = Data("somewhere", lambda _: np.zeros((2, 2)), np.arange(3), None)
    with pytest.raises(DataError, match="has no labels; training needs them"):
        Images.of(unlabelled, hidden=True)
    net = network()
    with torch.no_grad():
        net[0].weight.fill_(torch.nan)
    with pytest.raises(DataError, match="lower --lr"):
        after(digits, 1, net=net)
    with pytest.raises(UsageError, match="takes one score per image"):
        after(digits, 1, replace(RECIPE, loss="hinge"))


def test_fitting_is_seeded_and_learns() -> None:
    data, test = (load_data("digits", split=split) for split in ("train", "test"))
    weights = []
    for _ in range(2):
        torch.manual_seed(0)
        model = digits_cnn()
        fit(model, data, replace(TRAINING, epochs=5), progress=False)
        weights.append(model.state_dict())
        assert not model.training
        assert accuracy(model, Images.of(test, hidden=True), 256, "cpu") > 0.9
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_crops_without_mirroring_do_not_mirror() -> None:
    """An image that is 0 except in its left column never has ones in its right column after a shift by one pixel."""
    images = torch.zeros(64, 1, 8, 8)
    images[..., 0] = 1.0
    generator = torch.Generator().manual_seed(0)
    assert _augmented(images, generator, mirror=False)[..., -1].max() == 0
    assert _augmented(images, generator, mirror=True)[..., -1].max() == 1
