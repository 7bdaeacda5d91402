"""Small networks with one axis layout each: permuted axes, equal sizes, states, attention maps, two inputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.conformance.comparing import Architecture


def noise(*shape: int) -> Callable[[int, int], Tensor]:
    """Samples of a shape in which -1 stands for the size."""
    return lambda seed, size: torch.randn(
        [size if n == -1 else n for n in shape], generator=torch.Generator().manual_seed(1000 + seed)
    )


class SequenceFirst(nn.Module):
    """A transformer of torch on (tokens, samples, channels); its inputs and outputs have samples first."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 2)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x).transpose(0, 1)).mean(0))


class Recurrent(nn.Module):
    """LSTM samples first and GRU sequence first: outputs, and states whose first axis holds layers and directions."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, num_layers=2, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(16, 8)
        self.cell = nn.GRUCell(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x)
        z, _ = self.gru(y.transpose(0, 1))
        return self.cell(z[-1])


class ChannelsLast(nn.Module):
    """Maps with their channels last, with as many rows as samples; activations and dropout in between."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.LayerNorm(8)
        self.fc1, self.act, self.drop, self.fc2 = nn.Linear(8, 16), nn.GELU(), nn.Dropout(), nn.Linear(16, 8)
        self.relu, self.pool = nn.ReLU(), nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.stem(x).permute(0, 2, 3, 1))
        y = y + self.fc2(self.drop(self.act(self.fc1(y))))
        return self.pool(self.relu(y.permute(0, 3, 1, 2))).flatten(1)


class Attention(nn.Module):
    """Attention that returns its map, averaged over heads and with heads."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.MultiheadAttention(8, 2, batch_first=True)
        self.maps = Maps()

    def forward(self, x: Tensor) -> Tensor:
        return self.maps(self.mean(x, x, x)[0])[0]


class Maps(nn.Module):
    """Attention of two heads whose softmax and queries are modules."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.q_norm, self.softmax, self.proj = nn.Linear(8, 24), nn.LayerNorm(4), nn.Softmax(-1), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4)
        weights = self.softmax(self.q_norm(q) @ k.transpose(2, 3))
        return self.proj((weights @ v).transpose(1, 2).flatten(2)), weights


