"""An honest record, and level L1 of any record."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from true_record import RUN, build_true_record, events_of

from grpo_audit.ledger.project import NewEvent
from grpo_audit.ledger.store import Store
from grpo_audit.verify.recompute.procedure import recompute
from grpo_audit.verify.source import DatabaseSource
from grpo_audit.verify.verdict import Check


@pytest.fixture(scope="session", autouse=True)
def less_garbage() -> None:
    """statsmodels collects garbage at every correction, which takes longer than all the rest of such a test."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A true record, made once: two attempts, dynamic sampling, two updates a pass. Tests read it."""
    folder = tmp_path_factory.mktemp("honest")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRPO_AUDIT_HOME", str(folder / "home"))
        return build_true_record(
            folder / "record.db",
            interrupted=True,
            objective={"mask_truncated": True, "soft_overlong_tokens": 4},
            sampling={**SAMPLING, "dynamic_sampling": True, "max_rounds": 3},
            training={
                "steps": 5,
                "learning_rate": 0.01,
                "warmup_steps": 2,
                "schedule": "cosine",
                "minibatches": 2,
                "microbatch_tokens": 120,
            },
        )


SAMPLING = {"prompts_per_step": 3, "group_size": 4, "max_completion_tokens": 12, "max_prompt_tokens": 32}


@pytest.fixture(scope="session")
def told(honest: Path) -> list[NewEvent]:
    """Its events, to tell lies with."""
    return events_of(honest)


@pytest.fixture(scope="session")
def level_1() -> Callable[..., dict[int, Check]]:
    """``level_1(path, **options) -> checks by number``."""

    def run(path: Path, **options: Any) -> dict[int, Check]:
        store = Store.read(path)
        try:
            with store.connect() as connection:
                checks = recompute(DatabaseSource(connection, str(path)), RUN, **options)
        finally:
            store.close()
        return {check.number: check for check in checks}

    return run
