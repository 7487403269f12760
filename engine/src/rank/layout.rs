//! Lays the trees of a source out flat, in the form that `tree` describes.
//!
//! Answers: where does each node go, and what does it ask there? Proves on the way that every tree is a
//! tree. Must not know: how rows are walked.

use std::collections::VecDeque;

use rustc_hash::{FxHashMap, FxHashSet};

use super::batch::Batch;
use super::complete;
use super::tree::{Aggregate, DELTA_BITS, DELTA_MAX, Leaves, Mode, Node, SIGN, Source, Tree};

/// The nodes of one tree: its root and its children by their index in the source. Proven a tree.
struct Family {
    root: usize,
    nodes: usize,
    children: FxHashMap<usize, (usize, usize)>,
}

/// Splits the source into trees, in order of first appearance, and links parents with children.
fn families(source: &Source) -> Result<Vec<Family>, String> {
    let mut order: Vec<Vec<usize>> = Vec::new();
    let mut place: FxHashMap<i64, usize> = FxHashMap::default();
    for (ix, tree) in source.tree_ids.iter().enumerate() {
        let at = *place.entry(*tree).or_insert_with(|| {
            order.push(Vec::new());
            order.len() - 1
        });
        order[at].push(ix);
    }
    order.iter().map(|members| family(source, members)).collect()
}

fn family(source: &Source, members: &[usize]) -> Result<Family, String> {
    let tree = source.tree_ids[members[0]];
    let mut by_id = FxHashMap::default();
    for &ix in members {
        if by_id.insert(source.node_ids[ix], ix).is_some() {
            return Err(format!("tree {tree} has node {} twice", source.node_ids[ix]));
        }
    }
    let find = |parent: usize, id: i64| {
        let from = source.node_ids[parent];
        by_id.get(&id).copied().ok_or_else(|| format!("tree {tree}: the child {id} of node {from} does not exist"))
    };
    let mut children = FxHashMap::default();
    let mut has_parent = FxHashSet::default();
    for &ix in members.iter().filter(|&&ix| source.modes[ix] != Mode::Leaf) {
        let pair = (find(ix, source.true_ids[ix])?, find(ix, source.false_ids[ix])?);
        for child in [pair.0, pair.1] {
            if !has_parent.insert(child) {
                return Err(format!("tree {tree}: node {} has two parents", source.node_ids[child]));
            }
        }
        children.insert(ix, pair);
    }
    // With one parent at most for each node, a single root that reaches every node proves a tree;
    // `Layout::tree` counts what it reached.
    let mut roots = members.iter().copied().filter(|ix| !has_parent.contains(ix));
    match (roots.next(), roots.next()) {
        (Some(root), None) => Ok(Family { root, nodes: members.len(), children }),
        (None, _) => Err(format!("tree {tree} has no root: its nodes form a cycle")),
        _ => Err(format!("tree {tree} has more than one root")),
    }
}

/// What `x` must not exceed; `None` where no number is low enough.
type Bound = Option<f32>;

/// `x < t` as `x <= bound`: the next number below, since there is none in between.
fn below(t: f32) -> Bound {
    (t != f32::NEG_INFINITY).then(|| t.next_down())
}

/// The trees as flat nodes, and where the leaves of the source went.
#[derive(Default)]
pub(super) struct Layout {
    pub(super) nodes: Vec<Node>,
    pub(super) trees: Vec<Tree>,
    /// Leaves only: source index and its node here.
    leaf_slots: FxHashMap<usize, usize>,
}

impl Layout {
    /// Lays out the trees of a source whose arrays have been checked one by one.
    pub(super) fn of(source: &Source) -> Result<Layout, String> {
        let mut layout = Layout::default();
        for family in families(source)? {
            layout.tree(source, &family)?;
        }
        Ok(layout)
    }

    fn tree(&mut self, source: &Source, family: &Family) -> Result<(), String> {
        let root = self.nodes.len();
        self.nodes.push(Node::LEAF);
        let (mut depth, mut reached) = (0, 0);
        let mut queue = VecDeque::from([(root, family.root, 0)]);
        while let Some((slot, ix, level)) = queue.pop_front() {
            reached += 1;
            depth = depth.max(level);
            let Some(&(yes, no)) = family.children.get(&ix) else {
                self.leaf_slots.insert(ix, slot);
                continue;
            };
            let (t, missing_yes) = (source.values[ix], source.missing_tracks_true(ix));
            let feature = u32::try_from(source.feature_ids[ix]).expect("checked: below COLUMNS_MAX");
            let sides = match source.modes[ix] {
                Mode::Leq => self.split(slot, feature, Some(t), missing_yes)?,
                Mode::Lt => self.split(slot, feature, below(t), missing_yes)?,
                Mode::Gt => self.split(slot, feature, Some(t), !missing_yes)?.swapped(),
                Mode::Gte => self.split(slot, feature, below(t), !missing_yes)?.swapped(),
                Mode::Eq => self.equal(slot, feature, t, missing_yes)?,
                Mode::Neq => self.equal(slot, feature, t, !missing_yes)?.swapped(),
                Mode::Leaf => unreachable!("leaves have no children"),
            };
            queue.push_back((sides.yes, yes, level + sides.steps));
            queue.push_back((sides.no, no, level + sides.steps));
        }
        if reached != family.nodes {
            return Err(format!("tree {} holds a cycle", source.tree_ids[family.root]));
        }
        let root = u32::try_from(root).expect("bounded by NODES_MAX");
        self.trees.push(Tree { root, depth });
        Ok(())
    }

