//! One server: what was ordered, what it does, and how the one leads to the other (`srv_update_status` in `src/server.c`).

use std::net::SocketAddr;
use std::time::Duration;

use registry::time::Tick;

use super::Version;
use super::check::{Check, InitState};
use super::tree::{Corrupt, Tree};

/// `SRV_ADMF_FMAINT`, `SRV_ADMF_CMAINT` and `SRV_ADMF_FDRAIN`. `CMAINT` alone means nothing.
pub(super) const MAINT: u32 = 0x01;
pub(super) const CONFIGURED_MAINT: u32 = 0x04;
pub(super) const DRAIN: u32 = 0x08;
/// `BE_WEIGHT_SCALE`: what a weight is multiplied by in the tree.
const SCALE: u32 = 16;
/// How long an idle pooled connection lives that no request uses: `pool-purge-delay 5s` goes over them twice (6 to 15 s
/// were seen).
const POOLED_FOR: Duration = Duration::from_secs(10);

/// `enum srv_state`, without `STOPPING`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Stopped,
    Starting,
    Running,
}

/// What is in force (`cur_state`, `cur_admin`, `cur_eweight`): what balancing goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Committed {
    pub(super) admin: u32,
    pub(super) op: Op,
    pub(super) weight: u32,
}

impl Committed {
    /// `srv_currently_usable`, `srv_willbe_usable`.
    const fn is_usable(self) -> bool {
        self.weight > 0 && self.admin & (MAINT | DRAIN) == 0 && !matches!(self.op, Op::Stopped)
    }
}

/// A server of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) name: String,
    pub(super) id: u32,
    /// The configuration or the command gave the id.
    pub(super) id_given: bool,
    pub(super) addr: SocketAddr,
    /// An address that takes effect after this moment.
    moves_to: Option<(SocketAddr, Tick)>,
    pub(super) now: Committed,
    /// What the next commit puts in force (`next_state`, `next_eweight`).
    next_op: Op,
    next_weight: u32,
    pub(super) weight: u32,
    pub(super) initial_weight: u32,
    pub(super) changed_at: Tick,
    pub(super) slowstart: Duration,
    pub(super) check: Check,
    pub(super) tree: Tree,
    /// Those that are being cut too.
    pub(super) streams: u32,
    pooled: u32,
    pooled_until: Tick,
}

impl Server {
    /// One added at run time: in MAINT, unchecked (`_srv_parse_init`).
    pub(super) fn dynamic(name: &str, id: u32, addr: SocketAddr, now: Tick) -> Self {
        Self {
            name: name.to_owned(),
            id,
            id_given: true,
            addr,
            moves_to: None,
            // 1 is the weight before the options are read, and the one that is committed.
            now: Committed { admin: MAINT, op: Op::Stopped, weight: 1 },
            next_op: Op::Stopped,
            next_weight: 1,
            weight: 1,
            initial_weight: 1,
            changed_at: now,
            slowstart: Duration::ZERO,
            check: Check::unconfigured(),
            tree: Tree::Never,
            streams: 0,
            pooled: 0,
            pooled_until: now,
        }
    }

    /// One of the configuration, once its options are set: up, unless it is `disabled` (`srv_init`,
    /// `fwlc_init_server_tree`).
    pub(super) fn configure(&mut self, disabled: bool) {
        self.check.enabled = self.check.configured;
        self.check.paused = disabled;
        self.check.health = if disabled { 0 } else { self.check.rise };
        let (admin, op) = if disabled { (MAINT | CONFIGURED_MAINT, Op::Stopped) } else { (0, Op::Running) };
        (self.next_op, self.next_weight) = (op, self.weight * SCALE);
        self.now = Committed { admin, op, weight: self.weight * SCALE };
        self.tree = if self.now.is_usable() { Tree::In } else { Tree::Out };
    }

    pub(super) const fn is_maint(&self) -> bool {
        self.now.admin & MAINT != 0
    }

    /// Takes requests that stick to it (`process_server_rules` asks for no more).
    pub(super) const fn takes_persistent(&self) -> bool {
        !matches!(self.now.op, Op::Stopped)
    }

    pub(super) const fn is_usable(&self) -> bool {
        self.now.is_usable()
    }

    /// `set server … state`. HAProxy sets one flag before it clears the other.
    pub(super) fn set_admin(&mut self, now: Tick, set: u32, clear: u32) -> Result<(), Corrupt> {
        self.change_admin(now, self.now.admin | set)?;
        self.change_admin(now, self.now.admin & !clear)
    }

    fn change_admin(&mut self, now: Tick, admin: u32) -> Result<(), Corrupt> {
        if admin == self.now.admin {
            return Ok(());
        }
        match (self.is_maint(), admin & MAINT != 0) {
            (false, true) => {
                let was_up = self.now.op != Op::Stopped;
                self.check.enter_maint(was_up);
                if was_up {
                    (self.changed_at, self.pooled, self.next_op) = (now, 0, Op::Stopped);
                }
            }
            (true, false) => self.leave_maint(now, admin),
            _ => {}
        }
        // Not where DRAIN begins, nor in MAINT.
        if admin & (MAINT | DRAIN) == 0 {
            self.reckon_weight(now);
        }
        self.commit(admin)
    }

    fn leave_maint(&mut self, now: Tick, admin: u32) {
        self.check.leave_maint(now);
        if admin & CONFIGURED_MAINT == 0 {
            self.begin();
        }
        if self.check.init == InitState::None {
            self.comes_up(now);
        }
        self.reckon_weight(now);
    }

