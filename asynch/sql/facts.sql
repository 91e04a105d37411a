-- The facts of this database, and of its server.

-- put_fact --
INSERT INTO asynch_meta (key, value) VALUES (%(key)s, %(value)s) ON CONFLICT (key) DO NOTHING

-- get_fact --
SELECT value FROM asynch_meta WHERE key = %(key)s

-- swap_fact --
UPDATE asynch_meta SET value = %(new)s WHERE key = %(key)s AND value = %(old)s

-- server_version --
SELECT current_setting('server_version') AS version
