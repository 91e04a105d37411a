-- All writes to asynch_task.state stand in this file; each is one event of asynch/domain/states.py. A move that ends a
-- task also inserts the task that delivers its callback (`told`): both are there, or neither.

-- claim, plan kept --
-- CLAIM. `lanes` with the slots won in each, and where each rank begins; a statement of its own, because a snapshot
-- older than the locks would let a lane run more than its slots. A rank is read at a time, so tasks due later never lie
-- in the way of those due; where nobody has a priority, one look tells it of the ranks 0 to 17. Where a model works on
-- already it is only asked again: before any new call, and of a disabled model too, as what runs may end.
-- Statistics ride along: a claim of phase 0 is a call that starts, unless the model works on.
-- Nothing is claimed when somebody has died of whom the caller does not know: the calls of the dead may still be open.
WITH dead AS MATERIALIZED (
    SELECT count(*) AS n FROM asynch_worker w
    WHERE w.id <> %(worker_id)s AND w.id <> ALL(%(known_dead)s::bigint[]) AND pg_try_advisory_xact_lock_shared(w.id)
), want AS MATERIALIZED (
    SELECT w.lane_id, w.n, w.starts::timestamptz[] AS starts
    FROM dead d CROSS JOIN unnest(%(lanes)s::int[], %(counts)s::int[], %(starts)s::text[]) AS w(lane_id, n, starts)
    WHERE d.n = 0
), picked AS MATERIALIZED (
    SELECT t.tenant_id, t.id, t.lane_id
    FROM want w
    -- LATERAL and OFFSET hold the planner to one probe a lane, also of a table that was never analysed.
    CROSS JOIN LATERAL (
        SELECT m.enabled FROM asynch_models m WHERE m.lane_id = w.lane_id AND m.deleted_at IS NULL OFFSET 0
    ) open
    CROSS JOIN LATERAL (
        SELECT x.tenant_id, x.id, w.lane_id
        FROM (
            SELECT p.tenant_id, p.id FROM (
                SELECT q.tenant_id, q.id FROM asynch_task q
                WHERE q.lane_id = w.lane_id AND q.state = 0 AND q.phase = 0 AND q.poll_url <> ''
                ORDER BY q.enqueue_at
                LIMIT w.n FOR UPDATE SKIP LOCKED
            ) p
            UNION ALL
            SELECT c.tenant_id, c.id
            FROM generate_series(CASE WHEN array_to_string(w.starts[1:18], '') = '' AND NOT EXISTS (
                SELECT 1 FROM asynch_task q
                WHERE q.lane_id = w.lane_id AND q.state = 0 AND q.phase = 0 AND q.rank < 18
            ) THEN 18 ELSE 0 END, 19) AS r(rank)
            CROSS JOIN LATERAL (
                SELECT q.tenant_id, q.id FROM asynch_task q
                WHERE q.lane_id = w.lane_id AND q.state = 0 AND q.phase = 0 AND q.rank = r.rank AND q.poll_url = ''
                  AND q.enqueue_at >= coalesce(w.starts[r.rank + 1], '-infinity') AND q.enqueue_at <= now()
                ORDER BY q.enqueue_at, q.id
                LIMIT w.n FOR UPDATE SKIP LOCKED
            ) c
            WHERE open.enabled = 1
        ) x
        LIMIT w.n
    ) t
), claimed AS (
    UPDATE asynch_task t
    SET state = 1, attempt = t.attempt + 1, worker_id = %(worker_id)s, updated_at = now(), wake_at = NULL,
        version = t.version + 1, call_attempt = CASE t.poll_url WHEN '' THEN t.attempt + 1 ELSE t.call_attempt END,
        started_at = CASE t.poll_url WHEN '' THEN now() ELSE t.started_at END,
        progress = CASE t.poll_url WHEN '' THEN NULL ELSE t.progress END,
        message = CASE t.poll_url WHEN '' THEN '' ELSE t.message END
    FROM picked p
    WHERE t.tenant_id = p.tenant_id AND t.id = p.id
    RETURNING t.*
), counted AS (
    INSERT INTO asynch_model_tally (day, tenant_id, creator, model_name, request_count)
    SELECT (now() AT TIME ZONE %(timezone)s)::date, o.tenant_id, c.creator, c.model_name, count(*)
    FROM claimed c
    CROSS JOIN LATERAL (SELECT greatest(c.tenant_id, ~c.tenant_id) AS tenant_id) o  -- the system's are done for a tenant
    CROSS JOIN LATERAL (SELECT 1 FROM asynch_models l WHERE l.lane_id = c.lane_id AND l.kind = 'model' OFFSET 0) m
    WHERE c.poll_url = ''
    GROUP BY o.tenant_id, c.creator, c.model_name
)
SELECT c.tenant_id, c.id, c.lane_id, c.attempt, c.worker_id, c.phase, c.rank, c.retry_count, c.upload_failures,
       CASE c.poll_url WHEN '' THEN c.request_payload END AS request_payload, c.input_ref, c.tmp_file, c.tmp_host,
       c.oss_file, c.file_type, c.content_type, c.file_size, c.sha256, c.creator, c.model_name, c.trace_context,
       c.upload_headers, c.poll_url, c.call_attempt, c.started_at, now() AS claimed_at,
       extract(epoch FROM now() - c.enqueue_at)::float8 AS waited_s,
       extract(epoch FROM now() - c.created_at)::float8 AS age_s,
       m.base_url, m.route, m.http_method, m.api_key, coalesce(c.timeout_seconds, m.timeout_seconds) AS timeout_seconds,
       coalesce(cardinality(c.retry_schedule), m.retry_times) AS retry_times, m.retry_queue_max_seconds, m.retry_on,
       m.retry_backoff_seconds, coalesce(c.retry_schedule, m.retry_schedule) AS retry_schedule, m.max_result_bytes
