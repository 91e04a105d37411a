-- Tasks: their creation, and all reading of them.

-- create_tasks, plan kept --
SELECT ids, lanes, known FROM asynch_create(%(request)s::json, %(items)s::json)

-- begin_once, plan kept --
SELECT asynch_begin_once(%(tenant_id)s, %(path)s, %(key)s, %(body_hash)s) AS known

-- get_tasks --
-- All that is told of tasks but their payloads, which may be a megabyte each.
SELECT t.id, t.tenant_id, t.lane_id, t.model_name, t.biz_name, t.client_ref, t.metadata, t.rank, t.state, t.final, t.phase,
       t.progress, t.message, t.oss_file, t.file_type, t.content_type, t.file_size, t.sha256, t.error_code, t.error_msg,
       t.error_retryable, t.retry_count, t.created_at, t.started_at, t.finished_at, t.expire_at, t.creator, t.updater,
       t.updated_at, t.enqueue_at, t.input_ref, t.attempt, t.attempts, m.retry_times,
       coalesce(t.expire_at <= now(), false) AS gone, t.state = 0 AND t.enqueue_at > now() AS delayed, t.version
FROM asynch_task t LEFT JOIN asynch_models m ON m.lane_id = t.lane_id
WHERE t.tenant_id = %(tenant_id)s AND t.id = ANY(%(ids)s::bigint[])

-- payload_bytes --
-- How long these payloads are together, read from their heads.
SELECT coalesce(sum(octet_length(request_payload)), 0)::bigint AS bytes FROM asynch_task
WHERE tenant_id = %(tenant_id)s AND id = ANY(%(ids)s::bigint[])

-- payloads --
SELECT id, request_payload FROM asynch_task WHERE tenant_id = %(tenant_id)s AND id = ANY(%(ids)s::bigint[])

-- purged_tasks --
SELECT DISTINCT ON (task_id) task_id, response_payload FROM asynch_op_log
WHERE tenant_id = %(tenant_id)s AND task_id = ANY(%(task_ids)s::text[]) AND op_type = 'purgeTask'
ORDER BY task_id, id DESC

-- list_tasks --
-- A page of ids, newest first, without those that are gone for their readers. The bounds of the id only cut the search
-- short: it is drawn within the transaction whose beginning is created_at, and none lasts an hour.
SELECT id FROM asynch_task
WHERE tenant_id = %(tenant_id)s AND (expire_at IS NULL OR expire_at > now())
  AND (%(id)s::bigint IS NULL OR id = %(id)s)
  AND (%(model_name)s::text IS NULL OR strpos(model_name, %(model_name)s) > 0)
  AND (%(biz_name)s::text IS NULL OR strpos(biz_name, %(biz_name)s) > 0)
  AND (%(state)s::smallint IS NULL OR state = %(state)s)
  AND (%(final)s::boolean IS NULL OR final = %(final)s)
  AND (%(created_from)s::timestamptz IS NULL
       OR created_at >= %(created_from)s AND id >= asynch_id_at(%(created_from)s - interval '1 hour'))
  AND (%(created_to)s::timestamptz IS NULL
       OR created_at < %(created_to)s AND id < asynch_id_at(%(created_to)s + interval '1 hour'))
ORDER BY id DESC LIMIT %(limit)s OFFSET %(offset)s

-- count_tasks --
-- A count that stops at a cap: a list needs no exact total of millions. In the order of the ids, which bound it.
SELECT count(*) AS total FROM (
    SELECT 1 FROM asynch_task
    WHERE tenant_id = %(tenant_id)s AND (expire_at IS NULL OR expire_at > now())
      AND (%(id)s::bigint IS NULL OR id = %(id)s)
      AND (%(model_name)s::text IS NULL OR strpos(model_name, %(model_name)s) > 0)
      AND (%(biz_name)s::text IS NULL OR strpos(biz_name, %(biz_name)s) > 0)
      AND (%(state)s::smallint IS NULL OR state = %(state)s)
      AND (%(final)s::boolean IS NULL OR final = %(final)s)
      AND (%(created_from)s::timestamptz IS NULL
           OR created_at >= %(created_from)s AND id >= asynch_id_at(%(created_from)s - interval '1 hour'))
      AND (%(created_to)s::timestamptz IS NULL
           OR created_at < %(created_to)s AND id < asynch_id_at(%(created_to)s + interval '1 hour'))
    ORDER BY id DESC LIMIT %(cap)s) t

