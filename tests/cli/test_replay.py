"""``grpo-audit replay``: an honest run comes out again; whatever an operator signs that did not happen is named."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from grpo_audit.cli.app import app
from grpo_audit.cli.replay import L2_DOES_NOT_SHOW
from grpo_audit.errors import ConfigError, ExitCode, GrpoAuditError, ModelError, VerificationError
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.record.events import EventKind, Rollout, RunRegistered, Snapshot, Step
from grpo_audit_trainer.replay import ReplayRequest, replay
from grpo_audit_trainer.replay_record import Place
from grpo_audit_trainer.replay_step import reexecute
from grpo_audit_trainer.replay_verdict import ReplayReport

Change = Callable[[NewEvent], NewEvent]
Edit = Callable[[Rollout, dict[str, bytes]], tuple[Rollout, dict[str, bytes]]]


def trace(tokens: Any, logp: Any) -> bytes:
    """Content ``trace`` of a rollout."""
    return np.asarray(tokens, "<u4").tobytes() + np.asarray(logp, "<f4").tobytes()


def read(content: bytes) -> tuple[Any, Any]:
    """Tokens and log-probabilities of a trace."""
    half = len(content) // 2
    return np.frombuffer(content[:half], "<u4").copy(), np.frombuffer(content[half:], "<f4").copy()


class Forger:
    """An operator with a key who signs a record of a run that went otherwise."""

    def __init__(self, finished: Any, target: Path) -> None:
        self.finished, self.target = finished, target

    def sign(self, change: Change) -> None:
        """Every event of the run, changed, in a new record."""
        with (
            Project.open(self.finished.place.folder / "runs/record.db", mode="read") as source,
            Project.open(self.target, mode="create") as forged,
        ):
            events = []
            for event in source.events(self.finished.run_id):
                content = {name: source.content(event.seq, name) or b"" for name in event.content}
                events.append(NewEvent(event.payload, event.run_id, content))
            forged.append([change(event) for event in events])

    def rollout(self, place: Place, change: Edit) -> None:
        """One rollout changed."""

        def one(event: NewEvent) -> NewEvent:
            payload = event.payload
            if not isinstance(payload, Rollout) or Place(payload.step, payload.group, payload.sample) != place:
                return event
            changed, content = change(payload, dict(event.content))
            return NewEvent(changed, event.run_id, content)

        self.sign(one)

    def replay(self, **request: Any) -> ReplayReport:
        """Level L2 of what was signed."""
        with Project.open(self.target, mode="read") as project:
            return replay(
                project,
                self.finished.run_id,
                run_folder=self.finished.folder,
                recipe_folder=self.finished.place.folder,
                request=ReplayRequest(**request),
            )


@pytest.fixture
def forger(finished: Any, tmp_path: Path) -> Forger:
    """Its record goes to a folder of the test."""
    return Forger(finished, tmp_path / "forged.db")


@pytest.fixture
def copied(finished: Any, tmp_path: Path) -> Any:
    """The whole workplace, to be damaged."""
    shutil.copytree(finished.place.folder, tmp_path / "copy")
    return type(finished.place)(tmp_path / "copy", finished.place.home)


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The command in this process, in the folder of a workplace: (exit code, standard output, error or None)."""

    def run(place: Any, *arguments: str) -> tuple[int, str, BaseException | None]:
        monkeypatch.chdir(place.folder)
        monkeypatch.setenv("GRPO_AUDIT_HOME", str(place.home))
        result = CliRunner().invoke(app, ["replay", *arguments])
        error = result.exception if isinstance(result.exception, GrpoAuditError) else None
        assert error is not None or isinstance(result.exception, SystemExit | None), result.exception
        return (error.exit_code if error else result.exit_code), result.stdout, error

    return run


# --- honest ----------------------------------------------------------------------------------------------------------


