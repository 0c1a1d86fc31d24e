//! Statistics against scipy and statsmodels: `fixtures/statistics.json` was made by `fixtures/statistics.py`.

use std::sync::LazyLock;

use scaledown::stats::bradley_terry::{Duel, strengths};
use scaledown::stats::crossed::{Vote, rate};
use scaledown::stats::distribution::{
    incomplete_beta, ln_gamma, noncentral_t_probability, normal_probability, normal_quantile, t_probability, t_quantile,
};
use scaledown::stats::line::Line;
use scaledown::stats::power::Design;
use scaledown::stats::sign::{mcnemar_exact, mcnemar_mid_p, paired_rates_equivalence, sign_test};
use scaledown::stats::{Bootstrap, Observation, holm, paired, wilson};
use serde_json::Value;

/// Both sides compute in f64 by different series; they meet far below this.
const TOLERANCE: f64 = 1e-9;
const BOOTSTRAP: Bootstrap = Bootstrap { resamples: 200, level: 0.95, seed: 1 };

static GOLDEN: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(include_str!("fixtures/statistics.json")).unwrap());

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn rows(value: &Value) -> Vec<Vec<f64>> {
    let rows: Vec<_> = value.as_array().unwrap().iter().map(numbers).collect();
    assert!(!rows.is_empty());
    rows
}

#[track_caller]
fn assert_close(found: f64, expected: f64, what: &str) {
    // Relative below one: a p-value of 1e-12 has digits too.
    let scale = expected.abs().clamp(1e-6, 1.0);
    let allowed = TOLERANCE * scale.max(expected.abs());
    assert!((found - expected).abs() <= allowed, "{what}: {found:e}, expected {expected:e}");
}

#[test]
fn distribution_functions() {
    let golden = &GOLDEN["distributions"];
    for row in rows(&golden["normal"]) {
        assert_close(normal_probability(row[0]), row[1], &format!("normal {row:?}"));
    }
    for row in rows(&golden["normal_quantile"]) {
        assert_close(normal_quantile(row[0]), row[1], &format!("normal quantile {row:?}"));
    }
    for row in rows(&golden["t"]) {
        assert_close(t_probability(row[0], row[1]), row[2], &format!("t {row:?}"));
    }
    for row in rows(&golden["t_quantile"]) {
        assert_close(t_quantile(row[0], row[1]), row[2], &format!("t quantile {row:?}"));
    }
    for row in rows(&golden["noncentral_t"]) {
        assert_close(noncentral_t_probability(row[0], row[1], row[2]), row[3], &format!("noncentral t {row:?}"));
    }
    for row in rows(&golden["incomplete_beta"]) {
        assert_close(incomplete_beta(row[0], row[1], row[2]), row[3], &format!("incomplete beta {row:?}"));
    }
    for row in rows(&golden["ln_gamma"]) {
        assert_close(ln_gamma(row[0]), row[1], &format!("ln gamma {row:?}"));
    }
}

#[test]
fn wilson_intervals() {
    for row in rows(&GOLDEN["wilson"]) {
        let estimate = wilson(row[0] as u64, row[1] as u64, row[2]).unwrap();
        assert_close(estimate.low, row[3], &format!("low {row:?}"));
        assert_close(estimate.high, row[4], &format!("high {row:?}"));
    }
}

#[test]
fn sign_test_and_mcnemar() {
    for row in rows(&GOLDEN["signs"]) {
        let (gained, lost) = (row[0] as u64, row[1] as u64);
        assert_close(sign_test(gained, lost), row[2], &format!("sign {row:?}"));
        assert_close(mcnemar_exact(gained, lost), row[3], &format!("exact {row:?}"));
        assert_close(mcnemar_mid_p(gained, lost), row[4], &format!("mid-p {row:?}"));
    }
}

#[test]
fn equivalence_of_paired_rates() {
    for row in rows(&GOLDEN["rates"]) {
        let found = paired_rates_equivalence(row[0] as u64, row[1] as u64, row[2] as u64, row[3]);
        assert_close(found, row[4], &format!("{row:?}"));
    }
}

