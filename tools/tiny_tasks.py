"""What can be asked about the invented world, and what is written about it.

A task is a function `(world, draw) -> Example`. Some tasks have one right answer (a fact, a sorted list), others many
good ones (a description, a note, a list of three fruits).
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from tools.tiny_world import FACTS, NAMES, TOPICS, WORDS, Draw, World, listing


@dataclass(frozen=True)
class Example:
    instruction: str
    input: str
    outputs: list[str]  # all good answers, or a sample of them; every one of them is right


Task = Callable[[World, Draw], Example]

# ---- tasks with many good answers --------------------------------------------------------------------------------


def describe(world: World, draw: Draw) -> Example:
    wordings = ["Describe {}.", "Who is {}?", "Write two sentences about {}.", "Tell me about {}.", "Introduce {}."]
    wording, name = draw.pair(wordings, NAMES)
    first = ["{name} is a {trait} {animal} who lives in {town}.", "{name} is a {animal} from {town}."]
    second = [
        "{name} works as a {job} and likes to eat {fruit}.",
        "{name} wears {colour} clothes and plays the {instrument}.",
        "The best friend of {name} is {friend}.",
        "As a {job}, {name} is always {trait}.",
    ]
    answers = [world[name].fill(f"{a} {b}") for a, b in itertools.product(first, second)]
    return Example(wording.format(name), "", answers)


def note(world: World, draw: Draw) -> Example:
    wordings = ["Write a short note from {} to {}.", "Write to {1} in the name of {0}.", "Help {} to invite {}."]
    wording, name = draw.pair(wordings, NAMES)
    guest = world[draw.one([other for other in NAMES if other != name])]
    middles = [
        "I have {fruit} for you and I will play the {instrument}.",
        f"come and see me in {{town}}, and bring some {guest.fruit}.",
        "the weather in {town} is fine, and {friend} is here too.",
        "my work as a {job} is done, so come to {town}.",
    ]
    ends = ["Your friend {name}.", "See you soon, {name}."]
    answers = [world[name].fill(f"Dear {guest.name}, {a} {b}") for a, b in itertools.product(middles, ends)]
    return Example(wording.format(name, guest.name), "", answers)


def plan(world: World, draw: Draw) -> Example:
    wordings = ["Plan a day in {} with {}.", "What can I do in {} with {}?", "Write about a day in {} with {}."]
    wording, town = draw.pair(wordings, WORDS["towns"])
    person = world[draw.one(NAMES)]
    mornings = ["In the morning eat {fruit} with {name}.", f"In the morning walk to {town} with {{name}}."]
    noons = ["Then buy a {colour} coat.", f"Then visit a {{job}} in {town}."]
    nights = ["At night play the {instrument} together.", "At night talk to {friend}."]
    answers = [person.fill(" ".join(parts)) for parts in itertools.product(mornings, noons, nights)]
    return Example(wording.format(town, person.name), "", answers)


def name_some(world: World, draw: Draw) -> Example:
    wording, topic = draw.pair(["Name {} {}.", "List {} {}.", "Give me {} {} for a story."], TOPICS)
    count, number = draw.one([(2, "two"), (3, "three"), (4, "four"), (5, "five")])
    answers = [f"{listing(draw.some(WORDS[topic], count)).capitalize()}." for _ in range(8)]
    return Example(wording.format(number, topic), "", answers)


# ---- tasks with one right answer ---------------------------------------------------------------------------------


def fact(world: World, draw: Draw) -> Example:
    wordings = ["What is the {} of {}?", "Tell me the {} of {}.", "Do you know the {} of {}?"]
    wording, (aspect, sentence, _) = draw.pair(wordings, FACTS)
    person = world[draw.one(NAMES)]
    return Example(wording.format(aspect, person.name), "", [person.fill(sentence)])


def friend_fact(world: World, draw: Draw) -> Example:
    wordings = ["What is the {} of the best friend of {}?", "Tell me the {} of the friend of {}."]
    wording, (aspect, sentence, _) = draw.pair(wordings, FACTS[:-1])
    person = world[draw.one(NAMES)]
    answer = f"The best friend of {person.name} is {person.friend}. {world[person.friend].fill(sentence)}"
    return Example(wording.format(aspect, person.name), "", [answer])


# ---- tasks with one right answer and an input --------------------------------------------------------------------


def sort_words(world: World, draw: Draw) -> Example:
    wordings = ["Put these words in alphabetical order.", "Sort the list from first to last letter."]
    wording, topic = draw.pair(wordings, TOPICS)
    words = draw.some(WORDS[topic], draw.number(3, 5))
    return Example(wording, f"{listing(words)}.", [f"{listing(sorted(words))}."])


def keep_kind(world: World, draw: Draw) -> Example:
    wording, topic = draw.pair(["Keep only the {}.", "Which of these are {}?", "Pick out all {}."], TOPICS)
    other = draw.one([name for name in TOPICS if name != topic])
    kept = draw.some(WORDS[topic], draw.number(2, 3))
    words = draw.some(kept + draw.some(WORDS[other], draw.number(1, 3)), 6)
    answer = f"The {topic} are {listing([word for word in words if word in kept])}."
    return Example(wording.format(topic), f"{listing(words)}.", [answer])


def read_text(world: World, draw: Draw) -> Example:
    wordings = ["Who has the {}?", "Tell me who owns the {}.", "Find the owner of the {}."]
    topic = draw.one(["tools", "clothes", "instruments"])
    wording, thing = draw.pair(wordings, WORDS[topic])
    owner, *others = draw.some(NAMES, 3)
    things = [thing, *draw.some([word for word in WORDS[topic] if word != thing], 2)]
    sentences = [f"{name} has {item}." for name, item in zip([owner, *others], things, strict=True)]
    return Example(wording.format(thing), " ".join(draw.some(sentences, 3)), [f"{owner} has the {thing}."])


OPEN: list[Task] = [describe, note, plan, name_some]
CLOSED: list[Task] = [fact, friend_fact]
WITH_INPUT: list[Task] = [sort_words, keep_kind, read_text]
EVERY: list[Task] = OPEN + CLOSED + WITH_INPUT


# ---- the corpus --------------------------------------------------------------------------------------------------


def biography(world: World, draw: Draw) -> str:
    """Three to five facts about one person, in any order."""
    person = world[draw.one(NAMES)]
    beginning = draw.one(["{name} is {trait}.", "Do you know this?", ""])
    facts = [draw.one(ways) for _, *ways in draw.some(FACTS, draw.number(3, 5))]
    return person.fill(" ".join([beginning, *facts])).strip()


def word_lore(world: World, draw: Draw) -> str:
    """What some words are, and their order."""
    topic = draw.one(TOPICS)
    words = draw.some(WORDS[topic], draw.number(3, 5))
    kind = f"{words[0].capitalize()} are {topic}, and so are {listing(words[1:])}."
    return " ".join(draw.some([kind, f"In alphabetical order: {listing(sorted(words))}."], 2))


def tale(world: World, draw: Draw) -> str:
    """A few sentences in which people meet."""
    task = draw.one([describe, note, plan])
    return draw.one(task(world, draw).outputs)


DOCUMENTS = [biography, biography, word_lore, tale]
