//! The captions that passed the filters, while a scan goes on and after it: without exact duplicates, in an order that depends
//! on the captions alone, and no more of them in memory than a sample needs.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use crate::data::flags::Flags;
use crate::data::near::{self, Signature, Similarity};
use crate::data::tokens::{Counters, Lengths};
use crate::error::Result;

/// One caption that passed the filters, with its text in an arena.
#[derive(Debug, Clone, Copy)]
struct Row {
    /// Keyed hash of the normal form: the order of the draw, and equal for equal captions.
    rank: u64,
    arena: u32,
    start: u32,
    length: u32,
    /// How many rows this one stands for.
    copies: u32,
    score: f32,
    flags: Flags,
    signature: Signature,
}

/// Captions of one batch; their texts lie in one string.
#[derive(Debug, Default)]
pub struct Batch {
    text: String,
    rows: Vec<Row>,
}

/// What is known of a caption besides its text.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    pub rank: u64,
    /// NaN where the table has no scores.
    pub score: f32,
    pub flags: Flags,
    pub signature: Signature,
}

impl Batch {
    /// Adds a caption. A batch must stay below 4 GiB of text.
    pub fn push(&mut self, caption: &str, facts: Facts) {
        let Facts { rank, score, flags, signature } = facts;
        let (start, length) = (self.text.len() as u32, caption.len() as u32);
        self.text.push_str(caption);
        self.rows.push(Row { rank, arena: 0, start, length, copies: 1, score, flags, signature });
    }
}

/// The captions seen so far.
#[derive(Debug)]
pub struct Pool {
    inner: Mutex<Captions>,
    /// Captions of a higher rank cannot be among the lowest `budget` any more.
    cutoff: AtomicU64,
    /// How many captions are kept in the end; `None` keeps all.
    budget: Option<usize>,
}

/// Captions of a pool; after [`Pool::finish`] different and sorted by rank.
#[derive(Debug, Default)]
pub struct Captions {
    arenas: Vec<String>,
    rows: Vec<Row>,
}

/// A caption that was drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Caption<'a> {
    pub text: &'a str,
    /// Aesthetic score; NaN where the table has none.
    pub score: f32,
    pub flags: Flags,
    pub lengths: Lengths,
}

/// Which captions are drawn.
#[derive(Debug, Clone, Copy)]
pub struct Draw<'a> {
    /// How many; `None` draws all.
    pub sample: Option<usize>,
    pub near_duplicates: Option<Similarity>,
    pub counters: &'a Counters,
    /// Captions of more T5 tokens are left out, where a tokenizer is at hand.
    pub max_t5_tokens: u64,
}

/// The drawn captions, in the order of their ranks, and why others of no higher rank were left out.
#[derive(Debug)]
pub struct Drawn<'a> {
    pub captions: Vec<Caption<'a>>,
    pub exact_duplicates: u64,
    pub near_duplicates: u64,
    pub too_many_tokens: u64,
    /// Rows of the pool that were looked at, duplicates included.
    pub rows: u64,
}

impl Pool {
    /// An empty pool that keeps the `budget` captions of lowest rank.
    pub fn new(budget: Option<usize>) -> Self {
        Self { inner: Mutex::default(), cutoff: AtomicU64::new(u64::MAX), budget }
    }

    /// False where a caption of this rank cannot be kept: no need to look at it further.
    pub fn wants(&self, rank: u64) -> bool {
        rank <= self.cutoff.load(Ordering::Relaxed)
    }

    /// Takes in the captions of a batch.
    pub fn add(&self, batch: Batch) {
        if batch.rows.is_empty() {
            return;
        }
        let mut captions = self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let arena = captions.arenas.len() as u32;
        captions.arenas.push(batch.text);
        captions.rows.extend(batch.rows.into_iter().map(|row| Row { arena, ..row }));
        if let Some(budget) = self.budget.filter(|budget| captions.rows.len() > 2 * budget + (1 << 16)) {
            captions.settle(Some(budget));
            captions.repack();
            if captions.rows.len() == budget {
                self.cutoff.store(captions.rows.last().map_or(u64::MAX, |row| row.rank), Ordering::Relaxed);
            }
        }
    }

    /// The captions of the lowest ranks, and whether others were let go. The result does not depend on the order of batches: a
    /// caption among the lowest was never above the cutoff, so all its copies were counted.
    pub fn finish(self) -> (Captions, bool) {
        let mut captions = self.inner.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let cut = self.cutoff.into_inner() != u64::MAX;
        let different = captions.settle(self.budget);
        let complete = !cut && different == captions.rows.len();
        (captions, complete)
    }
}

impl Captions {
    fn text(&self, row: &Row) -> &str {
        &self.arenas[row.arena as usize][row.start as usize..(row.start + row.length) as usize]
    }

    /// Sorts by rank, merges equal captions and keeps the first `budget`. Returns how many different ones there were.
    fn settle(&mut self, budget: Option<usize>) -> usize {
        let mut rows = std::mem::take(&mut self.rows);
        // Of captions that are equal up to case and punctuation the text that sorts first stays: any order gives the same.
        rows.par_sort_unstable_by(|a, b| a.rank.cmp(&b.rank).then_with(|| self.text(a).cmp(self.text(b))));
        rows.dedup_by(|next, kept| {
            let equal = next.rank == kept.rank;
            if equal {
                kept.copies += next.copies;
                kept.score = kept.score.max(next.score);
                kept.flags = kept.flags.union(next.flags);
            }
            equal
        });
        let different = rows.len();
        rows.truncate(budget.unwrap_or(different));
        self.rows = rows;
        different
    }

