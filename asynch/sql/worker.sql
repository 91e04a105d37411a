-- Workers and hosts.

-- new_worker_id --
SELECT nextval('asynch_worker_id') AS id

-- try_lock --
SELECT pg_try_advisory_lock(%(key)s::bigint) AS held

-- own_locks --
SELECT pg_backend_pid() AS pid, (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()) AS locks

-- insert_worker --
-- Its host is heard of at once: results that wait there since its last worker must not be lost before the first beat.
WITH host AS (
    INSERT INTO asynch_host AS h (id, name, media_processes, permit_id)
    VALUES (%(tmp_host)s, %(host)s, %(media)s, nextval('asynch_lane'))
    ON CONFLICT (id) DO UPDATE SET seen_at = now(), name = excluded.name, media_processes = excluded.media_processes,
        permit_id = coalesce(h.permit_id, excluded.permit_id)
)
INSERT INTO asynch_worker (id, host, pid, tmp_host, threads)
VALUES (%(worker_id)s, %(host)s, %(pid)s, %(tmp_host)s, %(threads)s)

-- beat --
WITH host AS (
    INSERT INTO asynch_host (id, name) VALUES (%(tmp_host)s, %(host)s)
    ON CONFLICT (id) DO UPDATE SET seen_at = now(), name = excluded.name
)
UPDATE asynch_worker SET seen_at = now(), info = %(info)s::jsonb
WHERE id = %(worker_id)s AND dead_at IS NULL RETURNING id

-- terminate_silent --
-- Ends the sessions of workers that hold their lock but have been silent: frozen, or cut off without a sign. Only of
-- this database: another one on the server has workers of the same names.
SELECT w.id, count(pg_terminate_backend(a.pid)) AS sessions
FROM asynch_worker w
JOIN pg_stat_activity a ON a.application_name = 'asynch-worker-' || w.id AND a.datname = current_database()
WHERE w.id <> %(worker_id)s AND w.seen_at < now() - make_interval(secs => %(silence_s)s)
GROUP BY w.id

-- claim_dead --
-- The dead whose mourning is over, for one rescuer at a time. A database restart since their start charges nobody; the
-- one after a crash of a backend ends all sessions too, but only the checkpointer's age tells of it.
SELECT w.id, w.host, w.started_at >= greatest(pg_postmaster_start_time(),
    (SELECT min(a.backend_start) FROM pg_stat_activity a WHERE a.backend_type = 'checkpointer')) AS charged
FROM asynch_worker w
WHERE w.dead_at <= now() - make_interval(secs => %(grace_s)s) AND w.id <> %(worker_id)s
ORDER BY w.id FOR UPDATE SKIP LOCKED

-- end_sessions --
-- What is left of the sessions of a worker that is given up: a proxy may keep one, with its locks, for ever.
SELECT pg_terminate_backend(a.pid, 1000) FROM pg_stat_activity a
WHERE a.application_name = 'asynch-worker-' || %(worker)s::text AND a.datname = current_database()

-- bury --
-- Forgets a worker, unless a task of it is still in state 1 (its row was locked, say): then the next rescue comes.
DELETE FROM asynch_worker w WHERE w.id = %(worker)s
  AND NOT EXISTS (SELECT 1 FROM asynch_task t WHERE t.state = 1 AND t.worker_id = w.id)

-- cancelled_claims --
-- Which of a worker's own claims the user wants ended.
SELECT t.tenant_id, t.id, t.attempt
FROM unnest(%(tenants)s::bigint[], %(ids)s::bigint[]) AS c(tenant_id, id)
JOIN asynch_task t ON t.tenant_id = c.tenant_id AND t.id = c.id
WHERE t.cancel_requested AND t.worker_id = %(worker_id)s

-- known_files --
-- Which files of a tmp_dir somebody still needs: saved results, and results on their way.
SELECT f.name
FROM unnest(%(names)s::text[], %(tenants)s::bigint[], %(ids)s::bigint[], %(attempts)s::int[]) AS f(name, tenant_id, id, attempt)
JOIN asynch_task t ON t.tenant_id = f.tenant_id AND t.id = f.id
WHERE t.tmp_file = f.name OR (t.state + 0 = 1 AND t.attempt = f.attempt)

-- find_attempt --
-- When an attempt of a task began, as its record says, and the object that the task names.
SELECT (r.record ->> 'startedAt')::timestamptz AS began, t.oss_file
FROM asynch_task t CROSS JOIN LATERAL jsonb_array_elements(t.attempts) AS r(record)
WHERE t.tenant_id = %(tenant_id)s AND t.id = %(id)s AND (r.record ->> 'attempt')::int = %(attempt)s
LIMIT 1

-- list_workers --
-- The living: heard of lately, and their locks are held. A lock taken here goes with the statement.
SELECT w.id, w.host, w.pid, w.tmp_host, w.threads, w.started_at, w.seen_at, w.info FROM asynch_worker w
WHERE w.dead_at IS NULL AND w.seen_at > now() - interval '20 seconds' AND NOT pg_try_advisory_xact_lock_shared(w.id)
ORDER BY w.id

-- own_claims --
SELECT t.id, t.attempt FROM asynch_task t WHERE t.state = 1 AND t.worker_id = %(worker_id)s
