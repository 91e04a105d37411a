"""What all tests may ask for."""

import gc
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.model_server import ModelServer

pytest_plugins = [  # none before what it imports, else pytest cannot explain its assertions
    "tests.calls", "tests.cleaning", "tests.clips", "tests.collector", "tests.database", "tests.live", "tests.document",
    "tests.life", "tests.receiver", "tests.seaweed", "tests.served", "tests.storages", "tests.task_api",
    "tests.turns", "tests.upload_service",
]  # fmt: skip

# How long a machine with other work takes says nothing about the code; --hypothesis-profile=default looks longer.
settings.register_profile("suite", max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


def pytest_collection_finish() -> None:
    """Spare the garbage collector five thousand tests that stay until the end anyway: a twentieth of all time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def model() -> Iterator[ModelServer]:
    """A model service of this test's own."""
    with ModelServer() as running:
        yield running
