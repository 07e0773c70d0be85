"""``grpo-audit probe`` and ``grpo-audit regrade``, through the program's own entry point."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from record_factory import build_record
from rewards.graded import RUN, graded_record

from grpo_audit.cli.app import main

BROKEN = Path(__file__).parent / "broken" / "verifiers.py"


@pytest.fixture
def program(tmp_path, monkeypatch, capsys):
    """Run the program in an empty folder; returns exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")

    def program(*arguments):
        monkeypatch.setattr(sys, "argv", ["grpo-audit", *arguments])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        said = capsys.readouterr()
        return code, said.out, said.err

    return program


@pytest.mark.parametrize(
    "source",
    [
        "exact:score",
        "countdown:accuracy",
        "countdown:format",
        "temporal_clue:score",
        "json_schema:score",
        "second:number",
    ],
)
def test_our_own_sources_need_no_prompts(program, source):
    """One command, exit code 0, a verdict."""
    code, out, err = program("probe", f"grpo_audit.rewards.{source}")
    assert code == 0, out + err
    assert "no false positive in" in out


def test_a_source_that_can_be_fooled_is_exit_code_1_and_says_how(program, tmp_path):
    """In the table, in examples and in the verdict."""
    shutil.copy(BROKEN, tmp_path)
    code, out, _ = program("probe", "verifiers.py:last_number", "--examples", "40")
    assert code == 1
    assert "CAN BE FOOLED" in out
    assert "calculation" in out
    assert "<answer>1+42</answer>" in out


def test_a_source_that_hangs_is_exit_code_1(program, tmp_path):
    """Also where nothing is rewarded wrongly."""
    shutil.copy(BROKEN, tmp_path)
    code, out, _ = program("probe", "verifiers.py:backtracks", "--time-limit", "1")
    assert code == 1
    assert "HANGS OR DIES (bomb-pattern)" in out


def test_json_has_the_whole_result(program, tmp_path):
    """Payload, examples with their texts, verdict; nothing else on standard output."""
    shutil.copy(BROKEN, tmp_path)
    code, out, _ = program("probe", "verifiers.py:believes", "--json")
    (found,) = json.loads(out)
    assert code == 1
    assert found["gold"] == "column answer"
    assert {item["family"] for item in found["examples"]} >= {"injection"}
    assert all({"completion", "prompt", "columns", "expected"} <= item.keys() for item in found["examples"])
    assert found["verdict"].startswith("CAN BE FOOLED")


def test_prompts_of_the_user_are_used(program, tmp_path):
    """With the columns mapped and an option given."""
    shutil.copy(BROKEN, tmp_path)
    rows = [{"question": f"\x1b[31mWhat is {n}?", "truth": str(n * 37)} for n in range(1, 9)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mapped = ("--prompts", "own.jsonl", "--field", "prompt=question", "--field", "answer=truth", "--rows", "5")
    code, out, _ = program("probe", "grpo_audit.rewards.exact:score", *mapped, "--option", "answer_in=boxed")
    assert code == 0
    assert "5 rows (5 number)" in out
    assert "given as boxed" in out
    assert "\x1b[31m" not in out


def test_the_sources_of_a_recipe_are_probed_on_its_prompts(program, tmp_path):
    """Each of them, or the one that is named."""
    (tmp_path / "recipe.yaml").write_text(
        "model: {path: builtin}\nprompts: {source: builtin}\nprobes: {rows: 6}\nrewards:\n"
        "  - {name: right, source: 'grpo_audit.rewards.countdown:accuracy'}\n"
        "  - {name: form, source: 'grpo_audit.rewards.countdown:format'}\n"
    )
    code, out, _ = program("probe", "--recipe", "recipe.yaml", "--json")
    assert code == 0
    assert [(item["source"], item["rows"]) for item in json.loads(out)] == [("right", 6), ("form", 6)]
    code, out, _ = program("probe", "--recipe", "recipe.yaml", "--source", "form", "--json")
    assert [item["source"] for item in json.loads(out)] == ["form"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Probe what?"),
        (("a:b", "--recipe", "x.yaml"), "Probe what?"),
        (("nothing",), "is no reward source"),
        (("none.py:f",), "there is no file"),
        (("grpo_audit.rewards.exact:nope",), "has no function nope"),
        (("grpo_audit.rewards.exact:score", "--option", "answer_in"), "expected --option NAME=VALUE"),
        (("grpo_audit.rewards.exact:score", "--option", "answer_on=tag"), "unknown option"),
        (("grpo_audit.rewards.exact:score", "--gold", "truth"), "no column 'truth'"),
        (("grpo_audit.rewards.exact:score", "--source", "x"), "Give --recipe"),
        (("grpo_audit.rewards.exact:score", "--prompts", "none.jsonl"), "does not exist"),
        (("verifiers.py:odd",), "we have no rows with them"),
        (
            ("grpo_audit.rewards.judge:score", "--option", "base_url=http://localhost:1", "--option", "model=m"),
            "Nothing could be probed",
        ),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(program, tmp_path, arguments, message):
    """And what to do; nothing that could not be probed passes."""
    (tmp_path / "verifiers.py").write_text("def odd(completions, weather):\n    return [0.0] * len(completions)\n")
    code, _, err = program("probe", *arguments)
    assert code == 2
    lines = [line for line in err.splitlines() if line.startswith("grpo-audit: ")]
    assert len(lines) == 1
    assert message in lines[0]


def test_rollouts_of_a_finished_run_are_graded_again(program, tmp_path):
    """Against another verifier, with the disagreement and examples of it; hostile text is escaped."""
    graded_record(tmp_path, 5, 4, lambda _, sample: float(sample > 0), completion=lambda n: f"\x1b[31m{n}").close()
    (tmp_path / "other.py").write_text(
        "def one(completions, **_):\n    return [float('1' in t[5:]) for t in completions]\n"
    )
    command = ("regrade", RUN, "--db", "record.db", "--second", "other.py:one")
    code, out, err = program(*command)
    assert code == 0, err
    assert "only the source" in out
    assert "rewarded by the source" in out
    assert "\x1b[31m" not in out
    code, out, _ = program(*command, "--json", "--most", "8")
    (found,) = json.loads(out)["regraded"]
    assert (found["rollouts"], found["both"], found["only_first"], found["only_second"]) == (8, 2, 4, 0)
    assert found["texts"][0]["seq"] == found["examples"][0]
    assert found["texts"][0]["completion"] == "\x1b[31m3"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "names no second verifier"),
        (("--second", "other.py:zero"), "Which source"),
        (("--reward", "nobody", "--second", "other.py:zero"), "no reward source nobody"),
        (("--reward", "accuracy", "--second", "zero"), "is no verifier"),
        (("--reward", "accuracy", "--second", "other.py:none"), "has no function none"),
        (("--reward", "accuracy", "--second", "other.py:silent"), "could be compared"),
    ],
)
def test_regrading_says_what_is_missing(program, tmp_path, arguments, message):
    """One line, exit code 2."""
    build_record(tmp_path / "record.db", steps=2)
    (tmp_path / "other.py").write_text(
        "def silent(completions):\n    return [None] * len(completions)\nzero = silent\n"
    )
    code, _, err = program("regrade", "--db", "record.db", *arguments)
    assert code == 2
    assert message in err
