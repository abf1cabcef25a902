//! The model and etcd side by side.

use std::time::Duration;

use models::etcd::{Etcd, Op, ROUND_EVERY, Txn, WatchId, WatchMessage};
use registry::follow::Change;
use registry::time::Tick;

use crate::answer::ask_model;
use crate::real::{Real, Watched};
use crate::script::{Script, Step};

/// The model's time between steps: a script is over long before a lease runs out.
const STEP_TAKES: Duration = Duration::from_millis(7);
/// Most revisions that a watch of the future waits for.
const FUTURE_MAX: usize = 8;

/// A watch on both sides.
struct Watches {
    prefix: Vec<u8>,
    from: i64,
    id: WatchId,
    model: Vec<WatchMessage>,
    real: Watched,
}

pub(crate) struct Pair<'r> {
    seed: u64,
    root: String,
    script: Script,
    model: Etcd,
    real: &'r mut Real,
    now: Tick,
    open: Vec<Watches>,
    /// What was done, for a failure.
    done: Vec<Step>,
}

impl<'r> Pair<'r> {
    pub(crate) async fn begin(real: &'r mut Real, seed: u64) -> Self {
        real.begin().await;
        let (cluster, _, _) = real.head().await;
        let mut model = Etcd::new(cluster, 1);
        model.set_quirks(real.quirks().await);
        let root = format!("/{seed}/");
        let script = Script::new(seed, root.clone());
        Self { seed, root, script, model, real, now: Tick::default(), open: vec![], done: vec![] }
    }

    /// Does one step on both sides.
    pub(crate) async fn step(&mut self) {
        self.now = self.now.plus(STEP_TAKES);
        self.model.advance(self.now);
        let step = self.script.next(&self.model, self.open.len());
        self.done.push(step.clone());
        match step {
            Step::Watch { prefix, from } => self.watch(prefix, from).await,
            Step::Close(index) => self.close(index).await,
            Step::Progress(index) => {
                // Whether a watch that is behind is answered depends on when the round comes.
                self.settle().await;
                self.progress(index).await;
            }
            // A watch that is behind is canceled or not, depending on the same.
            Step::Compact(_) => {
                self.settle().await;
                self.compare(&step).await;
            }
            step => self.compare(&step).await,
        }
    }

    /// Ends all leases, lets both sides come to rest, and compares all watches.
    pub(crate) async fn end(&mut self) {
        for _ in 0..=FUTURE_MAX {
            self.settle().await;
        }
        for lease in self.script.leases() {
            self.compare(&Step::Revoke(lease)).await;
        }
        self.settle().await;
        for watches in &self.open {
            let reached = watches.from <= self.model.history().revision();
            assert!(reached && self.model.is_open(watches.id), "{}", self.story());
        }
    }

    async fn compare(&mut self, step: &Step) {
        let expected = ask_model(&mut self.model, self.now, step);
        let found = self.real.ask(step).await;
        assert_eq!(expected, found, "model, etcd; {}", self.story());
    }

    async fn watch(&mut self, prefix: Vec<u8>, from: i64) {
        let is_compacted = from < self.model.history().compacted();
        let id = self.model.watch(self.now, 0, &prefix, from).unwrap();
        let mut real = self.real.watch(&prefix, from).await;
        let mut model = self.model.messages(self.now, id);
        if is_compacted {
            self.now = self.now.plus(ROUND_EVERY);
            model.extend(self.model.messages(self.now, id));
            real.read_until("a cancellation", |it| matches!(it, WatchMessage::Canceled { .. })).await;
            assert_eq!(model, real.seen, "model, etcd; {}", self.story());
            assert!(!self.model.is_open(id), "{}", self.story());
            return;
        }
        real.read_until("that the watch stands", |it| matches!(it, WatchMessage::Created { .. })).await;
        assert_eq!(model, real.seen, "model, etcd; {}", self.story());
        self.open.push(Watches { prefix, from, id, model, real });
    }

    async fn close(&mut self, index: usize) {
        self.settle().await;
        self.model.cancel(self.open.remove(index).id);
    }

    async fn progress(&mut self, index: usize) {
        let watches = &mut self.open[index];
        self.model.progress(self.now, watches.id);
        watches.model.extend(self.model.messages(self.now, watches.id));
        let is_progress = |it: &WatchMessage| matches!(it, WatchMessage::Progress { .. });
        let answer = watches.model.iter().position(is_progress).map(|at| watches.model.remove(at));
        // That a request is never answered can only be known of the model.
        if answer.is_some() {
            watches.real.ask_progress().await;
            watches.real.read_until("progress", is_progress).await;
            assert_eq!(answer, watches.real.seen.pop(), "model, etcd; {}", self.story());
        }
    }

    /// Writes below every prefix, waits until every watch that is to see it has, and compares what they have seen.
    async fn settle(&mut self) {
        self.now = self.now.plus(ROUND_EVERY);
        self.model.quota_full(false);
        self.real.ask(&Step::Full(false)).await.unwrap();
        let names = ["", "a/", "a/1", "b/", "none/"];
        let marks = names.map(|name| Op::put(format!("{}{name}~", self.root), "mark", 0));
        self.compare(&Step::Txn(Txn::of(marks))).await;
        let revision = self.model.history().revision();
        self.now = self.now.plus(ROUND_EVERY);
        for watches in &mut self.open {
            watches.model.extend(self.model.messages(self.now, watches.id));
            if watches.from <= revision {
                watches.real.read_until("a mark", |it| last_revision(it) == revision).await;
            }
        }
        for watches in &self.open {
            let (model, real) = (changes(&watches.model), changes(&watches.real.seen));
            let Watches { prefix, from, .. } = watches;
            let prefix = String::from_utf8_lossy(prefix);
            assert_eq!(model, real, "model, etcd; watch of {prefix} from {from}; {}", self.story());
            for side in [&watches.model, &watches.real.seen] {
                let whole = side.windows(2).all(|pair| last_revision(&pair[0]) < first_revision(&pair[1]));
                assert!(whole, "a revision in two messages: {side:?}; {}", self.story());
            }
        }
    }

    fn story(&self) -> String {
        format!("seed {}, after {:#?}", self.seed, self.done)
    }
}

fn changes(messages: &[WatchMessage]) -> Vec<&Change> {
    let changes = messages.iter().filter_map(|message| match message {
        WatchMessage::Changes(changes) => Some(changes),
        _ => None,
    });
    changes.flatten().collect()
}

fn last_revision(message: &WatchMessage) -> i64 {
    match message {
        WatchMessage::Changes(changes) => changes.last().unwrap().mod_revision(),
        _ => 0,
    }
}

fn first_revision(message: &WatchMessage) -> i64 {
    match message {
        WatchMessage::Changes(changes) => changes.first().unwrap().mod_revision(),
        _ => i64::MAX,
    }
}
