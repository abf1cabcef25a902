//! Requests: which server gets one, and what becomes of a connection that fails.
//!
//! As the default template of lb-sync has it: a client sticks to the server that its cookie names (`use-server`); others go
//! by `leastconn`; `retries 3`, `option redispatch 1`, and for a GET `retry-on empty-response`.

use std::net::SocketAddr;

use registry::time::Tick;

use super::backend::Backend;
use super::server::Server;
use super::worker::{StreamView, Worker};
use super::{Crashed, Haproxy, WorkerId};

/// Attempts to connect after the first (`retries 3`).
const RETRIES: u32 = 3;

/// A stream. Never used twice, over all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// What a client asks for.
#[derive(Clone, Copy, Debug)]
pub struct Request<'r> {
    /// The backend's name.
    pub backend: &'r str,
    /// The value of the client's cookie.
    pub cookie: Option<&'r str>,
    /// Decides between servers that HAProxy has no preference for; 16 bits of it for each attempt.
    pub choice: u64,
}

/// A request that has reached a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Which stream.
    pub id: StreamId,
    /// The server's name.
    pub server: String,
    /// Where it is.
    pub addr: SocketAddr,
    /// The answer sets the client's cookie to the server's name.
    pub sets_cookie: bool,
    /// Attempts to connect that failed before.
    pub retries: u32,
}

/// A stream that HAProxy has cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Which stream.
    pub stream: StreamId,
    /// HAProxy takes the cut for an empty response: it asks another server if the request is one that may be asked twice
    /// ([`Haproxy::retry_stream`]), and only otherwise it is over ([`Haproxy::close_stream`]). So does 2.6 on `shutdown
    /// sessions server`, with `retry-on empty-response`.
    pub asks_again: bool,
}

impl Cut {
    /// The stream's process has ended.
    pub(super) fn ended(stream: StreamView<'_>) -> Self {
        Self { stream: stream.id, asks_again: false }
    }
}

/// Why a request has not reached a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoStream {
    /// The worker does not run, or has been replaced and the client has no connection to it.
    Refused,
    /// The worker hangs: the client waits.
    Hung,
    /// There is no such backend, or no server of it is usable (503).
    NoServer,
    /// Every attempt to connect failed (503).
    NotConnected,
    /// HAProxy has crashed under it.
    Crashed(Crashed),
}

/// A stream inside a worker.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    pub(super) backend: String,
    pub(super) server: String,
    pub(super) addr: SocketAddr,
    cookie: Option<String>,
    retries: u32,
    /// `shutdown sessions` has come: it is over after this moment.
    pub(super) cut_at: Option<Tick>,
}

impl Haproxy {
    /// A client keeps its connection open after a request. After a reload it holds the old worker up, for one more
    /// request or until [`Self::drop_connection`].
    pub fn keep_connection(&mut self, worker: WorkerId) {
        if let Some(it) = self.workers.get_mut(&worker) {
            it.kept += 1;
        }
    }

    /// A client closes such a connection.
    pub fn drop_connection(&mut self, worker: WorkerId) {
        if let Some(it) = self.workers.get_mut(&worker) {
            it.kept = it.kept.saturating_sub(1);
        }
        self.end_idle();
    }

    /// A request to `worker`; `connects` says whether an address takes a connection. On an old worker it uses up one of
    /// the connections that clients have kept.
    pub fn open_stream(
        &mut self,
        now: Tick,
        worker: WorkerId,
        request: Request<'_>,
        connects: impl FnMut(SocketAddr) -> bool,
    ) -> Result<Stream, NoStream> {
        let it = self.workers.get_mut(&worker).ok_or(NoStream::Refused)?;
        if it.hung {
            return Err(NoStream::Hung);
        }
        if it.stopping {
            it.kept = it.kept.checked_sub(1).ok_or(NoStream::Refused)?;
        }
        let id = StreamId(self.next_stream);
        self.next_stream += 1;
        let stream = match it.settle(now) {
            Ok(()) => it.open(id, request, connects),
            Err(why) => Err(NoStream::Crashed(self.crash(worker, why))),
        };
        self.end_idle();
        stream
    }

    /// The server has closed the connection without an answer. HAProxy asks another one, where retries are left. Only
    /// for a request that is asked again (GET); otherwise close the stream.
    pub fn retry_stream(
        &mut self,
        now: Tick,
        stream: StreamId,
        choice: u64,
        connects: impl FnMut(SocketAddr) -> bool,
    ) -> Result<Stream, NoStream> {
        let found = self.workers.values_mut().find(|worker| worker.flows.contains_key(&stream));
        let again = found.ok_or(NoStream::Refused)?.retry(now, stream, choice, connects);
        self.end_idle();
        again
    }

    /// A request is over. `keep_pooled`: its connection to the server stays open for others.
    pub fn close_stream(&mut self, now: Tick, stream: StreamId, keep_pooled: bool) {
        if let Some(worker) = self.workers.values_mut().find(|worker| worker.flows.contains_key(&stream)) {
            worker.close(now, stream, keep_pooled);
        }
        self.end_idle();
    }
}

impl Worker {
    fn open(
        &mut self,
        id: StreamId,
        request: Request<'_>,
        connects: impl FnMut(SocketAddr) -> bool,
    ) -> Result<Stream, NoStream> {
        let backend =
            self.backends.iter().position(|it| it.name == request.backend).ok_or(NoStream::NoServer)?;
        let sticky = self.backends.get(backend).and_then(|it| sticky(it, request.cookie?));
        let cookie = request.cookie.map(Into::into);
        self.assign(
            id,
            backend,
            sticky,
            cookie,
            Attempts { done: 0, avoid: None, choice: request.choice },
            connects,
        )
    }

