"""Recipes: what wins over what, and the one line each mistake gets."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from grpo_audit.config.load import dump, resolve
from grpo_audit.config.presets import PRESETS
from grpo_audit.config.run import RunConfig
from grpo_audit.errors import ConfigError, ExitCode

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
def write(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Write a recipe."""

    def write(text: str | bytes) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def line_of(recipe: Path, *overrides: str) -> str:
    """The line a user reads, without the folder."""
    with pytest.raises(ConfigError) as caught:
        resolve(recipe, overrides)
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    line = str(caught.value)
    assert "\n" not in line
    return line.replace(str(recipe.parent) + "/", "")


# --- Order -----------------------------------------------------------------------------------------------------------


def test_a_minimal_recipe_gets_the_numbers_of_the_grpo_preset(write):
    """Without a preset the numbers are those of DeepSeekMath, and nothing differs from it."""
    resolved = resolve(write(MINIMAL))
    assert resolved.preset.name == "grpo"
    assert resolved.config.sampling.group_size == 64
    assert resolved.differences == []


def test_recipe_wins_over_preset_and_override_wins_over_recipe(write):
    """defaults <- preset <- recipe <- --set."""
    recipe = write(MINIMAL + "preset: r1-zero\nsampling: {group_size: 4, temperature: 0.5}\n")
    config = resolve(recipe, ["sampling.temperature=0.7"]).config
    assert config.sampling.prompts_per_step == 512  # preset
    assert config.sampling.group_size == 4  # recipe
    assert config.sampling.temperature == 0.7  # override
    assert config.sampling.max_completion_tokens == 256  # default


def test_every_difference_from_the_preset_is_listed(write):
    """Each number of the preset that is not used appears, old and new, as short YAML text."""
    resolved = resolve(write(MINIMAL + "training: {learning_rate: 6e-5}\nsampling: {group_size: 64}\n"))
    assert [item.model_dump() for item in resolved.differences] == [
        {"path": "training.learning_rate", "preset": "1e-6", "value": "6e-5"}
    ]


def test_an_override_can_choose_the_preset(write):
    """--set preset=dr_grpo changes what the recipe starts from."""
    resolved = resolve(write(MINIMAL + "preset: grpo\n"), ["preset=dr_grpo"])
    assert resolved.config.objective.aggregation == "constant"
    assert resolved.config.preset == "dr_grpo"


def test_overrides_reach_list_items_and_mappings_with_free_keys(write):
    """rewards.0.weight is a position; below evaluation.margins and prompts.fields the rest of the name is one key."""
    overrides = ["rewards.0.weight=2", "evaluation.margins.a.b=0.1", "prompts.fields.prompt=question"]
    config = resolve(write(MINIMAL), overrides).config
    assert config.rewards[0].weight == 2.0
    assert config.evaluation.margins == {"a.b": 0.1}
    assert config.prompts.fields == {"prompt": "question"}


def test_the_last_of_two_equal_overrides_wins(write):
    """Overrides are applied in the order of the command line."""
    assert resolve(write(MINIMAL), ["seed=1", "seed=2"]).config.seed == 2


def test_numbers_are_read_as_yaml_1_2(write):
    """6e-5 is a number, and yes is a word."""
    config = resolve(write(MINIMAL + "training: {learning_rate: 6e-5}\nname: yes\n")).config
    assert config.training.learning_rate == 6e-5
    assert config.name == "yes"


def test_an_empty_section_means_that_nothing_is_set(write):
    """A section whose keys are all commented out reads as null and is like a missing one."""
    recipe = write(MINIMAL + "sampling:\n  # group_size: 3\nobjective:\n  kl:\n")
    assert resolve(recipe).config == resolve(write(MINIMAL)).config


def test_a_byte_order_mark_is_no_part_of_the_recipe(write):
    """Editors on Windows write one."""
    assert resolve(write(b"\xef\xbb\xbf" + MINIMAL.encode())).config.model.path == "builtin"


def test_the_recipe_text_is_kept_as_written(write):
    """Comments and all, for the record."""
    text = "# why\n" + MINIMAL
    assert resolve(write(text)).recipe_text == text


def test_base_dir_is_the_folder_of_the_recipe(write, monkeypatch):
    """Relative paths in a recipe start at the recipe, wherever the command runs."""
    recipe = write(MINIMAL)
    monkeypatch.chdir(recipe.parent)
    assert resolve(Path("recipe.yaml")).base_dir == recipe.parent


# --- Dump ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_a_dump_resolves_to_itself(write, preset):
    """resolve(dump(config)).config == config, for every preset; and dumping again gives the same text."""
    config = resolve(write(MINIMAL), [f"preset={preset}"]).config
    text = dump(config)
    again = resolve(write(text)).config
    assert again == config
    assert dump(again) == text


