//! Trees laid out for sixteen rows at a time.
//!
//! Answers: where do the questions of a tree's first four levels stand, and where what lies below? Must not know: protobuf,
//! tract, how an ensemble is checked (`tree`).
//!
//! **Layout.** The first four levels of every tree are made complete: fifteen questions, asked of all rows at once, without a
//! jump and without gathering anything; a row's four answers are its way to one of sixteen nodes. Where a tree is shallower, the
//! questions that are missing are answered with no by every row. From the sixteen nodes on, each row walks by itself, with
//! the fields of nodes in arrays of their own. A column and a sign that some node asks for is one slot: sixteen numbers side
//! by side.

use std::collections::VecDeque;
use std::ops::Range;

use rustc_hash::FxHashMap;

use super::tree::{Node, SIGN, Tree};

/// Rows that are walked together.
pub(super) const LANES: usize = 16;
/// Levels whose questions are asked of all rows.
pub(super) const TOP_LEVELS: u32 = 4;
/// Their questions.
pub(super) const TOP_NODES: usize = (1 << TOP_LEVELS) - 1;
/// Nodes of one group of trees: 64 KiB of what a walk reads, so that they stay in the second-level cache while all rows pass.
const GROUP_NODES: usize = 4096;

/// The questions of the first levels of one tree, level by level.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub(super) struct Top {
    /// `x <= threshold` is a yes; NaN where the tree asks nothing.
    pub(super) thresholds: [f32; TOP_NODES],
    /// The first of the sixteen nodes to which the answers lead.
    pub(super) first: u32,
    /// Where the slot of each question begins: its number times `LANES`.
    pub(super) slots: [u32; TOP_NODES],
    /// Steps from the sixteen nodes to the deepest leaf.
    pub(super) steps: u32,
}

/// A whole ensemble with one summed target. Every index in it is in range; `next` leads on in the same tree, from a leaf to itself.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// The column of each slot, and the sign that its numbers are turned by.
    pub(super) columns: Vec<(u32, u32)>,
    pub(super) tops: Vec<Top>,
    /// Trees that are walked by all rows before the next ones.
    pub(super) groups: Vec<Range<usize>>,
    /// Of the nodes below: the question's threshold, ...
    pub(super) thresholds: Vec<f32>,
    /// ... where its slot begins, ...
    pub(super) slots: Vec<u32>,
    /// ... where a no leads (a yes leads to the node after it), ...
    pub(super) next: Vec<u32>,
    /// ... and the weight of a leaf.
    pub(super) weights: Vec<f32>,
}

impl Batch {
    /// Lays out checked trees. `weights` has one entry a node, 0 for inner ones.
    pub(super) fn of(nodes: &[Node], trees: &[Tree], weights: &[f32]) -> Batch {
        let mut batch = Batch { columns: columns(nodes), ..Batch::default() };
        for tree in trees {
            batch.tree(nodes, weights, tree);
        }
        batch.groups = batch.groups();
        batch
    }

    fn tree(&mut self, nodes: &[Node], weights: &[f32], tree: &Tree) {
        let mut top = Top {
            thresholds: [f32::NAN; TOP_NODES],
            first: index(self.next.len()),
            slots: [0; TOP_NODES],
            steps: tree.depth.saturating_sub(TOP_LEVELS),
        };
        // `None` is where no row comes.
        let mut level = vec![Some(tree.root as usize)];
        let mut questions = top.thresholds.iter_mut().zip(&mut top.slots);
        for _ in 0..TOP_LEVELS {
            let mut below = Vec::with_capacity(2 * level.len());
            for (at, (threshold, slot)) in level.into_iter().zip(&mut questions) {
                match at.map(|at| (at, Step::of(nodes, at))) {
                    Some((at, Step::Ask { first })) => {
                        (*threshold, *slot) = (nodes[at].threshold, self.slot(nodes[at]));
                        below.extend([Some(first), Some(first + 1)]);
                    }
                    Some((_, Step::Pass { to })) => below.extend([Some(to), None]),
                    Some((at, Step::Stay)) => below.extend([Some(at), None]),
                    None => below.extend([None, None]),
                }
            }
            level = below;
        }
        top.steps += u32::from(self.below(nodes, weights, level));
        self.tops.push(top);
    }

