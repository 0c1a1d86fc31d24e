//! What is read of tables of captions, and what is said of those that cannot be read.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Float64Array, Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

use super::*;

/// Writes a table in row groups of `group` rows.
fn write(path: &Path, group: usize, columns: Vec<(&str, ArrayRef)>) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(group)).build();
    let mut writer = ArrowWriter::try_new(std::fs::File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn captions(path: &Path, group: usize, rows: &[(Option<&str>, Option<f64>)]) {
    let text: StringArray = rows.iter().map(|row| row.0).collect();
    let score: Float64Array = rows.iter().map(|row| row.1).collect();
    let p_unsafe: Float64Array = rows.iter().map(|row| row.0.map(|text| if text.contains("fog") { 0.9 } else { 0.1 })).collect();
    write(path, group, vec![("TEXT", Arc::new(text)), ("AESTHETIC_SCORE", Arc::new(score)), ("punsafe", Arc::new(p_unsafe))]);
}

fn laion(folder: &Path) -> Laion {
    Laion {
        config: Config::default(),
        clean: clean::Config::default(),
        tokenizers: tokens::Config::default(),
        folder: folder.into(),
        seed: 7,
    }
}

fn rows(reading: &Reading, filter: &str) -> u64 {
    reading.removed.iter().find(|removed| removed.filter.starts_with(filter)).unwrap_or_else(|| panic!("{filter}")).rows
}

#[test]
fn every_filter_counts_what_it_leaves_out() {
    let folder = tempfile::tempdir().unwrap();
    let long = "word ".repeat(500);
    let huge = "x".repeat(10 << 20);
    let bridge = "The old stone bridge over the quiet river in the north of the valley with tall green trees and a small boat";
    let bridge_again = format!("{bridge} today");
    captions(
        &folder.path().join("laion/a.parquet"),
        3,
        &[
            (Some("Caf&eacute; at night - http://example.com"), Some(6.5)),
            (Some("CAFÉ AT NIGHT!"), Some(7.0)),
            (None, Some(7.0)),
            (Some("a low score"), Some(6.49)),
            (Some("no score"), None),
            (Some("not a number"), Some(f64::NAN)),
            (Some("IMG_1234.jpg"), Some(7.0)),
            (Some("-- ??"), Some(7.0)),
            (Some(&long), Some(7.0)),
            (Some(&huge), Some(7.0)),
            (Some("a naked tree"), Some(7.0)),
            (Some("the harbour in fog"), Some(7.0)),
            (Some("Der Hund und die Katze auf dem Sofa"), Some(7.0)),
            (Some(bridge), Some(8.0)),
            (Some(&bridge_again), Some(8.0)),
        ],
    );
    let reading = laion(folder.path()).read().unwrap();
    let mut kept: Vec<&str> = reading.prompts.iter().map(|prompt| prompt.prompt.as_str()).collect();
    kept.sort_unstable();
    assert_eq!(kept.len(), 2);
    assert_eq!(kept[0], "CAFÉ AT NIGHT!");
    assert!(kept[1].starts_with(bridge), "{kept:?}");
    assert_eq!(rows(&reading, "no caption"), 1);
    assert_eq!(rows(&reading, "score below 6.5"), 3);
    assert_eq!(rows(&reading, "fewer than 3 characters or no word"), 2);
    assert_eq!(rows(&reading, "more than 2000 characters"), 2);
    assert_eq!(rows(&reading, "flagged"), 3);
    assert_eq!(rows(&reading, "equal to another"), 1);
    assert_eq!(rows(&reading, "nearly equal"), 1);
    assert_eq!(rows(&reading, "not drawn"), 0);
    assert_eq!(reading.removed.iter().map(|removed| removed.rows).sum::<u64>() + 2, 15);
}

/// Captions of which many are equal or nearly so.
fn many() -> Vec<String> {
    let things = ["lighthouse", "market", "castle", "garden", "bridge", "harbour", "forest", "tower"];
    let of = |i: usize| {
        let (a, b) = (things[i % 8], things[i / 8 % 8]);
        format!("A {a} beside the {b} number {} on a long and quiet summer evening by the sea, photo {}", i % 700, i % 3)
    };
    (0..4000).map(of).collect()
}

fn shards(folder: &Path, captions_of: &[String], per_file: usize, group: usize) {
    for (i, part) in captions_of.chunks(per_file).enumerate() {
        let rows: Vec<_> = part.iter().map(|text| (Some(text.as_str()), Some(7.0))).collect();
        captions(&folder.join(format!("laion/part-{i:03}.parquet")), group, &rows);
    }
}

#[test]
fn the_written_table_is_the_same_byte_for_byte_with_any_threads_and_order_of_shards() {
    let written = |captions: &[String], per_file, group, threads| {
        let folder = tempfile::tempdir().unwrap();
        shards(folder.path(), captions, per_file, group);
        let mut source = laion(folder.path());
        source.config.sample = Some(300);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let out = folder.path().join("out.parquet");
        let (drawn, removed) = pool.install(|| source.write(&out)).unwrap();
        assert_eq!(drawn, 300);
        (std::fs::read(&out).unwrap(), removed)
    };
    let mut captions = many();
    let one = written(&captions, 4000, 4000, 1);
    assert_eq!(written(&captions, 4000, 4000, 2), one);
    captions.reverse();
    assert_eq!(written(&captions, 600, 250, 2), one);
    assert!(one.1.iter().any(|removed| removed.filter.starts_with("nearly") && removed.rows > 0), "{:?}", one.1);
}

#[test]
fn a_sample_is_filled_although_most_captions_are_alike() {
    // 20,000 captions, of which ranks below any first budget leave too few: the files are read again.
    let folder = tempfile::tempdir().unwrap();
    let same = |i: usize| {
        format!(
            "The old stone bridge over the quiet river in the far north of the green valley with tall trees and one small white boat {i}"
        )
    };
    let texts: Vec<String> = (0..20_000).map(same).chain((0..40).map(|i| format!("lighthouse {i}"))).collect();
    shards(folder.path(), &texts, 20_040, 20_040);
    let mut source = laion(folder.path());
    source.config.sample = Some(30);
    let reading = source.read().unwrap();
    assert_eq!(reading.prompts.len(), 30);
    let all = {
        source.config.sample = None;
        source.read().unwrap()
    };
    assert_eq!(reading.prompts[..], all.prompts[..30]);
}

#[test]
fn the_seed_decides_the_sample() {
    let folder = tempfile::tempdir().unwrap();
    shards(folder.path(), &many(), 4000, 4000);
    let sample = |seed| {
        let mut source = laion(folder.path());
        (source.seed, source.config.sample) = (seed, Some(100));
        source.read().unwrap().prompts
    };
    assert_ne!(sample(1), sample(2));
    assert_eq!(sample(1), sample(1));
}

#[test]
fn patterns_match_names_and_a_pattern_without_a_match_is_a_missing_file() {
    let folder = tempfile::tempdir().unwrap();
    shards(folder.path(), &many(), 2000, 2000);
    let mut source = laion(folder.path());
    source.config.files = vec!["laion/part-*.parquet".into(), "laion/part-000.parquet".into()];
    assert_eq!(source.files().len(), 2);
    source.config.files = vec!["laion/*.arrow".into()];
    assert!(!source.files()[0].exists());
    assert!(fits(b"part-001.parquet", b"part-??1.*") && !fits(b"part-001.parquet", b"part-?1.*") && fits(b"", b"*"));
    assert!(fits(b"aXbXbc", b"a*b?") && !fits(b"aXbXb", b"a*c*") && fits(b"a", b"**a**") && !fits(b"", b"?"));
    // Would take for ever if every star were tried again.
    assert!(!fits(&[b'a'; 200], b"*a*a*a*a*a*a*a*a*a*a*a*a*b"));
}

#[test]
fn damaged_tables_are_named_with_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("laion/a.parquet");
    let message = || {
        let error = laion(folder.path()).read().unwrap_err().to_string();
        assert!(error.contains("a.parquet"), "{error}");
        error
    };
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, b"").unwrap();
    assert!(message().contains("the file is empty"));
    std::fs::write(&path, b"TEXT,AESTHETIC_SCORE\na red car,7\n").unwrap();
    assert!(message().contains("not a valid parquet file"));
    captions(&path, 1000, &[]);
    assert!(message().contains("no rows"));
    let text: Vec<String> = many();
    let rows: Vec<_> = text.iter().map(|text| (Some(text.as_str()), Some(7.0))).collect();
    captions(&path, 1000, &rows);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(message().contains("not a valid parquet file"));
    let mut broken = bytes.clone();
    broken[200..2000].fill(0xAB);
    std::fs::write(&path, &broken).unwrap();
    assert!(message().contains("row group 0 (rows 0 on)"), "{}", message());
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    write(&path, 1000, vec![("TEXT", numbers.clone()), ("aesthetic", numbers)]);
    assert!(message().contains("column `TEXT` has type Int64, expected text"));
}

