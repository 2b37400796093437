//! Real Go programs that nobody here built, as Debian ships them: what is read of them from outside equals what
//! they say of themselves through their own pprof, or, where they have none, with their last words. Needs root,
//! and the daemons of `cargo xtask setup daemons`.
//!
//! A request is answered by two goroutines. The one of the connection is there before and after, too, and
//! waits then: it is compared by its outer functions. The other notices that the client goes away
//! (`net/http/server.go`, `startBackgroundRead`); it lives as long as the request and is seen inside only.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;
#[path = "daemons/http.rs"]
mod http;
#[path = "daemons/listed.rs"]
mod listed;
#[path = "daemons/sandbox.rs"]
mod sandbox;
#[path = "daemons/stacks.rs"]
mod stacks;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Instant;

use common::{PATIENCE, Seen, agent, eventually};
use glg_engine::census::Census;
use glg_engine::goroutines::Walker;
use http::Http;
use listed::assert_listed;
use sandbox::{Daemon, Spec, isolated};
use stacks::{
    Site, Stacks, assert_complete, assert_same, crash_stacks, function, plain, shared, sites, stacks, state,
    steady, without_wrappers,
};

const CHUNK: usize = 64 * 1024;
const SITES: usize = 512;
const MANY: u64 = 200_000;

const NODE_EXPORTER: Spec = Spec {
    program: "/usr/bin/prometheus-node-exporter",
    arguments: &["--web.listen-address=127.0.0.1:9100"],
    environment: &[],
    files: &[],
    ready: "Listening on",
};
const ETCD: Spec = Spec {
    program: "/usr/bin/etcd",
    arguments: &["--enable-pprof", "--data-dir=/tmp/etcd"],
    // This release does not start on arm64 otherwise.
    environment: &[("ETCD_UNSUPPORTED_ARCH", "arm64")],
    files: &[],
    ready: "ready to serve client requests",
};
const NATS: Spec = Spec {
    program: "/usr/sbin/nats-server",
    arguments: &["--config", "/etc/nats.conf"],
    environment: &[],
    files: &[(
        "/etc/nats.conf",
        "host: 127.0.0.1\nport: 4222\nhttp: 127.0.0.1:8222\nprof_port: 8223\n\
         jetstream { store_dir: /tmp/nats }\n",
    )],
    ready: "Server is ready",
};
const SYNCTHING: Spec = Spec {
    program: "/usr/bin/syncthing",
    arguments: &["serve", "--no-browser", "--home=/tmp/syncthing"],
    // As if its monitor had started it: otherwise that one is what we start.
    environment: &[("STMONITORED", "yes"), ("STPROFILER", "127.0.0.1:9090"), ("STNOUPGRADE", "1")],
    files: &[],
    ready: "GUI and API listening on",
};
/// Without snaps it would end after half a minute, to be started again when somebody asks for it.
const SNAPD: Spec = Spec {
    program: "/usr/lib/snapd/snapd",
    arguments: &[],
    environment: &[("SNAPD_DEBUG", "1"), ("SNAPD_STANDBY_WAIT", "1h")],
    files: &[],
    ready: "Mark system seeded",
};

/// What `goleakguard dump` prints; `None` when goroutines came or went meanwhile.
fn dump(pid: u32, arguments: &[&str]) -> Option<String> {
    let output = Command::new(agent()).args(["dump", "--pid", &pid.to_string()]).args(arguments).output();
    let output = output.unwrap();
    let remarks = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && !remarks.contains("to their end"), "{}: {remarks}", output.status);
    remarks.is_empty().then(|| String::from_utf8(output.stdout).unwrap())
}

/// What a program says of itself when it is asked.
struct Answer {
    /// The goroutine that answers.
    answering: u64,
    /// All but the two that are there for the answer.
    others: Stacks,
    /// debug=1, of another request.
    profile: String,
}

impl Answer {
    /// Whether a later answer is the same, arguments aside. The goroutine that has noticed the end of a request
    /// may still be there at the next one.
    fn is_quiet(&self, later: &Answer) -> bool {
        plain(&self.others) == plain(&later.others)
            && total(&self.profile) == total(&later.profile)
            && profile_stacks(&self.profile) == profile_stacks(&later.profile)
    }
}

fn ask(http: &mut Http) -> Answer {
    let mut others = stacks(&http.get("/debug/pprof/goroutine?debug=2"));
    // The world is stopped: nobody else runs.
    let running = others.iter().filter(|(_, lines)| state(lines) == "running").map(|(number, _)| *number);
    let &[answering] = running.collect::<Vec<_>>().as_slice() else { panic!("who answers? {others:#?}") };
    let lines = others.remove(&answering).unwrap();
    assert!(!outer_functions(&lines).is_empty(), "{lines:#?}");
    // Of those that watch a connection while it is served: other requests take their time, ours began last.
    let watches = |lines: &[String]| {
        lines.iter().any(|line| line.starts_with("created by net/http.(*connReader).startBackgroundRead"))
    };
    let watching = others.iter().rev().find(|(_, lines)| watches(lines)).map(|(number, _)| *number);
    others.remove(&watching.expect("nobody watches the connection"));
    Answer { answering, others, profile: http.get("/debug/pprof/goroutine?debug=1") }
}

