//! Which Go built a program: only of plain releases it is known where the runtime keeps what we read.

use core::fmt;

use crate::memory::Error;

/// Experiments (`GOEXPERIMENT`) with and without which the members of our layouts are where the table says, in each
/// supported release whose toolchain knows them: by the DWARF of programs built either way, `boringcrypto` by the
/// sources. A program names those that differ from what its release does by default; `no` stands before those that
/// are off.
///
/// Not among them: `staticlockranking`, which makes every lock larger, `allocheaders`, without which the heap's
/// index is laid out otherwise, `regabiwrappers` and `regabiargs`, on which depends where probes find arguments,
/// and `preemptibleloops`, with which not every release compiles.
const HARMLESS: [&str; 28] = [
    "aliastypeparams",
    "arenas",
    "boringcrypto",
    "cacheprog",
    "cgocheck2",
    "coverageredesign",
    "dwarf5",
    "exectracer2",
    "fieldtrack",
    "goroutineleakprofile",
    "greenteagc",
    "heapminimum512kib",
    "jsonv2",
    "loopvar",
    "mapsplitgroup",
    "newinliner",
    "pagetrace",
    "randomizedheapbase64",
    "rangefunc",
    "runtimefreegc",
    "runtimesecret",
    "simd",
    "sizespecializedmalloc",
    "spinbitmutex",
    "swissmap",
    "synchashtriemap",
    "synctest",
    "unified",
];

/// A Go release: `go1.24.11` is `{ minor: 24, patch: 11 }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoVersion {
    /// The 24 of 1.24.11.
    pub minor: u16,
    /// The 11 of 1.24.11.
    pub patch: u8,
}

impl fmt::Display for GoVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1.{}.{}", self.minor, self.patch)
    }
}

/// `go1.24.11`, `go1.25`, `go1.24.11 X:boringcrypto`; `None` for what is no version at all. What a distributor has
/// put behind the number does not matter.
pub(super) fn parse(text: &str) -> Option<Result<GoVersion, Error>> {
    // "devel go1.24-0123abc", since Go 1.25 "go1.25-devel_0123abc" (cmd/dist/build.go, findgoversion).
    if text.starts_with("devel") || text.contains("-devel") {
        return Some(Err(Error::Unsupported("program of a development version of Go")));
    }
    let (minor, rest) = leading_number(text.strip_prefix("go1.")?)?;
    let (patch, rest) = rest.strip_prefix('.').and_then(leading_number).unwrap_or((0, rest));
    let version = GoVersion { minor: u16::try_from(minor).ok()?, patch: u8::try_from(patch).ok()? };
    if rest.starts_with("rc") || rest.starts_with("beta") {
        return Some(Err(Error::Unsupported("program of a release candidate or beta of Go")));
    }
    if !experiments(rest).all(|name| HARMLESS.contains(&name.strip_prefix("no").unwrap_or(name))) {
        return Some(Err(Error::Unsupported("program of a GOEXPERIMENT not known as harmless")));
    }
    Some(Ok(version))
}

/// The names behind the release: " X:a,b", since Go 1.26 also "-X:a,b" (cmd/link/internal/ld/main.go).
fn experiments(rest: &str) -> impl Iterator<Item = &str> {
    let list = rest.find(" X:").or_else(|| rest.find("-X:")).and_then(|at| rest.get(at + 3..));
    list.into_iter().flat_map(|list| list.split(' ').take(1)).flat_map(|list| list.split(','))
}

fn leading_number(text: &str) -> Option<(u32, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    Some((digits.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_as_go_and_distributors_write_them() {
        for (text, minor, patch) in [
            ("go1.24.11", 24, 11),
            ("go1.25", 25, 0),
            ("go1.21.13 (Red Hat 1.21.13-4.el9)", 21, 13),
            ("go1.19.8 X:boringcrypto", 19, 8),
            ("go1.25.5 X:nodwarf5,greenteagc,jsonv2", 25, 5),
            ("go1.26.6-X:nogreenteagc,goroutineleakprofile,runtimesecret", 26, 6),
            ("go1.24.11-vendor X:nospinbitmutex,noswissmap", 24, 11),
        ] {
            assert_eq!(parse(text), Some(Ok(GoVersion { minor, patch })), "{text}");
        }
    }

    /// What no table describes is not read with the row of the release that comes nearest.
    #[test]
    fn what_is_no_plain_release_is_refused() {
        for (text, what) in [
            ("devel go1.24-abcdef", "development"),
            ("go1.27-devel_abcdef", "development"),
            ("go1.27-devel_abcdef X:nodwarf5", "development"),
            ("go1.26rc1", "candidate"),
            ("go1.21rc2 X:boringcrypto", "candidate"),
            ("go1.18beta2", "candidate"),
            ("go1.25.5 X:staticlockranking", "GOEXPERIMENT"),
            ("go1.26.6-X:jsonv2,staticlockranking", "GOEXPERIMENT"),
            ("go1.22.10 X:boringcrypto,noallocheaders", "GOEXPERIMENT"),
            ("go1.24.11 X:noregabiargs,noregabiwrappers", "GOEXPERIMENT"),
            ("go1.24.11 X:of tomorrow", "GOEXPERIMENT"),
            ("go1.24.11 X:", "GOEXPERIMENT"),
        ] {
            let refused = parse(text);
            let Some(Err(Error::Unsupported(told))) = refused else { panic!("{text}: {refused:?}") };
            assert!(told.contains(what), "{text}: {told}");
        }
        for bad in ["", "go", "go1.", "go1.99999999999", "go1.24.999", "rust1.24"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
