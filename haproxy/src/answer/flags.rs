//! The numbers in `show servers state` that are flags or enums of HAProxy's own.

/// What was ordered for a server (`enum srv_admin` in `include/haproxy/server-t.h`; the same bits from 2.6 to 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdminState(u32);

impl AdminState {
    /// `SRV_ADMF_FMAINT`: by command, or a new dynamic server.
    const FORCED_MAINT: u32 = 0x01;
    /// `SRV_ADMF_IMAINT`: the server that it tracks is in MAINT.
    const INHERITED_MAINT: u32 = 0x02;
    /// `SRV_ADMF_CMAINT`: `disabled` in the configuration. Says where a MAINT came from, and stays when it is left.
    const CONFIGURED_MAINT: u32 = 0x04;
    /// `SRV_ADMF_FDRAIN`: by command.
    const FORCED_DRAIN: u32 = 0x08;
    /// `SRV_ADMF_IDRAIN`: the server that it tracks is in DRAIN.
    const INHERITED_DRAIN: u32 = 0x10;
    /// `SRV_ADMF_RMAINT`: its name does not resolve.
    const UNRESOLVED_MAINT: u32 = 0x20;

    /// As `state ready` leaves it.
    pub const READY: Self = Self(0);
    /// As `state maint` leaves it.
    pub const MAINT: Self = Self(Self::FORCED_MAINT);
    /// As `state drain` leaves it.
    pub const DRAIN: Self = Self(Self::FORCED_DRAIN);

    /// From the number in `srv_admin_state`. Bits that are not known are kept and mean nothing.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The number.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    const fn has(self, bits: u32) -> bool {
        self.0 & bits != 0
    }

    /// In MAINT, for whatever reason (`SRV_ADMF_MAINT`).
    #[must_use]
    pub const fn is_maint(self) -> bool {
        self.has(Self::FORCED_MAINT | Self::INHERITED_MAINT | Self::UNRESOLVED_MAINT)
    }

    /// In MAINT by command: what `state maint` sets and `state ready` takes away.
    #[must_use]
    pub const fn is_forced_maint(self) -> bool {
        self.has(Self::FORCED_MAINT)
    }

    /// In MAINT since the server that it tracks is.
    #[must_use]
    pub const fn is_inherited_maint(self) -> bool {
        self.has(Self::INHERITED_MAINT)
    }

    /// Was `disabled` in the configuration, whatever came after.
    #[must_use]
    pub const fn is_configured_maint(self) -> bool {
        self.has(Self::CONFIGURED_MAINT)
    }

    /// In DRAIN, for whatever reason (`SRV_ADMF_DRAIN`). MAINT goes before it where both are set.
    #[must_use]
    pub const fn is_drain(self) -> bool {
        self.has(Self::FORCED_DRAIN | Self::INHERITED_DRAIN)
    }

    /// In DRAIN by command: what `state drain` sets and `state ready` takes away.
    #[must_use]
    pub const fn is_forced_drain(self) -> bool {
        self.has(Self::FORCED_DRAIN)
    }

    /// In DRAIN since the server that it tracks is.
    #[must_use]
    pub const fn is_inherited_drain(self) -> bool {
        self.has(Self::INHERITED_DRAIN)
    }

    /// Neither in MAINT nor in DRAIN.
    #[must_use]
    pub const fn is_ready(self) -> bool {
        !self.is_maint() && !self.is_drain()
    }
}

/// What a server does (`enum srv_state`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpState {
    /// Takes nothing: down, or in MAINT.
    Stopped,
    /// Up, in its slow start.
    Starting,
    /// Up.
    Running,
    /// Up for persistent clients only, by `http-check disable-on-404`.
    Stopping,
}

impl OpState {
    /// Takes its share of new requests, unless an administrative state forbids it.
    #[must_use]
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Starting | Self::Running)
    }
}

/// A number that is no [`OpState`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no state of a server")]
pub struct UnknownState(pub u8);

impl TryFrom<u8> for OpState {
    type Error = UnknownState;

    fn try_from(number: u8) -> Result<Self, UnknownState> {
        match number {
            0 => Ok(Self::Stopped),
            1 => Ok(Self::Starting),
            2 => Ok(Self::Running),
            3 => Ok(Self::Stopping),
            _ => Err(UnknownState(number)),
        }
    }
}

/// How far a server is checked (`CHK_ST_*` in `include/haproxy/check-t.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckState(u32);

impl CheckState {
    const CONFIGURED: u32 = 0x02;
    const ENABLED: u32 = 0x04;

    /// Made without `check`.
    pub const NONE: Self = Self(0);
    /// Made with `check`, and under way.
    pub const RUNNING: Self = Self(Self::CONFIGURED | Self::ENABLED);

    /// From the number in `srv_check_state`.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// Made with `check`.
    #[must_use]
    pub const fn is_configured(self) -> bool {
        self.0 & Self::CONFIGURED != 0
    }

    /// Checked: made with `check`, and `enable health` was given.
    #[must_use]
    pub const fn is_enabled(self) -> bool {
        self.0 & Self::ENABLED != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_for_each_reason() {
        let admin = AdminState::from_bits;
        assert!(admin(0).is_ready() && admin(0x04).is_ready() && admin(0x40).is_ready());
        assert!(admin(0x01).is_maint() && admin(0x01).is_forced_maint());
        assert!(admin(0x02).is_maint() && admin(0x02).is_inherited_maint() && !admin(0x02).is_forced_maint());
        assert!(admin(0x20).is_maint() && admin(0x04).is_configured_maint());
        assert!(admin(0x08).is_drain() && admin(0x08).is_forced_drain() && !admin(0x08).is_maint());
        assert!(admin(0x10).is_drain() && admin(0x10).is_inherited_drain());
        assert!(OpState::try_from(4).is_err());
        assert!(CheckState::from_bits(6).is_enabled() && !CheckState::from_bits(2).is_enabled());
    }
}
