//! The options about files, and what they come to.

use std::fs;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use clap::Args;
use tokio::sync::watch;

use super::desired::Desired;
use super::error::FilesError;
use super::folder::Folder;
use super::http_check::HttpCheck;
use super::ids_file;
use super::machine::Report;
use super::template::Templates;
use super::verify::Verifier;
use super::writer::{Out, Writer};
use super::{Files, FilesLink, WriterRequests};
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

/// The options, checked.
#[derive(Clone, Debug)]
pub struct FilesConfig {
    options: FilesOptions,
    folder: Option<Folder>,
    state_dir: Option<PathBuf>,
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
    /// What was kept: an instance that it knows keeps its id. `None` without a state directory.
    pub ids: Option<Ids>,
    /// Tasks, with their names.
    pub tasks: Tasks,
    /// What the writer of the sections has done so far.
    pub report: watch::Receiver<Report>,
}

impl FilesOptions {
    /// Makes the directory of the sections, and looks whether everything that is named is there.
    pub fn open(self, state_dir: Option<&Path>) -> Result<FilesConfig, FilesError> {
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
            files = Files::default().with_ids(&ids);
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
            files = Files { ids: files.ids, ..Files::kept(policy, master_socket.is_some()) };
            link.sections = Some((hand_over, requests));
            let templates = Templates::new(template, httpchk);
            let verifier = Verifier::new(haproxy_binary, conf_base);
            let writer =
                Writer::new(folder, templates, verifier, master_socket, Out { report, requests: request });
            tasks.push((Box::pin(writer.run(handed_over)), "the writer of the files"));
        }
        Started { files, link, ids, tasks, report: reported }
    }
}
