//! Items and attributes, both ways. Sizes are the store's business (`events::check`); shapes are checked here.

use marquee_engine::types::{Attributes, Item};
use marquee_proto::v1;
use prost_types::{ListValue, Struct, Value, value::Kind};

use super::{time_in, time_out};
use crate::error::{Error, Result};

/// Nesting that is read at most, whatever the limits say: decoding must not overflow the stack.
const DEPTH_MAX: usize = 16;

/// An item from the wire.
pub(in crate::rpc) fn item_in(item: v1::Item) -> Result<Item> {
    let year = match u16::try_from(item.year) {
        Ok(0) => None,
        Ok(year) if year <= 9_999 => Some(year),
        _ => return Err(Error::invalid("year", "must be 0 (unknown) or a year of 1 to 9999")),
    };
    let time = |field: &str, time: Option<prost_types::Timestamp>| time.map(|time| time_in(field, &time)).transpose();
    Ok(Item {
        id: item.id.into(),
        title: item.title,
        year,
        genres: item.genres,
        cast: item.cast,
        directors: item.directors,
        tags: item.tags,
        text: item.text,
        available_from_ms: time("available_from", item.available_from)?,
        available_until_ms: time("available_until", item.available_until)?,
        hidden: item.hidden,
        created_ms: time("created", item.created)?,
        attributes: attributes_in(item.attributes)?,
    })
}

/// An item onto the wire.
pub(in crate::rpc) fn item_out(item: Item) -> v1::Item {
    v1::Item {
        id: item.id.to_string(),
        title: item.title,
        year: item.year.map_or(0, i32::from),
        genres: item.genres,
        cast: item.cast,
        directors: item.directors,
        tags: item.tags,
        text: item.text,
        available_from: item.available_from_ms.map(time_out),
        available_until: item.available_until_ms.map(time_out),
        hidden: item.hidden,
        attributes: attributes_out(item.attributes),
        created: item.created_ms.map(time_out),
    }
}

/// Attributes from the wire.
pub(in crate::rpc) fn attributes_in(attributes: Option<Struct>) -> Result<Attributes> {
    let fields = attributes.unwrap_or_default().fields;
    fields.into_iter().map(|(name, value)| json(value, 1).map(|value| (name, value))).collect()
}

fn json(value: Value, depth: usize) -> Result<serde_json::Value> {
    if depth > DEPTH_MAX {
        return Err(Error::invalid("attributes", format!("must not be nested deeper than {DEPTH_MAX}")));
    }
    Ok(match value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(value)) => value.into(),
        Some(Kind::StringValue(value)) => value.into(),
        Some(Kind::NumberValue(value)) if !value.is_finite() => {
            return Err(Error::invalid("attributes", "numbers must be finite"));
        }
        // Protobuf knows only doubles; 1987 must not come back as 1987.0.
        Some(Kind::NumberValue(value)) if value.fract() == 0.0 && value.abs() < 9e15 => (value as i64).into(),
        Some(Kind::NumberValue(value)) => value.into(),
        Some(Kind::ListValue(list)) => {
            list.values.into_iter().map(|value| json(value, depth + 1)).collect::<Result<Vec<_>>>()?.into()
        }
        Some(Kind::StructValue(fields)) => {
            let field = |(name, value)| json(value, depth + 1).map(|value| (name, value));
            serde_json::Value::Object(fields.fields.into_iter().map(field).collect::<Result<_>>()?)
        }
    })
}

/// Attributes onto the wire; absent when there are none.
pub(in crate::rpc) fn attributes_out(attributes: Attributes) -> Option<Struct> {
    (!attributes.is_empty()).then(|| fields(attributes))
}

fn fields(map: impl IntoIterator<Item = (String, serde_json::Value)>) -> Struct {
    Struct { fields: map.into_iter().map(|(name, value)| (name, proto(value))).collect() }
}

fn proto(value: serde_json::Value) -> Value {
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(value) => Kind::BoolValue(value),
        serde_json::Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or_default()),
        serde_json::Value::String(value) => Kind::StringValue(value),
        serde_json::Value::Array(values) => {
            Kind::ListValue(ListValue { values: values.into_iter().map(proto).collect() })
        }
        serde_json::Value::Object(map) => Kind::StructValue(fields(map)),
    };
    Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_comes_back_as_it_was() {
        let item: Item = serde_json::from_value(serde_json::json!({
            "id": "i", "title": "T", "year": 1987, "genres": ["a"], "cast": ["b"], "directors": ["c"], "tags": ["d"],
            "text": "e", "available_from_ms": -5, "available_until_ms": 7, "hidden": true, "created_ms": 9,
            "attributes": {"n": 3, "x": 0.5, "l": ["p", true, null], "o": {"k": "v"}}
        }))
        .unwrap();
        assert_eq!(item_in(item_out(item.clone())).unwrap(), item);
    }

    #[test]
    fn numbers_that_are_none_are_refused() {
        for bad in [f64::NAN, f64::INFINITY] {
            let fields = [("a".to_owned(), Value { kind: Some(Kind::NumberValue(bad)) })].into();
            let error = attributes_in(Some(Struct { fields })).unwrap_err();
            assert_eq!(error.to_string(), "attributes: numbers must be finite");
        }
        assert!(
            item_in(v1::Item { year: 10_000, ..Default::default() }).unwrap_err().to_string().starts_with("year: ")
        );
    }
}
