-- Models: the registered targets.

-- insert_model --
INSERT INTO asynch_models (tenant_id, creator, updater, kind, model_name, base_url, route, http_method, api_key, enabled,
    max_concurrency, queue_limit, timeout_seconds, retry_times, retry_queue_max_seconds, retry_on,
    retry_backoff_seconds, auto_clean_seconds, max_result_bytes, remark)
VALUES (%(tenant_id)s, %(creator)s, %(creator)s, 'model', %(model_name)s, %(base_url)s, %(route)s, %(http_method)s, %(api_key)s,
    %(enabled)s, %(max_concurrency)s, %(queue_limit)s, %(timeout_seconds)s, %(retry_times)s,
    %(retry_queue_max_seconds)s, %(retry_on)s, %(retry_backoff_seconds)s, %(auto_clean_seconds)s,
    %(max_result_bytes)s, %(remark)s)
ON CONFLICT (tenant_id, model_name) WHERE deleted_at IS NULL DO NOTHING
RETURNING id, lane_id

-- update_model --
UPDATE asynch_models SET
    updater = %(updater)s, updated_at = now(), model_name = %(model_name)s, base_url = %(base_url)s, route = %(route)s,
    http_method = %(http_method)s, api_key = %(api_key)s, enabled = %(enabled)s, max_concurrency = %(max_concurrency)s,
    queue_limit = %(queue_limit)s, timeout_seconds = %(timeout_seconds)s, retry_times = %(retry_times)s,
    retry_queue_max_seconds = %(retry_queue_max_seconds)s, retry_on = %(retry_on)s,
    retry_backoff_seconds = %(retry_backoff_seconds)s, auto_clean_seconds = %(auto_clean_seconds)s,
    max_result_bytes = %(max_result_bytes)s, remark = %(remark)s
WHERE tenant_id = %(tenant_id)s AND id = %(id)s AND deleted_at IS NULL

-- delete_model --
UPDATE asynch_models SET deleted_at = now(), updated_at = now(), updater = %(updater)s
WHERE tenant_id = %(tenant_id)s AND id = %(id)s AND deleted_at IS NULL

-- find_model --
SELECT * FROM asynch_models
WHERE tenant_id = %(tenant_id)s AND deleted_at IS NULL AND kind = 'model'
  AND CASE WHEN %(id)s::bigint IS NULL THEN model_name = %(model_name)s::text ELSE id = %(id)s END

-- lock_model --
SELECT * FROM asynch_models
WHERE tenant_id = %(tenant_id)s AND deleted_at IS NULL AND kind = 'model'
  AND CASE WHEN %(id)s::bigint IS NULL THEN model_name = %(model_name)s::text ELSE id = %(id)s END
FOR UPDATE

-- list_models --
SELECT * FROM asynch_models
WHERE tenant_id = ANY(%(tenants)s::bigint[]) AND deleted_at IS NULL
  AND (%(kind)s::text IS NULL OR kind = %(kind)s)
  AND (%(name)s::text IS NULL OR strpos(model_name, %(name)s) > 0)
ORDER BY id DESC LIMIT %(limit)s OFFSET %(offset)s

-- count_models --
SELECT count(*) AS total FROM asynch_models
WHERE tenant_id = ANY(%(tenants)s::bigint[]) AND deleted_at IS NULL
  AND (%(kind)s::text IS NULL OR kind = %(kind)s)
  AND (%(name)s::text IS NULL OR strpos(model_name, %(name)s) > 0)

-- open_tasks_of_lane --
SELECT t.id FROM asynch_task t
WHERE t.tenant_id IN (%(tenant_id)s, ~%(tenant_id)s::bigint) AND t.lane_id = %(lane_id)s AND NOT t.final
ORDER BY t.id

-- count_open_tasks --
SELECT count(*) AS total FROM (
    SELECT 1 FROM asynch_task t
    WHERE t.tenant_id IN (%(tenant_id)s, ~%(tenant_id)s::bigint) AND t.lane_id = %(lane_id)s AND NOT t.final
    LIMIT %(at_most)s
) t
