"""Picture files that nobody has to trust: each becomes upright RGB, the same way everywhere, or is refused by name.

Training, chat, evaluation, serving and the check of a data set all read pictures here. No torch: the check reads many
at once.

What becomes of each kind:

- turned upright by its EXIF tag; EXIF that cannot be read turns nothing;
- transparency lies on white: most such pictures are drawings made for a white page, and what is under the transparent
  part is usually black, on which black lines vanish;
- 16 bits a channel keep their upper eight; 32-bit whole numbers are read as 16 bits, which is what PNG and PGM put
  there; fractions up to 1 are shares of white, larger ones levels of 0-255;
- CMYK, YCbCr and palettes go through Pillow's plain conversion (embedded colour profiles are not applied), LAB
  through littleCMS;
- of an animation the first frame.
"""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from qllava.errors import DataError

MOST_PIXELS = 89_478_485
"""Pixels of a picture at most: where Pillow begins to warn. 9,459 x 9,459; its RGB takes 256 MiB."""
MOST_BYTES = 1 << 29
"""Bytes of a picture's file at most: some decoders read it whole."""
MOST_ELONGATED = 200
"""Longer side : shorter side at most; scaled to a tower's height, 1 x 20,000 pixels would become 6.7 million wide."""

# Decoding it would run Ghostscript on a stranger's program.
_PROGRAMS = frozenset({"EPS"})
_REMEDY = "replace it or remove its samples"


