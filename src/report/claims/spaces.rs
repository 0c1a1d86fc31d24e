//! The paper's claims on the embedding space: where the students' embeddings lie (Figure 6), and whether naive distillation gives
//! different prompts the same one (Figure 9).

use super::{Finding, Verdict, shown};
use crate::report::data::{Data, Encoder, TEACHER};
use crate::report::table::{escape, format_value, interval, signed};
use crate::run::results::SummaryRow;

/// Distance to the nearest teacher embedding of another prompt; 1 is the teacher's own.
const NEAREST_TEACHER: &str = "nearest_teacher_distance";
/// Percent of prompts whose own teacher embedding is the nearest.
const RECALL: &str = "recall_at_1";
/// Distance to the same encoder's nearest embedding of another prompt; 1 is the teacher's own.
const NEAREST_OWN: &str = "nearest_own_distance";
const MEAN_COSINE: &str = "mean_cosine";

/// As far from the teacher's embeddings as these are from each other.
const INSIDE: f64 = 1.0;
/// Most prompts: from here on the embeddings map one prompt to one prompt.
const MOST_PROMPTS: f64 = 50.0;
/// Embeddings less than half as far apart as the teacher's count as the same.
const SAME: f64 = 0.5;

/// Whether a whole interval lies above `bound` (`true`), or nothing of it (`false`).
fn above(row: &SummaryRow, bound: f64) -> Option<bool> {
    match () {
        () if row.ci_low > bound => Some(true),
        () if row.ci_high <= bound => Some(false),
        () => None,
    }
}

/// Whether a whole interval lies below `bound` (`true`), or nothing of it (`false`).
fn below(row: &SummaryRow, bound: f64) -> Option<bool> {
    match () {
        () if row.ci_high < bound => Some(true),
        () if row.ci_low >= bound => Some(false),
        () => None,
    }
}

/// The sign of a paired difference where its interval excludes zero.
fn is_positive(row: &SummaryRow) -> Option<bool> {
    match () {
        () if row.ci_low > 0.0 => Some(true),
        () if row.ci_high < 0.0 => Some(false),
        () => None,
    }
}

/// A paired difference of a student and its naive twin.
fn difference<'a>(data: &'a Data, vision: &Encoder, naive: &Encoder, metric: &str) -> Option<&'a SummaryRow> {
    data.number(&vision.name, metric, "all", Some(&naive.name))
}

/// A difference with its sign and interval.
fn shown_signed(row: &SummaryRow) -> String {
    format!("{} {}", signed(&row.metric, row.value), escape(&interval(row)))
}

/// Figure 6.
pub(super) fn overlap(data: &Data) -> Finding {
    let (mut found, mut evidence) = (Vec::new(), Vec::new());
    for vision in data.sizes() {
        let mut words = Vec::new();
        if let Some(distance) = data.value(&vision.name, NEAREST_TEACHER) {
            found.push(above(distance, INSIDE));
            words.push(format!("distance {}", shown(distance)));
        }
        if let Some(recall) = data.value(&vision.name, RECALL) {
            found.push(below(recall, MOST_PROMPTS));
            words.push(format!("own prompt nearest for {} %", shown(recall)));
        }
        for naive in data.twins(vision, "naive") {
            let mut against = Vec::new();
            if let Some(distance) = difference(data, vision, naive, NEAREST_TEACHER) {
                found.push(is_positive(distance));
                against.push(format!("distance {}", shown_signed(distance)));
            }
            if let Some(recall) = difference(data, vision, naive, RECALL) {
                found.push(is_positive(recall).map(|more| !more));
                against.push(format!("own prompt nearest {} points", shown_signed(recall)));
            }
            if !against.is_empty() {
                words.push(format!("minus {}: {}", escape(&naive.name), against.join(", ")));
            }
        }
        if !words.is_empty() {
            evidence.push(format!("{}: {}", escape(&vision.name), words.join(", ")));
        }
    }
    let evidence = if found.is_empty() {
        "It needs text embeddings of the teacher and of a student distilled through the denoiser.".into()
    } else {
        format!(
            "Counted as agreeing where the teacher's nearest embedding of another prompt is farther away than its own ones are from each \
             other (distance above {INSIDE}), where fewer than {MOST_PROMPTS} % of the prompts have their own teacher embedding nearest, \
             and where a naive twin is shown to be nearer and to find its own prompt more often: {}.",
            evidence.join("; ")
        )
    };
    let claim = "Distilled through the denoiser, embeddings leave the teacher's space; naive distillation maps them onto it (Figure 6)";
    Finding { claim, verdict: Verdict::of(&found), evidence }
}

