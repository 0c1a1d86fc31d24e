//! `scaledown preference`: what the votes of the blind preference page say.

use std::path::PathBuf;

use clap::Args;

use super::columns::aligned;
use crate::error::Result;
use crate::preference::analysis::{Analysis, Options as Methods, Outcome, Pair, analyse};
use crate::preference::votes::Ballot;
use crate::report::significance::p_value;
use crate::stats::Bootstrap;
use crate::stats::crossed::Rate;

/// Files of votes, and how they are judged.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Files that the preference page exported.
    #[arg(required = true, value_name = "FILE")]
    votes: Vec<PathBuf>,
    /// Rates within this many points of 50 % do not matter.
    #[arg(long, value_name = "POINTS", default_value_t = 10.0)]
    margin: f64,
    /// Significance level.
    #[arg(long, default_value_t = 0.05)]
    alpha: f64,
    /// Checks of attention that a rater may fail before all of its votes are left out.
    #[arg(long, value_name = "N", default_value_t = 0)]
    allowed_failures: u64,
}

/// Prints tables to stdout and what they mean to stderr.
pub fn run(options: &Options) -> Result<()> {
    let ballots = options.votes.iter().map(|path| Ballot::read(path)).collect::<Result<Vec<_>>>()?;
    let bootstrap = Bootstrap { level: 1.0 - options.alpha, ..Bootstrap::default() };
    let methods = Methods { margin: options.margin, alpha: options.alpha, allowed_failures: options.allowed_failures, bootstrap };
    let analysis = analyse(&ballots, &methods)?;
    print!("{}", tables(&analysis, &methods));
    for sentence in sentences(&analysis, &methods) {
        eprintln!("{sentence}");
    }
    Ok(())
}

fn percent(value: f64) -> String {
    format!("{:.1}", 100.0 * value)
}

fn short(p: Option<f64>) -> String {
    p.map_or(String::new(), |p| p_value(Some(p)).trim_start_matches("p ").replace(' ', ""))
}

fn rate_cells(rate: &Rate, level: f64) -> [String; 3] {
    let (low, high) = rate.interval(level);
    [percent(rate.value), percent(low), percent(high)]
}

/// The rates, the strengths where there are any, the sides and the raters.
fn tables(analysis: &Analysis, methods: &Methods) -> String {
    let level = 1.0 - methods.alpha;
    let head = |words: &str| words.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let mut rates = vec![head(
        "first second prefer-first-% low high p(Holm) p-equivalent(Holm) outcome without-ties-% votes ties raters prompts for-first for-second p(sign)",
    )];
    for pair in &analysis.pairs {
        let mut line = vec![pair.first.clone(), pair.second.clone()];
        line.extend(rate_cells(&pair.rate, level));
        line.extend([short(pair.p_holm), short(pair.p_equivalence_holm), outcome(pair)]);
        line.push(pair.decided.map_or(String::new(), |rate| percent(rate.value)));
        let counts = [pair.rate.votes, pair.ties, pair.rate.raters, pair.rate.items, pair.prompts.0, pair.prompts.1];
        line.extend(counts.map(|count| count.to_string()));
        line.push(short(Some(pair.p_sign)));
        rates.push(line);
    }
    let mut text = aligned(&rates);
    if let Some(Ok(strengths)) = &analysis.strengths {
        let mut lines = vec![head("encoder strength low high")];
        let number = |value: f64| if value.is_finite() { format!("{value:+.3}") } else { String::new() };
        lines.extend(strengths.iter().map(|(name, s)| vec![name.clone(), number(s.value), number(s.low), number(s.high)]));
        text.push('\n');
        text.push_str(&aligned(&lines));
    }
    let mut lines = vec![head("side chosen-% low high p votes")];
    if let Some((rate, p)) = &analysis.left {
        let mut line = vec!["left".to_owned()];
        line.extend(rate_cells(rate, level));
        line.extend([short(*p), rate.votes.to_string()]);
        lines.push(line);
        text.push('\n');
        text.push_str(&aligned(&lines));
    }
    text
}

fn outcome(pair: &Pair) -> String {
    match pair.outcome {
        Outcome::FirstPreferred => format!("{} preferred", pair.first),
        Outcome::SecondPreferred => format!("{} preferred", pair.second),
        Outcome::Equivalent => "equivalent".into(),
        Outcome::Undecided => "undecided".into(),
    }
}

fn sentences(analysis: &Analysis, methods: &Methods) -> Vec<String> {
    let mut all = vec![format!(
        "{} votes of {} raters, {:.1} s each (median); ties count one half",
        analysis.votes, analysis.raters, analysis.seconds
    )];
    let lost: u64 = analysis.excluded.iter().map(|rater| rater.votes).sum();
    if !analysis.excluded.is_empty() {
        let names: Vec<String> =
            analysis.excluded.iter().map(|rater| format!("{} ({} of {} checks failed)", rater.rater, rater.failed, rater.checks)).collect();
        all.push(format!("left out for failed checks of attention: {} raters with {lost} votes: {}", names.len(), names.join(", ")));
    }
    for pair in &analysis.pairs {
        let (low, high) = pair.rate.interval(1.0 - methods.alpha);
        let against = format!("{} over {}: {} % [{}, {}]", pair.first, pair.second, percent(pair.rate.value), percent(low), percent(high));
        all.push(match pair.outcome {
            Outcome::FirstPreferred | Outcome::SecondPreferred => format!("{against}; {}, {}", outcome(pair), p_value(pair.p_holm)),
            Outcome::Equivalent => format!("{against}; equivalent within ±{} points, {}", methods.margin, p_value(pair.p_equivalence_holm)),
            Outcome::Undecided => {
                format!("{against}; undecided: neither a preference nor equivalence within ±{} points is shown", methods.margin)
            }
        });
        if pair.rate.raters == 1 {
            all.push(format!(
                "one rater voted on {} and {}: the interval speaks of other prompts, not of other people",
                pair.first, pair.second
            ));
        }
    }
    if let Some((rate, p)) = &analysis.left
        && p.is_some_and(|p| p < methods.alpha)
    {
        let side = if rate.value > 0.5 { "left" } else { "right" };
        all.push(format!(
            "the {side} side was chosen more often, {}: sides are balanced, so rates hold, but they are pulled towards 50 %",
            p_value(*p)
        ));
    }
    if let Some(Err(reason)) = &analysis.strengths {
        all.push(format!("no Bradley-Terry strengths: {reason}"));
    }
    if analysis.mixed_pages {
        all.push("the votes on some pair of encoders come from pages with different images".into());
    }
    all
}
