-- Tenants: what one has over all of its models.

-- find_tenant --
SELECT * FROM asynch_tenant WHERE tenant_id = %(tenant_id)s

-- put_tenant --
-- One statement, so that two who change different limits at once keep both.
INSERT INTO asynch_tenant AS t (tenant_id, creator, updater, max_concurrency, queue_limit)
VALUES (%(tenant_id)s, %(updater)s, %(updater)s, coalesce(%(max_concurrency)s::integer, 0), coalesce(%(queue_limit)s::integer, 0))
ON CONFLICT (tenant_id) DO UPDATE SET
    updater = excluded.updater, updated_at = now(),
    max_concurrency = coalesce(%(max_concurrency)s::integer, t.max_concurrency),
    queue_limit = coalesce(%(queue_limit)s::integer, t.queue_limit)
RETURNING *

-- ensure_tenant --
INSERT INTO asynch_tenant (tenant_id) VALUES (%(tenant_id)s) ON CONFLICT DO NOTHING

-- lanes_of_tenant --
SELECT lane_id FROM asynch_models WHERE tenant_id = %(tenant_id)s AND deleted_at IS NULL