/// Figure 9.
pub(super) fn collapse(data: &Data) -> Finding {
    let (mut found, mut evidence) = (Vec::new(), Vec::new());
    for vision in data.sizes() {
        for naive in data.twins(vision, "naive") {
            let mut words = Vec::new();
            if let Some(own) = data.value(&naive.name, NEAREST_OWN) {
                found.push(below(own, SAME));
                words.push(format!("distance between prompts {}", shown(own)));
            }
            let mut against = Vec::new();
            if let Some(own) = difference(data, vision, naive, NEAREST_OWN) {
                found.push(is_positive(own));
                against.push(format!("distance {}", shown_signed(own)));
            }
            if let Some(cosine) = difference(data, vision, naive, MEAN_COSINE) {
                found.push(is_positive(cosine).map(|more| !more));
                against.push(format!("mean cosine {}", shown_signed(cosine)));
            }
            if !against.is_empty() {
                words.push(format!("{} minus it: {}", escape(&vision.name), against.join(", ")));
            }
            let ranks = [naive.name.as_str(), &vision.name, TEACHER].map(|name| data.value(name, "effective_rank"));
            if let ([Some(own), Some(other), Some(teacher)], false) = (ranks, words.is_empty()) {
                let [own, other, teacher] = [own, other, teacher].map(|row| format_value(&row.metric, row.value));
                words.push(format!("effective rank {own}, of {} {other}, of the teacher {teacher}", escape(&vision.name)));
            }
            if !words.is_empty() {
                evidence.push(format!("{}: {}", escape(&naive.name), words.join(", ")));
            }
        }
    }
    let evidence = if found.is_empty() {
        "It needs text embeddings of the teacher, of a student distilled through the denoiser and of its naive twin.".into()
    } else {
        format!(
            "Counted as agreeing where nearest prompts of the naive student are less than {SAME} of the teacher's distance apart, and where \
             its twin is shown to hold prompts farther apart, with a lower mean cosine; effective ranks have no interval and are not \
             counted: {}.",
            evidence.join("; ")
        )
    };
    Finding { claim: "Naive distillation gives different prompts the same embedding (Figure 9)", verdict: Verdict::of(&found), evidence }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{data, row};
    use super::*;
    use serde_json::json;

    /// Numbers of `base` and its naive twin; differences are of the same size. Intervals are a tenth of a unit wide.
    struct Case {
        vision: [f64; 4],
        naive: [f64; 4],
    }

    const NAMES: [&str; 4] = [NEAREST_TEACHER, RECALL, NEAREST_OWN, MEAN_COSINE];

    fn number(encoder: &str, metric: &str, versus: Option<&str>, value: f64) -> SummaryRow {
        let (ci_low, ci_high) = (value - 0.05, value + 0.05);
        SummaryRow { versus: versus.map(str::to_owned), ci_low, ci_high, direction: "none".into(), ..row(encoder, metric, value) }
    }

    fn run(Case { vision, naive }: &Case) -> Data {
        let sets = ["laion"];
        let mut data = data(&[("base", "mini-base", &sets, [50.0; 3]), ("base-naive", "mini-base", &sets, [50.0; 3])]);
        data.encoders[1].card = Some(json!({"preset": "mini-base", "objective": "naive", "datasets": sets}));
        for ((metric, vision), naive) in NAMES.iter().zip(vision).zip(naive) {
            data.summary.push(number("base", metric, None, *vision));
            data.summary.push(number("base-naive", metric, None, *naive));
            data.summary.push(number("base", metric, Some("base-naive"), vision - naive));
        }
        data
    }

    #[test]
    fn both_claims_follow_from_where_the_embeddings_lie() {
        // Nearest teacher, recall, nearest own, mean cosine.
        let far = [3.0, 5.0, 1.2, 0.3];
        for (name, vision, naive, expected) in [
            ("as in the paper", far, [0.6, 70.0, 0.2, 0.9], [Verdict::Agrees, Verdict::Agrees]),
            ("a mapping without collapse", far, [0.9, 90.0, 0.9, 0.2], [Verdict::Agrees, Verdict::InPart]),
            ("inside like the naive one", [0.9, 80.0, 0.8, 0.5], [0.9, 80.0, 0.8, 0.5], [Verdict::Disagrees, Verdict::Disagrees]),
            ("turned round", [0.6, 70.0, 0.2, 0.9], far, [Verdict::Disagrees, Verdict::Disagrees]),
            ("collapsed at the wrong prompts", far, [0.6, 4.0, 0.0, 1.0], [Verdict::InPart, Verdict::Agrees]),
            ("at the bounds", [1.0, 50.0, 0.5, 0.5], [1.0, 50.0, 0.5, 0.5], [Verdict::Undecided, Verdict::Undecided]),
        ] {
            let data = run(&Case { vision, naive });
            assert_eq!([overlap(&data).verdict, collapse(&data).verdict], expected, "{name}");
        }
    }

    #[test]
    fn evidence_states_numbers_with_intervals_and_rules() {
        let mut data = run(&Case { vision: [3.0, 5.0, 1.2, 0.3], naive: [0.6, 70.0, 0.2, 0.9] });
        for (name, rank) in [("base", 8.0), ("base-naive", 1.5), (TEACHER, 12.0)] {
            data.summary.push(number(name, "effective_rank", None, rank));
        }
        let (overlap, collapse) = (overlap(&data).evidence, collapse(&data).evidence);
        for expected in ["base: distance 3.00 [2.95, 3.05]", "minus base-naive: distance +2.40 [2.35, 2.45]", "nearest −65.0 ["] {
            assert!(overlap.contains(expected), "{overlap}");
        }
        for expected in
            ["distance between prompts 0.20 [0.15, 0.25]", "mean cosine −0.600 [−0.650, −0.550]", "rank 1.5, of base 8.0, of the"]
        {
            assert!(collapse.contains(expected), "{collapse}");
        }
    }

    #[test]
    fn an_interval_without_bounds_decides_nothing() {
        let mut data = run(&Case { vision: [3.0, 5.0, 1.2, 0.3], naive: [0.6, 70.0, 0.2, 0.9] });
        for row in &mut data.summary {
            (row.ci_low, row.ci_high) = (f64::NEG_INFINITY, f64::INFINITY);
        }
        assert_eq!([overlap(&data).verdict, collapse(&data).verdict], [Verdict::Undecided; 2]);
    }

    #[test]
    fn without_embeddings_nothing_is_tested() {
        let data = data(&[("base", "mini-base", &["laion"], [50.0; 3])]);
        assert_eq!([overlap(&data).verdict, collapse(&data).verdict], [Verdict::Untested; 2]);
        // A student without a naive twin answers the first half of Figure 6 only.
        let mut alone = run(&Case { vision: [3.0, 5.0, 1.2, 0.3], naive: [0.6, 70.0, 0.2, 0.9] });
        alone.encoders.pop();
        assert_eq!([overlap(&alone).verdict, collapse(&alone).verdict], [Verdict::Agrees, Verdict::Untested]);
    }
}
