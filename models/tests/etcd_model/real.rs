//! A real etcd, asked through the session that the product uses, and its answers with the model's revisions.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    AlarmAction, AlarmType, Client, CompactionOptions, EventType, GetOptions, KeyValue, LeaseGrantOptions,
    LeaseTimeToLiveOptions, PutOptions, WatchOptions, WatchResponse, WatchStream,
};
use models::etcd::{Compare, Op, OpAnswer, Quirks, Target, Txn, WatchMessage};
use registry::follow::{Change, Entry};
use registry::session::{Class, EtcdError, EtcdOptions, Session};
use testkit::etcd::Etcd;
use testkit::home::Home;
use testkit::port::Ports;

use crate::answer::{Answer, Refusal};
use crate::script::{Step, after};

/// Longest that a message may take to come: an answer takes a millisecond, a round 100.
const MESSAGE_MAX: Duration = Duration::from_secs(10);

/// A real etcd.
pub(crate) struct Real {
    session: Session,
    /// Watches stay on it when the session makes another client after an error.
    client: Client,
    /// Its revision is so much above the model's.
    pub(crate) offset: i64,
    pub(crate) etcd: Etcd,
    _ports: Ports,
}

impl Real {
    pub(crate) async fn launch() -> Self {
        let home = Arc::new(Home::new().unwrap());
        let ports = Ports::claim().unwrap();
        let etcd = Etcd::launch(&home, &ports).await.unwrap();
        let options = EtcdOptions { etcd_endpoints: vec![etcd.endpoint()], ..EtcdOptions::default() };
        let session = Session::new(options.checked().unwrap());
        let client = Client::connect([etcd.endpoint()], None).await.unwrap();
        Self { session, client, offset: 0, etcd, _ports: ports }
    }

    /// From here on the model's first revision is the present one.
    pub(crate) async fn begin(&mut self) {
        self.offset = self.head().await.1 - models::etcd::FIRST_REVISION;
    }

    /// Cluster, revision and raft term of an answer.
    pub(crate) async fn head(&mut self) -> (u64, i64, u64) {
        let answer = self.client.get("/", None).await.unwrap();
        let header = answer.header().unwrap();
        (header.cluster_id(), header.revision(), header.raft_term())
    }

    /// The bugs of its version.
    pub(crate) async fn quirks(&mut self) -> Quirks {
        let status = self.client.status().await.unwrap();
        let parts: Vec<u32> = status.version().split('.').map(|part| part.parse().unwrap()).collect();
        let [3, minor, patch] = parts[..] else { panic!("etcd {}", status.version()) };
        Quirks::of(minor, patch)
    }

    /// Does `step`. Steps about watches are not for here.
    pub(crate) async fn ask(&mut self, step: &Step) -> Result<Answer, Refusal> {
        let answered = match step {
            Step::Txn(txn) => self.txn(txn).await,
            Step::Range { from, end, limit, revision } => {
                let options = GetOptions::new()
                    .with_range(end.clone())
                    .with_limit(i64::try_from(*limit).unwrap())
                    .with_revision(self.theirs(*revision));
                self.range(from.clone(), options).await
            }
            Step::Grant { lease, ttl_s } => self.grant(*lease, *ttl_s).await,
            Step::KeepAlive(lease) => self.keep_alive(*lease).await,
            Step::Revoke(lease) => self.revoke(*lease).await,
            Step::TimeToLive(lease) => self.time_to_live(*lease).await,
            Step::Compact(revision) => {
                let revision = self.theirs(*revision);
                let options = Some(CompactionOptions::new().with_physical());
                let compacting = async |mut etcd: Client| etcd.compact(revision, options).await;
                self.call(compacting).await.map(|_| Answer::Done)
            }
            Step::Full(full) => {
                let action = if *full { AlarmAction::Activate } else { AlarmAction::Deactivate };
                let raising = async |mut etcd: Client| etcd.alarm(action, AlarmType::Nospace, None).await;
                self.call(raising).await.map(|_| Answer::Done)
            }
            Step::Watch { .. } | Step::Close(_) | Step::Progress(_) => Ok(Answer::Done),
        };
        answered.map_err(|EtcdError { cause, class, .. }| Refusal { text: cause, class })
    }

