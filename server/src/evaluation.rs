//! How good are slates? One definition of every metric, for our slates and for baselines alike.
//!
//! Whole catalogue, seen items filtered, never sampled candidates (Krichene and Rendle 2020). Must not know who made
//! a list.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Depth of NDCG, coverage and novelty.
pub const NDCG_DEPTH: usize = 10;
/// Depth of recall.
pub const RECALL_DEPTH: usize = 20;
/// Depth at which sources are compared.
pub const SOURCE_DEPTH: usize = 500;
/// Positive items after a moment that count as relevant.
pub const RELEVANT_MAX_ITEMS: usize = 10;

/// NDCG@10 with binary gains; the ideal list holds `min(10, relevant)` hits (Järvelin and Kekäläinen 2002).
pub fn ndcg_at_10(list: &[Arc<str>], relevant: &[Arc<str>]) -> f64 {
    let discount = |position: usize| 1.0 / ((position + 2) as f64).log2();
    let hits = list.iter().take(NDCG_DEPTH).enumerate().filter(|(_, item)| relevant.contains(item));
    let ideal: f64 = (0..relevant.len().min(NDCG_DEPTH)).map(discount).sum();
    if ideal == 0.0 { 0.0 } else { hits.map(|(position, _)| discount(position)).sum::<f64>() / ideal }
}

/// Share of the relevant items among the first `depth` of the list.
pub fn recall(list: &[Arc<str>], relevant: &[Arc<str>], depth: usize) -> f64 {
    let hits = list.iter().take(depth).filter(|item| relevant.contains(item)).count();
    if relevant.is_empty() { 0.0 } else { hits as f64 / relevant.len() as f64 }
}

/// What a report says of one way to make lists.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ListReport {
    /// Mean over users of the mean over their moments.
    pub ndcg_at_10: f64,
    /// The same of recall.
    pub recall_at_20: f64,
    /// Share of the catalogue that stands in at least one top 10.
    pub coverage: f64,
    /// Mean self-information of the items in the top 10, in bits: -log2 of the item's share of all earlier
    /// interactions, one added to each count (Zhou et al. 2010).
    pub novelty: f64,
    /// By user, for intervals; the same order in all lists of a report.
    pub per_user: BTreeMap<String, Vec<f64>>,
}

/// Adds up the lists of one way to make them.
#[derive(Debug, Default)]
pub struct Tally {
    ndcg: BTreeMap<u32, (f64, f64)>,
    recall: BTreeMap<u32, (f64, f64)>,
    shown: HashSet<Arc<str>>,
    information: (f64, f64),
}

impl Tally {
    /// Counts the list of one moment of `user`.
    pub fn add(&mut self, user: u32, list: &[Arc<str>], relevant: &[Arc<str>], popularity: &Popularity) {
        let count = |sums: &mut BTreeMap<u32, (f64, f64)>, value: f64| {
            let sum = sums.entry(user).or_default();
            *sum = (sum.0 + value, sum.1 + 1.0);
        };
        count(&mut self.ndcg, ndcg_at_10(list, relevant));
        count(&mut self.recall, recall(list, relevant, RECALL_DEPTH));
        for item in list.iter().take(NDCG_DEPTH) {
            self.information = (self.information.0 + popularity.information(item), self.information.1 + 1.0);
            if !self.shown.contains(item) {
                self.shown.insert(item.clone());
            }
        }
    }

    /// Adds what another tally counted (of other moments of the same lists).
    pub fn merge(&mut self, other: Tally) {
        for (ours, theirs) in [(&mut self.ndcg, other.ndcg), (&mut self.recall, other.recall)] {
            for (user, (sum, count)) in theirs {
                let ours = ours.entry(user).or_default();
                *ours = (ours.0 + sum, ours.1 + count);
            }
        }
        self.shown.extend(other.shown);
        self.information = (self.information.0 + other.information.0, self.information.1 + other.information.1);
    }

    /// The report; `catalogue` is the number of items.
    pub fn report(&self, catalogue: usize) -> ListReport {
        let means =
            |sums: &BTreeMap<u32, (f64, f64)>| sums.values().map(|(sum, count)| sum / count).collect::<Vec<_>>();
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let (ndcg, recall) = (means(&self.ndcg), means(&self.recall));
        ListReport {
            ndcg_at_10: mean(&ndcg),
            recall_at_20: mean(&recall),
            coverage: self.shown.len() as f64 / catalogue.max(1) as f64,
            novelty: self.information.0 / self.information.1.max(1.0),
            per_user: BTreeMap::from([("ndcg_at_10".to_owned(), ndcg), ("recall_at_20".to_owned(), recall)]),
        }
    }
}

/// How often each item was met before the period under test.
#[derive(Debug, Default)]
pub struct Popularity {
    counts: HashMap<Arc<str>, u64>,
    all: u64,
    items: u64,
}

impl Popularity {
    /// From the items of all earlier interactions.
    pub fn new(items: impl IntoIterator<Item = Arc<str>>, catalogue: usize) -> Popularity {
        let mut popularity = Popularity { items: catalogue as u64, ..Popularity::default() };
        for item in items {
            *popularity.counts.entry(item).or_insert(0) += 1;
            popularity.all += 1;
        }
        popularity
    }

    fn information(&self, item: &str) -> f64 {
        let count = self.counts.get(item).copied().unwrap_or(0) + 1;
        -(count as f64 / (self.all + self.items).max(1) as f64).log2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[&str]) -> Vec<Arc<str>> {
        ids.iter().map(|&id| id.into()).collect()
    }

    #[test]
    fn a_perfect_list_scores_one_and_a_late_hit_less() {
        assert_eq!(ndcg_at_10(&ids(&["a", "b"]), &ids(&["b", "a"])), 1.0);
        let late = ndcg_at_10(&ids(&["x", "a"]), &ids(&["a"]));
        assert!((late - 1.0 / 3.0_f64.log2()).abs() < 1e-12);
        assert_eq!(ndcg_at_10(&ids(&["x"]), &[]), 0.0);
    }

    #[test]
    fn users_weigh_alike_however_many_moments_they_have() {
        let (mut tally, popularity) = (Tally::default(), Popularity::new(ids(&["a", "a", "b"]), 2));
        tally.add(0, &ids(&["a"]), &ids(&["a"]), &popularity);
        tally.add(0, &ids(&["a"]), &ids(&["a"]), &popularity);
        let mut other = Tally::default();
        other.add(1, &ids(&["b"]), &ids(&["a"]), &popularity);
        tally.merge(other);
        let report = tally.report(4);
        assert_eq!((report.ndcg_at_10, report.recall_at_20, report.coverage), (0.5, 0.5, 0.5));
        assert_eq!(report.per_user["ndcg_at_10"], [1.0, 0.0]);
        let bits = (2.0 * (5.0_f64 / 3.0).log2() + (5.0_f64 / 2.0).log2()) / 3.0;
        assert!((report.novelty - bits).abs() < 1e-12);
    }
}
