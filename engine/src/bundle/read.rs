//! Opening a bundle: everything is checked before anything is used.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::thread::ScopedJoinHandle;

use super::arrays::Arrays;
use super::files::{Files, Hashed};
use super::manifest::Manifest;
use super::{Base, Bundle, Content, Embedding, Error, Likes, MATRICES, Neighbours, OpenOptions, Users};
use crate::content::ContentModel;
use crate::index::{FrozenGraph, Index, Vectors};
use crate::rank::Ranker;
use crate::types::{Item, id_hash};
use crate::world::{
    Arrivals, Chunked, Day, DayCounts, Flags, Histogram, ItemRow, ItemStats, SURFACES_MAX, Terms, Totals,
};

/// Largest difference between a golden score and this build's that is still the same model.
const GOLDEN_TOLERANCE: f32 = 1e-5;

pub(super) fn open(folder: &Path, options: &OpenOptions) -> Result<Bundle, Error> {
    let manifest = Manifest::read(folder)?;
    let columns = crate::feature::columns();
    check_columns(&manifest.columns, columns)?;
    let files = Files::new(folder, &manifest.files)?;
    let items = manifest.counts.items;
    // On several processors side by side: a million items take many seconds.
    let (base, parts, matrices) = std::thread::scope(|scope| {
        let base = scope.spawn(|| catalogue(&files, items));
        let matrices = scope.spawn(|| matrices(&files, items));
        let parts = || {
            let mut graphs = files.arrays("graphs.safetensors", None)?;
            let mut graph = |name: &str, vectors| index(name, vectors, graphs.as_mut(), options);
            let embedding = embedding(&files, items, &mut graph)?;
            let users = users(&files, manifest.counts.users, items, &mut graph)?;
            let content = content(&files, items, &mut graph)?;
            Ok::<_, Error>((embedding, users, content, ranker(&files, &manifest, columns.len())?))
        };
        let parts = parts();
        (joined(base), parts, joined(matrices))
    });
    files.verify_all()?;
    // What is wrong with items is told first: the rest is counted by them.
    let (base, (embedding, users, content, ranker), matrices) = (base?, parts?, matrices?);
    Ok(Bundle { manifest, base, embedding, users, content, matrices, ranker, ef_search: options.ef_search })
}

/// What the thread gave; its panic is ours.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn catalogue(files: &Files<'_>, wanted: usize) -> Result<Base, Error> {
    let items = files.need("items.jsonl", items)?;
    if items.len() != wanted {
        let found = items.len();
        return Err(Error::format("items.jsonl", format!("{found} items, the manifest says {wanted}")));
    }
    base(files, &items)
}

fn check_columns(found: &[String], compiled: &[&str]) -> Result<(), Error> {
    if found.iter().map(String::as_str).eq(compiled.iter().copied()) {
        return Ok(());
    }
    let differ = found.iter().zip(compiled).position(|(found, compiled)| found != compiled);
    let why = match differ {
        Some(at) => format!("column {at} is {:?} in the bundle and {:?} in this build", found[at], compiled[at]),
        None => format!("{} in the bundle, {} in this build", found.len(), compiled.len()),
    };
    Err(Error::Columns(why))
}

fn items(file: &mut Hashed) -> Result<Vec<Arc<Item>>, Error> {
    let mut items = Vec::new();
    file.lines(|line, text| {
        let wrong = |error: serde_json::Error| Error::format("items.jsonl", format!("line {line}: {error}"));
        items.push(Arc::new(serde_json::from_slice::<Item>(text).map_err(wrong)?));
        Ok(())
    })?;
    Ok(items)
}

type Graph<'a> = dyn FnMut(&str, Vectors) -> Result<Index, Error> + 'a;

