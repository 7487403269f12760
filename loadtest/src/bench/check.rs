//! What must be true of a measured result. Each check names the rule that it found broken.

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use marquee_engine::Engine;
use marquee_engine::index::{Hit, Index, Scratch};
use marquee_engine::types::{Query, Record, Rows, Slate};

use super::Bench;

/// Least recall@100 of a walk, as a mean over the asked users.
pub(super) const RECALL_MIN: f64 = 0.95;

/// Share of the 100 best rows of an exact scan that these hits hold. The scan is our own sum of products.
pub(super) fn recall(index: &Index, query: &[f32], hits: &[Hit]) -> f64 {
    let mut exact = Vec::new();
    index.search_exact(query, 100, index.len(), |_| true, &mut Scratch::new(), &mut exact);
    let found: HashSet<u32> = hits.iter().take(100).map(|hit| hit.row).collect();
    exact.iter().filter(|hit| found.contains(&hit.row)).count() as f64 / exact.len().max(1) as f64
}

/// Best first, no row twice, every score the vector's own inner product.
pub(super) fn hits_of_index(index: &Index, query: &[f32], hits: &[Hit]) -> Result<()> {
    sorted(hits)?;
    for hit in hits {
        let plain: f64 = index.vector(hit.row).iter().zip(query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        ensure!(
            (plain - f64::from(hit.score)).abs() < 1e-4 * plain.abs().max(1.0),
            "row {} scores {}",
            hit.row,
            hit.score
        );
    }
    Ok(())
}

fn sorted(hits: &[Hit]) -> Result<()> {
    ensure!(hits.windows(2).all(|pair| pair[0].score >= pair[1].score), "hits are not best first");
    let rows: HashSet<u32> = hits.iter().map(|hit| hit.row).collect();
    ensure!(rows.len() == hits.len(), "a row stands twice");
    Ok(())
}

impl Bench {
    /// A source's hits: in order, within the budget, nothing seen, and the same that the whole request used.
    pub(super) fn check_source(&self, person: usize, name: &str, hits: &[Hit], recorded: &Slate) -> Result<()> {
        sorted(hits)?;
        let seen: HashSet<&str> = self.people[person].events.iter().map(|event| &*event.item).collect();
        let id = |hit: &Hit| self.world.get(hit.row).map(|row| row.item.id.clone());
        let ids: Vec<Arc<str>> = hits.iter().map(id).collect::<Option<_>>().context("a hit without an item")?;
        ensure!(ids.iter().all(|id| !seen.contains(&**id)), "a seen item");
        if let Some(plan) = self.query.variant.sources.get(name) {
            ensure!(ids.len() <= plan.budget_items, "{} hits, planned {}", ids.len(), plan.budget_items);
            let (_, used) = recorded.hits.iter().find(|(source, _)| *source == name).context("no recorded hits")?;
            ensure!(*used == ids, "the whole request used other hits");
        }
        Ok(())
    }

    /// The slate holds the best of the recorded rows, in order, with their scores.
    pub(super) fn check_slate(&self, slate: &Slate, recorded: &Slate) -> Result<()> {
        let rows = recorded.rows.as_ref().context("no rows were recorded")?;
        let most = self.query.variant.candidates_max_items;
        ensure!(rows.items.len() <= most, "{} candidates, at most {most}", rows.items.len());
        ensure!(slate.items.len() == self.query.count, "{} items, asked for {}", slate.items.len(), self.query.count);
        ensure!(slate.degraded.is_empty() || !self.has_ranker(), "degraded: {:?}", slate.degraded);
        ensure!(slate.funnel.eligible as usize == rows.items.len(), "another number of candidates");
        let row = |at: usize| self.world.row(&rows.items[at]);
        let mut order: Vec<usize> = (0..rows.items.len()).collect();
        order.sort_by(|&a, &b| {
            let by_score = rows.scores[b].total_cmp(&rows.scores[a]);
            by_score.then(rows.blend[b].total_cmp(&rows.blend[a])).then_with(|| row(a).cmp(&row(b)))
        });
        for (item, at) in slate.items.iter().zip(order) {
            ensure!(item.id == rows.items[at], "{} stands where {} should", item.id, rows.items[at]);
            ensure!(item.score.to_bits() == rows.scores[at].to_bits(), "{} scores {}", item.id, item.score);
        }
        Ok(())
    }

    /// The same candidates brought by the caller, in another order, have the same features, bit for bit.
    pub(super) fn check_features(&self, person: usize, recorded: &Rows) -> Result<()> {
        let brought: Vec<Arc<str>> = recorded.items.iter().rev().step_by(7).cloned().collect();
        let query = Query {
            record: Record { rows: true, hits: false },
            candidates: Some(brought.clone()),
            ..self.query.clone()
        };
        let again = self.engine.recommend(&query, &self.people[person], &self.world, &[]).rows.context("no rows")?;
        ensure!(again.items.len() == brought.len(), "{} rows of {} candidates", again.items.len(), brought.len());
        let width = recorded.features.len() / recorded.items.len().max(1);
        let bits = |rows: &Rows, at: usize| -> Vec<u32> {
            rows.features[at * width..(at + 1) * width].iter().map(|value| value.to_bits()).collect()
        };
        for (at, item) in again.items.iter().enumerate() {
            let before = recorded.items.iter().position(|other| other == item).context("another candidate")?;
            ensure!(bits(&again, at) == bits(recorded, before), "features of {item} depend on its company");
        }
        Ok(())
    }

    /// Scores one by one are the scores of all together, and those that ordered the slate.
    pub(super) fn check_scores(&self, rows: &Rows, scores: &[f32]) -> Result<()> {
        let ranker = self.engine.bundle().ranker().context("no ranker")?;
        let (width, heads) = (Engine::columns().len(), ranker.heads().len());
        let mut one = Vec::new();
        for at in (0..rows.items.len()).step_by(17) {
            ranker.score(&rows.features[at * width..(at + 1) * width], 1, &mut one)?;
            ensure!(one[0].to_bits() == scores[at * heads].to_bits(), "row {at} scores otherwise alone");
            ensure!(one[0].to_bits() == rows.scores[at].to_bits(), "row {at} was ranked with another score");
        }
        Ok(())
    }

    pub(super) fn has_ranker(&self) -> bool {
        self.engine.bundle().ranker().is_some()
    }
}
