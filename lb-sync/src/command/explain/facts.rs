//! What is known of an instance, and how it is told.

use std::time::Duration;

use registry::name::InstanceId;
use registry::record::{InstanceState, Intent, OverrideMode, OverrideRecord};
use serde_json::{Value, json};

use super::traffic::{Traffic, traffic};
use crate::plan::Step;
use crate::plan::observed::Server;
use crate::status::{Inputs, InstanceStatus, ServerPresence};
use crate::view::Registered;
use haproxy::ServerAddr;
use haproxy::answer::info::Version;
use haproxy::answer::stat::{StatRow, Status};

/// Everything about one instance.
#[derive(Clone, Debug)]
pub(super) struct Facts<'a> {
    pub(super) id: &'a InstanceId,
    /// Its record.
    pub(super) registered: Option<&'a Registered>,
    /// Why what stands at its key is no record.
    pub(super) unreadable: Option<&'a str>,
    /// The operator's wish.
    pub(super) overriding: Option<&'a OverrideRecord>,
    /// Why what stands at the override's key is none.
    pub(super) unreadable_wish: Option<&'a str>,
    /// Who is served at its address in its stead.
    pub(super) shadowed_by: Option<&'a InstanceId>,
    /// How long the running lb-sync keeps it as a suspect at most, if it does.
    pub(super) suspect_for: Option<Duration>,
    /// Why the running lb-sync could not be asked.
    pub(super) unasked: Option<&'a str>,
    pub(super) version: &'a Version,
    pub(super) has_backend: bool,
    /// HAProxy's server of its name.
    pub(super) server: Option<&'a Server>,
    /// Whether lb-sync made that.
    pub(super) ours: bool,
    pub(super) row: Option<StatRow>,
    /// What would be done now.
    pub(super) steps: &'a [Step],
    /// It is on its way out, and what is in flight is waited for.
    pub(super) waiting: bool,
}

