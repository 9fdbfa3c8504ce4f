"""Odd picture files, made here: every mode and format that Pillow writes, cut, turned, animated, mislabelled, bombs."""

from __future__ import annotations

import io
import itertools
import struct
import warnings
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import PIL
from PIL import Image, PngImagePlugin

GRAY = 200
# What stores a level of 200 of 255 in each mode, and the formats that keep the mode.
LEVELS: dict[str, tuple[object, str]] = {
    "1": (1, "BMP DIB GIF ICNS ICO IM MSP PCX PNG PPM TGA TIFF XBM"),
    "L": (GRAY, "AVIF BMP DDS DIB GIF ICNS ICO IM JPEG JPEG2000 MPO PCX PNG PPM SGI SPIDER TGA TIFF WEBP"),
    "P": (GRAY, "GIF ICO IM PCX PNG TGA TIFF WEBP"),
    "RGB": ((GRAY,) * 3, "AVIF BMP DDS DIB GIF ICO IM JPEG JPEG2000 MPO PCX PNG PPM QOI SGI TGA TIFF WEBP"),
    "RGBA": ((GRAY, GRAY, GRAY, 255), "AVIF DDS GIF ICNS ICO IM JPEG2000 PNG QOI SGI TGA TIFF WEBP"),
    "CMYK": ((0, 0, 0, 255 - GRAY), "IM JPEG JPEG2000 TIFF"),
    "YCbCr": ((GRAY, 128, 128), "IM JPEG TIFF"),
    "LAB": ((206, 128, 128), "TIFF"),  # L* 80.8 is sRGB 200
    "LA": ((GRAY, 255), "DDS ICO IM JPEG2000 PNG TGA TIFF WEBP"),
    "PA": ((GRAY, 255), "TIFF"),
    "I": (GRAY * 257, "IM PPM TIFF"),
    "I;16": (GRAY * 257, "ICO IM JPEG2000 PNG PPM TIFF"),
    "F": (GRAY / 255, "IM PPM TIFF"),
}
# Pillow 12 writes these and cannot read them; 13 can.
UNREAD = {"YCbCr.tiff", "clear.ico"} if int(PIL.__version__.partition(".")[0]) < 13 else set()
QUARTERS = ((220, 30, 30), (30, 200, 40), (40, 60, 210), (240, 210, 40))


class Odd(NamedTuple):
    """A file: what is to come out at its corners (with a tolerance), or the reason it is refused for; and its size."""

    name: str
    content: bytes
    reason: str | None = None
    corners: tuple[tuple[int, int, int], ...] = ()
    size: tuple[int, int] | None = None
    tolerance: int = 0


def zoo() -> Iterator[Odd]:
    """All of them, a few kB each."""
    kinds = (
        _modes_and_formats(),
        _cut_short(),
        _turned(),
        _shapes_and_bombs(),
        _animations(),
        _depths_and_transparency(),
        _impostors(),
    )
    for odd in itertools.chain(*kinds):
        yield odd._replace(reason="unreadable") if odd.name in UNREAD else odd


