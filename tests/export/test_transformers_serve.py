"""`transformers serve DIR`, the process, answers over HTTP what our chat answers from the same folder."""

from __future__ import annotations

import base64
import io
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest
from transformers.utils.import_utils import is_serve_available

from qllava.checkpoint.published import load_published
from qllava.export.run import export
from qllava.infer.chat_session import ChatSession
from qllava.infer.engine import Engine
from qllava.infer.sampling import Sampling
from tests.export.runs import make_run, speak_in_words
from tests.infer.tiny_run import picture

TOKENS = 24
QUESTION = "What color is the circle?"


@contextmanager
def served(folder: Path) -> Iterator[openai.OpenAI]:
    """A client of `transformers serve` on a folder, on the CPU in fp32."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder)]
    command += ["--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    log = folder.parent / "serve.log"
    with log.open("w") as said, subprocess.Popen(command, stdout=said, stderr=said, env=dict(os.environ)) as process:
        try:
            for _ in range(120):
                assert process.poll() is None, log.read_text()[-1000:]
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                    break
                except OSError:
                    time.sleep(0.5)
            with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client:
                yield client
        finally:
            process.terminate()


@pytest.mark.slow  # it loads a second transformers
@pytest.mark.skipif(not is_serve_available(), reason="transformers serve needs fastapi (pip install fastapi)")
def test_transformers_serve_answers_as_our_chat(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    speak_in_words(tmp_path / "language")
    out = tmp_path / "out"
    export(run, "hf", out, device="cpu", note=lambda _: None)
    engine = Engine(load_published(str(out), device="cpu"))
    pictures = [picture(60 * seed) for seed in range(4)]
    ours = ["".join(ChatSession(engine, Sampling(max_new_tokens=TOKENS), p).ask(QUESTION)) for p in pictures]
    assert len(set(ours)) > 1  # the picture decides
    theirs = []
    with served(out) as client:
        for each in pictures:
            file = io.BytesIO()
            each.save(file, "PNG")
            url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
            completion = client.chat.completions.create(
                model=str(out),
                temperature=0,
                max_tokens=TOKENS,
                messages=[
                    {
                        "role": "user",
                        "content": [
                            {"type": "image_url", "image_url": {"url": url}},
                            {"type": "text", "text": QUESTION},
                        ],
                    }
                ],
            )
            theirs.append(completion.choices[0].message.content)
    assert theirs == ours
