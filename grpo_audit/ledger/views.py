"""Views for people: ``sqlite3`` or Datasette answers the common questions without this program.

``verify`` refuses a record whose views differ from these, so a view cannot be made to lie. A migration that changes one
drops it and creates the new text.
"""

from __future__ import annotations

RUN_OVERVIEW = """\
CREATE VIEW run_overview AS
SELECT run.run_id, run.name, run_state.state, run_state.attempt, run.registered_at, run_state.at AS changed_at,
       run.preset, run.seed, run.model, run.weights_digest, run_state.detail
FROM run
JOIN run_state ON run_state.seq = (SELECT max(s.seq) FROM run_state AS s WHERE s.run_id = run.run_id)"""

EFFECTIVE_STEP = """\
CREATE VIEW effective_step AS
SELECT step.* FROM step
WHERE step.attempt =
      (SELECT max(s.attempt) FROM step AS s WHERE s.run_id = step.run_id AND s.step = step.step)"""

EFFECTIVE_ROLLOUT = """\
CREATE VIEW effective_rollout AS
SELECT rollout.* FROM rollout
WHERE rollout.attempt =
      (SELECT max(s.attempt) FROM step AS s WHERE s.run_id = rollout.run_id AND s.step = rollout.step)"""

ROLLOUT_TEXT = """\
CREATE VIEW rollout_text AS
SELECT rollout.seq, rollout.run_id, rollout.attempt, rollout.step, rollout.group_index, rollout.sample,
       rollout_group.prompt_id, rollout.reward, rollout.advantage, rollout.used, rollout.reason, rollout.finish_reason,
       CASE WHEN prompt.encoding <> 'plain' THEN '(compressed)' ELSE CAST(prompt.data AS TEXT) END AS prompt,
       CASE WHEN completion.encoding <> 'plain' THEN '(compressed)' ELSE CAST(completion.data AS TEXT) END AS completion
FROM rollout
JOIN rollout_group ON rollout_group.run_id = rollout.run_id AND rollout_group.step = rollout.step
     AND rollout_group.attempt = rollout.attempt AND rollout_group.group_index = rollout.group_index
LEFT JOIN content AS prompt
     ON prompt.seq = rollout_group.seq AND prompt.name = 'prompt'
LEFT JOIN content AS completion
     ON completion.seq = rollout.seq AND completion.name = 'completion'"""

EVAL_TEXT = """\
CREATE VIEW eval_text AS
SELECT eval_sample.seq, eval_sample.run_id, eval_sample.phase, eval_sample.task, eval_sample.doc_id, eval_sample.target,
       eval_sample.prediction, eval_sample.metrics, eval_sample.finish_reason,
       CASE WHEN prompt.encoding <> 'plain' THEN '(compressed)' ELSE CAST(prompt.data AS TEXT) END AS prompt,
       CASE WHEN response.encoding <> 'plain' THEN '(compressed)' ELSE CAST(response.data AS TEXT) END AS response
FROM eval_sample
LEFT JOIN content AS prompt
     ON prompt.seq = eval_sample.seq AND prompt.name = 'prompt'
LEFT JOIN content AS response
     ON response.seq = eval_sample.seq AND response.name = 'response'"""

VIEWS: dict[str, str] = {
    "run_overview": RUN_OVERVIEW,
    "effective_step": EFFECTIVE_STEP,
    "effective_rollout": EFFECTIVE_ROLLOUT,
    "rollout_text": ROLLOUT_TEXT,
    "eval_text": EVAL_TEXT,
}

DESCRIPTIONS: dict[str, str] = {
    "run_overview": "Every run with what became of it.",
    "effective_step": "Steps of a run without those a later attempt did again.",
    "effective_rollout": "Rollouts of those steps.",
    "rollout_text": "Rollouts with prompt and completion as text: empty where erased, `(compressed)` from 1 KiB on, "
    "which `grpo-audit show` unpacks.",
    "eval_text": "Evaluation documents with prompt and response as text, as above.",
}


def for_postgresql(view: str) -> str:
    """A view as PostgreSQL needs it: there bytes become text by their encoding, and no text may hold NUL.

    A NUL is shown as U+2400, as in the projections.
    """
    for column in ("prompt.data", "completion.data", "response.data"):
        view = view.replace(
            f"CAST({column} AS TEXT)",
            f"convert_from(CASE WHEN position(CAST('\\x00' AS bytea) IN {column}) = 0 THEN {column} ELSE decode("
            f"replace(regexp_replace(encode({column}, 'hex'), '(..)', '\\1 ', 'g'), '00 ', 'e29080 '), 'hex') END, "
            "'UTF8')",
        )
    return view
