"""uvicorn inside gunicorn, on uvloop and httptools, without what the bench does not ask for."""

from typing import Any, ClassVar

from uvicorn_worker import UvicornWorker


class Worker(UvicornWorker):  # type: ignore[misc,unused-ignore]
    """No lifespan, no date and server headers, no access log."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        "http": "httptools",
        "lifespan": "off",
        "access_log": False,
        "date_header": False,
        "server_header": False,
        "ws": "none",
    }
