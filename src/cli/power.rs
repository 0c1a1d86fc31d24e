//! `scaledown power`: how many prompts show a difference, what difference a number of prompts shows, and with which power.

use clap::Args;

use crate::error::{Error, Result};
use crate::stats::power::{Design, check_prompts, correlations_of_rates, sd_of_difference, sd_of_prompt};

/// What is known; the one of prompts, difference and power that is not given is printed.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Success rate of the reference in percent, for metrics that are right or wrong.
    #[arg(long, value_name = "PERCENT", conflicts_with = "sd", required_unless_present = "sd")]
    rate: Option<f64>,
    /// Standard deviation of a single image's score, in the score's unit.
    #[arg(long, value_name = "POINTS")]
    sd: Option<f64>,
    /// Difference to be seen, in points; with --rate the second rate lies this far below the first (above, if negative).
    #[arg(long, value_name = "POINTS", allow_hyphen_values = true)]
    difference: Option<f64>,
    /// Number of prompts.
    #[arg(short, long = "n", value_name = "PROMPTS")]
    n: Option<u64>,
    /// Probability of seeing the difference [default: 0.8].
    #[arg(long)]
    power: Option<f64>,
    /// Correlation of the two encoders' scores of the same prompt; 0 for images that share nothing.
    #[arg(long, default_value_t = 0.0, allow_hyphen_values = true)]
    correlation: f64,
    /// Images of each prompt.
    #[arg(long, default_value_t = 1)]
    images: u64,
    /// Correlation of the differences of one prompt's images; 1 if further images of a prompt bring nothing.
    #[arg(long, default_value_t = 0.5)]
    icc: f64,
    /// Two-sided significance level.
    #[arg(long, default_value_t = 0.05)]
    alpha: f64,
    /// Tests in the table; the level of each is divided by their number, which is where Holm's correction starts.
    #[arg(long, default_value_t = 1)]
    comparisons: u64,
}

/// Power where none is asked for: the usual one.
const POWER: f64 = 0.8;

/// The number for stdout, and what it is for stderr.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub number: String,
    pub sentence: String,
}

/// Solves for what is not given.
///
/// # Errors
/// All three of prompts, difference and power given, or too few; a number out of its range.
pub fn answer(options: &Options) -> Result<Answer> {
    check(options)?;
    let alpha = options.alpha / options.comparisons as f64;
    let with_sd = |sd: f64| Design::new(sd_of_prompt(sd, options.images, options.icc), alpha);
    let words = |n: u64, difference: f64, power: f64| {
        let images = if options.images == 1 { String::new() } else { format!(" with {} images each", options.images) };
        let level =
            if options.comparisons == 1 { format!("{alpha}") } else { format!("{} over {} tests", options.alpha, options.comparisons) };
        format!("{n} prompts{images} show a difference of {difference:.4} points with power {power:.4} (paired t test, level {level})")
    };
    match (options.n, options.difference, options.power) {
        (Some(n), Some(difference), None) => {
            check_prompts(n)?;
            let power = with_sd(sd_at(options, difference)?)?.power(difference, n);
            Ok(Answer { number: format!("{power:.4}"), sentence: words(n, difference.abs(), power) })
        }
        (None, Some(difference), power) => {
            let power = power.unwrap_or(POWER);
            let n = with_sd(sd_at(options, difference)?)?.prompts(difference, power)?;
            Ok(Answer { number: n.to_string(), sentence: words(n, difference.abs(), power) })
        }
        (Some(n), None, power) => {
            let power = power.unwrap_or(POWER);
            let difference = detectable(options, n, power, &with_sd)?;
            Ok(Answer { number: format!("{difference:.4}"), sentence: words(n, difference, power) })
        }
        (Some(_), Some(_), Some(_)) => Err(Error::config(
            "nothing is left to compute: prompts, difference and power are all given",
            "leave one of --n, --difference and --power out",
        )),
        (None, None, _) => Err(Error::config("neither a number of prompts nor a difference is given", "give --n or --difference")),
    }
}

/// Standard deviation of a paired difference of single images.
fn sd_at(options: &Options, difference: f64) -> Result<f64> {
    let Some(rate) = options.rate else {
        let sd = options.sd.unwrap_or_default();
        return Ok(sd_of_difference(sd, sd, options.correlation));
    };
    let (first, second) = (rate / 100.0, (rate - difference) / 100.0);
    if !(second > 0.0 && second < 1.0) {
        let message = format!("a rate of {rate} % less {difference} points is {} %, expected one between 0 and 100", rate - difference);
        return Err(Error::config(message, "give a smaller difference"));
    }
    let (low, high) = correlations_of_rates(first, second);
    if options.correlation < low || options.correlation > high {
        let message = format!("rates of {rate} % and {} % cannot correlate by {}", rate - difference, options.correlation);
        return Err(Error::config(message, format!("give a correlation between {low:.3} and {high:.3}")));
    }
    let sd = |rate: f64| (rate * (1.0 - rate)).sqrt();
    Ok(100.0 * sd_of_difference(sd(first), sd(second), options.correlation))
}