    /// Lets go of texts that no row refers to.
    fn repack(&mut self) {
        let mut text = String::with_capacity(self.rows.iter().map(|row| row.length as usize).sum());
        let mut rows = std::mem::take(&mut self.rows);
        for row in &mut rows {
            let start = text.len() as u32;
            text.push_str(self.text(row));
            (row.arena, row.start) = (0, start);
        }
        self.arenas = vec![text];
        self.rows = rows;
    }

    /// Draws from the lowest rank on. Whether a caption is drawn depends on captions of lower ranks alone.
    pub fn draw(&self, draw: &Draw) -> Result<Drawn<'_>> {
        /// Captions that are tokenized at once.
        const TOKENIZED: usize = 1 << 12;
        let repeated = match draw.near_duplicates {
            Some(similarity) => {
                let signatures: Vec<Signature> = self.rows.iter().map(|row| row.signature).collect();
                near::near_duplicates(&signatures, |i| self.text(&self.rows[i]), similarity)
            }
            None => vec![false; self.rows.len()],
        };
        let wanted = draw.sample.unwrap_or(usize::MAX);
        let mut drawn = Drawn { captions: Vec::new(), exact_duplicates: 0, near_duplicates: 0, too_many_tokens: 0, rows: 0 };
        'rows: for (rows, repeated) in self.rows.chunks(TOKENIZED).zip(repeated.chunks(TOKENIZED)) {
            let lengths: Vec<Lengths> = if draw.counters.is_empty() {
                vec![Lengths::default(); rows.len()]
            } else {
                rows.par_iter().map(|row| draw.counters.count(self.text(row))).collect::<Result<_>>()?
            };
            for ((row, &repeated), lengths) in rows.iter().zip(repeated).zip(lengths) {
                if drawn.captions.len() == wanted {
                    break 'rows;
                }
                drawn.rows += u64::from(row.copies);
                drawn.exact_duplicates += u64::from(row.copies) - 1;
                if repeated {
                    drawn.near_duplicates += 1;
                } else if lengths.t5.is_some_and(|tokens| tokens > draw.max_t5_tokens) {
                    drawn.too_many_tokens += 1;
                } else {
                    drawn.captions.push(Caption { text: self.text(row), score: row.score, flags: row.flags, lengths });
                }
            }
        }
        Ok(drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::rng;

    fn facts(text: &str, flags: Flags) -> Facts {
        Facts { rank: rng::text_id(&text.to_lowercase()), score: text.len() as f32, flags, signature: [0; near::BANDS] }
    }

    fn draw(sample: Option<usize>) -> Draw<'static> {
        static NONE: std::sync::LazyLock<Counters> = std::sync::LazyLock::new(Counters::default);
        Draw { sample, near_duplicates: None, counters: &NONE, max_t5_tokens: 512 }
    }

    /// Puts the texts into a pool, `per_batch` at a time.
    fn pool(texts: &[String], per_batch: usize, budget: Option<usize>) -> (Captions, bool) {
        let pool = Pool::new(budget);
        for texts in texts.chunks(per_batch) {
            let mut batch = Batch::default();
            for text in texts {
                let facts = facts(text, Flags::NONE);
                if pool.wants(facts.rank) {
                    batch.push(text, facts);
                }
            }
            pool.add(batch);
        }
        pool.finish()
    }

    #[test]
    fn the_sample_is_the_same_for_any_order_and_budget() {
        // More than the pool holds before it lets captions go, each of them twice.
        let mut texts: Vec<String> = (0..150_000).map(|i| format!("Caption {}", i / 2)).collect();
        let of = |texts: &[String], per_batch, budget| {
            let (captions, complete) = pool(texts, per_batch, budget);
            let drawn = captions.draw(&draw(Some(500))).unwrap();
            let texts: Vec<String> = drawn.captions.iter().map(|caption| caption.text.to_owned()).collect();
            (texts, drawn.rows, drawn.exact_duplicates, complete)
        };
        let (all, rows, duplicates, complete) = of(&texts, 1000, None);
        assert_eq!((all.len(), rows, duplicates, complete), (500, 1000, 500, true));
        texts.reverse();
        let (some, rows, duplicates, complete) = of(&texts, 777, Some(600));
        assert_eq!((some, rows, duplicates, complete), (all, 1000, 500, false));
    }

    #[test]
    fn equal_captions_are_merged_whichever_comes_first() {
        for order in [["A Red Car", "a red car"], ["a red car", "A Red Car"]] {
            let pool = Pool::new(None);
            for (i, text) in order.iter().enumerate() {
                let mut batch = Batch::default();
                let flags = Flags::NONE.with(crate::data::flags::Flag::Watermark, i == 0);
                batch.push(text, facts(text, flags));
                pool.add(batch);
            }
            let (captions, _) = pool.finish();
            let drawn = captions.draw(&draw(None)).unwrap();
            let kept: Vec<_> = drawn.captions.iter().map(|caption| (caption.text, caption.flags.names())).collect();
            assert_eq!(kept, [("A Red Car", vec!["watermark".to_owned()])]);
            assert_eq!(drawn.exact_duplicates, 1);
        }
    }
}
