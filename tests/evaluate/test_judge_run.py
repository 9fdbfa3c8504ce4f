"""A judge behind a real local server: faults, garbage, both orders, repetitions, and never paying twice."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from qllava.datagen.asking import Policy
from qllava.errors import DataError, TeacherError, UsageError
from qllava.evaluate.judge.bench import Bench, picture_of, read_bench
from qllava.evaluate.judge.prompts import judge_messages, rules_name
from qllava.evaluate.judge.reviews import score_reviews
from qllava.evaluate.judge.run import VERDICTS, Judged, judge, judge_requests, review_rows
from qllava.evaluate.text_model import TextModel, ask_texts, estimate, make_request, reply_text
from tests.datagen.conftest import TeacherServer
from tests.datagen.teacher_server import completion
from tests.evaluate.bench_folder import candidate, write_coco, write_lines, write_wild

FAST = Policy(concurrency=8, retries=6, backoff_s=0.01)
PRICES = "tiny: {input: 1.0, output: 10.0}\n"


def settings(url: str | None, **changes: Any) -> TextModel:
    return TextModel(**({"model": "tiny", "base_url": url, "policy": FAST} | changes))


def judged(bench: Bench, answers: dict[str, str], model: TextModel, out: Path, **how: Any) -> Judged:
    return judge(bench, answers, model, out, view=lambda asked, budget: None, note=lambda line: None, **how)


def test_faults_and_garbage_do_not_touch_the_score(tmp_path: Path, server: TeacherServer) -> None:
    bench = read_bench(write_wild(tmp_path / "bench", 60))
    plan = {"fault_share": 0.3, "faults": ["429"], "outcome_share": 0.3, "keep_bodies": True, "retry_after": 0.01}
    model = settings(server.start(**plan))
    first = judged(bench, candidate(60), model, tmp_path / "out")
    outcomes = server.outcomes()
    assert outcomes["429"] > 10
    assert outcomes["answered"] == 60

    # The score again, from what the server says it answered: good replies begin with two numbers.
    pairs = {}
    for entry in (e for e in server.log() if e["outcome"] == "answered"):
        reply = completion(entry["body"], entry["key"], plan)["choices"][0]["message"]["content"] or ""
        asked = re.search(r"What about (\d+)\?", entry["body"]["messages"][1]["content"])
        if asked and re.match(r"[\d.]+ [\d.]+\n", reply):
            pairs[asked[1]] = tuple(map(float, reply.split("\n")[0].split()))
    assert 35 < len(pairs) < 60
    expected = 100 * sum(c for _, c in pairs.values()) / sum(r for r, _ in pairs.values())
    assert first.scores["all"].score == pytest.approx(expected)
    assert first.scores["all"].questions == len(pairs)
    for name in ("conv", "detail", "complex"):
        of = [pairs[item.id] for item in bench.items if item.category == name and item.id in pairs]
        assert first.scores[name].score == pytest.approx(100 * sum(c for _, c in of) / sum(r for r, _ in of))
    bad = {row["question_id"] for row in first.to_dict()["failed"]}
    assert bad == {item.id for item in bench.items} - pairs.keys()
    assert sum(first.failures.values()) == len(bad)

    second = judged(bench, candidate(60), model, tmp_path / "out")
    assert server.outcomes() == outcomes, "the second run asked again"
    assert second.to_dict() == first.to_dict()
    assert second.replies is not None
    assert (second.replies.found, second.replies.asked.answered) == (60, 0)


def test_what_is_never_answered_is_listed_and_asked_again_next_time(tmp_path: Path, server: TeacherServer) -> None:
    bench = read_bench(write_wild(tmp_path / "bench", 6))
    model = settings(server.start(always="429"), policy=Policy(concurrency=2, retries=1, backoff_s=0.01))
    result = judged(bench, candidate(6), model, tmp_path / "out")
    assert result.failures["not answered"] == 6
    assert result.scores["all"].score is None
    assert result.to_dict()["failed"][0]["reason"] == "429 slow down, 2 times"
    model = settings(server.start())
    assert judged(bench, candidate(6), model, tmp_path / "out").scores["all"].questions == 6


def test_swap_and_repeats_ask_each_once_more(tmp_path: Path, server: TeacherServer) -> None:
    bench = read_bench(write_wild(tmp_path / "bench", 6))
    model = settings(server.start(keep_bodies=True))
    plain = judged(bench, candidate(6), model, tmp_path / "out")
    assert (plain.orders, plain.spread) == ({}, None)
    both = judged(bench, candidate(6), model, tmp_path / "out", swap=True, repeats=2)
    assert both.replies is not None
    assert (both.replies.found, both.replies.asked.answered) == (6, 18)
    assert (len(both.judgements), len(both.repeats), list(both.orders)) == (
        24,
        2,
        ["reference first", "candidate first"],
    )
    # This server answers by what it is asked alone, so a repetition says the same again.
    assert both.spread == 0
    assert both.orders["reference first"] == plain.scores["all"]
    swapped = judge_messages(bench, bench.items[0], "candidate's answer 0", "candidate first")[1]["content"]
    assert swapped.index("candidate's answer 0") < swapped.index("reference 0")
    (tmp_path / "reviews.jsonl").write_text("\n".join(review_rows(both)) + "\n")
    again = score_reviews(tmp_path / "reviews.jsonl")
    assert again.judged.judge == "tiny"
    assert {n: s.score for n, s in again.judged.scores.items()} == {n: s.score for n, s in both.scores.items()}


def test_another_judge_answer_or_rule_is_another_question(tmp_path: Path) -> None:
    bench = read_bench(write_wild(tmp_path / "bench", 3))

    def keys(answers: dict[str, str], model: TextModel) -> set[str]:
        return {request.key for request in judge_requests(bench, answers, model).values()}

    base = keys(candidate(3), settings(None))
    assert len(base) == 3
    assert keys(candidate(3), settings("http://elsewhere/v1", timeout_s=1)) == base
    assert not keys(candidate(3), settings(None, model="other")) & base
    assert not keys(candidate(3), settings(None, temperature=0.2)) & base
    assert len(keys(candidate(3) | {"0": "new"}, settings(None)) & base) == 2


def test_answers_that_are_missing_or_of_another_set(tmp_path: Path, server: TeacherServer) -> None:
    bench = read_bench(write_wild(tmp_path / "bench", 6))
    model = settings(server.start())
    answers = candidate(6)
    del answers["4"]
    result = judged(bench, answers, model, tmp_path / "out")
    assert result.no_answer == ("4",)
    assert result.scores["all"].questions == 5
    with pytest.raises(DataError, match=r"1 answers are to no question of this set \(first: 99\)"):
        judged(bench, answers | {"99": "x"}, model, tmp_path / "out")


def test_money_is_kept(tmp_path: Path, server: TeacherServer) -> None:
    (tmp_path / "prices.yaml").write_text(PRICES)
    bench = read_bench(write_wild(tmp_path / "bench", 30))
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    model = settings(server.start(usage=usage), prices=tmp_path / "prices.yaml", max_tokens=100)
    requests = list(judge_requests(bench, candidate(30), model).values())
    before = estimate(requests, model, tmp_path / "out" / VERDICTS)
    assert (before.requests, before.found, before.local) == (30, 0, True)
    assert before.cost == pytest.approx((before.prompt_tokens + 30 * 100 * 10) / 1e6)
    # One answer may cost 0.001 USD and its prompt of some 1,300 bytes 0.0013; each in fact costs 0.0002.
    small = settings(model.base_url, prices=model.prices, max_tokens=100, max_cost=0.004, policy=Policy(1, 0, 0.01))
    result = judged(bench, candidate(30), small, tmp_path / "out")
    assert result.replies is not None
    assert 0 < result.replies.asked.answered < 30
    assert result.replies.cost == pytest.approx(0.0002 * result.replies.asked.answered)
    assert result.replies.cost <= 0.004
    assert result.to_dict()["failed"][-1]["reason"] == "not asked: --max-cost 0.004 is reached"
    after = estimate(requests, model, tmp_path / "out" / VERDICTS)
    assert (after.requests, after.found) == (30 - result.replies.asked.answered, result.replies.asked.answered)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base_url": None}, "no server for --judge tiny: set OPENAI_API_KEY, or name a server with --base-url URL"),
        ({"max_cost": 1.0}, "--max-cost 1 cannot be kept: tiny has no known price"),
        ({"max_cost": -1.0}, "--max-cost -1 buys nothing; give USD above 0"),
        ({"max_requests": 0}, "--max-requests 0 cannot work; give 1 or more"),
        ({"policy": Policy(concurrency=0)}, "--concurrency 0 cannot work; give 1 or more"),
        ({"base_url": "ftp://x"}, "--base-url 'ftp://x' is no http(s) address"),
    ],
)
def test_settings_that_cannot_work(tmp_path: Path, server: TeacherServer, changes: dict[str, Any], said: str) -> None:
    model = settings("http://127.0.0.1:9/v1", **changes)
    request = make_request(model, "1", [{"role": "user", "content": "?"}])
    with pytest.raises(UsageError, match=re.escape(said)):
        ask_texts([request], model, tmp_path / "j.jsonl", view=lambda a, b: None, note=lambda line: None)


def test_an_unknown_model_says_which_flag(tmp_path: Path, server: TeacherServer) -> None:
    model = settings(server.start(status=404, message="no such model"))
    bench = read_bench(write_wild(tmp_path / "bench", 3))
    result = judged(bench, candidate(3), model, tmp_path / "out")
    assert result.replies is not None
    assert isinstance(result.replies.asked.error, TeacherError)
    assert "check --judge and --base-url" in str(result.replies.asked.error)


def test_thoughts_and_refusals() -> None:
    def reply(**message: Any) -> str:
        return reply_text({"choices": [{"message": message}]})

    assert reply(content="<think>hm\n</think>\n8 7\r\nfine") == "8 7\nfine"
    assert reply(content="8 7", refusal="no") == ""
    assert reply(content=None) == ""


def test_both_layouts_are_read(tmp_path: Path) -> None:
    wild, coco = read_bench(write_wild(tmp_path / "wild")), read_bench(write_coco(tmp_path / "coco"))
    assert (wild.layout, coco.layout) == ("wild", "coco")
    assert wild.categories == coco.categories == ["conv", "detail", "complex"]
    assert wild.items[4].reference == coco.items[4].reference == "reference 4"
    assert wild.items[4].context == "A description of 001.jpg."
    assert coco.items[4].context == "one\ntwo\n\ndog: [0.1, 0.2, 0.3, 0.4]"
    assert picture_of(wild, wild.items[0]) == tmp_path / "wild" / "images" / "000.jpg"
    assert picture_of(coco, coco.items[0]) == tmp_path / "coco" / "COCO_val2014_000.jpg"
    assert (rules_name(wild), rules_name(coco)) == ("qllava 1", "rule.json")
    told = judge_messages(coco, coco.items[0], "mine", "reference first")[1]["content"]
    assert told == (
        "[Context]\none\ntwo\n\ndog: [0.1, 0.2, 0.3, 0.4]\n\n[Question]\nWhat about 0?\n\n"
        "[Assistant 1]\nreference 0\n\n[End of Assistant 1]\n\n[Assistant 2]\nmine\n\n[End of Assistant 2]\n\n"
        "[System]\nRule of conv.\n\n"
    )
    assert "the two scores" in judge_messages(wild, wild.items[0], "mine", "reference first")[1]["content"]


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda d: (d / "context.jsonl").unlink(), "holds neither context.jsonl nor caps_boxes"),
        (lambda d: (d / "caps_boxes.jsonl").write_text("{}"), "holds both context.jsonl and caps_boxes"),
        (lambda d: (d / "answers_gpt4.jsonl").unlink(), "holds no reference answers (answers_gpt4.jsonl or"),
        (lambda d: (d / "questions.jsonl").write_text("\n"), "holds no question"),
        (
            lambda d: (d / "questions.jsonl").write_text((d / "questions.jsonl").read_text() * 2),
            "line 7: question_id 0 is used twice",
        ),
        (lambda d: write_lines(d / "context.jsonl", [{"image": "x", "caption": "y"}]), "no context for image 000.jpg"),
        (
            lambda d: write_lines(d / "answers_gpt4.jsonl", [{"question_id": 0, "text": "x"}]),
            "no reference answer to question 1",
        ),
        (
            lambda d: write_lines(d / "answers_gpt4.jsonl", [{"question_id": n, "text": "x"} for n in range(7)]),
            "1 reference answers are to no question",
        ),
        (lambda d: write_lines(d / "answers_gpt4.jsonl", [{"question_id": 0}]), "line 1: text=None is no answer"),
        (lambda d: (d / "rule.json").write_text('{"llava_bench_conv": 3}'), "rule.json is no rule file"),
        (lambda d: (d / "images" / "001.jpg").unlink(), "image 001.jpg of question 3 is not in"),
    ],
)
def test_a_folder_that_is_not_as_published(tmp_path: Path, break_it: Any, said: str) -> None:
    folder = write_wild(tmp_path / "bench")
    break_it(folder)
    with pytest.raises(DataError, match=re.escape(said)):
        bench = read_bench(folder)
        for item in bench.items:
            picture_of(bench, item)


def test_replies_of_another_use_are_refused(tmp_path: Path, server: TeacherServer) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / VERDICTS).write_text(json.dumps({"journal": "qllava gen-data responses", "version": 1}) + "\n")
    bench = read_bench(write_wild(tmp_path / "bench", 3))
    with pytest.raises(UsageError, match="is not of this use; choose another --out"):
        judged(bench, candidate(3), settings(server.start()), tmp_path / "out")