/// All that is read from outside.
struct Look {
    dump: Stacks,
    grouped: String,
    count: u32,
    census: BTreeMap<Site, u32>,
    census_total: u32,
}

impl Look {
    /// Whether nobody runs, and a later look is the same. Arguments aside: a program that ticks comes back to the
    /// same place with other values.
    fn is_quiet(&self, later: &Look) -> bool {
        let totals = |look: &Look| (look.count, look.census_total);
        let runs = |lines: &Vec<String>| matches!(state(lines), "running" | "runnable");
        !self.dump.values().any(runs)
            && totals(self) == totals(later)
            && self.census == later.census
            && self.grouped == later.grouped
            && plain(&self.dump) == plain(&later.dump)
    }
}

/// `None` when goroutines came or went meanwhile.
fn look(seen: &mut Seen) -> Option<Look> {
    let pid = seen.remote.id.pid;
    let (dump, grouped) = (stacks(&dump(pid, &[])?), dump(pid, &["--grouped"])?);
    let count = seen.count().unwrap();
    let (mut walker, mut census) = (Walker::new(CHUNK), Census::new(SITES));
    let process = seen.remote.process();
    census.take(&mut walker, &seen.runtime, process.memory, process.image, MANY).unwrap();
    assert_eq!(census.other, 0);
    let mut sites = BTreeMap::new();
    for found in census.sites() {
        let place = seen.runtime.creation(process.image, found.key.gopc).unwrap();
        let wait = found.key.wait.as_str().to_owned();
        // Of what the runtime has created Go says nothing: the main goroutine.
        let site = match place.function.as_str() {
            name if name.starts_with("runtime.") => (String::new(), String::new(), 0, wait),
            name => (name.to_owned(), place.file.to_string(), u64::from(place.line), wait),
        };
        *sites.entry(site).or_default() += found.count;
    }
    Some(Look { dump, grouped, count, census: sites, census_total: census.total() })
}

/// What is read from outside agrees with itself.
fn assert_sound(what: &str, look: &Look, least: usize) {
    let all = look.dump.len();
    assert!(all >= least, "{what}: {all} goroutines");
    assert_complete(what, &look.dump);
    assert_eq!((look.count as usize, look.census_total as usize), (all, all), "{what}");
    assert_eq!(total(&look.grouped), look.count, "{what}");
    assert_same(&format!("{what}, sites"), &sites(&look.dump), &look.census);
}

/// Functions of the goroutine of a connection that are the same whatever it does, and where it was created.
fn outer_functions(lines: &[String]) -> Vec<&str> {
    let functions = lines.iter().skip(1).filter(|line| !line.starts_with('\t')).map(|line| function(line));
    functions.skip_while(|function| *function != "net/http.(*conn).serve").collect()
}

/// Compares all there is to compare with the program's own pprof, at a quiet moment: both sides are asked twice
/// in turn, and say the same the second time.
fn compare(what: &str, seen: &mut Seen, http: &mut Http, least: usize) {
    let mut looks = 0;
    let (mut outside, inside, steady) = eventually("a quiet moment", || {
        looks += 1;
        let (outside, inside) = (look(seen)?, ask(http));
        let (then, said) = (look(seen)?, ask(http));
        // Where both sides say that nothing has changed meanwhile, arguments are compared, too.
        let steady = [steady(&inside.others, &said.others), steady(&outside.dump, &then.dump)];
        (outside.is_quiet(&then) && inside.is_quiet(&said)).then_some((outside, inside, steady))
    });
    assert_sound(what, &outside, least);
    // The one more is there for the answer, as told above.
    assert_eq!(total(&inside.profile), outside.count + 1, "{what}");
    let [profile, grouped] = [&inside.profile, &outside.grouped].map(|text| profile_stacks(text));
    assert_same(&format!("{what}, profile"), &profile, &grouped);
    let waiting = outside.dump.remove(&inside.answering);
    let waiting = waiting.unwrap_or_else(|| panic!("{what}: {} answers, who is that?", inside.answering));
    assert_eq!(outer_functions(&waiting).len(), 2, "{what}: {waiting:#?}");
    assert_same(what, &plain(&inside.others), &plain(&outside.dump));
    let whole = shared(&steady[0], &steady[1]);
    assert_same(&format!("{what}, arguments"), &whole, &shared(&steady[1], &steady[0]));
    assert!(whole.len() * 2 >= least, "{what}: {} goroutines with arguments", whole.len());
    let (count, sites, whole) = (outside.count, outside.census.len(), whole.len());
    println!("{what}: {count} goroutines at {sites} sites equal, {whole} with arguments, look {looks}");
}