#[test]
fn text_that_is_no_utf8_is_named_with_column_row_and_byte() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("laion/a.parquet");
    let score = |n: usize| -> ArrayRef { Arc::new(Float64Array::from(vec![7.0; n])) };
    // The same bytes as text and as binary have the same pages: only the schema in the footer tells them apart.
    let cells: Vec<Option<&[u8]>> = vec![Some(b"a red car"), None, Some(b"a blue car"), Some(b"caf\xE9 at night")];
    let mut bytes = Vec::new();
    {
        use parquet::data_type::{ByteArray, ByteArrayType, DoubleType};
        use parquet::file::writer::SerializedFileWriter;
        let message = "message m { optional binary TEXT (UTF8); required double aesthetic; }";
        let schema = Arc::new(parquet::schema::parser::parse_message_type(message).unwrap());
        let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::new(WriterProperties::builder().build())).unwrap();
        for group in cells.chunks(2) {
            let mut group_writer = writer.next_row_group().unwrap();
            let values: Vec<ByteArray> = group.iter().flatten().map(|&cell| ByteArray::from(cell.to_vec())).collect();
            let levels: Vec<i16> = group.iter().map(|cell| i16::from(cell.is_some())).collect();
            let mut column = group_writer.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
            column.close().unwrap();
            let mut column = group_writer.next_column().unwrap().unwrap();
            column.typed::<DoubleType>().write_batch(&vec![7.0; group.len()], None, None).unwrap();
            column.close().unwrap();
            group_writer.close().unwrap();
        }
        writer.close().unwrap();
    }
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    let error = laion(folder.path()).read().unwrap_err().to_string();
    assert!(error.contains("a.parquet") && error.contains("column `TEXT`, row 3 is no UTF-8 text from its byte 3 on"), "{error}");
    let binary: ArrayRef = Arc::new(cells.into_iter().collect::<BinaryArray>());
    write(&path, 1000, vec![("TEXT", binary), ("aesthetic", score(4))]);
    let error = laion(folder.path()).read().unwrap_err().to_string();
    assert!(error.contains("column `TEXT` has type Binary, expected text"), "{error}");
}

