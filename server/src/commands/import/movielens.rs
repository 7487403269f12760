//! A MovieLens folder: movies.csv, ratings.csv, links.csv, tags.csv, or of older sets movies.dat, ratings.dat;
//! optionally metadata by movieId as JSON lines.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use marquee_engine::types::Item;
use serde::Deserialize;

use super::dat::Dat;
use super::sink::{Place, Sink, What};
use super::table::{Delimited, Table};
use crate::events::check::EventDraft;

pub(super) struct Options<'o> {
    pub(super) metadata: Option<&'o Path>,
    pub(super) tags: bool,
    /// Ratings are multiplied by it: 0.5 brings a scale of 0 to 10 to that of the event weights.
    pub(super) rating_factor: f64,
}

pub(super) fn read(folders: &[PathBuf], options: &Options<'_>, sink: &mut Sink) -> Result<()> {
    for folder in folders {
        movies(folder, sink)?;
        links(folder, sink)?;
        if options.tags {
            tags(folder, sink)?;
        }
        if let Some(file) = options.metadata {
            metadata(file, sink)?;
        }
        ratings(folder, options.rating_factor, sink)?;
    }
    if !options.tags && folders.iter().any(|folder| folder.join("tags.csv").exists()) {
        sink.note("tags.csv was left out: tags are written after the fact (--tags reads them)".to_owned());
    }
    Ok(())
}

/// `NAME.csv`, else `NAME.dat`, whose columns have no names but an order.
fn open(folder: &Path, name: &str, columns: &[&str]) -> Result<(String, Table<Box<dyn Read>>)> {
    let csv = folder.join(format!("{name}.csv"));
    let dat = folder.join(format!("{name}.dat"));
    let is_dat = !csv.exists() && dat.exists();
    let path = if is_dat { dat } else { csv };
    let source = BufReader::new(File::open(&path).with_context(|| format!("opening {}", path.display()))?);
    let table = if is_dat {
        Table::open(Box::new(Dat::new(source, columns)) as Box<dyn Read>, Delimited::Tab, |cell| cell)
            .map(Table::without_header_line)
    } else {
        Table::open(Box::new(source) as Box<dyn Read>, Delimited::Comma, |cell| cell)
    };
    let table = table.and_then(|table| table.need(columns).map(|()| table));
    let file = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    Ok((file, table.with_context(|| format!("reading {}", path.display()))?))
}

fn movies(folder: &Path, sink: &mut Sink) -> Result<()> {
    let (file, mut table) = open(folder, "movies", &["movieId", "title", "genres"])?;
    while let Some(row) = table.next()? {
        let place = Place { file: &file, line: row.line };
        if let Some(reason) = &row.bad {
            sink.refuse(What::Item, place, reason, None, row.text())?;
            continue;
        }
        let (title, year) = title_and_year(row.get("title"));
        let genres = row.get("genres").split('|').filter(|genre| !genre.is_empty() && *genre != "(no genres listed)");
        let item = Item {
            id: row.get("movieId").into(),
            title: title.to_owned(),
            year,
            genres: genres.map(str::to_owned).collect(),
            ..Item::default()
        };
        sink.item(place, item, || row.text())?;
    }
    Ok(())
}

/// "Heat (1995)" is "Heat" of 1995; "(2006–2007)" begins in 2006. Anything else stays in the title.
pub(super) fn title_and_year(title: &str) -> (&str, Option<u16>) {
    let title = title.trim();
    let split = title.strip_suffix(')').and_then(|open| open.rsplit_once('('));
    let Some((before, years)) = split else { return (title, None) };
    let Some(year) = years.get(..4).and_then(|year| year.parse::<u16>().ok()).filter(|year| *year >= 1000) else {
        return (title, None);
    };
    let rest = years[4..].trim_matches(|c: char| c == '–' || c == '-' || c.is_whitespace() || c.is_ascii_digit());
    let name = before.trim_end();
    if rest.is_empty() && !name.is_empty() { (name, Some(year)) } else { (title, None) }
}

/// Ids in other databases, as attributes: a request filter can test them, the ranking does not look at them.
fn links(folder: &Path, sink: &mut Sink) -> Result<()> {
    if !folder.join("links.csv").exists() {
        return Ok(());
    }
    let (_, mut table) = open(folder, "links", &["movieId"])?;
    let mut links = HashMap::new();
    while let Some(row) = table.next()? {
        if row.bad.is_none() {
            links.insert(row.get("movieId").to_owned(), [row.get("imdbId").to_owned(), row.get("tmdbId").to_owned()]);
        }
    }
    for item in sink.items_mut() {
        let Some([imdb, tmdb]) = links.remove(&*item.id) else { continue };
        let ids = [("imdb_id", imdb), ("tmdb_id", tmdb)].into_iter().filter(|(_, id)| !id.is_empty());
        let ids = ids.map(|(name, id)| (name.to_owned(), id.into()));
        item.attributes = std::mem::take(&mut item.attributes).into_iter().chain(ids).collect();
    }
    Ok(())
}