def test_an_honest_run_replays(finished: Any, invoke: Any) -> None:
    """Exit code 0; the JSON names coverage, seed, tolerance and false alarms; a second replay says the same."""
    done = finished.place.run("replay", "--rollouts", "9", "--json")
    assert done.returncode == ExitCode.OK, done.stderr
    code, again, _ = invoke(finished.place, "--rollouts", "9", "--json")
    assert code == ExitCode.OK and again == done.stdout
    result = json.loads(done.stdout)
    assert result["ok"] and result["level"] == "L2" and result["integrity"]["ok"]
    coverage = result["coverage"]
    assert coverage["steps_eligible"] == [0, 3] and coverage["steps"] == 4  # the others' snapshots were pruned
    assert (coverage["rollouts"], coverage["rollouts_eligible"], coverage["drawn"]) == (48, 24, 9)
    assert coverage["missing"] == "steps whose snapshot is no longer on disk: 2"
    decision = result["decision"]
    assert len(decision["verdicts"]) == 9 and decision["tokens"] == sum(v["exact"] for v in decision["verdicts"])
    assert decision["calibration"]["tokens"] > 50 and result["seed_origin"] == "seal of the run"
    assert "honest replays" in result["false_alarms"] and result["not_shown"] == list(L2_DOES_NOT_SHOW)


def test_the_text_says_what_was_seen(finished: Any, invoke: Any) -> None:
    """For people: coverage, tokens, limits, what is not shown, and the verdict."""
    code, text, _ = invoke(finished.place)
    assert code == ExitCode.OK
    for part in ("24 of 48 rollouts can be replayed", "mismatches", "limit", "does not show", "REPLAYED  L2"):
        assert part in text


def test_a_seed_by_hand_draws_others(forger: Forger) -> None:
    """The auditor's own seed draws other rollouts than the seal."""
    forger.sign(lambda event: event)
    first, second = (
        [verdict.place for verdict in forger.replay(rollouts=6, seed=seed).decision.verdicts] for seed in (None, "coin")
    )
    assert first != second and len(first) == len(second) == 6


@pytest.mark.parametrize("step", [1, 3])
def test_a_step_comes_out_again(finished: Any, invoke: Any, step: int) -> None:
    """Step 3 from its snapshot, step 1 by way of step 0 from the base model: rollouts, rewards, fingerprints and the
    digest of all weights are those of the record."""
    code, text, error = invoke(finished.place, "--level", "l3", "--step", str(step), "--json")
    assert code == ExitCode.OK, error or text
    result = json.loads(text)
    # this process has imported and set other things than the one that made the run; the bits are the same
    assert result["agreement"] == "bitwise" and result["other_hardware"] == []
    assert result["start"] == (3 if step == 3 else 0)
    assert [check["step"] for check in result["steps"]] == ([3] if step == 3 else [0, 1])
    for check in result["steps"]:
        assert check["same_tokens"] == check["same_rewards"] == check["rollouts"] == 12
        assert check["fingerprint"] == check["recorded_fingerprint"]
    assert result["weights_digest"] == result["recorded_weights_digest"] is not None


# --- L2: what an operator may sign -----------------------------------------------------------------------------------


def swap_trace(event: NewEvent, places: dict[Place, dict[str, bytes]]) -> NewEvent:
    """Exchange the contents of two rollouts."""
    payload = event.payload
    if isinstance(payload, Rollout) and (place := Place(payload.step, payload.group, payload.sample)) in places:
        content = places[place]
        length = len(content["trace"]) // 8
        tokens = read(content["trace"])[0]
        finish = "stop" if tokens[-1] == 1 else "length"
        return NewEvent(
            payload.model_copy(update={"completion_tokens": length, "finish_reason": finish}), event.run_id, content
        )
    return event


@pytest.mark.parametrize("other", [Place(0, 0, 1), Place(0, 1, 0)])
def test_exchanged_rollouts_are_named(forger: Forger, other: Place) -> None:
    """Text and trace of two rollouts exchanged, with signatures that hold: both are refused, no other is."""
    places = (Place(0, 0, 0), other)
    contents: dict[Place, dict[str, bytes]] = {}

    def collect(event: NewEvent) -> NewEvent:
        payload = event.payload
        if isinstance(payload, Rollout) and (at := Place(payload.step, payload.group, payload.sample)) in places:
            contents[at] = dict(event.content)
        return event

    forger.sign(collect)
    forger.target = forger.target.with_name("swapped.db")
    exchanged = {places[0]: contents[places[1]], places[1]: contents[places[0]]}
    forger.sign(lambda event: swap_trace(event, exchanged))
    report = forger.replay()
    assert {verdict.place for verdict in report.decision.verdicts if not verdict.ok} == set(places)
    assert not report.ok and "do not follow" in report.decision.reasons[0]


