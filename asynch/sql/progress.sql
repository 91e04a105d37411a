-- What models say of their progress. No state is written here, and nothing that stands in an index.

-- write_progress, plan kept --
-- Fenced by the attempt that called the model, also while a task whose model works on waits for its next worker. An
-- older word never takes the place of a newer one. `state + 0` keeps the planner on the primary key.
UPDATE asynch_task t
SET progress = coalesce(n.progress, t.progress), message = coalesce(n.message, t.message),
    progress_at = coalesce(n.said_at, now()), version = t.version + 1, updated_at = now()
FROM jsonb_to_recordset(%(notes)s::jsonb) AS n(
    tenant_id bigint, id bigint, attempt int, progress real, message text, said_at timestamptz)
WHERE t.tenant_id = n.tenant_id AND t.id = n.id AND t.call_attempt = n.attempt AND t.phase = 0
  AND (t.state + 0 = 1 OR (t.state + 0 = 0 AND t.poll_url <> ''))
  AND (n.said_at IS NULL OR t.progress_at IS NULL OR t.progress_at <= n.said_at)
RETURNING t.tenant_id, t.id

-- find_call --
-- Whether the call of an attempt goes on, by the same fence, and the time by the database's clock.
SELECT t.final, t.call_attempt = %(attempt)s AND t.phase = 0
       AND (t.state + 0 = 1 OR (t.state + 0 = 0 AND t.poll_url <> '')) AS goes_on, clock_timestamp() AS at
FROM asynch_task t WHERE t.tenant_id = %(tenant_id)s AND t.id = %(id)s
