"""Exact facts from hand-made annotations: what is claimed, and above all what is not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from qllava.datagen.captions import CaptionReader
from qllava.datagen.facts import Facts, extract_facts
from qllava.datagen.lexicon import SYNONYMS
from qllava.datagen.sources import Instance, Scene
from qllava.types import Box

GROUPS = {"cow": "animal", "dog": "animal", "sheep": "animal", "apple": "food"}
NAMES = {**{name: GROUPS.get(name, "") for name in SYNONYMS}, "circle": "", "square": "", "triangle": ""}
READER = CaptionReader(NAMES)


def at(category: str, x: float = 0.5, y: float = 0.5, size: float = 0.1, **more: object) -> Instance:
    box = Box(x - size / 2, y - size / 2, x + size / 2, y + size / 2)
    return Instance(category, box, **more)  # type: ignore[arg-type]


def facts(captions: Sequence[str], *instances: Instance) -> Facts:
    return extract_facts(Scene("1", "1.jpg", tuple(captions), instances, NAMES), READER)


def test_two_shapes() -> None:
    found = facts(
        ["a large red circle on the left and a small blue square at the top right"],
        at("circle", 0.15, 0.5, 0.3),
        at("square", 0.85, 0.15, 0.15),
    )
    assert found.counts == {"circle": 1, "square": 1}
    assert found.colors == {"circle": "red", "square": "blue"}
    assert found.sole == {"red": "circle", "blue": "square"}
    assert found.across == {"circle": "left", "square": "right"}
    assert found.down == {"circle": "middle", "square": "top"}
    assert found.left_of == (("circle", "square"),)
    assert found.above == (("square", "circle"),)
    assert found.larger == (("circle", "square"),)
    assert "triangle" in found.absent
    assert not {"circle", "square"} & set(found.absent)


@pytest.mark.parametrize(
    ("caption", "boxes", "count"),
    [
        ("two men riding horses", 2, 2),
        ("two men riding horses", 1, None),
        ("two men riding horses", 3, 3),  # a third person may be no man
        ("two people on a beach", 3, None),
        ("two people: a man and a woman", 2, 2),
        ("a man and a woman", 1, None),
        ("a man on a beach", 2, 2),
        ("people on a beach", 1, None),
        ("people on a beach", 4, 4),
        ("several people on a beach", 4, None),
        ("a group of people", 4, None),
        ("a group of three people", 3, 3),
        ("a group of three people", 4, None),
        ("one of the men waves", 3, None),
        ("a person next to another person", 1, None),
        ("a beach with no people", 2, None),
        ("a single person", 2, None),
        ("12 people", 2, None),
        ("an empty beach", 10, 10),
        ("an empty beach", 11, None),
    ],
)
def test_counts_unless_a_caption_disagrees(caption: str, boxes: int, count: int | None) -> None:
    found = facts([caption], *[at("person", 0.05 + 0.08 * n, 0.5, 0.05) for n in range(boxes)])
    assert found.counts.get("person") == count
    assert ("person" in found.doubts) == (count is None)


def test_no_count_where_iscrowd_or_a_box_is_empty() -> None:
    assert facts([], at("dog", 0.2), at("dog", 0.8, crowd=True)).counts == {}
    assert facts([], at("dog", 0.2), at("dog", 0.8, size=0.0)).counts == {}
    assert facts([], at("scissors")).counts == {}
    assert facts([], at("dog", crowd=True)).present == ("dog",)


@pytest.mark.parametrize(
    ("captions", "color"),
    [
        (["a red double decker bus"], "red"),
        (["the bus is red"], "red"),
        (["a big, red bus parked outside"], "red"),
        (["a grey bus", "a bus that is gray"], "gray"),
        (["a red and white bus"], None),
        (["a red bus", "a white bus"], None),
        (["a red striped bus"], None),
        (["a red tour bus"], None),
        (["a red bus stop"], None),
        (["a bus with red doors"], None),
        (["a multi-colored bus", "a red bus"], None),
        (["a red bus next to a blue bus"], None),
        (["a bus is red and white"], None),
        (["a bus"], None),
    ],
)
def test_color_of_a_single_thing(captions: list[str], color: str | None) -> None:
    assert facts(captions, at("bus")).colors.get("bus") == color


def test_no_color_of_people_nor_of_one_among_several() -> None:
    assert facts(["a black man"], at("person")).colors == {}
    found = facts(["a red circle and a blue circle"], at("circle", 0.2), at("circle", 0.8))
    assert found.colors == {}
    assert found.colored == (("blue", "circle"), ("red", "circle"))


def test_the_sole_red_thing_needs_every_color_and_every_use_of_the_word() -> None:
    pair = at("circle", 0.2), at("square", 0.8)
    assert facts(["a red circle and a blue square"], *pair).sole == {"red": "circle", "blue": "square"}
    assert facts(["a red circle and a square"], *pair).sole == {}
    assert facts(["a red circle and an orange square"], *pair).sole == {}  # the names may be confused
    assert facts(["a red circle and a blue square", "a red wall"], *pair).sole == {"blue": "square"}


@pytest.mark.parametrize(
    ("x", "across"),
    [
        (0.1, "left"),
        (0.29, "left"),
        (0.3, None),
        (0.36, None),
        (0.38, "middle"),
        (0.62, "middle"),
        (0.64, None),
        (0.71, "right"),
    ],
)
def test_thirds_with_a_margin(x: float, across: str | None) -> None:
    assert facts([], at("dog", x)).across.get("dog") == across
    down = {"left": "top", "right": "bottom"}.get(across or "", across)
    assert facts([], at("dog", 0.5, x)).down.get("dog") == down


def test_no_place_for_what_fills_the_frame_or_where_a_caption_puts_it_elsewhere() -> None:
    assert facts([], at("dog", 0.45, 0.5, 0.8)).across == {}
    assert facts(["a dog on the right"], at("dog", 0.1)).across == {}
    assert facts(["a dog is sitting on the right"], at("dog", 0.1)).across == {}
    assert facts(["a dog lies on the right"], at("dog", 0.1)).agreeing == ()
    assert facts(["a dog on the left of a cat"], at("dog", 0.8)).across == {"dog": "right"}
    assert facts(["a dog on the left of the picture"], at("dog", 0.8)).across == {}


def test_relations_need_a_distance_and_no_caption_against_them() -> None:
    assert facts([], at("dog", 0.4), at("cat", 0.49)).left_of == ()
    assert facts([], at("dog", 0.4), at("cat", 0.51)).left_of == (("dog", "cat"),)
    assert facts([], at("dog", 0.4, size=0.3), at("cat", 0.51, size=0.3)).left_of == ()
    assert facts([], at("dog", 0.5, 0.2), at("cat", 0.5, 0.7)).above == (("dog", "cat"),)
    assert facts(["a dog to the right of a cat"], at("dog", 0.2), at("cat", 0.8)).left_of == ()
    assert facts(["a dog to the left of a cat"], at("dog", 0.2), at("cat", 0.8)).left_of == (("dog", "cat"),)
    assert facts([], at("dog", 0.1), at("dog", 0.3), at("cat", 0.8)).left_of == ()


def test_larger_by_outline_and_box_or_by_far() -> None:
    assert facts([], at("circle", 0.2, size=0.13), at("square", 0.8, size=0.1)).larger == ()
    assert facts([], at("circle", 0.2, size=0.15), at("square", 0.8, size=0.1)).larger == (("circle", "square"),)
    outlined = at("circle", 0.2, size=0.13, area=0.014), at("square", 0.8, size=0.1, area=0.01)
    assert facts([], *outlined).larger == (("circle", "square"),)
    thin = at("triangle", 0.2, size=0.13, area=0.008), at("square", 0.8, size=0.1, area=0.01)
    assert facts([], *thin).larger == ()


@pytest.mark.parametrize(
    ("caption", "name", "absent"),
    [
        ("a red circle", "square", True),
        ("a red circle near squares", "square", False),
        ("a lady with a circle", "person", False),
        ("the lady's circle", "person", False),
        ("her circle", "person", False),
        ("a hot dog and a circle", "dog", True),
        ("a puppy and a circle", "dog", False),
        ("an orange circle", "orange", False),  # the word may be the fruit
        ("a circle and animals", "cow", False),
        ("a circle on a table", "dining table", False),
        ("a circle", "dining table", True),
    ],
)
def test_absence_of_what_no_box_and_no_caption_has(caption: str, name: str, absent: bool) -> None:
    assert (name in facts([caption], at("circle")).absent) == absent


def test_no_absence_in_a_picture_that_may_not_be_labelled() -> None:
    assert facts(["a red circle"]).absent == ()
    assert "cow" in facts(["two animals"], at("dog", 0.2), at("sheep", 0.8)).absent


def test_actions_as_captions_say_them() -> None:
    assert facts(["a dog is sitting on a mat"], at("dog")).actions == {"dog": "sitting"}
    assert facts(["a dog sitting", "a dog standing"], at("dog")).actions == {}


@pytest.mark.parametrize(
    ("captions", "repeated"),
    [
        (["a red dog", "a dog"], 2),
        (["a red dog", "a blue dog"], 0),
        (["a red dog", "an orange dog"], 2),  # one colour, two names
        (["a red and white dog", "a red dog"], 2),
        (["a dog sitting", "a dog standing"], 0),
        (["a dog sitting", "a dog smiling"], 2),
        (["a dog to the left of a cat"], 1),
        (["a dog to the right of a cat"], 0),
    ],
)
def test_a_caption_that_another_or_the_boxes_deny_is_not_repeated(captions: list[str], repeated: int) -> None:
    found = facts(captions, at("dog", 0.2), at("cat", 0.8))
    assert len(found.agreeing) == repeated


def test_several_on_one_side_need_one_there() -> None:
    assert facts(["two dogs on the right"], at("dog", 0.1), at("dog", 0.3)).agreeing == ()
    assert facts(["two dogs on the right"], at("dog", 0.1), at("dog", 0.8)).agreeing == ("two dogs on the right",)


def test_a_caption_that_the_boxes_deny_is_not_repeated() -> None:
    assert facts(["a dog", "two dogs", "a dog and a cat"], at("dog")).agreeing == ("a dog",)
    assert facts(["a group of people"], at("person", crowd=True)).agreeing == ("a group of people",)


@pytest.mark.parametrize(
    ("captions", "boxes", "count"),
    [
        ([], 1, None),
        (["a street"], 2, None),
        (["the dog"], 1, None),
        (["the dogs"], 2, None),
        (["a dog"], 1, 1),
        (["a street", "a dog next to the dog house"], 1, 1),
        (["two dogs"], 2, 2),
        (["a dog and another dog"], 2, 2),
        (["a dog"], 2, None),
        (["dogs, one of them large"], 2, None),
    ],
)
def test_where_no_crowd_is_marked_a_caption_must_state_the_number(
    captions: list[str], boxes: int, count: int | None
) -> None:
    instances = tuple(at("dog", 0.2 + 0.3 * n) for n in range(boxes))
    found = extract_facts(Scene("1", "1.jpg", tuple(captions), instances, NAMES, exhaustive=False), READER)
    assert found.counts.get("dog") == count
    assert ("dog" in found.unique) == (count == 1)
    assert ("dog" in found.doubts) == (count is None)
    assert found.present == ("dog",)
