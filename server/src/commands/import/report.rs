//! What went in and what did not.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::sink::What;

/// Numbers of one kind of row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tally {
    /// Rows in the files.
    pub(super) read: u64,
    /// Rows that break a rule or cannot be read.
    pub(super) refused: u64,
    /// Written now.
    pub(super) new: u64,
    /// There already, or twice in the files.
    pub(super) known: u64,
}

/// The whole import.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) items: Tally,
    pub(super) users: Tally,
    pub(super) events: Tally,
    /// Refused rows by file and reason.
    pub(super) reasons: BTreeMap<String, u64>,
    pub(super) notes: Vec<String>,
    pub(super) events_of_unknown_items: u64,
    pub(super) quarantine: Option<PathBuf>,
}

impl Report {
    pub(super) fn tally(&mut self, what: What) -> &mut Tally {
        match what {
            What::Item => &mut self.items,
            What::User => &mut self.users,
            What::Event => &mut self.events,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<8}{:>12}{:>12}{:>16}{:>12}", "", "read", "written", "known already", "refused")?;
        for (name, tally) in [("items", self.items), ("users", self.users), ("events", self.events)] {
            let Tally { read, refused, new, known } = tally;
            writeln!(f, "{name:<8}{read:>12}{new:>12}{known:>16}{refused:>12}")?;
        }
        if self.events_of_unknown_items > 0 {
            writeln!(
                f,
                "{} of the events are of items that the catalogue does not know (kept)",
                self.events_of_unknown_items
            )?;
        }
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        if !self.reasons.is_empty() {
            writeln!(f, "refused, by reason:")?;
            for (reason, count) in &self.reasons {
                writeln!(f, "{count:>12}  {reason}")?;
            }
        }
        match &self.quarantine {
            Some(path) => writeln!(f, "refused rows are in {}", path.display()),
            None => Ok(()),
        }
    }
}
