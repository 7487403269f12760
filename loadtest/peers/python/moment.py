"""What one request is about: who, when, where, and which items are open to them. `engine/src/moment.rs`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from catalogue import F32, Bools, Catalogue
from profiles import Profile

USER_PRIOR = np.float32(3.0)


@dataclass(frozen=True)
class Moment:
    """Read by all stages. `open_rows` marks the items that are available and not seen."""

    profile: Profile
    now_ms: int
    surface: str
    open_rows: Bools
    # The user's mean rating, smoothed, and whether there are ratings at all.
    user_mean: np.float32
    rated: bool
    # Each past item's rating against the user's mean; its weight where there is no rating.
    difference: F32


def moment(catalogue: Catalogue, profile: Profile, now_ms: int, surface: str, open_rows: Bools) -> Moment:
    """Computed once a request."""
    known = ~np.isnan(profile.ratings)
    ratings = profile.ratings[known]
    total = np.float32(ratings.cumsum()[-1]) if len(ratings) else np.float32(0.0)
    mean = (total + USER_PRIOR * catalogue.mean_rating) / (np.float32(len(ratings)) + USER_PRIOR)
    difference = np.where(known, profile.ratings - mean, profile.weights)
    return Moment(profile, now_ms, surface, open_rows, mean, len(ratings) > 0, difference)
