//! Which processes to watch: rules with glob patterns, the first that fits decides.

/// What to do with a process that a rule fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Watch it.
    Watch,
    /// Leave it alone.
    Ignore,
}

/// One `[[watch.match]]` table. Patterns that are not given fit everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Pattern for the base name of the executable.
    pub name: Option<String>,
    /// Pattern for its full path.
    pub path: Option<String>,
    /// What to do.
    pub action: Action,
}

impl Rule {
    /// Whether every pattern of this rule fits the executable at `path`.
    #[must_use]
    pub fn fits(&self, path: &str) -> bool {
        let name = path.rsplit('/').next().unwrap_or(path);
        self.name.as_deref().is_none_or(|pattern| glob(pattern, name))
            && self.path.as_deref().is_none_or(|pattern| glob(pattern, path))
    }
}

/// Whether `pattern` fits all of `text`: `*` is any run of characters (a `/` too), `?` is any one.
///
/// Only the last `*` is ever gone back to, which is enough, so the time is at most the product of the two
/// lengths.
fn glob(pattern: &str, text: &str) -> bool {
    let mut pattern = pattern.chars();
    let mut text = text.chars();
    let mut retry = None;
    loop {
        let mut rest = pattern.clone();
        let fits = match rest.next() {
            Some('*') => {
                pattern = rest;
                retry = Some((pattern.clone(), text.clone()));
                continue;
            }
            Some('?') => text.next().is_some(),
            Some(wanted) => text.next() == Some(wanted),
            None if text.next().is_none() => return true,
            None => false,
        };
        if fits {
            pattern = rest;
            continue;
        }
        let Some((after_star, from)) = &mut retry else { return false };
        if from.next().is_none() {
            return false;
        }
        pattern = after_star.clone();
        text = from.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, text, fits) in [
            ("ota", "ota", true),
            ("ota", "otad", false),
            ("ota*", "ota", true),
            ("ota-*", "ota-scheduler", true),
            ("*", "", true),
            ("?", "", false),
            ("?", "ü", true),
            ("*d", "gatewayd", true),
            ("*a*b*c", "xxaxxbxxbc", true),
            ("*a*b*c", "xxaxxcxxb", false),
            ("/opt/*/gw", "/opt/a/b/gw", true),
            ("", "", true),
            ("", "x", false),
        ] {
            assert_eq!(glob(pattern, text), fits, "{pattern:?} on {text:?}");
        }
        assert!(!glob(&"*a".repeat(100), &"a".repeat(5000).replace("aaaaa", "aaaab")));
    }

    #[test]
    fn all_patterns_of_a_rule_must_fit() {
        let rule =
            Rule { name: Some("gw".to_owned()), path: Some("/opt/*".to_owned()), action: Action::Watch };
        assert!(rule.fits("/opt/v1/gw"));
        assert!(!rule.fits("/usr/bin/gw"));
        assert!(!rule.fits("/opt/v1/other"));
    }
}
