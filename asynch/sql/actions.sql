-- What rules do to files: actions, which are tasks of the system, and each of their tries.

-- insert_action --
-- No row where this version of the rule was fired for the file before.
INSERT INTO asynch_action (tenant_id, file_id, rule_id, version, action_name, execute_mode, target_url)
VALUES (%(tenant_id)s, %(file_id)s, %(rule_id)s, %(version)s, %(action_name)s, %(execute_mode)s, %(target_url)s)
ON CONFLICT (tenant_id, file_id, rule_id, version) DO NOTHING RETURNING id

-- find_action --
SELECT a.* FROM asynch_action a WHERE a.tenant_id = %(tenant_id)s AND a.id = %(id)s

-- list_actions --
-- Of one file, the oldest first, with what their tasks say.
SELECT a.*, t.state, t.final, t.phase, t.progress, t.error_msg AS task_error
FROM asynch_action a LEFT JOIN asynch_task t ON t.tenant_id = ~a.tenant_id AND t.id = a.id
WHERE a.tenant_id = %(tenant_id)s AND a.file_id = %(file_id)s ORDER BY a.id LIMIT 1000

-- end_action --
UPDATE asynch_action a
SET status = %(status)s, error_msg = %(error_msg)s, output = %(output)s::jsonb, completed_at = now()
WHERE a.tenant_id = %(tenant_id)s AND a.id = %(id)s AND a.status = 'pending'

-- insert_action_log --
INSERT INTO asynch_action_log (tenant_id, task_id, file_id, rule_id, version, action_name, attempt, outcome, seconds,
    error_msg)
SELECT a.tenant_id, a.id, a.file_id, a.rule_id, a.version, a.action_name, %(attempt)s, %(outcome)s,
       extract(epoch FROM now() - %(since)s::timestamptz), %(error_msg)s
FROM asynch_action a WHERE a.tenant_id = %(tenant_id)s AND a.id = %(id)s

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
