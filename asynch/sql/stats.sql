-- Statistics: what was counted under a day, in `server.timezone`. The claim and insert_tasks count too.

-- list_model_stats --
-- What was added up and what was not yet, in one snapshot: the cleaner moves rows from the one to the other.
SELECT day, %(tenant_id)s::bigint AS tenant_id, creator, model_name, sum(request_count)::bigint AS request_count FROM (
    SELECT day, creator, model_name, request_count FROM asynch_model_stat
    WHERE tenant_id = %(tenant_id)s
      AND (%(start_day)s::date IS NULL OR day >= %(start_day)s)
      AND (%(end_day)s::date IS NULL OR day <= %(end_day)s)
    UNION ALL
    SELECT day, creator, model_name, request_count FROM asynch_model_tally
    WHERE tenant_id = %(tenant_id)s
      AND (%(start_day)s::date IS NULL OR day >= %(start_day)s)
      AND (%(end_day)s::date IS NULL OR day <= %(end_day)s)
) s
WHERE (%(creator)s::text IS NULL OR strpos(creator, %(creator)s) > 0)
  AND (%(model_name)s::text IS NULL OR strpos(model_name, %(model_name)s) > 0)
GROUP BY day, creator, model_name
ORDER BY day DESC, request_count DESC, model_name, creator LIMIT %(limit)s OFFSET %(offset)s

-- count_model_stats --
SELECT count(*) AS total FROM (
    SELECT day, creator, model_name FROM asynch_model_stat
    WHERE tenant_id = %(tenant_id)s
      AND (%(start_day)s::date IS NULL OR day >= %(start_day)s)
      AND (%(end_day)s::date IS NULL OR day <= %(end_day)s)
    UNION
    SELECT day, creator, model_name FROM asynch_model_tally
    WHERE tenant_id = %(tenant_id)s
      AND (%(start_day)s::date IS NULL OR day >= %(start_day)s)
      AND (%(end_day)s::date IS NULL OR day <= %(end_day)s)
) s
WHERE (%(creator)s::text IS NULL OR strpos(creator, %(creator)s) > 0)
  AND (%(model_name)s::text IS NULL OR strpos(model_name, %(model_name)s) > 0)

-- list_biz_stats --
-- As list_model_stats.
SELECT day, %(tenant_id)s::bigint AS tenant_id, creator, biz_name, sum(request_count)::bigint AS request_count FROM (
    SELECT day, creator, biz_name, request_count FROM asynch_biz_stat
    WHERE tenant_id = %(tenant_id)s
      AND (%(start_day)s::date IS NULL OR day >= %(start_day)s)
      AND (%(end_day)s::date IS NULL OR day <= %(end_day)s)
    UNION ALL
    SELECT day, creator, biz_name, request_count FROM asynch_biz_tally
    WHERE tenant_id = %(tenant_id)s
      AND (%(start_day)s::date IS NULL OR day >= %(start_day)s)
      AND (%(end_day)s::date IS NULL OR day <= %(end_day)s)
) s
WHERE (%(creator)s::text IS NULL OR strpos(creator, %(creator)s) > 0)
  AND (%(biz_name)s::text IS NULL OR strpos(biz_name, %(biz_name)s) > 0)
GROUP BY day, creator, biz_name
ORDER BY day DESC, request_count DESC, biz_name, creator LIMIT %(limit)s OFFSET %(offset)s

-- count_biz_stats --
SELECT count(*) AS total FROM (
    SELECT day, creator, biz_name FROM asynch_biz_stat
    WHERE tenant_id = %(tenant_id)s
      AND (%(start_day)s::date IS NULL OR day >= %(start_day)s)
      AND (%(end_day)s::date IS NULL OR day <= %(end_day)s)
    UNION
    SELECT day, creator, biz_name FROM asynch_biz_tally
    WHERE tenant_id = %(tenant_id)s
      AND (%(start_day)s::date IS NULL OR day >= %(start_day)s)
      AND (%(end_day)s::date IS NULL OR day <= %(end_day)s)
) s
WHERE (%(creator)s::text IS NULL OR strpos(creator, %(creator)s) > 0)
  AND (%(biz_name)s::text IS NULL OR strpos(biz_name, %(biz_name)s) > 0)

-- fold_model_tallies --
-- Adds tallies up, whichever are committed: one of a transaction that ends later is met the next time.
WITH folded AS (
    DELETE FROM asynch_model_tally
    WHERE ctid = ANY(ARRAY(SELECT ctid FROM asynch_model_tally LIMIT %(most)s FOR UPDATE SKIP LOCKED))
    RETURNING day, tenant_id, creator, model_name, request_count
), added AS (
    INSERT INTO asynch_model_stat (day, tenant_id, creator, model_name, request_count)
    SELECT f.day, f.tenant_id, f.creator, f.model_name, sum(f.request_count) FROM folded f
    GROUP BY f.day, f.tenant_id, f.creator, f.model_name ORDER BY f.day, f.tenant_id, f.creator, f.model_name
    ON CONFLICT (day, tenant_id, creator, model_name)
    DO UPDATE SET request_count = asynch_model_stat.request_count + excluded.request_count, updated_at = now()
)
SELECT count(*) AS folded FROM folded

-- fold_biz_tallies --
-- As fold_model_tallies.
WITH folded AS (
    DELETE FROM asynch_biz_tally
    WHERE ctid = ANY(ARRAY(SELECT ctid FROM asynch_biz_tally LIMIT %(most)s FOR UPDATE SKIP LOCKED))
    RETURNING day, tenant_id, creator, biz_name, request_count
), added AS (
    INSERT INTO asynch_biz_stat (day, tenant_id, creator, biz_name, request_count)
    SELECT f.day, f.tenant_id, f.creator, f.biz_name, sum(f.request_count) FROM folded f
    GROUP BY f.tenant_id, f.day, f.creator, f.biz_name ORDER BY f.tenant_id, f.day, f.creator, f.biz_name
    ON CONFLICT (tenant_id, day, creator, biz_name)
    DO UPDATE SET request_count = asynch_biz_stat.request_count + excluded.request_count, updated_at = now()
)
SELECT count(*) AS folded FROM folded

-- count_call --
-- A call that starts outside the queue, counted as the claim counts.
INSERT INTO asynch_model_stat (day, tenant_id, creator, model_name, request_count)
VALUES ((now() AT TIME ZONE %(timezone)s)::date, %(tenant_id)s, %(creator)s, %(model_name)s, 1)
ON CONFLICT (day, tenant_id, creator, model_name)
DO UPDATE SET request_count = asynch_model_stat.request_count + 1, updated_at = now()