def quarters(width: int = 32, height: int = 16) -> Image.Image:
    """Four colours, so that a turned picture shows it."""
    image = Image.new("RGB", (width, height))
    for number, color in enumerate(QUARTERS):
        box = (number % 2 * width // 2, number // 2 * height // 2)
        image.paste(color, (*box, box[0] + width // 2, box[1] + height // 2))
    return image


def save(image: Image.Image, format_: str, **settings: object) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Pillow 13 deprecates writing and reading some old formats; people's files stay what they are.
        warnings.simplefilter("ignore", DeprecationWarning)
        image.save(buffer, format_, **settings)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, color: int, rows: bytes, *chunks: bytes) -> bytes:
    """A PNG by hand: any header, any chunks before the pixels."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    body = _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + body


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _modes_and_formats() -> Iterator[Odd]:
    for mode, (level, formats) in LEVELS.items():
        image = Image.new(mode, (16, 16), level)  # type: ignore[arg-type]
        if mode in ("P", "PA"):
            image.putpalette([number for number in range(256) for _ in range(3)])
        gray = (255,) * 3 if mode == "1" else (GRAY,) * 3
        for format_ in formats.split():
            name = f"{mode.replace(';', '')}.{format_.lower()}"
            yield Odd(name, save(image, format_), corners=(gray,) * 4, tolerance=3)


def _cut_short() -> Iterator[Odd]:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    for format_ in ("JPEG", "PNG", "TIFF", "WEBP"):
        whole = save(noise, format_)
        for tenth in range(10):
            yield Odd(f"cut{tenth}.{format_.lower()}", whole[: len(whole) * tenth // 10], reason="unreadable")


def _turned() -> Iterator[Odd]:
    upright = quarters()
    # How a camera stores what is to be seen upright: the inverse of what the tag asks for.
    stored = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    for tag, turn in stored.items():
        exif = Image.Exif()
        exif[0x0112] = tag
        image = upright if turn is None else upright.transpose(turn)
        for format_ in ("JPEG", "PNG", "WEBP", "TIFF"):
            settings = {"quality": 95} if format_ in ("JPEG", "WEBP") else {}
            content = save(image, format_, exif=exif, **settings)
            yield Odd(f"turned{tag}.{format_.lower()}", content, corners=QUARTERS, size=(32, 16), tolerance=25)
    broken = save(upright, "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff garbage")
    yield Odd("broken-exif.png", broken, corners=QUARTERS, size=(32, 16))


def _shapes_and_bombs() -> Iterator[Odd]:
    red = (220, 30, 30)
    for width, height in ((1, 1), (1, 100), (100, 1), (1, 200)):
        content = save(Image.new("RGB", (width, height), red), "PNG")
        yield Odd(f"{width}x{height}.png", content, corners=(red,) * 4, size=(width, height))
    yield Odd("1x201.png", save(Image.new("RGB", (1, 201), red), "PNG"), reason="too_large")
    yield Odd("20000x20000.png", png(20_000, 20_000, 8, 2, b"\0" * 1000), reason="too_large")
    yield Odd("10000x10000.png", png(10_000, 10_000, 8, 2, b"\0" * 1000), reason="too_large")
    yield Odd("9000x9000-of-nothing.png", png(9_000, 9_000, 8, 2, b"\0" * 1000), reason="unreadable")
    yield Odd("0x0.png", png(0, 0, 8, 2, b""), reason="unreadable")
    bmp = bytearray(save(Image.new("RGB", (4, 4)), "BMP"))
    bmp[18:26] = struct.pack("<ii", 20_000, 20_000)
    yield Odd("20000x20000.bmp", bytes(bmp), reason="too_large")
    gif = bytearray(save(Image.new("L", (4, 4)), "GIF"))
    gif[6:10] = struct.pack("<HH", 65_535, 65_535)
    yield Odd("65535x65535.gif", bytes(gif), reason="too_large")
    zeros = zlib.compress(bytes(100_000_000), 9)
    row = bytes([0, *red]) * 1
    text = png(1, 1, 8, 2, row, _chunk(b"zTXt", b"Comment\0\0" + zeros))
    yield Odd("text-bomb-ztxt.png", text, reason="unreadable")
    text = png(1, 1, 8, 2, row, _chunk(b"iTXt", b"Comment\0\1\0\0\0" + zeros))
    yield Odd("text-bomb-itxt.png", text, reason="unreadable")
    many = [_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1_000_000), 9))] * 100
    yield Odd("text-bomb-many.png", png(1, 1, 8, 2, row, *many), reason="unreadable")
    profile = png(1, 1, 8, 2, row, _chunk(b"iCCP", b"icc\0\0" + zeros))
    yield Odd("profile-bomb.png", profile, reason="unreadable")


def _animations() -> Iterator[Odd]:
    first, second = quarters(), Image.new("RGB", (32, 16), (1, 2, 3))
    for format_, settings in (
        ("GIF", {}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("AVIF", {"quality": 100}),
        ("MPO", {"quality": 95}),
    ):
        content = save(first, format_, save_all=True, append_images=[second], **settings)
        yield Odd(f"animated.{format_.lower()}", content, corners=QUARTERS, size=(32, 16), tolerance=25)


def _depths_and_transparency() -> Iterator[Odd]:
    deep = struct.pack(">BHHH", 0, 200 * 257, 100 * 257, 50 * 257)
    yield Odd("rgb16.png", png(1, 1, 16, 2, deep), corners=((200, 100, 50),) * 4)
    yield Odd("gray-alpha16.png", png(1, 1, 16, 4, struct.pack(">BHH", 0, 9, 0)), corners=((255,) * 3,) * 4)
    dark = Image.fromarray(np.full((4, 4), 3 << 8, dtype=np.uint16))
    yield Odd("dark16.png", save(dark, "PNG"), corners=((3, 3, 3),) * 4)
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    for format_ in ("PNG", "WEBP", "TIFF", "ICO"):
        yield Odd(f"clear.{format_.lower()}", save(clear, format_), corners=((255,) * 3,) * 4)
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    yield Odd("half-clear.png", save(half, "PNG"), corners=((127,) * 3,) * 4, tolerance=1)
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    yield Odd("palette-clear.png", save(palette, "PNG", transparency=0), corners=((255,) * 3,) * 4)
    yield Odd("palette-bytes.png", save(palette, "PNG", transparency=b"\x00\xff"), corners=((255,) * 3,) * 4)
    yield Odd("palette.png", save(palette, "PNG"), corners=((10, 20, 30),) * 4)
    rgb = Image.new("RGB", (4, 4), (9, 9, 9))
    yield Odd("rgb-clear.png", save(rgb, "PNG", transparency=(9, 9, 9)), corners=((255,) * 3,) * 4)
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * 1000)
    yield Odd("text.png", save(rgb, "PNG", pnginfo=info), corners=((9, 9, 9),) * 4)
    bright = Image.new("F", (4, 4), float("nan"))
    yield Odd("nan.tiff", save(bright, "TIFF"), corners=((0, 0, 0),) * 4)
    levels = Image.new("F", (4, 4), 150.0)
    yield Odd("levels.tiff", save(levels, "TIFF"), corners=((150, 150, 150),) * 4)


def _impostors() -> Iterator[Odd]:
    image = quarters()
    yield Odd("png-named.jpg", save(image, "PNG"), corners=QUARTERS, size=(32, 16))
    yield Odd("jpeg-named.gif", save(image, "JPEG", quality=95), corners=QUARTERS, size=(32, 16), tolerance=25)
    yield Odd("empty.jpg", b"", reason="unreadable")
    yield Odd("page.jpg", b"<html>404 Not Found</html>", reason="unreadable")
    yield Odd("zeros.png", bytes(5000), reason="unreadable")
    yield Odd("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", reason="unreadable")
    yield Odd("archive.png", b"PK\x03\x04" + bytes(200), reason="unreadable")
    yield Odd("program.eps", save(image, "EPS"), reason="unreadable")
    yield Odd("program.jpg", save(image, "EPS"), reason="unreadable")
    yield Odd("document.pdf", save(image, "PDF"), reason="unreadable")
    huge = save(image.resize((64, 64)), "ICO", sizes=[(64, 64)])
    at = huge.index(b"IHDR") + 4
    yield Odd("bomb-inside.ico", huge[:at] + struct.pack(">II", 60_000, 60_000) + huge[at + 8 :], reason="unreadable")
