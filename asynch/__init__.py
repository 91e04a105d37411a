"""A durable queue in front of slow HTTP model services, on Postgres alone."""
