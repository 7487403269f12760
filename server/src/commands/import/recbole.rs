//! MovieLens 100K as RecBole ships it, read inside the wheel: .inter, .item, .user, and .kg/.link for people.
//!
//! Of the knowledge graph only cast, directors, writers and countries are taken, as opaque ids: features, never shown.
//! Awards, sequels and the like are left out: they were not known when the ratings were given.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use marquee_engine::types::Item;

use super::movielens::{rating, title_and_year};
use super::sink::{Place, Sink, What};
use super::table::{Delimited, Table};
use crate::store::{User, UserKey};

/// A file of the data set is no larger than this, unpacked.
const FILE_MAX_BYTES: u64 = 256 * 1024 * 1024;

const NAME: &str = "ml-100k";

/// Relations that are taken; the film is their head.
const CAST: &str = "film.film.actor";
const DIRECTORS: &str = "film.film.directed_by";
const WRITERS: &str = "film.film.written_by";
const COUNTRIES: &str = "film.film.country";

pub(super) fn read(paths: &[PathBuf], sink: &mut Sink) -> Result<()> {
    for path in paths {
        let mut files = if path.is_dir() {
            Files::Folder(path.clone())
        } else {
            let wheel = File::open(path).with_context(|| format!("opening {}", path.display()))?;
            let zip = zip::ZipArchive::new(BufReader::new(wheel));
            Files::Wheel(Box::new(zip.with_context(|| format!("reading {} as a zip file", path.display()))?))
        };
        let links = links(&mut files)?;
        let people = people(&mut files, &links)?;
        items(&mut files, &people, sink)?;
        users(&mut files, sink)?;
        ratings(&mut files, sink)?;
    }
    Ok(())
}

enum Files {
    Folder(PathBuf),
    Wheel(Box<zip::ZipArchive<BufReader<File>>>),
}

impl Files {
    /// The bytes of `ml-100k.SUFFIX`; `None` when there is no such file.
    fn bytes(&mut self, suffix: &str) -> Result<Option<Vec<u8>>> {
        let name = format!("{NAME}.{suffix}");
        match self {
            Files::Folder(folder) => {
                let path = folder.join(&name);
                if !path.exists() {
                    return Ok(None);
                }
                let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
                bounded(file, &path.display().to_string()).map(Some)
            }
            Files::Wheel(zip) => {
                let inside = format!("/{NAME}/{name}");
                let Some(entry) =
                    zip.file_names().flatten().find(|entry| entry.ends_with(&inside)).map(Cow::into_owned)
                else {
                    return Ok(None);
                };
                let file = zip.by_name(&entry).with_context(|| format!("reading {entry} in the wheel"))?;
                bounded(file, &entry).map(Some)
            }
        }
    }

    /// A table of it, its header's "name:type" cut to the name.
    fn table(&mut self, suffix: &str, columns: &[&str]) -> Result<Table<std::io::Cursor<Vec<u8>>>> {
        let bytes = self.bytes(suffix)?.with_context(|| format!("there is no {NAME}.{suffix}"))?;
        let table = Table::open(std::io::Cursor::new(bytes), Delimited::Tab, |cell| {
            cell.split_once(':').map_or(cell, |(name, _)| name)
        })?;
        table.need(columns).with_context(|| format!("reading {NAME}.{suffix}"))?;
        Ok(table)
    }
}

fn bounded(source: impl Read, name: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = source.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes).with_context(|| format!("reading {name}"))?;
    if read as u64 > FILE_MAX_BYTES {
        bail!("{name} is larger than {FILE_MAX_BYTES} bytes");
    }
    Ok(bytes)
}

/// From an entity of the knowledge graph to the item that it is. Empty when the graph does not come along.
fn links(files: &mut Files) -> Result<HashMap<String, String>> {
    let mut links = HashMap::new();
    if files.bytes("link")?.is_none() {
        return Ok(links);
    }
    let mut table = files.table("link", &["item_id", "entity_id"])?;
    while let Some(row) = table.next()? {
        links.insert(row.get("entity_id").to_owned(), row.get("item_id").to_owned());
    }
    Ok(links)
}

