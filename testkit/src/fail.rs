//! Where a scenario ends when the harness itself cannot go on.

/// Takes the value or fails the test.
pub(crate) trait OrFail<T> {
    /// The value; without one the test ends here, and the stack's logs are printed as it is dropped.
    #[track_caller]
    fn or_fail(self) -> T;
}

impl<T> OrFail<T> for anyhow::Result<T> {
    #[expect(clippy::panic, reason = "a scenario returns no error, and a panic is how a test fails")]
    fn or_fail(self) -> T {
        match self {
            Ok(value) => value,
            Err(error) => panic!("{error:#}"),
        }
    }
}
