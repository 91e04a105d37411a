-- What rules do to files: actions, which are tasks of the system, and each of their tries.

-- insert_actions --
-- No row where this version of the rule was fired for the file before.
INSERT INTO asynch_action (tenant_id, file_id, rule_id, version, action_name, execute_mode, target_url, await_seconds)
SELECT %(tenant_id)s, a.file_id, a.rule_id, a.version, a.action_name, a.execute_mode, a.target_url, a.await_seconds
FROM jsonb_to_recordset(%(actions)s::jsonb) AS a(file_id bigint, rule_id bigint, version int, action_name text,
    execute_mode smallint, target_url text, await_seconds int)
ON CONFLICT (tenant_id, file_id, rule_id, version) DO NOTHING RETURNING id, rule_id

-- lock_action --
-- Its end is one of three: its task's, a posted result, or that none came in time.
SELECT a.*, a.deadline <= now() AS late FROM asynch_action a
WHERE a.tenant_id = %(tenant_id)s AND a.id = %(id)s FOR UPDATE

-- list_actions --
-- Of one file, the oldest first, with what their tasks say.
SELECT a.*, t.state, t.final, t.phase, t.progress, t.error_msg AS task_error,
       CASE WHEN t.state = 0 AND t.enqueue_at > now() THEN t.enqueue_at
            WHEN t.state = 3 AND NOT t.final THEN t.wake_at END AS due_at
FROM asynch_action a LEFT JOIN asynch_task t ON t.tenant_id = ~a.tenant_id AND t.id = a.id
WHERE a.tenant_id = %(tenant_id)s AND a.file_id = %(file_id)s ORDER BY a.id LIMIT 1000

-- list_completed_actions --
-- Sorted apart: a worker's session would rather read all of the tenant's in the order of their key.
WITH done AS MATERIALIZED (
    SELECT a.id, a.rule_id, a.version, a.output, a.made FROM asynch_action a
    WHERE a.tenant_id = %(tenant_id)s AND a.file_id = %(file_id)s AND a.status = 'completed'
)
SELECT rule_id, version, output, made FROM done ORDER BY id

-- end_action --
-- What was posted before its end stays.
UPDATE asynch_action a
SET status = %(status)s, error_msg = coalesce(nullif(%(error_msg)s, ''), a.error_msg), output = coalesce(%(output)s::jsonb, a.output), completed_at = now(),
    deadline = NULL, made = %(made)s
WHERE a.tenant_id = %(tenant_id)s AND a.id = %(id)s AND a.status IN ('pending', 'awaiting')

-- await_result --
UPDATE asynch_action a SET status = 'awaiting', deadline = now() + make_interval(secs => a.await_seconds)
WHERE a.tenant_id = %(tenant_id)s AND a.id = %(id)s AND a.status = 'pending'

-- note_result --
UPDATE asynch_action a SET answered = true, output = coalesce(%(output)s::jsonb, a.output), error_msg = %(error_msg)s
WHERE a.tenant_id = %(tenant_id)s AND a.id = %(id)s

-- expire_actions --
-- Fails those whose result did not come in time.
WITH due AS MATERIALIZED (
    SELECT a.tenant_id, a.id FROM asynch_action a
    WHERE a.status = 'awaiting' AND a.deadline <= now()
    ORDER BY a.deadline LIMIT %(most)s FOR UPDATE SKIP LOCKED
), ended AS (
    UPDATE asynch_action a
    SET status = 'failed', error_msg = 'no result came in time', completed_at = now(), deadline = NULL
    FROM due d WHERE a.tenant_id = d.tenant_id AND a.id = d.id
    RETURNING a.*
)
INSERT INTO asynch_action_log (tenant_id, task_id, file_id, rule_id, version, action_name, attempt, outcome, seconds,
    error_msg)
SELECT e.tenant_id, e.id, e.file_id, e.rule_id, e.version, e.action_name, coalesce(t.attempt, 0), 'failed',
       e.await_seconds, e.error_msg
FROM ended e LEFT JOIN asynch_task t ON t.tenant_id = ~e.tenant_id AND t.id = e.id

-- insert_action_log --
INSERT INTO asynch_action_log (tenant_id, task_id, file_id, rule_id, version, action_name, attempt, outcome, seconds,
    error_msg)
SELECT a.tenant_id, a.id, a.file_id, a.rule_id, a.version, a.action_name,
       coalesce(%(attempt)s, t.attempt, 0), %(outcome)s,
       extract(epoch FROM now() - coalesce(%(since)s::timestamptz, t.finished_at)), %(error_msg)s
FROM asynch_action a LEFT JOIN asynch_task t ON t.tenant_id = ~a.tenant_id AND t.id = a.id
WHERE a.tenant_id = %(tenant_id)s AND a.id = %(id)s

-- list_action_log --
SELECT l.* FROM asynch_action_log l
WHERE l.tenant_id = %(tenant_id)s AND (%(rule_id)s::bigint IS NULL OR l.rule_id = %(rule_id)s)
  AND (%(file_id)s::bigint IS NULL OR l.file_id = %(file_id)s)
  AND (%(outcome)s::text IS NULL OR l.outcome = %(outcome)s)
ORDER BY l.id DESC LIMIT %(limit)s OFFSET %(offset)s

-- count_action_log --
SELECT count(*) AS total FROM (
    SELECT 1 FROM asynch_action_log l
    WHERE l.tenant_id = %(tenant_id)s AND (%(rule_id)s::bigint IS NULL OR l.rule_id = %(rule_id)s)
      AND (%(file_id)s::bigint IS NULL OR l.file_id = %(file_id)s)
      AND (%(outcome)s::text IS NULL OR l.outcome = %(outcome)s)
    LIMIT %(cap)s) x

-- forget_action_log --
DELETE FROM asynch_action_log l USING (
    SELECT o.tenant_id, o.id FROM asynch_action_log o
    WHERE o.created_at < now() - make_interval(secs => %(retention_s)s) LIMIT %(most)s) o
WHERE l.tenant_id = o.tenant_id AND l.id = o.id

-- insert_message --
-- Published once more after a worker's end, it is there once, unless somebody has taken it meanwhile.
INSERT INTO asynch_message (id, tenant_id, topic, body) VALUES (%(id)s, %(tenant_id)s, %(topic)s, %(body)s::jsonb)
ON CONFLICT DO NOTHING
