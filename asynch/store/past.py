"""What nobody asks for after its time, but the rows that have a duty of their own for that."""

from __future__ import annotations

from asynch import db
from asynch.db import Connection


def forget(conn: Connection, *, op_log_retention_s: float, most: int) -> int:
    """Delete idempotency keys of a day ago, op log rows past their time, and what was last said long ago of hosts,
    breakers and paces; returns how many.
    """
    return (
        db.run(conn, "forget_idempotency", most=most)
        + db.run(conn, "forget_op_log", retention_s=op_log_retention_s, most=most)
        + db.run(conn, "forget_hosts")
        + db.run(conn, "forget_breakers")
        + db.run(conn, "forget_paces")
    )
