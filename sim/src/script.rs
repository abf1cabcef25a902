//! A script: the options of a run, and what happens in it. A seed draws one; a failure is kept as one.

use std::fmt;
use std::str::FromStr;

use crate::draw::mix;

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
    /// 1: lb-sync keeps files, and HAProxy starts with their servers; 0: it starts with none.
    pub files: u64,
    /// The seed of latencies and choices; 0 makes every latency the same.
    pub noise: u64,
}

/// What happens. Times are in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// The instance is told to stop, and started again when it has ended.
    Roll(u64),
    /// `kill -9` of registrar and app; started again after a time.
    KillBoth(u64, u64),
    /// `kill -9` of the registrar alone, and of the app when it is started again.
    KillRegistrar(u64, u64),
    /// The app ends by itself; the whole is started again after a time.
    Exit(u64, u64),
    /// The app's check fails for a time.
    Ill(u64, u64),
    /// The registrar is paused for a time.
    PauseRegistrar(u64, u64),
    /// The registrar is cut off from etcd for a time.
    CutRegistrar(u64, u64),
    /// lb-sync is told to stop, and started again after a time.
    StopBalancer(u64, u64),
    /// `kill -9` of lb-sync; started again after a time.
    KillBalancer(u64, u64),
    /// lb-sync is paused for a time.
    PauseBalancer(u64, u64),
    /// lb-sync is cut off from etcd for a time.
    CutBalancer(u64, u64),
    /// HAProxy is reloaded.
    Reload(u64),
    /// HAProxy dies, and is started again on its files after a time.
    RestartHaproxy(u64, u64),
    /// etcd is away for a time.
    Outage(u64),
    /// Another member leads: every lease has its whole ttl, every stream breaks.
    Leader,
    /// Every stream breaks, and what happens before they are back is compacted.
    Compact,
    /// etcd loses everything; it is away for a time.
    Wipe(u64),
    /// etcd is restored from a backup of so long ago; it is away for a time. The third is how much its revision is bumped.
    Restore(u64, u64, u64),
    /// An operator drains the instance for a time.
    Drain(u64, u64),
    /// An operator takes the instance out for a time.
    Maintenance(u64, u64),
    /// Another registrar of the instance's name starts elsewhere, and is told to stop after a time.
    SameName(u64, u64),
    /// etcd refuses writes for a time.
    Full(u64),
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
const KINDS: u64 = 21;

impl Script {
    /// The script of `seed`. `only`: of these kinds of operations (by name), else of any.
    #[must_use]
    pub fn draw(seed: u64, only: Option<&[String]>) -> Self {
        let mut state = mix(seed);
        let mut next = |bound: u64| {
            state = mix(state);
            state % bound.max(1)
        };
        let options = Options {
            services: 1 + next(2),
            instances: 1 + next(4),
            balancers: 1 + next(3),
            ttl_s: [2, 3, 5, 10][usize::try_from(next(4)).unwrap_or(0)],
            sticky_s: [0, 0, 1, 3][usize::try_from(next(4)).unwrap_or(0)],
            inflight_s: [1, 3, 5, 5][usize::try_from(next(4)).unwrap_or(0)],
            leave_max_s: 60,
            suspect_max_s: 20,
            check_ms: [500, 1_000, 2_000, 2_000][usize::try_from(next(4)).unwrap_or(0)],
            files: u64::from(!mix(seed ^ 0xf11e5).is_multiple_of(4)),
            noise: 1 + next(u64::MAX - 1),
        };
        // Options before faults: each kind is in or out for the whole schedule.
        let mut allowed: Vec<u64> = (0..KINDS).filter(|_| next(4) == 0).collect();
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
        for _ in 0..=next(5) {
            let Some(kind) = allowed.get(usize::try_from(next(64)).unwrap_or(0) % allowed.len().max(1))
            else {
                break;
            };
            let at = WARM_UP_MS + next(BUSY_MS);
            ops.push((at, kind_op(*kind, &mut next, &options)));
        }
        ops.sort_by_key(|(at, _)| *at);
        Self { options, ops }
    }

