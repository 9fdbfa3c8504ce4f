"""Questions and answers in the manner of language models, written by hand, with what the checks should say.

`bad` cases name the reason; `missed` are wrong too, but no check reads them for certain, and they pass today.
"""

from __future__ import annotations

from typing import NamedTuple

from qllava.datagen.lessons import Kind
from qllava.datagen.lexicon import SYNONYMS
from qllava.datagen.sources import Instance, Scene
from qllava.types import Box

GROUPS = {"dog": "animal", "cat": "animal", "cow": "animal", "zebra": "animal", "giraffe": "animal", "horse": "animal"}
CATEGORIES = {name: GROUPS.get(name, "") for name in SYNONYMS}


def scene(name: str, captions: tuple[str, ...], *labels: tuple[str, float, float, float, float]) -> Scene:
    instances = tuple(
        Instance(category.removesuffix("*"), Box(x1, y1, x2, y2), crowd=category.endswith("*"))
        for category, x1, y1, x2, y2 in labels
    )
    return Scene(name, f"{name}.jpg", captions, instances, CATEGORIES)


SCENES = {
    found.id: found
    for found in (
        scene(
            "park",
            ("a brown dog lying on the grass next to a red frisbee", "a dog and a frisbee in a park"),
            ("dog", 0.1, 0.5, 0.35, 0.9),
            ("frisbee", 0.7, 0.6, 0.8, 0.7),
        ),
        scene(
            "street",
            ("two men riding bicycles past a red bus", "two cyclists near a bus"),
            ("person", 0.1, 0.3, 0.2, 0.8),
            ("person", 0.3, 0.3, 0.4, 0.8),
            ("bicycle", 0.08, 0.5, 0.22, 0.9),
            ("bicycle", 0.28, 0.5, 0.42, 0.9),
            ("bus", 0.6, 0.3, 0.95, 0.7),
            ("traffic light", 0.05, 0.05, 0.1, 0.2),
        ),
        scene(
            "kitchen",
            ("a white cat sitting on a wooden chair by an oven", "a cat in a kitchen"),
            ("cat", 0.1, 0.3, 0.3, 0.5),
            ("chair", 0.1, 0.5, 0.3, 0.9),
            ("oven", 0.6, 0.4, 0.9, 0.9),
        ),
        scene(
            "station",
            ("a crowd of people at a train station", "many people waiting by a yellow train"),
            ("person*", 0.0, 0.5, 1.0, 1.0),
            *[("person", 0.1 * n, 0.5, 0.1 * n + 0.05, 0.8) for n in range(1, 9)],
            ("train", 0.2, 0.2, 0.9, 0.6),
        ),
        scene(
            "savanna",
            ("three zebras grazing in front of a giraffe", "zebras and a tall giraffe on dry grass"),
            ("zebra", 0.05, 0.6, 0.25, 0.9),
            ("zebra", 0.35, 0.6, 0.5, 0.9),
            ("zebra", 0.55, 0.6, 0.7, 0.9),
            ("giraffe", 0.75, 0.1, 0.95, 0.9),
        ),
        scene(
            "poster",
            ("a black and white poster with a caption under a photo of a dog", "a poster on a wall"),
            ("dog", 0.4, 0.4, 0.6, 0.6),
        ),
        scene("unlabelled", ()),
    )
}


class Case(NamedTuple):
    """One turn; `reason` is a part of the rejection's reason, None where the turn is right."""

    scene: str
    kind: Kind
    question: str
    answer: str
    reason: str | None


def cases(reason: str | None, kind: Kind, *rows: tuple[str, str, str]) -> list[Case]:
    return [Case(where, kind, question, answer, reason) for where, question, answer in rows]


