//! Reads what DWARF does not hold out of Go's own sources: wait reasons, goroutine statuses, function ids.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::Path;

/// The texts of Go's wait reasons, by number, from `runtime/runtime2.go` below `goroot`.
pub(crate) fn wait_reasons(goroot: &Path) -> Result<Vec<String>> {
    let source = runtime2(goroot)?;
    parse_wait_reasons(&source).context("wait reasons of runtime/runtime2.go")
}

/// The statuses `_Gidle`, `_Grunnable`… by number, from `runtime/runtime2.go` below `goroot`.
pub(crate) fn statuses(goroot: &Path) -> Result<Vec<String>> {
    let source = runtime2(goroot)?;
    let names: Vec<String> = counted(&source, "_G")?.into_iter().take_while(|n| n != "_Gscan").collect();
    Ok(names)
}

/// The number by which the function table marks compiler-made wrappers (`FuncIDWrapper`), below `goroot`.
pub(crate) fn wrapper_id(goroot: &Path) -> Result<u8> {
    // Moved and renamed by Go 1.21.
    let files = [("src/internal/abi/symtab.go", "FuncID"), ("src/runtime/symtab.go", "funcID_")];
    for (file, prefix) in files {
        let Ok(source) = std::fs::read_to_string(goroot.join(file)) else { continue };
        let Ok(names) = counted(&source, prefix) else { continue };
        let wrapper = names.iter().position(|name| name == "FuncIDWrapper" || name == "funcID_wrapper");
        if let Some(number) = wrapper {
            return Ok(u8::try_from(number)?);
        }
    }
    bail!("no function id of wrappers below {}", goroot.display())
}

/// Numbers of the specials that hold something (`runtime/mheap.go`, `_KindSpecial…`).
pub(crate) struct SpecialKinds {
    /// `_KindSpecialFinalizer`.
    pub(crate) finalizer: u8,
    /// `_KindSpecialWeakHandle`; since Go 1.23.
    pub(crate) weak_handle: Option<u8>,
    /// `_KindSpecialCleanup`; since Go 1.24.
    pub(crate) cleanup: Option<u8>,
}

/// These numbers, below `goroot`.
pub(crate) fn special_kinds(goroot: &Path) -> Result<SpecialKinds> {
    let path = goroot.join("src/runtime/mheap.go");
    let source = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let number = |name: &str| {
        let mut words = source.lines().map(|line| line.split_whitespace());
        let value = words.find_map(|mut line| {
            (line.next() == Some(name) && line.next() == Some("=")).then(|| line.next()).flatten()
        });
        value.and_then(|value| value.parse().ok())
    };
    Ok(SpecialKinds {
        finalizer: number("_KindSpecialFinalizer").context("no _KindSpecialFinalizer")?,
        weak_handle: number("_KindSpecialWeakHandle"),
        cleanup: number("_KindSpecialCleanup"),
    })
}

/// The first line of `file` (below `src` of `goroot`) that starts with `start`.
pub(crate) fn line(goroot: &Path, file: &str, start: &str) -> Result<Option<String>> {
    let path = goroot.join("src").join(file);
    let source = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(source.lines().map(str::trim).find(|l| l.starts_with(start)).map(str::to_owned))
}

fn runtime2(goroot: &Path) -> Result<String> {
    let path = goroot.join("src/runtime/runtime2.go");
    std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

fn parse_wait_reasons(source: &str) -> Result<Vec<String>> {
    let names = counted(source, "waitReason")?;
    let mut texts = BTreeMap::new();
    let array = source.split_once("var waitReasonStrings = [...]string{").context("no waitReasonStrings")?.1;
    for line in array.lines().map(str::trim).take_while(|l| *l != "}").filter(|l| !l.is_empty()) {
        let parts = line.split_once(':').with_context(|| format!("not `name: \"text\",`: {line}"))?;
        let text = parts.1.trim().trim_end_matches(',').trim_matches('"');
        texts.insert(parts.0.trim().to_owned(), text.to_owned());
    }
    if texts.len() != names.len() {
        bail!("{} constants but {} texts", names.len(), texts.len());
    }
    names.into_iter().map(|n| texts.remove(&n).with_context(|| format!("{n} has no text"))).collect()
}

/// The names of the constant block whose first name starts with `prefix` and is set to `iota`, in order: a
/// name's index is its value.
fn counted(source: &str, prefix: &str) -> Result<Vec<String>> {
    let mut lines = source.lines().map(str::trim);
    let first = lines
        .find(|l| l.starts_with(prefix) && l.contains("= iota"))
        .with_context(|| format!("no constant {prefix}… = iota"))?;
    let rest = lines.take_while(|l| *l != ")").filter(|l| l.starts_with(prefix));
    Ok(std::iter::once(first)
        .chain(rest)
        .filter_map(|l| l.split_whitespace().next())
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "const (\n\t// first\n\t_Gidle = iota // 0\n\n\t// note\n\t_Grunnable // 1\n\t_Gscan = 0x1000\n)\n\
        const (\n\twaitReasonZero waitReason = iota // \"\"\n\twaitReasonSleep // \"sleep\"\n)\n\
        var waitReasonStrings = [...]string{\n\twaitReasonSleep: \"sleep\",\n\twaitReasonZero: \"\",\n}\n";

    #[test]
    fn numbers_follow_the_constants_not_the_array() {
        assert_eq!(parse_wait_reasons(SOURCE).unwrap(), ["", "sleep"]);
        assert_eq!(counted(SOURCE, "_G").unwrap(), ["_Gidle", "_Grunnable", "_Gscan"]);
    }

    #[test]
    fn a_constant_without_text_is_an_error() {
        assert!(parse_wait_reasons(&SOURCE.replace("waitReasonSleep: \"sleep\",\n", "")).is_err());
    }
}
