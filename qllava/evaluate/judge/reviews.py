"""Scores of review files that are there already: LLaVA's own, or the `reviews.jsonl` of `eval llava-bench`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from qllava.errors import DataError
from qllava.evaluate.judge.bench import read_lines
from qllava.evaluate.judge.prompts import ORDERS, Order
from qllava.evaluate.judge.run import Judged, Judgement, score_judgements
from qllava.evaluate.judge.verdict import Verdict, failed, parse_verdict

UNKNOWN = "not named"
_PREFIX = "llava_bench_"
_TEXT_KEYS = ("content", "text")
_SCORE_KEYS = ("tuple", "score")


@dataclass(frozen=True)
class Reviewed:
    """One file's scores; `differ` reviews whose recorded numbers are not those of their text, which counts."""

    path: Path
    judged: Judged
    differ: int


def score_reviews(path: Path) -> Reviewed:
    """Score one review file: the two numbers of each review's first line, or its recorded pair where it has no text.

    Raises:
        DataError: no such file, no review in it, a line that is none, a question reviewed twice, or two judges in it.
    """
    judgements: list[Judgement] = []
    categories: dict[str, str] = {}
    judges: set[str] = set()
    seen: set[tuple[str, str, int]] = set()
    differ = 0
    for number, (where, row) in enumerate(read_lines(path)):
        question = str(row.get("question_id", row.get("id", number)))
        category = str(row.get("category") or "all questions").removeprefix(_PREFIX)
        order, repeat = row.get("order", ORDERS[0]), row.get("repeat", 0)
        if order not in ORDERS or not isinstance(repeat, int):
            raise DataError(f"{where}: order={order!r}, repeat={repeat!r}; orders are {', '.join(ORDERS)}")
        if (question, order, repeat) in seen:
            raise DataError(f"{where}: question {question} is reviewed twice; keep one, or number them by `repeat`")
        if categories.setdefault(question, category) != category:
            raise DataError(f"{where}: question {question} is {category} here and {categories[question]} above")
        seen.add((question, order, repeat))
        judges.add(str(row.get("judge") or UNKNOWN))
        verdict, text, same = _verdict(row, cast(Order, order), where)
        differ += not same
        judgements.append(Judgement(question, category, cast(Order, order), repeat, verdict, text))
    if not judgements:
        raise DataError(f"{path} holds no review; one JSON object a line with content (or text)")
    if len(judges) > 1:
        raise DataError(f"{path} mixes the judges {', '.join(sorted(judges))}; score each in a file of its own")
    judged = score_judgements(judgements, categories, judge=judges.pop(), temperature=None, rules="those of the file")
    return Reviewed(path, judged, differ)


def _verdict(row: Mapping[str, Any], order: Order, where: str) -> tuple[Verdict, str, bool]:
    """(verdict, text, whether the recorded pair agrees with it)."""
    recorded = next((row[key] for key in _SCORE_KEYS if row.get(key) is not None), None)
    text = next((row[key] for key in _TEXT_KEYS if isinstance(row.get(key), str)), None)
    pair = None if recorded is None else _recorded(recorded, order, where)
    if text is None:
        if pair is None and row.get("failure") is None:
            raise DataError(f"{where} has neither content (or text) nor tuple (or score); it is no review")
        return pair if pair is not None else failed("not answered"), "", True
    if row.get("failure") == "not answered":
        return failed("not answered"), text, True
    verdict = parse_verdict(text)
    same = pair is None or pair.failure == verdict.failure or (pair.failure is not None and verdict.failure is not None)
    if pair is not None and pair.failure is None and verdict.failure is None:
        same = pair == verdict
    return verdict, text, same


def _recorded(value: object, order: Order, where: str) -> Verdict:
    """A recorded (reference, candidate) as the judge gave it; LLaVA writes -1 -1 for what it could not read."""
    numbers = isinstance(value, list) and len(value) == 2
    if not numbers or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in cast(list[Any], value)):
        raise DataError(f"{where}: {value!r} is no pair of scores")
    first, second = cast(list[float], value) if order == ORDERS[0] else reversed(cast(list[float], value))
    return parse_verdict(f"{first} {second}")
