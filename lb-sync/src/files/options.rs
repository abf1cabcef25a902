//! The options about files, and what they come to.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;

use clap::Args;
use tokio::sync::watch;

use super::cold::Cold;
use super::desired::Desired;
use super::folder::Folder;
use super::ids_file::{self, IdsKeeper};
use super::pace::Pace;
use super::template::Templates;
use super::verify::Verifier;
use super::writer::{Out, Report, Writer};
use super::{Dirty, Files, FilesLink, Sections, WRITE_EVERY, WriterRequests};
use crate::plan::Policy;
use crate::plan::ids::Ids;
use haproxy::BackendName;

/// How backend sections are kept as files.
#[derive(Args, Clone, Debug, Default)]
pub struct FilesOptions {
    /// Keep each service's backend section here, as a file that equals the running state; HAProxy is started on this
    /// directory beside your own files (`haproxy -W -S … -f haproxy.cfg -f DIR`).
    #[arg(long, env = "LEASEHOLD_CONF_DIR", value_name = "DIR")]
    pub conf_dir: Option<PathBuf>,
    /// Your own files, as HAProxy is started on them: sections are checked together with them. May be repeated.
    #[arg(long, env = "LEASEHOLD_CONF_BASE", value_name = "FILE|DIR", value_delimiter = ',')]
    pub conf_base: Vec<PathBuf>,
    /// Your own template for the sections, or a directory with SERVICE.cfg.j2 for some and default.cfg.j2 for the rest.
    #[arg(long, env = "LEASEHOLD_TEMPLATE", value_name = "FILE|DIR")]
    pub template: Option<PathBuf>,
    /// What HAProxy's checks ask in rendered sections (`option httpchk`), or `tcp` for a connection only.
    #[arg(long, env = "LEASEHOLD_HTTPCHK", default_value = "GET /", value_name = "METHOD PATH|tcp")]
    pub httpchk: HttpCheck,
    /// HAProxy's master socket (`-S`): a service that has no backend yet is brought in by one reload.
    #[arg(long, env = "LEASEHOLD_MASTER_SOCKET", value_name = "PATH")]
    pub master_socket: Option<PathBuf>,
    /// With HAProxy 3.4 and newer: make the backend of a new service at once, without a reload, from the section
    /// `defaults NAME` of your files. Its own section, with what only a section can have (the cookie), comes with the
    /// next reload or restart.
    #[arg(long, env = "LEASEHOLD_BACKEND_DEFAULTS", value_name = "NAME")]
    pub backend_defaults: Option<BackendName>,
    /// The program that checks what is written, of the version that runs.
    #[arg(long, env = "LEASEHOLD_HAPROXY_BINARY", default_value = "haproxy", value_name = "PATH")]
    pub haproxy_binary: PathBuf,
}

/// What HAProxy's checks ask: nothing that could be anything but a method and a path comes out of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpCheck(Option<String>);

impl HttpCheck {
    /// `GET /`; `None` for a connection only.
    #[must_use]
    pub fn request(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl FromStr for HttpCheck {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        /// Longest path taken, in bytes.
        const PATH_MAX: usize = 256;
        if text == "tcp" {
            return Ok(Self(None));
        }
        let (method, path) = text.split_once(' ').unwrap_or(("GET", text));
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"/_.~-?=&+:@,".contains(&byte);
        let method_ok = ["GET", "HEAD", "OPTIONS"].contains(&method);
        if method_ok && path.starts_with('/') && path.len() <= PATH_MAX && path.bytes().all(legal) {
            Ok(Self(Some(format!("{method} {path}"))))
        } else {
            Err("write GET, HEAD or OPTIONS and a path, for example `GET /health`; or tcp".into())
        }
    }
}

impl fmt::Display for HttpCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.request().unwrap_or("tcp"))
    }
}

/// The options, checked.
#[derive(Clone, Debug)]
pub struct FilesConfig {
    options: FilesOptions,
    folder: Option<Folder>,
    state_dir: Option<PathBuf>,
}

