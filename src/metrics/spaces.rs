//! Where text embeddings lie, prompt by prompt: near the teacher's or not, each at its own prompt or not, apart from each other
//! or not. Signs of collapse of a whole set stand in `embeddings`.
//!
//! Distances are Euclidean, in the teacher's width, and are divided by the teacher's own, so they have no unit: 1 means as far
//! apart as the teacher's embeddings of different prompts are from each other.

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::metrics::embeddings::cosine_pseudo_values;
use crate::metrics::summary::Comparison;
use crate::run::results::SummaryRow;
use crate::stats::scores::ALL;
use crate::stats::{self, Bootstrap, Estimate, Observation};

/// Fewest prompts: with eight, differences that all have one sign are not chance (2/2⁸), so an interval may claim as much.
pub const FEWEST: usize = 8;
/// Most prompts, as many as the paper draws in Figure 6; distances between all of them cost the square.
pub const MOST: usize = 500;

/// Distance to the nearest teacher embedding of another prompt, over the teacher's own.
pub const NEAREST_TEACHER: &str = "nearest_teacher_distance";
/// Share of prompts whose own teacher embedding is nearer than that of any other prompt.
pub const RECALL: &str = "recall_at_1";
/// Distance to the same encoder's nearest embedding of another prompt, over the teacher's own.
pub const NEAREST_OWN: &str = "nearest_own_distance";
/// Mean cosine of two different prompts.
pub const MEAN_COSINE: &str = "mean_cosine";

/// What nearest neighbours say of one encoder, prompt by prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Neighbours {
    /// Distance to the nearest teacher embedding of another prompt.
    pub teacher: Vec<f64>,
    /// Distance to the same encoder's nearest embedding of another prompt.
    pub own: Vec<f64>,
    /// Whether the teacher's embedding of the same prompt is nearer than that of any other prompt; a tie is not nearer.
    pub recalled: Vec<bool>,
}

/// Neighbours of `rows` `[n][D]` among `teacher` `[n][D]`, prompt by prompt in the same order; n ≥ 2.
///
/// # Errors
/// Fewer than two rows, different numbers of rows, different widths and a non-finite number.
pub fn neighbours(rows: &[Vec<f64>], teacher: &[Vec<f64>]) -> Result<Neighbours> {
    let width = teacher.first().map_or(0, Vec::len);
    if rows.len() < 2 || rows.len() != teacher.len() {
        let (n, of) = (rows.len(), teacher.len());
        return Err(Error::Invalid(format!("neighbours need the same two or more prompts of both encoders, found {n} and {of}")));
    }
    if let Some(row) = rows.iter().chain(teacher).find(|row| row.len() != width) {
        return Err(Error::Invalid(format!("neighbours need text embeddings of one width, found {} and {width}", row.len())));
    }
    if rows.iter().chain(teacher).flatten().any(|value| !value.is_finite()) {
        return Err(Error::NonFinite { name: "text".into(), context: "mean-pooled embeddings for nearest neighbours".into() });
    }
    let found: Vec<(f64, f64, bool)> = (0..rows.len())
        .into_par_iter()
        .map(|i| {
            let to_others = nearest(&rows[i], teacher, i);
            (to_others.sqrt(), nearest(&rows[i], rows, i).sqrt(), squared_distance(&rows[i], &teacher[i]) < to_others)
        })
        .collect();
    Ok(Neighbours {
        teacher: found.iter().map(|one| one.0).collect(),
        own: found.iter().map(|one| one.1).collect(),
        recalled: found.iter().map(|one| one.2).collect(),
    })
}

/// Squared distance from `row` to the nearest of `cloud` but the one at `except`.
fn nearest(row: &[f64], cloud: &[Vec<f64>], except: usize) -> f64 {
    let others = cloud.iter().enumerate().filter(|(j, _)| *j != except);
    others.map(|(_, other)| squared_distance(row, other)).fold(f64::INFINITY, f64::min)
}

fn squared_distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

/// Embeddings of the same prompts by the teacher and by students, all of the teacher's width.
#[derive(Debug)]
pub struct Clouds<'a> {
    /// Prompt ids, in order of the rows; at least [`FEWEST`].
    pub prompts: Vec<u64>,
    /// `[n][D]`.
    pub teacher: Vec<Vec<f64>>,
    /// Each `[n][D]`.
    pub students: Vec<(&'a str, Vec<Vec<f64>>)>,
}