FROM claimed c CROSS JOIN LATERAL (SELECT * FROM asynch_models l WHERE l.lane_id = c.lane_id OFFSET 0) m
ORDER BY c.rank, c.enqueue_at, c.id

-- claim_uploads, plan kept --
-- CLAIM of phase 1: saved results of this host whose upload is due. No slot, no statistics.
WITH picked AS MATERIALIZED (
    SELECT q.tenant_id, q.id FROM asynch_task q
    WHERE q.state = 0 AND q.phase = 1 AND q.tmp_host = %(tmp_host)s AND q.enqueue_at <= now()
    ORDER BY q.enqueue_at LIMIT %(most)s FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE asynch_task t
    SET state = 1, attempt = t.attempt + 1, worker_id = %(worker_id)s, updated_at = now(), wake_at = NULL,
        version = t.version + 1
    FROM picked p
    WHERE t.tenant_id = p.tenant_id AND t.id = p.id
    RETURNING t.*
)
SELECT c.tenant_id, c.id, c.lane_id, c.attempt, c.worker_id, c.phase, c.rank, c.retry_count, c.upload_failures,
       c.request_payload, c.input_ref, c.tmp_file, c.tmp_host, c.oss_file, c.file_type, c.content_type, c.file_size,
       c.sha256, c.creator, c.model_name, c.trace_context, c.upload_headers, c.poll_url, c.call_attempt, c.started_at,
       now() AS claimed_at,
       extract(epoch FROM now() - c.enqueue_at)::float8 AS waited_s,
       extract(epoch FROM now() - c.created_at)::float8 AS age_s,
       m.base_url, m.route, m.http_method, m.api_key, coalesce(c.timeout_seconds, m.timeout_seconds) AS timeout_seconds,
       coalesce(cardinality(c.retry_schedule), m.retry_times) AS retry_times, m.retry_queue_max_seconds, m.retry_on,
       m.retry_backoff_seconds, coalesce(c.retry_schedule, m.retry_schedule) AS retry_schedule, m.max_result_bytes
FROM claimed c CROSS JOIN LATERAL (SELECT * FROM asynch_models l WHERE l.lane_id = c.lane_id OFFSET 0) m

