//! What `goleakguard ps` says of a daemon, and what a Go toolchain said of its file when it was unpacked.

use std::fs;
use std::process::Command;

use object::{Object, ObjectSection};
use serde_json::Value;

use super::common::{Seen, agent, eventually};
use super::sandbox::{Daemon, Spec, tree};

/// The row of a process.
fn row(pid: u32) -> Value {
    let output = Command::new(agent()).args(["ps", "--json"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    let row = all.as_array().unwrap().iter().find(|row| row["pid"] == pid);
    row.unwrap_or_else(|| panic!("{pid} is not listed: {all:#}")).clone()
}

/// What `go version -m` said: a line `usr/bin/etcd: go1.19.8`, and below it words apart by tabs.
fn build_info(program: &str) -> (String, Vec<Vec<String>>) {
    let text = fs::read_to_string(tree().join("buildinfo")).unwrap();
    let head = format!("{}: go", program.trim_start_matches('/'));
    let mut lines = text.lines().skip_while(|line| !line.starts_with(&head));
    let release = lines.next().unwrap_or_else(|| panic!("no {program} in:\n{text}"));
    let below = lines.map_while(|line| line.strip_prefix('\t'));
    let below = below.map(|line| line.split('\t').map(String::from).collect());
    (release.trim_start_matches(&head).to_owned(), below.collect())
}

/// The row says what is known of the program from elsewhere.
pub(crate) fn assert_listed(spec: &Spec, daemon: &Daemon, seen: &mut Seen) {
    let (release, info) = build_info(spec.program);
    let said = |key: &str, at: usize| {
        let line = info.iter().find(|words| words[0] == key);
        line.map_or(Value::Null, |words| words[at].as_str().into())
    };
    let file = tree().join(spec.program.trim_start_matches('/'));
    let bytes = fs::read(file).unwrap();
    let elf = object::File::parse(bytes.as_slice()).unwrap();
    let stripped = !elf.sections().any(|section| section.name() == Ok(".symtab"));
    let (row, count) = eventually("a quiet moment", || {
        let before = seen.count().unwrap();
        let row = row(daemon.pid());
        (seen.count().unwrap() == before && row["goroutines"] == before).then_some((row, before))
    });
    let name = spec.program.rsplit('/').next();
    assert_eq!((row["name"].as_str(), row["go"].as_str()), (name, Some(release.as_str())), "{row:#}");
    for (key, known) in [
        ("package", said("path", 1)),
        ("module", said("mod", 1)),
        ("version", said("mod", 2)),
        ("stripped", stripped.into()),
        ("note", Value::Null),
    ] {
        assert_eq!(row[key], known, "{key}: {row:#}");
    }
    assert!(row["path"].as_str().unwrap().ends_with(spec.program), "{row:#}");
    println!("{}: {release}, stripped: {stripped}, {count} goroutines", spec.program);
}
