"""One typed function a query: binding and values, no policy, no transaction of its own."""
