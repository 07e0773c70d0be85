"""Group H: on what the run happened."""

from __future__ import annotations

from typing import Annotated

from grpo_audit.catalogue.field import Field, Group, derived, for_downstream, for_regulator, measured, not_applicable
from grpo_audit.catalogue.run import Run, fill


class Environment(Group):
    """On what the run happened."""

    tool: Annotated[Field[str], for_regulator()]
    """This tool and its version."""
    code_revision: Annotated[Field[str], for_regulator()]
    """Commit of the tool's checkout."""
    code_changes: Annotated[Field[str], for_regulator()]
    """Digest of what differed from that commit."""
    lock: Annotated[Field[str], for_regulator()]
    """Digest of the constraints file the installation came from."""
    packages: Annotated[Field[dict[str, str]], for_regulator()]
    """Every installed distribution and its version."""
    python: Annotated[Field[str], for_downstream()]
    """Version of the interpreter."""
    platform: Annotated[Field[str], for_regulator()]
    """Operating system."""
    processor: Annotated[Field[str], for_regulator()]
    """Processor, logical cores and memory."""
    accelerator: Annotated[Field[str], for_regulator()]
    """GPU model and count, as torch reports them."""
    driver: Annotated[Field[str], for_regulator()]
    """Version of the GPU's driver."""
    processes: Annotated[Field[str], for_regulator()]
    """Processes that trained together, and how."""
    deterministic: Annotated[Field[bool], for_regulator()]
    """Whether torch was held to deterministic algorithms."""
    randomness: Annotated[Field[str], for_regulator()]
    """Where randomness comes from, and why no state has to be saved."""
    remote_code: Annotated[Field[bool], for_downstream()]
    """Whether code of the model's repository was executed (``trust_remote_code``)."""


def environment(run: Run) -> Environment:
    """Group H of a run."""
    found, at = run.registered.payload.environment, run.at
    memory = f", {found.memory_bytes / 2**30:.1f} GiB" if found.memory_bytes else ""
    backend = f" over {found.backend}" if found.backend else ""
    return fill(
        Environment,
        "environment",
        run,
        tool=measured(run.registered.payload.tool, at),
        code_revision=measured(
            found.code_revision, at, unknown="the tool ran from an installed package, not a checkout"
        ),
        code_changes=measured(found.code_dirty_digest, at)
        if found.code_dirty_digest
        else not_applicable("the checkout had no changes" if found.code_revision else "there was no checkout", at),
        lock=measured(found.lock_digest, at, unknown="GRPO_AUDIT_LOCK names the constraints file of an installation"),
        packages=measured(found.packages, at),
        python=measured(found.python, at),
        platform=measured(found.platform, at),
        processor=measured(f"{found.processor}, {found.cpu_count} logical cores{memory}", at),
        accelerator=measured(found.accelerator, at) if found.accelerator else not_applicable("none was used", at),
        driver=measured(found.driver, at) if found.driver else not_applicable("no accelerator was used", at),
        processes=measured(f"{found.processes}, {found.strategy}{backend}", at),
        deterministic=measured(found.deterministic_algorithms, at),
        randomness=derived(
            "a pure function of seed, step, prompt, sample and position: there is no state to save",
            at,
            *(entry.seq for entry in run.snapshots[-1:]),
            note="how this version draws; snapshots hold weights, optimiser and two counters",
        ),
        remote_code=measured(run.registered.payload.model.trust_remote_code, at),
    )
