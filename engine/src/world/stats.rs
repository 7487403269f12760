//! Statistics of an item: integer sums, so that the order in which events arrive cannot matter.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::types::{DAY_MS, TimeMs, Touch};

/// Half-lives of decayed popularity, in days.
pub const HALF_LIVES_DAYS: [f64; 4] = [1.0, 3.0, 7.0, 30.0];

/// What happened on one day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Day {
    /// Days since the epoch.
    pub day: i32,
    /// Interactions.
    pub events: u32,
    /// Of them positive.
    pub positives: u32,
}

/// Interactions by day, with decayed sums that depend on the counts alone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DayCounts {
    /// Ascending by day, each day once.
    days: Vec<Day>,
    /// The last of them: read on every request, so it is here and not behind a pointer.
    last: Option<Day>,
    /// The decayed sums of all days before the last, as of the last.
    before: Decayed,
    /// An event of an earlier day came since these sums were taken: see [`DayCounts::settle`].
    is_late: bool,
}

/// Decayed sums, one for each of [`HALF_LIVES_DAYS`].
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Decayed {
    /// Of interactions.
    pub events: [f64; HALF_LIVES_DAYS.len()],
    /// Of positive interactions.
    pub positives: [f64; HALF_LIVES_DAYS.len()],
}

impl Decayed {
    /// This and one more day, decayed by the days that passed since that day.
    fn then(&self, last: Day, days: i32) -> Decayed {
        let (mut sums, factors) = (*self, factors(days));
        for (at, factor) in factors.into_iter().enumerate() {
            sums.events[at] = (sums.events[at] + f64::from(last.events)) * factor;
            sums.positives[at] = (sums.positives[at] + f64::from(last.positives)) * factor;
        }
        sums
    }
}

/// What is left after so many days, for each half-life.
fn factors(days: i32) -> [f64; HALF_LIVES_DAYS.len()] {
    /// Eleven years; what is older is computed when it is met.
    const TABLE_DAYS: i32 = 4_096;
    static TABLE: LazyLock<Vec<[f64; HALF_LIVES_DAYS.len()]>> =
        LazyLock::new(|| (0..TABLE_DAYS).map(compute).collect());
    fn compute(days: i32) -> [f64; HALF_LIVES_DAYS.len()] {
        HALF_LIVES_DAYS.map(|half_life| (-f64::from(days) / half_life).exp2())
    }
    let days = days.max(0);
    TABLE.get(days as usize).copied().unwrap_or_else(|| compute(days))
}

impl DayCounts {
    /// From days ascending, each once.
    pub fn from_days(days: Vec<Day>) -> DayCounts {
        let last = days.last().copied();
        DayCounts { before: fold(&days), days, last, is_late: false }
    }

    /// The days, ascending.
    pub fn days(&self) -> &[Day] {
        &self.days
    }

    /// Counts one interaction. One of an earlier day than the last leaves the sums to [`DayCounts::settle`]: a log out of
    /// order in time would take them anew with each event.
    pub fn add(&mut self, day: i32, positive: bool) {
        let one = Day { day, events: 1, positives: u32::from(positive) };
        let count = |found: &mut Day| {
            found.events = found.events.saturating_add(1);
            found.positives = found.positives.saturating_add(one.positives);
        };
        match self.days.last_mut() {
            Some(last) if last.day == day => count(last),
            Some(&mut last) if last.day < day => {
                if !self.is_late {
                    self.before = self.before.then(last, day - last.day);
                }
                self.days.push(one);
            }
            None => self.days.push(one),
            Some(_) => {
                match self.days.binary_search_by_key(&day, |found| found.day) {
                    Ok(found) => count(&mut self.days[found]),
                    Err(place) => self.days.insert(place, one),
                }
                self.is_late = true;
            }
        }
        self.last = self.days.last().copied();
    }

    /// Whether the sums are to be settled.
    pub(super) fn is_late(&self) -> bool {
        self.is_late
    }

