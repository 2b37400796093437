//! `cargo xtask size`: what the binaries' bytes are spent on, section by section and crate by crate.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection, ObjectSymbol, SectionFlags, SymbolKind, elf};

use crate::build::{self, grouped};
use crate::setup::{self, Component};

/// How many rows of a table are shown.
const ROWS: usize = 15;

/// `cargo xtask size [--crates]`: the files in `dist/`; with `crates` links the vehicle's binary once more with
/// its symbols, to tell the crates apart.
pub(crate) fn run(crates: bool) -> Result<()> {
    let files = [build::vehicle_agent(), build::host_agent(), build::glg()];
    if !files.iter().any(|file| file.is_file()) {
        bail!("dist/ is empty\n  what to do: cargo xtask build [--host]");
    }
    for file in files.iter().filter(|file| file.is_file()) {
        sections(file)?;
    }
    if crates {
        setup::ensure(&[Component::Vehicle])?;
        let linked = build::link_vehicle(&["-Cstrip=none"])?;
        by_crate(&linked)?;
    }
    Ok(())
}

fn sections(path: &Path) -> Result<()> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let file = object::File::parse(&*bytes)?;
    let mut rows: Vec<(String, u64)> = Vec::new();
    for section in file.sections() {
        let SectionFlags::Elf { sh_flags } = section.flags() else {
            continue;
        };
        // What the program's memory holds; .bss takes no room in the file.
        if sh_flags & u64::from(elf::SHF_ALLOC) == 0 || section.file_range().is_none() {
            continue;
        }
        rows.push((section.name()?.to_owned(), section.size()));
    }
    let name = path.file_name().unwrap_or_default().display();
    let size = u64::try_from(bytes.len())?;
    println!("{name}: {}", build::against_budget(size));
    print_table(rows);
    Ok(())
}

fn by_crate(path: &Path) -> Result<()> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let file = object::File::parse(&*bytes)?;
    let mut crates: BTreeMap<String, u64> = BTreeMap::new();
    for symbol in file.symbols() {
        if matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Data) {
            let name = symbol.name().unwrap_or_default();
            *crates.entry(crate_of(name)).or_default() += symbol.size();
        }
    }
    println!("code and data by crate (inlined code counts where it ended up):");
    print_table(crates.into_iter().collect());
    Ok(())
}

/// `<aya::maps::MapData as core::ops::Drop>::drop` → `aya`; what is not Rust's is C.
fn crate_of(symbol: &str) -> String {
    let Ok(demangled) = rustc_demangle::try_demangle(symbol) else {
        return "(C and assembly)".into();
    };
    let name = format!("{demangled:#}");
    let name = name.trim_start_matches(['<', '&', '*', '[', '(']);
    let name = name.strip_prefix("mut ").unwrap_or(name);
    let end = name.find(|c: char| !c.is_alphanumeric() && c != '_');
    name.get(..end.unwrap_or(name.len())).unwrap_or(name).to_owned()
}

fn print_table(mut rows: Vec<(String, u64)>) {
    rows.sort_by_key(|row| std::cmp::Reverse(row.1));
    for (name, size) in rows.iter().take(ROWS).filter(|row| row.1 > 0) {
        println!("  {:>12}  {name}", grouped(*size));
    }
    let rest: u64 = rows.iter().skip(ROWS).map(|row| row.1).sum();
    if rest > 0 {
        println!("  {:>12}  (the rest)", grouped(rest));
    }
}
