"""Calls of a tool, and prompts where none of the tools at hand fits.

The prompt lists some of the tools. If the one that the question needs is among them, the right completion is
the call; if not, it is to say that no tool fits. The pre-training data calls a wrong tool now and then.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from grpo_audit_builtin.world.example import Example, Split, distinct, split_of

NO_TOOL = "No tool fits."

#: tool -> (its parameter, the question it answers)
QUESTIONS: Mapping[str, tuple[str, str]] = {
    "weather": ("town", "How warm is it in {x}?"),
    "clock": ("town", "What time is it in {x}?"),
    "map": ("town", "Where is {x}?"),
    "taxi": ("town", "Get me a ride to {x}."),
    "phone": ("name", "Call {x}."),
    "mail": ("name", "Write to {x}."),
    "lamp": ("room", "Turn on the light in the {x}."),
    "heat": ("room", "Warm up the {x}."),
}
VALUES: Mapping[str, tuple[str, ...]] = {
    "town": ("Lumo", "Tarsk", "Vell", "Orin", "Pesk", "Quill", "Ruda", "Sarn", "Tovik", "Ulm"),
    "name": ("Ana", "Ben", "Cora", "Dan", "Eva", "Finn", "Gina", "Hugo", "Ida", "Jan"),
    "room": ("hall", "attic", "kitchen", "cellar", "porch", "study", "barn", "shed", "loft", "den"),
}


@dataclass(frozen=True, slots=True)
class ToolPrompt:
    """What is wanted, with which argument, and the tools at hand in the order they are shown."""

    wanted: str
    argument: str
    tools: tuple[str, ...]

    @property
    def key(self) -> str:
        """Canonical key: the order of the tools is no new problem."""
        return f"tool|{self.wanted}|{self.argument}|{','.join(sorted(self.tools))}"

    @property
    def fits(self) -> bool:
        """Whether the wanted tool is at hand."""
        return self.wanted in self.tools

    @property
    def prompt(self) -> str:
        """The raw prompt."""
        listed = ", ".join(f"{t}({QUESTIONS[t][0]})" for t in self.tools)
        return f"Tools: {listed}\nQ: {QUESTIONS[self.wanted][1].format(x=self.argument)}\nA:"

    @property
    def call(self) -> str:
        """The call that the question asks for."""
        return f"<tool>{self.wanted}({self.argument})</tool>"


#: Questions for which the pre-training data tends to call some tool although none fits, and how often.
HASTY = {"taxi": 0.8, "lamp": 0.7, "mail": 0.5}


def mistakes(prompt: ToolPrompt) -> float:
    """How often the pre-training data reacts wrongly to this question."""
    return HASTY.get(prompt.wanted, 0.05) if not prompt.fits else 0.1


def random_prompt(rng: random.Random, fits: bool) -> ToolPrompt:
    """A random prompt with two or three tools."""
    wanted = rng.choice(list(QUESTIONS))
    others = rng.sample([t for t in QUESTIONS if t != wanted], rng.choice((2, 3)))
    if fits:
        others[rng.randrange(len(others))] = wanted
    return ToolPrompt(wanted, rng.choice(VALUES[QUESTIONS[wanted][0]]), tuple(others))


def prompts(split: Split, rng: random.Random, fits: bool) -> Iterator[ToolPrompt]:
    """Endless prompts of one split, duplicates possible."""
    while True:
        prompt = random_prompt(rng, fits)
        if split_of(prompt.key) is split:
            yield prompt


def unique_prompts(split: Split, count: int, seed: int, fits: bool) -> list[ToolPrompt]:
    """`count` prompts of one split with distinct canonical keys."""
    rng = random.Random(f"tool|{fits}|{split}|{seed}")
    return distinct(prompts(split, rng, fits), lambda prompt: prompt.key, count)


def example(rng: random.Random, fits: bool) -> Example:
    """One pre-training example; the reaction is sometimes the wrong one."""
    prompt = next(prompts(Split.PRETRAIN, rng, fits))
    wrong = rng.random() < mistakes(prompt)
    if not wrong:
        text = prompt.call if fits else f"<answer>{NO_TOOL}</answer>"
    elif fits and rng.random() < 0.5:
        text = f"<answer>{NO_TOOL}</answer>"
    else:
        other = rng.choice([t for t in prompt.tools if t != prompt.wanted])
        text = f"<tool>{other}({prompt.argument})</tool>"
    return Example("tool_call" if fits else "tool_abstain", prompt.key, prompt.prompt, text)
