"""The demo's tour: what a slate is, why, and how it changes the moment a user likes something. Plain ANSI, NO_COLOR.

    python -m demo.tour [--public 127.0.0.1:50051] [--admin ...] [--metrics ...] --token-file FILE

Writes a handful of likes of a user of its own and nothing else.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from demo.client import Service, connect

SLATE = 10
# The first of these who has a history is shown; any user of MovieLens 100K would do.
KNOWN_USERS = ("196", "42", "1")
LIKED_TITLES = ("Alien", "Blade Runner", "Terminator, The")
SIMILAR_TO = "Toy Story"
WHY_NOT = ("Blade Runner", "Lion King, The", "Casablanca")
LATENCY_CALLS = 200
EVENT_LIKE, EVENT_RATING = 5, 7
REASONS = 1
# A reason's kind in words: with the film that it speaks of, and without.
WORDS = {
    "because_you_liked": ("because you liked {}", "goes with what you liked"),
    "follows": ("often watched after {}", "what comes next for many"),
    "similar_content": ("much like {}", "your kind of film"),
    "similar_users": ("people with your taste like it", "people with your taste like it"),
    "for_you": ("fits your taste", "fits your taste"),
    "popular": ("popular now", "popular now"),
    "new": ("new", "new"),
}
WORDS_OF_SIMILAR = {
    "because_you_liked": ("the same people watch both", "the same people watch both"),
    "similar_content": ("genres, people and words in common", "genres, people and words in common"),
    "for_you": ("close in taste", "close in taste"),
}


class Screen:
    """Aligned lines; bold, dim and green where the terminal wants them."""

    def __init__(self) -> None:
        self.colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self.width = max(72, min(shutil.get_terminal_size((100, 24)).columns, 120))

    def _in(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour else text

    def bold(self, text: str) -> str:
        return self._in("1", text)

    def dim(self, text: str) -> str:
        return self._in("2", text)

    def green(self, text: str) -> str:
        return self._in("32", text)

    def title(self, text: str) -> None:
        print(f"\n{self.bold(text)}\n{self.dim('-' * min(len(text), self.width))}")

    def say(self, text: str = "") -> None:
        print(text)


def cut(text: str, width: int) -> str:
    """At most `width` characters, padded to it."""
    return (text if len(text) <= width else text[: width - 3] + "...").ljust(width)


class Tour:
    """The steps, in order."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.screen = Screen()
        self.addresses = arguments
        channel = connect(arguments.public)
        token = arguments.token_file.read_text(encoding="utf-8").strip()
        self.recommendations = Service(channel, "RecommendationService")
        self.events = Service(channel, "EventService")
        self.users = Service(channel, "UserService")
        admin = Service(connect(arguments.admin), "AdminService", [("authorization", f"Bearer {token}")])
        self.status = admin.GetStatus()
        self.items = self._catalogue(Service(channel, "CatalogService"))
        self.by_title = {item.title: item.id for item in self.items.values()}
        self.me = f"demo-{time.time_ns() // 1_000_000}"

    @staticmethod
    def _catalogue(catalog: Service) -> dict[str, Any]:
        items: dict[str, Any] = {}
        page_token = ""
        while True:
            page = catalog.ListItems(page_size=1000, page_token=page_token)
            items |= {item.id: item for item in page.items}
            page_token = page.next_page_token
            if not page_token:
                return items

    def title(self, item_id: str) -> str:
        """ "Lion King, The" reads "The Lion King"."""
        title = str(self.items[item_id].title) if item_id in self.items else item_id
        for article in ("The", "A", "An", "Les", "La", "Le"):
            if title.endswith(f", {article}"):
                return f"{article} {title.removesuffix(f', {article}')}"
        return title

    def name(self, item_id: str) -> str:
        """Title and year."""
        year = self.items[item_id].year if item_id in self.items else 0
        return f"{self.title(item_id)} ({year})" if year else self.title(item_id)

    def because(self, reasons: Any, words: dict[str, tuple[str, str]], width: int) -> str:
        """Reasons in words: as many as there is room for, the strongest first."""
        told = ""
        for reason in reasons:
            about, bare = words.get(reason.kind, (reason.kind, reason.kind))
            text = about.format(self.title(reason.item_id)) if reason.item_id else bare
            if told and len(told) + 2 + len(text) > width:
                break
            told += f"; {text}" if told else text
        return cut(told, width).rstrip()

    def show(self, results: Any, words: dict[str, tuple[str, str]] = WORDS) -> None:
        """One line an item: place, film, score, reasons."""
        wide = self.screen.width - 2 - 2 - 2 - 34 - 2 - 7 - 2
        for place, result in enumerate(results, 1):
            film = cut(self.name(result.item_id), 34)
            why = self.because(result.reasons, words, wide)
            self.screen.say(f"  {place:>2}  {film}  {result.score:>7.3f}  {self.screen.dim(why)}")

    def opening(self) -> None:
        status = self.status
        ranker = "a ranker" if status.has_ranker else "no ranker"
        self.screen.title("Marquee is serving")
        self.screen.say(f"  {status.items:,} films, bundle {status.bundle_version or 'none yet'} with {ranker}.")
        for note in status.notes:
            self.screen.say(f"  {note}")

    def known_user(self) -> None:
        found = ((user, self.users.ListEvents(user_id=user, page_size=1000).events) for user in KNOWN_USERS)
        user, events = next((user, events) for user, events in found if events)
        rated = [event for event in events if event.type == EVENT_RATING]
        self.screen.title(f"A known user: {user}, {len(events)} ratings")
        for event in rated[:8]:
            self.screen.say(f"  {self.screen.dim('rated')} {event.value:.0f}  {self.name(event.item_id)}")
        if len(rated) > 8:
            self.screen.say(self.screen.dim(f"  and {len(rated) - 8} more, newest first"))
        slate = self.recommendations.Recommend(user_id=user, surface="home", count=SLATE, explain=REASONS)
        self.screen.say(f"\n  The slate for {user}: place, film, score, why")
        self.show(slate.results)

    def new_user(self) -> None:
        ask = {"user_id": self.me, "surface": "home", "count": SLATE, "explain": REASONS}
        before = self.recommendations.Recommend(**ask)
        popular = [result.item_id for result in before.results]
        liked = [self.by_title[title] for title in LIKED_TITLES if title in self.by_title] or popular[:3]
        self.screen.title(f"A new user: {self.me}")
        self.screen.say("  Nobody knows them yet. They like three films:")
        for item in liked:
            self.screen.say(f"      {self.screen.green('like')}  {self.name(item)}")
        events = [
            {"id": f"{self.me}-{at}", "user_id": self.me, "item_id": item, "type": EVENT_LIKE}
            for at, item in enumerate(liked)
        ]
        began = time.perf_counter()
        written = self.events.RecordEvents(events=events)
        between = time.perf_counter()
        after = self.recommendations.Recommend(**ask, write_token=written.write_token, require_fresh=True)
        ended = time.perf_counter()
        had = set(popular)
        kept = sum(result.item_id in had for result in after.results)
        wide = (self.screen.width - 12) // 2
        self.screen.say(f"\n  {'':>2}  {self.screen.bold(cut('before', wide))}    {self.screen.bold('after')}")
        for place in range(max(len(before.results), len(after.results))):
            left = self.name(before.results[place].item_id) if place < len(before.results) else ""
            right = after.results[place].item_id if place < len(after.results) else ""
            new = bool(right) and right not in had
            shown = cut(self.name(right), wide).rstrip() if right else ""
            mark = self.screen.green("+") if new else " "
            self.screen.say(f"  {place + 1:>2}  {cut(left, wide)}  {mark} {self.screen.green(shown) if new else shown}")
        self.screen.say(
            f"\n  {len(after.results) - kept} of {len(after.results)} films are new. RecordEvents took "
            f"{1000 * (between - began):.1f} ms, on disk when it answered; the next slate took "
            f"{1000 * (ended - between):.1f} ms"
        )
        self.screen.say(
            f"  and was asked for with the write token {written.write_token}, so it had to know the likes. Why these:"
        )
        self.show(after.results[:5])

    def similar(self) -> None:
        item = self.by_title.get(SIMILAR_TO) or next(iter(self.items))
        self.screen.title(f"Films like {self.name(item)}")
        self.show(
            self.recommendations.SimilarItems(item_ids=[item], count=6, explain=REASONS).results, WORDS_OF_SIMILAR
        )

    def why_not(self) -> None:
        asked = [self.by_title[title] for title in WHY_NOT if title in self.by_title]
        slate = self.recommendations.Recommend(
            user_id=self.me, surface="home", count=SLATE, explain_missing_item_ids=[*asked, "no-such-film"]
        )
        self.screen.title("Why is a film not in the slate?")
        for missing in slate.missing:
            stage = cut(missing.stage, 16)
            self.screen.say(f"  {cut(self.name(missing.item_id), 30)}  {stage}  {self.screen.dim(missing.detail)}")

    def speed(self) -> None:
        taken = []
        for _ in range(LATENCY_CALLS):
            began = time.perf_counter()
            self.recommendations.Recommend(user_id=self.me, surface="home", count=SLATE, bypass_cache=True)
            taken.append(1000 * (time.perf_counter() - began))
        self.screen.title("How long a slate takes")
        self.screen.say(
            f"  {LATENCY_CALLS} slates, each ranked anew, one after the other from this Python client: "
            f"median {statistics.median(taken):.1f} ms, 99 % within {statistics.quantiles(taken, n=100)[98]:.1f} ms."
        )

    def by_hand(self) -> None:
        public, admin = self.addresses.public, self.addresses.admin
        say = self.screen.say
        self.screen.title("Call it yourself")
        say("  go install github.com/fullstorydev/grpcurl/cmd/grpcurl@latest    # if you have no grpcurl yet")
        say()
        say(f"  grpcurl -plaintext {public} list")
        say("  grpcurl -plaintext \\")
        say(f"""      -d '{{"user_id": "{self.me}", "count": 5, "explain": "EXPLAIN_LEVEL_REASONS"}}' \\""")
        say(f"      {public} marquee.v1.RecommendationService/Recommend")
        say("  grpcurl -plaintext \\")
        event = f'{{"id": "by-hand-1", "user_id": "{self.me}", "item_id": "50", "type": "EVENT_TYPE_LIKE"}}'
        say(f"""      -d '{{"events": [{event}]}}' \\""")
        say(f"      {public} marquee.v1.EventService/RecordEvents")
        say(f"""  grpcurl -plaintext -H "authorization: Bearer $(cat {self.addresses.token_file})" \\""")
        say(f"      {admin} marquee.v1.AdminService/GetStatus")
        say()
        say(f"  Metrics: http://{self.addresses.metrics}/metrics")
        say()


def main() -> int:
    """The whole tour."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--public", default="127.0.0.1:50051")
    parser.add_argument("--admin", default="127.0.0.1:50052")
    parser.add_argument("--metrics", default="127.0.0.1:9090")
    parser.add_argument("--token-file", type=Path, required=True, help="holds the server's MARQUEE_ADMIN_TOKEN")
    tour = Tour(parser.parse_args())
    for part in (tour.opening, tour.known_user, tour.new_user, tour.similar, tour.why_not, tour.speed, tour.by_hand):
        part()
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
