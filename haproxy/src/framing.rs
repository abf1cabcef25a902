//! Where one answer ends and the next begins.

use super::DialogueError;

/// What HAProxy writes after each answer once it was told `prompt`.
///
/// An answer could hold these bytes itself only in a line that begins with `> `. None of those that [`Command`]s ask for
/// has one: names and numbers cannot, and `show info` puts a field's name before every value. If one ever did, there
/// would be an answer too many, which [`Dialogue`](super::Dialogue) takes for what it is: out of step.
///
/// [`Command`]: super::Command
const PROMPT: &[u8] = b"\n> ";

/// Bytes that HAProxy said, cut into answers.
#[derive(Debug)]
pub(super) struct Answers {
    said: Vec<u8>,
    /// Where the first answer not yet taken begins.
    begin: usize,
    /// Up to where no prompt was found.
    searched: usize,
    /// Most bytes that may be held.
    limit: usize,
}

impl Answers {
    /// Nothing yet; at most `limit` bytes over the whole.
    pub(super) const fn new(limit: usize) -> Self {
        Self { said: Vec::new(), begin: 0, searched: 0, limit }
    }

    /// Adds what was read.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), DialogueError> {
        if self.said.len() + bytes.len() > self.limit {
            return Err(DialogueError::TooLong(self.limit));
        }
        self.said.extend_from_slice(bytes);
        Ok(())
    }

    /// The next whole answer, without its prompt. Bytes that are not UTF-8 (only an administrator's `description` could
    /// hold some) are replaced.
    pub(super) fn next(&mut self) -> Option<String> {
        let from = self.searched.max(self.begin);
        let rest = self.said.get(from..)?;
        let Some(found) = rest.windows(PROMPT.len()).position(|three| three == PROMPT) else {
            // The first bytes of a prompt may be here already.
            self.searched = self.said.len().saturating_sub(PROMPT.len() - 1);
            return None;
        };
        let end = from + found;
        let answer = String::from_utf8_lossy(self.said.get(self.begin..end)?).into_owned();
        self.begin = end + PROMPT.len();
        Some(answer)
    }

    /// Whether every byte belongs to an answer that was taken.
    pub(super) fn is_empty(&self) -> bool {
        self.begin == self.said.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(said: &[u8], step: usize) -> (Vec<String>, bool) {
        let mut answers = Answers::new(1 << 20);
        let mut cut = Vec::new();
        for bytes in said.chunks(step) {
            answers.push(bytes).unwrap();
            cut.extend(std::iter::from_fn(|| answers.next()));
        }
        (cut, answers.is_empty())
    }

    #[test]
    fn answers_are_cut_wherever_reads_end() {
        let said = b"\n> one\ntwo\n\n> \n> >x\n\n> ";
        for step in 1..said.len() {
            let whole = ["", "one\ntwo\n", "", ">x\n"].map(String::from).to_vec();
            assert_eq!(cut(said, step), (whole, true), "{step}");
        }
        assert_eq!(cut(b"one\n", 2), (vec![], false));
    }

    #[test]
    fn the_whole_is_bounded() {
        let mut answers = Answers::new(4);
        assert!(answers.push(b"1234").is_ok());
        assert!(matches!(answers.push(b"5"), Err(DialogueError::TooLong(4))));
    }

    proptest! {
        #[test]
        fn no_bytes_are_lost(said: Vec<u8>, step in 1_usize..9) {
            let said: Vec<u8> = said.iter().map(|byte| b"\n> a"[usize::from(byte % 4)]).collect();
            let (answers, _) = cut(&said, step);
            let whole = String::from_utf8(said).unwrap();
            let joined: String = answers.iter().flat_map(|answer| [answer.as_str(), "\n> "]).collect();
            prop_assert!(whole.starts_with(&joined));
        }
    }
}
