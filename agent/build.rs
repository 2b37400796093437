//! Finds the kernel programs that `cargo xtask build` has made for this architecture.
//!
//! They are looked for in `GOLEAKGUARD_BPF_DIR`, else in the workspace's `target/bpf`.

use std::{env, path::PathBuf, process::ExitCode};

fn main() -> ExitCode {
    println!("cargo::rerun-if-env-changed=GOLEAKGUARD_BPF_DIR");
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let directory = env::var_os("GOLEAKGUARD_BPF_DIR").map_or_else(
        || [env!("CARGO_MANIFEST_DIR"), "..", "target", "bpf"].iter().collect::<PathBuf>(),
        PathBuf::from,
    );
    let object = directory.join(format!("goleakguard-{arch}.bpf.o"));
    println!("cargo::rerun-if-changed={}", object.display());
    match object.canonicalize() {
        Ok(object) => {
            println!("cargo::rustc-env=GOLEAKGUARD_BPF_OBJECT={}", object.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!(
                "cargo::error=the eBPF programs {} cannot be opened ({error}): run `cargo xtask build`, or set \
                 GOLEAKGUARD_BPF_DIR to the directory that holds them",
                object.display()
            );
            ExitCode::FAILURE
        }
    }
}
