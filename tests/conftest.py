"""What all tests may ask for."""

import gc

from hypothesis import HealthCheck, settings

pytest_plugins = [  # none before what it imports, else pytest cannot explain its assertions
    "tests.cleaning", "tests.clips", "tests.collector", "tests.database", "tests.live", "tests.document", "tests.life",
    "tests.receiver", "tests.seaweed", "tests.task_api", "tests.turns", "tests.upload_service",
]  # fmt: skip

# How long a machine with other work takes says nothing about the code; --hypothesis-profile=default looks longer.
settings.register_profile("suite", max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


def pytest_collection_finish() -> None:
    """Spare the garbage collector five thousand tests that stay until the end anyway: a twentieth of all time."""
    gc.collect()
    gc.freeze()
