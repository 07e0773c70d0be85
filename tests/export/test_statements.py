"""The statements, read by in-toto's own classes; their envelopes, checked by securesystemslib."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf import json_format
from hypothesis import given, strategies as st
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.predicates.test_result.v0 import test_result_pb2
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementPb
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from grpo_audit.export import statements
from grpo_audit.export.dsse import EnvelopeError, key_id, opened, pae
from grpo_audit.export.facts import ExportFacts
from grpo_audit.record.identities import Verdict
from grpo_audit.report.model_checks import Gates

NAMES = ("provenance", "test-result", "evaluation", "files")


def read(exported: Any, name: str) -> dict[str, Any]:
    """An envelope of the export."""
    found: dict[str, Any] = json.loads(exported.package.files[f"attestations/{name}.dsse.json"])
    return found


def payload(exported: Any, name: str) -> dict[str, Any]:
    """The statement inside."""
    found: dict[str, Any] = json.loads(base64.b64decode(read(exported, name)["payload"]))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_securesystemslib_accepts_both_signatures(exported: Any, name: str) -> None:
    """Another implementation of DSSE verifies the ECDSA and the Ed25519 signature."""
    envelope = Envelope.from_dict(read(exported, name))
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    log = load_pem_private_key(exported.keys.log.pem(), password=None).public_key()
    public = exported.keys.attestation.public
    keys = [SSlibKey.from_crypto(key, keyid=key_id(key)) for key in (public, log)]
    assert len(envelope.verify(keys, 2)) == 2


def test_securesystemslib_refuses_another_key(exported: Any) -> None:
    """A key that did not sign is not accepted, under whatever key id."""
    envelope = Envelope.from_dict(read(exported, "provenance"))
    stranger = ec.generate_private_key(ec.SECP256R1()).public_key()
    key = SSlibKey.from_crypto(stranger, keyid=exported.keys.attestation.key_id)
    with pytest.raises(VerificationError):
        envelope.verify([key], 1)


@given(st.binary(max_size=300))
def test_what_is_signed_is_the_specification_s(data: bytes) -> None:
    """Our pre-authentication encoding is securesystemslib's, for any payload."""
    assert pae(data, "a/b") == Envelope(data, "a/b", {}).pae()


@pytest.mark.parametrize("name", NAMES)
def test_in_toto_reads_the_statement(exported: Any, name: str) -> None:
    """The reference classes parse and validate it: type, subjects with digests, predicate type, predicate."""
    parsed = json_format.ParseDict(payload(exported, name), StatementPb())
    Statement.copy_from_pb(parsed).validate()


def test_the_provenance_is_slsa_s(exported: Any) -> None:
    """The predicate parses into the published message, unknown fields refused."""
    found = json_format.ParseDict(payload(exported, "provenance")["predicate"], Provenance())
    assert found.build_definition.build_type == statements.BUILD_TYPE
    assert found.run_details.metadata.invocation_id == exported.run_id
    assert found.run_details.metadata.started_on.ToJsonString() == exported.facts.registered.at
    names = [item.name for item in found.build_definition.resolved_dependencies]
    assert "base model: model.safetensors" in names and "prompt set: builtin" in names
    assert {"reward source: accuracy", "reward source: format"} <= set(names)


def test_dependencies_have_the_record_s_digests(exported: Any) -> None:
    """Base weights, prompt file and reward sources are named by the SHA-256 that the registration holds."""
    registered = exported.facts.registered.payload
    predicate = payload(exported, "provenance")["predicate"]
    found = {item["name"]: item.get("digest") for item in predicate["buildDefinition"]["resolvedDependencies"]}
    for file in registered.model.files:
        assert found[f"base model: {file.name}"] == {"sha256": file.digest.removeprefix("sha256:")}
    assert found["prompt set: builtin"] == {"sha256": registered.prompts.file_digest.removeprefix("sha256:")}
    assert found["grpo-audit"] == {"gitCommit": registered.environment.code_revision}


@pytest.mark.parametrize("name", NAMES[:3])
def test_subjects_are_the_released_files(exported: Any, name: str) -> None:
    """Every file of the model folder is a subject, with the SHA-256 of its bytes, and nothing else is."""
    found = {item["name"]: item["digest"]["sha256"] for item in payload(exported, name)["subject"]}
    assert found == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in exported.model.iterdir()}


