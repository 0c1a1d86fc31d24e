//! Two million synthetic LAION rows scanned, cleaned, filtered, freed of near duplicates and written: seconds of each phase and
//! peak memory. `benches/peer/build_data.py` does the same with polars and `datasets`. Then CommonText, made and written.
//!
//! `cargo bench --bench build_data -- FOLDER [ROWS]` keeps the table in FOLDER for the twin; without one it is made anew.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use scaledown::data::clean;
use scaledown::data::schema::PromptRow;
use scaledown::data::sources::PromptSource;
use scaledown::data::sources::commontext::{self, CommonText};
use scaledown::data::sources::laion::{Config, Laion, write_captions};
use scaledown::data::tokens::{self, Counters};
use scaledown::error::Result;
use scaledown::run::rng::{self, Key};

/// Rows of the table, and of one of its row groups.
const ROWS: usize = 2_000_000;
const GROUP: usize = 100_000;

const ADJECTIVES: &str = "red blue old new quiet stormy golden small huge broken wooden ancient modern green white bright dark misty frozen sunny rusty \
    painted marble velvet crowded empty distant northern royal wild";
const NOUNS: &str = "lighthouse bridge castle garden market harbour forest tower river valley village church horse eagle boat train station mountain \
    lake desert island city street window door portrait kitchen bedroom dress guitar piano violin teapot vase carpet clock";
const PLACES: &str = "in Paris|at sunset|by the sea|on a winter morning|near the old town|under a cloudy sky|with flowers|for the living room|in \
    the style of the 1920s|seen from above|after the rain|at night|during the festival|in black and white|on canvas";
const NOISE: [&str; 14] = [
    " - Stock Photo",
    " &amp; more",
    " | www.example.com",
    " http://example.org/p?id=3",
    " IMG_2034.jpg",
    "  ",
    "\u{200B}",
    " caf\u{65}\u{301}",
    " &quot;limited edition&quot;",
    " &#8211; 24x36",
    ", Royalty Free Image",
    " call 555-010-4477",
    " <b>new</b>",
    " \u{2013} Set of 4",
];

/// One caption: most are plain, a third carries noise, some repeat others, some are of another language.
fn caption(row: u64) -> String {
    // One row in twelve says what another one says, in other letters; one in twelve adds a word to it.
    let (item, twist) = match row % 12 {
        0 => (row / 24, 1),
        1 => (row / 24, 2),
        _ => (row, 0),
    };
    let mut rng = rng::stream(Key { seed: 1, purpose: "captions", item, draw: 0 });
    let of = |words: &'static str| words.split_whitespace().collect::<Vec<_>>();
    let (adjectives, nouns, places) = (of(ADJECTIVES), of(NOUNS), PLACES.split('|').collect::<Vec<_>>());
    let mut text = String::new();
    if rng::below(&mut rng, 20) == 0 {
        text.push_str("Das Bild von der Stadt mit einer ");
    }
    for _ in 0..1 + rng::below(&mut rng, 3) {
        let (a, b, c) = (rng::pick(&mut rng, &adjectives), rng::pick(&mut rng, &nouns), rng::pick(&mut rng, &places));
        text.push_str(&format!("{} {b} {c} ", a.to_uppercase().chars().take(1).chain(a.chars().skip(1)).collect::<String>()));
    }
    text.push_str(&format!("no {}", rng::below(&mut rng, 3000)));
    if rng::below(&mut rng, 3) == 0 {
        text.push_str(NOISE[rng::below(&mut rng, NOISE.len())]);
    }
    match twist {
        1 => text.to_uppercase(),
        2 => text + " print",
        _ => text,
    }
}

