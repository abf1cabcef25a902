//! What the writer logs, once for each different message.

use registry::name::ServiceName;
use registry::time::Tick;

use super::{Machine, RETRY_AFTER, Reload, Services, Texts};
use crate::files::folder::Scan;
use crate::files::ownership::{Found, Ownership};
use haproxy::master::ReloadError;

impl Machine {
    pub(super) fn log_failed(&mut self, now: Tick, error: &str) {
        let dir = self.folder.path().display();
        self.log_once.error("disk", || {
            format!("cannot keep the files in {dir}: {error}\n  HAProxy would start on those before; see docs/files.md")
        });
        self.wake_by(now.plus(RETRY_AFTER));
    }

    pub(super) fn log_base_refused(&mut self, now: Tick, said: &str) {
        self.report.refused += 1;
        self.log_once.error("base", || {
            format!(
                "HAProxy takes neither your own files as they are nor what was to be written; nothing was: {said}\n  HAProxy \
                 would not start: mend them, and check --conf-base"
            )
        });
        self.wake_by(now.plus(RETRY_AFTER));
    }

    pub(super) fn log_routes_map(&mut self, ours: bool) {
        if ours {
            return self.log_once.settled("routes");
        }
        let file = self.folder.routes_map();
        self.log_once.warn("routes", || {
            format!("{} was not written by lb-sync and is left alone: a restarted HAProxy knows no routes before lb-sync has added them\n  empty it to hand it over", file.display())
        });
    }

    pub(super) fn log_refused(&mut self, now: Tick, service: &ServiceName, said: &str) {
        self.report.refused += 1;
        let file = self.folder.section(service);
        self.log_once.error(&topic(service), || {
            format!(
                "HAProxy refuses the section of {service}, and {} stays as it was: {said}\n  mend its template; tried again by itself",
                file.display()
            )
        });
        self.retry_after.insert(service.clone(), now.plus(RETRY_AFTER));
        self.wake_by(now.plus(RETRY_AFTER));
    }

    /// Logs which files and templates need an operator.
    pub(super) fn log_ownership(&mut self, scan: &Scan, ownership: &Ownership, failed: &Texts) {
        for (service, found) in &scan.sections {
            if *found == Found::Theirs {
                let file = self.folder.section(service);
                self.log_once.warn(&topic(service), || {
                    format!("{} was not written by lb-sync and is left alone\n  empty it to hand the section over", file.display())
                });
            }
        }
        for (service, error) in failed {
            self.report.refused += 1;
            let file = self.folder.section(service);
            self.log_once.error(&topic(service), || {
                format!("no section for {service}, and {} stays as it was: {error}", file.display())
            });
        }
        if ownership.too_many > 0 {
            let (rest, kept) = (ownership.too_many, ownership.render.len());
            self.log_once.error("room", || {
                format!("{rest} services get no section: {kept} are kept already\n  remove files of services that are no more")
            });
        }
    }

    pub(super) fn log_reloaded(&mut self, outcome: Result<(), ReloadError>, reload: &Reload) {
        let (services, reason) = (list(&reload.services), reload.reason);
        match outcome {
            Ok(()) => {
                *self.report.reloads.entry(reason).or_default() += 1;
                tracing::info!(services, reason = reason.text(), "HAProxy reloaded");
                self.log_once.settled("reload");
            }
            Err(error) => {
                self.report.reloads_failed += 1;
                self.log_once.error("reload", || format!("{services} cannot be brought in: {error}"));
            }
        }
    }

    /// A reload worked and did not bring them in.
    pub(super) fn log_fruitless(&mut self, missing: &Services) {
        let (services, dir) = (list(missing), self.folder.path().display());
        self.log_once.error("fruitless", || {
            format!(
                "HAProxy was reloaded and has no backend for {services} still; retried with growing waits\n  is it started \
                 with `-f {dir}`?"
            )
        });
    }

    pub(super) fn log_without_master(&mut self, missing: &Services) {
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

    pub(super) fn log_written(&mut self, service: &ServiceName) {
        self.log_once.settled(&topic(service));
        tracing::debug!(%service, "file written");
    }

    pub(super) fn log_blocked(&mut self, missing: &Services, by_hand: &Services) {
        let (services, theirs) = (list(missing), list(by_hand));
        self.log_once.warn("reload", || {
            format!(
                "HAProxy has no backend for {services}, and is not reloaded: {theirs}, written by hand, would be without \
                 servers for a moment\n  hand those sections over (docs/files.md), or reload HAProxy when that does not matter"
            )
        });
    }
}

fn topic(service: &ServiceName) -> String {
    format!("service {service}")
}

fn list(services: &Services) -> String {
    /// Most names in a line of the log.
    const NAMES_MAX: usize = 10;
    let names: Vec<&str> = services.iter().take(NAMES_MAX).map(ServiceName::as_str).collect();
    let rest = services.len().saturating_sub(NAMES_MAX);
    if rest == 0 { names.join(", ") } else { format!("{} and {rest} more", names.join(", ")) }
}
