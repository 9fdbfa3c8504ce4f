"""Every short answer is true: random annotations, judged by an evaluator that shares no code with the fact extractor.

The world behind an annotation is known here: every object's category, colour and box. Captions tell a part of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qllava.datagen.captions import CaptionReader
from qllava.datagen.facts import extract_facts
from qllava.datagen.lessons import KINDS, Lesson
from qllava.datagen.short_questions import SHORT_TYPES, Priors
from qllava.datagen.sources import Instance, Scene
from qllava.datagen.template_teacher import teach
from qllava.types import Box

PLURALS = {
    "circle": "circles",
    "square": "squares",
    "star": "stars",
    "dog": "dogs",
    "person": "people",
    "bus": "buses",
    "wine glass": "wine glasses",
    "knife": "knives",
    "apple": "apples",
}
SINGULARS = {plural: name for name, plural in PLURALS.items()}
COLORS = ("red", "green", "blue", "yellow", "orange", "pink", "black", "white")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")
CATEGORIES = dict.fromkeys(PLURALS, "")
READER = CaptionReader(CATEGORIES)
PRIORS = Priors(dict.fromkeys(PLURALS, 5), dict.fromkeys(COLORS, 5))


@dataclass(frozen=True)
class Thing:
    name: str
    color: str
    box: Box


@dataclass(frozen=True)
class World:
    things: tuple[Thing, ...]
    crowd: str | None
    captions: tuple[str, ...]

    def all(self, name: str) -> list[Thing]:
        return [thing for thing in self.things if thing.name == name]

    def only(self, name: str) -> Thing:
        (thing,) = self.all(name)
        assert name != self.crowd
        return thing

    def scene(self) -> Scene:
        instances = [Instance(thing.name, thing.box) for thing in self.things]
        if self.crowd is not None:
            instances.append(Instance(self.crowd, Box(0.1, 0.1, 0.9, 0.9), crowd=True))
        return Scene("s", "s.jpg", self.captions, tuple(instances), CATEGORIES)


@st.composite
def things(draw: st.DrawFn) -> Thing:
    size = draw(st.floats(0.02, 0.4))
    x, y = draw(st.floats(0, 1 - size)), draw(st.floats(0, 1 - size))
    box = Box(x, y, x + size, y + size * draw(st.floats(0.5, 1)))
    return Thing(draw(st.sampled_from(sorted(PLURALS))), draw(st.sampled_from(COLORS)), box)


def article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


@st.composite
def true_worlds(draw: st.DrawFn) -> World:
    seen = tuple(draw(st.lists(things(), max_size=5)))
    crowd = draw(st.none() | st.sampled_from(sorted(PLURALS)))
    captions = []
    for _ in range(draw(st.integers(0, 3))):
        told = []
        for name in draw(st.permutations(sorted({thing.name for thing in seen}))):
            alike = [thing for thing in seen if thing.name == name]
            colored = draw(st.booleans())
            if draw(st.booleans()):
                continue
            if len(alike) == 1:
                place = draw(st.sampled_from(["", f"on the {'left' if alike[0].box.center[0] < 0.5 else 'right'}"]))
                size = draw(st.sampled_from(["", "large", "shiny old"]))
                words = [size, alike[0].color if colored else "", name]
                told.append(f"{article(' '.join(filter(None, words)))} {place}")
            elif colored and name != crowd:
                told.append(" and ".join(f"{article(thing.color)} {name}" for thing in alike))
            else:
                told.append(draw(st.sampled_from([f"{NUMBERS[len(alike)]} {PLURALS[name]}", PLURALS[name]])))
        joined = draw(st.sampled_from([" and ", ", ", " next to "])).join(told)
        captions.append(draw(st.sampled_from(["{}", "There is {}.", "a photo of {}"])).format(joined or "nothing much"))
    return World(seen, crowd, tuple(captions))


@st.composite
def odd_worlds(draw: st.DrawFn) -> World:
    """Captions that need not be true, nor English."""
    words = [
        *PLURALS,
        *SINGULARS,
        *COLORS,
        *NUMBERS,
        "a",
        "the",
        "and",
        "no",
        "several",
        "of",
        "is",
        ",",
        "on the left",
    ]
    caption = st.lists(st.sampled_from([*words, "man", "women", "two", "another", "group"]), max_size=9).map(" ".join)
    seen = tuple(draw(st.lists(things(), max_size=5)))
    crowd = draw(st.none() | st.sampled_from(sorted(PLURALS)))
    return World(seen, crowd, tuple(draw(st.lists(caption | st.text(max_size=20), max_size=3))))


NAME = "(?:an? |any )?(.+?)"
COLORED = rf"(?:an? |any )?({'|'.join(COLORS)}) (.+?)"


def count(world: World, answer: str, plural: str) -> bool:
    name = SINGULARS[plural]
    return name != world.crowd and answer == str(len(world.all(name)))


def color(world: World, answer: str, name: str) -> bool:
    return world.only(name).color == answer


def thing(world: World, answer: str, shade: str) -> bool:
    return [one.name for one in world.things if one.color == shade] == [answer] and world.crowd is None


def presence(world: World, answer: str, name: str) -> bool:
    return answer == ("yes" if world.all(name) or world.crowd == name else "no")


def colored_presence(world: World, answer: str, shade: str, name: str) -> bool:
    here = any(one.color == shade for one in world.all(name))
    return here if answer == "yes" else (not here and world.crowd != name)


def across(world: World, answer: str, name: str) -> bool:
    return answer == ("left", "middle", "right")[int(world.only(name).box.center[0] * 3)]


def down(world: World, answer: str, name: str) -> bool:
    return answer == ("top", "middle", "bottom")[int(world.only(name).box.center[1] * 3)]


def side(world: World, answer: str, one: str, other: str) -> bool:
    gap = world.only(one).box.center[0] - world.only(other).box.center[0]
    return answer == ("left" if gap < 0 else "right") and abs(gap) > 0.09


def height(world: World, answer: str, one: str, other: str) -> bool:
    gap = world.only(one).box.center[1] - world.only(other).box.center[1]
    return answer == ("above" if gap < 0 else "below") and abs(gap) > 0.09


def larger(world: World, answer: str, one: str, other: str) -> bool:
    loser = other if answer == one else one
    return {answer, loser} == {one, other} and world.only(answer).box.area > 1.9 * world.only(loser).box.area


JUDGES: dict[str, list[tuple[str, Callable[..., bool]]]] = {
    "count": [(r"How many (.+?) (?:are there|can you see|are in the picture)\?", count)],
    "color": [(r"(?:What|Which) color is the (.+)\?|What is the color of the (.+)\?", color)],
    "thing-by-color": [(r"What is the (\w+) object\?|(?:What|Which object) is (\w+)\?", thing)],
    "presence": [(rf"(?:Is there|Do you see|Can you see) {NAME}\?", presence)],
    "colored-presence": [(rf"(?:Is there|Do you see|Can you see) {COLORED}\?", colored_presence)],
    "position": [
        (r"Is the (.+) on the left, in the middle or on the right\?", across),
        (r"Where is the (.+): left, middle or right\?|Left, middle or right: where is the (.+)\?", across),
        (r"Is the (.+) at the top, in the middle or at the bottom\?", down),
        (r"Where is the (.+): top, middle or bottom\?|Top, middle or bottom: where is the (.+)\?", down),
    ],
    "relation": [
        (r"Is the (.+) to the left or to the right of the (.+)\?", side),
        (r"Is the (.+) left or right of the (.+)\?", side),
        (r"Left or right: where is the (.+) relative to the (.+)\?", side),
        (r"Is the (.+) above or below the (.+)\?|Above or below: where is the (.+) relative to the (.+)\?", height),
    ],
    "largest": [(r"(?:Which is larger|What is bigger|Which has the larger size), the (.+) or the (.+)\?", larger)],
}


def judged(world: World, lesson: Lesson) -> bool:
    for pattern, judge in JUDGES[lesson.type]:
        match = re.fullmatch(pattern, lesson.question)
        if match is not None:
            return judge(world, lesson.answer, *[group for group in match.groups() if group is not None])
    raise AssertionError(f"no judge reads {lesson.question!r}")


def lessons(world: World, seed: int, questions: int = 50) -> list[Lesson]:
    scene = world.scene()
    return teach(scene.id, extract_facts(scene, READER), PRIORS, seed, questions, KINDS)


quickly = settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@quickly
@given(true_worlds(), st.integers(0, 1000))
def test_every_short_answer_is_true(world: World, seed: int) -> None:
    short = [lesson for lesson in lessons(world, seed) if lesson.kind == "conversation"]
    for lesson in short:
        assert judged(world, lesson), (world, lesson)
        assert lesson.accepted[0] == lesson.answer
    assert len({lesson.question for lesson in short}) == len(short)
    for kind in ("presence", "colored-presence"):
        answers = [lesson.answer for lesson in short if lesson.type == kind]
        assert answers.count("yes") == answers.count("no")


@quickly
@given(odd_worlds(), st.integers(0, 1000))
def test_whatever_captions_say_boxes_are_not_contradicted(world: World, seed: int) -> None:
    for lesson in lessons(world, seed):
        if lesson.kind == "conversation" and lesson.type in {"count", "presence", "position", "relation", "largest"}:
            assert judged(world, lesson), (world, lesson)


@quickly
@given(true_worlds(), st.integers(0, 1000))
def test_long_answers_keep_to_the_world(world: World, seed: int) -> None:
    for lesson in lessons(world, seed):
        if lesson.kind == "conversation":
            continue
        assert lesson.answer.endswith(".")
        assert not re.search(r"caption|\bbox|annotation", lesson.answer + lesson.question)
        for match in re.finditer(r"There (?:is|are) ([^.]*?)\.", lesson.answer):
            if lesson.answer[: match.start()] or not world.captions:  # not the caption itself
                for part in re.split(r", | and ", match[1]):
                    number, name = part.split(" ", 1)
                    assert NUMBERS.index(number) == len(world.all(SINGULARS.get(name, name)))
        if lesson.type == "sum":
            assert eval(lesson.answer.split(". ")[1].replace("=", "==").rstrip("."))  # noqa: S307 - our own digits


def test_all_types_are_asked() -> None:
    world = World(
        (
            Thing("circle", "red", Box(0.05, 0.05, 0.25, 0.25)),
            Thing("square", "blue", Box(0.6, 0.6, 0.95, 0.95)),
        ),
        None,
        ("a red circle and a blue square",),
    )
    found = lessons(world, 3)
    assert {lesson.type for lesson in found if lesson.kind == "conversation"} == set(SHORT_TYPES)
    assert lessons(world, 3) == found
    assert lessons(world, 4) != found
    assert [lesson.kind for lesson in lessons(world, 3, questions=6)].count("conversation") == 6


def test_no_answer_is_hard_to_guess_from_the_question() -> None:
    """Over many pictures, each category and colour is denied about as often as it is confirmed."""
    rng = Random(0)
    answers: dict[str, list[str]] = {}
    for index in range(600):
        names = rng.sample(["circle", "square", "star", "bus"], 2)
        shades = rng.sample(["red", "green", "blue", "black"], 2)
        seen = tuple(
            Thing(name, shade, Box(0.1 + 0.4 * n, 0.1, 0.3 + 0.4 * n, 0.3))
            for n, (name, shade) in enumerate(zip(names, shades, strict=True))
        )
        text = " and ".join(f"a {one.color} {one.name}" for one in seen)
        world = World(seen, None, (text,))
        categories = dict.fromkeys(("circle", "square", "star", "bus"), "")
        scene = Scene(str(index), "x.jpg", (text,), world.scene().instances, categories)
        priors = Priors(dict.fromkeys(categories, 300), dict.fromkeys(("red", "green", "blue", "black"), 300))
        for lesson in teach(scene.id, extract_facts(scene, READER), priors, 1, 6, ("conversation",)):
            if lesson.answer in {"yes", "no"}:
                for word in re.findall(r"circle|square|star|bus|red|green|blue|black", lesson.question):
                    answers.setdefault(word, []).append(lesson.answer)
    for word, said in answers.items():
        assert 0.4 < said.count("yes") / len(said) < 0.6, (word, len(said))
