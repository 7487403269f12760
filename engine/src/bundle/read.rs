//! Opening a bundle: everything is checked before anything is used.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::ScopedJoinHandle;

use super::arrays::Arrays;
use super::manifest::{FileEntry, Manifest, sha256_hex};
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
    let files = Files::read(folder, &manifest.files)?;
    let items = manifest.counts.items;
    // On several processors side by side: a million items take many seconds.
    let (base, parts, matrices) = std::thread::scope(|scope| {
        let base = scope.spawn(|| catalogue(&files, items));
        let matrices = scope.spawn(|| matrices(&files, items));
        let parts = || {
            let graphs = files.arrays("graphs.safetensors")?;
            let graph = |name: &str, vectors| index(name, vectors, graphs.as_ref(), options);
            let embedding = embedding(&files, items, &graph)?;
            let users = users(&files, manifest.counts.users, items, &graph)?;
            let content = content(&files, items, &graph)?;
            Ok::<_, Error>((embedding, users, content, ranker(&files, &manifest, columns.len())?))
        };
        let parts = parts();
        (joined(base), parts, joined(matrices))
    });
    // What is wrong with items is told first: the rest is counted by them.
    let (base, (embedding, users, content, ranker), matrices) = (base?, parts?, matrices?);
    Ok(Bundle { manifest, base, embedding, users, content, matrices, ranker, ef_search: options.ef_search })
}

/// What the thread gave; its panic is ours.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn catalogue(files: &Files, wanted: usize) -> Result<Base, Error> {
    let items = items(files.need("items.jsonl")?)?;
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

/// The verified bytes of all files.
struct Files(BTreeMap<String, Vec<u8>>);

impl Files {
    /// Reads and verifies them, the largest first, as many at once as there are processors.
    fn read(folder: &Path, entries: &BTreeMap<String, FileEntry>) -> Result<Files, Error> {
        let mut largest_first: Vec<_> = entries.iter().collect();
        largest_first.sort_by_key(|(_, entry)| Reverse(entry.bytes));
        let next = AtomicUsize::new(0);
        let some = || {
            let mut read = Vec::new();
            while let Some((name, entry)) = largest_first.get(next.fetch_add(1, Ordering::Relaxed)) {
                read.push(((*name).clone(), file(folder, name, entry)));
            }
            read
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(entries.len());
        let read = std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(some)).collect();
            let own = some();
            others.into_iter().flat_map(joined).chain(own).collect::<BTreeMap<_, _>>()
        });
        // In order of names, so that of several errors it is always the same one.
        let files = read.into_iter().map(|(name, bytes)| Ok((name, bytes?)));
        files.collect::<Result<_, _>>().map(Files)
    }

    fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(Vec::as_slice)
    }

    fn need(&self, name: &str) -> Result<&[u8], Error> {
        self.get(name).ok_or_else(|| Error::format(name, "the bundle has no such file"))
    }

    fn arrays<'a>(&'a self, name: &'a str) -> Result<Option<Arrays<'a>>, Error> {
        self.get(name).map(|bytes| Arrays::parse(name, bytes)).transpose()
    }
}

/// The bytes of a file that is as its entry says.
fn file(folder: &Path, name: &str, entry: &FileEntry) -> Result<Vec<u8>, Error> {
    if Path::new(name).components().count() != 1 || name.contains("..") {
        return Err(Error::format(name, "a file's name may not be a path"));
    }
    let path = folder.join(name);
    let bytes = std::fs::read(&path).map_err(|error| Error::read(&path, &error))?;
    if bytes.len() as u64 != entry.bytes {
        return Err(Error::Size { file: name.to_owned(), found: bytes.len() as u64, wanted: entry.bytes });
    }
    if sha256_hex(&bytes) != entry.sha256 {
        return Err(Error::Checksum { file: name.to_owned() });
    }
    Ok(bytes)
}

pub(super) fn items(bytes: &[u8]) -> Result<Vec<Arc<Item>>, Error> {
    let text = std::str::from_utf8(bytes).map_err(|error| Error::format("items.jsonl", error.to_string()))?;
    let parse = |(line, text): (usize, &str)| {
        let wrong = |error: serde_json::Error| Error::format("items.jsonl", format!("line {}: {error}", line + 1));
        serde_json::from_str::<Item>(text).map(Arc::new).map_err(wrong)
    };
    text.lines().enumerate().map(parse).collect()
}

