//! From votes to sentences: rates with intervals that respect raters and prompts, sign tests, equivalence, strengths, and whether
//! the side of the page mattered.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::preference::votes::{Ballot, Side};
use crate::stats::bradley_terry::{self, Duel, Strength};
use crate::stats::crossed::{self, Rate};
use crate::stats::sign::sign_test;
use crate::stats::{Bootstrap, holm, quantile};

/// How votes are judged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Rates within this many percent points of 50 % do not matter; in (0, 50).
    pub margin: f64,
    /// Level of every test, corrected over the pairs of encoders; in (0, 1).
    pub alpha: f64,
    /// Failed checks of attention past which a rater's votes are left out.
    pub allowed_failures: u64,
    pub bootstrap: Bootstrap,
}

/// What a pair's votes allow to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    FirstPreferred,
    SecondPreferred,
    /// The rate is shown to lie within the margin of 50 %.
    Equivalent,
    Undecided,
}

/// The votes between two encoders.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    pub first: String,
    pub second: String,
    /// Share that preferred the first, a tie counting one half.
    pub rate: Rate,
    /// The same among the votes that were no ties; `None` where all were.
    pub decided: Option<Rate>,
    pub ties: u64,
    /// Prompts whose votes have a majority for the first, and for the second.
    pub prompts: (u64, u64),
    /// Exact sign test over these prompts.
    pub p_sign: f64,
    /// Test of the rate against one half, clustered by rater and prompt, before and after Holm's correction.
    pub p: Option<f64>,
    pub p_holm: Option<f64>,
    pub p_equivalence_holm: Option<f64>,
    pub outcome: Outcome,
}

/// A rater whose votes were left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excluded {
    pub rater: String,
    pub failed: u64,
    pub checks: u64,
    pub votes: u64,
}

/// All that the votes say.
#[derive(Debug, Clone)]
pub struct Analysis {
    pub raters: u64,
    pub excluded: Vec<Excluded>,
    pub votes: u64,
    pub pairs: Vec<Pair>,
    /// Share of the left side among the votes that were no ties, with the test against one half.
    pub left: Option<(Rate, Option<f64>)>,
    /// Strengths of at least three encoders, strongest first; or why there are none.
    pub strengths: Option<Result<Vec<(String, Strength)>, String>>,
    /// Median time of a vote in seconds.
    pub seconds: f64,
    /// Different pages among the ballots of one pair of encoders.
    pub mixed_pages: bool,
}

/// Analyses ballots.
///
/// # Errors
/// No ballots, no votes left, a rater who voted twice on the same prompt and encoders, options out of range.
pub fn analyse(ballots: &[Ballot], options: &Options) -> Result<Analysis> {
    check(options)?;
    let (kept, excluded) = exclude(ballots, options.allowed_failures);
    let votes = gather(&kept)?;
    if votes.is_empty() {
        let counts = format!("{} files with {} excluded raters", ballots.len(), excluded.len());
        return Err(Error::config(
            format!("no vote is left to analyse in {counts}"),
            "collect votes, or allow more failed checks with --allowed-failures",
        ));
    }
    let mut by_encoders: BTreeMap<(&str, &str), Vec<&Cast>> = BTreeMap::new();
    for vote in &votes {
        by_encoders.entry((vote.first, vote.second)).or_default().push(vote);
    }
    let mut pairs = by_encoders.iter().map(|(&names, votes)| pair(names, votes)).collect::<Result<Vec<_>>>()?;
    decide(&mut pairs, options);
    let sides: Vec<crossed::Vote> = votes
        .iter()
        .filter_map(|vote| {
            let value = f64::from(u8::from(vote.side? == Side::Left));
            Some(crossed::Vote { rater: vote.rater, item: vote.item, value })
        })
        .collect();
    let left = if sides.is_empty() { None } else { Some(crossed::rate(&sides)?) };
    let mut seconds: Vec<f64> = votes.iter().map(|vote| vote.seconds).collect();
    seconds.sort_by(f64::total_cmp);
    let pages: BTreeSet<_> = kept.iter().map(|ballot| (names(ballot), &ballot.page)).collect();
    Ok(Analysis {
        raters: votes.iter().map(|vote| vote.rater).collect::<BTreeSet<_>>().len() as u64,
        excluded,
        votes: votes.len() as u64,
        left: left.map(|rate| (rate, rate.p(0.5))),
        strengths: strengths(&votes, options)?,
        seconds: quantile(&seconds, 0.5),
        mixed_pages: pages.len() > pairs.len(),
        pairs,
    })
}

