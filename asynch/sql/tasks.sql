-- Tasks: their creation, and all reading of them.

-- insert_tasks, plan kept --
-- One JSON text brings all rows: for 10,000 of them it is written and read several times faster than an array a column.
-- It is read once for all that is told of tasks: the op log, whose rows take their tasks' ids, and the statistics, one
-- row a bizName. `logged` is what the op log shows where that is not the payload itself. Their ids were drawn in this
-- session, behind the locks of the lanes.
WITH item AS MATERIALIZED (
    SELECT t.* FROM json_to_recordset(%(tasks)s::json) AS t(id bigint, lane_id int, model_name text, rank smallint,
        delay_s float8, not_before timestamptz, queue_timeout_s int, expire_notice_s int, biz_name text, client_ref text,
        metadata text, input_ref text, request_payload text, callback_url text, callback_lane int, logged text)
), created AS (
    INSERT INTO asynch_task (id, tenant_id, lane_id, model_name, creator, updater, rank, enqueue_at, wake_at,
        queue_timeout_seconds, expire_notice_seconds, biz_name, client_ref, metadata, input_ref, request_payload, callback_url,
        callback_lane, trace_context, upload_headers, entry)
    SELECT t.id, %(tenant_id)s, t.lane_id, t.model_name, %(creator)s, %(creator)s, t.rank,
           d.due, d.due + make_interval(secs => coalesce(t.queue_timeout_s, %(queue_timeout_s)s::float8)),
           t.queue_timeout_s, t.expire_notice_s, coalesce(t.biz_name, ''), coalesce(t.client_ref, ''), t.metadata, t.input_ref,
           t.request_payload, coalesce(t.callback_url, ''), t.callback_lane, %(trace_context)s, %(upload_headers)s,
           currval('asynch_id')
    FROM item t
    CROSS JOIN LATERAL (
        SELECT greatest(now(), coalesce(t.not_before, now() + make_interval(secs => coalesce(t.delay_s, 0)))) AS due) d
), noted AS (
    INSERT INTO asynch_op_log (id, tenant_id, creator, updater, ip, user_agent, api_path, http_method, biz_name, model_name,
        task_id, op_type, cost_ms, request_payload)
    SELECT t.id, %(tenant_id)s, %(creator)s, %(creator)s, %(ip)s, %(user_agent)s, %(api_path)s, %(http_method)s,
           coalesce(t.biz_name, ''), t.model_name, t.id::text, 'createTask', %(cost_ms)s,
           coalesce(t.logged, t.request_payload, '')
    FROM item t
)
INSERT INTO asynch_biz_tally (day, tenant_id, creator, biz_name, request_count)
SELECT (now() AT TIME ZONE %(timezone)s)::date, %(tenant_id)s, %(creator)s, coalesce(t.biz_name, ''), count(*)
FROM item t GROUP BY coalesce(t.biz_name, '')

-- begin_idempotent --
INSERT INTO asynch_idempotency (tenant_id, path, key, body_hash)
VALUES (%(tenant_id)s, %(path)s, %(key)s, %(body_hash)s) ON CONFLICT DO NOTHING RETURNING key

-- find_idempotent --
SELECT body_hash, answer FROM asynch_idempotency
WHERE tenant_id = %(tenant_id)s AND path = %(path)s AND key = %(key)s AND created_at > now() - interval '24 hours'

-- forget_stale_key --
DELETE FROM asynch_idempotency WHERE tenant_id = %(tenant_id)s AND path = %(path)s AND key = %(key)s
  AND created_at <= now() - interval '24 hours'

-- end_idempotent --
UPDATE asynch_idempotency SET answer = %(answer)s::jsonb
WHERE tenant_id = %(tenant_id)s AND path = %(path)s AND key = %(key)s

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
