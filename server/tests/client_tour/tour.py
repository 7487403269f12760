"""A foreign client's whole tour of a running Marquee, by reflection alone: no generated code, no protos at hand.

    pip install grpcio grpcio-reflection
    python tour.py --public 127.0.0.1:50051 --admin 127.0.0.1:50052 --token "$MARQUEE_ADMIN_TOKEN" [--rollback]

Upserts items and users, records events, recommends with the write token, pages, asks for similar items, ranks its own
candidates, merges, forgets and (with two bundles activated before, --rollback) rolls back; each step asserts what must
hold. It writes under ids of its own and takes its items away again, so that it can run against a demo, and twice.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

TIMEOUT_S = 20.0
ITEMS = 60


class Service:
    """Calls of one service, made from its reflected descriptor."""

    def __init__(self, channel: grpc.Channel, name: str) -> None:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        self.channel = channel
        self.descriptor = pool.FindServiceByName(f"marquee.v1.{name}")

    def __getattr__(self, name: str) -> Callable:
        method: MethodDescriptor = self.descriptor.methods_by_name[name]
        request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        path = f"/{self.descriptor.full_name}/{name}"
        kind = {(False, False): "unary_unary", (False, True): "unary_stream", (True, True): "stream_stream"}[
            (method.client_streaming, method.server_streaming)
        ]
        call = getattr(self.channel, kind)(
            path, request_serializer=request.SerializeToString, response_deserializer=response.FromString
        )

        def run(metadata: list[tuple[str, str]] | None = None, **fields: object) -> object:
            return call(request(**fields), timeout=TIMEOUT_S, metadata=metadata)

        def stream(messages: list[dict]) -> Iterator:
            return call((request(**fields) for fields in messages), timeout=TIMEOUT_S)

        return stream if method.client_streaming else run


def step(text: str) -> None:
    print(f"ok  {text}", flush=True)


def refused(code: grpc.StatusCode, call: Callable, **fields: object) -> str:
    try:
        call(**fields)
    except grpc.RpcError as error:
        assert error.code() == code, f"{error.code()} instead of {code}: {error.details()}"
        return error.details()
    raise AssertionError(f"not refused with {code}")


def ids(results: object) -> list[str]:
    return [result.item_id for result in results]


class Tour:
    def __init__(self, public: str, admin: str, token: str) -> None:
        self.run = f"tour-{time.time_ns()}"
        channel = grpc.insecure_channel(public)
        grpc.channel_ready_future(channel).result(timeout=TIMEOUT_S)
        self.recommendations = Service(channel, "RecommendationService")
        self.events = Service(channel, "EventService")
        self.catalog = Service(channel, "CatalogService")
        self.users = Service(channel, "UserService")
        self.admin = Service(grpc.insecure_channel(admin), "AdminService")
        self.authorization = [("authorization", f"Bearer {token}")]
        self.items = [f"{self.run}-{number:02}" for number in range(ITEMS)]
        self.genre = f"genre of {self.run}"
        self.mine = {"genres_any": [self.genre]}
        self.ann = f"{self.run}-ann"

    def event(self, kind: str, item: str, **fields: object) -> dict:
        event = {"id": f"{self.run}-{time.time_ns()}", "user_id": self.ann, "type": f"EVENT_TYPE_{kind}", "item_id": item}
        return event | fields

    def recommend(self, **fields: object) -> object:
        return self.recommendations.Recommend(**({"user_id": self.ann, "filter": self.mine} | fields))

    def catalogue(self) -> None:
        items = [
            {
                "id": item,
                "title": f"Film {number}",
                "year": 1980 + number % 40,
                "genres": [self.genre, "Drama" if number % 2 else "Comedy"],
                "attributes": {"rating": number / 10, "kids": number % 3 == 0, "tags": ["tour"]},
            }
            for number, item in enumerate(self.items)
        ]
        token = self.catalog.UpsertItems(items=items).write_token
        found = self.catalog.GetItems(item_ids=[self.items[3], f"{self.run}-nobody"])
        assert found.items[0].title == "Film 3" and list(found.unknown_item_ids) == [f"{self.run}-nobody"]
        assert found.items[0].attributes["rating"] == 0.3
        page = self.catalog.ListItems(page_size=10)
        assert len(page.items) == 10 and page.next_page_token
        slate = self.recommend(write_token=token, require_fresh=True, count=10)
        assert len(slate.results) == 10 and set(ids(slate.results)) <= set(self.items), slate
        step(f"{ITEMS} items upserted, read back, recommendable at once")

    def people(self) -> None:
        self.users.UpsertUsers(users=[{"id": self.ann, "attributes": {"country": "FR"}}])
        user = self.users.GetUser(user_id=self.ann)
        assert user.user.attributes["country"] == "FR" and user.events == 0
        refused(grpc.StatusCode.NOT_FOUND, self.users.GetUser, user_id=f"{self.run}-nobody")
        step("a user upserted and read back")

    def writes(self) -> None:
        liked = self.items[:3]
        events = [self.event("LIKE", item) for item in liked]
        events.append(self.event("RATING", self.items[3], value=4.5))
        bad = self.event("RATING", self.items[4], value=float("nan"))
        answer = self.events.RecordEvents(events=[*events, bad, events[0]])
        assert [result.status for result in answer.results] == [1, 1, 1, 1, 3, 2], answer
        assert answer.results[4].field == "value"
        slate = self.recommend(write_token=answer.write_token, require_fresh=True, count=ITEMS, explain=1)
        shown = ids(slate.results)
        assert slate.slate_id and not set(shown) & set(self.items[:4]), "seen items must not come back"
        assert all(result.reasons for result in slate.results), slate
        again = self.recommend(write_token=answer.write_token, count=ITEMS, explain=1)
        assert again.cache_status == 2 and again.ranked_id == slate.slate_id and again.slate_id != slate.slate_id
        impression = self.event("IMPRESSION", shown[0], slate_id=slate.slate_id, position=0)
        assert self.events.RecordEvents(events=[impression]).results[0].status == 1
        step("events recorded once, bad ones named; the next slate shows it; a repeated slate has its own id")

        acks = list(
            self.events.StreamEvents(
                [{"sequence": n, "events": [self.event("VIEW", item)]} for n, item in enumerate(self.items[5:15])]
            )
        )
        assert [ack.sequence for ack in acks] == list(range(10)) and all(ack.results[0].status == 1 for ack in acks)
        listed = self.users.ListEvents(user_id=self.ann, page_size=5)
        assert len(listed.events) == 5 and listed.next_page_token
        step("ten messages streamed and acknowledged in order")

    def pages(self) -> None:
        shown: list[str] = []
        token = ""
        while True:
            slate = self.recommend(count=9, page_token=token)
            shown += ids(slate.results)
            token = slate.next_page_token
            if not token:
                break
        assert len(shown) == len(set(shown)), "a page repeated an item"
        assert len(shown) == ITEMS - 4, f"{len(shown)} items on all pages"
        refused(grpc.StatusCode.INVALID_ARGUMENT, self.recommend, page_token="garbage")
        step(f"{len(shown)} items on pages of 9, none twice")

    def similar_and_rank(self) -> None:
        similar = self.recommendations.SimilarItems(item_ids=[self.items[0]], count=5, filter=self.mine)
        assert similar.slate_id and self.items[0] not in ids(similar.results), similar
        own = [self.items[0], *self.items[20:30], f"{self.run}-nobody"]
        ranked = self.recommendations.RankItems(query={"user_id": self.ann}, item_ids=own)
        assert set(ids(ranked.results)) == set(self.items[20:30]), ranked
        missing = {missing.item_id: missing.stage for missing in ranked.missing}
        assert missing == {self.items[0]: "filter:seen", f"{self.run}-nobody": "catalogue"}, missing
        scores = [result.score for result in ranked.results]
        assert scores == sorted(scores, reverse=True)
        step("similar items; own candidates ranked, the others named with the stage that dropped them")

    def batch_and_bad_input(self) -> None:
        requests = [{"user_id": self.ann, "filter": self.mine}, {"count": 100_000}, {"anonymous_id": "v"}]
        answers = {answer.index: answer for answer in self.recommendations.RecommendBatch(requests=requests)}
        assert sorted(answers) == [0, 1, 2] and answers[1].WhichOneof("answer") == "error"
        assert answers[1].error.message.startswith("count: "), answers[1]
        details = refused(grpc.StatusCode.INVALID_ARGUMENT, self.recommend, variant="nobody")
        assert "popular" in details, details
        slate = self.recommend(metadata=[("x-marquee-variant", "popular")])
        assert slate.variant == "popular"
        step("a batch survives a bad request; variants by field and metadata")

    def forget(self) -> None:
        visitor = f"{self.run}-visitor"
        anonymous = self.event("LIKE", self.items[40]) | {"user_id": "", "anonymous_id": visitor}
        self.events.RecordEvents(events=[anonymous])
        merged = self.users.MergeUsers(anonymous_id=visitor, user_id=self.ann)
        assert merged.events_moved == 1
        slate = self.recommend(write_token=merged.write_token, require_fresh=True, count=ITEMS)
        assert self.items[40] not in ids(slate.results)
        refused(grpc.StatusCode.UNAUTHENTICATED, self.users.ForgetUser, user_id=self.ann)
        erased = self.users.ForgetUser(metadata=self.authorization, user_id=self.ann)
        assert erased.events_erased == 16 and erased.slates_erased > 0, erased
        refused(grpc.StatusCode.NOT_FOUND, self.users.GetUser, user_id=self.ann)
        ranked = self.recommendations.RankItems(query={"user_id": self.ann}, item_ids=self.items)
        assert len(ranked.results) == ITEMS, "nothing is seen any more"
        step("a visitor merged into a user; the user forgotten")

    def operate(self, rollback: bool) -> None:
        refused(grpc.StatusCode.UNAUTHENTICATED, self.admin.GetStatus)
        status = self.admin.GetStatus(metadata=self.authorization)
        assert status.ready and "default" in status.variants, status
        for note in status.notes:
            print(f"    {note}")
        bundles = self.admin.ListBundles(metadata=self.authorization).bundles
        step(f"status; serving {status.bundle_version or 'no bundle'} of {len(bundles)}")
        refused_by = [("authorization", self.authorization[0][1])]
        refused(grpc.StatusCode.NOT_FOUND, self.admin.ActivateBundle, metadata=refused_by, version="nobody")
        if rollback:
            back = self.admin.RollbackBundle(metadata=self.authorization)
            assert back.previous_version == status.bundle_version and back.serving_version != back.previous_version
            assert self.recommend().bundle_version == back.serving_version
            forth = self.admin.ActivateBundle(metadata=self.authorization, version=status.bundle_version)
            assert forth.serving_version == status.bundle_version
            assert self.recommend().bundle_version == status.bundle_version
            step(f"rolled back to {back.serving_version} and forth again, without a pause")
        else:
            step("rollback left out: it needs --rollback and two bundles that were activated")

    def leave(self) -> None:
        refused(grpc.StatusCode.UNAUTHENTICATED, self.catalog.DeleteItems, item_ids=self.items)
        deleted = self.catalog.DeleteItems(metadata=self.authorization, item_ids=self.items)
        assert not deleted.unknown_item_ids
        slate = self.recommend(write_token=deleted.write_token, require_fresh=True)
        assert not slate.results and slate.short_reason, slate
        step("deleted items never appear again; an empty slate says why")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--public", default="127.0.0.1:50051")
    parser.add_argument("--admin", default="127.0.0.1:50052")
    parser.add_argument("--token", required=True, help="the server's MARQUEE_ADMIN_TOKEN")
    parser.add_argument("--rollback", action="store_true", help="two bundles were activated: go back and forth")
    arguments = parser.parse_args()
    tour = Tour(arguments.public, arguments.admin, arguments.token)
    tour.catalogue()
    tour.people()
    tour.writes()
    tour.pages()
    tour.similar_and_rank()
    tour.batch_and_bad_input()
    tour.forget()
    tour.operate(arguments.rollback)
    tour.leave()
    print("the tour is complete")
    return 0


if __name__ == "__main__":
    sys.exit(main())