-- settle, plan kept --
-- DEFER, SAVE, DELIVER, FAIL, GIVE_UP, RELEASE, LOSE, CANCEL by the holder of the claim, many at once. Fenced by
-- attempt and worker; a row that does not come back is someone else's now. `state + 0` keeps the planner on the primary key.
WITH moved AS (
    UPDATE asynch_task t
    SET state = o.state, final = o.final, phase = o.phase, rank = o.rank,
        enqueue_at = CASE WHEN o.enqueue_in_s IS NULL THEN t.enqueue_at ELSE now() + make_interval(secs => o.enqueue_in_s) END,
        wake_at = CASE WHEN o.wake_in_s IS NOT NULL THEN now() + make_interval(secs => o.wake_in_s)
                       WHEN o.state = 0 AND o.phase = 0
                       THEN now() + make_interval(secs => coalesce(t.queue_timeout_seconds, %(queue_timeout_s)s::float8)) END,
        finished_at = CASE WHEN o.finished THEN now() ELSE t.finished_at END,
        tmp_file = o.tmp_file, tmp_host = o.tmp_host, oss_file = o.oss_file, file_type = o.file_type,
        content_type = o.content_type, file_size = o.file_size, sha256 = o.sha256,
        error_code = o.error_code, error_msg = o.error_msg, error_retryable = o.error_retryable,
        upload_failures = o.upload_failures, poll_url = o.poll_url, cancel_requested = t.cancel_requested AND o.state = 1,
        upload_headers = CASE WHEN o.final THEN '' ELSE t.upload_headers END,
        attempts = (CASE WHEN jsonb_array_length(t.attempts) < 20 - (o.before IS NOT NULL)::int THEN t.attempts
                         WHEN o.before IS NULL OR jsonb_array_length(t.attempts) < 20 THEN t.attempts - 0
                         ELSE t.attempts - 0 - 0 END)
            || coalesce(o.before || jsonb_build_object('finishedAt', asynch_time(now())), '[]')
            || (jsonb_build_object('startedAt', asynch_time(now())) || o.record
                || jsonb_build_object('finishedAt', asynch_time(now()))),
        version = t.version + 1, updated_at = now()
    FROM jsonb_to_recordset(%(outcomes)s::jsonb) AS o(
        tenant_id bigint, id bigint, attempt int, worker_id bigint, state smallint, final boolean, phase smallint,
        rank smallint, enqueue_in_s float8, wake_in_s float8, finished boolean, tmp_file text, tmp_host text,
        oss_file text, file_type text, content_type text, file_size bigint, sha256 text, error_code text, error_msg text,
        error_retryable boolean, upload_failures int, poll_url text, before jsonb, record jsonb)
    WHERE t.tenant_id = o.tenant_id AND t.id = o.id AND t.attempt = o.attempt AND t.worker_id = o.worker_id
      AND t.state + 0 = 1
    RETURNING t.id, t.attempt, CASE WHEN t.final AND t.callback_lane IS NOT NULL THEN t END AS task
), told AS (
    INSERT INTO asynch_task (id, tenant_id, parent_id, lane_id, model_name, creator, biz_name, input_ref,
        request_payload, queue_timeout_seconds, wake_at, trace_context)
    SELECT d.* FROM moved m CROSS JOIN LATERAL asynch_delivery(m.task, asynch_event(m.task)) d
    WHERE (m.task).id IS NOT NULL
)
SELECT m.id, m.attempt, now() AS at, (m.task).callback_lane FROM moved m

