//! A recorded log of events, in the CSV layout of docs/data.md: who did what, when.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use marquee_proto::v1;

/// One event of the log.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// Since the first event.
    pub(crate) at: Duration,
    pub(crate) user: u32,
    pub(crate) item: u32,
    pub(crate) kind: v1::EventType,
    pub(crate) value: Option<f64>,
}

/// The log, in the order of time.
#[derive(Debug)]
pub(crate) struct Log {
    /// Ids in the order of their first event.
    pub(crate) users: Vec<Box<str>>,
    pub(crate) items: Vec<Box<str>>,
    pub(crate) rows: Vec<Row>,
}

const COLUMNS: [&str; 4] = ["user_id", "item_id", "type", "time_ms"];

impl Log {
    /// Reads a file. Events without a user or an item (anonymous ones, searches) are left out.
    ///
    /// # Errors
    /// What is wrong, with file, line and rule.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Log> {
        let shown = path.display();
        let mut reader = csv::Reader::from_path(path).with_context(|| format!("reading {shown}"))?;
        let head = reader.headers().with_context(|| format!("reading {shown}"))?.clone();
        let column = |name: &str| head.iter().position(|found| found == name);
        let missing: Vec<&str> = COLUMNS.into_iter().filter(|name| column(name).is_none()).collect();
        ensure!(missing.is_empty(), "{shown}: no column {} (see docs/data.md)", missing.join(", "));
        let [user, item, kind, time] = COLUMNS.map(|name| column(name).unwrap_or_default());
        let value = column("value");
        let (mut users, mut items, mut rows) = (Ids::default(), Ids::default(), Vec::new());
        for record in reader.records() {
            let record = record.with_context(|| format!("reading {shown}"))?;
            let line = record.position().map_or(0, csv::Position::line);
            if record[user].is_empty() || record[item].is_empty() {
                continue;
            }
            let time_ms: i64 = record[time].parse().with_context(|| format!("{shown}:{line}: time_ms"))?;
            let value = value.map(|value| &record[value]).filter(|value| !value.is_empty());
            let value = value.map(str::parse).transpose().with_context(|| format!("{shown}:{line}: value"))?;
            let kind = type_of(&record[kind]).with_context(|| format!("{shown}:{line}: type {}", &record[kind]))?;
            rows.push((time_ms, users.number(&record[user]), items.number(&record[item]), kind, value));
        }
        ensure!(!rows.is_empty(), "{shown} holds no event of a user and an item");
        rows.sort_by_key(|row| row.0);
        let first = rows[0].0;
        let rows = rows.into_iter().map(|(time_ms, user, item, kind, value)| {
            let at = Duration::from_millis(time_ms.abs_diff(first));
            Row { at, user, item, kind, value }
        });
        Ok(Log { rows: rows.collect(), users: users.listed, items: items.listed })
    }
}

#[derive(Default)]
struct Ids {
    known: HashMap<Box<str>, u32>,
    listed: Vec<Box<str>>,
}

impl Ids {
    fn number(&mut self, id: &str) -> u32 {
        if let Some(&number) = self.known.get(id) {
            return number;
        }
        let number = self.listed.len() as u32;
        self.known.insert(id.into(), number);
        self.listed.push(id.into());
        number
    }
}

fn type_of(name: &str) -> Option<v1::EventType> {
    v1::EventType::from_str_name(&format!("EVENT_TYPE_{}", name.to_ascii_uppercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> anyhow::Result<Log> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.csv");
        std::fs::write(&path, text).unwrap();
        Log::read(&path)
    }

    #[test]
    fn a_log_is_read_in_the_order_of_time() {
        let log =
            read("id,user_id,item_id,type,value,time_ms\na,ann,x,rating,4.5,2000\nb,bob,y,like,,500\nc,,y,like,,1\n");
        let log = log.unwrap();
        assert_eq!(log.rows.len(), 2, "an event of nobody is left out");
        assert_eq!((&*log.users[log.rows[0].user as usize], log.rows[0].value), ("bob", None));
        assert_eq!((log.rows[1].at, log.rows[1].value), (Duration::from_millis(1_500), Some(4.5)));
        assert_eq!(log.rows[1].kind, v1::EventType::Rating);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let told = |text| format!("{:#}", read(text).unwrap_err());
        assert!(told("user_id,item_id\n").contains("no column type, time_ms"));
        assert!(told("user_id,item_id,type,time_ms\na,x,like,1\na,x,like,soon\n").contains("events.csv:3: time_ms"));
        assert!(told("user_id,item_id,type,time_ms\na,x,lyke,1\n").contains("events.csv:2: type lyke"));
        assert!(told("user_id,item_id,type,time_ms\n").contains("holds no event"));
    }
}
