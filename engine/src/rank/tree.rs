//! A tree ensemble laid out flat, for scoring many rows at once.
//!
//! Answers: given the arrays of an ONNX `TreeEnsembleRegressor`, what does each row score?
//! Must not know: protobuf, tract, files. Everything is checked while building (here and in `layout`),
//! so that the walks (`walk`, over `batch` for many rows) have nothing left to check and cannot panic.
//!
//! **Layout.** One node is 8 bytes; the two children of a node are neighbours; the trees follow each
//! other in order. Every comparison mode is rewritten, exactly, into one form:
//!
//! ```text
//! next = here + delta + (±x[feature] <= threshold)
//! ```
//!
//! A comparison with NaN is false, so the sign also chooses where an unknown value goes: `x <= t` sends
//! it to the first child, `-x <= below(-t)`, which is `x > t`, to the one on the side of `x <= t`. A
//! leaf has a NaN threshold and delta 0, so it leads to itself: a walk may take more steps than the
//! tree is deep, and lanes of unequal depth need no branch.

use super::batch::Batch;
use super::complete::Complete;
use super::layout::Layout;

/// Columns that a node can name (12 bits).
pub(super) const COLUMNS_MAX: usize = 1 << FEATURE_BITS;
/// Nodes between a node and its children (19 bits): bounds the width of one tree.
pub(super) const DELTA_MAX: usize = (1 << DELTA_BITS) - 1;
/// Nodes of all the trees together, in the source.
const NODES_MAX: usize = 1 << 26;
/// Trees of one ensemble: each takes some 400 bytes more when many rows are walked at a time (`batch`).
const TREES_MAX: usize = 1 << 20;
/// Targets (output columns) of one ensemble.
const TARGETS_MAX: usize = 1 << 10;

pub(super) const DELTA_BITS: u32 = 19;
const FEATURE_BITS: u32 = 12;
pub(super) const SIGN: u32 = 1 << 31;

/// The arrays of an ONNX `TreeEnsembleRegressor`, under ONNX's names without their prefix.
/// `nodes_*` have one entry a node, `target_*` one a leaf weight.
#[derive(Debug, Clone, Default)]
pub(super) struct Source {
    pub(super) tree_ids: Vec<i64>,
    pub(super) node_ids: Vec<i64>,
    pub(super) feature_ids: Vec<i64>,
    pub(super) modes: Vec<Mode>,
    pub(super) values: Vec<f32>,
    pub(super) true_ids: Vec<i64>,
    pub(super) false_ids: Vec<i64>,
    /// Empty: an unknown value goes to the false side everywhere.
    pub(super) missing_tracks_true: Vec<bool>,
    pub(super) target_tree_ids: Vec<i64>,
    pub(super) target_node_ids: Vec<i64>,
    pub(super) target_ids: Vec<i64>,
    pub(super) target_weights: Vec<f32>,
    pub(super) targets: usize,
    /// Empty: zeros.
    pub(super) base_values: Vec<f32>,
    pub(super) aggregate: Aggregate,
}

/// What a node asks of its feature; the true side follows when it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Leq,
    Lt,
    Gte,
    Gt,
    Eq,
    Neq,
    Leaf,
}

/// How the weights that a row collects become its score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Aggregate {
    /// base + tree 0 + tree 1 + ..., in f32 and in this order, as XGBoost adds.
    #[default]
    Sum,
    /// base + sum / number of trees.
    Average,
    /// base + least weight (0 where no tree has one).
    Min,
    /// base + greatest weight (0 where no tree has one).
    Max,
}

/// Eight bytes: the threshold, and `sign | feature | delta` in one word.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Node {
    pub(super) threshold: f32,
    pub(super) word: u32,
}

impl Node {
    pub(super) const LEAF: Node = Node { threshold: f32::NAN, word: 0 };

    /// Column of the row that this node looks at; 0 for a leaf.
    pub(super) fn feature(self) -> usize {
        ((self.word & !SIGN) >> DELTA_BITS) as usize
    }

    /// Distance to the first child; 0 marks a leaf.
    pub(super) fn delta(self) -> usize {
        self.word as usize & DELTA_MAX
    }

    /// 1 when the row goes to the second child.
    pub(super) fn second(self, x: f32) -> usize {
        usize::from(f32::from_bits(x.to_bits() ^ (self.word & SIGN)) <= self.threshold)
    }
}

/// Where a tree starts in the nodes, and the steps that reach its deepest leaf.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tree {
    pub(super) root: u32,
    pub(super) depth: u32,
}

