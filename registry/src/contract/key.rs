//! Keys: built from parsed names only, and parsed back into them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::contract::name::{BalancerName, InstanceId, NameError, ServiceName};
use crate::contract::record::AckRecord;

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
    /// `acks/<balancer>/<service>/<instance>`
    Ack(AckKey),
    /// `overrides/<service>/<instance>`
    Override(InstanceId),
}

/// What the key of an ack says. The balancer comes first, so that an etcd role can be cut to one balancer.
///
/// lb-sync 0.1.0 wrote `acks/<service>/<instance>/<balancer>`: three names as well, so that a key by itself does not say which
/// of them is which. It is parsed as the present layout; [`AckKey::meaning`] asks the value. Both are read for one release.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AckKey {
    /// The balancer whose ack it is.
    pub balancer: BalancerName,
    /// The instance that it is about.
    pub id: InstanceId,
}

/// How a balancer writes the keys of its acks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AckLayout {
    /// `acks/<balancer>/<service>/<instance>`
    ByBalancer,
    /// `acks/<service>/<instance>/<balancer>`, as lb-sync 0.1.0 did.
    ByInstance,
}

impl AckKey {
    /// The key at which `balancer` acks `id` in this layout.
    #[must_use]
    pub fn new(layout: AckLayout, balancer: &BalancerName, id: &InstanceId) -> Self {
        let key = Self { balancer: balancer.clone(), id: id.clone() };
        match layout {
            AckLayout::ByBalancer => key,
            // All names obey one rule: this never fails.
            AckLayout::ByInstance => {
                let rotated = Self::of(&id.service, &id.instance, balancer);
                rotated.unwrap_or(key)
            }
        }
    }

    /// The balancer and the instance that the ack `record` at this key is about. lb-sync 0.1.0 names no revision, and every
    /// later one does.
    #[must_use]
    pub fn meaning(&self, record: &AckRecord) -> Self {
        if record.revision.is_some() {
            return self.clone();
        }
        let rotated = Self::of(&self.id.instance, &self.balancer, &self.id.service);
        rotated.unwrap_or_else(|_| self.clone())
    }

    /// The key of these three names, in the order in which they stand in it.
    fn of(
        first: impl Into<Arc<str>>,
        second: impl Into<Arc<str>>,
        third: impl Into<Arc<str>>,
    ) -> Result<Self, NameError> {
        let (first, second, third) = (first.into(), second.into(), third.into());
        let id = InstanceId { service: second.try_into()?, instance: third.try_into()? };
        Ok(Self { balancer: first.try_into()?, id })
    }
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

    /// What a registrar follows: the balancers that are present.
    #[must_use]
    pub fn balancers(&self) -> String {
        format!("{}/balancers/", self.0)
    }

    /// What one balancer says about all instances.
    #[must_use]
    pub fn acks_by(&self, balancer: &BalancerName) -> String {
        format!("{}/acks/{balancer}/", self.0)
    }

    /// What balancers say about all instances: of a fleet, as many keys as it has instances times balancers.
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
            Key::Ack(AckKey { balancer, id }) => format!("{}/acks/{balancer}/{id}", self.0),
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
            ["", "acks", balancer, service, instance] => {
                Ok(Key::Ack(AckKey { balancer: balancer.parse()?, id: id(service, instance)? }))
            }
            _ => Err(shape()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::contract::record::AckState;

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
            (id, balancer).prop_map(|(id, balancer)| Key::Ack(AckKey { balancer, id })),
        ]
    }

    fn ack(revision: Option<i64>) -> AckRecord {
        AckRecord { owner: "me".into(), revision, state: AckState::Drained, at: String::new() }
    }

    /// The key alone cannot tell: here a service is called as the balancer, and the other way round.
    #[test]
    fn the_record_says_in_which_layout_a_key_is() {
        let prefix = Prefix::default();
        let Ok(Key::Ack(key)) = prefix.parse(b"/leasehold/v1/acks/web/lb/web") else {
            panic!("an ack's key")
        };
        let meaning = |revision| {
            let AckKey { balancer, id } = key.meaning(&ack(revision));
            (balancer.to_string(), id.to_string())
        };
        assert_eq!(meaning(Some(7)), ("web".into(), "lb/web".into()));
        assert_eq!(meaning(None), ("web".into(), "web/lb".into()));
        let old = AckKey::new(AckLayout::ByInstance, &"lb".parse().unwrap(), &"web/web-1".parse().unwrap());
        assert_eq!(prefix.text(&Key::Ack(old)), "/leasehold/v1/acks/web/web-1/lb");
    }

    proptest! {
        #[test]
        fn every_key_parses_back(key in keys(), prefix in "(/[a-z0-9]{1,8}){1,3}") {
            let prefix: Prefix = prefix.parse().unwrap();
            prop_assert_eq!(prefix.parse(prefix.text(&key).as_bytes()), Ok(key));
        }

        #[test]
        fn an_ack_means_the_same_in_both_layouts(
            names in ("[a-c]{1,2}", "[a-c]{1,2}", "[a-c]{1,2}"),
            revision in proptest::option::of(0..9_i64),
        ) {
            let (balancer, service, instance) = names;
            let id = InstanceId { service: service.parse().unwrap(), instance: instance.parse().unwrap() };
            let about = AckKey { balancer: balancer.parse().unwrap(), id };
            let layout = if revision.is_some() { AckLayout::ByBalancer } else { AckLayout::ByInstance };
            let key = AckKey::new(layout, &about.balancer, &about.id);
            prop_assert_eq!(key.meaning(&ack(revision)), about);
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
