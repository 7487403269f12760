//! Whether a profile that somebody else read is up to date for this process.
//!
//! Every process tails the log. Who wrote lately is kept in a table of marks: a slot, found by the hash of the user's key,
//! holds the highest position of any entry of a user of that slot. A profile tells which position its reader had
//! reached before it read the store; it holds every entry up to there, and up to its own version, so it is up to date
//! when the mark is not higher. Two users of one slot can only make a profile seem older than it is. Nothing here
//! depends on what a cache has heard, lost or kept. Must not know where profiles come from.

use std::sync::atomic::{AtomicU64, Ordering};

use marquee_engine::types::{Seq, id_hash};

use crate::store::UserKey;

/// What this process knows of the log.
pub(super) struct Recent {
    slots: Box<[AtomicU64]>,
    /// Entries up to here are not in the marks.
    floor: AtomicU64,
    /// Entries up to here are.
    tail: AtomicU64,
    /// How often [`Recent::begin`] was called.
    begun: AtomicU64,
    /// The last erasure: it may have taken entries from users that it does not name.
    erasure: AtomicU64,
}

/// How old a copy of a profile is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Age {
    /// The log position up to which it surely holds everything.
    pub(super) as_of: Seq,
    /// Position of the newest entry in it.
    pub(super) version: Seq,
}

impl Recent {
    /// So many marks. Proves nothing until [`Recent::begin`].
    pub(super) fn new(slots: usize) -> Recent {
        let slots = (0..slots.max(1)).map(|_| AtomicU64::new(0)).collect();
        let (floor, tail, erasure) = (AtomicU64::new(Seq::MAX), AtomicU64::new(0), AtomicU64::new(0));
        Recent { slots, floor, tail, erasure, begun: AtomicU64::new(0) }
    }

    /// The log is another one than was told: nothing is proven any more until [`Recent::begin`].
    pub(super) fn doubt(&self) {
        self.floor.store(Seq::MAX, Ordering::SeqCst);
        self.tail.store(0, Ordering::SeqCst);
        self.erasure.store(0, Ordering::SeqCst);
        self.slots.iter().for_each(|slot| slot.store(0, Ordering::SeqCst));
    }

    /// From this position on every entry will be told.
    pub(super) fn begin(&self, position: Seq) {
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.tail.fetch_max(position, Ordering::SeqCst);
        self.floor.store(position, Ordering::SeqCst);
    }

    /// Which beginning this is: of what was fetched before another one, nothing is proven.
    pub(super) fn begun(&self) -> u64 {
        self.begun.load(Ordering::SeqCst)
    }

    /// An entry of this user is at this position.
    pub(super) fn mark(&self, user: &UserKey, seq: Seq) {
        self.slot(user).fetch_max(seq, Ordering::SeqCst);
    }

    /// There was an erasure at this position.
    pub(super) fn erased(&self, seq: Seq) {
        self.erasure.fetch_max(seq, Ordering::SeqCst);
    }

    /// Every entry up to here was told. Call it after they were.
    pub(super) fn reached(&self, position: Seq) {
        self.tail.fetch_max(position, Ordering::SeqCst);
    }

    /// Take it before the store is read, or before the profile is taken from this process's memory: what is read then
    /// holds every entry up to here.
    pub(super) fn tail(&self) -> Seq {
        self.tail.load(Ordering::SeqCst)
    }

    /// Whether such a copy holds every entry of the user that this process knows of.
    pub(super) fn proves(&self, user: &UserKey, age: Age) -> bool {
        self.may_be_shown(age.as_of) && self.slot(user).load(Ordering::SeqCst) <= age.as_of.max(age.version)
    }

    /// Whether what was read at that position can hold nothing that was erased since, as far as this process knows.
    pub(super) fn may_be_shown(&self, as_of: Seq) -> bool {
        as_of >= self.floor.load(Ordering::SeqCst) && as_of >= self.erasure.load(Ordering::SeqCst)
    }

