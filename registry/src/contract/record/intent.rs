//! What the registry wants for an instance: the stricter of what its record says and what an operator has ordered.

use super::{InstanceState, OverrideMode};

/// What the registry wants for an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Intent {
    /// Its share of the traffic.
    Serve,
    /// No traffic: its record says `down`.
    Unhealthy,
    /// No new clients: its record says `draining`.
    Leaving,
    /// No new clients: an override drains it.
    OperatorDrains,
    /// No traffic: an override takes it out.
    OperatorOut,
}

impl Intent {
    /// By the record's state and the mode of the override, if there is one with a mode.
    #[must_use]
    pub fn of(state: InstanceState, mode: Option<OverrideMode>) -> Self {
        match (state, mode) {
            (InstanceState::Down, _) => Self::Unhealthy,
            (_, Some(OverrideMode::Maintenance)) => Self::OperatorOut,
            (InstanceState::Draining, _) => Self::Leaving,
            (_, Some(OverrideMode::Drain)) => Self::OperatorDrains,
            (InstanceState::Up, None) => Self::Serve,
        }
    }

    /// A stable word for programs.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Serve => "registered",
            Self::Unhealthy => "unhealthy",
            Self::Leaving => "leaving",
            Self::OperatorDrains => "operator_drains",
            Self::OperatorOut => "operator_out",
        }
    }

    /// The reason as a main clause, for people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Serve => "it is registered and up",
            Self::Unhealthy => "it says that it is unhealthy",
            Self::Leaving => "it is leaving",
            Self::OperatorDrains => "an operator drains it",
            Self::OperatorOut => "an operator took it out",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stricter_of_record_and_override_wins() {
        use InstanceState::{Down, Draining, Up};
        let (drain, out) = (Some(OverrideMode::Drain), Some(OverrideMode::Maintenance));
        let cases = [
            (Up, None, Intent::Serve),
            (Up, drain, Intent::OperatorDrains),
            (Up, out, Intent::OperatorOut),
            (Draining, None, Intent::Leaving),
            (Draining, drain, Intent::Leaving),
            (Draining, out, Intent::OperatorOut),
            (Down, None, Intent::Unhealthy),
            (Down, drain, Intent::Unhealthy),
            (Down, out, Intent::Unhealthy),
        ];
        for (state, mode, intent) in cases {
            assert_eq!(Intent::of(state, mode), intent, "{state:?} {mode:?}");
        }
    }
}
