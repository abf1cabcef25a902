//! Backends that HAProxy makes while it runs (3.4 and newer), for services that have none.

use std::collections::BTreeSet;

use registry::name::ServiceName;

use super::{PassError, observe, routes};
use crate::haproxy::answer::info::Version;
use crate::haproxy::{BackendName, Dialogue, Reply};
use crate::plan::backends;
use crate::plan::observed::Observed;
use crate::status::{Journal, Metrics};
use crate::view::{Scope, View};

/// Whether this HAProxy has `add backend` outside of experimental mode.
pub(crate) fn can(version: &Version) -> bool {
    version.at_least(3, 4)
}

/// What was made; and what was refused, so that it is not asked for again before the next audit.
#[derive(Debug, Default)]
pub(super) struct BackendMaker {
    refused: BTreeSet<ServiceName>,
    /// Made in the HAProxy process that answers.
    made: BTreeSet<ServiceName>,
}

impl BackendMaker {
    /// Those that were made in the HAProxy process that answers.
    pub(super) fn made(&self) -> &BTreeSet<ServiceName> {
        &self.made
    }

    /// Another HAProxy process answers: what it has, it has from files.
    pub(super) fn start_anew(&mut self) {
        self.made.clear();
    }

    /// Whatever was refused may be tried again. Whether anything was.
    pub(super) fn again(&mut self) -> bool {
        !std::mem::take(&mut self.refused).is_empty()
    }

    /// Makes those that are missing within `scope` from the section `defaults`, and reads them back.
    pub(super) async fn make(
        &mut self,
        dialogue: &mut Dialogue,
        defaults: &BackendName,
        (view, scope): (&View, &Scope),
        observed: &mut Observed,
        (journal, totals): (&Journal, &mut Metrics),
    ) -> Result<(), PassError> {
        let missing = backends::missing(view, observed, scope);
        let missing: BTreeSet<ServiceName> = missing.difference(&self.refused).cloned().collect();
        for service in &missing {
            let commands = backends::make(service, defaults);
            let answers = dialogue.ask(&commands).await?;
            for (command, answer) in commands.iter().zip(&answers) {
                let reply = Reply::read(command, answer);
                routes::note(command, &reply, journal, totals);
                if reply != Reply::Ok {
                    self.refused.insert(service.clone());
                }
            }
            if !self.refused.contains(service) {
                self.made.insert(service.clone());
            }
        }
        observe::backends(dialogue, &missing, observed).await
    }
}
