//! The rules for what comes in. A broken rule names the field and says what holds.
//!
//! One set for RPCs and imports. Field names are those of the protos.

mod event;
mod item;

use marquee_engine::types::Attributes;
use serde_json::Value;

pub use self::event::{EventDraft, event};
pub use self::item::item;
use crate::config::Limits;
use crate::error::{Error, Result};
use crate::store::{User, UserKey};

/// Milliseconds of 9999-12-31T23:59:59.999Z: later times cannot be written as RFC 3339.
const YEAR_9999_END_MS: i64 = 253_402_300_799_999;

/// Any id: 1 to `id_max_bytes` bytes. UTF-8 is the type's.
pub fn id(field: &str, id: &str, limits: &Limits) -> Result<()> {
    if id.is_empty() {
        return Err(Error::invalid(field, "must not be empty"));
    }
    at_most(field, id, limits.id_max_bytes)
}

/// Exactly one of a user id and an anonymous id.
pub fn who(user_id: &str, anonymous_id: &str, limits: &Limits) -> Result<UserKey> {
    match (user_id.is_empty(), anonymous_id.is_empty()) {
        (true, true) => Err(Error::invalid("user_id", "one of user_id and anonymous_id is needed")),
        (false, false) => Err(Error::invalid("anonymous_id", "only one of user_id and anonymous_id may be given")),
        (false, true) => id("user_id", user_id, limits).map(|()| UserKey::user(user_id)),
        (true, false) => id("anonymous_id", anonymous_id, limits).map(|()| UserKey::anonymous(anonymous_id)),
    }
}

/// A user to be upserted.
pub fn user(user: &User, limits: &Limits) -> Result<()> {
    id("id", &user.id, limits)?;
    attributes(&user.attributes, limits)
}

/// A surface's name; may be empty.
pub fn surface(surface: &str, limits: &Limits) -> Result<()> {
    at_most("surface", surface, limits.surface_max_bytes)
}

fn at_most(field: &str, text: &str, max_bytes: usize) -> Result<()> {
    if text.len() > max_bytes {
        return Err(Error::invalid(field, format!("must have at most {max_bytes} bytes, has {}", text.len())));
    }
    Ok(())
}

/// Strings, numbers, booleans and lists and maps of these, bounded in size and depth.
fn attributes(attributes: &Attributes, limits: &Limits) -> Result<()> {
    for (name, value) in attributes.iter() {
        id("attributes", name, limits)?;
        if deeper_than(value, limits.attributes_max_depth) {
            let rule = format!("{name:?} must nest at most {} deep", limits.attributes_max_depth);
            return Err(Error::invalid("attributes", rule));
        }
    }
    let bytes = serde_json::to_string(attributes).map_or(usize::MAX, |json| json.len());
    if bytes > limits.attributes_max_bytes {
        let rule = format!("must have at most {} bytes as JSON, has {bytes}", limits.attributes_max_bytes);
        return Err(Error::invalid("attributes", rule));
    }
    Ok(())
}

/// Stops at the limit, so that no nesting can exhaust the stack.
fn deeper_than(value: &Value, depth_max: usize) -> bool {
    depth_max == 0
        || match value {
            Value::Array(values) => values.iter().any(|value| deeper_than(value, depth_max - 1)),
            Value::Object(values) => values.values().any(|value| deeper_than(value, depth_max - 1)),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_bounded_in_depth_and_size() {
        let limits = Limits::default();
        let nested = |depth: usize| (1..depth).fold(Value::from(1), |inner, _| Value::Array(vec![inner]));
        let with =
            |value: Value| User { id: "u".to_owned(), attributes: Attributes::from_iter([("a".to_owned(), value)]) };
        assert!(user(&with(nested(4)), &limits).is_ok());
        assert!(user(&with(nested(5)), &limits).unwrap_err().to_string().starts_with("attributes: "));
        assert!(user(&with(Value::from("x".repeat(20_000))), &limits).is_err());
    }

    #[test]
    fn exactly_one_identity_is_needed() {
        let limits = Limits::default();
        assert!(who("", "", &limits).is_err());
        assert!(who("a", "b", &limits).is_err());
        assert_eq!(who("a", "", &limits).unwrap().as_str(), "u:a");
        assert_eq!(who("", "a", &limits).unwrap().as_str(), "a:a");
        assert!(who(&"x".repeat(257), "", &limits).unwrap_err().to_string().contains("257"));
    }
}
