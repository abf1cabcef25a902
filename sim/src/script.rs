//! A script: the options of a run, and what happens in it. A seed draws one; a failure is kept as one.

use std::fmt;
use std::str::FromStr;

use crate::draw::mix;
use crate::haproxy::VERSIONS;

/// The options of a run: sizes, times, and the noise of its draws.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Services.
    pub services: u64,
    /// Instances of each service.
    pub instances: u64,
    /// Balancers.
    pub balancers: u64,
    /// The ttl of every lease, in seconds.
    pub ttl_s: u64,
    /// How long sticky clients may stay, in seconds.
    pub sticky_s: u32,
    /// How long requests in flight may take, in seconds.
    pub inflight_s: u32,
    /// Longest wait for balancers when an instance leaves, in seconds.
    pub leave_max_s: u64,
    /// Longest that a suspect stays, in seconds.
    pub suspect_max_s: u64,
    /// Time between HAProxy's checks of a server, in milliseconds; 0 for none.
    pub check_ms: u64,
    /// 1: the second balancer's lb-sync was given the first one's name.
    pub twins: u64,
    /// 1: lb-sync keeps files, and HAProxy starts with their servers; 0: it starts with none.
    pub files: u64,
    /// HAProxy's version at the start, as an index of [`crate::haproxy::VERSIONS`].
    pub version: u64,
    /// 1: a new server gets no traffic before its first check has passed (`--first-check wait`).
    pub first_check: u64,
    /// 1: a registrar starts an app again that has failed (`--restart on-failure`); 0: it leaves and ends.
    pub restarts: u64,
    /// 1: the run ends soon after all has come to rest; 0: it has its whole time, for what shows late.
    pub short: u64,
    /// The seed of latencies and choices; 0 makes every latency the same.
    pub noise: u64,
}