/// The number that a profile begins with.
fn total(profile: &str) -> u32 {
    let total = profile.lines().next().and_then(|line| line.strip_prefix("goroutine profile: total "));
    total.unwrap_or_else(|| panic!("no total: {profile}")).parse().unwrap()
}

/// Stacks of a profile without those that are there for the answer, columns no longer aligned.
fn profile_stacks(profile: &str) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for block in profile.trim_end().split_once('\n').unwrap().1.split("\n\n") {
        let answers = ["net/http.(*conn).serve+", "net/http.(*connReader).backgroundRead+"];
        // The second of them may not have begun to run: it has no function yet.
        if answers.iter().any(|function| block.contains(function)) || !block.contains('#') {
            continue;
        }
        let (count, stack) = block.split_once(" @").unwrap_or_else(|| panic!("no stack: {block}"));
        let stack = stack.split('\t').filter(|column| !column.is_empty()).collect::<Vec<_>>().join("\t");
        assert!(all.insert(stack, count.parse().unwrap()).is_none(), "twice: {block}");
    }
    all
}

/// The Go release, out of the program's own mouth: `text` holds something like `go1.19.8`.
fn assert_release(what: &str, seen: &Seen, text: &str) {
    let release = text.split("go1.").nth(1).and_then(|rest| rest.split([' ', '"', ',', ')']).next());
    let release = release.unwrap_or_else(|| panic!("{what}: no release in {text}"));
    assert_eq!(seen.runtime.go.to_string(), format!("1.{release}"), "{what}");
}

/// A value of `/metrics`.
fn metric<'a>(metrics: &'a str, name: &str) -> &'a str {
    let line = metrics.lines().find(|line| line.starts_with(name));
    line.unwrap_or_else(|| panic!("no {name}:\n{metrics}")).trim_start_matches(name)
}

/// The number in the metrics has the goroutines that collect them, too: it says only that ours is not higher.
fn assert_metrics(_: &Daemon, seen: &mut Seen, http: &mut Http) {
    let count = seen.count().unwrap();
    let metrics = http.get("/metrics");
    assert_release("/metrics", seen, metric(&metrics, "go_info"));
    let inside: u32 = metric(&metrics, "go_goroutines ").parse().unwrap();
    assert!(inside > count, "{count} goroutines, {inside} while it answers");
}

/// An open daemon, with the places for probes.
fn open(daemon: &Daemon) -> Seen {
    let seen = Seen::open(daemon.pid());
    assert!(seen.runtime.lifecycle.is_some());
    seen
}

/// Starts a daemon and compares it with its own pprof on `port`.
fn compare_daemon(
    what: &str,
    spec: &Spec,
    port: u16,
    least: usize,
    more: impl FnOnce(&Daemon, &mut Seen, &mut Http) + Send,
) {
    isolated(|| {
        let daemon = Daemon::start(spec);
        let (mut seen, mut http) = (open(&daemon), Http::open(port));
        compare(what, &mut seen, &mut http, least);
        assert_listed(spec, &daemon, &mut seen);
        more(&daemon, &mut seen, &mut http);
    });
}

#[test]
fn node_exporter() {
    compare_daemon("node-exporter", &NODE_EXPORTER, 9100, 3, assert_metrics);
}

#[test]
fn etcd() {
    compare_daemon("etcd", &ETCD, 2379, 30, assert_metrics);
}

#[test]
fn nats_server() {
    compare_daemon("nats-server", &NATS, 8223, 8, |_, seen, _| {
        let about = Http::open(8222).get("/varz");
        let release = about.lines().find(|line| line.contains("\"go\":")).unwrap();
        assert_release("nats-server", seen, release);
    });
}

#[test]
fn syncthing() {
    compare_daemon("syncthing", &SYNCTHING, 9090, 40, |daemon, seen, _| {
        assert_release("syncthing", seen, daemon.said("syncthing v"));
    });
}

/// It has no pprof: its last words are compared with what was seen until then. Should it wake up in between,
/// another one is asked.
#[test]
fn snapd() {
    isolated(|| {
        let deadline = Instant::now() + PATIENCE;
        let mut looks = 1;
        let (mut inside, mut outside) = snapd_until_its_end();
        while inside != outside && Instant::now() < deadline {
            looks += 1;
            (inside, outside) = snapd_until_its_end();
        }
        assert_same("snapd", &inside, &outside);
        println!("snapd: {} goroutines equal, look {looks}", outside.len());
    });
}

/// Its last words, and what was seen of it before at a quiet moment.
fn snapd_until_its_end() -> (Stacks, Stacks) {
    let daemon = Daemon::start(&SNAPD);
    let mut seen = open(&daemon);
    assert_listed(&SNAPD, &daemon, &mut seen);
    let outside = eventually("a quiet moment", || {
        let outside = look(&mut seen)?;
        let later = look(&mut seen)?;
        (outside.is_quiet(&later) && outside.dump == later.dump).then_some(outside)
    });
    assert_sound("snapd", &outside, 5);
    [crash_stacks(&daemon.last_words()), outside.dump].map(without_wrappers).into()
}
