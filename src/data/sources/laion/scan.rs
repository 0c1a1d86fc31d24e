//! One pass over the row groups of caption tables: the wanted columns only, a batch at a time, on all threads.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::column::reader::ColumnReader;
use parquet::data_type::ByteArray;
use parquet::file::reader::{ChunkReader, FileReader, SerializedFileReader};
use parquet::file::statistics::Statistics;
use rayon::prelude::*;

use super::columns::{Columns, Names, ScoreColumn};
use super::pool::{Batch, Facts, Pool};
use crate::data::clean::caption::CaptionCleaner;
use crate::data::clean::marks;
use crate::data::clean::words::Words;
use crate::data::fetch::download::Client;
use crate::data::fetch::remote::{self, Parts, Remote};
use crate::data::flags::{Flag, Flags};
use crate::data::near::{self, Shingles};
use crate::error::{Error, Result};
use crate::run::{interrupt, progress::Progress, rng};

/// Rows read at once: about a megabyte of captions.
const BATCH_ROWS: usize = 8192;
/// Batches of one row group that wait for a thread: what bounds the memory when one file has one group.
const BATCHES_AT_ONCE: usize = 8;
/// Longer captions are dropped unread: HTML shortens to a tenth at most, and no caption has this many letters.
const LONGEST_BYTES: usize = 1 << 16;

/// What a caption must be like.
#[derive(Debug, Clone, Copy)]
pub struct Filter<'a> {
    pub names: &'a Names,
    /// Lowest aesthetic score; `None` where the table was filtered by its maker.
    pub min_score: Option<f64>,
    pub min_characters: usize,
    pub max_characters: usize,
    /// Probabilities from which the source's scores set a flag.
    pub unsafe_from: f64,
    pub watermark_from: f64,
    /// Captions with one of these flags are left out.
    pub drop: Flags,
    pub seed: u64,
}

/// Rows that the filters left out, in the order in which they apply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub rows: u64,
    pub without_caption: u64,
    pub low_score: u64,
    pub too_short: u64,
    pub too_long: u64,
    pub flagged: u64,
    /// Captions that passed.
    pub passed: u64,
}

impl Counts {
    fn add(&mut self, other: Counts) {
        let Counts { rows, without_caption, low_score, too_short, too_long, flagged, passed } = other;
        self.rows += rows;
        self.without_caption += without_caption;
        self.low_score += low_score;
        self.too_short += too_short;
        self.too_long += too_long;
        self.flagged += flagged;
        self.passed += passed;
    }
}

/// One file with its footer read and its columns found.
#[derive(Debug)]
struct Shard {
    /// A file, or an address.
    path: PathBuf,
    /// Where the file lies elsewhere.
    remote: Option<Remote>,
    metadata: ArrowReaderMetadata,
    columns: Columns,
}

impl Shard {
    fn open(path: &Path, filter: &Filter) -> Result<Self> {
        let (remote, metadata) = match remote::address(path)? {
            Some(address) => {
                let (remote, metadata) = Remote::open(&Client::new(), &address)?;
                (Some(remote), ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::default()))
            }
            None => {
                let file = File::open(path).map_err(Error::io("open", path))?;
                if file.metadata().map_err(Error::io("read", path))?.len() == 0 {
                    return Err(Error::format(FORMAT, path, "the file is empty (0 bytes)"));
                }
                (None, ArrowReaderMetadata::load(&file, ArrowReaderOptions::default()))
            }
        };
        let metadata = metadata.map_err(|error| Error::format(FORMAT, path, error))?;
        let score = if filter.min_score.is_some() { ScoreColumn::Required } else { ScoreColumn::Unused };
        let columns = Columns::find(metadata.schema(), filter.names, score, path)?;
        if metadata.metadata().file_metadata().num_rows() == 0 {
            return Err(Error::format(FORMAT, path, "the table has no rows"));
        }
        Ok(Self { path: path.into(), remote, metadata, columns })
    }

    /// The wanted columns of one row group, batch by batch.
    fn batches(&self, group: usize) -> Result<ParquetRecordBatchReader> {
        match self.input(group)? {
            Input::File(file) => self.batches_of(file, group),
            Input::Parts(parts) => self.batches_of(parts, group),
        }
    }

    fn batches_of(&self, input: impl ChunkReader + 'static, group: usize) -> Result<ParquetRecordBatchReader> {
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(input, self.metadata.clone());
        let projection = ProjectionMask::roots(builder.parquet_schema(), self.columns.places());
        let reader = builder.with_row_groups(vec![group]).with_projection(projection).with_batch_size(BATCH_ROWS).build();
        reader.map_err(|error| damaged(self, group, error))
    }

    /// The file, or what is needed of it for one row group.
    fn input(&self, group: usize) -> Result<Input> {
        let Some(remote) = &self.remote else {
            return Ok(Input::File(File::open(&self.path).map_err(Error::io("open", &self.path))?));
        };
        let names: Vec<&str> = self.columns.places().map(|place| self.metadata.schema().field(place).name().as_str()).collect();
        Ok(Input::Parts(remote.columns(self.metadata.metadata().row_group(group), &names)?))
    }

    /// Rows of the file before a row group.
    fn rows_before(&self, group: usize) -> u64 {
        self.metadata.metadata().row_groups()[..group].iter().map(|group| group.num_rows().max(0) as u64).sum()
    }

    /// True if the statistics of the group say that no row has the score.
    fn below(&self, group: usize, min_score: Option<f64>) -> bool {
        let (Some(min_score), Some(place)) = (min_score, self.columns.score) else { return false };
        let name = self.metadata.schema().field(place).name();
        let column = self.metadata.metadata().row_group(group).columns().iter().find(|column| column.column_path().string() == *name);
        let highest = match column.and_then(|column| column.statistics()) {
            Some(Statistics::Float(statistics)) => statistics.max_opt().map(|&max| f64::from(max)),
            Some(Statistics::Double(statistics)) => statistics.max_opt().copied(),
            _ => None,
        };
        highest.is_some_and(|highest| highest < min_score)
    }
}

