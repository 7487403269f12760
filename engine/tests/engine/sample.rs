//! A small made-up world: four tastes, items and users of each, a bundle over all of it with a ranker of random trees.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use marquee_engine::bundle::arrays::ArraysWriter;
use marquee_engine::bundle::{ArrayFiles, Bundle, MATRICES, OpenOptions, Parts, write};
use marquee_engine::event::{EventKind, EventPolicy};
use marquee_engine::index::BuildParams;
use marquee_engine::profile::{ProfileLimits, build};
use marquee_engine::types::{DAY_MS, Item, Profile, ProfileEvent, Query, SourcePlan, TimeMs, Touch, Variant};
use marquee_engine::world::{ItemStats, World, WorldBuilder};
use marquee_engine::{Engine, source_names};
use prost::Message;
use tempfile::TempDir;
use tract_onnx::pb;

pub(crate) const ITEMS: usize = 240;
pub(crate) const USERS: usize = 60;
pub(crate) const TASTES: usize = 4;
pub(crate) const NOW: TimeMs = 20_000 * DAY_MS;
const DIMS: usize = 16;

/// Numbers that look random and are always the same.
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 ^ (self.0 >> 29)) >> 16
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(crate) fn number(&mut self) -> f32 {
        (self.next() % 2_000_001) as f32 / 1_000_000.0 - 1.0
    }
}

pub(crate) fn item(at: usize) -> Item {
    let genre = ["Drama", "Comedy", "Horror", "Western"][at % TASTES];
    Item {
        id: format!("i{at}").into(),
        title: format!("Film {at}"),
        year: Some(1980 + (at % 40) as u16),
        genres: vec![
            genre.to_owned(),
            if at.is_multiple_of(7) { "Short".to_owned() } else { format!("{genre} classic") },
        ],
        cast: vec![format!("actor {}", at % 30)],
        ..Item::default()
    }
}

pub(crate) fn touch(weight: f32) -> Touch {
    EventPolicy::default().touch(&EventKind::Rating, Some(if weight > 0.0 { 5.0 } else { 1.0 }))
}

pub(crate) fn event(item: usize, time_ms: TimeMs) -> ProfileEvent {
    ProfileEvent { item: format!("i{item}").into(), time_ms, touch: touch(1.0) }
}

pub(crate) fn profile(items: &[usize]) -> Profile {
    let events = (0..).zip(items).map(|(at, &item)| event(item, NOW - 1_000_000 + at * 1_000));
    build(Some("u:test".into()), 7, events, &ProfileLimits::default())
}

/// Every source, ranked by the bundle's trees.
pub(crate) fn variant(ranker: bool) -> Arc<Variant> {
    let plan = SourcePlan { weight: 1.0, budget_items: 40 };
    let sources = source_names().map(|name| (name.to_owned(), plan)).collect();
    let name = "test".to_owned();
    Arc::new(Variant { name, sources, ranker, head_weights: Default::default(), candidates_max_items: 150 })
}

pub(crate) fn query(count: usize) -> Query {
    Query::new(NOW, "home", count, variant(true))
}

/// A bundle on disk, and a world that is just it.
pub(crate) struct Sample {
    _folder: TempDir,
    pub(crate) engine: Engine,
    pub(crate) world: World,
}

impl Sample {
    /// `exact_below_items` as in [`OpenOptions`].
    pub(crate) fn new(exact_below_items: usize) -> Sample {
        let folder = tempfile::tempdir().unwrap();
        let path = make(folder.path());
        let options = OpenOptions { exact_below_items, ..OpenOptions::default() };
        let bundle = Arc::new(Bundle::open(&path, &options).unwrap());
        let world = WorldBuilder::new(bundle.clone()).snapshot();
        Sample { _folder: folder, engine: Engine::new(bundle), world }
    }

    pub(crate) fn builder(&self) -> WorldBuilder {
        WorldBuilder::new(self.engine.bundle().clone())
    }
}

