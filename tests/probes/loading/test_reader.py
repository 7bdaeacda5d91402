"""Every kind of item of usual loaders: read as intended, compared with a direct call of the network, or refused."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from transformers import BatchEncoding, BertConfig, BertModel

import probes
from probes import DataError, IgnoredWarning, UsageError
from probes.loading.inputs import take_rows
from probes.loading.reader import Reader, as_inputs

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
Z = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([2, 0, 1, 0])
IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))


class Two(nn.Module):
    """Two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(3, 5), nn.Linear(3, 5), nn.Identity()

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.out(self.a(left) - 2 * self.b(right))


class Optional(Two):
    def forward(self, left: Tensor, right: Tensor | None = None) -> Tensor:
        return super().forward(left, torch.zeros_like(left) if right is None else right)


class OfPair(Two):
    def forward(self, pair: Any) -> Tensor:
        return super().forward(*pair)


class OfBatch(Two):
    def forward(self, batch: Any) -> Tensor:
        return super().forward(batch["image"], batch["other"])


class OfList(nn.Module):
    """Images of any size, as in detection networks; the signature does not tell that the input is a list."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 6, 3), nn.Identity()

    def forward(self, images: Any, targets: Any = None) -> Tensor:  # the signature of torchvision
        return self.out(torch.cat([self.conv(image[None]).mean((2, 3)) for image in images]))


def seeded(kind: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().eval()


def captured(model: nn.Module, item: Any, layer: str = "out", **options: Any) -> probes.Batch:
    (batch,) = list(probes.capture(model, [item], layers=layer, **options))
    return batch


Named = namedtuple("Named", ["left", "right", "label"])  # as returned by torch's collation


@pytest.mark.parametrize(
    ("kind", "item"),
    [
        (Two, ((X, Z), Y)),
        (Two, [[X, Z], Y]),
        (Optional, ((X, Z), Y)),
        (OfPair, ((X, Z), Y)),
        (OfPair, [[X, Z], Y]),
        (Two, ({"right": Z, "left": X}, Y)),
        (Two, {"right": Z, "left": X, "labels": Y}),
        (Two, UserDict({"right": Z, "left": X, "label": Y})),
        (Two, BatchEncoding({"right": Z, "left": X, "label": Y})),
        (Two, Named(X, Z, Y)),
        (Two, ((X.numpy(), Z.numpy()), Y.numpy())),
        (OfBatch, {"image": X, "other": Z, "label": Y}),
        (OfBatch, OrderedDict(image=X, other=Z, label=Y)),
        (OfBatch, ({"image": X, "other": Z}, Y)),
        (OfBatch, UserDict({"image": X, "other": Z, "label": Y})),
    ],
)
def test_several_inputs_are_passed_by_the_signature_of_the_network(kind: Callable[[], nn.Module], item: Any) -> None:
    model = seeded(kind)
    with torch.no_grad():
        expected = Two.forward(model, X, Z)  # type: ignore[arg-type]
    batch = captured(model, item)
    np.testing.assert_array_equal(batch.layers["out"], expected.numpy())
    assert batch.labels is not None
    assert batch.labels.tolist() == Y.tolist()


def test_one_input_of_a_network_with_an_optional_second() -> None:
    model = seeded(Optional)
    with torch.no_grad():
        np.testing.assert_array_equal(captured(model, (X, Y)).layers["out"], model(X).numpy())


@pytest.mark.parametrize("labels", [Y, None, [{"boxes": torch.zeros(1, 4)}] * 4])
def test_a_list_of_images_has_a_sample_per_entry(labels: Any) -> None:
    model, images = seeded(OfList), [torch.rand(3, 9 + i, 12) for i in range(4)]
    with torch.no_grad():
        expected = model(images)
    if isinstance(labels, list):
        with pytest.warns(IgnoredWarning, match="targets .a list of dict. are not classes of samples: recorded without labels"):
            batch = captured(model, (images, labels))
        assert batch.labels is None
    elif labels is None:
        batch = captured(model, (images, None))  # four items can not be two arguments
        np.testing.assert_array_equal(captured(model, {"images": images}).layers["out"], expected.numpy())
    else:
        batch = captured(model, (images, labels))
        assert batch.labels is not None
        assert batch.labels.tolist() == Y.tolist()
    np.testing.assert_array_equal(batch.layers["out"], expected.numpy())


def test_ambiguous_numbers_of_images_do_not_decide() -> None:
    """Three images of three colours may have three labels; two images may be two arguments."""
    images = [torch.rand(3, 8, 8) for _ in range(3)]
    model = seeded(OfList)
    with torch.no_grad():
        np.testing.assert_array_equal(captured(model, (images, [0, 1, 2])).layers["out"], model(images).numpy())
    with pytest.raises(UsageError, match="2 inputs of OfList.forward.images, targets., or 2 images"):
        captured(model, (images[:2], None))
    assert captured(model, (images[:2], [0, 1])).ids.tolist() == [0, 1]


def test_a_detection_network_of_torchvision_is_recorded() -> None:
    class Backbone(nn.Sequential):
        out_channels = 8

    torch.manual_seed(0)
    backbone = Backbone(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU())
    model = FasterRCNN(backbone, 3, min_size=32, max_size=64, rpn_anchor_generator=AnchorGenerator(((8,),), ((1.0,),))).eval()
    images = tuple(torch.rand(3, side, 40) for side in (30, 40, 36))
    targets = tuple({"boxes": torch.tensor([[1.0, 1, 9, 9]]), "labels": torch.tensor([1])} for _ in images)
    recorded = {}
    handle = backbone[0].register_forward_hook(lambda _m, _a, output: recorded.update(conv=output.mean((2, 3)).clone()))
    with torch.no_grad():
        model(list(images))
    handle.remove()
    with probes.attach(model, layers="backbone.0") as recording, torch.no_grad():
        model(list(images[:2]))
        assert recording["backbone.0"].shape == (2, 8)
    with pytest.warns(IgnoredWarning, match="recorded without labels"):
        batch = captured(model, (images, targets), "backbone.0")
    assert batch.ids.tolist() == [0, 1, 2]
    assert batch.labels is None
    np.testing.assert_array_equal(batch.layers["backbone.0"], recorded["conv"].numpy())


def test_a_transformer_accepts_an_encoding_and_pairs_by_position() -> None:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    model = BertModel(config).eval()
    tokens, mask = torch.randint(0, 50, (4, 6)), torch.ones(4, 6, dtype=torch.long)
    mask[:, 4:] = 0
    with torch.no_grad():
        expected = model(input_ids=tokens, attention_mask=mask).pooler_output.numpy()
    encoding = BatchEncoding({"input_ids": tokens, "attention_mask": mask, "labels": Y})
    for item in (encoding, ((tokens, mask), Y)):
        batch = captured(model, item, "pooler.activation")
        np.testing.assert_array_equal(batch.layers["pooler.activation"], expected)
        assert batch.labels is not None
    with pytest.raises(DataError, match=r"labels have shape \(4, 6\)"):  # the mask in the position of labels
        captured(nn.Sequential(nn.Linear(3, 4)), (X, mask, Y), "0")
    for labels in (Y, torch.arange(4)):  # integers that could be taken for ids
        with pytest.raises(UsageError, match=r"write \(\(x1, x2\), labels\) if the second is an input of BertModel.forward"):
            captured(model, (tokens, mask, labels), "pooler.activation")
    with pytest.warns(IgnoredWarning, match="not classes of samples"):  # a class per token
        batch = captured(model, {"input_ids": tokens, "labels": tokens}, "pooler.activation")
    assert batch.labels is None


def test_networks_with_inputs_named_ids_or_y_receive_them() -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = nn.Embedding(9, 4), nn.Identity()

        def forward(self, ids: Tensor, y: Tensor) -> Tensor:
            return self.out(self.table(ids).mean(1) * y)

    model, ids, y = seeded(Asks), torch.randint(0, 9, (4, 5)), torch.rand(4, 1)
    with torch.no_grad():
        expected = model(ids, y)
    batch = captured(model, {"ids": ids, "y": y})
    np.testing.assert_array_equal(batch.layers["out"], expected.numpy())
    assert batch.labels is None
    assert batch.ids.tolist() == [0, 1, 2, 3]


def test_packed_sequences_have_a_sample_per_sequence() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.out = nn.GRU(3, 4), nn.Identity()

        def forward(self, x: PackedSequence) -> Tensor:
            return self.out(self.rnn(x)[1][0])

    model = seeded(Last)
    packed = pack_sequence([torch.rand(n, 3) for n in (2, 5, 3)], enforce_sorted=False)
    with torch.no_grad():
        expected = model(packed)
    batch = captured(model, (packed, [1, 0, 2]))
    np.testing.assert_array_equal(batch.layers["out"], expected.numpy())
    with torch.no_grad():
        np.testing.assert_allclose(model(take_rows(packed, 2)).numpy(), expected[:2].numpy(), rtol=1e-6)


def test_labels_and_ids_must_be_in_all_batches_or_none() -> None:
    model = nn.Sequential(nn.Linear(3, 4))
    with pytest.raises(DataError, match="labels stop at sample 4; give them with every item, or with none"):
        list(probes.capture(model, [(X, Y), X]))
    with pytest.raises(DataError, match="ids begin at sample 4"):
        list(probes.capture(model, [(X, Y), (X, Y, [7, 8, 9, 10])]))


def test_empty_batches_are_skipped_and_the_last_may_be_short() -> None:
    model = nn.Sequential(nn.Linear(3, 4))
    batches = list(probes.capture(model, iter([(X[:0], Y[:0]), (X, Y), (X[:0], Y[:0]), (X[:1], Y[:1])])))
    assert [batch.ids.tolist() for batch in batches] == [[0, 1, 2, 3], [4]]
    with torch.no_grad():
        np.testing.assert_array_equal(batches[1].layers["0"], model(X[:1]).numpy())


@pytest.mark.parametrize(
    ("kind", "item", "sentence"),
    [
        (Two, (X, Y), r"Two.forward\(left, right\) needs 2 inputs, and the loader gives one: write \(\(left, right\), labels"),
        (Two, ((X, Z, X), Y), r"Two.forward\(left, right\) does not take the 3 inputs that the loader gives"),
        (Two, {"left": X, "image": Z}, "needs right, and the loader's dicts hold left, image; name the keys like"),
        (OfPair, {"image": X}, "hold image, none of which is an argument of OfPair.forward.*It failed: "),
        (Two, ("text", Y), "x is of type str and holds no tensor"),
        (Two, (torch.tensor(1.0), Y), "x is a single number and holds no tensor"),
        (lambda: nn.Sequential(nn.Linear(3, 4)), ((X, Z), Y), "x is a list of 2, and Sequential.*takes one .*failed"),
        (OfPair, {"path": ["a"], "label": Y}, "dicts hold no tensor"),
        (OfList, [torch.rand(3, 8, 8), torch.rand(3, 9, 9)], r"items are lists of images.*write \(images, None\)"),
        (lambda: nn.Sequential(nn.Linear(3, 4)), (X.double(), Y), r"are float64 and .* float32.*x.to\(torch.float32\)"),
        (lambda: nn.Sequential(nn.Linear(3, 4)).half(), (X, Y), "inputs are float32 and the weights .* are float16"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3)), ((IMAGES * 255).byte(), Y), "inputs are uint8 .* scaled as in training"),
        (lambda: nn.Sequential(nn.Embedding(3, 4)), (X, Y), "takes integers, such as token ids"),
    ],
)  # fmt: skip
def test_invalid_items_have_one_sentence_errors(kind: Callable[[], nn.Module], item: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        list(probes.capture(kind(), [item]))


def test_keys_that_the_network_does_not_take_are_ignored() -> None:
    model = seeded(Two)
    with pytest.warns(IgnoredWarning, match="does not take path, weight of the loader's dicts"):
        batch = captured(model, {"left": X, "path": ["a"] * 4, "right": Z, "weight": torch.rand(4), "label": Y})
    with torch.no_grad():
        np.testing.assert_array_equal(batch.layers["out"], model(X, Z).numpy())


def test_the_signature_of_a_forward_function_is_used() -> None:
    model = seeded(Two)
    batch = captured(model, {"a": X, "b": Z, "label": Y}, forward=lambda batch: model(batch["a"], batch["b"]))
    with torch.no_grad():
        np.testing.assert_array_equal(batch.layers["out"], model(X, Z).numpy())


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_have_a_sample_per_part() -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.out = nn.Linear(3, 2), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.stack([part.mean(0) for part in self.linear(x).unbind()]))

    model = seeded(Mean)
    parts = [torch.rand(n, 3) for n in (2, 4, 3)]
    with torch.no_grad():
        expected = torch.stack([model.linear(part).mean(0) for part in parts])
    nested = torch.nested.as_nested_tensor(parts)
    batch = captured(model, (nested, [0, 1, 1]))
    np.testing.assert_allclose(batch.layers["out"], expected.numpy(), rtol=1e-6)
    with torch.no_grad():
        np.testing.assert_allclose(as_inputs(model, nested).take(2).call(model).numpy(), expected[:2].numpy(), rtol=1e-6)


def test_a_key_that_only_kwargs_accept_is_reported() -> None:
    """Regression: a mask named attn_mask went to **kwargs, was not read, and padding was pooled."""

    class TakesAny(nn.Linear):
        def forward(self, input: torch.Tensor, **kwargs: object) -> torch.Tensor:
            return super().forward(input)

    with pytest.warns(IgnoredWarning, match="TakesAny.forward names no argument attn_mask"):
        item = Reader(TakesAny(3, 2)).read({"input": torch.zeros(2, 3), "attn_mask": torch.ones(2, 3)})
    assert list(item.inputs.kwargs) == ["input", "attn_mask"]