/// Where the bytes of a row group are.
enum Input {
    File(File),
    Parts(Parts),
}

const FORMAT: &str = "parquet file";

/// Reads every row of the files once and gives the captions that pass the filter to the pool.
///
/// # Errors
/// The first file that cannot be read, with its column or row.
pub fn scan(paths: &[PathBuf], filter: &Filter, pool: &Pool) -> Result<Counts> {
    let shards: Vec<Shard> = paths.iter().map(|path| Shard::open(path, filter)).collect::<Result<_>>()?;
    let groups: Vec<(&Shard, usize)> =
        shards.iter().flat_map(|shard| (0..shard.metadata.metadata().num_row_groups()).map(move |group| (shard, group))).collect();
    let progress = Mutex::new((Progress::new("reading captions", 0, groups.len() as u64), 0, Counts::default()));
    groups.par_iter().try_for_each(|&(shard, group)| -> Result<()> {
        interrupt::check()?;
        let counts = scan_group(shard, group, filter, pool)?;
        let (progress, done, total) = &mut *progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *done += 1;
        total.add(counts);
        progress.set(*done, "row groups");
        Ok(())
    })?;
    let (_, _, counts) = progress.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok(counts)
}

fn scan_group(shard: &Shard, group: usize, filter: &Filter, pool: &Pool) -> Result<Counts> {
    if shard.below(group, filter.min_score) {
        let rows = shard.metadata.metadata().row_group(group).num_rows().max(0) as u64;
        return Ok(Counts { rows, low_score: rows, ..Counts::default() });
    }
    let mut reader = shard.batches(group)?;
    let mut counts = Counts::default();
    loop {
        // Decoding is serial in a row group, cleaning need not be: a file of one group still uses every thread.
        let batches: Vec<RecordBatch> =
            reader.by_ref().take(BATCHES_AT_ONCE).collect::<Result<_, _>>().map_err(|error| damaged(shard, group, error))?;
        if batches.is_empty() {
            return Ok(counts);
        }
        let done: Vec<Counts> = batches
            .par_iter()
            .map_init(Cleaning::default, |cleaning, batch| cleaning.batch(batch, shard, filter, pool))
            .collect::<Result<_>>()?;
        done.into_iter().for_each(|batch| counts.add(batch));
    }
}

/// The buffers of one thread.
#[derive(Default)]
struct Cleaning {
    cleaner: CaptionCleaner,
    words: Words,
    shingles: Shingles,
}

