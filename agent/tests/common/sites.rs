//! Where the goroutines of `kinds` come from and what they wait for: out of its own mouth, and by a census.

use std::collections::BTreeMap;

use glg_engine::census::Census;
use glg_engine::memory::Addr;
use serde_json::Value;

use super::{Program, Seen};

/// Function, file, line, state.
pub(crate) type Site = (String, String, u64, String);

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// What `kinds` says of itself. Goroutines that the runtime created have the creator "".
pub(crate) fn sites_inside(program: &mut Program) -> BTreeMap<Site, u64> {
    let mut sites = BTreeMap::new();
    for site in program.ask("sites").as_array().unwrap() {
        let creator = text(&site["created_by"]);
        let state = text(&site["state"]);
        // The main goroutine runs while it answers and waits for its input before and after.
        let state = if creator.is_empty() && state == "running" { "main".to_owned() } else { state };
        let key = (creator, text(&site["file"]), site["line"].as_u64().unwrap(), state);
        *sites.entry(key).or_default() += site["count"].as_u64().unwrap();
    }
    sites
}

/// What the census says, in the same words.
pub(crate) fn sites_outside(seen: &mut Seen, census: &Census) -> BTreeMap<Site, u64> {
    let mut sites = BTreeMap::new();
    for site in census.sites() {
        let wait = site.key.wait.as_str().to_owned();
        // Of what the runtime has created Go says nothing. That is the main goroutine, and those that run
        // finalisers and cleanups; for threads of C there is no such place at all.
        let key = if site.key.gopc == Addr(0) {
            (String::new(), String::new(), 0, wait)
        } else {
            let place = seen.runtime.creation(seen.remote.process().image, site.key.gopc).unwrap();
            match place.function.as_str() {
                // Go's start in assembly, or the wrapper through which it calls.
                "runtime.rt0_go" | "runtime.newproc" => (String::new(), String::new(), 0, "main".to_owned()),
                name if name.starts_with("runtime.") => (String::new(), String::new(), 0, wait),
                name => (name.to_owned(), place.file.to_string(), u64::from(place.line), wait),
            }
        };
        *sites.entry(key).or_default() += u64::from(site.count);
    }
    sites
}

/// Goroutines of the runtime that are blocked in a finaliser or a cleanup of `kinds`. Go's tracebacks show
/// them, its number of goroutines leaves them out.
pub(crate) fn lent(release: &str) -> u32 {
    let minor: u32 = release.split('.').nth(1).unwrap().parse().unwrap();
    if minor >= 25 { 2 } else { 1 }
}
