//! `[command]`: who may send commands, and what they may cost.

use glg_engine::command::{CommandKey, KEYS_MAX, Roles};
use glg_proto::command::{KEY_BYTES, PART_MAX};

use super::reader::{Reader, Section};
use crate::age::Recipient;
use crate::hex;

/// As much as a part can carry.
const PART_BYTES_MAX: u32 = 16 << 10;
const _: () = assert!(PART_BYTES_MAX as usize == PART_MAX);
/// What a key may do.
const ROLES: [&str; 4] = ["look", "dump", "set", "audit"];

/// `[command]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commands {
    /// File in which a document stands while it is sent.
    pub document: String,
    /// KiB of a document, compressed.
    pub document_kib: u32,
    /// Seconds that it may take to be made.
    pub document_s: u32,
    /// Bytes of one part.
    pub part_bytes: u16,
    /// To whom records of commands are encrypted.
    pub audit_recipient: Option<Recipient>,
    /// Who may send commands; without one they are off.
    pub keys: Vec<NamedKey>,
}

/// `[[command.key]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedKey {
    /// Whose it is.
    pub name: String,
    /// The key, and what it may do.
    pub key: CommandKey,
}

impl Commands {
    /// The keys without their names.
    #[must_use]
    pub fn keys(&self) -> Vec<CommandKey> {
        self.keys.iter().map(|named| named.key).collect()
    }
}

pub(super) fn read<'t>(r: &mut Reader<'t>, root: &mut Section<'t>) -> Commands {
    let mut s = r.section(root, "command");
    let path = "the absolute path of a file, at most 256 characters";
    let path_fits = |path: &str| path.len() <= 256 && path.starts_with('/') && !path.ends_with('/');
    let recipient_fits = |text: &str| text.is_empty() || Recipient::parse(text).is_some();
    let commands = Commands {
        document: r.text(&mut s, "document", path, path_fits),
        document_kib: r.integer(&mut s, "document_kib", 64..=65_536, "KiB"),
        document_s: r.integer(&mut s, "document_s", 1..=3600, "seconds"),
        part_bytes: super::read::narrow(r.integer(&mut s, "part_bytes", 256..=PART_BYTES_MAX, "bytes")),
        audit_recipient: Recipient::parse(&r.text(
            &mut s,
            "audit_recipient",
            "what age-keygen calls the public key, age1..., or \"\"",
            recipient_fits,
        )),
        keys: read_keys(r, &mut s),
    };
    r.close(&s);
    commands
}

fn read_keys<'t>(r: &mut Reader<'t>, s: &mut Section<'t>) -> Vec<NamedKey> {
    let mut keys = Vec::new();
    for mut table in r.sections(s, "key", KEYS_MAX) {
        let name_fits = |text: &str| (1..=64).contains(&text.len());
        let name = r.text(&mut table, "name", "1 to 64 characters", name_fits);
        let public = r.text(&mut table, "public", "64 hexadecimal digits", |text| {
            hex::bytes::<KEY_BYTES>(text).is_some()
        });
        let words = r.texts(&mut table, "roles", ROLES.len(), "a list of look, dump, set, audit", |word| {
            ROLES.contains(&word)
        });
        r.close(&table);
        let has = |role| words.iter().any(|word| word == role);
        let roles = Roles { look: has("look"), dump: has("dump"), set: has("set"), audit: has("audit") };
        if let Some(key) = hex::bytes(&public) {
            keys.push(NamedKey { name, key: CommandKey { key, roles } });
        }
    }
    keys
}
