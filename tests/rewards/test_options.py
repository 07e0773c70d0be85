"""Options reach the function, are checked before training, and stand in the identity with their defaults."""

from __future__ import annotations

import pytest

from grpo_audit.config.sections import RewardConfig
from grpo_audit.errors import RewardError
from grpo_audit.rewards.runner import RewardRunner

CODE = """
from typing import Literal
KIND, VERSION, DOMAIN = "verifier", "7", {"f": "anything"}
def f(completions, target=None, *, scale: float = 2.0, mode: Literal["a", "b"] = "a", words: list[str] | None = None,
      need: int = 0):
    return [scale * len(words or []) + need for _ in completions]
def g(completions, *, must: str): return [1.0] * len(completions)
def h(completions, **rest): return [1.0] * len(completions)
"""


def item(name="f", **options):
    """A source with options."""
    return {"name": name, "options": options}


def test_options_reach_the_function_and_the_identity(start, score):
    """Given ones and the defaults of the others: the record holds what was in force."""
    runner = start(CODE, item(words=["x", "y"], need=3))
    assert score(runner, ["c"])[0].total == 7.0
    identity = runner.identities()[0]
    assert identity.options == {"scale": 2.0, "mode": "a", "words": ["x", "y"], "need": 3}


def test_a_source_declares_kind_version_and_domain(start):
    """The recipe's own words win; what neither says is rule, 1 and unknown."""
    first, second, third = start(
        CODE, "f", {"name": "f2", "source": "rewards.py:f", "kind": "judge", "version": "8", "domain": "mine"}, "h"
    ).identities()
    assert (first.kind, first.version, first.domain) == ("verifier", "7", "anything")
    assert (second.kind, second.version, second.domain) == ("judge", "8", "mine")
    assert (third.kind, third.version, third.domain) == ("verifier", "7", None)
    plain = start("def f(completions): return []").identities()[0]
    assert (plain.kind, plain.version, plain.domain) == ("rule", "1", None)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (item(scal=1.0), "unknown option 'scal'; expected one of scale, mode, words, need. The nearest is scale."),
        (item(scale="2"), "option 'scale' has the wrong type; found '2'; expected a number."),
        (item(scale=True), "option 'scale' has the wrong type; found True; expected a number."),
        (item(mode="c"), "option 'mode' has the wrong type; found 'c'; expected one of 'a', 'b'."),
        (item(words="x"), "option 'words' has the wrong type; found 'x'; expected a list of texts or null."),
        (item(need=2**60), "option 'need' is too large; expected a whole number up to 2**53."),
        (item("h", x=1), "unknown option 'x'; expected no options: the function names no such argument."),
        (item(completions=[]), "option 'completions' is taken: every function gets the rows under that name."),
    ],
)
def test_a_wrong_option_is_one_line_before_training(start, source, message):
    """Name, type and value; a function that swallows everything takes no options."""
    with pytest.raises(RewardError) as caught:
        start(CODE, source)
    assert str(caught.value).endswith(f": {message}")
    assert "\n" not in str(caught.value)


def test_a_missing_option_and_a_collision_are_found_before_training(start):
    """A keyword-only argument is an option; an option may not be a column as well."""
    with pytest.raises(RewardError, match=r"g needs the option 'must'; found no options\. Give it in the recipe"):
        start(CODE, "g").check_columns(["target"])
    start(CODE, item("g", must="x")).check_columns(["target"])
    with pytest.raises(RewardError, match="'must' is an option and a column of the prompt set as well"):
        start(CODE, item("g", must="x")).check_columns(["must"])


@pytest.mark.parametrize("line", ['KIND = "oracle"', "VERSION = 2", 'DOMAIN = {"f": 3}'])
def test_a_declaration_that_is_no_text_is_refused(start, line):
    """Nothing of it could be shown in a report."""
    with pytest.raises(RewardError, match="is not usable; found"):
        start(f"{line}\ndef f(completions): return []")


def test_what_a_source_finds_out_when_loaded_is_recorded_and_may_refuse(start):
    """ON_LOAD gets the options it names; a ValueError is the user's line, another exception a failed import."""
    code = """
        def check(size):
            if size > 3: raise ValueError("size is too large")
            return {"digest": size / (size - 2)}
        def f(completions, *, size: int = 1): return [0.0] * len(completions)
        ON_LOAD = {"f": check}
        """
    assert start(code, "f").identities()[0].facts == {"digest": "-1.0"}
    with pytest.raises(RewardError, match=r"\(rewards.py:f\): size is too large\."):
        start(code, item(size=4))
    with pytest.raises(RewardError, match="cannot be imported; found ZeroDivisionError"):
        start(code, item(size=2))


def test_an_exception_in_the_list_is_the_error_of_its_row(start, score):
    """A source can say of one row that it could not judge it, without losing the others."""
    runner = start("def f(completions): return [1.0, ValueError('no reference'), KeyError('k')]")
    rows = score(runner, ["a", "b", "c"])
    assert [row.rewards["f"] for row in rows] == [1.0, None, None]
    assert [row.errors.get("f") for row in rows] == [None, "no reference", "KeyError: 'k'"]


def test_modules_beside_the_file_are_part_of_the_identity(start, score, tmp_path):
    """Their digests and texts are kept, and a process that starts again refuses another text of them."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "__init__.py").write_text("")
    (tmp_path / "parts" / "grader.py").write_text("VALUE = 6.0\n")
    runner = start(
        """
        import os, json
        from parts import grader
        def f(completions):
            if "die" in completions: os._exit(1)
            return [grader.VALUE] * len(completions)
        """
    )
    identity = runner.identities()[0]
    assert sorted(identity.modules) == ["parts/__init__.py", "parts/grader.py"]
    assert runner.source_texts()["f/parts/grader.py"] == b"VALUE = 6.0\n"
    (tmp_path / "parts" / "grader.py").write_text("VALUE = 100.0\nopen('ran', 'w')\n")
    score(runner, ["die"])
    row = score(runner, ["a"])[0]
    assert row.errors["f"] == "could not be loaded again: the source changed since the run began: grader.py"


def test_our_own_sources_record_the_modules_they_rest_on(tmp_path):
    """exact rests on answers.py; the digest of exact.py alone would not name the code."""
    with RewardRunner([RewardConfig(name="e", source="grpo_audit.rewards.exact:score")], tmp_path) as runner:
        assert "answers.py" in runner.identities()[0].modules


def test_the_folder_of_the_recipe_is_given_to_who_asks(start, score, tmp_path):
    """base_dir is an argument like the rows, so that options can name files beside the recipe."""
    runner = start("def f(completions, base_dir): return [float(len(base_dir))] * len(completions)")
    runner.check_columns([])
    assert score(runner, ["a"])[0].total == float(len(str(tmp_path)))
