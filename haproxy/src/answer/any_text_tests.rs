//! No text makes a parser panic: neither any at all, nor a real answer with something wrong in it.

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::backends::Backends;
use super::info::Info;
use super::maps;
use super::reply::Reply;
use super::servers_state::ServersState;
use super::stat::StatRow;
use crate::{Command, ServerPath, fixtures};

fn read_as_everything(text: &str) {
    let _ = Info::parse(text);
    let _ = Backends::parse(text);
    let _ = ServersState::parse(text);
    let _ = StatRow::parse(text);
    let _ = maps::list(text);
    let _ = maps::names(text);
    let server = ServerPath::new("web".parse().unwrap(), "web-1".parse().unwrap());
    let _ = Reply::read(&Command::DelServer { server }, text);
}

/// `text` with what lies between two places replaced.
fn spliced(text: &str, places: (Index, Index), with: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let (one, other) = (places.0.index(chars.len() + 1), places.1.index(chars.len() + 1));
    let (begin, end) = (one.min(other), one.max(other));
    chars[..begin].iter().copied().chain(with.chars()).chain(chars[end..].iter().copied()).collect()
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "(?s).*") {
        read_as_everything(&text);
    }

    #[test]
    fn a_damaged_answer_is_read_or_refused(
        text in select(fixtures::all()),
        places: (Index, Index),
        with in "[-\\n ,\"#0-9a-z\\PC]{0,8}",
    ) {
        read_as_everything(&spliced(&text, places, &with));
    }

    #[test]
    fn an_answer_that_breaks_off_is_read_or_refused(text in select(fixtures::all()), end: Index) {
        let whole: Vec<char> = text.chars().collect();
        read_as_everything(&whole[..end.index(whole.len() + 1)].iter().collect::<String>());
    }
}
