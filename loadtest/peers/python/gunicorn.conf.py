"""One worker a core, the application loaded before the fork, no access log."""

import os

bind = f"127.0.0.1:{os.environ['PEER_PORT']}"
workers = int(os.environ["PEER_WORKERS"])
worker_class = "worker.Worker"
preload_app = True
accesslog = None
loglevel = "warning"
timeout = 120
keepalive = 75


def post_worker_init(worker: object) -> None:
    """Models are loaded before the first request."""
    import app

    app.worker()
