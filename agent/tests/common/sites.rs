//! Where the goroutines of `kinds` come from and what they wait for: out of its own mouth, and by a census.

use std::collections::BTreeMap;

use glg_engine::census::Census;
use serde_json::Value;

use super::{Program, Seen};

/// Function, file, line, state.
pub(crate) type Site = (String, String, u64, String);

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// What `kinds` says of itself; the main goroutine, which answers, under its creator's name "".
pub(crate) fn sites_inside(program: &mut Program) -> BTreeMap<Site, u64> {
    let mut sites = BTreeMap::new();
    for site in program.ask("sites").as_array().unwrap() {
        let creator = text(&site["created_by"]);
        // It runs while it answers and waits for its input before and after.
        let state = if creator.is_empty() { "main".to_owned() } else { text(&site["state"]) };
        let key = (creator, text(&site["file"]), site["line"].as_u64().unwrap(), state);
        *sites.entry(key).or_default() += site["count"].as_u64().unwrap();
    }
    sites
}

/// What the census says, in the same words.
pub(crate) fn sites_outside(seen: &mut Seen, census: &Census) -> BTreeMap<Site, u64> {
    let mut sites = BTreeMap::new();
    for site in census.sites() {
        let place = seen.runtime.creation(seen.remote.process().image, site.key.gopc).unwrap();
        // The main goroutine is created by the runtime's assembly, of which Go says nothing.
        let key = if place.function.starts_with("runtime.") {
            (String::new(), String::new(), 0, "main".to_owned())
        } else {
            let (function, file) = (place.function.to_string(), place.file.to_string());
            (function, file, u64::from(place.line), site.key.wait.as_str().to_owned())
        };
        *sites.entry(key).or_default() += u64::from(site.count);
    }
    sites
}