fn check(options: &Options) -> Result<()> {
    if !(options.margin > 0.0 && options.margin < 50.0) {
        let message = format!("the equivalence margin is {} points, expected a number between 0 and 50", options.margin);
        return Err(Error::config(message, "10 means: rates from 40 % to 60 % do not matter"));
    }
    if !(options.alpha > 0.0 && options.alpha < 1.0) {
        return Err(Error::config(format!("alpha is {}, expected a number between 0 and 1", options.alpha), "the usual one is 0.05"));
    }
    Ok(())
}

/// One vote, with numbers in place of names where clusters are wanted.
struct Cast<'a> {
    rater: u64,
    item: u64,
    first: &'a str,
    second: &'a str,
    /// 1 for the first, 0 for the second, one half for a tie.
    score: f64,
    side: Option<Side>,
    seconds: f64,
}

/// The two encoders in order of their names.
fn names(ballot: &Ballot) -> (&str, &str) {
    let [a, b] = &ballot.encoders;
    if a < b { (a, b) } else { (b, a) }
}

/// A rater is judged over all of its ballots.
fn exclude(ballots: &[Ballot], allowed: u64) -> (Vec<&Ballot>, Vec<Excluded>) {
    let mut raters: BTreeMap<&str, Excluded> = BTreeMap::new();
    for ballot in ballots {
        let (failed, checks) = ballot.attention();
        let rater = || Excluded { rater: ballot.rater.clone(), failed: 0, checks: 0, votes: 0 };
        let sum = raters.entry(&ballot.rater).or_insert_with(rater);
        sum.failed += failed;
        sum.checks += checks;
        sum.votes += ballot.votes.len() as u64 - checks;
    }
    let kept = ballots.iter().filter(|ballot| raters[ballot.rater.as_str()].failed <= allowed).collect();
    (kept, raters.into_values().filter(|rater| rater.failed > allowed).collect())
}

/// The votes without the checks of attention.
fn gather<'a>(ballots: &[&'a Ballot]) -> Result<Vec<Cast<'a>>> {
    let (mut raters, mut items) = (BTreeMap::new(), BTreeMap::new());
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for ballot in ballots {
        let (first, second) = names(ballot);
        let next = raters.len() as u64;
        let rater = *raters.entry(ballot.rater.as_str()).or_insert(next);
        for vote in ballot.votes.iter().filter(|vote| vote.attention.is_none()) {
            if !seen.insert((rater, first, second, vote.pair.as_str())) {
                let message = format!("rater `{}` voted twice on pair `{}` of `{first}` and `{second}`", ballot.rater, vote.pair);
                return Err(Error::config(message, "give each file once, and different names to different raters"));
            }
            let next = items.len() as u64;
            let item = *items.entry(vote.pair.as_str()).or_insert(next);
            let seconds = vote.milliseconds as f64 / 1e3;
            all.push(Cast { rater, item, first, second, score: vote.score(first), side: vote.choice.side(), seconds });
        }
    }
    Ok(all)
}

