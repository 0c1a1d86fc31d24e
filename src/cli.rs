//! The command line: what can be asked for. Results go to stdout, everything else to stderr.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::Pipeline;
use crate::doctor;
use crate::error::Result;

const AFTER_HELP: &str = "\
Exit codes:
  0    done, or nothing to do
  1    a stage failed: a damaged or missing file, a full disk, numbers that are not finite
  2    the configuration or the command line cannot be used
  3    built in part: some sources are missing; they are listed
  130  interrupted (Ctrl-C); finished work is kept, the same command goes on";

/// Distils the text encoders of text-to-image diffusion models and measures what was kept.
#[derive(Debug, Parser)]
#[command(name = "scaledown", version, about, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// Options that every command takes.
#[derive(Debug, Args)]
struct Common {
    /// The experiment: a name below `pipelines/`, or a path to a TOML file or its folder.
    #[arg(long, default_value = "mini", global = true)]
    pipeline: String,
    /// Print what would run, what is fresh and why; load no weights, write no results.
    #[arg(long, global = true)]
    dry_run: bool,
    /// Run again what is fresh.
    #[arg(long, global = true)]
    force: bool,
    /// The folder with `pipelines`, `datasets`, `runs` and `reports`.
    #[arg(long, value_name = "DIR", default_value = ".", global = true)]
    root: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build the prompt tables with their data card and leak audit.
    BuildData,
    /// All stages, from the prompts to the report.
    Run,
    /// Say what this machine has and what the pipelines lack.
    Doctor,
}

/// Does what the command line asks for.
pub fn run(cli: Cli) -> Result<()> {
    let common = &cli.common;
    if let Command::Doctor = cli.command {
        println!("{}", doctor::report(&common.root));
        return Ok(());
    }
    let pipeline = common.load()?;
    match cli.command {
        Command::BuildData => common.go(&pipeline, vec![pipeline.build_data()?]),
        Command::Run => common.go(&pipeline, pipeline.all()?),
        Command::Doctor => Ok(()),
    }
}

impl Common {
    fn load(&self) -> Result<Pipeline> {
        let mut pipeline = Pipeline::load(&self.root, &self.pipeline)?;
        pipeline.context.force = self.force;
        Ok(pipeline)
    }

    /// Runs the steps, or prints the plan.
    fn go(&self, pipeline: &Pipeline, steps: Vec<crate::stages::Step>) -> Result<()> {
        if self.dry_run {
            for line in pipeline.plan(&steps)? {
                println!("{line}");
            }
            return Ok(());
        }
        pipeline.execute(steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn the_default_pipeline_is_the_embedded_one() {
        let cli = Cli::try_parse_from(["scaledown", "build-data"]).unwrap();
        assert_eq!(cli.common.pipeline, "mini");
    }
}
