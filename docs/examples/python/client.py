"""A new user likes two items and asks for a slate that knows it. The server: `make demo`.

pip install grpcio grpcio-tools
mkdir -p gen && python -m grpc_tools.protoc -I proto --python_out gen --grpc_python_out gen proto/marquee/v1/*.proto
PYTHONPATH=gen python docs/examples/python/client.py
"""

import sys

import grpc
from marquee.v1 import event_pb2_grpc, recommendation_pb2_grpc
from marquee.v1.event_pb2 import RecordEventsRequest
from marquee.v1.recommendation_pb2 import EXPLAIN_LEVEL_REASONS, RecommendRequest
from marquee.v1.types_pb2 import EVENT_TYPE_LIKE, Event

USER = "example-python"

with grpc.insecure_channel(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051") as channel:
    events = event_pb2_grpc.EventServiceStub(channel)
    recommendations = recommendation_pb2_grpc.RecommendationServiceStub(channel)

    # The id is the caller's choice: sent twice, an event counts once.
    likes = [Event(id=f"{USER}-{item}", user_id=USER, item_id=item, type=EVENT_TYPE_LIKE) for item in ("50", "89")]
    written = events.RecordEvents(RecordEventsRequest(events=likes), timeout=5)

    slate = recommendations.Recommend(
        RecommendRequest(
            user_id=USER,
            surface="home",
            count=5,
            write_token=written.write_token,  # the answer knows the likes
            explain=EXPLAIN_LEVEL_REASONS,
        ),
        timeout=5,
    )
    print(f"slate {slate.slate_id} of bundle {slate.bundle_version!r}")
    for result in slate.results:
        print(f"{result.item_id:>6}  {result.score:.3f}  {', '.join(f'{why.kind} {why.item_id}' for why in result.reasons)}")