def edited(name: str) -> Edit:
    """Ways to write a rollout that never was."""

    def change(payload: Rollout, content: dict[str, bytes]) -> tuple[Rollout, dict[str, bytes]]:
        tokens, logp = read(content["trace"])
        if name == "text":
            return payload, content | {"completion": b"better"}
        if name == "short trace":
            return payload, content | {"trace": content["trace"][:-3]}
        if name == "empty trace":
            return payload, content | {"trace": b""}
        if name == "not a number":
            logp[0] = np.nan
        if name == "infinite":
            logp[-1] = -np.inf
        if name == "beyond the vocabulary":
            tokens[0] = 2**32 - 1
        if name == "other log-probability":
            logp[0] += 0.01
        if name == "other token":
            tokens[0] = tokens[0] + 1 if tokens[0] < 200 else tokens[0] - 1
        if name == "cut":
            payload = payload.model_copy(update={"completion_tokens": len(tokens) - 1, "finish_reason": "length"})
            tokens, logp = tokens[:-1], logp[:-1]
        if name == "no tokens":
            return payload.model_copy(update={"completion_tokens": 0}), content | {"trace": b""}
        if name == "many tokens":
            return payload.model_copy(update={"completion_tokens": 10**9}), content
        return payload, content | {"trace": trace(tokens, logp)}

    return change


@pytest.mark.parametrize(
    "name, reason",
    [
        ("text", "text is not that of the recorded tokens"),
        ("short trace", "a trace of"),
        ("empty trace", "a trace of 0 bytes"),
        ("not a number", "do not follow"),
        ("infinite", "do not follow"),
        ("beyond the vocabulary", "token 4294967295 where the model knows"),
        ("other log-probability", "do not follow"),
        ("other token", "do not follow"),
        ("cut", "limit"),
        ("no tokens", "0 completion tokens"),
        ("many tokens", "1000000000 completion tokens"),
    ],
)
def test_a_written_rollout_is_refused(forger: Forger, name: str, reason: str) -> None:
    """A record that is signed and whole, in which one rollout is not what the weights drew: one clear reason, no crash,
    and the others stand."""
    place = Place(3, 1, 2)
    forger.rollout(place, edited(name))
    report = forger.replay()
    said = [*report.decision.reasons, *(item for verdict in report.decision.verdicts for item in verdict.problems)]
    assert not report.ok and any(reason in item for item in said), said
    assert [verdict.place for verdict in report.decision.verdicts if not verdict.ok] == [place]


@pytest.mark.parametrize("section, key, value", [("sampling", "temperature", 0.8), (None, "seed", 4)])
def test_another_temperature_or_seed_is_refused(forger: Forger, section: str | None, key: str, value: Any) -> None:
    """The registration says otherwise than what was sampled."""

    def change(event: NewEvent) -> NewEvent:
        if not isinstance(event.payload, RunRegistered):
            return event
        config = dict(event.payload.config)
        config |= {key: value} if section is None else {section: config[section] | {key: value}}
        return NewEvent(event.payload.model_copy(update={"config": config}), event.run_id, event.content)

    forger.sign(change)
    assert not forger.replay().ok


def test_another_prompt_is_refused(forger: Forger) -> None:
    """The recorded prompt of a group is not the one that was completed."""

    def change(event: NewEvent) -> NewEvent:
        if event.payload.kind is EventKind.GROUP and (event.payload.step, event.payload.group) == (0, 2):
            return NewEvent(event.payload, event.run_id, {"prompt": event.content["prompt"].swapcase()})
        return event

    forger.sign(change)
    report = forger.replay()
    wrong = {(verdict.place.step, verdict.place.group) for verdict in report.decision.verdicts if not verdict.ok}
    assert not report.ok and wrong == {(0, 2)}


