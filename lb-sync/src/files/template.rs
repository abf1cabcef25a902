//! Backend sections from templates. Every value that a template is given is of a type that can hold no more than a name,
//! a number or an address: whatever a record says, it cannot write configuration.

use std::fmt::Display;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, context};
use registry::name::ServiceName;

use super::desired::{Line, Section};
use super::http_check::HttpCheck;
use haproxy::options::Check;

/// What each file of ours begins with.
pub(super) const MARK: &str = "# lb-sync keeps this file";
/// The built-in template.
const DEFAULT: &str = include_str!("default.cfg.j2");
/// Largest template that is read, in bytes.
const TEMPLATE_MAX: u64 = 256 * 1024;
/// How much a template may do: minijinja's instructions, for the section and for each of its servers (some 10 by the
/// built-in one). This bounds time and memory.
const FUEL: u64 = 200_000;
const FUEL_PER_SERVER: u64 = 1_000;

/// Where templates come from.
#[derive(Clone, Debug)]
pub(super) struct Templates {
    /// The user's own: a file, or a directory of them.
    path: Option<PathBuf>,
    httpchk: HttpCheck,
}

/// Why a section could not be rendered.
#[derive(Debug, thiserror::Error)]
pub(super) enum TemplateError {
    #[error("the template {} cannot be read: {source}", .path.display())]
    Unread { path: PathBuf, source: io::Error },
    #[error("the template {} has {len} bytes; at most {TEMPLATE_MAX} are read", .path.display())]
    TooLong { path: PathBuf, len: u64 },
    #[error("the template does not render: {0}")]
    Render(#[from] minijinja::Error),
}

impl Templates {
    /// The user's own at `path`, where there is one.
    pub(super) fn new(path: Option<PathBuf>, httpchk: HttpCheck) -> Self {
        Self { path, httpchk }
    }

    /// The whole file of `service`. Reads the template anew, so that an edit needs no restart.
    pub(super) fn render(
        &self,
        service: &ServiceName,
        section: &Section,
        restarting_map: &Path,
    ) -> Result<String, TemplateError> {
        let (name, source) = self.source(service)?;
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let servers = u64::try_from(section.lines.len()).unwrap_or(u64::MAX);
        environment.set_fuel(Some(FUEL.saturating_add(servers.saturating_mul(FUEL_PER_SERVER))));
        let context = context! {
            service => service.as_str(),
            httpchk => self.httpchk.request(),
            restarting_map => restarting_map.to_string_lossy(),
            servers => section.lines.iter().map(values).collect::<Vec<Value>>(),
        };
        let text = environment.template_from_named_str(&name, &source)?.render(context)?;
        Ok(format!(
            "{MARK}: {service}'s servers as they run. An edit does not last; see --template.\n{}\n",
            text.trim_end()
        ))
    }

    /// Name and text of the template of `service`: its own, else the default one, else the built-in one.
    fn source(&self, service: &ServiceName) -> Result<(String, String), TemplateError> {
        let built_in = || ("built-in".to_owned(), DEFAULT.to_owned());
        let Some(path) = &self.path else { return Ok(built_in()) };
        if !path.is_dir() {
            return read(path);
        }
        for name in [format!("{service}.cfg.j2"), "default.cfg.j2".to_owned()] {
            match read(&path.join(name)) {
                Err(TemplateError::Unread { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                read => return read,
            }
        }
        Ok(built_in())
    }
}

fn read(path: &Path) -> Result<(String, String), TemplateError> {
    let unread = |source| TemplateError::Unread { path: path.to_owned(), source };
    let len = fs::metadata(path).map_err(unread)?.len();
    if len > TEMPLATE_MAX {
        return Err(TemplateError::TooLong { path: path.to_owned(), len });
    }
    Ok((path.display().to_string(), fs::read_to_string(path).map_err(unread)?))
}

/// A server, as templates see it.
fn values(line: &Line) -> Value {
    let text = |value: &dyn Display| value.to_string();
    context! {
        line => text(line),
        name => line.name.as_str(),
        addr => text(&line.addr),
        ip => text(&line.addr.ip()),
        port => line.addr.port(),
        id => line.id.get(),
        weight => line.weight.get(),
        options => text(&line.options),
        check_ms => line.options.check.map(|Check { inter, .. }| inter.as_millis()),
        disabled => line.disabled,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::desired::Presence;
    use haproxy::{CheckInterval, ServerOptions};

    fn section() -> Section {
        let check = Check {
            inter: CheckInterval::try_from(std::time::Duration::from_secs(2)).unwrap(),
            rise: 1.try_into().unwrap(),
            fall: 2.try_into().unwrap(),
            down_inter: None,
        };
        let line = |name: &str, addr: &str, id: u32, disabled| Line {
            name: name.parse().unwrap(),
            addr: addr.parse::<std::net::SocketAddr>().unwrap().try_into().unwrap(),
            id: id.try_into().unwrap(),
            weight: 100.try_into().unwrap(),
            options: ServerOptions { check: Some(check), slowstart_s: 5, ..ServerOptions::default() },
            disabled,
        };
        let lines = vec![
            line("web-1", "10.0.0.5:3000", 10_000, false),
            line("web-2", "[fd00::5]:3000", 10_001, true),
        ];
        Section { lines, presence: Presence::Present { ours: true } }
    }

    fn render(templates: &Templates) -> Result<String, TemplateError> {
        templates.render(&"web".parse().unwrap(), &section(), Path::new("/conf/web.restarting.map"))
    }

    #[test]
    fn the_built_in_one_says_what_add_server_said() {
        let text = render(&Templates::new(None, "GET /up".parse().unwrap())).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with(MARK), "{text}");
        assert_eq!(lines[1], "backend web");
        assert!(lines.contains(&"    option httpchk GET /up") && !text.contains("\n\n"), "{text}");
        let options = "check inter 2000ms rise 1 fall 2 slowstart 5s pool-purge-delay 5s pool-max-conn -1";
        assert_eq!(
            lines[lines.len() - 2..],
            [
                format!("    server web-1 10.0.0.5:3000 id 10000 weight 100 {options}"),
                format!("    server web-2 [fd00::5]:3000 id 10001 weight 100 {options} disabled"),
            ]
        );
        let tcp = render(&Templates::new(None, "tcp".parse().unwrap())).unwrap();
        assert!(!tcp.contains("httpchk"));
    }

    #[test]
    fn the_user_s_own_goes_first_and_a_broken_one_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let templates = Templates::new(Some(dir.path().into()), HttpCheck::default());
        assert!(render(&templates).unwrap().contains("leastconn"));
        put("default.cfg.j2", "backend {{ service }}{% for s in servers %} {{ s.port }}{% endfor %}");
        assert!(render(&templates).unwrap().ends_with("\nbackend web 3000 3000\n"));
        put("web.cfg.j2", "mine");
        assert!(render(&templates).unwrap().ends_with("\nmine\n"));
        let file = Templates::new(Some(dir.path().join("web.cfg.j2")), HttpCheck::default());
        assert!(render(&file).unwrap().ends_with("\nmine\n"));
        for bad in [
            "{{ nothing }}",
            "{% if %}",
            "{% for i in range(10000) %}{% for j in range(10000) %}{% endfor %}{% endfor %}",
        ] {
            put("web.cfg.j2", bad);
            assert!(matches!(render(&templates), Err(TemplateError::Render(_))), "{bad}");
        }
    }
}
