//! Writing a bundle: from items, statistics and trained arrays to a sealed folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::arrays::{Arrays, ArraysWriter};
use super::manifest::{Counts, FORMAT_VERSION, FileEntry, MANIFEST_FILE, Manifest, Signature};
use super::read::{check_golden, content_model, user_hash, vocabulary};
use super::{Bundle, Error, Likes, MATRICES, Neighbours, OpenOptions};
use crate::index::{BuildParams, Vectors, build};
use crate::rank::Ranker;
use crate::types::{Item, Seq, TimeMs};
use crate::world::{DayCounts, ItemStats};

/// What a bundle is made of. The trained files are those of the models folder that the pipeline writes.
#[derive(Debug)]
pub struct Parts<'a> {
    /// Its name; unique, sorts by creation; letters, digits, `-`, `_` and `.` only.
    pub version: String,
    /// When it is built.
    pub created_ms: TimeMs,
    /// Log position up to which items and statistics go.
    pub watermark: Seq,
    /// The cut of a backtest.
    pub until_ms: Option<TimeMs>,
    /// The bundle that it replaces.
    pub parent: Option<String>,
    /// Items; their order is the order of rows in all arrays.
    pub items: &'a [Arc<Item>],
    /// Statistics by row.
    pub stats: &'a [ItemStats],
    /// Surfaces by number.
    pub surfaces: &'a [Arc<str>],
    /// Keys of users; their order is the order of rows of `embedding.safetensors: users` and `likes.safetensors`.
    pub users: &'a [String],
    /// Trained arrays and the model.
    pub files: ArrayFiles,
    /// Metrics of its evaluation.
    pub metrics: BTreeMap<String, f64>,
    /// Why there is no ranker, when there is none.
    pub no_ranker_because: Option<String>,
    /// How graphs are built.
    pub graph: BuildParams,
}

/// Where the trained files lie.
#[derive(Debug, Clone)]
pub struct ArrayFiles {
    /// Folder of `embedding.safetensors`, `likes.safetensors`, `content.safetensors`, the matrices of
    /// [`MATRICES`], `ranker.onnx`, `golden.safetensors`, `card.md`, `training.json`. Each may be missing.
    pub models: PathBuf,
    /// The `vocabulary.jsonl` that the content arrays were fitted on.
    pub vocabulary: PathBuf,
}

/// Writes the bundle as `folder/VERSION`, opens it to prove that it is sound, and gives its manifest.
///
/// The folder appears under its name only when it is complete. `progress` hears what is being done.
///
/// # Errors
/// A trained file that does not fit, or a file that cannot be written.
pub fn write(folder: &Path, parts: &Parts<'_>, mut progress: impl FnMut(&str)) -> Result<Manifest, Error> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if parts.version.is_empty() || !parts.version.chars().all(legal) || parts.version.starts_with('.') {
        return Err(Error::format("version", format!("{:?} has other than letters, digits, - _ .", parts.version)));
    }
    let target = folder.join(&parts.version);
    if target.exists() {
        return Err(Error::format(&target.display().to_string(), "there is a bundle of that version already"));
    }
    let draft = Draft { folder: folder.join(format!(".{}.draft", parts.version)), parts };
    let _ = fs::remove_dir_all(&draft.folder);
    fs::create_dir_all(&draft.folder).map_err(|error| Error::read(&draft.folder, &error))?;
    let manifest = draft.fill(&mut progress)?;
    progress("checking the bundle");
    Bundle::open(&draft.folder, &OpenOptions::default())?;
    fs::rename(&draft.folder, &target).map_err(|error| Error::read(&target, &error))?;
    Ok(manifest)
}

