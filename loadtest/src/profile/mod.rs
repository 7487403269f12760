//! What is asked, of whom and about what: a traffic profile in TOML. `loadtest/profiles/` has samples with every key.
//!
//! Must not know how a request is sent or when.

mod reader;

use std::path::{Path, PathBuf};
use std::time::Duration;

use reader::Reader;

use crate::traffic::Kind;

/// A profile that was read and found right.
#[derive(Debug, Clone)]
pub(crate) struct Profile {
    /// Its name in reports.
    pub(crate) name: String,
    /// The weight of each kind of call, in the order of [`Kind::ALL`].
    pub(crate) mix: [f64; Kind::ALL.len()],
    /// Who asks.
    pub(crate) users: Users,
    /// What events, similar items and candidates are about.
    pub(crate) items: Items,
    /// What a call says.
    pub(crate) call: Call,
    /// HTTP/2 connections.
    pub(crate) connections: usize,
    /// Calls that wait for their answer; more are dropped by the generator, and counted.
    pub(crate) in_flight_max: usize,
    /// The file as it was.
    pub(crate) text: String,
}

/// Where ids come from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Ids {
    /// `prefix` and a number from `first` on, with zeros before it up to so many digits.
    Generated { prefix: String, first: u64, digits: usize },
    /// One id a line.
    File(PathBuf),
    /// The column of an event file; in the order of their first event.
    Events(PathBuf),
    /// `ListItems` of the server.
    Server,
}

/// Who asks.
#[derive(Debug, Clone)]
pub(crate) struct Users {
    pub(crate) ids: Ids,
    /// At most so many.
    pub(crate) count: usize,
    /// Exponent of the Zipf distribution; 0 asks of each alike.
    pub(crate) zipf: f64,
    /// Share of calls by a user whom nobody has seen before.
    pub(crate) cold_share: f64,
}

/// The items that calls name.
#[derive(Debug, Clone)]
pub(crate) struct Items {
    pub(crate) ids: Ids,
    pub(crate) count: usize,
    pub(crate) zipf: f64,
}

/// What a call says.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// When the caller stops waiting, from the moment of sending.
    pub(crate) deadline: Duration,
    /// Items of a slate.
    pub(crate) count: u32,
    pub(crate) surface: String,
    /// Empty: as the server assigns.
    pub(crate) variant: String,
    pub(crate) bypass_cache: bool,
    /// Requests of a batch.
    pub(crate) batch_requests: usize,
    /// Candidates of a rank call.
    pub(crate) rank_items: usize,
    /// Items of a similar call.
    pub(crate) similar_items: usize,
    /// Events of a record call, each of a user of its own.
    pub(crate) events: usize,
    /// Requests carry the newest write token of their user.
    pub(crate) write_tokens: bool,
    /// Events that this generator records (like, rating, watch) make an item seen: it must not come back.
    pub(crate) seen: bool,
}

impl Profile {
    /// Reads a file.
    ///
    /// # Errors
    /// Every problem, a line each, with the key and the rule.
    pub(crate) fn read(path: &Path) -> Result<Profile, Vec<String>> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| vec![format!("--profile {shown}: {error}")])?;
        let base = path.parent().unwrap_or(Path::new(""));
        Profile::parse(&text, base)
            .map_err(|problems| problems.into_iter().map(|problem| format!("{shown}: {problem}")).collect())
    }

    /// Reads a text; `base` is where relative file names begin.
    pub(crate) fn parse(text: &str, base: &Path) -> Result<Profile, Vec<String>> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| vec![error.to_string()])?;
        let mut problems = Vec::new();
        let mut top = Reader::new(table, &mut problems);
        let name = top.text("name", "unnamed");
        let mix = mix(top.section("mix"));
        let users = users(top.section("users"), base);
        let items = items(top.section("items"), base);
        let call = call(top.section("call"));
        let mut connections = top.section("connections");
        let count = connections.whole("count", 4, 1..=256) as usize;
        let in_flight_max = connections.whole("in_flight_max", 4_096, 1..=100_000) as usize;
        connections.finish();
        top.finish();
        if problems.is_empty() {
            Ok(Profile { name, mix, users, items, call, connections: count, in_flight_max, text: text.to_owned() })
        } else {
            Err(problems)
        }
    }

    /// The kinds of calls that have a weight.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = Kind> + '_ {
        Kind::ALL.into_iter().zip(self.mix).filter(|(_, weight)| *weight > 0.0).map(|(kind, _)| kind)
    }
}

