//! An event as people write it: a line of events.jsonl, or the JSON form of the proto's `Event`.
//!
//! Imports and the shared log read the same lines. Must not know files, nor topics.

use marquee_engine::event::EventKind;
use serde::Deserialize;

use super::check::EventDraft;
use super::moment::rfc3339_ms;
use crate::store::KeyHash;

/// One line of events.jsonl; the same names are the columns of events.csv. Each name is read in the proto's JSON form,
/// too.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)] // docs/data.md describes them
pub struct EventLine {
    pub id: String,
    #[serde(alias = "userId")]
    pub user_id: String,
    #[serde(alias = "anonymousId")]
    pub anonymous_id: String,
    #[serde(alias = "sessionId")]
    pub session_id: String,
    #[serde(alias = "itemId")]
    pub item_id: String,
    pub r#type: String,
    #[serde(alias = "customType")]
    pub custom_type: String,
    pub value: Option<f64>,
    #[serde(alias = "watchedSeconds")]
    pub watched_seconds: Option<f64>,
    pub time_ms: Option<i64>,
    pub time: String,
    pub surface: String,
    #[serde(alias = "slateId")]
    pub slate_id: String,
    pub position: Option<i64>,
    pub query: String,
}

/// What the proto puts before the names of types.
const TYPE_PREFIX: &str = "EVENT_TYPE_";

impl EventLine {
    /// The event that it says; it must say when.
    ///
    /// # Errors
    /// A field and the rule that it breaks, as text.
    pub fn draft(self) -> Result<EventDraft, String> {
        if self.time_ms.is_none() && self.time.is_empty() {
            return Err("time_ms: one of time and time_ms is needed".to_owned());
        }
        self.draft_at(0)
    }

    /// The event that it says, at `otherwise` if it does not say when. One without an id gets one from its content, so
    /// that the same line once more is found known.
    ///
    /// # Errors
    /// A field and the rule that it breaks, as text.
    pub fn draft_at(self, otherwise: i64) -> Result<EventDraft, String> {
        let time_ms = match (self.time_ms, self.time.as_str()) {
            (Some(_), time) if !time.is_empty() => {
                return Err("time: only one of time and time_ms may be given".to_owned());
            }
            (Some(time_ms), _) => i128::from(time_ms),
            (None, "") => i128::from(otherwise),
            (None, time) => rfc3339_ms(time).ok_or("time: must be like 2024-05-01T18:30:00Z")?.into(),
        };
        let name = match self.r#type.strip_prefix(TYPE_PREFIX) {
            Some(name) => name.to_ascii_lowercase(),
            None => self.r#type,
        };
        // A custom event is written with its own name as type, or as the proto does.
        let (kind, custom_type) = match EventKind::from_name(&name) {
            EventKind::Custom(own) if self.custom_type.is_empty() && !own.is_empty() && own != "custom" => {
                ("custom".to_owned(), own)
            }
            _ => (name, self.custom_type),
        };
        let mut draft = EventDraft {
            id: self.id,
            user_id: self.user_id,
            anonymous_id: self.anonymous_id,
            session_id: self.session_id,
            item_id: self.item_id,
            kind,
            custom_type,
            value: self.value,
            watched_seconds: self.watched_seconds,
            time_ms: Some(time_ms),
            surface: self.surface,
            slate_id: self.slate_id,
            position: self.position,
            query: self.query,
        };
        if draft.id.is_empty() {
            draft.id = derived_id(&draft);
        }
        Ok(draft)
    }
}

/// Without the column, so that equal mistakes count together.
pub fn json_reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or(&text);
    format!("not as documented: {text}")
}

/// A row without an id gets one from its content, so that a second import finds it known.
fn derived_id(draft: &EventDraft) -> String {
    let EventDraft { user_id, anonymous_id, item_id, kind, custom_type, time_ms, value, query, session_id, .. } = draft;
    let content = serde_json::json!([
        user_id,
        anonymous_id,
        item_id,
        kind,
        custom_type,
        time_ms.map(|time| time.to_string()),
        value,
        query,
        session_id
    ]);
    format!("row:{:?}", KeyHash::of(&content.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(json: &str) -> EventLine {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_derived_id_depends_on_the_content_alone() {
        let id = |json: &str| line(json).draft().unwrap().id;
        let one = id(r#"{"user_id":"a","item_id":"i","type":"like","time_ms":5}"#);
        assert_eq!(one, id(r#"{"time_ms":5,"type":"like","item_id":"i","user_id":"a"}"#));
        assert_ne!(one, id(r#"{"anonymous_id":"a","item_id":"i","type":"like","time_ms":5}"#));
        assert_eq!(id(r#"{"id":"x","user_id":"a","item_id":"i","type":"like","time_ms":5}"#), "x");
    }

    #[test]
    fn the_proto_s_json_says_the_same() {
        let ours = r#"{"id":"e","user_id":"a","item_id":"i","type":"poke","watched_seconds":2,"time_ms":1500}"#;
        let proto = r#"{"id":"e","userId":"a","itemId":"i","type":"EVENT_TYPE_CUSTOM","customType":"poke",
            "watchedSeconds":2,"time":"1970-01-01T00:00:01.5Z"}"#;
        assert_eq!(line(ours).draft().unwrap(), line(proto).draft().unwrap());
        let like = r#"{"id":"e","userId":"a","itemId":"i","type":"EVENT_TYPE_LIKE","time":"1970-01-01T00:00:00Z"}"#;
        assert_eq!(line(like).draft().unwrap().kind, "like");
    }

    #[test]
    fn a_line_without_a_moment_takes_the_given_one_or_none() {
        let silent = r#"{"user_id":"a","item_id":"i","type":"like"}"#;
        assert!(line(silent).draft().unwrap_err().starts_with("time_ms: "));
        assert_eq!(line(silent).draft_at(7).unwrap().time_ms, Some(7));
    }
}
