-- The op log. Ids are in the order of time, so pages come off the key.

-- insert_op_logs, plan kept --
INSERT INTO asynch_op_log (id, tenant_id, creator, updater, ip, user_agent, api_path, http_method, biz_name, model_name,
    task_id, op_type, success, error_msg, cost_ms, request_payload)
SELECT coalesce(o.id, asynch_new_id()), %(tenant_id)s, %(creator)s, %(creator)s, %(ip)s, %(user_agent)s, %(api_path)s,
       %(http_method)s, coalesce(o.biz_name, ''), coalesce(o.model_name, ''), coalesce(o.task_id, ''), %(op_type)s,
       CASE WHEN o.success THEN 1 ELSE 0 END, coalesce(o.error, ''), %(cost_ms)s, coalesce(o.request, '')
FROM json_to_recordset(%(operations)s::json) AS o(biz_name text, model_name text, task_id text, success boolean,
    error text, request text, id bigint)

-- list_op_logs --
-- `rare` repeats the condition of an index, and the ids bound by time only cut the search short: an id is drawn within
-- the transaction whose beginning is created_at, and none lasts an hour.
SELECT id, tenant_id, creator, created_at, ip, user_agent, api_path, http_method, biz_name, model_name, task_id, op_type,
       success, error_msg, cost_ms, request_payload, response_payload
FROM asynch_op_log
WHERE tenant_id = %(tenant_id)s
  AND (%(ids)s::bigint[] IS NULL OR id = ANY(%(ids)s::bigint[]))
  AND (NOT %(rare)s OR op_type NOT IN ('createTask', 'purgeTask'))
  AND (%(success)s::int IS NULL OR success = %(success)s::int)
  AND (%(op_type)s::text IS NULL OR strpos(op_type, %(op_type)s) > 0)
  AND (%(biz_name)s::text IS NULL OR strpos(biz_name, %(biz_name)s) > 0)
  AND (%(model_name)s::text IS NULL OR strpos(model_name, %(model_name)s) > 0)
  AND (%(creator)s::text IS NULL OR strpos(creator, %(creator)s) > 0)
  AND (%(created_from)s::timestamptz IS NULL
       OR created_at >= %(created_from)s AND id >= asynch_id_at(%(created_from)s - interval '1 hour'))
  AND (%(created_to)s::timestamptz IS NULL
       OR created_at < %(created_to)s AND id < asynch_id_at(%(created_to)s + interval '1 hour'))
ORDER BY id DESC LIMIT %(limit)s OFFSET %(offset)s

-- count_op_logs --
-- A count that stops at a cap.
SELECT count(*) AS total FROM (
    SELECT 1 FROM asynch_op_log
    WHERE tenant_id = %(tenant_id)s
      AND (%(ids)s::bigint[] IS NULL OR id = ANY(%(ids)s::bigint[]))
      AND (NOT %(rare)s OR op_type NOT IN ('createTask', 'purgeTask'))
      AND (%(success)s::int IS NULL OR success = %(success)s::int)
      AND (%(op_type)s::text IS NULL OR strpos(op_type, %(op_type)s) > 0)
      AND (%(biz_name)s::text IS NULL OR strpos(biz_name, %(biz_name)s) > 0)
      AND (%(model_name)s::text IS NULL OR strpos(model_name, %(model_name)s) > 0)
      AND (%(creator)s::text IS NULL OR strpos(creator, %(creator)s) > 0)
      AND (%(created_from)s::timestamptz IS NULL
           OR created_at >= %(created_from)s AND id >= asynch_id_at(%(created_from)s - interval '1 hour'))
      AND (%(created_to)s::timestamptz IS NULL
           OR created_at < %(created_to)s AND id < asynch_id_at(%(created_to)s + interval '1 hour'))
    LIMIT %(cap)s) t

-- op_logs_of_task --
-- One branch an index; the row of its creation has the task's id.
SELECT id FROM (
    SELECT id FROM asynch_op_log
    WHERE tenant_id = %(tenant_id)s AND task_id = %(task_id)s AND task_id <> '' AND task_id <> id::text
      AND op_type <> 'purgeTask'
    UNION ALL
    SELECT id FROM asynch_op_log WHERE tenant_id = %(tenant_id)s AND task_id = %(task_id)s AND op_type = 'purgeTask'
    UNION ALL
    SELECT id FROM asynch_op_log
    WHERE tenant_id = %(tenant_id)s AND id = %(number)s AND task_id = %(task_id)s AND op_type <> 'purgeTask'
) t ORDER BY id DESC LIMIT %(most)s
