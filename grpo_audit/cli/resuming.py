"""What must not have changed for a run to go on."""

from __future__ import annotations

from collections.abc import Sequence

from grpo_audit.errors import ConfigError
from grpo_audit.record.events import RewardIdentity, RunRegistered


def refuse_changes(before: RunRegistered, now: RunRegistered) -> None:
    """A run goes on with what was registered before step 0, or not at all."""
    pairs = {
        "base model weights": (before.model.weights_digest, now.model.weights_digest),
        "tokenizer": (before.model.tokenizer_digest, now.model.tokenizer_digest),
        "chat template": (before.model.chat_template_digest, now.model.chat_template_digest),
        "prompt set": (before.prompts.digest, now.prompts.digest),
        "reward sources": (_sources(before.rewards), _sources(now.rewards)),
        "second verifiers": (_sources(before.seconds), _sources(now.seconds)),
        "evaluation protocol": (_protocol(before), _protocol(now)),
    }
    for what, (registered, found) in pairs.items():
        if registered != found:
            raise ConfigError(
                f"The {what} changed since the run was registered",
                found=str(found),
                expected=str(registered),
                next_step="Put the registered one back, or start a new run",
            )


def _sources(identities: Sequence[RewardIdentity]) -> str:
    return ", ".join(
        f"{item.name} {item.source_digest} {sorted(item.modules.items())} {sorted(item.options.items())}"
        for item in identities
    )


def _protocol(registered: RunRegistered) -> str:
    return registered.evaluation.protocol_digest if registered.evaluation else "none"
