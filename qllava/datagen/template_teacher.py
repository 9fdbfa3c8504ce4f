"""The `template` teacher: no key, no model, deterministic; every statement follows from the annotations."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from random import Random

from qllava.datagen import lexicon
from qllava.datagen.captions import tokenize
from qllava.datagen.facts import Facts
from qllava.datagen.lessons import Kind, Lesson
from qllava.datagen.long_answers import detail, reasoning
from qllava.datagen.short_questions import Priors, short_questions
from qllava.datagen.sources import Scene

# Descriptions to conversations in LLaVA-Instruct-158K (the paper's section 3). One for every picture would make long
# answers most of what is trained.
DETAIL_SHARE = 23 / 58


def measure_priors(scenes: Iterable[Scene]) -> Priors:
    """How often each category is boxed and each colour is named in the scenes, counted once a picture."""
    categories: Counter[str] = Counter()
    colors: Counter[str] = Counter()
    for scene in scenes:
        categories.update({instance.category for instance in scene.instances})
        words = {word for caption in scene.captions for word in tokenize(caption)}
        colors.update({lexicon.COLORS[word] for word in words & lexicon.COLORS.keys()})
    return Priors(categories=dict(sorted(categories.items())), colors=dict(sorted(colors.items())))


def teach(
    scene_id: str, facts: Facts, priors: Priors, seed: int, questions: int, kinds: Sequence[Kind]
) -> list[Lesson]:
    """The lessons of one picture: `questions` short ones, a description, a piece of reasoning, as `kinds` asks.

    Of pictures that have short questions, only `DETAIL_SHARE` get a description as well.

    Depends on nothing but the arguments: the same ones give the same words on every machine.
    """
    lessons: list[Lesson] = []
    if "conversation" in kinds:
        lessons += short_questions(facts, questions, priors, seeded(seed, scene_id, "conversation"))
    if "detail" in kinds and (not lessons or seeded(seed, scene_id, "detail share").random() < DETAIL_SHARE):
        lessons += filter(None, [detail(facts, seeded(seed, scene_id, "detail"))])
    if "reasoning" in kinds:
        lessons += filter(None, [reasoning(facts, seeded(seed, scene_id, "reasoning"))])
    return lessons


def seeded(seed: int, *names: str) -> Random:
    """A generator of its own for each purpose, so that asking for another kind changes nothing else."""
    text = "\0".join((str(seed), *names))
    return Random(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]))  # noqa: S311 - choice of words