/// What files cannot be kept with.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The directory of the sections.
    #[error("cannot keep files in {}: {source}\n  make it, and let lb-sync write to it; or leave --conf-dir out", .dir.display())]
    Folder {
        /// Which.
        dir: PathBuf,
        /// What was said.
        source: io::Error,
    },
    /// Paths within end up in HAProxy's configuration.
    #[error(
        "cannot keep files in {}: its path has characters that HAProxy's configuration gives a meaning\n  use A-Z a-z \
         0-9 / _ . - in --conf-dir", .0.display()
    )]
    FolderName(PathBuf),
    /// A file or directory that was named is not there.
    #[error("{option} names {}, which cannot be read: {source}", .path.display())]
    Unreadable {
        /// Which option.
        option: &'static str,
        /// Which path.
        path: PathBuf,
        /// What was said.
        source: io::Error,
    },
    /// The program that checks.
    #[error(
        "cannot run `{} -v`: {source}\n  sections are checked by HAProxy before they are put in place: install it \
         beside lb-sync, or name it with --haproxy-binary", .binary.display()
    )]
    Binary {
        /// Which.
        binary: PathBuf,
        /// What was said.
        source: io::Error,
    },
}

/// A task that goes on until the balancer ends.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Tasks, with their names.
type Tasks = Vec<(Task, &'static str)>;

/// What there is to do about files.
pub struct Started {
    /// For the balancer.
    pub files: Files,
    /// Between the balancer and the tasks.
    pub link: FilesLink,
    /// What was kept: whom it knows keeps its id. `None` without a state directory.
    pub ids: Option<Ids>,
    /// Tasks, with their names.
    pub tasks: Tasks,
    /// What the writer of the sections has done so far.
    pub report: watch::Receiver<Report>,
}

impl FilesOptions {
    /// Looks whether everything that is named is there.
    pub fn checked(self, state_dir: Option<&Path>) -> Result<FilesConfig, FilesError> {
        let folder = match &self.conf_dir {
            None => None,
            Some(dir) => {
                let folder = Folder::open(dir)?;
                for path in &self.conf_base {
                    readable("--conf-base", path)?;
                }
                if let Some(path) = &self.template {
                    readable("--template", path)?;
                }
                Verifier::try_out(&self.haproxy_binary).map_err(|source| {
                    let binary = self.haproxy_binary.clone();
                    FilesError::Binary { binary, source }
                })?;
                Some(folder)
            }
        };
        Ok(FilesConfig { options: self, folder, state_dir: state_dir.map(Path::to_owned) })
    }
}

fn readable(option: &'static str, path: &Path) -> Result<(), FilesError> {
    fs::metadata(path).map(drop).map_err(|source| FilesError::Unreadable {
        option,
        path: path.into(),
        source,
    })
}

impl FilesConfig {
    /// Loads what was kept, and begins.
    #[must_use]
    pub fn start(self, policy: Policy) -> Started {
        let (mut files, mut link, mut tasks) = (Files::default(), FilesLink::default(), Tasks::new());
        let ids = self.state_dir.map(|dir| {
            let ids = ids_file::load(&dir, policy.id_base);
            let (save, saves) = watch::channel(None);
            let (wrote, written) = watch::channel(ids.top());
            files.ids = Some(IdsKeeper::new(&ids));
            link.ids = Some((save, written));
            tasks.push((Box::pin(ids_file::write(dir, saves, wrote)), "the writer of HAProxy's ids"));
            ids
        });
        let (report, reported) = watch::channel(Report::default());
        if let Some(folder) = self.folder {
            let FilesOptions { conf_base, template, httpchk, master_socket, haproxy_binary, .. } =
                self.options;
            let desired = Arc::new(Desired::default());
            let (hand_over, handed_over) = watch::channel(Arc::clone(&desired));
            let (request, requests) = watch::channel(WriterRequests::default());
            files.sections = Some(Sections {
                desired,
                requests: WriterRequests::default(),
                reloads: master_socket.is_some(),
                cold: Cold::default(),
                replace: None,
                policy,
                pace: Pace::new(WRITE_EVERY),
                dirty: Dirty::All,
            });
            link.sections = Some((hand_over, requests));
            let templates = Templates::new(template, httpchk);
            let verifier = Verifier::new(haproxy_binary, conf_base);
            let writer =
                Writer::new(folder, templates, verifier, master_socket, Out { report, overriding: request });
            tasks.push((Box::pin(writer.run(handed_over)), "the writer of the files"));
        }
        Started { files, link, ids, tasks, report: reported }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_s_request_is_a_method_and_a_path() {
        let parse = |text: &str| text.parse::<HttpCheck>();
        assert_eq!(parse("HEAD /up?a=1").unwrap().request(), Some("HEAD /up?a=1"));
        assert_eq!(parse("/health").unwrap().to_string(), "GET /health");
        assert_eq!(parse("tcp").unwrap().request(), None);
        for bad in
            ["", "GET", "DELETE /", "GET / x", "GET /\nserver x", "GET /%[env(A)]", "GET /\"", "GET /#"]
        {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
