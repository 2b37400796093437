//! What the operator's tool reads. Its modules are no library's: these are the same files.
#![allow(dead_code, reason = "each has a command line or a writing half, too")]

#[path = "../../ctl/src/age.rs"]
pub(crate) mod age;
#[path = "../../ctl/src/expand.rs"]
pub(crate) mod expand;
#[path = "../../ctl/src/remote/parts.rs"]
pub(crate) mod parts;
#[path = "../../ctl/src/pprof.rs"]
pub(crate) mod pprof;
