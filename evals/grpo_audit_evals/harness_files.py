"""Results in the files that lm-eval's users and their tools know: ``results_DATE.json``, ``samples_TASK_DATE.jsonl``.

Keys, nesting and order are those of lm-eval's own tracker (0.4.13), hashes included. What is ours stands under one key,
``grpo_audit``, so that nothing of theirs is hidden: the digests of weights and protocol, our own document ids, the raw
answers with their traces.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from lm_eval.utils import handle_non_serializable, hash_string, sanitize_list, sanitize_model_name

from grpo_audit.record.identities import ModelIdentity
from grpo_audit_evals import harness
from grpo_audit_evals.metrics import number
from grpo_audit_evals.run import SampleResult, TaskResult
from grpo_audit_evals.sampling import Values
from grpo_audit_evals.suite import Suite, SuiteTask
from grpo_audit_trainer.policy import Policy

_OF_THIS_MACHINE = ("cache_dir", "keep_in_memory")
"""How we load a data file; no setting of the task."""


def write(
    folder: Path,
    suite: Suite,
    results: Sequence[TaskResult],
    *,
    model: ModelIdentity,
    policy: Policy,
    limit: int | None,
    started: float,
) -> Path:
    """Write all files into ``folder``, which is made; returns the path of the results.

    Args:
        results: As yielded by ``run.evaluate``.
        model: Which model it was.
        policy: The model as it was evaluated.
        limit: Documents a task, as asked for.
        started: Seconds since 1970.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stamp = datetime.now().isoformat().replace(":", "-")
    tasks = {item.name: item for item in suite.tasks}
    samples = {result.task.task: _samples(result) for result in results}
    for name, rows in samples.items():
        path = folder / f"samples_{_file_name(name)}_{stamp}.jsonl"
        path.write_text("".join(_json(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "protocol.json").write_bytes(suite.protocol)
    whole = (
        _per_task([tasks[result.task.task] for result in results], results)
        | _run(suite, model, policy, limit, started)
        | {"task_hashes": {name: _task_hash(rows) for name, rows in samples.items()}}
        | {"total_evaluation_time_seconds": str(sum(result.task.seconds for result in results))}
        | {"grpo_audit": summary(suite, results, model)}
    )
    path = folder / f"results_{stamp}.json"
    path.write_text(_json(whole, indent=2), encoding="utf-8")
    return path


def summary(suite: Suite, results: Sequence[TaskResult], model: ModelIdentity) -> dict[str, Any]:
    """Model, plan and figures by digest: what two evaluations are bound by."""
    return {
        "model": model.model_dump(mode="json"),
        "plan": suite.plan.model_dump(mode="json"),
        "tasks": [result.task.model_dump(mode="json", exclude={"phase"}) for result in results],
        "left_out": {item.name: list(item.left_out) for item in suite.tasks if item.left_out},
    }


# --- samples ----------------------------------------------------------------------------------------------------


def _samples(result: TaskResult) -> list[dict[str, Any]]:
    """lm-eval's entries, one for each filter and document, as its tracker writes them."""
    return [_sample(logged, result.samples[int(logged["doc_id"])]) for logged in result.logged]


def _sample(logged: Mapping[str, Any], ours: SampleResult) -> dict[str, Any]:
    arguments = {
        f"gen_args_{i}": {f"arg_{j}": value for j, value in enumerate(values)}
        for i, values in enumerate(logged["arguments"])
    }
    entry = dict(logged) | {
        "target": str(logged["target"]),
        "arguments": arguments,
        "resps": sanitize_list(logged["resps"]),
        "filtered_resps": sanitize_list(logged["filtered_resps"]),
    }
    several = {name: entry[name] for name in logged["metrics"] if isinstance(entry[name], Values)}
    entry |= {name: ours.payload.metrics.get(name, fmean(values)) for name, values in several.items()}
    own = ours.payload.model_dump(mode="json", exclude={"phase", "task"}) | {
        "response": ours.response.decode("utf-8"),
    }
    return entry | {"grpo_audit": own | ({"values": several} if several else {})}


def _task_hash(rows: Sequence[Mapping[str, Any]]) -> str:
    return str(hash_string("".join(row["doc_hash"] + row["prompt_hash"] + row["target_hash"] for row in rows)))


# --- results ----------------------------------------------------------------------------------------------------


def _per_task(items: Sequence[SuiteTask], results: Sequence[TaskResult]) -> dict[str, Any]:
    """lm-eval's tables by task."""
    configs = {item.name: _config(item) for item in items}
    return {
        "results": {
            item.name: {
                "name": item.name,
                "alias": configs[item.name].get("task_alias", item.name),
                "sample_len": len(item.documents),
                **_figures(item, result),
            }
            for item, result in zip(items, results, strict=True)
        },
        "group_subtasks": {},
        "configs": dict(sorted(configs.items())),
        "versions": {item.name: item.task.VERSION for item in sorted(items, key=lambda item: item.name)},
        "n-shot": {name: config.get("num_fewshot", 0) for name, config in sorted(configs.items())},
        "higher_is_better": {item.name: item.task.higher_is_better() for item in items},
        "n-samples": {
            item.name: {"original": len(item.task.eval_docs), "effective": len(item.documents)} for item in items
        },
    }


def _figures(item: SuiteTask, result: TaskResult) -> dict[str, Any]:
    """``METRIC,FILTER`` and its standard error: the mean over the documents, as lm-eval's own for these metrics."""
    figures: dict[str, Any] = {}
    for metric in item.metrics:
        related = [key for key in result.task.metrics if key == metric.key or key.startswith(f"{metric.key} pass@")]
        for key in related:
            name = metric.name + key.removeprefix(metric.key)
            values = [sample.payload.metrics[key] for sample in result.samples]
            figures[f"{name},{metric.filter}"] = result.task.metrics[key]
            error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else "N/A"
            figures[f"{name}_stderr,{metric.filter}"] = error
    return figures


def _config(item: SuiteTask) -> dict[str, Any]:
    config = dict(item.task.dump_config())
    options = config.get("dataset_kwargs")
    if isinstance(options, Mapping):
        config["dataset_kwargs"] = {key: value for key, value in options.items() if key not in _OF_THIS_MACHINE}
    return config


def _run(suite: Suite, model: ModelIdentity, policy: Policy, limit: int | None, started: float) -> dict[str, Any]:
    """What lm-eval says about model and machine."""
    tokenizer, chat = policy.tokenizer, policy.execution.chat_template
    template = tokenizer.chat_template if chat else None
    tokens = {
        f"tokenizer_{name}_token": [getattr(tokenizer, f"{name}_token"), str(getattr(tokenizer, f"{name}_token_id"))]
        for name in ("pad", "eos", "bos")
    }
    return {
        "config": {
            "model": "grpo-audit",
            "model_args": {"pretrained": model.source},
            "model_num_parameters": sum(parameter.numel() for parameter in policy.model.parameters()),
            "model_dtype": str(policy.model.dtype),
            "model_revision": model.revision,
            "batch_size": suite.batch_size,
            "batch_sizes": [],
            "device": str(policy.device),
            "use_cache": None,
            "limit": limit,
            "bootstrap_iters": 0,
            "gen_kwargs": None,
            "fewshot_seed": harness.FEWSHOT_SEED,
        },
        "date": started,
        "transformers_version": importlib.metadata.version("transformers"),
        "lm_eval_version": importlib.metadata.version("lm-eval"),
        **tokens,
        "model_source": "grpo-audit",
        "model_name": model.source,
        "model_name_sanitized": sanitize_model_name(model.source),
        "system_instruction": None,
        "system_instruction_sha": None,
        "fewshot_as_multiturn": chat,
        "chat_template": template,
        "chat_template_sha": hash_string(template) if template else None,
    }


def _json(value: object, indent: int | None = None) -> str:
    # a lone surrogate, which a model can write, has no UTF-8; escapes always have
    return json.dumps(value, indent=indent, default=_plain)


def _plain(value: object) -> object:
    found = number("", value)
    return handle_non_serializable(value) if found is None else found


def _file_name(task: str) -> str:
    """lm-eval takes the name as it is; one with a path in it must not leave the folder."""
    return re.sub(r"[^\w.+-]", "_", task)
