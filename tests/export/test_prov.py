"""Lineage as the ``prov`` library reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import networkx
import prov.graph
from prov.model import ProvActivity, ProvAgent, ProvDerivation, ProvDocument, ProvEntity, ProvUsage

from grpo_audit.export.facts import ExportFacts
from grpo_audit.export.prov import prov as made
from grpo_audit.export.text import json_bytes


def read(facts: ExportFacts) -> ProvDocument:
    """As the library reads the file."""
    return ProvDocument.deserialize(content=json_bytes(made(facts)).decode(), format="json")


def labelled(document: ProvDocument, start: str) -> Any:
    """The one record whose label begins so."""
    (found,) = [item for item in document.get_records() if str(getattr(item, "label", "")).startswith(start)]
    return found


def test_the_library_reads_and_writes_it(exported: Any) -> None:
    """Reading and writing again gives an equal document."""
    document = read(exported.facts)
    again = ProvDocument.deserialize(content=document.serialize(format="json"), format="json")
    assert again == document and len(document.get_records()) > 20


def test_trained_weights_derive_from_the_base(exported: Any) -> None:
    """There is a derivation from the base weights to the trained ones, through training, by digest."""
    document = read(exported.facts)
    base, trained = labelled(document, "base model"), labelled(document, "trained weights")
    assert exported.facts.base.weights_digest.removeprefix("sha256:") in str(base.identifier)
    assert exported.facts.trained.weights_digest.removeprefix("sha256:") in str(trained.identifier)
    ends = {(str(item.args[0]), str(item.args[1]), str(item.args[2])) for item in document.get_records(ProvDerivation)}
    assert (str(trained.identifier), str(base.identifier), "grpo:training") in ends


def test_everything_that_went_in_is_upstream_of_the_weights(exported: Any) -> None:
    """In the graph, base model, prompt set and every reward source can be reached from the trained weights; the
    results after training cannot, and the trained weights can be reached from them."""
    document = read(exported.facts)
    graph = networkx.DiGraph(prov.graph.prov_to_graph(document))
    node = {str(item.identifier): item for item in graph.nodes}
    trained = str(labelled(document, "trained weights").identifier)
    upstream = {str(item.identifier) for item in networkx.descendants(graph, node[trained])}
    for start in ("base model", "prompt set", "reward source accuracy", "reward source format"):
        assert str(labelled(document, start).identifier) in upstream
    assert "grpo:results-after" not in upstream
    after = {str(item.identifier) for item in networkx.descendants(graph, node["grpo:results-after"])}
    assert trained in after


def test_activities_and_agents_are_the_record_s(exported: Any) -> None:
    """Three activities with the record's end times; the tool acts for the declared owner."""
    document = read(exported.facts)
    ends = {str(item.identifier): item.get_endTime() for item in document.get_records(ProvActivity)}
    assert set(ends) == {"grpo:evaluation-before", "grpo:training", "grpo:evaluation-after"}
    assert ends["grpo:training"].isoformat() in exported.facts.phases["train"].at.replace("Z", "+00:00")
    labels = {str(item.label) for item in document.get_records(ProvAgent)}
    assert labels == {"grpo-audit 0.1.0", "A. Person"}


def test_evaluation_used_the_weights_it_speaks_of(exported: Any) -> None:
    """Before: the base weights. After: the trained ones."""
    document = read(exported.facts)
    used = {(str(item.args[0]), str(item.args[1])) for item in document.get_records(ProvUsage)}
    assert ("grpo:evaluation-before", str(labelled(document, "base model").identifier)) in used
    assert ("grpo:evaluation-after", str(labelled(document, "trained weights").identifier)) in used


def test_an_unfinished_run_claims_no_weights(exported: Any) -> None:
    """Without saved weights there is no trained entity, and no evaluation of it."""
    document = read(replace(exported.facts, saved=None))
    labels = [str(item.label) for item in document.get_records(ProvEntity)]
    assert not [label for label in labels if label.startswith("trained") or "after" in label]


def test_declared_stages_are_upstream_of_the_base(with_stages: ExportFacts) -> None:
    """Each stage derives from the one before it, and the base model from the last."""
    document = read(with_stages)
    ends = {(str(item.args[0]), str(item.args[1])) for item in document.get_records(ProvDerivation)}
    assert ("grpo:stage-2", "grpo:stage-1") in ends
    assert (str(labelled(document, "base model").identifier), "grpo:stage-2") in ends


def test_any_text_leaves_the_graph_as_it_is(
    exported: Any, poison: Callable[[ExportFacts, str], ExportFacts], hostile: str
) -> None:
    """With any text in place of every text the library reads the same records and relations."""
    shape = [(type(item), str(item.identifier)) for item in read(replace(exported.facts, draft=("x",))).get_records()]
    found = [(type(item), str(item.identifier)) for item in read(poison(exported.facts, hostile)).get_records()]
    keep = [item for item in shape if "organisation" not in item[1]]
    assert [item for item in found if "organisation" not in item[1]] == keep
    assert json_bytes(made(poison(exported.facts, hostile))).isascii()


def test_it_is_json_without_surprises(exported: Any) -> None:
    """Every prefix that is used is declared."""
    found = json.loads(json_bytes(made(exported.facts)))
    names = {key.split(":")[0] for kind, items in found.items() if kind != "prefix" for key in items}
    assert names <= {*found["prefix"], "_"}
