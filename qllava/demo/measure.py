"""What the demo's run has learnt: answers about held-out scenes with the right picture, another one, and none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qllava.checkpoint.load import LoadedRun
from qllava.data.images import open_image, resolve_image
from qllava.evaluate.ask import CONDITIONS, Condition, ask
from qllava.evaluate.exact_match import Scores, is_right
from qllava.evaluate.held_out import HeldOut, as_conversations, spread_over
from qllava.evaluate.questions import Question, image_root, read_questions
from qllava.evaluate.sees import Progress, Sight
from qllava.evaluate.sees_run import sees_target
from qllava.evaluate.target import run_target
from qllava.evaluate.vqa import VqaScores, score_answers
from qllava.files import write_json
from qllava.infer.engine import Engine
from qllava.report.contact_sheet import SheetItem, write_contact_sheet

# The demo fails below these: the lowest of five seeds (0.787, and 0.359 above shuffled) less 0.03. Exact match, 0-1.
LEAST_RIGHT = 0.76
LEAST_GAIN = 0.33

QUESTIONS = Path("data/heldout.jsonl")
SCORES = "scores.json"
CONTACT_SHEET = "contact_sheet.png"

# Answers are one word or two; longer ones are wrong whatever follows.
_ANSWER_TOKENS = 8
_SHEET_CARDS = 12
# Losses settle sooner than accuracies: these are spread over all pictures.
SEES_SAMPLES = 128


@dataclass(frozen=True)
class Measured:
    """Scores under each condition, and what the picture is worth to the losses (None with a single picture)."""

    scores: Mapping[Condition, VqaScores]
    sight: Sight | None


def measure(
    folder: Path, loaded: LoadedRun, *, progress: Progress | None = None, looking: Progress | None = None
) -> Measured:
    """Ask the held-out questions of a demo folder under each condition; write `scores.json` and `contact_sheet.png`.

    Args:
        folder: the workspace, after gen-data.
        loaded: the run to ask.
        progress: told (condition, answered, questions) after each answer.
        looking: told (condition, scored, questions) while losses are measured.

    Raises:
        DataError: the question set, the card or a picture is missing or malformed.
    """
    questions = read_questions(folder / QUESTIONS)
    root = image_root(folder / QUESTIONS)
    engine = Engine(loaded)
    scores: dict[Condition, VqaScores] = {}
    answers: dict[Condition, dict[str, str]] = {}
    for condition in CONDITIONS:
        answers[condition] = {}
        for question, answer in ask(engine, questions, root, condition, max_new_tokens=_ANSWER_TOKENS):
            answers[condition][question.id] = answer
            if progress is not None:
                progress(condition, len(answers[condition]), len(questions))
        scores[condition] = score_answers(answers[condition], questions)
    held = HeldOut(spread_over(as_conversations(questions), SEES_SAMPLES), root, f"questions of {folder / QUESTIONS}")
    sight = sees_target(run_target(loaded.run), loaded, held, progress=looking)
    write_json(
        folder / SCORES,
        {
            "run": loaded.run.folder.name,
            "questions": len(questions),
            "conditions": {condition: score.exact.to_dict() for condition, score in scores.items()},
            "sees": None if sight is None else sight.to_dict(),
            "failures": gate(scores),
        },
    )
    _write_sheet(folder, loaded.run.folder.name, questions, answers["right"], scores["right"].exact, root)
    return Measured(scores, sight)


def gate(scores: Mapping[Condition, VqaScores]) -> list[str]:
    """What is below the demo's bar, one sentence each; empty when it passes."""
    right, shuffled = (scores[name].exact.overall.accuracy for name in ("right", "shuffled"))
    failures = []
    if right < LEAST_RIGHT:
        failures.append(f"exact match with the right picture is {right:.2f}, below {LEAST_RIGHT:.2f}")
    if right < shuffled + LEAST_GAIN:
        failures.append(
            f"the right picture adds {right - shuffled:.2f} over a shuffled one ({right:.2f} against {shuffled:.2f}), "
            f"below {LEAST_GAIN:.2f}"
        )
    return failures


def sheet_choice(questions: Sequence[Question], count: int) -> list[Question]:
    """Questions for the sheet: every kind in turn, each about another picture while there are some. Never by result."""
    waiting: dict[str, list[Question]] = {}
    for question in questions:
        waiting.setdefault(question.kind, []).append(question)
    chosen: list[Question] = []
    seen: set[str | None] = set()
    while len(chosen) < min(count, len(questions)):
        for kind in sorted(waiting):
            left = waiting[kind]
            if left and len(chosen) < count:
                fresh = next((question for question in left if question.image not in seen), left[0])
                left.remove(fresh)
                seen.add(fresh.image)
                chosen.append(fresh)
    return chosen


def _write_sheet(
    folder: Path, run: str, questions: Sequence[Question], answers: Mapping[str, str], scores: Scores, root: Path
) -> None:
    # Sorted by id, so that the choice does not depend on how the file was written.
    chosen = sheet_choice(sorted((q for q in questions if q.image), key=lambda question: question.id), _SHEET_CARDS)
    items = [
        SheetItem(
            open_image(resolve_image(root, question.image)),
            question.question,
            question.answers[0],
            answers[question.id],
            is_right(answers[question.id], question),
        )
        for question in chosen
        if question.image
    ]
    total: dict[str, Any] = scores.overall.to_dict()
    write_contact_sheet(
        items,
        folder / CONTACT_SHEET,
        title=f"{run}: held-out pictures",
        subtitle=f"{total['right']} of {total['asked']} questions right ({total['accuracy']:.0%}); "
        f"{len(items)} of them, chosen by kind and not by result",
    )
