//! Votes of simulated raters: known rates come back, a liking for one side is found, inattentive raters are left out; and the
//! command that reads their files.

mod program;

use program::{Place, SMALL};
use scaledown::preference::analysis::{Analysis, Options, Outcome, analyse};
use scaledown::preference::votes::{Ballot, Choice, Side, Vote};
use scaledown::run::rng::{Key, normal, stream, uniform};
use scaledown::stats::Bootstrap;

const OPTIONS: Options =
    Options { margin: 10.0, alpha: 0.05, allowed_failures: 0, bootstrap: Bootstrap { resamples: 300, level: 0.95, seed: 4 } };

/// Raters who prefer `first` in log-odds, with tastes of raters and prompts of deviation one half, a share of ties and a pull to
/// the left side; sides are drawn by coin.
#[derive(Clone, Copy)]
struct Crowd<'a> {
    encoders: [&'a str; 2],
    raters: u64,
    prompts: u64,
    liking: f64,
    left: f64,
    ties: f64,
    seed: u64,
}

const CROWD: Crowd = Crowd { encoders: ["base", "teacher"], raters: 24, prompts: 40, liking: 0.0, left: 0.0, ties: 0.1, seed: 1 };

fn ballots(crowd: Crowd) -> Vec<Ballot> {
    let key = |purpose, item| Key { seed: crowd.seed, purpose, item, draw: 0 };
    let tastes = |purpose, n: u64| normal(&mut stream(key(purpose, 0)), n as usize);
    let (raters, prompts) = (tastes("raters", crowd.raters), tastes("prompts", crowd.prompts));
    let ballot = |rater: u64| {
        let mut rng = stream(key("votes", rater));
        let votes = (0..crowd.prompts)
            .map(|prompt| {
                let first_is_left = uniform(&mut rng) < 0.5;
                let taste = 0.5 * f64::from(raters[rater as usize]) + 0.5 * f64::from(prompts[prompt as usize]);
                let towards_left = (if first_is_left { 1.0 } else { -1.0 }) * (crowd.liking + taste) + crowd.left;
                let choice = match (uniform(&mut rng) < crowd.ties, uniform(&mut rng) < 1.0 / (1.0 + (-towards_left).exp())) {
                    (true, _) => Choice::Tie,
                    (false, true) => Choice::Left,
                    (false, false) => Choice::Right,
                };
                let left = crowd.encoders[usize::from(!first_is_left)].to_owned();
                Vote { pair: format!("{prompt:016x}"), left, choice, attention: None, milliseconds: 1500 }
            })
            .collect();
        Ballot { encoders: crowd.encoders.map(str::to_owned), rater: format!("rater {rater}"), page: "p".into(), votes }
    };
    (0..crowd.raters).map(ballot).collect()
}

fn analysed(crowd: Crowd) -> Analysis {
    analyse(&ballots(crowd), &OPTIONS).unwrap()
}

/// The expected share for the first: the mean over tastes (deviation √½) of the logistic function, by a sum over a fine grid, ties
/// counting one half.
fn true_rate(crowd: Crowd) -> f64 {
    let grid = (-600..=600).map(|i| f64::from(i) / 100.0);
    let density = |z: f64| (-0.5 * z * z).exp();
    let (sum, weight) = grid.fold((0.0, 0.0), |(sum, weight), z| {
        let chosen = 1.0 / (1.0 + (-(crowd.liking + 0.5f64.sqrt() * z)).exp());
        (sum + density(z) * chosen, weight + density(z))
    });
    crowd.ties * 0.5 + (1.0 - crowd.ties) * sum / weight
}

#[test]
fn known_rates_lie_in_their_intervals_as_often_as_promised() {
    for liking in [0.0, 0.8, -1.6] {
        let simulations = 120;
        let covered = (0..simulations)
            .filter(|&seed| {
                let crowd = Crowd { liking, seed: 100 + seed, ..CROWD };
                let (low, high) = analysed(crowd).pairs[0].rate.interval(0.95);
                (low..=high).contains(&true_rate(crowd))
            })
            .count();
        println!("liking {liking}: true rate {:.3} covered {covered} of {simulations}", true_rate(Crowd { liking, ..CROWD }));
        // 95 % of 120 is 114 with standard deviation 2.4; three of them.
        assert!((107..=120).contains(&covered), "{liking}: {covered}");
    }
}

#[test]
fn a_clear_preference_is_found_and_no_preference_is_shown_to_be_none() {
    let clear = analysed(Crowd { liking: 1.0, ..CROWD });
    let pair = &clear.pairs[0];
    assert_eq!((pair.first.as_str(), pair.outcome), ("base", Outcome::FirstPreferred));
    assert!(pair.p_sign < 0.01 && pair.prompts.0 > pair.prompts.1 && pair.ties > 50, "{pair:?}");
    let swapped = analysed(Crowd { liking: -1.0, encoders: ["teacher", "base"], ..CROWD });
    assert_eq!(swapped.pairs[0].outcome, Outcome::FirstPreferred, "names, not places, decide who is first: {:?}", swapped.pairs[0]);
    let none = analysed(Crowd { raters: 60, prompts: 120, ..CROWD });
    assert_eq!(none.pairs[0].outcome, Outcome::Equivalent, "{:?}", none.pairs[0]);
    let few = analysed(Crowd { raters: 3, prompts: 8, liking: 0.2, ..CROWD });
    assert_eq!(few.pairs[0].outcome, Outcome::Undecided);
}