REFUSALS = cases(
    "refusal",
    "conversation",
    ("park", "What is the dog doing?", "I'm sorry, but I can't tell what the dog is doing."),
    ("park", "What color is the frisbee?", "I am sorry, I do not know."),
    ("park", "Where is the dog?", "As an AI language model, I cannot look at pictures."),
    ("park", "Where is the dog?", "I cannot see the image, but dogs usually lie on the ground."),
    ("street", "How many buses are there?", "I\N{RIGHT SINGLE QUOTATION MARK}m unable to view images."),
    ("street", "What are they doing?", "Unfortunately, I don't have the ability to see pictures."),
    ("street", "What are they doing?", "Sorry, I can't help with that."),
    ("kitchen", "Where is the cat?", "Please provide the image so that I can answer."),
    ("kitchen", "Where is the cat?", "Without seeing the image, it is hard to say."),
    ("kitchen", "Where is the cat?", "No image was provided."),
    ("kitchen", "Where is the cat?", "I'm just a language model, so I can only guess."),
    ("station", "Who is there?", "I cannot assist with identifying people."),
)
LEFT_OVERS = cases(
    "broken format",
    "conversation",
    ("park", "What is on the grass?", "A dog.\nQuestion:\nWhat color is it?"),
    ("park", "Question: What is on the grass?", "A dog."),
    ("park", "What is on the grass?", "Answer: A dog."),
    ("park", "What is on the grass?", "A dog.\n===\n"),
    ("park", "What is on the grass?", "A dog. === Question: What else is there?"),
    ("park", "What is on the grass?", '{"answer": "A dog."}'),
    ("park", "What is on the grass?", 'A dog."}]'),
    ("park", "<image>\nWhat is on the grass?", "A dog."),
    ("park", "What is on the grass?", "A dog.<|im_end|>"),
    ("park", "What is on the grass?", "A dog.</s>"),
    ("park", "What is on the grass?", "[/INST] A dog."),
    ("park", "What is on the grass?", "### Assistant: A dog."),
    ("park", "USER: What is on the grass?", "A dog."),
    ("park", "What is on the grass?", "```\nA dog.\n```"),
    ("park", "What is on the grass?", "A dog.<end_of_turn>"),
)
SWAPPED = cases(
    "roles swapped",
    "conversation",
    ("park", "There is a dog on the grass.", "What is on the grass?"),
    ("street", "The two men are riding bicycles.", "What are the two men doing?"),
    ("kitchen", "It is white.", "What color is the cat?"),
)
SOURCES = cases(
    "speaks of captions or boxes",
    "conversation",
    ("park", "What is the dog doing?", "According to the captions, it is lying on the grass."),
    ("park", "What is the dog doing?", "The caption mentions that it lies on the grass."),
    ("park", "Based on the provided information, what is the dog doing?", "It is lying on the grass."),
    ("park", "How large is the frisbee?", "Its bounding box is small, so the frisbee is small too."),
    ("park", "Where is the dog?", "From the description, the dog is on the grass."),
    ("street", "Who is riding?", "The first caption says two men, the second one cyclists."),
    ("street", "What brand is the bus?", "The brand of the bus is not mentioned."),
    ("street", "What brand is the bus?", "It is not specified in the given context."),
    ("street", "What is behind the men?", "The description states that there is a red bus."),
    ("kitchen", "What is in the kitchen?", "Based on the image captions, a white cat."),
    ("kitchen", "Where is the cat?", "As described in the caption, on a wooden chair."),
    ("kitchen", "Is it a young cat?", "The captions do not say how old the cat is."),
    ("kitchen", "Is it a young cat?", "The information provided does not tell its age."),
    ("savanna", "How many zebras are there?", "The object annotations list three."),
    ("savanna", "How many zebras are there?", "There are three zebras in the given image description."),
)
COORDINATES = cases(
    "coordinates in prose",
    "conversation",
    ("park", "Where is the dog?", "The dog is at [0.100, 0.500, 0.350, 0.900]."),
    ("park", "Where is the frisbee?", "It is located around (0.7, 0.6)."),
    ("park", "Where is the frisbee?", "Between 0.700 and 0.800 from the left."),
    ("street", "Where is the bus?", "The bus starts at x=0.6."),
    ("street", "Where is the bus?", "Going by its normalized coordinates, it is on the right."),
    ("kitchen", "Where is the oven?", "It covers [384, 200, 576, 430]."),
)
SHAPES = [
    *cases("repeats", "conversation", ("park", "What is the dog?", "The dog is a dog.")),
    *cases("malformed", "detail", ("park", "Describe the picture.", "A dog.")),
    *cases("malformed", "reasoning", ("park", "Why does the dog lie down?", "It is tired.")),
    *cases("malformed", "conversation", ("park", "The dog is lying on the grass.", "That is a calm dog.")),
    *cases(
        "malformed", "reasoning", ("park", "The dog " + "and the frisbee " * 40 + "why?", "They play together. " * 2)
    ),
    *cases(
        "empty", "conversation", ("park", "What is there?", "  "), ("park", "?", "A dog."), ("park", "What?", "...")
    ),
    *cases(
        "repeats itself",
        "detail",
        ("park", "Describe the picture.", "The dog lies on the grass. " * 4),
        ("park", "Describe it.", "The dog lies on the grass near the frisbee and " * 12 + "rests."),
        (
            "park",
            "What is the dog doing on the grass next to the frisbee in this park?",
        )
        * 1
        + ("What is the dog doing on the grass next to the frisbee in this park?",),
    ),
    *cases(
        "cut off",
        "detail",
        ("park", "Describe the picture.", "A brown dog is lying on the grass of a park, and next to it there is the"),
        ("park", "Describe the picture.", "A brown dog lies on the grass. A red frisbee lies near it, in the park,"),
    ),
]
COUNTS = cases(
    "count",
    "conversation",
    ("savanna", "What animals are there?", "There are four zebras and a giraffe."),
    ("savanna", "What animals are there?", "There are two zebras in the image."),
    ("savanna", "How many zebras are there?", "Two."),
    ("savanna", "How many zebras can you see?", "There are five zebras."),
    ("savanna", "How many zebras are in the picture?", "I can see 4 zebras in the picture."),
    ("savanna", "How many giraffes are there?", "There are two giraffes."),
    ("savanna", "How many giraffes are there?", "None."),
    ("savanna", "What is behind the zebras?", "Several giraffes are standing behind the zebras."),
    ("street", "How many people are in the image?", "Three: two men on bicycles and a pedestrian."),
    ("street", "Who is on the street?", "Three men are riding bicycles past the bus."),
    ("street", "Who is on the street?", "Two men and a woman are riding past the bus."),
    ("street", "How many buses are there?", "There are two buses on the street."),
    ("street", "How many bikes are there?", "There is one bike."),
    ("street", "What can you see?", "The image shows two buses and two cyclists."),
    ("kitchen", "How many cats are there?", "Three cats."),
    ("kitchen", "What is in the kitchen?", "There are two cats sitting on a chair."),
    ("kitchen", "What is on the chair?", "Two kittens are sitting on the chair."),
    ("park", "Who plays?", "Two dogs are lying on the grass, and a frisbee is next to them."),
    ("park", "What is the difference between the two dogs?", "They differ in color."),
    ("kitchen", "Why might the two white cats be on the chair?", "It may be warm there."),
    ("street", "Where are the three men going?", "Past the bus."),
)
OBJECTS = cases(
    "object",
    "conversation",
    ("park", "What is in the park?", "There is a dog, a frisbee and a horse."),
    ("park", "Is there a cat in the picture?", "Yes, there is a cat next to the dog."),
    ("park", "Is there a cat?", "Yes."),
    ("park", "Is there a dog in the image?", "No, there is not."),
    ("park", "Do you see a dog?", "No."),
    ("park", "Who is with the dog?", "A man is standing next to the dog."),
    ("park", "Who is with the dog?", "There is a woman with a leash next to the dog."),
    ("park", "What can be seen?", "There are no dogs in the image."),
    ("street", "What is on the street?", "In the image, there is a truck behind the bus."),
    ("street", "What is on the street?", "I can see an elephant."),
    ("street", "Is there a fire hydrant in the scene?", "Yes, next to the bus."),
    ("kitchen", "What is in the kitchen?", "There is a cat, an oven and a suitcase."),
    ("kitchen", "What is the dog doing?", "The dog is sleeping on the floor."),
    ("savanna", "Are there any elephants?", "Yes, there are two elephants in the background."),
    ("savanna", "What is in the field?", "The picture shows three zebras, a giraffe and an elephant."),
)
COLORS = cases(
    "color",
    "conversation",
    ("park", "What color is the frisbee?", "Blue."),
    ("park", "What color is the frisbee?", "The frisbee is green."),
    ("park", "What is next to the dog?", "A yellow frisbee is lying next to the dog."),
    ("park", "What lies on the grass?", "A white dog is lying on the grass."),
    ("street", "What color is the bus?", "It is blue."),
    ("street", "What is behind the cyclists?", "There is a large green bus."),
    ("street", "What stands out?", "The bus is yellow, which stands out on the street."),
    ("kitchen", "What color is the cat?", "The cat is black."),
    ("kitchen", "Who sits on the chair?", "An orange cat is sitting on the chair."),
)
RELATIONS = cases(
    "relation",
    "conversation",
    ("park", "Where is the dog?", "The dog is to the right of the frisbee."),
    ("park", "Where is the frisbee?", "The frisbee is lying to the left of the dog."),
    ("park", "Is the dog left or right of the frisbee?", "Right."),
    ("park", "Is the dog to the left of the frisbee?", "No."),
    ("park", "Is the frisbee to the left of the dog?", "Yes, it is."),
    ("park", "Where is the frisbee?", "The frisbee is on the left side of the image."),
    ("park", "What is where?", "To the left of the frisbee is grass. To the right of the frisbee, there is a dog."),
    ("street", "Where is the bus?", "The bus is parked to the left of the traffic light."),
    ("street", "Where is the traffic light?", "The traffic light is located below the bus."),
    ("street", "Where is the bus?", "There is a bus on the left side of the picture."),
    ("kitchen", "Where is the cat?", "The cat sits to the right of the oven."),
    ("kitchen", "Where is the chair?", "The chair is above the cat."),
    ("kitchen", "Where is the oven?", "On the left side of the image, there is an oven."),
)
MISSED = [
    *cases("count", "conversation", ("savanna", "What are the zebras doing?", "Both zebras are eating grass.")),
    *cases("count", "conversation", ("savanna", "How many zebras are there?", "A couple of them.")),
    *cases("object", "conversation", ("park", "Who threw the frisbee?", "The boy in the blue shirt threw it.")),
    *cases("object", "conversation", ("kitchen", "What is on the floor?", "Next to the chair sits a small dog.")),
    *cases("object", "conversation", ("street", "What is special?", "The street has cars parked along it.")),
    *cases("color", "conversation", ("kitchen", "What does the cat look like?", "It has thick, black fur.")),
    *cases("relation", "conversation", ("park", "Where is the dog?", "The frisbee has the dog on its right.")),
    *cases("speaks", "conversation", ("park", "What is it?", "The text tells us that it is a dog.")),
]
BAD = [*REFUSALS, *LEFT_OVERS, *SWAPPED, *SOURCES, *COORDINATES, *SHAPES, *COUNTS, *OBJECTS, *COLORS, *RELATIONS]