/// Values of one metric and one student, a value per prompt.
type PerPrompt = Vec<f64>;

impl Clouds<'_> {
    /// Every student's numbers, and paired differences of those students that are compared. The teacher has no row: its distances
    /// are 1 and its share is 100 % by definition.
    ///
    /// # Errors
    /// Teacher embeddings that all lie on each other, so that there is no distance to compare with, and those of [`neighbours`].
    pub fn summarise(&self, comparisons: &[Comparison], bootstrap: &Bootstrap) -> Result<Vec<SummaryRow>> {
        let n = self.prompts.len();
        let reference = neighbours(&self.teacher, &self.teacher)?.own;
        if reference.iter().all(|&distance| distance == 0.0) {
            let problem = format!("the teacher's embeddings of all {n} prompts are equal: there is no distance to compare with");
            return Err(Error::Invalid(problem));
        }
        let ones = vec![1.0; n];
        let mut values: Vec<[Option<PerPrompt>; 4]> = Vec::new();
        for (_, rows) in &self.students {
            let Neighbours { teacher, own, recalled } = neighbours(rows, &self.teacher)?;
            let recalled = recalled.iter().map(|&yes| if yes { 100.0 } else { 0.0 }).collect();
            // An embedding without a direction has no cosine; the distances hold nevertheless.
            values.push([Some(teacher), Some(recalled), Some(own), cosine_pseudo_values(rows).ok()]);
        }
        let mut found = Vec::new();
        for (at, metric) in METRICS.iter().enumerate() {
            let weights = if metric.unit == TIMES { &reference } else { &ones };
            let observations = |values: &[f64]| -> Vec<Observation> {
                let each = self.prompts.iter().zip(values).zip(weights);
                each.map(|((&cluster, &value), &denominator)| Observation { cluster, value, denominator }).collect()
            };
            let of = |encoder: &str| {
                let student = self.students.iter().position(|(name, _)| *name == encoder)?;
                values[student][at].as_ref()
            };
            // `embeddings` reports the mean cosine itself, over all prompts.
            for (encoder, _) in self.students.iter().filter(|_| metric.name != MEAN_COSINE) {
                let Some(own) = of(encoder) else { continue };
                let estimate = if metric.name == RECALL {
                    stats::proportion(&observations(own), 100.0, bootstrap)?
                } else {
                    stats::ratio_of_means(&[observations(own)], bootstrap)?
                };
                found.push(metric.row(encoder, None, estimate));
            }
            for Comparison { encoder, versus, .. } in comparisons {
                let Some((own, other)) = of(encoder).zip(of(versus)) else { continue };
                let differences: Vec<f64> = own.iter().zip(other).map(|(own, other)| own - other).collect();
                found.push(metric.row(encoder, Some(versus), stats::ratio_of_means(&[observations(&differences)], bootstrap)?));
            }
        }
        Ok(found)
    }
}

/// Unit of distances.
const TIMES: &str = "× the teacher's";

/// One of the numbers.
struct Metric {
    name: &'static str,
    unit: &'static str,
    protocol: &'static str,
}

const METRICS: [Metric; 4] = [
    Metric {
        name: NEAREST_TEACHER,
        unit: TIMES,
        protocol: "Euclidean distance to the teacher's nearest embedding of another prompt, over the teacher's own (ratio of means)",
    },
    Metric {
        name: RECALL,
        unit: "%",
        protocol: "prompts whose teacher embedding is nearer than that of every other prompt (Euclidean, ties not counted)",
    },
    Metric {
        name: NEAREST_OWN,
        unit: TIMES,
        protocol: "Euclidean distance to the same encoder's nearest embedding of another prompt, over the teacher's own (ratio of means)",
    },
    Metric { name: MEAN_COSINE, unit: "cos", protocol: "cosine of two different prompts, as the jackknife's pseudo-values of the prompts" },
];

