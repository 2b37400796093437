//! What the outbox and the history are kept in on flash: records with a checksum of their own, a ledger of
//! what has become of them, and a budget for what is written in a day.

pub mod budget;
pub mod codec;
pub mod ledger;
pub mod record;
pub mod store;

use glg_proto::wire::Class;

use crate::flash::Kind;

/// Where messages of a class are kept.
#[must_use]
pub fn kind_of(class: Class) -> Kind {
    match class {
        Class::Routine => Kind::Routine,
        Class::Warning => Kind::Warning,
        Class::Critical => Kind::Critical,
    }
}

/// Messages of which class a file keeps, if any.
#[must_use]
pub fn class_of(kind: Kind) -> Option<Class> {
    match kind {
        Kind::Routine => Some(Class::Routine),
        Kind::Warning => Some(Class::Warning),
        Kind::Critical => Some(Class::Critical),
        Kind::Ledger | Kind::History | Kind::Counter | Kind::Audit => None,
    }
}