    /// What the leaves hold, by node.
    pub(super) fn leaves(&self, source: &Source) -> Result<Leaves, String> {
        let index: FxHashMap<(i64, i64), usize> =
            self.leaf_slots.iter().map(|(&ix, &slot)| ((source.tree_ids[ix], source.node_ids[ix]), slot)).collect();
        let mut entries = Vec::with_capacity(source.target_weights.len());
        for (at, &weight) in source.target_weights.iter().enumerate() {
            let key = (source.target_tree_ids[at], source.target_node_ids[at]);
            let slot = *index.get(&key).ok_or_else(|| format!("a weight names ({}, {}), no leaf", key.0, key.1))?;
            let target = source.target_ids[at];
            let target = u32::try_from(target).ok().filter(|t| (*t as usize) < source.targets);
            let target = target.ok_or_else(|| format!("a weight names target {}", source.target_ids[at]))?;
            entries.push((slot, target, weight));
        }
        entries.sort_by_key(|&(slot, target, _)| (slot, target));
        if entries.windows(2).any(|w| (w[0].0, w[0].1) == (w[1].0, w[1].1)) {
            return Err("a leaf has two weights for one target".into());
        }
        if source.targets == 1 && source.aggregate == Aggregate::Sum {
            let mut weights = vec![0.0; self.nodes.len()];
            for (slot, _, weight) in entries {
                weights[slot] = weight;
            }
            let batch = Batch::of(&self.nodes, &self.trees, &weights);
            let complete = complete::lay_out(&batch, &self.nodes, &self.trees, &weights);
            return Ok(Leaves::Sum { weights, batch, complete });
        }
        let count = |n: usize| u32::try_from(n).map_err(|_| "too many weights".to_string());
        let mut starts = vec![0_u32; self.nodes.len() + 1];
        count(entries.len())?;
        for &(slot, _, _) in &entries {
            starts[slot + 1] += 1;
        }
        for at in 1..starts.len() {
            starts[at] += starts[at - 1];
        }
        let weights = entries.into_iter().map(|(_, target, weight)| (target, weight)).collect();
        Ok(Leaves::Sparse { starts, weights, aggregate: source.aggregate })
    }

    /// Makes `slot` ask `x <= bound`, an unknown going to the yes side when `missing_yes`.
    fn split(&mut self, slot: usize, feature: u32, bound: Bound, missing_yes: bool) -> Result<Sides, String> {
        let first = self.nodes.len();
        let delta = first - slot;
        if delta > DELTA_MAX {
            return Err(format!("a tree is wider than {DELTA_MAX} nodes"));
        }
        self.nodes.extend([Node::LEAF; 2]);
        let delta = u32::try_from(delta).expect("at most DELTA_MAX");
        let word = (feature << DELTA_BITS) | delta;
        if missing_yes {
            // Ask the opposite, x > bound, as -x <= below(-bound): NaN then falls to the yes side.
            let opposite = bound.map_or(Some(f32::INFINITY), |t| below(-t));
            self.nodes[slot] = Node { threshold: opposite.unwrap_or(f32::NAN), word: word | SIGN };
            Ok(Sides { yes: first, no: first + 1, steps: 1 })
        } else {
            self.nodes[slot] = Node { threshold: bound.unwrap_or(f32::NAN), word };
            Ok(Sides { yes: first + 1, no: first, steps: 1 })
        }
    }

    /// Makes `slot` ask `x == t`: `x <= t`, then on its yes side `x < t`, whose yes side is the no of
    /// the whole. The first question's no side is a node that always leads there too.
    fn equal(&mut self, slot: usize, feature: u32, t: f32, missing_yes: bool) -> Result<Sides, String> {
        let at_most = self.split(slot, feature, Some(t), missing_yes)?;
        let less = self.split(at_most.yes, feature, below(t), false)?;
        let delta = u32::try_from(less.yes - at_most.no).expect("a few nodes ahead");
        self.nodes[at_most.no] = Node { threshold: f32::NAN, word: delta };
        Ok(Sides { yes: less.no, no: less.yes, steps: 2 })
    }
}

/// The nodes to which a question's two answers lead, and the steps that this takes.
struct Sides {
    yes: usize,
    no: usize,
    steps: u32,
}

impl Sides {
    /// Of the opposite question.
    fn swapped(self) -> Sides {
        Sides { yes: self.no, no: self.yes, ..self }
    }
}
