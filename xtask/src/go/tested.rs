//! Which Go programs the real-process tests run.

use std::fs;

use anyhow::Result;

use super::{Arch, Build, Variant, programs_dir, version, versions};

/// Programs with C in them; `kinds` is one only where it is built so.
pub(crate) const WITH_C: [&str; 3] = ["locking", "locks", "stuck"];

/// What they run on a machine of this architecture.
pub(crate) fn tested(arch: Arch) -> Result<Vec<Build>> {
    let mut builds = Vec::new();
    let otherwise = |program: &String| {
        matches!(program.as_str(), "kinds" | "leaks") || WITH_C.contains(&program.as_str())
    };
    for program in programs()?.iter().filter(|program| !otherwise(program)) {
        builds.extend(of_every_release(program, arch, &[Variant::Plain])?);
    }
    builds.extend(variants("kinds", arch)?);
    builds.extend(leaks(arch)?);
    builds.extend(locks(arch)?);
    let odd = [("park", Variant::Bits32), ("plugged", Variant::PluginHost), ("plug", Variant::Plugin)];
    for (program, variant) in odd {
        builds.push(Build { version: version("1.24")?, program: program.to_owned(), arch, variant });
    }
    Ok(builds)
}

/// The program that holds threads in C, with both C libraries, for the oldest, a middle and the newest release.
fn locks(arch: Arch) -> Result<Vec<Build>> {
    let mut builds = Vec::new();
    let releases = ["1.19", "1.24", "1.27"].into_iter().filter(|_| arch.gnu_tools().is_some());
    for release in releases {
        for variant in Variant::OF_LOCKS {
            builds.push(Build { version: version(release)?, program: "locks".to_owned(), arch, variant });
        }
    }
    Ok(builds)
}

/// The program that leaks goroutines, as it is met: with symbols and without, moved, and with C.
fn leaks(arch: Arch) -> Result<Vec<Build>> {
    let mut met = vec![Variant::Plain, Variant::Stripped, Variant::PieStripped, Variant::Cgo];
    met.retain(|variant| !variant.has_c() || arch.gnu_tools().is_some());
    of_every_release("leaks", arch, &met)
}

/// `program` in every way that a process can be met in, with C in it where there is a C compiler.
pub(crate) fn variants(program: &str, arch: Arch) -> Result<Vec<Build>> {
    let mut met = Variant::MET.to_vec();
    met.retain(|variant| !variant.has_c() || arch.gnu_tools().is_some());
    of_every_release(program, arch, &met)
}

fn of_every_release(program: &str, arch: Arch, variants: &[Variant]) -> Result<Vec<Build>> {
    let mut builds = Vec::new();
    for version in versions()? {
        builds.extend(variants.iter().map(|variant| Build {
            version: version.clone(),
            program: program.to_owned(),
            arch,
            variant: *variant,
        }));
    }
    Ok(builds)
}

/// Every folder below `go-programs` with a `main.go`.
fn programs() -> Result<Vec<String>> {
    let mut programs = Vec::new();
    for entry in fs::read_dir(programs_dir())? {
        let entry = entry?;
        if entry.path().join("main.go").is_file() {
            programs.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    programs.sort();
    Ok(programs)
}
