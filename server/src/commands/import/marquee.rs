//! Marquee's own layout: items, users and events, each as JSON lines or CSV. docs/data.md describes it.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use marquee_engine::types::{Attributes, Item, TimeMs};
use serde_json::Value;

use super::sink::{Place, Sink, What};
use super::table::{Delimited, Row, Table};
use crate::events::line::{EventLine, json_reason};
use crate::store::{User, UserKey};

/// A line longer than this is refused unread.
const LINE_MAX_BYTES: usize = 1024 * 1024;

pub(super) fn read(paths: &[PathBuf], sink: &mut Sink) -> Result<()> {
    for path in paths {
        if !path.is_dir() {
            read_file(path, sink)?;
            continue;
        }
        let names =
            ["items", "users", "events"].into_iter().flat_map(|stem| [format!("{stem}.jsonl"), format!("{stem}.csv")]);
        let files: Vec<PathBuf> = names.map(|name| path.join(name)).filter(|file| file.exists()).collect();
        if files.is_empty() {
            bail!("{} holds none of items, users and events as .jsonl or .csv", path.display());
        }
        files.iter().try_for_each(|file| read_file(file, sink))?;
    }
    Ok(())
}

fn read_file(path: &Path, sink: &mut Sink) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let what = match name.split(['.', '-', '_']).next() {
        Some("items") => What::Item,
        Some("users") => What::User,
        Some("events") => What::Event,
        _ => bail!("{}: the name must begin with items, users or events", path.display()),
    };
    let source = BufReader::new(File::open(path).with_context(|| format!("opening {}", path.display()))?);
    let done = match path.extension().and_then(|extension| extension.to_str()) {
        Some("jsonl" | "ndjson") => lines(source, what, &name, sink),
        Some("csv") => rows(source, what, &name, sink),
        _ => bail!("{}: the name must end with .jsonl or .csv", path.display()),
    };
    done.with_context(|| format!("reading {}", path.display()))
}

fn lines(source: impl BufRead, what: What, file: &str, sink: &mut Sink) -> Result<()> {
    for (index, line) in source.split(b'\n').enumerate() {
        let line = line?;
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let place = Place { file, line: index as u64 + 1 };
        let taken = match readable(line) {
            Ok(text) => take_json(text, what, place, sink)?,
            Err(reason) => Err(reason),
        };
        if let Err(reason) = taken {
            let shown = &line[..line.len().min(LINE_MAX_BYTES)];
            sink.refuse(what, place, &reason, None, String::from_utf8_lossy(shown).into_owned())?;
        }
    }
    Ok(())
}

fn readable(line: &[u8]) -> Result<&str, String> {
    if line.len() > LINE_MAX_BYTES {
        return Err(format!("line: must have at most {LINE_MAX_BYTES} bytes, has {}", line.len()));
    }
    std::str::from_utf8(line).map_err(|_| "not UTF-8".to_owned())
}

/// The inner error is the reason why the line is refused.
fn take_json(text: &str, what: What, place: Place<'_>, sink: &mut Sink) -> Result<Result<(), String>> {
    let row = || text.to_owned();
    match what {
        What::Item => match serde_json::from_str::<Item>(text) {
            Ok(item) => sink.item(place, item, row).map(Ok),
            Err(error) => Ok(Err(json_reason(&error))),
        },
        What::User => match serde_json::from_str::<User>(text) {
            Ok(user) => sink.user(place, user, row).map(Ok),
            Err(error) => Ok(Err(json_reason(&error))),
        },
        What::Event => match serde_json::from_str::<EventLine>(text)
            .map_err(|error| json_reason(&error))
            .and_then(EventLine::draft)
        {
            Ok(draft) => sink.event(place, draft, row).map(Ok),
            Err(reason) => Ok(Err(reason)),
        },
    }
}

