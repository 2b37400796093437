//! Every parser of foreign bytes as a fuzz target: a function that takes any bytes and panics only when a
//! promise is broken.
//!
//! Two drivers call the same functions: `src/main.rs`, a fixed number of reproducible inputs on stable
//! Rust for the test command, and `fuzz_targets/`, for `cargo fuzz`. A new target is a module here with
//! `check` and `seeds`, and a line in [`TARGETS`].

pub mod age;
pub mod audit;
pub mod btf;
pub mod buildinfo;
pub mod code;
pub mod command;
pub mod elf;
pub mod expand;
pub mod foreign;
mod glg;
pub mod mutate;
pub mod parts;
pub mod pclntab;
pub mod probe_point;
pub mod reach;
pub mod receipt;
pub mod spool;
pub mod stack;
pub mod walk;
pub mod wire;

/// A target: what it is called, what it does with an input, and good inputs to start from.
pub struct Target {
    /// As given on the command line.
    pub name: &'static str,
    /// Panics when a promise is broken.
    pub check: fn(&[u8]),
    /// Inputs that the parser accepts, to be damaged.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Longest input that is tried, in bytes.
    pub max_len: usize,
}

impl Target {
    /// How many inputs are tried where `wanted` would be of the others: what looks at a whole process takes longer.
    #[must_use]
    pub fn inputs(&self, wanted: u64) -> u64 {
        if self.name == "reach" { wanted.div_ceil(20) } else { wanted }
    }
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "elf", check: elf::check, seeds: elf::seeds, max_len: 16 << 10 },
    Target { name: "buildinfo", check: buildinfo::check, seeds: buildinfo::seeds, max_len: 512 },
    Target { name: "btf", check: btf::check, seeds: btf::seeds, max_len: 1 << 10 },
    Target { name: "pclntab", check: pclntab::check, seeds: pclntab::seeds, max_len: 16 << 10 },
    Target { name: "probe_point", check: probe_point::check, seeds: probe_point::seeds, max_len: 256 },
    Target { name: "code", check: code::check, seeds: code::seeds, max_len: 1024 },
    Target { name: "spool", check: spool::check, seeds: spool::seeds, max_len: 4096 },
    Target { name: "stack", check: stack::check, seeds: stack::seeds, max_len: 1 << 10 },
    Target { name: "reach", check: reach::check, seeds: reach::seeds, max_len: reach::MAX_LEN },
    Target { name: "walk", check: walk::check, seeds: walk::seeds, max_len: 16 << 10 },
    Target { name: "command", check: command::check, seeds: command::seeds, max_len: command::MAX_LEN },
    Target { name: "receipt", check: receipt::check, seeds: receipt::seeds, max_len: receipt::MAX_LEN },
    Target { name: "audit", check: audit::check, seeds: audit::seeds, max_len: audit::MAX_LEN },
    Target { name: "expand", check: expand::check, seeds: expand::seeds, max_len: 2 << 10 },
    Target { name: "parts", check: parts::check, seeds: parts::seeds, max_len: 1 << 10 },
    Target { name: "age", check: age::check, seeds: age::seeds, max_len: 1 << 10 },
    Target {
        name: "wire",
        check: wire::check,
        seeds: wire::seeds,
        max_len: 2 * glg_proto::wire::MESSAGE_MAX,
    },
];
