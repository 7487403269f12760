//! Order: the ranker's scores, or the blend's where there is no ranker or it fails.

use crate::blend::Candidates;
use crate::moment::Moment;
use crate::types::Degradation;

/// Candidates in order.
#[derive(Debug, Default)]
pub(crate) struct Scored {
    /// Indices of candidates, best first; equal scores by blend, then by row.
    pub(crate) order: Vec<usize>,
    /// What ordered each candidate.
    pub(crate) scores: Vec<f32>,
    /// Row-major candidates x heads of the ranker; empty without one.
    pub(crate) heads: Vec<f32>,
    /// Whether the ranker ordered them.
    pub(crate) ranked: bool,
    /// What could not be done.
    pub(crate) degraded: Vec<Degradation>,
}

/// Scores and sorts all candidates. `features` is row-major, candidates x columns.
pub(crate) fn order(moment: &Moment<'_>, candidates: &Candidates, features: Option<&[f32]>) -> Scored {
    let mut scored = Scored { scores: candidates.items.iter().map(|item| item.blend).collect(), ..Scored::default() };
    if moment.query.variant.ranker {
        match rank(moment, candidates, features) {
            Ok((scores, heads)) => {
                scored.scores = scores;
                scored.heads = heads;
                scored.ranked = true;
            }
            Err(why) => scored.degraded.push(Degradation { what: "ranker".to_owned(), why }),
        }
    }
    let items = &candidates.items;
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_unstable_by(|&a, &b| {
        let by_score = scored.scores[b].total_cmp(&scored.scores[a]);
        by_score.then_with(|| items[b].blend.total_cmp(&items[a].blend)).then_with(|| items[a].row.cmp(&items[b].row))
    });
    scored.order = order;
    scored
}

/// (combined scores, all heads), or why not.
fn rank(
    moment: &Moment<'_>,
    candidates: &Candidates,
    features: Option<&[f32]>,
) -> Result<(Vec<f32>, Vec<f32>), String> {
    let because = || moment.bundle.manifest().no_ranker_because.clone();
    let ranker = moment.bundle.ranker().ok_or_else(|| because().unwrap_or_else(|| "the bundle has none".to_owned()))?;
    let features = features.ok_or_else(|| "no features".to_owned())?;
    let mut heads = Vec::new();
    ranker.score(features, candidates.items.len(), &mut heads).map_err(|error| error.to_string())?;
    let weights = &moment.query.variant.head_weights;
    let weight = |(at, name): (usize, &String)| match weights.is_empty() {
        true => f32::from(u8::from(at == 0)),
        false => weights.get(name).copied().unwrap_or(0.0),
    };
    let weights: Vec<f32> = ranker.heads().iter().enumerate().map(weight).collect();
    if weights.iter().all(|weight| *weight == 0.0) {
        let heads = ranker.heads().join(", ");
        return Err(format!("the variant's head_weights name none of the ranker's heads: {heads}"));
    }
    let combine = |heads: &[f32]| -> f32 {
        heads.iter().zip(&weights).filter(|(_, weight)| **weight != 0.0).map(|(head, weight)| head * weight).sum()
    };
    let scores: Vec<f32> = heads.chunks_exact(weights.len()).map(combine).collect();
    if scores.iter().all(|score| score.is_finite()) {
        Ok((scores, heads))
    } else {
        Err("the ranker gave a score that is not finite".to_owned())
    }
}