    /// One call. Boxed: a future of the client is some 20 kB, too much to be a part of every caller's.
    async fn call<T, Answering>(&self, call: impl FnOnce(Client) -> Answering) -> Result<T, EtcdError>
    where
        Answering: Future<Output = Result<T, etcd_client::Error>>,
    {
        Box::pin(self.session.call("ask", call)).await
    }

    async fn txn(&self, txn: &Txn) -> Result<Answer, EtcdError> {
        let compares: Vec<_> = txn.compare.iter().map(|compare| self.compare(compare)).collect();
        let request =
            etcd_client::Txn::new().when(compares).and_then(ops(&txn.then)).or_else(ops(&txn.otherwise));
        let answer = self.call(async |mut etcd: Client| etcd.txn(request).await).await?;
        let answers = answer.op_responses().into_iter().map(|response| self.op_answer(response)).collect();
        let revision = self.ours(answer.header().unwrap().revision());
        Ok(Answer::Txn { revision, succeeded: answer.succeeded(), answers })
    }

    fn compare(&self, compare: &Compare) -> etcd_client::Compare {
        let (key, equal) = (compare.key.clone(), etcd_client::CompareOp::Equal);
        match compare.target {
            Target::Mod => etcd_client::Compare::mod_revision(key, equal, self.theirs(compare.value)),
            Target::Create => etcd_client::Compare::create_revision(key, equal, self.theirs(compare.value)),
            Target::Lease => etcd_client::Compare::lease(key, equal, compare.value),
        }
    }

    fn op_answer(&self, response: etcd_client::TxnOpResponse) -> OpAnswer {
        match response {
            etcd_client::TxnOpResponse::Put(_) => OpAnswer::Put,
            etcd_client::TxnOpResponse::Delete(deleted) => {
                OpAnswer::Deleted(usize::try_from(deleted.deleted()).unwrap())
            }
            etcd_client::TxnOpResponse::Get(mut got) => {
                OpAnswer::Got(got.take_kvs().into_iter().next().map(|kv| self.entry(kv)))
            }
            etcd_client::TxnOpResponse::Txn(txn) => {
                panic!("no transaction was asked for within one: {txn:?}")
            }
        }
    }

    async fn range(&self, from: Vec<u8>, options: GetOptions) -> Result<Answer, EtcdError> {
        let reading = async |mut etcd: Client| etcd.get(from, Some(options)).await;
        let mut answer = self.call(reading).await?;
        let entries = answer.take_kvs().into_iter().map(|kv| self.entry(kv)).collect();
        let revision = self.ours(answer.header().unwrap().revision());
        Ok(Answer::Range { revision, entries, more: answer.more() })
    }

    async fn grant(&self, lease: i64, ttl_s: u64) -> Result<Answer, EtcdError> {
        let options = Some(LeaseGrantOptions::new().with_id(lease));
        let ttl_s = i64::try_from(ttl_s).unwrap();
        let granting = async |mut etcd: Client| etcd.lease_grant(ttl_s, options).await;
        let granted = self.call(granting).await?;
        Ok(Answer::Granted(u64::try_from(granted.ttl()).unwrap()))
    }

    async fn keep_alive(&self, lease: i64) -> Result<Answer, EtcdError> {
        // The client hides the first answer's ttl, so that a second one is asked for.
        let renewing = async |mut etcd: Client| {
            let (mut keeper, mut answers) = etcd.lease_keep_alive(lease).await?;
            keeper.keep_alive().await?;
            answers.message().await
        };
        match self.call(renewing).await {
            Ok(answer) => Ok(Answer::KeptAlive(Some(u64::try_from(answer.unwrap().ttl()).unwrap()))),
            Err(error) if error.class == Class::NotFound => Ok(Answer::KeptAlive(None)),
            Err(error) => Err(error),
        }
    }

    async fn revoke(&self, lease: i64) -> Result<Answer, EtcdError> {
        let revoking = async |mut etcd: Client| etcd.lease_revoke(lease).await;
        let revoked = self.call(revoking).await?;
        Ok(Answer::Revoked { revision: self.ours(revoked.header().unwrap().revision()) })
    }

