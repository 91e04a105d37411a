-- Files and uploads. What is done to them is tasks of the system: those moves stand in moves.sql.

-- find_file_by_content --
SELECT f.id, f.key, f.name, f.ext, f.content_type FROM asynch_file f
WHERE f.tenant_id = %(tenant_id)s AND f.sha256 = %(sha256)s

-- find_file --
SELECT f.* FROM asynch_file f WHERE f.tenant_id = %(tenant_id)s AND f.id = %(id)s

-- list_children --
SELECT f.* FROM asynch_file f WHERE f.tenant_id = %(tenant_id)s AND f.parent = %(id)s ORDER BY f.id LIMIT 1000

-- insert_file --
-- No row where the tenant has this content already.
INSERT INTO asynch_file (tenant_id, creator, updater, sha256, name, ext, content_type, size, stored_size, key, scene,
    upload_id, tags, parent, generation)
VALUES (%(tenant_id)s, %(creator)s, %(creator)s, %(sha256)s, %(name)s, %(ext)s, %(content_type)s, %(size)s,
    %(stored_size)s, %(key)s, %(scene)s, %(upload_id)s, %(tags)s::text[], %(parent)s, %(generation)s)
ON CONFLICT (tenant_id, sha256) DO NOTHING RETURNING id, key, content_type

-- draw_upload_id --
SELECT asynch_new_id() AS id

-- host_works --
-- Whether workers of a host have been heard of lately.
SELECT EXISTS (SELECT 1 FROM asynch_host h
               WHERE h.id = %(tmp_host)s AND h.seen_at > now() - make_interval(secs => %(grace_s)s)) AS works

-- insert_upload --
INSERT INTO asynch_upload (id, tenant_id, "user", filename, file_hash, file_size, content_type, status, oss_path,
    repository_identity, scene, upload_id, tags, metadata, tmp_host, upload_headers, parts, completed_at, duration)
VALUES (coalesce(%(id)s::bigint, asynch_new_id()), %(tenant_id)s, %(user)s, %(filename)s, %(file_hash)s, %(file_size)s, %(content_type)s, %(status)s, %(oss_path)s,
    %(identity)s, %(scene)s, %(upload_id)s, %(tags)s::text[], %(metadata)s, %(tmp_host)s, %(upload_headers)s, %(parts)s, CASE %(identity)s WHEN '' THEN NULL ELSE now() END,
    CASE %(identity)s WHEN '' THEN NULL ELSE 0 END)
RETURNING id

-- end_upload --
UPDATE asynch_upload u
SET status = %(status)s, error_msg = %(error_msg)s, oss_path = %(oss_path)s, repository_identity = %(identity)s,
    content_type = coalesce(nullif(%(content_type)s, ''), u.content_type), updated_at = now(), completed_at = now(), duration = extract(epoch FROM now() - u.created_at)
WHERE u.tenant_id = %(tenant_id)s AND u.id = %(id)s AND u.status NOT IN ('completed', 'failed')

-- note_received --
-- All bytes of an upload are there; no row where it was noted before, or has ended. `|| ''` keeps the
-- planner on the primary key.
WITH whole AS MATERIALIZED (
    SELECT u.tenant_id, u.id, u."user", u.upload_headers FROM asynch_upload u
    WHERE u.tenant_id = %(tenant_id)s AND u.id = %(id)s AND u.status || '' = 'pending' FOR UPDATE
)
UPDATE asynch_upload u
SET status = 'received', content_type = %(content_type)s, scene = coalesce(%(scene)s::text, u.scene), upload_headers = '',
    parts = greatest(u.parts, %(parts)s),
    updated_at = now()
FROM whole w WHERE u.tenant_id = w.tenant_id AND u.id = w.id
RETURNING w."user", w.upload_headers

-- note_hash --
UPDATE asynch_upload u SET file_hash = %(sha256)s, updated_at = now()
WHERE u.tenant_id = %(tenant_id)s AND u.id = %(id)s AND u.file_hash = ''

-- put_cover --
-- To the file that a task was made for. The task alone first: seen together with its file, it would be looked for
-- among all of the tenant that were made for one.
WITH task AS MATERIALIZED (
    SELECT t.parent_id FROM asynch_task t WHERE t.tenant_id = ~%(tenant_id)s::bigint AND t.id = %(task_id)s
), file AS MATERIALIZED (
    SELECT f.tenant_id, f.id, f.cover_key FROM task t
    JOIN asynch_file f ON f.tenant_id = %(tenant_id)s AND f.id = t.parent_id FOR UPDATE OF f
)
UPDATE asynch_file f SET cover_key = %(key)s, updated_at = now()
FROM file o WHERE f.tenant_id = o.tenant_id AND f.id = o.id
RETURNING o.cover_key AS former

-- add_tags --
-- Each once, in the order they came, up to so many.
UPDATE asynch_file f
SET updated_at = now(), tags = ARRAY(
    SELECT x.tag FROM (
        SELECT u.tag, min(u.n) AS n FROM unnest(f.tags || %(tags)s::text[]) WITH ORDINALITY AS u(tag, n) GROUP BY u.tag
    ) x ORDER BY x.n LIMIT %(most)s)
WHERE f.tenant_id = %(tenant_id)s AND f.id = %(id)s

-- lock_upload --
SELECT u.* FROM asynch_upload u WHERE u.tenant_id = %(tenant_id)s AND u.id = %(id)s FOR UPDATE

-- find_upload --
SELECT u.*, t.state, t.phase, t.final, t.progress, t.message, t.error_msg AS task_error, t.version,
       t.updated_at AS task_updated_at
