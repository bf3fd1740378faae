"""A small invented world: its words, its people, what can be said about them, and the random choices made in it."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

T = TypeVar("T")

WORDS: dict[str, list[str]] = {
    "fruits": ["apples", "cherries", "figs", "grapes", "lemons", "melons", "pears", "plums"],
    "animals": ["badgers", "beavers", "hares", "herons", "lizards", "moles", "rabbits", "ravens"],
    "colours": ["black", "blue", "brown", "green", "grey", "red", "white", "yellow"],
    "tools": ["axes", "brushes", "drills", "hammers", "knives", "ladders", "ropes", "saws"],
    "instruments": ["bells", "drums", "fiddles", "flutes", "harps", "horns", "lutes", "pipes"],
    "clothes": ["boots", "cloaks", "coats", "gloves", "hats", "scarves", "shirts", "socks"],
    "towns": ["Aldra", "Brono", "Cavel", "Dunmere", "Eskby", "Farrow", "Galdin", "Hexley"],
    "jobs": ["bakers", "brewers", "doctors", "farmers", "millers", "sailors", "smiths", "weavers"],
}
TOPICS = list(WORDS)
TRAITS = ["kind", "brave", "shy", "clever", "calm", "proud", "merry", "gentle"]
BEGINNINGS = ["Ba", "De", "Fi", "Jo", "Ka", "Lu", "Mi", "Ne", "Ro", "Su"]
ENDINGS = ["bel", "dan", "gor", "lin", "mar", "nis", "rik", "vo"]
NAMES = [beginning + ending for beginning, ending in itertools.product(BEGINNINGS, ENDINGS)]

# What can be said about a person: how a question names it, and two ways to state it; answers use the first.
FACTS = [
    ("animal", "{name} is a {animal}.", "{name} was born as a {animal}."),
    ("favourite colour", "{name} wears {colour} clothes.", "The favourite colour of {name} is {colour}."),
    ("home town", "{name} lives in {town}.", "The home of {name} is in {town}."),
    ("job", "{name} works as a {job}.", "The job of {name} is that of a {job}."),
    ("favourite food", "{name} likes to eat {fruit}.", "The favourite food of {name} is {fruit}."),
    ("instrument", "{name} plays the {instrument}.", "At night {name} plays the {instrument}."),
    ("best friend", "{name} is a friend of {friend}.", "The best friend of {name} is {friend}."),
]


@dataclass(frozen=True)
class Person:
    name: str
    animal: str
    colour: str
    town: str
    job: str
    fruit: str
    instrument: str
    trait: str
    friend: str

    def fill(self, sentence: str) -> str:
        """Return a sentence with its braces filled in for this person."""
        return sentence.format(**vars(self))


World = dict[str, Person]


class Draw:
    """Random choices of one example; `unseen` picks the combinations no other set may contain."""

    def __init__(self, generator: np.random.Generator, unseen: bool = False):
        self.generator = generator
        self.unseen = unseen

    def number(self, low: int, high: int) -> int:
        """Return a whole number from `low` to `high`, both included."""
        return int(self.generator.integers(low, high + 1))

    def one(self, options: Sequence[T]) -> T:
        return options[self.number(0, len(options) - 1)]

    def some(self, options: Sequence[T], count: int) -> list[T]:
        """Return `count` different options, or all if there are fewer, in random order."""
        return [options[i] for i in self.generator.permutation(len(options))[:count]]

    def pair(self, wordings: Sequence[str], topics: Sequence[T]) -> tuple[str, T]:
        """Return a wording and a topic; a fifth of their combinations exist only for `unseen` draws."""
        combinations = [
            (wording, topic)
            for (i, wording), (j, topic) in itertools.product(enumerate(wordings), enumerate(topics))
            if ((i + 2 * j) % 5 == 0) == self.unseen
        ]
        return self.one(combinations)


def make_people(generator: np.random.Generator) -> World:
    """Return the inhabitants by name; nobody is their own friend."""
    draw = Draw(generator)
    people = {}
    for name in NAMES:
        animal, job, instrument = (draw.one(WORDS[topic])[:-1] for topic in ("animals", "jobs", "instruments"))
        colour, town, fruit = (draw.one(WORDS[topic]) for topic in ("colours", "towns", "fruits"))
        friend = draw.one([other for other in NAMES if other != name])
        people[name] = Person(name, animal, colour, town, job, fruit, instrument, draw.one(TRAITS), friend)
    return people


def listing(words: Sequence[str]) -> str:
    """Return "a", "a and b" or "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