type Graph<'a> = dyn Fn(&str, Vectors) -> Result<Index, Error> + 'a;

fn index(name: &str, vectors: Vectors, graphs: Option<&Arrays<'_>>, options: &OpenOptions) -> Result<Index, Error> {
    let wrong = |error: crate::index::Error| Error::format("graphs.safetensors", format!("{name}: {error}"));
    let array = |part: &str| graphs.and_then(|graphs| graphs.numbers::<u32>(&format!("{name}.{part}")).ok());
    let has_graph = array(FrozenGraph::ARRAYS[0]).is_some();
    let graph = has_graph.then(|| FrozenGraph::from_arrays(|part| Some(array(part)?.0))).transpose().map_err(wrong)?;
    Index::new(vectors, graph, options.exact_below_items).map_err(wrong)
}

pub(super) fn vectors(arrays: &Arrays<'_>, file: &str, name: &str, rows: usize) -> Result<Vectors, Error> {
    let (numbers, dims) = arrays.matrix(name, rows)?;
    Vectors::from_rows(&numbers, dims).map_err(|error| Error::format(file, error.to_string()))
}

fn positive(arrays: &Arrays<'_>, file: &str, name: &str) -> Result<f32, Error> {
    let number = arrays.vector::<f32>(name, 1)?[0];
    let is_positive = number.is_finite() && number > 0.0;
    is_positive.then_some(number).ok_or_else(|| Error::format(file, format!("{name} is {number}, not positive")))
}

fn embedding(files: &Files, items: usize, graph: &Graph<'_>) -> Result<Option<Embedding>, Error> {
    const FILE: &str = "embedding.safetensors";
    let Some(arrays) = files.arrays(FILE)? else { return Ok(None) };
    let vectors = vectors(&arrays, FILE, "items", items)?;
    Ok(Some(Embedding {
        gram: super::gram(&vectors),
        index: graph("embedding", vectors)?,
        alpha: positive(&arrays, FILE, "alpha")?,
        regularization: positive(&arrays, FILE, "regularization")?,
    }))
}

fn users(files: &Files, users: usize, items: usize, graph: &Graph<'_>) -> Result<Option<Users>, Error> {
    const FILE: &str = "users.safetensors";
    let Some(arrays) = files.arrays(FILE)? else { return Ok(None) };
    let hashes: Vec<u64> = arrays.vector("hashes", users)?;
    let by_hash = hashes.iter().copied().zip(0..).collect();
    let index = graph("users", vectors(&arrays, FILE, "vectors", users)?)?;
    Ok(Some(Users { index, hashes, by_hash, likes: Likes::read(&arrays, "likes.", users, items)? }))
}

fn content(files: &Files, items: usize, graph: &Graph<'_>) -> Result<Option<Content>, Error> {
    const FILE: &str = "content.safetensors";
    let Some(arrays) = files.arrays(FILE)? else { return Ok(None) };
    let vocabulary = vocabulary(files.need("vocabulary.jsonl")?)?;
    let model = content_model(&arrays, FILE, &vocabulary)?;
    let index = graph("content", vectors(&arrays, FILE, "items", items)?)?;
    if index.dims() != model.dims() {
        return Err(Error::format(FILE, "items and projection have different numbers of columns"));
    }
    Ok(Some(Content { index, model }))
}

pub(super) fn content_model(arrays: &Arrays<'_>, file: &str, vocabulary: &[String]) -> Result<ContentModel, Error> {
    let idf = arrays.vector("idf", vocabulary.len())?;
    let (projection, _) = arrays.matrix("projection", vocabulary.len())?;
    ContentModel::new(vocabulary, idf, projection).map_err(|why| Error::format(file, why))
}

pub(super) fn vocabulary(bytes: &[u8]) -> Result<Vec<String>, Error> {
    let wrong = |error: serde_json::Error| Error::format("vocabulary.jsonl", error.to_string());
    serde_json::Deserializer::from_slice(bytes).into_iter::<String>().collect::<Result<_, _>>().map_err(wrong)
}

