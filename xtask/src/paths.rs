//! Where things are: the checkout, its build products, and the cache of tools that all checkouts share.

use std::path::PathBuf;

/// The checkout's root, the folder of the workspace's Cargo.toml.
pub(crate) fn repo() -> PathBuf {
    // `cargo run` says which checkout it runs for; the one this was compiled in may be another, where several
    // share a target folder.
    let xtask = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    xtask.parent().unwrap_or(&xtask).to_path_buf()
}

/// Build products that are not handed out: `<repo>/target`.
pub(crate) fn target() -> PathBuf {
    repo().join("target")
}

/// Cargo's target folder for builds on this machine; `CARGO_TARGET_DIR` moves it.
pub(crate) fn host_target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(target, |dir| repo().join(dir))
}

/// What is handed out: `<repo>/dist`.
pub(crate) fn dist() -> PathBuf {
    repo().join("dist")
}

/// The BPF objects, one per architecture; the agent's build script reads them here.
pub(crate) fn bpf_objects() -> PathBuf {
    target().join("bpf")
}

/// Downloaded and built tools, kept outside the checkout so that a fresh clone finds them:
/// `$GOLEAKGUARD_TOOLS`, else `~/.cache/goleakguard`.
pub(crate) fn tools() -> PathBuf {
    if let Some(dir) = std::env::var_os("GOLEAKGUARD_TOOLS") {
        return repo().join(dir);
    }
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
    home.join(".cache/goleakguard")
}
