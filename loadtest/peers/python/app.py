"""The web application: one worker of gunicorn. Started by `bench.py`; the path of its setup is in PEER_SETUP.

    GET /recommend?user_id=ID&count=20             from Redis when it is there, else ranked and kept
    GET /recommend?...&bypass_cache=true           always ranked
    GET /recommend?...&bypass_cache=true&now_ms=T  ranked for that moment, so that slates can be compared

Made cheap where that costs only comfort: the route reads its parameters itself instead of having FastAPI inject them,
and Redis is asked through one blocking connection a worker. A worker that ranks on its only thread could do nothing
else meanwhile; and Redis answers from the same machine.
"""

from __future__ import annotations

import functools
import os
import time
import uuid
from pathlib import Path
from typing import Any

import orjson
import redis
from fastapi import FastAPI, Request, Response

import engine
import profiles

SURFACE = "default"
COUNT_MAX = 500
CACHE_TTL_S = 60

setup = engine.Setup.read(Path(os.environ["PEER_SETUP"]))
# Before the fork: the workers share the arrays and indexes. What one worker alone may use is made after it.
make_engine = engine.load(setup)


def connect() -> Any:
    """This process's own connection to Redis."""
    return redis.Redis(host="127.0.0.1", port=setup.redis_port, socket_timeout=1.0, single_connection_client=True)


@functools.cache
def worker() -> tuple[engine.Engine, Any]:
    """This process's own engine and connection; gunicorn asks for it first after the fork."""
    return make_engine(), connect()


async def recommend(request: Request) -> Response:
    """A slate, as JSON."""
    asked = request.query_params
    user_id, count, bypass_cache = asked["user_id"], int(asked.get("count", 20)), "bypass_cache" in asked
    peer, store = worker()
    key = f"slate:{user_id}:{SURFACE}:{count}"
    if not bypass_cache and (cached := store.get(key)) is not None:
        return Response(cached, media_type="application/json")
    data = store.get(f"profile:{user_id}")
    profile = profiles.NOBODY if data is None else profiles.decode(data)
    now = int(asked.get("now_ms", 0)) or int(time.time() * 1_000) + setup.clock_offset_ms
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
app.add_route("/recommend", recommend)