-- rescue --
-- RESCUE, CRASH, CANCEL: what dead workers left in state 1, or (`ids`) a living one has no longer in hand. `charged`
-- says whether their end may be the tasks' fault; of one whose model works on it never is.
WITH orphan AS MATERIALIZED (
    SELECT t.tenant_id, t.id,
           CASE WHEN t.cancel_requested THEN 5
                WHEN %(charged)s AND t.phase = 0 AND t.poll_url = '' AND t.crash_count + 1 >= %(max_crashes)s THEN 3
                ELSE 0 END AS state
    FROM asynch_task t
    WHERE t.state = 1 AND t.worker_id = ANY(%(workers)s::bigint[])
      AND (%(ids)s::bigint[] IS NULL OR t.id = ANY(%(ids)s::bigint[]))
    LIMIT %(most)s FOR UPDATE SKIP LOCKED
), moved AS (
    UPDATE asynch_task t
    SET state = o.state, final = o.state <> 0,
        wake_at = CASE WHEN o.state <> 0 THEN now() + make_interval(secs => %(failed_retention_s)s)
                       WHEN t.phase = 0
                       THEN now() + make_interval(secs => coalesce(t.queue_timeout_seconds, %(queue_timeout_s)s::float8)) END,
        crash_count = t.crash_count + CASE WHEN %(charged)s AND t.phase = 0 AND t.poll_url = '' THEN 1 ELSE 0 END,
        finished_at = CASE WHEN o.state <> 0 THEN now() ELSE t.finished_at END,
        error_code = CASE o.state WHEN 5 THEN 'cancelled' WHEN 3 THEN 'crashed' ELSE t.error_code END,
        error_msg = CASE o.state WHEN 5 THEN 'cancelled by the user' WHEN 3 THEN 'every worker that ran it ended abnormally'
                    ELSE t.error_msg END,
        error_retryable = CASE WHEN o.state = 3 THEN false ELSE t.error_retryable END,
        cancel_requested = false, upload_headers = CASE o.state WHEN 0 THEN t.upload_headers ELSE '' END,
        attempts = (CASE WHEN jsonb_array_length(t.attempts) >= 20 THEN t.attempts - 0 ELSE t.attempts END)
            || jsonb_build_object('attempt', t.attempt, 'startedAt', asynch_time(t.started_at), 'finishedAt', asynch_time(now()),
                'host', %(host)s::text, 'phase', t.phase, 'outcome', 'worker_lost', 'code', NULL, 'httpStatus', NULL,
                'detail', 'its worker stopped answering'),
        version = t.version + 1, updated_at = now()
    FROM orphan o
    WHERE t.tenant_id = o.tenant_id AND t.id = o.id
    RETURNING t.lane_id, t.state, CASE WHEN t.final AND t.callback_lane IS NOT NULL THEN t END AS task,
              t.tenant_id, t.id, t.attempt, t.started_at, t.error_msg
), tried AS (  -- of actions, whose every try is told
    INSERT INTO asynch_action_log (tenant_id, task_id, file_id, rule_id, version, action_name, attempt, outcome, seconds,
        error_msg)
    SELECT a.tenant_id, a.id, a.file_id, a.rule_id, a.version, a.action_name, m.attempt, 'failed',
           extract(epoch FROM now() - m.started_at), 'its worker stopped answering'
    FROM moved m JOIN asynch_action a ON a.tenant_id = ~m.tenant_id AND a.id = m.id
    WHERE m.tenant_id < 0
), ended AS (
    UPDATE asynch_action a SET status = 'failed', error_msg = m.error_msg, completed_at = now()
    FROM moved m
    WHERE m.state <> 0 AND m.tenant_id < 0 AND a.tenant_id = ~m.tenant_id AND a.id = m.id AND a.status = 'pending'
), told AS (
    INSERT INTO asynch_task (id, tenant_id, parent_id, lane_id, model_name, creator, biz_name, input_ref,
        request_payload, queue_timeout_seconds, wake_at, trace_context)
    SELECT d.* FROM moved m CROSS JOIN LATERAL asynch_delivery(m.task, asynch_event(m.task)) d
    WHERE (m.task).id IS NOT NULL
)
SELECT m.lane_id, m.state FROM moved m

-- retry_due --
-- RETRY: back-off over. Rank and enqueue_at were decided with the failure.
WITH due AS MATERIALIZED (
    SELECT t.tenant_id, t.id FROM asynch_task t
    WHERE t.state = 3 AND NOT t.final AND t.wake_at <= now()
    ORDER BY t.wake_at LIMIT %(most)s FOR UPDATE SKIP LOCKED
)
UPDATE asynch_task t
SET state = 0, retry_count = t.retry_count + CASE WHEN t.phase = 0 THEN 1 ELSE 0 END, poll_url = '',
    wake_at = CASE WHEN t.phase = 0
              THEN now() + make_interval(secs => coalesce(t.queue_timeout_seconds, %(queue_timeout_s)s::float8)) END,
    version = t.version + 1, updated_at = now()
FROM due d
WHERE t.tenant_id = d.tenant_id AND t.id = d.id
RETURNING t.lane_id

