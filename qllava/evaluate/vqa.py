"""The VQA v2 accuracy, and what a question set is scored by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qllava.evaluate.bootstrap import Estimate, ratio_estimate
from qllava.evaluate.exact_match import Scores, exact_match, is_right, normalize_answer
from qllava.evaluate.questions import Question

# As many people answered each question of VQA v2; with this many answers theirs is the rule.
ANNOTATORS = 10
# Three who agree make an answer wholly right.
_AGREE = 3


@dataclass(frozen=True)
class VqaScores:
    """Exact match, and the VQA v2 accuracy where questions carry ten answers (else None); by kind, sorted."""

    exact: Scores
    soft: Estimate | None
    soft_by_kind: Mapping[str, Estimate]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        result = {"exact_match": self.exact.to_dict()}
        if self.soft is not None:
            by_kind = {kind: value.to_dict() for kind, value in self.soft_by_kind.items()}
            result["vqa_accuracy"] = {**self.soft.to_dict(), "by_kind": by_kind}
        return result


def soft_accuracy(answer: str, question: Question) -> float:
    """The VQA v2 accuracy of one answer, 0-1 (Antol et al. 2015, section 3.1; the vqaEval.py of VQA v2).

    With ten answers: each person in turn is left out, the answer scores min(matches among the other nine / 3, 1), and
    the ten scores are averaged. With any other number: 1 where one of them is matched, else 0. Both sides are
    normalised always; vqaEval.py leaves them as they are where all ten people wrote the same.
    """
    if len(question.answers) != ANNOTATORS:
        return float(is_right(answer, question))
    given = normalize_answer(answer)
    matches = sum(normalize_answer(human) == given for human in question.answers)
    # Who matches is missing from the others in `matches` of the ten turns.
    without, with_all = min((matches - 1) / _AGREE, 1.0), min(matches / _AGREE, 1.0)
    return (matches * without + (ANNOTATORS - matches) * with_all) / ANNOTATORS


def has_annotators(questions: Sequence[Question]) -> bool:
    """Whether any question carries ten answers, so that the VQA v2 accuracy says more than exact match."""
    return any(len(question.answers) == ANNOTATORS for question in questions)


def question_scores(answers: Mapping[str, str], questions: Sequence[Question]) -> dict[str, float]:
    """Scores by question id, 0-1: VQA v2's where a question has ten answers, else exact match; no answer is 0."""
    return {q.id: soft_accuracy(answers[q.id], q) if q.id in answers else 0.0 for q in questions}


def score_answers(answers: Mapping[str, str], questions: Sequence[Question]) -> VqaScores:
    """Score answers by question id; questions left unanswered count as wrong.

    Raises:
        DataError: an answer to no question of this set.
    """
    exact = exact_match(answers, questions)
    if not has_annotators(questions):
        return VqaScores(exact, None, {})
    scores = question_scores(answers, questions)
    return VqaScores(
        exact,
        _mean(questions, scores),
        {kind: _mean([q for q in questions if q.kind == kind], scores) for kind in exact.by_kind},
    )


def _mean(questions: Sequence[Question], scores: Mapping[str, float]) -> Estimate:
    # Questions without a picture stand alone.
    return ratio_estimate([scores[q.id] for q in questions], groups=[q.image or f"#{q.id}" for q in questions])
