"""Pictures for a teacher that sees: a data URL of at most 1,024 px on the long side."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from qllava.errors import DataError

MOST_SIDE = 1024
"""Pixels; models scale larger pictures down themselves, after they were sent and paid for."""
_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png"}
_JPEG_QUALITY = 90


def data_url(path: Path) -> str:
    """The picture as `data:image/...;base64,...`; the file's own bytes where they are small and upright.

    Raises:
        DataError: no such file, or not a picture that can be read to its end.
    """
    from PIL import Image, ImageOps  # noqa: PLC0415 - a teacher that sees needs it, nobody else

    try:
        with Image.open(path) as file:
            upright = file.getexif().get(0x0112, 1) == 1
            if file.format in _TYPES and max(file.size) <= MOST_SIDE and upright:
                file.load()  # a broken file is found here, not by the server
                return _url(_TYPES[file.format], path.read_bytes())
            image = ImageOps.exif_transpose(file)
            if image.has_transparency_data:
                opaque = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", opaque.size, (255, 255, 255, 255)), opaque)
            image = image.convert("RGB")
            image.thumbnail((MOST_SIDE, MOST_SIDE), Image.Resampling.LANCZOS)
    except FileNotFoundError:
        raise DataError(f"image {path} does not exist; check --images") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"image {path} cannot be read ({error}); replace it or leave it out") from None
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=_JPEG_QUALITY)
    return _url("image/jpeg", buffer.getvalue())


def _url(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
