"""The prompt set as mlcroissant reads it, without any network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlcroissant
import pytest

from grpo_audit.catalogue.field import declared, unknown
from grpo_audit.export.croissant import CONTEXT, croissant, file_name
from grpo_audit.export.facts import ExportFacts
from grpo_audit.export.text import json_bytes


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens a connection fails."""
    import socket

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def with_prompts(facts: ExportFacts, **changes: Any) -> ExportFacts:
    """The facts with another prompt set."""
    payload = facts.registered.payload
    prompts = payload.prompts.model_copy(update=changes)
    return replace(facts, registered=replace(facts.registered, payload=payload.model_copy(update={"prompts": prompts})))


def read(facts: ExportFacts, mapping: dict[str, str] | None = None) -> mlcroissant.Dataset:
    """As mlcroissant reads the file; it raises for every error it finds."""
    return mlcroissant.Dataset(jsonld=json.loads(json_bytes(croissant(facts))), mapping=mapping)


def test_mlcroissant_finds_no_error(exported: Any) -> None:
    """The reference library validates it: no errors, and no complaint about the context."""
    found = read(exported.facts).metadata
    assert found.ctx.issues.errors == set()
    assert found.ctx.conforms_to.value == "http://mlcommons.org/croissant/1.1"
    from mlcroissant._src.core.rdf import make_context

    assert set(make_context(found.ctx)) <= set(CONTEXT)


def test_it_says_what_the_record_says(exported: Any) -> None:
    """Licence, digest of the file, provenance and what was not checked are those of the registration."""
    prompts = exported.facts.registered.payload.prompts
    found = read(exported.facts).metadata
    (file,) = found.file_objects
    assert found.license == [prompts.licence]
    assert f"sha256:{file.sha256}" == prompts.file_digest
    assert "synthetic" in found.data_collection and prompts.digest in str(found.description)
    (personal,) = found.personal_sensitive_information
    assert personal == "Personal data: unknown"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.jsonl", '{"question": "one?", "uid": "a"}\n{"question": "two?", "uid": "b"}\n'),
        ("p.csv", "question,uid\none?,a\ntwo?,b\n"),
    ],
)
def test_mlcroissant_reads_the_very_rows(exported: Any, tmp_path: Path, name: str, text: str) -> None:
    """With the prompt file at hand, the described columns read back as our names for them."""
    path = tmp_path / name
    path.write_text(text)
    digest = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    facts = with_prompts(
        exported.facts, source=f"/home/me/{name}", file_digest=digest, fields={"prompt": "question", "id": "uid"}
    )
    rows = list(read(facts, {"prompt-file": str(path)}).records("prompts"))
    assert [row["prompts/prompt"] for row in rows] == [b"one?", b"two?"]
    assert [row["prompts/id"] for row in rows] == [b"a", b"b"]


def test_a_hub_data_set_is_named_and_not_copied(exported: Any) -> None:
    """Without a file there is no distribution; the data set is named by its page and revision."""
    facts = with_prompts(exported.facts, source="hub:owner/name/config", file_digest=None, revision="abc")
    found = croissant(facts)
    assert found["url"] == "https://huggingface.co/datasets/owner/name" and found["version"] == "abc"
    assert "distribution" not in found and "recordSet" not in found
    assert read(facts).metadata.ctx.issues.errors == set()


def test_what_is_unknown_is_left_out(exported: Any) -> None:
    """No licence, no category of origin: no field."""
    facts = with_prompts(exported.facts, licence=None)
    catalogue = facts.catalogue
    data = catalogue.data.model_copy(update={"provenance": unknown("the recipe may say")})
    found = croissant(replace(facts, catalogue=catalogue.model_copy(update={"data": data})))
    assert "license" not in found and "rai:dataCollection" not in found


def test_what_people_declared_has_its_field(exported: Any) -> None:
    """Synthetic share, personal data, curation and bias stand where Croissant-RAI has a place, said to be declared."""
    said = {"synthetic_share": 0.25, "personal_data": "removed", "curation": "by hand", "bias_assessment": "see there"}
    catalogue = exported.facts.catalogue
    data = catalogue.data.model_copy(update={name: declared(value, 1) for name, value in said.items()})
    facts = replace(exported.facts, catalogue=catalogue.model_copy(update={"data": data}))
    found = read(facts).metadata
    assert "0.25 (declared)" in found.data_collection
    assert found.personal_sensitive_information == ["Personal data: removed (declared)"]
    assert "Curation: by hand (declared)" in found.data_preprocessing_protocol
    assert found.data_biases == ["see there (declared)"]


def test_of_a_path_only_the_name_is_exported(exported: Any) -> None:
    """Folders of a machine stay there."""
    facts = with_prompts(exported.facts, source="/home/somebody/data/p.jsonl")
    assert file_name(facts.registered.payload.prompts) == "p.jsonl"
    assert b"somebody" not in json_bytes(croissant(facts))


def test_any_text_leaves_it_valid(
    exported: Any, poison: Callable[[ExportFacts, str], ExportFacts], hostile: str
) -> None:
    """With any text in place of every text mlcroissant still finds no error, and the fields are the same."""
    facts = poison(exported.facts, hostile)
    assert read(facts).metadata.ctx.issues.errors == set()
    assert set(croissant(facts)) - {"url", "version", "distribution", "recordSet"} == (
        set(croissant(exported.facts)) - {"url", "version", "distribution", "recordSet"}
    )
