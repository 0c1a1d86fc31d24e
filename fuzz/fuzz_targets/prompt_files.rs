//! A file of the user in each text format, with and without a mapping of columns: prompts, or one error that names the file.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use scaledown::data::sources::PromptSource;
use scaledown::data::sources::text_file::{FileConfig, TextFile};

/// Memory where the system has such a folder.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let parent = if memory.is_dir() { memory } else { std::env::temp_dir() };
    let folder = parent.join(format!("scaledown-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder can be made");
    folder
});

const MAPPING: &str = "prompt_column = 'a'\ncategory_column = 'b'\ntarget_column = 'c'\nlimit = 3";

fuzz_target!(|bytes: &[u8]| {
    for ending in ["txt", "json", "jsonl", "csv"] {
        let name = format!("a.{ending}");
        std::fs::write(FOLDER.join(&name), bytes).expect("the file can be written");
        for more in ["target_text = 'quoted'", MAPPING] {
            let text = format!("dataset = 'laion'\npath = '{name}'\nlicence = 'CC0'\n{more}");
            let config: FileConfig = toml::from_str(&text).expect("the entry is valid");
            match TextFile::new(&config, &FOLDER).read() {
                Ok(reading) => assert!(reading.prompts.len() <= bytes.len()),
                Err(error) => assert!(error.to_string().contains(&name), "{error}"),
            }
        }
    }
});
