"""Deduction puzzles: the share of questions right, and a generator whose puzzles have one solution."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from rewards.attacks import HOSTILE

from grpo_audit.rewards.puzzles import BODDY, MOTIVE, House, _all_clues as all_clues, generate, solutions
from grpo_audit.rewards.temporal_clue import answers, score

SOLUTION = {"A": "Sgt. Gray", "B": "Library", "C": "11:00 PM", "D": "Jealousy"}
SHARED = os.environ.get("GRPO_AUDIT_SHARED_DATA")


def written(solution):
    """The answers as the puzzle asks for them."""
    return "\n".join(f"{letter}. {answer}" for letter, answer in solution.items())


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        (written(SOLUTION), 1.0),
        ("I think ...</think>\n" + written(SOLUTION) + "\n\nDone.", 1.0),
        ("**A.** sgt. gray.\nB) the Library\nC. 11:00 pm\nD: **JEALOUSY**", 0.75),
        ("A. Sgt. Gray or Mrs. White\nB. Library, Hall\nC. 11:00 PM / 10:00 PM\nD. Jealousy Fear", 0.0),
        ("A. Mrs. White\nA. Sgt. Gray\n", 0.25),
        ("A. Sgt. Gray\nA. Mrs. White\n", 0.0),
        ("<think>" + written(SOLUTION) + "</think>", 0.0),
        ("A. Sgt. Gray B. Library C. 11:00 PM D. Jealousy", 0.0),
        ("A. \nB. \nC. \nD. ", 0.0),
        ("a. Sgt. Gray", 0.0),
    ],
)
def test_the_reward_is_the_share_of_questions_right(text, reward):
    """The last line of each letter, the whole line, behind the reasoning."""
    assert score([text], [SOLUTION]) == [reward]


def test_a_solution_may_be_json_and_must_have_questions():
    """A row without questions cannot be judged; a letter a table filled with null is none."""
    assert score([written(SOLUTION)], [json.dumps(SOLUTION)]) == [1.0]
    assert score([written(SOLUTION)], [SOLUTION | {"H": None}]) == [1.0]
    assert score(["x"], [None]) == [None]
    for bad in ({}, {"AA": "x"}, {"A": " "}, "[", [1], 3):
        assert isinstance(score(["A. x"], [bad])[0], ValueError)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_completions_earn_nothing(text):
    """No hang either."""
    assert score([text, "A. " * 300_000, "A." + " " * 1_000_000], [SOLUTION] * 3) == [0.0] * 3


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_text_without_the_answers_earns_nothing(text):
    """Any text."""
    assert score([text], [{"A": "Zyx 7391"}]) == [0.0]
    assert all(len(letter) == 1 for letter in answers(text))


@pytest.mark.parametrize("options", [{}, {"times": 3}, {"suspects": 4, "weapons": 3, "times": 3}, {"suspects": 2}])
@pytest.mark.parametrize("seed", range(5))
def test_generated_puzzles_are_solved_by_their_solution_only(seed, options):
    """The own solution is right, the puzzle is a pure function of the seed, and it does not give itself away."""
    puzzle = generate(seed, **options)
    assert generate(seed, **options) == puzzle
    assert score([written(puzzle.solution), puzzle.prompt], [puzzle.solution] * 2) == [1.0, 0.0]
    assert all(f"- {clue}" in puzzle.prompt for clue in puzzle.clues)


def brute_force(house: House, texts: set[str]) -> list[dict[str, tuple[str, ...]]]:
    """All worlds that fit, by trying every one: no pruning, no order."""
    clues = [clue for clue in all_clues(house) if clue.text in texts]
    domains = house.domains()
    worlds = (dict(zip(domains, values, strict=True)) for values in itertools.product(*domains.values()))
    return [
        world
        for world in worlds
        if all(clue.holds(*(world[name] for name in clue.about)) for clue in clues)
        and len(house.murders(world)) == 1
        and len({world[suspect + MOTIVE] for suspect in house.suspects}) == len(house.suspects)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_the_solution_is_unique_and_each_clue_is_needed(seed):
    """Oracle: a search without any pruning, over every world of a small house. Without any one clue there are more."""
    puzzle = generate(seed, suspects=2, weapons=1)
    house = house_of(puzzle.prompt)
    found = brute_force(house, set(puzzle.clues))
    assert len(found) == 1
    suspect, weapon, room, time = house.murders(found[0])[0]
    motive = found[0][suspect + MOTIVE][0]
    assert puzzle.solution == {"A": suspect, "B": weapon, "C": room, "D": time, "E": motive}
    clues = [clue for clue in all_clues(house) if clue.text in puzzle.clues]
    assert len(solutions(house, clues)) == 1
    for clue in clues:
        assert len(solutions(house, [other for other in clues if other is not clue])) == 2


def house_of(prompt: str) -> House:
    """Read a house back from the text of its puzzle, as a solver would."""
    blocks = [block.splitlines() for block in prompt.split("\n\n")]
    suspects, weapons, times, motives = (
        tuple(line.removeprefix("\u2022 ") for line in block) for block in blocks if block[0].startswith("\u2022")
    )
    rooms = next(tuple(line[4:] for line in block) for block in blocks if block[0].startswith("01. "))
    assert BODDY not in suspects
    return House(suspects, weapons, rooms, times, motives)


def test_a_generator_refuses_houses_it_was_not_built_for():
    """A clear error instead of a long search."""
    with pytest.raises(ValueError, match="suspects must be 2 to 4"):
        generate(0, suspects=9)


@pytest.mark.skipif(SHARED is None, reason="GRPO_AUDIT_SHARED_DATA names no folder with the real puzzles")
@pytest.mark.parametrize("name", ["val.json", "test.json"])
def test_the_real_puzzles_are_graded(name):
    """Every published solution earns 1, the prompt itself and the solution of another puzzle earn less."""
    puzzles = json.loads((Path(str(SHARED)) / "temporal_clue" / name).read_text(encoding="utf-8"))
    wanted = [puzzle["solution"] for puzzle in puzzles]
    assert set(score([written(item) for item in wanted], wanted)) == {1.0}
    assert set(score([puzzle["prompt"] for puzzle in puzzles], wanted)) == {0.0}
    shifted = wanted[1:] + wanted[:1]
    others = score([written(item) for item in shifted], wanted)
    assert all(reward < 1 for reward in others)
