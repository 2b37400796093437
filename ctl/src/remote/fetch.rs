//! Collects the parts of a document, and asks for those that do not come.

use std::time::Duration;

use anyhow::{Result, bail};
use glg_proto::command::{Action, Outcome, Refusal};
use tokio::time::Instant;

use super::parts::{Parts, Store};
use super::session::{Event, Session};
use super::words;
use crate::console::{Progress, now_ms, say};
use crate::text::span;

/// How often everything is asked for once more because it was not what the device had announced.
const ANEW: u32 = 2;

/// Returns when the document is there and is what was announced.
pub(crate) async fn fetch<S: Store>(
    session: &mut Session<'_>,
    parts: &mut Parts<S>,
    coming: bool,
) -> Result<()> {
    let mut progress = Progress::begin(parts.made().bytes.into(), parts.have());
    let mut anew = 0;
    // Of a document that was asked for earlier nothing comes by itself.
    let mut silent = if coming { session.terms().silence } else { Duration::ZERO };
    loop {
        collect(session, parts, &mut progress, silent).await?;
        if parts.verify()? {
            return Ok(());
        }
        progress.pause();
        if anew == ANEW {
            bail!(
                "what came is not what {} announced, for the {}rd time: somebody else sends parts on this topic, or the \
                 link damages them",
                session.device(),
                anew + 1
            );
        }
        anew += 1;
        silent = Duration::ZERO;
        say("What came is not what the device announced; asking for all of it again.");
    }
}

/// Until no part is missing.
async fn collect<S: Store>(
    session: &mut Session<'_>,
    parts: &mut Parts<S>,
    progress: &mut Progress,
    mut silence: Duration,
) -> Result<()> {
    let mut last_new = Instant::now();
    while let Some(missing) = parts.first_missing() {
        let before = parts.have();
        match session.next(last_new + silence).await? {
            Event::Part(bytes) => {
                parts.take(&bytes)?;
            }
            Event::Nothing => {
                progress.pause();
                if silence > session.terms().patience {
                    bail!("no part has come for {}", span(last_new.elapsed().as_secs()));
                }
                ask_again(session, parts, missing).await?;
                silence = last_new.elapsed() + session.terms().silence;
            }
            Event::Ready | Event::State | Event::Receipt(_) => {}
        }
        if parts.have() > before {
            (last_new, silence) = (Instant::now(), session.terms().silence);
            progress.show(parts.have());
        }
    }
    Ok(())
}

/// Asks for the parts from the first missing one on.
async fn ask_again<S: Store>(session: &mut Session<'_>, parts: &mut Parts<S>, missing: u32) -> Result<()> {
    let action = Action::Send(parts.id(), missing);
    let answer = session.ask(&action, |part| Ok(parts.take(part).map(|_| ())?)).await?;
    match &answer.receipt.outcome {
        // What is still being sent comes by itself.
        Outcome::Sending | Outcome::Refused(Refusal::Busy) => Ok(()),
        Outcome::Refused(refusal) => bail!(words::refused(*refusal, &answer.receipt, &action, now_ms())),
        Outcome::Failed(failure) => bail!(words::failed(failure, session.device())),
        _ => bail!("{} answers something else than it was asked", session.device()),
    }
}