    /// Takes the sums anew if they are late. Without it they are right as well, and dear to read.
    pub(super) fn settle(&mut self) {
        self.before = self.before();
        self.is_late = false;
    }

    /// The decayed sums as of `day`.
    pub fn decayed(&self, day: i32) -> Decayed {
        self.last.map_or_else(Decayed::default, |last| self.before().then(last, day.saturating_sub(last.day)))
    }

    /// The decayed sum of positive interactions of one half-life: the same bits as in [`DayCounts::decayed`].
    pub fn positives(&self, half_life: usize, day: i32) -> f64 {
        self.last.map_or(0.0, |last| {
            (self.before().positives[half_life] + f64::from(last.positives))
                * factors(day.saturating_sub(last.day))[half_life]
        })
    }

    /// [`DayCounts::positives`] of all half-lives.
    pub(super) fn all_positives(&self, day: i32) -> [f64; HALF_LIVES_DAYS.len()] {
        self.last.map_or_else(Default::default, |last| {
            let (before, factors) = (self.before().positives, factors(day.saturating_sub(last.day)));
            std::array::from_fn(|at| (before[at] + f64::from(last.positives)) * factors[at])
        })
    }

    #[inline]
    fn before(&self) -> Decayed {
        if self.is_late { fold(&self.days) } else { self.before }
    }
}

/// The decayed sums of all days before the last: the same steps as [`DayCounts::add`] takes in order of days, so that late
/// events give the same bits as timely ones.
#[cold]
fn fold(days: &[Day]) -> Decayed {
    days.windows(2).fold(Decayed::default(), |sums, pair| sums.then(pair[0], pair[1].day - pair[0].day))
}

/// Day of a moment since the epoch.
pub fn day_of(time_ms: TimeMs) -> i32 {
    i32::try_from(time_ms.div_euclid(DAY_MS)).unwrap_or(if time_ms < 0 { i32::MIN / 2 } else { i32::MAX / 2 })
}

/// What is known of one item from all events up to the watermark.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ItemStats {
    /// Interactions.
    pub events: u32,
    /// Interactions of positive weight.
    pub positives: u32,
    /// Interactions of negative weight.
    pub negatives: u32,
    /// Ratings.
    pub ratings: u32,
    /// Sum of ratings in hundredths.
    pub rating_sum_centi: i64,
    /// First interaction; meaningless while `events` is 0.
    pub first_ms: TimeMs,
    /// Last interaction; meaningless while `events` is 0.
    pub last_ms: TimeMs,
    /// Interactions by day.
    pub days: DayCounts,
    /// Interactions by surface (number of the surface in its world) and day, ascending by surface.
    pub surfaces: Vec<(u16, DayCounts)>,
}

impl ItemStats {
    /// Counts one event; those that are no interaction change nothing.
    pub fn add(&mut self, touch: &Touch, time_ms: TimeMs, surface: Option<u16>) {
        if !touch.interaction {
            return;
        }
        (self.first_ms, self.last_ms) =
            if self.events == 0 { (time_ms, time_ms) } else { (self.first_ms.min(time_ms), self.last_ms.max(time_ms)) };
        self.events = self.events.saturating_add(1);
        self.positives = self.positives.saturating_add(u32::from(touch.weight > 0.0));
        self.negatives = self.negatives.saturating_add(u32::from(touch.weight < 0.0));
        if touch.rating.is_finite() {
            self.ratings = self.ratings.saturating_add(1);
            self.rating_sum_centi += centi(touch.rating);
        }
        self.days.add(day_of(time_ms), touch.weight > 0.0);
        if let Some(surface) = surface {
            let place = match self.surfaces.binary_search_by_key(&surface, |(surface, _)| *surface) {
                Ok(place) => place,
                Err(place) => {
                    self.surfaces.insert(place, (surface, DayCounts::default()));
                    place
                }
            };
            self.surfaces[place].1.add(day_of(time_ms), touch.weight > 0.0);
        }
    }

