"""Facts as prose: a description of the picture, and a question whose answer shows its steps."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from random import Random

from qllava.datagen.facts import Facts
from qllava.datagen.grammar import counted, listed, plural, sentence, spelled
from qllava.datagen.lessons import Kind, Lesson

DETAIL_QUESTIONS = (
    "Describe the picture in detail.",
    "What does the picture show?",
    "Give a careful description of what you see.",
    "Tell me everything you can make out here.",
    "Write down what is in the picture and where it is.",
    "What can be seen, and where?",
    "Describe this scene for somebody who cannot see it.",
    "Please walk me through the picture.",
)
_MOST_NAMED = 4


def detail(facts: Facts, rng: Random) -> Lesson | None:
    """A description: a caption that the boxes bear out, then counts, actions and places; None without any of them."""
    sentences: list[str] = []
    told = ""
    if facts.agreeing:
        told = rng.choice(sorted(facts.agreeing))
        sentences.append(sentence(told))
    named = sorted(facts.counts)[:_MOST_NAMED]
    said = len(named) == 1 and named[0] in facts.unique and named[0] in told.lower()
    if named and not said:  # "A dog on a mat. There is one dog." says nothing more
        parts = [counted(facts.counts[name], name) for name in named]
        verb = "is" if facts.counts[named[0]] == 1 else "are"
        sentences.append(sentence(f"there {verb} {listed(parts)}"))
    for name in named:
        if name not in facts.unique:
            continue
        words = [facts.actions[name]] if name in facts.actions and facts.actions[name] not in told.lower() else []
        place = _place(facts.across.get(name), facts.down.get(name))
        if place and place not in told:
            words.append(place)
        if words:
            sentences.append(sentence(f"the {spelled(name)} is {' '.join(words)}"))
    if not sentences:
        return None
    return _lesson("detail", "description", rng.choice(DETAIL_QUESTIONS), " ".join(sentences))


def reasoning(facts: Facts, rng: Random) -> Lesson | None:
    """One comparison, sum, order or difference of sizes, with its steps; None where the facts allow none."""
    builders: list[Callable[[Facts, Random], Lesson | None]] = [_more, _altogether, _order, _sizes]
    rng.shuffle(builders)
    return next((lesson for build in builders if (lesson := build(facts, rng)) is not None), None)


def _more(facts: Facts, rng: Random) -> Lesson | None:
    if len(facts.counts) < 2:
        return None
    one, other = rng.sample(sorted(facts.counts), 2)
    a, b = facts.counts[one], facts.counts[other]
    many, others = spelled(plural(one)), spelled(plural(other))
    seen = f"{_there_is(a, one)} and {counted(b, other)}."
    if a == b:
        steps = f"{seen} The numbers are equal: no."
    else:
        word, verdict = ("more", "yes") if a > b else ("less", "no")
        steps = f"{seen} {a} is {word} than {b}: {verdict}."
    return _lesson("reasoning", "comparison", f"Are there more {many} than {others}, and why?", steps)


def _altogether(facts: Facts, rng: Random) -> Lesson | None:
    if len(facts.counts) < 2:
        return None
    one, other = rng.sample(sorted(facts.counts), 2)
    a, b = facts.counts[one], facts.counts[other]
    question = f"How many {spelled(plural(one))} and {spelled(plural(other))} are there together? Show the steps."
    return _lesson("reasoning", "sum", question, f"{_there_is(a, one)} and {counted(b, other)}. {a} + {b} = {a + b}.")


def _order(facts: Facts, rng: Random) -> Lesson | None:
    """From left to right, where every neighbouring pair is certain."""
    known = set(facts.left_of)
    names = sorted({name for pair in known for name in pair}, key=lambda name: facts.unique[name].center)
    names = names[:_MOST_NAMED]
    if len(names) < 2 or any(pair not in known for pair in pairwise(names)):
        return None
    asked = sorted(names)
    rng.shuffle(asked)
    question = f"In which order, from left to right, are {_the(asked)}?"
    steps = " ".join(f"The {spelled(a)} is left of the {spelled(b)}." for a, b in pairwise(names))
    return _lesson("reasoning", "order", question, f"{steps} So the order is {listed([spelled(n) for n in names])}.")


def _sizes(facts: Facts, rng: Random) -> Lesson | None:
    """A sum of sizes would be a guess; which is larger, and what follows for the other, is not."""
    if not facts.larger:
        return None
    larger, smaller = rng.choice(facts.larger)
    pair = sorted((larger, smaller))
    rng.shuffle(pair)
    question = (
        f"Which covers less of the picture, {listed([f'the {spelled(name)}' for name in pair], last='or')}, and why?"
    )
    steps = f"The {spelled(larger)} is larger than the {spelled(smaller)}, so the {spelled(smaller)} covers less."
    return _lesson("reasoning", "size", question, steps)


def _there_is(count: int, name: str) -> str:
    return f"There {'is' if count == 1 else 'are'} {counted(count, name)}"


def _the(names: list[str]) -> str:
    return listed([f"the {spelled(name)}" for name in names])


def _place(across: str | None, down: str | None) -> str:
    """`at the top left`, `on the right`, `in the middle`; empty where neither is certain."""
    if across == "middle" and down == "middle":
        return "in the middle"
    parts = [word for word in (down, across) if word not in {None, "middle"}]
    if not parts:
        return ""
    words = " ".join(part for part in parts if part)
    return f"at the {words}" if down in {"top", "bottom"} else f"on the {words}"


def _lesson(kind: Kind, topic: str, question: str, answer: str) -> Lesson:
    return Lesson(kind, topic, question, answer, (answer,))
