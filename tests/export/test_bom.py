"""The bill of materials against the published schemas, and against the record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from grpo_audit.export import bom as module
from grpo_audit.export.bom import bom
from grpo_audit.export.facts import ExportFacts
from grpo_audit.export.licences import _SPDX
from grpo_audit.export.text import json_bytes
from grpo_audit.record.identities import PhaseEnergy

SCHEMAS = {"1.7": SchemaVersion.V1_7, "1.6": SchemaVersion.V1_6}


def assert_valid(found: dict[str, Any]) -> None:
    """The library's strict validator finds nothing against the schema that the document names."""
    validator = JsonStrictValidator(SCHEMAS[found["specVersion"]])
    assert validator.validate_str(json_bytes(found).decode()) is None


def walk(value: Any) -> Iterator[dict[str, Any]]:
    """Every object of a document."""
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from walk(item)


@pytest.mark.parametrize("version", module.VERSIONS)
def test_it_is_valid_by_the_published_schema(exported: Any, version: str) -> None:
    """CycloneDX's own validator accepts it, for both versions."""
    assert_valid(bom(exported.facts, version))


def test_the_validator_would_notice() -> None:
    """A document with a wrong field is refused, so that passing means something."""
    validator = JsonStrictValidator(SchemaVersion.V1_7)
    assert validator.validate_str('{"bomFormat": "CycloneDX", "specVersion": "1.7", "components": [{"x": 1}]}')


@pytest.mark.parametrize("version", module.VERSIONS)
def test_any_text_leaves_it_valid(
    exported: Any, poison: Callable[[ExportFacts, str], ExportFacts], hostile: str, version: str
) -> None:
    """With any text in place of every text the document is still valid, and pure ASCII."""
    found = bom(poison(exported.facts, hostile), version)
    assert_valid(found)
    assert json_bytes(found).isascii()
    assert "injected" not in found


def test_references_are_unique_and_resolve(exported: Any) -> None:
    """Each bom-ref stands once, and every reference names one of them."""
    found = bom(exported.facts)
    refs = [item["bom-ref"] for item in walk(found) if "bom-ref" in item]
    assert len(refs) == len(set(refs))
    named = {item["ref"] for item in walk(found) if "ref" in item}
    named |= {ref for item in found["dependencies"] for ref in item["dependsOn"]}
    assert named <= set(refs)


def test_it_describes_a_model_trained_by_reinforcement_learning(exported: Any) -> None:
    """Approach, architecture, data set and ancestor are the record's."""
    model = bom(exported.facts)["metadata"]["component"]
    parameters = model["modelCard"]["modelParameters"]
    assert model["type"] == "machine-learning-model"
    assert parameters["approach"] == {"type": "reinforcement-learning"}
    assert parameters["modelArchitecture"] == exported.facts.base.architecture
    assert parameters["datasets"] == [{"ref": "data:prompts"}]
    assert [item["name"] for item in model["pedigree"]["ancestors"]] == ["builtin"]


