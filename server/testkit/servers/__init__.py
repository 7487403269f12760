"""One module a kind of server."""