def test_a_snapshot_of_another_step_is_refused(forger: Forger) -> None:
    """The record names the snapshot after step 4 as the one after step 3: weights one step later are named."""

    def change(event: NewEvent) -> NewEvent:
        payload = event.payload
        if isinstance(payload, Snapshot) and payload.step in (3, 4):
            return NewEvent(payload.model_copy(update={"step": 7 - payload.step}), event.run_id, event.content)
        return event

    forger.sign(change)
    with pytest.raises(VerificationError, match="is not the recorded one"):
        forger.replay()


def test_a_rollout_named_by_hand(forger: Forger) -> None:
    """Only that one is replayed; one that is not there, or whose weights are gone, is an error that says so."""
    forger.sign(lambda event: event)
    report = forger.replay(places=(Place(3, 0, 1),))
    assert report.ok and [verdict.place for verdict in report.decision.verdicts] == [Place(3, 0, 1)]
    for place, match in ((Place(9, 0, 0), "has no rollout 9/0/0"), (Place(1, 0, 0), "before step 1 are not at hand")):
        with pytest.raises(ConfigError, match=match):
            forger.replay(places=(place,))


def test_erased_rollouts_are_counted_not_passed(forger: Forger) -> None:
    """Erased content is drawn past and counted; when everything is erased, nothing was verified."""
    forger.sign(lambda event: event)
    with sqlite3.connect(forger.target) as database:
        database.execute(
            "delete from content where name = 'completion' and seq in (select seq from rollout where step = 0)"
        )
    report = forger.replay()
    assert report.ok and report.coverage.erased == 12 and len(report.decision.verdicts) == 12
    with sqlite3.connect(forger.target) as database:
        database.execute("delete from content where name = 'trace'")
    report = forger.replay()
    assert not report.ok and "nothing was checked" in report.decision.reasons[0]


def test_without_the_base_model_step_0_is_left_out(copied: Any, invoke: Any) -> None:
    """The released model lends its tokenizer; coverage says that step 0 could not be seen. With --model it can."""
    (copied.folder / "model").rename(copied.folder / "elsewhere")
    code, text, _ = invoke(copied, "--json")
    coverage = json.loads(text)["coverage"]
    assert code == ExitCode.OK and coverage["steps_eligible"] == [3] and "base model is not" in coverage["missing"]
    _, text, _ = invoke(copied, "--json", "--model", "elsewhere")
    assert json.loads(text)["coverage"]["steps_eligible"] == [0, 3]


def test_without_any_weights_there_is_one_line(copied: Any, invoke: Any) -> None:
    """No base model, no snapshots, no released model: an error, never a verdict."""
    shutil.rmtree(copied.folder / "model")
    shutil.rmtree(next((copied.folder / "runs").glob("*/snapshots")))
    code, text, error = invoke(copied)
    assert code == ExitCode.BAD_INPUT and not text and "can be replayed" in str(error)
    shutil.rmtree(next((copied.folder / "runs").glob("*/model")))
    code, text, error = invoke(copied)
    assert code == ExitCode.BAD_INPUT and not text and "is not at hand" in str(error)


def test_an_edited_record_is_not_replayed(copied: Any) -> None:
    """Integrity comes first: exit code 1, and one line names the check."""
    with sqlite3.connect(copied.folder / "runs/record.db") as database:
        database.execute("update rollout set reward = 1.0 where seq = (select min(seq) from rollout)")
    done = copied.run("replay")
    lines = [line for line in done.stderr.splitlines() if line.startswith("grpo-audit: ")]
    assert done.returncode == ExitCode.VERIFICATION_FAILED and "Traceback" not in done.stderr, done.stderr
    assert len(lines) == 1 and "does not hold" in lines[0] and "projections" in lines[0]


@pytest.mark.parametrize(
    "arguments, part",
    [
        (["--level", "l3"], "--step N together"),
        (["--step", "3"], "--step N together"),
        (["--level", "l3", "--step", "3", "--seed", "x"], "belong to level l2"),
        (["--level", "l3", "--step", "77"], "has no step 77"),
        (["--rollout", "1/2"], "STEP/GROUP/SAMPLE"),
        (["--db", "nothing.db"], "nothing.db"),
    ],
)
def test_wrong_usage_is_one_line(finished: Any, invoke: Any, arguments: list[str], part: str) -> None:
    """What was found, and what to do."""
    code, text, error = invoke(finished.place, *arguments)
    assert code == (ExitCode.STORAGE if "--db" in arguments else ExitCode.BAD_INPUT)
    assert not text and error is not None and part in str(error) and "\n" not in str(error)


