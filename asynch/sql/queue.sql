-- Slots and lanes: what the claim session asks before it claims. No state is written here.

-- scan_lanes, plan kept --
-- The next lanes with waiting tasks after a cursor, one index probe a lane however deep its backlog. A disabled lane is
-- open to what its model works on, one whose work lies on another host never. Lanes that are `known` are not looked for:
-- they are met in their turn, and looked at from where their `starts` say, a probe a rank, as what lies before is dead;
-- but not what a model works on, which is claimed before all else.
WITH RECURSIVE known AS MATERIALIZED (
    SELECT k.lane_id, k.starts::timestamptz[] AS starts
    FROM unnest(%(known)s::int[], %(starts)s::text[]) AS k(lane_id, starts)
), scan(lane_id, n) AS (
    SELECT %(after)s::int, 0
    UNION ALL
    SELECT least(k.next, (
        SELECT t.lane_id FROM asynch_task t
        WHERE t.state = 0 AND t.phase = 0 AND t.lane_id > s.lane_id AND t.lane_id < coalesce(k.next, 2147483647)
        ORDER BY t.lane_id LIMIT 1)), s.n + 1
    FROM scan s CROSS JOIN LATERAL (SELECT min(k.lane_id) AS next FROM known k WHERE k.lane_id > s.lane_id) k
    WHERE s.lane_id IS NOT NULL AND s.n < %(most)s
)
SELECT s.lane_id, m.tenant_id, m.max_concurrency, p.permits, p.most,
       m.deleted_at IS NULL AND m.tmp_host IN ('', %(tmp_host)s) AND (EXISTS (
           SELECT 1 FROM asynch_task t
           WHERE t.lane_id = s.lane_id AND t.state = 0 AND t.phase = 0 AND t.poll_url <> '')
       OR m.enabled = 1 AND (k.lane_id IS NULL OR EXISTS (
           SELECT 1 FROM generate_series(0, 19) AS r(rank) CROSS JOIN LATERAL (
               SELECT 1 FROM asynch_task t
               WHERE t.lane_id = k.lane_id AND t.state = 0 AND t.phase = 0 AND t.rank = r.rank
                 AND t.enqueue_at >= coalesce(k.starts[r.rank + 1], '-infinity')
               ORDER BY t.enqueue_at, t.id LIMIT 1) w))) AS open
FROM scan s LEFT JOIN known k ON k.lane_id = s.lane_id
CROSS JOIN LATERAL (SELECT * FROM asynch_models l WHERE l.lane_id = s.lane_id OFFSET 0) m
CROSS JOIN LATERAL asynch_permits(m.tenant_id, m.base_url, %(tenant_most)s, %(tmp_host)s) p
WHERE s.n > 0
ORDER BY s.lane_id

-- lanes_named, plan kept --
SELECT m.lane_id, m.tenant_id, m.max_concurrency, p.permits, p.most,
       m.deleted_at IS NULL AND m.tmp_host IN ('', %(tmp_host)s) AND (m.enabled = 1 OR EXISTS (
           SELECT 1 FROM asynch_task t
           WHERE t.lane_id = m.lane_id AND t.state = 0 AND t.phase = 0 AND t.poll_url <> '')) AS open
FROM asynch_models m CROSS JOIN LATERAL asynch_permits(m.tenant_id, m.base_url, %(tenant_most)s, %(tmp_host)s) p
WHERE m.lane_id = ANY(%(lanes)s::int[])

-- swap_slots, plan kept --
-- Gives slots back, then tries free slot numbers in the order given until a lane has as many as it wants: each pair at
-- most once, no sort and no index between the filter and the LIMIT, so no lock is taken that does not come back.
-- Where a slot was not held (`missing`) none is tried.
WITH given AS MATERIALIZED (
    SELECT count(*) FILTER (WHERE NOT pg_advisory_unlock(g.lane_id, g.slot)) AS missing
    FROM unnest(%(given_lanes)s::int[], %(given_slots)s::int[]) AS g(lane_id, slot)
)
SELECT g.missing, won.lane_id, won.slot
FROM given g LEFT JOIN LATERAL (
    SELECT w.lane_id, s.slot
    FROM unnest(%(lanes)s::int[], %(wants)s::int[], %(tries)s::text[]) AS w(lane_id, n, tries)
    CROSS JOIN LATERAL (
        SELECT u.slot FROM unnest(w.tries::int[]) AS u(slot)
        WHERE pg_try_advisory_lock(w.lane_id, u.slot) LIMIT w.n
    ) s
    WHERE g.missing = 0
) won ON true

