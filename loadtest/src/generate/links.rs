//! Item-item matrices, counted from the drawn histories: who goes with whom, who follows whom.
//!
//! The transitions are those of `models/marquee_models/retrieval_transitions.py`. Co-occurrence is counted within a
//! window of each history and over a bounded number of an item's users; its weight is how much likelier an item becomes,
//! where training solves a regression (EASE). Row lengths and the share of popular items in them are as there.

use std::path::Path;

use anyhow::Result;
use marquee_engine::bundle::arrays::ArraysWriter;

use super::{Synthetic, parallel};

/// Rows made at once.
const CHUNK: usize = 2048;
/// Links of a row, at most. (Training keeps 200 where a catalogue is small enough to fill them.)
const ROW_MAX: usize = 100;
/// Users of an item that are looked at.
const USERS_MAX: usize = 100;
/// Items before and after in the history of such a user.
const AROUND: usize = 50;

/// How a matrix is counted.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// The next so many items count 1/distance; a row is divided by its sum and the shrinkage.
    Follows { window: usize, shrinkage: f32, liked_only: bool },
    /// How much likelier one item makes the other.
    GoesWith { liked_only: bool },
    /// Shrunk cosine.
    Similar,
}

const MATRICES: [(&str, Kind); 6] = [
    ("cooccurrence", Kind::GoesWith { liked_only: false }),
    ("cooccurrence_liked", Kind::GoesWith { liked_only: true }),
    ("transitions", Kind::Follows { window: 7, shrinkage: 30.0, liked_only: false }),
    ("transitions_wide", Kind::Follows { window: 30, shrinkage: 100.0, liked_only: false }),
    ("transitions_liked", Kind::Follows { window: 20, shrinkage: 30.0, liked_only: true }),
    ("similar", Kind::Similar),
];

/// What stands where in the histories.
struct Places<'a> {
    made: &'a Synthetic,
    /// The user of each event.
    user: Vec<u32>,
    /// Events by item, as CSR.
    offsets: Vec<usize>,
    events: Vec<u32>,
    /// Likes by item.
    likes: Vec<u32>,
}

type Row = Vec<(u32, f32)>;

pub(super) fn write(made: &Synthetic, models: &Path) -> Result<()> {
    let places = Places::new(made);
    for (name, kind) in MATRICES {
        let items = made.catalogue.len();
        let chunks = parallel(items.div_ceil(CHUNK), |chunk| {
            let mut sums = Sums::new(items);
            let rows = chunk * CHUNK..((chunk + 1) * CHUNK).min(items);
            rows.map(|row| places.row(kind, row, &mut sums)).collect::<Vec<Row>>()
        });
        let (mut offsets, mut item, mut weight) = (vec![0_i64], Vec::new(), Vec::new());
        for row in chunks.into_iter().flatten() {
            item.extend(row.iter().map(|(item, _)| *item));
            weight.extend(row.iter().map(|(_, weight)| *weight));
            offsets.push(item.len() as i64);
        }
        ArraysWriter::default()
            .add("offsets", &[offsets.len()], &offsets)
            .add("item", &[item.len()], &item)
            .add("weight", &[weight.len()], &weight)
            .write(&models.join(format!("{name}.safetensors")))?;
    }
    Ok(())
}

