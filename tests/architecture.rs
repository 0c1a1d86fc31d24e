//! Keeps what `ARCHITECTURE.md` promises: the direction of imports, the files that may hold `unsafe`, the size of files.

use std::fs;
use std::path::{Path, PathBuf};

/// Lines a source file may have; past that it is split by noun.
const LONGEST_FILE: usize = 500;

/// Level of every top-level module; a module imports lower levels and its own tree only.
const LEVELS: [(&str, usize); 18] = [
    ("error", 0),
    ("run", 1),
    ("nn", 1),
    ("models", 2),
    ("data", 2),
    ("stats", 2),
    ("diffusion", 3),
    ("mini", 3),
    ("distill", 4),
    ("export", 4),
    ("metrics", 4),
    ("preference", 4),
    ("report", 4),
    ("cli", 5),
    ("config", 5),
    ("doctor", 5),
    ("main", 5),
    ("stages", 5),
];

/// Parts of lower modules that are stages and so stand on level 4.
const STAGES: [&str; 3] = ["data::build", "diffusion::generate", "mini::bootstrap"];

/// The module tree a path belongs to, with its level: `data::build::card` → (`data::build`, 4).
fn tree(path: &str) -> Option<(String, usize)> {
    if let Some(stage) = STAGES.iter().find(|stage| path == **stage || path.starts_with(&format!("{stage}::"))) {
        return Some(((*stage).to_owned(), 4));
    }
    let top = path.split("::").next()?;
    LEVELS.iter().find(|(name, _)| *name == top).map(|&(name, level)| (name.to_owned(), level))
}

/// `src/data/build/card.rs` → `data::build::card`.
fn module_of(file: &Path) -> String {
    let inner = file.strip_prefix("src").unwrap().with_extension("");
    let parts: Vec<_> = inner.iter().map(|part| part.to_string_lossy().into_owned()).filter(|part| part != "mod").collect();
    parts.join("::")
}

fn sources() -> Vec<(PathBuf, String)> {
    fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(".");
    let mut found = Vec::new();
    collect(&root.join("src"), &mut found);
    found.sort();
    found.into_iter().map(|path| (path.strip_prefix(root).unwrap().to_owned(), fs::read_to_string(&path).unwrap())).collect()
}

/// The source with comments and the contents of literals blanked, line breaks kept, so that only code is searched.
fn code_of(text: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut i = 0;
    // Writes a blank for everything up to `end`, but keeps the line breaks.
    let blank = |code: &mut String, from: usize, end: usize| {
        code.extend(letters[from..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
    };
    while i < letters.len() {
        let rest = &letters[i..];
        let end = match rest {
            ['/', '/', ..] => i + rest.iter().position(|&c| c == '\n').unwrap_or(rest.len()),
            ['/', '*', ..] => i + (2..rest.len()).find(|&k| rest[k - 1] == '*' && rest[k] == '/').map_or(rest.len(), |k| k + 1),
            ['r', '#', '"', ..] => i + (3..rest.len()).find(|&k| rest[k - 1] == '"' && rest[k] == '#').map_or(rest.len(), |k| k + 1),
            ['"', ..] => {
                let mut k = 1;
                while k < rest.len() && rest[k] != '"' {
                    k += if rest[k] == '\\' { 2 } else { 1 };
                }
                (i + k + 1).min(letters.len())
            }
            // A character, not a lifetime.
            ['\'', '\\', ..] => i + (2..rest.len()).find(|&k| k > 2 && rest[k] == '\'').map_or(rest.len(), |k| k + 1),
            ['\'', _, '\'', ..] => i + 3,
            _ => {
                code.push(letters[i]);
                i += 1;
                continue;
            }
        };
        blank(&mut code, i, end);
        i = end;
    }
    code
}

/// The part of a file before its tests: tests may use anything.
fn without_tests(code: &str) -> &str {
    code.find("#[cfg(test)]").map_or(code, |at| &code[..at])
}

/// Paths below `crate` that the code of `module` names, with their lines; groups in braces are taken apart and
/// `super` is resolved.
fn imports(module: &str, is_mod_file: bool, code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let parts: Vec<&str> = module.split("::").collect();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
            expand("", &code[at + "crate::".len()..], &mut |path| found.push((at, path)));
        }
    }
    for (at, _) in code.match_indices("super::") {
        let before = code[..at].chars().next_back();
        if before == Some(':') || before.is_some_and(char::is_alphanumeric) {
            continue;
        }
        let mut rest = &code[at..];
        // `super` in `a/mod.rs` is the parent of `a`; in `a/b.rs` it is `a`: both are one step up from the module.
        let mut depth = parts.len();
        while let Some(next) = rest.strip_prefix("super::") {
            depth = depth.saturating_sub(1);
            rest = next;
        }
        // Inside an inline module `super` means less; those outside of tests do not occur.
        let _ = is_mod_file;
        let prefix = parts[..depth].join("::");
        expand(&prefix, rest, &mut |path| found.push((at, path)));
    }
    found.into_iter().map(|(at, path)| (1 + code[..at].matches('\n').count(), path)).collect()
}

