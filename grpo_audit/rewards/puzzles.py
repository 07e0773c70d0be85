"""Small deduction puzzles in the format of Temporal Clue, each with exactly one solution, from a seed.

Persons walk between the rooms of a 2 x 2 house; the murderer was once alone with Mr. Boddy in a room with a weapon,
and that happened once only. Clues are true sentences about the chosen world. They are added until no other world fits
and then thinned out, so each clue that is left is needed. ``solutions`` decides by exhaustive search with pruning.

Much smaller than the original (three suspects, two weapons that stay where they are, two or three times), and easier:
for tests, demonstrations and small models, not a benchmark.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

SUSPECTS: Final = ("Miss Scarlet", "Mr. Green", "Mrs. White", "Professor Plum", "Colonel Mustard", "Mrs. Peacock")
WEAPONS: Final = ("Candlestick", "Knife", "Lead Pipe", "Revolver", "Rope", "Wrench")
ROOMS: Final = ("Hall", "Library", "Kitchen", "Lounge", "Study", "Ballroom")
TIMES: Final = ("09:00 PM", "10:00 PM", "11:00 PM")
MOTIVES: Final = ("Greed", "Jealousy", "Revenge", "Fear", "Power")
BODDY: Final = "Mr. Boddy"
MOTIVE: Final = " (motive)"

World = dict[str, tuple[str, ...]]
"""Each variable and its value: a person's room at each time, a weapon's only room, a suspect's motive."""


@dataclass(frozen=True, slots=True)
class Clue:
    """A sentence, what it speaks of, and whether it is true of those values."""

    text: str
    about: tuple[str, ...]
    holds: Callable[..., bool]


@dataclass(frozen=True, slots=True)
class House:
    """Who and what is in a puzzle. Rooms are numbered 1 2 / 3 4, as the plan shows them."""

    suspects: tuple[str, ...]
    weapons: tuple[str, ...]
    rooms: tuple[str, ...]
    times: tuple[str, ...]
    motives: tuple[str, ...]

    def domains(self) -> dict[str, list[tuple[str, ...]]]:
        """Every value that each variable could have."""
        walks = [walk for walk in itertools.product(self.rooms, repeat=len(self.times)) if self._is_walk(walk)]
        return (
            {person: walks for person in (*self.suspects, BODDY)}
            | {weapon: [(room,) for room in self.rooms] for weapon in self.weapons}
            | {suspect + MOTIVE: [(motive,) for motive in self.motives] for suspect in self.suspects}
        )

    def _is_walk(self, walk: Sequence[str]) -> bool:
        places = [self.rooms.index(room) for room in walk]
        return all(a == b or a ^ b in (1, 2) for a, b in itertools.pairwise(places))

    def murders(self, world: World) -> list[tuple[str, str, str, str]]:
        """Each time a suspect was alone with Mr. Boddy and a weapon: suspect, weapon, room, time."""
        found = []
        for number, time in enumerate(self.times):
            room = world[BODDY][number]
            there = [suspect for suspect in self.suspects if world[suspect][number] == room]
            armed = [weapon for weapon in self.weapons if world[weapon][0] == room]
            if len(there) == 1:
                found += [(there[0], weapon, room, time) for weapon in armed]
        return found

    def is_possible(self, world: World) -> bool:
        """Whether motives are shared out one a suspect and there was exactly one chance for a murder."""
        motives = [world[suspect + MOTIVE][0] for suspect in self.suspects]
        return len(set(motives)) == len(motives) and len(self.murders(world)) == 1


@dataclass(frozen=True, slots=True)
class Puzzle:
    """A puzzle with its only solution."""

    prompt: str
    solution: dict[str, str]
    clues: tuple[str, ...]


def generate(seed: int, *, suspects: int = 3, weapons: int = 2, times: int = 2) -> Puzzle:
    """One puzzle; a pure function of its arguments (suspects 2 to 4, weapons 1 to 3, times 2 or 3)."""
    if not (2 <= suspects <= 4 and 1 <= weapons <= 3 and 2 <= times <= 3):
        raise ValueError("suspects must be 2 to 4, weapons 1 to 3, times 2 or 3")
    dice = random.Random(seed)
    house = House(
        suspects=tuple(dice.sample(SUSPECTS, suspects)),
        weapons=tuple(dice.sample(WEAPONS, weapons)),
        rooms=tuple(dice.sample(ROOMS, 4)),
        times=TIMES[:times],
        motives=tuple(dice.sample(MOTIVES, suspects)),
    )
    world = _world(house, dice)
    clues = _enough(house, world, dice)
    dice.shuffle(clues)
    return _written(house, world, clues)


def solutions(house: House, clues: Sequence[Clue], limit: int = 2) -> list[World]:
    """Up to ``limit`` worlds in which every clue holds."""
    domains = house.domains()
    for name, clue in ((clue.about[0], clue) for clue in clues if len(set(clue.about)) == 1):
        domains[name] = [value for value in domains[name] if clue.holds(*[value] * len(clue.about))]
    order = sorted(domains, key=lambda name: len(domains[name]))
    ready = {
        name: [clue for clue in clues if max(clue.about, key=order.index) == name and len(set(clue.about)) > 1]
        for name in order
    }

    def search(world: World, rest: list[str]) -> Iterator[World]:
        if not rest:
            if house.is_possible(world):
                yield dict(world)
            return
        name, *others = rest
        for value in domains[name]:
            world[name] = value
            if all(clue.holds(*(world[item] for item in clue.about)) for clue in ready[name]):
                yield from search(world, others)
        world.pop(name, None)

    return list(itertools.islice(search({}, order), limit))


