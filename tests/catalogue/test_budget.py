"""Compute, wall-clock, energy, and the share of the base model's compute."""

from __future__ import annotations

from typing import Any

import pytest

from grpo_audit.catalogue.collect import collect
from grpo_audit.catalogue.compute import Modifier, Shape, shape_of, training_flop
from grpo_audit.catalogue.evidence import Evidence
from grpo_audit.config.run import RunConfig
from grpo_audit.ledger.project import NewEvent
from grpo_audit.record.events import Annotation, EventKind, PhaseEnergy, PhaseFinished, Step

N = 1_000


def config(**sections: dict[str, Any]) -> RunConfig:
    """A run with two completions a prompt."""
    tree = {
        "model": {"path": "builtin"},
        "prompts": {"source": "builtin"},
        "rewards": [{"name": "a", "source": "m:f"}],
        "sampling": {"group_size": 2},
        "objective": {"kl": {"beta": 0.0}},
    }
    return RunConfig.model_validate({**tree, **sections})


def step(prompt: int = 100, completion: int = 400, rows: int = 10, **more: Any) -> Step:
    """A step with 5 groups of two."""
    figures = {name: 0.0 for name, info in Step.model_fields.items() if info.annotation is float and info.is_required()}
    required = {"reward_mean": None, "reward_std": None, "kl": None, "kl_loss": None}
    return Step(
        **figures,
        **{**required, **more},
        attempt=1,
        step=0,
        rewards={},
        used=rows,
        rejected=0,
        prompt_tokens=prompt,
        completion_tokens=completion,
        seconds={},
        fingerprint="sha256:" + "0" * 64,
    )


def test_without_attention_the_cost_is_two_six_and_two_n() -> None:
    """On-policy, without KL: rollout 2·N, update 6·N a token, prompts once a group."""
    found = training_flop(Shape(N), config(), [step()])
    assert (found.rollout, found.scoring, found.update, found.value) == (2 * N * 500, 0, 6 * N * 500, 0)


def test_the_attention_term_is_that_of_palm() -> None:
    """Forward and backward with L layers of width d at context c cost 6·N + 12·L·d·c a token (PaLM, appendix B)."""
    shape = Shape(N, layers=3, width=8)
    assert shape.update(1, context=60) == 6 * N + 12 * 3 * 8 * 60
    context = (100 * 2 + 400) / 10  # each row's prompt and completion
    found = training_flop(shape, config(), [step()])
    assert found.update == pytest.approx(500 * (6 * N + 12 * 3 * 8 * context))


def test_a_reference_costs_one_more_forward_pass() -> None:
    """With a KL penalty each step scores its tokens once more; without one only where the distance was measured."""
    with_kl = config(objective={"kl": {"beta": 0.1}})
    assert training_flop(Shape(N), with_kl, [step()]).scoring == 2 * N * 500
    assert training_flop(Shape(N), config(), [step(kl=0.1)]).scoring == 2 * N * 500


def test_iterations_are_paid_for() -> None:
    """Three passes over a batch cost three updates."""
    thrice = config(training={"iterations": 3})
    assert training_flop(Shape(N), thrice, [step()]).update == 3 * training_flop(Shape(N), config(), [step()]).update


def test_adapters_spare_the_weights_own_gradients() -> None:
    """With LoRA a token costs 4·N and six for each adapter parameter; recomputation adds one forward pass."""
    assert Shape(N, adapters=10).update(1, 0) == 4 * N + 60
    assert Shape(N, adapters=10, checkpointing=True).update(1, 0) == 6 * N + 60


def test_a_value_model_costs_as_much_again() -> None:
    """PPO: a forward pass for the values, and an update beside each of the policy's."""
    ppo = config(objective={"kl": {"beta": 0.0}, "advantage": {"baseline": "value-model", "normaliser": "none"}})
    assert training_flop(Shape(N), ppo, [step()]).value == 8 * N * 500


@pytest.mark.parametrize(
    ("run", "base", "known", "words"),
    [
        (1e22, 1e23, True, "below the third that the guideline names"),
        (4e22, 1e23, True, "above the third that the guideline names"),
        (4e22, 1e23, False, "above the third that the guideline names, of what it substitutes"),
    ],
)
def test_the_ratio_is_said_in_words(run: float, base: float, known: bool, words: str) -> None:
    """On which side of a third the run lies, and whether the base is known; never that anything is complied with."""
    text = str(Modifier(run, base, "a paper", known))
    assert words in text and "complian" not in text


