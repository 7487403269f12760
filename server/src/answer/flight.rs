//! Equal questions that come at once are ranked once: the first leads, the others take what it brings.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::cache::{Entry, Key, State};

type Question = (Key, State);
type Landing = watch::Receiver<Option<Entry>>;

/// The rankings that run now, by question: never more than there are calls in flight.
#[derive(Default)]
pub struct Flights {
    running: Mutex<HashMap<Question, Landing>>,
}

/// What a caller is to its question.
pub(super) enum Boarding<'f> {
    /// The first: it ranks.
    Lead(Leader<'f>),
    /// Another one ranks already.
    Follow(Landing),
}

/// The one who ranks. Dropped without an entry, it leaves its followers to themselves.
pub(super) struct Leader<'f> {
    flights: &'f Flights,
    question: Question,
    entry: watch::Sender<Option<Entry>>,
}

impl Flights {
    pub(super) fn board(&self, key: &Key, state: State) -> Boarding<'_> {
        let question = (key.clone(), state);
        let mut running = self.running();
        if let Some(landing) = running.get(&question) {
            return Boarding::Follow(landing.clone());
        }
        let (entry, landing) = watch::channel(None);
        running.insert(question.clone(), landing);
        Boarding::Lead(Leader { flights: self, question, entry })
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Question, Landing>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leader<'_> {
    /// Hands it to the followers. It must be in the cache already: whoever comes later finds it there.
    pub(super) fn land(self, entry: Entry) {
        self.entry.send_replace(Some(entry));
    }
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        self.flights.running().remove(&self.question);
    }
}

/// What the leader brought; `None` when it failed.
pub(super) async fn landing(mut landing: Landing) -> Option<Entry> {
    landing.wait_for(Option::is_some).await.ok().and_then(|entry| entry.clone())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::answer::Told;

    const STATE: State = State { profile: 1, item_changes: 1 };

    fn key() -> Key {
        Key::new("u:ann", &[b"question"])
    }

    fn entry() -> Entry {
        let told = Told { variant: Bytes::new(), bundle_version: Bytes::new() };
        let body = Bytes::from_static(b"body");
        Entry { state: STATE, as_of: 0, old_from_ms: 1, expires_ms: 2, body, ranked_id: "r".into(), told }
    }

    #[tokio::test]
    async fn one_ranks_and_the_others_take_it() {
        let flights = Arc::new(Flights::default());
        let Boarding::Lead(leader) = flights.board(&key(), STATE) else { panic!("nobody was first") };
        assert!(matches!(flights.board(&key(), State { profile: 2, ..STATE }), Boarding::Lead(_)), "another state");
        let followers: Vec<_> = (0..3)
            .map(|_| match flights.board(&key(), STATE) {
                Boarding::Follow(follower) => tokio::spawn(landing(follower)),
                Boarding::Lead(_) => panic!("two lead"),
            })
            .collect();
        leader.land(entry());
        for follower in followers {
            assert_eq!(follower.await.unwrap(), Some(entry()));
        }
        assert!(flights.running().is_empty());
    }

    #[tokio::test]
    async fn a_leader_that_gives_up_leaves_the_others_to_themselves() {
        let flights = Flights::default();
        let leader = flights.board(&key(), STATE);
        let Boarding::Follow(follower) = flights.board(&key(), STATE) else { panic!("two lead") };
        drop(leader);
        assert_eq!(landing(follower).await, None);
        assert!(matches!(flights.board(&key(), STATE), Boarding::Lead(_)));
    }
}
