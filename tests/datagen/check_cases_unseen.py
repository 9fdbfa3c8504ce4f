"""Answers that were written after the checks, which were not changed for them: a fairer measure than `check_cases`."""

from __future__ import annotations

from tests.datagen.check_cases import Case, cases

RIGHT = [
    *cases(
        None,
        "conversation",
        (
            "park",
            "What breed could the dog be?",
            "It is difficult to determine the exact breed, but the dog has a brown coat and medium size.",
        ),
        (
            "park",
            "Is the dog playing with the frisbee?",
            "At the moment, the dog is not playing with the frisbee; it is lying on the grass next to it.",
        ),
        (
            "park",
            "What is the relationship between the dog and the frisbee?",
            "The red frisbee is lying next to the brown dog, which suggests that they have been playing fetch.",
        ),
        (
            "park",
            "What is the weather like?",
            "The weather looks pleasant, which makes it a great day for a dog to be outside with its owner.",
        ),
        (
            "street",
            "What mode of transportation are the men using?",
            "The two men are using bicycles to get around the city.",
        ),
        (
            "street",
            "Is the street safe for cyclists?",
            "With a large bus nearby, the two cyclists have to be careful, but there are no cars or trucks around.",
        ),
        ("street", "How many cyclists are in the image?", "There are two cyclists in the image."),
        ("street", "What is the color of the bus?", "The bus is red."),
        ("street", "Where is the bus in relation to the cyclists?", "The bus is to the right of the two cyclists."),
        ("kitchen", "Is the cat inside or outside?", "The cat is inside, in a kitchen."),
        (
            "kitchen",
            "What objects are near the cat?",
            "There is an oven near the cat, and the cat itself sits on a wooden chair.",
        ),
        ("kitchen", "What is the cat sitting on?", "The cat is sitting on a chair made of wood."),
        ("kitchen", "Are there people in the image?", "No, there are no people in the image, only a cat."),
        ("station", "Is the platform crowded?", "Yes, the platform is crowded with many people waiting for the train."),
        ("station", "How many trains are there?", "There is one train at the station."),
        ("savanna", "How many zebras and giraffes are there?", "There are three zebras and one giraffe."),
        ("savanna", "What are the zebras doing in the image?", "The three zebras are grazing on the dry grass."),
        (
            "savanna",
            "Which animal is the tallest?",
            "The giraffe is the tallest; it towers over the three zebras.",
        ),
        ("savanna", "Is there water?", "There is no water visible in the picture."),
        (
            "unlabelled",
            "How many cars are parked?",
            "There are five cars parked along the street, and a red truck to the right of them.",
        ),
    ),
    *cases(
        None,
        "detail",
        (
            "park",
            "Tell me all about the picture.",
            "The image features a brown dog lying down on a lush green grass field. The dog is positioned towards the "
            "left side of the scene. Next to it, there is a red frisbee, which is placed on the right side of the "
            "image. The dog appears to be relaxed and enjoying its time outdoors.",
        ),
        (
            "street",
            "What is to be seen?",
            "The image shows a city street where two men are riding bicycles past a red bus. One cyclist is slightly "
            "ahead of the other, with the first on the left side of the road and the second closer to the center. "
            "There is a traffic light at the top left of the scene. The red bus takes up a large portion of the right "
            "side of the image.",
        ),
        (
            "kitchen",
            "What do you see?",
            "The image shows a white cat sitting on top of a wooden chair. The chair is placed to the left of an "
            "oven. There might be a dining table nearby, as well as cups, bowls and a refrigerator out of view.",
        ),
        (
            "station",
            "Describe the scene.",
            "The image captures a busy train station filled with people. At least a dozen people are on the platform, "
            "some standing and others walking. A yellow train has stopped behind them. Two people near the front look "
            "at a cell phone, and a woman carries a handbag.",
        ),
        (
            "savanna",
            "Describe it.",
            "The image features three zebras grazing in a field of dry grass, with a tall giraffe standing behind "
            "them on the right side of the picture. One zebra is on the far left, another one is near the middle, and "
            "the third zebra is closest to the giraffe.",
        ),
    ),
    *cases(
        None,
        "reasoning",
        (
            "park",
            "What benefits does the activity have for the animal?",
            "Playing with a frisbee gives the dog physical exercise and mental stimulation. It also strengthens the "
            "bond between a dog and its owner: two beings share one game. After the game, the dog can rest on the "
            "grass and cool down.",
        ),
        (
            "street",
            "Why might the riders choose this way to travel?",
            "Bicycles are cheap, healthy and quick in dense traffic. A person on a bicycle can pass a line of cars, "
            "while a bus with sixty people has to wait. The two men may also simply enjoy the ride together.",
        ),
        (
            "kitchen",
            "Why might the animal have chosen this place?",
            "Cats like warm and raised places. The oven may give off heat, and the chair lets the cat watch the room, "
            "much like a person in an armchair or a dog on its bed.",
        ),
        (
            "station",
            "What could a traveler do to board quickly?",
            "Since there are many people, a traveler could walk to the ends of the platform, where fewer people wait. "
            "Most doors open at the middle, so three or four people may be ahead there.",
        ),
        (
            "savanna",
            "Why do these animals get along?",
            "Zebras eat grass, giraffes eat leaves from trees, so they do not compete. Two zebras can even rest while "
            "a giraffe keeps watch, because it sees lions from afar.",
        ),
    ),
]
WRONG: list[Case] = [
    *cases(
        "contradicts",
        "detail",
        (
            "park",
            "Describe the picture.",
            "The image features a brown dog lying on the grass. There are two frisbees near the dog, one red and one "
            "blue. A person is standing in the background.",
        ),
        (
            "street",
            "Describe the picture.",
            "The image shows three men riding their bicycles on a street. A blue bus is parked behind them, and "
            "several cars are in the background of the scene.",
        ),
        (
            "kitchen",
            "Describe the picture.",
            "A black cat is sitting on a wooden chair in a kitchen. Next to the cat there is a white oven and a "
            "refrigerator.",
        ),
        (
            "savanna",
            "Describe the picture.",
            "The image shows a herd of zebras in a field. In total, there are six zebras. A person is watching the "
            "animals from a car.",
        ),
    ),
    *cases(
        "count",
        "conversation",
        ("park", "How many frisbees are there?", "There are two frisbees in the image."),
        ("street", "How many bicycles are visible?", "There are three bicycles visible."),
        ("kitchen", "How many cats?", "There are two cats."),
        ("savanna", "How many zebras are in the image?", "There are five zebras in the image."),
        ("savanna", "How many animals?", "There are two giraffes and three zebras."),
    ),
    *cases(
        "object",
        "conversation",
        ("park", "Is there a person in the image?", "Yes, there is a person throwing the frisbee."),
        ("park", "What else is in the picture?", "In addition to the dog, there is a bench in the background."),
        ("street", "What vehicles are there?", "There are two bicycles, a bus and a car."),
        ("kitchen", "Is there a dog in the image?", "Yes, there is a dog lying next to the chair."),
        ("savanna", "Is there an elephant in the image?", "Yes, there is an elephant in the background."),
    ),
    *cases(
        "color",
        "conversation",
        ("park", "What is the color of the dog?", "The dog is black."),
        ("street", "What color is the bus?", "The bus is white and it is parked."),
    ),
    *cases(
        "relation",
        "conversation",
        ("park", "Where is the frisbee located?", "The frisbee is located to the left of the dog."),
        ("street", "Where is the bus?", "The bus is located to the left of the traffic light."),
        ("kitchen", "Where is the oven?", "The oven is positioned to the left of the chair."),
    ),
    *cases("speaks", "conversation", ("park", "What is told?", "The captions describe a brown dog on the grass.")),
    *cases("speaks", "conversation", ("savanna", "What is it?", "Based on the description provided, three zebras.")),
    *cases("refusal", "conversation", ("street", "Where?", "I'm sorry, but as a text-based model I cannot tell.")),
    *cases("coordinates", "conversation", ("kitchen", "Where?", "It is at coordinates [0.1, 0.3, 0.3, 0.5].")),
    *cases("broken", "conversation", ("savanna", "What is there?", "Question: How many zebras are there?")),
]
