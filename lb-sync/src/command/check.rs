//! `lb-sync check`: whether everything is in place that `run` needs, one line for each thing.

mod backends;
mod etcd;
mod finding;
mod haproxy;
mod paths;
mod port;
mod version;

use finding::{Finding, render, to_json};

use super::{CommandOutput, FAILED, LookOptions, Output};
use crate::config::RunConfig;

/// Exit code 0; 1 if anything failed. Warnings do not. `host` is the host's name.
pub async fn check(options: LookOptions, host: &str) -> CommandOutput {
    let (output, etcd) = (options.output, options.run.etcd.clone());
    let findings = match RunConfig::new(options.run, host) {
        Ok(config) => findings(&config, &etcd).await,
        Err(error) => vec![Finding::by_error("configuration", &error)],
    };
    let code = if findings.iter().any(Finding::is_failed) { FAILED } else { 0 };
    match output {
        Output::Text => CommandOutput { text: render(&findings), code },
        Output::Json => CommandOutput::json(&to_json(&findings), code),
    }
}

async fn findings(config: &RunConfig, etcd: &registry::session::EtcdOptions) -> Vec<Finding> {
    let seen = format!("balancer {}, keys below {}", config.balancer, config.pass.prefix);
    let mut findings = vec![Finding::ok("configuration", seen)];
    findings.extend(etcd::endpoints(etcd, config).await);
    let registry = match super::read::registry(&config.etcd, &config.pass).await {
        Ok(registry) => {
            findings.push(etcd::registry(&registry));
            Some(registry)
        }
        // Said above, of each endpoint.
        Err(_) => None,
    };
    let (connected, of_socket) = haproxy::socket(&config.pass.socket).await;
    findings.push(of_socket);
    if let Some(dialogue) = connected {
        findings.extend(haproxy::inside(dialogue, config, registry.as_ref()).await);
    }
    findings.push(port::status(config.listen, &config.listen_tls).await);
    findings.extend(paths::findings(config));
    findings
}
