"""The official OpenAI client for any endpoint: one request, and what each failure means.

The client's own retries are off: ours honour money, Ctrl-C and the whole run's pauses. The key comes from the
environment, goes into the client, and nowhere else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard
from urllib.parse import urlsplit

from qllava.datagen.teachers.dialect import Dialect, adapted, merged
from qllava.errors import TeacherError, UsageError

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

DEFAULT_MODEL = "gpt-4.1-mini-2025-04-14"
"""The one place that pins the model: it sees, takes schemas and a temperature, and is cheap."""
OFFICIAL_URL = "https://api.openai.com/v1"
_LOCAL_KEY = "none"  # servers of one's own ask for none; the client insists on one
_LONGEST_MESSAGE = 300
_LONGEST_WAIT = 600.0
_SHORTEST_SECRET = 8  # a shorter "key" is a placeholder such as "x", and stands in ordinary words


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a teacher is: `base_url` as the client wants it, without user, password or query in `name`."""

    base_url: str
    name: str
    official: bool
    local: bool


class TryAgainError(Exception):
    """This attempt failed, another may not.

    `wait` seconds the server asked for, if it did; `connection` whether there was no answer at all; `perhaps_billed`
    whether the server may have done the work nevertheless.
    """

    def __init__(
        self, reason: str, *, wait: float | None = None, connection: bool = False, perhaps_billed: bool = False
    ) -> None:
        super().__init__(reason)
        self.wait = wait
        self.connection = connection
        self.perhaps_billed = perhaps_billed


class RelearntError(Exception):
    """The server refused how the request was put; put in the teacher's new dialect it may pass."""


class RefusedError(Exception):
    """The server will never answer this request; others may be fine."""


def is_configured(base_url: str | None = None) -> bool:
    """Whether a key or an endpoint is there for the teacher `openai`."""
    return bool(base_url or os.environ.get("OPENAI_BASE_URL") or os.environ.get("OPENAI_API_KEY"))


def find_endpoint(base_url: str | None) -> Endpoint:
    """The endpoint of `--base-url`, else of OPENAI_BASE_URL, else OpenAI's.

    Raises:
        UsageError: not an http(s) URL, or no key for OpenAI's own endpoint.
    """
    url = base_url or os.environ.get("OPENAI_BASE_URL") or OFFICIAL_URL
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"--base-url {url!r} is no http(s) address; for example http://localhost:8000/v1")
    official = parts.hostname == urlsplit(OFFICIAL_URL).hostname
    if official and not os.environ.get("OPENAI_API_KEY"):
        raise UsageError(
            "OPENAI_API_KEY is not set; export it, name another server with --base-url, or --teacher template"
        )
    port = f":{parts.port}" if parts.port else ""
    local = parts.hostname in ("localhost", "::1") or parts.hostname.startswith("127.")
    return Endpoint(url, f"{parts.scheme}://{parts.hostname}{port}{parts.path.rstrip('/')}", official, local)


