//! Resolves what is supervised: the app, and sidecar processes.

use std::collections::BTreeSet;
use std::time::Duration;

use registry::name::InstanceName;

use super::WAIT_MAX;
use super::error::{ConfigError, within};
use super::file::{SidecarStart, SidecarTable};
use crate::cli::RunOptions;
use crate::supervise::ProgramConfig;
use crate::supervise::program::{Policy, Restart};

/// Most sidecar processes.
const SIDECARS_MAX: usize = 32;
/// Name of the app in logs and metrics.
const APP: &str = "app";
/// Time that a sidecar has to end after TERM, unless the file sets another.
const SIDECAR_STOP_GRACE: Duration = Duration::from_secs(10);

/// The app and the sidecars in the order of their start, and the number of the app.
pub(super) fn programs(
    options: &RunOptions,
    sidecars: Vec<SidecarTable>,
) -> Result<(Vec<ProgramConfig>, Option<usize>), ConfigError> {
    if sidecars.len() > SIDECARS_MAX {
        return Err(ConfigError::Table(format!("there are more than {SIDECARS_MAX} sidecar processes")));
    }
    let mut names = BTreeSet::from([APP.to_owned()]);
    let (mut before, mut after) = (vec![], vec![]);
    for table in sidecars {
        let start = table.start;
        let sidecar = sidecar(table)?;
        if !names.insert(sidecar.name.clone()) {
            return Err(ConfigError::Table(format!("two processes are called {:?}", sidecar.name)));
        }
        if start == SidecarStart::Before { before.push(sidecar) } else { after.push(sidecar) }
    }
    let mut command = options.command.iter().cloned();
    let app = command.next().map(|program| ProgramConfig {
        name: APP.into(),
        program,
        args: command.collect(),
        env: vec![],
        policy: Policy {
            restart: options.restart,
            restarts_max: Some(options.restarts_max),
            stop_grace: options.stop_grace,
        },
    });
    let at = app.is_some().then_some(before.len());
    Ok((before.into_iter().chain(app).chain(after).collect(), at))
}

fn sidecar(table: SidecarTable) -> Result<ProgramConfig, ConfigError> {
    // The rule for all names: it is used in logs and labels.
    let name = table.name.parse::<InstanceName>();
    let name = name.map_err(|_| {
        ConfigError::Table(format!(
            "a sidecar process is called {:?}: use 1 to 64 of the characters A-Z a-z 0-9 _ . -",
            table.name
        ))
    })?;
    let mut command = table.command.into_iter().map(Into::into);
    let Some(program) = command.next() else {
        return Err(ConfigError::Table(format!("the command of {name} is empty")));
    };
    let stop_grace = table.stop_grace.unwrap_or(SIDECAR_STOP_GRACE);
    within("stop_grace", stop_grace, Duration::ZERO, WAIT_MAX)?;
    let restart = table.restart.unwrap_or(Restart::Always);
    let policy = Policy { restart, restarts_max: table.restarts_max, stop_grace };
    Ok(ProgramConfig {
        name: name.to_string(),
        program,
        args: command.collect(),
        env: table.env.into_iter().collect(),
        policy,
    })
}