/// The smallest difference that `n` prompts show. The spread of rates depends on the difference, so this looks for the point where
/// enough power is reached; larger differences up to there have less.
fn detectable(options: &Options, n: u64, power: f64, with_sd: &dyn Fn(f64) -> Result<Design>) -> Result<f64> {
    let Some(rate) = options.rate else {
        return with_sd(sd_at(options, 0.0)?)?.difference(n, power);
    };
    check_prompts(n)?;
    with_sd(1.0)?.difference(n, power)?;
    let reached = |difference: f64| Ok::<_, Error>(with_sd(sd_at(options, difference)?)?.power(difference, n) >= power);
    // A fall to zero leaves no spread to compute with.
    let (mut low, mut high) = (0.0, rate * (1.0 - 1e-9));
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if reached(middle)? { high = middle } else { low = middle }
    }
    if high > rate - 1e-6 {
        let message = format!("{n} prompts show no fall from a rate of {rate} % with power {power}");
        return Err(Error::config(message, "give more prompts"));
    }
    Ok(high)
}

fn check(options: &Options) -> Result<()> {
    let ranges = [("--rate", options.rate.unwrap_or(50.0), 0.0, 100.0), ("--alpha", options.alpha, 0.0, 1.0)];
    for (name, value, low, high) in ranges {
        if !(value > low && value < high) {
            return Err(Error::config(
                format!("{name} is {value}, expected a number between {low} and {high}"),
                "see `scaledown power --help`",
            ));
        }
    }
    for (name, value, low) in [("--correlation", options.correlation, -1.0), ("--icc", options.icc, 0.0)] {
        if !(value >= low && value <= 1.0) {
            return Err(Error::config(format!("{name} is {value}, expected a number from {low} to 1"), "see `scaledown power --help`"));
        }
    }
    if options.images == 0 || options.comparisons == 0 {
        return Err(Error::config("--images and --comparisons count from 1", "leave them out for 1"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn ask(line: &str) -> Result<Answer> {
        answer(&Line::try_parse_from(std::iter::once("power").chain(line.split_whitespace())).unwrap().options)
    }

    #[test]
    fn each_of_the_three_can_be_asked_for() {
        // Half a standard deviation of the difference: 34 pairs at 80 %.
        let sd = 10.0 / 2f64.sqrt();
        assert_eq!(ask(&format!("--sd {sd} --difference 5")).unwrap().number, "34");
        let power: f64 = ask(&format!("--sd {sd} --difference 5 --n 34")).unwrap().number.parse().unwrap();
        assert!((0.80..0.82).contains(&power), "{power}");
        let difference: f64 = ask(&format!("--sd {sd} --n 34")).unwrap().number.parse().unwrap();
        assert!((4.9..5.0).contains(&difference), "{difference}");
    }

    #[test]
    fn rates_agree_with_themselves_and_correlation_saves_prompts() {
        let apart: u64 = ask("--rate 75 --difference 5").unwrap().number.parse().unwrap();
        let paired: u64 = ask("--rate 75 --difference 5 --correlation 0.6").unwrap().number.parse().unwrap();
        // (1.96 + 0.84)² (0.1875 + 0.21) / 0.05² = 1,248.
        assert!((1_245..1_255).contains(&apart) && paired < apart / 2, "{apart} {paired}");
        let back: f64 = ask(&format!("--rate 75 --n {apart}")).unwrap().number.parse().unwrap();
        assert!((back - 5.0).abs() < 0.01, "{back}");
    }

    #[test]
    fn images_and_tests_move_the_number_as_they_should() {
        let prompts = |line: &str| ask(&format!("--sd 30 --difference 4 {line}")).unwrap().number.parse::<u64>().unwrap();
        assert!(prompts("--images 4 --icc 0") < prompts("--images 4") && prompts("--images 4") < prompts(""));
        assert_eq!(prompts("--images 4 --icc 1"), prompts(""));
        assert!(prompts("--comparisons 20") > prompts(""));
    }

    #[test]
    fn what_cannot_be_is_refused_with_a_way_out() {
        for (line, words) in [
            ("--sd 10 --difference 2 --n 10 --power 0.8", "nothing is left"),
            ("--sd 10", "neither"),
            ("--rate 75 --difference 80", "between 0 and 100"),
            ("--rate 75 --difference 20 --correlation 0.99", "cannot correlate"),
            ("--rate 0 --difference 1", "--rate is 0"),
            ("--sd 10 --n 1", "1 prompts"),
            ("--sd 10 --difference 2 --icc 2", "--icc is 2"),
            ("--rate 5 --n 4", "no fall"),
        ] {
            let error = ask(line).unwrap_err();
            assert!(error.to_string().contains(words) && error.hint().is_some() && error.exit_code() == 2, "{line}: {error}");
        }
    }
}
