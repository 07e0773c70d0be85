"""Group I: what the run cost, and its compute against the base model's."""

from __future__ import annotations

from typing import Annotated, Any, Final

from grpo_audit.catalogue.compute import GUIDELINE, Modifier, method_text, shape_of
from grpo_audit.catalogue.cost import PhaseCost
from grpo_audit.catalogue.evidence import Basis, BasisKind, Evidence, Where
from grpo_audit.catalogue.field import Field, Group, derived, for_all, for_regulator, known, unknown
from grpo_audit.catalogue.run import Run, fill

NAMES: Final = {"pre": "evaluation before", "train": "training", "post": "evaluation after"}
_PALM: Final = "PaLM, arXiv:2204.02311, appendix B; Kaplan et al. 2020, arXiv:2001.08361, section 2.1"


class Budget(Group):
    """What the run cost."""

    tokens: Annotated[Field[dict[str, int]], for_all()]
    """Tokens by phase: prompts read and completions drawn."""
    flop: Annotated[Field[float], for_all()]
    """Floating-point operations of all phases, by formula."""
    flop_by_part: Annotated[Field[dict[str, float]], for_regulator()]
    """The same for training, by what it was for: rollouts, scoring, updates, value model."""
    flop_method: Annotated[Field[str], for_regulator()]
    """The formula, with what it leaves out."""
    wall_clock: Annotated[Field[dict[str, float]], for_all()]
    """Seconds by phase."""
    device_hours: Annotated[Field[float], for_all()]
    """Hours of all devices that the run held: processes times wall-clock."""
    energy: Annotated[Field[str], for_all(annotate=True)]
    """Energy of the run, measured by the machine or estimated from stated watts, with method and boundary."""
    base_flop: Annotated[Field[float], for_regulator("model.training_flop")]
    """Compute that trained the base model."""
    modifier_ratio: Annotated[Field[str], for_regulator()]
    """The run's compute over the base model's, against the third that the EU guidelines name."""


def budget(run: Run) -> Budget:
    """Group I of a run."""
    cost, seqs = run.cost, _places(run.cost.phases)
    shape = shape_of(run.registered.payload, run.config)
    parts = cost.flop_by_part
    split = {"rollouts": parts.rollout, "scoring": parts.scoring, "updates": parts.update, "value model": parts.value}
    tokens = {
        NAMES[row.phase]: (row.prompt_tokens or 0) + row.completion_tokens
        for row in cost.phases
        if row.completion_tokens is not None
    }
    seconds = {NAMES[row.phase]: row.seconds for row in cost.phases if row.seconds is not None}
    hours = None if cost.device_seconds is None else cost.device_seconds / 3600
    return fill(
        Budget,
        "budget",
        run,
        tokens=derived(tokens or None, *seqs, unknown=_NOTHING, note="evaluation prompts are not recorded as tokens"),
        flop=derived(cost.flop, *seqs, unknown=_NOTHING, note=method_text(shape), basis=_basis()),
        flop_by_part=derived(
            split if run.steps.executed else None,
            run.steps.span,
            unknown=_NOTHING,
            note=method_text(shape),
            basis=_basis(),
        ),
        flop_method=derived(method_text(shape), run.at, basis=_basis()),
        wall_clock=derived(seconds or None, *seqs, unknown=_NOTHING, note=_wall_clock(cost.phases)),
        device_hours=derived(hours, *seqs, run.at, unknown=_NOTHING, note="every process held, idle ones included"),
        energy=_energy(run, seqs),
        base_flop=_base(run),
        modifier_ratio=_modifier(run, seqs),
    )


_NOTHING = "no phase was recorded: the run did not get that far"


def _basis() -> Basis:
    return Basis(kind=BasisKind.PAPER, citation=_PALM)


def _places(phases: tuple[PhaseCost, ...]) -> list[Where]:
    return [place for row in phases for place in (*row.finished, row.tokens_from) if place is not None]


def _wall_clock(phases: tuple[PhaseCost, ...]) -> str:
    broken = [NAMES[row.phase] for row in phases if row.unfinished]
    steps = f"; of unfinished attempts of {', '.join(broken)} only the steps" if broken else ""
    return f"sum over attempts{steps}"


def _energy(run: Run, seqs: list[Where]) -> Field[Any]:
    found = run.cost.energy
    said = run.said("budget.energy", for_all(annotate=True))
    if (found is None or not found.measured) and not said.is_unknown:
        return said  # a person's meter before our estimate
    if found is None:
        return unknown(
            "the machine counts no energy that the process may read, or a phase did not end; "
            "budget.watts_per_device and budget.watts_source in the recipe give an estimate"
        )
    how = Evidence.MEASURED if found.measured else Evidence.DERIVED
    return known(how, str(found), *seqs, run.at, note="" if found.measured else "an estimate, not a measurement")


def _base(run: Run) -> Field[Any]:
    if run.cost.base_flop is None:
        return unknown("nobody stated it, nor the compute of a pre-training stage in lineage")
    return known(
        Evidence.DECLARED,
        run.cost.base_flop,
        run.at,
        note=run.cost.base_source,
        basis=Basis(kind=BasisKind.OPERATOR, citation=run.cost.base_source),
    )


def _modifier(run: Run, seqs: list[Where]) -> Field[Any]:
    found = run.cost.modifier
    if found is None:
        return unknown(_NOTHING)
    said = run.said("budget.base_flop", for_regulator("model.training_flop"), float)
    if not found.is_known and said.value:
        found, seqs = Modifier(found.run_flop, said.value, said.note, is_known=True), [*seqs, *said.pointer.seqs]
    return derived(
        str(found),
        *seqs,
        run.at,
        note=f"base: {found.source}; a ratio says nothing about other duties",
        basis=Basis(kind=BasisKind.LIBRARY, citation=GUIDELINE),
    )
