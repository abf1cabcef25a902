//! Exit codes: 0, 1, and those of `sysexits.h` that the contract names.

/// Something failed, is not there, or has not come to be.
pub const FAILED: u8 = 1;
/// The command line cannot be read (`EX_USAGE`).
pub const USAGE: u8 = 64;
/// etcd or HAProxy cannot be reached (`EX_UNAVAILABLE`).
pub const UNREACHABLE: u8 = 69;
/// An option, a password, a right: it can be read and not used (`EX_CONFIG`).
pub const CONFIG: u8 = 78;
