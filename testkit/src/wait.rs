//! Waiting: for something seen, with a bound.

use std::fmt::Display;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Result, bail};
use registry::time::Clock;

/// Pause between two looks: short beside what is measured with it (milliseconds), long beside a look's cost (some
/// 0.2 ms of HAProxy's time).
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Looks until there is something to see and returns it with the time it took. An error of `look` ends the wait at
/// once: what is looked at cannot come any more.
pub async fn until<T>(
    bound: Duration,
    what: impl Display,
    mut look: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<(T, Duration)> {
    let start = Clock.now();
    loop {
        if let Some(seen) = look().await? {
            return Ok((seen, Clock.now().since(start)));
        }
        if Clock.now().since(start) > bound {
            bail!("not seen within {bound:?}: {what}");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Looks again and again while `deed` is done, and once more after it; the first error ends both.
pub async fn during<T>(
    deed: impl Future<Output = T>,
    mut look: impl AsyncFnMut() -> Result<()>,
) -> Result<T> {
    let mut deed = pin!(deed);
    loop {
        look().await?;
        if let Ok(done) = tokio::time::timeout(LOOK_EVERY, &mut deed).await {
            look().await?;
            return Ok(done);
        }
    }
}

/// `call`, ended after `bound`.
pub(crate) async fn within<T, E>(
    bound: Duration,
    what: impl Display,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T>
where
    E: Into<anyhow::Error>,
{
    match tokio::time::timeout(bound, call).await {
        Ok(answer) => answer.map_err(|error| error.into().context(format!("cannot {what}"))),
        Err(_) => bail!("cannot {what}: no answer within {bound:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_seen_is_returned_and_what_is_not_is_named() {
        let mut looks = 0;
        let (seen, _) = until(Duration::from_secs(5), "three looks", async || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        })
        .await
        .unwrap();
        assert_eq!(seen, 3);

        let error = until(Duration::from_millis(30), "a miracle", async || Ok(None::<()>)).await.unwrap_err();
        assert_eq!(error.to_string(), "not seen within 30ms: a miracle");
    }

    #[tokio::test]
    async fn an_error_ends_a_wait_at_once() {
        let error =
            until(Duration::from_mins(1), "anything", async || -> Result<Option<()>> { bail!("it is gone") })
                .await
                .unwrap_err();
        assert_eq!(error.to_string(), "it is gone");
    }
}
