"""in-toto statements about a release (https://github.com/in-toto/attestation, Statement v1): how the weights were
trained, how the planned tests came out, and the evaluation figures. Their subject is each file of the released weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from grpo_audit.export.facts import ExportFacts, prompt_source, sha256
from grpo_audit.record.events import ModelIdentity, Verdict
from grpo_audit.report.card import base_model
from grpo_audit.report.model import ReleaseRow

STATEMENT = "https://in-toto.io/Statement/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
EVALUATION = "urn:grpo-audit:predicate:evaluation-result:v1"
"""Our own: the proposal of an ``eval-result`` predicate (in-toto/attestation, pull request 575) is open.
docs/exports.md says what each field means, and how it maps to the proposal."""
FILES = "urn:grpo-audit:predicate:exported-files:v1"
"""Our own: the files of the export, by digest."""
BUILD_TYPE = "urn:grpo-audit:build:grpo-training:v1"
"""docs/exports.md says what its parameters mean."""

_PASSED = {Verdict.IMPROVED.value, Verdict.NOT_WORSE.value, Verdict.NO_DISCORDANT_PAIRS.value}


def subjects(model: ModelIdentity) -> list[dict[str, Any]]:
    """Every file of a model folder, by name and SHA-256."""
    return [{"name": file.name, "digest": {"sha256": sha256(file.digest)}} for file in model.files]


def statement(subject: Sequence[Mapping[str, Any]], kind: str, predicate: Mapping[str, Any]) -> dict[str, Any]:
    """A statement. Raises ValueError without a subject: nothing would be attested."""
    if not subject:
        raise ValueError("a statement needs a subject")
    return {"_type": STATEMENT, "subject": list(subject), "predicateType": kind, "predicate": dict(predicate)}


def training_provenance(facts: ExportFacts, model: ModelIdentity) -> dict[str, Any]:
    """SLSA provenance v1: the resolved configuration, what went in by digest, who ran it and when."""
    registered = facts.registered.payload
    environment = registered.environment
    return statement(
        subjects(model),
        PROVENANCE,
        {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "configuration": _without_places(registered.config),
                    "preset": registered.preset,
                    "presetSource": registered.preset_source,
                },
                "internalParameters": {
                    "formula": dict(sorted(registered.formula.items())),
                    "reference": registered.reference,
                    "environment": _present(
                        python=environment.python,
                        platform=environment.platform,
                        accelerator=environment.accelerator,
                        driver=environment.driver,
                        processes=environment.processes,
                        strategy=environment.strategy,
                        deterministicAlgorithms=environment.deterministic_algorithms,
                        lockDigest=environment.lock_digest,
                    ),
                },
                "resolvedDependencies": list(_dependencies(facts)),
            },
            "runDetails": {
                "builder": {
                    "id": f"urn:grpo-audit:project:{facts.project_id}",
                    "version": {"grpo-audit": registered.tool.removeprefix("grpo-audit ")},
                },
                "metadata": {
                    "invocationId": facts.run_id,
                    "startedOn": facts.registered.at,
                    "finishedOn": facts.changed_at,
                },
                "byproducts": [record_descriptor(facts)],
            },
        },
    )


def record_descriptor(facts: ExportFacts) -> dict[str, Any]:
    """The record these statements rest on: the root of its tree is an RFC 6962 hash, not the SHA-256 of a file."""
    return {
        "name": "record",
        "uri": f"urn:grpo-audit:project:{facts.project_id}",
        "annotations": _present(
            rfc6962Root=facts.root,
            treeSize=str(facts.size),
            run=facts.run_id,
            weightsDigest=facts.trained.weights_digest if facts.trained else None,
        ),
    }


def _dependencies(facts: ExportFacts) -> Iterable[dict[str, Any]]:
    registered = facts.registered.payload
    for file in registered.model.files:
        yield {
            "name": f"base model: {file.name}",
            "digest": {"sha256": sha256(file.digest)},
            "annotations": _present(
                model=base_model(facts.data.card),
                revision=registered.model.revision,
                weightsDigest=registered.model.weights_digest,
            ),
        }
    prompts = registered.prompts
    found = {"name": f"prompt set: {prompt_source(prompts.source)}"}
    about = _present(rowsDigest=prompts.digest, rows=str(prompts.rows), split=prompts.split, revision=prompts.revision)
    digest = {"digest": {"sha256": sha256(prompts.file_digest)}} if prompts.file_digest else {}
    yield {**found, **digest, "annotations": about}
    for reward in registered.rewards:
        yield {
            "name": f"reward source: {reward.name}",
            "digest": {"sha256": sha256(reward.source_digest)},
            "annotations": {
                "file": reward.source_file,
                "role": reward.role,
                "kind": reward.kind,
                "version": reward.version,
            },
        }
        for name, module in sorted(reward.modules.items()):
            yield {"name": f"reward source: {reward.name}: {name}", "digest": {"sha256": sha256(module)}}
    environment = registered.environment
    if environment.code_revision:
        yield {
            "name": "grpo-audit",
            "digest": {"gitCommit": environment.code_revision},
            "annotations": _present(changes=environment.code_dirty_digest),
        }


def test_result(facts: ExportFacts, model: ModelIdentity) -> dict[str, Any] | None:
    """Test Result v0.1: the comparison with the margins registered before step 0; None when nothing was compared.

    Passed: improved, no regression beyond the margin, or no document changed. Failed: regressed. Warned: inconclusive,
    or planned and not compared.
    """
    if facts.comparison is None:
        return None
    rows = facts.data.release.rows
    passed = [row.task for row in rows if row.verdict in _PASSED]
    failed = [row.task for row in rows if row.verdict == Verdict.REGRESSED.value]
    warned = [row.task for row in rows if row.task not in {*passed, *failed}]
    for gate in facts.data.gates.rows:
        (warned if gate.passed is None else passed if gate.passed else failed).append(f"gate: {gate.name}")
    result = "FAILED" if failed else "WARNED" if warned or not passed else "PASSED"
    return statement(
        subjects(model),
        TEST_RESULT,
        {
            "result": result,
            "configuration": _configuration(facts),
            "passedTests": passed,
            "warnedTests": warned,
            "failedTests": failed,
        },
    )


def evaluation_result(facts: ExportFacts, model: ModelIdentity) -> dict[str, Any] | None:
    """The figures of every task evaluated after training, paired with those before; None when there are none."""
    rows = [row for row in facts.data.release.rows if row.post is not None]
    if not rows:
        return None
    plan = facts.registered.payload.evaluation
    comparison = facts.comparison.payload if facts.comparison else None
    return statement(
        subjects(model),
        EVALUATION,
        _present(
            suite=suite_name(plan.suite) if plan else None,
            harness={"name": plan.harness} if plan else None,
            protocolDigest=plan.protocol_digest if plan else None,
            preRegistration=_present(event=facts.registered.seq, registeredOn=facts.registered.at) if plan else None,
            baselineWeightsDigest=facts.base.weights_digest,
            weightsDigest=model.weights_digest,
            alpha=comparison.alpha if comparison else None,
            assuranceLevel="self_attested",
            results=[_result(facts, row) for row in rows],
            record=record_descriptor(facts)["annotations"],
        ),
    )


def _result(facts: ExportFacts, row: ReleaseRow) -> dict[str, Any]:
    plan = facts.registered.payload.evaluation
    documents = {task.task: task.documents_digest for task in plan.tasks} if plan else {}
    interval = [row.ci_low, row.ci_high] if row.ci_low is not None and row.ci_high is not None else None
    finished = facts.results.get(row.task)
    return _present(
        task=row.task,
        behaviour=row.behaviour,
        safety=row.safety,
        metric=row.metric,
        higherIsBetter=row.higher_is_better,
        sampleSize=row.documents,
        documentsDigest=documents.get(row.task),
        before=row.pre,
        after=row.post,
        difference=row.difference,
        confidenceInterval95=interval,
        adjustedP=row.p_adjusted,
        margin=row.margin,
        verdict=row.verdict,
        evaluatedOn=finished.at if finished else None,
        events=list(row.source.named),
    )


def exported_files(files: Mapping[str, bytes], digests: Mapping[str, str], facts: ExportFacts) -> dict[str, Any]:
    """Every other file of the export by name and digest, so that a changed card or bill of materials shows."""
    return statement(
        [{"name": name, "digest": {"sha256": digests[name]}} for name in sorted(files)],
        FILES,
        {"run": facts.run_id, "record": record_descriptor(facts)["annotations"]},
    )


def suite_name(suite: str) -> str:
    """The suite as the recipe names it, without the folders of a machine."""
    return suite.replace("\\", "/").rstrip("/").rpartition("/")[2] or "suite"


def _configuration(facts: ExportFacts) -> list[dict[str, Any]]:
    plan = facts.registered.payload.evaluation
    if plan is None:
        return []
    protocol = {
        "name": "evaluation protocol",
        "annotations": {
            "protocolDigest": plan.protocol_digest,  # over several files, so no digest of a resource
            "suite": suite_name(plan.suite),
            "harness": plan.harness,
            "alpha": str(plan.alpha),
        },
    }
    tasks = [
        {
            "name": f"task: {task.task}",
            "annotations": {
                "documentsDigest": task.documents_digest,
                "metric": task.metric,
                "margin": str(task.margin),
                "documents": str(task.documents),
            },
        }
        for task in plan.tasks
    ]
    return [protocol, *tasks]


def _without_places(config: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved configuration without where things lay on a machine: folders, database URLs, absolute paths."""
    found = {section: value for section, value in config.items() if section != "record"}
    return {section: _shortened(value) for section, value in found.items()}


def _shortened(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _shortened(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shortened(item) for item in value]
    if isinstance(value, str) and (value.startswith(("/", "~", "file:")) or value[1:3] in (":\\", ":/")):
        return value.replace("\\", "/").rpartition("/")[2]
    return value


def _present(**values: Any) -> dict[str, Any]:
    """What is known; what is not is left out, for the absence of a field makes no claim."""
    return {key: value for key, value in values.items() if value is not None}
