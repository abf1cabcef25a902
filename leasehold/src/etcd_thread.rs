//! The thread that speaks with etcd: beats go out in time, however busy everything else is.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A runtime on a thread of its own. It ends with the last handle, and what runs on it with it.
#[derive(Clone, Debug)]
pub struct EtcdThread {
    runtime: Handle,
    _end: Arc<DropGuard>,
}

impl EtcdThread {
    /// Starts it.
    pub fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let end = CancellationToken::new();
        let ended = end.clone();
        thread::Builder::new().name("etcd".into()).spawn(move || runtime.block_on(ended.cancelled()))?;
        Ok(Self { runtime: handle, _end: Arc::new(end.drop_guard()) })
    }

    /// Runs `task` there.
    pub fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.runtime.spawn(task)
    }

    /// For those who spawn by themselves.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.runtime
    }
}
