//! What time it is. The only place that asks the operating system, so that a test can say otherwise.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use marquee_engine::types::TimeMs;

/// Where the present moment comes from.
#[derive(Clone, Default)]
pub struct Clock {
    fixed: Option<Arc<AtomicI64>>,
    offset_ms: i64,
}

impl Clock {
    /// The operating system's clock.
    pub fn system() -> Clock {
        Clock::shifted(0)
    }

    /// The operating system's clock and so much more, or less: for serving a log of the past as if it were then.
    pub fn shifted(offset_ms: i64) -> Clock {
        Clock { fixed: None, offset_ms }
    }

    /// A clock that stands still until it is [set](Clock::set). For tests and replays.
    pub fn fixed(now_ms: TimeMs) -> Clock {
        Clock { fixed: Some(Arc::new(AtomicI64::new(now_ms))), offset_ms: 0 }
    }

    /// Milliseconds since the Unix epoch, UTC.
    pub fn now_ms(&self) -> TimeMs {
        match &self.fixed {
            Some(now) => now.load(Ordering::Relaxed),
            None => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| TimeMs::try_from(since.as_millis()).unwrap_or(TimeMs::MAX))
                .saturating_add(self.offset_ms),
        }
    }

    /// Moves a fixed clock; the system's clock takes no orders.
    pub fn set(&self, now_ms: TimeMs) {
        if let Some(now) = &self.fixed {
            now.store(now_ms, Ordering::Relaxed);
        }
    }
}
