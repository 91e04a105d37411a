-- Statistics: what was counted under a day, in `server.timezone`. The claim and insert_tasks count too.

-- list_model_stats --
-- What was added up and what was not yet, in one snapshot: the cleaner moves rows from the one to the other. Of what was
-- added up no older day is read than the one (`floor`) that the page's last row can be of, and no more counted than `cap`.
-- A page behind the end is one row, with the total alone.
WITH floor AS (
    SELECT s.day FROM asynch_model_stat s
    WHERE s.tenant_id = %(tenant_id)s
      AND (%(start_day)s::date IS NULL OR s.day >= %(start_day)s)
      AND (%(end_day)s::date IS NULL OR s.day <= %(end_day)s)
      AND (%(creator)s::text IS NULL OR strpos(s.creator, %(creator)s) > 0)
      AND (%(model_name)s::text IS NULL OR strpos(s.model_name, %(model_name)s) > 0)
    ORDER BY s.day DESC OFFSET %(limit)s::bigint + %(offset)s::bigint - 1 LIMIT 1
), tallied AS (
    SELECT s.day, s.creator, s.model_name, s.request_count FROM asynch_model_tally s
    WHERE s.tenant_id = %(tenant_id)s
      AND (%(start_day)s::date IS NULL OR s.day >= %(start_day)s)
      AND (%(end_day)s::date IS NULL OR s.day <= %(end_day)s)
      AND (%(creator)s::text IS NULL OR strpos(s.creator, %(creator)s) > 0)
      AND (%(model_name)s::text IS NULL OR strpos(s.model_name, %(model_name)s) > 0)
), counted AS (
    SELECT s.day, s.creator, s.model_name, sum(s.request_count)::bigint AS request_count
    FROM (
        SELECT f.day, f.creator, f.model_name, f.request_count FROM asynch_model_stat f
        WHERE f.tenant_id = %(tenant_id)s
          AND f.day >= coalesce((SELECT day FROM floor), %(start_day)s, '-infinity')
          AND (%(end_day)s::date IS NULL OR f.day <= %(end_day)s)
          AND (%(creator)s::text IS NULL OR strpos(f.creator, %(creator)s) > 0)
          AND (%(model_name)s::text IS NULL OR strpos(f.model_name, %(model_name)s) > 0)
        UNION ALL
        SELECT * FROM tallied
    ) s
    GROUP BY s.day, s.creator, s.model_name
), page AS (
    SELECT * FROM counted ORDER BY day DESC, request_count DESC, model_name, creator LIMIT %(limit)s OFFSET %(offset)s
), known AS (
    SELECT 1 FROM asynch_model_stat s
    WHERE s.tenant_id = %(tenant_id)s
      AND (%(start_day)s::date IS NULL OR s.day >= %(start_day)s)
      AND (%(end_day)s::date IS NULL OR s.day <= %(end_day)s)
      AND (%(creator)s::text IS NULL OR strpos(s.creator, %(creator)s) > 0)
      AND (%(model_name)s::text IS NULL OR strpos(s.model_name, %(model_name)s) > 0)
    LIMIT %(cap)s
), fresh AS (
    SELECT DISTINCT t.day, t.creator, t.model_name FROM tallied t
    WHERE NOT EXISTS (SELECT 1 FROM asynch_model_stat f WHERE f.day = t.day AND f.tenant_id = %(tenant_id)s
        AND f.creator = t.creator AND f.model_name = t.model_name)
)
SELECT t.total, %(tenant_id)s::bigint AS tenant_id, p.*
FROM (SELECT least((SELECT count(*) FROM known) + (SELECT count(*) FROM fresh), %(cap)s) AS total) t
LEFT JOIN page p ON true
ORDER BY p.day DESC, p.request_count DESC, p.model_name, p.creator

-- list_biz_stats --
-- As list_model_stats.
WITH floor AS (
    SELECT s.day FROM asynch_biz_stat s
    WHERE s.tenant_id = %(tenant_id)s
      AND (%(start_day)s::date IS NULL OR s.day >= %(start_day)s)
      AND (%(end_day)s::date IS NULL OR s.day <= %(end_day)s)
      AND (%(creator)s::text IS NULL OR strpos(s.creator, %(creator)s) > 0)
      AND (%(biz_name)s::text IS NULL OR strpos(s.biz_name, %(biz_name)s) > 0)
    ORDER BY s.day DESC OFFSET %(limit)s::bigint + %(offset)s::bigint - 1 LIMIT 1
), tallied AS (
    SELECT s.day, s.creator, s.biz_name, s.request_count FROM asynch_biz_tally s
    WHERE s.tenant_id = %(tenant_id)s
      AND (%(start_day)s::date IS NULL OR s.day >= %(start_day)s)
      AND (%(end_day)s::date IS NULL OR s.day <= %(end_day)s)
      AND (%(creator)s::text IS NULL OR strpos(s.creator, %(creator)s) > 0)
      AND (%(biz_name)s::text IS NULL OR strpos(s.biz_name, %(biz_name)s) > 0)
), counted AS (
    SELECT s.day, s.creator, s.biz_name, sum(s.request_count)::bigint AS request_count
    FROM (
        SELECT f.day, f.creator, f.biz_name, f.request_count FROM asynch_biz_stat f
        WHERE f.tenant_id = %(tenant_id)s
          AND f.day >= coalesce((SELECT day FROM floor), %(start_day)s, '-infinity')
          AND (%(end_day)s::date IS NULL OR f.day <= %(end_day)s)
          AND (%(creator)s::text IS NULL OR strpos(f.creator, %(creator)s) > 0)
          AND (%(biz_name)s::text IS NULL OR strpos(f.biz_name, %(biz_name)s) > 0)
        UNION ALL
        SELECT * FROM tallied
    ) s
    GROUP BY s.day, s.creator, s.biz_name
), page AS (
    SELECT * FROM counted ORDER BY day DESC, request_count DESC, biz_name, creator LIMIT %(limit)s OFFSET %(offset)s
), known AS (
    SELECT 1 FROM asynch_biz_stat s
    WHERE s.tenant_id = %(tenant_id)s
      AND (%(start_day)s::date IS NULL OR s.day >= %(start_day)s)
      AND (%(end_day)s::date IS NULL OR s.day <= %(end_day)s)
      AND (%(creator)s::text IS NULL OR strpos(s.creator, %(creator)s) > 0)
      AND (%(biz_name)s::text IS NULL OR strpos(s.biz_name, %(biz_name)s) > 0)
    LIMIT %(cap)s
), fresh AS (
    SELECT DISTINCT t.day, t.creator, t.biz_name FROM tallied t
    WHERE NOT EXISTS (SELECT 1 FROM asynch_biz_stat f WHERE f.day = t.day AND f.tenant_id = %(tenant_id)s
        AND f.creator = t.creator AND f.biz_name = t.biz_name)
)
SELECT t.total, %(tenant_id)s::bigint AS tenant_id, p.*
FROM (SELECT least((SELECT count(*) FROM known) + (SELECT count(*) FROM fresh), %(cap)s) AS total) t
LEFT JOIN page p ON true
ORDER BY p.day DESC, p.request_count DESC, p.biz_name, p.creator

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