fn pair((first, second): (&str, &str), votes: &[&Cast]) -> Result<Pair> {
    let crossed = |vote: &&&Cast| crossed::Vote { rater: vote.rater, item: vote.item, value: vote.score };
    let rate = crossed::rate(&votes.iter().map(|vote| crossed(&vote)).collect::<Vec<_>>())?;
    let decided: Vec<crossed::Vote> = votes.iter().filter(|vote| vote.side.is_some()).map(|vote| crossed(&vote)).collect();
    let ties = (votes.len() - decided.len()) as u64;
    let mut majorities: BTreeMap<u64, f64> = BTreeMap::new();
    votes.iter().for_each(|vote| *majorities.entry(vote.item).or_default() += vote.score - 0.5);
    let count = |keep: &dyn Fn(f64) -> bool| majorities.values().filter(|sum| keep(**sum)).count() as u64;
    let prompts = (count(&|sum| sum > 0.0), count(&|sum| sum < 0.0));
    Ok(Pair {
        first: first.into(),
        second: second.into(),
        rate,
        decided: if decided.is_empty() { None } else { Some(crossed::rate(&decided)?) },
        ties,
        prompts,
        p_sign: sign_test(prompts.0, prompts.1),
        p: rate.p(0.5),
        p_holm: None,
        p_equivalence_holm: None,
        outcome: Outcome::Undecided,
    })
}

/// Corrects over the pairs of encoders and decides: a preference needs the corrected test and an interval without 50 %,
/// equivalence the corrected equivalence test.
fn decide(pairs: &mut [Pair], options: &Options) {
    let equivalences: Vec<Option<f64>> = pairs.iter().map(|pair| pair.rate.equivalence(0.5, options.margin / 100.0)).collect();
    // A pair that cannot be tested counts as a test that shows nothing.
    let adjusted = |p: Vec<Option<f64>>| -> Vec<Option<f64>> {
        let all = holm(&p.iter().map(|p| p.unwrap_or(1.0)).collect::<Vec<_>>());
        p.iter().zip(all).map(|(p, adjusted)| p.map(|_| adjusted)).collect()
    };
    let differences = adjusted(pairs.iter().map(|pair| pair.p).collect());
    let equivalences = adjusted(equivalences);
    for ((pair, p), equivalence) in pairs.iter_mut().zip(differences).zip(equivalences) {
        (pair.p_holm, pair.p_equivalence_holm) = (p, equivalence);
        let (low, high) = pair.rate.interval(1.0 - options.alpha);
        let significant = p.is_some_and(|p| p < options.alpha);
        pair.outcome = match (significant && low > 0.5, significant && high < 0.5) {
            (true, _) => Outcome::FirstPreferred,
            (_, true) => Outcome::SecondPreferred,
            _ if equivalence.is_some_and(|p| p < options.alpha) => Outcome::Equivalent,
            _ => Outcome::Undecided,
        };
    }
}

type Strengths = Result<Vec<(String, Strength)>, String>;

/// Strengths where at least three encoders met.
fn strengths(votes: &[Cast], options: &Options) -> Result<Option<Strengths>> {
    let names: Vec<&str> = votes.iter().flat_map(|vote| [vote.first, vote.second]).collect::<BTreeSet<_>>().into_iter().collect();
    if names.len() < 3 {
        return Ok(None);
    }
    let number = |name: &str| names.iter().position(|known| *known == name).unwrap_or_default();
    let duels: Vec<Duel> = votes
        .iter()
        .map(|vote| Duel { rater: vote.rater, item: vote.item, first: number(vote.first), second: number(vote.second), score: vote.score })
        .collect();
    Ok(Some(match bradley_terry::strengths(&duels, names.len(), &options.bootstrap) {
        Ok(strengths) => {
            let mut named: Vec<(String, Strength)> = names.iter().map(|name| (*name).to_owned()).zip(strengths).collect();
            named.sort_by(|a, b| b.1.value.total_cmp(&a.1.value));
            Ok(named)
        }
        Err(Error::Invalid(reason)) => Err(reason),
        Err(error) => return Err(error),
    }))
}
