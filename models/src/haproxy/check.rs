//! A server's check: its timer, and what passes and failures come to (`src/check.c`).

use std::time::Duration;

use registry::time::Tick;

/// What a server that leaves MAINT begins as, whether it is checked or not (`init-state`; 3.1 and newer).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum InitState {
    /// Up; if it is checked, down by one failed check.
    #[default]
    None,
    FullyUp,
    /// Up, and down by one failed check.
    Up,
    /// Down, and up by one passed check.
    Down,
    FullyDown,
}

/// What the last check said (`enum chk_result`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Unknown,
    Failed,
    Passed,
}

impl Outcome {
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Unknown => 0,
            Self::Failed => 2,
            Self::Passed => 3,
        }
    }
}

/// `struct check`. Every server has one, configured or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Check {
    /// The server was made with `check`.
    pub(super) configured: bool,
    pub(super) enabled: bool,
    /// By MAINT, if it was enabled then.
    pub(super) paused: bool,
    pub(super) inter: Duration,
    pub(super) fastinter: Option<Duration>,
    pub(super) downinter: Option<Duration>,
    pub(super) rise: u32,
    pub(super) fall: u32,
    pub(super) init: InitState,
    /// From 0 (down) over `rise` (just up) to `rise + fall - 1` (all well).
    pub(super) health: u32,
    pub(super) last: Outcome,
    /// When the task wakes next. While nothing is to be checked it goes on by `inter`.
    pub(super) next: Tick,
}

impl Check {
    /// HAProxy's defaults (`init_default_instance`: `DEF_CHKINTR`, `DEF_RISETIME`, `DEF_FALLTIME`).
    pub(super) fn unconfigured() -> Self {
        Self {
            configured: false,
            enabled: false,
            paused: false,
            inter: Duration::from_secs(2),
            fastinter: None,
            downinter: None,
            rise: 2,
            fall: 3,
            init: InitState::default(),
            health: 0,
            last: Outcome::Unknown,
            next: Tick::default(),
        }
    }

    /// Checks are under way.
    pub(super) const fn runs(&self) -> bool {
        self.configured && self.enabled && !self.paused
    }

    pub(super) const fn best(&self) -> u32 {
        self.rise + self.fall - 1
    }

    /// What the last checks have in common, where the health is at one of its ends.
    pub(super) fn verdict(&self) -> Option<bool> {
        match self.last {
            Outcome::Passed if self.health == self.best() => Some(true),
            Outcome::Failed if self.health == 0 => Some(false),
            _ => None,
        }
    }

    /// `srv_getinter`.
    pub(super) fn interval(&self, stopped: bool) -> Duration {
        if self.configured && self.health == self.best() {
            self.inter
        } else if stopped && self.health == 0 {
            self.downinter.unwrap_or(self.inter)
        } else {
            self.fastinter.unwrap_or(self.inter)
        }
    }

    /// The first time that the task wakes (`start_check_task`).
    pub(super) fn start_timer(&mut self, at: Tick) {
        self.next = at;
    }

    /// What the task has done while there was nothing to check: it has gone on by `inter` (`process_chk_conn`).
    pub(super) fn wind(&mut self, now: Tick) {
        let late = now.since(self.next).as_micros();
        if self.next <= now {
            let inter = self.inter.as_micros().max(1);
            let rounds = u32::try_from(late / inter + 1).unwrap_or(u32::MAX);
            self.next = self.next.plus(self.inter.saturating_mul(rounds));
        }
    }

    /// `enable health`.
    pub(super) fn enable(&mut self, now: Tick) {
        if !self.runs() {
            self.wind(now);
        }
        self.enabled = true;
    }

    /// The server enters MAINT; `running` if it was not down (`srv_update_status`).
    pub(super) fn enter_maint(&mut self, running: bool) {
        self.paused |= self.enabled;
        if self.enabled || running {
            self.health = 0;
        }
    }

    /// The server leaves MAINT.
    pub(super) fn leave_maint(&mut self, now: Tick) {
        if self.enabled {
            if self.paused {
                self.wind(now);
            }
            self.paused = false;
            self.health = self.rise;
        }
    }

    /// What `init-state` makes of a server: whether it is up (`srv_set_init_state`).
    pub(super) fn begin(&mut self) -> Option<bool> {
        let (health, is_up) = match self.init {
            InitState::None => return None,
            InitState::FullyUp => (self.best(), true),
            InitState::Up => (self.rise, true),
            InitState::Down => (self.rise - 1, false),
            InitState::FullyDown => (0, false),
        };
        self.health = health;
        Some(is_up)
    }

    /// A check has ended (`set_server_check_status`).
    pub(super) fn count(&mut self, passed: bool) {
        if passed {
            self.last = Outcome::Passed;
            self.health = (self.health + 1).min(self.best());
            if self.health >= self.rise {
                self.health = self.best();
            }
        } else {
            self.last = Outcome::Failed;
            self.health = self.health.saturating_sub(1);
            if self.health < self.rise {
                self.health = 0;
            }
        }
    }
}