/// Writes the bundle; gives its folder.
pub(crate) fn make(folder: &Path) -> PathBuf {
    let models = folder.join("models");
    std::fs::create_dir_all(&models).unwrap();
    let items: Vec<Arc<Item>> = (0..ITEMS).map(|at| Arc::new(item(at))).collect();
    write_arrays(&models, &items);
    std::fs::write(models.join("ranker.onnx"), trees(Engine::columns().len()).encode_to_vec()).unwrap();
    write_golden(&models);
    let users: Vec<String> = (0..USERS).map(|user| format!("u:{user}")).collect();
    let stats = stats();
    let parts = Parts {
        version: "sample".to_owned(),
        created_ms: NOW,
        watermark: 1_000,
        until_ms: None,
        parent: None,
        items: &items,
        stats: &stats,
        surfaces: &["home".into()],
        users: &users,
        files: ArrayFiles { models, vocabulary: folder.join("vocabulary.jsonl") },
        metrics: [("ndcg_at_10".to_owned(), 0.1 + 0.2)].into(),
        no_ranker_because: None,
        graph: BuildParams::default(),
    };
    write(folder, &parts, |_| {}).unwrap();
    folder.join("sample")
}

fn stats() -> Vec<ItemStats> {
    let mut noise = Noise(5);
    let mut stats = vec![ItemStats::default(); ITEMS];
    for at in 0..4_000 {
        let row = noise.below(ITEMS).min(noise.below(ITEMS));
        let time = NOW - 100 * DAY_MS + at * 2_000_000;
        stats[row].add(&touch(noise.number() + 0.4), time, (at % 3 == 0).then_some(0));
    }
    stats
}

fn write_arrays(models: &Path, items: &[Arc<Item>]) {
    let mut noise = Noise(9);
    let mut vectors = |rows: usize| -> Vec<f32> {
        let of = |row: usize, at: usize, noise: &mut Noise| {
            f32::from(u8::from(at % TASTES == row % TASTES)) + 0.6 * noise.number()
        };
        (0..rows).flat_map(|row| (0..DIMS).map(move |at| (row, at))).map(|(row, at)| of(row, at, &mut noise)).collect()
    };
    let (of_items, of_users) = (vectors(ITEMS), vectors(USERS));
    ArraysWriter::default()
        .add("items", &[ITEMS, DIMS], &of_items)
        .add("users", &[USERS, DIMS], &of_users)
        .text("alpha", "5")
        .text("regularization", "3")
        .write(&models.join("embedding.safetensors"))
        .unwrap();
    for (seed, name) in (20..).zip(MATRICES) {
        lists(seed, ITEMS).write(&models.join(format!("{name}.safetensors"))).unwrap();
    }
    let mut likes = lists(3, USERS);
    likes.add("time_ms", &[USERS * LINKS], &vec![NOW - DAY_MS; USERS * LINKS]);
    likes.write(&models.join("likes.safetensors")).unwrap();
    write_content(models, items);
}

const LINKS: usize = 12;

/// Each row leads to items of its taste.
fn lists(seed: u64, rows: usize) -> ArraysWriter {
    let mut noise = Noise(seed);
    let (mut targets, mut weights) = (Vec::new(), Vec::new());
    for row in 0..rows {
        for at in 0..LINKS {
            targets.push((noise.below(ITEMS / TASTES) * TASTES + row % TASTES) as u32);
            weights.push(1.0 / (at + 1) as f32);
        }
    }
    let offsets: Vec<i64> = (0..=rows).map(|row| (row * LINKS) as i64).collect();
    let mut writer = ArraysWriter::default();
    writer.add("offsets", &[rows + 1], &offsets).add("item", &[targets.len()], &targets);
    writer.add("weight", &[weights.len()], &weights);
    writer
}

fn write_content(models: &Path, items: &[Arc<Item>]) {
    let words = items.iter().flat_map(|item| marquee_engine::content::tokens(item)).map(|(token, _)| token);
    let words: std::collections::BTreeSet<String> = words.collect();
    let mut noise = Noise(77);
    let projection: Vec<f32> = (0..words.len() * 8).map(|_| noise.number()).collect();
    ArraysWriter::default()
        .add("idf", &[words.len()], &vec![1.0_f32; words.len()])
        .add("projection", &[words.len(), 8], &projection)
        .write(&models.join("content.safetensors"))
        .unwrap();
    let lines: String = words.iter().map(|word| serde_json::to_string(word).unwrap() + "\n").collect();
    std::fs::write(models.parent().unwrap().join("vocabulary.jsonl"), lines).unwrap();
}

fn write_golden(models: &Path) {
    let columns = Engine::columns().len();
    let mut noise = Noise(41);
    let features: Vec<f32> = (0..32 * columns).map(|at| if at % 11 == 0 { f32::NAN } else { noise.number() }).collect();
    let ranker = marquee_engine::rank::Ranker::from_onnx(&std::fs::read(models.join("ranker.onnx")).unwrap(), columns);
    let mut scores = Vec::new();
    ranker.unwrap().score(&features, 32, &mut scores).unwrap();
    ArraysWriter::default()
        .add("features", &[32, columns], &features)
        .add("scores", &[32, 1], &scores)
        .write(&models.join("golden.safetensors"))
        .unwrap();
}

