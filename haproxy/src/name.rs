//! What HAProxy calls its backends and servers: names, ids and weights that cannot hold an illegal value.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::Arc;

/// Longest name taken, in bytes. HAProxy has no limit of its own but `tune.bufsize`; this keeps every command far
/// below it.
pub const MAX_NAME: usize = 128;

/// Why a text is not a name for HAProxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a legal HAProxy name: 1 to {MAX_NAME} characters out of A-Z a-z 0-9 _ - . :")]
pub struct IllegalName;

/// HAProxy's own rule (`invalid_char` in `src/tools.c`), with a bound. A space would add keywords to a command, `;` and a
/// newline would start another one, and `/` would move the boundary between backend and server: none is legal.
fn legal(text: &str) -> Result<Arc<str>, IllegalName> {
    let fits = (1..=MAX_NAME).contains(&text.len());
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b':');
    if fits && text.bytes().all(plain) { Ok(text.into()) } else { Err(IllegalName) }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl FromStr for $name {
            type Err = IllegalName;

            fn from_str(text: &str) -> Result<Self, IllegalName> {
                legal(text).map(Self)
            }
        }

        impl From<$name> for Arc<str> {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name! {
    /// The name of a `backend` section: Cheap to clone.
    BackendName
}

name! {
    /// The name of a server within its backend: Cheap to clone.
    ServerName
}

/// One server, as commands name it: `backend/server`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerPath {
    /// The backend it belongs to.
    pub backend: BackendName,
    /// Its name there.
    pub server: ServerName,
}

impl ServerPath {
    /// The server called `server` in `backend`.
    #[must_use]
    pub fn new(backend: BackendName, server: ServerName) -> Self {
        Self { backend, server }
    }
}

impl fmt::Display for ServerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.backend, self.server)
    }
}

/// A server's numeric `id`: unique within its backend, at least 1. HAProxy's own type for it is `int`, so that it ends
/// at 2³¹ − 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId(NonZeroU32);

/// Why a number is not an id for HAProxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a legal HAProxy id: {0} is not within 1..=2147483647")]
pub struct IllegalId(pub u32);

fn id(number: u32) -> Result<NonZeroU32, IllegalId> {
    NonZeroU32::new(number).filter(|id| i32::try_from(id.get()).is_ok()).ok_or(IllegalId(number))
}

impl TryFrom<u32> for ServerId {
    type Error = IllegalId;

    fn try_from(number: u32) -> Result<Self, IllegalId> {
        id(number).map(Self)
    }
}

impl ServerId {
    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A backend's numeric id (`be_id` in `show servers state`), which HAProxy counts out over all its sections at start: it
/// means something to that one process only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId(NonZeroU32);

impl TryFrom<u32> for BackendId {
    type Error = IllegalId;

    fn try_from(number: u32) -> Result<Self, IllegalId> {
        id(number).map(Self)
    }
}

impl BackendId {
    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A map's number (`# id` in `show map`), which HAProxy counts out at start: it means something to that one process only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MapId(pub u32);

/// As commands name it: by a path, a map of the same file could be meant.
impl fmt::Display for MapId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// A server's weight, `0..=256` (`SRV_UWGHT_MAX`). 0 keeps the server out of balancing but not out of persistence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerWeight(u16);

/// Why a number is not a weight for HAProxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a legal HAProxy weight: {0} is not within 0..=256")]
pub struct IllegalWeight(pub u16);

impl TryFrom<u16> for ServerWeight {
    type Error = IllegalWeight;

    fn try_from(number: u16) -> Result<Self, IllegalWeight> {
        if number <= 256 { Ok(Self(number)) } else { Err(IllegalWeight(number)) }
    }
}

impl ServerWeight {
    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// The weight that a server is added with, `1..=256`.
///
/// Never 0: a server that takes persistent requests and has never been in the balancing tree makes HAProxy crash when its
/// weight changes or it is deleted (`leastconn` and `first`, 2.6 to 3.4). 0 is set once the server has been up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InitialWeight(ServerWeight);

/// Why a number is not a weight to add a server with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a server is added with a weight within 1..=256, not {0}")]
pub struct IllegalInitialWeight(pub u16);

impl TryFrom<u16> for InitialWeight {
    type Error = IllegalInitialWeight;

    fn try_from(number: u16) -> Result<Self, IllegalInitialWeight> {
        let weight = ServerWeight::try_from(number).ok().filter(|weight| weight.get() > 0);
        weight.map(Self).ok_or(IllegalInitialWeight(number))
    }
}

impl From<InitialWeight> for ServerWeight {
    fn from(InitialWeight(weight): InitialWeight) -> Self {
        weight
    }
}

impl fmt::Display for InitialWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ServerWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_holds_only_what_haproxy_allows() {
        for good in ["a", "web-1", "A.b_c:9", &"x".repeat(MAX_NAME)] {
            assert_eq!(good.parse::<BackendName>().unwrap().as_ref(), good);
        }
        for bad in ["", "a b", "a;b", "a\nb", "a/b", "é", "#1", &"x".repeat(MAX_NAME + 1)] {
            assert_eq!(bad.parse::<ServerName>(), Err(IllegalName), "{bad:?}");
        }
    }

    #[test]
    fn numbers_keep_to_haproxy_s_ranges() {
        assert!(ServerId::try_from(0).is_err());
        assert!(ServerId::try_from(1 << 31).is_err());
        assert_eq!(ServerId::try_from((1 << 31) - 1).unwrap().get(), (1 << 31) - 1);
        assert!(BackendId::try_from(0).is_err());
        assert_eq!(ServerWeight::try_from(256).unwrap().to_string(), "256");
        assert_eq!(ServerWeight::try_from(257), Err(IllegalWeight(257)));
        assert_eq!(InitialWeight::try_from(0), Err(IllegalInitialWeight(0)));
        assert_eq!(InitialWeight::try_from(257), Err(IllegalInitialWeight(257)));
        assert_eq!(InitialWeight::try_from(1).unwrap().to_string(), "1");
    }
}
