"""Many requests at once from the `openai` client: none lost, each answer that of its own picture.

    qllava demo
    python examples/prove_serving.py demo/runs/finetune-001 demo/data/heldout.jsonl --requests 200

`qllava serve` answers in a process of its own, with its default queue: clients that find it full come back when it
says. Then the run answers the same questions here, one at a time. For contrast, the same answers are compared with
those of the next question's picture: were requests mixed up, the two counts would come near each other.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from openai import AsyncOpenAI
from transformers.utils.logging import disable_progress_bar

from qllava.checkpoint.load import load_run
from qllava.checkpoint.manifest import read_run
from qllava.data.images import open_image, resolve_image
from qllava.evaluate.questions import Question, image_root, read_questions
from qllava.infer.engine import Engine
from qllava.infer.sampling import Sampling
from qllava.types import IMAGE, Message, text

# The client waits as long as the server says, again and again, before it gives a request up.
_RETRIES = 100
_TOKENS = 32


def main() -> None:
    """Print what came back; exit code 1 unless all of it is right."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--requests", type=int, default=200)
    arguments = parser.parse_args()
    root = image_root(arguments.file)
    questions = different_pictures_first(read_questions(arguments.file), root)[: arguments.requests]
    with serving(arguments.run) as url:
        started = time.monotonic()
        answers = asyncio.run(ask_all(url, questions, root))
        seconds = time.monotonic() - started
    expected = one_at_a_time(arguments.run, questions, root)
    lost = answers.count(None)
    own = sum(answer == right for answer, right in zip(answers, expected, strict=True))
    other = sum(answer == right for answer, right in zip(answers, [*expected[1:], expected[0]], strict=True))
    pictures = len({question.image for question in questions})
    print(f"{len(questions)} requests at once, {pictures} pictures, {seconds:.0f} s")
    print(f"lost {lost}; equal to the answer about its own picture {own}, about the next question's {other}")
    sys.exit(0 if lost == 0 and own == len(questions) else 1)


def different_pictures_first(questions: Sequence[Question], root: Path) -> list[Question]:
    """Questions about a picture; each picture once before any comes a second time."""
    seen: dict[str, int] = {}
    order: list[tuple[int, int]] = []
    for index, question in enumerate(questions):
        if question.image is not None and resolve_image(root, question.image):
            seen[question.image] = seen.get(question.image, -1) + 1
            order.append((seen[question.image], index))
    return [questions[index] for _, index in sorted(order)]


@contextlib.contextmanager
def serving(run: Path) -> Iterator[str]:
    """`qllava serve` on any free port; yields the API's address."""
    command = [sys.executable, "-m", "qllava_cli.main", "serve", str(run), "--port", "0", "--no-page"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        if process.stderr is None:
            raise RuntimeError("the server has no output")
        try:
            yield _address(process.stderr)
        finally:
            process.terminate()


def _address(lines: Iterator[str]) -> str:
    found = None
    for line in lines:
        found = re.match(r"api (\S+)", line) or found
        if found and "Ctrl-C ends it" in line:
            return found[1]
    raise RuntimeError("the server ended before it answered")


async def ask_all(url: str, questions: Sequence[Question], root: Path) -> list[str | None]:
    """The answers, all asked for at once; None where there is none."""
    async with AsyncOpenAI(base_url=url, api_key="any", max_retries=_RETRIES, timeout=600.0) as client:
        model = (await client.models.list()).data[0].id

        async def ask(question: Question) -> str | None:
            file = resolve_image(root, str(question.image))
            picture = f"data:image/{file.suffix[1:]};base64,{base64.b64encode(file.read_bytes()).decode()}"
            answer = await client.chat.completions.create(
                model=model,
                temperature=0,
                max_tokens=_TOKENS,
                messages=[
                    {
                        "role": "user",
                        "content": [
                            {"type": "image_url", "image_url": {"url": picture}},
                            {"type": "text", "text": question.question},
                        ],
                    }
                ],
            )
            return answer.choices[0].message.content

        found = await asyncio.gather(*(ask(question) for question in questions), return_exceptions=True)
    return [answer if isinstance(answer, str) else None for answer in found]


def one_at_a_time(folder: Path, questions: Sequence[Question], root: Path) -> list[str]:
    """What the run answers without a server."""
    disable_progress_bar()
    engine = Engine(load_run(read_run(folder), device="cuda" if torch.cuda.is_available() else "cpu"))
    answers: list[str] = []
    for question in questions:
        message: Message = {"role": "user", "content": [IMAGE, text(question.question)]}
        picture = open_image(resolve_image(root, str(question.image)))
        answers.append("".join(engine.stream([message], [picture], Sampling(max_new_tokens=_TOKENS))))
    return answers


if __name__ == "__main__":
    main()