fn mix(mut section: Reader) -> [f64; Kind::ALL.len()] {
    let mix = Kind::ALL.map(|kind| section.number(kind.key(), 0.0, 0.0..=1_000_000.0));
    if mix.iter().sum::<f64>() <= 0.0 {
        section.wrong("recommend", "or another call of [mix] must have a weight above 0");
    }
    section.finish();
    mix
}

fn users(mut section: Reader, base: &Path) -> Users {
    let ids = ids(&mut section, base, &["generated", "file", "events"], "u");
    let count = section.whole("count", 10_000, 1..=50_000_000) as usize;
    let zipf = section.number("zipf", 0.8, 0.0..=4.0);
    let cold_share = section.number("cold_share", 0.0, 0.0..=1.0);
    section.finish();
    Users { ids, count, zipf, cold_share }
}

fn items(mut section: Reader, base: &Path) -> Items {
    let ids = ids(&mut section, base, &["server", "generated", "file", "events"], "i");
    let count = section.whole("count", 10_000, 1..=50_000_000) as usize;
    let zipf = section.number("zipf", 1.0, 0.0..=4.0);
    section.finish();
    Items { ids, count, zipf }
}

fn ids(section: &mut Reader, base: &Path, from: &[&str], prefix: &str) -> Ids {
    let from = section.word("from", from);
    let (prefix, first) = (section.text("prefix", prefix), section.whole("first", 0, 0..=u64::from(u32::MAX)));
    let digits = section.whole("digits", 0, 0..=20) as usize;
    let file = section.text("file", "");
    let wants_file = matches!(from.as_str(), "file" | "events");
    if wants_file && file.is_empty() {
        section.wrong("file", format!("must name a file when from = \"{from}\""));
    } else if !wants_file && !file.is_empty() {
        section.wrong("file", format!("has no meaning when from = \"{from}\""));
    }
    match from.as_str() {
        "file" => Ids::File(base.join(file)),
        "events" => Ids::Events(base.join(file)),
        "server" => Ids::Server,
        _ => Ids::Generated { prefix, first, digits },
    }
}

fn call(mut section: Reader) -> Call {
    let call = Call {
        deadline: Duration::from_millis(section.whole("deadline_ms", 1_000, 1..=600_000)),
        count: section.whole("count", 20, 1..=10_000) as u32,
        surface: section.text("surface", "home"),
        variant: section.text("variant", ""),
        bypass_cache: section.flag("bypass_cache", false),
        batch_requests: section.whole("batch_requests", 10, 1..=1_000) as usize,
        rank_items: section.whole("rank_items", 100, 1..=10_000) as usize,
        similar_items: section.whole("similar_items", 1, 1..=100) as usize,
        events: section.whole("events", 1, 1..=1_000) as usize,
        write_tokens: section.flag("write_tokens", true),
        seen: section.flag("seen", true),
    };
    section.finish();
    call
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_told_at_once() {
        let text = "nmae = 'x'\n[mix]\nrecomend = 1\n[users]\nfrom = 'file'\nzipf = 9\n\
                    [call]\ndeadline_ms = 0\nbypass_cache = 'no'\n[connections]\ncount = -1\n";
        let problems = Profile::parse(text, Path::new("")).unwrap_err();
        for wanted in [
            "nmae: no such key; known here: name, mix",
            "mix.recomend: no such key; known here: recommend,",
            "mix.recommend: or another call",
            "users.file: must name a file",
            "users.zipf: must be from 0 to 4, not 9",
            "call.deadline_ms: must be from 1 to 600000, not 0",
            "call.bypass_cache: must be true or false, not string",
            "connections.count: must be from 1 to 256, not -1",
        ] {
            assert!(problems.iter().any(|problem| problem.starts_with(wanted)), "{wanted} is not in {problems:#?}");
        }
        assert_eq!(problems.len(), 8, "{problems:#?}");
    }

    #[test]
    fn the_samples_are_right() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles");
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let profile = Profile::read(&path).unwrap();
            assert_eq!(path.file_stem().unwrap().to_str(), Some(profile.name.as_str()));
            names.push(profile.name);
        }
        assert!(names.len() >= 4, "{names:?}");
    }

    #[test]
    fn weights_choose_the_kinds() {
        let profile = Profile::parse("[mix]\nrank = 1\nrecord_events = 2\n", Path::new("")).unwrap();
        assert_eq!(profile.kinds().collect::<Vec<_>>(), [Kind::Rank, Kind::RecordEvents]);
        assert_eq!(profile.items.ids, Ids::Server);
        assert_eq!(profile.users.ids, Ids::Generated { prefix: "u".to_owned(), first: 0, digits: 0 });
    }
}