    fn slot(&self, user: &UserKey) -> &AtomicU64 {
        // The hash's high bits differ as much as its low ones only after a multiplication.
        let hash = id_hash(user.as_str()).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        &self.slots[hash as usize % self.slots.len()]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const USERS: usize = 3;

    fn user(number: usize) -> UserKey {
        UserKey::user(&number.to_string())
    }

    /// A copy of a user's entries, as somebody wrote it into the cache once.
    #[derive(Debug, Clone)]
    struct Copy {
        age: Age,
        entries: Vec<Seq>,
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// A process writes an event of a user and acknowledges it.
        Write { process: usize, user: usize },
        /// A process erases a user; what is left of another one may change by it.
        Erase { process: usize, user: usize, other: usize },
        /// A process's tail takes so many entries in.
        Follow { process: usize, entries: usize },
        /// A process reads the store and writes a copy into the cache, which arrives now, later or never.
        Publish { process: usize, user: usize },
        /// A process takes any copy that was ever written, however old.
        Use { process: usize, user: usize, pick: usize },
        /// A process starts anew from a position that it has seen.
        Restart { process: usize, back: usize },
    }

    fn step() -> impl Strategy<Value = Step> {
        let (process, user) = (0..2_usize, 0..USERS);
        prop_oneof![
            4 => (process.clone(), user.clone()).prop_map(|(process, user)| Step::Write { process, user }),
            1 => (process.clone(), user.clone(), user.clone())
                .prop_map(|(process, user, other)| Step::Erase { process, user, other }),
            4 => (process.clone(), 0..6_usize).prop_map(|(process, entries)| Step::Follow { process, entries }),
            4 => (process.clone(), user.clone()).prop_map(|(process, user)| Step::Publish { process, user }),
            8 => (process.clone(), user, any::<usize>())
                .prop_map(|(process, user, pick)| Step::Use { process, user, pick }),
            1 => (process, 0..4_usize).prop_map(|(process, back)| Step::Restart { process, back }),
        ]
    }

    /// The log: who wrote at each position, from 1; `None` is an erasure.
    #[derive(Default)]
    struct World {
        log: Vec<Option<usize>>,
        gone: Vec<Seq>,
    }

    impl World {
        fn end(&self) -> Seq {
            self.log.len() as Seq
        }

        /// What the store holds of a user now.
        fn entries(&self, user: usize) -> Vec<Seq> {
            let mine = (1..=self.end()).filter(|seq| self.log[*seq as usize - 1] == Some(user));
            mine.filter(|seq| !self.gone.contains(seq)).collect()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]
        #[test]
        fn no_stale_copy_is_ever_taken_for_a_fresh_one(
            steps in proptest::collection::vec(step(), 1..60),
            slots in 1..8_usize,
        ) {
            let mut world = World::default();
            let mut processes = [Recent::new(slots), Recent::new(slots)];
            // What each process must not miss: what it acknowledged itself and what its tail has brought.
            let mut own: [Vec<Seq>; 2] = Default::default();
            let mut copies: Vec<Vec<Copy>> = vec![Vec::new(); USERS];
            processes.iter().for_each(|process| process.begin(0));
            for step in steps {
                match step {
                    Step::Write { process, user: who } => {
                        world.log.push(Some(who));
                        own[process].push(world.end());
                        processes[process].mark(&user(who), world.end());
                    }
                    Step::Erase { process, user: who, other } => {
                        let mut lost = world.entries(who);
                        // What a visitor brought to another user goes, too, and the erasure does not name that user.
                        lost.extend(world.entries(other).first());
                        world.gone.extend(lost);
                        world.log.push(None);
                        own[process].push(world.end());
                        processes[process].erased(world.end());
                    }
                    Step::Follow { process, entries } => {
                        let tail = processes[process].tail();
                        let upto = world.end().min(tail + entries as Seq);
                        for seq in tail + 1..=upto {
                            match world.log[seq as usize - 1] {
                                Some(who) => processes[process].mark(&user(who), seq),
                                None => processes[process].erased(seq),
                            }
                        }
                        processes[process].reached(upto);
                    }
                    Step::Publish { process, user: who } => {
                        let as_of = processes[process].tail();
                        let entries = world.entries(who);
                        let version = entries.last().copied().unwrap_or(0);
                        copies[who].push(Copy { age: Age { as_of, version }, entries });
                    }
                    Step::Use { process, user: who, pick } => {
                        let Some(at) = pick.checked_rem(copies[who].len()) else { continue };
                        let copy = &copies[who][at];
                        let recent = &processes[process];
                        let known = |seq: &Seq| *seq <= recent.tail() || own[process].contains(seq);
                        let erasure = (1..=world.end())
                            .filter(|seq| known(seq) && world.log[*seq as usize - 1].is_none())
                            .max();
                        if recent.may_be_shown(copy.age.as_of) && erasure.is_some() {
                            prop_assert!(Some(copy.age.as_of) >= erasure, "what was erased is shown");
                        }
                        if recent.proves(&user(who), copy.age) {
                            let must: Vec<Seq> = world.entries(who).into_iter().filter(known).collect();
                            prop_assert!(must.iter().all(|seq| copy.entries.contains(seq)), "{must:?} {copy:?}");
                        }
                    }
                    Step::Restart { process, back } => {
                        let position = processes[process].tail().saturating_sub(back as Seq);
                        processes[process] = Recent::new(slots);
                        processes[process].begin(position);
                        own[process].clear();
                    }
                }
            }
        }
    }

    #[test]
    fn a_copy_of_an_idle_user_stays_good_while_others_write() {
        let recent = Recent::new(1 << 16);
        recent.begin(10);
        for seq in 11..500 {
            recent.mark(&UserKey::user(&format!("other{seq}")), seq);
        }
        recent.reached(499);
        let ann = UserKey::user("ann");
        assert!(recent.proves(&ann, Age { as_of: 10, version: 3 }));
        assert!(!recent.proves(&ann, Age { as_of: 9, version: 3 }), "before this process began to follow");
        recent.mark(&ann, 500);
        assert!(!recent.proves(&ann, Age { as_of: 499, version: 3 }));
        assert!(recent.proves(&ann, Age { as_of: 499, version: 500 }), "its own version covers it");
        recent.erased(600);
        assert!(!recent.proves(&ann, Age { as_of: 599, version: 500 }));
        assert!(recent.proves(&ann, Age { as_of: 600, version: 500 }));
    }
}
