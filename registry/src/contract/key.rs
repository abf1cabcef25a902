//! Keys: built from parsed names only, and parsed back into them.

use std::fmt;
use std::str::FromStr;

use crate::contract::name::{BalancerName, InstanceId, NameError, ServiceName};

/// Where everything of ours stands in etcd, `/leasehold/v1` unless told otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(String);

/// A prefix that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot be a key prefix: begin with `/`, do not end with one, and use A-Z a-z 0-9 _ . - / (at most 256 characters)"
)]
pub struct PrefixError(String);

/// One key of the registry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// `instances/<service>/<instance>`
    Instance(InstanceId),
    /// `balancers/<balancer>`
    Balancer(BalancerName),
    /// `acks/<service>/<instance>/<balancer>`
    Ack(InstanceId, BalancerName),
    /// `overrides/<service>/<instance>`
    Override(InstanceId),
}

/// A key under our prefix that is not one of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not below the prefix, not UTF-8, or not one of the known shapes.
    #[error("{0:?} is not a key of the registry")]
    Shape(String),
    /// A part of it is an illegal name.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl Default for Prefix {
    fn default() -> Self {
        Self("/leasehold/v1".into())
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-' | b'/');
        let fits = text.len() <= 256 && text.starts_with('/') && !text.ends_with('/');
        if fits && !text.contains("//") && text.bytes().all(legal) {
            Ok(Self(text.into()))
        } else {
            Err(PrefixError(text.chars().take(300).collect()))
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Prefix {
    /// What lb-sync follows: every instance's record.
    #[must_use]
    pub fn instances(&self) -> String {
        format!("{}/instances/", self.0)
    }

    /// The records of one service's instances.
    #[must_use]
    pub fn instances_of(&self, service: &ServiceName) -> String {
        format!("{}/instances/{service}/", self.0)
    }

    /// What lb-sync follows: operators' overrides.
    #[must_use]
    pub fn overrides(&self) -> String {
        format!("{}/overrides/", self.0)
    }

    /// What a registrar follows: who balances.
    #[must_use]
    pub fn balancers(&self) -> String {
        format!("{}/balancers/", self.0)
    }

    /// What a registrar follows: what balancers say about one instance.
    #[must_use]
    pub fn acks_of(&self, id: &InstanceId) -> String {
        format!("{}/acks/{id}/", self.0)
    }

    /// What balancers say about all instances.
    #[must_use]
    pub fn acks(&self) -> String {
        format!("{}/acks/", self.0)
    }

    /// The text of `key` in etcd.
    #[must_use]
    pub fn text(&self, key: &Key) -> String {
        match key {
            Key::Instance(id) => format!("{}/instances/{id}", self.0),
            Key::Balancer(balancer) => format!("{}/balancers/{balancer}", self.0),
            Key::Ack(id, balancer) => format!("{}/acks/{id}/{balancer}", self.0),
            Key::Override(id) => format!("{}/overrides/{id}", self.0),
        }
    }

    /// The key that `text` from etcd is.
    pub fn parse(&self, text: &[u8]) -> Result<Key, KeyError> {
        let shape = || KeyError::Shape(String::from_utf8_lossy(text).chars().take(200).collect());
        let path = std::str::from_utf8(text).ok().and_then(|t| t.strip_prefix(&self.0)).ok_or_else(shape)?;
        let parts: Vec<&str> = path.split('/').take(6).collect();
        let id = |service: &str, instance: &str| -> Result<InstanceId, NameError> {
            Ok(InstanceId { service: service.parse()?, instance: instance.parse()? })
        };
        match parts.as_slice() {
            ["", "instances", service, instance] => Ok(Key::Instance(id(service, instance)?)),
            ["", "overrides", service, instance] => Ok(Key::Override(id(service, instance)?)),
            ["", "balancers", balancer] => Ok(Key::Balancer(balancer.parse()?)),
            ["", "acks", service, instance, balancer] => {
                Ok(Key::Ack(id(service, instance)?, balancer.parse()?))
            }
            _ => Err(shape()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys() -> impl Strategy<Value = Key> {
        let name = "[A-Za-z0-9][A-Za-z0-9_.-]{0,63}";
        let id = (name, name).prop_map(|(service, instance)| InstanceId {
            service: service.parse().unwrap(),
            instance: instance.parse().unwrap(),
        });
        let balancer = name.prop_map(|name| name.parse::<BalancerName>().unwrap());
        prop_oneof![
            id.clone().prop_map(Key::Instance),
            id.clone().prop_map(Key::Override),
            balancer.clone().prop_map(Key::Balancer),
            (id, balancer).prop_map(|(id, balancer)| Key::Ack(id, balancer)),
        ]
    }

    proptest! {
        #[test]
        fn every_key_parses_back(key in keys(), prefix in "(/[a-z0-9]{1,8}){1,3}") {
            let prefix: Prefix = prefix.parse().unwrap();
            prop_assert_eq!(prefix.parse(prefix.text(&key).as_bytes()), Ok(key));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Prefix::default().parse(&bytes);
        }
    }

    #[test]
    fn foreign_and_illegal_keys_are_refused() {
        let prefix = Prefix::default();
        for bad in [
            "/leasehold/v1",
            "/leasehold/v1/instances/web",
            "/leasehold/v1/instances/web/web-1/x",
            "/leasehold/v1/instances/web/we b",
            "/leasehold/v1/instances//x",
            "/leasehold/v2/instances/web/web-1",
            "/leasehold/v1x/instances/web/web-1",
            "/leasehold/v1/acks/web/web-1",
        ] {
            assert!(prefix.parse(bad.as_bytes()).is_err(), "{bad}");
        }
        for bad in ["", "/", "x", "/a/", "/a//b", "/a b", "/a;b"] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }
}
