"""The arithmetic of judged benchmarks, by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qllava.errors import DataError
from qllava.evaluate.judge.relative import Relative, by_category, relative
from qllava.evaluate.judge.reviews import score_reviews
from qllava.evaluate.judge.run import Judged, Judgement, score_judgements
from qllava.evaluate.judge.table import bench_table, reviews_table
from qllava.evaluate.judge.verdict import Verdict, failed, parse_verdict
from tests.evaluate.bench_folder import write_lines

# LLaVA 1.5 7B on LLaVA-Bench (In-the-Wild): the pairs that gpt-4-0314 gave, from the published review file
# (haotian-liu/LLaVA, evaluation archive, llava-v1.5-7b-eval1.jsonl): category, reference, candidate.
PUBLISHED = """
c 7 9, d 8 6, x 8 6, x 9 8, c 9 2, c 9 2, d 9 2, x 8 7.5, d 9 6, x 8 9, x 9 8.5, c 10 10, c 8 6, x 9 7, d 8 7, x 8 9,
c 9 8.5, d 9 5, x 9 7.5, d 9 4, x 9 7.5, c 9 2, x 8 7.5, x 9 7.5, x 9 8, d 8 5, x 8 6, c 9 9, c 9 2, c 9 2, d 9 4,
x 8 6, c 10 10, x 9 6.5, x 5 7, x 9 6, c 9 4, d 9 2, x 9 2, d 9 3, x 9 3, c 9 2, x 9 4, c 9 6, x 9 6, d 9 2, x 9 6,
d 9 2, x 9 7, c 7 4, x 9 6, c 9 1, d 9 3, x 8 7, c 10 10, d 9 6, x 9 7, d 9 6, x 9 9, x 8 4
"""
NAMES = {"c": "llava_bench_conv", "d": "llava_bench_detail", "x": "llava_bench_complex"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8 7\nBecause.", (8, 7)),
        ("8, 7", (8, 7)),
        ("8,7", (8, 7)),
        ("\n\n 9 8.5 \nx", (9, 8.5)),
        ("(8, 7)", (8, 7)),
        ("**8 7**", (8, 7)),
        ("8 7.", (8, 7)),
        ("8/10 7/10", (8, 7)),
        ("Assistant 1: 8, Assistant 2: 7", (8, 7)),
        ("Scores: 10 and 1", (10, 1)),
        ("", "empty"),
        (" \n ", "empty"),
        ("Both are good.\n8 7", "no two scores"),
        ("8", "no two scores"),
        ("8 7 6", "no two scores"),
        ("8 7 because it is so", "no two scores"),
        ("8-7", "no two scores"),
        ("nan nan", "no two scores"),
        ("0 7", "out of range"),
        ("8 11", "out of range"),
        ("-1 -1", "out of range"),
        ("80 70", "out of range"),
    ],
)
def test_two_scores_of_a_first_line(text: str, expected: tuple[float, float] | str) -> None:
    verdict = parse_verdict(text)
    if isinstance(expected, str):
        assert verdict.failure == expected
        assert math.isnan(verdict.first)
    else:
        assert verdict == Verdict(*expected)


def test_a_ratio_of_means_by_hand() -> None:
    score = relative([(8, 4), (10, 8)])
    # (4 + 8) / (8 + 10), not the mean of 50 % and 80 %.
    assert (score.score, score.reference, score.candidate, score.questions) == (pytest.approx(66.666667), 9, 6, 2)
    assert relative([(5, 5), (9, 9)]).interval == (100.0, 100.0)  # ties throughout
    assert relative([]) == Relative(0)
    assert relative([]).score is None


def test_the_interval_is_that_of_a_slow_bootstrap() -> None:
    generator = np.random.default_rng(3)
    pairs = [(float(r), float(c)) for r, c in generator.integers(1, 11, size=(40, 2))]
    low, high = relative(pairs).interval or (0, 0)
    draws = []
    for _ in range(4000):
        drawn = [pairs[i] for i in generator.integers(40, size=40)]
        draws.append(100 * sum(c for _, c in drawn) / sum(r for r, _ in drawn))
    slow = np.percentile(draws, [2.5, 97.5])
    assert (low, high) == pytest.approx(tuple(slow), abs=0.06 * (slow[1] - slow[0]))
    assert relative(pairs, seed=1).interval == relative(pairs, seed=1).interval


def test_an_empty_category_is_shown_without_a_score() -> None:
    scores = by_category({"1": (8, 6)}, {"1": "conv", "2": "detail"})
    assert list(scores) == ["conv", "detail", "all"]
    assert (scores["conv"].score, scores["detail"].score, scores["all"].score) == (75, None, 75)


def judgement(
    question: str, first: float | None, second: float = 0, order: Any = "reference first", repeat: int = 0
) -> Judgement:
    verdict = failed("no two scores") if first is None else Verdict(first, second)
    return Judgement(question, "conv" if question < "5" else "complex", order, repeat, verdict, "")


def scored(judgements: Sequence[Judgement], categories: dict[str, str]) -> Judged:
    return score_judgements(judgements, categories, judge="tiny", temperature=0, rules="own")


def test_failures_are_in_no_score_and_swapped_orders_count_for_the_right_one() -> None:
    judgements = [
        judgement("1", 8, 4),
        judgement("1", 6, 10, "candidate first"),  # the candidate got 6, the reference 10
        judgement("2", None),
        judgement("2", 5, 5, "candidate first"),
        judgement("7", None),
        judgement("7", None, order="candidate first"),
    ]
    judged = scored(judgements, {"1": "conv", "2": "conv", "7": "complex"})
    # Question 1: reference (8 + 10) / 2 = 9, candidate (4 + 6) / 2 = 5; question 2: 5 and 5.
    assert judged.scores["conv"].score == pytest.approx(100 * 10 / 14)
    assert judged.scores["complex"] == Relative(0)
    assert judged.scores["all"].questions == 2
    assert judged.orders["reference first"].score == 50
    assert judged.orders["candidate first"].score == pytest.approx(100 * 11 / 15)
    assert judged.failures == {"not answered": 0, "empty": 0, "no two scores": 3, "out of range": 0}
    listed = judged.to_dict()["failed"]
    assert [(row["question_id"], row["order"]) for row in listed] == [
        ("2", "reference first"),
        ("7", "reference first"),
        ("7", "candidate first"),
    ]
    text = bench_table(judged, "wild", "runs/finetune-001")
    assert "failed judgements, in no score: 3 of 6 (no two scores 3)" in text
    assert "the published rows were judged by gpt-4-0314: not comparable with tiny" in text
    assert max(map(len, text.splitlines())) <= 80


def test_repetitions_give_a_spread() -> None:
    judgements = [judgement("1", 8, 4), judgement("1", 8, 6, repeat=1), judgement("1", 8, 8, repeat=2)]
    judged = scored(judgements, {"1": "conv"})
    assert [score.score for score in judged.repeats] == [50, 75, 100]
    assert judged.spread == pytest.approx(25)
    assert judged.scores["all"].score == 75
    assert scored(judgements[:1], {"1": "conv"}).spread is None


def test_a_published_review_file_gives_the_published_figure(tmp_path: Path) -> None:
    rows = []
    for number, entry in enumerate(PUBLISHED.replace("\n", " ").split(",")):
        kind, reference, answer = entry.split()
        rows.append(
            {
                "id": number + 1,
                "question_id": number,
                "category": NAMES[kind],
                "content": f"{reference} {answer}\nAssistant 1 ...",
                "tuple": [float(reference), float(answer)],
            }
        )
    reviewed = score_reviews(write_lines(tmp_path / "eval1.jsonl", rows))
    assert (len(rows), reviewed.differ, sum(reviewed.judged.failures.values())) == (60, 0, 0)
    shown = {name: round(score.score or 0, 1) for name, score in reviewed.judged.scores.items()}
    assert shown == {"conv": 59.3, "detail": 47.7, "complex": 77.6, "all": 64.8}
    # As LLaVA's summarize_gpt_review.py does it; the model's published figure, of several such files, is 65.4.
    pairs = [row["tuple"] for row in rows]
    assert reviewed.judged.scores["all"].score == pytest.approx(
        100 * sum(c for _, c in pairs) / sum(r for r, _ in pairs)
    )


def review(question: int, content: str | None, pair: Any = None, **more: Any) -> dict[str, Any]:
    row = {"question_id": question, "category": "conv"} | more
    return row | ({} if content is None else {"content": content}) | ({} if pair is None else {"tuple": pair})


def test_reviews_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    rows = [
        review(1, "8 6\nx", [8, 6]),
        review(2, "Sorry.", [-1, -1]),
        review(3, None, [10, 4]),
        review(4, None, [-1, -1]),
        review(5, "9 9", [9, 1]),
    ]
    reviewed = score_reviews(write_lines(tmp_path / "r.jsonl", rows))
    assert reviewed.judged.scores["all"].score == pytest.approx(100 * (6 + 4 + 9) / (8 + 10 + 9))
    assert {k: v for k, v in reviewed.judged.failures.items() if v} == {"no two scores": 1, "out of range": 1}
    assert reviewed.differ == 1


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "holds no review; one JSON object a line with content"),
        ([{"question_id": 1}], "line 1 has neither content .* it is no review"),
        ([review(1, None, [8])], r"line 1: \[8\] is no pair of scores"),
        ([review(1, "8 6"), review(1, "8 7")], "line 2: question 1 is reviewed twice"),
        ([review(1, "8 6"), review(1, "8 7", category="x", repeat=1)], "line 2: question 1 is x here and conv above"),
        ([review(1, "8 6", judge="a"), review(2, "8 6", judge="b")], "mixes the judges a, b; score each in a file"),
        ([review(1, "8 6", order="?")], "line 1: order='\\?'"),
    ],
)
def test_bad_review_files_are_one_clear_line(tmp_path: Path, rows: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(DataError, match=said):
        score_reviews(write_lines(tmp_path / "r.jsonl", rows))


def test_files_that_are_no_json_lines(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist; check the path"):
        score_reviews(tmp_path / "r.jsonl")
    (tmp_path / "r.jsonl").write_text("8 6\n")
    with pytest.raises(DataError, match=r"line 1 is not JSON; write one object a line"):
        score_reviews(tmp_path / "r.jsonl")
    (tmp_path / "r.jsonl").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:8\n")
    with pytest.raises(DataError, match="line 1 is not JSON; it is a git-lfs pointer"):
        score_reviews(tmp_path / "r.jsonl")


def test_different_judges_are_never_side_by_side_without_a_word(tmp_path: Path) -> None:
    first = score_reviews(write_lines(tmp_path / "a.jsonl", [review(1, "8 6", judge="one")]))
    other = score_reviews(write_lines(tmp_path / "b.jsonl", [review(1, "8 6", judge="two")]))
    plain = score_reviews(write_lines(tmp_path / "c.jsonl", [review(1, "8 6", category="detail")]))
    assert "judged by different models (one, two): the lines are not comparable" in reviews_table([first, other])
    assert "not every file names its judge" in reviews_table([first, plain])
    assert "comparable" not in reviews_table([first, first])
    assert "-" in reviews_table([first, plain]).splitlines()[1].split()  # no detail question in the first


def test_json_of_a_judgement_is_json() -> None:
    judged = scored([judgement("1", 8, 4)], {"1": "conv"})
    shown = json.loads(json.dumps(judged.to_dict(), allow_nan=False))
    assert (shown["judge"], shown["scores"]["all"]["score"], shown["spread"]) == ("tiny", 50.0, None)
