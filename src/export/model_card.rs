//! `README.md` of an exported folder: what the weights are, where they come from, what was measured, how to load them.

use std::fmt::Write;
use std::path::Path;

use super::Target;
use super::provenance::{Figures, Provenance};
use crate::error::Result;
use crate::run::files;

/// The card.
pub const FILE: &str = "README.md";

/// Writes the card; `loading` says in Markdown how to load what lies beside it.
pub(super) fn write(provenance: &Provenance, target: Target, loading: &str, folder: &Path) -> Result<()> {
    files::write_bytes(&folder.join(FILE), text(provenance, target, loading)?.as_bytes())
}

/// The card as Markdown, with the front matter that model hubs read.
pub fn text(provenance: &Provenance, target: Target, loading: &str) -> Result<String> {
    let Provenance { card, weights_sha256, teacher, manifest, licence, figures } = provenance;
    let mut front = String::from("---\n");
    front.extend(licence.iter().map(|licence| format!("license: {licence}\n")));
    if target == Target::Diffusers {
        front.push_str("library_name: transformers\n");
    }
    front.push_str("tags: [text-encoder, t5, distillation, text-to-image]\n---\n");
    let objective = match card.objective.as_str() {
        "vision" => "through the frozen denoiser: equal predictions along the teacher's trajectory",
        "naive" => "on the embeddings: equal text, without the denoiser",
        _ => "not at all: these are the weights that a training would start from",
    };
    let teacher = match teacher {
        Some((file, sha256)) => format!("`{}`, weights `{file}`, SHA-256 `{sha256}`", card.teacher),
        None => format!("`{}` with random weights, seed {}: good for tests only", card.teacher, manifest.seed),
    };
    let licence = match licence {
        Some(licence) => format!("`{licence}`, as stated by whoever exported the weights."),
        None => {
            "None was stated on export. Before you hand these weights on, look at the licences of the teacher, of the starting weights \
                 and of the prompts."
                .to_owned()
        }
    };
    let mut page = format!(
        "{front}# {name}\n\nA text encoder for text-to-image diffusion models: a T5 encoder of the size `{preset}` ({encoder} weights) with a \
         projection of its {width} channels to the {text_width} that the denoiser reads ({all} weights in all). It was distilled by \
         [scaledown](https://arxiv.org/abs/2503.19897) {version} from a teacher with {teacher_parameters} weights.\n\n\
         | | |\n|---|---|\n\
         | teacher | {teacher} |\n\
         | student | SHA-256 `{weights_sha256}` of its f32 weights |\n\
         | trained | {objective} |\n\
         | updates | {updates}, of {batch} prompts each, seed {seed}, {seconds:.0} s |\n\
         | tokens | {tokens} per prompt |\n\
         | units of the projection that never fire | {dead:.1} % |\n\
         | variance of the text, divided by the teacher's | {variance:.2} |\n\n\
         ## How to load it\n\n{loading}\n## What was measured\n\n",
        name = card.name,
        preset = card.preset,
        encoder = card.parameters_without_projection,
        width = card.width,
        text_width = card.text_width,
        all = card.parameters,
        version = manifest.version,
        teacher_parameters = card.teacher_parameters,
        updates = card.updates,
        batch = card.batch,
        seed = card.seed,
        seconds = card.seconds,
        tokens = card.token_length,
        dead = 100.0 * card.dead_units,
        variance = card.variance_ratio,
    );
    match figures {
        Figures::Unknown(why) => {
            page.push_str(&format!("Nothing: {why}.\n"));
        }
        Figures::Known(rows) => {
            page.push_str("Over all prompts of the run; intervals are 95 %, by bootstrap over prompts.\n\n");
            page.push_str("| metric | encoder | value | interval | n | unit | better | protocol |\n|---|---|---|---|---|---|---|---|\n");
            for row in rows {
                let value = [row.value, row.ci_low, row.ci_high].map(|number| format!("{number:.3}"));
                page.push_str(&format!(
                    "| {} | {} | {} | [{}, {}] | {} | {} | {} | {} |\n",
                    row.metric, row.encoder, value[0], value[1], value[2], row.n, row.unit, row.direction, row.protocol
                ));
            }
        }
    }
    let settings = provenance.settings()?;
    let commit = manifest.commit.as_deref().map(|commit| format!(", commit {commit}")).unwrap_or_default();
    // Writing to a text does not fail.
    let _ = write!(
        page,
        "\n## Settings of the training\n\nPipeline seed {}, scaledown {}{commit}.\n\n```toml\n{settings}```\n\n## Licence\n\n{licence}\n",
        manifest.seed, manifest.version
    );
    Ok(page)
}
