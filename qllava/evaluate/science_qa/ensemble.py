"""Our answers with those of a language model that sees no picture (LLaVA's paper, ScienceQA: complement and judge)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from qllava.datagen.asking import View
from qllava.errors import UsageError
from qllava.evaluate.science_qa.extract import Chosen
from qllava.evaluate.science_qa.problems import Problem
from qllava.evaluate.science_qa.prompts import answer_text, question_text
from qllava.evaluate.science_qa.score import choose_all
from qllava.evaluate.text_model import Replies, TextModel, TextRequest, ask_texts, make_request

Mode = Literal["complement", "judge"]
MODES: tuple[Mode, ...] = get_args(Mode)
REPLIES = "replies.jsonl"

_SYSTEM = (
    "You answer multiple-choice questions from school science. You get no picture, even where the question was asked "
    'about one. Explain shortly, and end with "The answer is X." where X is the letter of your choice. If it cannot be '
    "answered without the picture, say that you cannot tell and name no letter."
)
_AGAIN = (
    "Two assistants answered the question and disagree. Assistant 2 saw the picture, if there is one.\n\n"
    "[Question]\n{question}\n\n[Assistant 1]\n{theirs}\n\n[Assistant 2]\n{ours}\n\n"
    'Weigh both and decide. Explain shortly, and end with "The answer is X." where X is the letter of your choice.'
)


@dataclass(frozen=True)
class Ensemble:
    """What an ensemble chose, by problem id, and how it came about.

    `theirs` the language model alone; `filled` problems it did not answer, where ours was taken; `differed` problems
    where both answered differently; `undecided` of those, where its second reply named no choice and ours was taken.
    """

    chosen: Mapping[str, Chosen]
    theirs: Mapping[str, Chosen]
    filled: int
    differed: int
    undecided: int
    replies: tuple[Replies, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"filled": self.filled, "differed": self.differed, "undecided": self.undecided}


def parse_mode(name: str) -> Mode:
    """A mode by name.

    Raises:
        UsageError: no such mode.
    """
    for known in MODES:
        if name == known:
            return known
    raise UsageError(f"--ensemble {name} is not known; take {' or '.join(MODES)}")


def pick_shots(train: Sequence[Problem], number: int = 2) -> list[Problem]:
    """The worked examples: the first training problems without a picture that have a lecture and a solution."""
    return [p for p in train if p.image is None and p.lecture and p.solution][:number]


def first_requests(
    problems: Sequence[Problem], shots: Sequence[Problem], settings: TextModel
) -> dict[str, TextRequest]:
    """The question itself, after worked examples; by problem id."""
    opening = [{"role": "system", "content": _SYSTEM}]
    for shot in shots:
        opening.append({"role": "user", "content": question_text(shot, "qcm-lea")})
        opening.append({"role": "assistant", "content": answer_text(shot, "qcm-lea")})
    return {
        p.id: make_request(settings, p.id, [*opening, {"role": "user", "content": question_text(p, "qcm-lea")}])
        for p in problems
    }


def combine(
    problems: Sequence[Problem],
    answers: Mapping[str, str],
    mode: Mode,
    settings: TextModel,
    folder: Path,
    *,
    shots: Sequence[Problem] = (),
    view: View,
    note: Callable[[str], None],
) -> Ensemble:
    """Ask the language model and combine its answers with ours.

    `complement`: its answer, ours where it names none. `judge`: where both name different choices it is asked again
    with both answers before it; its second word counts.

    Args:
        problems: of the split.
        answers: ours, by problem id.
        mode: how to combine.
        settings: the language model.
        folder: keeps its replies (`replies.jsonl`); what is in it is not asked again.
        shots: worked examples, see `pick_shots`.
        view: told after each reply and failure.
        note: gets what a person should know.

    Raises:
        DataError, UsageError, KeyboardInterrupt: as `choose_all` and `ask_texts`.
        TeacherError: the model cannot be used at all.
    """
    ours = choose_all(answers, problems)
    requests = first_requests(problems, shots, settings)
    first = _ask(requests, settings, folder, view, note)
    said = {identity: first.texts[r.key] for identity, r in requests.items() if r.key in first.texts}
    theirs = choose_all(said, problems)
    chosen = {p.id: theirs[p.id] if theirs[p.id].choice is not None else ours[p.id] for p in problems}
    filled = sum(found.choice is None for found in theirs.values())
    both = [p for p in problems if theirs[p.id].choice is not None and ours[p.id].choice is not None]
    split = [p for p in both if theirs[p.id].choice != ours[p.id].choice]
    if mode == "complement" or not split:
        return Ensemble(chosen, theirs, filled, len(split), 0, (first,))
    again = {
        p.id: make_request(
            settings,
            p.id,
            [
                {"role": "system", "content": _SYSTEM},
                {
                    "role": "user",
                    "content": _AGAIN.format(
                        question=question_text(p, "qcm-lea"), theirs=said[p.id], ours=answers[p.id]
                    ),
                },
            ],
        )
        for p in split
    }
    second = _ask(again, settings, folder, view, note)
    words = {identity: second.texts[r.key] for identity, r in again.items() if r.key in second.texts}
    decided = choose_all(words, split)
    final = {i: found if found.choice is not None else ours[i] for i, found in decided.items()}
    undecided = sum(found.choice is None for found in decided.values())
    return Ensemble(chosen | final, theirs, filled, len(split), undecided, (first, second))


def _ask(
    requests: Mapping[str, TextRequest], settings: TextModel, folder: Path, view: View, note: Callable[[str], None]
) -> Replies:
    distinct = {request.key: request for request in requests.values()}
    replies = ask_texts(list(distinct.values()), settings, folder / REPLIES, view=view, note=note)
    if replies.asked.error is not None:
        raise replies.asked.error
    if replies.asked.interrupted:
        raise KeyboardInterrupt
    return replies
