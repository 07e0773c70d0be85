"""What the screen says of names and texts that somebody else wrote."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from grpo_audit.cli import console
from grpo_audit.cli.probe import _of_function
from grpo_audit.errors import ConfigError

HOSTILE = "a[/b]\x1b[2J[red]\u202e"
SEEN = r"a[/b]\x1b[2J[red]\u202e"


def a_bar() -> None:
    """A phase that names what it is at, like a task of somebody's suite."""
    with console.bar(HOSTILE, 2) as bar:
        bar.update(2, HOSTILE)


@pytest.mark.parametrize("speak", [a_bar, lambda: console.say(HOSTILE)])
def test_names_are_shown_as_they_are_and_do_nothing(
    speak: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """A task's name is no markup and no command to the terminal: it is printed, with what cannot be seen escaped."""
    speak()
    assert SEEN in capsys.readouterr().err


def test_an_error_reads_as_sentences() -> None:
    """A question keeps its mark and gets no full stop after it; what is expected is not called found."""
    assert str(ConfigError("Which prompts?", next_step="Name a file")) == "Which prompts? Name a file."
    assert str(ConfigError("No.", found="a", next_step="Do b.")) == "No; found a. Do b."
    with pytest.raises(ConfigError, match=r"^bad\.py is no reward source: expected 'package"):
        _of_function("bad.py", {}, None, {})
