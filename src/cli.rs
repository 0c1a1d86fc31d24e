//! The command line: what can be asked for. Results go to stdout, everything else to stderr.

mod columns;
mod compare;
mod data;
mod export;
mod power;
mod preference;
mod prompts;
mod reproduce;

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Pipeline};
use crate::data::fetch::download::Client;
use crate::data::fetch::hub as data_hub;
use crate::doctor;
use crate::error::{Error, Result};
use crate::metrics;
use crate::mini::bootstrap::Part;
use crate::report;
use crate::run::hub;
use crate::stages::{Start, Step};

const AFTER_HELP: &str = "\
Exit codes:
  0    done, or nothing to do
  1    a stage failed: a damaged or missing file, a full disk, numbers that are not finite
  2    the configuration or the command line cannot be used
  3    built in part: some sources are missing; they are listed
  4    `report A B --max-drop`: the second run lost more than allowed
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
    #[arg(long, default_value = config::DEFAULT, global = true)]
    pipeline: String,
    /// Print what would run, what is fresh and why; load no weights, write no results.
    #[arg(long, global = true)]
    dry_run: bool,
    /// Run again what is fresh.
    #[arg(long, global = true)]
    force: bool,
    /// Tiny random networks and a few prompts in place of the pipeline's own: shows that all of it runs, nothing about quality.
    #[arg(long, global = true)]
    tiny: bool,
    /// The folder with `pipelines`, `datasets`, `runs` and `reports`.
    #[arg(long, value_name = "DIR", default_value = ".", global = true)]
    root: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build the prompt tables with their data card and leak audit.
    BuildData {
        /// The folder with the published prompt sets, in place of `datasets/sources`.
        #[arg(long, value_name = "DIR")]
        from: Option<PathBuf>,
        /// Exit with 0 although sources are missing; they are listed all the same.
        #[arg(long)]
        allow_missing: bool,
    },
    /// Train the students against the frozen teacher; goes on where an earlier run stopped.
    Distill {
        /// A student of the pipeline, or `all`.
        #[arg(long, default_value = ALL)]
        student: String,
    },
    /// Make the images of the validation prompts, or of any others.
    Generate {
        /// `teacher`, `real` (rendered ground truth), a student, or `all`; for prompts given here `teacher` (where nothing is said), a
        /// student or the folder of one.
        #[arg(long)]
        encoder: Option<String>,
        #[command(flatten)]
        free: prompts::Options,
    },
    /// Score the images of all encoders.
    Evaluate,
    /// Write the report and print its path; with two runs, print their differences.
    Report {
        #[command(flatten)]
        comparison: compare::Options,
        /// Put the pictures into the page instead of a folder beside it, as many as fit.
        #[arg(long, conflicts_with = "runs")]
        single_file: bool,
    },
    /// Write a page on which people choose between the images of two encoders without knowing which is which.
    PreferencePage {
        /// An encoder with images.
        #[arg(value_name = "A")]
        first: String,
        /// Another one.
        #[arg(value_name = "B")]
        second: String,
        /// Prompts to choose on.
        #[arg(long, default_value_t = 60)]
        pairs: usize,
        /// Checks of attention between them.
        #[arg(long, default_value_t = 6)]
        checks: usize,
    },
    /// Say what the votes of a blind preference page show: rates with intervals, tests, strengths.
    Preference(preference::Options),
    /// Compute how many prompts show a difference, or what difference a number of prompts shows.
    Power(power::Options),
    /// All stages, from the prompts to the report; prints its path.
    Run,
    /// The paper's tables and figures beside what this project measures; makes the runs they need.
    Reproduce(reproduce::Options),
    /// Train the networks of the miniature world and write them into the pipeline's folder.
    Bootstrap {
        /// A part, or `all`.
        #[arg(long, default_value = ALL)]
        part: String,
        /// Start from the weights that are already there. Of the autoencoder only the decoder is then trained, since latents made before
        /// must stay valid.
        #[arg(long = "continue")]
        warm_start: bool,
    },
    /// Bring published prompt sets here, make a small table of a huge one, hand on built ones.
    Data {
        #[command(subcommand)]
        command: data::Command,
    },
    /// Write a finished student for others to load: diffusers, ComfyUI, GGUF; prints the folder.
    Export(export::Options),
    /// Fetch a published model from the Hugging Face hub into the cache of the Python tools, and print its folder.
    FetchModel {
        /// `hf://OWNER/NAME` or `hf://OWNER/NAME@REVISION`.
        model: String,
        /// Reach no network: print the folder if the model is there. `HF_HUB_OFFLINE=1` does the same.
        #[arg(long)]
        offline: bool,
    },
    /// Say what this machine has and what the pipelines lack.
    Doctor,
}

/// Stands for every student or encoder.
const ALL: &str = "all";