#[test]
fn an_injected_liking_for_one_side_is_detected_and_none_is_not() {
    let (rate, p) = analysed(Crowd { left: 0.7, ..CROWD }).left.unwrap();
    assert!(rate.value > 0.55 && p.unwrap() < 0.001, "{rate:?} {p:?}");
    let (rate, p) = analysed(Crowd { left: -0.7, ..CROWD }).left.unwrap();
    assert!(rate.value < 0.45 && p.unwrap() < 0.001, "{rate:?} {p:?}");
    let detected = (0..60).filter(|&seed| analysed(Crowd { seed, ..CROWD }).left.unwrap().1.unwrap() < 0.05).count();
    // Five percent of 60 is 3; eight is three standard deviations above.
    assert!(detected <= 8, "{detected}");
}

#[test]
fn inattentive_raters_are_left_out_and_counted() {
    let check = |answer, choice| Vote { pair: "00".into(), left: "base".into(), choice, attention: Some(answer), milliseconds: 700 };
    let mut all = ballots(Crowd { liking: 1.0, ..CROWD });
    for ballot in &mut all[..4] {
        // Four raters who always press the same key.
        ballot.votes.iter_mut().for_each(|vote| vote.choice = Choice::Left);
        ballot.votes.extend([check(Side::Left, Choice::Left), check(Side::Right, Choice::Left)]);
    }
    for ballot in &mut all[4..] {
        ballot.votes.extend([check(Side::Left, Choice::Left), check(Side::Right, Choice::Right)]);
    }
    let analysis = analyse(&all, &OPTIONS).unwrap();
    assert_eq!((analysis.excluded.len(), analysis.raters, analysis.votes), (4, 20, 20 * 40));
    assert_eq!((analysis.excluded[0].failed, analysis.excluded[0].checks, analysis.excluded[0].votes), (1, 2, 40));
    let lenient = analyse(&all, &Options { allowed_failures: 1, ..OPTIONS }).unwrap();
    assert!(lenient.excluded.is_empty() && lenient.raters == 24);
}

#[test]
fn strengths_of_several_encoders_come_back_in_order() {
    // Without tastes the log-odds are the strengths' differences: 1.0 and 0.6, added 1.6.
    let mut all = Vec::new();
    for (encoders, liking, seed) in [(["teacher", "base"], 1.0, 1), (["base", "small"], 0.6, 2), (["teacher", "small"], 1.6, 3)] {
        all.extend(ballots(Crowd { encoders, liking, seed, raters: 30, prompts: 60, ties: 0.0, ..CROWD }));
    }
    let analysis = analyse(&all, &OPTIONS).unwrap();
    let strengths = analysis.strengths.unwrap().unwrap();
    let names: Vec<&str> = strengths.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["teacher", "base", "small"]);
    let gap = strengths[0].1.value - strengths[2].1.value;
    // Averaged over tastes, log-odds shrink by about a tenth.
    assert!((1.2..1.7).contains(&gap), "{gap}");
    assert!(strengths.iter().all(|(_, s)| s.low < s.value && s.value < s.high));
    assert_eq!(analysis.pairs.len(), 3);
}

#[test]
fn the_same_file_twice_is_refused() {
    let mut all = ballots(Crowd { raters: 2, ..CROWD });
    all.push(all[1].clone());
    let error = analyse(&all, &OPTIONS).unwrap_err();
    assert!(error.to_string().contains("rater `rater 1` voted twice") && error.exit_code() == 2, "{error}");
}

/// The ballot as the page exports it.
fn json(ballot: &Ballot) -> String {
    let side = |side: Side| if side == Side::Left { "left" } else { "right" };
    let votes: Vec<_> = ballot
        .votes
        .iter()
        .map(|vote| {
            serde_json::json!({ "pair": vote.pair, "left": vote.left, "choice": vote.choice.side().map_or("tie", side),
                "attention": vote.attention.map(side), "milliseconds": vote.milliseconds })
        })
        .collect();
    serde_json::json!({ "version": 1, "encoders": ballot.encoders, "rater": ballot.rater, "page": ballot.page, "votes": votes }).to_string()
}

#[test]
fn the_command_reads_files_and_names_what_is_wrong_with_them() {
    let place = Place::with(SMALL);
    let mut files = Vec::new();
    for (i, ballot) in ballots(Crowd { liking: 1.2, left: 0.8, ..CROWD }).iter().enumerate() {
        let file = format!("votes/{i}.json");
        place.write(&file, json(ballot).as_bytes());
        files.push(file);
    }
    let mut arguments = vec!["preference"];
    arguments.extend(files.iter().map(String::as_str));
    let ran = place.run(&arguments).succeeded();
    for words in ["first", "base   teacher", "base preferred", "side"] {
        assert!(ran.stdout.contains(words), "`{words}` is missing in:\n{}", ran.stdout);
    }
    for words in ["960 votes of 24 raters", "the left side was chosen more often, p < 0.001"] {
        assert!(ran.stderr.contains(words), "`{words}` is missing in:\n{}", ran.stderr);
    }
    place.write("votes/3.json", json(&ballots(CROWD)[3]).replacen("\"tie\"", "\"none\"", 1).as_bytes());
    place.run(&arguments).failed(2, &["votes/3.json", "entry ", "unknown variant `none`"]);
    place.run(&["preference", "votes/none.json"]).failed(1, &["votes/none.json", "file not found"]);
    place.run(&["preference", "votes/1.json", "--margin", "60"]).failed(2, &["margin is 60"]);
}