class Teacher:
    """One model behind one endpoint; use it as an async context manager.

    `role` is what it is to the person who reads an error, `flag` the option that names its model.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        dialect: Dialect,
        *,
        timeout_s: float,
        note: Callable[[str], None],
        role: str = "teacher",
        flag: str = "--model",
    ) -> None:
        from openai import AsyncOpenAI  # noqa: PLC0415 - 0.5 s that `--help` does not need

        key = os.environ.get("OPENAI_API_KEY") or _LOCAL_KEY
        self.client: AsyncOpenAI = AsyncOpenAI(
            api_key=key, base_url=endpoint.base_url, max_retries=0, timeout=timeout_s
        )
        self.dialect = dialect
        self.role = role
        self.flag = flag
        self._endpoint = endpoint
        self._note = note
        self._secret = key if key != _LOCAL_KEY else ""

    async def __aenter__(self) -> Teacher:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()

    async def ask(self, parameters: Mapping[str, Any], sent: Dialect) -> dict[str, Any]:
        """One answer: the server's JSON as it came.

        Args:
            parameters: of Chat Completions.
            sent: the dialect they are in.

        Raises:
            TryAgainError: no answer this time.
            RelearntError: no answer in this dialect.
            RefusedError: never an answer to this request.
            TeacherError: no answer to any request: key, model or address are wrong, or the account is empty.
        """
        from openai import APIConnectionError, APIStatusError, APITimeoutError  # noqa: PLC0415

        try:
            raw = await self.client.chat.completions.with_raw_response.create(**parameters)
        except APITimeoutError:
            raise TryAgainError("timed out", connection=True, perhaps_billed=True) from None
        except APIConnectionError as error:
            refused = type(error.__cause__).__name__ == "ConnectError"
            why = "cannot connect" if refused else f"connection broke ({type(error.__cause__).__name__})"
            raise TryAgainError(why, connection=True, perhaps_billed=not refused) from None
        except APIStatusError as error:
            if self.learn(sent, error.status_code, self._said(error)):
                raise RelearntError from None
            raise self.meaning(error) from None
        return self._read(raw.http_response.content)

    def learn(self, sent: Dialect, status: int, complaint: str) -> bool:
        """Whether a refusal was about the dialect; then the next request is put otherwise."""
        if status not in (400, 422):
            return False
        change = adapted(sent, complaint)
        if change is None:
            return False
        learnt = merged(self.dialect, change[0])
        if learnt != self.dialect:
            self.dialect = learnt
            self._note(change[1])
        return True

    def redacted(self, text: str) -> str:
        """`text` without the key, should a server have repeated it."""
        return text.replace(self._secret, "***") if len(self._secret) >= _SHORTEST_SECRET else text

    def _read(self, body: bytes) -> dict[str, Any]:
        text = self.redacted(body.decode("utf-8", errors="replace"))
        try:
            content = json.loads(text)
        except ValueError:
            raise TryAgainError("the answer is not JSON", perhaps_billed=True) from None
        if not is_completion(content):
            raise TryAgainError("the answer is no chat completion", perhaps_billed=True)
        return content

    def _said(self, error: APIStatusError) -> str:
        body = error.body if error.body is not None else error.message
        text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
        return self.redacted(text)

    def meaning(self, error: APIStatusError) -> TryAgainError | RefusedError | TeacherError:
        """What a status other than 200 means for the run."""
        status, where = error.status_code, self._endpoint.name
        own = error.body.get("message") if isinstance(error.body, dict) else None  # the client adds words to it
        said = " ".join(self.redacted(own if isinstance(own, str) else error.message).split())[:_LONGEST_MESSAGE]
        if status in (401, 403):
            return TeacherError(f"{where} refuses the key ({status}: {said}); check OPENAI_API_KEY")
        if status == 404:
            return TeacherError(f"{where} does not know this model or path ({said}); check {self.flag} and --base-url")
        if status == 429 and error.code == "insufficient_quota":
            return TeacherError(f"the account at {where} is empty ({said}); top it up and repeat the command")
        if status in (408, 409, 429) or status >= 500:
            wait = _retry_after(error)
            if wait is not None and wait > _LONGEST_WAIT:
                return TeacherError(f"{where} asks to wait {wait:,.0f} seconds ({said}); repeat the command then")
            return TryAgainError(f"{status} {said}", wait=wait)
        return RefusedError(f"{status} {said}")


def is_completion(content: object) -> TypeGuard[dict[str, Any]]:
    """Whether a value has the parts of a chat completion that are read later."""
    if not isinstance(content, dict):
        return False
    choices = content.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return False
    return isinstance(choices[0].get("message"), dict)


def _retry_after(error: APIStatusError) -> float | None:
    """Seconds, from `retry-after-ms` or `retry-after` (seconds or a date)."""
    from email.utils import parsedate_to_datetime  # noqa: PLC0415
    from time import time  # noqa: PLC0415

    headers = error.response.headers
    for header, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(header, "")) * unit
        except ValueError:
            continue
        if 0.0 <= seconds < float("inf"):
            return seconds
    try:
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time())
    except (TypeError, ValueError):
        return None