class PictureError(DataError):
    """A picture that cannot be used.

    Attributes:
        reason: missing, outside, unreadable or too_large; counts are kept by it.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[PictureError], tuple[str, str]]:
        """Both arguments, so that it survives the way back from another process."""
        return type(self), (self.reason, str(self))


def open_image(path: Path, *, draft: int | None = None) -> Image.Image:
    """A picture as people see it: upright, RGB, transparency on white.

    Args:
        path: the file.
        draft: for thumbnails, a JPEG may be decoded smaller, with at least this many pixels a side: several times
            faster, and other pixels than a model is shown.

    Raises:
        PictureError: no such file; or no picture that can be read to its end; or one that is too large or too thin.
    """
    shown = str(path)
    try:
        _check_file(path)
        with path.open("rb") as file:
            return _decode(file, shown, draft)
    except OSError as error:
        raise _unreadable(error, shown) from None


def decode_image(content: bytes, name: str) -> Image.Image:
    """The same for a picture in memory, e.g. one that a client sent; `name` is what errors call it.

    Raises:
        PictureError: as `open_image`.
    """
    if len(content) > MOST_BYTES:
        raise _too_big(name, len(content))
    return _decode(io.BytesIO(content), name)


def check_header(path: Path) -> None:
    """Open a picture without decoding it: a hundredth of the time, and finds all but damage inside.

    Raises:
        PictureError: as `open_image`, for what the beginning of a file tells.
    """
    try:
        _check_file(path)
        with path.open("rb") as file, _quiet(), _open(file, str(path)):
            pass
    except OSError as error:
        raise _unreadable(error, str(path)) from None


def resolve_image(root: Path, name: str) -> Path:
    """The file behind an image name of a data set, which may come from anywhere and so may not leave `root`.

    Links are followed and must end inside. The folder itself may be a link, so a data set on another disk is one link
    away; a folder *of* links out of it is not read, because whoever made the folder could point them anywhere.

    Args:
        root: the image folder; it may itself be a link.
        name: path relative to `root`, or an absolute one inside it.

    Raises:
        PictureError: the name leads out of `root` (links followed), or there is no such file.
    """
    try:
        base = root.resolve()
        path = (base / name).resolve()
        inside, there = path.is_relative_to(base), path.is_file()
    except (OSError, ValueError, RuntimeError):  # too long, a zero byte or half a character in it, links in a circle
        raise PictureError("missing", f"image {name[:200]!r} is no file name; correct the sample") from None
    if not inside:
        written = Path(os.path.normpath(base / name))
        if written.is_relative_to(base):
            raise PictureError(
                "outside",
                f"image {name!r} is a link that leads outside the image folder {root}; link the whole folder instead "
                "(--images may be a link), or copy the pictures inside (cp -L)",
            )
        raise PictureError(
            "outside", f"image {name!r} lies outside the image folder {root}; copy it inside or change --images"
        )
    if not there:
        raise PictureError("missing", f"image {name!r} is not in {root}; check the image folder (--images)")
    return path


def as_people_see_it(opened: Image.Image) -> Image.Image:
    """An opened picture that was found bearable, upright and RGB; raises whatever its decoder does."""
    with _quiet():
        return _to_rgb(_upright(opened))


def _check_file(path: Path) -> None:
    status = path.stat()
    if path.is_dir() or not path.is_file():  # opening a pipe would wait forever
        raise PictureError("unreadable", f"image {path} is no file; {_REMEDY}")
    if status.st_size > MOST_BYTES:
        raise _too_big(str(path), status.st_size)


def _too_big(name: str, size: int) -> PictureError:
    return PictureError("too_large", f"image {name} has {size:,} bytes, more than {MOST_BYTES:,}; make it smaller")


def _decode(file: IO[bytes], name: str, draft: int | None = None) -> Image.Image:
    with _quiet():
        opened = _open(file, name)
        try:
            if draft is not None:
                opened.draft("RGB", (draft, draft))
            return _to_rgb(_upright(opened))
        # Whatever a decoder raises on a stranger's bytes (struct.error, IndexError, zlib.error, EOFError, MemoryError
        # have been seen): the file is refused by name, and no run ends because of it.
        except Exception as error:
            raise _unreadable(error, name) from None


def _quiet() -> warnings.catch_warnings[None]:
    """Pillow warns of odd metadata: a picture is read or refused, and never both used and grumbled about."""
    return warnings.catch_warnings(action="ignore")


def _open(file: IO[bytes], name: str) -> Image.Image:
    """The picture with its header read and its size found bearable."""
    try:
        opened = Image.open(file)
    except UnidentifiedImageError:
        raise PictureError("unreadable", f"image {name} is not a picture that PIL can read; {_REMEDY}") from None
    except Image.DecompressionBombError:
        raise PictureError("too_large", f"image {name} has more than {MOST_PIXELS:,} pixels; make it smaller") from None
    except Exception as error:  # see `_decode`
        raise _unreadable(error, name) from None
    width, height = opened.size
    if width * height > MOST_PIXELS:
        raise PictureError(
            "too_large",
            f"image {name} has {width:,} x {height:,} pixels, more than {MOST_PIXELS:,}; make it smaller",
        )
    if max(width, height) > MOST_ELONGATED * min(width, height):
        raise PictureError(
            "too_large",
            f"image {name} is {width:,} x {height:,} pixels, thinner than {MOST_ELONGATED}:1; cut it into pieces",
        )
    if opened.format in _PROGRAMS:
        raise PictureError(
            "unreadable", f"image {name} is a program ({opened.format}), which is never run; save it as PNG"
        )
    return opened


def _unreadable(error: Exception, name: str) -> PictureError:
    if isinstance(error, FileNotFoundError):
        return PictureError("missing", f"image {name} does not exist; check the image folder (--images)")
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    reason = " ".join(said.split())[:200] or type(error).__name__
    return PictureError("unreadable", f"image {name} cannot be read ({reason}); {_REMEDY}")


def _upright(file: Image.Image) -> Image.Image:
    file.load()
    try:
        return ImageOps.exif_transpose(file)
    except Exception:  # metadata that cannot be read turns nothing; the pixels are whole
        return file


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _gray(np.asarray(image).astype(np.uint16) >> 8)
    if image.mode == "I":
        return _gray(np.asarray(image).clip(0, 65535) >> 8)
    if image.mode == "F":
        levels = np.nan_to_num(np.asarray(image))
        return _gray(np.rint(levels * (255 if levels.max() <= 1 else 1)).clip(0, 255))
    if image.mode == "LAB":
        from PIL import ImageCms  # noqa: PLC0415 - needs littleCMS, and hardly any picture does

        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        return image if converted is None else converted
    if not image.has_transparency_data:
        return image.convert("RGB")
    if image.mode == "La":  # premultiplied, and Pillow has no direct way from it
        image = image.convert("LA")
    opaque = image.convert("RGBA")
    page = Image.new("RGBA", opaque.size, (255, 255, 255, 255))
    return Image.alpha_composite(page, opaque).convert("RGB")


def _gray(levels: np.ndarray) -> Image.Image:
    return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
