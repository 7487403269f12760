"""The web application: one worker of gunicorn. Started by `bench.py`; the path of its setup is in PEER_SETUP.

    GET /recommend?user_id=ID&count=20             from Redis when it is there, else ranked and kept
    GET /recommend?...&bypass_cache=true           always ranked
    GET /recommend?...&bypass_cache=true&now_ms=T  ranked for that moment, so that slates can be compared

Redis is asked through the blocking client: in a worker that ranks on its only thread anyway it costs less than half of
the asyncio one.
"""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path
from typing import Any

import orjson
import redis
from fastapi import FastAPI, Response

import engine
import profiles

SURFACE = "default"
COUNT_MAX = 500
CACHE_TTL_S = 60

setup = engine.Setup.read(Path(os.environ["PEER_SETUP"]))
# Before the fork: the workers share the arrays and indexes. What one worker alone may use is made after it.
make_engine = engine.load(setup)
workers: dict[int, engine.Engine] = {}


def ranking() -> engine.Engine:
    """This process's own engine."""
    process = os.getpid()
    if process not in workers:
        workers[process] = make_engine()
    return workers[process]


def connect() -> Any:
    """This process's own connection to Redis."""
    return redis.Redis(host="127.0.0.1", port=setup.redis_port, socket_timeout=1.0)


store = connect()


async def recommend(user_id: str, count: int = 20, bypass_cache: bool = False, now_ms: int = 0) -> Response:
    """A slate, as JSON."""
    key = f"slate:{user_id}:{SURFACE}:{count}"
    if not bypass_cache and (cached := store.get(key)) is not None:
        return Response(cached, media_type="application/json")
    data = store.get(f"profile:{user_id}")
    profile = profiles.NOBODY if data is None else profiles.decode(data)
    now = now_ms or int(time.time() * 1_000) + setup.clock_offset_ms
    peer = ranking()
    slate = peer.recommend(profile, now, SURFACE, min(count, COUNT_MAX))
    ids = peer.catalogue.ids
    results = [
        {"item_id": ids[row], "score": score}
        for row, score in zip(slate.rows.tolist(), slate.scores.tolist(), strict=True)
    ]
    answer = {
        "slate_id": uuid.uuid4().hex,
        "results": results,
        "bundle_version": peer.catalogue.version,
        "variant": "default",
    }
    body = orjson.dumps(answer)
    if not bypass_cache:
        store.set(key, body, ex=CACHE_TTL_S)
    return Response(body, media_type="application/json")


app = FastAPI(openapi_url=None)
app.add_api_route("/recommend", recommend, response_class=Response)
