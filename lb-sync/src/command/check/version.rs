//! What a version of HAProxy can do of what concerns servers that come and go, and what it needs worked around.

use super::finding::Finding;
use haproxy::answer::info::Version;

/// What came with which version. Tested on 2.6.12, 3.0.11, 3.2.26 and 3.4.7.
const SINCE: [(&str, (u16, u16)); 6] = [
    ("servers added and deleted at run time", (2, 6)),
    ("an answer to `reload` on the master socket", (2, 7)),
    ("`cookie` of a new server", (3, 0)),
    ("`wait … srv-removable`", (3, 0)),
    ("`init-state` (a new server that is down until its check passes)", (3, 1)),
    ("`add backend`", (3, 4)),
];

/// What is known of old versions, and what lb-sync does about it.
const CAVEATS: [(&str, (u16, u16)); 3] = [
    ("reuses no connections to new servers unless told (it is told)", (2, 8)),
    (
        "may give no traffic to a new server without an id, under random and consistent hashing (each has one)",
        (2, 8),
    ),
    ("does not delete a server with idle connections (they are let go of first)", (2, 8)),
];

/// A line on what `version` can do, and one on what it cannot.
pub(super) fn findings(version: &Version) -> Vec<Finding> {
    let has = |(_, (major, minor)): &(&str, (u16, u16))| version.at_least(*major, *minor);
    let join = |some: Vec<String>| if some.is_empty() { "nothing".to_owned() } else { some.join(", ") };
    let can = join(SINCE.iter().filter(|it| has(it)).map(|(what, _)| (*what).to_owned()).collect());
    let cannot = SINCE.iter().filter(|it| !has(it));
    let cannot = join(cannot.map(|(what, (major, minor))| format!("{what} ({major}.{minor})")).collect());
    let mut findings =
        vec![Finding::ok("HAProxy version", format!("{version} has {can}; it lacks {cannot}"))];
    let caveats: Vec<&str> = CAVEATS.iter().filter(|it| !has(it)).map(|(what, _)| *what).collect();
    if !caveats.is_empty() {
        findings.push(Finding::ok("HAProxy version", format!("{version} {}", caveats.join("; "))));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_is_told_what_it_has_and_what_it_lacks() {
        let seen = |text: &str| {
            let findings = findings(&text.parse().unwrap());
            findings.into_iter().map(|finding| finding.seen).collect::<Vec<_>>()
        };
        let old = seen("2.6.12-1+deb12u4");
        assert!(old[0].starts_with("2.6.12-1+deb12u4 has servers added and deleted at run time; it lacks"));
        assert!(old[0].contains("`cookie` of a new server (3.0)") && old[0].contains("`add backend` (3.4)"));
        assert!(old[1].contains("does not delete a server with idle connections"), "{old:?}");
        let middle = seen("3.0.11");
        assert!(middle[0].contains("has servers added and deleted at run time, an answer to `reload`"));
        assert!(middle[0].contains("lacks `init-state`") && middle.len() == 1, "{middle:?}");
        assert!(seen("3.4.7")[0].ends_with("it lacks nothing"));
    }
}
