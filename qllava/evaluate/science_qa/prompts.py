"""How LLaVA asks a ScienceQA problem and what it learns to answer.

Q question, C context (the hint), M multiple options; L lecture, E explanation (the solution), A answer. The QCM
wordings are those of LLaVA's `convert_sqa_to_llava_base_prompt.py`, which leaves out "Question:" and "Answer:" where
they would open a turn; CQM-A is that of LLaVA 1.5's `llava_test_CQM-A.json` with the sentence its evaluation adds.
"""

from __future__ import annotations

from typing import Literal, get_args

from qllava.errors import UsageError
from qllava.evaluate.science_qa.problems import Problem

Format = Literal["qcm-lea", "qcm-lepa", "cqm-a"]
FORMATS: tuple[Format, ...] = get_args(Format)
DIRECT = "Answer with the option's letter from the given choices directly."
"""What LLaVA 1.5's evaluation adds to a CQM-A question; its training mix asks other multiple choices like that too."""


def parse_format(name: str) -> Format:
    """A format by name, in either case.

    Raises:
        UsageError: no such format.
    """
    for known in FORMATS:
        if name.lower() == known:
            return known
    raise UsageError(f"--format {name} is not known; take {', '.join(FORMATS)}")


def question_text(problem: Problem, style: Format) -> str:
    """What the model is asked, without the picture."""
    hint = problem.hint.strip()
    named = list(zip(problem.letters, problem.choices, strict=True))
    if style == "cqm-a":
        context = [f"Context: {hint}"] if hint else []
        options = [f"{letter}. {choice}" for letter, choice in named]
        return _tidy("\n".join([*context, problem.question, *options, DIRECT]))
    options = [f"({letter}) {choice}" for letter, choice in named]
    return _tidy(f"{problem.question}\nContext: {hint or 'N/A'}\nOptions: {' '.join(options)}")


def answer_text(problem: Problem, style: Format) -> str:
    """The answer to train on: reasoning first, but for `cqm-a`."""
    letter = problem.letters[problem.answer]
    lecture, solution = problem.lecture.strip(), problem.solution.strip()
    if style == "cqm-a":
        return letter
    if style == "qcm-lea":
        return _tidy(" ".join(filter(None, (lecture, solution, f"The answer is {letter}."))))
    steps = [f"LECTURE: {lecture}"] * bool(lecture) + [f"SOLUTION: {solution}"] * bool(solution)
    return _tidy("\n".join([*steps, "###", f"ANSWER: {letter}."]))


def _tidy(text: str) -> str:
    """Double spaces as single ones, as the original files have them."""
    return text.replace("  ", " ").strip()