-- rerun --
-- RERUN: final failed or cancelled tasks run again from their phase, their retries renewed, at the tail: uploads of a
-- saved result are tried for as long again. Not those whose time is over: the purge may have removed their objects.
-- They enter a lane like new tasks, so they draw numbers: the rooms of all creators depend on it.
UPDATE asynch_task t
SET state = 0, final = false, retry_count = 0, crash_count = 0, upload_failures = 0, poll_url = '', enqueue_at = now(),
    entry = nextval('asynch_id'), rank = t.rank | 1, started_at = CASE t.phase WHEN 1 THEN now() ELSE t.started_at END,
    expire_at = NULL, finished_at = NULL, error_code = '', error_msg = '', error_retryable = NULL,
    expire_notice_seconds = abs(t.expire_notice_seconds),
    wake_at = CASE WHEN t.phase = 0
              THEN now() + make_interval(secs => coalesce(t.queue_timeout_seconds, %(queue_timeout_s)s::float8)) END,
    updater = %(updater)s, version = t.version + 1, updated_at = now()
FROM (SELECT q.id FROM asynch_task q
      WHERE q.tenant_id = %(tenant_id)s AND q.id = ANY(%(ids)s::bigint[]) AND q.state + 0 IN (3, 5) AND q.final
        AND q.wake_at > now()
      ORDER BY q.id FOR UPDATE) q, asynch_models m
WHERE t.tenant_id = %(tenant_id)s AND t.id = q.id AND m.lane_id = t.lane_id AND m.deleted_at IS NULL
RETURNING t.id, t.lane_id

-- cancel --
-- CANCEL: who waits is cancelled at once; who runs is marked, and its worker (or the rescue) cancels it.
WITH moved AS (
    UPDATE asynch_task t
    SET state = CASE WHEN t.state = 1 THEN 1 ELSE 5 END,
        final = t.state <> 1,
        cancel_requested = t.state = 1,
        wake_at = CASE WHEN t.state = 1 THEN t.wake_at ELSE now() + make_interval(secs => %(failed_retention_s)s) END,
        finished_at = CASE WHEN t.state = 1 THEN t.finished_at ELSE now() END,
        error_code = CASE WHEN t.state = 1 THEN t.error_code ELSE 'cancelled' END,
        error_msg = CASE WHEN t.state = 1 THEN t.error_msg ELSE 'cancelled by the user' END,
        error_retryable = CASE WHEN t.state = 1 THEN t.error_retryable END,
        upload_headers = CASE WHEN t.state = 1 THEN t.upload_headers ELSE '' END,
        updater = %(updater)s, version = t.version + 1, updated_at = now()
    FROM (SELECT q.id FROM asynch_task q
          WHERE q.tenant_id = %(tenant_id)s AND q.id = ANY(%(ids)s::bigint[]) AND NOT q.final AND NOT q.cancel_requested
          ORDER BY q.id FOR UPDATE) q
    WHERE t.tenant_id = %(tenant_id)s AND t.id = q.id
    RETURNING t.id, t.state, t.worker_id, CASE WHEN t.final AND t.callback_lane IS NOT NULL THEN t END AS task,
              t.tenant_id, t.error_msg
), ended AS (
    UPDATE asynch_action a SET status = 'failed', error_msg = m.error_msg, completed_at = now()
    FROM moved m
    WHERE m.state <> 1 AND m.tenant_id < 0 AND a.tenant_id = ~m.tenant_id AND a.id = m.id AND a.status = 'pending'
), told AS (
    INSERT INTO asynch_task (id, tenant_id, parent_id, lane_id, model_name, creator, biz_name, input_ref,
        request_payload, queue_timeout_seconds, wake_at, trace_context)
    SELECT d.* FROM moved m CROSS JOIN LATERAL asynch_delivery(m.task, asynch_event(m.task)) d
    WHERE (m.task).id IS NOT NULL
)
SELECT m.id, m.state, m.worker_id FROM moved m

