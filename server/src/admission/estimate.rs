//! How long work of one kind takes: an estimate that one measurement cannot spoil, and that follows what lasts.

use std::time::Instant;

/// So many measurements make a moving mean. Until then they weigh alike: the very first ranking reads cold memory and takes
/// ten times as long.
const KNOWN: u32 = 16;
/// Weight of the newest measurement in the moving mean after that, and in the moving deviation.
const NEWEST: f64 = 1.0 / KNOWN as f64;
const NEWEST_DEVIATION: f64 = 1.0 / 8.0;
/// A measurement above twice the mean and so many deviations counts for that (winsorized), and those of threads that stood
/// still with it, and so end with it, not at all. But only one in so many: others count in full, for when there are more,
/// such work does take that long.
const DEVIATIONS: f64 = 4.0;
const SELDOM: u32 = 64;

/// A moving mean and deviation, in seconds (as TCP estimates round trips; Jacobson 1988).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Moving {
    pub(super) mean: f64,
    pub(super) deviation: f64,
    /// The newest measurement as it was.
    pub(super) newest: f64,
    /// Measurements, up to [`KNOWN`].
    count: u32,
    /// When work ended that took so long, the last that counted, and how many were measured since one was winsorized.
    stall: Option<(Instant, u32)>,
}

impl Moving {
    /// One more measurement, of work that ended then.
    pub(super) fn add(&mut self, seconds: f64, ended: Instant) {
        self.newest = seconds;
        if self.count == 0 {
            (self.mean, self.deviation, self.count) = (seconds, seconds / 2.0, 1);
            return;
        }
        let Some(counted) = self.counted(seconds, ended) else { return };
        self.count = KNOWN.min(self.count + 1);
        let (error, alike) = (counted - self.mean, 1.0 / f64::from(self.count));
        self.mean += alike.max(NEWEST) * error;
        self.deviation += alike.max(NEWEST_DEVIATION) * (error.abs() - self.deviation);
    }

    /// What a measurement counts for; `None` when it is of a stall that was counted.
    fn counted(&mut self, seconds: f64, ended: Instant) -> Option<f64> {
        if let Some((_, since)) = &mut self.stall {
            *since = since.saturating_add(1);
        }
        let most = 2.0 * self.mean + DEVIATIONS * self.deviation;
        if self.count < KNOWN || seconds <= most {
            return Some(seconds);
        }
        match self.stall {
            Some((at, since)) if since < SELDOM => {
                if ended.saturating_duration_since(at).as_secs_f64() < 2.0 * self.mean {
                    return None;
                }
                self.stall = Some((ended, since));
                Some(seconds)
            }
            _ => {
                self.stall = Some((ended, 0));
                Some(most)
            }
        }
    }
}
