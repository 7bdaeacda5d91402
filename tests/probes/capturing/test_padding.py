"""Padding is excluded from pools, or a warning is given; nested tensors equal padded ones without padding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import probes


class Text(nn.Module):
    """Token ids and a mask; every position depends on itself and on the unmasked mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc, self.act, self.out = nn.Embedding(20, 6), nn.Linear(6, 7), nn.GELU(), nn.Linear(7, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        y = self.act(self.fc(self.embed(input_ids)))
        weight = attention_mask[..., None].float()
        return self.out((y * weight).sum(1) / weight.sum(1))


@pytest.mark.parametrize("pool", ["mean", "max", "mean_std"])
@pytest.mark.parametrize("left", [True, False])
def test_a_sentence_has_the_same_row_alone_and_padded(pool: str, left: bool) -> None:
    net = Text()
    sentences = [torch.randint(1, 20, (length,)) for length in (3, 7, 5, 1)]
    ids, mask = torch.zeros(4, 7, dtype=torch.long), torch.zeros(4, 7, dtype=torch.long)
    for row, sentence in enumerate(sentences):
        unpadded = slice(7 - len(sentence), None) if left else slice(len(sentence))
        ids[row, unpadded], mask[row, unpadded] = sentence, 1
    batch = next(probes.capture(net, [{"input_ids": ids, "attention_mask": mask}], pool=pool))
    assert {batch.info[layer].padding for layer in ("embed", "fc", "act")} == {"excluded"}
    for row, sentence in enumerate(sentences):
        separate = next(
            probes.capture(net, [{"input_ids": sentence[None], "attention_mask": torch.ones(1, len(sentence))}], pool=pool)
        )
        for layer in batch.layers:
            np.testing.assert_allclose(batch.layers[layer][row], separate.layers[layer][0], rtol=1e-5, atol=1e-6, err_msg=layer)


def test_padding_that_is_not_excluded_is_warned_about(tmp_path: Path) -> None:
    class Strided(Text):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.out(self.act(self.fc(self.embed(input_ids)))[:, ::2])

    inputs = {"input_ids": torch.ones(3, 8, dtype=torch.long), "attention_mask": torch.ones(3, 8, dtype=torch.long)}
    store = probes.record(Strided(), [inputs], tmp_path / "x.h5", pool=["embed=none", "mean"])
    assert store.info["embed"].padding == "included: none keeps positions apart"
    assert store.info["act"].padding == "excluded"
    assert store.info["out"].padding == "included: it is not known that its 4 positions are the 8 of the mask"
    inputs["attention_mask"][1, 5:] = 0
    with pytest.warns(probes.IgnoredWarning, match=r"1 layers are pooled with their padding \(out\)"):
        list(probes.capture(Strided(), [inputs, inputs], pool=["embed=none", "mean"]))


@pytest.mark.filterwarnings("ignore:.*nested tensors.*")
def test_nested_tensors_of_the_fast_path_give_the_rows_of_the_slow_path() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    fast, slow = nn.TransformerEncoder(layer, 2), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    slow.load_state_dict(fast.state_dict())
    lengths = torch.tensor([2, 5, 4])
    inputs = {"src": torch.randn(3, 5, 8), "src_key_padding_mask": torch.arange(5) >= lengths[:, None]}
    layers = ["layers.0.norm1", "layers.1.linear1", "layers.1.norm2", "layers.1", "model"]
    nested, plain = (next(probes.capture(net, [inputs], layers=layers)) for net in (fast, slow))
    for name in layers:
        np.testing.assert_allclose(nested.layers[name], plain.layers[name], rtol=1e-5, atol=1e-6, err_msg=name)
        assert nested.info[name].padding == "excluded"
    for row, length in enumerate(lengths):
        separate = next(probes.capture(slow, [{"src": inputs["src"][row : row + 1, :length]}], layers=layers))
        np.testing.assert_allclose(nested.layers["layers.1"][row], separate.layers["layers.1"][0], rtol=1e-4, atol=1e-5)