fn index(name: &str, vectors: Vectors, graphs: Option<&mut Arrays>, options: &OpenOptions) -> Result<Index, Error> {
    const FILE: &str = "graphs.safetensors";
    let wrong = |error: crate::index::Error| Error::format(FILE, format!("{name}: {error}"));
    let array = |part: &str| format!("{name}.{part}");
    let graphs = graphs.filter(|graphs| graphs.has(&array(FrozenGraph::ARRAYS[0])));
    let graph = match graphs {
        Some(graphs) => {
            let take = |part: &str| graphs.numbers::<u32>(&array(part)).ok().map(|(numbers, _)| numbers);
            Some(FrozenGraph::from_arrays(take).map_err(wrong)?)
        }
        None => None,
    };
    Index::new(vectors, graph, options.exact_below_items).map_err(wrong)
}

fn positive(arrays: &mut Arrays, file: &str, name: &str) -> Result<f32, Error> {
    let number = arrays.vector::<f32>(name, 1)?[0];
    let is_positive = number.is_finite() && number > 0.0;
    is_positive.then_some(number).ok_or_else(|| Error::format(file, format!("{name} is {number}, not positive")))
}

fn embedding(files: &Files<'_>, items: usize, graph: &mut Graph<'_>) -> Result<Option<Embedding>, Error> {
    const FILE: &str = "embedding.safetensors";
    let Some(mut arrays) = files.arrays(FILE, Some("items"))? else { return Ok(None) };
    let vectors = arrays.vectors("items", items)?;
    Ok(Some(Embedding {
        gram: super::gram(&vectors),
        index: graph("embedding", vectors)?,
        alpha: positive(&mut arrays, FILE, "alpha")?,
        regularization: positive(&mut arrays, FILE, "regularization")?,
    }))
}

fn users(files: &Files<'_>, users: usize, items: usize, graph: &mut Graph<'_>) -> Result<Option<Users>, Error> {
    const FILE: &str = "users.safetensors";
    let Some(mut arrays) = files.arrays(FILE, Some("vectors"))? else { return Ok(None) };
    let hashes: Vec<u64> = arrays.vector("hashes", users)?;
    let by_hash = hashes.iter().copied().zip(0..).collect();
    let index = graph("users", arrays.vectors("vectors", users)?)?;
    Ok(Some(Users { index, hashes, by_hash, likes: Likes::read(&mut arrays, "likes.", users, items)? }))
}

fn content(files: &Files<'_>, items: usize, graph: &mut Graph<'_>) -> Result<Option<Content>, Error> {
    const FILE: &str = "content.safetensors";
    let Some(mut arrays) = files.arrays(FILE, Some("items"))? else { return Ok(None) };
    let vocabulary = vocabulary(&files.need("vocabulary.jsonl", Hashed::all)?)?;
    let idf = arrays.vector("idf", vocabulary.len())?;
    let (projection, _) = arrays.matrix("projection", vocabulary.len())?;
    let model = content_model(FILE, vocabulary, idf, projection)?;
    let index = graph("content", arrays.vectors("items", items)?)?;
    if index.dims() != model.dims() {
        return Err(Error::format(FILE, "items and projection have different numbers of columns"));
    }
    Ok(Some(Content { index, model }))
}

pub(super) fn content_model(
    file: &str,
    vocabulary: Vec<String>,
    idf: Vec<f32>,
    projection: Vec<f32>,
) -> Result<ContentModel, Error> {
    ContentModel::new(vocabulary, idf, projection).map_err(|why| Error::format(file, why))
}

pub(super) fn vocabulary(bytes: &[u8]) -> Result<Vec<String>, Error> {
    let wrong = |error: serde_json::Error| Error::format("vocabulary.jsonl", error.to_string());
    serde_json::Deserializer::from_slice(bytes).into_iter::<String>().collect::<Result<_, _>>().map_err(wrong)
}