/// Calls `visit` for every path that starts at `rest`, which may open a group: `data::{a, b::c}`.
fn expand(prefix: &str, rest: &str, visit: &mut impl FnMut(String)) {
    let join = |name: &str| match (prefix.is_empty(), name.is_empty()) {
        (true, _) => name.to_owned(),
        (_, true) => prefix.to_owned(),
        _ => format!("{prefix}::{name}"),
    };
    let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(rest.len());
    let (path, rest) = rest.split_at(end);
    match path.strip_suffix("::") {
        Some(head) if rest.starts_with('{') => group(&join(head), rest, visit),
        _ if path.is_empty() && rest.starts_with('{') => group(prefix, rest, visit),
        _ => visit(join(path.trim_end_matches(':'))),
    }
}

fn group(prefix: &str, rest: &str, visit: &mut impl FnMut(String)) {
    let mut depth = 0;
    let mut start = 1;
    for (i, c) in rest.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if (c == ',' && depth == 1) || (c == '}' && depth == 0) {
            let item = rest[start..i].trim();
            if !item.is_empty() {
                expand(prefix, item, visit);
            }
            start = i + 1;
        }
        if depth == 0 {
            return;
        }
    }
}

/// Why `module` must not import `path`, if so.
fn forbidden(module: &str, path: &str) -> Option<String> {
    let (from, from_level) = tree(module)?;
    let (to, to_level) = tree(path)?;
    if from == to || to_level < from_level || from_level == 5 {
        return None;
    }
    Some(format!("`{from}` (level {from_level}) imports `{path}` (level {to_level})"))
}

