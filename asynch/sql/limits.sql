-- Services that many lanes share, and the breakers of those that fail.

-- put_service --
INSERT INTO asynch_service AS s (base_url, creator, updater, max_concurrency)
VALUES (asynch_service_of(%(base_url)s), %(updater)s, %(updater)s, %(max_concurrency)s)
ON CONFLICT (base_url) DO UPDATE SET
    updater = excluded.updater, updated_at = now(), max_concurrency = excluded.max_concurrency
RETURNING *

-- list_services --
SELECT * FROM asynch_service
WHERE %(base_url)s::text IS NULL OR strpos(base_url, lower(%(base_url)s)) > 0
ORDER BY created_at DESC, base_url LIMIT %(limit)s OFFSET %(offset)s

-- count_services --
SELECT count(*) AS total FROM asynch_service
WHERE %(base_url)s::text IS NULL OR strpos(base_url, lower(%(base_url)s)) > 0

-- find_breaker --
SELECT b.calls, b.failures, b.open_until,
       CASE WHEN b.open_until IS NULL THEN 'closed' WHEN b.open_until > now() THEN 'open' ELSE 'half_open' END AS state
FROM asynch_breaker b WHERE b.tenant_id = %(tenant_id)s AND b.base_url = asynch_service_of(%(base_url)s)

-- tell_breakers --
-- What came of calls since the last time; successes alone matter only to a service that failed lately, and to no other is
-- anything written. Closed: counted within a window, opened when enough of enough calls failed. Open: what still comes are
-- calls begun before. Half open: one success closes it, one failure opens it for longer.
INSERT INTO asynch_breaker AS b (tenant_id, base_url, calls, failures, trips, open_until)
SELECT t.tenant_id, t.url, t.calls, t.failures, 0,
       CASE WHEN t.failures >= %(least)s AND t.failures >= %(share)s * t.calls THEN now() + make_interval(secs => %(pause_s)s) END
FROM (
    SELECT w.tenant_id, asynch_service_of(w.base_url) AS url, sum(w.calls)::int AS calls, sum(w.failures)::int AS failures
    FROM unnest(%(tenants)s::bigint[], %(urls)s::text[], %(calls)s::int[], %(failures)s::int[])
        AS w(tenant_id, base_url, calls, failures)
    GROUP BY 1, 2
) t
WHERE t.failures > 0 OR EXISTS (
    SELECT 1 FROM asynch_breaker k WHERE k.tenant_id = t.tenant_id AND k.base_url = t.url
      AND (k.open_until IS NOT NULL OR k.since >= now() - make_interval(secs => %(window_s)s)))
ORDER BY 1, 2
ON CONFLICT (tenant_id, base_url) DO UPDATE SET (since, calls, failures, trips, open_until) = (
    SELECT CASE WHEN was.anew THEN now() ELSE b.since END, seen.calls, seen.failures, turn.trips,
           CASE WHEN turn.opens THEN now() + make_interval(secs => least(%(pause_s)s * power(2, least(turn.trips, 20)), %(longest_s)s))
                WHEN turn.closes THEN NULL ELSE b.open_until END
    FROM (SELECT b.open_until IS NULL AS closed, coalesce(b.open_until <= now(), false) AS half_open,
                 b.open_until IS NOT NULL OR b.since < now() - make_interval(secs => %(window_s)s) AS anew) was
    CROSS JOIN LATERAL (
        SELECT CASE WHEN was.anew THEN 0 ELSE b.calls END + excluded.calls AS calls,
               CASE WHEN was.anew THEN 0 ELSE b.failures END + excluded.failures AS failures) seen
    CROSS JOIN LATERAL (
        SELECT was.half_open AND excluded.failures = 0 AS closes,
               was.half_open AND excluded.failures > 0
               OR was.closed AND seen.failures >= %(least)s AND seen.failures >= %(share)s * seen.calls AS opens,
               CASE WHEN NOT was.half_open THEN b.trips WHEN excluded.failures > 0 THEN b.trips + 1 ELSE 0 END AS trips) turn
)
