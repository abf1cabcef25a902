//! A history as a small drawing: the requests a second as a line, how many serve as an area behind it.

use std::collections::VecDeque;
use std::fmt::Write as _;

use super::traffic::{HISTORY_MAX, Sample};

/// Of the drawing, in its own units.
const WIDTH: usize = 240;
const HEIGHT: usize = 36;

/// The points of the two lines, as SVG has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Spark {
    /// Requests a second.
    pub(super) rate: String,
    /// How many serve, closed at the bottom.
    pub(super) serving: String,
    /// The highest rate in it.
    pub(super) rate_max: u64,
}

/// The latest at the right; a short history begins in the middle.
pub(super) fn spark(samples: &VecDeque<Sample>) -> Spark {
    let rate_max = samples.iter().map(|sample| sample.rate).max().unwrap_or(0);
    let serving_max = samples.iter().map(|sample| sample.serving).max().unwrap_or(0);
    let first = HISTORY_MAX.saturating_sub(samples.len());
    let x = |n: usize| (first + n) * WIDTH / HISTORY_MAX.saturating_sub(1).max(1);
    let height = u64::try_from(HEIGHT).unwrap_or(u64::MAX);
    let (mut rate, mut serving) = (String::new(), format!("{},{HEIGHT}", x(0)));
    for (n, sample) in samples.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = write!(rate, "{},{} ", x(n), height - sample.rate * (height - 2) / rate_max.max(1) - 1);
        let _ = write!(serving, " {},{}", x(n), HEIGHT - sample.serving * (HEIGHT - 2) / serving_max.max(1));
    }
    let _ = write!(serving, " {},{HEIGHT}", x(samples.len().saturating_sub(1)));
    Spark { rate: rate.trim_end().into(), serving, rate_max }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_stays_within_its_frame() {
        let samples: VecDeque<Sample> =
            (0..120).map(|n| Sample { rate: n * 7, serving: usize::try_from(n % 5).unwrap() }).collect();
        let spark = spark(&samples);
        assert_eq!(spark.rate_max, 119 * 7);
        for point in spark.rate.split(' ').chain(spark.serving.split(' ')) {
            let (x, y) = point.split_once(',').unwrap();
            assert!(x.parse::<usize>().unwrap() <= WIDTH && y.parse::<usize>().unwrap() <= HEIGHT, "{point}");
        }
        assert_eq!(super::spark(&VecDeque::new()).rate, "");
    }
}
