//! The rules for an item.

use marquee_engine::types::{Item, TimeMs};

use super::{YEAR_9999_END_MS, at_most, attributes, id};
use crate::config::Limits;
use crate::error::{Error, Result};

/// Milliseconds of 0001-01-01T00:00:00Z.
const YEAR_1_MS: TimeMs = -62_135_596_800_000;

/// Ok, or the first rule that the item breaks.
pub fn item(item: &Item, limits: &Limits) -> Result<()> {
    id("id", &item.id, limits)?;
    at_most("title", &item.title, limits.title_max_bytes)?;
    at_most("text", &item.text, limits.text_max_bytes)?;
    if item.year.is_some_and(|year| !(1..=9999).contains(&year)) {
        return Err(Error::invalid("year", "must lie within 1 and 9999, or be absent"));
    }
    let lists = [("genres", &item.genres), ("cast", &item.cast), ("directors", &item.directors), ("tags", &item.tags)];
    for (field, entries) in lists {
        list(field, entries, limits)?;
    }
    let times = [
        ("available_from", item.available_from_ms),
        ("available_until", item.available_until_ms),
        ("created", item.created_ms),
    ];
    for (field, time) in times {
        if time.is_some_and(|time| !(YEAR_1_MS..=YEAR_9999_END_MS).contains(&time)) {
            return Err(Error::invalid(field, "must lie within the years 1 and 9999"));
        }
    }
    if let (Some(from), Some(until)) = (item.available_from_ms, item.available_until_ms)
        && from >= until
    {
        return Err(Error::invalid("available_until", "must lie after available_from"));
    }
    attributes(&item.attributes, limits)
}

fn list(field: &str, entries: &[String], limits: &Limits) -> Result<()> {
    if entries.len() > limits.list_max_entries {
        let rule = format!("must have at most {} entries, has {}", limits.list_max_entries, entries.len());
        return Err(Error::invalid(field, rule));
    }
    entries.iter().enumerate().try_for_each(|(index, entry)| {
        let field = format!("{field}[{index}]");
        if entry.is_empty() {
            return Err(Error::invalid(field, "must not be empty"));
        }
        at_most(&field, entry, limits.list_entry_max_bytes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: impl FnOnce(&mut Item), field: Option<&str>) {
        let mut subject = Item { id: "i1".into(), title: "Heat".to_owned(), ..Item::default() };
        change(&mut subject);
        match (item(&subject, &Limits::default()), field) {
            (Ok(()), None) => {}
            (Err(Error::InvalidArgument { field: got, .. }), Some(field)) => assert_eq!(got, field),
            (other, _) => panic!("expected {field:?}, got {other:?}"),
        }
    }

    #[test]
    fn every_broken_rule_names_its_field() {
        check(|_| (), None);
        check(|item| item.id = "".into(), Some("id"));
        check(|item| item.title = "t".repeat(1_025), Some("title"));
        check(|item| item.text = "t".repeat(32 * 1024 + 1), Some("text"));
        check(|item| item.year = Some(0), Some("year"));
        check(|item| item.year = Some(10_000), Some("year"));
        check(|item| item.genres = vec!["Drama".to_owned(), String::new()], Some("genres[1]"));
        check(|item| item.cast = vec!["x".to_owned(); 501], Some("cast"));
        check(|item| item.created_ms = Some(TimeMs::MAX), Some("created"));
    }

    #[test]
    fn an_availability_window_is_not_empty() {
        let window = |from, until| {
            move |item: &mut Item| {
                item.available_from_ms = Some(from);
                item.available_until_ms = Some(until);
            }
        };
        check(window(1, 2), None);
        check(window(2, 2), Some("available_until"));
    }
}