-- expire_queue --
-- EXPIRE: waited too long since it was due.
WITH due AS MATERIALIZED (
    SELECT t.tenant_id, t.id FROM asynch_task t
    WHERE t.state = 0 AND NOT t.final AND t.wake_at <= now()
    ORDER BY t.wake_at LIMIT %(most)s FOR UPDATE SKIP LOCKED
), moved AS (
    UPDATE asynch_task t
    SET state = 3, final = true, error_code = 'queue_expired', error_msg = 'waited longer in the queue than allowed',
        error_retryable = true, finished_at = now(), wake_at = now() + make_interval(secs => %(failed_retention_s)s),
        upload_headers = '',
        version = t.version + 1, updated_at = now()
    FROM due d
    WHERE t.tenant_id = d.tenant_id AND t.id = d.id
    RETURNING t.lane_id, CASE WHEN t.final AND t.callback_lane IS NOT NULL THEN t END AS task, t.tenant_id, t.id, t.error_msg
), ended AS (
    UPDATE asynch_action a SET status = 'failed', error_msg = m.error_msg, completed_at = now()
    FROM moved m
    WHERE m.tenant_id < 0 AND a.tenant_id = ~m.tenant_id AND a.id = m.id AND a.status = 'pending'
), told AS (
    INSERT INTO asynch_task (id, tenant_id, parent_id, lane_id, model_name, creator, biz_name, input_ref,
        request_payload, queue_timeout_seconds, wake_at, trace_context)
    SELECT d.* FROM moved m CROSS JOIN LATERAL asynch_delivery(m.task, asynch_event(m.task)) d
    WHERE (m.task).id IS NOT NULL
)
SELECT m.lane_id FROM moved m

-- lose_silent_hosts --
-- LOSE: results saved on hosts that have been silent too long are called again. From host to host, so that what
-- waits for its call is never read.
WITH RECURSIVE host(id) AS (
    (SELECT t.tmp_host FROM asynch_task t WHERE t.state = 0 AND t.phase = 1 ORDER BY t.tmp_host LIMIT 1)
    UNION ALL
    SELECT (SELECT t.tmp_host FROM asynch_task t
            WHERE t.state = 0 AND t.phase = 1 AND t.tmp_host > h.id ORDER BY t.tmp_host LIMIT 1)
    FROM host h WHERE h.id IS NOT NULL
), silent AS MATERIALIZED (
    SELECT h.id FROM host h WHERE h.id IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM asynch_host a WHERE a.id = h.id AND a.seen_at > now() - make_interval(secs => %(grace_s)s))
), lost AS MATERIALIZED (
    SELECT x.tenant_id, x.id, x.oss_file, (SELECT a.name FROM asynch_host a WHERE a.id = s.id) AS host FROM silent s
    CROSS JOIN LATERAL (
        SELECT t.tenant_id, t.id, t.oss_file FROM asynch_task t
        WHERE t.state = 0 AND t.phase = 1 AND t.tmp_host = s.id
        ORDER BY t.enqueue_at LIMIT %(most)s FOR UPDATE SKIP LOCKED
    ) x
    LIMIT %(most)s
)
UPDATE asynch_task t
SET phase = 0, tmp_file = '', tmp_host = '', oss_file = '', enqueue_at = now(), upload_failures = 0,
    wake_at = now() + make_interval(secs => coalesce(t.queue_timeout_seconds, %(queue_timeout_s)s::float8)),
    attempts = (CASE WHEN jsonb_array_length(t.attempts) >= 20 THEN t.attempts - 0 ELSE t.attempts END)
        || jsonb_build_object('attempt', t.attempt, 'startedAt', asynch_time(t.started_at), 'finishedAt', asynch_time(now()),
            'host', l.host, 'phase', 1, 'outcome', 'lost', 'code', NULL, 'httpStatus', NULL,
            'detail', 'the host of the saved result is silent'),
    version = t.version + 1, updated_at = now()
FROM lost l
WHERE t.tenant_id = l.tenant_id AND t.id = l.id
RETURNING t.lane_id, l.oss_file

