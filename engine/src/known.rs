//! Goroutines that well-known libraries begin, recognised by the names of their functions, and the call without
//! which they stay. A hint for what is a finding already: programs that forget nothing have such goroutines too.

mod table;

use alloc::string::String;
use alloc::vec::Vec;

use glg_proto::wire::FUNCTION_MAX;

pub use table::KNOWN;

/// Functions that begin a goroutine for whoever calls them: who that is, is on the goroutine's stack.
const FOR_OTHERS: &[&str] = &[
    "sync.(*WaitGroup).Go",
    "golang.org/x/sync/errgroup.(*Group).Go",
    "k8s.io/apimachinery/pkg/util/wait.(*Group).Start",
];

/// Whose functions may stand between what tells and the wait itself: Go's own, and what libraries are made of. What
/// waits in any other function waits for the user's code, whoever called that.
const NEUTRAL: &[&str] = &[
    "bufio",
    "bytes",
    "compress",
    "context",
    "crypto",
    "database",
    "encoding",
    "fmt",
    "hash",
    "internal",
    "io",
    "log",
    "net",
    "os",
    "reflect",
    "runtime",
    "sync",
    "syscall",
    "time",
    "golang.org/x",
    "google.golang.org",
    "k8s.io",
];

type Names = &'static [&'static str];

/// One pattern. Names are those of the source: without major versions in import paths (`/v2`), without the `vendor`
/// folder, type arguments and numbers of closures.
#[derive(Debug, PartialEq, Eq)]
pub struct Known {
    /// What such goroutines belong to.
    pub what: &'static str,
    /// The call that is likely missing, short enough for an alert.
    pub call: &'static str,
    /// Where all of these functions are.
    packages: Names,
    /// Functions that hold the `go` statement; empty when any may.
    creators: Names,
    /// Functions of which one must be on the stack; empty when none has to.
    frames: Names,
}

/// What goroutines are part of that `created_by` created and that stand in `frames`, the innermost first.
pub fn recognise<'a>(created_by: &str, frames: impl Iterator<Item = &'a str>) -> Option<&'static Known> {
    let creator = Name::of(created_by);
    let frames: Vec<Name> = frames.map(Name::of).collect();
    rows().find(|row| row.fits(&creator, &frames))
}

/// The same by the creating function alone, which may have lost its beginning, as in an alert
/// ([`glg_proto::wire::tail`]). Functions that create goroutines of several kinds tell nothing then.
#[must_use]
pub fn recognise_creator(created_by: &str) -> Option<&'static Known> {
    let creator = Name::of(created_by);
    rows().find(|row| row.frames.is_empty() && row.creators.iter().any(|f| row.ends_so(f, &creator)))
}

fn rows() -> impl Iterator<Item = &'static Known> {
    KNOWN.iter().copied().flatten()
}

/// Told by who created them.
const fn created(what: &'static str, call: &'static str, packages: Names, creators: Names) -> Known {
    Known { what, call, packages, creators, frames: &[] }
}

/// Told by where they stand, whoever created them.
const fn standing(what: &'static str, call: &'static str, packages: Names, frames: Names) -> Known {
    Known { what, call, packages, creators: &[], frames }
}

impl Known {
    /// Only those that stand there.
    const fn standing_in(mut self, frames: Names) -> Known {
        self.frames = frames;
        self
    }

    fn fits(&self, creator: &Name, stack: &[Name]) -> bool {
        let any = |functions: &[&str], name: &Name| functions.iter().any(|f| self.is(f, name));
        let created = self.creators.is_empty()
            || any(self.creators, creator)
            || FOR_OTHERS.contains(&creator.text.as_str())
                && stack.iter().any(|frame| any(self.creators, frame));
        let tells = |frame: &Name| match self.frames {
            [] => self.has(frame).is_some(),
            frames => any(frames, frame),
        };
        let told = stack.iter().position(tells);
        let inner = stack.get(..told.unwrap_or(stack.len())).unwrap_or_default();
        created
            && (told.is_some() || self.frames.is_empty())
            && inner.iter().all(|frame| self.is_of_library(frame) || frame.is_neutral())
    }

    fn is_of_library(&self, name: &Name) -> bool {
        let mut rest = self.packages.iter().filter_map(|package| name.text.strip_prefix(root(package)));
        rest.any(|rest| rest.starts_with(['/', '.']))
    }

