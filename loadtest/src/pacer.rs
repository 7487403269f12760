//! Waits for an instant, finer than the runtime's timers: those know milliseconds, a schedule at 20,000 requests a
//! second needs fifty microseconds.

use std::time::{Duration, Instant};

/// Shorter waits give the turn to other tasks instead of setting a timer.
const YIELD_BELOW: Duration = Duration::from_micros(15);

/// A timer of one task.
pub(crate) struct Pacer {
    timer: timer::Timer,
}

impl Pacer {
    /// # Errors
    /// The system gives no timer.
    pub(crate) fn new() -> std::io::Result<Pacer> {
        Ok(Pacer { timer: timer::Timer::new()? })
    }

    /// Ends at that instant, or as soon after it as this thread is free.
    pub(crate) async fn until(&mut self, instant: Instant) {
        loop {
            let left = instant.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            if left < YIELD_BELOW || self.timer.wait(left).await.is_err() {
                tokio::task::yield_now().await;
            }
        }
    }
}

#[cfg(target_os = "linux")]
mod timer {
    use std::io::{Error, ErrorKind, Result};
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
    use tokio::io::unix::AsyncFd;

    pub(super) struct Timer(AsyncFd<OwnedFd>);

    impl Timer {
        pub(super) fn new() -> Result<Timer> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
            // SAFETY: the descriptor is owned by what is registered: the same one, open, until it is deregistered.
            Ok(Timer(unsafe { AsyncFd::register(timer)? }))
        }

        pub(super) async fn wait(&mut self, time: Duration) -> Result<()> {
            let never = Timespec { tv_sec: 0, tv_nsec: 0 };
            let value = Timespec::try_from(time).map_err(|_| Error::from(ErrorKind::InvalidInput))?;
            let once = Itimerspec { it_interval: never, it_value: value };
            rustix::time::timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
            loop {
                let mut ready = self.0.readable().await?;
                let mut expirations = [0; 8];
                let read = ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut expirations)?));
                if let Ok(read) = read {
                    return read.map(|_| ());
                }
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod timer {
    use std::io::Result;
    use std::time::Duration;

    /// The runtime's own; runs at high rates will be found invalid.
    pub(super) struct Timer;

    impl Timer {
        pub(super) fn new() -> Result<Timer> {
            Ok(Timer)
        }

        pub(super) async fn wait(&mut self, time: Duration) -> Result<()> {
            tokio::time::sleep(time).await;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn it_never_ends_before_the_instant() {
        let mut pacer = Pacer::new().unwrap();
        for micros in [0, 3, 40, 700, 2_500] {
            let instant = Instant::now() + Duration::from_micros(micros);
            pacer.until(instant).await;
            assert!(Instant::now() >= instant, "{micros}");
        }
    }
}
