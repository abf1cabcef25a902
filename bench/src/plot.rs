//! The figures as pictures: what the measures have written with `--json`, as SVG.

mod chart;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use plotters::chart::SeriesLabelPosition;
use serde_json::Value;

use crate::screen::say;
use chart::{Axis, Chart, Series};

/// What to draw.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Plan {
    /// Where `latency.json`, `churn.json`, `scale.json`, `leases.json` and `affinity.json` are; those that are missing are
    /// left out.
    #[arg(long, default_value = "target/bench", value_name = "FOLDER")]
    from: PathBuf,
    /// Where the pictures go.
    #[arg(long, default_value = "docs/benchmarks", value_name = "FOLDER")]
    to: PathBuf,
}

/// A picture's name, which is its file's, and how it is made of the figures.
type Picture = (&'static str, fn(&Value) -> Chart);

/// Draws.
pub(crate) fn run(plan: &Plan) -> Result<()> {
    fs::create_dir_all(&plan.to).with_context(|| format!("cannot make {}", plan.to.display()))?;
    let pictures: [Picture; 5] = [
        ("latency", latency),
        ("churn", churn),
        ("scale", scale),
        ("leases", leases),
        ("affinity", affinity),
    ];
    for (name, picture) in pictures {
        let Some(figures) = read(&plan.from.join(format!("{name}.json")))? else { continue };
        let path = plan.to.join(format!("{name}.svg"));
        picture(&figures).draw(&path).with_context(|| format!("cannot draw {}", path.display()))?;
        say(path.display());
    }
    Ok(())
}

fn read(path: &Path) -> Result<Option<Value>> {
    match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        Ok(text) => serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", path.display())),
    }
}

fn latency(figures: &Value) -> Chart {
    let way = |name: &str, figures: &Value| {
        let times = numbers(&figures["put_to_served_ms"]["all"]);
        let count = times.len().max(1);
        let share = |n: usize| 100.0 * to_f64(n + 1) / to_f64(count);
        Series::new(name, times.into_iter().enumerate().map(|(n, ms)| (ms, share(n))).collect())
    };
    let others = figures["others"].as_object().into_iter().flatten();
    let others = others.map(|(name, it)| match name.as_str() {
        "reloading" => way("a reload on each event", it),
        name => way(name, it),
    });
    let ours = [way("the limit", &figures["limit"]), way("Leasehold", &figures["leasehold"])];
    Chart {
        title: "put → first request served".into(),
        x: Axis::log("ms"),
        y: Axis::linear("% of the rounds took at most that"),
        legend: SeriesLabelPosition::UpperLeft,
        series: ours.into_iter().chain(others).collect(),
    }
}

fn churn(figures: &Value) -> Chart {
    let side = |name: &str, key: &str| {
        let slowest = numbers(&figures[key]["slowest_ms_by_second"]);
        Series::new(name, slowest.into_iter().enumerate().map(|(second, ms)| (to_f64(second), ms)).collect())
    };
    Chart {
        title: "churn: the slowest request of each second".into(),
        x: Axis::linear("s"),
        y: Axis::log("ms"),
        legend: SeriesLabelPosition::UpperRight,
        series: vec![side("Leasehold", "leasehold"), side("a reload on each event", "reloading")],
    }
}

fn scale(figures: &Value) -> Chart {
    let line = |name: &str, path: &str| by_size(name, &figures["sizes"], ("/instances", path), 1.0);
    Chart {
        title: "so many instances registered at once, and then one more".into(),
        x: Axis::log("instances"),
        y: Axis::log("ms"),
        legend: SeriesLabelPosition::UpperLeft,
        series: vec![
            line("Leasehold: all serve", "/leasehold/ready_ms/median"),
            line("the same commands alone", "/alone/ready_ms/median"),
            line("Leasehold: one more serves", "/leasehold/changes_ms/join/median"),
            line("the same commands alone, one more", "/alone/changes_ms/join/median"),
        ],
    }
}

fn leases(figures: &Value) -> Chart {
    let seen: Vec<&Value> = figures["seen"].as_array().into_iter().flatten().collect();
    let form = |name: &str, own: bool| {
        let is = |one: &&&Value| (one["instances"] == one["leases"]) == own;
        let rows = seen.iter().filter(is).map(|one| (*one).clone()).collect();
        by_size(name, &Value::Array(rows), ("/instances", "/etcd_share"), 100.0)
    };
    Chart {
        title: "what beats cost etcd".into(),
        x: Axis::log("instances"),
        y: Axis::log("% of a core"),
        legend: SeriesLabelPosition::UpperLeft,
        series: vec![form("a lease each", true), form("one lease for ten", false)],
    }
}

fn affinity(figures: &Value) -> Chart {
    let way = |name: &str, path: &str| by_size(name, &figures["sizes"], ("/servers", path), 1.0);
    Chart {
        title: "HAProxy's processor time for a request".into(),
        x: Axis::log("servers"),
        y: Axis::linear("µs"),
        legend: SeriesLabelPosition::UpperLeft,
        series: vec![way("affinity by name", "/by_name/haproxy_us"), way("none", "/none/haproxy_us")],
    }
}

/// One point for each of `rows`, by the places of its figures in them.
fn by_size(name: &str, rows: &Value, (x, y): (&str, &str), times: f64) -> Series {
    let rows = rows.as_array().into_iter().flatten();
    let point = |row: &Value| Some((row.pointer(x)?.as_f64()?, times * row.pointer(y)?.as_f64()?));
    Series::new(name, rows.filter_map(point).collect())
}

fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
}

fn to_f64(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_there_is_drawn() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("figures"), folder.path().join("pictures"));
        fs::create_dir(&from).unwrap();
        let times = |all: &[f64]| json!({ "put_to_served_ms": { "all": all } });
        let figures = json!({ "leasehold": times(&[1.0, 2.0]), "limit": times(&[0.9]), "others": {
            "reloading": times(&[90.0]), "Traefik 1.7": times(&[40.0]), "consul-template": times(&[91.0]), "someone": times(&[92.0]), "else": times(&[93.0])
        } });
        fs::write(from.join("latency.json"), figures.to_string()).unwrap();
        run(&Plan { from: from.clone(), to: to.clone() }).unwrap();
        let picture = fs::read_to_string(to.join("latency.svg")).unwrap();
        for text in [
            "put → first request served",
            "Leasehold",
            "the limit",
            "a reload on each event",
            "Traefik 1.7",
            "consul-template",
            "someone",
            "else",
        ] {
            assert!(picture.contains(text), "{text}");
        }
        assert!(!picture.contains("confd"), "who was not measured is not named");
        assert!(!to.join("scale.svg").exists());
        fs::write(from.join("scale.json"), "no JSON").unwrap();
        assert!(run(&Plan { from, to }).unwrap_err().to_string().contains("scale.json is not JSON"));
    }
}