_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
_CONFIGS = st.builds(
    lambda **given: given,
    description=st.none() | _TEXT,
    path=_TEXT,
    fields=st.dictionaries(_TEXT.filter(bool), _TEXT, max_size=3),
    weight=st.floats(allow_nan=False, allow_infinity=False).filter(bool),
    rate=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    margins=st.dictionaries(_TEXT.filter(bool), st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    seed=st.integers(0, 2**31 - 1),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given_values=_CONFIGS)
def test_any_configuration_survives_a_dump(write, given_values):
    """Whatever text and numbers a configuration holds, its dump resolves to it."""
    config = RunConfig.model_validate(
        {
            "seed": given_values["seed"],
            "model": {"path": given_values["path"]},
            "prompts": {
                "source": "builtin",
                "description": given_values["description"],
                "fields": given_values["fields"],
            },
            "rewards": [{"name": "a", "source": "r.py:f", "weight": given_values["weight"]}],
            "training": {"learning_rate": given_values["rate"]},
            "evaluation": {"margins": given_values["margins"]},
        }
    )
    assert resolve(write(dump(config))).config == config


def test_a_recorded_configuration_validates_again(write):
    """model_dump spells out every default; reading it back is no contradiction, also where a default is unused."""
    config = resolve(write(MINIMAL), ["preset=dr_grpo"]).config
    assert RunConfig.model_validate(config.model_dump(mode="json"), strict=False) == config


# --- Mistakes --------------------------------------------------------------------------------------------------------


def test_an_unknown_key_names_its_line_and_the_nearest_key(write):
    """What, where, what is allowed, what was probably meant."""
    line = line_of(write(MINIMAL + "sampling:\n  grup_size: 3\n"))
    assert line == (
        "Unknown key sampling.grup_size in recipe.yaml, line 9; expected one of group_size, prompts_per_step, "
        "engine, vllm_memory, dynamic_sampling, max_rounds, temperature, max_completion_tokens, max_prompt_tokens. The "
        "nearest valid key is sampling.group_size."
    )


def test_a_key_in_the_wrong_section_is_told_its_section(write):
    """learning_rate at the top level means training.learning_rate."""
    line = line_of(write(MINIMAL + "learning_rate: 1e-5\n"))
    assert line.startswith("Unknown key learning_rate in recipe.yaml, line 8;")
    assert line.endswith("The nearest valid key is training.learning_rate.")


def test_an_unknown_key_of_a_list_item_names_its_line(write):
    """List items have lines too."""
    line = line_of(write(MINIMAL + "    wieght: 2\n"))
    assert line.startswith("Unknown key rewards.0.wieght in recipe.yaml, line 8; expected one of name, source, weight,")
    assert line.endswith("The nearest valid key is rewards.0.weight.")


def test_an_unknown_override_names_itself(write):
    """The culprit of a bad --set is the --set."""
    line = line_of(write(MINIMAL), "training.step=5")
    assert line.startswith("Unknown key training.step in --set training.step=5; expected one of steps,")
    assert line.endswith("The nearest valid key is training.steps.")


@pytest.mark.parametrize(
    ("yaml", "expected"),
    [
        (
            "training: {steps: ten}",
            "training.steps in recipe.yaml, line 8; found the text 'ten'; expected a whole number.",
        ),
        (
            "training: {steps: 1.5}",
            "training.steps in recipe.yaml, line 8; found the number 1.5; expected a whole number.",
        ),
        ("training: {steps: 0}", "found the number 0; expected greater than or equal to 1."),
        ("training: {learning_rate: true}", "found the truth value true; expected a number."),
        ("training: {learning_rate: .nan}", "found the number nan; expected a finite number."),
        ("training: {adam_betas: [0.9]}", "training.adam_betas.1 is missing in recipe.yaml, line 8."),
        ("training: 5", "training in recipe.yaml, line 8; found the number 5; expected keys with values."),
        ("name: 12", "name in recipe.yaml, line 8; found the number 12; expected text. Put it in quotes."),
        ("name: 2024-01-01", "found the date 2024-01-01; expected text. Put it in quotes."),
        ("name: a b", "found the text 'a b'; expected text that matches ^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$."),
        (
            "objective: {aggregation: mean}",
            "expected 'sequence-mean', 'token-mean', 'block-token-mean', 'sequence-sum' or 'constant'.",
        ),
        ("objective: {mask_truncated: yes}", "found the text 'yes'; expected true or false."),
        ("seed: null", "seed in recipe.yaml, line 8; found nothing (null); expected a whole number."),
    ],
)
def test_a_wrong_type_says_what_was_found_and_expected(write, yaml, expected):
    """Key, line, what is there and what should be."""
    assert expected.removesuffix(".") in line_of(write(MINIMAL + yaml + "\n"))


def test_a_reward_source_without_a_function_is_explained(write):
    """The form of a source is named."""
    line = line_of(write(MINIMAL.replace("rewards.py:accuracy", "rewards.py")))
    assert line == (
        "rewards.0.source in recipe.yaml, line 7; found the text 'rewards.py'; expected 'package.module:function' or "
        "'file.py:function'."
    )


def test_several_mistakes_are_counted_and_the_first_is_told(write):
    """One line, in the order of the recipe."""
    line = line_of(write(MINIMAL + "training:\n  steps: x\n  warmup_steps: y\nseeed: 3\n"))
    assert line.startswith("training.steps in recipe.yaml, line 9;")
    assert line.endswith("2 more problems after this one.")


def test_missing_sections_are_named_with_what_to_write(write):
    """A required section that is missing shows its shortest form."""
    line = line_of(write("model: {path: builtin}\nprompts: {source: builtin}\n"))
    assert line == ("rewards is missing in recipe.yaml. Add a list of reward sources, each with name and source.")


def test_a_missing_key_names_the_line_of_its_section(write):
    """model without path."""
    line = line_of(write(MINIMAL.replace("  path: builtin", "  device: cpu")))
    assert line == "model.path is missing in recipe.yaml, line 1. Add it to the recipe."


def test_an_unknown_preset_lists_the_known_ones(write):
    """With the line it stands on, and the nearest."""
    line = line_of(write(MINIMAL + "preset: r1_zero\n"))
    assert line == (
        "Unknown preset in recipe.yaml, line 8; found 'r1_zero'; expected one of grpo, r1-zero, dr_grpo, "
        "dapo, bnpo, gspo, cispo, sapo, rloo, ppo. The nearest is r1-zero."
    )
    assert "--set preset=vapo; found 'vapo'" in line_of(write(MINIMAL), "preset=vapo")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("training.steps", ["--set training.steps cannot be read", "expected SECTION.KEY=VALUE"]),
        ("=5", ["--set =5 cannot be read"]),
        ("training..steps=5", ["cannot be read"]),
        ("rewards.3.weight=1", ["leads nowhere", "found 3 in rewards, a list of 1", "expected a position from 0 to 0"]),
        ("rewards.first.weight=1", ["found 'first' in rewards, a list of 1"]),
        ("model.path.x=1", ["model.path is the text 'builtin'", "expected a section"]),
        ("model.0=1", ["model is keys with values (path)", "expected a list"]),
        ("training.steps=[", ["--set training.steps=[ is not valid YAML at line 1"]),
    ],
)
def test_a_bad_override_path_is_explained(write, override, parts):
    """A path that cannot be followed says where it ends."""
    line = line_of(write(MINIMAL), override)
    for part in parts:
        assert part in line


