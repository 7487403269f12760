//! Filters: may this item be in the slate? Pure and infallible, yes or no for one item.
//!
//! The filter for seen and for unavailable items runs last and wins. A filter never reorders or changes anything.

use rustc_hash::FxHashSet;
use serde_json::Value;

use crate::moment::Moment;
use crate::scratch::{Lent, Verdicts};
use crate::types::{AttributeCondition, AttributeTest, Filter, Item, Query, Row};
use crate::world::World;

/// May this row be in the slate?
pub(crate) type Keeps = fn(&Moment<'_>, Row) -> bool;

/// The filters in the order in which an explanation names them; each with its stage name.
pub(crate) const FILTERS: [(&str, Keeps); 4] = [
    ("filter:excluded", |moment, row| moment.request.is_wanted(moment.world, row)),
    ("filter:request", |moment, row| moment.request.matches(moment.world, row)),
    ("filter:seen", seen),
    ("filter:availability", availability),
];

/// The item exists, is not hidden, and the moment lies within its window.
#[inline]
pub(crate) fn availability(moment: &Moment<'_>, row: Row) -> bool {
    moment.world.is_available(row, moment.available_at)
}

/// The user has not seen it (or the query does not mind).
#[inline]
pub(crate) fn seen(moment: &Moment<'_>, row: Row) -> bool {
    moment.query.include_seen || !moment.has_seen(row)
}

/// What the query itself asks for.
#[derive(Debug, Default)]
pub(crate) struct Request {
    filter: Filter,
    /// Genres in lower case.
    genres_any: Vec<String>,
    genres_none: Vec<String>,
    excluded: FxHashSet<Row>,
    shown: FxHashSet<u64>,
    /// Every source asks of the same rows, and a condition may read much of an item. `None`: no condition at all.
    verdicts: Option<Lent<Verdicts>>,
}

impl Request {
    pub(crate) fn new(query: &Query, world: &World) -> Request {
        let lower = |genres: &[String]| genres.iter().map(|genre| genre.to_lowercase()).collect();
        let filter = Filter { available_at_ms: None, ..query.filter.clone() };
        let excluded: FxHashSet<Row> = query.exclude.iter().filter_map(|id| world.row(id)).collect();
        let is_open = filter == Filter::default() && excluded.is_empty() && query.shown.is_empty();
        Request {
            genres_any: lower(&filter.genres_any),
            genres_none: lower(&filter.genres_none),
            filter,
            excluded,
            shown: query.shown.iter().copied().collect(),
            verdicts: (!is_open).then(|| Verdicts::none(world.rows())),
        }
    }

    /// Whether every item passes.
    pub(crate) fn is_open(&self) -> bool {
        self.verdicts.is_none()
    }

    /// Neither excluded nor on an earlier page, and the filter holds.
    pub(crate) fn keeps(&self, world: &World, row: Row) -> bool {
        let decide = || self.is_wanted(world, row) && self.matches(world, row);
        self.verdicts.as_ref().is_none_or(|verdicts| verdicts.of(row, decide))
    }

    fn is_wanted(&self, world: &World, row: Row) -> bool {
        !self.excluded.contains(&row)
            && (self.shown.is_empty() || world.get(row).is_some_and(|found| !self.shown.contains(&found.hash)))
    }

    fn matches(&self, world: &World, row: Row) -> bool {
        world.get(row).is_some_and(|found| self.holds(&found.item))
    }

    fn holds(&self, item: &Item) -> bool {
        let has = |wanted: &[String]| item.genres.iter().any(|genre| is_among(genre, wanted));
        let above = self.filter.year_min.is_none_or(|min| item.year.is_some_and(|year| year >= min));
        let below = self.filter.year_max.is_none_or(|max| item.year.is_some_and(|year| year <= max));
        above
            && below
            && (self.genres_any.is_empty() || has(&self.genres_any))
            && (self.genres_none.is_empty() || !has(&self.genres_none))
            && self.filter.attributes.iter().all(|condition| attribute(item, condition))
    }
}

/// Whether `name` in lower case is one of `wanted`, which are. Most names need no copy for that.
fn is_among(name: &str, wanted: &[String]) -> bool {
    if name.is_ascii() {
        return wanted.iter().any(|other| name.eq_ignore_ascii_case(other));
    }
    wanted.contains(&name.to_lowercase())
}

fn attribute(item: &Item, condition: &AttributeCondition) -> bool {
    let values: &[Value] = match item.attributes.get(&condition.name) {
        None | Some(Value::Null) => &[],
        Some(Value::Array(values)) => values,
        Some(value) => std::slice::from_ref(value),
    };
    let text_in = |value: &Value, wanted: &[String]| match value {
        Value::String(text) => wanted.contains(text),
        // 7 and 7.0 are the same number, whichever way they travelled.
        Value::Number(number) => number.as_f64().is_some_and(|number| wanted.contains(&number.to_string())),
        other => wanted.contains(&other.to_string()),
    };
    match &condition.test {
        AttributeTest::AnyOf(wanted) => values.iter().any(|value| text_in(value, wanted)),
        AttributeTest::NoneOf(wanted) => !values.iter().any(|value| text_in(value, wanted)),
        AttributeTest::Range(min, max) => {
            values.iter().filter_map(Value::as_f64).any(|number| (*min..=*max).contains(&number))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(item: &str, test: AttributeTest, passes: bool) {
        let item: Item = serde_json::from_str(item).unwrap();
        assert_eq!(attribute(&item, &AttributeCondition { name: "a".to_owned(), test }), passes);
    }

    #[test]
    fn a_name_is_found_in_whatever_case_it_is_written() {
        let wanted: Vec<String> = ["science fiction", "été"].map(str::to_owned).into();
        for (name, is_found) in [("Science Fiction", true), ("ÉTÉ", true), ("Science", false), ("", false)] {
            assert_eq!(is_among(name, &wanted), is_found, "{name}");
        }
    }

    #[test]
    fn an_attribute_is_tested_by_its_json_text_or_number() {
        let any = |values: &[&str]| AttributeTest::AnyOf(values.iter().map(|&value| value.to_owned()).collect());
        let none = |values: &[&str]| AttributeTest::NoneOf(values.iter().map(|&value| value.to_owned()).collect());
        check(r#"{"id":"1","attributes":{"a":"x"}}"#, any(&["x"]), true);
        check(r#"{"id":"1","attributes":{"a":["y","x"]}}"#, any(&["x"]), true);
        check(r#"{"id":"1","attributes":{"a":true}}"#, any(&["true"]), true);
        check(r#"{"id":"1"}"#, any(&["x"]), false);
        check(r#"{"id":"1"}"#, none(&["x"]), true);
        check(r#"{"id":"1","attributes":{"a":["y","x"]}}"#, none(&["x"]), false);
        check(r#"{"id":"1","attributes":{"a":7.5}}"#, AttributeTest::Range(7.0, 8.0), true);
        check(r#"{"id":"1","attributes":{"a":"7.5"}}"#, AttributeTest::Range(7.0, 8.0), false);
    }
}
