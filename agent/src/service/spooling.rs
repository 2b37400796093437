//! What outlives the agent: flash is opened here, tended once a tick, and left in order at the end.

use std::path::Path;

use glg_engine::engine::Engine;
use glg_engine::flash::{Flash, FlashError, NoFlash};
use glg_engine::spool::budget::Share;
use glg_engine::spool::store::StoreError;
use glg_proto::wire::{Body, Health, Timestamp};
use log::{info, warn};

use super::{Service, figures};
use crate::clock;
use crate::config::Config;
use crate::flash::FlashDir;

/// The configured directory; without one that can be used, everything is kept in memory, and the log says so.
pub(super) fn flash(config: &Config) -> Box<dyn Flash> {
    let dir = &config.spool.dir;
    if dir.is_empty() {
        info!("spool.dir is empty: alerts that wait are kept in memory alone");
        return Box::new(NoFlash);
    }
    match FlashDir::open(Path::new(dir)) {
        Ok(flash) => Box::new(flash),
        Err(error) => {
            warn!(
                "spool: {dir} cannot be used ({error}): alerts are kept IN MEMORY ALONE, and those not sent are \
                 lost when the agent ends"
            );
            Box::new(NoFlash)
        }
    }
}

/// Says what an earlier agent has left.
pub(super) fn say_found(engine: &Engine) {
    let figures = engine.outbox.figures();
    if figures.waiting > 0 {
        info!("spool: {} messages wait from before", figures.waiting);
    }
    if figures.damaged > 0 {
        warn!("spool: {} damaged records are left out", figures.damaged);
    }
    if engine.remembered() > 0 {
        info!("spool: the history of {} targets is remembered", engine.remembered());
    }
}

/// What is done now and then.
pub(super) struct Spooling {
    /// When the agent's own health is told next.
    health_ms: u64,
    /// What the log has said about messages kept in memory alone.
    said: Option<StoreError>,
}

impl Spooling {
    pub(super) fn new(config: &Config) -> Spooling {
        Spooling { health_ms: after(clock::now(), config), said: None }
    }
}

/// When the agent's health is to be told the next time.
fn after(now: Timestamp, config: &Config) -> u64 {
    match config.spool.health_s {
        0 => u64::MAX,
        seconds => now.mono_ms.saturating_add(u64::from(seconds) * 1000),
    }
}

impl Service {
    /// Once a tick.
    pub(super) fn tend_spool(&mut self) {
        let now = clock::now();
        self.engine.tend(now);
        let memory_only = self.engine.outbox.figures().memory_only;
        if memory_only != self.spooling.said && !self.config.spool.dir.is_empty() {
            match memory_only {
                Some(StoreError::Budget) => {
                    warn!("spool: the flash budget of the day is used up: in memory alone");
                }
                Some(StoreError::Flash(error)) => warn!("spool: {error}: in memory alone"),
                None => info!("spool: flash can be written again"),
            }
            self.spooling.said = memory_only;
        }
        if now.mono_ms >= self.spooling.health_ms {
            self.spooling.health_ms = after(now, &self.config);
            let health = self.health();
            let envelope = self.engine.envelope(now, Body::Health(health));
            // It always fits.
            let _ = self.engine.outbox.push(envelope);
        }
    }

    /// How the agent fares.
    pub(super) fn health(&self) -> Health {
        let figures = self.engine.outbox.figures();
        Health {
            targets: u16::try_from(self.engine.figures().targets).unwrap_or(u16::MAX),
            waiting: figures.waiting,
            spool_bytes: figures.spool_bytes,
            flash_bytes: figures.flash_bytes,
            memory_only: figures.memory_only.is_some(),
            evicted: figures.evicted,
            damaged: figures.damaged,
            airtime_bytes: u32::try_from(self.airtime.bytes()).unwrap_or(u32::MAX),
            rss_kib: u32::try_from(figures::status_kib().0).unwrap_or(u32::MAX),
        }
    }
}

/// The last thing an agent does: writes down what was acknowledged, and says what becomes of the rest.
pub(super) fn close_down(engine: &mut Engine) {
    match engine.checkpoint(Share::All) {
        Ok(0) | Err(StoreError::Flash(FlashError::Unavailable)) => {}
        Ok(bytes) => info!("spool: the history is kept, in {bytes} bytes"),
        Err(StoreError::Budget) => {
            warn!("spool: the history is not kept: the flash budget of the day is used up");
        }
        Err(StoreError::Flash(error)) => warn!("spool: the history is not kept: {error}"),
    }
    let figures = engine.outbox.figures();
    if figures.in_memory > 0 {
        warn!("{} alerts could not be sent and are lost", figures.in_memory);
    }
    let kept = figures.waiting.saturating_sub(figures.in_memory);
    if kept > 0 {
        info!("spool: {kept} messages wait for the next start");
    }
    if !engine.outbox.close_down() && figures.memory_only != Some(StoreError::Flash(FlashError::Unavailable))
    {
        info!("spool: what was acknowledged lately could not be written down: it may be sent again");
    }
}