def test_the_test_result_parses_and_says_what_the_comparison_says(exported: Any) -> None:
    """Each task is in the list its verdict asks for, and each gate in that of its outcome: the reference message reads
    it."""
    found = json_format.ParseDict(payload(exported, "test-result")["predicate"], test_result_pb2.TestResult())
    verdicts = {row.task: row.verdict for row in exported.facts.comparison.payload.tasks}
    gates = {f"gate: {row.name}": row.passed for row in exported.facts.data.gates.rows}
    regressed = {task for task, verdict in verdicts.items() if verdict is Verdict.REGRESSED}
    assert set(found.failed_tests) == regressed | {gate for gate, passed in gates.items() if not passed}
    assert set(found.warned_tests) == {task for task, verdict in verdicts.items() if verdict is Verdict.INCONCLUSIVE}
    every = [*found.passed_tests, *found.failed_tests, *found.warned_tests]
    assert len(every) == len(set(every)) == len(verdicts) + len(gates)
    assert found.result == "FAILED" and len(found.configuration) == 1 + len(verdicts)


@pytest.mark.parametrize(
    ("verdicts", "result"),
    [
        ([Verdict.IMPROVED, Verdict.NOT_WORSE, Verdict.NO_DISCORDANT_PAIRS], "PASSED"),
        ([Verdict.IMPROVED, Verdict.INCONCLUSIVE], "WARNED"),
        ([Verdict.IMPROVED, None], "WARNED"),
        ([Verdict.INCONCLUSIVE, Verdict.REGRESSED], "FAILED"),
        ([], "WARNED"),
    ],
)
def test_the_result_is_the_worst(exported: Any, verdicts: list[Verdict | None], result: str) -> None:
    """One regression fails; one inconclusive or uncompared task warns; nothing compared is no pass."""
    rows = exported.facts.data.release.rows[: len(verdicts)]
    rows = tuple(replace(row, verdict=found and found.value) for row, found in zip(rows, verdicts, strict=True))
    release = replace(exported.facts.data.release, rows=rows)
    data = replace(exported.facts.data, release=release, gates=Gates((), None, ""))
    facts = replace(exported.facts, data=data)
    found = statements.test_result(facts, facts.trained)
    assert found is not None and found["predicate"]["result"] == result


@pytest.mark.parametrize(("passed", "result"), [(True, "PASSED"), (None, "WARNED"), (False, "FAILED")])
def test_a_gate_that_fails_fails_the_result(exported: Any, passed: bool | None, result: str) -> None:
    """Whatever the comparison says; a gate that was not checked warns."""
    data = exported.facts.data
    rows = (replace(data.release.rows[0], verdict=Verdict.IMPROVED.value),)
    gates = Gates((replace(data.gates.rows[0], passed=passed),), passed, "")
    changed = replace(data, release=replace(data.release, rows=rows), gates=gates)
    found = statements.test_result(replace(exported.facts, data=changed), exported.facts.trained)
    assert found is not None and found["predicate"]["result"] == result


def test_nothing_compared_gives_no_test_result(exported: Any) -> None:
    """Without a comparison there is no statement, rather than one that passes."""
    assert statements.test_result(replace(exported.facts, comparison=None), exported.facts.trained) is None


def test_evaluation_figures_are_the_report_s(exported: Any) -> None:
    """The figures are JSON numbers equal to the release table's; counts stay whole numbers."""
    found = payload(exported, "evaluation")["predicate"]
    rows = {row.task: row for row in exported.facts.data.release.rows}
    assert len(found["results"]) == len(rows)
    for item in found["results"]:
        row = rows[item["task"]]
        assert (item["before"], item["after"], item["difference"]) == (row.pre, row.post, row.difference)
        assert type(item["sampleSize"]) is int and item["verdict"] == row.verdict
        assert ("confidenceInterval95" in item) == (row.ci_low is not None)
    assert found["assuranceLevel"] == "self_attested"


def test_no_place_of_this_machine_is_stated(exported: Any) -> None:
    """Neither the record's path nor the run folder stands in any exported file."""
    for name, data in exported.package.files.items():
        text = data if not name.endswith(".dsse.json") else base64.b64decode(json.loads(data)["payload"])
        assert str(exported.db.parent).encode() not in text, name


