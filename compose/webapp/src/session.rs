//! Sessions: who comes back is told by a cookie. In memory and in this process only, as in the lab: a client that is sent
//! to another instance, or comes after a restart, starts at 1 again. That is what stickiness is shown with.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

/// The cookie that carries the session's id.
pub(crate) const COOKIE: &str = "NODESESSID";

/// The most sessions kept, about 10 MB. A client without cookies (a load generator) makes one with each request.
pub(crate) const SESSIONS_MAX: usize = 65_536;

/// A session's random id; 32 hexadecimal digits outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionId(u128);

impl SessionId {
    /// Good for telling visitors of a demo apart; guards nothing.
    pub(crate) fn random() -> Self {
        Self(fastrand::u128(..))
    }

    /// The id in a `Cookie` header, if there is one that we may have given.
    pub(crate) fn from_cookies(header: &str) -> Option<Self> {
        let mut cookies = header.split(';').filter_map(|cookie| cookie.trim().split_once('='));
        let (_, id) = cookies.find(|(name, _)| *name == COOKIE)?;
        let is_ours = id.len() == 32 && id.bytes().all(|digit| digit.is_ascii_hexdigit());
        is_ours.then(|| u128::from_str_radix(id, 16).ok())?.map(Self)
    }

    /// The value of the `Set-Cookie` header that gives the id to the client.
    pub(crate) fn set_cookie(self) -> String {
        format!("{COOKIE}={self}; Path=/; HttpOnly")
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// What a visit found or made.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Visit {
    pub(crate) id: SessionId,
    /// Visits of this session, this one included.
    pub(crate) views: u64,
    /// Made just now: the client must be given the cookie.
    pub(crate) is_new: bool,
}

/// The sessions, at most `max`; the one unused for longest makes room for a new one.
#[derive(Debug)]
pub(crate) struct Sessions {
    max: usize,
    by_id: HashMap<SessionId, Session>,
    /// The same sessions, by their last visit.
    by_age: BTreeMap<u64, SessionId>,
    /// Numbers the visits: their order is all that eviction needs to know of time.
    visits: u64,
}

#[derive(Debug)]
struct Session {
    views: u64,
    last_visit: u64,
}

impl Sessions {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, by_id: HashMap::new(), by_age: BTreeMap::new(), visits: 0 }
    }

    /// Counts a visit of the session `known`, or of a new one under the id `fresh`: an id that we do not know is not taken
    /// over, so that no client can choose another's.
    pub(crate) fn visit(&mut self, known: Option<SessionId>, fresh: SessionId) -> Visit {
        self.visits += 1;
        if let Some(id) = known
            && let Some(session) = self.by_id.get_mut(&id)
        {
            self.by_age.remove(&session.last_visit);
            self.by_age.insert(self.visits, id);
            session.last_visit = self.visits;
            session.views += 1;
            return Visit { id, views: session.views, is_new: false };
        }
        self.make_room();
        self.by_id.insert(fresh, Session { views: 1, last_visit: self.visits });
        self.by_age.insert(self.visits, fresh);
        Visit { id: fresh, views: 1, is_new: true }
    }

    fn make_room(&mut self) {
        while self.by_id.len() >= self.max
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.by_id.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SessionId = SessionId(0xa);
    const B: SessionId = SessionId(0xb);
    const C: SessionId = SessionId(0xc);

    #[test]
    fn visits_of_one_session_are_counted() {
        let mut sessions = Sessions::new(2);
        assert_eq!(sessions.visit(None, A), Visit { id: A, views: 1, is_new: true });
        assert_eq!(sessions.visit(Some(A), B), Visit { id: A, views: 2, is_new: false });
        assert_eq!(sessions.visit(None, B), Visit { id: B, views: 1, is_new: true });
        assert_eq!(sessions.visit(Some(A), C), Visit { id: A, views: 3, is_new: false });
    }

    #[test]
    fn an_id_from_elsewhere_gets_a_session_of_its_own() {
        let mut sessions = Sessions::new(2);
        assert_eq!(sessions.visit(Some(A), B), Visit { id: B, views: 1, is_new: true });
    }

    #[test]
    fn the_session_unused_for_longest_makes_room() {
        let mut sessions = Sessions::new(2);
        sessions.visit(None, A);
        sessions.visit(None, B);
        sessions.visit(Some(A), C);

        sessions.visit(None, C);

        assert_eq!((sessions.by_id.len(), sessions.by_age.len()), (2, 2));
        assert!(!sessions.visit(Some(A), B).is_new, "A was used after B");
        assert!(!sessions.visit(Some(C), B).is_new);
        assert!(sessions.visit(Some(B), B).is_new);
    }

    #[test]
    fn an_id_survives_the_way_to_the_client_and_back() {
        let id = SessionId(0x0123_4567_89ab_cdef);
        let set = id.set_cookie();
        assert_eq!(set, "NODESESSID=00000000000000000123456789abcdef; Path=/; HttpOnly");
        let cookies = format!("theme=dark; {}", set.split(';').next().unwrap());
        assert_eq!(SessionId::from_cookies(&cookies), Some(id));
    }

    #[test]
    fn what_is_no_id_of_ours_is_no_id() {
        let short = "NODESESSID=abc";
        let signed = format!("NODESESSID=+{}", "0".repeat(31));
        let other = format!("XNODESESSID={}", "0".repeat(32));
        for header in ["", ";;", "NODESESSID", "NODESESSID=", short, &signed, &other] {
            assert_eq!(SessionId::from_cookies(header), None, "{header}");
        }
    }
}
