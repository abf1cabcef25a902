//! The task of the writer: selects, steps the machine, performs its deeds.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use haproxy::master;
use registry::name::ServiceName;
use registry::time::Clock;
use tokio::sync::watch;

use super::WriterRequests;
use super::desired::Desired;
use super::folder::Folder;
use super::machine::{Deed, Drawn, Input, Machine, Report, Texts};
use super::ownership::ownership;
use super::template::Templates;
use super::verify::Verifier;

/// The task and what it owns.
pub(super) struct Writer {
    machine: Machine,
    folder: Folder,
    templates: Templates,
    verifier: Verifier,
    master: Option<PathBuf>,
    out: Out,
}

/// Where the writer's words go.
pub(super) struct Out {
    pub(super) report: watch::Sender<Report>,
    pub(super) requests: watch::Sender<WriterRequests>,
}

impl Writer {
    /// Writes to `folder`; reloads through the `master` socket, where there is one.
    pub(super) fn new(
        folder: Folder,
        templates: Templates,
        verifier: Verifier,
        master: Option<PathBuf>,
        out: Out,
    ) -> Self {
        let machine = Machine::new(Clock.now(), folder.clone(), master.is_some());
        Self { machine, folder, templates, verifier, master, out }
    }

    /// Follows `desired`, until its sender is dropped.
    pub(super) async fn run(mut self, mut desired: watch::Receiver<Arc<Desired>>) {
        loop {
            let latest = Arc::clone(&desired.borrow_and_update());
            let mut next = self.machine.step(Clock.now(), Input::Desired(latest));
            while let Some(deed) = next {
                next = match self.perform(deed).await {
                    Some(input) => self.machine.step(Clock.now(), input),
                    None => None,
                };
            }
            self.out.report.send_if_modified(|report| {
                let changed = report != self.machine.report();
                report.clone_from(self.machine.report());
                changed
            });
            tokio::select! {
                changed = desired.changed() => if changed.is_err() { return },
                () = Clock.until(Some(self.machine.wake_at())) => {}
            }
        }
    }

    /// What came of the deed; `None` where nothing does.
    async fn perform(&self, deed: Deed) -> Option<Input> {
        let done = match deed {
            Deed::Draw(desired) => {
                let (folder, templates) = (self.folder.clone(), self.templates.clone());
                blocking(move || draw(&folder, &templates, &desired)).await.map(Input::Drawn)
            }
            Deed::Check(scan, changes) => {
                let folder = self.folder.clone();
                match blocking(move || folder.stage(&scan, &borrowed(&changes))).await {
                    Ok(dir) => self.verifier.check(&dir).await.map(Input::Verdict),
                    Err(error) => Err(error),
                }
            }
            Deed::PutInPlace(texts) => {
                let folder = self.folder.clone();
                blocking(move || folder.place(&borrowed(&texts))).await.map(|()| Input::Placed)
            }
            Deed::CheckFolder => self.verifier.check(self.folder.path()).await.map(Input::Verdict),
            Deed::Reload => {
                let Some(master) = &self.master else { return None };
                Ok(Input::Reloaded(master::reload(master).await))
            }
            Deed::Request(requests) => {
                self.out.requests.send_replace(requests);
                return None;
            }
        };
        Some(done.unwrap_or_else(|error| Input::Failed(error.to_string())))
    }
}

fn draw(folder: &Folder, templates: &Templates, desired: &Desired) -> io::Result<Drawn> {
    // Before a reload for a new service: its routes are to be there when it is.
    let routes_ours = folder.write_routes_map(&desired.routes)?;
    let scan = folder.scan()?;
    let ownership = ownership(desired, &scan.sections);
    let (mut rendered, mut failed) = (Texts::new(), Texts::new());
    for (service, section) in &ownership.render {
        match templates.render(service, section, &folder.restarting_map(service)) {
            Ok(text) => drop(rendered.insert(service.clone(), text)),
            Err(error) => drop(failed.insert(service.clone(), error.to_string())),
        }
    }
    Ok(Drawn { scan, ownership, rendered, failed, routes_ours })
}

fn borrowed(texts: &Texts) -> BTreeMap<&ServiceName, &str> {
    texts.iter().map(|(service, text)| (service, text.as_str())).collect()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}
