-- API keys: only the hash of a secret is kept.

-- insert_key --
INSERT INTO asynch_key (id, tenant_id, name, role, secret_hash)
VALUES (%(id)s, %(tenant_id)s, %(name)s, %(role)s, %(secret_hash)s)

-- find_key --
SELECT id, tenant_id, name, role, secret_hash FROM asynch_key WHERE id = %(id)s AND revoked_at IS NULL

-- list_keys --
SELECT id, tenant_id, name, role, created_at, revoked_at FROM asynch_key ORDER BY created_at

-- revoke_key --
UPDATE asynch_key SET revoked_at = now() WHERE id = %(id)s AND revoked_at IS NULL RETURNING id