def test_the_base_compute_is_the_recipes_then_the_stages_then_the_substitute(registered: Any) -> None:
    """A stated number counts first; else the stages when pre-training is among them; else 10^23 FLOP."""
    stages = [
        {"kind": "pre-training", "name": "p", "flop": 2e20, "flop_source": "card"},
        {"kind": "SFT", "name": "s", "flop": 1e20, "flop_source": "card"},
    ]
    cases: list[tuple[dict[str, Any], float | None]] = [
        ({"model": {"training_flop": 5e20, "training_flop_source": "paper"}, "lineage": stages}, 5e20),
        ({"lineage": stages}, 3e20),
        ({"lineage": stages[1:]}, None),
    ]
    for update, base in cases:
        with registered.project(update) as project:
            found = collect(project, "r-1").budget
        assert found.base_flop.value == base
        assert ("1e+23" in str(found.modifier_ratio.value)) == (base is None)


def test_energy_is_unknown_estimated_or_measured(registered: Any) -> None:
    """Without counters nothing; with stated watts device-hours times watts times PUE, marked as an estimate; with a
    counter in every phase the sum, marked as measured; with a counter in some phases, or an attempt that did not
    finish, never a part of it."""
    with registered.project() as project:
        nothing = collect(project, "r-1").budget
    assert nothing.energy.is_unknown
    watts = {"budget": {"watts_per_device": 100.0, "watts_source": "data sheet", "pue": 1.5}}
    with registered.project(watts) as project:
        estimated = collect(project, "r-1").budget.energy
    assert nothing.device_hours.value is not None
    assert f"{nothing.device_hours.value * 0.15:.3g} kWh" in str(estimated.value)
    assert "estimated" in str(estimated.value) and estimated.evidence is Evidence.DERIVED
    everywhere = {"pre", "train", "post"}
    for phases, interrupted, measured in (
        (everywhere, False, True),
        ({"train"}, False, False),
        (everywhere, True, False),
    ):
        events = registered.events
        kept = events if interrupted else [pair for pair in events if _is_of_one_attempt(pair[0])]
        registered.events = [(_counted(payload, phases, interrupted), run) for payload, run in kept]
        with registered.project() as project:
            energy = collect(project, "r-1").budget.energy
        registered.events = events
        assert energy.is_unknown != measured
        if measured:
            assert energy.evidence is Evidence.MEASURED and "(3e+03 J), measured: RAPL" in str(energy.value)


def test_a_persons_meter_comes_before_an_estimate_and_after_a_measurement(registered: Any) -> None:
    """An annotation replaces what was only estimated from stated watts."""
    watts = {"budget": {"watts_per_device": 100.0, "watts_source": "data sheet"}}
    with registered.project(watts) as project:
        note = Annotation(author="Ada", field="budget.energy", value="3 kWh", reason="read the meter")
        seq = project.append([NewEvent(note, "r-1")]).size - 1
        found = collect(project, "r-1").budget.energy
    assert (found.value, found.evidence, found.pointer.seqs) == ("3 kWh", Evidence.DECLARED, (seq,))


def test_what_is_auto_is_resolved_as_the_trainer_does(registered: Any) -> None:
    """On CUDA a large model is trained in autocast, and one above a billion parameters with checkpointing."""
    payload = registered.registration()
    for parameters, accelerator, expected in (
        (2 * 10**9, "a GPU", (True, True)),
        (2 * 10**8, "a GPU", (False, True)),
        (2 * 10**9, None, (False, False)),
    ):
        model = payload.model.model_copy(update={"parameters": parameters})
        machine = payload.environment.model_copy(update={"accelerator": accelerator})
        found = shape_of(payload.model_copy(update={"model": model, "environment": machine}), config())
        assert (found.checkpointing, found.autocast) == expected


def _is_of_one_attempt(payload: Any) -> bool:
    """Everything that an uninterrupted run would hold."""
    ended = payload.kind in (EventKind.RUN_RESUMED, EventKind.RUN_ABORTED)
    return not ended and (isinstance(payload, PhaseFinished) or getattr(payload, "attempt", 1) == 1)


def _counted(payload: Any, phases: set[str], interrupted: bool) -> Any:
    if not isinstance(payload, PhaseFinished):
        return payload
    energy = PhaseEnergy(joules=1000.0, method="RAPL", boundary="package-0") if payload.phase in phases else None
    attempt = payload.attempt if interrupted else 1
    return payload.model_copy(update={"energy": energy, "attempt": attempt})
