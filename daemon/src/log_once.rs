//! A condition is logged once for each different message, however often it recurs.

use std::collections::BTreeMap;

/// Topics whose last message is remembered: more than there are services.
const TOPICS_MAX: usize = 10_000;

/// The last message of each topic.
#[derive(Debug, Default)]
pub struct LogOnce {
    last: BTreeMap<String, String>,
}

impl LogOnce {
    /// Logs an error, unless the topic's last message was the same.
    pub fn error(&mut self, topic: &str, text: impl FnOnce() -> String) {
        let text = text();
        if self.is_new(topic, &text) {
            tracing::error!("{text}");
        }
    }

    /// Logs a warning, unless the topic's last message was the same.
    pub fn warn(&mut self, topic: &str, text: impl FnOnce() -> String) {
        let text = text();
        if self.is_new(topic, &text) {
            tracing::warn!("{text}");
        }
    }

    /// The condition is over: the next message of this topic is logged again.
    pub fn settled(&mut self, topic: &str) {
        self.last.remove(topic);
    }

    fn is_new(&mut self, topic: &str, text: &str) -> bool {
        if self.last.get(topic).is_some_and(|last| last == text) {
            return false;
        }
        if self.last.len() >= TOPICS_MAX {
            self.last.clear();
        }
        self.last.insert(topic.to_owned(), text.to_owned());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_new_once_until_it_changes_or_is_settled() {
        let mut once = LogOnce::default();
        assert!(once.is_new("disk", "full") && !once.is_new("disk", "full"));
        assert!(once.is_new("disk", "read-only") && once.is_new("etcd", "full"));
        once.settled("disk");
        assert!(once.is_new("disk", "read-only"));
    }
}
