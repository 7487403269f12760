//! Anything else that is known of an item or a user: a small map that a catalogue can hold a million of.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::{Serialize, Serializer};
use serde_json::Value;

/// Names with their JSON values, ascending by name, each name once. As JSON it is an object. Two attributes take a
/// hundred bytes and their contents, where the smallest `serde_json::Map` that is not empty takes six hundred.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Attributes(Box<[(Box<str>, Value)]>);

impl Attributes {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of that name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        let place = self.0.binary_search_by(|(found, _)| (**found).cmp(name)).ok()?;
        Some(&self.0[place].1)
    }

    /// All of them, ascending by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }
}

/// Of pairs with the same name the last one counts.
impl<N: Into<Box<str>>> FromIterator<(N, Value)> for Attributes {
    fn from_iter<I: IntoIterator<Item = (N, Value)>>(pairs: I) -> Attributes {
        let mut pairs: Vec<(Box<str>, Value)> = pairs.into_iter().map(|(name, value)| (name.into(), value)).collect();
        // Stable: of equal names the last one comes last, and takes the place of those before it.
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        pairs.dedup_by(|later, kept| {
            let is_same = later.0 == kept.0;
            if is_same {
                std::mem::swap(later, kept);
            }
            is_same
        });
        Attributes(pairs.into())
    }
}

impl IntoIterator for Attributes {
    type Item = (String, Value);
    type IntoIter = std::iter::Map<std::vec::IntoIter<(Box<str>, Value)>, fn((Box<str>, Value)) -> (String, Value)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_vec().into_iter().map(|(name, value)| (name.into(), value))
    }
}

impl Serialize for Attributes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Attributes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Attributes, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Attributes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Attributes, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry::<Box<str>, Value>()? {
                    pairs.push(pair);
                }
                Ok(pairs.into_iter().collect())
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_an_object_in_order_of_names() {
        let text = r#"{"year":1,"cast":["a"],"year":2.5,"":null,"z":{},"year":"3","cast":[]}"#;
        let found: Attributes = serde_json::from_str(text).unwrap();
        // As the map of serde_json, which is what they are compared with on the wire and in the store.
        let map: serde_json::Map<String, Value> = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&found).unwrap(), serde_json::to_string(&map).unwrap());
        assert_eq!(found, map.clone().into_iter().collect());
        assert_eq!(found.clone().into_iter().collect::<serde_json::Map<_, _>>(), map);
        assert_eq!((found.get("year"), found.get("years")), (Some(&"3".into()), None));
        assert!(Attributes::default().is_empty() && !found.is_empty());
        assert!(serde_json::from_str::<Attributes>("[]").unwrap_err().to_string().contains("an object"));
    }
}