    async fn time_to_live(&self, lease: i64) -> Result<Answer, EtcdError> {
        let options = Some(LeaseTimeToLiveOptions::new().with_keys());
        let asking = async |mut etcd: Client| etcd.lease_time_to_live(lease, options).await;
        let left = self.call(asking).await?;
        let mut keys = left.keys().to_vec();
        keys.sort();
        let granted_s = u64::try_from(left.granted_ttl()).unwrap();
        Ok(Answer::TimeToLive((left.ttl() != -1).then_some((granted_s, keys))))
    }

    /// Opens a watch of `prefix` from `from` on.
    pub(crate) async fn watch(&mut self, prefix: &[u8], from: i64) -> Watched {
        let start = self.theirs(from);
        let options = WatchOptions::new().with_range(after(prefix)).with_start_revision(start);
        let stream = self.client.watch(prefix, Some(options)).await.unwrap();
        Watched { stream, offset: self.offset, seen: vec![] }
    }

    /// etcd's number of a revision of the model; 0 is none in both.
    fn theirs(&self, revision: i64) -> i64 {
        if revision == 0 { 0 } else { revision + self.offset }
    }

    fn ours(&self, revision: i64) -> i64 {
        revision - self.offset
    }

    fn entry(&self, kv: KeyValue) -> Entry {
        entry(kv, self.offset)
    }
}

/// A watch of etcd, and what it has sent.
pub(crate) struct Watched {
    stream: WatchStream,
    offset: i64,
    pub(crate) seen: Vec<WatchMessage>,
}

impl Watched {
    pub(crate) async fn ask_progress(&mut self) {
        self.stream.request_progress().await.unwrap();
    }

    /// Reads on until the last message is one that is `wanted`.
    pub(crate) async fn read_until(&mut self, what: &str, wanted: impl Fn(&WatchMessage) -> bool) {
        let reading = async {
            while !self.seen.last().is_some_and(&wanted) {
                let message = self.stream.message().await.unwrap().expect("the stream goes on");
                self.seen.push(self.read(&message));
            }
        };
        let read = tokio::time::timeout(MESSAGE_MAX, reading).await;
        assert!(read.is_ok(), "etcd did not send {what}, but {:?}", self.seen);
    }

    fn read(&self, message: &WatchResponse) -> WatchMessage {
        let header = message.header().unwrap();
        let revision = header.revision() - self.offset;
        if message.canceled() {
            WatchMessage::Canceled { compact_revision: message.compact_revision() - self.offset }
        } else if message.created() {
            WatchMessage::Created { cluster: header.cluster_id(), revision }
        } else if message.events().is_empty() {
            WatchMessage::Progress { revision }
        } else {
            WatchMessage::Changes(message.events().iter().map(|event| change(event, self.offset)).collect())
        }
    }
}

fn change(event: &etcd_client::Event, offset: i64) -> Change {
    let kv = event.kv().unwrap();
    match event.event_type() {
        EventType::Put => Change::Put(entry(kv.clone(), offset)),
        EventType::Delete => {
            Change::Delete { key: kv.key().to_vec(), mod_revision: kv.mod_revision() - offset }
        }
    }
}

fn entry(kv: KeyValue, offset: i64) -> Entry {
    let (create_revision, mod_revision) = (kv.create_revision() - offset, kv.mod_revision() - offset);
    let lease = kv.lease();
    let (key, value) = kv.into_key_value();
    Entry { key, value, lease, create_revision, mod_revision }
}

fn ops(ops: &[Op]) -> Vec<etcd_client::TxnOp> {
    let op = |op: &Op| match op.clone() {
        Op::Put { key, value, lease } => {
            etcd_client::TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease)))
        }
        Op::Delete { from, end } => {
            let options = etcd_client::DeleteOptions::new().with_range(end);
            etcd_client::TxnOp::delete(from, Some(options))
        }
        Op::Get { key } => etcd_client::TxnOp::get(key, None),
    };
    ops.iter().map(op).collect()
}
