-- The whole schema of asynch, for PostgreSQL 15 and later: ordered, additive, safe to repeat.
-- `asynch migrate` runs it in one transaction under an advisory lock, so two hosts may start at once.

-- All tables before any is changed: one that came later could be held by who waits for one that is changed already.
DO $$
DECLARE
    known text;
BEGIN
    FOR known IN
        SELECT tablename FROM pg_tables WHERE schemaname = current_schema() AND tablename LIKE 'asynch\_%' ORDER BY 1
    LOOP
        EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', known);
    END LOOP;
END
$$;

-- Facts about this database: schema_version, secret_canary, local_store_id.
CREATE TABLE IF NOT EXISTS asynch_meta (
    key   text PRIMARY KEY,
    value text NOT NULL
);

-- ids are 41 bits of milliseconds since 2023-11-14 and 22 bits of this sequence: unique here, in creation order, and
-- not met again by another database that calls the same model service (the id is its Idempotency-Key).
CREATE SEQUENCE IF NOT EXISTS asynch_id AS bigint;
CREATE SEQUENCE IF NOT EXISTS asynch_lane AS integer;
CREATE SEQUENCE IF NOT EXISTS asynch_worker_id AS bigint;

CREATE OR REPLACE FUNCTION asynch_new_id() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT ((extract(epoch FROM clock_timestamp()) * 1000)::bigint - 1700000000000) << 22
           | (nextval('asynch_id') & 4194303)
$$;

-- The least id of this time. It cuts a search by time short, as ids are found by their order and times are not.
CREATE OR REPLACE FUNCTION asynch_id_at(t timestamptz) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT greatest(0, least((extract(epoch FROM t) * 1000)::bigint - 1700000000000, 2199023255551)) << 22
$$;