    /// `init-state`: takes effect with the next commit.
    fn begin(&mut self) {
        match self.check.begin() {
            Some(true) => self.next_op = Op::Running,
            Some(false) => self.next_op = Op::Stopped,
            None => {}
        }
    }

    /// `enable health`. Outside MAINT it applies `init-state` anew (3.2), with the next commit.
    pub(super) fn enable_health(&mut self, now: Tick) {
        self.check.enable(now);
        if self.now.admin & (MAINT | CONFIGURED_MAINT) == 0 {
            self.begin();
        }
    }

    /// `set server … weight`.
    pub(super) fn set_weight(&mut self, now: Tick, weight: u32, version: Version) -> Result<(), Corrupt> {
        self.weight = weight;
        self.reckon_weight(now);
        if self.is_maint() && !version.commits_in_maint() {
            return Ok(());
        }
        self.commit(self.now.admin)
    }

    /// `set server … health down`.
    pub(super) fn set_health_down(&mut self, now: Tick) -> Result<(), Corrupt> {
        self.check.health = 0;
        self.stop(now)
    }

    /// `srv_set_stopped`.
    fn stop(&mut self, now: Tick) -> Result<(), Corrupt> {
        if self.is_maint() || self.next_op == Op::Stopped {
            return Ok(());
        }
        (self.changed_at, self.next_op) = (now, Op::Stopped);
        self.commit(self.now.admin)
    }

    /// A check has ended (`check_notify_failure`, `check_notify_success`).
    pub(super) fn checked(&mut self, now: Tick, passed: bool) -> Result<(), Corrupt> {
        self.check.count(passed);
        if !passed && self.check.health == 0 {
            self.stop(now)?;
        } else if passed && self.check.health >= self.check.rise {
            self.run(now)?;
        }
        self.check.next = now.plus(self.check.interval(self.next_op == Op::Stopped));
        Ok(())
    }

    /// `srv_set_running`.
    fn run(&mut self, now: Tick) -> Result<(), Corrupt> {
        if self.is_maint() || self.next_op != Op::Stopped {
            return Ok(());
        }
        self.comes_up(now);
        self.reckon_weight(now);
        self.commit(self.now.admin)
    }

    fn comes_up(&mut self, now: Tick) {
        self.changed_at = now;
        self.next_op = if self.slowstart.is_zero() { Op::Running } else { Op::Starting };
    }

    fn commit(&mut self, admin: u32) -> Result<(), Corrupt> {
        let next = Committed { admin, op: self.next_op, weight: self.next_weight };
        self.tree.commit(self.now.is_usable(), next.is_usable())?;
        self.now = next;
        Ok(())
    }

    /// `server_recalc_eweight`: less during a slow start, by whole seconds.
    fn reckon_weight(&mut self, now: Tick) {
        let slow = u32::try_from(self.slowstart.as_secs()).unwrap_or(u32::MAX);
        let passed = u32::try_from(now.since(self.changed_at).as_secs()).unwrap_or(u32::MAX);
        if self.next_op == Op::Starting && passed >= slow {
            self.next_op = Op::Running;
        }
        let scale = if self.next_op == Op::Starting {
            SCALE.saturating_mul(passed).saturating_add(slow) / slow.max(1)
        } else {
            SCALE
        };
        self.next_weight = self.weight * scale;
    }

    /// What has come about by itself up to `now`: the end of a slow start, of pooled connections, a move.
    pub(super) fn settle(&mut self, now: Tick) -> Result<(), Corrupt> {
        if self.now.op == Op::Starting && self.next_op == Op::Starting {
            self.reckon_weight(now);
            // It stays usable, so that nothing becomes of the tree.
            (self.now.op, self.now.weight) = (self.next_op, self.next_weight);
        }
        if self.pooled > 0 && self.pooled_until <= now {
            self.pooled = 0;
        }
        if let Some((addr, asked_at)) = self.moves_to
            && asked_at < now
        {
            self.arrive(addr);
            // It puts in force what is pending (seen on 3.2: an `init-state` that `enable health` has applied).
            self.commit(self.now.admin)?;
        }
        Ok(())
    }

    /// `set server … addr`: at once, or after this write.
    pub(super) fn set_addr(&mut self, now: Tick, addr: SocketAddr, version: Version) {
        if addr == self.addr {
            return;
        }
        if version.moves_later() {
            self.moves_to = Some((addr, now));
        } else {
            self.arrive(addr);
        }
    }

    /// A move closes the idle connections (`srv_cleanup_connections`).
    fn arrive(&mut self, addr: SocketAddr) {
        (self.addr, self.moves_to, self.pooled) = (addr, None, 0);
    }

    /// Nothing is left that refers to it (`srv_check_for_deletion`).
    pub(super) fn can_be_deleted(&self, version: Version) -> bool {
        self.streams == 0 && (self.pooled == 0 || !version.pooled_connections_block())
    }

    /// A request's connection goes into the pool, or comes out of it.
    pub(super) fn pool(&mut self, now: Tick) {
        self.pooled += 1;
        self.pooled_until = now.plus(POOLED_FOR);
    }

    pub(super) fn reuse(&mut self) {
        self.pooled = self.pooled.saturating_sub(1);
    }

    /// The effective weight as `show stat` tells it.
    pub(super) const fn shown_weight(&self) -> u32 {
        self.now.weight.div_ceil(SCALE)
    }

    /// The key in the tree of `leastconn` (`fwlc_queue_srv`): the least goes first.
    pub(super) fn key(&self) -> u32 {
        const HIGHEST: u32 = 256 * SCALE;
        if self.streams == 0 { 0 } else { (self.streams + 1) * HIGHEST / self.now.weight.max(1) }
    }
}
