-- The whole queue at a glance, for /metrics: each statement reads a bounded number of rows, however deep the queue is.

-- waiting_counted --
-- Depth and oldest wait of the deepest lanes by name, of all others together under NULL. Exact unless `most` rows came.
WITH seen AS MATERIALIZED (
    SELECT t.lane_id, t.enqueue_at FROM asynch_task t WHERE t.state = 0 AND t.phase = 0
    ORDER BY t.lane_id, t.rank, t.enqueue_at, t.id LIMIT %(most)s
), lane AS (
    SELECT s.lane_id, count(*) AS depth, min(s.enqueue_at) AS oldest,
           row_number() OVER (ORDER BY count(*) DESC, s.lane_id) <= %(top)s AS named
    FROM seen s GROUP BY s.lane_id
)
SELECT m.tenant_id, m.model_name, sum(l.depth)::bigint AS depth,
       greatest(0, extract(epoch FROM now() - min(l.oldest)))::float8 AS oldest_s
FROM lane l LEFT JOIN asynch_models m ON l.named AND m.lane_id = l.lane_id
GROUP BY m.tenant_id, m.model_name

-- waiting_estimated --
-- The same where counting takes too long. Oldest waits: one index probe for each lane and rank, of so many at most.
-- The deepest lanes are those met most often on some pages of the table; up to `cap` they are counted after all.
WITH RECURSIVE head(lane_id, rank, enqueue_at, n) AS (
    (SELECT t.lane_id, t.rank, t.enqueue_at, 1 FROM asynch_task t
     WHERE t.state = 0 AND t.phase = 0 ORDER BY t.lane_id, t.rank, t.enqueue_at LIMIT 1)
    UNION ALL
    SELECT x.lane_id, x.rank, x.enqueue_at, h.n + 1
    FROM head h CROSS JOIN LATERAL (
        SELECT t.lane_id, t.rank, t.enqueue_at FROM asynch_task t
        WHERE t.state = 0 AND t.phase = 0 AND (t.lane_id, t.rank) > (h.lane_id, h.rank)
        ORDER BY t.lane_id, t.rank, t.enqueue_at LIMIT 1
    ) x
    WHERE h.n < %(probes)s
), lane AS MATERIALIZED (
    SELECT h.lane_id, min(h.enqueue_at) AS oldest FROM head h GROUP BY h.lane_id
), sampled AS MATERIALIZED (
    SELECT t.lane_id, count(*) AS n FROM asynch_task t TABLESAMPLE SYSTEM (100 * %(share)s)
    WHERE t.state = 0 AND t.phase = 0 GROUP BY t.lane_id ORDER BY n DESC, t.lane_id LIMIT %(top)s
), named AS MATERIALIZED (
    SELECT s.lane_id, CASE WHEN c.n < %(cap)s THEN c.n ELSE greatest(c.n, (s.n / %(share)s)::bigint) END AS depth
    FROM sampled s CROSS JOIN LATERAL (
        SELECT count(*) AS n FROM (
            SELECT 1 FROM asynch_task q WHERE q.lane_id = s.lane_id AND q.state = 0 AND q.phase = 0 LIMIT %(cap)s) x
    ) c
)
SELECT m.tenant_id, m.model_name, coalesce(sum(n.depth), 0)::bigint AS depth,
       greatest(0, extract(epoch FROM now() - min(l.oldest)))::float8 AS oldest_s
FROM lane l LEFT JOIN named n ON n.lane_id = l.lane_id LEFT JOIN asynch_models m ON m.lane_id = n.lane_id
GROUP BY m.tenant_id, m.model_name

-- queue_size --
-- Pages of the table, and how many tasks wait as the last VACUUM or ANALYZE found it (-1: none has looked yet).
SELECT greatest(1, pg_relation_size('asynch_task') / current_setting('block_size')::int) AS pages,
       (SELECT c.reltuples FROM pg_class c WHERE c.oid = 'asynch_task_queue'::regclass)::bigint AS waiting

-- in_hand --
-- What runs, what is saved but not in storage, what waits for its retry; `most` of each are looked at. The oldest
-- saved result is as old as its call, because every failed upload writes finished_at anew. ORDER BY names the index.
SELECT count(*) FILTER (WHERE x.state = 1 AND x.phase = 0) AS calls,
       count(*) FILTER (WHERE x.phase = 1) AS uploads,
       coalesce(extract(epoch FROM now() - min(x.started_at) FILTER (WHERE x.phase = 1)), 0)::float8 AS oldest_upload_s,
       count(*) FILTER (WHERE x.state = 3 AND x.phase = 0) AS retries,
       (SELECT count(*) FROM asynch_worker w
        WHERE w.dead_at IS NULL AND w.seen_at > now() - make_interval(secs => %(silence_s)s)) AS workers
FROM (
    (SELECT t.state, t.phase, t.started_at FROM asynch_task t WHERE t.state = 1
     ORDER BY t.lane_id, t.worker_id LIMIT %(most)s)
    UNION ALL
    (SELECT t.state, t.phase, t.started_at FROM asynch_task t WHERE t.state = 0 AND t.phase = 1
     ORDER BY t.tmp_host, t.enqueue_at LIMIT %(most)s)
    UNION ALL
    (SELECT t.state, t.phase, t.started_at FROM asynch_task t WHERE t.state = 3 AND NOT t.final
     ORDER BY t.wake_at LIMIT %(most)s)
) x

-- lock_capacity --
SELECT current_setting('max_locks_per_transaction')::int * (current_setting('max_connections')::int
       + current_setting('max_prepared_transactions')::int) AS capacity,
       (SELECT coalesce(sum(max_concurrency), 0) FROM asynch_models WHERE deleted_at IS NULL AND enabled = 1) AS slots

-- locks_held --
-- Entries of the shared lock table, of all databases, and the slots among them: two-key locks of a lane in this one.
-- The second key of a slot is its number; -1 is the lock of who counts the lane.
SELECT count(*) AS held,
       count(*) FILTER (WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted AND l.classid::bigint > 0
           AND l.objid::bigint < 2147483648
           AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())) AS slots
FROM pg_locks l WHERE NOT l.fastpath

-- oldest_snapshot --
-- How long the oldest transaction has kept dead rows of this database alive. Autovacuum's own do not; those of other
-- roles show only to members of pg_read_all_stats.
SELECT coalesce(greatest(
    (SELECT extract(epoch FROM now() - min(a.xact_start)) FROM pg_stat_activity a
     WHERE (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL) AND a.datname = current_database()
       AND a.backend_type <> 'autovacuum worker' AND a.pid <> pg_backend_pid()),
    (SELECT extract(epoch FROM now() - min(p.prepared)) FROM pg_prepared_xacts p WHERE p.database = current_database())
), 0)::float8 AS age_s