fn write_table(path: &Path, rows: usize) -> Result<()> {
    use rayon::prelude::*;
    let batch = |start: usize| -> Result<RecordBatch> {
        let range = start..(start + GROUP).min(rows);
        let number = |row: usize, purpose| rng::uniform(&mut rng::stream(Key { seed: 1, purpose, item: row as u64, draw: 0 }));
        let captions: Vec<String> = range.clone().into_par_iter().map(|row| caption(row as u64)).collect();
        let columns: Vec<(&str, ArrayRef)> = vec![
            (
                "URL",
                Arc::new(StringArray::from_iter_values(
                    range.clone().map(|row| format!("https://images.example.com/{row:09x}/{:016x}.jpg", rng::text_id(&row.to_string()))),
                )),
            ),
            ("TEXT", Arc::new(StringArray::from(captions))),
            ("WIDTH", Arc::new(Int64Array::from_iter_values(range.clone().map(|row| 512 + row as i64 % 1024)))),
            // From 6.4 to 7.4: nine of ten pass.
            ("AESTHETIC_SCORE", Arc::new(Float64Array::from_iter_values(range.clone().map(|row| 6.4 + number(row, "score"))))),
            ("punsafe", Arc::new(Float64Array::from_iter_values(range.clone().map(|row| number(row, "unsafe").powi(4))))),
            ("pwatermark", Arc::new(Float64Array::from_iter_values(range.map(|row| number(row, "watermark"))))),
        ];
        Ok(RecordBatch::try_from_iter(columns)?)
    };
    let schema = batch(0)?.schema();
    // As the published tables are.
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).set_max_row_group_row_count(Some(GROUP)).build();
    scaledown::run::files::write_atomic(path, |file| {
        let mut writer = ArrowWriter::try_new(file, schema, Some(properties))?;
        for start in (0..rows).step_by(GROUP) {
            writer.write(&batch(start)?)?;
        }
        writer.close()?;
        Ok(())
    })
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let rows = arguments.get(1).map_or(Ok(ROWS), |rows| rows.parse()).expect("the second argument is a number of rows");
    let temporary = tempfile::tempdir().expect("a temporary folder can be made");
    let folder: PathBuf = arguments.first().map_or_else(|| temporary.path().to_owned(), PathBuf::from);
    let table = folder.join(format!("laion-{rows}.parquet"));
    if !table.exists() {
        eprintln!("writing {}", table.display());
        write_table(&table, rows)?;
    }
    let config = Config { files: vec![table.clone()], sample: None, ..Config::default() };
    let laion = Laion { config, clean: clean::Config::default(), tokenizers: tokens::Config::default(), folder: PathBuf::new(), seed: 1 };
    let out = folder.join("ours.parquet");

    let mut phases: Vec<(&str, f64)> = Vec::new();
    let begun = Instant::now();
    let mut started = begun;
    let mut phase = |name| {
        phases.push((name, started.elapsed().as_secs_f64()));
        started = Instant::now();
    };
    let (pool, counts) = laion.scan(None)?;
    phase("scan, filter, clean, flag");
    let (captions, _) = pool.finish();
    phase("exact duplicates");
    let counters = Counters::default();
    let drawn = captions.draw(&laion.draw(&counters))?;
    phase("near duplicates");
    write_captions(&out, &drawn)?;
    phase("write");
    let seconds = begun.elapsed().as_secs_f64();

    for (name, seconds) in phases {
        println!("{name:28} {seconds:7.2} s");
    }
    println!("{:28} {seconds:7.2} s  ({:.0} rows/s)", "overall", rows as f64 / seconds);
    println!(
        "rows {}, passed {}, exact duplicates {}, near duplicates {}, written {}",
        counts.rows,
        counts.passed,
        drawn.exact_duplicates,
        drawn.near_duplicates,
        drawn.captions.len()
    );
    println!("low score {}, too short {}, flagged {}", counts.low_score, counts.too_short, counts.flagged);
    match peak_memory() {
        Some(mebibytes) => println!("{:28} {mebibytes:7.0} MiB", "peak memory"),
        None => println!("peak memory unknown on this system"),
    }
    commontext(&folder)
}

/// The 51,000 prompts of the paper and the held-out ones, drawn and written as one table.
fn commontext(folder: &Path) -> Result<()> {
    let begun = Instant::now();
    let source = CommonText::new(&commontext::Config::default(), folder, 1);
    let mut prompts = source.read()?.prompts;
    let drawn = begun.elapsed().as_secs_f64();
    for prompt in &mut prompts {
        (prompt.source, prompt.licence) = (source.name(), source.licence());
    }
    PromptRow::write(&folder.join("commontext.parquet"), &PromptRow::from_raw(&prompts))?;
    let seconds = begun.elapsed().as_secs_f64();
    println!("{:28} {seconds:7.2} s  ({} prompts, drawn in {drawn:.2} s)", "CommonText", prompts.len());
    Ok(())
}

/// Largest resident size of this process so far, the making of the table included.
fn peak_memory() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kibibytes: f64 = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kibibytes / 1024.0)
}
