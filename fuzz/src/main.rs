//! Feeds every target a fixed number of reproducible inputs: `glg-fuzz [--inputs N] [TARGET]...`.
//! `glg-fuzz --capture PROGRAM FILE` makes a seed of target `pclntab` out of a Go program.
//!
//! An input that breaks a promise is written to `fuzz-TARGET-crash.bin` in the temporary directory and
//! named, with the message of the panic.

use std::panic::catch_unwind;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use glg_fuzz::mutate::Mutator;
use glg_fuzz::{TARGETS, Target};

/// Inputs per target unless told otherwise, fewer of those that take longer: some seconds for all.
const INPUTS: u64 = 200_000;
/// An input that takes longer than this has found something, too.
const SLOW: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    if let [_, option, program, seed] = std::env::args().collect::<Vec<_>>().as_slice()
        && option == "--capture"
    {
        return capture(program, seed);
    }
    let (inputs, names) = match arguments() {
        Ok(arguments) => arguments,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    let chosen =
        TARGETS.iter().filter(|target| names.is_empty() || names.iter().any(|name| name == target.name));
    let mut code = ExitCode::SUCCESS;
    for target in chosen {
        let (start, inputs) = (Instant::now(), target.inputs(inputs));
        match run(target, inputs) {
            Ok(()) => {
                println!("fuzz {}: {inputs} inputs in {:.1} s", target.name, start.elapsed().as_secs_f64());
            }
            Err(message) => {
                eprintln!("fuzz {}: {message}", target.name);
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

fn capture(program: &str, seed: &str) -> ExitCode {
    let captured = match std::fs::read(program) {
        Ok(bytes) => glg_fuzz::pclntab::capture(&bytes).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match captured.and_then(|bytes| std::fs::write(seed, bytes).map_err(|error| error.to_string())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{program}: {message}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Result<(u64, Vec<String>), String> {
    let mut inputs = INPUTS;
    let mut names = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--inputs" {
            let number = arguments.next().and_then(|text| text.parse().ok());
            inputs = number.ok_or("--inputs takes a number")?;
        } else if TARGETS.iter().any(|target| target.name == argument) {
            names.push(argument);
        } else {
            let known: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            return Err(format!("unknown target {argument:?}, known: {}", known.join(", ")));
        }
    }
    Ok((inputs, names))
}

/// The seeds as they are, then `inputs` damaged ones.
fn run(target: &Target, inputs: u64) -> Result<(), String> {
    let seeds = (target.seeds)();
    if seeds.iter().all(Vec::is_empty) {
        return Err("there are no seeds".to_owned());
    }
    for seed in &seeds {
        one(target, seed)?;
    }
    let mut mutator = Mutator::new(&seeds, 1, target.max_len);
    (0..inputs).try_for_each(|_| one(target, &mutator.next_input()))
}

fn one(target: &Target, input: &[u8]) -> Result<(), String> {
    let start = Instant::now();
    let check = target.check;
    let what = match catch_unwind(|| check(input)) {
        Ok(()) if start.elapsed() < SLOW => return Ok(()),
        Ok(()) => format!("took {:.1} s", start.elapsed().as_secs_f64()),
        Err(_) => "panicked, see above".to_owned(),
    };
    let file = std::env::temp_dir().join(format!("fuzz-{}-crash.bin", target.name));
    match std::fs::write(&file, input) {
        Ok(()) => Err(format!("{what}; the input is in {}", file.display())),
        Err(error) => Err(format!("{what}; the input could not be kept: {error}")),
    }
}