fn matrices(files: &Files, items: usize) -> Result<HashMap<&'static str, Neighbours>, Error> {
    let Some(arrays) = files.arrays("matrices.safetensors")? else { return Ok(HashMap::new()) };
    let present = MATRICES.into_iter().filter(|name| arrays.has(&format!("{name}.offsets")));
    present.map(|name| Ok((name, Neighbours::read(&arrays, &format!("{name}."), items, items)?))).collect()
}

fn ranker(files: &Files, manifest: &Manifest, columns: usize) -> Result<Option<Ranker>, Error> {
    let Some(bytes) = files.get("ranker.onnx") else { return Ok(None) };
    let ranker = Ranker::from_onnx(bytes, columns)?;
    let heads = ranker.heads();
    let signed = manifest.ranker.as_ref().is_some_and(|signed| signed.columns == columns && signed.heads == heads);
    if !signed {
        return Err(Error::format("ranker.onnx", format!("heads {heads:?} are not those of the manifest")));
    }
    let golden = files.arrays("golden.safetensors")?;
    let golden = golden.ok_or_else(|| Error::format("golden.safetensors", "a ranker needs golden rows"))?;
    check_golden(&ranker, &golden, columns)?;
    Ok(Some(ranker))
}

/// Runs the golden rows through the ranker; this also warms it up.
pub(super) fn check_golden(ranker: &Ranker, golden: &Arrays<'_>, columns: usize) -> Result<(), Error> {
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

fn base(files: &Files, items: &[Arc<Item>]) -> Result<Base, Error> {
    let stats = stats(&files.arrays("stats.safetensors")?, items.len())?;
    let (stats, surfaces) = stats;
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

fn stats(arrays: &Option<Arrays<'_>>, items: usize) -> Result<Stats, Error> {
    const FILE: &str = "stats.safetensors";
    let arrays = arrays.as_ref().ok_or_else(|| Error::format(FILE, "the bundle has no such file"))?;
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
    let mut days: Vec<BTreeMap<u16, Vec<Day>>> = vec![BTreeMap::new(); items];
    for entry in day_table(arrays, items, surfaces.len())? {
        days[entry.0].entry(entry.1).or_default().push(entry.2);
    }
    let stats = days.into_iter().enumerate().map(|(row, mut days)| ItemStats {
        events: events[row],
        positives: positives[row],
        negatives: negatives[row],
        ratings: ratings[row],
        rating_sum_centi: sums[row],
        first_ms: first[row],
        last_ms: last[row],
        days: DayCounts::from_days(days.remove(&0).unwrap_or_default()),
        surfaces: days.into_iter().map(|(surface, days)| (surface - 1, DayCounts::from_days(days))).collect(),
    });
    Ok((stats.collect(), surfaces))
}

/// (item, 0 for all surfaces or surface number + 1, day), ascending.
fn day_table(arrays: &Arrays<'_>, items: usize, surfaces: usize) -> Result<Vec<(usize, u16, Day)>, Error> {
    let (item, _) = arrays.numbers::<u32>("days.item")?;
    let len = item.len();
    let surface = arrays.vector::<u16>("days.surface", len)?;
    let day = arrays.vector::<i32>("days.day", len)?;
    let (events, positives) = (arrays.vector("days.events", len)?, arrays.vector("days.positives", len)?);
    let key = |at: usize| (item[at], surface[at], day[at]);
    let sorted = (1..len).all(|at| key(at - 1) < key(at));
    if !sorted || item.iter().any(|&item| item as usize >= items) || surface.iter().any(|&s| usize::from(s) > surfaces)
    {
        return Err(Error::format("stats.safetensors", "days are not in order, or point to what does not exist"));
    }
    let row = |at: usize| {
        (item[at] as usize, surface[at], Day { day: day[at], events: events[at], positives: positives[at] })
    };
    Ok((0..len).map(row).collect())
}

/// [`Users`] are found by this number: no id of a user is in a bundle.
pub(super) fn user_hash(key: &str) -> u64 {
    id_hash(key)
}