    /// Whether an event came after later ones, so that [`ItemStats::settle`] has something to do.
    pub(super) fn is_late(&self) -> bool {
        self.days.is_late() || self.surfaces.iter().any(|(_, days)| days.is_late())
    }

    /// Takes late sums anew.
    pub(super) fn settle(&mut self) {
        self.days.settle();
        self.surfaces.iter_mut().for_each(|(_, days)| days.settle());
    }
}

/// Sums over all items.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Totals {
    /// Interactions with known items.
    pub events: u64,
    /// Of them positive.
    pub positives: u64,
    /// Ratings.
    pub ratings: u64,
    /// Sum of ratings in hundredths.
    pub rating_sum_centi: i64,
    /// Interactions by day.
    pub days: DayCounts,
}

impl Totals {
    /// Counts one event.
    pub fn add(&mut self, touch: &Touch, time_ms: TimeMs) {
        if touch.interaction {
            self.events += 1;
            self.positives += u64::from(touch.weight > 0.0);
            if touch.rating.is_finite() {
                self.ratings += 1;
                self.rating_sum_centi += centi(touch.rating);
            }
            self.days.add(day_of(time_ms), touch.weight > 0.0);
        }
    }

    /// The sums over these items.
    pub fn of<'a>(items: impl IntoIterator<Item = &'a ItemStats>) -> Totals {
        let mut totals = Totals::default();
        let mut days: BTreeMap<i32, Day> = BTreeMap::new();
        for stats in items {
            totals.events += u64::from(stats.events);
            totals.positives += u64::from(stats.positives);
            totals.ratings += u64::from(stats.ratings);
            totals.rating_sum_centi += stats.rating_sum_centi;
            for day in stats.days.days() {
                let sum = days.entry(day.day).or_insert(Day { day: day.day, events: 0, positives: 0 });
                sum.events = sum.events.saturating_add(day.events);
                sum.positives = sum.positives.saturating_add(day.positives);
            }
        }
        totals.days = DayCounts::from_days(days.into_values().collect());
        totals
    }
}

/// Clamped far beyond any scale, so that no number of events makes a sum overflow.
fn centi(rating: f32) -> i64 {
    (f64::from(rating) * 100.0).round().clamp(-1e8, 1e8) as i64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_order_of_events_does_not_change_a_bit(mut days in prop::collection::vec(0_i32..400, 1..60), seed in 0_usize..1000) {
            let mut in_order = days.clone();
            in_order.sort_unstable();
            let rotation = seed % days.len();
            days.rotate_left(rotation);
            let (mut a, mut b) = (DayCounts::default(), DayCounts::default());
            in_order.into_iter().for_each(|day| a.add(day, day % 3 == 0));
            days.into_iter().for_each(|day| b.add(day, day % 3 == 0));
            let bits = |counts: &DayCounts| {
                let sums = counts.decayed(401);
                sums.events.map(f64::to_bits).into_iter().chain(sums.positives.map(f64::to_bits)).collect::<Vec<_>>()
            };
            prop_assert_eq!(bits(&a), bits(&b));
            b.settle();
            prop_assert_eq!(bits(&a), bits(&b));
            prop_assert_eq!(&a, &b);
            prop_assert_eq!(&a, &DayCounts::from_days(b.days().to_vec()));
        }
    }

    #[test]
    fn an_absurd_rating_overflows_no_sum() {
        let touch = Touch { weight: 1.0, rating: 1e30, seen: true, interaction: true };
        let (mut stats, mut totals) = (ItemStats::default(), Totals::default());
        for _ in 0..3 {
            stats.add(&touch, 0, None);
            totals.add(&touch, 0);
        }
        assert_eq!((stats.rating_sum_centi, totals.rating_sum_centi), (300_000_000, 300_000_000));
    }

    #[test]
    fn a_count_halves_after_a_half_life() {
        let mut counts = DayCounts::default();
        counts.add(10, true);
        counts.add(10, false);
        assert_eq!(counts.decayed(17).events[2], 1.0);
        assert_eq!(counts.decayed(10).positives[2], 1.0);
    }
}