impl Metric {
    fn row(&self, encoder: &str, versus: Option<&str>, estimate: Estimate) -> SummaryRow {
        let Estimate { value, low, high, n, .. } = estimate;
        let interval = match versus {
            Some(_) => "paired bootstrap over prompts, neighbours held fixed",
            None if self.name == RECALL => "Wilson's interval",
            None => "bootstrap over prompts, neighbours held fixed",
        };
        SummaryRow {
            encoder: encoder.into(),
            metric: self.name.into(),
            scope: ALL.into(),
            versus: versus.map(str::to_owned),
            value,
            ci_low: low,
            ci_high: high,
            n,
            unit: self.unit.into(),
            direction: "none".into(),
            protocol: format!("mean-pooled text embeddings of {n} prompts; {}; {interval}", self.protocol),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::rng;

    const BOOTSTRAP: Bootstrap = Bootstrap { resamples: 400, level: 0.95, seed: 1 };

    /// `n` points of `width` numbers around zero.
    fn cloud(n: usize, width: usize, seed: u64) -> Vec<Vec<f64>> {
        let mut rng = rng::stream(rng::Key { seed, purpose: "test", item: 0, draw: 0 });
        rng::normal(&mut rng, n * width).chunks(width).map(|row| row.iter().map(|&v| f64::from(v)).collect()).collect()
    }

    /// Every embedding moved by `by` along the first axis.
    fn shifted(rows: &[Vec<f64>], by: f64) -> Vec<Vec<f64>> {
        rows.iter().map(|row| row.iter().enumerate().map(|(j, value)| if j == 0 { value + by } else { *value }).collect()).collect()
    }

    fn summarise(teacher: &[Vec<f64>], students: &[(&str, Vec<Vec<f64>>)], versus: &[(&str, &str)]) -> Result<Vec<SummaryRow>> {
        let comparisons: Vec<Comparison> =
            versus.iter().map(|(a, b)| Comparison { encoder: (*a).into(), versus: (*b).into(), retention: false }).collect();
        let prompts = (0..teacher.len() as u64).collect();
        Clouds { prompts, teacher: teacher.to_vec(), students: students.to_vec() }.summarise(&comparisons, &BOOTSTRAP)
    }

    fn find<'a>(rows: &'a [SummaryRow], encoder: &str, metric: &str, versus: Option<&str>) -> &'a SummaryRow {
        let hit = |row: &&SummaryRow| row.encoder == encoder && row.metric == metric && row.versus.as_deref() == versus;
        rows.iter().find(hit).unwrap_or_else(|| panic!("no row {encoder} {metric} {versus:?}"))
    }

