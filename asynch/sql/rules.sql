-- lock_rules --
-- Whoever changes one of a tenant's rules holds its row: what comes after what is a matter of all of them.
SELECT tenant_id FROM asynch_tenant WHERE tenant_id = %(tenant_id)s FOR NO KEY UPDATE

-- find_rules_stamp --
SELECT rules_stamp FROM asynch_tenant WHERE tenant_id = %(tenant_id)s

-- renew_rules_stamp --
UPDATE asynch_tenant SET rules_stamp = gen_random_uuid() WHERE tenant_id = %(tenant_id)s

-- insert_rule --
INSERT INTO asynch_pre_action (tenant_id, creator, updater, action_name, action_type, upload_id, scene, trigger_condition,
    execute_mode, target_url, retry_strategy, delay_seconds, after_id, rollout_percent, status, await_result,
    timeout_seconds, options)
VALUES (%(tenant_id)s, %(creator)s, %(creator)s, %(action_name)s, %(action_type)s, %(upload_id)s, %(scene)s,
    %(trigger_condition)s::jsonb, %(execute_mode)s, %(target_url)s, %(retry_strategy)s, %(delay_seconds)s, %(after_id)s,
    %(rollout_percent)s, %(status)s, %(await_result)s, %(timeout_seconds)s, %(options)s::jsonb)
ON CONFLICT (tenant_id, action_name) WHERE deleted_at IS NULL DO NOTHING
RETURNING id, version

-- update_rule --
UPDATE asynch_pre_action SET
    updater = %(updater)s, updated_at = now(), version = version + 1,
    action_name = %(action_name)s, action_type = %(action_type)s, upload_id = %(upload_id)s, scene = %(scene)s,
    trigger_condition = %(trigger_condition)s::jsonb, execute_mode = %(execute_mode)s, target_url = %(target_url)s,
    retry_strategy = %(retry_strategy)s, delay_seconds = %(delay_seconds)s, after_id = %(after_id)s,
    rollout_percent = %(rollout_percent)s, status = %(status)s, await_result = %(await_result)s,
    timeout_seconds = %(timeout_seconds)s, options = %(options)s::jsonb
WHERE tenant_id = %(tenant_id)s AND id = %(id)s AND deleted_at IS NULL
RETURNING version

-- insert_rule_version --
INSERT INTO asynch_pre_action_version (tenant_id, id, version, spec, creator)
VALUES (%(tenant_id)s, %(id)s, %(version)s, %(spec)s::jsonb, %(creator)s)

-- delete_rule --
UPDATE asynch_pre_action SET deleted_at = now(), updated_at = now(), updater = %(updater)s
WHERE tenant_id = %(tenant_id)s AND id = %(id)s AND deleted_at IS NULL

-- find_rule --
SELECT * FROM asynch_pre_action WHERE tenant_id = %(tenant_id)s AND id = %(id)s AND deleted_at IS NULL

-- find_rule_version --
SELECT spec FROM asynch_pre_action_version WHERE tenant_id = %(tenant_id)s AND id = %(id)s AND version = %(version)s

-- list_live_rules --
SELECT * FROM asynch_pre_action WHERE tenant_id = %(tenant_id)s AND deleted_at IS NULL AND status = 1 ORDER BY id

-- list_rules --
SELECT * FROM asynch_pre_action
WHERE tenant_id = %(tenant_id)s AND deleted_at IS NULL
  AND (%(name)s::text IS NULL OR strpos(action_name, %(name)s) > 0)
  AND (%(execute_mode)s::int IS NULL OR execute_mode = %(execute_mode)s)
  AND (%(status)s::int IS NULL OR status = %(status)s)
ORDER BY id DESC LIMIT %(limit)s OFFSET %(offset)s

-- count_rules --
SELECT count(*) AS total FROM asynch_pre_action
WHERE tenant_id = %(tenant_id)s AND deleted_at IS NULL
  AND (%(name)s::text IS NULL OR strpos(action_name, %(name)s) > 0)
  AND (%(execute_mode)s::int IS NULL OR execute_mode = %(execute_mode)s)
  AND (%(status)s::int IS NULL OR status = %(status)s)

-- parents_of_rules --
SELECT id, after_id FROM asynch_pre_action
WHERE tenant_id = %(tenant_id)s AND deleted_at IS NULL AND after_id IS NOT NULL

-- has_followers --
SELECT EXISTS (
    SELECT 1 FROM asynch_pre_action WHERE tenant_id = %(tenant_id)s AND after_id = %(id)s AND deleted_at IS NULL
) AS followed
