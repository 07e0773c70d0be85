"""A password in the URL of a record is shown and recorded nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from grpo_audit.config.load import dump, resolve
from grpo_audit.config.location import without_password
from grpo_audit.errors import ConfigError

RECIPE = """\
model: {path: builtin}
prompts: {source: builtin, licence: MIT, provenance: synthetic}
rewards: [{name: accuracy, source: "grpo_audit.rewards.countdown:accuracy"}]
"""


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("runs/record.db", "runs/record.db"),
        ("a:b@c.db", "a:b@c.db"),
        ("sqlite:////x/y.db", "sqlite:////x/y.db"),
        ("postgresql://h/d", "postgresql://h/d"),
        ("postgresql://u@h:5432/d?schema=s", "postgresql://u@h:5432/d?schema=s"),
        ("postgresql+psycopg://u:pw@h:5432/d?schema=s", "postgresql+psycopg://u@h:5432/d?schema=s"),
        ("postgresql://u:@h/d", "postgresql://u@h/d"),
        ("postgresql://:pw@h/d", "postgresql://@h/d"),
        ("postgresql://me@corp:p:w@h/d", "postgresql://me@corp@h/d"),
        ("postgresql://u:p/w?#@w@h/d", "postgresql://u@h/d"),
        ("postgresql://h/d?password=pw", "postgresql://h/d"),
        ("postgresql://h/d?password=pw&schema=s", "postgresql://h/d?schema=s"),
        ("postgresql://h/d?schema=s&sslpassword=pw&password=pw", "postgresql://h/d?schema=s"),
    ],
)
def test_what_is_shown_of_a_location(location: str, shown: str) -> None:
    """Paths stay as they are; a URL loses its password wherever it may stand, and nothing else."""
    assert without_password(location) == shown


@given(
    password=st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1).map("s3cret{}s3cret".format),
    place=st.sampled_from(["postgresql://u:{}@h/d?schema=s", "postgresql://h/d?password={}", "x://:{}@"]),
)
def test_no_password_is_shown_however_it_is_spelled(password: str, place: str) -> None:
    """Whatever characters it has, even those a URL should have encoded; showing twice shows the same."""
    if "password=" in place:
        password = password.replace("&", "").replace("#", "")
    shown = without_password(place.format(password))
    assert "s3cret" not in shown
    assert without_password(shown) == shown


def test_a_recipe_holds_no_password(tmp_path: Path) -> None:
    """Recipes are recorded word by word, so one with a password in record.db is refused; --db may have one, and the
    resolved configuration that is printed and recorded has not."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE + "record: {db: 'postgresql://u:s3cret@h/d'}\n")
    with pytest.raises(ConfigError, match=r"holds a password in record\.db") as caught:
        resolve(recipe)
    assert "s3cret" not in str(caught.value)
    recipe.write_text(RECIPE)
    config = resolve(recipe, ['record.db="postgresql://u:s3cret@h/d"']).config
    assert config.record.db == "postgresql://u:s3cret@h/d"
    assert "s3cret" not in dump(config) + str(config.model_dump(mode="json"))
    assert config.model_dump()["record"]["db"] == "postgresql://u@h/d"
