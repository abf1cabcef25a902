//! The balancing tree of `leastconn`, and the mistake in it that makes HAProxy crash.
//!
//! `add server` sets a server's pointer to its tree before the server has been in it (`srv_alloc_lb` in `src/server.c`;
//! `fwlc.act` shares its place with `chash.act`). A request that sticks to such a server puts it into the tree
//! (`fwlc_srv_reposition` in `src/lb_fwlc.c` looks at that pointer only) although it is not usable. Nothing takes it out again:
//! the next time that it becomes usable it is inserted twice, and when it is deleted its memory stays in the tree. Once a server
//! has been usable, leaving the tree clears the pointer (`fwlc_remove_from_tree`), and requests that stick to it do no harm.
//! Configured servers have no such pointer at the start.

/// Where a server stands with the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tree {
    /// Added at run time and never usable so far: a request that sticks to it makes it a phantom.
    Never,
    /// Put into the tree by a request that sticks to it. It is balanced to, whatever its state. HAProxy crashes when it
    /// becomes usable or is deleted.
    Phantom,
    /// In the tree, and usable.
    In,
    /// Out of the tree, and safe.
    Out,
}

impl Tree {
    /// Requests are balanced to the server.
    #[must_use]
    pub const fn is_in(self) -> bool {
        matches!(self, Self::In | Self::Phantom)
    }

    /// The server is given a request. Called for each attempt to connect.
    pub(super) fn take_stream(&mut self) {
        if *self == Self::Never {
            *self = Self::Phantom;
        }
    }

    /// The server becomes usable or ceases to be.
    pub(super) fn commit(&mut self, was_usable: bool, is_usable: bool) -> Result<(), Corrupt> {
        match (was_usable, is_usable) {
            (false, true) if *self == Self::Phantom => return Err(Corrupt("is inserted twice")),
            (false, true) => *self = Self::In,
            (true, false) => *self = Self::Out,
            _ => {}
        }
        Ok(())
    }

    /// The server is deleted.
    pub(super) fn delete(self) -> Result<(), Corrupt> {
        if self == Self::Phantom { Err(Corrupt("is freed while in the tree")) } else { Ok(()) }
    }
}

/// The tree is corrupt. A real HAProxy dies with the next request that walks it; the model dies at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Corrupt(pub(super) &'static str);
