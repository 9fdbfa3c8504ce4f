"""A teacher to test against: a real HTTP server process that speaks Chat Completions, files and batches.

    python teacher_server.py FOLDER

It writes its port to FOLDER/port and one line to FOLDER/log.jsonl for each request, *before* it answers: who asked
what, and what came back. FOLDER/plan.json says how it behaves; see `Plan`. Answers depend on nothing but the request.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FAULTS = ("429", "500", "reset", "truncated", "not json", "no choices", "timeout")
"""What keeps a request from being answered; each happens to a request once at the most."""
OUTCOMES = ("refusal", "length", "wrong schema", "swapped", "empty")
"""Answers that are paid for and no good."""
LIES = (
    "There are three dogs in the picture.",
    "There is a person in the picture.",
    "The dog is to the right of the circle.",
)
"""What the annotations of `many_pictures` deny: a number, an object, a relation."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        plan = folder / "plan.json"
        self.plan: dict[str, Any] = json.loads(plan.read_text()) if plan.exists() else {}
        self.guard = threading.Lock()
        self.seen: dict[str, int] = {}
        self.now = self.most = 0
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.looks: dict[str, int] = {}
        self.log = (folder / "log.jsonl").open("a", buffering=1)
        super().__init__(("127.0.0.1", self.plan.get("port", 0)), Handler)
        aside = folder / "port.partial"
        aside.write_text(str(self.server_address[1]))
        aside.rename(folder / "port")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is killed in the middle of an answer is part of the tests."""

    def write(self, **entry: Any) -> None:
        with self.guard:
            self.log.write(json.dumps(entry) + "\n")


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    # Headers and body leave in one packet: Nagle's algorithm would hold the second back for 40 ms.
    wbufsize = -1
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/chat/completions"):
            self._chat(json.loads(body))
        elif self.path.endswith("/files"):
            self._upload(body)
        elif self.path.endswith("/batches"):
            self._start(json.loads(body))
        else:
            self._send(404, {"error": {"message": f"no {self.path}"}})

    def do_GET(self) -> None:
        path = self.path.split("?")[0].removeprefix("/v1/")
        if match := re.fullmatch(r"files/([^/]+)/content", path):
            self._raw(200, self.server.files[match[1]])
        elif path == "batches":
            self._send(200, {"object": "list", "data": list(self.server.batches.values()), "has_more": False})
        elif match := re.fullmatch(r"batches/([^/]+)", path):
            self._look(match[1])
        else:
            self._send(404, {"error": {"message": f"no {path}"}})

    # Chat Completions

    def _chat(self, body: dict[str, Any]) -> None:
        server, plan = self.server, self.server.plan
        name = hashlib.sha256(json.dumps([body["model"], body["messages"][-1]["content"], kind_of(body)]).encode())
        key = name.hexdigest()[:16]
        with server.guard:
            server.seen[key] = attempt = server.seen.get(key, 0) + 1
            server.now += 1
            server.most = max(server.most, server.now)
        if plan.get("log_arrivals"):
            server.write(key=key, outcome="arrived")
        try:
            time.sleep(plan.get("delay", 0.0))
            complaint = complaint_of(body, plan)
            if complaint:
                server.write(key=key, outcome=str(complaint[0]), most=server.most)
                self._send(*complaint)
                return
            fault = fault_of(key, attempt, plan)
            server.write(
                key=key,
                outcome=fault or "answered",
                most=server.most,
                authorization=self.headers.get("Authorization"),
                body=body if plan.get("keep_bodies") else None,
            )
            if fault:
                self._fail(fault, plan)
            else:
                self._send(200, completion(body, key, plan))
        finally:
            with server.guard:
                server.now -= 1

    def _fail(self, fault: str, plan: dict[str, Any]) -> None:
        if fault == "429":
            self._send(429, {"error": {"message": "slow down"}}, {"Retry-After": str(plan.get("retry_after", 0.05))})
        elif fault in ("500", "503"):
            self._send(int(fault), {"error": {"message": "oops"}})
        elif fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
        elif fault == "truncated":
            self._raw(200, b'{"id": "chatcmpl', length=5000)
            self.wfile.flush()
            self.close_connection = True
        elif fault == "not json":
            self._raw(200, b"<html>a proxy's page</html>")
        elif fault == "no choices":
            self._send(200, {"object": "chat.completion"})
        elif fault == "timeout":
            time.sleep(plan.get("stall", 1.0))
            self.close_connection = True

    # Files and batches

    def _upload(self, body: bytes) -> None:
        boundary = self.headers["Content-Type"].split("boundary=")[1].encode()
        part = next(part for part in body.split(b"--" + boundary) if b'name="file"' in part)
        content = part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n")
        identity = f"file-{len(self.server.files) + 1}"
        self.server.files[identity] = content
        self.server.write(outcome="uploaded", requests=content.count(b"\n"), bytes=len(content))
        self._send(200, {"id": identity, "object": "file", "bytes": len(content), "created_at": 0,
                         "filename": "x.jsonl", "purpose": "batch", "status": "processed"})  # fmt: skip

    def _start(self, body: dict[str, Any]) -> None:
        identity = f"batch-{len(self.server.batches) + 1}"
        self.server.batches[identity] = {
            "id": identity, "object": "batch", "endpoint": body["endpoint"], "completion_window": "24h",
            "created_at": 0, "input_file_id": body["input_file_id"], "status": "validating",
            "metadata": body.get("metadata"),
        }  # fmt: skip
        self.server.write(outcome="batch", id=identity)
        if self.server.plan.get("lose_start") == identity:  # it started, but nobody hears of it
            self._fail("reset", {})
            return
        self._send(200, self.server.batches[identity])

    def _look(self, identity: str) -> None:
        batch = self.server.batches[identity]
        self.server.looks[identity] = look = self.server.looks.get(identity, 0) + 1
        if look >= self.server.plan.get("looks", 2) and batch["status"] in ("validating", "in_progress"):
            self._finish(batch)
        elif batch["status"] == "validating":
            batch["status"] = "in_progress"
        self._send(200, batch)

    def _finish(self, batch: dict[str, Any]) -> None:
        plan = self.server.plan
        good: list[bytes] = []
        bad: list[bytes] = []
        for line in self.server.files[batch["input_file_id"]].splitlines():
            request = json.loads(line)
            key = request["custom_id"]
            self.server.seen[key] = attempt = self.server.seen.get(key, 0) + 1
            complaint = complaint_of(request["body"], plan)
            fault = fault_of(key, attempt, plan)
            self.server.write(key=key, outcome="refused" if complaint else fault or "answered")
            if fault == "reset":
                continue  # expired: in neither file
            entry: dict[str, Any] = {"id": key, "custom_id": key, "response": None, "error": None}
            if complaint or fault:
                status, body = complaint or (500, {"error": {"message": "oops"}})
                entry["response"] = {"status_code": status, "body": body}
                bad.append(json.dumps(entry).encode())
            else:
                entry["response"] = {"status_code": 200, "body": completion(request["body"], key, plan)}
                good.append(json.dumps(entry).encode())
        for lines, field in ((good, "output_file_id"), (bad, "error_file_id")):
            if lines:
                batch[field] = f"file-{len(self.server.files) + 1}"
                self.server.files[batch[field]] = b"\n".join(lines[::-1]) + b"\n"
        batch["status"] = "completed"

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        self._raw(status, json.dumps(content).encode(), headers=headers)

    def _raw(self, status: int, content: bytes, *, length: int | None = None, headers: Any = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content) if length is None else length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()


def kind_of(body: dict[str, Any]) -> str:
    """The kind that a request asks for, by how our prompts begin; `eval`'s judge and helper say what they want last."""
    system, last = body["messages"][0]["content"], body["messages"][-1]["content"]
    if "quality of answers" in system:
        return "scores"
    if "Options:" in str(last):
        return "letter"
    return next(kind for word, kind in (("conversations for", "conversation"), ("detailed", "detail"),
                                        ("need thinking", "reasoning")) if word in system)  # fmt: skip