FROM asynch_upload u LEFT JOIN asynch_task t ON t.tenant_id = ~u.tenant_id AND t.id = u.id
WHERE u.tenant_id = %(tenant_id)s AND u.id = %(id)s

-- list_uploads --
SELECT u.*, t.state, t.phase, t.final, t.progress, t.message, t.error_msg AS task_error, t.version,
       t.updated_at AS task_updated_at
FROM asynch_upload u LEFT JOIN asynch_task t ON t.tenant_id = ~u.tenant_id AND t.id = u.id
WHERE u.tenant_id = %(tenant_id)s AND u."user" = %(user)s
ORDER BY u.id DESC LIMIT %(limit)s OFFSET %(offset)s

-- count_uploads --
SELECT count(*) AS total FROM (
    SELECT 1 FROM asynch_upload u WHERE u.tenant_id = %(tenant_id)s AND u."user" = %(user)s LIMIT %(cap)s) x

-- known_incoming --
-- Which received files somebody still needs: of uploads whose bytes still come, or whose task is not done.
SELECT f.name FROM unnest(%(names)s::text[], %(tenants)s::bigint[], %(ids)s::bigint[]) AS f(name, tenant_id, id)
JOIN asynch_upload u ON u.tenant_id = f.tenant_id AND u.id = f.id
LEFT JOIN asynch_task t ON t.tenant_id = ~f.tenant_id AND t.id = f.id
WHERE u.status = 'pending' OR (u.status NOT IN ('completed', 'failed') AND NOT t.final)

-- pending_uploads --
-- Of these uploads, those whose bytes still come, with their length.
SELECT u.tenant_id, u.id, u.file_size FROM unnest(%(tenants)s::bigint[], %(ids)s::bigint[]) AS k(tenant_id, id)
JOIN asynch_upload u ON u.tenant_id = k.tenant_id AND u.id = k.id
WHERE u.status || '' = 'pending'

-- expire_uploads --
-- Fails uploads into storage that were never confirmed, and those whose host has not been heard of since.
WITH due AS MATERIALIZED (
    SELECT u.tenant_id, u.id FROM asynch_upload u
    WHERE u.status = 'pending' AND u.created_at < now() - make_interval(secs => %(ttl_s)s)
      AND (u.parts > 0 OR NOT EXISTS (
          SELECT 1 FROM asynch_host h WHERE h.id = u.tmp_host AND h.seen_at > now() - make_interval(secs => %(ttl_s)s)))
    ORDER BY u.created_at LIMIT %(most)s FOR UPDATE SKIP LOCKED
)
UPDATE asynch_upload u
SET status = 'failed', error_msg = 'its bytes did not come in time', updated_at = now(), completed_at = now(),
    duration = extract(epoch FROM now() - u.created_at), upload_headers = ''
FROM due d WHERE u.tenant_id = d.tenant_id AND u.id = d.id
RETURNING u.tenant_id, u.id, u.parts

-- insert_lane --
-- A lane of the system's own work.
INSERT INTO asynch_models (tenant_id, kind, model_name, base_url, tmp_host, max_concurrency, queue_limit,
    timeout_seconds, retry_times, retry_on, retry_schedule, retry_queue_max_seconds, max_result_bytes)
VALUES (%(tenant_id)s, 'processor', %(name)s, %(base_url)s, %(tmp_host)s, %(at_once)s, 2147483647,
    %(timeout_s)s, cardinality(%(schedule)s::int[]), 'transient', %(schedule)s::int[], -1, 9223372036854775807)
ON CONFLICT (tenant_id, model_name) WHERE deleted_at IS NULL DO NOTHING

-- insert_work --
-- Tasks of the system's own: in its lanes, or in models', on behalf of their tenants.
INSERT INTO asynch_task (id, tenant_id, parent_id, lane_id, model_name, creator, input_ref, request_payload,
    queue_timeout_seconds, enqueue_at, wake_at, trace_context, upload_headers, timeout_seconds, retry_schedule)
SELECT coalesce(w.id, asynch_new_id()), least(m.tenant_id, ~m.tenant_id), w.parent_id, m.lane_id, m.model_name, w.creator,
       w.input_ref, w.payload, w.queue_timeout_s, now() + make_interval(secs => w.delay_s),
       now() + make_interval(secs => w.delay_s + w.queue_timeout_s), w.trace_context, w.upload_headers, w.timeout_s,
       w.schedule_s
FROM jsonb_to_recordset(%(work)s::jsonb) AS w(
    id bigint, parent_id bigint, lane_id int, creator text, input_ref text, payload text, queue_timeout_s int, delay_s int,
    trace_context text, upload_headers text, timeout_s int, schedule_s int[])
CROSS JOIN LATERAL (SELECT * FROM asynch_models l WHERE l.lane_id = w.lane_id OFFSET 0) m

-- note_unneeded --
INSERT INTO asynch_unneeded (key) SELECT unnest(%(keys)s::text[]) ON CONFLICT DO NOTHING

-- left_unneeded --
SELECT u.key FROM asynch_unneeded u
WHERE u.created_at < now() - make_interval(secs => %(older_s)s) AND (u.due_at IS NULL OR u.due_at <= now())
ORDER BY coalesce(u.due_at, u.created_at) LIMIT %(most)s

-- defer_unneeded --
UPDATE asynch_unneeded u SET due_at = now() + make_interval(secs => %(pause_s)s) WHERE u.key = ANY(%(keys)s::text[])

-- forget_unneeded --
DELETE FROM asynch_unneeded u WHERE u.key = ANY(%(keys)s::text[])
