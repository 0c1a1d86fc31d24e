//! `scaledown reproduce table1`: the paper's numbers beside those of this project's runs, which are made first where they are not
//! there.

use std::collections::BTreeMap;

use clap::Args;

use super::Common;
use super::columns::aligned;
use crate::config::TINY;
use crate::error::{Error, Result};
use crate::report::reproduction::{self, Cell, TARGETS};
use crate::run::results::SummaryRow;

/// What is reproduced.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// `table1` to `table7`, `fig1`, `fig6`, or `all`.
    #[arg(required = true, value_name = "TARGET")]
    targets: Vec<String>,
    /// Print what finished runs have; start none.
    #[arg(long)]
    print_only: bool,
}

/// The scores of one run, or why there are none.
type Scores = std::result::Result<Vec<SummaryRow>, String>;

/// Runs the pipelines that the targets need, as far as they are not fresh, and prints paper | ours | difference | interval.
///
/// # Errors
/// Unknown targets; runs that could not be made ([`Error::Partial`], after everything else was done and printed); Ctrl-C.
pub fn run(options: &Options, common: &Common) -> Result<()> {
    let mut targets: Vec<&str> = Vec::new();
    for target in &options.targets {
        match target.as_str() {
            super::ALL => targets.extend(TARGETS),
            target => targets.push(target),
        }
    }
    let mut names: Vec<String> = Vec::new();
    for target in &targets {
        let needed = reproduction::pipelines(target)?.into_iter().filter(|name| !names.contains(name)).collect::<Vec<_>>();
        names.extend(needed);
    }
    // The one whose teacher's images the others take over goes first.
    names.sort_by_key(|name| name != reproduction::MAP_OF);
    let mut runs: BTreeMap<String, Scores> = BTreeMap::new();
    let mut pages = BTreeMap::new();
    for name in &names {
        let (scores, page) = scores(name, options, common)?;
        runs.insert(name.clone(), scores);
        pages.insert(name.clone(), page);
    }
    if common.dry_run {
        return Ok(());
    }
    if common.tiny {
        eprintln!("tiny random networks: these numbers say that all of it runs, and nothing else");
    }
    for target in targets {
        if target == "fig6" {
            println!("Figure 6: the map of text embeddings in {}", pages[reproduction::MAP_OF]);
            continue;
        }
        print!("{}", table(&reproduction::cells(target)?, &runs));
    }
    let failed: Vec<String> = runs.into_iter().filter_map(|(name, scores)| Some(format!("{name} ({})", scores.err()?))).collect();
    if failed.is_empty() {
        return Ok(());
    }
    let hint = "bring what is missing and run the same command again; with --tiny it runs on random networks, without any";
    Err(Error::Partial { missing: failed, hint: hint.into() })
}

/// The scores of one pipeline's run and the path of its page.
fn scores(name: &str, options: &Options, common: &Common) -> Result<(Scores, String)> {
    let pipeline = common.load_named(name)?;
    let page = pipeline.page().display().to_string();
    if common.dry_run {
        for line in pipeline.plan(&pipeline.all()?)? {
            println!("{}: {line}", pipeline.context.name);
        }
        return Ok((Ok(Vec::new()), page));
    }
    if !options.print_only {
        eprintln!("reproduce: pipeline {}", pipeline.context.name);
        match pipeline.all().and_then(|steps| pipeline.execute(steps)) {
            Ok(()) => {}
            Err(error @ Error::Interrupted { .. }) => return Err(error),
            Err(error) => {
                eprintln!("{}: {error}", pipeline.context.name);
                if let Some(hint) = error.hint() {
                    eprintln!("{hint}");
                }
                return Ok((Err(error.to_string()), page));
            }
        }
    }
    let option = if common.tiny { " --tiny" } else { "" };
    let summary = SummaryRow::read(
        &pipeline.context.evaluation().join("summary.parquet"),
        &format!("run `scaledown run --pipeline {}{option}`", pipeline.context.name.trim_end_matches(TINY)),
    );
    Ok((summary.map_err(|error| error.to_string()), page))
}

fn table(cells: &[Cell], runs: &BTreeMap<String, Scores>) -> String {
    let head =
        ["place", "model", "column", "paper", "ours", "difference", "95 % interval of ours", "n", "protocol, or why there is no number"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for cell in cells {
        let ours = match cell.run.as_ref().map(|(pipeline, _)| &runs[pipeline]) {
            Some(Err(why)) => Err(why.clone()),
            Some(Ok(summary)) => cell.answer(summary),
            None => cell.answer(&[]),
        };
        let mut line = vec![cell.place.clone(), cell.model.clone(), cell.column.clone(), format!("{:.2}", cell.paper)];
        match ours {
            Ok(ours) => line.extend([
                format!("{:.2}", ours.value),
                format!("{:+.2}", ours.value - cell.paper),
                format!("{:.2} to {:.2}", ours.interval.0, ours.interval.1),
                ours.n.to_string(),
                ours.protocol,
            ]),
            Err(why) => line.extend(["", "", "", "", &why].map(str::to_owned)),
        }
        lines.push(line);
    }
    aligned(&lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_without_a_number_says_why() {
        let cells = reproduction::cells("table6").unwrap();
        let missing = BTreeMap::from([("pixart-alpha".to_owned(), Err("weights are missing".to_owned()))]);
        let printed = table(&cells, &missing);
        assert_eq!(printed.lines().count(), 1 + 2 * 6);
        assert!(printed.lines().skip(1).all(|line| line.ends_with("weights are missing")), "{printed}");
    }
}
