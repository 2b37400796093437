//! Every shipped board file loads; every mistake is told with file, line, key, found and allowed.

use std::fs;
use std::path::Path;

use glg_proto::topics::is_device_name;

use super::read::{self, device_name};
use super::source::Tree;
use super::{Action, Config};
use crate::folder::Folder;

/// What loading `text` as `x.toml` over the built-in base says.
fn errors(text: &str) -> String {
    let loaded = Tree::over_builtin("x.toml", text).and_then(|tree| read::config(&tree)?.check_memory(&tree));
    loaded.map_or_else(|e| e.to_string(), |_| "no error".to_owned())
}

fn loads(text: &str) -> Config {
    read::config(&Tree::over_builtin("x.toml", text).unwrap()).unwrap()
}

/// A folder with these board files.
fn board_files(name: &str, files: &[(&str, &[u8])]) -> Folder {
    let folder = Folder::new(&format!("config-{name}"));
    fs::create_dir_all(&folder.0).unwrap();
    for (name, text) in files {
        fs::write(folder.0.join(name), text).unwrap();
    }
    folder
}

/// What loading a file there says, with the folder's name left out.
fn error(folder: &Folder, file: &str) -> String {
    let error = Config::load(&folder.0.join(file)).unwrap_err();
    error.to_string().replace(&format!("{}/", folder.0.display()), "")
}

#[test]
fn every_board_file_loads_within_its_budget() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../board-configs");
    let mut seen = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let config = Config::load(&path).unwrap_or_else(|e| panic!("{e}"));
        let sum = config.memory_sum();
        println!("{}\n{sum}\n", path.display());
        assert!(sum.fits() && sum.total() > 64 * 1024);
        assert!((256 * 1024..2048 * 1024).contains(&sum.dump));
        assert!(is_device_name(&config.device.name));
        seen.push(path.file_stem().unwrap().to_str().unwrap().to_owned());
    }
    seen.sort();
    assert_eq!(seen, ["base", "bench", "imx8", "qemu-virt"]);
}

#[test]
fn boards_differ_from_the_base_where_they_say_so() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../board-configs");
    let base = Config::builtin().unwrap();
    assert_eq!(Config::load(&dir.join("base.toml")).unwrap(), base);
    let qemu = Config::load(&dir.join("qemu-virt.toml")).unwrap();
    assert_eq!((qemu.device.name.as_str(), qemu.mqtt.host.as_str()), ("qemu-virt", "10.0.2.2"));
    assert_eq!((qemu.mqtt.keep_alive_s, qemu.mqtt.port), (5, 1883), "from bench.toml and base.toml");
    let imx8 = Config::load(&dir.join("imx8.toml")).unwrap();
    assert_eq!((imx8.watch.max_targets, imx8.history), (8, base.history));
    assert!(!imx8.watch.wants("/usr/local/bin/tool") && imx8.watch.wants("/opt/vehicle/ota"));
    assert!(imx8.memory_sum().total() < base.memory_sum().total());
}

