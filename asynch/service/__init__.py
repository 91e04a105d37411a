"""Use cases: one transaction each, no HTTP in sight."""
