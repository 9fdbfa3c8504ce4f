"""A judged benchmark: every question asked of the judge, in both orders and several times where wanted, then scored."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qllava.datagen.asking import View
from qllava.errors import DataError
from qllava.evaluate.judge.bench import Bench
from qllava.evaluate.judge.prompts import ORDERS, Order, judge_messages, rules_name
from qllava.evaluate.judge.relative import ALL, Relative, by_category
from qllava.evaluate.judge.verdict import FAILURES, Verdict, failed, parse_verdict
from qllava.evaluate.text_model import Replies, TextModel, TextRequest, ask_texts, make_request

VERDICTS = "verdicts.jsonl"


@dataclass(frozen=True, slots=True)
class Judgement:
    """One reply of the judge about one question; `reason` tells more about a failure of `verdict`."""

    question: str
    category: str
    order: Order
    repeat: int
    verdict: Verdict
    text: str
    reason: str = ""

    @property
    def pair(self) -> tuple[float, float] | None:
        """(reference, candidate), 1-10; None for a failure."""
        if self.verdict.failure is not None:
            return None
        first, second = self.verdict.first, self.verdict.second
        return (first, second) if self.order == "reference first" else (second, first)


@dataclass(frozen=True)
class Judged:
    """What came of a judgement; failures are in no score.

    `scores` by category and `all`; `orders` overall by order, with `--swap`; `repeats` overall by repetition;
    `no_answer` questions that the candidate did not answer, which nobody was asked about.
    """

    judge: str
    temperature: float | None
    rules: str
    judgements: tuple[Judgement, ...]
    no_answer: tuple[str, ...]
    scores: Mapping[str, Relative]
    orders: Mapping[str, Relative]
    repeats: tuple[Relative, ...]
    replies: Replies | None = None

    @property
    def failures(self) -> dict[str, int]:
        """Failed judgements by reason, all reasons named."""
        counts = Counter(judgement.verdict.failure for judgement in self.judgements)
        return {reason: counts[reason] for reason in FAILURES}

    @property
    def spread(self) -> float | None:
        """Standard deviation of the overall score from repetition to repetition; None for fewer than two."""
        scores = [score.score for score in self.repeats if score.score is not None]
        return float(np.std(scores, ddof=1)) if len(scores) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the judge pinned, scores, failures one by one."""
        return {
            "judge": self.judge,
            "temperature": self.temperature,
            "rules": self.rules,
            "scores": {name: score.to_dict() for name, score in self.scores.items()},
            "by_order": {name: score.to_dict() for name, score in self.orders.items()},
            "by_repeat": [score.score for score in self.repeats],
            "spread": self.spread,
            "judgements": len(self.judgements),
            "failures": self.failures,
            "failed": [
                {"question_id": j.question, "order": j.order, "repeat": j.repeat, "failure": j.verdict.failure}
                | ({"reason": j.reason} if j.reason else {})
                for j in self.judgements
                if j.verdict.failure is not None
            ],
            "no_answer": list(self.no_answer),
        }


def judge_requests(
    bench: Bench, answers: Mapping[str, str], settings: TextModel, *, swap: bool = False, repeats: int = 1
) -> dict[tuple[str, Order, int], TextRequest]:
    """Everything the judge is to be asked, by (question id, order, repetition).

    Raises:
        DataError: an answer to no question of the set.
    """
    unknown = sorted(answers.keys() - {item.id for item in bench.items})
    if unknown:
        raise DataError(
            f"{len(unknown)} answers are to no question of this set (first: {unknown[0]}); they belong to another one"
        )
    orders = ORDERS if swap else ORDERS[:1]
    return {
        (item.id, order, repeat): make_request(
            settings, item.id, judge_messages(bench, item, answers[item.id], order), copy=repeat
        )
        for repeat in range(repeats)
        for order in orders
        for item in bench.items
        if item.id in answers
    }


