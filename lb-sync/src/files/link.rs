//! Connects the balancer with the tasks that write: what it says goes out, what they ask for comes back.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Desired, WriterRequests};
use crate::balancer::Input;
use crate::plan::ids::SavedIds;

/// To the writer of HAProxy's ids; `None` until there is something to write.
type SaveIds = watch::Sender<Option<Arc<SavedIds>>>;

/// The channels to the tasks. Without tasks it takes everything and returns nothing.
#[derive(Debug, Default)]
pub struct FilesLink {
    /// To and from the writer of the sections.
    pub(super) sections: Option<(watch::Sender<Arc<Desired>>, watch::Receiver<WriterRequests>)>,
    /// To and from the writer of HAProxy's ids.
    pub(super) ids: Option<(SaveIds, watch::Receiver<u32>)>,
}

impl FilesLink {
    /// Hands the sections over. Never waits.
    pub fn write_sections(&self, desired: Arc<Desired>) {
        if let Some((sections, _)) = &self.sections {
            sections.send_replace(desired);
        }
    }

    /// Hands the ids over. Never waits.
    pub fn save_ids(&self, saved: Arc<SavedIds>) {
        if let Some((ids, _)) = &self.ids {
            ids.send_replace(Some(saved));
        }
    }

    /// The next input for the balancer; pends while there is none. May be dropped and called again.
    pub async fn next(&mut self) -> Input {
        let Self { sections, ids } = self;
        let requests = changed(sections.as_mut().map(|(_, requests)| requests));
        let reserved = changed(ids.as_mut().map(|(_, reserved)| reserved));
        tokio::select! {
            requests = requests => Input::Files(requests),
            below = reserved => Input::IdsReserved(below),
        }
    }
}

/// The new value, once there is one. A task that has ended says nothing any more: its own end is noticed elsewhere.
async fn changed<T: Copy>(receiver: Option<&mut watch::Receiver<T>>) -> T {
    if let Some(receiver) = receiver
        && receiver.changed().await.is_ok()
    {
        return *receiver.borrow_and_update();
    }
    std::future::pending().await
}