GOOD = [
    *cases(
        None,
        "conversation",
        ("park", "What is the dog doing?", "It is lying on the grass."),
        ("park", "What color is the frisbee?", "Red."),
        ("park", "What color is the frisbee?", "The frisbee is bright red."),
        ("park", "What color is the frisbee?", "It is orange."),
        ("park", "What color is the dog?", "The dog is brown and white."),
        ("park", "How many dogs are there?", "There is only one dog."),
        ("park", "How many dogs are there?", "One."),
        ("park", "Is there a cat in the image?", "No, there is no cat; only a dog."),
        ("park", "Is there a frisbee?", "Yes, a red one."),
        ("park", "Is the dog left or right of the frisbee?", "It is to the left of the frisbee."),
        ("park", "Is the frisbee to the left of the dog?", "No, it is on its right."),
        ("park", "Where is the frisbee?", "The frisbee is to the right of the dog."),
        ("park", "Where is the dog?", "The dog is on the left side of the image."),
        ("park", "Who owns the dog?", "The picture does not show the owner, but a person might be nearby."),
        ("park", "Could the dog be a puppy?", "It could be a puppy, but that is hard to tell."),
        ("park", "What might happen next?", "A person may pick up the frisbee and throw it for the dog."),
        ("park", "What is the dog?", "The dog is a dog that herds sheep."),
        ("park", "Are there two dogs?", "No, there is just one dog in the picture."),
        ("park", "What would happen if the two dogs of a neighbor came by?", "They would play with the frisbee."),
        ("street", "Which of the two men is closer to the bus?", "The one on the right."),
        ("savanna", "What are the two zebras on the left doing?", "They eat."),
        ("park", "What does the frisbee look like?", "It looks like a small plate or a hat."),
        ("park", "What can dogs do with frisbees?", "Dogs like to catch them, and two dogs can play together."),
        ("park", "Why might the dog be lying down?", "It may be tired after chasing cats, cars or birds."),
        ("park", "What is the dog waiting for?", "The dog seems to be waiting for a person to throw the frisbee."),
        ("park", "Is the dog a toy?", "No, it is a real dog, not a toy."),
        ("park", "What would you need for a walk?", "For two people, two dogs need two leashes."),
        ("park", "What animal is it?", "A dog. Unlike a cat, it likes to fetch."),
        ("park", "What is beside the dog?", "Beside the dog there is a red frisbee with a blue rim."),
        ("park", "Is it sunny?", "I'm not sure, but the grass looks bright."),
        ("park", "What is the box in the corner?", "There are no boxes in the picture, only grass."),
        ("park", "What is the price?", "Such a frisbee costs $0.99, or $1.50 in a shop."),
        ("park", "Is this a good place for dogs?", "Yes: there is grass, space and a frisbee."),
        ("park", "Give a title.", "A dog's day in the park"),
        ("street", "How many people are riding?", "Two."),
        ("street", "How many people are wearing helmets?", "One of the two men."),
        ("street", "How many men are there?", "There are two men."),
        ("street", "How many women are there?", "None, both cyclists are men."),
        ("street", "How many bicycles are there?", "There are two bicycles, one for each man."),
        ("street", "How many wheels are there?", "The two bicycles have four wheels together."),
        ("street", "What color is the bus?", "The bus is red."),
        ("street", "What color is the bus stop?", "The bus stop is blue."),
        ("street", "What color are the shirts?", "One man wears a blue shirt, the other a white one."),
        ("street", "What is to the right of the men?", "A red bus."),
        ("street", "Where is the bus?", "The bus is on the right of the men."),
        ("street", "Where is the traffic light?", "The traffic light is above the bus and to its left."),
        ("street", "Where is the traffic light?", "It is at the top left of the picture."),
        ("street", "Is the light above the bus?", "Yes."),
        ("street", "What should they watch for?", "They should watch for cars, trucks and pedestrians."),
        ("street", "Are there cars?", "No cars are visible in the image."),
        ("street", "Could a truck pass?", "There is enough room for a truck to pass."),
        ("street", "How many people fit on the bus?", "Such a bus can seat about fifty people."),
        ("street", "What does the bus carry?", "The bus has a poster of a woman with a dog."),
        ("street", "What is on the bus?", "There is a sign with a horse on the bus."),
        ("street", "Who is riding?", "One man is riding in front, the other man behind."),
        ("street", "What are they wearing?", "Both men wear helmets."),
        ("street", "How many vehicles are there?", "Three: two bicycles and a bus."),
        ("street", "Which street is it?", "The picture does not tell."),
        ("street", "How many dogs are there?", "There are none."),
        ("street", "What does the caption on the bus read?", "It cannot be made out."),
        ("kitchen", "What is the cat doing?", "The white cat is sitting on a wooden chair."),
        ("kitchen", "What color is the cat?", "It is white with black ears."),
        ("kitchen", "What color is the chair?", "The chair is brown, as most wooden chairs are."),
        ("kitchen", "Where is the cat?", "The cat is on the chair, to the left of the oven."),
        ("kitchen", "Where is the oven?", "The oven is on the right."),
        ("kitchen", "Where is the oven?", "To the right of the chair, there is an oven."),
        ("kitchen", "What is above the chair?", "The cat is above the seat of the chair."),
        ("kitchen", "Is there a table?", "There may be a table outside the frame."),
        ("kitchen", "Is there a microwave in the image?", "No."),
        ("kitchen", "Are there any bowls?", "Yes, there is a bowl on the counter."),
        ("kitchen", "How many chairs are there?", "There is one chair."),
        ("kitchen", "How many animals are there?", "One, a cat."),
        ("kitchen", "What is the oven made of?", "It looks like stainless steel."),
        ("kitchen", "Is the cat a kitten?", "It might be a kitten."),
        ("kitchen", "What kind of picture is it?", "It is a photo, not a drawing of a cat or a dog."),
        ("station", "How many people are there?", "There are more than ten people."),
        ("station", "How many people are there?", "About twenty."),
        ("station", "How many people are there?", "Fifteen."),
        ("station", "What are they doing?", "Many people are waiting for the train."),
        ("station", "What color is the train?", "The train is yellow."),
        ("station", "What color is the train?", "It is yellow and black."),
        ("station", "Is there a bench?", "Yes, there is a bench on the platform."),
        ("station", "Who is waiting?", "Three women, two men and several children wait on the platform."),
        ("savanna", "How many zebras are there?", "There are three zebras."),
        ("savanna", "How many zebras are there?", "Three zebras are grazing in front of a giraffe."),
        ("savanna", "How many zebras are grazing?", "Two of the three."),
        ("savanna", "How many zebras are on the left?", "Two."),
        ("savanna", "How many zebras are there?", "Two on the left and one in the middle."),
        ("savanna", "What are the zebras doing?", "Two zebras are eating, and one is looking up."),
        ("savanna", "What are the zebras doing?", "There are two zebras standing close together."),
        ("savanna", "What else is there?", "There is also a tall giraffe."),
        ("savanna", "How many animals are there?", "Four animals: three zebras and one giraffe."),
        ("savanna", "Are there lions?", "No lions can be seen, though zebras often have to avoid them."),
        ("savanna", "Where is the giraffe?", "The giraffe is behind the zebras, on the right side of the image."),
        ("savanna", "What color is the giraffe?", "Yellow with brown patches."),
        ("savanna", "How tall is a giraffe?", "A giraffe can be as tall as three men or five zebras."),
        ("savanna", "Do herds grow?", "Herds of fifty zebras are usual in the dry season."),
        (
            "savanna",
            "How does it feel?",
            "Like a quiet afternoon. There is no person, car or house to disturb the animals.",
        ),
        ("poster", "What is under the photo?", "The caption under the photo is written in small letters."),
        ("poster", "Where are the words?", "In the caption of the poster."),
        ("poster", "Is there a caption?", "Yes, the first caption says something in small letters."),
        ("unlabelled", "How many dogs are there?", "Four."),
        ("unlabelled", "What is in the picture?", "There is a red car to the left of a tree, with two men inside."),
        ("unlabelled", "Can you describe the sign?", "The sign says: sorry, we are closed."),
    ),
    *cases(
        None,
        "detail",
        (
            "park",
            "Describe the picture in detail.",
            "A brown dog is lying on the grass of a park. To its right lies a red frisbee. The dog seems relaxed, as "
            "if it had just finished playing with a person outside the picture.",
        ),
        (
            "street",
            "Describe the picture in detail.",
            "Two men are riding their bicycles along a street. One man is ahead of the other. A large red bus is on "
            "the right side of the image, and a traffic light hangs at the top left, above the cyclists.",
        ),
        (
            "station",
            "Describe the picture in detail.",
            "The image shows a busy train station with many people waiting on the platform. Some people carry bags, "
            "others look at their phones. A long yellow train fills the upper part of the scene.",
        ),
        (
            "kitchen",
            "Describe the picture in detail.",
            "A white cat sits on a wooden chair in a kitchen. An oven stands to the right of the chair:\n\n"
            "1. The cat looks calm.\n2. The kitchen looks tidy",
        ),
    ),
    *cases(
        None,
        "reasoning",
        (
            "street",
            "What should the riders take care of?",
            "The two men share the road with a bus. A bus needs much room to stop and its driver may not see them. So "
            "they should keep to the side, watch the traffic light and signal before they turn.",
        ),
        (
            "savanna",
            "Why might the animals stand so close together?",
            "Zebras and giraffes both profit from company. A giraffe sees far and notices lions first, while zebras "
            "hear well. Standing together, four animals have more eyes and ears than one.",
        ),
        (
            "park",
            "What could the owner do to make the dog happy?",
            "The dog has a frisbee beside it, so it probably likes to fetch. The owner could throw the frisbee a few "
            "times, let the dog rest on the grass in between, and bring some water in a bowl.",
        ),
    ),
]
