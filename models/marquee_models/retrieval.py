"""All retrieval models of one bundle, fitted on one export: what a models directory holds beside the ranker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from marquee_models import (
    prepare,
    retrieval_content,
    retrieval_ease,
    retrieval_ials,
    retrieval_likes,
    retrieval_similar,
    retrieval_transitions,
)
from marquee_models.prepare import Prepared


@dataclass(frozen=True)
class Config:
    """Settings of every model."""

    ease: dict[str, retrieval_ease.Config] = field(default_factory=lambda: dict(retrieval_ease.MATRICES))
    transitions: dict[str, retrieval_transitions.Config] = field(
        default_factory=lambda: dict(retrieval_transitions.MATRICES)
    )
    similar: retrieval_similar.Config = field(default_factory=retrieval_similar.Config)
    ials: retrieval_ials.Config = field(default_factory=retrieval_ials.Config)
    content: retrieval_content.Config = field(default_factory=retrieval_content.Config)
    likes: retrieval_likes.Config = field(default_factory=retrieval_likes.Config)


@dataclass(frozen=True)
class Fit:
    """One file of the models directory: how it is made, and by what."""

    name: str
    settings: object
    code: ModuleType
    run: Callable[[], str]


def fits(export: Path, prepared_dir: Path, models: Path, config: Config) -> list[Fit]:
    """What is to be fitted, in order; each answers a few words on what it made."""
    held: list[Prepared] = []

    def events() -> Prepared:
        if not held:
            held.append(prepare.read(prepared_dir))
        return held[0]

    def ease(name: str, settings: retrieval_ease.Config) -> str:
        return f"{len(retrieval_ease.write(events(), models, settings, name).item):,} links"

    def transitions(name: str, settings: retrieval_transitions.Config) -> str:
        return f"{len(retrieval_transitions.write(events(), models, settings, name).item):,} links"

    def ials() -> str:
        factors = retrieval_ials.write(events(), models, config.ials)
        return f"{len(factors['items']):,} items, {len(factors['users']):,} users, {factors['items'].shape[1]} factors"

    def content() -> str:
        fitted = retrieval_content.write(export, events().items, models, config.content)
        return (
            "no item has tokens" if fitted is None else "{:,} tokens to {} numbers".format(*fitted["projection"].shape)
        )

    def likes() -> str:
        return f"{len(retrieval_likes.write(events(), models, config.likes)['item']):,} likes"

    def similar() -> str:
        return f"{len(retrieval_similar.write(events(), models, config.similar).item):,} links"

    made = [Fit(name, one, retrieval_ease, lambda n=name, c=one: ease(n, c)) for name, one in config.ease.items()]  # type: ignore[misc]
    made += [
        Fit(name, one, retrieval_transitions, lambda n=name, c=one: transitions(n, c))  # type: ignore[misc]
        for name, one in config.transitions.items()
    ]
    made += [
        Fit("similar", config.similar, retrieval_similar, similar),
        Fit("embedding", config.ials, retrieval_ials, ials),
        Fit("content", config.content, retrieval_content, content),
        Fit("likes", config.likes, retrieval_likes, likes),
    ]
    return made
