"""The chat page: one file without anything from elsewhere, over the same API that every client uses."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from qllava.infer.sampling import Sampling
from qllava.serve.examples import Example
from qllava.serve.guards import HEADERS

_FILE = "page.html"


class Page:
    """The page and what it is told about the server."""

    def __init__(self, model: str, sampling: Sampling, examples: Sequence[Example], *, body_bytes: int) -> None:
        """`model`: the served id; `sampling`: where its controls start; `body_bytes`: that a request may have."""
        self.html = files("qllava.serve").joinpath(_FILE).read_bytes()
        self.examples = tuple(examples)
        self.headers = {
            **HEADERS,
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": _policy(self.html.decode()),
            "X-Frame-Options": "DENY",
        }
        self.settings: dict[str, Any] = {
            "model": model,
            "body_bytes": body_bytes,
            "examples": [example.question for example in examples],
            "sampling": {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "max_tokens": sampling.max_new_tokens,
                "seed": sampling.seed,
            },
        }


def _policy(html: str) -> str:
    """A Content-Security-Policy under which only the page's own script and style run, and only this server is asked."""
    script, style = (_hashes(html, tag) for tag in ("script", "style"))
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hashes(html: str, tag: str) -> str:
    found = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in found)