impl Places<'_> {
    fn new(made: &Synthetic) -> Places<'_> {
        let (items, people) = (made.catalogue.len(), &made.people);
        let (mut offsets, mut likes) = (vec![0_usize; items + 1], vec![0_u32; items]);
        for event in &people.events {
            offsets[event.item as usize + 1] += 1;
            likes[event.item as usize] += u32::from(event.is_liked());
        }
        (0..items).for_each(|at| offsets[at + 1] += offsets[at]);
        let mut next = offsets.clone();
        let mut events = vec![0_u32; people.events.len()];
        for (at, event) in (0..).zip(&people.events) {
            events[next[event.item as usize]] = at;
            next[event.item as usize] += 1;
        }
        let mut user = vec![0_u32; people.events.len()];
        (0..people.len()).for_each(|row| user[people.offsets[row]..people.offsets[row + 1]].fill(row as u32));
        Places { made, user, offsets, events, likes }
    }

    fn row(&self, kind: Kind, row: usize, sums: &mut Sums) -> Row {
        match kind {
            Kind::Follows { window, shrinkage, liked_only } => {
                let places = &self.events[self.offsets[row]..self.offsets[row + 1]];
                places.iter().for_each(|&place| self.following(place as usize, window, liked_only, sums));
                let total: f32 = sums.all().map(|(_, sum)| sum).sum();
                sums.take(|_, sum| sum / (total + shrinkage))
            }
            Kind::GoesWith { liked_only } => {
                let scale = self.around(row, liked_only, sums);
                let users = self.count(row);
                let everybody = self.made.people.len() as f32;
                sums.take(|other, sum| {
                    let met = if liked_only { self.likes[other] as f32 } else { self.count(other) };
                    sum * scale / (users + 30.0) - met / everybody
                })
            }
            Kind::Similar => {
                let (scale, users) = (self.around(row, false, sums), self.count(row));
                sums.take(|other, sum| sum * scale / ((users * self.count(other)).sqrt() + 10.0))
            }
        }
    }

    fn following(&self, place: usize, window: usize, liked_only: bool, sums: &mut Sums) {
        let (people, row) = (&self.made.people, self.made.people.events[place].item);
        let end = people.offsets[self.user[place] as usize + 1];
        let next = &people.events[place + 1..end.min(place + 1 + window)];
        for (distance, event) in (1..).zip(next) {
            if event.item != row && (event.is_liked() || !liked_only) {
                sums.add(event.item, 1.0 / distance as f32);
            }
        }
    }

    /// Counts what stands around the item in some users' histories; how many times as many users it has.
    fn around(&self, row: usize, liked_only: bool, sums: &mut Sums) -> f32 {
        let (people, places) = (&self.made.people, &self.events[self.offsets[row]..self.offsets[row + 1]]);
        let looked_at = places.len().min(USERS_MAX);
        for at in 0..looked_at {
            let place = places[at * places.len() / looked_at] as usize;
            let user = self.user[place] as usize;
            let from = people.offsets[user].max(place.saturating_sub(AROUND));
            let until = people.offsets[user + 1].min(place + AROUND + 1);
            let near = people.events[from..until].iter().filter(|event| event.item as usize != row);
            near.filter(|event| event.is_liked() || !liked_only).for_each(|event| sums.add(event.item, 1.0));
        }
        places.len() as f32 / looked_at.max(1) as f32
    }

    fn count(&self, row: usize) -> f32 {
        (self.offsets[row + 1] - self.offsets[row]) as f32
    }
}

/// Sums by item, and which were touched.
struct Sums {
    values: Vec<f32>,
    touched: Vec<u32>,
}

impl Sums {
    fn new(items: usize) -> Sums {
        Sums { values: vec![0.0; items], touched: Vec::new() }
    }

    fn add(&mut self, item: u32, amount: f32) {
        let value = &mut self.values[item as usize];
        if *value == 0.0 {
            self.touched.push(item);
        }
        *value += amount;
    }

    fn all(&self) -> impl Iterator<Item = (u32, f32)> + '_ {
        self.touched.iter().map(|&item| (item, self.values[item as usize]))
    }

    /// The largest positive weights, strongest first, then by item; empties the sums.
    fn take(&mut self, weight: impl Fn(usize, f32) -> f32) -> Row {
        let mut row: Row = self.all().map(|(item, sum)| (item, weight(item as usize, sum))).collect();
        row.retain(|(_, weight)| *weight > 0.0);
        let by_weight = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if row.len() > ROW_MAX {
            row.select_nth_unstable_by(ROW_MAX - 1, by_weight);
            row.truncate(ROW_MAX);
        }
        row.sort_unstable_by(by_weight);
        self.touched.drain(..).for_each(|item| self.values[item as usize] = 0.0);
        row
    }
}