impl Facts<'_> {
    /// Whether registry or HAProxy has anything of it.
    pub(super) fn is_known(&self) -> bool {
        let in_registry = self.registered.is_some() || self.unreadable.is_some();
        in_registry || self.overriding.is_some() || self.unreadable_wish.is_some() || self.server.is_some()
    }

    /// For people.
    pub(super) fn paragraph(&self) -> String {
        if !self.is_known() {
            return format!(
                "{} is not known: there is no record of it, no override, and no server of its name in HAProxy.",
                self.id
            );
        }
        let sentences = [
            Some(self.of_record()),
            self.of_unreadable(),
            self.of_override(),
            self.of_rival(),
            Some(self.of_server()),
            Some(self.traffic().to_string()),
            self.of_unasked(),
            Some(self.of_next()),
        ];
        sentences.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    /// As the page and the metrics have it.
    pub(super) fn status(&self) -> InstanceStatus {
        let mode = self.overriding.and_then(|overriding| overriding.mode);
        InstanceStatus::of(&Inputs {
            intent: self.registered.map(|registered| Intent::of(registered.record.state, mode)),
            shadowed: self.shadowed_by.is_some(),
            suspect: self.suspect_for.is_some(),
            has: match self.server {
                Some(server) if self.ours => ServerPresence::Ours(server),
                Some(server) => ServerPresence::Foreign(server),
                None if self.has_backend => ServerPresence::NoServer,
                None => ServerPresence::NoBackend,
            },
        })
    }

    fn traffic(&self) -> Traffic {
        let check = self.row.as_ref().map_or("", |row| row.check_status.trim_start_matches("* "));
        traffic(self.status(), &self.id.service, self.unreadable.is_some(), check)
    }

    /// Where it is not known whether it is a suspect, and that would make a difference.
    fn of_unasked(&self) -> Option<String> {
        let why = self.unasked.filter(|_| self.registered.is_none() && self.ours)?;
        Some(format!("Whether the running lb-sync keeps it as a suspect is not known: {why}."))
    }

    fn of_record(&self) -> String {
        let Some(Registered { record, owner, create_revision, mod_revision, .. }) = self.registered else {
            return format!("{} is not registered.", self.id);
        };
        let is = if self.suspect_for.is_some() { "was" } else { "is" };
        let text = format!(
            "{} {is} registered at {} as {} with weight {}, by owner {owner}, since revision {create_revision} \
             (last written at {mod_revision}).",
            self.id,
            record.endpoint(),
            state(record.state),
            record.weight.get(),
        );
        match self.suspect_for {
            None => text,
            Some(left) => format!(
                "{text} Its key is gone, and it is kept as a suspect: until it returns, HAProxy's own check fails, or \
                 {} s have passed.",
                left.as_secs()
            ),
        }
    }

    fn of_unreadable(&self) -> Option<String> {
        let record = self.unreadable.map(|why| format!("What stands at its key is ignored: {why}."));
        let overriding = self.unreadable_wish.map(|why| format!("Its override is ignored: {why}."));
        (record.is_some() || overriding.is_some())
            .then(|| record.into_iter().chain(overriding).collect::<Vec<_>>().join(" "))
    }

    fn of_override(&self) -> Option<String> {
        let overriding = self.overriding?;
        let by = if overriding.by.is_empty() { "An operator" } else { &overriding.by };
        let wants = match (overriding.mode.map(mode), overriding.weight) {
            (None, None) => "nothing of it".into(),
            (Some(mode), None) => mode.to_owned(),
            (None, Some(weight)) => format!("its weight to be {}", weight.get()),
            (Some(mode), Some(weight)) => format!("{mode}, and its weight to be {}", weight.get()),
        };
        let at = if overriding.at.is_empty() { String::new() } else { format!(" (since {})", overriding.at) };
        let reason =
            if overriding.reason.is_empty() { String::new() } else { format!(": {:?}", overriding.reason) };
        Some(format!("{by} wants {wants}{at}{reason}."))
    }

    fn of_rival(&self) -> Option<String> {
        let rival = self.shadowed_by?;
        Some(format!("{rival} has the same address, was registered later, and is served in its stead."))
    }

    fn of_server(&self) -> String {
        let haproxy = format!("HAProxy {}", self.version);
        let Some(server) = self.server else {
            return if self.has_backend {
                format!("{haproxy} has no server for it.")
            } else {
                format!("{haproxy} has no backend {}.", self.id.service)
            };
        };
        let whose = if self.ours { "" } else { ", which lb-sync did not make," };
        let at = server.addr.map_or_else(|| "an address of its own".into(), |addr| addr.to_string());
        let ordered = if server.admin.is_maint() {
            "in MAINT"
        } else if server.admin.is_drain() {
            "in DRAIN"
        } else {
            "ready"
        };
        let seen = self.row.as_ref().map_or_else(String::new, of_row);
        format!(
            "{haproxy} has it as server {}{whose} at {at}, {ordered}, weight {}{seen}.",
            server.id, server.weight
        )
    }

    fn of_next(&self) -> String {
        let Some(first) = self.steps.first() else {
            let wait = "Next: what is in flight is waited for.";
            return if self.waiting { wait.into() } else { "There is nothing to do.".into() };
        };
        let lines: Vec<String> =
            self.steps.iter().flat_map(Step::lines).map(|line| format!("`{line}`")).collect();
        format!("Next ({}): {}.", first.why.text(), lines.join(", "))
    }

    /// For machines.
    pub(super) fn json(&self) -> Value {
        let traffic = self.traffic();
        json!({
            "instance": self.id.to_string(),
            "known": self.is_known(),
            "record": self.registered.map(|registered| json!({
                "record": registered.record,
                "owner": registered.owner,
                "create_revision": registered.create_revision,
                "mod_revision": registered.mod_revision,
            })),
            "suspect_for_s": self.suspect_for.map(|left| left.as_secs()),
            "unasked": self.unasked,
            "unreadable": self.unreadable,
            "override": self.overriding,
            "shadowed_by": self.shadowed_by.map(ToString::to_string),
            "server": self.server.map(|server| json!({
                "id": server.id.get(),
                "ours": self.ours,
                "address": server.addr.as_ref().map(ServerAddr::to_string),
                "maint": server.admin.is_maint(),
                "drain": server.admin.is_drain(),
                "weight": server.weight.get(),
                "check": self.row.as_ref().map(|row| &row.check_status),
                "in_flight": self.row.as_ref().map(|row| row.scur),
                "queued": self.row.as_ref().map(|row| row.qcur),
            })),
            "traffic": traffic.amount.word(),
            "reason": traffic.why,
            "reason_code": self.status().reason.code(),
            "next": self.steps.iter().flat_map(Step::lines).collect::<Vec<_>>(),
        })
    }
}

fn of_row(row: &StatRow) -> String {
    let status = match &row.status {
        Status::Up => "up",
        Status::Down => "down",
        Status::Nolb => "up for persistent clients only",
        Status::Drain => "draining",
        Status::Maint => "not checked",
        Status::NoCheck => "never checked",
        Status::Other(_) => "in a state of its own",
    };
    let check = row.check_status.trim_start_matches("* ");
    let check = if check.is_empty() { String::new() } else { format!(" (last check {check})") };
    let slow = row.effective_weight > 0 && row.effective_weight < u32::from(row.weight.get());
    let slow = if slow { format!(" of which {} count now", row.effective_weight) } else { String::new() };
    format!("{slow}, {status}{check}, {} in flight and {} queued", row.scur, row.qcur)
}

fn state(state: InstanceState) -> &'static str {
    match state {
        InstanceState::Up => "up",
        InstanceState::Down => "down (it says that it is unhealthy)",
        InstanceState::Draining => "draining (it is leaving)",
    }
}

fn mode(mode: OverrideMode) -> &'static str {
    match mode {
        OverrideMode::Drain => "it drained",
        OverrideMode::Maintenance => "it out of rotation at once",
    }
}

#[cfg(test)]
mod tests;