    fn retry(
        &mut self,
        now: Tick,
        id: StreamId,
        choice: u64,
        connects: impl FnMut(SocketAddr) -> bool,
    ) -> Result<Stream, NoStream> {
        let Some(flow) = self.close(now, id, false).filter(|flow| flow.retries < RETRIES) else {
            return Err(NoStream::NotConnected);
        };
        let backend =
            self.backends.iter().position(|it| it.name == flow.backend).ok_or(NoStream::NoServer)?;
        let avoid = self.backends.get(backend).and_then(|it| it.position(&flow.server));
        let attempts = Attempts { done: flow.retries + 1, avoid, choice };
        self.assign(id, backend, None, flow.cookie, attempts, connects)
    }

    /// Tries servers until one takes the connection. With `option redispatch 1` each retry is free to go elsewhere, and
    /// avoids the server of the last attempt only (`stream_choose_redispatch`, `assign_server`).
    fn assign(
        &mut self,
        id: StreamId,
        backend: usize,
        mut sticky: Option<usize>,
        cookie: Option<String>,
        mut attempts: Attempts,
        mut connects: impl FnMut(SocketAddr) -> bool,
    ) -> Result<Stream, NoStream> {
        let it = self.backends.get_mut(backend).ok_or(NoStream::NoServer)?;
        loop {
            let next = sticky.take().or_else(|| least_loaded(it, &attempts));
            let at = next.ok_or(NoStream::NoServer)?;
            let server = it.servers.get_mut(at).ok_or(NoStream::NoServer)?;
            server.tree.take_stream();
            if connects(server.addr) {
                server.reuse();
                server.streams += 1;
                let (name, addr) = (server.name.clone(), server.addr);
                let is_waited_for =
                    cookie.as_ref().is_some_and(|cookie| self.maps.is_restarting(&it.name, cookie));
                let sets_cookie = it.cookie && cookie.as_ref() != Some(&name) && !is_waited_for;
                let (backend, retries) = (it.name.clone(), attempts.done);
                let flow = Flow { backend, server: name.clone(), addr, cookie, retries, cut_at: None };
                self.flows.insert(id, flow);
                return Ok(Stream { id, server: name, addr, sets_cookie, retries });
            }
            if attempts.done == RETRIES {
                return Err(NoStream::NotConnected);
            }
            attempts = Attempts { done: attempts.done + 1, avoid: Some(at), ..attempts };
        }
    }

    fn close(&mut self, now: Tick, id: StreamId, keep_pooled: bool) -> Option<Flow> {
        let flow = self.flows.remove(&id)?;
        if let Some(server) = self.server_of(&flow) {
            server.streams = server.streams.saturating_sub(1);
            if keep_pooled {
                server.pool(now);
            }
        }
        Some(flow)
    }

    fn server_of(&mut self, flow: &Flow) -> Option<&mut Server> {
        let backend = self.backends.iter_mut().find(|backend| backend.name == flow.backend)?;
        backend.servers.iter_mut().find(|server| server.name == flow.server)
    }

    /// `shutdown sessions server`: each stream is told to end, and ends once its task has run.
    pub(super) fn cut_flows(&mut self, now: Tick, backend: &str, server: &str) -> Vec<Cut> {
        let asks_again = self.version.asks_again_after_shutdown();
        let mut cut = Vec::new();
        for (id, flow) in &mut self.flows {
            if flow.cut_at.is_none() && flow.backend == backend && flow.server == server {
                flow.cut_at = Some(now);
                cut.push(Cut { stream: *id, asks_again });
            }
        }
        cut
    }

    pub(super) fn end_cut_flows(&mut self, now: Tick) {
        let over = |flow: &Flow| flow.cut_at.is_some_and(|cut_at| cut_at < now);
        let ids: Vec<StreamId> =
            self.flows.iter().filter(|(_, flow)| over(flow)).map(|(id, _)| *id).collect();
        for id in ids {
            self.close(now, id, false);
        }
    }
}

/// How far a request has come.
#[derive(Clone, Copy)]
struct Attempts {
    /// Attempts that failed.
    done: u32,
    /// The server of the last one.
    avoid: Option<usize>,
    choice: u64,
}

/// The server that a cookie names, if it is up, in DRAIN too and with any weight (`process_server_rules`).
fn sticky(backend: &Backend, cookie: &str) -> Option<usize> {
    let at = backend.position(cookie).filter(|_| backend.cookie)?;
    backend.servers.get(at).filter(|server| server.takes_persistent()).map(|_| at)
}

/// The first in the tree, without the one to avoid where there is another (`fwlc_get_next_server`). Those with the same
/// key are in the order of their last use; the request's `choice` stands for it.
fn least_loaded(backend: &Backend, attempts: &Attempts) -> Option<usize> {
    if !backend.servers.iter().any(Server::is_usable) {
        return None;
    }
    let in_tree = || backend.servers.iter().enumerate().filter(|(_, server)| server.tree.is_in());
    let others = || in_tree().filter(|(at, _)| Some(*at) != attempts.avoid);
    let Some(least) = others().map(|(_, server)| server.key()).min() else {
        return in_tree().next().map(|(at, _)| at);
    };
    let ties: Vec<usize> = others().filter(|(_, server)| server.key() == least).map(|(at, _)| at).collect();
    let choice = usize::try_from(attempts.choice.rotate_right(16 * attempts.done) & 0xffff).ok()?;
    ties.get(choice % ties.len().max(1)).copied()
}