fn tags(folder: &Path, sink: &mut Sink) -> Result<()> {
    if !folder.join("tags.csv").exists() {
        return Ok(());
    }
    let (_, mut table) = open(folder, "tags", &["movieId", "tag"])?;
    let mut tags: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    while let Some(row) = table.next()? {
        if row.bad.is_none() && !row.get("tag").is_empty() {
            tags.entry(row.get("movieId").to_owned()).or_default().insert(row.get("tag").to_lowercase());
        }
    }
    for item in sink.items_mut() {
        item.tags.extend(tags.remove(&*item.id).into_iter().flatten());
    }
    Ok(())
}

/// The keys of a metadata line that are read; others are ignored.
#[derive(Deserialize)]
struct Metadata {
    #[serde(rename = "movieId")]
    movie_id: serde_json::Value,
    #[serde(default)]
    cast: Vec<String>,
    #[serde(default)]
    directors: Vec<String>,
    #[serde(default)]
    text: String,
}

fn metadata(path: &Path, sink: &mut Sink) -> Result<()> {
    let file = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let source = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut known = HashMap::new();
    for (index, line) in BufReader::new(source).split(b'\n').enumerate() {
        let line = line.with_context(|| format!("reading {}", path.display()))?;
        if line.trim_ascii().is_empty() {
            continue;
        }
        match serde_json::from_slice::<Metadata>(&line) {
            Ok(metadata) => {
                let id = metadata.movie_id.as_str().map_or_else(|| metadata.movie_id.to_string(), str::to_owned);
                known.insert(id, metadata);
            }
            Err(error) => {
                let place = Place { file: &file, line: index as u64 + 1 };
                let reason = crate::events::line::json_reason(&error);
                sink.refuse(What::Item, place, &reason, None, String::from_utf8_lossy(&line).into_owned())?;
            }
        }
    }
    let text_max_bytes = sink.limits().text_max_bytes;
    for item in sink.items_mut() {
        let Some(mut metadata) = known.remove(&*item.id) else { continue };
        // Wikipedia's infoboxes leave remarks such as "(voices)" among the names.
        item.cast = metadata.cast.into_iter().filter(|name| !name.is_empty() && !name.starts_with('(')).collect();
        item.directors = metadata.directors.into_iter().filter(|name| !name.is_empty()).collect();
        let end = metadata.text.floor_char_boundary(text_max_bytes);
        metadata.text.truncate(end);
        item.text = metadata.text;
    }
    Ok(())
}

fn ratings(folder: &Path, factor: f64, sink: &mut Sink) -> Result<()> {
    let (file, mut table) = open(folder, "ratings", &["userId", "movieId", "rating", "timestamp"])?;
    while let Some(row) = table.next()? {
        let place = Place { file: &file, line: row.line };
        if let Some(reason) = &row.bad {
            sink.refuse(What::Event, place, reason, None, row.text())?;
            continue;
        }
        let cells = [row.get("userId"), row.get("movieId"), row.get("rating"), row.get("timestamp")];
        match rating(cells) {
            Ok(mut draft) => {
                draft.value = draft.value.map(|value| value * factor);
                sink.event(place, draft, || row.text())?;
            }
            Err(reason) => {
                let user = Some(cells[0]).filter(|id| !id.is_empty()).map(crate::store::UserKey::user);
                sink.refuse(What::Event, place, reason, user, row.text())?;
            }
        }
    }
    Ok(())
}

/// user, item, rating, seconds since 1970. The event's id comes from the row, so that a second import finds it known.
pub(super) fn rating([user, item, rating, timestamp]: [&str; 4]) -> Result<EventDraft, &'static str> {
    // RecBole writes "881250949" or "881250949.0".
    let seconds = timestamp.parse::<f64>().ok().filter(|seconds| seconds.is_finite());
    let seconds = seconds.ok_or("timestamp: must be seconds since 1970")?;
    Ok(EventDraft {
        id: format!("ml:{user}:{item}:{timestamp}"),
        user_id: user.to_owned(),
        item_id: item.to_owned(),
        kind: "rating".to_owned(),
        value: Some(rating.parse().map_err(|_| "rating: must be a number")?),
        time_ms: Some((seconds * 1_000.0) as i128),
        ..EventDraft::default()
    })
}
