//! `cargo xtask`: everything one does with this repository, one file per command.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod bench;
mod broker;
mod build;
mod capture;
mod child;
mod cmd;
mod demo;
mod go;
mod layouts;
mod paths;
mod proxy;
mod qemu;
mod remote;
mod scenario;
mod setup;
mod size;
mod test;

/// Tasks of the GoLeakGuard repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install or build the tools that are missing; nothing when all are there
    Setup {
        /// Only these components
        components: Vec<setup::Component>,
    },
    /// Build the vehicle's static aarch64 binary into dist/
    Build {
        /// Also this machine's agent and the operator's tool
        #[arg(long)]
        host: bool,
        /// Only the BPF objects, into target/bpf
        #[arg(long, conflicts_with = "host")]
        bpf: bool,
    },
    /// Watch a leaking, a deadlocked and a healthy Go program on this machine, and show the alerts (as root)
    Demo {
        /// How long to watch after the begin of leak and deadlock, at least
        #[arg(long, default_value_t = 45)]
        seconds: u64,
    },
    /// The same on a real arm64 kernel in QEMU, with the vehicle's binary
    Qemu {
        /// Run the agent's real-process tests there instead; all, or one file of agent/tests
        #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true)]
        tests: Option<Option<String>>,
        /// Kernel version
        #[arg(long, default_value = setup::kernel::KERNELS[0].name)]
        kernel: String,
    },
    /// Show what the binaries' bytes are spent on, against the budget
    Size {
        /// Link the vehicle's binary again with its symbols, and add the bytes up by crate
        #[arg(long)]
        crates: bool,
    },
    /// Read Go's runtime layouts again into the engine's table
    Layouts {
        /// Only compare with the table that is checked in
        #[arg(long, conflicts_with = "add")]
        check: bool,
        /// Add a Go release, such as 1.28.0, and show what its runtime changed
        #[arg(long, value_name = "RELEASE")]
        add: Option<String>,
    },
    /// Measure the cost on the watched program against the alternatives, side by side
    Bench {
        /// Only this
        what: Option<Bench>,
        /// Half a minute instead of three: fewer and shorter rounds
        #[arg(long)]
        quick: bool,
        /// Minutes for which daemons are watched at rest, and again under load
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1440))]
        minutes: u64,
    },
    /// Take the captured processes anew on which the engine is tested (as root)
    Capture {
        /// Only of this architecture; arm64 in QEMU
        #[arg(long)]
        arch: Option<go::Arch>,
    },
    /// Check everything: formatting, lints, unit and real-process tests, the arm64 run in QEMU
    Test {
        /// Run the agent's real-process tests alone; all, one file of agent/tests, or FILE::TEST
        #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true)]
        live: Option<Option<String>>,
    },
}

/// What can be measured by itself.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Bench {
    /// GoKer, whose leaks are known
    Accuracy,
    /// One pass of a proof of leaks, against the program's own profile of leaks
    Proof,
    /// How often a proof of leaks is false; a quarter of an hour
    FalseProofs,
    /// Bytes on the wire and on flash
    Uplink,
    /// Real daemons at rest and under load, of which nothing may be told
    Silence,
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The causes, without the stack of this program, which helps nobody here.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Setup { components } => setup::run(&components),
        Task::Build { bpf: true, .. } => build::bpf(),
        Task::Build { host, .. } => build::run(host),
        Task::Demo { seconds } => demo::run(seconds),
        Task::Qemu { tests: Some(only), kernel } => qemu::agent_tests::run_alone(&kernel, only.as_deref()),
        Task::Qemu { kernel, .. } => qemu::run(&kernel),
        Task::Size { crates } => size::run(crates),
        Task::Layouts { check: true, .. } => layouts::check(),
        Task::Layouts { add: Some(release), .. } => layouts::add(&release),
        Task::Layouts { .. } => layouts::generate(),
        Task::Bench { what: Some(Bench::Accuracy), .. } => bench::accuracy::run(),
        Task::Bench { what: Some(Bench::Proof), quick, .. } => bench::proof(quick),
        Task::Bench { what: Some(Bench::FalseProofs), quick, .. } => bench::false_proofs(quick),
        Task::Bench { what: Some(Bench::Uplink), quick, .. } => bench::uplink(quick),
        Task::Bench { what: Some(Bench::Silence), minutes, .. } => bench::silence::run(minutes),
        Task::Bench { what: None, quick, .. } => bench::run(quick),
        Task::Capture { arch } => capture::run(arch),
        Task::Test { live: Some(only) } => test::live(only.as_deref()),
        Task::Test { live: None } => test::run(),
    }
}