struct Draft<'a> {
    folder: PathBuf,
    parts: &'a Parts<'a>,
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Draft<'_> {
    fn fill(&self, progress: &mut impl FnMut(&str)) -> Result<Manifest, Error> {
        let parts = self.parts;
        let items = parts.items.len();
        self.write_items()?;
        self.write_stats()?;
        let mut graphs = ArraysWriter::default();
        let mut grow = |name: &str, vectors: &Vectors| -> Result<(), Error> {
            progress(&format!("building the {name} graph over {} vectors", vectors.len()));
            let wrong = |error: crate::index::Error| Error::format(name, error.to_string());
            let graph = build(vectors, &parts.graph, |_| {}).map_err(wrong)?;
            for (part, numbers) in graph.arrays() {
                graphs.add(&format!("{name}.{part}"), &[numbers.len()], numbers);
            }
            Ok(())
        };
        let users = self.write_embedding(items, &mut grow)?;
        self.write_content(&mut grow)?;
        self.write_matrices(items)?;
        graphs.write(&self.folder.join("graphs.safetensors"))?;
        let ranker = self.copy_ranker()?;
        for name in ["card.md", "training.json"] {
            if let Some(bytes) = self.trained(name)? {
                self.put(name, &bytes)?;
            }
        }
        let mut manifest = Manifest {
            format_version: FORMAT_VERSION,
            version: parts.version.clone(),
            created_ms: parts.created_ms,
            watermark: parts.watermark,
            until_ms: parts.until_ms,
            parent: parts.parent.clone(),
            counts: Counts { items, users, events: parts.stats.iter().map(|stats| u64::from(stats.events)).sum() },
            columns: crate::feature::columns().iter().map(|&column| column.to_owned()).collect(),
            no_ranker_because: if ranker.is_some() { None } else { parts.no_ranker_because.clone() },
            ranker,
            metrics: parts.metrics.clone(),
            files: self.entries()?,
            digest: String::new(),
        };
        let text = manifest.seal();
        self.put(MANIFEST_FILE, text.as_bytes())?;
        Ok(manifest)
    }

    fn write_items(&self) -> Result<(), Error> {
        let mut text = String::new();
        for item in self.parts.items {
            text.push_str(&serde_json::to_string(item).expect("an item is plain data"));
            text.push('\n');
        }
        self.put("items.jsonl", text.as_bytes())
    }

    fn write_stats(&self) -> Result<(), Error> {
        let stats = self.parts.stats;
        let mut writer = ArraysWriter::default();
        let count = |pick: fn(&ItemStats) -> u32| stats.iter().map(pick).collect::<Vec<u32>>();
        let time = |pick: fn(&ItemStats) -> i64| stats.iter().map(pick).collect::<Vec<i64>>();
        let len = [stats.len()];
        writer
            .add("events", &len, &count(|stats| stats.events))
            .add("positives", &len, &count(|stats| stats.positives))
            .add("negatives", &len, &count(|stats| stats.negatives))
            .add("ratings", &len, &count(|stats| stats.ratings))
            .add("rating_sum_centi", &len, &time(|stats| stats.rating_sum_centi))
            .add("first_ms", &len, &time(|stats| stats.first_ms))
            .add("last_ms", &len, &time(|stats| stats.last_ms));
        let mut table: Vec<(u32, u16, i32, u32, u32)> = Vec::new();
        for (row, stats) in (0_u32..).zip(stats) {
            let mut add = |surface: u16, counts: &DayCounts| {
                table.extend(counts.days().iter().map(|day| (row, surface, day.day, day.events, day.positives)));
            };
            add(0, &stats.days);
            stats.surfaces.iter().for_each(|(surface, counts)| add(surface + 1, counts));
        }
        let len = [table.len()];
        writer
            .add("days.item", &len, &table.iter().map(|day| day.0).collect::<Vec<_>>())
            .add("days.surface", &len, &table.iter().map(|day| day.1).collect::<Vec<_>>())
            .add("days.day", &len, &table.iter().map(|day| day.2).collect::<Vec<_>>())
            .add("days.events", &len, &table.iter().map(|day| day.3).collect::<Vec<_>>())
            .add("days.positives", &len, &table.iter().map(|day| day.4).collect::<Vec<_>>())
            .text("surfaces", &serde_json::to_string(self.parts.surfaces).expect("a list of strings"));
        writer.write(&self.folder.join("stats.safetensors"))
    }

    /// Gives the number of users.
    fn write_embedding(
        &self,
        items: usize,
        grow: &mut impl FnMut(&str, &Vectors) -> Result<(), Error>,
    ) -> Result<usize, Error> {
        const FILE: &str = "embedding.safetensors";
        let Some(mut arrays) = self.arrays(FILE)? else { return Ok(0) };
        let (numbers, dims) = arrays.matrix::<f32>("items", items)?;
        let wrong = |error: crate::index::Error| Error::format(FILE, error.to_string());
        grow("embedding", &Vectors::from_rows(&numbers, dims).map_err(wrong)?)?;
        ArraysWriter::default()
            .add("items", &[items, dims], &numbers)
            // As arrays: texts of the header have no order, and equal contents are to have equal bytes.
            .add("alpha", &[1], &[positive(&arrays, FILE, "alpha")?])
            .add("regularization", &[1], &[positive(&arrays, FILE, "regularization")?])
            .write(&self.folder.join(FILE))?;
        let Some(mut likes) = self.arrays("likes.safetensors")? else { return Ok(0) };
        let users = self.parts.users.len();
        let likes = Likes::read(&mut likes, "", users, items)?;
        let (mut numbers, dims) = arrays.matrix::<f32>("users", users)?;
        numbers.chunks_exact_mut(dims.max(1)).for_each(normalise);
        let hashes: Vec<u64> = self.parts.users.iter().map(|key| user_hash(key)).collect();
        let mut writer = ArraysWriter::default();
        writer.add("vectors", &[users, dims], &numbers).add("hashes", &[users], &hashes);
        likes.write(&mut writer, "likes.");
        writer.write(&self.folder.join("users.safetensors"))?;
        let wrong = |error: crate::index::Error| Error::format(FILE, format!("users: {error}"));
        grow("users", &Vectors::from_rows(&numbers, dims).map_err(wrong)?)?;
        Ok(users)
    }

    fn write_content(&self, grow: &mut impl FnMut(&str, &Vectors) -> Result<(), Error>) -> Result<(), Error> {
        const FILE: &str = "content.safetensors";
        let Some(mut arrays) = self.arrays(FILE)? else { return Ok(()) };
        let path = &self.parts.files.vocabulary;
        let words = fs::read(path).map_err(|error| Error::read(path, &error))?;
        let tokens = vocabulary(&words)?;
        let size = tokens.len();
        let idf = arrays.vector::<f32>("idf", size)?;
        let (projection, dims) = arrays.matrix::<f32>("projection", size)?;
        let model = content_model(FILE, tokens, idf.clone(), projection.clone())?;
        let numbers: Vec<f32> = self.parts.items.iter().flat_map(|item| model.vector(item)).collect();
        ArraysWriter::default()
            .add("idf", &[size], &idf)
            .add("projection", &[size, dims], &projection)
            .add("items", &[self.parts.items.len(), dims], &numbers)
            .write(&self.folder.join(FILE))?;
        self.put("vocabulary.jsonl", &words)?;
        let wrong = |error: crate::index::Error| Error::format(FILE, error.to_string());
        grow("content", &Vectors::from_rows(&numbers, dims).map_err(wrong)?)
    }

    fn write_matrices(&self, items: usize) -> Result<(), Error> {
        let mut writer = ArraysWriter::default();
        for name in MATRICES {
            let file = format!("{name}.safetensors");
            if let Some(mut arrays) = self.arrays(&file)? {
                let matrix = Neighbours::read(&mut arrays, "", items, items)?;
                matrix.write(&mut writer, &format!("{name}."));
            }
        }
        writer.write(&self.folder.join("matrices.safetensors"))
    }

    fn copy_ranker(&self) -> Result<Option<Signature>, Error> {
        let Some(model) = self.trained("ranker.onnx")? else { return Ok(None) };
        let columns = crate::feature::columns().len();
        let ranker = Ranker::from_onnx(&model, columns)?;
        let golden = self.trained("golden.safetensors")?;
        let golden = golden.ok_or_else(|| Error::format("golden.safetensors", "a ranker needs golden rows"))?;
        let mut rows = Arrays::read("golden.safetensors".as_ref(), golden.len() as u64, None, &mut &golden[..])?;
        check_golden(&ranker, &mut rows, columns)?;
        self.put("ranker.onnx", &model)?;
        self.put("golden.safetensors", &golden)?;
        Ok(Some(Signature { columns, heads: ranker.heads().to_vec() }))
    }

    fn arrays(&self, name: &str) -> Result<Option<Arrays>, Error> {
        Arrays::open(&self.parts.files.models.join(name))
    }

    fn trained(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let path = self.parts.files.models.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::read(&path, &error)),
        }
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let path = self.folder.join(name);
        fs::write(&path, bytes).map_err(|error| Error::read(&path, &error))
    }

    fn entries(&self) -> Result<BTreeMap<String, FileEntry>, Error> {
        let mut entries = BTreeMap::new();
        for entry in fs::read_dir(&self.folder).map_err(|error| Error::read(&self.folder, &error))? {
            let path = entry.map_err(|error| Error::read(&self.folder, &error))?.path();
            let name = path.file_name().expect("an entry has a name").to_string_lossy().into_owned();
            entries.insert(name, FileEntry::of(&path).map_err(|error| Error::read(&path, &error))?);
        }
        Ok(entries)
    }
}

fn normalise(vector: &mut [f32]) {
    let norm = vector.iter().map(|number| number * number).sum::<f32>().sqrt();
    if norm > 1e-12 && norm.is_finite() {
        vector.iter_mut().for_each(|number| *number /= norm);
    } else {
        vector.fill(0.0);
    }
}

/// A positive number from the header of a trained file.
fn positive(arrays: &Arrays, file: &str, name: &str) -> Result<f32, Error> {
    let text = arrays.text(name)?;
    let number = text.parse::<f32>().ok().filter(|number| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| Error::format(file, format!("{name} is {text:?}, not a positive number")))
}
