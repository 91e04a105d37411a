-- Stored secrets, for their rotation: a walk in key order over all there are of a kind, and a compare-and-swap of each.

-- sealed_models --
SELECT tenant_id, id, tenant_id AS owner_id, api_key AS token FROM asynch_models
WHERE (tenant_id, id) > (%(after_tenant)s, %(after_id)s) AND api_key <> ''
ORDER BY tenant_id, id LIMIT %(most)s

-- reseal_model --
UPDATE asynch_models SET api_key = %(new)s
WHERE tenant_id = %(tenant_id)s AND id = %(id)s AND api_key = %(old)s

-- sealed_tasks --
-- Through the primary key: there may be millions, of which few hold headers. Those of the system's own are its tenant's.
SELECT tenant_id, id, CASE WHEN tenant_id < 0 THEN ~tenant_id ELSE tenant_id END AS owner_id, upload_headers AS token
FROM asynch_task
WHERE (tenant_id, id) > (%(after_tenant)s, %(after_id)s) AND upload_headers <> ''
ORDER BY tenant_id, id LIMIT %(most)s

-- reseal_task --
UPDATE asynch_task SET upload_headers = %(new)s
WHERE tenant_id = %(tenant_id)s AND id = %(id)s AND upload_headers = %(old)s

-- sealed_uploads --
SELECT tenant_id, id, tenant_id AS owner_id, upload_headers AS token FROM asynch_upload
WHERE (tenant_id, id) > (%(after_tenant)s, %(after_id)s) AND upload_headers <> ''
ORDER BY tenant_id, id LIMIT %(most)s

-- reseal_upload --
UPDATE asynch_upload SET upload_headers = %(new)s
WHERE tenant_id = %(tenant_id)s AND id = %(id)s AND upload_headers = %(old)s

-- sealed_webhook_keys --
SELECT tenant_id, id, tenant_id AS owner_id, secret AS token FROM asynch_webhook_key
WHERE (tenant_id, id) > (%(after_tenant)s, %(after_id)s) ORDER BY tenant_id, id LIMIT %(most)s

-- reseal_webhook_key --
UPDATE asynch_webhook_key SET secret = %(new)s
WHERE tenant_id = %(tenant_id)s AND id = %(id)s AND secret = %(old)s
