"""From a chat request to what the model reads: messages, prepared pictures, tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from PIL import Image
from transformers import BaseImageProcessor

from qllava.errors import DataError
from qllava.infer.pool import AnswerPool, Asked
from qllava.infer.sampling import Sampling
from qllava.serve.api_error import invalid
from qllava.serve.chat_request import ChatMessage, ChatRequest, ImagePart, parse_chat_request
from qllava.serve.pictures import MAX_PIXELS, decode_data_url, is_data_url, read_picture
from qllava.serve.remote import fetch_picture
from qllava.types import IMAGE, Message, Part, Role, text

_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Intake:
    """Reads requests; all that takes time runs in `executor`, off the event loop.

    Attributes:
        pool: tokenises.
        processor: of the vision tower.
        max_images: pictures of one request; more would not fit the model's context.
        default: sampling where a request says nothing.
        executor: few threads: each may hold a picture at its full size.
        remote: whether pictures may be addresses.
        max_pixels: of one picture.
    """

    pool: AnswerPool
    processor: BaseImageProcessor
    max_images: int
    default: Sampling
    executor: Executor
    remote: bool = False
    max_pixels: int = MAX_PIXELS

    async def parse(self, body: bytes) -> ChatRequest:
        """Read a request's body.

        Raises:
            ApiError: as `parse_chat_request`.
        """
        return await self._run(partial(parse_chat_request, body))

    async def read(self, request: ChatRequest) -> Asked:
        """Pictures and tokens of a request.

        Raises:
            ApiError: a picture that is refused, or a conversation that the model cannot take.
        """
        messages, urls = to_messages(request.messages)
        if len(urls) > self.max_images:
            raise invalid(
                f"{len(urls)} pictures do not fit the model's context; send at most {self.max_images}", "messages"
            )
        sampling = request.sampling(self.default)
        pictures = [await self._picture(url, param) for url, param in urls]
        return await self.prepare(messages, pictures, sampling, request.stops)

    async def prepare(
        self,
        messages: list[Message],
        pictures: list[Image.Image],
        sampling: Sampling,
        stops: tuple[str, ...] = (),
    ) -> Asked:
        """The tokens of a conversation, beside its pictures (of `picture`).

        Raises:
            ApiError: the model cannot take it.
        """
        try:
            return await self._run(partial(self.pool.read, messages, pictures, sampling, stops))
        except DataError as error:
            code = "context_length_exceeded" if "the model holds" in str(error) else None
            raise invalid(str(error), "messages", code) from None

    async def picture(self, data: bytes, param: str) -> Image.Image:
        """The picture in a file; `param` is named in complaints.

        Raises:
            ApiError: it is refused.
        """
        return await self._run(partial(read_picture, data, self.processor, param, max_pixels=self.max_pixels))

    async def _picture(self, url: str, param: str) -> Image.Image:
        if is_data_url(url):
            return await self._run(partial(self._decode, url, param))
        if not self.remote:
            raise invalid(
                f"{param}: pictures come as data URLs (data:image/png;base64,...); "
                "addresses are fetched only by a server started with --allow-remote-images",
                param,
                "invalid_image_url",
            )
        return await self.picture(await fetch_picture(url, param), param)

    def _decode(self, url: str, param: str) -> Image.Image:
        return read_picture(decode_data_url(url, param), self.processor, param, max_pixels=self.max_pixels)

    async def _run(self, work: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self.executor, work)


def to_messages(turns: list[ChatMessage]) -> tuple[list[Message], list[tuple[str, str]]]:
    """Our messages, and (url, where it stands) of their pictures in order; neighbours of one role become one turn.

    Raises:
        ApiError: roles in an order that no template can write, or pictures outside the user's turns.
    """
    messages: list[Message] = []
    urls: list[tuple[str, str]] = []
    for index, turn in enumerate(turns):
        parts: list[Part] = []
        content = [] if turn.content is None else turn.content
        for place, part in enumerate([content] if isinstance(content, str) else content):
            if isinstance(part, str):
                parts.append(text(part))
            elif isinstance(part, ImagePart):
                param = f"messages.{index}.content.{place}.image_url.url"
                if turn.role != "user":
                    raise invalid(
                        f"{param}: a picture stands in a turn of the {turn.role}; put it into the user's", param
                    )
                urls.append((part.image_url.url, param))
                parts.append(IMAGE)
            else:
                parts.append(text(part.text))
        role = _ROLES[turn.role]
        if messages and messages[-1]["role"] == role:
            messages[-1] = {"role": role, "content": [*messages[-1]["content"], text("\n\n"), *parts]}
        else:
            messages.append({"role": role, "content": parts})
    _check_order([message["role"] for message in messages])
    return messages, urls


def _check_order(roles: list[Role]) -> None:
    """Training saw one system text, then question and answer in turn; anything else has no meaning to the model."""
    spoken = roles[1:] if roles[0] == "system" else roles
    if "system" in spoken:
        raise invalid("a system text stands behind the first turn; put it first", "messages")
    if not spoken or spoken[0] != "user":
        raise invalid("the conversation does not start with the user's turn; add a question", "messages")
    if spoken[-1] != "user":
        raise invalid("a prompt ends with the user's turn; add a question", "messages")