    /// The function's name within one of these packages.
    fn has<'n>(&self, name: &'n Name) -> Option<&'n str> {
        self.packages.iter().find_map(|package| name.text.strip_prefix(package)?.strip_prefix('.'))
    }

    /// Whether `name` is `function` of one of these packages.
    fn is(&self, function: &str, name: &Name) -> bool {
        let Some(found) = self.has(name) else { return false };
        // Where the compiler has put a method into another function, its closures have the names of both.
        let within = name.closure && function.starts_with('(');
        found == function || within && found.strip_suffix(function).is_some_and(|outer| outer.ends_with('.'))
    }

    /// The same of a name that may have been cut.
    fn ends_so(&self, function: &str, name: &Name) -> bool {
        let head = name.text.strip_suffix(function).and_then(|head| head.strip_suffix('.'));
        let Some(head) = head else { return false };
        self.packages.iter().any(|package| name.may_be_of(package, head))
    }
}

/// A function's name as the table has it.
struct Name {
    text: String,
    /// Whether it is of a closure in that function.
    closure: bool,
    /// Length before.
    bytes: usize,
}

impl Name {
    fn of(printed: &str) -> Name {
        let mut text = without_versions(&unescaped(&without_brackets(printed)));
        let vendored = text.rsplit_once("/vendor/").map(|(_, rest)| rest).or(text.strip_prefix("vendor/"));
        if let Some(rest) = vendored {
            text = String::from(rest);
        }
        let mut closure = false;
        while let Some((function, _)) = text.rsplit_once('.').filter(|(_, last)| is_closure(last)) {
            text.truncate(function.len());
            closure = true;
        }
        Name { text, closure, bytes: printed.len() }
    }

    /// Whether this was in `package`, of whose path a cut may have left `head` alone.
    fn may_be_of(&self, package: &str, head: &str) -> bool {
        if package == head {
            return true;
        }
        // All of the package is lost where the cut left no more of it than a version.
        let all = head.is_empty().then_some(package);
        let lost = package.strip_suffix(head).and_then(|lost| lost.strip_suffix('/')).or(all);
        if let Some(lost) = lost {
            // A cut takes no element that would have fitted.
            let last = lost.rsplit('/').next().unwrap_or_default();
            return self.bytes + "/".len() + last.len() > FUNCTION_MAX;
        }
        // Where an element is longer than the room there is, the cut is within it, or within an escape.
        let within = self.bytes == FUNCTION_MAX && !head.contains('/');
        within && (0..=2).filter_map(|escape| head.get(escape..)).any(|rest| package.ends_with(rest))
    }

    fn is_neutral(&self) -> bool {
        let mut rest = NEUTRAL.iter().filter_map(|package| self.text.strip_prefix(package));
        rest.any(|rest| rest.starts_with(['/', '.']))
    }
}

/// The library that a package is of: `github.com/nats-io/nats.go`, `google.golang.org/grpc`, `net/http`.
fn root(package: &str) -> &str {
    let elements = if package.starts_with("github.com/") { 3 } else { 2 };
    let end = package.match_indices('/').nth(elements - 1).map_or(package.len(), |(at, _)| at);
    package.get(..end).unwrap_or(package)
}

/// Without type arguments, `[...]`.
fn without_brackets(name: &str) -> String {
    let mut depth = 0_usize;
    let outside = |c: &char| {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => return depth == 0,
        }
        false
    };
    name.chars().filter(outside).collect()
}

/// With the characters that Go's linker escapes in the last element of an import path: `nats%2ego`.
fn unescaped(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    let mut rest = name;
    while let Some((before, after)) = rest.split_once('%') {
        text.push_str(before);
        let code = after.get(..2).and_then(|code| u8::from_str_radix(code, 16).ok()).filter(u8::is_ascii);
        text.push(code.map_or('%', char::from));
        rest = if code.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    text.push_str(rest);
    text
}

/// Without major versions: `mongo-driver/v2/mongo`, `client/v3.New`.
fn without_versions(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for element in name.split('/') {
        let head = element.split('.').next().unwrap_or_default();
        let version = head.strip_prefix('v').is_some_and(is_number);
        if version {
            text.push_str(element.get(head.len()..).unwrap_or_default());
            continue;
        }
        if !text.is_empty() {
            text.push('/');
        }
        text.push_str(element);
    }
    text
}

/// `func1`, `2`, `gowrap1`, `deferwrap1`, `func1-range1`, `Method-fm`.
fn is_closure(part: &str) -> bool {
    let part = part.split('-').next().unwrap_or_default();
    let number = ["func", "gowrap", "deferwrap"].iter().find_map(|word| part.strip_prefix(word));
    is_number(number.unwrap_or(part))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests;