    /// The nodes from these on, breadth first, each once. Whether a walk needs a step more than the tree is deep: one of two
    /// ways that meet in the first levels leads on from the other.
    fn below(&mut self, nodes: &[Node], weights: &[f32], first: Vec<Option<usize>>) -> bool {
        let mut queue = VecDeque::from(first);
        let mut placed: FxHashMap<usize, usize> = FxHashMap::default();
        let (mut passes, mut meet) = (VecDeque::new(), false);
        loop {
            while let Some(at) = queue.pop_front() {
                let here = self.next.len();
                let known = at.and_then(|at| placed.get(&at).copied());
                if let (Some(at), None) = (at, known) {
                    placed.insert(at, here);
                }
                match (at.map(|at| (at, Step::of(nodes, at))), known) {
                    (None, _) => self.push(f32::NAN, 0, here, 0.0),
                    (Some(_), Some(known)) => {
                        meet = true;
                        self.push(f32::NAN, 0, known, 0.0);
                    }
                    (Some((at, Step::Stay)), None) => self.push(f32::NAN, 0, here, weights[at]),
                    (Some((_, Step::Pass { to })), None) => {
                        passes.push_back((here, to));
                        self.push(f32::NAN, 0, here, 0.0);
                    }
                    (Some((at, Step::Ask { first })), None) => {
                        // All that waits is laid out before its children.
                        self.push(nodes[at].threshold, self.slot(nodes[at]), here + 1 + queue.len(), 0.0);
                        queue.extend([Some(first), Some(first + 1)]);
                    }
                }
            }
            // Where a pass leads to has been laid out by now, as a child of a question, or by no one else.
            match passes.pop_front() {
                Some((here, to)) => match placed.get(&to) {
                    Some(&to) => self.next[here] = index(to),
                    None => {
                        self.next[here] = index(self.next.len());
                        queue.push_back(Some(to));
                    }
                },
                None => return meet,
            }
        }
    }

    fn push(&mut self, threshold: f32, slot: u32, next: usize, weight: f32) {
        self.thresholds.push(threshold);
        self.slots.push(slot);
        self.next.push(index(next));
        self.weights.push(weight);
    }

    /// Where the slot that a node asks for begins.
    pub(super) fn slot(&self, node: Node) -> u32 {
        let slot = self.columns.binary_search(&asked(node)).expect("every node's column has a slot");
        index(slot * LANES)
    }

    /// Consecutive trees of at most `GROUP_NODES` nodes, or one tree.
    fn groups(&self) -> Vec<Range<usize>> {
        let first = |tree: usize| self.tops.get(tree).map_or(self.next.len(), |top| top.first as usize);
        let mut groups: Vec<Range<usize>> = Vec::new();
        for tree in 0..self.tops.len() {
            match groups.last_mut() {
                Some(group) if first(tree + 1) - first(group.start) <= GROUP_NODES => group.end = tree + 1,
                _ => groups.push(tree..tree + 1),
            }
        }
        groups
    }
}

/// What a walk does at a node.
pub(super) enum Step {
    /// No goes to the node `first`, yes to the one after it.
    Ask { first: usize },
    /// Goes on to the same node always; others may lead there, too.
    Pass { to: usize },
    /// This is a leaf.
    Stay,
}

impl Step {
    pub(super) fn of(nodes: &[Node], at: usize) -> Step {
        let node = nodes[at];
        match node.delta() {
            0 => Step::Stay,
            delta if node.threshold.is_nan() => Step::Pass { to: at + delta },
            delta => Step::Ask { first: at + delta },
        }
    }
}

/// The column that a node looks at, and by which sign.
fn asked(node: Node) -> (u32, u32) {
    (index(node.feature()), node.word & SIGN)
}

/// All that any node asks for, in order; one for trees that ask nothing.
fn columns(nodes: &[Node]) -> Vec<(u32, u32)> {
    let mut columns: Vec<_> = nodes.iter().filter(|node| node.delta() != 0).map(|&node| asked(node)).collect();
    columns.push((0, 0));
    columns.sort_unstable();
    columns.dedup();
    columns
}

/// `tree` bounds the numbers of nodes and trees, and with them every index.
fn index(at: usize) -> u32 {
    u32::try_from(at).expect("bounded by NODES_MAX and TREES_MAX")
}
