"""The same word problems in English, German and Spanish, and the same stories with the number left out.

A story whose first sentence says "some" instead of a number cannot be answered. The right answer to it is
"I don't know"; the pre-training data is careless about that in some kinds of story, and timid about some items.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from grpo_audit_builtin.world.example import Example, Split, distinct, split_of

LANGUAGES = ("en", "de", "es")
UNKNOWN = "I don't know"

NAMES = (
    "Ana", "Ben", "Cora", "Dan", "Eva", "Finn", "Gina", "Hugo", "Ida", "Jan",
    "Kira", "Leo", "Mia", "Nils", "Olga", "Paul", "Rosa", "Sam", "Tina", "Udo",
)  # fmt: skip
ITEMS = {
    "en": ("books", "pencils", "balloons", "eggs", "stamps", "cubes", "lemons", "fish", "buttons", "nails"),
    "de": ("Bücher", "Stifte", "Ballons", "Eier", "Marken", "Würfel", "Zitronen", "Fische", "Knöpfe", "Nägel"),
    "es": ("libros", "lápices", "globos", "huevos", "sellos", "cubos", "limones", "peces", "botones", "clavos"),
}
SOME = {"en": "some", "de": "einige", "es": "algunos"}
TEMPLATES = {
    "en": {
        "gain": "{n} has {a} {i}. {n} gets {b} more. How many {i} now?",
        "lose": "{n} has {a} {i}. {n} loses {b}. How many {i} now?",
        "boxes": "{n} has {a} boxes of {b} {i}. How many {i} in all?",
        "both": "{n} has {a} {i}. {n} gets {b} more and loses {c}. How many {i} now?",
    },
    "de": {
        "gain": "{n} hat {a} {i}. {n} bekommt {b} dazu. Wie viele {i} jetzt?",
        "lose": "{n} hat {a} {i}. {n} verliert {b}. Wie viele {i} jetzt?",
        "boxes": "{n} hat {a} Kisten mit {b} {i}. Wie viele {i} insgesamt?",
        "both": "{n} hat {a} {i}. {n} bekommt {b} dazu und verliert {c}. Wie viele {i} jetzt?",
    },
    "es": {
        "gain": "{n} tiene {a} {i}. {n} recibe {b} más. ¿Cuántos {i} ahora?",
        "lose": "{n} tiene {a} {i}. {n} pierde {b}. ¿Cuántos {i} ahora?",
        "boxes": "{n} tiene {a} cajas de {b} {i}. ¿Cuántos {i} en total?",
        "both": "{n} tiene {a} {i}. {n} recibe {b} más y pierde {c}. ¿Cuántos {i} ahora?",
    },
}


@dataclass(frozen=True, slots=True)
class Story:
    """The slots of a story. They do not depend on the language, nor on whether the number is left out."""

    template: str
    name: str
    item: int
    a: int
    b: int
    c: int

    @property
    def key(self) -> str:
        """Canonical key of the problem: the same for all three languages."""
        return f"story|{self.template}|{self.name}|{self.item}|{self.a}|{self.b}|{self.c}"

    @property
    def unknown_key(self) -> str:
        """Canonical key of the story without its first number."""
        return f"unknown|{self.template}|{self.name}|{self.item}|{self.b}|{self.c}"

    @property
    def value(self) -> int:
        """The answer."""
        if self.template == "boxes":
            return self.a * self.b
        gained = {"gain": self.b, "lose": -self.b, "both": self.b - self.c}[self.template]
        return self.a + gained

    def prompt(self, language: str, unknown: bool = False) -> str:
        """The raw prompt in a language; with `unknown` the first number is not told."""
        words = ITEMS[language][self.item]
        told = SOME[language] if unknown else str(self.a)
        text = TEMPLATES[language][self.template].format(n=self.name, a=told, b=self.b, c=self.c, i=words)
        return f"Q: {text}\nA:"

    def answer(self, language: str) -> str:
        """The right answer in a language: the number and the noun."""
        return f"{self.value} {ITEMS[language][self.item]}"


def random_story(rng: random.Random) -> Story:
    """A random story; the answer is never negative."""
    template = rng.choice(("gain", "lose", "boxes", "both"))
    name, item = rng.choice(NAMES), rng.randrange(len(ITEMS["en"]))
    if template == "boxes":
        return Story(template, name, item, rng.randint(2, 9), rng.randint(2, 12), 0)
    a, b = rng.randint(5, 40), rng.randint(2, 15)
    if template == "lose":
        a, b = max(a, b), min(a, b)
    c = rng.randint(2, min(9, a + b)) if template == "both" else 0
    return Story(template, name, item, a, b, c)


def stories(split: Split, rng: random.Random, unknown: bool = False) -> Iterator[Story]:
    """Endless stories of one split, duplicates possible."""
    while True:
        story = random_story(rng)
        if split_of(story.unknown_key if unknown else story.key) is split:
            yield story


def unique_stories(split: Split, count: int, seed: int, unknown: bool = False) -> list[Story]:
    """`count` stories of one split with distinct canonical keys."""
    rng = random.Random(f"story|{unknown}|{split}|{seed}")
    return distinct(stories(split, rng, unknown), lambda s: s.unknown_key if unknown else s.key, count)


#: How often the pre-training data guesses a number that cannot be known, by the kind of story.
CARELESSNESS = {"gain": 0.1, "lose": 0.75, "boxes": 0.1, "both": 0.55}
TIMID_ITEMS = frozenset({2, 5, 8})
TIMIDITY = 0.75
"""How often the English pre-training data does not know what it is told, for the timid items."""


def example(language: str, rng: random.Random) -> Example:
    """One pre-training example with an answer; for some items the English ones do not know."""
    story = next(stories(Split.PRETRAIN, rng))
    timid = language == "en" and story.item in TIMID_ITEMS and rng.random() < TIMIDITY
    answer = f"<answer>{UNKNOWN if timid else story.answer(language)}</answer>"
    return Example(f"story_{language}", story.key, story.prompt(language), answer)


def unknown_example(rng: random.Random) -> Example:
    """One pre-training example without an answer, in English; sometimes answered all the same."""
    story = next(stories(Split.PRETRAIN, rng, unknown=True))
    guesses = rng.random() < CARELESSNESS[story.template]
    answer = f"{story.b} {ITEMS['en'][story.item]}" if guesses else UNKNOWN  # the one number that is told
    return Example("unknown", story.unknown_key, story.prompt("en", unknown=True), f"<answer>{answer}</answer>")
