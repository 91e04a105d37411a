-- What processes tell each other.

-- notify --
SELECT pg_notify(%(channel)s, %(payload)s)