fn rows(source: impl BufRead, what: What, file: &str, sink: &mut Sink) -> Result<()> {
    let mut table = Table::open(source, Delimited::Comma, |cell| cell)?;
    let needed: &[&str] = match what {
        What::Item | What::User => &["id"],
        What::Event => &["type"],
    };
    table.need(needed)?;
    let attributes: Vec<String> =
        table.names().iter().filter_map(|name| name.strip_prefix("attr.")).map(str::to_owned).collect();
    unknown_columns(&table, what)?;
    while let Some(row) = table.next()? {
        let place = Place { file, line: row.line };
        let taken = match (&row.bad, what) {
            (Some(reason), _) => Err(reason.clone()),
            (None, What::Item) => match item_of(&row, &attributes) {
                Ok(item) => sink.item(place, item, || row.text()).map(Ok)?,
                Err(reason) => Err(reason),
            },
            (None, What::User) => {
                let user = User { id: row.exact("id").to_owned(), attributes: attributes_of(&row, &attributes) };
                sink.user(place, user, || row.text()).map(Ok)?
            }
            (None, What::Event) => match event_of(&row).and_then(EventLine::draft) {
                Ok(draft) => sink.event(place, draft, || row.text()).map(Ok)?,
                Err(reason) => Err(reason),
            },
        };
        if let Err(reason) = taken {
            let user = Some(row.exact("user_id")).filter(|id| !id.is_empty()).map(UserKey::user);
            sink.refuse(what, place, &reason, user, row.text())?;
        }
    }
    Ok(())
}

const ITEM_COLUMNS: [&str; 12] = [
    "id",
    "title",
    "year",
    "genres",
    "cast",
    "directors",
    "tags",
    "text",
    "available_from_ms",
    "available_until_ms",
    "hidden",
    "created_ms",
];
const EVENT_COLUMNS: [&str; 14] = [
    "id",
    "user_id",
    "anonymous_id",
    "session_id",
    "item_id",
    "type",
    "value",
    "watched_seconds",
    "time_ms",
    "time",
    "surface",
    "slate_id",
    "position",
    "query",
];

/// A misspelt column would be lost silently.
fn unknown_columns<R: std::io::Read>(table: &Table<R>, what: What) -> Result<()> {
    let known: &[&str] = match what {
        What::Item => &ITEM_COLUMNS,
        What::User => &["id"],
        What::Event => &EVENT_COLUMNS,
    };
    let attribute = |name: &str| what != What::Event && name.starts_with("attr.");
    let unknown: Vec<&String> =
        table.names().iter().filter(|name| !known.contains(&name.as_str()) && !attribute(name)).collect();
    if !unknown.is_empty() {
        bail!("unknown columns {unknown:?}; known are {known:?} and, for items and users, attr.NAME");
    }
    Ok(())
}

fn item_of(row: &Row<'_>, attributes: &[String]) -> Result<Item, String> {
    let list = |column: &str| {
        row.get(column).split('|').map(str::trim).filter(|entry| !entry.is_empty()).map(str::to_owned).collect()
    };
    Ok(Item {
        id: row.exact("id").into(),
        title: row.get("title").to_owned(),
        year: number(row, "year")?,
        genres: list("genres"),
        cast: list("cast"),
        directors: list("directors"),
        tags: list("tags"),
        text: row.get("text").to_owned(),
        available_from_ms: number::<TimeMs>(row, "available_from_ms")?,
        available_until_ms: number::<TimeMs>(row, "available_until_ms")?,
        hidden: match row.get("hidden") {
            "" | "false" | "0" => false,
            "true" | "1" => true,
            _ => return Err("hidden: must be true or false".to_owned()),
        },
        created_ms: number::<TimeMs>(row, "created_ms")?,
        attributes: attributes_of(row, attributes),
    })
}

fn attributes_of(row: &Row<'_>, attributes: &[String]) -> Attributes {
    let value = |text: &str| match serde_json::from_str::<Value>(text) {
        Ok(value @ (Value::Number(_) | Value::Bool(_) | Value::Array(_))) => value,
        _ => Value::from(text),
    };
    let cell = |name: &String| (name.clone(), row.get(&format!("attr.{name}")));
    attributes.iter().map(cell).filter(|(_, text)| !text.is_empty()).map(|(name, text)| (name, value(text))).collect()
}

fn event_of(row: &Row<'_>) -> Result<EventLine, String> {
    let text = |column: &str| row.exact(column).to_owned();
    Ok(EventLine {
        id: text("id"),
        user_id: text("user_id"),
        anonymous_id: text("anonymous_id"),
        session_id: text("session_id"),
        item_id: text("item_id"),
        r#type: row.get("type").to_owned(),
        value: number(row, "value")?,
        watched_seconds: number(row, "watched_seconds")?,
        time_ms: number(row, "time_ms")?,
        time: row.get("time").to_owned(),
        surface: text("surface"),
        slate_id: text("slate_id"),
        position: number(row, "position")?,
        query: text("query"),
        ..EventLine::default()
    })
}

fn number<N: std::str::FromStr>(row: &Row<'_>, column: &str) -> Result<Option<N>, String> {
    match row.get(column) {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| format!("{column}: must be a number in its range")),
    }
}
