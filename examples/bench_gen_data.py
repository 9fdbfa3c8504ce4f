"""How much of the bare client's speed gen-data keeps, and whether its memory grows with the number of requests.

    python examples/bench_gen_data.py --requests 4000

A server process on this machine answers at once. In turns: the official client in a plain asyncio loop with as many
requests at once, then gen-data's whole asking (keys, budget, retries, journal with fsync), each in a process of its
own, so that peak memory is theirs alone. Requests and answers are the same for both.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from qllava.datagen.asking import Inquiry, Policy, Stop, ask_all
from qllava.datagen.money import Budget
from qllava.datagen.prompting import Request, RequestBuilder, Sampling
from qllava.datagen.prompts.load import load_prompts
from qllava.datagen.responses import Journal
from qllava.datagen.sources import Instance, Scene
from qllava.datagen.teachers.dialect import Dialect
from qllava.datagen.teachers.openai_client import Teacher, find_endpoint
from qllava.types import Box

TEXT = "Question:\nWhat is on the left?\n===\nAnswer:\nA dog is on the left, next to a circle.\n" * 4
ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "tiny",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 900, "completion_tokens": 100, "total_tokens": 1000},
    }
).encode()


class Handler(BaseHTTPRequestHandler):
    """Answers every request with the same completion, at once."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""

    def do_POST(self) -> None:
        """One answer."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(ANSWER)))
        self.end_headers()
        self.wfile.write(ANSWER)
        self.wfile.flush()


def builder() -> RequestBuilder:
    """Requests with our own prompts."""
    prompts = load_prompts(None, ["conversation"])
    sampling = Sampling()
    return RequestBuilder(
        prompts, model="tiny", sampling=sampling, form="text", context="captions+boxes", see=False, image_root=Path()
    )


def requests(build: RequestBuilder, number: int) -> Iterator[Request]:
    """`number` requests about pictures that differ in a caption."""
    boxes = tuple(Instance("dog", Box(0.1, 0.1, 0.2, 0.2)) for _ in range(6))
    for n in range(number):
        scene = Scene(str(n), f"{n}.jpg", (f"a dog and a circle, number {n}", "a picture"), boxes, {"dog": "animal"})
        request = build.request(scene, "conversation")
        if request is not None:
            yield request


async def bare(url: str, number: int, concurrency: int) -> None:
    """The official client alone."""
    from openai import AsyncOpenAI  # noqa: PLC0415

    build = builder()
    waiting = requests(build, number)
    dialect = Dialect("text", "max_tokens")

    async def work(client: AsyncOpenAI) -> None:
        for request in waiting:
            completion = await client.chat.completions.create(**build.parameters(request, dialect, None))
            if not completion.choices[0].message.content:
                raise RuntimeError("no content")

    async with AsyncOpenAI(api_key="none", base_url=url, max_retries=0) as client:
        await asyncio.gather(*(work(client) for _ in range(concurrency)))


async def ours(url: str, number: int, concurrency: int) -> None:
    """gen-data's asking, journal and all."""
    build = builder()
    budget = Budget(None, max_cost=None, max_requests=None)
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "responses.jsonl") as journal:
        async with Teacher(find_endpoint(url), Dialect("text", "max_tokens"), timeout_s=60, note=print) as teacher:
            inquiry = Inquiry(build, teacher, journal, budget, Stop(), view=lambda asked, budget: None)
            asked = await ask_all(requests(build, number), inquiry, Policy(concurrency))
        if asked.answered != number or len(journal) != number:
            raise RuntimeError(f"{asked.answered} of {number} answered")


def measure(which: str, url: str, number: int, concurrency: int) -> None:
    """Run one side and print seconds and peak memory (MiB) as JSON."""
    start = time.perf_counter()
    asyncio.run({"bare": bare, "ours": ours}[which](url, number, concurrency))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mib": peak}))


def table(number: int, concurrency: int, rounds: int) -> None:
    """Measure both sides in turns and print them."""
    with subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True) as server:
        try:
            if server.stdout is None:
                raise RuntimeError("the server has no output")
            url = f"http://127.0.0.1:{server.stdout.readline().strip()}/v1"
            print(f"{'':12}{'requests':>10}{'seconds':>10}{'a second':>10}{'peak MiB':>10}")
            best: dict[str, float] = {}
            peaks: dict[int, float] = {}
            plan = [("ours", min(1000, number)), *[("bare", number), ("ours", number)] * rounds]
            for which, many in plan:
                command = [sys.executable, __file__, "--measure", which, "--url", url, "--requests", str(many)]
                done = subprocess.run(
                    [*command, "--concurrency", str(concurrency)], env=dict(os.environ), check=True, capture_output=True
                )
                told = json.loads(done.stdout)
                rate = many / told["seconds"]
                print(f"{which:12}{many:>10,}{told['seconds']:>10.2f}{rate:>10.0f}{told['peak_mib']:>10.1f}")
                if many == number:
                    best[which] = max(best.get(which, 0.0), rate)
                if which == "ours":
                    peaks[many] = told["peak_mib"]
            print(f"throughput, ours / bare (best of {rounds}): {best['ours'] / best['bare']:.2f}")
            grown = peaks[number] - peaks[min(1000, number)]
            print(f"peak memory from {min(1000, number):,} to {number:,} requests: {grown:+.1f} MiB")
        finally:
            server.terminate()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--measure", choices=("bare", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        print(server.server_address[1], flush=True)
        server.serve_forever()
    elif given.measure:
        measure(given.measure, given.url, given.requests, given.concurrency)
    else:
        table(given.requests, given.concurrency, given.rounds)


if __name__ == "__main__":
    main()