class Masked(nn.Module):
    """A transformer of torch with a padding mask, which uses nested tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        return self.head(self.encoder(x, src_key_padding_mask=padding)[:, 0])


def padded(seed: int, size: int) -> dict[str, Tensor]:
    return {"x": noise(-1, 8)(seed, size), "padding": torch.arange(size) >= size - seed % 3}


class TwoTowers(nn.Module):
    """An image with a class token and text without one, with equal numbers of tokens."""

    class Image(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cls_token = nn.Parameter(torch.randn(1, 1, 8))
            self.patches = nn.Conv2d(3, 8, 4, 4)
            self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.patches(x).flatten(2).transpose(1, 2)
            return self.block(torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], 1))[:, 0]

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = (
            self.Image(),
            nn.Sequential(nn.Linear(6, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)),
        )
        self.compare = nn.CosineSimilarity(-1)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        return self.compare(self.image(image), self.text(text).mean(1))


def captioned(seed: int, size: int) -> tuple[Tensor, Tensor]:
    return noise(3, -1, -1)(seed, size), noise(-1, 6)(seed + 500, (size // 4) ** 2 + 1)


class Squares(nn.Module):
    """A transformer whose number of tokens, with the class token, is a square: 16 = 15 + 1."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, 8))
        self.embed = nn.Linear(6, 8)
        self.blocks = nn.Sequential(*(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(torch.cat([self.cls_token.expand(len(x), -1, -1), self.embed(x)], 1))


class Windows(nn.Module):
    """Windows folded into the batch, and unfolded again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.outer = nn.Conv2d(3, 8, 1), nn.Linear(8, 8), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        n, c, h, w = y.shape
        windows = y.reshape(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
        z = self.inner(windows).reshape(n, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(n, c, h, w)
        return self.outer(z)


class Mixer(nn.Module):
    """Linear layers over tokens, then over channels."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens, self.act, self.channels = nn.Linear(tokens, tokens), nn.GELU(), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.channels(self.act(self.tokens(x.transpose(1, 2))).transpose(1, 2))


class Signal(nn.Module):
    """Convolutions over time, channels first, with layer norm over channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.norm, self.out = (
            nn.Conv1d(5, 5, 3, padding=1),
            nn.ReLU(),
            nn.LayerNorm(5),
            nn.Conv1d(5, 7, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.relu(self.conv(x)).transpose(1, 2)).transpose(1, 2))


class Upside(nn.Module):
    """Channels first, then samples: outputs of channels x samples."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.turn, self.act = nn.Linear(5, 5), Transpose(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.turn(self.fc(x))).T


class Transpose(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.T


class ClassFirst(nn.Module):
    """Sequence first, with a class token before the patches, as in the original CLIP."""

    def __init__(self) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.randn(8))
        self.patches, self.norm = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8)
        self.blocks = nn.Sequential(*(nn.TransformerEncoderLayer(8, 2, 16) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).permute(2, 0, 1)
        tokens = torch.cat([self.class_embedding.expand(1, len(x), -1), tokens])
        return self.blocks(self.norm(tokens))[0]


class Queries(nn.Module):
    """A fixed number of learned queries that attend to a map: decoder (samples, queries, channels), heads, relu."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(5, 8))
        self.backbone = nn.Conv2d(3, 8, 4, 4)
        self.decoder = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)
        self.box, self.relu = nn.Linear(8, 4), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        memory = self.backbone(x).flatten(2).transpose(1, 2)
        return self.relu(self.box(self.decoder(self.queries.expand(len(x), -1, -1), memory)))


class Frames(nn.Module):
    """Clips whose frames are folded into the batch of an image network, followed by a network over time."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.time = nn.GRU(8, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        n, frames = x.shape[:2]
        return self.time(self.image(x.flatten(0, 1)).view(n, frames, -1))[0]


class UNet(nn.Module):
    """Down and up again: strided and transposed convolutions, upsampling, pixel shuffling, joined maps."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 12, 3, 2, 1)
        self.up, self.shuffle, self.resize = nn.ConvTranspose2d(12, 6, 2, 2), nn.PixelShuffle(2), nn.Upsample(scale_factor=2)
        self.softmax, self.norm, self.out = nn.Softmax(1), nn.GroupNorm(3, 9), nn.Conv2d(9, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        half = self.down(x)
        quarter = self.deep(half)
        joined = torch.cat([self.up(quarter), self.shuffle(quarter)], 1) + 0 * self.resize(quarter)[:, :9]
        return self.softmax(self.out(self.norm(joined)))


class Points(nn.Module):
    """A cloud of points: shared layers over points, then the largest over points."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.second = nn.Linear(3, 8), nn.GELU(), nn.Conv1d(8, 12, 1)
        self.pool, self.head = nn.AdaptiveMaxPool1d(1), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.second(self.act(self.first(x)).transpose(1, 2)))[..., 0])


class OneSize(nn.Module):
    """Windows on a separate axis, in a network of fixed input size: axes must be inferred from weights of adjacent layers."""

    class Partition(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            n, c, h, w = x.shape
            return x.view(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(n, -1, 16, c)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.partition, self.same = nn.Conv2d(3, 8, 1), self.Partition(), nn.Identity()
        self.inner, self.drop = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 6)), nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] != (12, 12):
            raise ValueError("the image has to be 12 x 12")
        return self.drop(self.inner(self.same(self.partition(self.stem(x)))))