/// Twenty trees of one split each, over random columns.
pub(crate) fn trees(columns: usize) -> pb::ModelProto {
    let mut noise = Noise(123);
    let ids = |pick: fn(i64, i64) -> i64| {
        (0..20_i64).flat_map(move |tree| (0..3).map(move |node| pick(tree, node))).collect()
    };
    let features = (0..20).flat_map(|_| [noise.below(columns) as i64, 0, 0]).collect();
    let mut noise = Noise(321);
    let values = (0..20).flat_map(|_| [0.3 + 0.5 * noise.number(), 0.0, 0.0]).collect();
    let weights = (0..40).map(|_| noise.number()).collect();
    let modes = (0..20).flat_map(|_| ["BRANCH_LT", "LEAF", "LEAF"]).map(|mode| mode.as_bytes().to_vec()).collect();
    let attribute = vec![
        ints("nodes_treeids", ids(|tree, _| tree)),
        ints("nodes_nodeids", ids(|_, node| node)),
        ints("nodes_featureids", features),
        floats("nodes_values", values),
        of_type("nodes_modes", pb::attribute_proto::AttributeType::Strings, |to| to.strings = modes),
        ints("nodes_truenodeids", ids(|_, node| i64::from(node == 0))),
        ints("nodes_falsenodeids", ids(|_, node| 2 * i64::from(node == 0))),
        ints("nodes_missing_value_tracks_true", ids(|tree, node| i64::from(node == 0 && tree % 2 == 0))),
        ints("target_treeids", (0..20).flat_map(|tree| [tree, tree]).collect()),
        ints("target_nodeids", (0..20).flat_map(|_| [1, 2]).collect()),
        ints("target_ids", vec![0; 40]),
        floats("target_weights", weights),
        of_type("n_targets", pb::attribute_proto::AttributeType::Int, |to| to.i = 1),
    ];
    let node = pb::NodeProto {
        op_type: "TreeEnsembleRegressor".to_owned(),
        domain: "ai.onnx.ml".to_owned(),
        input: vec!["features".to_owned()],
        output: vec!["score".to_owned()],
        attribute,
        ..Default::default()
    };
    let graph = pb::GraphProto {
        name: "trees".to_owned(),
        node: vec![node],
        input: vec![tensor("features", columns as i64)],
        output: vec![tensor("score", 1)],
        ..Default::default()
    };
    let opset = |domain: &str, version| pb::OperatorSetIdProto { domain: domain.to_owned(), version };
    pb::ModelProto {
        ir_version: 8,
        opset_import: vec![opset("", 15), opset("ai.onnx.ml", 1)],
        graph: Some(graph),
        ..Default::default()
    }
}

fn of_type(
    name: &str,
    r#type: pb::attribute_proto::AttributeType,
    fill: impl FnOnce(&mut pb::AttributeProto),
) -> pb::AttributeProto {
    let mut attribute = pb::AttributeProto { name: name.to_owned(), r#type: r#type.into(), ..Default::default() };
    fill(&mut attribute);
    attribute
}

fn ints(name: &str, ints: Vec<i64>) -> pb::AttributeProto {
    of_type(name, pb::attribute_proto::AttributeType::Ints, |to| to.ints = ints)
}

fn floats(name: &str, floats: Vec<f32>) -> pb::AttributeProto {
    of_type(name, pb::attribute_proto::AttributeType::Floats, |to| to.floats = floats)
}

fn tensor(name: &str, width: i64) -> pb::ValueInfoProto {
    use pb::tensor_shape_proto::{Dimension, dimension::Value};
    let dim = vec![
        Dimension { value: Some(Value::DimParam("N".to_owned())), ..Default::default() },
        Dimension { value: Some(Value::DimValue(width)), ..Default::default() },
    ];
    let float = pb::tensor_proto::DataType::Float.into();
    let tensor = pb::type_proto::Tensor { elem_type: float, shape: Some(pb::TensorShapeProto { dim }) };
    let r#type = pb::TypeProto { value: Some(pb::type_proto::Value::TensorType(tensor)), ..Default::default() };
    pb::ValueInfoProto { name: name.to_owned(), r#type: Some(r#type), ..Default::default() }
}
