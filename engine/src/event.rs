//! What an event means: the one definition of "positive", "seen" and "interaction".
//!
//! Serving, replay, export for training and evaluation all ask here. Must not know how events are stored.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::types::Touch;

/// What a user did.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// The user saw the item in a slate.
    Impression,
    /// The user opened it.
    Click,
    /// The user looked at its page.
    View,
    /// The user watched; the value is the fraction watched, 0 to 1.
    Watch,
    /// The user liked it.
    Like,
    /// The user disliked it.
    Dislike,
    /// The user rated it; the value is the rating.
    Rating,
    /// The user searched; needs no item.
    Search,
    /// Anything else, by the caller's name.
    Custom(String),
}

impl EventKind {
    /// Its name in files, logs and the config.
    pub fn name(&self) -> &str {
        match self {
            EventKind::Impression => "impression",
            EventKind::Click => "click",
            EventKind::View => "view",
            EventKind::Watch => "watch",
            EventKind::Like => "like",
            EventKind::Dislike => "dislike",
            EventKind::Rating => "rating",
            EventKind::Search => "search",
            EventKind::Custom(name) => name,
        }
    }

    /// The kind of that name; any other name is a custom kind.
    pub fn from_name(name: &str) -> EventKind {
        match name {
            "impression" => EventKind::Impression,
            "click" => EventKind::Click,
            "view" => EventKind::View,
            "watch" => EventKind::Watch,
            "like" => EventKind::Like,
            "dislike" => EventKind::Dislike,
            "rating" => EventKind::Rating,
            "search" => EventKind::Search,
            other => EventKind::Custom(other.to_owned()),
        }
    }
}

/// How a kind of event is read: thresholds on its value give its weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KindPolicy {
    /// Weight when no step applies or the event has no value.
    pub weight: f32,
    /// Steps on the value, tested in order; the first that holds gives the weight.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// The user has consumed the item: it is not recommended again.
    #[serde(default)]
    pub seen: bool,
}

/// One threshold: the weight when the value lies within the bounds (inclusive).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The value is at least this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least: Option<f64>,
    /// The value is at most this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<f64>,
    /// Then the weight is this.
    pub weight: f32,
}

/// The weight of every kind of event; from the config. Kinds without an entry weigh 0 and are not "seen".
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventPolicy {
    /// By [`EventKind::name`].
    pub kinds: BTreeMap<String, KindPolicy>,
}

impl Default for EventPolicy {
    /// like 1, dislike -1, rating >= 4: 1, rating <= 2: -0.5, watched >= 0.7: 1, watched <= 0.1: -0.25, view and click 0.1.
    fn default() -> EventPolicy {
        let plain = |weight, seen| KindPolicy { weight, steps: Vec::new(), seen };
        let step = |at_least, at_most, weight| Step { at_least, at_most, weight };
        let kinds = [
            ("click", plain(0.1, false)),
            ("view", plain(0.1, false)),
            ("like", plain(1.0, true)),
            ("dislike", plain(-1.0, true)),
            (
                "rating",
                KindPolicy {
                    weight: 0.0,
                    steps: vec![step(Some(4.0), None, 1.0), step(None, Some(2.0), -0.5)],
                    seen: true,
                },
            ),
            (
                "watch",
                KindPolicy {
                    weight: 0.3,
                    steps: vec![step(Some(0.7), None, 1.0), step(None, Some(0.1), -0.25)],
                    seen: true,
                },
            ),
        ];
        EventPolicy { kinds: kinds.into_iter().map(|(kind, policy)| (kind.to_owned(), policy)).collect() }
    }
}

impl EventPolicy {
    /// What an event of that kind and value means.
    pub fn touch(&self, kind: &EventKind, value: Option<f64>) -> Touch {
        let rating = match (kind, value) {
            (EventKind::Rating, Some(value)) => value as f32,
            _ => f32::NAN,
        };
        let interaction = !matches!(kind, EventKind::Impression | EventKind::Search);
        let Some(policy) = self.kinds.get(kind.name()) else {
            return Touch { weight: 0.0, rating, seen: false, interaction };
        };
        let holds = |step: &&Step| {
            value.is_some_and(|value| {
                step.at_least.is_none_or(|least| value >= least) && step.at_most.is_none_or(|most| value <= most)
            })
        };
        let weight = policy.steps.iter().find(holds).map_or(policy.weight, |step| step.weight);
        Touch { weight, rating, seen: policy.seen, interaction }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(kind: &EventKind, value: Option<f64>) -> f32 {
        EventPolicy::default().touch(kind, value).weight
    }

    #[test]
    fn a_rating_of_four_is_positive_and_of_two_negative() {
        assert_eq!(weight(&EventKind::Rating, Some(4.0)), 1.0);
        assert_eq!(weight(&EventKind::Rating, Some(3.0)), 0.0);
        assert_eq!(weight(&EventKind::Rating, Some(2.0)), -0.5);
        assert_eq!(weight(&EventKind::Rating, None), 0.0);
    }

    #[test]
    fn an_impression_is_neither_seen_nor_an_interaction() {
        let touch = EventPolicy::default().touch(&EventKind::Impression, None);
        assert!(!touch.seen && !touch.interaction && touch.weight == 0.0);
    }

    #[test]
    fn names_round_trip() {
        for name in ["impression", "click", "view", "watch", "like", "dislike", "rating", "search", "poke"] {
            assert_eq!(EventKind::from_name(name).name(), name);
        }
    }
}
