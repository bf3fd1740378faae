"""What can be asked about the invented world, and what is written about it.

A task is a function `(world, draw) -> Example`. Some tasks have one right answer (a fact, a sum, a sorted
list), others many good ones (a description, a note, a list of three fruits).
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from tools.tiny_world import (
    ASPECTS,
    FACTS,
    LISTABLE,
    NAMES,
    NUMBERS,
    OPPOSITES,
    PAST,
    QUESTIONS,
    WORDS,
    Draw,
    World,
    listing,
    singular,
)


@dataclass(frozen=True)
class Example:
    instruction: str
    input: str
    outputs: list[str]  # all good answers, or a sample of them; every one of them is right


Task = Callable[[World, Draw], Example]


def fact(world: World, draw: Draw) -> Example:
    wordings = ["What is the {} of {}?", "Tell me the {} of {}.", "Do you know the {} of {}?"]
    wording, aspect = draw.pair(wordings, ASPECTS)
    person = world[draw.one(NAMES)]
    return Example(wording.format(QUESTIONS[aspect], person.name), "", [s.format(person) for s in FACTS[aspect][:1]])


def friend_fact(world: World, draw: Draw) -> Example:
    wordings = ["What is the {} of the best friend of {}?", "Tell me the {} of the friend of {}."]
    wording, aspect = draw.pair(wordings, ASPECTS[:-1])
    person = world[draw.one(NAMES)]
    friend = world[person.friend]
    answer = f"{FACTS['friend'][1].format(person)[:-1]}. {FACTS[aspect][0].format(friend)}"
    return Example(wording.format(QUESTIONS[aspect], person.name), "", [answer])


def who(world: World, draw: Draw) -> Example:
    wordings = ["Name a {} who lives in {}.", "Find a {} with a house in {}."]
    wording, town = draw.pair(wordings, WORDS["towns"])
    kind = draw.one(sorted({p.animal for p in world.values() if p.town == town}))
    names = [p.name for p in world.values() if p.town == town and p.animal == kind]
    return Example(wording.format(kind, town), "", [f"{name} is a {kind} who lives in {town}." for name in names])


def describe(world: World, draw: Draw) -> Example:
    wordings = [
        "Describe {}.",
        "Who is {}?",
        "Write two sentences about {}.",
        "Tell me about {}.",
        "Introduce {}.",
    ]
    wording, name = draw.pair(wordings, NAMES)
    p = world[name]
    first = [
        f"{p.name} is a {p.trait} {p.animal} who lives in {p.town}.",
        f"{p.name} is a {p.animal} from {p.town}.",
    ]
    second = [
        f"{p.name} works as a {p.job} and likes to eat {p.fruit}.",
        f"{p.name} wears {p.colour} clothes and plays the {p.instrument}.",
        f"The best friend of {p.name} is {p.friend}.",
        f"As a {p.job}, {p.name} is always {p.trait}.",
    ]
    return Example(wording.format(name), "", [f"{a} {b}" for a in first for b in second])


def note(world: World, draw: Draw) -> Example:
    wordings = [
        "Write a short note from {} to {}.",
        "Write to {1} in the name of {0}.",
        "Help {} to invite {}.",
    ]
    wording, name = draw.pair(wordings, NAMES)
    p, guest = world[name], world[draw.one([other for other in NAMES if other != name])]
    middles = [
        f"I have {p.fruit} for you and I will play the {p.instrument}.",
        f"come and see me in {p.town}, and bring some {guest.fruit}.",
        f"the weather in {p.town} is fine, and {p.friend} is here too.",
        f"my work as a {p.job} is done, so come to {p.town}.",
    ]
    ends = [f"Your friend {p.name}.", f"See you soon, {p.name}."]
    answers = [f"Dear {guest.name}, {middle} {end}" for middle in middles for end in ends]
    return Example(wording.format(name, guest.name), "", answers)


def gift(world: World, draw: Draw) -> Example:
    wordings = ["What should I give to {}?", "Suggest a gift for {}.", "I need a present for {}."]
    wording, name = draw.pair(wordings, NAMES)
    p = world[name]
    answers = [
        f"Give {name} a basket of {p.fruit}, because {name} likes to eat them.",
        f"Give {name} a new {p.instrument}, because {name} plays it at night.",
        f"Give {name} a {p.colour} scarf, because {p.colour} is the favourite colour of {name}.",
        f"Give {name} a book for a {p.job}, because that is the job of {name}.",
    ]
    return Example(wording.format(name), "", answers)


def name_some(world: World, draw: Draw) -> Example:
    wordings = ["Name {} {}.", "List {} {}.", "Give me {} {} for a story."]
    wording, topic = draw.pair(wordings, LISTABLE)
    count = 2 + int(draw.generator.integers(4))
    answers = [f"{listing(draw.some(WORDS[topic], count)).capitalize()}." for _ in range(8)]
    return Example(wording.format(NUMBERS[count], topic), "", answers)


def plan(world: World, draw: Draw) -> Example:
    wordings = [
        "Plan a day in {} with {}.",
        "What can I do in {} with {}?",
        "Write about a day in {} with {}.",
    ]
    wording, town = draw.pair(wordings, WORDS["towns"])
    p = world[draw.one(NAMES)]
    mornings = [
        f"In the morning eat {p.fruit} with {p.name}.",
        f"In the morning walk to {town} with {p.name}.",
    ]
    noons = [f"Then buy a {p.colour} coat.", f"Then visit a {p.job} in {town}."]
    nights = [f"At night play the {p.instrument} together.", f"At night talk to {p.friend}."]
    answers = [" ".join(parts) for parts in itertools.product(mornings, noons, nights)]
    return Example(wording.format(town, p.name), "", answers)


def category(world: World, draw: Draw) -> Example:
    wordings = ["What kind of things are {}?", "To which group do {} belong?", "Explain what {} are."]
    topic = draw.one(LISTABLE)
    wording, word = draw.pair(wordings, WORDS[topic])
    others = [other for other in WORDS[topic] if other != word]
    answers = [f"{word.capitalize()} are {topic}, like {listing(draw.some(others, 2))}." for _ in range(8)]
    return Example(wording.format(word), "", answers)


def add(world: World, draw: Draw) -> Example:
    wording, a = draw.pair(["What is {} plus {}?", "Add {} and {}.", "Find the sum of {} and {}."], range(2, 20))
    b = 2 + int(draw.generator.integers(18))
    return Example(wording.format(a, b), "", [f"{a} plus {b} is {a + b}."])


def opposite(world: World, draw: Draw) -> Example:
    pairs = [pair[::step] for pair in OPPOSITES for step in (1, -1)]
    wording, (word, other) = draw.pair(["What is the opposite of {}?", "Give a word that means not {}."], pairs)
    thing = singular(draw.one(WORDS[draw.one(["animals", "tools", "clothes"])]))
    return Example(
        f"{wording.format(word)} Use it with the word {thing}.", "", [f"The {thing} is {other}, not {word}."]
    )


# ---- tasks with an input -------------------------------------------------------------------------


def mixed_words(draw: Draw, topic: str, low: int, high: int) -> list[str]:
    return draw.some(WORDS[topic], low + int(draw.generator.integers(high - low + 1)))


def sort_words(world: World, draw: Draw) -> Example:
    wordings = ["Put these words in alphabetical order.", "Sort the list from first to last letter."]
    wording, topic = draw.pair(wordings, list(WORDS))
    words = mixed_words(draw, topic, 3, 5)
    return Example(wording, listing(words) + ".", [f"{listing(sorted(words))}."])


def reverse_words(world: World, draw: Draw) -> Example:
    wording, topic = draw.pair(["Turn the list around.", "Read the list backwards."], list(WORDS))
    words = mixed_words(draw, topic, 3, 5)
    return Example(wording, listing(words) + ".", [f"{listing(words[::-1])}."])


def keep_kind(world: World, draw: Draw) -> Example:
    wording, topic = draw.pair(["Keep only the {}.", "Which of these are {}?", "Pick out all {}."], LISTABLE)
    other = draw.one([name for name in LISTABLE if name != topic])
    kept = mixed_words(draw, topic, 2, 3)
    words = draw.some(kept + mixed_words(draw, other, 1, 3), 9)
    ordered = [word for word in words if word in kept]
    return Example(wording.format(topic), listing(words) + ".", [f"The {topic} are {listing(ordered)}."])


def odd_one_out(world: World, draw: Draw) -> Example:
    wording, topic = draw.pair(["Which word does not belong?", "Find the odd one out.", "Spot the stranger."], LISTABLE)
    other = draw.one([name for name in LISTABLE if name != topic])
    stranger = draw.one(WORDS[other])
    words = draw.some([*mixed_words(draw, topic, 3, 3), stranger], 4)
    answer = f"{stranger.capitalize()} are {other}, but the others are {topic}."
    return Example(wording, listing(words) + ".", [answer])


def past_tense(world: World, draw: Draw) -> Example:
    wordings = ["Rewrite the sentence in the past tense.", "Say that it happened yesterday."]
    wording, verb = draw.pair(wordings, list(PAST))
    name, fruit, town = (
        draw.one(NAMES),
        draw.one(WORDS[draw.one(["fruits", "tools"])]),
        draw.one(WORDS["towns"]),
    )
    sentence = f"{name} {{}} {'with ' if verb == 'walks' else ''}{fruit} in {town}."
    return Example(wording, sentence.format(verb), [sentence.format(PAST[verb])])


def read_text(world: World, draw: Draw) -> Example:
    wordings = ["Who has the {}?", "Tell me who owns the {}.", "Find the owner of the {}."]
    topic = draw.one(["tools", "clothes", "instruments"])
    wording, thing = draw.pair(wordings, WORDS[topic])
    names = draw.some(NAMES, 3)
    things = draw.some([thing, *draw.some([word for word in WORDS[topic] if word != thing], 2)], 3)
    text = " ".join(f"{name} has {item}." for name, item in zip(names, things, strict=True))
    return Example(wording.format(thing), text, [f"{names[things.index(thing)]} has the {thing}."])


def count_words(world: World, draw: Draw) -> Example:
    wording, topic = draw.pair(["How many {} are there?", "Count the {}."], LISTABLE)
    other = draw.one([name for name in LISTABLE if name != topic])
    counted = mixed_words(draw, topic, 1, 4)
    words = draw.some(counted + mixed_words(draw, other, 1, 2), 9)
    answer = f"The list has {NUMBERS[len(counted)]} of the {topic}."
    return Example(wording.format(topic), listing(words) + ".", [answer])


OPEN: list[Task] = [describe, note, gift, plan, name_some, who, category]
CLOSED: list[Task] = [fact, friend_fact, add, opposite]
WITH_INPUT: list[Task] = [
    sort_words,
    reverse_words,
    keep_kind,
    odd_one_out,
    past_tense,
    read_text,
    count_words,
]
EVERY: list[Task] = OPEN + CLOSED + WITH_INPUT


# ---- the corpus ----------------------------------------------------------------------------------


def biography(world: World, draw: Draw) -> str:
    """Three to five facts about one person, in any order."""
    person = world[draw.one(NAMES)]
    facts = [
        draw.one(FACTS[aspect]).format(person) for aspect in draw.some(ASPECTS, 3 + int(draw.generator.integers(3)))
    ]
    return " ".join([draw.one([f"{person.name} is {person.trait}.", "Do you know this?", ""]), *facts]).strip()


def word_lore(world: World, draw: Draw) -> str:
    """What the words mean and how they are sorted."""
    topic = draw.one(list(WORDS))
    words = mixed_words(draw, topic, 3, 5)
    verb = draw.one(list(PAST))
    a, b = (int(draw.generator.integers(2, 20)) for _ in range(2))
    left, right = draw.one(OPPOSITES)
    sentences = [
        f"{words[0].capitalize()} are {topic}, and so are {listing(words[1:])}.",
        f"In alphabetical order: {listing(sorted(words))}.",
        f"Today one {verb}, yesterday one {PAST[verb]}.",
        f"{a} plus {b} is {a + b}.",
        f"The opposite of {left} is {right}, and what is {right} is not {left}.",
    ]
    return " ".join(draw.some(sentences, 3))


def tale(world: World, draw: Draw) -> str:
    """A few sentences in which people meet."""
    task = draw.one([describe, note, gift, plan])
    return draw.one(task(world, draw).outputs)


DOCUMENTS = [biography, biography, word_lore, tale]
