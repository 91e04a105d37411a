-- Callbacks: the lanes of their receivers, the keys they are signed with, and their deliveries, which are tasks.

-- find_lanes --
SELECT m.model_name, m.lane_id FROM asynch_models m
WHERE m.tenant_id = %(tenant_id)s AND m.model_name = ANY(%(names)s::text[]) AND m.deleted_at IS NULL

-- count_receivers --
SELECT count(*) AS known FROM (
    SELECT 1 FROM asynch_models m WHERE m.tenant_id = %(tenant_id)s AND m.kind = 'webhook' AND m.deleted_at IS NULL LIMIT %(most)s) x

-- insert_receivers --
INSERT INTO asynch_models (tenant_id, kind, model_name, base_url, max_concurrency, queue_limit, timeout_seconds,
    retry_times, retry_on, retry_schedule, retry_queue_max_seconds)
SELECT %(tenant_id)s, 'webhook', n.name, n.base_url, %(at_once)s, 2147483647, %(timeout_s)s,
       cardinality(%(schedule)s::int[]), 'transient', %(schedule)s::int[], -1
FROM unnest(%(names)s::text[], %(base_urls)s::text[]) AS n(name, base_url) ORDER BY n.name
ON CONFLICT (tenant_id, model_name) WHERE deleted_at IS NULL DO NOTHING

-- list_webhook_keys --
-- The newest first.
SELECT secret FROM asynch_webhook_key
WHERE tenant_id = %(tenant_id)s AND (expire_at IS NULL OR expire_at > now()) ORDER BY id DESC

-- insert_webhook_key --
INSERT INTO asynch_webhook_key (tenant_id, creator, secret) VALUES (%(tenant_id)s, %(creator)s, %(secret)s)
ON CONFLICT (tenant_id) WHERE expire_at IS NULL DO NOTHING

-- retire_webhook_keys --
-- The current one may be believed for so long; those whose time is over go. Answers until when.
WITH over AS (
    DELETE FROM asynch_webhook_key WHERE tenant_id = %(tenant_id)s AND expire_at <= now()
)
UPDATE asynch_webhook_key SET expire_at = now() + make_interval(secs => %(valid_s)s)
WHERE tenant_id = %(tenant_id)s AND expire_at IS NULL RETURNING expire_at

-- notify_expiring --
WITH due AS MATERIALIZED (
    SELECT t.tenant_id, t.id FROM asynch_task t
    WHERE t.final AND t.expire_notice_seconds > 0
      AND (t.wake_at AT TIME ZONE 'UTC') - make_interval(secs => t.expire_notice_seconds) <= now() AT TIME ZONE 'UTC'
    ORDER BY (t.wake_at AT TIME ZONE 'UTC') - make_interval(secs => t.expire_notice_seconds)
    LIMIT %(most)s FOR UPDATE SKIP LOCKED
), marked AS (
    UPDATE asynch_task t SET expire_notice_seconds = -t.expire_notice_seconds
    FROM due d WHERE t.tenant_id = d.tenant_id AND t.id = d.id
    RETURNING t AS task
), told AS (
    INSERT INTO asynch_task (id, tenant_id, parent_id, lane_id, model_name, creator, biz_name, input_ref,
        request_payload, queue_timeout_seconds, wake_at, trace_context)
    SELECT d.* FROM marked m CROSS JOIN LATERAL asynch_delivery(m.task, 'task.expiring') d
)
SELECT (m.task).callback_lane AS lane_id FROM marked m

-- insert_delivery --
-- One that no task's end asks for: a test, or what was delivered before once more.
INSERT INTO asynch_task (id, tenant_id, parent_id, lane_id, model_name, creator, biz_name, input_ref, request_payload,
    queue_timeout_seconds, wake_at)
SELECT asynch_new_id(), m.tenant_id, %(parent_id)s, m.lane_id, m.model_name, %(creator)s, %(event)s, %(url)s,
       coalesce(%(snapshot)s::text, jsonb_build_object('type', %(event)s::text, 'timestamp', asynch_time(now()))::text),
       259200, now() + interval '3 days'
FROM asynch_models m WHERE m.lane_id = %(lane_id)s
RETURNING id

-- find_delivery --
SELECT d.id, d.parent_id, d.lane_id, d.biz_name, d.input_ref, d.request_payload
FROM asynch_task d WHERE d.tenant_id = %(tenant_id)s AND d.id = %(id)s AND starts_with(d.model_name, 'webhook:')

-- list_deliveries --
-- Among the tasks of the system, whose others work on files.
SELECT d.id, d.parent_id, d.biz_name, d.input_ref, coalesce(d.request_payload::jsonb ->> 'id', 'msg_' || d.id) AS message_id,
       d.state, d.final, d.attempt, d.attempts, d.error_code, d.error_msg, d.created_at, d.finished_at,
       CASE WHEN d.state = 3 AND NOT d.final THEN d.wake_at WHEN d.state = 0 THEN d.enqueue_at END AS next_attempt_at
FROM asynch_task d
WHERE d.tenant_id = %(tenant_id)s AND starts_with(d.model_name, 'webhook:')
  AND (%(parent_id)s::bigint IS NULL OR d.parent_id = %(parent_id)s)
  AND (%(event)s::text IS NULL OR d.biz_name = %(event)s)
  AND (%(state)s::smallint IS NULL OR d.state = %(state)s)
  AND (%(final)s::boolean IS NULL OR d.final = %(final)s)
ORDER BY d.id DESC LIMIT %(limit)s OFFSET %(offset)s

-- count_deliveries --
SELECT count(*) AS total FROM (
    SELECT 1 FROM asynch_task d
    WHERE d.tenant_id = %(tenant_id)s AND starts_with(d.model_name, 'webhook:')
      AND (%(parent_id)s::bigint IS NULL OR d.parent_id = %(parent_id)s)
      AND (%(event)s::text IS NULL OR d.biz_name = %(event)s)
      AND (%(state)s::smallint IS NULL OR d.state = %(state)s)
      AND (%(final)s::boolean IS NULL OR d.final = %(final)s)
    LIMIT %(cap)s) t