#[test]
fn mistakes_are_told_in_full() {
    let cases = [
        (
            "[watch]\n\ninterval_ms = 5",
            "x.toml:3: watch.interval_ms: found 5, allowed 100..=60000 (milliseconds)",
        ),
        (
            "[watch]\ninterval_ms = -1",
            "x.toml:2: watch.interval_ms: found -1, allowed 100..=60000 (milliseconds)",
        ),
        ("mqtt.port = \"1883\"", "x.toml:1: mqtt.port: found \"1883\", allowed 1..=65535 (TCP port)"),
        (
            "mqtt.port = 99999999999999999999",
            "x.toml:1: mqtt.port: found 99999999999999999999, allowed 1..=65535 (TCP port)",
        ),
        ("mqtt.port = 2026-11-22", "x.toml:1: mqtt.port: found 2026-11-22, allowed 1..=65535 (TCP port)"),
        (
            "[watch]\nintervall_ms = 500",
            "x.toml:2: watch.intervall_ms: unknown key, did you mean `interval_ms`?",
        ),
        ("[wacht]\nrescan_s = 5", "x.toml:1: wacht: unknown key, did you mean `watch`?"),
        (
            "[memory]\nlimit_of_everything = 5",
            "x.toml:2: memory.limit_of_everything: unknown key, allowed budget_kib",
        ),
        (
            "\"\\u001b[2J\" = 1",
            "x.toml:1: \"\\u{1b}[2J\": unknown key, allowed history, device, mqtt, watch, growth, census, attribute, command, locks, outbox, spool, dump, prove, service, memory, log",
        ),
        ("watch = 7", "x.toml:1: watch: found 7, allowed a table"),
        (
            "[attribute]\nenabled = \"true\"",
            "x.toml:2: attribute.enabled: found \"true\", allowed true, false",
        ),
        (
            "attribute.budget_percent = nan",
            "x.toml:1: attribute.budget_percent: found NaN, allowed 0.01..=100.0 (per cent of one core)",
        ),
        (
            "[log]\nlevel = \"loud\"",
            "x.toml:2: log.level: found \"loud\", allowed \"error\", \"warn\", \"info\", \"debug\", \"trace\"",
        ),
        (
            "[device]\nname = \"a/b\"",
            "x.toml:2: device.name: found \"a/b\", allowed \"auto\" or 1 to 32 printable ASCII characters without space, /, +, # and $",
        ),
        (
            "[mqtt]\nhost = \"mqtt://broker:1883\"",
            "x.toml:2: mqtt.host: found \"mqtt://broker:1883\", allowed a host name or IP address, without scheme and port",
        ),
        (
            "[mqtt]\nbackoff_min_ms = 5000\nbackoff_max_ms = 1000",
            "x.toml:3: mqtt.backoff_max_ms: found 1000, allowed at least mqtt.backoff_min_ms, 5000 (milliseconds)",
        ),
        (
            "[mqtt]\npassword_file = \"/etc/p\"",
            "x.toml:2: mqtt.password_file: found \"/etc/p\", allowed only together with mqtt.username",
        ),
        (
            "[mqtt]\ntls = true\nca_file = \"\"",
            "x.toml:3: mqtt.ca_file: found \"\", allowed a file, since mqtt.tls is true",
        ),
        (
            "[mqtt]\ntls = true\nca_file = \"/ca\"\ncert_file = \"/c\"\nkey_file = \"\"",
            "x.toml:5: mqtt.key_file: found \"\", allowed mqtt.cert_file and mqtt.key_file only together",
        ),
        (
            "[mqtt]\nalpn = [\"a b\"]",
            "x.toml:2: mqtt.alpn: found a list, allowed up to 8 names of 1 to 64 printable ASCII characters",
        ),
        (
            "[mqtt]\nserver_name = \"https://broker\"",
            "x.toml:2: mqtt.server_name: found \"https://broker\", allowed a host name or IP address, \"\" for host",
        ),
        ("[mqtt]\ntls = \"yes\"", "x.toml:2: mqtt.tls: found \"yes\", allowed true, false"),
        (
            "history.middle.step_s = 61\nhistory.fine.step_s = 2",
            "x.toml:1: history.middle.step_s: found 61, allowed a multiple of history.fine.step_s, 2 (seconds)",
        ),
        (
            "[growth.fast]\nwindow_s = 301",
            "x.toml:2: growth.fast.window_s: found 301, allowed at most 300 (seconds; step_s x keep of history.fine)",
        ),
        (
            "[locks.threads]\nwindow_s = 7",
            "x.toml:2: locks.threads.window_s: found 7, allowed at least 8 (seconds; 8 x watch.interval_ms)",
        ),
        (
            "[growth.fast]\nwindow_s = 7",
            "x.toml:2: growth.fast.window_s: found 7, allowed at least 8 (seconds; 8 x the longer of history.fine.step_s and watch.interval_ms)",
        ),
        (
            "[[watch.match]]\nname = \"a\"\naction = \"watch\"\n[[watch.match]]\nname = \"\"\nactoin = \"ignore\"",
            "x.toml:4: watch.match.action: missing\n\
             x.toml:5: watch.match.name: found \"\", allowed a pattern of 1 to 256 characters\n\
             x.toml:6: watch.match.actoin: unknown key, did you mean `action`?",
        ),
        ("[dump]\nmax_frames = 5", "x.toml:2: dump.max_frames: found 5, allowed 128..=16384 (frames)"),
        (
            "[service]\nstate = \"run/state\"",
            "x.toml:2: service.state: found \"run/state\", allowed the absolute path of a file, at most 256 characters, or \"\"",
        ),
        ("watch.match = [3]", "x.toml:1: watch.match: found 3, allowed a table: [[watch.match]]"),
        ("[watch", "x.toml:1: not TOML: unclosed table, expected `]`"),
        ("x = 1\nx = 2", "x.toml:2: not TOML: duplicate key"),
        ("a.b.c.d.e.f.g.h.i = 1", "x.toml:1: tables deeper than 8 in each other"),
    ];
    let mut wrong = String::new();
    for (text, told) in cases {
        let found = errors(text);
        if found != told {
            wrong += &format!("---\n{text}\n- wanted {told}\n+ found  {found}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn all_mistakes_of_one_file_are_told_at_once() {
    let found = errors("[outbox]\nalerts = 0\n[watch]\nmax_targets = 65\nrescan = 9\n");
    let wanted = "x.toml:2: outbox.alerts: found 0, allowed 1..=4096 (alerts)\n\
                  x.toml:4: watch.max_targets: found 65, allowed 1..=64 (processes)\n\
                  x.toml:5: watch.rescan: unknown key, did you mean `rescan_s`?";
    assert_eq!(found, wanted);
}

#[test]
fn over_budget_shows_what_takes_how_much() {
    let found = errors("[memory]\nbudget_kib = 64\n");
    assert!(found.starts_with("x.toml: memory.budget_kib: found 64, but this config takes "), "{found}");
    for row in
        ["history", "census buffers", "outbox", "total", "budget                               65536 B"]
    {
        assert!(found.contains(row), "{row} in {found}");
    }
}

#[test]
fn lists_are_replaced_and_rules_are_tried_in_order() {
    let config = loads(
        "[[watch.match]]\nname = \"ota-*\"\naction = \"watch\"\n\
         [[watch.match]]\npath = \"/opt/*\"\nname = \"gw?\"\naction = \"watch\"\n\
         [[watch.match]]\naction = \"ignore\"\n",
    );
    assert_eq!(config.watch.rules.len(), 3);
    assert_eq!(config.watch.rules.last().unwrap().action, Action::Ignore);
    assert!(config.watch.wants("/usr/bin/ota-scheduler") && config.watch.wants("/opt/a/gw1"));
    assert!(!config.watch.wants("/usr/bin/gw1") && !config.watch.wants("/opt/a/dockerd"));
}

#[test]
fn inheritance_is_relative_bounded_and_without_circles() {
    let board = b"inherits = \"sub/parent.toml\"\n[mqtt]\nport = 99\n";
    let dir = board_files("chain", &[("board.toml", board), ("missing.toml", b"\ninherits = \"no.toml\"")]);
    fs::create_dir_all(dir.0.join("sub")).unwrap();
    let parent = b"inherits = \"../grand.toml\"\nmqtt.host = \"h\"\nmqtt.port = 98\n";
    fs::write(dir.0.join("sub/parent.toml"), parent).unwrap();
    fs::write(dir.0.join("grand.toml"), b"mqtt.keep_alive_s = 7\nmqtt.port = 97\nmqtt.host = \"g\"\n")
        .unwrap();
    let mqtt = Config::load(&dir.0.join("board.toml")).unwrap().mqtt;
    assert_eq!((mqtt.host.as_str(), mqtt.port, mqtt.keep_alive_s), ("h", 99, 7));

    fs::write(dir.0.join("grand.toml"), b"[mqtt]\nkeep_alive_s = 3\n").unwrap();
    assert_eq!(
        error(&dir, "board.toml"),
        "sub/../grand.toml:2: mqtt.keep_alive_s: found 3, allowed 5..=1200 (seconds)"
    );
    fs::write(dir.0.join("grand.toml"), b"inherits = \"board.toml\"").unwrap();
    assert_eq!(
        error(&dir, "board.toml"),
        "sub/../grand.toml:1: inherits: sub/../board.toml: inherits itself in a circle"
    );
    fs::write(dir.0.join("grand.toml"), b"inherits = [1]").unwrap();
    assert_eq!(
        error(&dir, "board.toml"),
        "sub/../grand.toml:1: inherits: found a list, allowed a file name in quotes"
    );
    assert_eq!(
        error(&dir, "missing.toml"),
        "missing.toml:2: inherits: no.toml: cannot be read: No such file or directory (os error 2) \
         (without `inherits`, the built-in base is inherited)"
    );
    for n in 0..9 {
        fs::write(dir.0.join(format!("{n}.toml")), format!("inherits = \"{}.toml\"", n + 1)).unwrap();
    }
    assert_eq!(
        error(&dir, "0.toml"),
        "7.toml:1: inherits: 8.toml: more than 8 files inherit from each other"
    );
}

#[test]
fn hostile_files_are_refused() {
    let big = vec![b'#'; 256 * 1024 + 1];
    let dir = board_files("hostile", &[("big.toml", &big), ("latin.toml", b"a = 1\n# caf\xe9\n")]);
    assert_eq!(error(&dir, "big.toml"), "big.toml: larger than 256 KiB, allowed for a board file");
    assert_eq!(error(&dir, "latin.toml"), "latin.toml: line 2 is not UTF-8 text");
    assert!(error(&dir, "none.toml").starts_with("none.toml: cannot be read: "));
    let error = Config::load(Path::new("/dev/zero")).unwrap_err().to_string();
    assert_eq!(error, "/dev/zero: cannot be read: not a regular file");
}

#[test]
fn deep_nesting_never_overflows_the_stack() {
    let dotted = vec!["a"; 75].join(".");
    let mut inline = "1".to_owned();
    for _ in 0..75 {
        inline = format!("{{ {dotted} = {inline} }}");
    }
    for text in [
        format!("[{dotted}]\n{dotted} = {inline}"),
        format!("x = {}", "[".repeat(200_000)),
        format!("x = {}", "{a=".repeat(80_000)),
        format!("{} = 1", vec!["a"; 100_000].join(".")),
        format!("[[{}]]", vec!["a"; 100_000].join(".")),
        "[".repeat(200_000),
    ] {
        let found = errors(&text);
        assert!(found.starts_with("x.toml"), "{}", found.chars().take(200).collect::<String>());
    }
}

#[test]
fn damaged_files_never_panic() {
    // Every truncation and many byte changes of a real file, by a fixed generator (xorshift64).
    let text = include_str!("../../../board-configs/imx8.toml");
    for end in (0..text.len()).filter(|&end| text.is_char_boundary(end)) {
        errors(text.get(..end).unwrap());
    }
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..2000 {
        let mut bytes = text.as_bytes().to_vec();
        for _ in 0..3 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let at = usize::try_from(random % bytes.len() as u64).unwrap();
            *bytes.get_mut(at).unwrap() = b"\"[]{}.=#\n-0 ae\\'"[usize::try_from(random >> 60).unwrap()];
        }
        errors(std::str::from_utf8(&bytes).unwrap());
    }
}

#[test]
fn host_names_become_device_names() {
    for (host, name) in
        [("van-7", "van-7"), ("", "unnamed"), ("a b/c#ü", "a-b-c--"), (&"x".repeat(64), &"x".repeat(32))]
    {
        assert_eq!(device_name(host), name);
        assert!(is_device_name(&device_name(host)));
    }
}

#[test]
fn tls_takes_its_keys_and_the_host_for_a_name() {
    let text = "[mqtt]\nhost = \"b.example\"\ntls = true\nca_file = \"/ca\"\nalpn = [\"mqtt\", \"x-amzn-mqtt-ca\"]\n";
    let tls = loads(text).mqtt.tls.unwrap();
    assert_eq!((tls.ca.to_str(), &tls.own, tls.server_name.as_str()), (Some("/ca"), &None, "b.example"));
    assert_eq!(tls.alpn, ["mqtt", "x-amzn-mqtt-ca"]);
    let more = "cert_file = \"/c\"\nkey_file = \"/k\"\nserver_name = \"other\"\n";
    let tls = loads(&format!("{text}{more}")).mqtt.tls.unwrap();
    assert_eq!((tls.own, tls.server_name), (Some(("/c".into(), "/k".into())), "other".to_owned()));
    assert_eq!(loads("[mqtt]\nca_file = \"/ca\"").mqtt.tls, None);
}