def test_hashes_are_those_of_the_files(exported: Any) -> None:
    """Each file of the weights is there with its SHA-256."""
    found = {item["name"]: item["hashes"] for item in bom(exported.facts)["metadata"]["component"]["components"]}
    assert found == {
        path.name: [{"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}]
        for path in exported.model.iterdir()
    }


def test_metrics_are_the_report_s(exported: Any) -> None:
    """Before, after and difference of each task, as strings that read back to the very floats of the comparison."""
    card = bom(exported.facts)["metadata"]["component"]["modelCard"]
    metrics = card["quantitativeAnalysis"]["performanceMetrics"]
    rows = exported.facts.data.release.rows
    assert len(metrics) == 3 * len(rows)
    found = {(item["slice"].split(",")[0], item["slice"].split(", ")[1]): item for item in metrics}
    for row in rows:
        assert float(found[row.task, "before training"]["value"]) == row.pre
        assert float(found[row.task, "after training"]["value"]) == row.post
        change = next(item for key, item in found.items() if key[0] == row.task and "minus" in key[1])
        assert float(change["value"]) == row.difference and row.verdict in change["slice"]
        interval = change.get("confidenceInterval")
        assert (interval is None) == (row.ci_low is None)
        if interval:
            assert (float(interval["lowerBound"]), float(interval["upperBound"])) == (row.ci_low, row.ci_high)


def test_every_field_of_the_catalogue_is_there_with_its_evidence(exported: Any) -> None:
    """A known field has its text and how it is known; one that is not has no value, and is said to be absent."""
    document = bom(exported.facts)
    found = {item["name"]: item["value"] for part in walk(document) for item in part.get("properties", [])}
    fields = list(exported.facts.catalogue.fields())
    assert len(fields) > 100
    for name, field in fields:
        key = "grpo-audit:" + name.replace(".", ":").replace("_", "-")
        assert found.get(key) == field.text(), name
        assert found[f"{key}:evidence"].startswith("absent" if field.value is None else field.evidence.value), name
    assert found["grpo-audit:accountability:owner"] == "A. Person"
    assert found["grpo-audit:accountability:owner:evidence"].startswith("declared, event ")


def test_packages_have_their_purl(exported: Any) -> None:
    """Each package of the environment is a library whose package URL reads back to name and version."""
    libraries = [item for item in bom(exported.facts)["components"] if item["type"] == "library"]
    found = {(url.name, url.version) for url in (PackageURL.from_string(item["purl"]) for item in libraries)}
    assert found == set(exported.facts.registered.payload.environment.packages.items())


def test_a_local_version_survives_the_purl() -> None:
    """The plus of a local version and an underscore in a name are written as the purl specification says."""
    url = PackageURL.from_string(module._package("Some_Name", "2.1.0+cpu")["purl"])
    assert (url.name, url.version) == ("some-name", "2.1.0+cpu")


def test_the_serial_number_is_a_function_of_the_record(exported: Any) -> None:
    """The same run and root give the same serial number; another root another one."""
    first = bom(exported.facts)["serialNumber"]
    assert first == bom(exported.facts)["serialNumber"]
    assert first != bom(replace(exported.facts, root="0" * 64))["serialNumber"]


def test_what_is_unknown_is_left_out(exported: Any) -> None:
    """No licence, no organisation, no revision, no energy: no field, rather than an empty one."""
    data = exported.facts.data
    found = bom(replace(exported.facts, data=replace(data, card=replace(data.card, licence=None))))
    model = found["metadata"]["component"]
    assert "licenses" not in model and "manufacturer" not in found["metadata"]
    assert "environmentalConsiderations" not in model["modelCard"]["considerations"]


def test_energy_is_there_where_it_was_counted(exported: Any) -> None:
    """Joules of a phase become kWh of fine-tuning, with method and boundary; the source of the power stays unknown."""
    train = exported.facts.phases["train"]
    energy = PhaseEnergy(joules=7.2e6, method="RAPL", boundary="package 0")
    payload = train.payload.model_copy(update={"energy": energy})
    found = bom(replace(exported.facts, phases={**exported.facts.phases, "train": replace(train, payload=payload)}))
    assert_valid(found)
    card = found["metadata"]["component"]["modelCard"]
    (item,) = card["considerations"]["environmentalConsiderations"]["energyConsumptions"]
    assert item["activity"] == "fine-tuning" and item["activityEnergyCost"] == {"value": 2.0, "unit": "kWh"}
    assert item["energyProviders"][0]["energySource"] == "unknown"
    assert {"name": "grpo-audit:boundary", "value": "package 0"} in item["properties"]


def test_stages_before_the_run_are_ancestors(with_stages: ExportFacts) -> None:
    """Declared stages follow the base model in the pedigree, the nearest first, each said to be declared."""
    found = bom(with_stages)
    assert_valid(found)
    ancestors = found["metadata"]["component"]["pedigree"]["ancestors"]
    assert [item["name"] for item in ancestors] == ["builtin", "second", "first"]
    assert all("declared, event 1" in json.dumps(item) for item in ancestors[1:])


def test_every_identifier_is_of_the_spdx_list() -> None:
    """Each licence that is given by identifier is one that the schema's own list has, in its spelling."""
    from cyclonedx.schema import _res

    text = (Path(_res.__file__).parent / "spdx.SNAPSHOT.schema.json").read_text()
    assert set(_SPDX.values()) <= set(json.loads(text)["enum"]) and len(_SPDX) > 20
