"""The Batch API: half the price, within a day. Files of requests, submitted, polled, collected, asked again.

What is submitted is remembered before and after, so that a run that was cut off never submits a request twice; a line
is known by its key (`custom_id`). Collected answers go into the journal like all others.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from qllava.datagen.asking import Asked, Inquiry
from qllava.datagen.money import usage_of
from qllava.datagen.pictures import data_url
from qllava.datagen.prompting import Request
from qllava.datagen.teachers.batch_state import NONCE, Batch, State, load_state, new_nonce
from qllava.datagen.teachers.dialect import Dialect
from qllava.datagen.teachers.openai_client import is_completion
from qllava.datagen.teachers.patient_calls import PatientCalls
from qllava.errors import DataError, TeacherError

if TYPE_CHECKING:
    from openai.types import Batch as RemoteBatch

MOST_REQUESTS = 50_000
MOST_BYTES = 200_000_000
_ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
_KEPT_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """`poll_s` seconds between two looks; `retries` more batches for what failed or expired; the provider's limits."""

    poll_s: float = 60.0
    retries: int = 2
    backoff_s: float = 2.0
    most_requests: int = MOST_REQUESTS
    most_bytes: int = MOST_BYTES


async def ask_batches(
    requests: Callable[[], Iterator[Request]],
    inquiry: Inquiry[Request],
    policy: BatchPolicy,
    *,
    note: Callable[[str], None],
    out: Path,
) -> Asked:
    """Get an answer for every request that the journal lacks, in as many rounds as it takes.

    Ctrl-C leaves the open batches with the provider; the same command collects them.

    Raises:
        OSError: the journal or a file of requests cannot be written.
        DataError: the state file cannot be read.
    """
    asking = _Batches(requests, inquiry, policy, note, out)
    try:
        await asking.work()
    except TeacherError as error:
        if inquiry.stop.event.is_set():  # cut short by Ctrl-C
            asking.asked.interrupted = True
            return asking.asked
        asking.asked.stopped, asking.asked.error = str(error), error
    asking.asked.interrupted = inquiry.stop.event.is_set() and asking.asked.stopped is None
    return asking.asked


