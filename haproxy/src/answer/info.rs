//! `show info`: which HAProxy answers, and whether it is on its way out.

use std::fmt;
use std::str::FromStr;

use super::AnswerError;
use super::excerpt::Excerpt;

const ASKED: &str = "show info";

/// Who is at the other end of the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// HAProxy's version.
    pub version: Version,
    /// The worker's process id. In a container, a restarted worker may have the one that its predecessor had: see
    /// [`Self::is_same_process`].
    pub pid: u32,
    /// When this worker started, in seconds since 1970 (`Start_time_sec`).
    pub started_s: u64,
    /// This worker has been replaced by a reload and ends when its last connection does. It still takes every command,
    /// to no effect on the new one: connect again.
    pub stopping: bool,
    /// Seconds since this worker started.
    pub uptime_s: u64,
    /// The node's name (`node` in `global`, else the host's).
    pub node: String,
}

/// HAProxy's version; compares by its three numbers first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 2 in 2.6.12.
    pub major: u16,
    /// 6 in 2.6.12.
    pub minor: u16,
    /// 12 in 2.6.12; 0 for a development version.
    pub patch: u16,
    /// As HAProxy says it: `2.6.12-1+deb12u4`.
    pub text: String,
}

impl Version {
    /// Whether this is `major.minor` or later.
    #[must_use]
    pub fn at_least(&self, major: u16, minor: u16) -> bool {
        (self.major, self.minor) >= (major, minor)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A text that does not begin with `major.minor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a version of HAProxy")]
pub struct NoVersion;

impl FromStr for Version {
    type Err = NoVersion;

    fn from_str(text: &str) -> Result<Self, NoVersion> {
        let numbers = text.split(|c: char| !c.is_ascii_digit() && c != '.').next().unwrap_or_default();
        let mut parts = numbers.split('.').map(str::parse::<u16>);
        let (Some(Ok(major)), Some(Ok(minor))) = (parts.next(), parts.next()) else {
            return Err(NoVersion);
        };
        let patch = parts.next().and_then(Result::ok).unwrap_or(0);
        Ok(Self { major, minor, patch, text: text.chars().take(Excerpt::MAX).collect() })
    }
}

impl Info {
    /// Whether both are answers of one process. Another one means a reload or a restart, and with it the loss of every
    /// dynamic server. In a container one of another version may have been started in the same second, with the same id.
    #[must_use]
    pub fn is_same_process(&self, other: &Self) -> bool {
        (self.pid, self.started_s, &self.version) == (other.pid, other.started_s, &other.version)
    }

    /// Reads the answer to `show info`.
    pub fn parse(text: &str) -> Result<Self, AnswerError> {
        if !text.trim_start().starts_with("Name:") {
            return Err(AnswerError::Unexpected { asked: ASKED, said: Excerpt::of(text) });
        }
        let fields = Fields::of(text);
        Ok(Self {
            version: fields.parsed("Version")?,
            pid: fields.parsed("Pid")?,
            started_s: fields.parsed("Start_time_sec")?,
            stopping: fields.parsed::<u8>("Stopping")? != 0,
            uptime_s: fields.parsed("Uptime_sec")?,
            node: Excerpt::of(fields.value("node")?).into_string(),
        })
    }
}

/// The lines that are read, of some eighty: each request to HAProxy begins with `show info`, so they are gone through once.
const READ: [&str; 6] = ["Version", "Pid", "Uptime_sec", "Start_time_sec", "Stopping", "node"];

/// The values of the lines `name: value` of [`READ`].
struct Fields<'a>([Option<&'a str>; READ.len()]);

impl<'a> Fields<'a> {
    fn of(text: &'a str) -> Self {
        let mut values = [None; READ.len()];
        for line in text.lines() {
            let Some((name, value)) = line.split_once(':') else { continue };
            if let Some(at) = READ.iter().position(|read| *read == name) {
                values[at].get_or_insert(value.trim());
            }
        }
        Self(values)
    }

    fn value(&self, name: &'static str) -> Result<&'a str, AnswerError> {
        let at = READ.iter().position(|read| *read == name);
        at.and_then(|at| self.0[at]).ok_or(AnswerError::Missing { asked: ASKED, name })
    }

    fn parsed<T: FromStr>(&self, name: &'static str) -> Result<T, AnswerError> {
        let said = self.value(name)?;
        said.parse().map_err(|_| AnswerError::Malformed { asked: ASKED, name, said: Excerpt::of(said) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    #[test]
    fn every_version_says_who_it_is() {
        for (version, text) in fixtures::every("show-info") {
            let info = Info::parse(&text).unwrap();
            assert_eq!(format!("{}.{}", info.version.major, info.version.minor), version);
            assert!(info.version.patch > 0 && info.pid > 0 && !info.stopping, "{info:?}");
            assert_eq!(info.node, "balancer");
        }
    }

    #[test]
    fn a_restarted_worker_with_its_predecessors_process_id_is_another_process() {
        for (_, text) in fixtures::every("show-info") {
            let info = Info::parse(&text).unwrap();
            assert!(info.started_s > 0 && info.is_same_process(&Info { uptime_s: 9, ..info.clone() }));
            assert!(!info.is_same_process(&Info { started_s: info.started_s + 1, ..info.clone() }));
            assert!(!info.is_same_process(&Info { pid: info.pid + 1, ..info.clone() }));
            let version = "9.9.9".parse().unwrap();
            assert!(!info.is_same_process(&Info { version, ..info.clone() }));
        }
    }

    #[test]
    fn a_worker_on_its_way_out_says_so() {
        for (_, text) in fixtures::every("show-info") {
            assert!(Info::parse(&text.replace("Stopping: 0", "Stopping: 1")).unwrap().stopping);
        }
    }

    #[test]
    fn versions_compare_by_number() {
        let version = |text: &str| text.parse::<Version>().unwrap();
        assert!(version("2.6.12-1+deb12u4") < version("2.10.0"));
        assert_eq!(version("3.2-dev5-abc").patch, 0);
        assert!(version("3.0.11").at_least(3, 0) && !version("2.9.1").at_least(3, 0));
        assert_eq!("three".parse::<Version>(), Err(NoVersion));
    }

    #[test]
    fn what_is_missing_is_named() {
        let said = Info::parse("Name: HAProxy\nVersion: 2.6.12\n").unwrap_err().to_string();
        assert_eq!(said, "HAProxy's answer to `show info` has no `Pid`");
        assert!(matches!(Info::parse("Permission denied\n"), Err(AnswerError::Unexpected { .. })));
    }
}
