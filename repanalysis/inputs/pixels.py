"""Image files of every kind as 8-bit RGB or grey: what is wider is scaled, never clipped; what has no range is refused.

    1, L, P, RGB, CMYK, YCbCr, HSV    as PIL converts them
    LA, PA, RGBA, transparency        without the alpha channel, as torchvision and timm read them
    16-bit grey (PNG, TIFF, PGM)      v -> v / 257, rounded: 0 to 65535 become 0 to 255
    16-bit RGB (PNG, TIFF)            their upper 8 bits, as PIL reads them
    32-bit integers, floats           refused: nothing says which number is white
    several frames (GIF, TIFF)        the first

The orientation that a camera notes (EXIF) is not applied: torchvision and timm don't, and weights were trained without.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

import numpy as np

from probes.errors import DataError, ReportedError, reason_of

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["as_colours", "read_image"]


def read_image(file: IO[bytes], colours: int, name: str) -> Image:
    """An image file as RGB, for 3 colours, or grey.

    Parameters
    ----------
    file : binary file
        Open for reading.
    colours : int
        3 for RGB; grey otherwise.
    name : str
        What messages call it.

    Raises
    ------
    DataError
        If it is not an image, was cut off, or is of a kind that is refused.
    """
    from PIL import Image, ImageFile, UnidentifiedImageError

    lenient, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False  # else cut ones end in grey
    try:
        with Image.open(file) as image:
            return as_colours(image, colours)
    except UnidentifiedImageError as error:
        raise DataError(f"Image {name} can't be read: it is none, or damaged.") from error
    except Exception as error:  # PIL's plugins raise what they like
        detail = reason_of(error)
        detail = detail if isinstance(error, ReportedError) else detail.partition(": ")[2] or detail
        raise DataError(f"Image {name} can't be read: {detail}.") from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient


def as_colours(image: Image, colours: int) -> Image:
    """A PIL image of any mode as RGB, for 3 colours, or grey; see the module.

    Examples
    --------
    >>> from PIL import Image
    >>> grey = Image.fromarray(np.array([[0, 257, 65535]], np.uint16))
    >>> np.asarray(as_colours(grey, 1)).tolist()
    [[0, 1, 255]]
    """
    from PIL import Image

    wide = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))  # their range is 16 bits
    if wide:
        values = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode in ("I", "F"):
        kind = "32-bit integers" if image.mode == "I" else "floats"
        raise DataError(
            f"it holds {kind}, and nothing says which number is white; save it with 8 or 16 bits, or as an npz file"
        )
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB" if colours == 3 else "L")