#[test]
fn imports_point_to_lower_levels_or_the_own_tree() {
    let mut broken = Vec::new();
    for (file, text) in sources() {
        let module = module_of(&file);
        if module == "lib" {
            continue;
        }
        assert!(tree(&module).is_some(), "{}: the module has no level; add it to LEVELS and to ARCHITECTURE.md", file.display());
        let code = code_of(&text);
        for (line, path) in imports(&module, file.ends_with("mod.rs"), without_tests(&code)) {
            if let Some(why) = forbidden(&module, &path) {
                broken.push(format!("{}:{line}: {why}", file.display()));
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn unsafe_code_stands_in_the_listed_files_only() {
    let listed = ["src/run/alloc.rs", "src/models/mapped.rs"];
    let allowed = |file: &Path| listed.iter().any(|listed| file == Path::new(listed)) || file.parent() == Some(Path::new("src/nn/cpu"));
    let mut broken = Vec::new();
    for (file, text) in sources() {
        for (i, line) in code_of(&text).lines().enumerate() {
            let holds = line.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == "unsafe");
            if holds && !allowed(&file) {
                broken.push(format!("{}:{}: unsafe", file.display(), i + 1));
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn files_are_short_have_a_header_and_no_leftovers() {
    // Taken apart, so that this file does not find itself.
    let leftovers = [concat!("to", "do!("), concat!("unimple", "mented!("), concat!("d", "bg!("), concat!("FIX", "ME")];
    let mut broken = Vec::new();
    for (file, text) in sources() {
        let lines = text.lines().count();
        if lines > LONGEST_FILE {
            broken.push(format!("{}: {lines} lines, at most {LONGEST_FILE} are allowed", file.display()));
        }
        if !text.starts_with("//! ") {
            broken.push(format!("{}:1: the file does not start with `//!`", file.display()));
        }
        for (i, line) in text.lines().enumerate() {
            for leftover in leftovers.iter().filter(|leftover| line.contains(**leftover)) {
                broken.push(format!("{}:{}: `{leftover}`", file.display(), i + 1));
            }
            // Folders of one machine; `/proc` and `/dev` are the system's.
            if ["\"/root", "\"/home", "\"/work", "\"/tmp", "\"/Users"].iter().any(|path| line.contains(path)) {
                broken.push(format!("{}:{}: absolute path", file.display(), i + 1));
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn no_unwrap_outside_tests() {
    let mut broken = Vec::new();
    // A file of this name is a module of tests as a whole.
    for (file, text) in sources().into_iter().filter(|(file, _)| file.file_name() != Some("tests.rs".as_ref())) {
        let code = code_of(&text);
        for (i, line) in without_tests(&code).lines().enumerate() {
            if line.contains(".unwrap()") {
                broken.push(format!("{}:{}: unwrap", file.display(), i + 1));
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

/// Rows of `docs/parity.md` are `| network | step | reference | error | tolerance | fixture | test |`, the last two in backticks.
fn parity_rows(text: &str) -> Vec<(Vec<String>, String)> {
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let rows = text.lines().filter(|line| line.starts_with('|')).map(cells).skip(2);
    rows.map(|mut row| {
        assert_eq!(row.len(), 7, "{row:?}");
        let test = row.pop().unwrap().trim_matches('`').to_owned();
        // Several fixtures are separated by commas; `–` stands for a reference that runs inside the test.
        let fixtures = row.pop().unwrap();
        (fixtures.split(',').map(|name| name.trim().trim_matches('`').to_owned()).filter(|name| name != "–").collect(), test)
    })
    .collect()
}

/// `file::name` of every test in the files that compare with a reference.
fn parity_tests() -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("tests").unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        if !path.is_file() || !(stem.starts_with("parity_") || stem == "checkpoints") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for part in text.split("#[test]\n").skip(1) {
            let name = part.trim_start().strip_prefix("fn ").unwrap().split('(').next().unwrap();
            found.push(format!("{stem}::{name}"));
        }
    }
    found.sort();
    found
}

#[test]
fn every_parity_test_has_its_row_and_every_row_its_test_and_fixture() {
    let rows = parity_rows(&fs::read_to_string("docs/parity.md").unwrap());
    let mut named: Vec<String> = rows.iter().map(|(_, test)| test.clone()).collect();
    named.sort();
    named.dedup();
    assert_eq!(named, parity_tests(), "left: rows of docs/parity.md; right: tests");
    for fixture in rows.iter().flat_map(|(fixtures, _)| fixtures) {
        assert!(Path::new("tests/fixtures").join(fixture).exists(), "docs/parity.md names the fixture `{fixture}`, which is not there");
    }
}

/// The checks above must be able to fail.
#[test]
fn the_checks_see_what_they_are_for() {
    let code =
        code_of("use crate::{error::Error, mini::{scene, words}};\n// crate::cli\nlet s = \"crate::cli\";\nsuper::super::report::page();");
    let found = imports("metrics::ocr", false, &code);
    let expected = [(1, "error::Error"), (1, "mini::scene"), (1, "mini::words"), (4, "report::page")];
    assert_eq!(found, expected.map(|(line, path)| (line, path.to_owned())));
    assert!(forbidden("metrics::ocr", "report::page").is_some());
    assert!(forbidden("data::build", "mini::grammar").is_none());
    assert!(forbidden("data::clean", "mini::grammar").is_some());
    assert!(forbidden("data::clean", "data::build").is_some());
    assert!(forbidden("mini::bootstrap::denoiser", "mini::scene").is_none());
    assert!(forbidden("mini::bootstrap", "metrics::ocr").is_some());
    assert!(forbidden("nn::optim", "run::rng").is_some());
    assert!(forbidden("report::compare", "stats::paired").is_none());
    assert!(forbidden("stats::paired", "metrics::summary").is_some());
    assert!(forbidden("models::t5", "nn::param").is_none());
    assert!(!code_of("'\\'' 'a' \"un\\\"safe\" unsafe").trim_end().is_empty());
    assert_eq!(code_of("let c = '\"'; unsafe").matches("unsafe").count(), 1);
}