-- names_of --
-- The names that a tenant's tasks go by, of the models that are searched for, one index probe each however many tasks
-- have them; without order, so that no more are looked for than are wanted.
WITH RECURSIVE model AS (
    (SELECT t.model_name FROM asynch_task t
     WHERE t.tenant_id = %(tenant_id)s AND t.tenant_id >= 0 ORDER BY t.model_name LIMIT 1)
    UNION ALL
    SELECT n.model_name FROM model m CROSS JOIN LATERAL (
        SELECT t.model_name FROM asynch_task t
        WHERE t.tenant_id = %(tenant_id)s AND t.tenant_id >= 0 AND t.model_name > m.model_name
        ORDER BY t.model_name LIMIT 1) n
)
SELECT m.model_name, b.biz_name FROM model m CROSS JOIN LATERAL (
    WITH RECURSIVE biz AS (
        (SELECT t.biz_name FROM asynch_task t
         WHERE t.tenant_id = %(tenant_id)s AND t.tenant_id >= 0 AND t.model_name = m.model_name
         ORDER BY t.biz_name LIMIT 1)
        UNION ALL
        SELECT n.biz_name FROM biz b CROSS JOIN LATERAL (
            SELECT t.biz_name FROM asynch_task t
            WHERE t.tenant_id = %(tenant_id)s AND t.tenant_id >= 0 AND t.model_name = m.model_name
              AND t.biz_name > b.biz_name
            ORDER BY t.biz_name LIMIT 1) n
    )
    SELECT biz_name FROM biz
) b
WHERE %(model_name)s::text IS NULL OR strpos(m.model_name, %(model_name)s) > 0
LIMIT %(most)s

-- list_named_tasks --
-- As list_tasks, of tasks with these names: the newest of each name and state, merged. The bounds of the id are put so that
-- they cut short the search by names alone, not one through all that came in that time, which would be made for each name.
SELECT l.id
FROM unnest(%(models)s::text[], %(bizs)s::text[]) AS n(model_name, biz_name)
CROSS JOIN unnest(%(states)s::smallint[]) AS s(state)
CROSS JOIN LATERAL (
    SELECT t.id FROM asynch_task t
    WHERE t.tenant_id = %(tenant_id)s AND t.tenant_id >= 0 AND t.model_name = n.model_name AND t.biz_name = n.biz_name
      AND t.state = s.state AND (t.expire_at IS NULL OR t.expire_at > now())
      AND (t.model_name, t.biz_name, t.state, t.id) >= (n.model_name, n.biz_name, s.state,
           asynch_id_at(coalesce(%(created_from)s::timestamptz - interval '1 hour', 'epoch')))
      AND (t.model_name, t.biz_name, t.state, t.id) < (n.model_name, n.biz_name, s.state,
           asynch_id_at(coalesce(%(created_to)s::timestamptz + interval '1 hour', '9999-01-01')))
      AND (%(created_from)s::timestamptz IS NULL OR t.created_at >= %(created_from)s)
      AND (%(created_to)s::timestamptz IS NULL OR t.created_at < %(created_to)s)
      AND (%(final)s::boolean IS NULL OR t.final = %(final)s)
    ORDER BY t.id DESC LIMIT %(limit)s::bigint + %(offset)s::bigint
) l
ORDER BY l.id DESC LIMIT %(limit)s OFFSET %(offset)s

-- count_named_tasks --
-- As count_tasks.
SELECT count(*) AS total FROM (
    SELECT 1
    FROM unnest(%(models)s::text[], %(bizs)s::text[]) AS n(model_name, biz_name)
    CROSS JOIN unnest(%(states)s::smallint[]) AS s(state)
    CROSS JOIN LATERAL (
        SELECT t.id FROM asynch_task t
        WHERE t.tenant_id = %(tenant_id)s AND t.tenant_id >= 0 AND t.model_name = n.model_name AND t.biz_name = n.biz_name
          AND t.state = s.state AND (t.expire_at IS NULL OR t.expire_at > now())
          AND (t.model_name, t.biz_name, t.state, t.id) >= (n.model_name, n.biz_name, s.state,
               asynch_id_at(coalesce(%(created_from)s::timestamptz - interval '1 hour', 'epoch')))
          AND (t.model_name, t.biz_name, t.state, t.id) < (n.model_name, n.biz_name, s.state,
               asynch_id_at(coalesce(%(created_to)s::timestamptz + interval '1 hour', '9999-01-01')))
          AND (%(created_from)s::timestamptz IS NULL OR t.created_at >= %(created_from)s)
          AND (%(created_to)s::timestamptz IS NULL OR t.created_at < %(created_to)s)
          AND (%(final)s::boolean IS NULL OR t.final = %(final)s)
        ORDER BY t.id DESC LIMIT %(cap)s
    ) l
    LIMIT %(cap)s) t

