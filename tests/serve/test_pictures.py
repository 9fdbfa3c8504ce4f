import io

import numpy as np
import pytest
from PIL import Image

from qllava.data.images import build_image_processor, to_pixels
from qllava.infer.engine import Engine
from qllava.serve.api_error import ApiError
from qllava.serve.pictures import MAX_PIXELS, decode_data_url, read_picture
from tests.infer.tiny_run import picture, save_tower
from tests.serve.malformed import png_that_says
from tests.serve.server import as_data_url, encoded


@pytest.mark.parametrize("aspect", ["pad", "crop", "squash"])
@pytest.mark.parametrize("size", [(48, 40), (40, 48), (32, 32), (7, 200), (3, 3), (1, 1), (900, 601)])
def test_a_prepared_picture_gives_the_pixels_of_the_whole_one(
    tmp_path_factory: pytest.TempPathFactory, aspect: str, size: tuple[int, int]
) -> None:
    """What makes preparing at the door right: the processor changes nothing a second time."""
    tower = tmp_path_factory.mktemp("tower")
    save_tower(tower)
    processor = build_image_processor(tower, aspect)  # type: ignore[arg-type]
    whole = picture(250, 200).resize(size)
    prepared = read_picture(encoded(whole), processor, "x")
    assert prepared.size == (32, 32)
    assert np.array_equal(to_pixels(processor, prepared), to_pixels(processor, whole))


def test_it_is_turned_upright_and_transparency_is_white(engine: Engine) -> None:
    processor = engine.image_processor
    half = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    assert to_pixels(processor, read_picture(encoded(half), processor, "x")).min() == 255
    turned = Image.new("RGB", (32, 32))
    turned.paste((255, 255, 255), (0, 0, 32, 8))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    for tag, ends in ((None, (255, 0)), (exif, (0, 255))):
        file = io.BytesIO()
        turned.save(file, "PNG", exif=tag)
        pixels = to_pixels(processor, read_picture(file.getvalue(), processor, "x"))
        assert (pixels[0, 0, 0], pixels[0, -1, 0]) == ends


@pytest.mark.parametrize(
    ("size", "complaint"),
    [
        ((60_000, 60_000), "pixels"),
        ((9_500, 9_500), "9500 x 9500 pixels are more than 89,478,485; send a smaller one"),
        ((13_500, 6_000), "13500 x 6000 pixels are too long and narrow; cut it"),
        ((5_100, 100), "5100 x 100 pixels are too long and narrow; cut it"),
        ((1, 51), "1 x 51 pixels are too long and narrow; cut it"),
    ],
)
@pytest.mark.filterwarnings("ignore:Image size:PIL.Image.DecompressionBombWarning")  # Pillow's own, below its limit
def test_bombs_are_refused_by_their_head(engine: Engine, size: tuple[int, int], complaint: str) -> None:
    assert MAX_PIXELS == 89_478_485
    with pytest.raises(ApiError, match=complaint) as caught:
        read_picture(png_that_says(*size), engine.image_processor, "messages.0")
    assert caught.value.body["error"]["param"] == "messages.0"
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "content", [b"", b"GIF89a", encoded(picture(1))[:100], b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_what_is_no_whole_picture_is_refused(engine: Engine, content: bytes) -> None:
    with pytest.raises(ApiError, match=r"^x: the picture is refused: it cannot be read.*; send a whole JPEG, PNG"):
        read_picture(content, engine.image_processor, "x")


def test_data_urls() -> None:
    assert decode_data_url(as_data_url(b"abc"), "x") == b"abc"
    assert decode_data_url("DATA:image/x;charset=a;base64,YWJj", "x") == b"abc"
    for bad in ("data:,x", "data:image/png,x", "data:text/plain;base64,YWJj", "data:image/png;base64"):
        with pytest.raises(ApiError, match=r"a data URL looks like data:image/png;base64,\.\.\."):
            decode_data_url(bad, "x")
    with pytest.raises(ApiError, match="its base64 is damaged"):
        decode_data_url("data:image/png;base64,Y", "x")
