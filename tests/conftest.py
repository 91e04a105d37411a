"""What all tests may ask for."""

pytest_plugins = [
    "tests.database", "tests.live", "tests.rows", "tests.seaweed", "tests.task_api", "tests.upload_service",
]  # fmt: skip