    /// When the last operation, with all that it takes, is over.
    #[must_use]
    pub fn quiet_at_ms(&self) -> u64 {
        self.ops.iter().map(|(at, op)| at + op.takes_ms()).max().unwrap_or(0).max(WARM_UP_MS)
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
        13 => Op::Leader,
        14 => Op::Compact,
        15 => Op::Wipe(long()),
        16 => Op::Restore(1_000 + long(), long(), 0),
        17 => Op::Drain(reg, long()),
        18 => Op::Maintenance(reg, long()),
        19 => Op::SameName(reg, long()),
        _ => Op::Full(long()),
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
            Self::Reload(_) | Self::Roll(_) | Self::Leader | Self::Compact => 0,
            op => op.parts().1.last().copied().unwrap_or(0),
        }
    }

    /// The same, with a shorter time, for shrinking; `None` if it has none to shorten.
    #[must_use]
    pub fn halved(self) -> Option<Self> {
        let (name, mut args) = self.parts();
        let ms = args.last_mut().filter(|ms| **ms > 100)?;
        if matches!(self, Self::Restore(..) | Self::Roll(_) | Self::Reload(_)) {
            return None;
        }
        *ms /= 2;
        Self::from_parts(name, &args)
    }

    fn parts(self) -> (&'static str, Vec<u64>) {
        match self {
            Self::Roll(reg) => ("roll", vec![reg]),
            Self::KillBoth(reg, ms) => ("kill-both", vec![reg, ms]),
            Self::KillRegistrar(reg, ms) => ("kill-registrar", vec![reg, ms]),
            Self::Exit(reg, ms) => ("exit", vec![reg, ms]),
            Self::Ill(reg, ms) => ("ill", vec![reg, ms]),
            Self::PauseRegistrar(reg, ms) => ("pause-registrar", vec![reg, ms]),
            Self::CutRegistrar(reg, ms) => ("cut-registrar", vec![reg, ms]),
            Self::StopBalancer(bal, ms) => ("stop-balancer", vec![bal, ms]),
            Self::KillBalancer(bal, ms) => ("kill-balancer", vec![bal, ms]),
            Self::PauseBalancer(bal, ms) => ("pause-balancer", vec![bal, ms]),
            Self::CutBalancer(bal, ms) => ("cut-balancer", vec![bal, ms]),
            Self::Reload(bal) => ("reload", vec![bal]),
            Self::RestartHaproxy(bal, ms) => ("restart-haproxy", vec![bal, ms]),
            Self::Outage(ms) => ("outage", vec![ms]),
            Self::Leader => ("leader", vec![]),
            Self::Compact => ("compact", vec![]),
            Self::Wipe(ms) => ("wipe", vec![ms]),
            Self::Restore(ago, ms, bump) => ("restore", vec![ago, ms, bump]),
            Self::Drain(reg, ms) => ("drain", vec![reg, ms]),
            Self::Maintenance(reg, ms) => ("maintenance", vec![reg, ms]),
            Self::SameName(reg, ms) => ("same-name", vec![reg, ms]),
            Self::Full(ms) => ("full", vec![ms]),
        }
    }

    fn from_parts(name: &str, args: &[u64]) -> Option<Self> {
        Some(match (name, args) {
            ("roll", [reg]) => Self::Roll(*reg),
            ("kill-both", [reg, ms]) => Self::KillBoth(*reg, *ms),
            ("kill-registrar", [reg, ms]) => Self::KillRegistrar(*reg, *ms),
            ("exit", [reg, ms]) => Self::Exit(*reg, *ms),
            ("ill", [reg, ms]) => Self::Ill(*reg, *ms),
            ("pause-registrar", [reg, ms]) => Self::PauseRegistrar(*reg, *ms),
            ("cut-registrar", [reg, ms]) => Self::CutRegistrar(*reg, *ms),
            ("stop-balancer", [bal, ms]) => Self::StopBalancer(*bal, *ms),
            ("kill-balancer", [bal, ms]) => Self::KillBalancer(*bal, *ms),
            ("pause-balancer", [bal, ms]) => Self::PauseBalancer(*bal, *ms),
            ("cut-balancer", [bal, ms]) => Self::CutBalancer(*bal, *ms),
            ("reload", [bal]) => Self::Reload(*bal),
            ("restart-haproxy", [bal, ms]) => Self::RestartHaproxy(*bal, *ms),
            ("outage", [ms]) => Self::Outage(*ms),
            ("leader", []) => Self::Leader,
            ("compact", []) => Self::Compact,
            ("wipe", [ms]) => Self::Wipe(*ms),
            ("restore", [ago, ms, bump]) => Self::Restore(*ago, *ms, *bump),
            ("drain", [reg, ms]) => Self::Drain(*reg, *ms),
            ("maintenance", [reg, ms]) => Self::Maintenance(*reg, *ms),
            ("same-name", [reg, ms]) => Self::SameName(*reg, *ms),
            ("full", [ms]) => Self::Full(*ms),
            _ => return None,
        })
    }
}

impl Options {
    fn fields(&mut self) -> [(&'static str, Field<'_>); 11] {
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
        script.options.files = 1;
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