fn matrices(files: &Files<'_>, items: usize) -> Result<HashMap<&'static str, Neighbours>, Error> {
    let Some(mut arrays) = files.arrays("matrices.safetensors", None)? else { return Ok(HashMap::new()) };
    let mut matrices = HashMap::new();
    for name in MATRICES {
        if arrays.has(&format!("{name}.offsets")) {
            matrices.insert(name, Neighbours::read(&mut arrays, &format!("{name}."), items, items)?);
        }
    }
    Ok(matrices)
}

fn ranker(files: &Files<'_>, manifest: &Manifest, columns: usize) -> Result<Option<Ranker>, Error> {
    let Some(bytes) = files.read("ranker.onnx", Hashed::all)? else { return Ok(None) };
    let ranker = Ranker::from_onnx(&bytes, columns)?;
    let heads = ranker.heads();
    let signed = manifest.ranker.as_ref().is_some_and(|signed| signed.columns == columns && signed.heads == heads);
    if !signed {
        return Err(Error::format("ranker.onnx", format!("heads {heads:?} are not those of the manifest")));
    }
    let golden = files.arrays("golden.safetensors", None)?;
    let mut golden = golden.ok_or_else(|| Error::format("golden.safetensors", "a ranker needs golden rows"))?;
    check_golden(&ranker, &mut golden, columns)?;
    Ok(Some(ranker))
}

/// Runs the golden rows through the ranker; this also warms it up.
pub(super) fn check_golden(ranker: &Ranker, golden: &mut Arrays, columns: usize) -> Result<(), Error> {
    const FILE: &str = "golden.safetensors";
    let (features, shape) = golden.numbers::<f32>("features")?;
    let rows = match shape[..] {
        [rows, found] if found == columns && rows > 0 => rows,
        _ => return Err(Error::format(FILE, format!("features have shape {shape:?}; columns are {columns}"))),
    };
    let (wanted, width) = golden.matrix::<f32>("scores", rows)?;
    let mut found = Vec::new();
    ranker.score(&features, rows, &mut found)?;
    if width != ranker.heads().len() {
        return Err(Error::format(FILE, "another number of heads than the ranker"));
    }
    for (at, (&found, &wanted)) in found.iter().zip(&wanted).enumerate() {
        let near = (found - wanted).abs() <= GOLDEN_TOLERANCE * wanted.abs().max(1.0);
        if !near {
            return Err(Error::Golden { row: at / width, found, wanted });
        }
    }
    Ok(())
}

fn base(files: &Files<'_>, items: &[Arc<Item>]) -> Result<Base, Error> {
    let (stats, surfaces) = stats(files, items.len())?;
    let mut terms = Terms::default();
    let rows: Chunked<Option<Arc<ItemRow>>> =
        items.iter().map(|item| Some(Arc::new(terms.row(item.clone(), None)))).collect();
    let ids = items.iter().map(|item| item.id.clone()).zip(0..).collect::<rustc_hash::FxHashMap<_, _>>();
    if ids.len() != items.len() || items.iter().any(|item| item.id.is_empty()) {
        return Err(Error::format("items.jsonl", "an id is empty or stands twice"));
    }
    let arrived = |(row, item): (u32, &Arc<Item>)| {
        let stats = &stats[row as usize];
        let first = (stats.events > 0).then_some(stats.first_ms);
        Some((item.created_ms.or(first)?, row))
    };
    let interacted = || stats.iter().filter(|stats| stats.events > 0);
    Ok(Base {
        totals: Totals::of(&stats),
        events_max: interacted().map(|stats| stats.events).max().unwrap_or(0),
        newest_ms: interacted().map(|stats| stats.last_ms).max().unwrap_or(0),
        histogram: Arc::new(Histogram::of(stats.iter().map(|stats| stats.events))),
        arrivals: Arrivals::new((0..).zip(items).filter_map(arrived).collect()),
        flags: items.iter().map(|item| Flags::of(item, false)).collect(),
        stats: stats.into_iter().collect(),
        items: rows,
        ids: Arc::new(ids),
        surfaces: Arc::new(surfaces),
        terms,
    })
}

type Stats = (Vec<ItemStats>, Vec<Arc<str>>);

fn stats(files: &Files<'_>, items: usize) -> Result<Stats, Error> {
    const FILE: &str = "stats.safetensors";
    let mut arrays = files.arrays(FILE, None)?.ok_or_else(|| Error::format(FILE, "the bundle has no such file"))?;
    let [events, positives, negatives, ratings] =
        ["events", "positives", "negatives", "ratings"].map(|name| arrays.vector::<u32>(name, items));
    let (events, positives, negatives, ratings) = (events?, positives?, negatives?, ratings?);
    let [sums, first, last] = ["rating_sum_centi", "first_ms", "last_ms"].map(|name| arrays.vector::<i64>(name, items));
    let (sums, first, last) = (sums?, first?, last?);
    let surfaces: Vec<Arc<str>> =
        serde_json::from_str(arrays.text("surfaces")?).map_err(|error| Error::format(FILE, error.to_string()))?;
    if surfaces.len() > SURFACES_MAX {
        return Err(Error::format(FILE, format!("{} surfaces, at most {SURFACES_MAX}", surfaces.len())));
    }
    let mut table = DayTable::read(&mut arrays, items, surfaces.len())?;
    let stats = (0..items).map(|row| {
        let mut days = table.of_item(row);
        let has_all = days.first().is_some_and(|(surface, _)| *surface == 0);
        let all = if has_all { days.remove(0).1 } else { DayCounts::default() };
        ItemStats {
            events: events[row],
            positives: positives[row],
            negatives: negatives[row],
            ratings: ratings[row],
            rating_sum_centi: sums[row],
            first_ms: first[row],
            last_ms: last[row],
            days: all,
            // Of a million items, so without room for more.
            surfaces: days.into_iter().map(|(surface, days)| (surface - 1, days)).collect::<Box<[_]>>().into_vec(),
        }
    });
    Ok((stats.collect(), surfaces))
}

/// Days of items, ascending by item, surface and day.
struct DayTable {
    items: Vec<u32>,
    /// 0 for all surfaces, or the surface's number + 1.
    surfaces: Vec<u16>,
    days: Vec<i32>,
    events: Vec<u32>,
    positives: Vec<u32>,
    /// What was given already.
    until: usize,
}

impl DayTable {
    fn read(arrays: &mut Arrays, items_len: usize, surfaces_len: usize) -> Result<DayTable, Error> {
        let (items, _) = arrays.numbers::<u32>("days.item")?;
        let len = items.len();
        let surfaces = arrays.vector::<u16>("days.surface", len)?;
        let days = arrays.vector::<i32>("days.day", len)?;
        let key = |at: usize| (items[at], surfaces[at], days[at]);
        let is_sorted = (1..len).all(|at| key(at - 1) < key(at));
        let exist = items.iter().all(|&item| (item as usize) < items_len)
            && surfaces.iter().all(|&surface| usize::from(surface) <= surfaces_len);
        if !is_sorted || !exist {
            return Err(Error::format("stats.safetensors", "days are not in order, or point to what does not exist"));
        }
        let (events, positives) = (arrays.vector("days.events", len)?, arrays.vector("days.positives", len)?);
        Ok(DayTable { items, surfaces, days, events, positives, until: 0 })
    }

    /// Those of the next item, by surface; items are to be asked for in order.
    fn of_item(&mut self, item: usize) -> Vec<(u16, DayCounts)> {
        let from = self.until;
        let of_item = self.items[from..].iter().take_while(|&&found| found as usize == item).count();
        let mut found = Vec::new();
        for same in self.surfaces[from..from + of_item].chunk_by(|a, b| a == b) {
            let rows = self.until..self.until + same.len();
            self.until = rows.end;
            let day = |at: usize| Day { day: self.days[at], events: self.events[at], positives: self.positives[at] };
            found.push((same[0], DayCounts::from_days(rows.map(day).collect())));
        }
        found
    }
}

/// [`Users`] are found by this number: no id of a user is in a bundle.
pub(super) fn user_hash(key: &str) -> u64 {
    id_hash(key)
}