class _Batches:
    def __init__(
        self,
        requests: Callable[[], Iterator[Request]],
        inquiry: Inquiry[Request],
        policy: BatchPolicy,
        note: Callable[[str], None],
        out: Path,
    ) -> None:
        self.asked = Asked()
        self._requests = requests
        self._builder = inquiry.builder
        self._teacher = inquiry.teacher
        self._journal = inquiry.journal
        self._budget = inquiry.budget
        self._policy = policy
        self._stop = inquiry.stop.event
        self._calls = PatientCalls(inquiry.teacher, inquiry.stop.event, policy.backoff_s)
        self._view = inquiry.view
        self._note = note
        self._out = out
        self._state: State = load_state(out)
        self._reasons: dict[str, str] = {}
        self._rounds = 0

    async def work(self) -> None:
        """Collect what is open, submit what is missing, until nothing is."""
        for batch in self._state.open:
            self._budget.held += batch.bound_usd
        while not self._stop.is_set():
            for batch in tuple(self._state.open):
                await self._send(batch)
            if not self._state.open and not await self._submit_missing():
                break
            await self._collect_open()
        if not self._state.open and not self._stop.is_set():
            self._state.attempts = {}  # the next run may try again what was given up
            self._state.save(self._out)

    async def _submit_missing(self) -> bool:
        """One round of files for all that is missing; False when there is nothing (more) to send."""
        lines: list[bytes] = []
        asked: list[dict[str, Any]] = []
        size, bound, submitted = 0, 0.0, False
        dialect = self._teacher.dialect
        self._rounds += 1
        for request in self._requests():
            if request.key in self._journal:
                self.asked.found += self._rounds == 1
                continue
            if self._state.attempts.get(request.key, 0) > self._policy.retries:
                self.asked.failed[request.key] = self._reasons.get(request.key, "no answer in any batch")
                continue
            if request.key in self.asked.failed:
                continue
            line = await self._line(request, dialect)
            if line is None:
                continue
            cost = self._budget.bound(*self._builder.most_tokens(request), pictures=int(request.file is not None))
            if lines and (len(lines) >= self._policy.most_requests or size + len(line) > self._policy.most_bytes):
                await self._submit(lines, asked, bound, dialect)
                lines, asked, size, bound, submitted = [], [], 0, 0.0, True
            if self._budget.take(cost) != "go":
                break
            lines.append(line)
            asked.append(self._builder.record(request, {}, dialect))
            size, bound = size + len(line), bound + cost
        if lines:
            await self._submit(lines, asked, bound, dialect)
            submitted = True
        if not submitted and self._budget.reached:
            self.asked.stopped = f"{self._budget.reached} is reached"
        return submitted

    async def _line(self, request: Request, dialect: Dialect) -> bytes | None:
        try:
            picture = None if request.file is None else await asyncio.to_thread(data_url, request.file)
        except DataError as error:
            self.asked.failed[request.key] = str(error)
            return None
        body = self._builder.parameters(request, dialect, picture)
        line = {"custom_id": request.key, "method": "POST", "url": _ENDPOINT, "body": body}
        return json.dumps(line, ensure_ascii=False).encode() + b"\n"

    async def _submit(self, lines: list[bytes], asked: list[dict[str, Any]], bound: float, dialect: Dialect) -> None:
        batch = Batch(
            nonce=new_nonce(),
            form=dialect.form,
            limit_field=dialect.limit_field,
            temperature=dialect.temperature,
            renamed=dialect.renamed,
            requests=len(lines),
            bound_usd=bound,
        )
        path = batch.file(self._out)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"".join(lines))
        batch.asked(self._out).write_text("".join(f"{json.dumps(record)}\n" for record in asked), encoding="utf-8")
        for record in asked:
            key = record["key"]
            self._state.attempts[key] = self._state.attempts.get(key, 0) + 1
        self._state.open.append(batch)
        self._state.save(self._out)
        await self._send(batch)

    async def _send(self, batch: Batch) -> None:
        """Upload and start one batch, unless that was done before, perhaps by a run that never heard of it."""
        if batch.batch_id is not None:
            return
        client = self._teacher.client
        # Where a file is known, a run before this one may have started its batch.
        perhaps_started = batch.file_id is not None
        if batch.file_id is None:
            content = batch.file(self._out).read_bytes()
            name = f"{batch.nonce}.jsonl"
            uploaded = await self._calls.call(lambda: client.files.create(file=(name, content), purpose="batch"))
            batch.file_id = uploaded.id
            self._state.save(self._out)
        batch.batch_id = await self._start(batch, perhaps_started=perhaps_started)
        self._note(f"batch {batch.batch_id}: {batch.requests:,} requests submitted")
        self._state.save(self._out)

    async def _start(self, batch: Batch, *, perhaps_started: bool) -> str:
        """Start a batch; where the connection broke, look whether it started all the same."""
        client = self._teacher.client

        async def start() -> str:
            nonlocal perhaps_started
            known = await self._known_to_provider(batch) if perhaps_started else None
            if known is not None:
                return known
            perhaps_started = True
            started = await client.batches.create(
                input_file_id=cast(str, batch.file_id),
                endpoint=_ENDPOINT,
                completion_window="24h",
                metadata={NONCE: batch.nonce},
            )
            return started.id

        return await self._calls.call(start)

    async def _known_to_provider(self, batch: Batch) -> str | None:
        async for remote in self._teacher.client.batches.list(limit=100):
            if (remote.metadata or {}).get(NONCE) == batch.nonce:
                return remote.id
        return None

    async def _collect_open(self) -> None:
        """Poll until every open batch has ended, collecting each as soon as it has."""
        client = self._teacher.client
        while self._state.open and not self._stop.is_set():
            for batch in tuple(self._state.open):
                remote = await self._calls.call(partial(client.batches.retrieve, cast(str, batch.batch_id)))
                if remote.status in ("completed", "expired", "cancelled", "failed"):
                    await self._collect(batch, remote)
            self._view(self.asked, self._budget)
            if self._state.open:
                await self._calls.pause(self._policy.poll_s)

    async def _collect(self, batch: Batch, remote: RemoteBatch) -> None:
        dialect = Dialect(
            cast(Any, batch.form), cast(Any, batch.limit_field), temperature=batch.temperature, renamed=batch.renamed
        )
        asked = map(json.loads, batch.asked(self._out).read_text(encoding="utf-8").splitlines())
        wanted: dict[str, dict[str, Any]] = {record["key"]: record for record in asked}
        before = len(self._journal)
        for file_id in (remote.output_file_id, remote.error_file_id):
            if file_id is None:
                continue
            content = await self._calls.call(partial(self._teacher.client.files.content, file_id))
            self._keep(content.content, wanted, dialect)
        answered = len(self._journal) - before
        self.asked.answered += answered
        self._budget.fail(batch.bound_usd, perhaps_billed=False)
        self._note(f"batch {batch.batch_id} {remote.status}: {answered:,} of {batch.requests:,} answered")
        self._state.open.remove(batch)
        for key in wanted:
            if key in self._journal:
                self._state.attempts.pop(key, None)
        if remote.status == "failed":  # refused as a whole: no request in it was tried
            for key in wanted:
                self._state.attempts.pop(key, None)
        self._state.save(self._out)
        batch.file(self._out).unlink(missing_ok=True)
        batch.asked(self._out).unlink(missing_ok=True)
        if not any(batch.file(self._out).parent.iterdir()):
            batch.file(self._out).parent.rmdir()
        if remote.status == "failed":
            errors = remote.errors.data if remote.errors and remote.errors.data else []
            why = "; ".join(filter(None, (error.message for error in errors))) or "no reason given"
            raise TeacherError(
                f"batch {remote.id} was refused ({self._teacher.redacted(why)}); repeat the command later"
            )

    def _keep(self, content: bytes, wanted: dict[str, dict[str, Any]], dialect: Dialect) -> None:
        """The good lines of one result file into the journal, the others' reasons for the list."""
        records: list[dict[str, Any]] = []
        for line in content.splitlines():
            try:
                entry = json.loads(self._teacher.redacted(line.decode("utf-8", "replace")))
                key, response = entry["custom_id"], entry.get("response") or {}
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # asked again: its key stays without an answer
            asked = wanted.get(key)
            if asked is None or key in self._journal:
                continue
            body: object = response.get("body")
            if response.get("status_code") == 200 and is_completion(body):
                records.append(asked | {"response": body})
                self._budget.settle(0.0, usage_of(body))
                if len(records) == _KEPT_AT_ONCE:
                    self._journal.extend(records)
                    records = []
                continue
            complaint = json.dumps(body or entry.get("error") or {}, ensure_ascii=False)
            status = int(response.get("status_code") or 0)
            if self._teacher.learn(dialect, status, complaint):
                self._state.attempts[key] = max(0, self._state.attempts.get(key, 1) - 1)
            self._reasons[key] = f"{status or 'expired'} {complaint}"[:300]
        if records:
            self._journal.extend(records)