def _world(house: House, dice: random.Random) -> World:
    domains = house.domains()
    while True:
        world = {name: dice.choice(values) for name, values in domains.items()}
        if house.is_possible(world):
            return world


def _enough(house: House, world: World, dice: random.Random) -> list[Clue]:
    """Clues of the world that fit no other one, none of which could be left out."""
    stock = [clue for clue in _all_clues(house) if clue.holds(*(world[name] for name in clue.about))]
    dice.shuffle(stock)
    stock.sort(key=lambda clue: len(clue.about) == 1)  # clues that link two things first: they make the puzzle
    linked = [clue for clue in stock if len(clue.about) > 1][: 2 * len(house.suspects)]
    chosen = linked + [clue for clue in stock if len(clue.about) == 1]
    for clue in reversed(list(chosen)):
        without = [other for other in chosen if other is not clue]
        if len(solutions(house, without)) == 1:
            chosen = without
    return chosen


def _all_clues(house: House) -> Iterator[Clue]:
    people = (*house.suspects, BODDY)
    for number, time in enumerate(house.times):
        for person, room in itertools.product(people, house.rooms):
            yield Clue(f"{person} was in the {room} at {time}", (person,), _is_at(number, room))
        for a, b in itertools.combinations(people, 2):
            yield Clue(f"{a} was in the same room as {b} at {time}", (a, b), _together(number))
        for weapon, person in itertools.product(house.weapons, people):
            yield Clue(f"The {weapon} was in the same room as {person} at {time}", (weapon, person), _beside(number))
    for weapon, room in itertools.product(house.weapons, house.rooms):
        yield Clue(f"The {weapon} was in the {room} all night", (weapon,), _is_at(0, room))
    for suspect, motive in itertools.product(house.suspects, house.motives):
        yield Clue(f"{suspect} is motivated by {motive}", (suspect + MOTIVE,), _is_at(0, motive))
        for number, time in enumerate(house.times):
            for room in house.rooms:
                text = f"{suspect} is motivated by {motive} if and only if {BODDY} was in the {room} at {time}"
                yield Clue(text, (suspect + MOTIVE, BODDY), _both_or_neither(motive, number, room))


def _is_at(number: int, room: str) -> Callable[..., bool]:
    return lambda walk: bool(walk[number] == room)


def _together(number: int) -> Callable[..., bool]:
    return lambda a, b: bool(a[number] == b[number])


def _beside(number: int) -> Callable[..., bool]:
    return lambda weapon, walk: bool(weapon[0] == walk[number])


def _both_or_neither(motive: str, number: int, room: str) -> Callable[..., bool]:
    return lambda held, walk: (held[0] == motive) == (walk[number] == room)


def _written(house: House, world: World, clues: Sequence[Clue]) -> Puzzle:
    murderer, weapon, room, time = house.murders(world)[0]
    questions = {
        "A": ("Who murdered Mr. Boddy?", "SUSPECT", murderer),
        "B": ("What weapon did the murderer use?", "WEAPON", weapon),
        "C": ("Where was the murder committed?", "ROOM", room),
        "D": ("When did the murder occur?", "TIME", time),
        "E": ("Why did the murderer do it?", "MOTIVE", world[murderer + MOTIVE][0]),
    }
    plan = "  NN NN\nW 01|02 E\nW 03|04 E\n  SS SS"
    rooms = "\n".join(f"{number:02d}. {name}" for number, name in enumerate(house.rooms, 1))
    prompt = f"""\
Mr. Boddy was found dead in the early hours of the morning. The suspects are:

{_bullets(house.suspects)}

The following weapons were found, each in the room where it had been all night:

{_bullets(house.weapons)}

The murder could only have occurred in one of the following rooms:

{rooms}

The rooms are laid out as follows:

{plan}

It occurred at one of the following times:

{_bullets(house.times)}

From each time to the next the suspects and Mr. Boddy either stayed in their room or moved to the one just north, \
south, east or west of it. Each suspect had one of the following motives, no two the same:

{_bullets(house.motives)}

The murderer and Mr. Boddy were alone in a room with a weapon. In the whole night that happened to one suspect, with \
one weapon, at one time. Any clue about Mr. Boddy's whereabouts should be read as "Mr. Boddy (dead or alive) ..."

The available clues are as follows:

{_bullets([clue.text for clue in clues], "-")}

Please answer the following questions:

{_lettered({letter: text for letter, (text, _, _) in questions.items()})}

Fill out your final answers in the following format:

{_lettered({letter: kind for letter, (_, kind, _) in questions.items()})}
"""
    solution = {letter: answer for letter, (_, _, answer) in questions.items()}
    return Puzzle(prompt, solution, tuple(clue.text for clue in clues))


def _bullets(items: Sequence[str], mark: str = "\u2022") -> str:
    return "\n".join(f"{mark} {item}" for item in items)


def _lettered(lines: dict[str, str]) -> str:
    return "\n".join(f"{letter}. {text}" for letter, text in lines.items())