/// Does what the command line asks for.
pub fn run(cli: Cli) -> Result<()> {
    let common = &cli.common;
    match &cli.command {
        Command::Doctor => {
            print!("{}", doctor::report(common.root()));
            return Ok(());
        }
        Command::Data { command } => return data::run(command, common),
        Command::Preference(options) => return preference::run(options),
        Command::Export(options) => return export::run(options, common.dry_run),
        Command::Reproduce(options) => return reproduce::run(options, common),
        Command::FetchModel { model, offline } => return fetch_model(model, *offline || common.dry_run),
        Command::Power(options) => {
            let answer = power::answer(options)?;
            println!("{}", answer.number);
            eprintln!("{}", answer.sentence);
            return Ok(());
        }
        Command::Report { comparison, .. } if !comparison.runs.is_empty() => {
            // Runs may lie where there is no pipeline; then the usual tests.
            let none = common.pipeline == config::DEFAULT && !config::names(common.root()).iter().any(|name| name == config::DEFAULT);
            let evaluate = if none { metrics::evaluate::Config::default() } else { common.load()?.experiment.evaluate };
            return compare::run(comparison, common.root(), &evaluate.tests, &evaluate.bootstrap);
        }
        _ => {}
    }
    let mut pipeline = common.load()?;
    if let Command::PreferencePage { first, second, pairs, checks } = cli.command {
        return pipeline.preference_page(first, second, pairs, checks, common.dry_run);
    }
    if let Command::Generate { encoder, free } = &cli.command
        && free.asked_for()
    {
        return prompts::run(free, encoder.as_deref(), &pipeline, common.dry_run);
    }
    if let Command::Report { single_file: true, .. } = cli.command {
        pipeline.experiment.report.pictures = report::Place::Inside;
    }
    if let Command::BuildData { from: Some(from), .. } = &cli.command {
        pipeline.context.sources = from.clone();
    }
    let chosen = |name: &str, all: Vec<String>| if name == ALL { all } else { vec![name.to_owned()] };
    let steps: Vec<Step> = match &cli.command {
        Command::BuildData { .. } => vec![pipeline.build_data()?],
        Command::Distill { student } => {
            chosen(student, pipeline.students()).iter().map(|name| pipeline.distill(name)).collect::<Result<_>>()?
        }
        Command::Generate { encoder, .. } => chosen(encoder.as_deref().unwrap_or(ALL), pipeline.encoders())
            .iter()
            .map(|name| pipeline.generate(name))
            .collect::<Result<_>>()?,
        Command::Evaluate => vec![pipeline.evaluate()?],
        Command::Report { .. } => vec![pipeline.report()?],
        Command::Run => pipeline.all()?,
        Command::Bootstrap { part, warm_start } => {
            let start = if *warm_start { Start::FromWeights } else { Start::Anew };
            let all = Part::ALL.map(|part| part.name().to_owned()).to_vec();
            chosen(part, all).iter().map(|name| pipeline.bootstrap(name, start)).collect::<Result<_>>()?
        }
        Command::Doctor
        | Command::Data { .. }
        | Command::Export(_)
        | Command::FetchModel { .. }
        | Command::Preference(_)
        | Command::PreferencePage { .. }
        | Command::Power(_)
        | Command::Reproduce(_) => Vec::new(),
    };
    if common.dry_run {
        for line in pipeline.plan(&steps)? {
            println!("{line}");
        }
        return Ok(());
    }
    match (pipeline.execute(steps), &cli.command) {
        (Err(error @ Error::Partial { .. }), Command::BuildData { allow_missing: true, .. }) => eprintln!("{error}"),
        (outcome, _) => outcome?,
    }
    if matches!(cli.command, Command::Report { .. } | Command::Run) {
        println!("{}", pipeline.page().display());
    }
    Ok(())
}

fn fetch_model(address: &str, offline: bool) -> Result<()> {
    let named = hub::Model::named(address);
    let model = named.ok_or_else(|| Error::config(format!("`{address}` is no address of a model"), "write hf://OWNER/NAME"))??;
    let offline = offline || std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| !["", "0"].contains(&value.as_str()));
    let folder = match offline {
        true => model.snapshot(&hub::cache())?,
        false => data_hub::fetch(&model, &data_hub::endpoint(), &hub::cache(), &Client::new(), |name| eprintln!("{name}"))?,
    };
    println!("{}", folder.display());
    Ok(())
}

impl Common {
    /// The root; the current folder as an empty path, so that messages show `runs/…` and not `./runs/…`.
    fn root(&self) -> &Path {
        self.root.strip_prefix(".").unwrap_or(&self.root)
    }

    fn load(&self) -> Result<Pipeline> {
        self.load_named(&self.pipeline)
    }

    fn load_named(&self, name: &str) -> Result<Pipeline> {
        let mut pipeline = Pipeline::load(self.root(), name)?;
        pipeline.context.force = self.force;
        if self.tiny { pipeline.tiny() } else { Ok(pipeline) }
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
