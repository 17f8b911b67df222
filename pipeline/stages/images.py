"""Bytes of a picture file to RGB."""

from __future__ import annotations

import contextlib
import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pass2d.pipeline.problem import ProblemError

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_FORMATS = ("PNG", "JPEG")
_ORIENTATION = 0x0112
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
# What Pillow raises for damaged bytes; nothing is read from the disk here.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)


def decode_rgb(data: bytes, *, file: Path) -> NDArray[np.uint8]:
    """Decode a PNG or JPEG picture.

    Args:
        data: the whole file: RGB, grey (copied to three channels), palette, or with an alpha
            channel (left out); 16 bits a channel keep their upper 8.
        file: where the bytes come from, for the message.

    Returns:
        (H, W, 3) RGB.

    Raises:
        ProblemError: the bytes are no whole picture, or a JPEG says that it is to be turned.
    """
    try:
        with warnings.catch_warnings(), Image.open(BytesIO(data), formats=_FORMATS) as image:
            # A picture of more than 89 million pixels is none of a car's camera: refuse it.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            _require_upright(image, file)
            pixels = _as_rgb(image)
        if data.startswith(_PNG_SIGNATURE):
            _require_whole_png(data)
        return pixels
    except UnidentifiedImageError as error:
        raise _damaged(data, file, "neither PNG nor JPEG") from error
    except (*_DAMAGED, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _damaged(data, file, str(error)) from error


def resize_bilinear(image: NDArray[np.uint8], *, size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a picture as the published nuScenes networks saw it.

    Args:
        image: (H, W, 3) RGB.
        size_hw: new height and width. When they are smaller, every old pixel has its share.

    Returns:
        (h, w, 3) RGB.
    """
    height, width = size_hw
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.array(resized)


def _require_upright(image: Image.Image, file: Path) -> None:
    """Refuse a JPEG with an orientation in EXIF: half of all programs turn it, half do not.

    Raises:
        ProblemError: names the orientation.
    """
    turned = 1
    if image.format == "JPEG":
        with contextlib.suppress(*_DAMAGED, TypeError, KeyError):  # such data says nothing
            turned = image.getexif().get(_ORIENTATION, 1)
    if turned in range(2, 9):
        raise ProblemError.of(
            file=file,
            found=f"a JPEG that is to be turned or mirrored (EXIF orientation {turned})",
            expected="pixels as the calibration has them",
            remedy="Turn the pictures and remove the orientation (ImageMagick: mogrify "
            "-auto-orient), or only remove it, as the calibration was made.",
        )


def _require_whole_png(data: bytes) -> None:
    """Check every chunk to the last: Pillow stops reading once the last row is filled.

    Raises:
        ValueError: a checksum is wrong, or the end is missing.
    """
    start = len(_PNG_SIGNATURE)
    while start + 12 <= len(data):
        (n_bytes,) = struct.unpack_from(">I", data, start)
        end = start + 8 + n_bytes
        if end + 4 > len(data):
            break
        if struct.unpack_from(">I", data, end) != (zlib.crc32(memoryview(data)[start + 4 : end]),):
            raise ValueError(f"wrong checksum of the chunk at byte {start}")
        if data[start + 4 : start + 8] == b"IEND":
            return
        start = end + 4
    raise ValueError("the end of the picture is missing")


def _as_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode in _SIXTEEN_BIT:
        grey = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _damaged(data: bytes, file: Path, reason: str) -> ProblemError:
    return ProblemError.of(
        file=file,
        found=f"{len(data)} bytes that do not decode ({reason})",
        expected="a whole PNG or JPEG picture",
        remedy="The file is damaged or of another format: copy it again, or convert it.",
    )
