"""A real server in a process of its own, over a tiny run."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import torch
from openai import OpenAI
from PIL import Image
from transformers import AutoTokenizer, LlamaForCausalLM

from tests.infer.tiny_run import CONTEXT, save_language_model, save_tower, tiny_recipe, write_run

# Room for an answer that is still under way when a test looks.
LONG_CONTEXT = 8192


def make_run(folder: Path, *, context: int = CONTEXT) -> Path:
    """A finished run under `folder`, of a model that never ends an answer by itself."""
    language = folder / "language"
    save_language_model(language)
    save_tower(folder / "tower")
    tokenizer = AutoTokenizer.from_pretrained(language)
    model = LlamaForCausalLM.from_pretrained(language, dtype="auto")
    with torch.no_grad():
        # Some other logit is always above zero.
        model.lm_head.weight[tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])] = 0
    model.save_pretrained(language)
    config = language / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "max_position_embeddings": context}))
    return write_run(folder / "runs" / "finetune-001", tiny_recipe(folder))


class Running:
    """A server that answers."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path, key: str | None) -> None:
        self.process = process
        self.url = url
        self.log = log
        self.key = key
        self._clients: list[OpenAI] = []

    def client(self, **settings: Any) -> OpenAI:
        values: dict[str, Any] = {"max_retries": 0, "timeout": 120.0, "api_key": self.key or "any"}
        self._clients.append(OpenAI(base_url=f"{self.url}/v1", **{**values, **settings}))
        return self._clients[-1]

    def close(self) -> None:
        """Close the clients that were made."""
        for client in self._clients:
            client.close()

    def health(self) -> dict[str, Any]:
        return dict(httpx2.get(f"{self.url}/health", timeout=60, trust_env=False).json())

    def wait_until(self, *, timeout: float = 60.0, **wanted: int) -> None:
        """Until the sign of life shows these counts."""
        end = time.monotonic() + timeout
        while {name: self.health()[name] for name in wanted} != wanted:
            assert time.monotonic() < end, (wanted, self.health(), self.log.read_text())
            time.sleep(0.05)

    def terminate(self, sent: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(sent)


@contextlib.contextmanager
def running(
    folder: Path, arguments: Sequence[str], *, module: str = "qllava_cli.main", key: str | None = None
) -> Iterator[Running]:
    """`python -m module ARGUMENTS` in `folder` until the block ends; it must say its address on stderr."""
    log = folder / f"log-{time.monotonic_ns()}.txt"
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, f"{root}/cli"]), "COLUMNS": "200"}
    if key is not None:
        environment["TEST_KEY"] = key
    with log.open("wb") as file:
        command = [sys.executable, "-m", module, *arguments]
        process = subprocess.Popen(command, cwd=folder, stdout=file, stderr=file, env=environment)
    server = None
    try:
        server = Running(process, _wait_for_url(process, log), log, key)
        yield server
    finally:
        if server is not None:
            server.close()
        process.kill()
        process.wait()


def _wait_for_url(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + 240
    while True:
        text = log.read_text()
        if "Ctrl-C ends it" in text:
            (url,) = re.findall(r"^api (\S+)/v1", text, re.MULTILINE)
            return str(url)
        assert process.poll() is None, text
        assert time.monotonic() < end, text
        time.sleep(0.1)


def data_url(image: Image.Image, form: str = "PNG") -> str:
    return as_data_url(encoded(image, form), form)


def encoded(image: Image.Image, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


def as_data_url(content: bytes, form: str = "PNG") -> str:
    return f"data:image/{form.lower()};base64,{base64.b64encode(content).decode()}"


def asking(question: str, *images: Image.Image) -> list[dict[str, Any]]:
    """Messages of one question about pictures."""
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]
