//! Figures: many measurements of one thing, as a row.

use serde_json::{Value, json};

/// Measurements of one thing, of the product and of the floor.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) image: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) ours: Vec<f64>,
    pub(crate) floor: Vec<f64>,
}

impl Figure {
    pub(crate) fn new(name: &'static str, image: &'static str, unit: &'static str) -> Self {
        let (ours, floor) = (Vec::new(), Vec::new());
        Self {
            name,
            image,
            unit,
            ours,
            floor,
        }
    }

    pub(crate) fn p50(&self) -> f64 {
        percentile(&self.ours, 50)
    }

    pub(crate) fn floor_p50(&self) -> f64 {
        percentile(&self.floor, 50)
    }

    /// The middle of the ratios of neighbours in time: what else the host does falls on both.
    pub(crate) fn ratio(&self) -> f64 {
        let pairs = self.ours.iter().zip(&self.floor);
        percentile(&pairs.map(|(ours, floor)| ours / floor).collect::<Vec<_>>(), 50)
    }

    pub(crate) fn row(&self) -> Value {
        json!({
            "figure": self.name,
            "image": self.image,
            "unit": self.unit,
            "p50": rounded(self.p50()),
            "p95": rounded(percentile(&self.ours, 95)),
            "n": self.ours.len(),
            "floor_p50": rounded(self.floor_p50()),
            "ratio_p50": rounded(self.ratio()),
        })
    }

    pub(crate) fn line(&self) -> String {
        format!(
            "{:<12} {:<7} {:>9.2} {:>9.2} {:>9.2} {:>7.2}  {:<4} n={}",
            self.name,
            self.image,
            self.p50(),
            percentile(&self.ours, 95),
            self.floor_p50(),
            self.ratio(),
            self.unit,
            self.ours.len(),
        )
    }
}

/// The heading of [`Figure::line`].
pub(crate) fn heading() -> String {
    format!(
        "{:<12} {:<7} {:>9} {:>9} {:>9} {:>7}",
        "figure", "image", "p50", "p95", "floor", "ratio"
    )
}

/// By nearest rank; not a number of nothing.
pub(crate) fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

fn rounded(value: f64) -> Value {
    // Not a number is null.
    json!((value * 1e3).round() / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measurements() {
        let values = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!(percentile(&values, 50), 3.0);
        assert_eq!(percentile(&values, 95), 5.0);
        assert_eq!(percentile(&values, 1), 1.0);
        assert!(percentile(&[], 50).is_nan());
    }

    #[test]
    fn a_ratio_is_that_of_neighbours() {
        let mut figure = Figure::new("exec", "tiny", "ms");
        figure.ours = vec![2.0, 20.0, 200.0];
        figure.floor = vec![1.0, 10.0, 100.0];
        assert_eq!(figure.ratio(), 2.0);
    }
}