-- list_task_ids --
SELECT id FROM asynch_task
WHERE tenant_id = %(tenant_id)s
  AND (%(id)s::bigint IS NULL OR id = %(id)s)
  AND (%(model_name)s::text IS NULL OR strpos(model_name, %(model_name)s) > 0)
  AND (%(biz_name)s::text IS NULL OR strpos(biz_name, %(biz_name)s) > 0)
  AND (%(state)s::smallint IS NULL OR state = %(state)s)
  AND (%(final)s::boolean IS NULL OR final = %(final)s)
  AND (%(created_from)s::timestamptz IS NULL
       OR created_at >= %(created_from)s AND id >= asynch_id_at(%(created_from)s - interval '1 hour'))
  AND (%(created_to)s::timestamptz IS NULL
       OR created_at < %(created_to)s AND id < asynch_id_at(%(created_to)s + interval '1 hour'))
  AND state = ANY(%(among)s::smallint[]) AND id > %(after)s AND id < %(before)s
ORDER BY id LIMIT %(most)s

-- versions --
-- Which state of each task is the latest; those that are gone for their readers are left out.
SELECT t.tenant_id, t.id, t.version FROM unnest(%(tenants)s::bigint[], %(ids)s::bigint[]) AS w(tenant_id, id)
CROSS JOIN LATERAL (
    SELECT q.tenant_id, q.id, q.version FROM asynch_task q
    WHERE q.tenant_id = w.tenant_id AND q.id = w.id AND (q.expire_at IS NULL OR q.expire_at > now()) OFFSET 0
) t

-- unfinished --
SELECT id FROM asynch_task WHERE tenant_id = %(tenant_id)s AND id = ANY(%(ids)s::bigint[]) AND NOT final

-- place --
-- How many due tasks are before this one in its lane, counted backwards from it and no further than `most`: near the
-- lane's beginning lie the dead entries that a held snapshot keeps.
SELECT a.ahead, a.capped, p.call_s, m.max_concurrency, m.enabled = 1 AND m.deleted_at IS NULL AS open,
       extract(epoch FROM now() - t.started_at)::float8 AS called_s
FROM asynch_task t
JOIN asynch_models m ON m.lane_id = t.lane_id
LEFT JOIN asynch_pace p ON p.lane_id = t.lane_id
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE b.enqueue_at <= now()) AS ahead, count(*) = %(most)s AS capped FROM (
        SELECT q.enqueue_at FROM asynch_task q
        WHERE q.lane_id = t.lane_id AND q.state = 0 AND q.phase = 0 AND t.state = 0
          AND (q.rank, q.enqueue_at, q.id) < (t.rank, t.enqueue_at, t.id)
        ORDER BY q.rank DESC, q.enqueue_at DESC, q.id DESC LIMIT %(most)s
    ) b
) a
WHERE t.tenant_id = %(tenant_id)s AND t.id = %(id)s

-- pace_of --
SELECT p.call_s FROM asynch_models m JOIN asynch_pace p ON p.lane_id = m.lane_id
WHERE m.tenant_id = %(tenant_id)s AND m.model_name = %(model_name)s AND m.deleted_at IS NULL

-- tell_pace --
-- How long calls of each lane took: a mean in which newer calls weigh more.
INSERT INTO asynch_pace AS p (lane_id, call_s)
SELECT t.lane_id, t.seconds / t.calls
FROM unnest(%(lanes)s::int[], %(calls)s::int[], %(seconds)s::float8[]) AS t(lane_id, calls, seconds) ORDER BY 1
ON CONFLICT (lane_id) DO UPDATE SET updated_at = now(),
    call_s = excluded.call_s + (p.call_s - excluded.call_s) * 0.7

-- names_object --
-- A row that is cancelled, or failed for good, has delivered nothing; run again, it stores its object again.
SELECT 1 AS named FROM asynch_task
WHERE tenant_id = %(tenant_id)s AND id = %(id)s AND oss_file = ANY(%(names)s::text[]) AND state + 0 <> 5 AND NOT (state + 0 = 3 AND final)
