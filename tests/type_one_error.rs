//! Simulations: how often the tests reject what is true. Five percent is promised; seeds are fixed, so these tests always give
//! the same numbers.

use scaledown::run::rng::{Key, normal, stream, uniform};
use scaledown::stats::comparison::{Outcome, Subject, Tests, compare_pairs, correct};
use scaledown::stats::crossed::{Vote, rate};
use scaledown::stats::sign::{mcnemar_exact, mcnemar_mid_p, paired_rates_equivalence, sign_test};
use scaledown::stats::{Bootstrap, Observation, paired};

const ALPHA: f64 = 0.05;

/// Standard normal numbers of one simulated data set.
fn noise(simulation: u64, purpose: &str, n: usize) -> Vec<f64> {
    normal(&mut stream(Key { seed: 20, purpose, item: simulation, draw: 0 }), n).into_iter().map(f64::from).collect()
}

/// Scores of 40 prompts with three images each; prompts differ in difficulty and in how they like either encoder, the values are
/// skewed (a squared normal), and the mean difference is `shift`.
fn clustered(simulation: u64, shift: f64) -> Vec<Observation> {
    let (prompts, images) = (40, 3);
    let shared = noise(simulation, "prompt", 2 * prompts);
    let single = noise(simulation, "image", 2 * prompts * images);
    let skewed = |z: f64| (z + 1.0).powi(2) - 2.0;
    (0..prompts * images)
        .map(|i| {
            let prompt = i / images;
            let value = |side: usize| skewed(shared[2 * prompt + side]) + 0.7 * single[2 * i + side];
            Observation { cluster: prompt as u64, value: 10.0 + value(0) + shift, denominator: 10.0 + value(1) }
        })
        .collect()
}

/// Asserts that the share lies within one point of five percent.
#[track_caller]
fn assert_five_percent(rejected: usize, simulations: u64, what: &str) {
    let percent = 100.0 * rejected as f64 / simulations as f64;
    println!("{what}: {percent:.2} % of {simulations}");
    assert!((4.0..=6.0).contains(&percent), "{what}: {percent:.2} %");
}

#[test]
fn paired_tests_reject_five_percent_of_true_hypotheses() {
    let simulations = 4_000;
    let bootstrap = Bootstrap { resamples: 300, level: 0.95, seed: 9 };
    let (mut t, mut resampled, mut ignoring) = (0, 0, 0);
    for simulation in 0..simulations {
        let observations = clustered(simulation, 0.0);
        let compared = paired::compare(std::slice::from_ref(&observations), &bootstrap).unwrap();
        t += usize::from(compared.p.unwrap() < ALPHA);
        resampled += usize::from(compared.p_bootstrap.unwrap() < ALPHA);
        // Every image its own prompt: the mistake that the clustering avoids.
        let apart: Vec<Observation> = observations.iter().enumerate().map(|(i, &o)| Observation { cluster: i as u64, ..o }).collect();
        let few = Bootstrap { resamples: 20, ..bootstrap };
        ignoring += usize::from(paired::compare(&[apart], &few).unwrap().p.unwrap() < ALPHA);
    }
    assert_five_percent(t, simulations, "clustered paired t");
    assert_five_percent(resampled, simulations, "studentised paired bootstrap");
    assert!(ignoring as f64 > 0.15 * simulations as f64, "the simulation must punish whoever ignores the prompts: {ignoring}");
}

#[test]
fn equivalence_is_claimed_wrongly_five_times_in_a_hundred() {
    let simulations = 4_000;
    let bootstrap = Bootstrap { resamples: 20, level: 0.95, seed: 9 };
    // The true difference lies on the margin, where the claim is just false.
    let margin = 1.5;
    let claims = (0..simulations)
        .filter(|&simulation| paired::compare(&[clustered(simulation, margin)], &bootstrap).unwrap().equivalence(margin).unwrap() < ALPHA)
        .count();
    assert_five_percent(claims, simulations, "equivalence at its margin");
}

