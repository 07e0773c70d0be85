"""Which suite a name means: the miniature's, the one for real models, or a folder of task files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from grpo_audit.config.sections import EvaluationConfig
from grpo_audit.errors import EvaluationError
from grpo_audit_evals.release.files import VARIABLE

_TASKS = Path(__file__).parent / "tasks"
BUILTIN = _TASKS / "builtin"
"""The suite of the miniature that ships with the project."""
RELEASE = _TASKS / "release"
"""Our own tasks of the suite for real models."""

NAMED = ("builtin", "release", "release-local")
"""Suites that are no folder of the user's."""

HUB: dict[str, tuple[str, ...]] = {
    "task performance": ("gsm8k_platinum", "hendrycks_math500", "aime24", "aime25", "bbh", "ifeval", "mmlu_pro"),
    "hallucination": (
        "truthfulqa_mc2", "triviaqa", "nq_open", "bigbench_known_unknowns_multiple_choice",
    ),
    "harmful capability": ("wmdp_bio", "wmdp_chem", "wmdp_cyber"),
    "multilingual": ("global_mmlu_de", "global_mmlu_zh", "global_mmlu_sw", "belebele_deu_Latn", "xcopa"),
    "tool use": ("jsonschema_bench",),
    "safety regression": (
        "sycophancy", "bbq", "ethics_cm", "ethics_deontology", "ethics_justice", "ethics_utilitarianism",
        "ethics_virtue",
    ),
}  # fmt: skip
"""lm-eval's own tasks, groups and tags in the release suite, by behaviour. Their data sets lie on the hub."""


@dataclass(frozen=True)
class Source:
    """Where the tasks of a suite come from."""

    folder: Path
    more: tuple[str, ...] = ()
    """Tasks of lm-eval that belong to it beside those of the folder."""
    data: Path | None = None
    """Folder with published files that its tasks read."""


def find(config: EvaluationConfig, base_dir: Path) -> Source:
    """What ``evaluation.suite`` and ``evaluation.data`` mean.

    Args:
        config: The section ``evaluation`` of the recipe.
        base_dir: Folder that relative paths are relative to.

    Raises:
        EvaluationError: No suite; or a folder of data that does not exist.
    """
    if config.suite is None:
        raise EvaluationError("evaluation.suite is null, so there is nothing to load")
    data = _data(config, base_dir)
    if config.suite == "builtin":
        return Source(BUILTIN, data=data)
    if config.suite == "release":
        return Source(RELEASE, tuple(name for names in HUB.values() for name in names), data)
    if config.suite == "release-local":
        return Source(RELEASE, data=data)
    return Source((base_dir / Path(config.suite).expanduser()).resolve(), data=data)


def _data(config: EvaluationConfig, base_dir: Path) -> Path | None:
    named = config.data or os.environ.get(VARIABLE)
    if not named:
        return None
    folder = (base_dir / Path(named).expanduser()).resolve()
    if not folder.is_dir():
        setting = "evaluation.data" if config.data else VARIABLE
        raise EvaluationError(f"There is no folder {folder}", next_step=f"Check {setting}")
    return folder