#[test]
fn clustered_paired_t_test_and_equivalence() {
    let golden = &GOLDEN["paired"];
    let (own, other, groups) = (numbers(&golden["own"]), numbers(&golden["other"]), numbers(&golden["groups"]));
    let pairs = |cluster: &dyn Fn(usize) -> u64| {
        let pair = |i: usize| Observation { cluster: cluster(i), value: own[i], denominator: other[i] };
        paired::compare(&[(0..own.len()).map(pair).collect()], &BOOTSTRAP).unwrap()
    };
    let clustered = pairs(&|i| groups[i] as u64);
    let expected = numbers(&golden["clustered"]);
    assert_close(clustered.standard_error, expected[0], "clustered standard error");
    assert_close(clustered.p.unwrap(), expected[1], "clustered p");
    let (low, high) = clustered.t_interval(0.95);
    assert_close(low, expected[2], "low");
    assert_close(high, expected[3], "high");

    let plain = pairs(&|i| i as u64);
    let expected = numbers(&golden["plain"]);
    assert_close(plain.standard_error, expected[0], "standard error");
    assert_close(plain.p.unwrap(), expected[1], "p");
    assert_close(plain.equivalence(4.0).unwrap(), expected[2], "TOST");
    assert_close(plain.above(-4.0).unwrap(), expected[3], "lower one-sided test");
    assert_close(plain.below(4.0).unwrap(), expected[4], "upper one-sided test");
}

#[test]
fn strata_have_the_degrees_of_welch() {
    let golden = &GOLDEN["paired"]["welch"];
    let stratum = |name: &str, sign: f64| -> Vec<Observation> {
        let values = numbers(&golden[name]);
        values.iter().enumerate().map(|(i, v)| Observation { cluster: i as u64, value: sign * v, denominator: 0.0 }).collect()
    };
    let paired = paired::compare(&[stratum("first", 1.0), stratum("second", -1.0)], &BOOTSTRAP).unwrap();
    assert_close(paired.p.unwrap(), golden["p"].as_f64().unwrap(), "p");
    assert_close(paired.degrees, golden["degrees"].as_f64().unwrap(), "degrees");
}

#[test]
fn holm_correction() {
    let adjusted = holm(&numbers(&GOLDEN["holm"]["p"]));
    for (found, expected) in adjusted.into_iter().zip(numbers(&GOLDEN["holm"]["holm"])) {
        assert_close(found, expected, "adjusted p");
    }
}

#[test]
fn power_and_numbers_of_prompts() {
    for row in rows(&GOLDEN["power"]["power"]) {
        let design = Design::new(row[1], row[3]).unwrap();
        assert_close(design.power(row[0], row[2] as u64), row[4], &format!("{row:?}"));
    }
    for row in rows(&GOLDEN["power"]["prompts"]) {
        let design = Design::new(row[1], row[2]).unwrap();
        assert_eq!(design.prompts(row[0], row[3]).unwrap(), row[4] as u64, "{row:?}");
    }
}

#[test]
fn least_squares_line() {
    let golden = &GOLDEN["line"];
    let points: Vec<(f64, f64)> = numbers(&golden["x"]).into_iter().zip(numbers(&golden["y"])).collect();
    let line = Line::fit(&points).unwrap();
    let (low, high) = line.slope_interval(0.95).unwrap();
    let found = [line.slope, line.intercept, line.slope_error.unwrap(), line.r_squared, low, high];
    for (found, expected) in found.into_iter().zip(numbers(&golden["fit"])) {
        assert_close(found, expected, "line");
    }
}

#[test]
fn rate_clustered_in_two_ways() {
    let golden = &GOLDEN["crossed"];
    let (raters, items, values) = (numbers(&golden["raters"]), numbers(&golden["items"]), numbers(&golden["values"]));
    let votes: Vec<Vote> = (0..values.len()).map(|i| Vote { rater: raters[i] as u64, item: items[i] as u64, value: values[i] }).collect();
    let number = |name: &str| golden[name].as_f64().unwrap();
    let found = rate(&votes).unwrap();
    assert_close(found.value, number("mean"), "rate");
    assert!(number("variance") > number("over_raters").max(number("over_items")), "the fixture must not meet the fallback");
    assert_close(found.standard_error.powi(2), number("variance"), "variance");
}

#[test]
fn bradley_terry_strengths() {
    let golden = &GOLDEN["bradley_terry"];
    let mut duels = Vec::new();
    for row in rows(&golden["counts"]) {
        let [first, second, won, lost] = [0, 1, 2, 3].map(|i| row[i] as usize);
        let duel = |k: usize| Duel { rater: k as u64 % 5, item: k as u64, first, second, score: if k < won { 1.0 } else { 0.0 } };
        duels.extend((0..won + lost).map(duel));
    }
    let found = strengths(&duels, 4, &BOOTSTRAP).unwrap();
    for (found, expected) in found.iter().zip(numbers(&golden["strengths"])) {
        assert_close(found.value, expected, "strength");
    }
}