-- A time as HTTP tells it: RFC 3339, UTC, milliseconds.
CREATE OR REPLACE FUNCTION asynch_time(t timestamptz) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT to_char(t AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$;

-- ---------------------------------------------------------------------------------------------------------------
-- Models: registered targets. A row is also a lane (tenant, model), the unit of order, fairness and concurrency.
-- ---------------------------------------------------------------------------------------------------------------
CREATE TABLE IF NOT EXISTS asynch_models (
    id                      bigint PRIMARY KEY DEFAULT asynch_new_id(),
    tenant_id               bigint NOT NULL,
    lane_id                 integer NOT NULL UNIQUE DEFAULT nextval('asynch_lane'),  -- never reused; lock key
    creator                 text NOT NULL DEFAULT '',
    created_at              timestamptz NOT NULL DEFAULT now(),
    updater                 text NOT NULL DEFAULT '',
    updated_at              timestamptz NOT NULL DEFAULT now(),
    deleted_at              timestamptz,
    kind                    text NOT NULL DEFAULT 'model',     -- model | webhook | processor | broker
    model_name              text NOT NULL,
    base_url                text NOT NULL,
    route                   text NOT NULL DEFAULT '',
    http_method             text NOT NULL DEFAULT 'POST',
    api_key                 text NOT NULL DEFAULT '',          -- sealed header bindings
    enabled                 smallint NOT NULL DEFAULT 1,
    max_concurrency         integer NOT NULL DEFAULT 10,
    queue_limit             integer NOT NULL DEFAULT 1000,
    timeout_seconds         integer NOT NULL DEFAULT 60,
    retry_times             integer NOT NULL DEFAULT 0,
    retry_queue_max_seconds integer NOT NULL DEFAULT 0,
    retry_on                text NOT NULL DEFAULT 'any',
    retry_backoff_seconds   integer NOT NULL DEFAULT 0,
    auto_clean_seconds      integer NOT NULL DEFAULT 86400,
    max_result_bytes        bigint NOT NULL DEFAULT 1073741824,
    permits                 integer[] NOT NULL DEFAULT '{}',   -- unused since version 3, see asynch_permits
    remark                  text NOT NULL DEFAULT '',
    CONSTRAINT asynch_models_enabled CHECK (enabled IN (0, 1)),
    CONSTRAINT asynch_models_method CHECK (http_method IN ('GET', 'POST')),
    CONSTRAINT asynch_models_retry_on CHECK (retry_on IN ('any', 'transient')),
    CONSTRAINT asynch_models_positive CHECK (max_concurrency > 0 AND queue_limit > 0 AND timeout_seconds > 0
        AND auto_clean_seconds > 0 AND max_result_bytes > 0 AND retry_times >= 0 AND retry_backoff_seconds >= 0
        AND retry_queue_max_seconds >= -1)
);
-- Since version 3: pauses between attempts, seconds; from the last on retry_backoff_seconds. Of the system's lanes.
ALTER TABLE asynch_models ADD COLUMN IF NOT EXISTS retry_schedule integer[] NOT NULL DEFAULT '{}';
-- One living model of a name in a tenant; also finds it by name.
CREATE UNIQUE INDEX IF NOT EXISTS asynch_models_name ON asynch_models (tenant_id, model_name) WHERE deleted_at IS NULL;

-- ---------------------------------------------------------------------------------------------------------------
-- Tasks. Each index costs at every change of state, so there are few, each partial but the key.
-- ---------------------------------------------------------------------------------------------------------------
CREATE TABLE IF NOT EXISTS asynch_task (
    id                bigint NOT NULL,
    tenant_id         bigint NOT NULL,
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now(),
    deleted_at        timestamptz,
    enqueue_at        timestamptz NOT NULL DEFAULT now(),  -- when it entered, or will enter, the queue
    started_at        timestamptz,                         -- of the last call
    finished_at       timestamptz,                         -- of the last result or failure
    expire_at         timestamptz,                         -- from here on it is gone for its readers
    -- When the cleaner must look at it next: state 0 its queue time-out, 3 its retry or its purge, 2 4 5 its purge.
    wake_at           timestamptz,
    worker_id         bigint NOT NULL DEFAULT 0,           -- of the claim in state 1
    parent_id         bigint,
    file_size         bigint,
    version           bigint NOT NULL DEFAULT 1,           -- of the row, +1 a change
    lane_id           integer NOT NULL,
    attempt           integer NOT NULL DEFAULT 0,          -- claims so far: the fencing token
    retry_count       integer NOT NULL DEFAULT 0,
    crash_count       integer NOT NULL DEFAULT 0,
    upload_failures   integer NOT NULL DEFAULT 0,
    queue_timeout_seconds integer,
    expire_notice_seconds integer,
    progress          real,
    state             smallint NOT NULL DEFAULT 0,
    phase             smallint NOT NULL DEFAULT 0,
    rank              smallint NOT NULL DEFAULT 19,        -- 2 * (9 - priority), + 1 unless a retry at the head
    final             boolean NOT NULL DEFAULT false,
    cancel_requested  boolean NOT NULL DEFAULT false,      -- asked of the worker that runs it
    task_id           text GENERATED ALWAYS AS (id::text) STORED,
    model_name        text NOT NULL,
    creator           text NOT NULL DEFAULT '',
    updater           text NOT NULL DEFAULT '',
    biz_name          text NOT NULL DEFAULT '',
    client_ref        text NOT NULL DEFAULT '',
    oss_file          text NOT NULL DEFAULT '',            -- key (or URL) in storage, known from phase 1 on
    file_type         text NOT NULL DEFAULT '',
    content_type      text NOT NULL DEFAULT '',
    sha256            text NOT NULL DEFAULT '',
    tmp_file          text NOT NULL DEFAULT '',            -- name in the tmp_dir of tmp_host
    tmp_host          text NOT NULL DEFAULT '',
    error_code        text NOT NULL DEFAULT '',
    error_msg         text NOT NULL DEFAULT '',
    error_retryable   boolean,
    message           text NOT NULL DEFAULT '',            -- the model's word on its progress
    input_ref         text,
    callback_url      text NOT NULL DEFAULT '',
    poll_url          text NOT NULL DEFAULT '',            -- where a model works on, after a 202
    trace_context     text NOT NULL DEFAULT '',
    metadata          text,                                -- JSON as sent
    request_payload   text,                                -- JSON as sent, to the byte
    attempts          jsonb NOT NULL DEFAULT '[]',         -- the last 20, oldest first
    -- Finds a task for its tenant and lists a tenant's, newest first; every fenced write goes through it.
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT asynch_task_state CHECK (state BETWEEN 0 AND 5),
    CONSTRAINT asynch_task_phase CHECK (phase IN (0, 1)),
    CONSTRAINT asynch_task_rank CHECK (rank BETWEEN 0 AND 19),
    CONSTRAINT asynch_task_final CHECK (CASE state WHEN 0 THEN NOT final WHEN 1 THEN NOT final WHEN 3 THEN true ELSE final END),
    CONSTRAINT asynch_task_saved CHECK (phase = 0 OR (tmp_file <> '' AND tmp_host <> ''))
) WITH (
    fillfactor = 80,                          -- a new version of a row finds room on its page
    autovacuum_vacuum_scale_factor = 0.01,    -- a queue turns over its rows: vacuum by work done, not by table size
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0.05
);
-- The queue: the claim reads a lane's tasks in order; the lane scan reads it too.
CREATE INDEX IF NOT EXISTS asynch_task_queue ON asynch_task (lane_id, rank, enqueue_at, id) WHERE state = 0 AND phase = 0;
-- The other queue: saved results that a host still has to upload.
CREATE INDEX IF NOT EXISTS asynch_task_upload ON asynch_task (tmp_host, enqueue_at) WHERE state = 0 AND phase = 1;
-- What runs: what a worker has in hand, and what a dead one left behind.
CREATE INDEX IF NOT EXISTS asynch_task_running ON asynch_task (lane_id, worker_id) WHERE state = 1;
-- What the cleaner must look at next, one range for each of its duties.
CREATE INDEX IF NOT EXISTS asynch_task_wake ON asynch_task (state, final, wake_at) WHERE state <> 1;
-- Since version 2: the headers of its creator that its upload needs, sealed; empty as soon as it is final.
ALTER TABLE asynch_task ADD COLUMN IF NOT EXISTS upload_headers text NOT NULL DEFAULT '';
-- Since version 3: the attempt that called the model, which a model that works on is known by after a rescue too.
ALTER TABLE asynch_task ADD COLUMN IF NOT EXISTS call_attempt integer NOT NULL DEFAULT 0;
-- Since version 3: when the last word on its progress was said, so that an older one does not take its place.
ALTER TABLE asynch_task ADD COLUMN IF NOT EXISTS progress_at timestamptz;
-- Since version 3: the lane of its callback_url, where a word on its end is delivered; null without one.
ALTER TABLE asynch_task ADD COLUMN IF NOT EXISTS callback_lane integer;
-- Since version 5: terms of its own in place of its lane's: how long a call may take, and the pauses between attempts,
-- seconds. Of actions, whose rules say both.
ALTER TABLE asynch_task ADD COLUMN IF NOT EXISTS timeout_seconds integer;
ALTER TABLE asynch_task ADD COLUMN IF NOT EXISTS retry_schedule integer[];
-- Since version 3: what was made on account of a task, such as the deliveries of its callbacks. Nearly always empty.
CREATE INDEX IF NOT EXISTS asynch_task_children ON asynch_task (tenant_id, parent_id) WHERE parent_id IS NOT NULL;
-- Since version 3: of whom it must be told that they are about to go, and when. A negative number was told already.
CREATE INDEX IF NOT EXISTS asynch_task_notice
    ON asynch_task (((wake_at AT TIME ZONE 'UTC') - make_interval(secs => expire_notice_seconds)))
    WHERE final AND expire_notice_seconds > 0;
-- Since version 3: whose model works on already; the claim takes them before any new call. Nearly always empty.
CREATE INDEX IF NOT EXISTS asynch_task_polled ON asynch_task (lane_id, enqueue_at)
    WHERE state = 0 AND phase = 0 AND poll_url <> '';
-- Since version 7: the number that was drawn as it entered its lane, behind the lane's lock; one that runs again enters
-- anew. So who counts alone in the lane knows below which number nobody is left, and that nobody will come there.
-- In two steps: a default that differs from row to row would write the whole table anew.
ALTER TABLE asynch_task ADD COLUMN IF NOT EXISTS entry bigint NOT NULL DEFAULT 0;
ALTER TABLE asynch_task ALTER COLUMN entry SET DEFAULT nextval('asynch_id');
-- What is not over yet: the depth of a lane.
CREATE INDEX IF NOT EXISTS asynch_task_open ON asynch_task (lane_id, entry) WHERE NOT final;
-- Since version 9: lists a tenant's tasks by their names and state, whatever else it has: claims and completions are a
-- twelfth dearer for it, but without it a name that is rare has every row of the tenant read.
CREATE INDEX IF NOT EXISTS asynch_task_named ON asynch_task (tenant_id, model_name, biz_name, state, id) WHERE tenant_id >= 0;

-- ---------------------------------------------------------------------------------------------------------------
-- Workers and hosts. A worker holds pg_advisory_lock(id) on its lock session; who can take that lock knows it is dead.
-- ---------------------------------------------------------------------------------------------------------------
CREATE TABLE IF NOT EXISTS asynch_worker (
    id          bigint PRIMARY KEY,
    host        text NOT NULL,
    pid         integer NOT NULL,
    tmp_host    text NOT NULL,
    threads     integer NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT now(),
    seen_at     timestamptz NOT NULL DEFAULT now(),
    dead_at     timestamptz,                           -- first seen without its lock
    info        jsonb NOT NULL DEFAULT '{}'            -- free threads, tmp_dir use, what it runs
) WITH (fillfactor = 50);

-- When a tmp_dir was last in a living worker's hands.
CREATE TABLE IF NOT EXISTS asynch_host (
    id      text PRIMARY KEY,
    name    text NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

-- ---------------------------------------------------------------------------------------------------------------
-- Around the tasks: who may call, what was asked twice, what was done, how much.
-- ---------------------------------------------------------------------------------------------------------------
CREATE TABLE IF NOT EXISTS asynch_key (
    id          text PRIMARY KEY,
    tenant_id   bigint NOT NULL,
    name        text NOT NULL,
    role        text NOT NULL DEFAULT 'user',
    secret_hash text NOT NULL,                         -- SHA-256 of a random secret, hex
    created_at  timestamptz NOT NULL DEFAULT now(),
    revoked_at  timestamptz,
    CONSTRAINT asynch_key_role CHECK (role IN ('user', 'admin'))
);

CREATE TABLE IF NOT EXISTS asynch_idempotency (
    tenant_id  bigint NOT NULL,
    path       text NOT NULL,
    key        text NOT NULL,
    body_hash  text NOT NULL,
    answer     jsonb NOT NULL DEFAULT '[]',            -- an id or an error for each item of the request
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, path, key)
);
-- Forgets what is older than a day.
CREATE INDEX IF NOT EXISTS asynch_idempotency_age ON asynch_idempotency (created_at);

CREATE TABLE IF NOT EXISTS asynch_op_log (
    id               bigint NOT NULL DEFAULT asynch_new_id(),
    tenant_id        bigint NOT NULL,
    creator          text NOT NULL DEFAULT '',
    created_at       timestamptz NOT NULL DEFAULT now(),
    updater          text NOT NULL DEFAULT '',
    updated_at       timestamptz NOT NULL DEFAULT now(),
    deleted_at       timestamptz,
    ip               text NOT NULL DEFAULT '',
    user_agent       text NOT NULL DEFAULT '',
    api_path         text NOT NULL DEFAULT '',
    http_method      text NOT NULL DEFAULT '',
    biz_name         text NOT NULL DEFAULT '',
    model_name       text NOT NULL DEFAULT '',
    task_id          text NOT NULL DEFAULT '',
    op_type          text NOT NULL,
    success          smallint NOT NULL DEFAULT 1,
    error_msg        text NOT NULL DEFAULT '',
    cost_ms          integer NOT NULL DEFAULT 0,
    request_payload  text NOT NULL DEFAULT '',
    response_payload text NOT NULL DEFAULT '',
    PRIMARY KEY (tenant_id, id)
);
-- Tells a task that was purged from one that never was.
CREATE INDEX IF NOT EXISTS asynch_op_log_purged ON asynch_op_log (tenant_id, task_id) WHERE op_type = 'purgeTask';
-- Finds the rows of one task, of all there are. The one that tells of its creation has its id, and is found by that.
CREATE INDEX IF NOT EXISTS asynch_op_log_later ON asynch_op_log (tenant_id, task_id, id)
    WHERE op_type <> 'purgeTask' AND task_id <> '' AND task_id <> id::text;
DROP INDEX IF EXISTS asynch_op_log_task;
-- Finds what was refused, and what was changed: a handful among the millions that only tell of a task.
CREATE INDEX IF NOT EXISTS asynch_op_log_refused ON asynch_op_log (tenant_id, id) WHERE success = 0;
CREATE INDEX IF NOT EXISTS asynch_op_log_rare ON asynch_op_log (tenant_id, id) WHERE op_type NOT IN ('createTask', 'purgeTask');
-- Forgets what is older than op_log_retention, at the price of a few bytes a thousand rows.
CREATE INDEX IF NOT EXISTS asynch_op_log_age ON asynch_op_log USING brin (created_at);

CREATE TABLE IF NOT EXISTS asynch_model_stat (
    id            bigint PRIMARY KEY DEFAULT asynch_new_id(),
    day           date NOT NULL,
    tenant_id     bigint NOT NULL,
    creator       text NOT NULL DEFAULT '',
    created_at    timestamptz NOT NULL DEFAULT now(),
    updater       text NOT NULL DEFAULT '',
    updated_at    timestamptz NOT NULL DEFAULT now(),
    deleted_at    timestamptz,
    model_name    text NOT NULL,
    request_count bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
-- One row a day, tenant, creator and model.
CREATE UNIQUE INDEX IF NOT EXISTS asynch_model_stat_key ON asynch_model_stat (day, tenant_id, creator, model_name);
-- Lists a tenant's days, whatever the other tenants have.
CREATE INDEX IF NOT EXISTS asynch_model_stat_tenant ON asynch_model_stat (tenant_id, day);

-- Tasks created, as asynch_model_stat counts calls.
CREATE TABLE IF NOT EXISTS asynch_biz_stat (
    id            bigint PRIMARY KEY DEFAULT asynch_new_id(),
    day           date NOT NULL,
    tenant_id     bigint NOT NULL,
    creator       text NOT NULL DEFAULT '',
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    biz_name      text NOT NULL,
    request_count bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX IF NOT EXISTS asynch_biz_stat_key ON asynch_biz_stat (tenant_id, day, creator, biz_name);

-- What was created since the cleaner last added it to asynch_biz_stat: a row a transaction and bizName, never changed.
-- 16 creators that add to one row wait for each other's commit: 0.2 to 0.4 of the tasks a second of no counting at all.
-- 32 rows to choose from came to 0.9, but to 0.4 under an open snapshot, where each update passes all versions before it.
-- Rows of their own cost no more than 0.1 of it either way.
CREATE TABLE IF NOT EXISTS asynch_biz_tally (
    day           date NOT NULL,
    tenant_id     bigint NOT NULL,
    creator       text NOT NULL,
    biz_name      text NOT NULL,
    request_count bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

-- Since version 5: the same for calls: claims that added to asynch_model_stat came to half of their pace under an open
-- snapshot, and those of two workers waited for each other.
CREATE TABLE IF NOT EXISTS asynch_model_tally (
    day           date NOT NULL,
    tenant_id     bigint NOT NULL,
    creator       text NOT NULL,
    model_name    text NOT NULL,
    request_count bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

-- Since version 3: what a tenant has over all of its models; 0 is what `limits` says, as is a tenant without a row.
CREATE TABLE IF NOT EXISTS asynch_tenant (
    tenant_id       bigint PRIMARY KEY,
    creator         text NOT NULL DEFAULT '',
    created_at      timestamptz NOT NULL DEFAULT now(),
    updater         text NOT NULL DEFAULT '',
    updated_at      timestamptz NOT NULL DEFAULT now(),
    max_concurrency integer NOT NULL DEFAULT 0,        -- calls at once
    queue_limit     integer NOT NULL DEFAULT 0,        -- waiting and running tasks
    permit_id       integer NOT NULL UNIQUE DEFAULT nextval('asynch_lane'),  -- lock key of its calls, never a lane's
    CONSTRAINT asynch_tenant_limits CHECK (max_concurrency >= 0 AND queue_limit >= 0)
);
-- Since version 5: another with each change of its rules, so that who keeps them in memory knows whether they are right.
ALTER TABLE asynch_tenant ADD COLUMN IF NOT EXISTS rules_stamp uuid;
-- Every tenant with a model has a row, so that `limits` finds a lock key too.
INSERT INTO asynch_tenant (tenant_id) SELECT DISTINCT tenant_id FROM asynch_models ON CONFLICT DO NOTHING;

-- Since version 3: how long a call of each lane takes lately, seconds; for those who ask when their task will be done.
CREATE TABLE IF NOT EXISTS asynch_pace (
    lane_id    integer PRIMARY KEY,
    call_s     float8 NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

-- Since version 3: services that many lanes share, whichever tenants they belong to; by base URL as asynch_service_of has it.
CREATE TABLE IF NOT EXISTS asynch_service (
    base_url        text PRIMARY KEY,
    creator         text NOT NULL DEFAULT '',
    created_at      timestamptz NOT NULL DEFAULT now(),
    updater         text NOT NULL DEFAULT '',
    updated_at      timestamptz NOT NULL DEFAULT now(),
    max_concurrency integer NOT NULL DEFAULT 0,        -- calls at once, 0 as many as its lanes
    permit_id       integer NOT NULL UNIQUE DEFAULT nextval('asynch_lane'),
    CONSTRAINT asynch_service_limit CHECK (max_concurrency >= 0)
);

-- Since version 3: how often a tenant's calls of a service failed lately. Of one tenant: another's calls, which may be
-- wrong in ways of their own, must not close the service to it.
CREATE TABLE IF NOT EXISTS asynch_breaker (
    tenant_id  bigint NOT NULL,
    base_url   text NOT NULL,
    since      timestamptz NOT NULL DEFAULT now(),     -- from when on it counts
    calls      integer NOT NULL DEFAULT 0,
    failures   integer NOT NULL DEFAULT 0,
    trips      integer NOT NULL DEFAULT 0,             -- openings without a success in between
    open_until timestamptz,                            -- NULL closed; past: half open, one call at a time
    permit_id  integer NOT NULL UNIQUE DEFAULT nextval('asynch_lane'),
    PRIMARY KEY (tenant_id, base_url)
) WITH (fillfactor = 50);

CREATE OR REPLACE FUNCTION asynch_service_of(url text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT lower(rtrim(url, '/'))
$$;

-- What a call of this tenant to this URL must hold besides its lane's slot: lock keys, and how many calls may hold each;
-- 0 means none may start.
CREATE OR REPLACE FUNCTION asynch_permits(tenant bigint, url text, tenant_most integer)
RETURNS TABLE (permits integer[], most integer[]) LANGUAGE sql STABLE AS $$
    SELECT coalesce(array_agg(p.id), '{}'), coalesce(array_agg(p.most), '{}') FROM (
        SELECT t.permit_id AS id, coalesce(nullif(t.max_concurrency, 0), tenant_most) AS most
        FROM asynch_tenant t WHERE t.tenant_id = tenant AND (t.max_concurrency > 0 OR tenant_most > 0)
        UNION ALL
        SELECT s.permit_id, s.max_concurrency
        FROM asynch_service s WHERE s.base_url = asynch_service_of(url) AND s.max_concurrency > 0
        UNION ALL
        SELECT b.permit_id, CASE WHEN b.open_until > now() THEN 0 ELSE 1 END
        FROM asynch_breaker b
        WHERE b.tenant_id = tenant AND b.base_url = asynch_service_of(url) AND b.open_until IS NOT NULL
    ) p
$$;

-- Since version 3: what a tenant's callbacks are signed with: one without an end, and those it took the place of.
CREATE TABLE IF NOT EXISTS asynch_webhook_key (
    id         bigint PRIMARY KEY DEFAULT asynch_new_id(),
    tenant_id  bigint NOT NULL,
    creator    text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    expire_at  timestamptz,
    secret     text NOT NULL                           -- sealed
);
CREATE UNIQUE INDEX IF NOT EXISTS asynch_webhook_key_current ON asynch_webhook_key (tenant_id) WHERE expire_at IS NULL;
CREATE INDEX IF NOT EXISTS asynch_webhook_key_tenant ON asynch_webhook_key (tenant_id, id);

-- The task that tells of another one, as it must be inserted; no row where nobody wants to know. What it tells is the
-- row as it is now: when it is delivered, the task may be elsewhere. The system does its own work for tenant T as ~T,
-- which is nobody's: no reader, limit or statistics of T meets it.
CREATE OR REPLACE FUNCTION asynch_delivery(t asynch_task, event text)
RETURNS TABLE (id bigint, tenant_id bigint, parent_id bigint, lane_id integer, model_name text, creator text,
    biz_name text, input_ref text, request_payload text, queue_timeout_seconds integer, wake_at timestamptz,
    trace_context text)
LANGUAGE sql VOLATILE AS $$
    SELECT asynch_new_id(), ~t.tenant_id, t.id, m.lane_id, m.model_name, t.creator, event, t.callback_url,
           jsonb_build_object('type', event, 'timestamp', asynch_time(now()), 'task', jsonb_build_object(
               'id', t.id, 'tenant_id', t.tenant_id, 'model_name', t.model_name, 'biz_name', t.biz_name,
               'client_ref', t.client_ref, 'metadata', t.metadata, 'rank', t.rank, 'state', t.state, 'final', t.final,
               'phase', t.phase, 'progress', t.progress, 'message', t.message, 'oss_file', t.oss_file,
               'file_type', t.file_type, 'content_type', t.content_type, 'file_size', t.file_size, 'sha256', t.sha256,
               'error_code', t.error_code, 'error_msg', t.error_msg, 'error_retryable', t.error_retryable,
               'retry_count', t.retry_count, 'retry_times', o.retry_times, 'attempt', t.attempt,
               'attempts', t.attempts, 'creator', t.creator, 'updater', t.updater, 'input_ref', t.input_ref,
               'delayed', false, 'created_at', asynch_time(t.created_at), 'started_at', asynch_time(t.started_at),
               'finished_at', asynch_time(t.finished_at), 'expire_at', asynch_time(t.expire_at),
               'updated_at', asynch_time(t.updated_at), 'enqueue_at', asynch_time(t.enqueue_at)))::text,
           259200, now() + interval '3 days', t.trace_context
    FROM asynch_models m LEFT JOIN asynch_models o ON o.lane_id = t.lane_id
    WHERE m.lane_id = t.callback_lane AND event <> ''
$$;

-- What the end of a task is called; '' where it is no end.
CREATE OR REPLACE FUNCTION asynch_event(t asynch_task) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN NOT t.final THEN '' WHEN t.state = 3 THEN 'task.failed' WHEN t.state = 5 THEN 'task.cancelled'
                ELSE 'task.completed' END
$$;

-- ---------------------------------------------------------------------------------------------------------------
-- Files, since version 4: what was uploaded, and every upload. What is done to them is tasks of the system.
-- ---------------------------------------------------------------------------------------------------------------
-- A lane whose work lies in the tmp_dir of one host: only workers of that host see it. Empty: any worker.
ALTER TABLE asynch_models ADD COLUMN IF NOT EXISTS tmp_host text NOT NULL DEFAULT '';

-- How many media programs may run at once on a host, over all its workers, and the lock key of those that do.
ALTER TABLE asynch_host ADD COLUMN IF NOT EXISTS media_processes integer NOT NULL DEFAULT 0;
-- No default: every beat would draw a number.
ALTER TABLE asynch_host ADD COLUMN IF NOT EXISTS permit_id integer;

-- As asynch_permits with three arguments, for a call that is made on this host.
CREATE OR REPLACE FUNCTION asynch_permits(tenant bigint, url text, tenant_most integer, host text)
RETURNS TABLE (permits integer[], most integer[]) LANGUAGE sql STABLE AS $$
    SELECT c.permits || m.permits, c.most || m.most
    FROM asynch_permits(tenant, url, tenant_most) c
    CROSS JOIN (
        SELECT coalesce(array_agg(h.permit_id), '{}') AS permits, coalesce(array_agg(h.media_processes), '{}') AS most
        FROM asynch_host h
        WHERE h.id = host AND h.permit_id IS NOT NULL AND h.media_processes > 0 AND url LIKE 'local:%' AND url <> 'local:upload'
    ) m
$$;

CREATE TABLE IF NOT EXISTS asynch_file (
    id           bigint NOT NULL DEFAULT asynch_new_id(),
    tenant_id    bigint NOT NULL,
    creator      text NOT NULL DEFAULT '',
    created_at   timestamptz NOT NULL DEFAULT now(),
    updater      text NOT NULL DEFAULT '',
    updated_at   timestamptz NOT NULL DEFAULT now(),
    identity     text GENERATED ALWAYS AS (id::text) STORED,
    sha256       text NOT NULL,                        -- of the bytes as they were received, hex
    name         text NOT NULL DEFAULT '',             -- as the first upload called it
    ext          text NOT NULL DEFAULT '',             -- by content, of what is stored
    content_type text NOT NULL DEFAULT '',
    size         bigint NOT NULL,                      -- received
    stored_size  bigint NOT NULL,
    key          text NOT NULL,                        -- key (or URL) in storage
    scene        text NOT NULL DEFAULT '',
    upload_id    text NOT NULL DEFAULT '',
    tags         text[] NOT NULL DEFAULT '{}',
    cover_key    text NOT NULL DEFAULT '',
    parent       bigint,                               -- the file that it was made from
    PRIMARY KEY (tenant_id, id)
);
-- Since version 5: how many files it was made through; what rules make may fire rules, but not for ever.
ALTER TABLE asynch_file ADD COLUMN IF NOT EXISTS generation smallint NOT NULL DEFAULT 0;
-- A tenant's content is there once.
CREATE UNIQUE INDEX IF NOT EXISTS asynch_file_content ON asynch_file (tenant_id, sha256);
CREATE INDEX IF NOT EXISTS asynch_file_children ON asynch_file (tenant_id, parent) WHERE parent IS NOT NULL;

CREATE TABLE IF NOT EXISTS asynch_upload (
    id                  bigint NOT NULL DEFAULT asynch_new_id(),  -- also of the task that processes it, which is ~tenant_id's
    tenant_id           bigint NOT NULL,
    task_id             text GENERATED ALWAYS AS (id::text) STORED,
    "user"              text NOT NULL DEFAULT '',
    filename            text NOT NULL DEFAULT '',
    file_hash           text NOT NULL DEFAULT '',      -- SHA-256 of the bytes as they were received, hex
    file_size           bigint NOT NULL DEFAULT 0,
    content_type        text NOT NULL DEFAULT '',      -- by content; his word until then where its sender put it into storage
    status              text NOT NULL,                 -- between received and its end its task knows better
    error_msg           text NOT NULL DEFAULT '',
    oss_path            text NOT NULL DEFAULT '',
    repository_identity text NOT NULL DEFAULT '',
    duration            double precision,              -- from its creation to its end, seconds
    scene               text NOT NULL DEFAULT '',
    upload_id           text NOT NULL DEFAULT '',
    tags                text[] NOT NULL DEFAULT '{}',
    metadata            text NOT NULL DEFAULT '',      -- of a resumable one, as its sender gave it
    tmp_host            text NOT NULL DEFAULT '',      -- where the bytes of a resumable one are
    upload_headers      text NOT NULL DEFAULT '',      -- of its sender, sealed, until all bytes are there
    parts               integer NOT NULL DEFAULT 0,    -- objects that its sender puts into storage himself
    created_at          timestamptz NOT NULL DEFAULT now(),
    updated_at          timestamptz NOT NULL DEFAULT now(),
    completed_at        timestamptz,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT asynch_upload_status CHECK (status IN
        ('pending', 'received', 'processing', 'compressing', 'uploading_oss', 'completed', 'failed'))
);
-- Finds those whose bytes never came.
CREATE INDEX IF NOT EXISTS asynch_upload_pending ON asynch_upload (created_at) WHERE status = 'pending';
-- Lists a user's own, the newest first.
CREATE INDEX IF NOT EXISTS asynch_upload_user ON asynch_upload (tenant_id, "user", id);

-- ---------------------------------------------------------------------------------------------------------------
-- Rules, since version 4: what is to be done with files as soon as they are complete.
-- ---------------------------------------------------------------------------------------------------------------
CREATE TABLE IF NOT EXISTS asynch_pre_action (
    id                bigint NOT NULL DEFAULT asynch_new_id(),
    tenant_id         bigint NOT NULL,
    creator           text NOT NULL DEFAULT '',
    created_at        timestamptz NOT NULL DEFAULT now(),
    updater           text NOT NULL DEFAULT '',
    updated_at        timestamptz NOT NULL DEFAULT now(),
    deleted_at        timestamptz,
    action_name       text NOT NULL,
    action_type       text NOT NULL DEFAULT '',            -- in its owner's own words
    upload_id         text NOT NULL DEFAULT '',            -- of which uploads; empty: any
    scene             text NOT NULL DEFAULT '',            -- likewise
    trigger_condition jsonb NOT NULL DEFAULT '{}',
    execute_mode      smallint NOT NULL,                   -- 1 broker or queue, 2 webhook, 3 processor
    target_url        text NOT NULL,                       -- by mode: a topic, a URL, the name of a processor
    retry_strategy    text NOT NULL DEFAULT '',            -- empty: never again
    delay_seconds     integer NOT NULL DEFAULT 0,
    after_id          bigint,                              -- the rule that must have succeeded before
    rollout_percent   smallint NOT NULL DEFAULT 100,
    version           integer NOT NULL DEFAULT 1,
    status            smallint NOT NULL DEFAULT 1,         -- 1 on, 9 off
    await_result      boolean NOT NULL DEFAULT false,
    timeout_seconds   integer NOT NULL DEFAULT 3600,
    options           jsonb NOT NULL DEFAULT '{}',         -- of the processor
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT asynch_pre_action_mode CHECK (execute_mode BETWEEN 1 AND 3),
    CONSTRAINT asynch_pre_action_status CHECK (status IN (1, 9)),
    CONSTRAINT asynch_pre_action_rollout CHECK (rollout_percent BETWEEN 0 AND 100)
);
CREATE UNIQUE INDEX IF NOT EXISTS asynch_pre_action_name ON asynch_pre_action (tenant_id, action_name) WHERE deleted_at IS NULL;
-- Lists those that are there, and finds those that a file may fire.
CREATE INDEX IF NOT EXISTS asynch_pre_action_there ON asynch_pre_action (tenant_id, id) WHERE deleted_at IS NULL;
-- Finds which come after which.
CREATE INDEX IF NOT EXISTS asynch_pre_action_after ON asynch_pre_action (tenant_id, after_id)
    WHERE deleted_at IS NULL AND after_id IS NOT NULL;

-- Since version 5: those that were there before have a stamp too.
UPDATE asynch_tenant t SET rules_stamp = gen_random_uuid()
WHERE t.rules_stamp IS NULL AND EXISTS (SELECT 1 FROM asynch_pre_action r WHERE r.tenant_id = t.tenant_id);

-- Every version there ever was of a rule, the present one too; none is changed or deleted.
CREATE TABLE IF NOT EXISTS asynch_pre_action_version (
    tenant_id  bigint NOT NULL,
    id         bigint NOT NULL,                            -- of the rule
    version    integer NOT NULL,
    spec       jsonb NOT NULL,                             -- what its owner says of it, by column
    creator    text NOT NULL DEFAULT '',                   -- who made this version
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id, version)
);
-- What rules have done to files: once a file, rule and version, in the transaction that completed the file.
CREATE TABLE IF NOT EXISTS asynch_action (
    id           bigint NOT NULL DEFAULT asynch_new_id(),  -- also of its task, which is ~tenant_id's
    tenant_id    bigint NOT NULL,
    file_id      bigint NOT NULL,
    rule_id      bigint NOT NULL,
    version      integer NOT NULL,                     -- of the rule
    action_name  text NOT NULL DEFAULT '',
    execute_mode smallint NOT NULL,
    target_url   text NOT NULL DEFAULT '',
    status       text NOT NULL DEFAULT 'pending',      -- until its end its task knows better
    error_msg    text NOT NULL DEFAULT '',
    output       jsonb,
    created_at   timestamptz NOT NULL DEFAULT now(),
    completed_at timestamptz,
    PRIMARY KEY (tenant_id, id)
);
-- Since version 5: of one that ends with a posted result, how long that may take (0: it ends with its task), and until when.
ALTER TABLE asynch_action ADD COLUMN IF NOT EXISTS await_seconds integer NOT NULL DEFAULT 0;
ALTER TABLE asynch_action ADD COLUMN IF NOT EXISTS deadline timestamptz;
-- Since version 5: the file that it made. Its output may name any, as others say what it is.
ALTER TABLE asynch_action ADD COLUMN IF NOT EXISTS made bigint;
-- Since version 5: an action that has ended without a result still takes one; later ones are refused.
ALTER TABLE asynch_action ADD COLUMN IF NOT EXISTS answered boolean NOT NULL DEFAULT false;
ALTER TABLE asynch_action DROP CONSTRAINT IF EXISTS asynch_action_status;
ALTER TABLE asynch_action ADD CONSTRAINT asynch_action_status
    CHECK (status IN ('pending', 'awaiting', 'completed', 'failed'));
-- Finds those whose result did not come in time.
CREATE INDEX IF NOT EXISTS asynch_action_awaiting ON asynch_action (deadline) WHERE status = 'awaiting';
CREATE UNIQUE INDEX IF NOT EXISTS asynch_action_once ON asynch_action (tenant_id, file_id, rule_id, version);

-- Each try of an action.
CREATE TABLE IF NOT EXISTS asynch_action_log (
    id          bigint NOT NULL DEFAULT asynch_new_id(),
    tenant_id   bigint NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    task_id     bigint NOT NULL,
    file_id     bigint NOT NULL,
    rule_id     bigint NOT NULL,
    version     integer NOT NULL,
    action_name text NOT NULL DEFAULT '',
    attempt     integer NOT NULL,
    outcome     text NOT NULL,
    seconds     double precision,
    error_msg   text NOT NULL DEFAULT '',
    PRIMARY KEY (tenant_id, id)
);
-- Forgets what is older than op_log_retention.
CREATE INDEX IF NOT EXISTS asynch_action_log_age ON asynch_action_log USING brin (created_at);

-- Since version 5: what actions publish where no broker is set, until somebody takes it (README, "Topics without a broker").
CREATE TABLE IF NOT EXISTS asynch_message (
    id         bigint NOT NULL,                        -- of the action
    tenant_id  bigint NOT NULL,
    topic      text NOT NULL,
    body       jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, topic, id)
);

-- Since version 5: objects in storage that nobody needs, until they are removed; written with the move that made them so.
CREATE TABLE IF NOT EXISTS asynch_unneeded (
    key        text PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now()
);
-- Since version 6: one that could not be removed is due again then; null: as soon as its worker had its time.
ALTER TABLE asynch_unneeded ADD COLUMN IF NOT EXISTS due_at timestamptz;

-- ---------------------------------------------------------------------------------------------------------------
-- Creating tasks, since version 8: one round trip, and a transaction of its own where none is begun. The plans of these
-- functions are kept by each session, so they are the ones that hold for full tables too.
-- ---------------------------------------------------------------------------------------------------------------
-- Takes an Idempotency-Key for this transaction. Null, or what it stands for already: the hash of the first body and,
-- unless that request has given it up just now, what came of its items. Waits for one in flight, at most 2 s.
CREATE OR REPLACE FUNCTION asynch_begin_once(tenant bigint, path text, key text, body_hash text) RETURNS json
LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
    taken boolean;
BEGIN
    PERFORM set_config('lock_timeout', '2s', true);
    DELETE FROM asynch_idempotency k
    WHERE k.tenant_id = tenant AND k.path = asynch_begin_once.path AND k.key = asynch_begin_once.key
      AND k.created_at <= now() - interval '24 hours';
    INSERT INTO asynch_idempotency (tenant_id, path, key, body_hash) VALUES (tenant, path, key, body_hash)
    ON CONFLICT DO NOTHING;
    taken := FOUND;
    PERFORM set_config('lock_timeout', '0', true);
    IF taken THEN
        RETURN NULL;
    END IF;
    RETURN coalesce((
        SELECT json_build_object('body_hash', k.body_hash, 'answer', k.answer) FROM asynch_idempotency k
        WHERE k.tenant_id = tenant AND k.path = asynch_begin_once.path AND k.key = asynch_begin_once.key), '{}');
END
$$;

-- Creates the tasks among `items`, which are all of one request, notes each item in the op log, and counts the tasks
-- for the statistics. One JSON text brings all items: for 10,000 of them it is written and read several times faster
-- than an array a column.
--
-- Each item names its lane, as its creator remembers the lanes: those of all `names` come with the request. `ids` are those of the
-- items, in order, if that was right, and the last number drawn for them lies in `low` to `high`. Otherwise nothing has
-- been done, and the answer says why: `known`, what the Idempotency-Key stands for; `lanes`, the lanes as they are;
-- or neither, where too many numbers are drawn by now.
CREATE OR REPLACE FUNCTION asynch_create(request json, items json, OUT ids bigint[], OUT lanes json, OUT known json)
LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
    r record;
    good boolean;
BEGIN
    SELECT * INTO r FROM json_to_record(request) AS r(tenant_id bigint, creator text, ip text, user_agent text,
        api_path text, http_method text, cost_ms integer, trace_context text, upload_headers text,
        names json, lanes jsonb, tenant_queue_limit integer, locks integer[], n integer, low bigint, high bigint,
        queue_timeout_s float8, timezone text,
        path text, key text, body_hash text, begun boolean, kept boolean, refusals jsonb);
    IF r.key IS NOT NULL AND NOT r.begun THEN
        known := asynch_begin_once(r.tenant_id, r.path, r.key, r.body_hash);
        IF known IS NOT NULL THEN
            RETURN;
        END IF;
    END IF;

    -- Nobody counts or deletes from here on, and what is read next is read behind the locks.
    PERFORM pg_advisory_xact_lock_shared(l, -1) FROM unnest(r.locks) AS l;
    SELECT coalesce(json_agg(l ORDER BY l.lane_id), '[]') INTO lanes FROM (
        SELECT m.model_name, m.lane_id, m.enabled, m.http_method, m.queue_limit, t.permit_id AS tenant_key,
               coalesce(nullif(t.queue_limit, 0), r.tenant_queue_limit) AS tenant_queue_limit
        FROM json_array_elements_text(r.names) AS name CROSS JOIN LATERAL (
            SELECT * FROM asynch_models m
            WHERE m.tenant_id = r.tenant_id AND m.model_name = name AND m.deleted_at IS NULL AND m.kind = 'model' LIMIT 1
        ) m LEFT JOIN asynch_tenant t ON t.tenant_id = m.tenant_id
    ) l;
    good := lanes::jsonb = r.lanes;
    IF good THEN
        lanes := NULL;
        ids := ARRAY(SELECT asynch_new_id() FROM generate_series(1, r.n));
        IF r.n > 0 AND (currval('asynch_id') < r.low OR currval('asynch_id') > r.high) THEN
            good := false;
            ids := NULL;
        END IF;
    END IF;
    IF NOT good THEN
        DELETE FROM asynch_idempotency k WHERE k.tenant_id = r.tenant_id AND k.path = r.path AND k.key = r.key;
        RETURN;
    END IF;

    -- `logged` is what the op log shows where that is not the payload itself.
    WITH item AS MATERIALIZED (
        SELECT ids[t.ordinality] AS id, t.*
        FROM ROWS FROM (json_to_recordset(items) AS (lane_id integer, model_name text, rank smallint, delay_s float8,
            not_before timestamptz, queue_timeout_s integer, expire_notice_s integer, biz_name text, client_ref text,
            metadata text, input_ref text, request_payload text, callback_url text, callback_lane integer, logged text,
            error text)) WITH ORDINALITY AS t
    ), created AS (
        INSERT INTO asynch_task (id, tenant_id, lane_id, model_name, creator, updater, rank, enqueue_at, wake_at,
            queue_timeout_seconds, expire_notice_seconds, biz_name, client_ref, metadata, input_ref, request_payload,
            callback_url, callback_lane, trace_context, upload_headers, entry)
        SELECT t.id, r.tenant_id, t.lane_id, t.model_name, r.creator, r.creator, t.rank, d.due,
               d.due + make_interval(secs => coalesce(t.queue_timeout_s, r.queue_timeout_s)), t.queue_timeout_s,
               t.expire_notice_s, coalesce(t.biz_name, ''), coalesce(t.client_ref, ''), t.metadata, t.input_ref,
               t.request_payload, coalesce(t.callback_url, ''), t.callback_lane, r.trace_context, r.upload_headers,
               currval('asynch_id')
        FROM item t CROSS JOIN LATERAL (
            SELECT greatest(now(), coalesce(t.not_before, now() + make_interval(secs => coalesce(t.delay_s, 0)))) AS due
        ) d WHERE t.error IS NULL
    ), noted AS (
        INSERT INTO asynch_op_log (id, tenant_id, creator, updater, ip, user_agent, api_path, http_method, biz_name,
            model_name, task_id, op_type, success, error_msg, cost_ms, request_payload)
        SELECT t.id, r.tenant_id, r.creator, r.creator, r.ip, r.user_agent, r.api_path, r.http_method,
               coalesce(t.biz_name, ''), coalesce(t.model_name, ''), CASE WHEN t.error IS NULL THEN t.id::text ELSE '' END,
               'createTask', CASE WHEN t.error IS NULL THEN 1 ELSE 0 END, coalesce(t.error, ''), r.cost_ms,
               coalesce(t.logged, t.request_payload, '')
        FROM item t
    )
    INSERT INTO asynch_biz_tally (day, tenant_id, creator, biz_name, request_count)
    SELECT (now() AT TIME ZONE r.timezone)::date, r.tenant_id, r.creator, coalesce(t.biz_name, ''), count(*)
    FROM item t WHERE t.error IS NULL GROUP BY coalesce(t.biz_name, '');

    IF r.kept THEN
        UPDATE asynch_idempotency k SET answer = (
            SELECT coalesce(jsonb_agg(coalesce(r.refusals -> (i - 1)::text, to_jsonb(ids[i])) ORDER BY i), '[]')
            FROM generate_subscripts(ids, 1) AS i)
        WHERE k.tenant_id = r.tenant_id AND k.path = r.path AND k.key = r.key;
    ELSIF r.key IS NOT NULL THEN
        DELETE FROM asynch_idempotency k WHERE k.tenant_id = r.tenant_id AND k.path = r.path AND k.key = r.key;
    END IF;
END
$$;

INSERT INTO asynch_meta (key, value) VALUES ('schema_version', '9')
ON CONFLICT (key) DO UPDATE SET value = excluded.value WHERE asynch_meta.value::integer < excluded.value::integer;