@pytest.mark.parametrize("place", ["/home/somebody/rewards.py:f", "C:\\users\\me\\model", "~/x/prompts.jsonl"])
def test_a_path_in_the_configuration_loses_its_folders(place: str) -> None:
    """Of an absolute path only the last part is exported; the record section is left out."""
    found = statements._without_places({"rewards": [{"source": place}], "record": {"db": "postgresql://me@host/x"}})
    assert "somebody" not in str(found) and "me" not in str(found).split("model")[0].replace("name", "")
    assert "record" not in found


def test_any_text_stays_inside_its_string(
    exported: Any, poison: Callable[[ExportFacts, str], ExportFacts], hostile: str
) -> None:
    """With any text in place of every text, each statement has the same structure and still parses."""
    facts = poison(exported.facts, hostile)
    for produce in (statements.training_provenance, statements.evaluation_result):
        found = produce(facts, facts.trained)
        assert found is not None
        assert set(found) == {"_type", "subject", "predicateType", "predicate"}
        Statement.copy_from_pb(json_format.ParseDict(found, StatementPb())).validate()
        assert json.loads(json.dumps(found)) == found


def test_a_statement_needs_a_subject() -> None:
    """Attesting to nothing is refused."""
    with pytest.raises(ValueError, match="subject"):
        statements.statement([], statements.PROVENANCE, {})


class TestOpening:
    """What is refused when an envelope comes back."""

    def test_ours_opens(self, exported: Any) -> None:
        """With the key it gives the statement."""
        data = exported.package.files["attestations/provenance.dsse.json"]
        assert opened(data, exported.keys.attestation.public)["predicateType"] == statements.PROVENANCE

    @pytest.mark.parametrize(
        ("edit", "why"),
        [
            (lambda e: e.update(payload=base64.b64encode(b"{}").decode()), "no signature in it is by the given key"),
            (lambda e: e.update(payloadType="text/plain"), "no in-toto statement"),
            (lambda e: e.update(signatures=[]), "not signed"),
            (lambda e: e.update(signatures="x"), "no DSSE envelope"),
            (lambda e: e.update(payload="%%%"), "base64"),
            (lambda e: e["signatures"][0].update(sig="AAAA") or e["signatures"].pop(), "no signature in it"),
        ],
    )
    def test_an_edited_envelope_is_refused(self, exported: Any, edit: Callable[[Any], Any], why: str) -> None:
        """Payload, type, signature: each edit is refused, by name."""
        envelope = read(exported, "provenance")
        edit(envelope)
        with pytest.raises(EnvelopeError, match=why):
            opened(json.dumps(envelope).encode(), exported.keys.attestation.public)

    @pytest.mark.parametrize(
        "data", [b"", b"[]", b"null", b"{", b'{"payload": 1, "payload": 2}', b"[" * 100_000, b"\xff\xfe", b'"NaN"']
    )
    def test_broken_bytes_are_refused(self, exported: Any, data: bytes) -> None:
        """What is no envelope is refused without a traceback."""
        with pytest.raises(EnvelopeError):
            opened(data, exported.keys.attestation.public)

    def test_the_key_id_is_only_a_hint(self, exported: Any) -> None:
        """A wrong key id changes nothing: the signature decides."""
        envelope = read(exported, "provenance")
        for item in envelope["signatures"]:
            item["keyid"] = "somebody else"
        assert opened(json.dumps(envelope).encode(), exported.keys.attestation.public)

    @given(st.integers(0, 10_000), st.integers(0, 7))
    def test_any_flipped_bit_of_the_payload_is_refused(self, place: int, bit: int) -> None:
        """ECDSA over the encoding covers every bit of the payload."""
        from grpo_audit.export.dsse import EcdsaSigner, envelope
        from grpo_audit.ledger.keys import AttestationKey

        key = AttestationKey(_KEY, Path("none"))
        made = envelope({"_type": statements.STATEMENT, "a": "b" * 50}, [EcdsaSigner(key)])
        data = bytearray(base64.b64decode(made["payload"]))
        data[place % len(data)] ^= 1 << bit
        made["payload"] = base64.b64encode(bytes(data)).decode()
        with pytest.raises(EnvelopeError):
            opened(json.dumps(made).encode(), key.public)


_KEY = ec.generate_private_key(ec.SECP256R1())