    #[test]
    fn neighbours_on_a_line_are_counted_by_hand() {
        // The teacher at 0, 1, 3, 7; the student a tenth to the right, but for the last prompt, which lies on the second one's place.
        let teacher: Vec<Vec<f64>> = [0.0, 1.0, 3.0, 7.0].map(|x| vec![x]).to_vec();
        let rows: Vec<Vec<f64>> = [0.1, 1.1, 3.1, 1.0].map(|x| vec![x]).to_vec();
        let found = neighbours(&rows, &teacher).unwrap();
        for (found, expected) in found.teacher.iter().zip([0.9, 1.1, 2.1, 0.0]).chain(found.own.iter().zip([0.9, 0.1, 2.0, 0.1])) {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
        assert_eq!(found.recalled, [true, true, true, false]);
    }

    #[test]
    fn the_teacher_s_own_embeddings_lie_in_its_space() {
        let teacher = cloud(20, 3, 1);
        let rows = summarise(&teacher, &[("same", teacher.clone())], &[]).unwrap();
        for metric in [NEAREST_TEACHER, NEAREST_OWN] {
            let row = find(&rows, "same", metric, None);
            assert!([row.value, row.ci_low, row.ci_high].iter().all(|value| (value - 1.0).abs() < 1e-12) && row.n == 20, "{row:?}");
        }
        let recall = find(&rows, "same", RECALL, None);
        assert!(recall.value == 100.0 && (80.0..90.0).contains(&recall.ci_low), "{recall:?}");
    }

    #[test]
    fn a_shifted_cloud_is_far_away_and_as_wide_as_before() {
        let teacher = cloud(20, 3, 1);
        let rows = summarise(&teacher, &[("far", shifted(&teacher, 100.0))], &[]).unwrap();
        let far = find(&rows, "far", NEAREST_TEACHER, None);
        assert!(far.ci_low > 20.0 && far.ci_low < far.value && far.value < far.ci_high, "{far:?}");
        assert!((find(&rows, "far", NEAREST_OWN, None).value - 1.0).abs() < 1e-9);
        // All of them see the same few outermost embeddings of the teacher.
        assert!(find(&rows, "far", RECALL, None).value <= 20.0);
    }

    #[test]
    fn a_permuted_cloud_lies_in_the_space_and_maps_no_prompt() {
        let teacher = cloud(20, 3, 1);
        let mut permuted = teacher.clone();
        permuted.rotate_left(1);
        let rows = summarise(&teacher, &[("permuted", permuted)], &[]).unwrap();
        // Each lies on the teacher's embedding of another prompt.
        assert_eq!(find(&rows, "permuted", NEAREST_TEACHER, None).value, 0.0);
        assert_eq!(find(&rows, "permuted", RECALL, None).value, 0.0);
        assert!((find(&rows, "permuted", NEAREST_OWN, None).value - 1.0).abs() < 1e-12);
    }

    #[test]
    fn collapse_leaves_no_distance_and_at_most_one_prompt() {
        let teacher = cloud(20, 3, 1);
        let rows = summarise(&teacher, &[("one", vec![vec![0.3, 0.1, 0.2]; 20])], &[]).unwrap();
        assert_eq!(find(&rows, "one", NEAREST_OWN, None).value, 0.0);
        assert!(find(&rows, "one", RECALL, None).value <= 5.0);
    }

    /// A change of all embeddings.
    type Change<'a> = &'a dyn Fn(&[Vec<f64>]) -> Vec<Vec<f64>>;

    #[test]
    fn numbers_do_not_depend_on_unit_place_or_order() {
        let (teacher, student) = (cloud(16, 4, 1), cloud(16, 4, 2));
        let of = |change: Change| {
            let rows = summarise(&change(&teacher), &[("a", change(&student))], &[]).unwrap();
            [NEAREST_TEACHER, RECALL, NEAREST_OWN].map(|metric| find(&rows, "a", metric, None).value)
        };
        let plain = of(&<[Vec<f64>]>::to_vec);
        let scaled = of(&|rows| rows.iter().map(|row| row.iter().map(|value| 1e3 * value).collect()).collect());
        let reversed = of(&|rows| rows.iter().rev().cloned().collect());
        for other in [scaled, of(&|rows| shifted(rows, 5.0)), reversed] {
            assert!(plain.iter().zip(other).all(|(a, b)| (a - b).abs() < 1e-9), "{plain:?} {other:?}");
        }
    }

    #[test]
    fn differences_are_paired() {
        let teacher = cloud(20, 3, 1);
        let students = [("far", shifted(&teacher, 100.0)), ("same", teacher.clone()), ("zero", vec![vec![0.0; 3]; 20])];
        let rows = summarise(&teacher, &students, &[("far", "same"), ("far", "zero")]).unwrap();
        for metric in [NEAREST_TEACHER, RECALL, NEAREST_OWN] {
            let of = |encoder: &str| find(&rows, encoder, metric, None).value;
            let difference = find(&rows, "far", metric, Some("same"));
            assert!((difference.value - (of("far") - of("same"))).abs() < 1e-9 && difference.n == 20, "{difference:?}");
        }
        // Equal widths: what is left of the difference is rounding, prompt by prompt.
        let own = find(&rows, "far", NEAREST_OWN, Some("same"));
        assert!(own.ci_high - own.ci_low < 1e-9, "{own:?}");
        // Far from zero all point one way.
        assert!(find(&rows, "far", MEAN_COSINE, Some("same")).ci_low > 0.5);
        assert!(!rows.iter().any(|row| row.metric == MEAN_COSINE && row.versus.as_deref() == Some("zero")));
    }

    #[test]
    fn what_cannot_be_measured_says_why() {
        let (teacher, nan) = (cloud(8, 3, 1), vec![vec![f64::NAN; 3]; 8]);
        for (rows, message) in
            [(cloud(7, 3, 1), "found 7 and 8"), (cloud(8, 2, 1), "of one width, found 2 and 3"), (nan, "nearest neighbours")]
        {
            let error = neighbours(&rows, &teacher).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        let error = summarise(&vec![vec![0.5; 3]; 8], &[("a", cloud(8, 3, 1))], &[]).unwrap_err().to_string();
        assert!(error.contains("no distance to compare with"), "{error}");
    }
}
