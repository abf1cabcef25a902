//! What a `server` line of a section and an `add server` command have in common: name, address, options.

use std::net::SocketAddr;
use std::time::Duration;

use registry::time::Tick;

use super::Version;
use super::check::InitState;
use super::server::Server;

/// A server as a line describes it, and whether it is `disabled`.
pub(super) struct Line {
    pub(super) server: Server,
    pub(super) disabled: bool,
    /// No `id` was given, or 0.
    pub(super) is_unnumbered: bool,
}

/// Reads `name addr option…`. `used` says which server of the backend has an id. The error is HAProxy's text.
pub(super) fn parse(
    words: &[&str],
    version: Version,
    now: Tick,
    used: impl Fn(u32) -> Option<String>,
) -> Result<Line, String> {
    let [name, addr, options @ ..] = words else {
        return Err("'server' expects <name> and <addr>[:<port>] as arguments.\n".into());
    };
    let addr: SocketAddr =
        addr.parse().map_err(|_| format!("'server {name}' : invalid address: '{addr}'\n"))?;
    let mut line = Line { server: Server::dynamic(name, 0, addr, now), disabled: false, is_unnumbered: true };
    let mut options = options.iter().copied();
    while let Some(option) = options.next() {
        match option {
            "check" => line.server.check.configured = true,
            "disabled" => line.disabled = true,
            _ => {
                let value = options.next().unwrap_or_default();
                line.set(option, value, version, &used)?;
            }
        }
    }
    Ok(line)
}

impl Line {
    fn set(
        &mut self,
        option: &str,
        value: &str,
        version: Version,
        used: impl Fn(u32) -> Option<String>,
    ) -> Result<(), String> {
        let name = self.server.name.clone();
        let illegal = || format!("'server {name}' : '{option}' : invalid value '{value}'\n");
        let number = || value.parse::<u32>().map_err(|_| illegal());
        let time = || time(value).ok_or_else(illegal);
        let check = &mut self.server.check;
        match option {
            "id" => {
                let id = number()?;
                if let Some(other) = used(id) {
                    return Err(format!(
                        "'id' : custom id {id} already used at (null):0 ('server {other}').\n"
                    ));
                }
                (self.server.id, self.is_unnumbered) = (id, id == 0);
            }
            "weight" => {
                let weight = number()?;
                if weight > 256 {
                    return Err(format!(
                        "'server {name}' : weight of server is not within 0 and 256 ({weight}).\n"
                    ));
                }
                (self.server.weight, self.server.initial_weight) = (weight, weight);
            }
            "inter" => check.inter = time()?,
            "fastinter" => check.fastinter = Some(time()?),
            "downinter" => check.downinter = Some(time()?),
            "rise" => check.rise = number()?.max(1),
            "fall" => check.fall = number()?.max(1),
            "slowstart" => self.server.slowstart = time()?,
            "init-state" if version.has_init_state() => check.init = init_state(value).ok_or_else(illegal)?,
            // They say how many idle connections are kept, and how long.
            "pool-purge-delay" | "pool-max-conn" | "pool-low-conn" => {}
            _ => return Err(format!("'server {name}' : unknown keyword '{option}'.\n")),
        }
        Ok(())
    }
}

fn init_state(value: &str) -> Option<InitState> {
    Some(match value {
        "none" => InitState::None,
        "fully-up" => InitState::FullyUp,
        "up" => InitState::Up,
        "down" => InitState::Down,
        "fully-down" => InitState::FullyDown,
        _ => return None,
    })
}

/// A time as HAProxy writes it (`parse_time_err`): milliseconds, unless a unit follows.
fn time(text: &str) -> Option<Duration> {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "" | "ms" => Duration::from_millis(number),
        "us" => Duration::from_micros(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.checked_mul(60)?),
        "h" => Duration::from_secs(number.checked_mul(3_600)?),
        _ => return None,
    })
}
