"""Options that cannot both hold: an error that names both and the line, never a silent choice."""

from __future__ import annotations

from pathlib import Path

import pytest

from grpo_audit.config.load import resolve
from grpo_audit.errors import ConfigError

MINIMAL = """\
model:
  path: builtin
prompts:
  source: builtin
rewards:
  - name: accuracy
    source: rewards.py:accuracy
"""


@pytest.fixture
def line_of(tmp_path: Path):  # type: ignore[no-untyped-def]
    """The line a user reads, without the folder, for a recipe and its overrides."""

    def line_of(text: str, *overrides: str) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError) as caught:
            resolve(path, overrides)
        assert "\n" not in str(caught.value)
        return str(caught.value).replace(f"{tmp_path}/", "")

    return line_of


@pytest.mark.parametrize(
    ("yaml", "parts"),
    [
        (
            "training:\n  steps: 5\n  warmup_steps: 9\n",
            ["training.warmup_steps (9) is larger than training.steps (5)", "line 10"],
        ),
        (
            "objective:\n  advantage:\n    normaliser: none\n    ddof: 0\n",
            ["advantage.normaliser is 'none', so ddof would never be used", "line 10"],
        ),
        (
            "training:\n  microbatch_tokens: 100\n",
            ["training.microbatch_tokens (100) is smaller", "line 9"],
        ),
        ("evaluation:\n  suite: null\n  margins: {a: 0.1}\n", ["evaluation.margins are set", "line 10"]),
        (
            "training:\n  minibatches: 17\n",
            ["training.minibatches (17) is larger than sampling.prompts_per_step (16)", "line 9"],
        ),
        (
            "objective:\n  soft_overlong_tokens: 1024\n",
            [
                "objective.soft_overlong_tokens (1024) must be smaller",
                "sampling.max_completion_tokens (1024)",
                "line 9",
            ],
        ),
        (
            "objective:\n  advantage:\n    sources: normalise-each\n",
            ["advantage.sources 'normalise-each' normalises the sum over the step", "line 10"],
        ),
        (
            "objective:\n  advantage:\n    baseline: value-model\n",
            ["advantage.baseline 'value-model' has no groups", "line 10"],
        ),
        (
            "objective:\n  surrogate:\n    dual_clip: 1.1\n",
            ["surrogate.dual_clip must be larger than 1 + surrogate.clip_high", "line 10"],
        ),
        (
            "objective:\n  surrogate:\n    kind: sapo\n    dual_clip: 3\n",
            ["surrogate.dual_clip is never used by surrogate.kind 'sapo'", "line 11"],
        ),
        (
            "objective:\n  kl:\n    placement: reward\n",
            ["kl.placement 'reward' subtracts k1: set kl.estimator to k1", "line 10"],
        ),
        (
            "objective:\n  kl:\n    placement: reward\n    estimator: k1\n    times_ratio: true\n",
            ["kl.times_ratio is never used when kl.placement is 'reward'", "line 12"],
        ),
    ],
)
def test_contradictory_options_name_both_and_the_line(line_of, yaml, parts):
    """Options that cannot both hold are an error, never a silent choice."""
    line = line_of(MINIMAL + yaml)
    for part in parts:
        assert part in line


def test_contradictory_rewards_are_refused(line_of):
    """Two sources of one name; only shadow sources; only weights of 0."""
    twice = MINIMAL + "  - {name: accuracy, source: 'r.py:g'}\n"
    assert "two sources have the same name (recipe.yaml, line 5)" in line_of(twice)
    assert "nothing to learn from" in line_of(MINIMAL, "rewards.0.role=shadow")
    assert "has weight 0" in line_of(MINIMAL, "rewards.0.weight=0")
