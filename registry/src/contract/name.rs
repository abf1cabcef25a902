//! Names: of services, instances and balancers. A value of these types is legal by construction.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest legal name, in bytes (all are ASCII). Fits HAProxy's names, a cookie and a DNS label's neighbourhood.
pub const NAME_LEN_MAX: usize = 64;

/// A name that breaks the rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{given:?} is not a legal {kind} name: use 1 to 64 of the characters A-Z a-z 0-9 _ . - and begin with a letter or a digit"
)]
pub struct NameError {
    /// What the name was to be: `service`, `instance` or `balancer`.
    pub kind: &'static str,
    /// What was given, cut to a length fit for a log line.
    pub given: String,
}

/// `^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`
fn is_legal(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= NAME_LEN_MAX
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                if is_legal(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(NameError { kind: $kind, given: text.chars().take(80).collect() })
                }
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        /// Without a copy, where the text is shared already.
        impl TryFrom<Arc<str>> for $type {
            type Error = NameError;

            fn try_from(text: Arc<str>) -> Result<Self, NameError> {
                if is_legal(&text) { Ok(Self(text)) } else { text.parse() }
            }
        }

        /// Shared, not copied.
        impl From<&$type> for Arc<str> {
            fn from(name: &$type) -> Self {
                Arc::clone(&name.0)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0.as_ref().into()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name!(
    /// A service: what clients ask for. HAProxy's backend has the same name.
    ServiceName,
    "service"
);
name!(
    /// One member of a service. HAProxy's server has the same name.
    InstanceName,
    "instance"
);
name!(
    /// One HAProxy with its lb-sync.
    BalancerName,
    "balancer"
);

/// An instance of a service, written `web/web-1`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId {
    /// The service it is a member of.
    pub service: ServiceName,
    /// Its name within the service.
    pub instance: InstanceName,
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.instance)
    }
}

/// Text that is not `SERVICE/INSTANCE`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstanceIdError {
    /// There is not exactly one slash.
    #[error("{0:?} does not name an instance: write SERVICE/INSTANCE, for example web/web-1")]
    Form(String),
    /// One of the two names is illegal.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl FromStr for InstanceId {
    type Err = InstanceIdError;

    fn from_str(text: &str) -> Result<Self, InstanceIdError> {
        let form = || InstanceIdError::Form(text.chars().take(150).collect());
        let (service, instance) = text.split_once('/').ok_or_else(form)?;
        Ok(Self { service: service.parse()?, instance: instance.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_rule_at_its_edges() {
        for good in ["a", "0", "web-1", "A.b_c-9", &"x".repeat(64)] {
            assert_eq!(good.parse::<ServiceName>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", ".a", "_a", "a b", "a/b", "a;b", "a\n", "é", &"x".repeat(65)] {
            let error = bad.parse::<InstanceName>().unwrap_err();
            assert!(error.to_string().contains("legal instance name: use 1 to 64"), "{error}");
        }
        assert_eq!("web/web-1".parse::<InstanceId>().unwrap().to_string(), "web/web-1");
        for bad in ["web", "web/", "/x", "a/b/c"] {
            assert!(bad.parse::<InstanceId>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn nothing_but_the_rule_gets_through(text in "\\PC{0,70}") {
            if let Ok(name) = text.parse::<ServiceName>() {
                let rest_is_legal = name.as_str().chars()
                    .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
                prop_assert!(rest_is_legal && name.as_str().len() <= 64);
            }
        }
    }
}
