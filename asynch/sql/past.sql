-- What nobody asks for any more after its time.

-- forget_idempotency --
DELETE FROM asynch_idempotency WHERE ctid IN (
    SELECT ctid FROM asynch_idempotency WHERE created_at < now() - interval '24 hours' LIMIT %(most)s)

-- forget_op_log --
DELETE FROM asynch_op_log WHERE ctid IN (
    SELECT ctid FROM asynch_op_log WHERE created_at < now() - make_interval(secs => %(retention_s)s) LIMIT %(most)s)

-- forget_hosts --
DELETE FROM asynch_host WHERE seen_at < now() - interval '30 days'

-- forget_breakers --
-- A closed one without a failure for a day says nothing any more.
DELETE FROM asynch_breaker WHERE open_until IS NULL AND since < now() - interval '1 day'

-- forget_paces --
DELETE FROM asynch_pace WHERE updated_at < now() - interval '30 days'
