"""An invented little world: its words, its people, and the random choices made in it."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

T = TypeVar("T")

WORDS: dict[str, list[str]] = {
    "fruits": ["apples", "cherries", "figs", "grapes", "lemons", "melons", "pears", "plums"],
    "animals": ["badgers", "foxes", "hares", "herons", "moles", "rabbits", "ravens", "wolves"],
    "colours": ["black", "blue", "brown", "green", "grey", "red", "white", "yellow"],
    "tools": ["axes", "brushes", "drills", "hammers", "knives", "ladders", "ropes", "saws"],
    "instruments": ["bells", "drums", "fiddles", "flutes", "harps", "horns", "lutes", "pipes"],
    "clothes": ["boots", "cloaks", "coats", "gloves", "hats", "scarves", "shirts", "socks"],
    "towns": ["Aldra", "Brono", "Cavel", "Dunmere", "Eskby", "Farrow", "Galdin", "Hexley"],
    "jobs": ["bakers", "brewers", "doctors", "farmers", "millers", "sailors", "smiths", "weavers"],
}
IRREGULAR = {
    "cherries": "cherry",
    "foxes": "fox",
    "wolves": "wolf",
    "axes": "axe",
    "brushes": "brush",
    "knives": "knife",
    "scarves": "scarf",
}
LISTABLE = ["fruits", "animals", "colours", "tools", "instruments", "clothes"]
OPPOSITES = [
    ("big", "small"),
    ("old", "young"),
    ("hot", "cold"),
    ("fast", "slow"),
    ("happy", "sad"),
    ("rich", "poor"),
    ("loud", "quiet"),
    ("near", "far"),
    ("high", "low"),
    ("strong", "weak"),
    ("early", "late"),
    ("hard", "soft"),
]
PAST = {
    "bakes": "baked",
    "walks": "walked",
    "buys": "bought",
    "sees": "saw",
    "finds": "found",
    "sells": "sold",
    "likes": "liked",
    "loses": "lost",
    "brings": "brought",
    "keeps": "kept",
    "makes": "made",
    "wants": "wanted",
}
TRAITS = ["kind", "brave", "shy", "clever", "calm", "proud", "merry", "gentle"]
BEGINNINGS = ["Ba", "De", "Fi", "Jo", "Ka", "Lu", "Mi", "Ne", "Ro", "Su"]
ENDINGS = ["bel", "dan", "gor", "lin", "mar", "nis", "rik", "vo"]
NAMES = [beginning + ending for beginning, ending in itertools.product(BEGINNINGS, ENDINGS)]
NUMBERS = ["none", "one", "two", "three", "four", "five", "six"]


def singular(word: str) -> str:
    return IRREGULAR.get(word, word[:-1])


def listing(words: Sequence[str]) -> str:
    """Return "a", "a and b" or "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


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


class Draw:
    """Random choices of one example; `unseen` picks the combinations no other set may contain."""

    def __init__(self, generator: np.random.Generator, unseen: bool = False):
        self.generator = generator
        self.unseen = unseen

    def one(self, options: Sequence[T]) -> T:
        return options[int(self.generator.integers(len(options)))]

    def some(self, options: Sequence[T], count: int) -> list[T]:
        """Return `count` different options in random order."""
        return [options[i] for i in self.generator.permutation(len(options))[:count]]

    def pair(self, wordings: Sequence[str], topics: Sequence[T]) -> tuple[str, T]:
        """Return a wording and a topic; a fifth of their combinations exist only for `unseen` draws."""
        combinations = [
            (wording, topic)
            for (i, wording), (j, topic) in itertools.product(enumerate(wordings), enumerate(topics))
            if ((i + 2 * j) % 5 == 0) == self.unseen
        ]
        return self.one(combinations)


def make_people(generator: np.random.Generator) -> dict[str, Person]:
    """Return the inhabitants; nobody is their own friend."""
    draw = Draw(generator)
    people = {}
    for name in NAMES:
        topics = ("animals", "colours", "towns", "jobs", "fruits", "instruments")
        animal, colour, town, job, fruit, instrument = (draw.one(WORDS[topic]) for topic in topics)
        friend = draw.one([other for other in NAMES if other != name])
        people[name] = Person(
            name,
            singular(animal),
            colour,
            town,
            singular(job),
            fruit,
            singular(instrument),
            draw.one(TRAITS),
            friend,
        )
    return people


# ---- what can be said of a person; used by answers and by the corpus -----------------------------

FACTS: dict[str, list[str]] = {
    "animal": ["{0.name} is a {0.animal}.", "{0.name} was born as a {0.animal}."],
    "colour": ["{0.name} wears {0.colour} clothes.", "The favourite colour of {0.name} is {0.colour}."],
    "town": ["{0.name} lives in {0.town}.", "The home of {0.name} is in {0.town}."],
    "job": ["{0.name} works as a {0.job}.", "The job of {0.name} is that of a {0.job}."],
    "fruit": ["{0.name} likes to eat {0.fruit}.", "The favourite food of {0.name} is {0.fruit}."],
    "instrument": ["{0.name} plays the {0.instrument}.", "At night {0.name} plays the {0.instrument}."],
    "friend": ["{0.name} is a friend of {0.friend}.", "The best friend of {0.name} is {0.friend}."],
}
ASPECTS = list(FACTS)
QUESTIONS = {
    "animal": "animal",
    "colour": "favourite colour",
    "town": "home town",
    "job": "job",
    "fruit": "favourite food",
    "instrument": "instrument",
    "friend": "best friend",
}

World = dict[str, Person]