SMALL: dict[str, Architecture] = {
    "sequence first": Architecture(
        lambda _: SequenceFirst(),
        noise(-1, 6),
        (5, 7),
        {"embed": "BTC", "encoder*": "TBC"},
        batches=(5, 3),
        fast=True,
        note="as many tokens as samples",
    ),
    "sequence first, uneven": Architecture(
        lambda _: SequenceFirst(), noise(-1, 6), (7, 5), {"embed": "BTC", "encoder*": "TBC"}, batches=(4, 3), fast=True
    ),
    "recurrent": Architecture(
        lambda _: Recurrent(),
        noise(-1, 6),
        (5, 7),
        {"lstm.0": "BTC", "lstm.1.?": "GBC", "gru.0": "TBC", "gru.1": "GBC"},
        batches=(4, 3),
        fast=True,
        note="states of 2 layers x 2 directions, with 4 samples",
    ),
    "channels last": Architecture(
        lambda _: ChannelsLast(), noise(3, -1, -1), (6, 5), {"norm fc? act drop": "BHWC"}, batches=(6, 4), fast=True
    ),
    "attention maps": Architecture(
        lambda _: Attention(),
        noise(-1, 8),
        (5, 4),
        {"mean.1": "BTT", "*.q_norm": "BGTC", "*.softmax maps.1": "BGTT", "mean.0": "BTC"},
        batches=(4, 3),
        fast=True,
    ),
    "masked": Architecture(
        lambda _: Masked(),
        padded,
        (5, 6),
        batches=(4, 3),
        fast=True,
        note="nested tensors: rows are means over a sample's own tokens",
    ),
    "two towers": Architecture(
        lambda _: TwoTowers(),
        captioned,
        (12, 8),
        {"image.patches": "BCHW", "image.block*": "B+TC"},
        prefix=1,
        batches=(4, 3),
        fast=True,
    ),
    "square tokens": Architecture(
        lambda _: Squares(),
        noise(-1, 6),
        (15, 8),
        {"embed": "BTC", "*": "B+TC"},
        prefix=1,
        options={"prefix_tokens": 1},
        batches=(4, 3),
        fast=True,
        note="with `prefix_tokens=1`",
    ),
    "other sizes later": Architecture(
        lambda _: ChannelsLast(),
        noise(3, -1, -1),
        (6, 5),
        {"norm fc? act drop": "BHWC"},
        batches=(6, 4),
        later=7,
        fast=True,
        note="larger images in the second batch",
    ),
    "windows": Architecture(lambda _: Windows(), noise(3, -1, -1), (8, 12), batches=(4, 3), fast=True),
    "mixer": Architecture(Mixer, noise(-1, 6), (7, 5), {"tokens act": "BTU!"}, batches=(4, 3), fast=True),
    "signal": Architecture(
        lambda _: Signal(),
        noise(5, -1),
        (5, 6),
        {"conv relu out model": "BCT", "norm": "BTC"},
        batches=(5, 3),
        fast=True,
        note="as many channels, times and samples",
    ),
    "samples last": Architecture(lambda _: Upside(), noise(5), (1, 1), {"turn act": "CB"}, batches=(5, 3), fast=True),
    "class token, sequence first": Architecture(
        lambda _: ClassFirst(), noise(3, -1, -1), (16, 8), {"patches": "BCHW", "norm blocks*": "+TBC"}, prefix=1, fast=True
    ),
    "queries": Architecture(
        lambda _: Queries(),
        noise(3, -1, -1),
        (16, 8),
        {"backbone": "BCHW", "*": "BTC!"},
        batches=(5, 3),
        fast=True,
        note="as many queries as samples",
    ),
    "frames": Architecture(lambda _: Frames(), noise(-1, 3, 9, 9), (5, 4), {"time.1": "GBC"}, batches=(4, 3), fast=True),
    "U-Net": Architecture(lambda _: UNet(), noise(3, -1, -1), (16, 12), fast=True),
    "points": Architecture(
        lambda _: Points(),
        noise(-1, 3),
        (8, 6),
        {"first act": "BTC", "second pool": "BCT"},
        batches=(8, 3),
        fast=True,
        note="as many points as samples and channels",
    ),
    "one sample first": Architecture(
        lambda _: ChannelsLast(), noise(3, -1, -1), (6, 5), {"norm fc? act drop": "BHWC"}, batches=(1, 3), fast=True
    ),
    "sequence first, one sample": Architecture(
        lambda _: SequenceFirst(), noise(-1, 6), (5, 7), {"embed": "BTC", "encoder*": "TBC"}, batches=(1, 5), fast=True
    ),
    "windows, one size": Architecture(
        lambda _: OneSize(), noise(3, -1, -1), (12, 12), {"stem": "BCHW", "*": "BTTC!"}, batches=(4, 3), fast=True
    ),
}
