"""The Batch API against a real server: split, joined by id, asked again, and never submitted twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qllava.datagen.model_run import ModelJob
from qllava.datagen.teachers.batch import BatchPolicy
from qllava.errors import UsageError
from tests.datagen.conftest import TeacherServer
from tests.datagen.test_datagen_model_run import accounted, data_files, job, lines, run, wanted_samples

QUICK = BatchPolicy(poll_s=0.02, retries=3, backoff_s=0.02)


def batch_job(tmp_path: Path, url: str, policy: BatchPolicy = QUICK, **changes: Any) -> ModelJob:
    return job(tmp_path, url, pictures=30, teacher="openai-batch", batch=policy, **changes)


def test_files_are_split_and_joined_by_id(tmp_path: Path, server: TeacherServer) -> None:
    wanted = batch_job(tmp_path, server.start(), replace(QUICK, most_requests=25))
    result, notes = run(wanted)
    expected = wanted_samples(wanted)
    uploads = [entry["requests"] for entry in server.log() if entry["outcome"] == "uploaded"]
    assert sum(uploads) == len(expected) == result.asked.answered
    assert uploads[:-1] == [25] * (len(uploads) - 1)
    assert len(uploads) > 1
    assert accounted(wanted.out) == expected
    assert "batch batch-1 completed: 25 of 25 answered" in notes
    card = json.loads((wanted.out / "card.json").read_text())
    assert card["teacher"] == "openai-batch"
    # No batch price is given for this model, so a batch costs the same.
    assert card["cost_usd"] == pytest.approx(len(expected) * 0.0019)
    assert sorted(path.name for path in wanted.out.iterdir()) == [
        "README.md", "align.json", "card.json", "heldout.jsonl", "instruct.json", "rejected.jsonl", "responses.jsonl"
    ]  # fmt: skip


def test_bytes_split_files_too(tmp_path: Path, server: TeacherServer) -> None:
    wanted = batch_job(tmp_path, server.start(), replace(QUICK, most_bytes=100_000))
    run(wanted)
    sizes = [entry["bytes"] for entry in server.log() if entry["outcome"] == "uploaded"]
    assert len(sizes) > 2
    assert max(sizes) <= 100_000


def test_a_batch_gives_the_same_data_as_single_requests(tmp_path: Path, server: TeacherServer) -> None:
    url = server.start()
    wanted = batch_job(tmp_path, url)
    run(wanted)
    before = len(server.log())
    # The key of a request does not depend on how it is sent: what was answered in a batch is not asked again.
    result, _ = run(replace(wanted, teacher="openai"))
    assert (result.asked.answered, len(server.log())) == (0, before)


def test_failed_and_expired_lines_are_asked_again_up_to_retries(tmp_path: Path, server: TeacherServer) -> None:
    url = server.start(fault_share=0.4, faults=["500", "reset"])
    wanted = batch_job(tmp_path, url, replace(QUICK, retries=1))
    result, _ = run(wanted)
    assert accounted(wanted.out) == wanted_samples(wanted)
    assert max(server.answered().values()) == 1
    assert server.outcomes()["batch"] == 2
    assert result.asked.answered + len(result.asked.failed) == len(wanted_samples(wanted))
    failures = [row for row in lines(wanted.out / "rejected.jsonl") if row["reason"] == "no answer"]
    assert len(failures) == len(result.asked.failed) > 0
    assert {row["detail"].split(" ")[0] for row in failures} <= {"500", "no"}


def test_a_batch_learns_what_the_server_refuses(tmp_path: Path, server: TeacherServer) -> None:
    wanted = batch_job(tmp_path, server.start(refuses=["response_format"]), replace(QUICK, retries=0))
    result, notes = run(wanted)
    assert notes.count("the server refuses response_format; asking for labelled text instead") == 1
    assert result.asked.answered == len(wanted_samples(wanted))
    assert not result.asked.failed


def test_a_run_that_was_cut_off_finds_its_batches(
    tmp_path: Path, server: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.start(looks=3)
    wanted = batch_job(tmp_path, url)

    class CutOffError(BaseException):
        pass

    async def die(*_: object) -> None:
        raise CutOffError

    from openai.resources.batches import AsyncBatches

    with monkeypatch.context() as patch:
        patch.setattr(AsyncBatches, "retrieve", die)
        with pytest.raises(CutOffError):
            run(wanted)
    assert server.outcomes()["batch"] == 1
    state = json.loads((wanted.out / "batches.json").read_text())
    assert [batch["batch_id"] for batch in state["open"]] == ["batch-1"]
    with pytest.raises(UsageError, match=r"1 batches of .* are not collected yet, and asking now would pay twice"):
        run(replace(wanted, teacher="openai"))
    # Fewer pictures are wanted by now: what was paid for is collected all the same.
    fewer, _ = run(replace(wanted, limit=3))
    assert server.outcomes()["batch"] == 1
    assert fewer.asked.answered == len(wanted_samples(wanted)) > len(wanted_samples(replace(wanted, limit=3)))
    result, _ = run(wanted)
    assert server.outcomes()["batch"] == 1
    assert (result.asked.answered, result.asked.found) == (0, len(wanted_samples(wanted)))
    assert accounted(wanted.out) == wanted_samples(wanted)
    assert not (wanted.out / "batches.json").exists()
    assert not (wanted.out / "batches").exists()


def test_a_batch_whose_start_nobody_heard_of_is_not_started_again(tmp_path: Path, server: TeacherServer) -> None:
    wanted = batch_job(tmp_path, server.start(lose_start="batch-1"))
    result, _ = run(wanted)
    assert server.outcomes()["batch"] == 1
    assert result.asked.answered == len(wanted_samples(wanted))


def test_max_cost_and_max_requests_hold_for_batches(tmp_path: Path, server: TeacherServer) -> None:
    url = server.start()
    result, _ = run(batch_job(tmp_path, url, max_requests=7))
    assert result.asked.stopped == "--max-requests 7 is reached"
    assert len(server.answered()) == 7
    result, _ = run(batch_job(tmp_path, url, max_cost=0.06))
    assert result.asked.stopped == "--max-cost 0.06 is reached"
    assert len(server.answered()) * 0.0019 <= 0.06
    assert len(server.answered()) > 15
    before = data_files(tmp_path / "data")
    run(batch_job(tmp_path, url, max_cost=0.06))
    assert data_files(tmp_path / "data") == before
