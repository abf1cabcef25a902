//! A line for each series, over two axes.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

const SIZE: (u32, u32) = (860, 420);
/// Told apart by the colour-blind as well (after Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];
/// The least that a logarithmic axis shows.
const LEAST: f64 = 0.01;

/// What to draw.
#[derive(Clone, Debug)]
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) series: Vec<Series>,
    /// Where their names stand: where the lines are not.
    pub(super) legend: SeriesLabelPosition,
}

/// One of its axes.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    title: String,
    is_log: bool,
}

/// One of its lines.
#[derive(Clone, Debug)]
pub(super) struct Series {
    name: String,
    points: Vec<(f64, f64)>,
}

impl Series {
    pub(super) fn new(name: &str, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), points }
    }
}

impl Axis {
    pub(super) fn linear(title: &str) -> Self {
        Self { title: title.into(), is_log: false }
    }

    pub(super) fn log(title: &str) -> Self {
        Self { title: title.into(), is_log: true }
    }

    fn place(&self, value: f64) -> f64 {
        if self.is_log { value.max(LEAST).log10() } else { value }
    }

    fn label(&self, place: f64) -> String {
        let value = if self.is_log { 10_f64.powf(place) } else { place };
        // Three digits that count are enough for a label.
        if value > 0.0 && value < 1.0 {
            format!("{value:.2}").trim_end_matches('0').into()
        } else {
            format!("{value:.0}")
        }
    }

    /// From where to where, and about how many labels.
    fn range(&self, values: impl Iterator<Item = f64> + Clone) -> (std::ops::Range<f64>, usize) {
        let places = values.map(|value| self.place(value));
        let most = places.clone().fold(f64::MIN, f64::max);
        if self.is_log {
            let (from, to) = (places.fold(f64::MAX, f64::min).floor(), most.ceil());
            // Powers of ten only. A dozen of them would be a universe.
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and 20")]
            let labels = (to - from).clamp(1.0, 20.0) as usize + 1;
            (from..to.max(from + 1.0), labels)
        } else {
            (0.0..most * 1.05, 8)
        }
    }
}

impl Chart {
    /// Writes it to `path`.
    pub(super) fn draw(&self, path: &Path) -> Result<()> {
        let root = SVGBackend::new(path, SIZE).into_drawing_area();
        self.draw_on(&root).map_err(|error| anyhow!("{error}"))
    }

    fn draw_on(
        &self,
        root: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    ) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
        root.fill(&WHITE)?;
        let points = || self.series.iter().flat_map(|series| series.points.iter());
        let (xs, x_labels) = self.x.range(points().map(|(x, _)| *x));
        let (ys, y_labels) = self.y.range(points().map(|(_, y)| *y));
        let mut chart = ChartBuilder::on(root)
            .caption(&self.title, ("sans-serif", 20))
            .margin(12)
            .margin_right(28)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(xs, ys)?;
        chart
            .configure_mesh()
            .x_labels(x_labels)
            .y_labels(y_labels)
            .max_light_lines(0)
            .x_label_formatter(&|place| self.x.label(*place))
            .y_label_formatter(&|place| self.y.label(*place))
            .x_desc(&self.x.title)
            .y_desc(&self.y.title)
            .draw()?;
        for (series, colour) in
            self.series.iter().filter(|series| !series.points.is_empty()).zip(COLOURS.into_iter().cycle())
        {
            let places: Vec<(f64, f64)> =
                series.points.iter().map(|(x, y)| (self.x.place(*x), self.y.place(*y))).collect();
            let few = places.len() <= 12;
            chart
                .draw_series(LineSeries::new(places.clone(), colour.stroke_width(2)))?
                .label(&series.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
            if few {
                chart.draw_series(places.into_iter().map(|place| Circle::new(place, 3, colour.filled())))?;
            }
        }
        chart
            .configure_series_labels()
            .position(self.legend.clone())
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.3))
            .draw()?;
        root.present()
    }
}