/// Cast, directors, writers and countries of an item.
#[derive(Default, Clone)]
struct People([Vec<String>; 4]);

fn people(files: &mut Files, links: &HashMap<String, String>) -> Result<HashMap<String, People>> {
    let mut people: HashMap<String, People> = HashMap::new();
    if links.is_empty() || files.bytes("kg")?.is_none() {
        return Ok(people);
    }
    let mut table = files.table("kg", &["head_id", "relation_id", "tail_id"])?;
    while let Some(row) = table.next()? {
        let relation = row.get("relation_id");
        let Some(place) = [CAST, DIRECTORS, WRITERS, COUNTRIES].iter().position(|known| *known == relation) else {
            continue;
        };
        if let Some(item) = links.get(row.get("head_id")) {
            people.entry(item.clone()).or_default().0[place].push(row.get("tail_id").to_owned());
        }
    }
    for People(lists) in people.values_mut() {
        for list in lists {
            // The graph has no billing order: any fixed one will do.
            list.sort();
            list.dedup();
        }
    }
    Ok(people)
}

fn items(files: &mut Files, people: &HashMap<String, People>, sink: &mut Sink) -> Result<()> {
    let mut table = files.table("item", &["item_id", "movie_title", "release_year", "class"])?;
    while let Some(row) = table.next()? {
        let place = Place { file: "ml-100k.item", line: row.line };
        if let Some(reason) = &row.bad {
            sink.refuse(What::Item, place, reason, None, row.text())?;
            continue;
        }
        let (title, year_in_title) = title_and_year(row.get("movie_title"));
        let year = row.get("release_year").parse().ok().filter(|year| (1..=9999).contains(year)).or(year_in_title);
        let genres = row.get("class").split_whitespace().filter(|genre| *genre != "unknown");
        let People([cast, directors, writers, countries]) = people.get(row.get("item_id")).cloned().unwrap_or_default();
        let others = [("writers", writers), ("countries", countries)].into_iter();
        let others = others.filter(|(_, values)| !values.is_empty()).map(|(name, values)| (name, values.into()));
        let item = Item {
            id: row.get("item_id").into(),
            title: title.to_owned(),
            year,
            genres: genres.map(str::to_owned).collect(),
            cast,
            directors,
            attributes: others.collect(),
            ..Item::default()
        };
        sink.item(place, item, || row.text())?;
    }
    Ok(())
}

/// Every column but the id becomes an attribute.
fn users(files: &mut Files, sink: &mut Sink) -> Result<()> {
    if files.bytes("user")?.is_none() {
        return Ok(());
    }
    let mut table = files.table("user", &["user_id"])?;
    let columns: Vec<String> = table.names().iter().filter(|name| *name != "user_id").cloned().collect();
    while let Some(row) = table.next()? {
        let place = Place { file: "ml-100k.user", line: row.line };
        if let Some(reason) = &row.bad {
            sink.refuse(What::User, place, reason, None, row.text())?;
            continue;
        }
        let attribute = |name: &String| {
            let value = row.get(name);
            (!value.is_empty()).then(|| (name.clone(), value.into()))
        };
        let user =
            User { id: row.get("user_id").to_owned(), attributes: columns.iter().filter_map(attribute).collect() };
        sink.user(place, user, || row.text())?;
    }
    Ok(())
}

fn ratings(files: &mut Files, sink: &mut Sink) -> Result<()> {
    let mut table = files.table("inter", &["user_id", "item_id", "rating", "timestamp"])?;
    while let Some(row) = table.next()? {
        let place = Place { file: "ml-100k.inter", line: row.line };
        if let Some(reason) = &row.bad {
            sink.refuse(What::Event, place, reason, None, row.text())?;
            continue;
        }
        let cells = [row.get("user_id"), row.get("item_id"), row.get("rating"), row.get("timestamp")];
        match rating(cells) {
            Ok(draft) => sink.event(place, draft, || row.text())?,
            Err(reason) => sink.refuse(What::Event, place, reason, Some(UserKey::user(cells[0])), row.text())?,
        }
    }
    Ok(())
}
