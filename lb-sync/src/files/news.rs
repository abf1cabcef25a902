//! Trouble is logged once for each different message, however often it recurs.

use std::collections::BTreeMap;

/// Topics whose last message is remembered: more than there are services.
const TOPICS_MAX: usize = 10_000;

/// What was said last, by topic.
#[derive(Debug, Default)]
pub(super) struct News {
    said: BTreeMap<String, String>,
}

impl News {
    /// Logs an error, if it is another one than was said last.
    pub(super) fn error(&mut self, topic: &str, text: impl FnOnce() -> String) {
        let text = text();
        if self.is_news(topic, &text) {
            tracing::error!("{text}");
        }
    }

    /// Logs something that people have to do, once.
    pub(super) fn warn(&mut self, topic: &str, text: impl FnOnce() -> String) {
        let text = text();
        if self.is_news(topic, &text) {
            tracing::warn!("{text}");
        }
    }

    /// The trouble is over: should it come back, that is news.
    pub(super) fn settled(&mut self, topic: &str) {
        self.said.remove(topic);
    }

    fn is_news(&mut self, topic: &str, text: &str) -> bool {
        if self.said.get(topic).is_some_and(|said| said == text) {
            return false;
        }
        if self.said.len() >= TOPICS_MAX {
            self.said.clear();
        }
        self.said.insert(topic.to_owned(), text.to_owned());
        true
    }
}
