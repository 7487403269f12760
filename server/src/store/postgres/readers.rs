//! Connections that read: a few, kept open, for one read at a time each.
//!
//! A server that is not there is found out by one connection at a time; meanwhile every read that needs a new one fails
//! at once, so that a slate goes without instead of waiting. (A pool of sqlx waits for such a server, and asks each
//! connection that comes back whether it lives.)

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::error::Elapsed;

use super::session::{Server, failed, no_answer};
use crate::error::{Error, Result};

/// How long nothing is tried after a connection could not be opened.
const PAUSE: Duration = Duration::from_millis(100);
/// A connection is replaced at this age: names may lead to another server by then.
const AGE_MAX: Duration = Duration::from_secs(1_800);

/// Every connection that reads.
pub(super) struct Readers {
    shared: Arc<Shared>,
    /// A permit for each connection that is in use or being opened.
    room: Arc<Semaphore>,
    wait: Duration,
}

struct Shared {
    server: Server,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    idle: Vec<Reader>,
    /// Since the last attempt failed; when the next one may be made.
    down_until: Option<Instant>,
    is_probing: bool,
    is_closed: bool,
}

struct Reader {
    sql: PgConnection,
    opened: Instant,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, reader: Reader) {
        let mut state = self.lock();
        if !state.is_closed && reader.opened.elapsed() < AGE_MAX {
            state.idle.push(reader);
        }
    }
}

impl Readers {
    /// Opens nothing yet.
    pub(super) fn new(server: Server, connections_max: u32) -> Readers {
        let wait = server.read_wait;
        let room = Arc::new(Semaphore::new(connections_max as usize));
        Readers { shared: Arc::new(Shared { server, state: Mutex::default() }), room, wait }
    }

    /// A connection to read on. Unavailable when none is free in time, or the server is not there.
    pub(super) async fn take(&self) -> Result<View> {
        let is_down = self.shared.lock().down_until.is_some();
        let wait = if is_down { Duration::ZERO } else { self.wait };
        let permit = tokio::time::timeout(wait, Arc::clone(&self.room).acquire_owned())
            .await
            .map_err(|_| Error::unavailable("the store is busy", "store.read_connections_max connections are in use"))?
            .map_err(|_| Error::unavailable("the server is stopping", "the store is closed"))?;
        let idle = self.shared.lock().idle.pop();
        let (reader, permit) = match idle {
            Some(reader) => (reader, permit),
            None => self.open(permit).await?,
        };
        Ok(View { reader: Some(reader), shared: Arc::clone(&self.shared), _permit: permit })
    }

    /// In a task of its own: a caller who leaves does not undo what the next one needs.
    async fn open(&self, permit: OwnedSemaphorePermit) -> Result<(Reader, OwnedSemaphorePermit)> {
        {
            let mut state = self.shared.lock();
            if let Some(until) = state.down_until {
                if state.is_probing || Instant::now() < until {
                    return Err(Error::unavailable("the store is not available", "it could not be reached just now"));
                }
                state.is_probing = true;
            }
        }
        let (shared, wait) = (Arc::clone(&self.shared), self.wait);
        let (send, receive) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let opened = match tokio::time::timeout(wait, shared.server.connect_to_read()).await {
                Ok(opened) => opened.map_err(failed("connecting")),
                Err(_) => Err(no_answer()),
            };
            {
                let mut state = shared.lock();
                state.is_probing = false;
                state.down_until = opened.is_err().then(|| Instant::now() + PAUSE);
            }
            let opened = opened.map(|sql| (Reader { sql, opened: Instant::now() }, permit));
            if let Err(Ok((reader, _permit))) = send.send(opened) {
                shared.keep(reader);
            }
        });
        receive.await.unwrap_or_else(|_| Err(Error::unavailable("the server is stopping", "the runtime has ended")))
    }

    /// Lets running reads end and closes.
    pub(super) async fn close(&self) {
        self.room.close();
        let idle = {
            let mut state = self.shared.lock();
            state.is_closed = true;
            std::mem::take(&mut state.idle)
        };
        for reader in idle {
            if tokio::time::timeout(self.wait, reader.sql.close()).await.is_err() {
                tracing::warn!("a connection of the store was not closed in time");
            }
        }
    }
}

/// A connection in use. It is kept only when a read ended on it in good order: one that failed, or was left in the middle
/// by a caller whose time was over, is closed.
pub(super) struct View {
    reader: Option<Reader>,
    shared: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
}

impl View {
    /// What the read brought.
    pub(super) fn settle<T>(mut self, done: Result<Result<T>, Elapsed>) -> Result<T> {
        let done = done.unwrap_or_else(|_| Err(no_answer()));
        if !matches!(done, Err(Error::Unavailable { .. }))
            && let Some(reader) = self.reader.take()
        {
            self.shared.keep(reader);
        }
        done
    }
}

impl Deref for View {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.reader.as_ref().expect("taken only when it is settled").sql
    }
}

impl DerefMut for View {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.reader.as_mut().expect("taken only when it is settled").sql
    }
}
