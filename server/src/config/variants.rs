//! The recipes that exist without any configuration, and how the config changes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use marquee_engine::types::{SourcePlan, Variant};

/// Variants that always exist; the config can change their recipes, not remove them.
pub const BUILT_IN: [&str; 3] = ["default", "popular", "blend"];

/// The built-in recipes. The one place that holds default source weights and budgets.
pub fn default_variants() -> BTreeMap<String, Arc<Variant>> {
    let all = [
        ("cooccurrence", 1.0, 60),
        ("cooccurrence_short", 1.0, 60),
        ("cooccurrence_whole", 0.5, 80),
        ("liked_whole", 1.0, 80),
        ("transitions", 0.7, 60),
        ("transitions_liked", 0.7, 60),
        ("embedding_recent", 0.5, 60),
        ("user_neighbours", 0.7, 40),
        ("content", 0.2, 40),
        ("popular", 0.5, 60),
        ("popular_day", 0.2, 20),
        ("fresh", 0.05, 10),
    ];
    let baseline = [("popular", 1.0, 500)];
    [variant("default", &all, true), variant("popular", &baseline, false), variant("blend", &all, false)]
        .into_iter()
        .map(|variant| (variant.name.clone(), Arc::new(variant)))
        .collect()
}

fn variant(name: &str, sources: &[(&str, f32, usize)], ranker: bool) -> Variant {
    Variant {
        name: name.to_owned(),
        sources: sources
            .iter()
            .map(|&(source, weight, budget_items)| (source.to_owned(), SourcePlan { weight, budget_items }))
            .collect(),
        ranker,
        head_weights: BTreeMap::new(),
        candidates_max_items: 500,
    }
}
