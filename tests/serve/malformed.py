"""Bodies that no client should send: fuzzed JSON, wrong types, bombs, damaged and huge pictures, bad addresses."""

from __future__ import annotations

import base64
import json
import random
import struct
import zlib
from typing import Any

from tests.infer.tiny_run import picture
from tests.serve.server import as_data_url, encoded

WRONG: list[Any] = [None, True, -1, 1e308, "x", "", [], {}, [[]], {"a": 1}, "\u0000", "<image>", [None], 2**70]
ADDRESSES = [
    "http://127.0.0.1:1/x.png",
    "http://localhost/x.png",
    "http://169.254.169.254/latest/meta-data/",
    "http://10.0.0.1/x.png",
    "http://[::1]/x.png",
    "http://[::ffff:127.0.0.1]/x.png",
    "http://0.0.0.0/",
    "http://2130706433/",
    "file:///etc/passwd",
    "/etc/passwd",
    "../../runs/finetune-001/manifest.json",
    "C:\\windows\\win.ini",
    "ftp://example.com/x.png",
    "gopher://127.0.0.1:70/_x",
    "javascript:alert(1)",
    "http://user:secret@example.com/",
    "http://example.com:99999/",
    "http://[/",
    "",
    "data:",
    "data:,hello",
    "data:text/html;base64,PGI+",
    "data:image/png;base64,",
    "data:image/png;base64,%%%",
    "data:image/svg+xml;base64,PHN2Zy8+",
    "data:image/png,plain",
    "data:image/png;base64,AAAA",
]


def body(content: Any, **more: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": content}], "max_tokens": 1, **more}).encode()


def showing(url: Any, **more: Any) -> bytes:
    return body([{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "x"}], **more)


def png_that_says(width: int, height: int) -> bytes:
    """A tiny file of a picture that would fill the memory."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def malformed(count: int, seed: int) -> list[bytes]:
    """At least the listed cases, and as many fuzzed ones as make `count`."""
    draw = random.Random(seed)
    cases = [*listed(), *(showing(address) for address in ADDRESSES)]
    kinds = [fuzzed_json, wrong_type, damaged_picture, control_text, nested]
    while len(cases) < count:
        cases.append(kinds[len(cases) % len(kinds)](draw))
    draw.shuffle(cases)
    return cases


def listed() -> list[bytes]:
    good = encoded(picture(20))
    bombs = [png_that_says(w, h) for w, h in ((60_000, 60_000), (2**31 - 1, 1), (1, 89_000_000), (13_000, 100), (0, 0))]
    return [
        b"",
        b"null",
        b"{}",
        b"[]",
        b'"x"',
        b"\xff\xfe\x00",
        b"\x00" * 1000,
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"messages":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"messages":[' + b"1," * 300_000 + b"1]}",
        b'{"messages":[{"role":"user","content":['
        + b'{"type":"text","text":"a"},' * 5000
        + b'{"type":"text","text":"a"}]}]}',
        b'{"messages":[{"role":"user","content":"\\ud800"}]}',
        b'{"messages":[{"role":"user","content":"x"}],"seed":' + b"9" * 100_000 + b"}",
        b'{"messages":[{"role":"user","content":"x"}],"temperature":NaN}',
        b'{"messages":[{"role":"user","content":"x"}],"' + b"k" * 100_000 + b'":1}',
        body("Y" * 3_000_000),
        body([{"type": "text", "text": "Y"}] * 1025),
        *(showing(as_data_url(bomb)) for bomb in bombs),
        showing(as_data_url(good[: len(good) // 2])),
        showing(as_data_url(good).replace("AAA", "A=A", 1)),
        showing(as_data_url(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")),
        showing(as_data_url(b"GIF89a" + bytes(10))),
        showing(as_data_url(zlib.compress(bytes(5_000_000)))),
    ]


def fuzzed_json(draw: random.Random) -> bytes:
    """A good body with bytes changed, cut or put in, so that it is no longer JSON of the right kind."""
    whole = bytearray(body("How many?", seed=1))
    choice = draw.randrange(3)
    if choice == 0:
        return bytes(whole[: draw.randrange(len(whole))])
    if choice == 1:
        whole[draw.randrange(len(whole) // 4)] = draw.choice(b"\x00\x80\xff{}[]")
        return bytes(b"\x01" + whole)
    place = draw.randrange(len(whole))
    return bytes(whole[:place] + b"\x00\xc3(" + whole[place:])


def wrong_type(draw: random.Random) -> bytes:
    """A good body in which one field holds something else."""
    good: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    wrong: dict[str, list[Any]] = {
        "messages": WRONG,
        "model": [True, 1, [], {}, "other"],
        "stream": ["yes", 1, [], {}],
        "max_tokens": [0, -1, 1.5, "1", True, [], {}, 2**70 * 1.5],
        "temperature": [-0.1, 2.1, "0", True, [], {}, 1e308],
        "top_p": [-1, 0, 1.1, "1", [], {}],
        "seed": ["1", 1.5, 2**63, [], {}],
        "stop": [1, "", [""], [1], list("abcde"), {}, True],
        "n": [0, 2, "1", 1.5, []],
        "tools": [[{}], "x", {"a": 1}],
        "stream_options": [1, [], {"include_usage": "x"}, {"other": 1}],
        "logprobs": [True, 1, "x"],
        "unheard_of": [1, "x", None],
        "response_format": [{"type": "json_object"}, {"type": "json_schema", "json_schema": {}}, 1],
    }
    name = draw.choice([*wrong, "role", "content", "part"])
    if name == "role":
        good["messages"][0]["role"] = draw.choice(["tool", "function", "", 1, None, [], "User"])
    elif name == "content":
        good["messages"][0]["content"] = draw.choice([1, True, {}, ["x"], [{}], [1], {"type": "text"}])
    elif name == "part":
        part = {"type": draw.choice(["text", "image_url", "input_image", "file", None, 1]), "extra": draw.choice(WRONG)}
        good["messages"][0]["content"] = [part]
    else:
        good[name] = draw.choice(wrong[name])
    return json.dumps(good).encode()


def damaged_picture(draw: random.Random) -> bytes:
    """A picture cut short, or whose head is noise."""
    form = draw.choice(["PNG", "JPEG", "BMP", "GIF", "WEBP"])
    content = bytearray(encoded(picture(draw.randrange(256)), form))
    if draw.random() < 0.5:
        content = content[: draw.randrange(1, len(content) // 3)]
    else:
        content[:16] = draw.randbytes(16)
    return showing(f"data:image/{form.lower()};base64,{base64.b64encode(content).decode()}")


def control_text(draw: random.Random) -> bytes:
    """Control text, where text may not be or at a length that no model holds."""
    token = draw.choice(["<|im_start|>", "<|im_end|>", "<image>", "</s>", "<|endoftext|>", "###", "<pad>"])
    if draw.random() < 0.5:
        return body(token * draw.randrange(300, 900))
    return json.dumps({"messages": [{"role": token, "content": "x"}]}).encode()


def nested(draw: random.Random) -> bytes:
    """Something deep where nothing deep belongs."""
    deep: Any = "x"
    for _ in range(draw.randrange(5, 120)):
        deep = [deep] if draw.random() < 0.5 else {draw.choice("abc"): deep}
    return body("x", **{draw.choice(["stop", "seed", "stream", "tools", "user_"]): deep})