/// What the leaves hold.
#[derive(Debug)]
pub(super) enum Leaves {
    /// One target, summed: a weight for each node (0 for inner nodes), and everything once more for many rows at a time;
    /// shallow trees a third time, where the processor has use for it.
    Sum { weights: Vec<f32>, batch: Batch, complete: Option<Vec<Complete>> },
    /// The rest: node `i` holds `weights[starts[i]..starts[i + 1]]`, pairs of target and weight.
    Sparse { starts: Vec<u32>, weights: Vec<(u32, f32)>, aggregate: Aggregate },
}

/// A checked ensemble. Every index in it is in range, and every tree is a tree.
#[derive(Debug)]
pub(super) struct Ensemble {
    pub(super) nodes: Vec<Node>,
    pub(super) trees: Vec<Tree>,
    pub(super) leaves: Leaves,
    pub(super) base: Vec<f32>,
    columns: usize,
}

impl Ensemble {
    /// Checks and lays out. The error says in plain words what is wrong with the source.
    pub(super) fn build(source: &Source) -> Result<Ensemble, String> {
        source.check()?;
        let layout = Layout::of(source)?;
        let trees = layout.trees.len();
        if trees > TREES_MAX {
            return Err(format!("the ensemble has {trees} trees; at most {TREES_MAX} are accepted"));
        }
        let columns = layout.nodes.iter().map(|n| n.feature() + 1).max().unwrap_or(1);
        let leaves = layout.leaves(source)?;
        let base = match source.base_values.as_slice() {
            [] => vec![0.0; source.targets],
            given => given.to_vec(),
        };
        Ok(Ensemble { nodes: layout.nodes, trees: layout.trees, leaves, base, columns })
    }

    /// Score columns a row.
    pub(super) fn targets(&self) -> usize {
        self.base.len()
    }

    /// The least number of columns that rows must have.
    pub(super) fn columns(&self) -> usize {
        self.columns
    }
}

impl Source {
    fn check(&self) -> Result<(), String> {
        let nodes = self.node_ids.len();
        if nodes == 0 || nodes > NODES_MAX {
            return Err(format!("the ensemble has {nodes} nodes; 1 to {NODES_MAX} are accepted"));
        }
        let missing = &self.missing_tracks_true;
        check_len("nodes_treeids", self.tree_ids.len(), nodes)?;
        check_len("nodes_featureids", self.feature_ids.len(), nodes)?;
        check_len("nodes_modes", self.modes.len(), nodes)?;
        check_len("nodes_values", self.values.len(), nodes)?;
        check_len("nodes_truenodeids", self.true_ids.len(), nodes)?;
        check_len("nodes_falsenodeids", self.false_ids.len(), nodes)?;
        if !missing.is_empty() {
            check_len("nodes_missing_value_tracks_true", missing.len(), nodes)?;
        }
        let weights = self.target_weights.len();
        check_len("target_treeids", self.target_tree_ids.len(), weights)?;
        check_len("target_nodeids", self.target_node_ids.len(), weights)?;
        check_len("target_ids", self.target_ids.len(), weights)?;
        if self.targets == 0 || self.targets > TARGETS_MAX {
            let targets = self.targets;
            return Err(format!("n_targets is {targets}; 1 to {TARGETS_MAX} are accepted"));
        }
        if !self.base_values.is_empty() {
            check_len("base_values", self.base_values.len(), self.targets)?;
        }
        if !self.base_values.iter().chain(&self.target_weights).all(|w| w.is_finite()) {
            return Err("a weight or base value is not finite".into());
        }
        for (ix, mode) in self.modes.iter().enumerate().filter(|(_, m)| **m != Mode::Leaf) {
            let (feature, value) = (self.feature_ids[ix], self.values[ix]);
            if value.is_nan() {
                return Err(format!("the threshold of node {} is NaN ({mode:?})", self.node_ids[ix]));
            }
            if !usize::try_from(feature).is_ok_and(|f| f < COLUMNS_MAX) {
                return Err(format!("a node asks for feature {feature}; 0 to {} exist", COLUMNS_MAX - 1));
            }
        }
        Ok(())
    }

    pub(super) fn missing_tracks_true(&self, ix: usize) -> bool {
        self.missing_tracks_true.get(ix).copied().unwrap_or(false)
    }
}

fn check_len(what: &str, given: usize, wanted: usize) -> Result<(), String> {
    if given == wanted { Ok(()) } else { Err(format!("{what} has {given} entries instead of {wanted}")) }
}