#[test]
fn a_configuration_that_can_draw_nothing_is_refused() {
    let check = |toml: &str| toml::from_str::<Config>(toml).unwrap().check();
    assert!(check("score = 'already-filtered'").is_ok() && check("score = { at-least = 5.5 }").is_ok());
    for toml in ["files = []", "sample = 0", "near_duplicates = 1.5", "score = { at-least = nan }"] {
        assert_eq!(check(toml).unwrap_err().exit_code(), 2, "{toml}");
    }
}

/// Serves `content` by byte range at the loopback until the test ends; returns the address and how many bytes were sent. The first
/// `broken` answers end in the middle.
fn serve(content: Vec<u8>, broken: usize) -> (String, Arc<std::sync::atomic::AtomicU64>) {
    use std::io::{BufRead, BufReader, Write};
    use std::sync::atomic::Ordering;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/captions.parquet", listener.local_addr().unwrap());
    let sent = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counter = sent.clone();
    std::thread::spawn(move || {
        for i in 0.. {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let mut head = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            while reader.read_line(&mut head).unwrap_or(0) > 2 {}
            let head = head.to_lowercase();
            let range = head.lines().find_map(|line| line.strip_prefix("range: bytes=")).unwrap().to_owned();
            let (from, to) = range.split_once('-').unwrap();
            let last = content.len() - 1;
            let (from, to) = match from.parse::<usize>() {
                Ok(from) => (from, to.parse::<usize>().unwrap().min(last)),
                Err(_) => (content.len().saturating_sub(to.parse().unwrap()), last),
            };
            let body = &content[from..=to];
            let head = format!(
                "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{to}/{}\r\nConnection: close\r\n\r\n",
                body.len(),
                content.len()
            );
            let body = if i < broken { &body[..body.len() / 2] } else { body };
            counter.fetch_add(body.len() as u64, Ordering::Relaxed);
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        }
    });
    (address, sent)
}

#[test]
fn a_table_elsewhere_gives_the_captions_of_a_local_one_and_only_its_columns_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("laion/a.parquet");
    let texts = many();
    let text: ArrayRef = Arc::new(texts.iter().map(Some).collect::<StringArray>());
    let score: ArrayRef = Arc::new(Float64Array::from(vec![7.0; texts.len()]));
    // Most of the file is a column that nobody asks for.
    let image: ArrayRef =
        Arc::new((0..texts.len()).map(|i| Some(format!("{i:064}{}", rng::text_id(&i.to_string())).repeat(10))).collect::<StringArray>());
    write(&path, 1000, vec![("TEXT", text), ("image", image), ("aesthetic", score)]);
    let local = laion(folder.path()).read().unwrap();
    let content = std::fs::read(&path).unwrap();
    let whole = content.len() as u64;
    let (address, sent) = serve(content, 1);
    let mut elsewhere = laion(folder.path());
    elsewhere.config.files = vec![address.into()];
    assert!(elsewhere.files().is_empty());
    assert_eq!(elsewhere.read().unwrap(), local);
    let sent = sent.load(std::sync::atomic::Ordering::Relaxed);
    assert!(sent < whole / 3, "{sent} of {whole} bytes");
}

#[test]
fn an_address_where_no_table_is_gets_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut source = laion(folder.path());
    let (address, _) = serve(b"a red car, a blue house, no table".to_vec(), 0);
    source.config.files = vec![address.clone().into()];
    let error = source.read().unwrap_err().to_string();
    assert!(error.contains(&address) && error.contains("not a valid parquet file"), "{error}");
    source.config.files = vec!["hf://datasets/nobody".into()];
    let error = source.read().unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("names no file"), "{error}");
}
