//! What is asked of us: the signals, as requests.

use std::io;

use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Requests that wait. The kernel folds equal signals into one, so more are never under way at once.
const REQUESTS_MAX: usize = 16;

/// What is asked of us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// TERM, INT or QUIT: stop in order; asked again, without waiting.
    Stop(Signal),
    /// A signal that is the app's business.
    Forward(Signal),
}

const REQUESTS: [Request; 7] = [
    Request::Stop(Signal::SIGTERM),
    Request::Stop(Signal::SIGINT),
    Request::Stop(Signal::SIGQUIT),
    Request::Forward(Signal::SIGHUP),
    Request::Forward(Signal::SIGUSR1),
    Request::Forward(Signal::SIGUSR2),
    Request::Forward(Signal::SIGWINCH),
];

/// Takes over the signals, from now on; needs a runtime. To be called before anything is started: process 1 has no
/// default actions, and a signal that comes too early would be lost, or end us without order.
pub fn requests() -> io::Result<mpsc::Receiver<Request>> {
    let (sender, receiver) = mpsc::channel(REQUESTS_MAX);
    for request in REQUESTS {
        let (Request::Stop(kind) | Request::Forward(kind)) = request;
        let mut signals = signal(SignalKind::from_raw(kind as i32))?;
        let sender = sender.clone();
        tokio::spawn(
            async move { while signals.recv().await.is_some() && sender.send(request).await.is_ok() {} },
        );
    }
    Ok(receiver)
}
