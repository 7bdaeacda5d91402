"""Pixel values of every kind of image in closed form; truncated images and values without a range are errors."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from probes.errors import DataError
from repanalysis.inputs.pixels import as_colours, read_image


def written(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def read(content: bytes, colours: int = 3) -> np.ndarray:
    return np.asarray(read_image(io.BytesIO(content), colours, "x.png"))


RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize("colours", [1, 3])
def test_16_bit_images_are_scaled_not_clipped(kind: str, colours: int) -> None:
    """Regression: all but 255 of 65,536 values were read as white; the mean of a random image was 0.992."""
    pixels = read(written(Image.fromarray(RAMP), kind), colours)
    expected = np.rint(RAMP / 257).astype(np.uint8)
    np.testing.assert_array_equal(pixels, expected if colours == 1 else np.repeat(expected[..., None], 3, axis=2))
    assert abs(pixels.mean() / 255 - 0.5) < 0.002


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L"])
def test_byte_order_does_not_matter(mode: str) -> None:
    order = ">u2" if mode.endswith("B") else "<u2"
    image = Image.frombytes(mode, (256, 256), RAMP.astype(order).tobytes())
    np.testing.assert_array_equal(as_colours(image, 1), np.rint(RAMP / 257))


def test_8_bit_and_1_bit_images_are_unchanged() -> None:
    rng = np.random.default_rng(0)
    grey, rgb = rng.integers(0, 256, (9, 7)).astype(np.uint8), rng.integers(0, 256, (9, 7, 3)).astype(np.uint8)
    np.testing.assert_array_equal(read(written(Image.fromarray(rgb), "PNG")), rgb)
    np.testing.assert_array_equal(read(written(Image.fromarray(grey), "PNG"), 1), grey)
    bits = grey > 127
    np.testing.assert_array_equal(read(written(Image.fromarray(bits), "PNG"), 1), bits * np.uint8(255))
    table = Image.fromarray(rgb).quantize(256)
    np.testing.assert_array_equal(read(written(table, "PNG")), np.asarray(table.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
def test_the_alpha_channel_is_left_out_without_a_warning(mode: str) -> None:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
    if mode == "P":
        palette = Image.fromarray(rgb).quantize(64)
        content, expected = written(palette, "PNG", transparency=bytes(range(64))), np.asarray(palette.convert("RGB"))
    else:
        base = Image.fromarray(rgb).convert("L" if mode == "LA" else "P" if mode == "PA" else "RGB")
        image = base.convert(mode)
        image.putalpha(Image.fromarray(rng.integers(0, 256, (8, 8)).astype(np.uint8)))
        content, expected = written(image, "PNG" if mode != "PA" else "TIFF"), np.asarray(base.convert("RGB"))
        if mode == "PA":
            np.testing.assert_array_equal(np.asarray(as_colours(image, 3)), expected)
            return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read(content), expected)


def test_cmyk_images_are_converted_to_rgb() -> None:
    inks = np.zeros((4, 4, 4), np.uint8)
    inks[0, 0] = 0, 255, 255, 0  # magenta and yellow: red
    inks[1, 1] = 0, 0, 0, 255
    pixels = read(written(Image.frombytes("CMYK", (4, 4), inks.tobytes()), "TIFF"))
    assert pixels[0, 0].tolist() == [255, 0, 0]
    assert pixels[1, 1].tolist() == [0, 0, 0]
    assert pixels[2, 2].tolist() == [255, 255, 255]


@pytest.mark.parametrize("array", [np.ones((4, 4), np.int32), np.ones((4, 4), np.float32)])
def test_numbers_without_a_range_are_refused(array: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"Image x.png can't be read: it holds .*, and nothing says which number is white"):
        read(written(Image.fromarray(array), "TIFF"))


KINDS: list[tuple[str, dict[str, Any]]] = [
    ("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("BMP", {}), ("WEBP", {}), ("WEBP", {"lossless": True}),
    ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("PPM", {}), ("GIF", {}),
]  # fmt: skip


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_a_truncated_image_is_an_error(
    kind: str, options: dict[str, Any], lenient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every length, also where another library has set PIL to fill missing pixels."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    colours = np.random.default_rng(0).integers(0, 255, (4, 5, 3))
    content = written(Image.fromarray(np.kron(colours, np.ones((8, 8, 1))).astype(np.uint8)), kind, **options)
    expected = read(content)
    refused = 0
    for cut in range(0, len(content), max(1, len(content) // 60)):
        try:
            pixels = read(content[:cut])
        except DataError as error:
            assert str(error).startswith("Image x.png can't be read: ")  # noqa: PT017
            assert "0x" not in str(error)  # noqa: PT017  # no address of an object
            refused += 1
        else:
            np.testing.assert_array_equal(pixels, expected)  # only trailing bytes without pixel data are missing
    assert refused > 50
    assert lenient == ImageFile.LOAD_TRUNCATED_IMAGES


def test_the_first_of_several_frames_is_used() -> None:
    frames = [Image.new("RGB", (4, 4), (shade, 0, 0)) for shade in (10, 200)]
    content = written(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    assert read(content)[0, 0].tolist() == [10, 0, 0]


def test_the_orientation_of_the_camera_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = written(Image.new("RGB", (6, 4)), "JPEG", exif=exif)
    assert read(content).shape == (4, 6, 3)
