//! A profile that this process holds: built, or still as Redis gave it. A repeated slate needs no more of it than its
//! version, so that it is not unpacked for one.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use marquee_engine::profile::ProfileLimits;
use marquee_engine::types::{Profile, Seq};

use super::value;
use crate::store::UserKey;

/// One profile.
#[derive(Debug)]
pub struct Held {
    version: Seq,
    profile: OnceLock<Option<Arc<Profile>>>,
    packed: Option<Packed>,
    /// How many entries of the store it was made of, where those are all of that user's and it is not from Redis.
    entries: Option<usize>,
}

/// A value of Redis, and by what it is read.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) bytes: Bytes,
    pub(super) owner: UserKey,
    pub(super) rules: u64,
    pub(super) limits: ProfileLimits,
}

impl Held {
    /// The log position of the newest entry in it.
    pub fn version(&self) -> Seq {
        self.version
    }

    /// It, unpacked when it is first asked for; `None` when what Redis gave is no profile.
    pub fn profile(&self) -> Option<Arc<Profile>> {
        self.profile.get_or_init(|| self.packed.as_ref().and_then(Packed::unpack)).clone()
    }

    /// Whether it was unpacked in vain.
    pub(super) fn is_broken(&self) -> bool {
        self.profile.get().is_some_and(Option::is_none)
    }

    /// Of that version, as its head says.
    pub(super) fn packed(version: Seq, packed: Packed) -> Held {
        Held { version, profile: OnceLock::new(), packed: Some(packed), entries: None }
    }

    /// Of so many entries of the store: all of that user's, where it says so.
    pub(super) fn of_entries(profile: Arc<Profile>, entries: Option<usize>) -> Held {
        Held { entries, ..Held::from(profile) }
    }

    /// How many entries of the store it was made of; `None` where there may be others.
    pub(super) fn entries(&self) -> Option<usize> {
        self.entries
    }
}

impl From<Arc<Profile>> for Held {
    fn from(profile: Arc<Profile>) -> Held {
        Held { version: profile.version, profile: OnceLock::from(Some(profile)), packed: None, entries: None }
    }
}

impl Packed {
    fn unpack(&self) -> Option<Arc<Profile>> {
        match value::read(&self.bytes, &self.owner, self.rules, &self.limits)? {
            (value::Kept::Profile(profile), _) => Some(profile),
            (value::Kept::MergedInto(_), _) => None,
        }
    }
}
