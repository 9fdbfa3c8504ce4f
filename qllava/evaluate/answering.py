"""Asking a question set to the end, in as many goes as it takes; then scores and files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qllava.evaluate.answer_file import AnswerFile
from qllava.evaluate.ask import Condition, ask, pictures_shown
from qllava.evaluate.questions import Question, question_set_digest, spread
from qllava.evaluate.score_file import QuestionScore, ScoreSheet, write_scores
from qllava.evaluate.target import Target
from qllava.evaluate.vqa import VqaScores, has_annotators, question_scores, score_answers
from qllava.infer.engine import Engine
from qllava.report.answers import AnsweredQuestion, AnswersReport, write_answers

# Answers of these benchmarks are words, not sentences.
SHORT_ANSWER = 32
# The page has two colours and VQA v2's accuracy ten steps: two people who agree make an answer right there.
RIGHT_FROM = 0.5
_ASKED = {"right": "", "shuffled": ", asked with another picture", "none": ", asked without the picture"}

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class QuestionSet:
    """Questions to ask: `chosen` of `all`, pictures under `image_root`."""

    all: tuple[Question, ...]
    chosen: tuple[Question, ...]
    image_root: Path

    @property
    def digest(self) -> str:
        """Of the whole set: answers to a part of it count when the rest is asked."""
        return question_set_digest(self.all)


def choose(questions: Sequence[Question], image_root: Path, limit: int | None = None) -> QuestionSet:
    """A question set, or at most `limit` of it at even distances.

    Raises:
        UsageError: a limit below 1.
    """
    return QuestionSet(tuple(questions), tuple(spread(questions, limit)), image_root)


def ask_missing(
    engine: Callable[[], Engine],
    questions: QuestionSet,
    file: AnswerFile,
    condition: Condition = "right",
    *,
    max_new_tokens: int = SHORT_ANSWER,
    progress: Progress | None = None,
) -> dict[str, str]:
    """Ask what the file lacks and append each answer as it comes.

    Args:
        engine: called only if anything is missing.
        questions: what to ask.
        file: open for writing.
        condition, max_new_tokens: as for `ask`.
        progress: told (answered, of) after each.

    Returns: the answers to `questions.chosen`, by id.

    Raises:
        DataError: a picture is unreadable; what was answered before stays in the file.
    """
    missing = [question for question in questions.chosen if question.id not in file.answers]
    done = len(questions.chosen) - len(missing)
    if progress is not None:
        progress(done, len(questions.chosen))
    if missing:
        answers = ask(
            engine(),
            missing,
            questions.image_root,
            condition,
            max_new_tokens=max_new_tokens,
            among=questions.all,
        )
        for question, answer in answers:
            file.append(question.id, answer)
            done += 1
            if progress is not None:
                progress(done, len(questions.chosen))
    return {question.id: file.answers[question.id] for question in questions.chosen}


def run_vqa(
    target: Target,
    engine: Callable[[], Engine],
    questions: QuestionSet,
    out: Path,
    condition: Condition = "right",
    *,
    max_new_tokens: int = SHORT_ANSWER,
    progress: Progress | None = None,
) -> tuple[VqaScores, AnswersReport]:
    """Answer and score a question set under one condition.

    It leaves `answers.jsonl`, `scores.jsonl` and `report.html` in `out`; their names say the condition unless it is
    `right`.

    Raises:
        DataError: as `ask_missing`, or `out` holds answers of something else.
    """
    suffix = "" if condition == "right" else f"-{condition}"
    heading = target.heading(
        "vqa", questions.digest, {"condition": condition, "max_new_tokens": max_new_tokens, "sampling": "greedy"}
    )
    with AnswerFile(out / f"answers{suffix}.jsonl", heading) as file:
        answers = ask_missing(engine, questions, file, condition, max_new_tokens=max_new_tokens, progress=progress)
    scores = question_scores(answers, questions.chosen)
    metric = "vqa accuracy" if has_annotators(questions.all) else "exact match"
    rows = tuple(QuestionScore(q.id, scores[q.id], q.image or "", q.kind) for q in questions.chosen)
    write_scores(out / f"scores{suffix}.jsonl", ScoreSheet(heading, metric, rows))
    title = f"{target.name}: {out.name}" + (_ASKED[condition] if suffix else "")
    # As the model saw it; asked without a picture, a question stands beside the one it is about.
    pictures = pictures_shown(questions.chosen, "shuffled" if condition == "shuffled" else "right", questions.all)
    seen = zip(questions.chosen, pictures, strict=True)
    report = write_answers(
        out / f"report{suffix}.html",
        [answered(replace(q, image=name), answers[q.id], right=scores[q.id] >= RIGHT_FROM) for q, name in seen],
        image_root=questions.image_root,
        title=title,
        models=[target.name],
    )
    return score_answers(answers, questions.chosen), report


def answered(question: Question, answer: str, *, right: bool) -> AnsweredQuestion:
    """A question with its one answer as the report shows it."""
    return AnsweredQuestion(question.image, question.question, (answer,), question.answers, question.kind, right=right)


def scores_result(scores: Mapping[Condition, VqaScores]) -> dict[str, object]:
    """For JSON: the scores under each condition."""
    return {condition: score.to_dict() for condition, score in scores.items()}