/// Declares the operations: each with its name in a script, and its arguments.
macro_rules! ops {
    ($($(#[$doc:meta])* $op:ident $name:literal ($($arg:ident),*);)*) => {
        /// What happens. Times are in milliseconds, and come last.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Op {
            $($(#[$doc])* $op($(ops!(@number $arg)),*),)*
        }

        impl Op {
            fn parts(self) -> (&'static str, Vec<u64>) {
                match self {
                    $(Self::$op($($arg),*) => ($name, vec![$($arg),*]),)*
                }
            }

            fn from_parts(name: &str, args: &[u64]) -> Option<Self> {
                Some(match (name, args) {
                    $(($name, [$($arg),*]) => Self::$op($(*$arg),*),)*
                    _ => return None,
                })
            }
        }
    };
    (@number $arg:ident) => { u64 };
}

ops! {
    /// The instance is told to stop, and started again when it has ended.
    Roll "roll" (reg);
    /// The instance is told to stop, and started again a time after its end.
    Scale "scale" (reg, ms);
    /// `kill -9` of registrar and app; started again after a time.
    KillBoth "kill-both" (reg, ms);
    /// `kill -9` of the registrar alone, and of the app when it is started again.
    KillRegistrar "kill-registrar" (reg, ms);
    /// The app ends by itself; the whole is started again after a time.
    Exit "exit" (reg, ms);
    /// For a time, the app ends soon after each start.
    CrashLoop "crash-loop" (reg, ms);
    /// The app's check fails for a time.
    Ill "ill" (reg, ms);
    /// The app does not end on TERM: it is told to stop, and killed in the end.
    Stubborn "stubborn" (reg);
    /// The registrar is paused for a time.
    PauseRegistrar "pause-registrar" (reg, ms);
    /// The registrar's host is suspended for a time: its timers have stood still when it goes on.
    SuspendRegistrar "suspend-registrar" (reg, ms);
    /// The registrar is cut off from etcd for a time.
    CutRegistrar "cut-registrar" (reg, ms);
    /// All registrars are cut off from etcd for a time.
    CutRegistrars "cut-registrars" (ms);
    /// As [`Self::CutRegistrar`], but what it sends arrives.
    DeafRegistrar "deaf-registrar" (reg, ms);
    /// Its watches are this late for a time.
    LagRegistrar "lag-registrar" (reg, late_ms, ms);
    /// As [`Self::LoseEvents`], of a registrar's watches.
    LoseRegistrarEvents "lose-registrar-events" (reg, ms);
    /// All its watches break.
    BreakRegistrar "break-registrar" (reg);
    /// An operator revokes its lease.
    RevokeRegistrar "revoke-registrar" (reg);
    /// An operator deletes its record.
    DeleteRecord "delete-record" (reg);
    /// An operator writes what is no record over its own.
    GarbleRecord "garble-record" (reg);
    /// lb-sync is told to stop, and started again after a time.
    StopBalancer "stop-balancer" (bal, ms);
    /// `kill -9` of lb-sync; started again after a time.
    KillBalancer "kill-balancer" (bal, ms);
    /// `kill -9` of lb-sync; started again after a time, with its state directory of so long ago.
    OldDisk "old-disk" (bal, ago_ms, ms);
    /// lb-sync is paused for a time.
    PauseBalancer "pause-balancer" (bal, ms);
    /// lb-sync's host is suspended for a time: its timers have stood still when it goes on.
    SuspendBalancer "suspend-balancer" (bal, ms);
    /// lb-sync is cut off from etcd for a time.
    CutBalancer "cut-balancer" (bal, ms);
    /// As [`Self::CutBalancer`], but what it sends arrives.
    DeafBalancer "deaf-balancer" (bal, ms);
    /// Its watches are this late for a time.
    LagBalancer "lag-balancer" (bal, late_ms, ms);
    /// Its watches live on and lose all events for a time, as etcd 3.4 has done.
    LoseEvents "lose-events" (bal, ms);
    /// All its watches break.
    BreakBalancer "break-balancer" (bal);
    /// An operator revokes its lease.
    RevokeBalancer "revoke-balancer" (bal);
    /// An operator deletes its presence.
    DeletePresence "delete-presence" (bal);
    /// An operator deletes its acks.
    DeleteAcks "delete-acks" (bal);
    /// HAProxy is reloaded.
    Reload "reload" (bal);
    /// HAProxy dies, and is started again on its files after a time.
    RestartHaproxy "restart-haproxy" (bal, ms);
    /// HAProxy ends, and is started again in this version ([`crate::haproxy::VERSIONS`]) after a time.
    OtherVersion "other-version" (bal, version, ms);
    /// HAProxy is restarted with a configuration that lacks a backend, and after a time with the one before.
    OtherConfiguration "other-configuration" (bal, backend, ms);
    /// HAProxy's runtime socket says nothing for a time.
    HangHaproxy "hang-haproxy" (bal, ms);
    /// An operator changes a server on HAProxy's runtime socket: this of the present ones, in this way.
    HandEdit "hand-edit" (bal, server, way);
    /// All checks of one HAProxy fail for a time, though the apps are well.
    ChecksLie "checks-lie" (bal, ms);
    /// etcd is away for a time.
    Outage "outage" (ms);
    /// etcd takes what is sent, and answers nothing for a time.
    Hang "hang" (ms);
    /// For a time, so many of a thousand calls are lost: before they arrive, or their answers.
    LoseCalls "lose-calls" (per_mille, ms);
    /// Another member leads: every lease has its whole ttl, every stream breaks.
    Leader "leader" ();
    /// Every stream breaks, and what happens before they are back is compacted.
    Compact "compact" ();
    /// etcd loses everything; it is away for a time.
    Wipe "wipe" (ms);
    /// etcd is restored from a backup of so long ago; it is away for a time. The third is how much its revision is bumped.
    Restore "restore" (ago_ms, away_ms, bump);
    /// An operator drains the instance for a time.
    Drain "drain" (reg, ms);
    /// An operator takes the instance out for a time.
    Maintenance "maintenance" (reg, ms);
    /// An operator gives the instance another weight for a time.
    Weight "weight" (reg, ms);
    /// Another registrar of the instance's name starts elsewhere, and is told to stop after a time.
    SameName "same-name" (reg, ms);
    /// The instance's app is registered in another service as well, by a registrar of its own, for a time.
    SameAddress "same-address" (reg, ms);
    /// etcd refuses writes for a time.
    Full "full" (ms);
}

/// All that happens in a run, in the order of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// The options.
    pub options: Options,
    /// What happens, with its time in milliseconds.
    pub ops: Vec<(u64, Op)>,
}

/// The first operation comes after everything has come up.
pub const WARM_UP_MS: u64 = 6_000;
/// Operations come within this time.
const BUSY_MS: u64 = 30_000;

/// Which kinds of operations a schedule may have: one bit each, drawn per schedule.
const KINDS: u64 = 51;
const VERSIONS_COUNT: u64 = VERSIONS.len() as u64;
/// A member of etcd lags behind by so much.
const LATE_MS_MAX: u64 = 5_000;
/// Ways in which an operator changes a server by hand.
pub const HAND_EDITS: u64 = 4;
/// Calls that are lost.
const LOST_PER_MILLE_MAX: u64 = 50;
/// A host that was suspended.
const SUSPENDED_MS_MIN: u64 = 60_000;
/// A reload comes with up to so many others.
const RELOADS_IN_A_ROW: u64 = 3;
const RELOADS_WITHIN_MS: u64 = 600;
/// An etcd that is stopped, restored and started again is away for longer. A watch that broke less than a second after its last
/// message is resumed, since it can have missed no restore.
const RESTORE_TAKES_MS: u64 = 1_100;
/// How much a restored etcd's revision is bumped (`etcdutl snapshot restore --bump-revision`; its documentation has 1,000,000,000).
const REVISION_BUMP: u64 = 1_000_000_000;
/// What a watch has lost is found by a list within this (`registry::follow`: every 5 to 10 minutes).
const LISTED_WITHIN_MS: u64 = 600_000;

impl Script {
    /// The script of `seed`. `only`: of these kinds of operations (by name), else of any.
    #[must_use]
    pub fn draw(seed: u64, only: Option<&[String]>) -> Self {
        let mut state = mix(seed);
        let mut next = |bound: u64| {
            state = mix(state);
            state % bound.max(1)
        };
        // One in sixteen is large.
        let [services, instances, balancers] = if next(16) == 0 { [4, 12, 4] } else { [2, 4, 3] };
        let options = Options {
            services: 1 + next(services),
            instances: 1 + next(instances),
            balancers: 1 + next(balancers),
            ttl_s: [2, 3, 5, 10][usize::try_from(next(4)).unwrap_or(0)],
            sticky_s: [0, 0, 1, 3][usize::try_from(next(4)).unwrap_or(0)],
            inflight_s: [1, 3, 5, 5][usize::try_from(next(4)).unwrap_or(0)],
            leave_max_s: if next(8) == 0 { 5 + next(20) } else { 60 },
            suspect_max_s: 20,
            check_ms: [500, 1_000, 2_000, 2_000][usize::try_from(next(4)).unwrap_or(0)],
            files: u64::from(!mix(seed ^ 0xf11e5).is_multiple_of(4)),
            version: mix(seed ^ 0x7e25) % VERSIONS_COUNT,
            first_check: u64::from(mix(seed ^ 0xf125).is_multiple_of(4)),
            restarts: u64::from(mix(seed ^ 0x2e57).is_multiple_of(4)),
            short: u64::from(!mix(seed ^ 0x5047).is_multiple_of(8)),
            twins: u64::from(mix(seed ^ 0x7_2135).is_multiple_of(8)),
            noise: 1 + next(u64::MAX - 1),
        };
        // Options before faults: each kind is in or out for the whole schedule.
        let mut allowed: Vec<u64> = (0..KINDS).filter(|_| next(6) == 0).collect();
        if let Some(only) = only {
            let named =
                |kind: &u64| only.iter().any(|name| *name == kind_op(*kind, &mut |_| 0, &options).name());
            allowed = (0..KINDS).filter(named).collect();
        }
        let mut ops = Vec::new();
        let rolls =
            if only.is_some_and(|only| !only.iter().any(|name| name == "roll")) { 0 } else { 1 + next(4) };
        for _ in 0..rolls {
            let all = options.services * options.instances;
            ops.push((WARM_UP_MS + next(BUSY_MS), Op::Roll(next(all))));
        }
        for _ in 0..=next(8) {
            let Some(kind) = allowed.get(usize::try_from(next(64)).unwrap_or(0) % allowed.len().max(1))
            else {
                break;
            };
            let at = WARM_UP_MS + next(BUSY_MS);
            let op = kind_op(*kind, &mut next, &options);
            ops.push((at, op));
            if matches!(op, Op::Reload(_)) {
                let again = next(RELOADS_IN_A_ROW);
                ops.extend((0..again).map(|_| (at + next(RELOADS_WITHIN_MS), op)));
            }
        }
        ops.sort_by_key(|(at, _)| *at);
        Self { options, ops }
    }

    /// When the last operation, with all that it takes, is over.
    #[must_use]
    pub fn quiet_at_ms(&self) -> u64 {
        self.ops.iter().map(|(at, op)| at + op.takes_ms()).max().unwrap_or(0).max(WARM_UP_MS)
    }

    /// When the last effect of an operation is over that only time takes away.
    #[must_use]
    pub fn over_at_ms(&self) -> u64 {
        let is_lossy = |op: &Op| matches!(op, Op::LoseEvents(..) | Op::LoseRegistrarEvents(..));
        let lasts = |op: &Op| op.takes_ms() + if is_lossy(op) { LISTED_WITHIN_MS } else { 0 };
        self.ops.iter().map(|(at, op)| at + lasts(op)).max().unwrap_or(0).max(WARM_UP_MS)
    }
}

/// An operation of this kind, with drawn times.
fn kind_op(kind: u64, next: &mut impl FnMut(u64) -> u64, options: &Options) -> Op {
    let reg = next(options.services * options.instances);
    let bal = next(options.balancers);
    // Log-uniform: 10 ms to 20 s.
    let mut long = || (10_u64 << next(11)).min(20_000) + next(50);
    match kind {
        0 => Op::KillBoth(reg, long()),
        1 => Op::KillRegistrar(reg, long()),
        2 => Op::Exit(reg, long()),
        3 => Op::Ill(reg, long()),
        4 => Op::PauseRegistrar(reg, long()),
        5 => Op::CutRegistrar(reg, long()),
        6 => Op::StopBalancer(bal, long()),
        7 => Op::KillBalancer(bal, long()),
        8 => Op::PauseBalancer(bal, long()),
        9 => Op::CutBalancer(bal, long()),
        10 => Op::Reload(bal),
        11 => Op::RestartHaproxy(bal, long().min(500)),
        12 => Op::Outage(long()),
        13 => Op::Leader(),
        14 => Op::Compact(),
        15 => Op::Wipe(long()),
        16 => Op::Restore(
            1_000 + long(),
            RESTORE_TAKES_MS + long(),
            if long() % 4 == 0 { REVISION_BUMP } else { 0 },
        ),
        17 => Op::Drain(reg, long()),
        18 => Op::Maintenance(reg, long()),
        19 => Op::SameName(reg, long()),
        20 => Op::Full(long()),
        21 => Op::Scale(reg, long()),
        22 => Op::Stubborn(reg),
        23 => Op::DeafRegistrar(reg, long()),
        24 => Op::LagRegistrar(reg, long().min(LATE_MS_MAX), long()),
        25 => Op::BreakRegistrar(reg),
        26 => Op::RevokeRegistrar(reg),
        27 => Op::DeleteRecord(reg),
        28 => Op::GarbleRecord(reg),
        29 => Op::OldDisk(bal, 1_000 + long(), long()),
        30 => Op::DeafBalancer(bal, long()),
        31 => Op::LagBalancer(bal, long().min(LATE_MS_MAX), long()),
        32 => Op::BreakBalancer(bal),
        33 => Op::RevokeBalancer(bal),
        34 => Op::DeletePresence(bal),
        35 => Op::DeleteAcks(bal),
        36 => Op::OtherConfiguration(bal, long() % options.services, long()),
        37 => Op::HangHaproxy(bal, long().min(10_000)),
        38 => Op::HandEdit(bal, long(), long() % HAND_EDITS),
        39 => Op::ChecksLie(bal, long()),
        40 => Op::Hang(long()),
        41 => Op::LoseCalls(1 + long() % LOST_PER_MILLE_MAX, long()),
        42 => Op::Weight(reg, long()),
        43 => Op::SuspendRegistrar(reg, SUSPENDED_MS_MIN + 8 * long()),
        44 => Op::SuspendBalancer(bal, SUSPENDED_MS_MIN + 8 * long()),
        45 => Op::LoseEvents(bal, long()),
        46 => Op::SameAddress(reg, long()),
        47 => Op::CrashLoop(reg, long()),
        48 => Op::LoseRegistrarEvents(reg, long()),
        49 => Op::OtherVersion(bal, long() % VERSIONS_COUNT, long().min(500)),
        _ => Op::CutRegistrars(long()),
    }
}

impl Op {
    /// Its name in a script.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.parts().0
    }

    /// How long it goes on, in milliseconds.
    #[must_use]
    pub fn takes_ms(self) -> u64 {
        match self {
            Self::Restore(_, away, _) => away,
            op if op.is_of_a_moment() => 0,
            op => op.parts().1.last().copied().unwrap_or(0),
        }
    }

    /// The same, with a shorter time, for shrinking; `None` if it has none to shorten.
    #[must_use]
    pub fn halved(self) -> Option<Self> {
        let (name, mut args) = self.parts();
        let ms = args.last_mut().filter(|ms| **ms > 100)?;
        if matches!(self, Self::Restore(..)) || self.is_of_a_moment() {
            return None;
        }
        *ms /= 2;
        Self::from_parts(name, &args)
    }

    /// Its last argument is no time.
    fn is_of_a_moment(self) -> bool {
        use Op::{
            BreakBalancer, BreakRegistrar, Compact, DeleteAcks, DeletePresence, DeleteRecord, GarbleRecord,
            HandEdit, Leader, Reload, RevokeBalancer, RevokeRegistrar, Roll, Stubborn,
        };
        matches!(
            self,
            Roll(_)
                | Stubborn(_)
                | Reload(_)
                | HandEdit(..)
                | Leader()
                | Compact()
                | BreakRegistrar(_)
                | BreakBalancer(_)
                | RevokeRegistrar(_)
                | RevokeBalancer(_)
                | DeleteRecord(_)
                | GarbleRecord(_)
                | DeletePresence(_)
                | DeleteAcks(_)
        )
    }
}

impl Options {
    fn fields(&mut self) -> [(&'static str, Field<'_>); 16] {
        [
            ("services", Field::Long(&mut self.services)),
            ("instances", Field::Long(&mut self.instances)),
            ("balancers", Field::Long(&mut self.balancers)),
            ("ttl_s", Field::Long(&mut self.ttl_s)),
            ("sticky_s", Field::Short(&mut self.sticky_s)),
            ("inflight_s", Field::Short(&mut self.inflight_s)),
            ("leave_max_s", Field::Long(&mut self.leave_max_s)),
            ("suspect_max_s", Field::Long(&mut self.suspect_max_s)),
            ("check_ms", Field::Long(&mut self.check_ms)),
            ("files", Field::Long(&mut self.files)),
            ("version", Field::Long(&mut self.version)),
            ("first_check", Field::Long(&mut self.first_check)),
            ("restarts", Field::Long(&mut self.restarts)),
            ("short", Field::Long(&mut self.short)),
            ("twins", Field::Long(&mut self.twins)),
            ("noise", Field::Long(&mut self.noise)),
        ]
    }
}

enum Field<'a> {
    Long(&'a mut u64),
    Short(&'a mut u32),
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("options")?;
        for (name, field) in self.options.clone().fields() {
            match field {
                Field::Long(value) => write!(f, " {name}={value}")?,
                Field::Short(value) => write!(f, " {name}={value}")?,
            }
        }
        for (at, op) in &self.ops {
            let (name, args) = op.parts();
            write!(f, "\n{at} {name}")?;
            for arg in args {
                write!(f, " {arg}")?;
            }
        }
        writeln!(f)
    }
}

impl FromStr for Script {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut script = Self::draw(0, Some(&[]));
        script.ops.clear();
        (script.options.files, script.options.twins, script.options.short) = (1, 0, 0);
        (script.options.version, script.options.first_check, script.options.restarts) = (0, 0, 0);
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        for line in lines {
            let mut words = line.split_whitespace();
            let first = words.next().unwrap_or_default();
            if first == "options" {
                for word in words {
                    let illegal = || format!("`{word}` is no option; write for example ttl_s=5");
                    let (name, value) = word.split_once('=').ok_or_else(illegal)?;
                    let mut fields = script.options.fields();
                    let field = fields.iter_mut().find(|(known, _)| *known == name).ok_or_else(illegal)?;
                    match &mut field.1 {
                        Field::Long(field) => **field = value.parse().map_err(|_| illegal())?,
                        Field::Short(field) => **field = value.parse().map_err(|_| illegal())?,
                    }
                }
                continue;
            }
            let illegal = || format!("`{line}` is no operation; write for example `8300 roll 5`");
            let at = first.parse().map_err(|_| illegal())?;
            let name = words.next().ok_or_else(illegal)?;
            let args: Vec<u64> = words.map(str::parse).collect::<Result<_, _>>().map_err(|_| illegal())?;
            script.ops.push((at, Op::from_parts(name, &args).ok_or_else(illegal)?));
        }
        script.ops.sort_by_key(|(at, _)| *at);
        Ok(script)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_read_as_it_is_written() {
        for seed in 0..200 {
            let script = Script::draw(seed, None);
            assert_eq!(script.to_string().parse::<Script>(), Ok(script));
        }
        assert!("8300 rol 5".parse::<Script>().is_err());
        assert!("options ttl=5".parse::<Script>().is_err());
    }
}
