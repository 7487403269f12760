//! How many items have how many interactions.

use std::collections::BTreeMap;

/// Items by their number of interactions.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Histogram {
    items: BTreeMap<u32, u32>,
}

impl Histogram {
    /// Of these items.
    pub(crate) fn of(events: impl Iterator<Item = u32>) -> Histogram {
        let mut histogram = Histogram::default();
        events.for_each(|events| histogram.move_one(None, Some(events)));
        histogram
    }

    /// One item has another number than before; `None` is no item.
    pub(super) fn move_one(&mut self, before: Option<u32>, after: Option<u32>) {
        if let Some(events) = before
            && let Some(items) = self.items.get_mut(&events)
        {
            *items -= 1;
            if *items == 0 {
                self.items.remove(&events);
            }
        }
        if let Some(events) = after {
            *self.items.entry(events).or_insert(0) += 1;
        }
    }

    /// The sums from the smallest number up.
    pub(super) fn fewer(&self) -> Fewer {
        let mut sum = 0;
        let sums = self.items.iter().map(|(&events, &items)| {
            sum += items;
            (events, sum)
        });
        let up_to: Vec<(u32, u32)> = sums.collect();
        let (mut few, mut before) = (Vec::with_capacity(FEW as usize), 0);
        for &(events, sum) in &up_to {
            few.resize(few.len().max((events.min(FEW - 1) + 1) as usize), before);
            before = sum;
        }
        few.resize(FEW as usize, before);
        Fewer { up_to, few }
    }
}

/// For each number of interactions that occurs, ascending: how many items have that many or fewer.
#[derive(Debug)]
pub(super) struct Fewer {
    up_to: Vec<(u32, u32)>,
    /// The answers for numbers below [`FEW`], which most items have.
    few: Vec<u32>,
}

/// See there.
const FEW: u32 = 1_024;

impl Fewer {
    /// Items with fewer interactions.
    pub(super) fn than(&self, events: u32) -> u32 {
        if let Some(&fewer) = self.few.get(events as usize) {
            return fewer;
        }
        match self.up_to.partition_point(|&(number, _)| number < events) {
            0 => 0,
            place => self.up_to[place - 1].1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_move_between_numbers() {
        let mut histogram = Histogram::of([3, 0, 0, 7].into_iter());
        histogram.move_one(Some(0), Some(1));
        histogram.move_one(Some(7), None);
        histogram.move_one(None, Some(3));
        assert_eq!(histogram, Histogram::of([0, 1, 3, 3].into_iter()));
        assert_eq!([0, 1, 2, 3, 4].map(|events| histogram.fewer().than(events)), [0, 1, 2, 2, 4]);
    }

    #[test]
    fn numbers_above_and_below_the_table_are_counted_alike() {
        let events = [0, 5, 5, 1_022, 1_023, 1_024, 1_025, 9_000];
        let fewer = Histogram::of(events.into_iter()).fewer();
        for asked in [0, 1, 4, 5, 6, 1_021, 1_022, 1_023, 1_024, 1_025, 1_026, 8_999, 9_000, 9_001, u32::MAX] {
            let wanted = events.iter().filter(|&&events| events < asked).count() as u32;
            assert_eq!(fewer.than(asked), wanted, "{asked}");
        }
    }
}
