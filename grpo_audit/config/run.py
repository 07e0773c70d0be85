"""The whole run configuration."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from grpo_audit.config.base import Section
from grpo_audit.config.checks import DecontaminationConfig, GateConfig, ProbeConfig
from grpo_audit.config.declared import BudgetConfig, GovernanceConfig, StageConfig
from grpo_audit.config.objective import ObjectiveConfig
from grpo_audit.config.sections import (
    EvaluationConfig,
    ModelConfig,
    PromptConfig,
    RecordConfig,
    RewardConfig,
    SamplingConfig,
    TrainingConfig,
)


class RunConfig(Section):
    """One run, resolved: defaults, preset, recipe and overrides are merged, and every number is spelled out."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = "run"
    """A short name; the run id is made from it and the time."""

    preset: str = "grpo"
    """Whose numbers are the starting point; the record shows every difference from it."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    waive: dict[str, str] = {}
    """Preflight rules that do not apply to this run, each with the reason, which goes into the record:
    ``grpo-audit lint`` names the rules."""

    model: ModelConfig
    prompts: PromptConfig
    rewards: Annotated[list[RewardConfig], Field(min_length=1)]
    objective: ObjectiveConfig = ObjectiveConfig()
    sampling: SamplingConfig = SamplingConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    decontamination: DecontaminationConfig = DecontaminationConfig()
    probes: ProbeConfig = ProbeConfig()
    gates: list[GateConfig] = []
    """Release conditions, all of which must hold; fixed before step 0."""

    record: RecordConfig = RecordConfig()
    budget: BudgetConfig = BudgetConfig()
    governance: GovernanceConfig = GovernanceConfig()
    lineage: list[StageConfig] = []
    """The stages before this run, oldest first: how the base model came to be. GRPO is one stage of many."""

    @model_validator(mode="after")
    def _contradictions(self) -> RunConfig:
        names = [item.name for item in self.rewards]
        if len(set(names)) != len(names):
            raise ValueError("rewards: two sources have the same name")
        if not any(item.role == "train" for item in self.rewards):
            raise ValueError("rewards: no source has the role 'train', so there is nothing to learn from")
        if not any(item.weight != 0 for item in self.rewards if item.role == "train"):
            raise ValueError("rewards: every source with the role 'train' has weight 0")
        if len({gate.name for gate in self.gates}) != len(self.gates):
            raise ValueError("gates: two gates have the same name")
        if self.training.warmup_steps > self.training.steps:
            raise ValueError(
                f"training.warmup_steps ({self.training.warmup_steps}) is larger than training.steps "
                f"({self.training.steps}), so the learning rate would never be reached"
            )
        if self.training.minibatches > self.sampling.prompts_per_step:
            raise ValueError(
                f"training.minibatches ({self.training.minibatches}) is larger than sampling.prompts_per_step "
                f"({self.sampling.prompts_per_step}), and groups stay whole"
            )
        if self.objective.soft_overlong_tokens >= self.sampling.max_completion_tokens:
            raise ValueError(
                f"objective.soft_overlong_tokens ({self.objective.soft_overlong_tokens}) must be smaller than "
                f"sampling.max_completion_tokens ({self.sampling.max_completion_tokens})"
            )
        longest = self.sampling.max_prompt_tokens + self.sampling.max_completion_tokens
        if self.training.microbatch_tokens < longest:
            raise ValueError(
                f"training.microbatch_tokens ({self.training.microbatch_tokens}) is smaller than one row can be "
                f"(max_prompt_tokens + max_completion_tokens = {longest})"
            )
        if self.evaluation.suite is None and self.evaluation.margins:
            raise ValueError("evaluation.margins are set, but evaluation.suite is null")
        return self