-- own_slots --
-- What the claim session really holds, after a statement that failed half way.
SELECT l.classid::int AS lane_id, l.objid::int AS slot FROM pg_locks l
WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted AND l.pid = pg_backend_pid()

-- find_dead --
-- Workers whose own lock can be taken: they are dead.
SELECT w.id, w.dead_at IS NOT NULL AND w.dead_at <= now() - make_interval(secs => %(grace_s)s) AS mourned
FROM asynch_worker w
WHERE w.id <> %(worker_id)s AND pg_try_advisory_xact_lock_shared(w.id)

-- mark_dead --
UPDATE asynch_worker SET dead_at = clock_timestamp() WHERE id = ANY(%(workers)s::bigint[]) AND dead_at IS NULL

-- lanes_in_mourning --
-- Lanes, and permits of theirs, where calls of workers that just died may still be open, and how many. Where a model
-- works on, that lasts until the rescue of its task (`dead`), whose next claim counts it again.
SELECT k.id, count(*) AS calls FROM asynch_task t
CROSS JOIN LATERAL (SELECT * FROM asynch_models l WHERE l.lane_id = t.lane_id OFFSET 0) m
CROSS JOIN LATERAL asynch_permits(m.tenant_id, m.base_url, %(tenant_most)s,
    (SELECT w.tmp_host FROM asynch_worker w WHERE w.id = t.worker_id)) p
CROSS JOIN LATERAL unnest(t.lane_id || p.permits) AS k(id)
WHERE t.state = 1 AND t.phase = 0 AND t.worker_id = ANY(%(dead)s::bigint[])
  AND (t.poll_url <> '' OR t.worker_id = ANY(%(workers)s::bigint[]))
GROUP BY k.id

-- polled_waiting --
SELECT count(*)::int AS waiting FROM asynch_task t
WHERE t.lane_id = %(lane_id)s AND t.state = 0 AND t.phase = 0 AND t.poll_url <> ''

-- lane_depth --
-- States 0 and 1 of a lane, what may come back into it (failures that wait for their retry), and the first entry of
-- these, from an entry on: what lies before it is dead, and a held snapshot keeps it in the index.
SELECT count(*) FILTER (WHERE t.state <> 3) AS depth, count(*) FILTER (WHERE t.state = 3) AS returning, min(t.entry) AS first
FROM asynch_task t WHERE t.lane_id = %(lane_id)s AND NOT t.final AND t.entry >= %(since)s

-- tenant_depth --
-- As lane_depth, over all lanes of a tenant's models.
SELECT count(*) FILTER (WHERE t.state <> 3) AS depth, count(*) FILTER (WHERE t.state = 3) AS returning, min(t.entry) AS first
FROM asynch_models m CROSS JOIN LATERAL (
    SELECT q.state, q.entry FROM asynch_task q
    WHERE q.lane_id = m.lane_id AND NOT q.final AND q.entry >= %(since)s OFFSET 0
) t
WHERE m.tenant_id = %(tenant_id)s AND m.kind = 'model'

-- tenant_key --
SELECT permit_id FROM asynch_tenant WHERE tenant_id = %(tenant_id)s

-- lock_lanes_shared, plan kept --
SELECT pg_advisory_xact_lock_shared(l, -1) FROM unnest(%(lanes)s::int[]) AS l

-- lock_lanes --
SELECT pg_advisory_xact_lock(l, -1) FROM unnest(%(lanes)s::int[]) AS l

-- enter_alone --
SELECT CASE WHEN l = ANY(%(alone)s::int[]) THEN pg_advisory_xact_lock(l, -1) ELSE pg_advisory_xact_lock_shared(l, -1) END
FROM unnest(%(lanes)s::int[]) AS l

-- draw_ids, plan kept --
-- currval fails in a session that has drawn none.
SELECT coalesce(array_agg(asynch_new_id() ORDER BY n), '{}') AS ids,
       CASE WHEN count(*) > 0 THEN currval('asynch_id') ELSE 0 END AS drawn
FROM generate_series(1, (SELECT %(n)s::int)) AS n
