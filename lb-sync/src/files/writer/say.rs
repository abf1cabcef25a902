//! What the writer tells people, once for each different message.

use std::collections::BTreeMap;
use std::io;

use registry::name::ServiceName;
use registry::time::Clock;

use super::{AGAIN_AFTER, Services, Writer};
use crate::files::choose::{Choice, Found};
use crate::files::folder::Scan;
use crate::files::reloads::Reason;
use haproxy::master::ReloadError;

impl Writer {
    pub(super) fn failed(&mut self, error: &io::Error) {
        let dir = self.folder.path().display();
        self.log_once.error("disk", || {
            format!("cannot keep the files in {dir}: {error}\n  HAProxy would start on those before; see docs/files.md")
        });
        self.wake_by(AGAIN_AFTER);
    }

    pub(super) fn base_refused(&mut self, said: &str) {
        self.done.refused += 1;
        self.log_once.error("base", || {
            format!(
                "HAProxy takes neither your own files as they are nor what was to be written; nothing was: {said}\n  HAProxy \
                 would not start: mend them, and check --conf-base"
            )
        });
        self.wake_by(AGAIN_AFTER);
    }

    pub(super) fn routes_are_ours(&mut self, ours: bool) {
        if ours {
            return self.log_once.settled("routes");
        }
        let file = self.folder.routes_map();
        self.log_once.warn("routes", || {
            format!("{} was not written by lb-sync and is left alone: a restarted HAProxy knows no routes before lb-sync has added them\n  empty it to hand it over", file.display())
        });
    }

    pub(super) fn refused(&mut self, service: &ServiceName, said: &str) {
        self.done.refused += 1;
        let file = self.folder.section(service);
        self.log_once.error(&topic(service), || {
            format!(
                "HAProxy refuses the section of {service}, and {} stays as it was: {said}\n  mend its template; tried again by itself",
                file.display()
            )
        });
        self.shunned.insert(service.clone(), Clock.now().plus(AGAIN_AFTER));
        self.wake_by(AGAIN_AFTER);
    }

    /// Tells people what is theirs to do.
    pub(super) fn complain(&mut self, scan: &Scan, choice: &Choice, failed: &BTreeMap<ServiceName, String>) {
        for (service, found) in &scan.sections {
            if *found == Found::Theirs {
                let file = self.folder.section(service);
                self.log_once.warn(&topic(service), || {
                    format!("{} was not written by lb-sync and is left alone\n  empty it to hand the section over", file.display())
                });
            }
        }
        for (service, error) in failed {
            self.done.refused += 1;
            let file = self.folder.section(service);
            self.log_once.error(&topic(service), || {
                format!("no section for {service}, and {} stays as it was: {error}", file.display())
            });
        }
        if choice.too_many > 0 {
            let (rest, kept) = (choice.too_many, choice.render.len());
            self.log_once.error("room", || {
                format!("{rest} services get no section: {kept} are kept already\n  remove files of services that are no more")
            });
        }
    }

    pub(super) fn reloaded(&mut self, outcome: Result<(), ReloadError>, reason: Reason, services: &Services) {
        let services = list(services);
        match outcome {
            Ok(()) => {
                *self.done.reloads.entry(reason).or_default() += 1;
                tracing::info!(services, reason = reason.text(), "HAProxy reloaded");
                self.log_once.settled("reload");
            }
            Err(error) => {
                self.done.reloads_failed += 1;
                self.log_once.error("reload", || format!("{services} cannot be brought in: {error}"));
            }
        }
    }

    /// A reload that worked and did not bring them in.
    pub(super) fn in_vain(&mut self, missing: &Services) {
        let (services, dir) = (list(missing), self.folder.path().display());
        self.log_once.error("vain", || {
            format!(
                "HAProxy was reloaded and has no backend for {services} still; retried with growing waits\n  is it started \
                 with `-f {dir}`?"
            )
        });
    }

    pub(super) fn without_master(&mut self, missing: &Services) {
        if missing.is_empty() {
            return self.log_once.settled("reload");
        }
        let (services, dir) = (list(missing), self.folder.path().display());
        self.log_once.warn("reload", || {
            format!(
                "HAProxy has no backend for {services}; the sections are in {dir}\n  reload HAProxy to bring them in, or have lb-sync do it: --master-socket"
            )
        });
    }

    pub(super) fn blocked(&mut self, missing: &Services, by_hand: &Services) {
        let (services, theirs) = (list(missing), list(by_hand));
        self.log_once.warn("reload", || {
            format!(
                "HAProxy has no backend for {services}, and is not reloaded: {theirs}, written by hand, would be without \
                 servers for a moment\n  hand those sections over (docs/files.md), or reload HAProxy when that does not matter"
            )
        });
    }
}

pub(super) fn topic(service: &ServiceName) -> String {
    format!("service {service}")
}

fn list(services: &Services) -> String {
    /// Most names in a line of the log.
    const NAMES_MAX: usize = 10;
    let names: Vec<&str> = services.iter().take(NAMES_MAX).map(ServiceName::as_str).collect();
    let rest = services.len().saturating_sub(NAMES_MAX);
    if rest == 0 { names.join(", ") } else { format!("{} and {rest} more", names.join(", ")) }
}