impl Cleaning {
    fn batch(&mut self, batch: &RecordBatch, shard: &Shard, filter: &Filter, pool: &Pool) -> Result<Counts> {
        let column = |place: usize| -> Result<&ArrayRef> {
            let name = shard.metadata.schema().field(place).name();
            batch.column_by_name(name).ok_or_else(|| Error::Column { column: name.clone(), path: shard.path.clone(), found: Vec::new() })
        };
        let numbers = |place: Option<usize>| -> Result<Option<Float64Array>> {
            place.map(|place| Ok(cast(column(place)?, &DataType::Float64)?.as_primitive::<Float64Type>().clone())).transpose()
        };
        let captions = cast(column(shard.columns.caption)?, &DataType::Utf8)?;
        let captions = captions.as_string::<i32>();
        let (scores, p_unsafe, p_watermark) =
            (numbers(shard.columns.score)?, numbers(shard.columns.p_unsafe)?, numbers(shard.columns.p_watermark)?);
        // A missing or undefined number passes no threshold.
        let at_least = |numbers: &Option<Float64Array>, row: usize, threshold: f64| {
            numbers.as_ref().is_some_and(|numbers| numbers.is_valid(row) && numbers.value(row) >= threshold)
        };

        let mut counts = Counts { rows: batch.num_rows() as u64, ..Counts::default() };
        let mut passed = Batch::default();
        for row in 0..batch.num_rows() {
            if captions.is_null(row) {
                counts.without_caption += 1;
                continue;
            }
            if filter.min_score.is_some_and(|min_score| !at_least(&scores, row, min_score)) {
                counts.low_score += 1;
                continue;
            }
            let raw = captions.value(row);
            if raw.len() > LONGEST_BYTES {
                counts.too_long += 1;
                continue;
            }
            let caption = self.cleaner.clean(raw);
            let words = self.words.read(caption);
            if caption.len() < filter.min_characters || caption.chars().count() < filter.min_characters || words.hashes().is_empty() {
                counts.too_short += 1;
                continue;
            }
            if caption.len() > filter.max_characters && caption.chars().count() > filter.max_characters {
                counts.too_long += 1;
                continue;
            }
            let flags = marks::flags(caption, words)
                .with(Flag::Unsafe, at_least(&p_unsafe, row, filter.unsafe_from))
                .with(Flag::Watermark, at_least(&p_watermark, row, filter.watermark_from));
            if filter.drop.iter().any(|flag| flags.has(flag)) {
                counts.flagged += 1;
                continue;
            }
            counts.passed += 1;
            let rank = rng::rank(filter.seed, "captions", words.normal());
            if pool.wants(rank) {
                let score = scores.as_ref().map_or(f32::NAN, |scores| scores.value(row) as f32);
                let signature = near::signature(self.shingles.read(words));
                passed.push(caption, Facts { rank, score, flags, signature });
            }
        }
        pool.add(passed);
        Ok(counts)
    }
}

/// A reading error with the row of the first invalid text, where that was the reason.
fn damaged(shard: &Shard, group: usize, error: impl std::fmt::Display) -> Error {
    let place = match invalid_text(shard, group) {
        Ok(Some((row, byte))) => {
            let column = shard.metadata.schema().field(shard.columns.caption).name();
            let reason = format!("column `{column}`, row {row} is no UTF-8 text from its byte {byte} on");
            return Error::format(FORMAT, &shard.path, reason);
        }
        _ => format!("row group {group} (rows {} on)", shard.rows_before(group)),
    };
    Error::format(FORMAT, &shard.path, format!("{place}: {error}"))
}

/// Row in the file and byte in its text of the first caption of a group that is no UTF-8. Rows count from 0.
fn invalid_text(shard: &Shard, group: usize) -> Result<Option<(u64, usize)>> {
    if shard.remote.is_some() {
        // It would have to be asked for once more.
        return Ok(None);
    }
    let file = File::open(&shard.path).map_err(Error::io("open", &shard.path))?;
    let reader = SerializedFileReader::new(file)?;
    let name = shard.metadata.schema().field(shard.columns.caption).name();
    let group_reader = reader.get_row_group(group)?;
    let Some(place) = group_reader.metadata().columns().iter().position(|column| column.column_path().string() == *name) else {
        return Ok(None);
    };
    let ColumnReader::ByteArrayColumnReader(mut column) = group_reader.get_column_reader(place)? else { return Ok(None) };
    let nullable = group_reader.metadata().column(place).column_descr().max_def_level() > 0;
    let mut row = shard.rows_before(group);
    loop {
        let (mut levels, mut values): (Vec<i16>, Vec<ByteArray>) = (Vec::new(), Vec::new());
        let (rows, _, _) = column.read_records(BATCH_ROWS, nullable.then_some(&mut levels), None, &mut values)?;
        if rows == 0 {
            return Ok(None);
        }
        let mut values = values.iter();
        for i in 0..rows {
            let Some(value) = levels.get(i).is_none_or(|&level| level > 0).then(|| values.next()).flatten() else { continue };
            if let Err(error) = std::str::from_utf8(value.data()) {
                return Ok(Some((row + i as u64, error.valid_up_to())));
            }
        }
        row += rows as u64;
    }
}
