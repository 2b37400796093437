//! The list for scripts: one array of objects, one line each. Keys are only ever added to; what is not known is
//! null.

use super::Program;
use crate::json::{object, string};

pub(super) fn array(programs: &[Program]) -> String {
    let lines: Vec<String> = programs.iter().map(fields).collect();
    if lines.is_empty() { "[]\n".to_owned() } else { format!("[\n{}\n]\n", lines.join(",\n")) }
}

fn fields(program: &Program) -> String {
    let null = || "null".to_owned();
    let filled = |word: &str| if word.is_empty() { null() } else { string(word) };
    object(&[
        ("pid", program.pid.to_string()),
        ("name", string(&program.name)),
        ("path", string(&program.path)),
        ("go", filled(&program.go)),
        ("package", filled(&program.package)),
        ("module", filled(&program.module)),
        ("version", filled(&program.version)),
        ("stripped", program.stripped.map_or_else(null, |stripped| stripped.to_string())),
        ("goroutines", program.goroutines.map_or_else(null, |number| number.to_string())),
        ("threads", program.threads.to_string()),
        ("rung", program.rung.map_or_else(null, |rung| string(rung.as_str()))),
        ("waits", program.waits.map_or_else(null, |waits| waits.threads.to_string())),
        ("longest_wait_s", program.waits.map_or_else(null, |waits| waits.longest_s.to_string())),
        ("note", program.note.as_deref().map_or_else(null, string)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn any_name_comes_out_as_it_was() {
        let odd = "a\"b\\c\u{0}\u{1b}[2J\n\t\u{7f}\u{9b}é…\u{10348}/";
        let texts = || odd.to_owned();
        let program = Program {
            name: texts(),
            path: texts(),
            module: texts(),
            note: Some(texts()),
            ..Program::default()
        };
        let text = array(&[program.clone(), program]);
        let value: Value = serde_json::from_str(&text).unwrap();
        for key in ["name", "path", "module", "note"] {
            assert_eq!(value[1][key], odd, "{key}");
        }
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        assert_eq!(text.lines().count(), 4);
    }

    #[test]
    fn what_is_not_known_is_null() {
        assert_eq!(serde_json::from_str::<Value>(&array(&[])).unwrap(), json!([]));
        let program =
            Program { pid: 7, name: "x".into(), path: "/x".into(), threads: 1, ..Program::default() };
        let value: Value = serde_json::from_str(&array(&[program])).unwrap();
        let wanted = json!([{
            "pid": 7, "name": "x", "path": "/x", "go": null, "package": null, "module": null, "version": null,
            "stripped": null, "goroutines": null, "threads": 1, "rung": null, "waits": null, "longest_wait_s": null, "note": null,
        }]);
        assert_eq!(value, wanted);
    }
}