# --- Files -----------------------------------------------------------------------------------------------------------


def test_a_missing_recipe_says_how_to_write_one(tmp_path):
    """The next step is a command."""
    line = line_of(tmp_path / "recipe.yaml")
    assert line == "Recipe recipe.yaml does not exist. Write one with: grpo-audit init."


def test_a_folder_is_no_recipe(tmp_path):
    """Said as such."""
    (tmp_path / "recipe.yaml").mkdir()
    assert line_of(tmp_path / "recipe.yaml") == "Recipe recipe.yaml is a folder; expected a YAML file."


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "null\n"])
def test_an_empty_recipe_is_refused(write, text):
    """Empty, only comments, or null."""
    assert line_of(write(text)).startswith("Recipe recipe.yaml is empty; expected at least model, prompts and rewards.")


@pytest.mark.parametrize(("text", "found"), [("[1, 2]", "a list of 2"), ("hello", "the text 'hello'")])
def test_a_recipe_that_is_no_mapping_is_refused(write, text, found):
    """Lists and scalars have no keys."""
    assert line_of(write(text)) == f"Recipe recipe.yaml is no mapping; found {found}; expected keys with values."


def test_bytes_that_are_not_utf_8_name_their_line(write):
    """Latin-1 from an old editor."""
    line = line_of(write(MINIMAL.encode() + b"name: caf\xe9\n"))
    assert line == "Recipe recipe.yaml is not UTF-8; found byte 0xe9 in line 8. Save it as UTF-8."


def test_an_unreadable_recipe_gives_the_reason_of_the_system(tmp_path):
    """A name that is too long stands for all errors of the file system (permissions do not bind every user)."""
    line = line_of(tmp_path / ("x" * 300))
    assert "cannot be read; found File name too long" in line
