"""A picture from bytes that nobody vouches for: its size is read and judged before anything is decoded."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from workbench.errors import Corrupt, OutOfRange

LIMIT_PIXELS = 50_000_000
TURNS = {  # EXIF's orientation, and what puts it upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "PPM", "TIFF")  # by content, whatever the name; none starts a program


def decode(source: Path | bytes, name: str = "", limit: int = LIMIT_PIXELS) -> Tensor:
    """The picture in a file or in bytes: (H, W, 3) uint8, red, green and blue, upright.

    Grey, palette and CMYK become RGB, 16 bits their upper 8, transparency is dropped, an EXIF turn is carried out, and
    of an animation the first frame counts: as torchvision's ImageFolder, but for 16 bits and EXIF.
    name: what an error calls the picture, by default its path.
    Raises OutOfRange for more than `limit` pixels, of which Pillow only warns, and Corrupt if it is no whole picture.
    """
    name = name or (str(source) if isinstance(source, Path) else "The picture")
    try:
        with (
            io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file,
            Image.open(file, formats=FORMATS) as image,
        ):
            if image.width * image.height > limit:
                raise _too_large(name, f"has {image.width} x {image.height} pixels", limit)
            return torch.from_numpy(np.array(_upright_rgb(image)))
    except (MemoryError, OutOfRange):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(name, "has too many pixels", limit) from error
    except UnidentifiedImageError as error:
        raise Corrupt(f"{name} is no picture in a format known here ({', '.join(FORMATS)}).") from error
    except Exception as error:  # a decoder fails on bad bytes in every way there is
        raise Corrupt(f"{name} cannot be decoded ({str(error) or type(error).__name__}).") from error


def _upright_rgb(image: Image.Image) -> Image.Image:
    image.load()
    if (turn := TURNS.get(_orientation(image))) is not None:
        image = image.transpose(turn)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers without a white")
    if image.mode.startswith("I"):  # grey of 16 bits, which Pillow would clip to 8
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if "transparency" in image.info:  # of a palette or a colour
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def _orientation(image: Image.Image) -> Any:
    """What its EXIF says, a number from 1 to 8 if it is sound; 1 where it cannot be read: its pixels are whole."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow's reader, too, fails on bad bytes in every way there is
        return 1


def _too_large(name: str, found: str, limit: int) -> OutOfRange:
    return OutOfRange(f"{name} {found}; at most {limit / 1e6:g} million are decoded. Make it smaller.")