#[test]
fn counts_reject_five_percent_of_true_hypotheses() {
    let simulations = 20_000;
    let (mut mid, mut exact, mut sign, mut same) = (0, 0, 0, 0);
    for simulation in 0..simulations {
        let mut rng = stream(Key { seed: 21, purpose: "counts", item: simulation, draw: 0 });
        // 400 prompts of which a fifth, by chance, differ.
        let (mut gained, mut lost) = (0, 0);
        for _ in 0..400 {
            let u = uniform(&mut rng);
            gained += u64::from(u < 0.1);
            lost += u64::from((0.1..0.2).contains(&u));
        }
        // Five points lost in truth, which is the margin: claiming equivalence is just false.
        let (mut won, mut missed) = (0, 0);
        for _ in 0..400 {
            let u = uniform(&mut rng);
            won += u64::from(u < 0.05);
            missed += u64::from((0.05..0.15).contains(&u));
        }
        same += usize::from(paired_rates_equivalence(won, missed, 400, 0.05) < ALPHA);
        mid += usize::from(mcnemar_mid_p(gained, lost) < ALPHA);
        exact += usize::from(mcnemar_exact(gained, lost) < ALPHA);
        // The level of an exact test jumps with n; at 1,000 units 4.6 % can be reached.
        let wins = (0..1_000).filter(|_| uniform(&mut rng) < 0.5).count() as u64;
        sign += usize::from(sign_test(wins, 1_000 - wins) < ALPHA);
    }
    assert_five_percent(mid, simulations, "McNemar, mid-p");
    assert_five_percent(sign, simulations, "sign test");
    assert_five_percent(same, simulations, "equivalence of paired rates at its margin");
    let percent = 100.0 * exact as f64 / simulations as f64;
    assert!(percent < 5.0, "the exact test keeps its level: {percent:.2} %");
}

#[test]
fn a_table_has_one_wrong_verdict_in_twenty_at_most() {
    let (simulations, rows) = (1_500, 8);
    let bootstrap = Bootstrap { resamples: 200, level: 0.95, seed: 9 };
    let tests = Tests { margins: Default::default(), ..Tests::default() };
    let (mut single, mut corrected) = (0, 0);
    for simulation in 0..simulations {
        let mut table: Vec<_> = (0..rows)
            .map(|row| {
                let metric = format!("metric-{row}");
                let subject = Subject {
                    encoder: "base",
                    versus: "teacher",
                    metric: &metric,
                    scope: "all",
                    unit: "%",
                    direction: "higher",
                    protocol: "",
                };
                compare_pairs(subject, &[clustered(simulation * rows + row, 0.0)], &tests, &bootstrap).unwrap()
            })
            .collect();
        correct(&mut table, &tests);
        single += usize::from(table.iter().any(|row| row.p.unwrap() < ALPHA));
        corrected += usize::from(table.iter().any(|row| Outcome::of(&row.outcome) != Outcome::Undecided));
    }
    let percent = |count: usize| 100.0 * count as f64 / simulations as f64;
    println!("tables with a wrong verdict: {:.1} %, without correction {:.1} %", percent(corrected), percent(single));
    // The verdict also needs an interval that excludes zero, so it may only be rarer than five percent.
    assert!((2.5..=6.0).contains(&percent(corrected)) && percent(single) > 25.0);
}

#[test]
fn votes_of_shared_raters_and_prompts_reject_five_percent() {
    let simulations = 4_000;
    let (raters, items) = (30u64, 40u64);
    let (mut t, mut ignoring) = (0, 0);
    for simulation in 0..simulations {
        let (rater, item) = (noise(simulation, "rater", raters as usize), noise(simulation, "item", items as usize));
        let single = noise(simulation, "vote", (raters * items) as usize);
        let votes: Vec<Vote> = (0..raters * items)
            .map(|i| {
                let (r, k) = (i / items, i % items);
                let liking = 0.4 * rater[r as usize] + 0.5 * item[k as usize] + single[i as usize];
                Vote { rater: r, item: k, value: if liking > 0.0 { 1.0 } else { 0.0 } }
            })
            .collect();
        t += usize::from(rate(&votes).unwrap().p(0.5).unwrap() < ALPHA);
        let won = votes.iter().filter(|vote| vote.value > 0.5).count() as u64;
        ignoring += usize::from(sign_test(won, votes.len() as u64 - won) < ALPHA);
    }
    assert_five_percent(t, simulations, "rate clustered by rater and prompt");
    assert!(ignoring as f64 > 0.3 * simulations as f64, "counting every vote as independent must fail here: {ignoring}");
}
