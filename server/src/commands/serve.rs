//! `marquee serve`

use tokio::signal::unix::{SignalKind, signal};

use crate::app::{App, Listeners};
use crate::clock::Clock;
use crate::config::Config;

/// Serves until SIGTERM or SIGINT, then drains. Addresses are logged once calls are answered.
///
/// # Errors
/// An address is taken, the store cannot be opened, a listener fails.
pub(super) async fn run(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listeners = Listeners::bind(&config).await?;
    let offset_ms = config.server.clock_offset_ms;
    let app = App::build(config, Clock::shifted(offset_ms)).await?;
    tracing::info!(
        grpc = %listeners.public.local_addr()?,
        admin = %listeners.admin.local_addr()?,
        metrics = %listeners.metrics.local_addr()?,
        "listening"
    );
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => (),
            _ = interrupt.recv() => (),
        }
    };
    app.run(listeners, stop).await
}