def judge(
    bench: Bench,
    answers: Mapping[str, str],
    settings: TextModel,
    folder: Path,
    *,
    swap: bool = False,
    repeats: int = 1,
    view: View,
    note: Callable[[str], None],
) -> Judged:
    """Have answers judged and score what the judge said.

    Args:
        bench: questions, contexts and reference answers.
        answers: the candidate's, by question id; those that are missing are listed.
        settings: the judge.
        folder: keeps the replies (`verdicts.jsonl`); what is in it is not asked again.
        swap: also with the candidate's answer first.
        repeats: how often everything is asked.
        view: told after each reply and failure.
        note: gets what a person should know.

    Raises:
        DataError: an answer to no question of the set, or a damaged journal.
        UsageError, KeyboardInterrupt: as `ask_texts`.
    """
    requests = judge_requests(bench, answers, settings, swap=swap, repeats=repeats)
    # Answers that are equal word for word make equal requests (both orders of an answer that repeats the reference).
    distinct = {request.key: request for request in requests.values()}
    replies = ask_texts(list(distinct.values()), settings, folder / VERDICTS, view=view, note=note)
    categories = {item.id: item.category for item in bench.items}
    judgements = []
    for (question, order, repeat), request in requests.items():
        text = replies.texts.get(request.key)
        verdict = failed("not answered") if text is None else parse_verdict(text)
        reason = replies.failed.get(request.key, "")
        judgements.append(Judgement(question, categories[question], order, repeat, verdict, text or "", reason))
    return score_judgements(
        judgements,
        categories,
        judge=settings.model,
        temperature=settings.temperature,
        rules=rules_name(bench),
        no_answer=[item.id for item in bench.items if item.id not in answers],
        replies=replies,
    )


def score_judgements(
    judgements: Sequence[Judgement],
    categories: Mapping[str, str],
    *,
    judge: str,
    temperature: float | None,
    rules: str,
    no_answer: Sequence[str] = (),
    replies: Replies | None = None,
) -> Judged:
    """Scores of judgements: each question counts once, by the mean of its readable verdicts."""
    orders = list(dict.fromkeys(judgement.order for judgement in judgements))
    repeats = sorted({judgement.repeat for judgement in judgements})

    def overall(of: Iterable[Judgement]) -> Relative:
        return by_category(_pairs(of), categories)[ALL]

    return Judged(
        judge=judge,
        temperature=temperature,
        rules=rules,
        judgements=tuple(judgements),
        no_answer=tuple(no_answer),
        scores=by_category(_pairs(judgements), categories),
        orders={o: overall(j for j in judgements if j.order == o) for o in orders} if len(orders) > 1 else {},
        repeats=tuple(overall(j for j in judgements if j.repeat == r) for r in repeats),
        replies=replies,
    )


def review_rows(judged: Judged) -> list[str]:
    """The judgements as LLaVA's review files have them, one JSON object a line, with judge, order and repetition."""
    rows = []
    for number, one in enumerate(judged.judgements, start=1):
        row: dict[str, Any] = {
            "id": number,
            "question_id": one.question,
            "category": one.category,
            "content": one.text,
            "tuple": None if one.pair is None else list(one.pair),
            "judge": judged.judge,
            "order": one.order,
            "repeat": one.repeat,
        }
        rows.append(
            json.dumps(row | ({"failure": one.verdict.failure} if one.pair is None else {}), ensure_ascii=False)
        )
    return rows


def _pairs(judgements: Iterable[Judgement]) -> dict[str, tuple[float, float]]:
    """(reference, candidate) means by question, of those that have a verdict."""
    found: dict[str, list[tuple[float, float]]] = {}
    for judgement in judgements:
        if judgement.pair is not None:
            found.setdefault(judgement.question, []).append(judgement.pair)
    return {q: (sum(r for r, _ in of) / len(of), sum(c for _, c in of) / len(of)) for q, of in found.items()}
