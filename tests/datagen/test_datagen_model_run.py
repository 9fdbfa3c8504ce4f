"""Language-model teachers against a real server process: nothing lost, nothing asked twice, nothing overspent."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qllava.datagen.asking import Policy
from qllava.datagen.mix import kinds_of
from qllava.datagen.model_run import ModelJob, ModelRun, Result
from qllava.datagen.prompting import Sampling
from qllava.errors import DataError, TeacherError, UsageError
from tests.datagen.conftest import TeacherServer, many_pictures

FAST = Policy(concurrency=16, retries=6, backoff_s=0.01)
PRICES = "tiny: {input: 1.0, output: 10.0, cached_input: 0.5}\n"


def job(tmp_path: Path, url: str, pictures: int = 12, **changes: Any) -> ModelJob:
    folder = tmp_path / "coco"
    if not folder.exists():
        many_pictures(folder, pictures)
    prices = tmp_path / "prices.yaml"
    prices.write_text(PRICES)
    given = ModelJob(folder, out=tmp_path / "data", model="tiny", base_url=url, policy=FAST, prices=prices)
    return replace(given, **changes)


def run(wanted: ModelJob) -> tuple[Result, list[str]]:
    notes: list[str] = []
    return ModelRun(wanted).run(lambda asked, budget: None, notes.append), notes


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def samples(out: Path) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads((out / "instruct.json").read_text())
    return content


def wanted_samples(wanted: ModelJob) -> set[tuple[str, str]]:
    made = ModelRun(wanted)
    return {(scene.id, kind) for scene in made.train for kind in kinds_of(scene.id, made.mix, wanted.seed)}


def accounted(out: Path) -> set[tuple[str, str]]:
    """(picture, kind) of every sample that is in the data or in the list of what is not."""
    written = {tuple(sample["id"].rsplit("#", 1)) for sample in samples(out)}
    listed = {(row["id"], row["kind"]) for row in lines(out / "rejected.jsonl") if "kind" in row}
    return {(str(a), str(b)) for a, b in written | listed}


def data_files(out: Path) -> dict[str, bytes]:
    """The files that training reads and the card, all but the journal, which is in the order of arrival."""
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != "responses.jsonl"}


def test_a_run_without_trouble(tmp_path: Path, server: TeacherServer) -> None:
    wanted = job(tmp_path, server.start(), pictures=30)
    result, notes = run(wanted)
    assert notes == []
    assert result.report is not None
    expected = wanted_samples(wanted)
    assert accounted(wanted.out) == expected
    assert result.asked.answered == len(expected) == sum(server.answered().values()) == result.report.answers
    assert server.outcomes().keys() == {"answered"}
    first = samples(wanted.out)[0]
    assert first["conversations"][0]["value"].startswith("<image>\n")
    assert (first["teacher"], first["model"], first["prompt_tokens"]) == ("openai", "tiny", 900)
    order = [sample["id"] for sample in samples(wanted.out)]
    assert order == sorted(order)
    details = [sample for sample in samples(wanted.out) if sample["kind"] == "detail"]
    assert details
    assert all(len(sample["conversations"]) == 2 for sample in details)
    talks = [sample for sample in samples(wanted.out) if sample["kind"] == "conversation"]
    assert {len(sample["conversations"]) for sample in talks} == {6}
    card = json.loads((wanted.out / "card.json").read_text())
    assert (card["teacher"], card["model"]) == ("openai", "tiny")
    assert card["model_run"]["usage"]["prompt_tokens"] == 900 * len(expected)
    assert card["cost_usd"] == pytest.approx(len(expected) * (900 * 1.0 + 100 * 10.0) / 1e6)
    assert sorted(card["model_run"]["prompts"]) == ["conversation", "detail", "reasoning"]
    assert lines(wanted.out / "heldout.jsonl")
    assert not list(wanted.out.glob(".*"))


def test_the_second_run_asks_nothing_and_writes_the_same(tmp_path: Path, server: TeacherServer) -> None:
    wanted = job(tmp_path, server.start())
    run(wanted)
    before, asked = data_files(wanted.out), len(server.log())
    result, _ = run(wanted)
    assert (result.asked.answered, result.asked.found) == (0, asked)
    assert len(server.log()) == asked
    assert data_files(wanted.out) == before
    # A new temperature is a new question; more pictures ask for the new ones alone.
    assert ModelRun(replace(wanted, sampling=Sampling(temperature=0.1))).estimate().found == 0
    fewer = ModelRun(replace(wanted, limit=3)).estimate()
    assert (fewer.requests, fewer.found > 0) == (0, True)


def test_thirty_percent_faults_lose_nothing(tmp_path: Path, server: TeacherServer) -> None:
    url = server.start(fault_share=0.3, outcome_share=0.2, delay=0.01, stall=0.6)
    wanted = job(tmp_path, url, pictures=60, timeout_s=0.4)
    result, _ = run(wanted)
    assert accounted(wanted.out) == wanted_samples(wanted)
    assert max(server.answered().values()) == 1
    outcomes = server.outcomes()
    assert all(outcomes[fault] for fault in ("429", "500", "reset", "truncated", "not json", "no choices", "timeout"))
    assert max(entry["most"] for entry in server.log()) >= 12
    assert result.report is not None
    rejected = result.report.rejected
    assert {"refusal", "broken format", "empty"} <= rejected.keys()
    assert {"cut off", "roles swapped"} & rejected.keys()
    assert result.asked.retried > 10


def test_what_never_is_answered_is_listed(tmp_path: Path, server: TeacherServer) -> None:
    url = server.start(fault_share=0.5, faults=["500"])
    wanted = job(tmp_path, url, pictures=30, policy=Policy(8, retries=1, backoff_s=0.01))
    result, _ = run(wanted)
    failures = [row for row in lines(wanted.out / "rejected.jsonl") if row["reason"] == "no answer"]
    assert len(failures) == len(result.asked.failed) > 3
    assert failures[0]["detail"] == "500 oops, 2 times"
    assert accounted(wanted.out) == wanted_samples(wanted)
    # They were not answered, so the next run asks for them again, and for nothing else.
    before = len(server.log())
    server.start()
    again, _ = run(wanted)
    assert again.asked.answered == len(failures)
    assert len(server.log()) == before + len(failures)


def test_retry_after_is_honoured(tmp_path: Path, server: TeacherServer) -> None:
    url = server.start(fault_share=0.2, faults=["429"], retry_after=0.5)
    wanted = job(tmp_path, url, pictures=12)
    import time

    start = time.monotonic()
    result, _ = run(wanted)
    assert server.outcomes()["429"] > 0
    assert time.monotonic() - start >= 0.5
    assert not result.asked.failed


@pytest.mark.parametrize(
    ("refused", "status", "note"),
    [
        (["response_format"], 422, "the server refuses response_format; asking for labelled text instead"),
        (["max_tokens"], 400, "the server refuses max_tokens; using max_completion_tokens"),
        (["temperature"], 400, "the model refuses a temperature; using its own"),
    ],
)
def test_what_a_server_refuses_is_left_out_and_said_once(
    tmp_path: Path, server: TeacherServer, refused: list[str], status: int, note: str
) -> None:
    wanted = job(tmp_path, server.start(refuses=refused, refuses_with=status, keep_bodies=True))
    result, notes = run(wanted)
    assert notes == [note]
    assert accounted(wanted.out) == wanted_samples(wanted)
    assert not result.asked.failed
    assert 1 <= server.outcomes()[str(status)] <= FAST.concurrency
    bodies = [entry["body"] for entry in server.log() if entry["outcome"] == "answered"]
    assert all(refused[0] not in body for body in bodies)
    # The answers are known under what was asked for: the same command asks nothing again.
    before = len(server.log())
    run(wanted)
    assert len(server.log()) == before


def test_a_dead_server_ends_the_run_and_keeps_what_is_there(tmp_path: Path, server: TeacherServer) -> None:
    wanted = job(tmp_path, server.start(), pictures=6)
    run(replace(wanted, limit=3))
    server.stop()
    before = (wanted.out / "responses.jsonl").read_bytes()
    result, _ = run(replace(wanted, policy=Policy(4, retries=9, backoff_s=0.001)))
    assert isinstance(result.asked.error, TeacherError)
    assert str(result.asked.error).startswith("the teacher is not there: 10 attempts in a row without an answer")
    assert "cannot connect" in str(result.asked.error)
    assert (wanted.out / "responses.jsonl").read_bytes() == before
    assert result.report is not None
    assert result.report.rejected["not asked yet"] == result.report.unasked > 0
    assert result.budget.perhaps == 0.0  # nothing was sent that could be billed


def test_nothing_is_written_where_nothing_was_answered(tmp_path: Path, server: TeacherServer) -> None:
    wanted = job(tmp_path, server.start(status=401, message="bad key"))
    result, _ = run(wanted)
    assert result.report is None
    assert "refuses the key (401: " in str(result.asked.error)
    assert [path.name for path in wanted.out.iterdir()] == ["responses.jsonl"]
    assert len(server.log()) <= FAST.concurrency


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"status": 404, "message": "no model tiny"}, "does not know this model or path"),
        ({"status": 429, "code": "insufficient_quota"}, "is empty"),
        ({"status": 400, "message": "too long"}, "the teacher refuses every request"),
    ],
)
def test_what_no_retry_can_mend_ends_the_run(
    tmp_path: Path, server: TeacherServer, plan: dict[str, Any], message: str
) -> None:
    result, _ = run(job(tmp_path, server.start(**plan), pictures=60))
    assert message in str(result.asked.error)
    assert len(server.log()) <= 3 * FAST.concurrency


def test_max_requests_counts_every_request(tmp_path: Path, server: TeacherServer) -> None:
    wanted = job(tmp_path, server.start(fault_share=0.3, faults=["500"]), pictures=30, max_requests=20)
    result, _ = run(wanted)
    assert len(server.log()) == 20 == result.budget.sent
    assert result.asked.stopped == "--max-requests 20 is reached"
    assert result.report is not None
    assert result.report.unasked > 0
    assert accounted(wanted.out) == wanted_samples(wanted)


def test_max_cost_is_never_passed_and_is_used_up(tmp_path: Path, server: TeacherServer) -> None:
    each = (900 * 1.0 + 100 * 10.0) / 1e6
    wanted = job(tmp_path, server.start(delay=0.02), pictures=60, max_cost=0.1)
    result, _ = run(wanted)
    assert result.asked.stopped == "--max-cost 0.1 is reached"
    spent = sum(server.answered().values()) * each
    assert result.budget.spent == pytest.approx(spent)
    assert 0.06 < spent <= 0.1  # one request may cost 0.018 USD at the most
    again, _ = run(wanted)
    assert again.asked.answered == 0
    with pytest.raises(UsageError, match="--max-cost 1 cannot be kept: other has no known price"):
        ModelRun(replace(wanted, model="other", max_cost=1.0))


def test_a_lost_answer_may_have_been_billed(tmp_path: Path, server: TeacherServer) -> None:
    url = server.start(always="truncated")
    wanted = job(tmp_path, url, pictures=30, max_cost=0.1, policy=Policy(1, retries=0, backoff_s=0.01))
    result, _ = run(wanted)
    assert result.asked.stopped == "--max-cost 0.1 is reached"
    assert len(server.log()) <= 8  # each may cost 0.013 USD and more
    assert 0.0 < result.budget.perhaps <= 0.1


def test_the_key_reaches_the_server_and_no_file(
    tmp_path: Path, server: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "sk-test-0123456789abcdef"  # noqa: S105 - it opens nothing
    url = server.start(echo_authorization=f"Bearer {secret}")
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    wanted = job(tmp_path, url, form="text")
    run(wanted)
    assert {entry["authorization"] for entry in server.log()} == {f"Bearer {secret}"}
    written = b"".join(path.read_bytes() for path in wanted.out.rglob("*") if path.is_file())
    assert b"***" in written
    assert secret.encode() not in written


def test_a_torn_line_is_cut_off_and_asked_again(tmp_path: Path, server: TeacherServer) -> None:
    wanted = job(tmp_path, server.start())
    run(wanted)
    before = data_files(wanted.out)
    journal = wanted.out / "responses.jsonl"
    journal.write_bytes(journal.read_bytes()[:-40])
    result, notes = run(wanted)
    assert result.asked.answered == 1
    assert len(notes) == 1
    assert "that a crash had left unfinished" in notes[0]
    assert data_files(wanted.out) == before
    content = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*content[:3], b'{"key": 7}\n', *content[3:]]))
    with pytest.raises(DataError, match=r"responses\.jsonl, line 4 is damaged and good lines follow"):
        run(wanted)


def test_seeing_sends_the_picture(tmp_path: Path, server: TeacherServer) -> None:
    from PIL import Image

    wanted = job(tmp_path, server.start(keep_bodies=True), pictures=4, see=True, kinds=("detail",))
    Image.new("RGB", (2000, 500), "red").save(wanted.images / "train2017" / f"{1:012d}.jpg")
    for number in (2, 3):
        Image.new("RGB", (20 * number, 20), "blue").save(wanted.images / "train2017" / f"{number:012d}.jpg")
    result, _ = run(wanted)
    import base64
    import io

    sizes = set()
    for entry in server.log():
        text, picture = entry["body"]["messages"][-1]["content"]
        assert text["text"].startswith("a dog and circle number")
        data = picture["image_url"]["url"].removeprefix("data:image/jpeg;base64,")
        with Image.open(io.BytesIO(base64.b64decode(data))) as sent:
            sizes.add(sent.size)
    assert sizes == {(1024, 256), (40, 20), (60, 20)}
    assert result.report is not None
    assert result.report.by_kind["detail"] == 3  # the fourth file is no picture
    (unreadable,) = [row for row in lines(wanted.out / "rejected.jsonl") if row["reason"] == "no answer"]
    assert "cannot be read" in unreadable["detail"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_url": "localhost:8000"}, "--base-url 'localhost:8000' is no http"),
        ({"model": None}, r"--base-url http://127\.0\.0\.1:\d+/v1 needs --model NAME"),
        ({"base_url": None}, "OPENAI_API_KEY is not set; export it"),
        ({"policy": Policy(0)}, "--concurrency 0 cannot work; give 1 or more"),
        ({"max_cost": 0.0}, "--max-cost 0 buys nothing"),
        ({"kinds": ("detail",), "mix": {"reasoning": 1.0}}, "--kinds names detail, which --mix gives no weight"),
        ({"prompts": Path("nowhere")}, "--prompts nowhere: no such folder"),
        ({"prices": Path("nowhere.yaml")}, r"--prices nowhere\.yaml cannot be read"),
    ],
)
def test_settings_that_cannot_work(
    tmp_path: Path, server: TeacherServer, changes: dict[str, Any], message: str
) -> None:
    wanted = job(tmp_path, "http://127.0.0.1:9/v1")
    with pytest.raises(UsageError, match=message):
        ModelRun(replace(wanted, **changes))
    assert not wanted.out.exists()


def test_without_annotations_and_without_seeing_nothing_is_asked(tmp_path: Path, server: TeacherServer) -> None:
    from tests.datagen.conftest import coco_split

    coco_split(tmp_path / "bare", "train", [([], [])] * 4)
    wanted = job(tmp_path, server.start(), images=tmp_path / "bare")
    with pytest.raises(UsageError, match="knows a picture from nothing else; add --see"):
        ModelRun(wanted)
    assert ModelRun(replace(wanted, see=True)).estimate().requests > 0
    # With something known about one picture alone, the others are listed.
    coco_split(tmp_path / "some", "train2017", [(["a dog"], []), ([], [])])
    coco_split(tmp_path / "some", "val2017", [(["a dog"], [])], first=9)
    wanted = replace(wanted, images=tmp_path / "some", kinds=("detail",))
    run(wanted)
    assert accounted(wanted.out) == wanted_samples(wanted)
    unknown = [
        row for row in lines(wanted.out / "rejected.jsonl") if row["reason"] == "nothing known about the picture"
    ]
    assert [(row["id"], row["kind"]) for row in unknown] == [("train2017/000000000002", "detail")]
    assert len(server.log()) == 1


def test_a_long_pause_ends_the_run(tmp_path: Path, server: TeacherServer) -> None:
    result, _ = run(job(tmp_path, server.start(always="429", retry_after=7200)))
    assert "asks to wait 7,200 seconds (slow down); repeat the command then" in str(result.asked.error)


def test_folders_of_the_other_sort_of_teacher_are_left_alone(tmp_path: Path, server: TeacherServer) -> None:
    from qllava.datagen.pipeline import generate

    wanted = job(tmp_path, server.start(), pictures=4)
    run(wanted)
    with pytest.raises(UsageError, match="holds a language model's answers, which the template teacher would replace"):
        generate(wanted.images, None, wanted.out)
    generate(wanted.images, None, tmp_path / "template")
    with pytest.raises(UsageError, match=r"align\.json was not written by a language-model teacher; choose another"):
        ModelRun(replace(wanted, out=tmp_path / "template"))


def test_an_answer_of_junk_alone_is_an_error_that_leaves_the_list(tmp_path: Path, server: TeacherServer) -> None:
    wanted = job(tmp_path, server.start(outcome_share=1.0))
    with pytest.raises(DataError, match=r"none of the \d+ answers of tiny can be used \(most often: .*rejected\.jsonl"):
        run(wanted)
    assert lines(wanted.out / "rejected.jsonl")
