//! Files to import, and members: users with long histories, whole, for whoever asks the engine without a store.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use marquee_engine::event::{EventKind, EventPolicy};
use marquee_engine::profile::{self, ProfileLimits};
use marquee_engine::types::{Profile, ProfileEvent, TimeMs};
use serde::{Deserialize, Serialize};

use super::{Catalogue, Synthetic, parallel};

/// Items written at once.
const CHUNK: usize = 8192;
/// Members kept, at most; drawn evenly over all.
const MEMBERS_MAX: usize = 2_000;
/// The shortest history of a member.
const MEMBER_EVENTS_MIN: usize = 20;

/// A user with a history of 20 events or more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// The user's id.
    pub id: String,
    /// Item, rating in stars, moment; oldest first.
    pub events: Vec<(String, f64, TimeMs)>,
}

impl Member {
    /// The profile that the server would have of them.
    pub fn profile(&self, policy: &EventPolicy) -> Profile {
        let event = |(item, stars, time_ms): &(String, f64, TimeMs)| ProfileEvent {
            item: Arc::from(item.as_str()),
            time_ms: *time_ms,
            touch: policy.touch(&EventKind::Rating, Some(*stars)),
        };
        let user = Some(Arc::from(format!("u:{}", self.id)));
        profile::build(user, 1, self.events.iter().map(event), &ProfileLimits::default())
    }
}

/// The members of a generated folder.
///
/// # Errors
/// The file is missing or damaged.
pub fn read_members(path: &Path) -> Result<Vec<Member>> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let parse = |line: std::io::Result<String>| Ok(serde_json::from_str(&line?)?);
    BufReader::new(file).lines().map(parse).collect::<Result<_>>().with_context(|| path.display().to_string())
}

impl Synthetic {
    /// The members, in no order of meaning.
    pub fn members(&self) -> Vec<Member> {
        let is_member = |user: &usize| self.people.history(*user).len() >= MEMBER_EVENTS_MIN;
        let members: Vec<usize> = (0..self.people.len()).filter(is_member).collect();
        let kept = members.len().min(MEMBERS_MAX);
        (0..kept).map(|at| self.member(members[at * members.len() / kept])).collect()
    }

    pub(super) fn member(&self, user: usize) -> Member {
        let event = |event: &super::Rated| (Catalogue::id(event.item as usize), event.stars(), event.time_ms);
        Member { id: self.people.id(user), events: self.people.history(user).iter().map(event).collect() }
    }
}

pub(super) fn write(made: &Synthetic, out: &Path) -> Result<()> {
    let import = out.join("import");
    std::fs::create_dir_all(&import).with_context(|| import.display().to_string())?;
    write_items(made, &import.join("items.jsonl")).context("items.jsonl")?;
    write_events(made, &import.join("events.csv")).context("events.csv")?;
    let mut users = BufWriter::new(File::create(import.join("users.jsonl"))?);
    for user in 0..made.people.len() {
        writeln!(users, r#"{{"id":"{}"}}"#, made.people.id(user))?;
    }
    users.flush()?;
    let mut members = BufWriter::new(File::create(out.join("members.jsonl"))?);
    for member in made.members() {
        serde_json::to_writer(&mut members, &member)?;
        members.write_all(b"\n")?;
    }
    Ok(members.flush()?)
}

fn write_items(made: &Synthetic, path: &Path) -> Result<()> {
    let items = made.catalogue.len();
    let chunks = parallel(items.div_ceil(CHUNK), |chunk| {
        let mut text = Vec::new();
        for row in chunk * CHUNK..((chunk + 1) * CHUNK).min(items) {
            serde_json::to_writer(&mut text, &made.catalogue.item(row)).expect("an item is plain data");
            text.push(b'\n');
        }
        text
    });
    let mut file = File::create(path)?;
    chunks.iter().try_for_each(|text| file.write_all(text))?;
    Ok(())
}

fn write_events(made: &Synthetic, path: &Path) -> Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    writeln!(file, "id,user_id,item_id,type,value,time_ms,surface")?;
    for user in 0..made.people.len() {
        let id = made.people.id(user);
        for (at, event) in made.people.history(user).iter().enumerate() {
            let (event_id, item) = (made.people.event_id(user, at), Catalogue::id(event.item as usize));
            let surface = if event.at_home { "home" } else { "" };
            writeln!(file, "{event_id},{id},{item},rating,{},{},{surface}", event.stars(), event.time_ms)?;
        }
    }
    Ok(file.flush()?)
}
