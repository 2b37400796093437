//! `cargo xtask layouts`: reads Go's runtime layouts out of real programs into `engine/src/layout/table.rs`.

mod changes;
mod dwarf;
mod render;
mod source;
mod spec;

use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::PathBuf;

use crate::go::{self, Arch, Build, Go, Variant, Version};
use crate::paths;
use dwarf::Types;

/// Program whose DWARF is read: the smallest there is, for every program carries the runtime's types.
const PROGRAM: &str = "minimal";

/// What was read of one Go release on one architecture.
pub(crate) struct Row {
    version: Version,
    arch: Arch,
    /// One per struct of the specification, in its order; `None` where this version has none.
    structs: Vec<Option<StructRow>>,
    /// Texts of the wait reasons, by number.
    waits: Vec<String>,
    /// Function id of wrappers.
    wrapper_id: u8,
    /// Numbers of the specials that hold something.
    special_kinds: source::SpecialKinds,
}

struct StructRow {
    size: u64,
    /// Places of each member of the specification: none, one, or several.
    members: Vec<Vec<dwarf::Place>>,
}

/// Regenerates the table from every release in `go-programs/go-versions.txt`.
pub(crate) fn generate() -> Result<()> {
    let rows = read_rows(&go::versions()?)?;
    let text = render::table(&rows)?;
    fs::write(table_path(), text).with_context(|| format!("write {}", table_path().display()))?;
    println!("    {} rows in {}", rows.len(), table_path().display());
    Ok(())
}

/// Regenerates the table in memory and compares: an error shows the first lines that differ.
pub(crate) fn check() -> Result<()> {
    let rows = read_rows(&go::versions()?)?;
    let fresh = render::table(&rows)?;
    let kept =
        fs::read_to_string(table_path()).with_context(|| format!("read {}", table_path().display()))?;
    if kept == fresh {
        println!("    {} rows as checked in", rows.len());
        return Ok(());
    }
    let diff = changes::lines(&kept, &fresh);
    bail!("engine/src/layout/table.rs is not what the Go releases say; run `cargo xtask layouts`\n{diff}")
}

/// The checklist for a new Go release as one command: installs it, shows what its runtime changed against the
/// newest known release, and adds its rows.
pub(crate) fn add(release: &str) -> Result<()> {
    let new = Version::parse(release, "pip")?;
    let known = go::versions()?;
    let older = known.iter().rfind(|v| v.minor <= new.minor).or(known.last()).context("no known release")?;
    for arch in Arch::ALL {
        let (old_go, new_go) = (go::toolchain(older)?, go::toolchain(&new)?);
        let old = read_types(&old_go, arch)?;
        let fresh = read_types(&new_go, arch)?;
        println!("\nGo {new} against Go {older}, {}:", arch.as_str());
        print!("{}", changes::structs(&old, &fresh));
        if arch == Arch::Amd64 {
            print!("{}", changes::sources(&old_go, &new_go)?);
        }
    }
    // Only a release whose row can be read joins the list.
    read_rows(std::slice::from_ref(&new))?;
    go::add_version(&new)?;
    generate()?;
    print!("{}", changes::CHECKLIST);
    Ok(())
}

fn table_path() -> PathBuf {
    paths::repo().join("engine/src/layout/table.rs")
}

/// Builds and reads the program with every release, for both architectures; rows in the table's order.
fn read_rows(versions: &[Version]) -> Result<Vec<Row>> {
    let toolchains = go::toolchains(versions)?;
    let builds: Vec<Build> = versions.iter().flat_map(|v| Arch::ALL.map(|arch| build(v, arch))).collect();
    go::build_programs(&builds)?;
    let mut rows = Vec::new();
    for go in &toolchains {
        for arch in Arch::ALL {
            rows.push(read_row(go, arch).with_context(|| format!("Go {} {}", go.version, arch.as_str()))?);
        }
    }
    Ok(rows)
}

fn build(version: &Version, arch: Arch) -> Build {
    Build { version: version.clone(), program: PROGRAM.to_owned(), arch, variant: Variant::Dwarf }
}

fn read_types(go: &Go, arch: Arch) -> Result<Types> {
    let build = build(&go.version, arch);
    go::build_programs(std::slice::from_ref(&build))?;
    Types::read(&build.path())
}

fn read_row(go: &Go, arch: Arch) -> Result<Row> {
    let types = Types::read(&build(&go.version, arch).path())?;
    let mut structs = Vec::new();
    let mut wrong = Vec::new();
    for spec in spec::STRUCTS {
        match read_struct(&types, spec, &mut wrong) {
            Some(row) => structs.push(Some(row)),
            None if spec.maybe => structs.push(None),
            None => wrong.push(format!("{} does not exist", spec.go)),
        }
    }
    let statuses = source::statuses(&go.root)?;
    for (number, name) in statuses.iter().enumerate() {
        if !spec::STATUSES.iter().any(|(n, v)| n == name && usize::try_from(*v).is_ok_and(|v| v == number)) {
            wrong.push(format!("goroutine status {name} = {number} is unknown"));
        }
    }
    ensure!(
        wrong.is_empty(),
        "xtask/src/layouts/spec.rs does not fit this runtime:\n  {}",
        wrong.join("\n  ")
    );
    let (waits, wrapper_id) = (source::wait_reasons(&go.root)?, source::wrapper_id(&go.root)?);
    let special_kinds = source::special_kinds(&go.root)?;
    Ok(Row { version: go.version.clone(), arch, structs, waits, wrapper_id, special_kinds })
}

/// Reads one struct; what does not fit the specification is added to `wrong`.
fn read_struct(types: &Types, spec: &spec::Struct, wrong: &mut Vec<String>) -> Option<StructRow> {
    let ty = spec.go.split('|').find_map(|name| types.find(name))?;
    let size = ty.size?;
    let mut members = Vec::new();
    for member in spec.members {
        let places = places(types, ty, member);
        if places.is_empty() && member.kind != spec::Kind::Maybe {
            wrong.push(format!("{} has no {}", spec.go, member.paths.join(" or ")));
        }
        for place in &places {
            let fits = member.width == 0 || place.width == member.width;
            if !fits || place.offset + place.width > size {
                wrong.push(format!(
                    "{}.{} is {} bytes at {} of {size}, expected {} bytes",
                    spec.go, member.name, place.width, place.offset, member.width
                ));
            }
        }
        members.push(places);
    }
    Some(StructRow { size, members })
}

/// Where a member is: by the first path of which all parts exist; of areas those parts that do.
fn places(types: &Types, ty: &dwarf::Type, member: &spec::Member) -> Vec<dwarf::Place> {
    let place = |path: &str| types.place(ty, path).ok().flatten();
    if member.kind == spec::Kind::Areas {
        return member.paths.iter().flat_map(|path| path.split('+')).filter_map(place).collect();
    }
    let mut all = member.paths.iter().map(|path| path.split('+').map(place).collect::<Option<Vec<_>>>());
    all.find_map(|found| found).unwrap_or_default()
}