def complaint_of(body: dict[str, Any], plan: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
    """A refusal of how a request is put, or of who asks."""
    for parameter in plan.get("refuses", ()):
        if parameter in body:
            detail = f"Unsupported parameter: '{parameter}' is not supported with this model."
            return plan.get("refuses_with", 400), {"error": {"message": detail, "param": parameter}}
    if "status" in plan:
        return plan["status"], {"error": {"message": plan.get("message", "no"), "code": plan.get("code")}}
    return None


def fault_of(key: str, attempt: int, plan: dict[str, Any]) -> str | None:
    """By hash, `fault_share` of the requests fail at their first attempts; `always` fails each time."""
    if plan.get("always"):
        return str(plan["always"])
    draw = int(hashlib.sha256(f"{key}/{attempt}".encode()).hexdigest()[:8], 16) / 2**32
    share = plan.get("fault_share", 0.0)
    faults = plan.get("faults", FAULTS)
    return str(faults[int(draw / share * len(faults))]) if draw < share else None


def completion(body: dict[str, Any], key: str, plan: dict[str, Any]) -> dict[str, Any]:
    """A chat completion; `outcome_share` of them are no good, by hash."""
    draw = int(hashlib.sha256(f"outcome/{key}".encode()).hexdigest()[:8], 16) / 2**32
    share = plan.get("outcome_share", 0.0)
    outcome = OUTCOMES[int(draw / share * len(OUTCOMES))] if draw < share else "good"
    form = {"as_json": "response_format" in body}
    content: str | None = text_of(kind_of(body), key, **form)
    if plan.get("answers") == "about the picture":
        lie = LIES[int(draw * 1e6) % len(LIES)] if draw < plan.get("lies", 0.0) else None
        content = about(kind_of(body), captions_of(body), lie, **form)
    if plan.get("echo_authorization"):
        content = f"{content} {plan['echo_authorization']}"
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    reason = "stop"
    if outcome == "refusal":
        message |= {"content": None, "refusal": "I will not describe this."}
    elif outcome == "length":
        message["content"], reason = str(content)[: len(str(content)) // 2], "length"
    elif outcome == "wrong schema":
        message["content"] = '{"turn": "none"}'
    elif outcome == "swapped":
        message["content"] = "Answer:\nYes.\n===\nQuestion:\nIs it?\n" if kind_of(body) != "detail" else ""
    elif outcome == "empty":
        message["content"] = " "
    return {
        "id": f"chatcmpl-{key}",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": reason, "logprobs": None}],
        "usage": plan.get("usage", {"prompt_tokens": 900, "completion_tokens": 100, "total_tokens": 1000}),
    }


def captions_of(body: dict[str, Any]) -> list[str]:
    """The captions in a request: the lines before the boxes."""
    content = body["messages"][-1]["content"]
    text = content if isinstance(content, str) else content[0]["text"]
    return str(text).split("\n\n", maxsplit=1)[0].splitlines()


def about(kind: str, captions: list[str], lie: str | None, *, as_json: bool) -> str:
    """An answer that says what the captions say, or `lie` instead."""
    said = lie or f"The picture shows {captions[0]}."
    turns = [
        {"question": "What can be seen in the picture?", "answer": said},
        {"question": "Is it a drawing?", "answer": "That cannot be told."},
    ]
    if kind == "detail":
        turns = [{"question": "", "answer": f"{said} Nothing else in it stands out at first sight."}]
    elif kind == "reasoning":
        turns = [{"question": "Why might somebody keep it?", "answer": f"{said} That may remind them of a day out."}]
    return written(kind, turns, as_json=as_json)


def text_of(kind: str, key: str, *, as_json: bool) -> str:
    """A good answer, with words of its own for each request."""
    number = int(key, 16)
    if kind == "scores":
        return f"{number % 10 + 1} {number // 10 % 19 / 2 + 1:g}\n{words(key, 0, 9)}"
    if kind == "letter":
        return f"{words(key, 0, 9)}. The answer is {'AB'[number % 2]}."
    turns = [
        {"question": f"What is {words(key, n, 4)}?", "answer": f"It is {words(key, n + 10, 8)}."} for n in range(3)
    ]
    if kind == "detail":
        turns = [{"question": "", "answer": f"The scene shows {words(key, 20, 12)}."}]
    return written(kind, turns if kind == "conversation" else turns[:1], as_json=as_json)


def written(kind: str, turns: list[dict[str, str]], *, as_json: bool) -> str:
    """Turns in the form that was asked for."""
    if kind == "detail":
        return json.dumps({"answer": turns[0]["answer"]}) if as_json else turns[0]["answer"]
    if as_json:
        return json.dumps({"turns": turns} if kind == "conversation" else turns[0])
    return "\n===\n".join(f"Question:\n{turn['question']}\n===\nAnswer:\n{turn['answer']}" for turn in turns)


def words(key: str, number: int, many: int) -> str:
    """Words that nobody has: letters of a hash."""
    digest = hashlib.sha512(f"{key}/{number}".encode()).hexdigest()
    return " ".join(
        digest[at : at + 6].translate(str.maketrans("0123456789", "ghijklmnop")) for at in range(0, many * 6, 6)
    )


if __name__ == "__main__":
    watcher = os.getppid()
    running = Server(Path(sys.argv[1]))
    threading.Thread(target=running.serve_forever, daemon=True).start()
    while os.getppid() == watcher:  # goes with the test that started it
        time.sleep(0.2)
