"""Commands that are a client over HTTP like any other; they know nothing of the server's inside."""
