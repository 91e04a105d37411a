"""What the HTTP face says of itself: /openapi.json and a page of it for people."""