# --- L3 --------------------------------------------------------------------------------------------------------------


def again(forger: Forger, step: int = 3, **options: Any) -> Any:
    """Level L3 of what was signed."""
    with Project.open(forger.target, mode="read") as project:
        return reexecute(
            project,
            forger.finished.run_id,
            step,
            run_folder=forger.finished.folder,
            **{"recipe_folder": forger.finished.place.folder, **options},
        )


def test_a_reward_that_was_never_given_is_named(forger: Forger) -> None:
    """One recorded reward is another than the source gives: L2 cannot see it, L3 names the rollout."""
    place = Place(3, 2, 1)
    forger.rollout(place, lambda payload, content: (payload.model_copy(update={"reward": 0.99}), content))
    assert forger.replay().ok
    report = again(forger)
    assert not report.ok and report.agreement == "different"
    assert report.reasons == ["step 3: rollout 3/2/1: other rewards"]


def test_another_fingerprint_is_named(forger: Forger) -> None:
    """The record states other weights after a step."""

    def change(event: NewEvent) -> NewEvent:
        if isinstance(event.payload, Step) and event.payload.step == 3:
            return NewEvent(event.payload.model_copy(update={"fingerprint": "sha256:" + "0" * 64}), event.run_id)
        return event

    forger.sign(change)
    report = again(forger)
    assert not report.ok and "another fingerprint" in report.reasons[0]


def test_on_other_hardware_the_difference_is_stated(forger: Forger) -> None:
    """When another machine made the record, a difference in the weights is measured against the length of the update:
    here the learning rate was another one, by a little and by much."""

    def said(rate: float) -> Change:
        def change(event: NewEvent) -> NewEvent:
            if not isinstance(event.payload, RunRegistered):
                return event
            config = event.payload.config
            config = config | {"training": config["training"] | {"learning_rate": rate}}
            elsewhere = event.payload.environment.model_copy(update={"processor": "another"})
            payload = event.payload.model_copy(update={"config": config, "environment": elsewhere})
            return NewEvent(payload, event.run_id, event.content)

        return change

    forger.sign(said(0.00201))
    near = again(forger)
    assert near.ok and near.agreement == "within tolerance" and "processor" in near.other_hardware[0]
    assert near.update_error == pytest.approx(0.005, rel=0.1)
    forger.target = forger.target.with_name("far.db")
    forger.sign(said(0.004))
    far = again(forger)
    assert not far.ok and far.agreement == "different" and far.update_error == pytest.approx(1, rel=0.1)


def test_reward_code_of_a_record_needs_permission(forger: Forger, tmp_path: Path) -> None:
    """Without the file, the recorded text is run only when that is allowed; then the step comes out again."""
    forger.sign(lambda event: event)
    place = tmp_path / "recipe"
    shutil.copytree(
        forger.finished.place.folder, place, ignore=lambda _, names: set(names) & {"runs", "suite", "rewards.py"}
    )
    with pytest.raises(ConfigError, match="--run-recorded-code"):
        again(forger, recipe_folder=place)
    assert again(forger, recipe_folder=place, run_recorded_code=True).agreement == "bitwise"


@pytest.mark.parametrize("file, match", [("prompts.jsonl", "prompt set"), ("model/config.json", "base model")])
def test_other_inputs_are_named(forger: Forger, tmp_path: Path, file: str, match: str) -> None:
    """Prompts or a base model other than the registered ones are one line, not a failed comparison."""
    forger.sign(lambda event: event)
    place = tmp_path / "recipe"
    shutil.copytree(forger.finished.place.folder, place, ignore=lambda _, names: set(names) & {"runs", "suite"})
    (place / file).write_text((place / file).read_text().replace("one", "two").replace('"rms_norm_eps"', '"eps"'))
    with pytest.raises((ConfigError, ModelError), match=match) as error:
        again(forger, recipe_folder=place)
    assert isinstance(error.value, GrpoAuditError) and "sha256:" in str(error.value)