-- fetch --
-- FETCH, with the rows as they were just before: of many readers at once one sees state 2, the others what he left.
WITH stored AS MATERIALIZED (
    SELECT q.id FROM asynch_task q
    WHERE %(mark)s AND q.tenant_id = %(tenant_id)s AND q.id = ANY(%(ids)s::bigint[]) AND q.state + 0 = 2
), seen AS MATERIALIZED (
    SELECT q.id, q.lane_id, q.state, q.expire_at
    FROM stored s JOIN asynch_task q ON q.tenant_id = %(tenant_id)s AND q.id = s.id
    ORDER BY q.id FOR UPDATE OF q
), fetched AS (
    UPDATE asynch_task t
    SET state = 4, expire_at = now() + make_interval(secs => m.auto_clean_seconds),
        wake_at = now() + make_interval(secs => m.auto_clean_seconds),
        expire_notice_seconds = abs(t.expire_notice_seconds), version = t.version + 1, updated_at = now()
    FROM seen s JOIN asynch_models m ON m.lane_id = s.lane_id
    WHERE t.tenant_id = %(tenant_id)s AND t.id = s.id AND s.state = 2
    RETURNING t.id, t.expire_at
)
SELECT t.id, t.tenant_id, t.model_name, t.biz_name, t.client_ref, t.metadata, t.rank, coalesce(s.state, t.state) AS state,
       t.final, t.phase, t.progress, t.message, t.oss_file, t.file_type, t.content_type, t.file_size, t.error_code,
       t.error_msg, t.retry_count, t.created_at, t.started_at, t.finished_at,
       coalesce(f.expire_at, s.expire_at, t.expire_at) AS expire_at, coalesce(t.expire_at <= now(), false) AS gone
FROM asynch_task t LEFT JOIN seen s ON s.id = t.id LEFT JOIN fetched f ON f.id = t.id
WHERE t.tenant_id = %(tenant_id)s AND t.id = ANY(%(ids)s::bigint[])

-- purge --
-- PURGE: the rows of one final state whose time is over, with a word in the op log that they were; the system's own
-- go without one, and nobody's before the notice that he asked for. An upload or action that the cleaner failed keeps its
-- reason. That no state is 1 is for the planner: it may not look at the parameters, and the index has none of these.
WITH due AS MATERIALIZED (
    SELECT t.tenant_id, t.id FROM asynch_task t
    WHERE t.state = %(state)s AND t.state <> 1 AND t.final AND t.wake_at <= now()
      AND coalesce(t.expire_notice_seconds, 0) <= 0
      AND (%(ids)s::bigint[] IS NULL OR t.id = ANY(%(ids)s::bigint[]))
    ORDER BY t.wake_at LIMIT %(most)s FOR UPDATE SKIP LOCKED
), purged AS (
    DELETE FROM asynch_task t USING due d WHERE t.tenant_id = d.tenant_id AND t.id = d.id
    RETURNING t.*
), logged AS (
    INSERT INTO asynch_op_log (tenant_id, creator, op_type, biz_name, model_name, task_id, success, response_payload)
    SELECT p.tenant_id, p.creator, 'purgeTask', p.biz_name, p.model_name, p.task_id, 1,
           jsonb_build_object('state', p.state, 'code', p.error_code)::text
    FROM purged p WHERE p.tenant_id >= 0
), ended_actions AS (
    UPDATE asynch_action a SET status = 'failed', error_msg = p.error_msg, completed_at = p.finished_at
    FROM purged p
    WHERE p.tenant_id < 0 AND a.tenant_id = ~p.tenant_id AND a.id = p.id AND a.status = 'pending'
), ended AS (
    UPDATE asynch_upload u
    SET status = 'failed', error_msg = p.error_msg, completed_at = p.finished_at, updated_at = now(),
        duration = extract(epoch FROM p.finished_at - u.created_at)
    FROM purged p
    WHERE p.tenant_id < 0 AND u.tenant_id = ~p.tenant_id AND u.id = p.id AND u.status NOT IN ('completed', 'failed')
)
SELECT count(*) AS purged FROM purged

-- purgeable --
-- The stored objects of the rows `purge` would take, when they go with the row. What the system made is some file's.
SELECT t.tenant_id, t.id, CASE WHEN t.tenant_id >= 0 THEN t.oss_file ELSE '' END AS oss_file FROM asynch_task t
WHERE t.state = %(state)s AND t.state <> 1 AND t.final AND t.wake_at <= now()
  AND coalesce(t.expire_notice_seconds, 0) <= 0
ORDER BY t.wake_at LIMIT %(most)s
