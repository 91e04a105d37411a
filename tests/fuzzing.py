"""A client that knows /openapi.json alone, and means harm: schemathesis with all checks against the live service."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from asynch import db
from asynch.service import keys
from tests import rows
from tests.live import MakeParts, serving

#: 409, 404: a name that is taken or unknown; 429: a queue whose limit became small. 422 is no answer to what fits the schema, but where JSON Schema cannot say
#: the rule: parameters that go together (getModel), hosts that may not be called, header bindings
CONFIG = """
hooks = "hooks.py"
max-stream-events = 1

[dictionaries]
urls.values = ["http://127.0.0.1:9/run"]
names.values = ["demo"]
moments.values = [0, 0.01]
notes.values = ["filename YS50eHQ=", "a b2s=,scene cw==", ""]
sums.values = ["sha1 2jmj7l5rSw0yVb/vlWAYkK/YBwk="]
types.values = ["text/plain", "image/png"]

[parameters]
baseUrl = { dictionary = "urls", probability = 0.7 }
callbackUrl = { dictionary = "urls", probability = 0.3 }
modelName = { dictionary = "names", probability = 0.3 }
content_type = { dictionary = "types", probability = 0.7 }
Upload-Metadata = { dictionary = "notes", probability = 1.0 }
Upload-Checksum = { dictionary = "sums", probability = 1.0 }
waitSeconds = { dictionary = "moments", probability = 1.0 }

[phases.coverage]
unexpected-methods = ["TRACE"]

[phases.stateful.generation]
max-examples = 3

[checks]
negative_data_rejection.expected-statuses = ["400", "401", "403", "404", "405", "406", "409", "412", "413", "415", "422", "428", "429"]
missing_required_header.expected-statuses = ["400", "401", "403", "406", "412", "415", "422"]
response_schema_conformance.validate-formats = true
positive_data_acceptance.expected-statuses = ["2xx", "303", "304", "401", "403", "404", "409", "410", "426", "429"]

[[operations]]
include-operation-id = [
    "createModel", "updateModel", "getModel", "testModel", "updateService", "createTask", "testDelivery",
    "createPreAction", "updatePreAction", "rollback",
]
checks.positive_data_acceptance.expected-statuses = ["2xx", "401", "403", "404", "409", "422", "429"]

# the bytes of a file have a type, a size and checksums, which no schema tells of
[[operations]]
include-operation-id = ["presign", "confirm", "deleteUpload", "putFile"]
checks.positive_data_acceptance.expected-statuses = ["2xx", "401", "403", "404", "409", "410", "413", "415", "460"]

# as before; the offset is needed by one of the two that an override may mean, and a checksum's pattern asks too much of
# who makes the requests
[[operations]]
include-operation-id = ["upload", "createUpload", "patchUpload", "overrideUpload"]
checks.positive_data_acceptance.expected-statuses = [
    "2xx", "400", "401", "403", "404", "409", "410", "413", "415", "422", "460",
]

# a stream without news is left after that
[[operations]]
include-operation-id = "events"
request-timeout = 2

# a bad task of a batch is told in its place of a 202
[[operations]]
include-operation-id = "createTaskBatch"
checks.negative_data_rejection.expected-statuses = [202, "4xx"]
"""

#: The same Idempotency-Key for ever new bodies is refused before anything else is looked at. A wait for tasks that nobody
#: runs lasts as long as it may, and where a link brings their ids no dictionary is asked.
HOOKS = """
import schemathesis

schemathesis.serializer.alias(["application/offset+octet-stream", "*/*"], "application/octet-stream")

@schemathesis.hook
def before_call(context, case, kwargs):
    if "Idempotency-Key" in (case.headers or {}) and case.meta.generation.mode.is_positive:
        case.headers["Idempotency-Key"] = case.id
    if isinstance(case.body, dict) and isinstance(case.body.get("waitSeconds"), float):
        case.body["waitSeconds"] = min(case.body["waitSeconds"], 0.01)
"""


#: In two halves, so that two processes share them; a client of two threads trips over its own interpreter.
HALF = ("models", "tasks", "streams")


def fuzz(make_parts: MakeParts, pool: db.Pool, home: Path, option: str) -> None:
    """Let schemathesis loose on a service of its own; `option` says what becomes of the tags of HALF."""
    secret = keys.create_key(pool, 7, "fuzz", admin=True)[1]
    (home / "schemathesis.toml").write_text(CONFIG)
    (home / "hooks.py").write_text(HOOKS)
    rows.add_model(pool, "demo", tenant_id=7)
    without_end = {"limits": {"reads_per_minute": 1_000_000}, "uploads": {"per_tenant_rate": "1000000/min"}}
    with serving(make_parts(auth={"mode": "apikey"}, **without_end)) as live:
        made = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(home / "schemathesis.toml")),
                *("run", f"{live.url}/openapi.json", "--url", live.url, "--no-color", "--seed", "1"),
                *("--header", f"Authorization: Bearer {secret}", "--checks", "all", "--continue-on-failure"),
                *("--max-examples", os.environ.get("ASYNCH_FUZZ", "1"), "--request-timeout", "10", "--workers", "1"),
                *(word for tag in HALF for word in (option, tag)),
            ],
            capture_output=True,
            text=True,
            cwd=home,
            timeout=280,
        )

    assert made.returncode == 0, made.stdout[-20_000:] + made.stderr[-2000:]
