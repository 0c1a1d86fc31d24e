//! Training mixtures: which sets, and how often each of their prompts is seen in an epoch. The paper's third stage sees
//! T2I-CompBench ten times.

use serde::{Deserialize, Serialize};

/// One prompt set of a training mixture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    pub dataset: String,
    /// How often each of its prompts is seen in an epoch.
    #[serde(default = "once")]
    pub repeat: usize,
}

fn once() -> usize {
    1
}

/// What one student trains on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mixture {
    /// Name of the student.
    pub name: String,
    pub sources: Vec<Source>,
}

/// The prompts of an epoch in words, given the training prompts of each set: `laion 100 + compbench 42 × 10 = 520 prompts`.
pub fn describe(sources: &[Source], prompts_of: impl Fn(&str) -> usize) -> String {
    let mut total = 0;
    let mut parts = Vec::new();
    for source in sources.iter().filter(|source| source.repeat > 0) {
        let prompts = prompts_of(&source.dataset);
        total += prompts * source.repeat;
        let times = if source.repeat == 1 { String::new() } else { format!(" × {}", source.repeat) };
        parts.push(format!("{} {prompts}{times}", source.dataset));
    }
    format!("{} = {total} prompts per epoch", parts.join(" + "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mixture_says_how_many_prompts_an_epoch_has() {
        let source = |dataset: &str, repeat| Source { dataset: dataset.into(), repeat };
        let told = describe(&[source("laion", 1), source("compbench", 10), source("coco", 0)], |set| if set == "laion" { 100 } else { 42 });
        assert_eq!(told, "laion 100 + compbench 42 × 10 = 520 prompts per epoch");
    }
}
