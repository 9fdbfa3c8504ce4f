"""Pictures from strangers: checked before they are decoded, and shrunk to what the vision tower takes."""

from __future__ import annotations

import base64
import binascii
import io

from PIL import Image
from transformers import BaseImageProcessor

from qllava.data.images import to_pixels
from qllava.pictures import as_people_see_it
from qllava.serve.api_error import ApiError, invalid

# Pillow's own limit against decompression bombs, 89 million pixels.
MAX_PIXELS = int(Image.MAX_IMAGE_PIXELS or 89_478_485)
# Making a picture square, or its shorter side fit, must not blow it up.
_MAX_RATIO = 50
# What OpenAI takes, and BMP. Pillow reads many more formats, some of which start other programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
_DATA_URL = "data:image/"


def is_data_url(url: str) -> bool:
    """Whether a URL holds the picture itself."""
    return url[: len("data:")].lower() == "data:"


def decode_data_url(url: str, param: str) -> bytes:
    """The file in `data:image/...;base64,...`; `param` is named in complaints.

    Raises:
        ApiError: it is none.
    """
    head, comma, content = url.partition(",")
    if not comma or not head.lower().startswith(_DATA_URL) or not head.lower().endswith(";base64"):
        raise _bad("a data URL looks like data:image/png;base64,...", param)
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _bad(f"its base64 is damaged ({error}); encode the file again", param) from None


def read_picture(
    data: bytes, processor: BaseImageProcessor, param: str, *, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """The picture in a file, prepared for the tower.

    The processor's own resizing is done here: waiting requests then hold a few hundred kilobytes each, and a picture
    that it cannot take is refused before anybody waits for it. Resizing to the size it has already changes nothing, so
    the engine makes the same pixels of it.

    Args:
        data: a JPEG, PNG, WebP, GIF (its first frame) or BMP file.
        processor: of the vision tower.
        param: named in complaints.
        max_pixels: width times height, at most.

    Raises:
        ApiError: not such a picture, damaged, or too large.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as file:
            _check_size(file.size, param, max_pixels)
            prepared = to_pixels(processor, as_people_see_it(file))
    except ApiError:
        raise
    except Image.DecompressionBombError:
        raise _bad(f"it has more than {max_pixels:,} pixels; send a smaller one", param) from None
    except Exception as error:  # decoders fed with damaged bytes raise whatever comes to them
        reason = str(error) if isinstance(error, OSError) and "BytesIO" not in str(error) else ""
        raise _bad(f"it cannot be read{f' ({reason})' if reason else ''}; send {_listed()}", param) from None
    return Image.fromarray(prepared.transpose(1, 2, 0))


def _check_size(size: tuple[int, int], param: str, max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise _bad(f"{width} x {height} pixels are more than {max_pixels:,}; send a smaller one", param)
    # Padding makes a square of the longer side, cropping a strip along it.
    longer, shorter = max(size), min(size)
    if longer > _MAX_RATIO * shorter or longer * longer > 2 * max_pixels:
        raise _bad(f"{width} x {height} pixels are too long and narrow; cut it", param)


def _listed() -> str:
    return f"a whole {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]} file"


def _bad(complaint: str, param: str) -> ApiError:
    return invalid(f"{param}: the picture is refused: {complaint}", param, "invalid_image")
